//! One file or directory as the tree knows it, and what `stat` shows of it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Instant;

use crate::namespace::freshness::Freshness;
use crate::namespace::lookups::References;
use crate::namespace::names::Name;
use crate::namespace::{Attr, FileKind, Options};
use crate::types::{Attributes, ETag, Ino, ObjectMeta, UnixTime};

/// Size shown for every directory, in bytes.
const DIRECTORY_BYTES: u64 = 4096;
/// Permission bits of a link that carries none. Nobody asks for them.
const LINK_MODE: u32 = 0o777;

/// A moment in the order of local changes and of questions to the store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Stamp(pub u64);

/// As of when something is known. An answer to a question that was asked before is old news.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AsOf {
    /// When the last question was asked whose answer counted, or the last change made here.
    pub stamp: Stamp,
    /// When the last change was made here, if any is remembered.
    pub changed: Stamp,
}

/// The place of something droppable in the order of dropping.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Turn(pub u64);

/// A file or directory.
#[derive(Clone, Debug)]
pub struct Inode {
    /// Its number.
    pub ino: Ino,
    /// Where in the tree it is.
    pub place: Place,
    /// What it is.
    pub body: Body,
    /// As of when that is true.
    pub as_of: AsOf,
    /// Who refers to it.
    pub references: References,
    /// Whether it became longer or shorter in the store while the kernel knew it, which may believe the old length.
    pub is_resized: bool,
    /// INVARIANT: given exactly while the inode may be dropped from memory; the tree's order names it back.
    pub turn: Option<Turn>,
}

/// Where an inode is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// At the top.
    Root,
    /// Under a name.
    Under {
        /// The directory.
        parent: Ino,
        /// The name in it.
        name: Name,
    },
    /// Without a name since we took it away. Open handles go on with it.
    Removed,
    /// Without a name since the store said that it is gone, or since another inode has the name: the store has another
    /// version and this one is open, or whoever has it open must not see what happens to the name.
    Vanished,
}

/// What an inode is.
#[derive(Clone, Debug)]
pub enum Body {
    /// A file.
    File(Residence),
    /// A directory.
    Directory(Folder),
}

/// Where a file's present content is.
#[derive(Clone, Debug)]
pub enum Residence {
    /// In the store, as this object.
    Remote(Seen),
    /// Here: it has local changes.
    Local {
        /// Length in bytes.
        size: u64,
        /// Attributes as the program set or caused them.
        attributes: Attributes,
        /// What is under its key meanwhile.
        under: Under,
    },
}

/// What is under the key of a file with local changes.
#[derive(Clone, Debug)]
pub enum Under {
    /// No object.
    Nothing,
    /// Nobody has looked.
    Unknown,
    /// This object.
    Object(Box<Seen>),
}

/// What the store told of an object.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The object.
    pub meta: ObjectMeta,
    /// How long that is believed.
    pub fresh: Freshness,
}

/// A directory's part of the tree.
#[derive(Clone, Debug)]
pub struct Folder {
    /// What is known of names in it.
    pub entries: BTreeMap<Name, Entry>,
    /// While it holds, a name that is not among `entries` does not exist.
    pub listed: Freshness,
    /// While it holds, the directory exists.
    pub fresh: Freshness,
    /// Its marker object, when one has been seen.
    pub marker: Option<ObjectMeta>,
    /// Whether the store was asked for the marker. Being part of a listing is not.
    pub is_marker_told: bool,
    /// Who says that it exists.
    pub evidence: Evidence,
    /// When a name in it was made, taken away or moved here for the last time, unless its time was set after that.
    pub names_changed: Option<UnixTime>,
    /// When the directory became known: what was asked before is no news about names in it.
    pub since: Stamp,
    /// When an entry was last dropped to save memory: a listing begun before that is no longer complete here.
    pub dropped: Stamp,
}

/// Who says that a directory exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// The store has a key below it, or its marker.
    Store,
    /// Only files with local changes below it, as far as is known.
    LocalFiles,
}

/// What is known of a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It is this inode.
    Present(Ino),
    /// There is no such name.
    Absent {
        /// How long that is believed.
        fresh: Freshness,
        /// As of when it is true.
        as_of: AsOf,
        /// INVARIANT: the tree's order names it back.
        turn: Turn,
    },
}

