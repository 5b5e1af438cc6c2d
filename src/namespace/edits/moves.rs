//! A directory and all below it under another name (pure).

use crate::namespace::Error;
use crate::namespace::edits::Tree;
use crate::namespace::fold::beside_directory;
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{AsOf, Body, Entry, Evidence, Folder, Place, Residence, Seen, Stamp, Under};
use crate::namespace::names::Name;
use crate::namespace::tree::Answer;
use crate::types::{Ino, ObjectId};

/// What an object below the directory is called after the move. `None` when that is not known.
pub type Renaming<'a> = &'a dyn Fn(&ObjectId) -> Option<ObjectId>;

impl Tree {
    /// Moves a directory, over an empty one that is there. Every inode below keeps its number; what is known of the store
    /// is what `renaming` says, and no longer fresh. `absence` is how long the old name's is believed. A directory that is
    /// not known leaves nothing to be moved.
    pub fn move_directory(
        &mut self,
        source: (&[Name], &Name),
        target: (&[Name], &Name),
        renaming: Renaming<'_>,
        absence: Freshness,
    ) -> Result<(), Error> {
        let Some(parent) = self.known_directory(source.0)? else { return Ok(()) };
        let moved = match self.last_known(parent, source.1)? {
            Answer::Present(ino) => ino,
            Answer::Absent | Answer::Unknown => return Ok(()),
        };
        self.folder(moved)?;
        let new_parent = self.directories(target.0)?;
        if let Answer::Present(there) = self.last_known(new_parent, target.1)?
            && there != moved
        {
            self.detach(there, Place::Removed);
        }
        let as_of = AsOf::change(self.tick());
        self.set_absent(parent, source.1, absence, as_of);
        self.clear_absence(new_parent, target.1);
        self.change(moved, |inode| {
            inode.place = Place::Under { parent: new_parent, name: target.1.clone() };
        });
        self.set_entry(new_parent, target.1, Entry::Present(moved));
        self.carry(moved, as_of.stamp, renaming);
        if self.inode(moved)?.is_in_store() {
            self.confirm(moved);
        }
        for changed in [moved, parent, new_parent] {
            self.settle(changed);
        }
        self.check();
        Ok(())
    }

    /// A directory of this name is gone: a file that was beside it has the name now, which only the store can tell.
    pub fn uncover(&mut self, parent: Ino, name: &Name) {
        let beside = beside_directory(name);
        if let Some(Entry::Present(file)) = self.entry(parent, &beside) {
            let file = *file;
            self.detach(file, Place::Vanished);
            self.clear_absence(parent, name);
            self.expire(parent);
        }
    }

    /// The directory at a path, each part made where it is not known.
    pub(super) fn directories(&mut self, path: &[Name]) -> Result<Ino, Error> {
        let mut at = Ino::ROOT;
        for part in path {
            at = match self.last_known(at, part)? {
                Answer::Present(ino) => ino,
                Answer::Absent | Answer::Unknown => {
                    let folder = Folder::new(Evidence::LocalFiles, Freshness::Stale);
                    self.add(at, part, Body::Directory(folder))?
                }
            };
        }
        Ok(at)
    }

    /// The directory at a path, as far as it is known.
    pub fn known_directory(&self, path: &[Name]) -> Result<Option<Ino>, Error> {
        let mut at = Ino::ROOT;
        for part in path {
            at = match self.last_known(at, part)? {
                Answer::Present(ino) => ino,
                Answer::Absent | Answer::Unknown => return Ok(None),
            };
        }
        Ok(Some(at))
    }

    /// Everything below a directory follows it, and what was asked about it before is no news any more.
    fn carry(&mut self, ino: Ino, stamp: Stamp, renaming: Renaming<'_>) {
        let mut below = Vec::new();
        self.change(ino, |inode| {
            inode.as_of = AsOf::change(stamp);
            let rename = |seen: &mut Seen| {
                if let Some(id) = renaming(&seen.meta.id) {
                    seen.meta.id = id;
                }
                seen.fresh = Freshness::Stale;
            };
            match &mut inode.body {
                Body::File(Residence::Remote(seen)) => rename(seen),
                Body::File(Residence::Local { under: Under::Object(seen), .. }) => rename(seen),
                Body::File(Residence::Local { under: Under::Nothing | Under::Unknown, .. }) => {}
                Body::Directory(folder) => {
                    folder.marker = folder.marker.take().and_then(|mut marker| {
                        marker.id = renaming(&marker.id)?;
                        Some(marker)
                    });
                    folder.fresh = Freshness::Stale;
                    folder.listed = Freshness::Stale;
                    folder.since = stamp;
                    below.extend(folder.children().map(|(_, child)| child));
                }
            }
        });
        for child in below {
            self.carry(child, stamp, renaming);
        }
    }
}
