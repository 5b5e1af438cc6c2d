//! An open directory: pages of a listing, fetched as they are asked for.
//!
//! What was read stays as it was, so that an offset names the same entry for as long as the directory is open; reading
//! from the beginning again starts anew. Each page is folded into the tree first and then read from the tree, so that
//! names changed here since are as they are now. When the store's pages are at their end, names that no page showed and
//! that are there (local files, and what came meanwhile) follow.

mod neighbours;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Mutex as Gate;

use crate::namespace::fold::{Asked, IsFirst};
use crate::namespace::names::Name;
use crate::namespace::tree::{Answer, Tree};
use crate::namespace::{DirEntry, Error, Namespace, Options, lock};
use crate::store::{self, ErrorKind, ListOptions, Op};
use crate::types::{Ino, ObjectMeta};

pub use neighbours::{Look, Neighbour, Order};

/// An open directory: a listing that stays the same while it is read.
#[derive(Debug)]
pub struct Directory {
    ino: Ino,
    tree: Arc<Mutex<Tree>>,
    /// One reader at a time. Taken before the tree's lock.
    listing: Gate<Listing>,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Listing {
    /// Entry number `n`, counted from 1, is behind offset `n - 1`.
    pages: Vec<Arc<Vec<DirEntry>>>,
    /// Names among `pages`.
    shown: HashSet<Name>,
    cursor: Cursor,
    /// Inodes of the entries given out last: they stay known until the kernel was told and asks for more.
    held: Vec<Ino>,
}

#[derive(Debug, Default)]
enum Cursor {
    #[default]
    Start,
    /// In the middle of the store's pages.
    Within {
        first: Asked,
        continuation: String,
        doubtful: Vec<(Name, ObjectMeta, Asked)>,
    },
    End,
}

impl Namespace {
    /// Opens a directory for reading. No request is made. `Stale`, `NotDirectory`.
    pub fn open_directory(&self, ino: Ino) -> Result<Directory, Error> {
        let mut tree = self.tree();
        tree.folder(ino)?;
        tree.hold(ino)?;
        Ok(Directory { ino, tree: Arc::clone(&self.tree), listing: Gate::default() })
    }

    /// Entries behind `offset` (0 at first, and to begin anew), at least one unless the end is reached; without `.` and
    /// `..`. Local files are among them. No lookups are counted: for entries handed to the kernel with attributes, call
    /// [`Namespace::remember`] before the next call. Each page of 1,000 entries is one request; none while a complete
    /// listing is fresh. A directory that was removed has no entries.
    pub async fn read_directory(
        &self,
        directory: &Directory,
        offset: u64,
        now: Instant,
    ) -> Result<Arc<Vec<DirEntry>>, Error> {
        let mut listing = directory.listing.lock().await;
        if offset == 0 && !listing.pages.is_empty() {
            listing.pages.clear();
            listing.shown.clear();
            listing.cursor = Cursor::Start;
        }
        loop {
            if let Some(entries) = listing.behind(offset) {
                directory.hold_only(&mut listing, &entries);
                return Ok(entries);
            }
            if matches!(listing.cursor, Cursor::End) {
                return Ok(Arc::default());
            }
            match self.read_page(directory, &mut listing, now).await {
                Err(Error::NotFound) => listing.cursor = Cursor::End,
                read => read?,
            }
        }
    }

