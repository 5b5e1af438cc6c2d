//! An open directory: pages of a listing, the next one asked for while the kernel takes the present one.
//!
//! What was read stays as it was, so that an offset names the same entry for as long as the directory is open; reading
//! from the beginning again starts anew. Each page is folded into the tree first and then read from the tree, so that
//! names changed here since are as they are now. When the store's pages are at their end, names that no page showed and
//! that are there (local files, and what came meanwhile) follow.
//!
//! Of pages that lie behind only the names are kept. Who goes back to one has it asked for again.

mod denial;
mod fetch;
mod neighbours;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::Mutex as Gate;

use crate::namespace::fold::Asked;
use crate::namespace::listing::fetch::{Ahead, Fetched, Source};
use crate::namespace::names::Name;
use crate::namespace::tree::{Answer, Tree};
use crate::namespace::{Attr, DirEntry, Error, Namespace, Options, lock};
use crate::types::{Ino, ObjectMeta};

pub use neighbours::{Look, Neighbour, Order};

/// Pages that are kept with all that is known of their entries: the one being taken and the one before.
const FULL_PAGES_MAX: usize = 2;
/// Entries of a page that comes from the tree, as many as a page of a store has.
const TREE_PAGE_ENTRIES: usize = 1000;

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
    /// In order, without gaps. Entry number `n`, counted from 1, is behind offset `n - 1`.
    pages: Vec<Page>,
    /// Names among `pages`.
    shown: HashSet<Name>,
    cursor: Cursor,
    ahead: Option<Ahead>,
    /// Inodes of the entries given out last: they stay known until the kernel was told and asks for more.
    held: Vec<Ino>,
}

#[derive(Debug)]
struct Page {
    /// Entries before it.
    before: u64,
    /// Where it came from; `None` for what the tree had.
    source: Option<Source>,
    content: PageContent,
}

#[derive(Debug)]
enum PageContent {
    /// It was read not long ago.
    Full(Arc<Vec<DirEntry>>),
    /// It lies behind. The names by their numbers.
    Names(Vec<Name>),
}

