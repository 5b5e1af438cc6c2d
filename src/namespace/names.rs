//! File names and object keys: which is which (pure).
//!
//! A file's key is the parts that its names stand for, from the root down, joined by `/`. A directory's *prefix* is its key
//! with a closing `/` (empty for the root); an object of exactly that key is the directory's *marker*.
//!
//! A part stands for itself where it can be a file name. Parts that cannot, and files that have the name of a directory,
//! are shown under names that begin with `%~`, which no others do:
//!
//! | key | name |
//! |---|---|
//! | an empty part, as in `a//b` and `/a` | `%~empty` |
//! | the part `.`, the part `..` | `%~dot`, `%~dotdot` |
//! | a part that begins with `%~` | `%~name~` and the part |
//! | a file beside a directory of its name | `%~file~` and the part |
//! | a part for which 255 bytes are too short | `%~long~`, how it begins, `~`, 32 hex digits of its SHA-256 |
//! | a file with such a part beside a directory | `%~longfile~`, the same |
//!
//! Each stands for one part and no other. What a long name stands for only the store can tell, until it is known.

use std::ffi::OsStr;
use std::sync::Arc;

use crate::namespace::Error;
use crate::types::{Key, KeyError, Sha256};

/// Longest file name in bytes (`NAME_MAX` of Linux).
const NAME_BYTES_MAX: usize = 255;
/// What only names begin with that stand for another text.
const ESCAPE: &str = "%~";
const EMPTY: &str = "%~empty";
const DOT: &str = "%~dot";
const DOTDOT: &str = "%~dotdot";
const NAME: &str = "%~name~";
const FILE: &str = "%~file~";
const LONG: &str = "%~long~";
const LONG_FILE: &str = "%~longfile~";
/// Bytes of a long part that its name begins with.
const STEM_BYTES: usize = 200;
/// Hex digits of a long part's digest in its name.
const DIGEST_DIGITS: usize = 32;

/// A file name, and the part of a key that it stands for. Names are compared as they are shown.
#[derive(Clone, Debug)]
pub struct Name {
    /// 1 to 255 bytes of UTF-8, no `/`, no NUL, neither `.` nor `..`.
    shown: Arc<str>,
    /// What it stands for, where that is another text and known.
    part: Option<Arc<str>>,
}

impl Name {
    /// Reads a name the kernel gave. `BadName`, `NameTooLong`.
    pub fn from_kernel(name: &OsStr) -> Result<Name, Error> {
        let shown = name.to_str().ok_or(Error::BadName)?;
        if shown.len() > NAME_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        if !shown.starts_with(ESCAPE) {
            return if is_plain(shown) { Ok(Name::plain(shown)) } else { Err(Error::BadName) };
        }
        if is_of_long(shown) {
            return Ok(Name::plain(shown));
        }
        let name = match shown {
            EMPTY => Name::of_part(""),
            DOT => Name::of_part("."),
            DOTDOT => Name::of_part(".."),
            _ => match (shown.strip_prefix(NAME), shown.strip_prefix(FILE)) {
                (Some(part), _) => Name::of_part(part),
                (None, Some(part)) => Name::of_file_beside_directory(part),
                (None, None) => return Err(Error::BadName),
            },
        };
        // A name that stands for a part which is shown otherwise is nobody's.
        if *name.shown == *shown { Ok(name) } else { Err(Error::BadName) }
    }

    /// The name of what has this part of a key. (No part holds a `/`, and no key a NUL.)
    pub fn of_part(part: &str) -> Name {
        let shown = match part {
            "" => EMPTY.to_owned(),
            "." => DOT.to_owned(),
            ".." => DOTDOT.to_owned(),
            _ if part.starts_with(ESCAPE) => format!("{NAME}{part}"),
            _ if is_plain(part) && part.len() <= NAME_BYTES_MAX => return Name::plain(part),
            _ => return Name::long(LONG, part),
        };
        if shown.len() > NAME_BYTES_MAX { Name::long(LONG, part) } else { Name::standing_for(&shown, part) }
    }

    /// The name of a file that has this part, where a directory has it too.
    pub fn of_file_beside_directory(part: &str) -> Name {
        let shown = format!("{FILE}{part}");
        if shown.len() > NAME_BYTES_MAX || part.is_empty() || part.contains(['/', '\0']) {
            return Name::long(LONG_FILE, part);
        }
        Name::standing_for(&shown, part)
    }

    /// As it is shown.
    pub fn as_str(&self) -> &str {
        &self.shown
    }

    /// The part of a key that it stands for. `None` for a long one of which that is not known.
    pub fn part(&self) -> Option<&str> {
        match &self.part {
            Some(part) => Some(part),
            None if is_of_long(&self.shown) => None,
            None => Some(&self.shown),
        }
    }

    /// Whether it is the name of a file that a directory of its name is beside.
    pub fn is_beside_directory(&self) -> bool {
        self.shown.starts_with(FILE) || self.shown.starts_with(LONG_FILE)
    }

