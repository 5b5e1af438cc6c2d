//! The tree of names in memory (pure: no await, no clock).
//!
//! * A directory is in memory as long as anything known is below it; the root always is.
//! * A file with local changes is never dropped, and no answer of the store touches its content.
//! * Everything else that nobody refers to, and every name known to be absent, stands in one order of dropping: it goes
//!   when it is stale or when there is too much of it.
//! * An inode without a name (removed, vanished) stays until nobody refers to it.
//! * A pinned inode is of one version, but for changes made here: when the store has another, its name gets a new inode.
//!
//! **Numbers.** An inode's number is made from SHA-256 of the key it has when it becomes known (a directory's with the
//! closing `/`), so it is the same after a remount. Where that number is in use (the file was moved or removed and is
//! still known, or by chance), a salt is added until a free one is found. A number stays with its inode while that is
//! known, through renames; after that only a file of the same key and kind can get it again.
//!
//! **Late answers.** Local changes and questions to the store share one clock of [`Stamp`]s. Each name and inode
//! carries the stamp as of which it is known, and an answer is folded in only if its question is younger. Questions are
//! counted from [`Tree::ask`] to [`Tree::answered`], so that no change made here is dropped while an older one is open.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use sha2::{Digest, Sha256};

use crate::namespace::dropping::Droppable;
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{AsOf, Body, Entry, Evidence, Folder, Inode, Place, Residence, Stamp, Turn};
use crate::namespace::lookups::References;
use crate::namespace::names::{self, Name};
use crate::namespace::{Error, FileKind};
use crate::types::{Ino, Key};

/// Largest tree that debug builds check as a whole after each change.
const CHECKED_INODES_MAX: usize = 128;

/// Inodes and names.
#[derive(Debug)]
pub struct Tree {
    /// INVARIANT: each under its own number; the root is there.
    pub(super) inodes: HashMap<Ino, Inode>,
    /// What may be dropped, the longest unused first. INVARIANT: exactly what carries a turn.
    pub(super) order: BTreeMap<Turn, Droppable>,
    pub(super) next_turn: Turn,
    /// When the questions were asked that are not answered yet.
    pub(super) asking: BTreeSet<Stamp>,
    /// Most entries of `order` that a sweep leaves.
    pub(super) droppable_max: usize,
    clock: Stamp,
}

/// What the tree says about a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It is there.
    Present(Ino),
    /// It is not there.
    Absent,
    /// Only the store knows.
    Unknown,
}

/// What is known of a directory's life after one of its names is gone from the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// Something else keeps it.
    Certain,
    /// Nothing else does.
    Lost,
    /// Only the store knows.
    Unknown,
}

impl Tree {
    /// A root of which nothing is known. At most about `droppable_max` things are remembered that nobody refers to.
    pub fn new(droppable_max: usize) -> Tree {
        let root = Inode {
            ino: Ino::ROOT,
            place: Place::Root,
            body: Body::Directory(Folder::new(Evidence::Store, Freshness::Always)),
            as_of: AsOf::default(),
            references: References::default(),
            is_resized: false,
            turn: None,
        };
        Tree {
            inodes: HashMap::from([(Ino::ROOT, root)]),
            order: BTreeMap::new(),
            asking: BTreeSet::new(),
            next_turn: Turn(0),
            clock: Stamp::default(),
            droppable_max,
        }
    }

    /// A question to the store is about to be asked. Each one must come to [`Tree::answered`], also when it fails.
    pub fn ask(&mut self) -> Stamp {
        let stamp = self.tick();
        self.asking.insert(stamp);
        stamp
    }

    /// The question asked at `stamp` has been folded in, or was given up.
    pub fn answered(&mut self, stamp: Stamp) {
        self.asking.remove(&stamp);
    }

    /// The next moment.
    pub fn tick(&mut self) -> Stamp {
        self.clock.0 += 1;
        self.clock
    }

    /// An inode, or `Stale`.
    pub fn inode(&self, ino: Ino) -> Result<&Inode, Error> {
        self.inodes.get(&ino).ok_or(Error::Stale)
    }

    /// A directory that has a way from the root: `Stale`, `NotDirectory`, or `NotFound` when it was removed.
    pub fn folder(&self, ino: Ino) -> Result<&Folder, Error> {
        let inode = self.inode(ino)?;
        match &inode.body {
            Body::File(_) => Err(Error::NotDirectory),
            Body::Directory(_) if !inode.is_linked() => Err(Error::NotFound),
            Body::Directory(folder) => Ok(folder),
        }
    }