impl AsOf {
    /// A change made here.
    pub fn change(stamp: Stamp) -> AsOf {
        AsOf { stamp, changed: stamp }
    }

    /// An answer to a question asked at `stamp`, about something that was last changed here when it was before.
    pub fn answer(self, stamp: Stamp) -> AsOf {
        AsOf { stamp, changed: self.changed }
    }
}

impl Body {
    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        let is_symlink = match self {
            Body::Directory(_) => return FileKind::Directory,
            Body::File(Residence::Remote(seen)) => seen.is_symlink(),
            Body::File(Residence::Local { attributes, .. }) => attributes.is_symlink,
        };
        if is_symlink { FileKind::Symlink } else { FileKind::File }
    }
}

impl Inode {
    /// Whether it has a way from the root.
    pub fn is_linked(&self) -> bool {
        match self.place {
            Place::Root | Place::Under { .. } => true,
            Place::Removed | Place::Vanished => false,
        }
    }

    /// Whether what is known may be shown without asking the store.
    pub fn is_believed(&self, now: Instant) -> bool {
        match (&self.place, &self.body) {
            (Place::Root | Place::Removed | Place::Vanished, _) => true,
            (Place::Under { .. }, Body::File(Residence::Remote(seen))) => seen.fresh.holds(now),
            (Place::Under { .. }, Body::File(Residence::Local { .. })) => true,
            (Place::Under { .. }, Body::Directory(folder)) => {
                folder.fresh.holds(now) || folder.is_kept_by_local_files()
            }
        }
    }

    /// Whether mode, owner and time are those that the object carries, if it carries any. A listing does not tell them.
    pub fn is_metadata_known(&self) -> bool {
        match (&self.place, &self.body) {
            (Place::Root, _) | (_, Body::File(Residence::Local { .. })) => true,
            (_, Body::File(Residence::Remote(seen))) => seen.meta.attributes.is_some(),
            (_, Body::Directory(folder)) => {
                let is_told = |marker: &ObjectMeta| marker.attributes.is_some();
                folder.is_kept_by_local_files()
                    || folder.is_marker_told && folder.marker.as_ref().is_none_or(is_told)
            }
        }
    }

    /// Whether its loss would cost no more than a question to the store.
    pub fn is_idle(&self) -> bool {
        let is_reproducible = match &self.body {
            Body::File(Residence::Remote(_)) => true,
            Body::File(Residence::Local { .. }) => false,
            Body::Directory(folder) => folder.children().next().is_none(),
        };
        matches!(self.place, Place::Under { .. }) && self.references.is_empty() && is_reproducible
    }

    /// Whether the store has a key for it, as far as is known.
    pub fn is_in_store(&self) -> bool {
        match &self.body {
            Body::File(Residence::Remote(_)) => true,
            Body::File(Residence::Local { under, .. }) => match under {
                Under::Nothing => false,
                Under::Unknown | Under::Object(_) => true,
            },
            Body::Directory(folder) => folder.evidence == Evidence::Store,
        }
    }

    /// The version under its key, as far as anybody has looked.
    pub fn version(&self) -> Option<&ETag> {
        let seen = match &self.body {
            Body::File(Residence::Remote(seen)) => seen,
            Body::File(Residence::Local { under: Under::Object(seen), .. }) => &**seen,
            Body::File(Residence::Local { under: Under::Nothing | Under::Unknown, .. })
            | Body::Directory(_) => {
                return None;
            }
        };
        // An empty one stands for one that nobody has asked for.
        Some(&seen.meta.id.etag).filter(|version| !version.as_str().is_empty())
    }

    /// What its object carries, as far as that is known.
    pub fn attributes(&self) -> Option<&Attributes> {
        match &self.body {
            Body::File(Residence::Remote(seen)) => seen.meta.attributes.as_ref(),
            Body::File(Residence::Local { attributes, .. }) => Some(attributes),
            Body::Directory(folder) => folder.marker.as_ref()?.attributes.as_ref(),
        }
    }

    /// Whether it is a file of which nobody asked the object's metadata.
    pub fn is_guessed(&self) -> bool {
        match &self.body {
            Body::File(_) => self.attributes().is_none(),
            Body::Directory(_) => false,
        }
    }