    /// The beginning of the part that a long name stands for. `None` for others.
    pub fn stem(&self) -> Option<&str> {
        let rest = self.shown.strip_prefix(LONG).or_else(|| self.shown.strip_prefix(LONG_FILE))?;
        rest.get(..rest.len().checked_sub(DIGEST_DIGITS + 1)?)
    }

    /// This name, known to stand for `part`, if it does.
    pub fn resolved(&self, part: &str) -> Option<Name> {
        [Name::of_part(part), Name::of_file_beside_directory(part)].into_iter().find(|name| name == self)
    }

    fn plain(shown: &str) -> Name {
        Name { shown: Arc::from(shown), part: None }
    }

    fn standing_for(shown: &str, part: &str) -> Name {
        Name { shown: Arc::from(shown), part: Some(Arc::from(part)) }
    }

    fn long(kind: &str, part: &str) -> Name {
        let stem = &part[..part.floor_char_boundary(STEM_BYTES)];
        let digest = Sha256::of(part.as_bytes()).to_string();
        Name::standing_for(&format!("{kind}{stem}~{}", &digest[..DIGEST_DIGITS]), part)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Name) -> bool {
        self.shown == other.shown
    }
}

impl Eq for Name {}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> std::cmp::Ordering {
        self.shown.cmp(&other.shown)
    }
}

impl std::hash::Hash for Name {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.shown.hash(state);
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
    /// Nothing that belongs there.
    Stray,
}

/// What an object found by listing `prefix` is.
pub fn listed_object(prefix: &str, key: &str) -> Listed {
    match key.strip_prefix(prefix) {
        Some("") => Listed::Marker,
        Some(part) if !part.contains('/') => Listed::File(Name::of_part(part)),
        Some(_) | None => Listed::Stray,
    }
}

/// What a folded prefix found by listing `prefix` is.
pub fn listed_prefix(prefix: &str, folded: &str) -> Listed {
    match folded.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('/')) {
        Some(part) if !part.contains('/') => Listed::Directory(Name::of_part(part)),
        Some(_) | None => Listed::Stray,
    }
}

/// The key of a file, or `NameTooLong`. `BadName` for the empty part, which makes a directory's key; `NotFound` for a long
/// name of which it is not known what it stands for.
pub fn file_key(prefix: &str, name: &Name) -> Result<Key, Error> {
    match name.part() {
        Some("") => Err(Error::BadName),
        Some(part) => checked(&format!("{prefix}{part}")),
        None => Err(Error::NotFound),
    }
}

/// The prefix of a directory in the one with this prefix. `NotFound` as of [`file_key`].
pub fn prefix_below(prefix: &str, name: &Name) -> Result<String, Error> {
    name.part().map(|part| format!("{prefix}{part}/")).ok_or(Error::NotFound)
}

/// The key of a directory's marker, which is its prefix, or `NameTooLong`.
pub fn marker_key(prefix: &str) -> Result<Key, Error> {
    checked(prefix)
}

/// The names of the directories above a file, and its own. `BadName` for a directory's key.
pub fn split(key: &Key) -> Result<(Vec<Name>, Name), Error> {
    match key.as_str().rsplit_once('/') {
        Some((_, "")) => Err(Error::BadName),
        Some((above, part)) => Ok((above.split('/').map(Name::of_part).collect(), Name::of_part(part))),
        None => Ok((Vec::new(), Name::of_part(key.as_str()))),
    }
}

/// The names of the directories above the one with this prefix, and its own. `BadName` for the root.
pub fn split_prefix(prefix: &str) -> Result<(Vec<Name>, Name), Error> {
    let mut names: Vec<Name> =
        prefix.strip_suffix('/').ok_or(Error::BadName)?.split('/').map(Name::of_part).collect();
    let name = names.pop().expect("a split text has at least one part");
    Ok((names, name))
}

/// Whether programs can make a directory with this prefix. Not every store takes an object with `.` or `..` between
/// slashes, so that a directory of such a name is there only as long as something is in it.
pub fn can_be_made(prefix: &str) -> bool {
    prefix.split('/').all(|part| part != "." && part != "..")
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0'])
}

