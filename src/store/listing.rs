//! Pages of a listing, for back ends that order and fold keys themselves.
//!
//! The back end offers its keys in byte order; this file decides which of them are on the page. A page goes on from the
//! last entry of the page before, so that objects which come and go in between neither repeat nor hide others.

use std::ops::ControlFlow;

use crate::store::{Error, ErrorKind, ListOptions, ListPage, Op, Result};
use crate::types::ObjectMeta;

/// Most entries in a page.
const ENTRIES_MAX: u32 = 1_000;

/// A page being filled.
#[derive(Debug)]
pub(crate) struct PageBuilder {
    prefix: String,
    by_directory: bool,
    position: Position,
    entries_max: usize,
    last: Option<Position>,
    page: ListPage,
}

/// What lies behind us.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Position {
    /// Nothing.
    Start,
    /// Every key up to this one.
    Key(String),
    /// Every key up to this prefix, and all below it.
    Prefix(String),
}

impl Position {
    /// As it stands in a continuation.
    fn to_text(&self) -> String {
        match self {
            Position::Start => "s".to_owned(),
            Position::Key(key) => format!("k{key}"),
            Position::Prefix(prefix) => format!("p{prefix}"),
        }
    }

    fn from_text(text: &str) -> Option<Position> {
        match (text.strip_prefix('k'), text.strip_prefix('p')) {
            (Some(key), _) => Some(Position::Key(key.to_owned())),
            (_, Some(prefix)) => Some(Position::Prefix(prefix.to_owned())),
            (None, None) => (text == "s").then_some(Position::Start),
        }
    }

    fn is_before(&self, key: &str) -> bool {
        match self {
            Position::Start => true,
            Position::Key(last) => key > last.as_str(),
            Position::Prefix(last) => key > last.as_str() && !key.starts_with(last),
        }
    }

    fn may_be_before_some_key_below(&self, directory: &str) -> bool {
        match self {
            Position::Start => true,
            Position::Key(last) => directory > last.as_str() || last.starts_with(directory),
            Position::Prefix(last) => {
                self.is_before(directory) || (last != directory && last.starts_with(directory))
            }
        }
    }
}

impl PageBuilder {
    /// An empty page. `Refused` when the continuation is none of ours.
    pub fn new(options: ListOptions) -> Result<PageBuilder> {
        let position = match (options.continuation, options.start_after) {
            (Some(text), _) => Position::from_text(&text)
                .ok_or_else(|| Error::of(Op::List, ErrorKind::Refused, "not a continuation of a listing"))?,
            (None, Some(key)) => Position::Key(key),
            (None, None) => Position::Start,
        };
        let entries_max = options.entries_max.unwrap_or(ENTRIES_MAX).clamp(1, ENTRIES_MAX);
        Ok(PageBuilder {
            prefix: options.prefix,
            by_directory: options.by_directory,
            position,
            entries_max: entries_max as usize,
            last: None,
            page: ListPage::default(),
        })
    }

    /// What all keys begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether this is the listing's first page.
    pub fn is_first(&self) -> bool {
        self.position == Position::Start
    }

    /// Whether an object of this key counts here, by itself or folded.
    pub fn wants(&self, key: &str) -> bool {
        key.starts_with(&self.prefix) && self.position.is_before(key)
    }

    /// Whether keys that begin with `directory` (ends in `/`) may count here.
    pub fn may_want_below(&self, directory: &str) -> bool {
        (directory.starts_with(&self.prefix) || self.prefix.starts_with(directory))
            && self.position.may_be_before_some_key_below(directory)
    }

