//! Changes of the tree that are made here: files created, changed, committed, moved and removed (pure).
//!
//! Each is stamped, so that what the store was asked before it does not undo it.

mod doubts;
mod moves;

use std::time::Instant;

use crate::namespace::Error;
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{AsOf, Body, Entry, Evidence, Inode, Place, Residence, Seen, Under};
use crate::namespace::names::{self, Name};
use crate::namespace::tree::{Answer, Tree};
use crate::types::{Attributes, ETag, Ino, ObjectId, ObjectMeta, UnixTime};

pub use doubts::{Doubted, Reach};

/// How a file with local changes looks.
#[derive(Clone, Debug)]
pub struct LocalState {
    /// Length in bytes.
    pub size: u64,
    /// Attributes as the program set or caused them.
    pub attributes: Attributes,
}

impl Tree {
    /// Adds a file or directory under a name that nothing is under, known as of now. Errors as `folder`, `Exists`.
    pub fn add(&mut self, parent: Ino, name: &Name, body: Body) -> Result<Ino, Error> {
        match self.last_known(parent, name)? {
            Answer::Present(_) => Err(Error::Exists),
            Answer::Absent | Answer::Unknown => {
                let as_of = AsOf::change(self.tick());
                let ino = self.link(parent, name, body, as_of)?;
                self.check();
                Ok(ino)
            }
        }
    }

    /// Gives a file local changes, the file and the directories above it being made where they are not known.
    /// `NotDirectory`, `IsDirectory` where the path meets what is known.
    pub fn adopt(&mut self, above: &[Name], name: &Name, state: LocalState) -> Result<Ino, Error> {
        let parent = self.directories(above)?;
        match self.last_known(parent, name)? {
            Answer::Present(ino) => {
                self.set_local(ino, state)?;
                Ok(ino)
            }
            Answer::Absent | Answer::Unknown => {
                let LocalState { size, attributes } = state;
                let residence = Residence::Local { size, attributes, under: Under::Unknown };
                self.add(parent, name, Body::File(residence))
            }
        }
    }

    /// A file has local changes and looks like this. `Stale`, `IsDirectory`.
    pub fn set_local(&mut self, ino: Ino, state: LocalState) -> Result<(), Error> {
        let under = match &self.inode(ino)?.body {
            Body::Directory(_) => return Err(Error::IsDirectory),
            Body::File(Residence::Local { under, .. }) => under.clone(),
            Body::File(Residence::Remote(seen)) => Under::Object(Box::new(seen.clone())),
        };
        let LocalState { size, attributes } = state;
        self.change(ino, |inode| inode.body = Body::File(Residence::Local { size, attributes, under }));
        self.check();
        Ok(())
    }

    /// A file or a directory's marker is this object now. Nothing happens when the object has another key than the
    /// inode, which then was moved since. `Stale`.
    pub fn committed(&mut self, ino: Ino, object: &ObjectMeta, fresh: Freshness) -> Result<(), Error> {
        let key = match self.inode(ino)?.body {
            Body::File(_) => self.key(ino),
            Body::Directory(_) => self.prefix(ino).and_then(|prefix| names::marker_key(&prefix)),
        };
        if key.is_ok_and(|key| key != object.id.key) {
            log::debug!("The commit of {} is news about a name that its file no longer has", object.id.key);
            return Ok(());
        }
        let as_of = AsOf::change(self.tick());
        self.change(ino, |inode| {
            inode.as_of = as_of;
            let mut meta = object.clone();
            match &mut inode.body {
                Body::File(residence) => {
                    // A change that tells none has left them as they were.
                    let known = match residence {
                        Residence::Local { attributes, .. } => Some(&*attributes),
                        Residence::Remote(seen) => seen.meta.attributes.as_ref(),
                    };
                    meta.attributes = meta.attributes.or_else(|| known.cloned());
                    *residence = Residence::Remote(Seen { meta, fresh });
                }
                Body::Directory(folder) => {
                    folder.marker = Some(meta);
                    folder.is_marker_told = true;
                    folder.fresh = fresh;
                }
            }
        });
        self.confirm(ino);
        self.check();
        Ok(())
    }

    /// What is under the key of a file with local changes is this object now; a file without any is the object.
    /// Errors as [`Tree::key`].
    pub fn committed_earlier(
        &mut self,
        ino: Ino,
        object: &ObjectMeta,
        fresh: Freshness,
    ) -> Result<(), Error> {
        if self.key(ino)? != object.id.key {
            return Ok(());
        }
        let as_of = AsOf::change(self.tick());
        self.change(ino, |inode| {
            let seen = Seen { meta: object.clone(), fresh };
            match &mut inode.body {
                Body::File(Residence::Local { under, .. }) => {
                    *under = Under::Object(Box::new(seen));
                }
                Body::File(residence @ Residence::Remote(_)) => *residence = Residence::Remote(seen),
                Body::Directory(_) => unreachable!("a directory has no key"),
            }
            inode.as_of = as_of;
        });
        self.confirm(ino);
        self.check();
        Ok(())
    }

    /// Nothing known of the inode is believed any more, local changes excepted. Answers on their way are too old.
    pub fn expire(&mut self, ino: Ino) {
        let as_of = AsOf::change(self.tick());
        self.change(ino, |inode| {
            inode.as_of = as_of;
            match &mut inode.body {
                Body::File(Residence::Remote(seen)) => seen.fresh = Freshness::Stale,
                Body::File(Residence::Local { under: Under::Object(seen), .. }) => {
                    seen.fresh = Freshness::Stale
                }
                Body::File(Residence::Local { under: under @ (Under::Nothing | Under::Unknown), .. }) => {
                    *under = Under::Unknown
                }
                Body::Directory(folder) => {
                    folder.fresh = if ino == Ino::ROOT { Freshness::Always } else { Freshness::Stale };
                    folder.listed = Freshness::Stale;
                }
            }
        });
        self.check();
    }

