//! Names, inodes and attributes, and how fresh they are.
//!
//! Contract: answers from memory while they are fresh (TTL), from the store otherwise; negative answers are remembered
//! too. A file with local changes is what [`Namespace::set_local`] last said, whatever the store says. Time is passed in.
//! Directories exist implicitly (a key below them) or by a marker object `dir/`. A key that is no path is not shown.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::observe::Metrics;
use crate::store::ObjectStore;
use crate::types::{Attributes, Ino, Key, ObjectMeta, UnixTime};

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
}

/// What `stat` shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attr {
    /// The inode.
    pub ino: Ino,
    /// File or directory.
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
pub struct Namespace {}

/// An open directory: a listing that stays the same while it is read.
#[derive(Debug)]
pub struct Directory {}

impl Namespace {
    /// The tree of a store. No request is made.
    pub fn new(_store: Arc<dyn ObjectStore>, _options: Options, _metrics: Arc<Metrics>) -> Arc<Namespace> {
        unimplemented!()
    }

    /// How long the kernel may believe an answer.
    pub fn ttl(&self) -> Duration {
        unimplemented!()
    }

    /// Finds a name. The kernel's lookup count of the inode grows by one.
    pub async fn lookup(&self, _parent: Ino, _name: &OsStr, _now: Instant) -> Result<Attr, Error> {
        unimplemented!()
    }

    /// The kernel gives back `count` of its lookups.
    pub fn forget(&self, _ino: Ino, _count: u64) {
        unimplemented!()
    }

    /// Attributes, asked anew when they are no longer fresh.
    pub async fn attr(&self, _ino: Ino, _now: Instant) -> Result<Attr, Error> {
        unimplemented!()
    }

    /// Attributes as last known, fresh or not. No request.
    pub fn attr_known(&self, _ino: Ino) -> Result<Attr, Error> {
        unimplemented!()
    }

    /// The version that is under the file's key, asked anew when it is no longer fresh; `None` when there is no object
    /// yet (a file that exists only locally). With metadata where the store has it.
    pub async fn object(&self, _ino: Ino, _now: Instant) -> Result<Option<ObjectMeta>, Error> {
        unimplemented!()
    }

    /// The key of a file.
    pub fn key(&self, _ino: Ino) -> Result<Key, Error> {
        unimplemented!()
    }

    /// The key a name would have.
    pub fn child_key(&self, _parent: Ino, _name: &OsStr) -> Result<Key, Error> {
        unimplemented!()
    }

    /// Adds a file that exists only locally so far; counts as one lookup. `Exists` if a name is known to be there
    /// (asks the store when what is known is not fresh).
    pub async fn create(
        &self,
        _parent: Ino,
        _name: &OsStr,
        _attributes: Attributes,
        _now: Instant,
    ) -> Result<Attr, Error> {
        unimplemented!()
    }

    /// Adds a file with local changes found at mount, with the directories above it. No lookup is counted, no request made.
    pub fn adopt(
        &self,
        _key: &Key,
        _size: u64,
        _attributes: &Attributes,
        _now: Instant,
    ) -> Result<Ino, Error> {
        unimplemented!()
    }

    /// The file has local changes and looks like this until the next call or [`Namespace::committed`].
    pub fn set_local(&self, _ino: Ino, _size: u64, _attributes: &Attributes) {
        unimplemented!()
    }

    /// The file is this object now, and has no local changes.
    pub fn committed(&self, _ino: Ino, _object: &ObjectMeta, _now: Instant) {
        unimplemented!()
    }

    /// What is known of the file is no longer believed; the next look asks the store. Local changes are not affected.
    pub fn expire(&self, _ino: Ino) {
        unimplemented!()
    }

    /// Takes a file's name away from the tree (its object is removed by [`Namespace::unlink`]'s caller or never existed).
    pub fn remove(&self, _parent: Ino, _name: &OsStr, _now: Instant) {
        unimplemented!()
    }

    /// Removes a file: the object under its key, if there is one, and the name. Returns the inode.
    pub async fn unlink(&self, _parent: Ino, _name: &OsStr, _now: Instant) -> Result<Ino, Error> {
        unimplemented!()
    }

    /// Makes a directory, by its marker object.
    pub async fn mkdir(
        &self,
        _parent: Ino,
        _name: &OsStr,
        _attributes: Attributes,
        _now: Instant,
    ) -> Result<Attr, Error> {
        unimplemented!()
    }

    /// Changes a directory's attributes, kept in its marker object (which is made when there is none).
    pub async fn set_directory_attributes(
        &self,
        _ino: Ino,
        _attributes: Attributes,
        _now: Instant,
    ) -> Result<(), Error> {
        unimplemented!()
    }

    /// Removes an empty directory.
    pub async fn rmdir(&self, _parent: Ino, _name: &OsStr, _now: Instant) -> Result<(), Error> {
        unimplemented!()
    }

    /// Moves a file's name in the tree, over a file that is there. The objects are the caller's affair.
    /// Returns the inode that was replaced.
    pub fn rename(
        &self,
        _parent: Ino,
        _name: &OsStr,
        _new_parent: Ino,
        _new_name: &OsStr,
        _now: Instant,
    ) -> Result<Option<Ino>, Error> {
        unimplemented!()
    }

    /// Opens a directory for reading. No request is made.
    pub fn open_directory(&self, _ino: Ino) -> Result<Directory, Error> {
        unimplemented!()
    }

    /// Entries behind `offset` (0 at first), at least one unless the end is reached; without `.` and `..`.
    /// Local files are among them. No lookups are counted: for entries handed to the kernel with attributes,
    /// call [`Namespace::remember`].
    pub async fn read_directory(
        &self,
        _directory: &Directory,
        _offset: u64,
        _now: Instant,
    ) -> Result<Arc<Vec<DirEntry>>, Error> {
        unimplemented!()
    }

    /// The kernel was given an entry with its attributes: its lookup count grows by one.
    pub fn remember(&self, _ino: Ino) {
        unimplemented!()
    }
}
