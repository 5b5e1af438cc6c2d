//! Names, inodes and attributes, and how fresh they are.
//!
//! Contract: answers from memory while they are fresh (TTL), from the store otherwise; negative answers are remembered
//! too. A file with local changes is what [`Namespace::set_local`] last said, whatever the store says. Time is passed in.
//! Directories exist implicitly (a key below them) or by a marker object `dir/`. Every key has a
//! name, one that says so where it is no path (`names`).
//!
//! * A name costs one HEAD and one LIST of one entry, side by side; one of the two when its kind is known; nothing
//!   while what is known is fresh. A complete listing answers for every name in its directory, absent ones included.
//! * Where an object and a directory have one name, the directory has it, and the object one that says so.
//! * An inode that is open ([`Pin`]) never becomes another version by news of the store: the name gets a new inode then,
//!   and the old one lives on without a name. So whatever the kernel keeps of one inode is of one version.
//! * A directory goes away only by `rmdir`: before its last key leaves the store, a marker takes its place.
//! * Locks: a directory's listing (async) before the tree (sync). The tree is never locked across an await.
//!
//! Reading order: `names`, `inode`, `tree` with `edits` (changes made here), `fold` (answers of the store) and
//! `dropping` (memory), all pure; then `refresh`, `changes` and `listing`, which talk to the store.

mod changes;
mod dropping;
mod edits;
mod fold;
mod freshness;
mod inode;
mod listing;
mod lookups;
mod names;
mod refresh;
#[cfg(test)]
mod tests;
mod tree;

use std::ffi::OsStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::namespace::edits::LocalState;
use crate::namespace::fold::beside_directory;
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::Place;
use crate::namespace::names::Name;
use crate::namespace::tree::{Answer, Tree};
use crate::observe::Metrics;
use crate::store::ObjectStore;
use crate::types::{Attributes, Ino, Key, ObjectId, ObjectMeta, UnixTime};

pub use edits::{Doubted, Reach};
pub use listing::{Directory, Look, Neighbour, Order};

/// Most inodes and absent names remembered that nobody refers to.
const DROPPABLE_MAX: usize = 65_536;

/// How names are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// How long names and attributes, negative ones too, are believed.
    pub ttl: Duration,
    /// Owner of what carries none.
    pub uid: u32,
    /// Group of what carries none.
    pub gid: u32,
    /// Permission bits of files that carry none.
    pub file_mode: u32,
    /// Permission bits of directories that carry none.
    pub directory_mode: u32,
    /// Time of directories that have none.
    pub mounted_at: UnixTime,
}

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileKind {
    /// An object.
    File,
    /// A prefix.
    Directory,
    /// An object that says of itself that it is a symbolic link. Where nobody has asked it, it is a file.
    Symlink,
}

/// What `stat` shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// File, directory or link.
    pub kind: FileKind,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: UnixTime,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether its name was removed here, while somebody still has it open.
    pub is_removed: bool,
}

impl Attr {
    /// Lets an object that is about to be changed carry what was shown of it, so that it stays so.
    pub fn complete(&self, attributes: &mut Attributes) {
        attributes.mode.get_or_insert(self.mode);
        attributes.uid.get_or_insert(self.uid);
        attributes.gid.get_or_insert(self.gid);
        attributes.mtime.get_or_insert(self.mtime);
    }
}

/// One entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Give this to `read_directory` to go on behind this entry.
    pub next_offset: u64,
    /// Its attributes, as far as the listing tells.
    pub attr: Attr,
}

/// Why a name cannot be had or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// A file where a directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory where a file is needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The name is longer than 255 bytes, or its key than the store takes.
    #[error("the name is too long")]
    NameTooLong,
    /// The name is not UTF-8 or otherwise no part of a key.
    #[error("the name cannot be part of an object key")]
    BadName,
    /// An inode number or directory handle that this mount did not hand out (any more).
    #[error("stale file handle")]
    Stale,
    /// The store refuses or cannot be reached.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// The tree of names of one volume.
#[derive(Debug)]
pub struct Namespace {
    store: Arc<dyn ObjectStore>,
    options: Options,
    /// Never locked across an await. Shared with open directories, which hold inodes.
    tree: Arc<Mutex<Tree>>,
    has_told_of_unnamable: AtomicBool,
}

