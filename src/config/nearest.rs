//! The known name that looks most like a mistyped one.

/// Most single changes (insert, delete, replace) that still count as a slip of the fingers.
const CHANGES_MAX: usize = 3;

/// The known name nearest to `name`, if one is near at all.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = name.replace('_', "-").to_ascii_lowercase();
    let allowed = CHANGES_MAX.min(wanted.len() / 2);
    known
        .into_iter()
        .map(|candidate| {
            let is_part = wanted.len() >= 3 && candidate.starts_with(wanted.as_str());
            (if is_part { 1 } else { distance(&wanted, candidate) }, candidate)
        })
        .filter(|(changes, _)| *changes <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance, in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = ["cache-size", "cache-dir", "commit", "region"];
        for (typed, meant) in [
            ("cachesize", Some("cache-size")),
            ("cache_size", Some("cache-size")),
            ("chache-size", Some("cache-size")),
            ("comit", Some("commit")),
            ("reg", Some("region")),
            ("volume", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), meant, "{typed}");
        }
    }

    #[test]
    fn distances() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }
}
