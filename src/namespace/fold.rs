//! Answers of the store, folded into the tree (pure).
//!
//! One rule decides: an answer counts if its question is younger than what is known. Where an object and a directory
//! have one name, the directory has it, and the file one that says so.

use std::collections::BTreeSet;

use crate::namespace::Error;
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{
    AsOf, Body, Entry, Evidence, Folder, Inode, Place, Residence, Seen, Stamp, Under,
};
use crate::namespace::names::{self, Listed, Name};
use crate::namespace::tree::Tree;
use crate::store::ListPage;
use crate::types::{Ino, ObjectMeta};

/// A question to the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// When it was asked, in the tree's order of events.
    pub stamp: Stamp,
    /// How long its answer is believed.
    pub fresh: Freshness,
}

/// What becomes known by an answer: as of when, and for how long.
#[derive(Clone, Copy, Debug)]
struct Known {
    as_of: AsOf,
    fresh: Freshness,
}

/// What the store says is under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    /// Nothing.
    Nothing,
    /// An object.
    File(ObjectMeta),
    /// A directory.
    Directory(MarkerNews),
}

/// What an answer says about a directory's marker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MarkerNews {
    /// Nothing.
    Untold,
    /// There is none.
    Absent,
    /// It is this one.
    Found(ObjectMeta),
}

/// Whether a page is the first of its listing, where a directory's marker stands if there is one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IsFirst {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// What one page of a listing brought.
#[derive(Debug, Default)]
pub struct PageNews {
    /// Names on the page, in the store's order.
    pub names: Vec<Name>,
    /// Objects whose name is a directory's so far; the end of the listing will tell.
    pub doubtful: Vec<(Name, ObjectMeta, Asked)>,
    /// Keys that no name can stand for.
    pub skipped: u64,
}

impl Tree {
    /// Takes in what the store says about a name. Does nothing where something younger is known, or the directory
    /// itself is younger. Errors as [`Tree::folder`].
    pub fn fold(&mut self, parent: Ino, name: &Name, asked: Asked, news: News) -> Result<(), Error> {
        let folder = self.folder(parent)?;
        match folder.entries.get(name) {
            _ if asked.stamp <= folder.since => {}
            Some(Entry::Absent { as_of, .. }) if asked.stamp <= as_of.stamp => {}
            Some(Entry::Absent { as_of, .. }) => {
                let as_of = as_of.answer(asked.stamp);
                self.fold_new(parent, name, Known { as_of, fresh: asked.fresh }, news)?;
            }
            None => {
                let as_of = AsOf::default().answer(asked.stamp);
                self.fold_new(parent, name, Known { as_of, fresh: asked.fresh }, news)?;
            }
            Some(Entry::Present(ino)) => {
                let ino = *ino;
                if asked.stamp > self.inode(ino)?.as_of.stamp {
                    self.fold_known(ino, asked, news)?;
                }
            }
        }
        self.check();
        Ok(())
    }