    /// What `stat` shows.
    pub fn attr(&self, options: &Options) -> Attr {
        let kind = self.body.kind();
        let dress = |size, attributes: Option<&Attributes>, mtime: UnixTime| {
            let mode = match kind {
                FileKind::File => options.file_mode,
                FileKind::Directory => options.directory_mode,
                FileKind::Symlink => LINK_MODE,
            };
            Attr {
                ino: self.ino,
                kind,
                size,
                mtime: attributes.and_then(|a| a.mtime).unwrap_or(mtime),
                mode: attributes.and_then(|a| a.mode).unwrap_or(mode) & 0o7777,
                uid: attributes.and_then(|a| a.uid).unwrap_or(options.uid),
                gid: attributes.and_then(|a| a.gid).unwrap_or(options.gid),
                is_removed: matches!(self.place, Place::Removed),
            }
        };
        match &self.body {
            Body::File(Residence::Remote(Seen { meta, .. })) => {
                dress(meta.id.size, meta.attributes.as_ref(), whole_seconds(meta.modified))
            }
            Body::File(Residence::Local { size, attributes, under }) => {
                let mtime = match under {
                    Under::Object(seen) => whole_seconds(seen.meta.modified),
                    Under::Nothing | Under::Unknown => options.mounted_at,
                };
                dress(*size, Some(attributes), mtime)
            }
            Body::Directory(folder) => {
                let attributes = folder.marker.as_ref().and_then(|marker| marker.attributes.as_ref());
                let attr = dress(DIRECTORY_BYTES, attributes, options.mounted_at);
                Attr { mtime: folder.names_changed.unwrap_or(attr.mtime), ..attr }
            }
        }
    }
}

impl Seen {
    /// Whether the object is known to be a symbolic link.
    pub fn is_symlink(&self) -> bool {
        is_symlink(&self.meta)
    }

    /// Whether an answer of the store is about another file than the one that the kernel may know: of another kind, or
    /// another link, whose target the kernel keeps for as long as it has the inode.
    pub fn is_other_file(&self, news: &ObjectMeta) -> bool {
        match (self.is_symlink(), &news.attributes) {
            (false, _) => is_symlink(news),
            (true, Some(_)) => !is_symlink(news) || news.id != self.meta.id,
            (true, None) => news.id != self.meta.id,
        }
    }

    /// Takes in a newer answer. Metadata known of the same version outlives an answer that carries none, so that a
    /// file does not change its mode between `stat` and `ls`.
    pub fn learn(&mut self, news: Seen) {
        let known = std::mem::replace(self, news);
        if self.meta.attributes.is_none() && self.meta.id == known.meta.id {
            self.meta.attributes = known.meta.attributes;
            self.meta.token = known.meta.token;
            self.meta.crc64 = self.meta.crc64.or(known.meta.crc64);
        }
    }
}

impl Folder {
    /// A directory of which no entry is known.
    pub fn new(evidence: Evidence, fresh: Freshness) -> Folder {
        Folder {
            entries: BTreeMap::new(),
            listed: Freshness::Stale,
            fresh,
            marker: None,
            is_marker_told: false,
            evidence,
            names_changed: None,
            since: Stamp::default(),
            dropped: Stamp::default(),
        }
    }

    /// Whether only files with local changes say that it exists, and some do.
    pub fn is_kept_by_local_files(&self) -> bool {
        self.evidence == Evidence::LocalFiles && self.children().next().is_some()
    }

    /// The entries that are there, of the names behind this one.
    pub fn children_behind(&self, name: &Name) -> impl Iterator<Item = (&Name, Ino)> {
        let behind = (Bound::Excluded(name), Bound::Unbounded);
        self.entries.range::<Name, _>(behind).filter_map(|(name, entry)| match entry {
            Entry::Present(ino) => Some((name, *ino)),
            Entry::Absent { .. } => None,
        })
    }

    /// The entries that are there.
    pub fn children(&self) -> impl Iterator<Item = (&Name, Ino)> {
        self.entries.iter().filter_map(|(name, entry)| match entry {
            Entry::Present(ino) => Some((name, *ino)),
            Entry::Absent { .. } => None,
        })
    }
}

fn is_symlink(meta: &ObjectMeta) -> bool {
    meta.attributes.as_ref().is_some_and(|attributes| attributes.is_symlink)
}

/// A HEAD tells whole seconds and some listings more; a file's time must not depend on who was asked.
fn whole_seconds(time: UnixTime) -> UnixTime {
    UnixTime::from_secs(time.secs)
}