    /// The prefix of a directory's keys: empty for the root, otherwise with a closing `/`. Errors as `folder`.
    pub fn prefix(&self, ino: Ino) -> Result<String, Error> {
        self.folder(ino)?;
        let mut parts = Vec::new();
        let mut at = ino;
        while let Place::Under { parent, name } = &self.inode(at)?.place {
            parts.push(name.part().ok_or(Error::NotFound)?);
            at = *parent;
        }
        Ok(parts.iter().rev().flat_map(|part| [part, "/"]).collect())
    }

    /// The key of a file: `Stale`, `IsDirectory`, or `NotFound` when it has no name any more.
    pub fn key(&self, ino: Ino) -> Result<Key, Error> {
        let inode = self.inode(ino)?;
        match (&inode.body, &inode.place) {
            (Body::Directory(_), _) => Err(Error::IsDirectory),
            (Body::File(_), Place::Under { parent, name }) => names::file_key(&self.prefix(*parent)?, name),
            (Body::File(_), Place::Root | Place::Removed | Place::Vanished) => Err(Error::NotFound),
        }
    }

    /// What may be said of a name without asking the store.
    pub fn answer(&self, parent: Ino, name: &Name, now: Instant) -> Result<Answer, Error> {
        let folder = self.folder(parent)?;
        Ok(match folder.entries.get(name) {
            Some(Entry::Present(ino)) if self.inode(*ino)?.is_believed(now) => Answer::Present(*ino),
            Some(Entry::Present(_)) => Answer::Unknown,
            Some(Entry::Absent { fresh, .. }) if fresh.holds(now) => Answer::Absent,
            Some(Entry::Absent { .. }) | None if folder.listed.holds(now) => Answer::Absent,
            Some(Entry::Absent { .. }) | None => Answer::Unknown,
        })
    }

    /// What was last known of a name, fresh or not.
    pub fn last_known(&self, parent: Ino, name: &Name) -> Result<Answer, Error> {
        self.folder(parent)?;
        Ok(match self.entry(parent, name) {
            Some(Entry::Present(ino)) => Answer::Present(*ino),
            Some(Entry::Absent { .. }) => Answer::Absent,
            None => Answer::Unknown,
        })
    }

    /// A name as it is known, where what it stands for is known by that alone.
    pub fn known_name(&self, parent: Ino, name: Name) -> Name {
        match (name.part(), self.entry(parent, &name)) {
            (None, Some(Entry::Present(ino))) => match self.inodes.get(ino).map(|inode| &inode.place) {
                Some(Place::Under { name, .. }) => name.clone(),
                Some(Place::Root | Place::Removed | Place::Vanished) | None => name,
            },
            (Some(_), _) | (None, Some(Entry::Absent { .. }) | None) => name,
        }
    }

    /// What a directory knows of a name.
    pub(super) fn entry(&self, parent: Ino, name: &Name) -> Option<&Entry> {
        self.folder(parent).ok().and_then(|folder| folder.entries.get(name))
    }

    /// Whether a file with local changes is below this directory, or is this file.
    pub fn holds_local(&self, ino: Ino) -> bool {
        match self.inodes.get(&ino).map(|inode| &inode.body) {
            None | Some(Body::File(Residence::Remote(_))) => false,
            Some(Body::File(Residence::Local { .. })) => true,
            Some(Body::Directory(folder)) => folder.children().any(|(_, child)| self.holds_local(child)),
        }
    }

    /// Whether a directory outlives the loss of one of its names in the store. Errors as `folder`.
    pub fn survival(&self, directory: Ino, leaving: &Name, now: Instant) -> Result<Survival, Error> {
        let folder = self.folder(directory)?;
        let is_in_store = |ino: Ino| self.inodes.get(&ino).is_some_and(Inode::is_in_store);
        let is_kept = folder.children().any(|(name, ino)| name != leaving && is_in_store(ino));
        let leaves_nothing = match folder.entries.get(leaving) {
            Some(Entry::Present(ino)) => folder.evidence == Evidence::Store && !is_in_store(*ino),
            Some(Entry::Absent { .. }) | None => false,
        };
        Ok(if directory == Ino::ROOT || folder.marker.is_some() || is_kept || leaves_nothing {
            Survival::Certain
        } else if folder.listed.holds(now) {
            Survival::Lost
        } else {
            Survival::Unknown
        })
    }

