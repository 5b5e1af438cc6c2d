//! What the tree may drop to save memory, and in which order (pure).
//!
//! Droppable is what a question to the store can bring back: an idle inode, a name known to be absent. Each has a turn;
//! a new turn is the last one. Where an entry was dropped, an unknown name is no longer known to be absent. What was
//! changed here stays until every question asked before the change is answered, or such an answer would undo it.

use std::time::Instant;

use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{Body, Entry, Inode, Place, Turn};
use crate::namespace::names::Name;
use crate::namespace::tree::Tree;
use crate::types::Ino;

/// Most stale things looked at by one [`Tree::sweep`], so that none takes long.
const SWEPT_MAX: usize = 512;

/// Something that can be asked for again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Droppable {
    /// An inode that nobody refers to.
    Inode(Ino),
    /// The knowledge that a name is not there.
    Absence {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
}

impl Tree {
    /// Drops what nobody refers to and is stale, or is too much.
    pub fn sweep(&mut self, now: Instant) {
        self.trim();
        for _ in 0..SWEPT_MAX {
            match self.order.first_key_value() {
                Some((_, oldest)) if !self.is_fresh(oldest, now) => self.drop_oldest(),
                Some(_) | None => break,
            }
        }
        self.check();
    }

    /// Moves an inode to the end of the order of dropping, if it stands in it.
    pub(super) fn touch(&mut self, ino: Ino) {
        let turn = self.inodes.get_mut(&ino).and_then(|inode| inode.turn.take());
        if let Some(turn) = turn {
            self.order.remove(&turn);
            self.settle(ino);
        }
    }

    /// Puts something at the end of the order of dropping.
    pub(super) fn take_turn(&mut self, droppable: Droppable) -> Turn {
        let turn = self.next_turn;
        self.next_turn.0 += 1;
        self.order.insert(turn, droppable);
        turn
    }

    /// Brings an inode's turn in line with whether it may be dropped, and drops it if nothing leads to it.
    pub(super) fn settle(&mut self, ino: Ino) {
        let Some(inode) = self.inodes.get(&ino) else { return };
        if !inode.is_linked() && inode.references.is_empty() {
            if let Some(turn) = inode.turn {
                self.order.remove(&turn);
            }
            self.inodes.remove(&ino);
            return;
        }
        let turn = match (inode.turn, inode.is_idle()) {
            (None, true) => Some(self.take_turn(Droppable::Inode(ino))),
            (Some(turn), false) => {
                self.order.remove(&turn);
                None
            }
            (unchanged, _) => unchanged,
        };
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.turn = turn;
        }
    }

    fn is_fresh(&self, droppable: &Droppable, now: Instant) -> bool {
        match droppable {
            Droppable::Inode(ino) => self.inodes.get(ino).is_some_and(|inode| inode.is_believed(now)),
            Droppable::Absence { parent, name } => match self.entry(*parent, name) {
                Some(Entry::Absent { fresh, .. }) => fresh.holds(now),
                Some(Entry::Present(_)) | None => false,
            },
        }
    }

    /// Drops what is too much.
    pub(super) fn trim(&mut self) {
        for _ in self.droppable_max..self.order.len() {
            self.drop_oldest();
        }
    }

    /// Whether a question is on its way that was asked before the thing was last changed here.
    fn is_pinned(&self, droppable: &Droppable) -> bool {
        let changed = match droppable {
            Droppable::Inode(ino) => self.inodes.get(ino).map(|inode| inode.as_of.changed),
            Droppable::Absence { parent, name } => match self.entry(*parent, name) {
                Some(Entry::Absent { as_of, .. }) => Some(as_of.changed),
                Some(Entry::Present(_)) | None => None,
            },
        };
        self.asking.first().is_some_and(|oldest| changed > Some(*oldest))
    }

    /// Gives a thing the last turn.
    fn postpone(&mut self, droppable: Droppable) {
        let last = self.take_turn(droppable.clone());
        match droppable {
            Droppable::Inode(ino) => {
                if let Some(inode) = self.inodes.get_mut(&ino) {
                    inode.turn = Some(last);
                }
            }
            Droppable::Absence { parent, name } => {
                let entry = self.folder_mut(parent).and_then(|folder| folder.entries.get_mut(&name));
                if let Some(Entry::Absent { turn, .. }) = entry {
                    *turn = last;
                }
            }
        }
    }

    /// Drops what has been of no use for longest, unless that may not go yet.
    fn drop_oldest(&mut self) {
        let Some((_, oldest)) = self.order.pop_first() else { return };
        if self.is_pinned(&oldest) {
            self.postpone(oldest);
            return;
        }
        match oldest {
            Droppable::Absence { parent, name } => {
                if let Some(folder) = self.folder_mut(parent) {
                    folder.entries.remove(&name);
                }
            }
            Droppable::Inode(ino) => {
                if let Some(inode) = self.inodes.remove(&ino) {
                    self.drop_inode(inode);
                }
            }
        }
    }

    fn drop_inode(&mut self, inode: Inode) {
        if let Body::Directory(folder) = inode.body {
            for entry in folder.entries.into_values() {
                match entry {
                    Entry::Present(_) => unreachable!("a directory with entries is not droppable"),
                    Entry::Absent { turn, .. } => {
                        self.order.remove(&turn);
                    }
                }
            }
        }
        let dropped = self.tick();
        if let Place::Under { parent, name } = inode.place {
            if let Some(folder) = self.folder_mut(parent) {
                folder.entries.remove(&name);
                folder.listed = Freshness::Stale;
                folder.dropped = dropped;
            }
            self.settle(parent);
        }
    }
}
