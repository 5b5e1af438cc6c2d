//! Where an object lies below the directory: keys as paths that cannot leave it.
//!
//! `a/b` is the file `b` in the directory `a`; `a/b/` is the directory `b`. Every part is one plain file name, opened relative
//! to its directory without following links, so that no key leads out.

use crate::store::Result;
use crate::store::rules::About;

/// Our own directory below the volume's. It holds nothing that a key names.
pub(crate) const WORK_DIRECTORY: &str = ".tetherfs";
/// Longest name Linux file systems take, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// A checked path relative to the volume's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place<'k> {
    /// The directories on the way, outermost first.
    pub parents: Vec<&'k str>,
    /// The last part.
    pub name: &'k str,
    pub kind: PlaceKind,
}

/// What a key names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PlaceKind {
    File,
    /// The key ends in `/`.
    Directory,
}

impl<'k> Place<'k> {
    /// Where the object lies. `Refused` when a directory cannot hold such a name.
    pub fn of(about: About<'k>) -> Result<Place<'k>> {
        let text = about.key.as_str();
        let (path, kind) = match text.strip_suffix('/') {
            Some(path) => (path, PlaceKind::Directory),
            None => (text, PlaceKind::File),
        };
        let mut parents = parts(path).map_err(|reason| about.refused(reason))?;
        let name = parents.pop().expect("splitting yields at least one part");
        Ok(Place { parents, name, kind })
    }
}

/// The parts of a path without closing `/`; the reason why it is none.
pub(crate) fn parts(path: &str) -> Result<Vec<&str>, String> {
    let parts: Vec<&str> = path.split('/').collect();
    if parts[0] == WORK_DIRECTORY {
        return Err(format!("'{WORK_DIRECTORY}' is kept for tetherfs itself"));
    }
    for part in &parts {
        if ["", ".", ".."].contains(part) {
            return Err(format!("a local directory cannot hold the part '{part}' of this name"));
        }
        if part.len() > NAME_BYTES_MAX {
            return Err(format!("a part of this name has more than {NAME_BYTES_MAX} bytes"));
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::{ErrorKind, Op};
    use crate::types::Key;

    fn placed(text: &str) -> Result<(Vec<String>, String, PlaceKind)> {
        let key = Key::new(text).unwrap();
        let place = Place::of(About { op: Op::Put, key: &key })?;
        Ok((place.parents.iter().map(|&p| p.to_owned()).collect(), place.name.to_owned(), place.kind))
    }

    #[test]
    fn keys_are_paths() {
        let file = placed("a/b.txt").unwrap();
        assert_eq!(file, (vec!["a".to_owned()], "b.txt".to_owned(), PlaceKind::File));
        assert_eq!(placed("a/").unwrap(), (vec![], "a".to_owned(), PlaceKind::Directory));
        assert!(placed("a/.tetherfs").is_ok() && placed("...").is_ok());
    }

    #[test]
    fn nothing_leads_out_or_in() {
        let long = "n".repeat(256);
        for key in [
            "/",
            "/a",
            "a//b",
            "a//",
            ".",
            "..",
            "../x",
            "a/../../x",
            "a/./b",
            "a/..",
            ".tetherfs",
            ".tetherfs/",
            ".tetherfs/lock",
            &long,
        ] {
            assert_eq!(placed(key).unwrap_err().kind, ErrorKind::Refused, "{key}");
        }
    }

    proptest! {
        #[test]
        fn parts_are_plain_names(text in "[a./]{1,12}") {
            if let Ok((parents, name, _)) = placed(&text) {
                for part in parents.iter().chain([&name]) {
                    prop_assert!(!part.is_empty() && part != "." && part != ".." && !part.contains('/'), "{}", text);
                }
            }
        }
    }
}