    /// Takes in one page of a listing of a directory by its prefix. Errors as [`Tree::folder`].
    pub fn fold_page(
        &mut self,
        directory: Ino,
        page: ListPage,
        asked: Asked,
        is_first: IsFirst,
    ) -> Result<PageNews, Error> {
        let prefix = self.prefix(directory)?;
        let mut told = PageNews { skipped: page.skipped, ..PageNews::default() };
        let mut found = Vec::new();
        let mut directories = BTreeSet::new();
        let mut marker = MarkerNews::Absent;
        for folded in &page.prefixes {
            match names::listed_prefix(&prefix, folded) {
                Listed::Directory(name) => {
                    directories.insert(name.clone());
                    found.push((folded.clone(), name, News::Directory(MarkerNews::Untold)));
                }
                Listed::Marker | Listed::File(_) | Listed::Stray => told.skipped += 1,
            }
        }
        for object in page.objects {
            match names::listed_object(&prefix, object.id.key.as_str()) {
                Listed::Marker => marker = MarkerNews::Found(object),
                Listed::File(name) if directories.contains(&name) => {
                    let name = beside_directory(&name);
                    found.push((object.id.key.as_str().to_owned(), name, News::File(object)));
                }
                Listed::File(name) => {
                    found.push((object.id.key.as_str().to_owned(), name, News::File(object)));
                }
                Listed::Directory(_) | Listed::Stray => told.skipped += 1,
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        let exists = !found.is_empty() || told.skipped > 0 || marker != MarkerNews::Absent;
        for (_, name, news) in found {
            match news {
                News::File(object) if self.is_directory(directory, &name) => {
                    told.doubtful.push((name, object, asked));
                }
                News::Directory(_) => {
                    let file = self.file_seen(directory, &name);
                    self.fold(directory, &name, asked, news)?;
                    self.set_beside(directory, &name, file)?;
                    told.names.push(name);
                }
                News::File(_) | News::Nothing => {
                    self.fold(directory, &name, asked, news)?;
                    told.names.push(name);
                }
            }
        }
        if exists {
            let marker = match is_first {
                IsFirst::Yes => marker,
                IsFirst::No => MarkerNews::Untold,
            };
            self.fold_own_listing(directory, asked, marker);
        }
        self.check();
        Ok(told)
    }

    /// The listing begun by `first` is at its end: what it did not show is gone.
    pub fn fold_end(
        &mut self,
        directory: Ino,
        first: Asked,
        doubtful: Vec<(Name, ObjectMeta, Asked)>,
    ) -> Result<(), Error> {
        for (name, object, asked) in doubtful {
            let is_confirmed = match self.entry(directory, &name) {
                Some(Entry::Present(ino)) => self.outlives_listing(*ino, first),
                Some(Entry::Absent { .. }) | None => false,
            };
            let is_beside = is_confirmed && self.is_directory(directory, &name);
            let name = if is_beside { beside_directory(&name) } else { name };
            self.fold(directory, &name, asked, News::File(object))?;
        }
        let is_denied = |entry: &Entry| match entry {
            Entry::Present(ino) => !self.outlives_listing(*ino, first),
            Entry::Absent { as_of, .. } => as_of.stamp < first.stamp,
        };
        let entries = &self.folder(directory)?.entries;
        let denied: Vec<Name> =
            entries.iter().filter(|(_, entry)| is_denied(entry)).map(|(name, _)| name.clone()).collect();
        for name in denied {
            let as_of = match self.entry(directory, &name) {
                Some(Entry::Present(ino)) => {
                    let ino = *ino;
                    let as_of = self.inode(ino)?.as_of;
                    self.detach(ino, Place::Vanished);
                    as_of
                }
                Some(Entry::Absent { as_of, .. }) => *as_of,
                None => AsOf::default(),
            };
            self.set_absent(directory, &name, first.fresh, as_of.answer(first.stamp));
        }
        if let Some(folder) = self.folder_mut(directory)
            && folder.dropped < first.stamp
        {
            folder.listed = first.fresh;
        }
        self.check();
        Ok(())
    }

    /// The object that was last seen under a name, and as of when.
    fn file_seen(&self, parent: Ino, name: &Name) -> Option<(Seen, AsOf)> {
        let Some(Entry::Present(ino)) = self.entry(parent, name) else { return None };
        let inode = self.inodes.get(ino)?;
        match &inode.body {
            Body::File(Residence::Remote(seen)) => Some((seen.clone(), inode.as_of)),
            Body::File(Residence::Local { .. }) | Body::Directory(_) => None,
        }
    }

    /// A file that was seen where a directory has been found now goes on under the name that says so.
    fn set_beside(&mut self, parent: Ino, name: &Name, file: Option<(Seen, AsOf)>) -> Result<(), Error> {
        let beside = beside_directory(name);
        match (file, self.entry(parent, &beside)) {
            (Some((seen, as_of)), None | Some(Entry::Absent { .. })) if self.is_directory(parent, name) => {
                self.link(parent, &beside, Body::File(Residence::Remote(seen)), as_of).map(drop)
            }
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// A directory has this marker: we made it, or saw it.
    pub fn set_marker(&mut self, directory: Ino, marker: ObjectMeta) {
        let as_of = AsOf::change(self.tick());
        self.change(directory, |inode| {
            inode.as_of = as_of;
            if let Body::Directory(folder) = &mut inode.body {
                learn_marker(folder, MarkerNews::Found(marker));
            }
        });
        self.confirm(directory);
        self.check();
    }

    fn fold_new(&mut self, parent: Ino, name: &Name, known: Known, news: News) -> Result<(), Error> {
        let body = match news {
            News::Nothing => {
                self.set_absent(parent, name, known.fresh, known.as_of);
                return Ok(());
            }
            News::File(meta) => Body::File(Residence::Remote(Seen { meta, fresh: known.fresh })),
            News::Directory(marker) => {
                let mut folder = Folder::new(Evidence::Store, known.fresh);
                learn_marker(&mut folder, marker);
                Body::Directory(folder)
            }
        };
        let ino = self.link(parent, name, body, known.as_of)?;
        self.confirm(ino);
        Ok(())
    }

    fn fold_known(&mut self, ino: Ino, asked: Asked, news: News) -> Result<(), Error> {
        let holds_local = self.holds_local(ino);
        let inode = self.inodes.get_mut(&ino).ok_or(Error::Stale)?;
        let is_same_kind = match (&mut inode.body, &news) {
            (Body::File(Residence::Local { under, .. }), _) => {
                learn_under(under, asked, news.clone());
                true
            }
            // Whoever has it open reads the version it is; the other one is a file of its own.
            (Body::File(Residence::Remote(seen)), News::File(meta))
                if inode.references.is_pinned() && seen.meta.id != meta.id || seen.is_other_file(meta) =>
            {
                false
            }
            (Body::File(Residence::Remote(seen)), News::File(meta)) => {
                inode.is_resized |= inode.references.is_looked_up() && seen.meta.id.size != meta.id.size;
                seen.learn(Seen { meta: meta.clone(), fresh: asked.fresh });
                true
            }
            (Body::Directory(folder), News::Directory(marker)) => {
                folder.fresh = asked.fresh;
                folder.evidence = Evidence::Store;
                learn_marker(folder, marker.clone());
                true
            }
            (Body::Directory(folder), News::Nothing | News::File(_)) if holds_local => {
                folder.fresh = asked.fresh;
                folder.evidence = Evidence::LocalFiles;
                learn_marker(folder, MarkerNews::Absent);
                true
            }
            (Body::Directory(_), News::Nothing | News::File(_))
            | (Body::File(Residence::Remote(_)), News::Nothing | News::Directory(_)) => false,
        };
        if is_same_kind {
            inode.as_of = inode.as_of.answer(asked.stamp);
            self.settle(ino);
            self.touch(ino);
            if self.inode(ino)?.is_in_store() {
                self.confirm(ino);
            }
            return Ok(());
        }
        let Place::Under { parent, name } = inode.place.clone() else { return Ok(()) };
        let known = Known { as_of: inode.as_of.answer(asked.stamp), fresh: asked.fresh };
        self.detach(ino, Place::Vanished);
        self.fold_new(parent, &name, known, news)
    }

    /// A directory's own listing says that it exists, and on its first page which marker it has.
    fn fold_own_listing(&mut self, directory: Ino, asked: Asked, marker: MarkerNews) {
        let is_news = self.inodes.get(&directory).is_some_and(|inode| asked.stamp > inode.as_of.stamp);
        if !is_news || directory == Ino::ROOT {
            return;
        }
        self.change(directory, |inode| {
            inode.as_of = inode.as_of.answer(asked.stamp);
            if let Body::Directory(folder) = &mut inode.body {
                folder.fresh = asked.fresh;
                match marker {
                    // The next look at the directory itself compares and asks for metadata where they may differ.
                    MarkerNews::Found(_) if folder.marker.is_some() => {}
                    MarkerNews::Found(_) | MarkerNews::Absent => learn_marker(folder, marker),
                    MarkerNews::Untold => {}
                }
            }
        });
        self.confirm(directory);
    }

    fn is_directory(&self, parent: Ino, name: &Name) -> bool {
        match self.entry(parent, name) {
            Some(Entry::Present(ino)) => {
                matches!(self.inodes.get(ino).map(|inode| &inode.body), Some(Body::Directory(_)))
            }
            Some(Entry::Absent { .. }) | None => false,
        }
    }

    /// Whether a complete listing begun by `first` leaves the inode in place: the listing showed it, something younger
    /// is known, or it is ours.
    fn outlives_listing(&self, ino: Ino, first: Asked) -> bool {
        let is_young = |inode: &Inode| inode.as_of.stamp >= first.stamp;
        self.inodes.get(&ino).is_some_and(is_young) || self.holds_local(ino)
    }
}

/// The name of a file that a directory of this name is beside.
pub fn beside_directory(name: &Name) -> Name {
    // A name that was listed is known, and one that is not stands for no directory.
    Name::of_file_beside_directory(name.part().unwrap_or_default())
}

/// A marker that is known with its metadata is worth as much as one just found with the same.
pub fn is_same_marker(known: &ObjectMeta, listed: &ObjectMeta) -> bool {
    known.attributes.is_some() && known.id == listed.id && known.modified.secs == listed.modified.secs
}

fn learn_marker(folder: &mut Folder, news: MarkerNews) {
    match news {
        MarkerNews::Untold => return,
        MarkerNews::Absent => folder.marker = None,
        MarkerNews::Found(meta) => folder.marker = Some(meta),
    }
    folder.is_marker_told = true;
}

fn learn_under(under: &mut Under, asked: Asked, news: News) {
    match (under, news) {
        (Under::Object(seen), News::File(meta)) => seen.learn(Seen { meta, fresh: asked.fresh }),
        (under @ (Under::Nothing | Under::Unknown), News::File(meta)) => {
            *under = Under::Object(Box::new(Seen { meta, fresh: asked.fresh }));
        }
        (under, News::Nothing | News::Directory(_)) => *under = Under::Nothing,
    }
}