    /// Counts a lookup of the kernel. `Stale`.
    pub fn count(&mut self, ino: Ino) -> Result<(), Error> {
        self.inode(ino)?;
        self.change(ino, |inode| inode.references.count());
        Ok(())
    }

    /// Takes lookups of the kernel back.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        self.change(ino, |inode| inode.references.forget(count));
        self.trim();
        self.check();
    }

    /// Keeps an inode in memory until it is released as often as held. `Stale`.
    pub fn hold(&mut self, ino: Ino) -> Result<(), Error> {
        self.inode(ino)?;
        self.change(ino, |inode| inode.references.hold());
        Ok(())
    }

    /// Takes a hold back.
    pub fn release(&mut self, ino: Ino) {
        self.change(ino, |inode| inode.references.release());
        self.trim();
        self.check();
    }

    /// The file is open: no answer of the store changes what it is until it is unpinned as often as pinned. `Stale`.
    pub fn pin(&mut self, ino: Ino) -> Result<(), Error> {
        self.inode(ino)?;
        self.change(ino, |inode| inode.references.pin());
        Ok(())
    }

    /// Takes a pin back.
    pub fn unpin(&mut self, ino: Ino) {
        self.change(ino, |inode| inode.references.unpin());
        self.trim();
        self.check();
    }

    /// Whether an inode is a file or a link: `Stale`, `IsDirectory`.
    pub fn require_file(&self, ino: Ino) -> Result<(), Error> {
        match self.kind(ino)? {
            FileKind::File | FileKind::Symlink => Ok(()),
            FileKind::Directory => Err(Error::IsDirectory),
        }
    }

    /// File, directory or link: `Stale`.
    pub fn kind(&self, ino: Ino) -> Result<FileKind, Error> {
        Ok(self.inode(ino)?.body.kind())
    }

    /// Changes an inode, if it is known, and finds its place in the order of dropping anew.
    pub(super) fn change(&mut self, ino: Ino, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.inodes.get_mut(&ino) {
            change(inode);
            self.settle(ino);
        }
    }

    /// Puts a new inode under a name that nothing is under.
    pub(super) fn link(&mut self, parent: Ino, name: &Name, body: Body, as_of: AsOf) -> Result<Ino, Error> {
        let prefix = self.prefix(parent)?;
        let ino = match &body {
            Body::File(_) => self.free_number(names::file_key(&prefix, name)?.as_str()),
            Body::Directory(_) => self.free_number(&names::prefix_below(&prefix, name)?),
        };
        let mut body = body;
        if let Body::Directory(folder) = &mut body {
            // What was asked about a directory of this name before this one was known is no news about this one.
            folder.since = self.clock;
        }
        let place = Place::Under { parent, name: name.clone() };
        let references = References::default();
        let inode = Inode { ino, place, body, as_of, references, is_resized: false, turn: None };
        self.clear_absence(parent, name);
        self.inodes.insert(ino, inode);
        self.set_entry(parent, name, Entry::Present(ino));
        self.settle(ino);
        self.settle(parent);
        Ok(ino)
    }

    /// Takes an inode, and all below it, out of the tree. `place` says by whose doing.
    pub(super) fn detach(&mut self, ino: Ino, place: Place) {
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        let from = std::mem::replace(&mut inode.place, place.clone());
        let below = match &mut inode.body {
            Body::File(_) => BTreeMap::new(),
            Body::Directory(folder) => std::mem::take(&mut folder.entries),
        };
        for entry in below.into_values() {
            match entry {
                Entry::Present(child) => self.detach(child, place.clone()),
                Entry::Absent { turn, .. } => {
                    self.order.remove(&turn);
                }
            }
        }
        if let Place::Under { parent, name } = from {
            if let Some(folder) = self.folder_mut(parent) {
                folder.entries.remove(&name);
            }
            self.settle(parent);
        }
        self.settle(ino);
    }

    /// Notes that nothing is under a name. Whatever was there has been detached or moved.
    pub(super) fn set_absent(&mut self, parent: Ino, name: &Name, fresh: Freshness, as_of: AsOf) {
        self.clear_absence(parent, name);
        let turn = self.take_turn(Droppable::Absence { parent, name: name.clone() });
        self.set_entry(parent, name, Entry::Absent { fresh, as_of, turn });
    }

    pub(super) fn folder_mut(&mut self, ino: Ino) -> Option<&mut Folder> {
        match self.inodes.get_mut(&ino).map(|inode| &mut inode.body) {
            Some(Body::Directory(folder)) => Some(folder),
            Some(Body::File(_)) | None => None,
        }
    }

    /// The whole of [`Tree::check_invariants`] in debug builds, while the tree is small.
    pub(super) fn check(&self) {
        if cfg!(debug_assertions) && self.inodes.len() <= CHECKED_INODES_MAX {
            self.check_invariants();
        }
    }

    /// Panics where an INVARIANT does not hold.
    pub fn check_invariants(&self) {
        assert_eq!(self.inodes.get(&Ino::ROOT).map(|root| &root.place), Some(&Place::Root));
        let mut turns = 0;
        for (&ino, inode) in &self.inodes {
            assert!(ino == inode.ino && ino.0 != 0, "{ino} is kept as {}", inode.ino);
            assert_eq!(ino == Ino::ROOT, inode.place == Place::Root);
            assert_eq!(inode.turn.is_some(), inode.is_idle(), "{inode:?}");
            if let Some(turn) = inode.turn {
                turns += 1;
                assert_eq!(self.order.get(&turn), Some(&Droppable::Inode(ino)));
            }
            assert!(inode.is_linked() || !inode.references.is_empty(), "{ino} is kept for nobody");
            assert!(inode.as_of.changed <= inode.as_of.stamp && inode.as_of.stamp <= self.clock);
            if let Place::Under { parent, name } = &inode.place {
                let folder = self.folder(*parent).expect("the parent is a linked directory");
                assert_eq!(folder.entries.get(name), Some(&Entry::Present(ino)));
            }
            match &inode.body {
                Body::File(Residence::Remote(seen)) if inode.is_linked() => {
                    assert_eq!(seen.meta.id.key, self.key(ino).expect("a linked file has a key"));
                }
                Body::File(_) => {}
                Body::Directory(folder) => {
                    assert!(inode.is_linked() || folder.entries.is_empty());
                    turns += self.check_folder(ino, folder);
                }
            }
        }
        assert_eq!(self.order.len(), turns, "what may be dropped is there");
    }

    /// The number of absences found.
    fn check_folder(&self, ino: Ino, folder: &Folder) -> usize {
        let mut absences = 0;
        for (name, entry) in &folder.entries {
            match entry {
                Entry::Present(child) => {
                    let place = Place::Under { parent: ino, name: name.clone() };
                    assert_eq!(self.inodes.get(child).map(|child| &child.place), Some(&place));
                }
                Entry::Absent { turn, as_of, .. } => {
                    absences += 1;
                    assert!(as_of.changed <= as_of.stamp && as_of.stamp <= self.clock);
                    let absence = Droppable::Absence { parent: ino, name: name.clone() };
                    assert_eq!(self.order.get(turn), Some(&absence));
                }
            }
        }
        absences
    }

    pub(super) fn set_entry(&mut self, parent: Ino, name: &Name, entry: Entry) {
        let folder = self.folder_mut(parent).expect("the caller looked at the directory under this lock");
        folder.entries.insert(name.clone(), entry);
    }

    pub(super) fn clear_absence(&mut self, parent: Ino, name: &Name) {
        let Some(folder) = self.folder_mut(parent) else { return };
        if let Some(Entry::Absent { turn, .. }) = folder.entries.get(name) {
            let turn = *turn;
            folder.entries.remove(name);
            self.order.remove(&turn);
        }
    }

    fn free_number(&self, key: &str) -> Ino {
        let is_free = |ino: &Ino| ino.0 != 0 && !self.inodes.contains_key(ino);
        (0_u64..)
            .map(|salt| number(key, salt))
            .find(is_free)
            .expect("far fewer inodes than numbers are known")
    }
}

/// The number that an inode of this key gets, if it is free.
fn number(key: &str, salt: u64) -> Ino {
    let mut hash = Sha256::new_with_prefix(key.as_bytes());
    if salt > 0 {
        // No key has a NUL byte, so that no salted key is the key of another file.
        hash.update([0]);
        hash.update(salt.to_be_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    let (first, _) = digest.split_first_chunk::<8>().expect("a digest has 32 bytes");
    Ino(u64::from_be_bytes(*first))
}