/// A file that is open: its inode stays known, and the version it is, until this is dropped.
#[derive(Debug)]
pub struct Pin {
    ino: Ino,
    tree: Arc<Mutex<Tree>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        lock(&self.tree).unpin(self.ino);
    }
}

impl Namespace {
    /// The tree of a store. No request is made.
    pub fn new(store: Arc<dyn ObjectStore>, options: Options, _metrics: Arc<Metrics>) -> Arc<Namespace> {
        let tree = Arc::new(Mutex::new(Tree::new(DROPPABLE_MAX)));
        Arc::new(Namespace { store, options, tree, has_told_of_unnamable: AtomicBool::new(false) })
    }

    /// How long the kernel may believe an answer.
    pub fn ttl(&self) -> Duration {
        self.options.ttl
    }

    /// The kernel gives back `count` of its lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.tree().forget(ino, count);
    }

    /// The kernel was given an entry with its attributes: its lookup count grows by one.
    pub fn remember(&self, ino: Ino) {
        if self.tree().count(ino).is_err() {
            // The kernel will be told `Stale` when it asks for the inode, and looks the name up again.
            log::debug!("Inode {ino} was given to the kernel after it was dropped");
        }
    }

    /// Keeps an inode known, whatever the kernel forgets, until [`Namespace::release`] was called as often: for open
    /// handles. `Stale`.
    pub fn hold(&self, ino: Ino) -> Result<(), Error> {
        self.tree().hold(ino)
    }

    /// Takes back one [`Namespace::hold`].
    pub fn release(&self, ino: Ino) {
        self.tree().release(ino);
    }

    /// Keeps an inode known, and the version it is, for as long as the pin lives. `Stale`.
    pub fn pin(&self, ino: Ino) -> Result<Pin, Error> {
        self.tree().pin(ino)?;
        Ok(Pin { ino, tree: Arc::clone(&self.tree) })
    }

    /// Gives a file's name to a new inode, which is the same as far as the store is concerned; the old one lives on
    /// without a name while it is referred to. `Stale`, `IsDirectory`, `NotFound` when it has no name.
    pub fn renew(&self, ino: Ino) -> Result<Ino, Error> {
        self.tree().renew(ino)
    }

    /// Whether the file became longer or shorter in the store while the kernel knew it. The kernel may still believe the
    /// old length, and would end the new version there. `Stale`.
    pub fn is_resized(&self, ino: Ino) -> Result<bool, Error> {
        Ok(self.tree().inode(ino)?.is_resized)
    }

    /// Attributes as last known, fresh or not. No request. Of a removed file, too, while it is held. `Stale`.
    pub fn attr_known(&self, ino: Ino) -> Result<Attr, Error> {
        Ok(self.tree().inode(ino)?.attr(&self.options))
    }

    /// Whether it is a file of which only a listing has told: mode and owner are what such files are given. `Stale`.
    pub fn is_guessed(&self, ino: Ino) -> Result<bool, Error> {
        Ok(self.tree().inode(ino)?.is_guessed())
    }

    /// Attributes that its object carries, as far as they are known, fresh or not. No request. `Stale`.
    pub fn attributes_known(&self, ino: Ino) -> Result<Attributes, Error> {
        Ok(self.tree().inode(ino)?.attributes().cloned().unwrap_or_default())
    }

    /// The key of a file: `Stale`, `IsDirectory`, or `NotFound` when it has no name any more.
    pub fn key(&self, ino: Ino) -> Result<Key, Error> {
        self.tree().key(ino)
    }

    /// The key a name would have as a file: `Stale`, `NotDirectory`, `NotFound` (the directory was removed), `BadName`,
    /// `NameTooLong`.
    pub fn child_key(&self, parent: Ino, name: &OsStr) -> Result<Key, Error> {
        let tree = self.tree();
        names::file_key(&tree.prefix(parent)?, &tree.known_name(parent, Name::from_kernel(name)?))
    }

    /// The prefix a name would have as a directory. Errors as [`Namespace::child_key`].
    pub fn child_prefix(&self, parent: Ino, name: &OsStr) -> Result<String, Error> {
        let tree = self.tree();
        names::prefix_below(&tree.prefix(parent)?, &tree.known_name(parent, Name::from_kernel(name)?))
    }

    /// Adds a file with local changes found at mount, with the directories above it. No lookup is counted, no request made.
    /// `NotDirectory`, `IsDirectory` where the path meets another one; `BadName` for a key that is no path.
    pub fn adopt(&self, key: &Key, size: u64, attributes: &Attributes, _now: Instant) -> Result<Ino, Error> {
        let (above, name) = names::split(key)?;
        let state = LocalState { size, attributes: attributes.clone() };
        let mut tree = self.tree();
        match tree.adopt(&above, &name, state.clone()) {
            Err(Error::IsDirectory) => tree.adopt(&above, &beside_directory(&name), state),
            adopted => adopted,
        }
    }

    /// The file has local changes and looks like this until the next call or [`Namespace::committed`].
    pub fn set_local(&self, ino: Ino, size: u64, attributes: &Attributes) {
        let state = LocalState { size, attributes: attributes.clone() };
        if let Err(why) = self.tree().set_local(ino, state) {
            log::warn!("Local changes of inode {ino} cannot be shown: {why}");
        }
    }

    /// The file is this object now, and has no local changes. Nothing happens when the object has another key than the
    /// file, which then was renamed since. For a directory the object is its marker.
    pub fn committed(&self, ino: Ino, object: &ObjectMeta, now: Instant) {
        let fresh = self.fresh_since(now);
        if let Err(why) = self.tree().committed(ino, object, fresh) {
            log::debug!("The commit of inode {ino} is not shown: {why}");
        }
    }

    /// This object is under the file's key now, and the file has local changes that are younger. Without this call a file
    /// that was created here is taken for one that the store does not have, and its removal leaves the object behind.
    pub fn committed_earlier(&self, ino: Ino, object: &ObjectMeta, now: Instant) {
        let fresh = self.fresh_since(now);
        if let Err(why) = self.tree().committed_earlier(ino, object, fresh) {
            log::debug!("The commit of an earlier content of inode {ino} is not noted: {why}");
        }
    }

    /// What is known of the file is no longer believed; the next look asks the store. Local changes are not affected.
    pub fn expire(&self, ino: Ino) {
        self.tree().expire(ino);
    }

    /// What is known of the file under this key is no longer believed. Nothing happens where no such file is known.
    pub fn expire_key(&self, key: &Key) {
        let mut tree = self.tree();
        let Ok((above, name)) = names::split(key) else { return };
        let mut at = Ino::ROOT;
        for part in above.iter().chain([&name]) {
            match tree.last_known(at, part) {
                Ok(Answer::Present(ino)) => at = ino,
                Ok(Answer::Absent | Answer::Unknown) | Err(_) => return,
            }
        }
        tree.expire(at);
    }

    /// The file has no local changes any more without having been committed: it is what the store has, asked anew.
    pub fn give_up_local(&self, ino: Ino) {
        if let Err(why) = self.tree().give_up_local(ino) {
            log::debug!("Inode {ino} had no local changes to give up: {why}");
        }
    }

    /// Takes a file's name away from the tree (its object is removed by [`Namespace::unlink`]'s caller or never existed).
    pub fn remove(&self, parent: Ino, name: &OsStr, now: Instant) {
        let removed = self.name(parent, name).and_then(|name| {
            let mut tree = self.tree();
            if let Answer::Present(ino) = tree.last_known(parent, &name)? {
                tree.require_file(ino)?;
            }
            tree.remove(parent, &name, self.fresh_since(now))
        });
        if let Err(why) = removed {
            log::debug!("A name in directory {parent} is not removed: {why}");
        }
    }

    /// Moves a file's name in the tree, over a file that is there. The objects are the caller's affair: before an
    /// object leaves, [`Namespace::keep_directory`]; when it has arrived, [`Namespace::committed`].
    /// Returns the inode that was replaced. `NotFound`, `IsDirectory` for either, `NameTooLong`, `BadName`.
    pub fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        now: Instant,
    ) -> Result<Option<Ino>, Error> {
        let (name, new_name) = (self.name(parent, name)?, self.name(new_parent, new_name)?);
        let absence = self.fresh_since(now);
        let mut tree = self.tree();
        let replaced = tree.rename((parent, &name), (new_parent, &new_name), now, absence)?;
        [parent, new_parent].into_iter().for_each(|directory| tree.names_changed(directory, present()));
        Ok(replaced)
    }

    /// Moves a directory with everything below it in the tree, over an empty one. The objects are the caller's affair;
    /// `renaming` says what each is called then. Prefixes as of [`Namespace::prefix`]. `BadName` for others.
    pub fn rename_directory(
        &self,
        source: &str,
        target: &str,
        renaming: &dyn Fn(&ObjectId) -> Option<ObjectId>,
        now: Instant,
    ) -> Result<(), Error> {
        let ((above, name), (new_above, new_name)) =
            (names::split_prefix(source)?, names::split_prefix(target)?);
        let absence = self.fresh_since(now);
        let mut tree = self.tree();
        tree.move_directory((&above, &name), (&new_above, &new_name), renaming, absence)?;
        for path in [&above, &new_above] {
            if let Ok(Some(directory)) = tree.known_directory(path) {
                tree.names_changed(directory, present());
            }
        }
        Ok(())
    }

    /// Notes once more that nothing is under a directory's old name: a listing may have shown what was still there.
    pub fn forget_directory(&self, prefix: &str, now: Instant) {
        let forgotten = names::split_prefix(prefix).and_then(|(above, name)| {
            let mut tree = self.tree();
            match tree.known_directory(&above)? {
                Some(parent) => tree.remove(parent, &name, self.fresh_since(now)).map(drop),
                None => Ok(()),
            }
        });
        if let Err(why) = forgotten {
            log::debug!("What is known of '{prefix}' is not forgotten: {why}");
        }
    }

    /// What is known of the name at a path of names, and perhaps below it, is no longer believed. Returns the names that
    /// the kernel may remember. `BadName`, `NameTooLong`.
    pub fn doubt(&self, path: &str, reach: Reach) -> Result<Vec<Doubted>, Error> {
        let names = path.split('/').filter(|_| !path.is_empty());
        let names = names.map(|name| Name::from_kernel(OsStr::new(name))).collect::<Result<Vec<_>, _>>()?;
        Ok(self.tree().doubt(&names, reach))
    }

    /// What is known of the directory with this prefix, and of names in it, is no longer believed.
    pub fn expire_directory(&self, prefix: &str) {
        let Ok((above, name)) = names::split_prefix(prefix) else { return };
        let mut tree = self.tree();
        if let Ok(Some(parent)) = tree.known_directory(&above) {
            match tree.last_known(parent, &name) {
                Ok(Answer::Present(ino)) => tree.expire(ino),
                Ok(Answer::Absent | Answer::Unknown) | Err(_) => {}
            }
        }
    }

    /// The prefix that all keys below a directory begin with: empty for the root. `Stale`, `NotDirectory`, `NotFound`.
    pub fn prefix(&self, directory: Ino) -> Result<String, Error> {
        self.tree().prefix(directory)
    }

    /// The prefix of a directory, or of the one that a file is in. `None` for what has no name.
    pub fn prefix_around(&self, ino: Ino) -> Option<String> {
        let tree = self.tree();
        match (tree.kind(ino).ok()?, &tree.inode(ino).ok()?.place) {
            (FileKind::Directory, _) => tree.prefix(ino).ok(),
            (FileKind::File | FileKind::Symlink, Place::Under { parent, .. }) => tree.prefix(*parent).ok(),
            (FileKind::File | FileKind::Symlink, Place::Root | Place::Removed | Place::Vanished) => None,
        }
    }

    fn note_unnamable(&self, count: u64, directory: &str) {
        if count > 0 && !self.has_told_of_unnamable.swap(true, Ordering::Relaxed) {
            log::warn!("Below '{directory}' are keys with a NUL byte, which are not shown (said once)");
        }
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        lock(&self.tree)
    }

    fn fresh_since(&self, now: Instant) -> Freshness {
        Freshness::of(now, self.options.ttl)
    }
}

/// A panic under the lock is a defect that costs its request; what it left of the tree still serves the others.
fn lock(tree: &Mutex<Tree>) -> MutexGuard<'_, Tree> {
    tree.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time that changes of names made now have.
fn present() -> UnixTime {
    UnixTime::from(SystemTime::now())
}