fn is_of_long(shown: &str) -> bool {
    shown.starts_with(LONG) || shown.starts_with(LONG_FILE)
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

    #[test]
    fn refuses_what_is_no_name() {
        for bad in
            ["", ".", "..", "a/b", "a\0b", "%~", "%~other", "%~name~a", "%~name~", "%~file~", "%~file~a/b"]
        {
            assert!(matches!(Name::from_kernel(OsStr::new(bad)), Err(Error::BadName)), "{bad:?}");
        }
        assert!(matches!(Name::from_kernel(OsStr::from_bytes(b"\xff")), Err(Error::BadName)));
        assert!(matches!(Name::from_kernel(OsStr::new(&"n".repeat(256))), Err(Error::NameTooLong)));
        for good in
            ["...", ".a", " ", "a ", "+%?#&\\:", "%", "%20", "~%~", "a\nb", "\u{e9}", &"n".repeat(255)]
        {
            let name = Name::from_kernel(OsStr::new(good)).unwrap();
            assert_eq!((name.as_str(), name.part()), (good, Some(good)));
            assert_eq!(Name::of_part(good).as_str(), good);
        }
    }

    #[test]
    fn parts_that_are_no_names_have_the_names_of_the_table() {
        let long = "n".repeat(300);
        for (part, shown) in [
            ("", "%~empty"),
            (".", "%~dot"),
            ("..", "%~dotdot"),
            ("%~x", "%~name~%~x"),
            ("%~empty", "%~name~%~empty"),
        ] {
            assert_eq!(Name::of_part(part).as_str(), shown);
        }
        assert_eq!(Name::of_file_beside_directory("x").as_str(), "%~file~x");
        assert!(Name::of_part(&long).as_str().starts_with("%~long~nnn"));
        assert!(Name::of_file_beside_directory(&long).as_str().starts_with("%~longfile~nnn"));
        let unknown = Name::from_kernel(OsStr::new(Name::of_part(&long).as_str())).unwrap();
        assert_eq!((unknown.part(), unknown.stem()), (None, Some(&long[..STEM_BYTES])));
        assert_eq!(unknown.resolved(&long).unwrap().part(), Some(&*long));
        assert!(unknown.resolved(&"n".repeat(301)).is_none());
        assert!(matches!(file_key("", &unknown), Err(Error::NotFound)));
    }

    #[test]
    fn sorts_keys_into_kinds() {
        let name = Name::of_part;
        assert_eq!(listed_object("d/", "d/"), Listed::Marker);
        assert_eq!(listed_object("d/", "d/x"), Listed::File(name("x")));
        assert_eq!(listed_object("d/", "d/.."), Listed::File(name("..")));
        assert_eq!(listed_object("d/", "e/x"), Listed::Stray);
        assert_eq!(listed_prefix("d/", "d/x/"), Listed::Directory(name("x")));
        assert_eq!(listed_prefix("d/", "d//"), Listed::Directory(name("")));
        assert_eq!(listed_prefix("", "/"), Listed::Directory(name("")));
        assert_eq!(listed_prefix("", "a/b/"), Listed::Stray);
    }

    #[test]
    fn keys_have_at_most_1024_bytes() {
        let prefix = format!("{}/", "d".repeat(1019));
        assert_eq!(file_key(&prefix, &Name::of_part("1234")).unwrap().as_str().len(), 1024);
        assert!(matches!(file_key(&prefix, &Name::of_part("12345")), Err(Error::NameTooLong)));
    }

    fn part() -> impl Strategy<Value = String> {
        let tricky = "(%~)?(empty|dot|dotdot|name~|file~|long~|longfile~)?(%~)?[.a%~\n\u{e9}]{0,3}";
        prop_oneof![tricky, "[.]{0,3}", "[a\u{e9}]{250,280}", "%~[a]{240,260}"]
    }

    proptest! {
        #[test]
        fn every_part_has_a_name_of_its_own_and_can_be_told_from_it(one in part(), other in part()) {
            for name in [Name::of_part(&one), Name::of_file_beside_directory(&one)] {
                let shown = name.as_str();
                prop_assert!(is_plain(shown) && shown.len() <= NAME_BYTES_MAX, "{}", shown);
                prop_assert_eq!(name.part(), Some(&*one));
                if one.is_empty() && name.is_beside_directory() {
                    continue;
                }
                let read = Name::from_kernel(OsStr::new(shown)).unwrap();
                prop_assert_eq!(&read, &name);
                match read.part() {
                    Some(part) => prop_assert_eq!(part, &*one),
                    None => prop_assert!(read.resolved(&one).is_some_and(|name| name.part() == Some(&one))),
                }
                for stranger in [Name::of_part(&other), Name::of_file_beside_directory(&other)] {
                    let is_same = one == other && name.is_beside_directory() == stranger.is_beside_directory();
                    prop_assert_eq!(stranger == name, is_same, "{:?} {:?}", stranger, name);
                }
            }
        }

        #[test]
        fn keys_and_paths_are_one_to_one(parts in proptest::collection::vec(part(), 1..4)) {
            let Ok(key) = Key::new(&parts.join("/")) else { return Ok(()) };
            match split(&key) {
                Ok((above, last)) => {
                    let prefix = above.iter().try_fold(String::new(), |prefix, name| prefix_below(&prefix, name));
                    let prefix = prefix.unwrap();
                    prop_assert_eq!(file_key(&prefix, &last).unwrap(), key.clone());
                    prop_assert_eq!(listed_object(&prefix, key.as_str()), Listed::File(last));
                }
                Err(_) => {
                    prop_assert!(key.as_str().ends_with('/'));
                    let (above, last) = split_prefix(key.as_str()).unwrap();
                    let names = above.iter().chain([&last]);
                    let prefix = names.into_iter().try_fold(String::new(), |prefix, name| prefix_below(&prefix, name));
                    prop_assert_eq!(prefix.unwrap(), key.as_str());
                }
            }
        }
    }
}