    /// Adds the next page to a listing that is not at its end. `NotFound` when the directory was removed.
    async fn read_page(
        &self,
        directory: &Directory,
        listing: &mut Listing,
        now: Instant,
    ) -> Result<(), Error> {
        let (prefix, asking) = {
            let mut tree = self.tree();
            tree.sweep(now);
            let folder = tree.folder(directory.ino)?;
            if matches!(listing.cursor, Cursor::Start) && folder.listed.holds(now) {
                listing.show_rest(&tree, directory.ino, &self.options)?;
                listing.cursor = Cursor::End;
                return Ok(());
            }
            (tree.prefix(directory.ino)?, self.asking(&mut tree))
        };
        let continuation = match &listing.cursor {
            Cursor::Start | Cursor::End => None,
            Cursor::Within { continuation, .. } => Some(continuation.clone()),
        };
        let options = ListOptions {
            prefix: prefix.clone(),
            by_directory: true,
            continuation: continuation.clone(),
            ..ListOptions::default()
        };
        let mut page = self.store.list(options).await?;
        let next = page.next.take();
        if next.is_some() && next == continuation {
            let detail = "a page of a listing names itself as the next one";
            return Err(store::Error::of(Op::List, ErrorKind::Protocol, detail).into());
        }

        let mut tree = self.tree();
        let asked = Asked { stamp: asking.answered(&mut tree), fresh: self.fresh_since(now) };
        let (first, mut doubtful, is_first) = match std::mem::take(&mut listing.cursor) {
            Cursor::Start | Cursor::End => (asked, Vec::new(), IsFirst::Yes),
            Cursor::Within { first, doubtful, .. } => (first, doubtful, IsFirst::No),
        };
        let mut told = tree.fold_page(directory.ino, page, asked, is_first)?;
        doubtful.append(&mut told.doubtful);
        let again = listing.show(&tree, directory.ino, &told.names, &self.options)?;
        self.hidden.note_odd_keys(told.odd_keys, &prefix);
        // A name shown before as a file and now found to be a directory.
        self.hidden.note_collisions(told.collisions + again, &prefix);
        listing.cursor = match next {
            Some(continuation) => Cursor::Within { first, continuation, doubtful },
            None => {
                let collisions = tree.fold_end(directory.ino, first, doubtful)?;
                self.hidden.note_collisions(collisions, &prefix);
                listing.show_rest(&tree, directory.ino, &self.options)?;
                Cursor::End
            }
        };
        Ok(())
    }
}

impl Directory {
    /// Holds the inodes of these entries instead of those held before.
    fn hold_only(&self, listing: &mut Listing, entries: &[DirEntry]) {
        let mut tree = lock(&self.tree);
        // Entries read long ago may have been dropped; whoever asks for them is told `Stale` and looks again.
        let held = entries.iter().map(|entry| entry.attr.ino).filter(|ino| tree.hold(*ino).is_ok()).collect();
        for ino in std::mem::replace(&mut listing.held, held) {
            tree.release(ino);
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let mut tree = lock(&self.tree);
        for ino in self.listing.get_mut().held.drain(..) {
            tree.release(ino);
        }
        tree.release(self.ino);
    }
}

impl Listing {
    /// The entries behind an offset, as far as they were read.
    fn behind(&self, offset: u64) -> Option<Arc<Vec<DirEntry>>> {
        let is_before =
            |page: &Arc<Vec<DirEntry>>| page.last().is_some_and(|last| last.next_offset <= offset);
        let page = self.pages.get(self.pages.partition_point(is_before))?;
        let skipped = page.partition_point(|entry| entry.next_offset <= offset);
        Some(if skipped == 0 { Arc::clone(page) } else { Arc::new(page[skipped..].to_vec()) })
    }

    /// Adds a page of those names that are there. Returns how many were shown before.
    fn show(&mut self, tree: &Tree, directory: Ino, names: &[Name], options: &Options) -> Result<u64, Error> {
        let mut again = 0;
        let mut offset = self.pages.last().and_then(|page| page.last()).map_or(0, |entry| entry.next_offset);
        let mut page = Vec::with_capacity(names.len());
        for name in names {
            if let Answer::Present(ino) = tree.last_known(directory, name)? {
                if self.shown.insert(name.clone()) {
                    offset += 1;
                    let attr = tree.inode(ino)?.attr(options);
                    page.push(DirEntry { name: name.as_str().to_owned(), next_offset: offset, attr });
                } else {
                    again += 1;
                }
            }
        }
        if !page.is_empty() {
            self.pages.push(Arc::new(page));
        }
        Ok(again)
    }

    /// Adds a page of every name that is there and was not shown.
    fn show_rest(&mut self, tree: &Tree, directory: Ino, options: &Options) -> Result<(), Error> {
        let names: Vec<Name> = tree
            .folder(directory)?
            .children()
            .map(|(name, _)| name.clone())
            .filter(|name| !self.shown.contains(name))
            .collect();
        self.show(tree, directory, &names, options)?;
        Ok(())
    }
}
