//! File names and object keys: which is which, and which cannot be (pure).
//!
//! A file's key is the names from the root down, joined by `/`. A directory's *prefix* is its key with a closing `/`
//! (empty for the root); an object of exactly that key is the directory's *marker*. A key with a part that is no file
//! name (empty, `.`, `..`, above 255 bytes) is *odd*: it is not shown.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::namespace::Error;
use crate::types::{Key, KeyError};

/// Longest file name in bytes (`NAME_MAX` of Linux).
const NAME_BYTES_MAX: usize = 255;

/// A file name that can be part of a key: 1 to 255 bytes of UTF-8, no `/`, no NUL, neither `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks a name the kernel gave. `BadName`, `NameTooLong`.
    pub fn from_kernel(name: &OsStr) -> Result<Name, Error> {
        Name::from_part(name.to_str().ok_or(Error::BadName)?)
    }

    /// Checks one part of a key. `BadName`, `NameTooLong`.
    pub fn from_part(part: &str) -> Result<Name, Error> {
        if part.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        if part.is_empty() || part == "." || part == ".." || part.contains(['/', '\0']) {
            return Err(Error::BadName);
        }
        Ok(Name(Arc::from(part)))
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a listed key is to the directory with the listed prefix.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listed {
    /// The directory's own marker.
    Marker,
    /// A file of this name.
    File(Name),
    /// A directory of this name.
    Directory(Name),
    /// Nothing that can be shown.
    Odd,
}

/// What an object found by listing `prefix` is.
pub fn listed_object(prefix: &str, key: &str) -> Listed {
    match key.strip_prefix(prefix) {
        Some("") => Listed::Marker,
        Some(part) => Name::from_part(part).map_or(Listed::Odd, Listed::File),
        None => Listed::Odd,
    }
}

/// What a folded prefix found by listing `prefix` is.
pub fn listed_prefix(prefix: &str, folded: &str) -> Listed {
    let part = folded.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('/'));
    part.and_then(|part| Name::from_part(part).ok()).map_or(Listed::Odd, Listed::Directory)
}

/// The key of a file, or `NameTooLong`.
pub fn file_key(prefix: &str, name: &Name) -> Result<Key, Error> {
    checked(&format!("{prefix}{}", name.as_str()))
}

/// The key of a directory's marker, which is its prefix, or `NameTooLong`.
pub fn marker_key(prefix: &str) -> Result<Key, Error> {
    checked(prefix)
}

/// The names of the directories above a file, and its own. `BadName` when the key is odd or a marker.
pub fn split(key: &Key) -> Result<(Vec<Name>, Name), Error> {
    let mut names = key.as_str().split('/').map(Name::from_part).collect::<Result<Vec<_>, _>>()?;
    let name = names.pop().expect("a split text has at least one part");
    Ok((names, name))
}

/// The names of the directories above the one with this prefix, and its own. `BadName` for the root and odd prefixes.
pub fn split_prefix(prefix: &str) -> Result<(Vec<Name>, Name), Error> {
    split(&checked(prefix.strip_suffix('/').ok_or(Error::BadName)?)?)
}

fn checked(text: &str) -> Result<Key, Error> {
    Key::new(text).map_err(|why| match why {
        KeyError::TooLong { .. } => Error::NameTooLong,
        KeyError::Empty | KeyError::Nul => Error::BadName,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_part(text).unwrap()
    }

    #[test]
    fn refuses_what_is_no_name() {
        for bad in ["", ".", "..", "a/b", "a\0b"] {
            assert!(matches!(Name::from_part(bad), Err(Error::BadName)), "{bad:?}");
        }
        assert!(matches!(Name::from_kernel(OsStr::from_bytes(b"\xff")), Err(Error::BadName)));
        assert!(matches!(Name::from_part(&"n".repeat(256)), Err(Error::NameTooLong)));
        for good in ["...", ".a", " ", "a ", "+%?#&\\:", "\u{e9}", "e\u{301}", &"n".repeat(255)] {
            assert_eq!(Name::from_kernel(OsStr::new(good)).unwrap().as_str(), good);
        }
    }

    #[test]
    fn sorts_keys_into_kinds() {
        assert_eq!(listed_object("d/", "d/"), Listed::Marker);
        assert_eq!(listed_object("d/", "d/x"), Listed::File(name("x")));
        assert_eq!(listed_object("d/", "d/.."), Listed::Odd);
        assert_eq!(listed_object("d/", "e/x"), Listed::Odd);
        assert_eq!(listed_object("", &"n".repeat(256)), Listed::Odd);
        assert_eq!(listed_prefix("d/", "d/x/"), Listed::Directory(name("x")));
        assert_eq!(listed_prefix("d/", "d//"), Listed::Odd);
        assert_eq!(listed_prefix("", "/"), Listed::Odd);
        assert_eq!(listed_prefix("", "./"), Listed::Odd);
    }

    #[test]
    fn keys_have_at_most_1024_bytes() {
        let prefix = format!("{}/", "d".repeat(1019));
        assert_eq!(file_key(&prefix, &name("1234")).unwrap().as_str().len(), 1024);
        assert!(matches!(file_key(&prefix, &name("12345")), Err(Error::NameTooLong)));
    }

    proptest! {
        #[test]
        fn keys_and_paths_are_one_to_one(parts in proptest::collection::vec("[a-z.]{1,3}", 1..5)) {
            let key = Key::new(&parts.join("/")).unwrap();
            let is_odd = parts.iter().any(|part| part == "." || part == "..");
            match split(&key) {
                Ok((above, last)) => {
                    prop_assert!(!is_odd);
                    let prefix: String = above.iter().map(|part| format!("{}/", part.as_str())).collect();
                    prop_assert_eq!(file_key(&prefix, &last).unwrap(), key.clone());
                    prop_assert_eq!(listed_object(&prefix, key.as_str()), Listed::File(last));
                }
                Err(_) => prop_assert!(is_odd),
            }
        }
    }
}