    /// A file has no local changes any more, and what it is instead has to be asked. `Stale`, errors as [`Tree::key`].
    pub fn give_up_local(&mut self, ino: Ino) -> Result<(), Error> {
        let key = self.key(ino)?;
        let seen = match &self.inode(ino)?.body {
            Body::Directory(_) | Body::File(Residence::Remote(_)) => None,
            Body::File(Residence::Local { under: Under::Object(seen), .. }) => Some(seen.meta.clone()),
            // Shown until somebody asks; no version has this etag, so no bytes can be read by it.
            Body::File(Residence::Local { size, attributes, under: Under::Nothing | Under::Unknown }) => {
                Some(ObjectMeta {
                    id: ObjectId { key, etag: ETag::new(""), size: *size },
                    modified: attributes.mtime.unwrap_or_default(),
                    attributes: Some(attributes.clone()),
                    token: None,
                    crc64: None,
                })
            }
        };
        if let Some(meta) = seen {
            let seen = Seen { meta, fresh: Freshness::Stale };
            self.change(ino, |inode| inode.body = Body::File(Residence::Remote(seen)));
        }
        self.expire(ino);
        Ok(())
    }

    /// Gives a file's name to a new inode, which knows what the old one knew of the store. The old one stays nameless for
    /// those who refer to it. Errors as [`Tree::key`].
    pub fn renew(&mut self, ino: Ino) -> Result<Ino, Error> {
        self.key(ino)?;
        let Inode { place, body, as_of, .. } = self.inode(ino)?.clone();
        let Place::Under { parent, name } = place else { return Err(Error::NotFound) };
        self.detach(ino, Place::Vanished);
        let renewed = self.link(parent, &name, body, as_of)?;
        self.check();
        Ok(renewed)
    }

    /// Takes a name and what is under it away. `fresh` is how long its absence is believed.
    pub fn remove(&mut self, parent: Ino, name: &Name, fresh: Freshness) -> Result<Option<Ino>, Error> {
        let removed = match self.last_known(parent, name)? {
            Answer::Present(ino) => Some(ino),
            Answer::Absent | Answer::Unknown => None,
        };
        let as_of = AsOf::change(self.tick());
        if let Some(ino) = removed {
            self.detach(ino, Place::Removed);
        }
        self.set_absent(parent, name, fresh, as_of);
        self.check();
        Ok(removed)
    }

    /// A name in a directory has changed here at this time.
    pub fn names_changed(&mut self, ino: Ino, at: UnixTime) {
        self.set_names_changed(ino, Some(at));
    }

    /// A directory's time is what its attributes say.
    pub fn time_is_set(&mut self, ino: Ino) {
        self.set_names_changed(ino, None);
    }

    fn set_names_changed(&mut self, ino: Ino, at: Option<UnixTime>) {
        if let Some(Inode { body: Body::Directory(folder), .. }) = self.inodes.get_mut(&ino) {
            folder.names_changed = at;
        }
    }

    /// Moves a file, over one that is there. What is under its new key is not known until the store is asked or
    /// [`Tree::committed`] tells. `absence` is how long the old name's is believed. Returns the inode replaced.
    pub fn rename(
        &mut self,
        source: (Ino, &Name),
        target: (Ino, &Name),
        now: Instant,
        absence: Freshness,
    ) -> Result<Option<Ino>, Error> {
        let Answer::Present(ino) = self.last_known(source.0, source.1)? else {
            return Err(Error::NotFound);
        };
        self.require_file(ino)?;
        let key = names::file_key(&self.prefix(target.0)?, target.1)?;
        let is_free = self.answer(target.0, target.1, now)? == Answer::Absent;
        let replaced = match self.last_known(target.0, target.1)? {
            Answer::Present(there) if there == ino => return Ok(None),
            Answer::Present(there) => {
                self.require_file(there)?;
                self.detach(there, Place::Removed);
                Some(there)
            }
            Answer::Absent | Answer::Unknown => None,
        };
        let as_of = AsOf::change(self.tick());
        self.set_absent(source.0, source.1, absence, as_of);
        self.clear_absence(target.0, target.1);
        self.change(ino, |inode| {
            inode.as_of = as_of;
            inode.place = Place::Under { parent: target.0, name: target.1.clone() };
            match &mut inode.body {
                Body::File(Residence::Remote(seen)) => {
                    seen.meta.id.key = key;
                    seen.fresh = Freshness::Stale;
                }
                Body::File(Residence::Local { under: Under::Nothing, .. }) if is_free => {}
                Body::File(Residence::Local { under, .. }) => *under = Under::Unknown,
                Body::Directory(_) => unreachable!("checked above"),
            }
        });
        self.set_entry(target.0, target.1, Entry::Present(ino));
        for changed in [ino, source.0, target.0] {
            self.settle(changed);
        }
        self.check();
        Ok(replaced)
    }

    /// The store has a key below this inode's directory: so it has for all above it.
    pub(super) fn confirm(&mut self, ino: Ino) {
        let mut at = Some(ino);
        while let Some(inode) = at.and_then(|ino| self.inodes.get_mut(&ino)) {
            if let Body::Directory(folder) = &mut inode.body {
                folder.evidence = Evidence::Store;
            }
            at = match &inode.place {
                Place::Under { parent, .. } => Some(*parent),
                Place::Root | Place::Removed | Place::Vanished => None,
            };
        }
    }
}
