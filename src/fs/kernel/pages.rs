//! Which version the kernel's pages of an inode are of, where that is sure: then an open need not drop them.
//!
//! An open that does not keep the pages drops them after our answer, when the program's call ends. Until then another
//! open of the same inode may find old ones. Therefore a version is noted here only when a handle is closed: its own
//! open is over by then, and an open inode is of one version but for our own writes, which go through the pages.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::types::{Ino, ObjectId};

/// Versions by inode. As long as the kernel knows the inodes: it forgets an inode together with its pages.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    versions: Mutex<HashMap<Ino, ObjectId>>,
}

impl Pages {
    /// Whether every page the kernel has of this inode is of this version.
    pub(crate) fn are_of(&self, ino: Ino, object: &ObjectId) -> bool {
        self.lock().get(&ino) == Some(object)
    }

    /// Every page the kernel has of this inode is of this version.
    pub(crate) fn note(&self, ino: Ino, object: ObjectId) {
        self.lock().insert(ino, object);
    }

    /// Nobody knows what the kernel has.
    pub(crate) fn forget(&self, ino: Ino) {
        self.lock().remove(&ino);
    }

    /// What was one version is called another by our own doing, with the same bytes: a rename, new attributes.
    pub(crate) fn renamed(&self, ino: Ino, from: &ObjectId, to: &ObjectId) {
        if let Some(version) = self.lock().get_mut(&ino).filter(|version| *version == from) {
            *version = to.clone();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Ino, ObjectId>> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{ETag, Key};

    fn version(key: &str, etag: &str) -> ObjectId {
        ObjectId { key: Key::new(key).unwrap(), etag: ETag::new(etag), size: 3 }
    }

    #[test]
    fn pages_are_kept_for_their_own_version_alone() {
        let pages = Pages::default();
        let (one, two, moved) = (version("f", "1"), version("f", "2"), version("g", "1"));
        assert!(!pages.are_of(Ino(5), &one), "nothing is known of a new inode");
        pages.note(Ino(5), one.clone());
        assert!(pages.are_of(Ino(5), &one) && !pages.are_of(Ino(5), &two) && !pages.are_of(Ino(6), &one));
        pages.renamed(Ino(5), &two, &moved);
        assert!(pages.are_of(Ino(5), &one), "another version was renamed");
        pages.renamed(Ino(5), &one, &moved);
        assert!(pages.are_of(Ino(5), &moved) && !pages.are_of(Ino(5), &one));
        pages.forget(Ino(5));
        assert!(!pages.are_of(Ino(5), &moved));
    }
}