#[derive(Debug, Default)]
enum Cursor {
    #[default]
    Start,
    /// In the middle of the store's pages.
    Within {
        first: Asked,
        next: Source,
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
    /// listing is fresh. A directory that was removed has no entries. To be called on the runtime.
    pub async fn read_directory(
        &self,
        directory: &Directory,
        offset: u64,
        now: Instant,
    ) -> Result<Arc<Vec<DirEntry>>, Error> {
        let mut listing = directory.listing.lock().await;
        if offset == 0 && !listing.pages.is_empty() {
            let held = std::mem::take(&mut listing.held);
            *listing = Listing { held, ..Listing::default() };
        }
        let mut behind = offset;
        loop {
            match listing.page_behind(behind) {
                Some(at) => {
                    let entries = match &listing.pages[at].content {
                        PageContent::Full(entries) => Arc::clone(entries),
                        PageContent::Names(_) => self.read_again(directory, &mut listing, at, now).await?,
                    };
                    let skipped = entries.partition_point(|entry| entry.next_offset <= behind);
                    if skipped < entries.len() {
                        let entries =
                            if skipped == 0 { entries } else { Arc::new(entries[skipped..].to_vec()) };
                        directory.hold_only(&mut listing, &entries);
                        return Ok(entries);
                    }
                    // All that was behind the offset on this page is gone.
                    behind = listing.pages[at].end();
                }
                None if matches!(listing.cursor, Cursor::End) => return Ok(Arc::default()),
                None => match self.read_page(directory, &mut listing, now).await {
                    Err(Error::NotFound) => listing.cursor = Cursor::End,
                    read => read?,
                },
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
        let prefix = {
            let mut tree = self.tree();
            tree.sweep(now);
            let folder = tree.folder(directory.ino)?;
            if matches!(listing.cursor, Cursor::Start) && folder.listed.holds(now) {
                listing.show_rest(&tree, directory.ino, &self.options)?;
                listing.cursor = Cursor::End;
                return Ok(());
            }
            tree.prefix(directory.ino)?
        };
        let source = match &listing.cursor {
            Cursor::Within { next, .. } if next.prefix == prefix => next.clone(),
            // Where it was moved meanwhile, the store is read from the beginning; names are still shown once.
            Cursor::Within { .. } | Cursor::Start | Cursor::End => {
                listing.cursor = Cursor::Start;
                Source { prefix, continuation: None }
            }
        };
        let fetched = match listing.ahead.take() {
            Some(ahead) if ahead.source == source => ahead.arrived().await,
            Some(_) | None => None,
        };
        let fetched = match fetched {
            Some(fetched) => fetched,
            None => match self.fetch(directory.ino, source.clone(), now).await {
                // It was moved meanwhile: the caller begins again.
                Err(Error::Stale) if self.prefix(directory.ino)? != source.prefix => return Ok(()),
                fetched => fetched?,
            },
        };
        let Fetched { entries, mut news, asked, next } = fetched;
        if let Some(next) = &next {
            listing.ahead = Some(self.fetch_ahead(directory.ino, next.clone(), now));
        }

        let mut tree = self.tree();
        let (first, mut doubtful) = match std::mem::take(&mut listing.cursor) {
            Cursor::Start | Cursor::End => (asked, Vec::new()),
            Cursor::Within { first, doubtful, .. } => (first, doubtful),
        };
        doubtful.append(&mut news.doubtful);
        listing.show(&tree, directory.ino, entries, Some(&source), &self.options)?;
        self.note_unnamable(news.skipped, &source.prefix);
        listing.cursor = match next {
            Some(next) => Cursor::Within { first, next, doubtful },
            None => {
                tree.fold_end(directory.ino, first, doubtful)?;
                listing.show_rest(&tree, directory.ino, &self.options)?;
                Cursor::End
            }
        };
        Ok(())
    }

    /// Reads a page that lies behind once more: those of its entries that are still there, under their numbers.
    async fn read_again(
        &self,
        directory: &Directory,
        listing: &mut Listing,
        at: usize,
        now: Instant,
    ) -> Result<Arc<Vec<DirEntry>>, Error> {
        if let Some(source) = listing.pages[at].source.clone() {
            self.fetch(directory.ino, source, now).await?;
        }
        let Page { before, content, .. } = &mut listing.pages[at];
        let PageContent::Names(names) = content else { unreachable!("the caller looked") };
        let tree = self.tree();
        let mut entries = Vec::with_capacity(names.len());
        for (name, next_offset) in names.iter().zip(*before + 1..) {
            if let Answer::Present(ino) = tree.last_known(directory.ino, name)? {
                let attr = tree.inode(ino)?.attr(&self.options);
                entries.push(DirEntry { name: name.as_str().to_owned(), next_offset, attr });
            }
        }
        Ok(Arc::new(entries))
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

impl Page {
    /// The number of its last entry.
    fn end(&self) -> u64 {
        match &self.content {
            PageContent::Full(entries) => entries.last().map_or(self.before, |last| last.next_offset),
            PageContent::Names(names) => self.before + names.len() as u64,
        }
    }

    /// Keeps no more than the names.
    fn fold_up(&mut self) {
        if let PageContent::Full(entries) = &self.content {
            let name = |entry: &DirEntry| {
                Name::from_kernel(OsStr::new(&entry.name)).expect("it was made from a name")
            };
            self.content = PageContent::Names(entries.iter().map(name).collect());
        }
    }
}

impl Listing {
    /// The page that has the entry behind an offset, as far as they were read.
    fn page_behind(&self, offset: u64) -> Option<usize> {
        let at = self.pages.partition_point(|page| page.end() <= offset);
        (at < self.pages.len()).then_some(at)
    }

    /// Adds a page of those entries that are there and were not shown yet.
    fn show(
        &mut self,
        tree: &Tree,
        directory: Ino,
        entries: Vec<(Name, Attr)>,
        source: Option<&Source>,
        options: &Options,
    ) -> Result<(), Error> {
        let before = self.pages.last().map_or(0, Page::end);
        let mut page = Vec::with_capacity(entries.len());
        for (name, listed) in entries {
            let attr = match tree.last_known(directory, &name)? {
                Answer::Present(ino) => tree.inode(ino)?.attr(options),
                // It was dropped to save memory since the page came.
                Answer::Unknown => listed,
                Answer::Absent => continue,
            };
            if self.shown.insert(name.clone()) {
                let next_offset = before + page.len() as u64 + 1;
                page.push(DirEntry { name: name.as_str().to_owned(), next_offset, attr });
            }
        }
        if !page.is_empty() {
            if let Some(behind) = self.pages.len().checked_sub(FULL_PAGES_MAX - 1) {
                self.pages[..behind].iter_mut().rev().take(1).for_each(Page::fold_up);
            }
            let content = PageContent::Full(Arc::new(page));
            self.pages.push(Page { before, source: source.cloned(), content });
        }
        Ok(())
    }

    /// Adds pages of every name that is there and was not shown.
    fn show_rest(&mut self, tree: &Tree, directory: Ino, options: &Options) -> Result<(), Error> {
        let rest = tree.folder(directory)?.children().filter(|(name, _)| !self.shown.contains(*name));
        let mut rest = rest
            .map(|(name, ino)| Ok((name.clone(), tree.inode(ino)?.attr(options))))
            .collect::<Result<Vec<_>, Error>>()?;
        while !rest.is_empty() {
            let later = rest.split_off(TREE_PAGE_ENTRIES.min(rest.len()));
            self.show(tree, directory, std::mem::replace(&mut rest, later), None, options)?;
        }
        Ok(())
    }
}
