//! One page of a listing: prefix, delimiter, where to go on, and a budget that keys and common prefixes share.
//!
//! Pure, over anything sorted by key, so objects and uploads are listed by the same rules.

use std::collections::BTreeMap;
use std::ops::Bound;

/// What to list. Empty `prefix` and `delimiter` mean none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Query {
    /// Only keys that start so.
    pub prefix: String,
    /// Keys that hold it after the prefix are rolled up to one entry.
    pub delimiter: String,
    /// Go on behind this entry.
    pub after: Option<Item>,
    /// At most this many entries.
    pub limit: usize,
}

/// One entry, and the place to go on from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Item {
    /// A key.
    Key(String),
    /// Everything that starts so.
    Prefix(String),
}

impl Item {
    /// The key or prefix.
    pub fn text(&self) -> &str {
        match self {
            Item::Key(text) | Item::Prefix(text) => text,
        }
    }
}

/// Entries in UTF-8 byte order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// The entries.
    pub items: Vec<Item>,
    /// Whether there is more behind the last one.
    pub truncated: bool,
}

/// Lists one page of the keys of a map.
pub fn page<V>(map: &BTreeMap<String, V>, query: &Query) -> Page {
    let mut page = Page::default();
    if query.limit == 0 {
        return page;
    }
    let mut from = match &query.after {
        None => Bound::Included(query.prefix.clone()),
        Some(Item::Key(key)) if *key < query.prefix => Bound::Included(query.prefix.clone()),
        Some(Item::Key(key)) => Bound::Excluded(key.clone()),
        Some(Item::Prefix(prefix)) => match behind(prefix) {
            Some(next) => Bound::Included(next.max(query.prefix.clone())),
            None => return page,
        },
    };
    while let Some((key, _)) = map.range((from, Bound::Unbounded)).next() {
        let Some(rest) = key.strip_prefix(&query.prefix) else { break };
        if page.items.len() == query.limit {
            page.truncated = true;
            break;
        }
        let rolled_up = match rest.find(&query.delimiter) {
            Some(at) if !query.delimiter.is_empty() => {
                Some(key[..query.prefix.len() + at + query.delimiter.len()].to_owned())
            }
            Some(_) | None => None,
        };
        match rolled_up {
            None => {
                from = Bound::Excluded(key.clone());
                page.items.push(Item::Key(key.clone()));
            }
            Some(prefix) => {
                let next = behind(&prefix);
                page.items.push(Item::Prefix(prefix));
                match next {
                    Some(next) => from = Bound::Included(next),
                    None => break,
                }
            }
        }
    }
    page
}

/// The first text behind all that start with `prefix`; `None` when there is none.
fn behind(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The order of characters is the order of their UTF-8 bytes; surrogates are no characters.
        let next = match last {
            '\u{d7ff}' => Some('\u{e000}'),
            other => char::from_u32(u32::from(other) + 1),
        };
        if let Some(next) = next {
            text.push(next);
            return Some(text);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All entries at once, the obvious way.
    fn model(keys: &BTreeMap<String, ()>, prefix: &str, delimiter: &str) -> Vec<Item> {
        let mut items = Vec::new();
        for key in keys.keys().filter(|key| key.starts_with(prefix)) {
            let item = match key[prefix.len()..].split_once(delimiter) {
                Some((head, _)) if !delimiter.is_empty() => {
                    Item::Prefix(format!("{prefix}{head}{delimiter}"))
                }
                _ => Item::Key(key.clone()),
            };
            if items.last() != Some(&item) {
                items.push(item);
            }
        }
        items
    }

    proptest! {
        #[test]
        fn pages_add_up_to_the_whole(
            keys in proptest::collection::btree_set("[ab/\u{e9}\u{10ffff}]{1,5}", 0..40),
            prefix in "[ab/]{0,2}",
            delimiter in prop_oneof![Just(""), Just("/"), Just("a/"), Just("\u{10ffff}")],
            limit in 1_usize..6,
        ) {
            let map: BTreeMap<String, ()> = keys.into_iter().map(|key| (key, ())).collect();
            let mut query = Query { prefix, delimiter: delimiter.to_owned(), after: None, limit };
            let mut found = Vec::new();
            loop {
                let page = page(&map, &query);
                prop_assert!(page.items.len() <= limit);
                prop_assert!(!page.truncated || page.items.len() == limit);
                found.extend(page.items);
                if !page.truncated {
                    break;
                }
                query.after = found.last().cloned();
            }
            prop_assert_eq!(found, model(&map, &query.prefix, &query.delimiter));
        }

        #[test]
        fn going_on_behind_a_key_shows_what_is_behind_it(
            keys in proptest::collection::btree_set("[ab/]{1,4}", 0..30),
            after in "[ab/]{0,4}",
        ) {
            let map: BTreeMap<String, ()> = keys.into_iter().map(|key| (key, ())).collect();
            let rest: BTreeMap<String, ()> = map.range((Bound::Excluded(after.clone()), Bound::Unbounded))
                .map(|(key, ())| (key.clone(), ())).collect();
            let query = Query { delimiter: "/".to_owned(), after: Some(Item::Key(after)), limit: 1000, ..Query::default() };
            prop_assert_eq!(page(&map, &query).items, model(&rest, "", "/"));
        }
    }

    #[test]
    fn the_text_behind_a_prefix() {
        assert_eq!(behind("a/"), Some("a0".to_owned()));
        assert_eq!(behind("a\u{10ffff}"), Some("b".to_owned()));
        assert_eq!(behind("\u{d7ff}"), Some("\u{e000}".to_owned()));
        assert_eq!(behind("\u{10ffff}"), None);
    }
}