    /// The prefix that stands for this key in a listing by directory.
    pub fn folded<'k>(&self, key: &'k str) -> Option<&'k str> {
        let rest = key.strip_prefix(&self.prefix).filter(|_| self.by_directory)?;
        rest.find('/').map(|slash| &key[..self.prefix.len() + slash + 1])
    }

    /// Adds an object that is wanted and not folded. Breaks when the page was full already.
    pub fn push_object(&mut self, object: ObjectMeta) -> ControlFlow<()> {
        self.make_room()?;
        self.last = Some(Position::Key(object.id.key.as_str().to_owned()));
        self.page.objects.push(object);
        ControlFlow::Continue(())
    }

    /// Adds a folded prefix, once. Breaks when the page was full already.
    pub fn push_prefix(&mut self, prefix: &str) -> ControlFlow<()> {
        if self.page.prefixes.last().is_some_and(|last| last == prefix) {
            return ControlFlow::Continue(());
        }
        self.make_room()?;
        self.last = Some(Position::Prefix(prefix.to_owned()));
        self.page.prefixes.push(prefix.to_owned());
        ControlFlow::Continue(())
    }

    /// Counts something that has no key.
    pub fn skip(&mut self) {
        self.page.skipped += 1;
    }

    /// The page.
    pub fn finish(self) -> ListPage {
        self.page
    }

    fn make_room(&mut self) -> ControlFlow<()> {
        if self.page.objects.len() + self.page.prefixes.len() < self.entries_max {
            return ControlFlow::Continue(());
        }
        self.page.next = self.last.as_ref().map(Position::to_text);
        ControlFlow::Break(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::{ETag, Key, ObjectId, UnixTime};

    fn object(key: &str) -> ObjectMeta {
        ObjectMeta {
            id: ObjectId { key: Key::new(key).unwrap(), etag: ETag::new("e"), size: 0 },
            modified: UnixTime::default(),
            attributes: None,
            token: None,
            crc64: None,
        }
    }

    /// All pages of a listing, each entry in order, and the number of pages.
    fn listed(keys: &BTreeSet<String>, mut options: ListOptions) -> (Vec<String>, usize) {
        let mut entries = BTreeSet::new();
        for pages in 1.. {
            let mut page = PageBuilder::new(options.clone()).unwrap();
            for key in keys {
                if !page.wants(key) {
                    continue;
                }
                let directory = &key[..key.rfind('/').map_or(0, |slash| slash + 1)];
                assert!(directory.is_empty() || page.may_want_below(directory), "{key} would be missed");
                let step = match page.folded(key) {
                    Some(prefix) => page.push_prefix(prefix),
                    None => page.push_object(object(key)),
                };
                if step.is_break() {
                    break;
                }
            }
            let page = page.finish();
            let found = page.objects.len() + page.prefixes.len();
            assert!(found <= options.entries_max.unwrap_or(u32::MAX) as usize);
            for entry in
                page.objects.iter().map(|o| o.id.key.as_str()).chain(page.prefixes.iter().map(String::as_str))
            {
                assert!(entries.insert(entry.to_owned()), "{entry} was listed twice");
            }
            match page.next {
                Some(next) => options.continuation = Some(next),
                None => return (entries.into_iter().collect(), pages),
            }
        }
        unreachable!("the loop ends with the last page")
    }

    #[test]
    fn full_pages_end_exactly() {
        let keys: BTreeSet<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let options = |n| ListOptions { entries_max: Some(n), ..ListOptions::default() };
        assert_eq!(listed(&keys, options(4)).1, 1);
        assert_eq!(listed(&keys, options(3)).1, 2);
        assert_eq!(listed(&keys, options(2)).1, 2);
        let after = ListOptions { start_after: Some("b".into()), ..options(1) };
        assert_eq!(listed(&keys, after), (vec!["c".to_owned(), "d".to_owned()], 2));
        assert!(
            PageBuilder::new(ListOptions { continuation: Some("?".into()), ..ListOptions::default() })
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn pages_join_to_the_plain_definition(
            keys in proptest::collection::btree_set("[ab/]{1,5}", 0..30),
            prefix in "[ab/]{0,3}",
            by_directory: bool,
            entries_max in 1u32..5,
        ) {
            let wanted: BTreeSet<String> = keys
                .iter()
                .filter(|key| key.starts_with(&prefix))
                .map(|key| match key[prefix.len()..].find('/') {
                    Some(slash) if by_directory => key[..prefix.len() + slash + 1].to_owned(),
                    Some(_) | None => key.clone(),
                })
                .collect();
            let options = ListOptions { prefix, by_directory, entries_max: Some(entries_max), ..ListOptions::default() };
            let (entries, pages) = listed(&keys, options);
            prop_assert_eq!(entries, wanted.iter().cloned().collect::<Vec<_>>());
            prop_assert_eq!(pages, wanted.len().div_ceil(entries_max as usize).max(1));
        }
    }
}
