//! Asking the store about a name, and folding the answer into the tree.
//!
//! A name can be the object `key`, or a directory if any key begins with `key/`. A listing with a delimiter would tell
//! both, but other names (`key-2`, `key.txt`) sort between the two and may fill the page. Therefore HEAD `key` and LIST
//! of one entry below `key/`, side by side; only the one that confirms it where the kind is known.
//!
//! What a long name stands for is found by listing what begins as it does.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use futures_util::join;

use crate::namespace::fold::{Asked, MarkerNews, News, is_same_marker};
use crate::namespace::inode::{Body, Inode, Place, Residence, Seen, Stamp, Under};
use crate::namespace::names::{self, Name};
use crate::namespace::tree::{Answer, Tree};
use crate::namespace::{Attr, Error, Namespace, Pin, lock};
use crate::store::{self, ErrorKind, ListOptions, Op};
use crate::types::{Ino, Key, ObjectId, ObjectMeta};

/// Most times that a name is asked for because what is known around it changed during the question.
const LOOKS_MAX: u32 = 3;

/// Most pages read to find the first few keys: a server may send pages with fewer entries than it could.
const PAGES_MAX: u32 = 16;

/// The first keys below a prefix.
#[derive(Debug, Default)]
pub(super) struct Glimpse {
    /// Objects, as many as asked for if there are so many.
    pub objects: Vec<ObjectMeta>,
    /// Objects among them that cannot be named.
    pub skipped: u64,
}

/// What a caller wants to know of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// Which bytes it is.
    Version,
    /// Its metadata too.
    Metadata,
}

/// A question on its way. Dropped without an answer it was given up.
#[derive(Debug)]
pub(super) struct Asking {
    tree: Arc<Mutex<Tree>>,
    stamp: Option<Stamp>,
}

/// A question about a name.
#[derive(Debug)]
struct Question {
    /// The key it has as a file; `None` where it can be none.
    key: Option<Key>,
    /// The prefix it has as a directory; `None` where that is longer than a key can be.
    below: Option<Key>,
    known: Known,
}

/// What a name was last known to be.
#[derive(Debug)]
enum Known {
    Nothing,
    File,
    Directory {
        marker: Option<ObjectMeta>,
    },
    /// A file that is only there beside a directory.
    Beside,
}

impl Namespace {
    /// Finds a name. The kernel's lookup count of the inode grows by one.
    pub async fn lookup(&self, parent: Ino, name: &OsStr, now: Instant) -> Result<Attr, Error> {
        let name = self.name_asked(parent, name).await?;
        let (mut tree, found) = self.resolve(parent, &name, now).await?;
        let ino = found.ok_or(Error::NotFound)?;
        tree.count(ino)?;
        Ok(tree.inode(ino)?.attr(&self.options))
    }

    /// Attributes, asked anew when they are no longer fresh. `Stale` also when the file is gone from the store; of a
    /// file removed here they stay what they were.
    pub async fn attr(&self, ino: Ino, now: Instant) -> Result<Attr, Error> {
        let place = {
            let tree = self.tree();
            let inode = tree.inode(ino)?;
            if inode.is_believed(now) {
                return self.shown(inode);
            }
            inode.place.clone()
        };
        let tree = self.refresh_place(place, now).await?;
        self.shown(tree.inode(ino)?)
    }

    /// The version that is under the file's key, asked anew when it is no longer fresh; `None` when there is no object
    /// yet (a file that exists only locally). With metadata where the store has it, for which it is asked if it was not
    /// yet. Of a file removed here it is the last one known. `Stale` when the file is gone from the store.
    pub async fn object(&self, ino: Ino, now: Instant) -> Result<Option<ObjectMeta>, Error> {
        self.object_as_needed(ino, now, Need::Metadata).await
    }

    /// As [`Namespace::object`], but says only which bytes: enough for reading, and after a listing no request.
    pub async fn version(&self, ino: Ino, now: Instant) -> Result<Option<ObjectId>, Error> {
        Ok(self.object_as_needed(ino, now, Need::Version).await?.map(|meta| meta.id))
    }

    /// The version as last known, fresh or not. No request. `Stale`.
    pub fn version_known(&self, ino: Ino) -> Result<Option<ObjectId>, Error> {
        Ok(last_object(self.tree().inode(ino)?)?.map(|meta| meta.id))
    }

    /// As [`Namespace::version`], and pins the inode to the version told. `NotFound` when there is no object yet.
    pub async fn pin_version(&self, ino: Ino, now: Instant) -> Result<(ObjectId, Pin), Error> {
        let (object, pin) = self.pin_as_needed(ino, now, Need::Version).await?;
        Ok((object.id, pin))
    }

    /// As [`Namespace::object`], and pins the inode to the version told. `NotFound` when there is no object yet.
    pub async fn pin_object(&self, ino: Ino, now: Instant) -> Result<(ObjectMeta, Pin), Error> {
        self.pin_as_needed(ino, now, Need::Metadata).await
    }

    /// What is under a name, by what is known while that is fresh, else by the store.
    pub(super) async fn resolve(
        &self,
        parent: Ino,
        name: &Name,
        now: Instant,
    ) -> Result<(MutexGuard<'_, Tree>, Option<Ino>), Error> {
        {
            let tree = self.tree();
            match tree.answer(parent, name, now)? {
                Answer::Present(ino) => return Ok((tree, Some(ino))),
                Answer::Absent => return Ok((tree, None)),
                Answer::Unknown => {}
            }
        }
        if let Some(tree) = self.denied_by_listing(parent, name, now).await? {
            return Ok((tree, None));
        }
        self.refresh(parent, name, now).await
    }

    /// What is under a name, by the last that is known, else by the store: for changes, which meet the truth anyway.
    pub(super) async fn locate(
        &self,
        parent: Ino,
        name: &Name,
        now: Instant,
    ) -> Result<(MutexGuard<'_, Tree>, Ino), Error> {
        {
            let tree = self.tree();
            if let Answer::Present(ino) = tree.last_known(parent, name)? {
                return Ok((tree, ino));
            }
        }
        let (tree, found) = self.resolve(parent, name, now).await?;
        Ok((tree, found.ok_or(Error::NotFound)?))
    }

    /// Asks what the store has of an object.
    pub(super) async fn head(&self, key: &Key) -> Result<Option<ObjectMeta>, store::Error> {
        match self.store.head(key).await {
            Ok(mut meta) => {
                // Attributes stay `None` only where nobody asked the object itself.
                meta.attributes.get_or_insert_default();
                Ok(Some(meta))
            }
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The first `count` keys below a prefix, or all if there are fewer.
    pub(super) async fn glimpse(&self, prefix: &str, count: u32) -> Result<Glimpse, store::Error> {
        let mut glimpse = Glimpse::default();
        let mut continuation = None;
        for _ in 0..PAGES_MAX {
            let options = ListOptions {
                prefix: prefix.to_owned(),
                continuation,
                entries_max: Some(count),
                ..ListOptions::default()
            };
            let page = self.store.list(options).await?;
            glimpse.objects.extend(page.objects);
            glimpse.skipped += page.skipped;
            if page.next.is_none() || glimpse.objects.len() as u64 + glimpse.skipped >= u64::from(count) {
                return Ok(glimpse);
            }
            continuation = page.next;
        }
        let detail = format!("{PAGES_MAX} pages of a listing had next to no entries and announced more");
        Err(store::Error::of(Op::List, ErrorKind::Protocol, detail))
    }

    /// Notes that a question is asked now.
    pub(super) fn asking(&self, tree: &mut Tree) -> Asking {
        Asking::begin(&self.tree, tree)
    }

    /// Asks the store about a name, whatever is known, and says what is known then.
    async fn refresh(
        &self,
        parent: Ino,
        name: &Name,
        now: Instant,
    ) -> Result<(MutexGuard<'_, Tree>, Option<Ino>), Error> {
        let fresh = self.fresh_since(now);
        let mut look = 1;
        loop {
            let (question, asking) = {
                let mut tree = self.tree();
                let question = question(&tree, parent, name)?;
                tree.sweep(now);
                (question, self.asking(&mut tree))
            };
            let news = self.ask(&question).await?;
            let mut tree = self.tree();
            let stamp = asking.answered(&mut tree);
            tree.fold(parent, name, Asked { stamp, fresh }, news.clone())?;
            if look == LOOKS_MAX && tree.last_known(parent, name)? == Answer::Unknown {
                // The directory is dropped and found again faster than the store answers. Nothing known contradicts it.
                let stamp = tree.tick();
                tree.fold(parent, name, Asked { stamp, fresh }, news)?;
            }
            match tree.last_known(parent, name)? {
                Answer::Present(ino) => return Ok((tree, Some(ino))),
                Answer::Absent => return Ok((tree, None)),
                // A listing begun later was complete meanwhile, or what is known here was dropped.
                Answer::Unknown if tree.answer(parent, name, now)? == Answer::Absent => {
                    return Ok((tree, None));
                }
                Answer::Unknown => look += 1,
            }
        }
    }

    /// Asks the store about an inode, whatever is known. `Stale`.
    pub(super) async fn ask_about(&self, ino: Ino, now: Instant) -> Result<(), Error> {
        let place = self.tree().inode(ino)?.place.clone();
        self.refresh_place(place, now).await.map(drop)
    }

    async fn refresh_place(&self, place: Place, now: Instant) -> Result<MutexGuard<'_, Tree>, Error> {
        match place {
            Place::Under { parent, name } => Ok(self.refresh(parent, &name, now).await?.0),
            Place::Root | Place::Removed | Place::Vanished => Ok(self.tree()),
        }
    }

    /// One or two requests; one more for the metadata of a directory's marker that is new to us.
    async fn ask(&self, question: &Question) -> Result<News, store::Error> {
        match &question.known {
            Known::Nothing => {
                let (object, below) = join!(self.object_of(question), self.below(question));
                match (below?, object) {
                    (Some(first), _) => self.directory_news(first, None).await,
                    (None, object) => Ok(object?.map_or(News::Nothing, News::File)),
                }
            }
            Known::Beside => {
                let (object, below) = join!(self.object_of(question), self.below(question));
                Ok(below?.and(object?).map_or(News::Nothing, News::File))
            }
            Known::File => match self.object_of(question).await? {
                Some(object) => Ok(News::File(object)),
                None => match self.below(question).await? {
                    Some(first) => self.directory_news(first, None).await,
                    None => Ok(News::Nothing),
                },
            },
            Known::Directory { marker } => match self.below(question).await? {
                Some(first) => self.directory_news(first, marker.as_ref()).await,
                None => Ok(self.object_of(question).await?.map_or(News::Nothing, News::File)),
            },
        }
    }

    async fn object_of(&self, question: &Question) -> Result<Option<ObjectMeta>, store::Error> {
        match &question.key {
            Some(key) => self.head(key).await,
            None => Ok(None),
        }
    }

    /// A name the kernel gave, with what it stands for if there is anything of that name. Errors as [`Name::from_kernel`].
    async fn name_asked(&self, parent: Ino, name: &OsStr) -> Result<Name, Error> {
        let (name, prefix) = {
            let tree = self.tree();
            (tree.known_name(parent, Name::from_kernel(name)?), tree.prefix(parent)?)
        };
        let Some(stem) = name.stem().filter(|_| name.part().is_none()) else { return Ok(name) };
        let mut continuation = None;
        for _ in 0..PAGES_MAX {
            let options = ListOptions {
                prefix: format!("{prefix}{stem}"),
                by_directory: true,
                continuation,
                ..ListOptions::default()
            };
            let page = self.store.list(options).await?;
            let keys = page.objects.iter().map(|object| object.id.key.as_str());
            let keys = keys.chain(page.prefixes.iter().map(|folded| folded.trim_end_matches('/')));
            let mut parts = keys.filter_map(|key| key.strip_prefix(&prefix));
            if let Some(found) = parts.find_map(|part| name.resolved(part)) {
                return Ok(found);
            }
            continuation = page.next;
            if continuation.is_none() {
                break;
            }
        }
        Err(Error::NotFound)
    }

    /// A name the kernel gave, with what it is known to stand for. Errors as [`Name::from_kernel`].
    pub(super) fn name(&self, parent: Ino, name: &OsStr) -> Result<Name, Error> {
        Ok(self.tree().known_name(parent, Name::from_kernel(name)?))
    }

    /// The marker of the directory asked for as a listing shows it, if there is any key below the name.
    async fn below(&self, question: &Question) -> Result<Option<Option<ObjectMeta>>, store::Error> {
        let Some(prefix) = &question.below else { return Ok(None) };
        let glimpse = self.glimpse(prefix.as_str(), 1).await?;
        let exists = !glimpse.objects.is_empty() || glimpse.skipped > 0;
        Ok(exists.then(|| glimpse.objects.into_iter().find(|object| object.id.key == *prefix)))
    }

    async fn directory_news(
        &self,
        listed: Option<ObjectMeta>,
        known: Option<&ObjectMeta>,
    ) -> Result<News, store::Error> {
        let marker = match (listed, known) {
            (None, _) => MarkerNews::Absent,
            (Some(listed), Some(known)) if is_same_marker(known, &listed) => MarkerNews::Found(known.clone()),
            (Some(listed), _) if listed.attributes.is_some() => MarkerNews::Found(listed),
            (Some(listed), _) => {
                self.head(&listed.id.key).await?.map_or(MarkerNews::Absent, MarkerNews::Found)
            }
        };
        Ok(News::Directory(marker))
    }

    async fn object_as_needed(
        &self,
        ino: Ino,
        now: Instant,
        need: Need,
    ) -> Result<Option<ObjectMeta>, Error> {
        let tree = self.with_object(ino, now, need).await?;
        last_object(tree.inode(ino)?)
    }

    async fn pin_as_needed(&self, ino: Ino, now: Instant, need: Need) -> Result<(ObjectMeta, Pin), Error> {
        let mut tree = self.with_object(ino, now, need).await?;
        let object = last_object(tree.inode(ino)?)?.ok_or(Error::NotFound)?;
        tree.pin(ino)?;
        Ok((object, Pin { ino, tree: Arc::clone(&self.tree) }))
    }

    /// The tree as it knows what is needed of a file's object.
    async fn with_object(&self, ino: Ino, now: Instant, need: Need) -> Result<MutexGuard<'_, Tree>, Error> {
        let place = {
            let tree = self.tree();
            let inode = tree.inode(ino)?;
            if is_object_known(inode, now, need) {
                return Ok(tree);
            }
            inode.place.clone()
        };
        self.refresh_place(place, now).await
    }

    fn shown(&self, inode: &Inode) -> Result<Attr, Error> {
        match inode.place {
            Place::Root | Place::Under { .. } | Place::Removed => Ok(inode.attr(&self.options)),
            Place::Vanished => Err(Error::Stale),
        }
    }
}

impl Asking {
    /// A question is asked now. `locked` is the tree behind its lock.
    pub(super) fn begin(tree: &Arc<Mutex<Tree>>, locked: &mut Tree) -> Asking {
        Asking { tree: Arc::clone(tree), stamp: Some(locked.ask()) }
    }

    /// The answer is there, and the tree locked to fold it in. Returns when the question was asked.
    pub(super) fn answered(mut self, tree: &mut Tree) -> Stamp {
        let stamp = self.stamp.take().expect("only this and the drop take it");
        tree.answered(stamp);
        stamp
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(stamp) = self.stamp.take() {
            lock(&self.tree).answered(stamp);
        }
    }
}

fn question(tree: &Tree, parent: Ino, name: &Name) -> Result<Question, Error> {
    let directory = tree.prefix(parent)?;
    let key = match names::file_key(&directory, name) {
        Ok(key) => Some(key),
        Err(Error::BadName) => None,
        Err(error) => return Err(error),
    };
    let below = names::marker_key(&names::prefix_below(&directory, name)?).ok();
    let known = match tree.last_known(parent, name)? {
        Answer::Present(ino) => match &tree.inode(ino)?.body {
            Body::File(_) => Known::File,
            Body::Directory(folder) => Known::Directory { marker: folder.marker.clone() },
        },
        Answer::Absent | Answer::Unknown => Known::Nothing,
    };
    let known = if name.is_beside_directory() { Known::Beside } else { known };
    Ok(Question { key, below, known })
}

fn is_object_known(inode: &Inode, now: Instant, need: Need) -> bool {
    let suffices =
        |seen: &Seen| seen.fresh.holds(now) && (need == Need::Version || seen.meta.attributes.is_some());
    match (&inode.place, &inode.body) {
        (Place::Root | Place::Removed | Place::Vanished, _) | (_, Body::Directory(_)) => true,
        (Place::Under { .. }, Body::File(Residence::Remote(seen))) => suffices(seen),
        (Place::Under { .. }, Body::File(Residence::Local { under, .. })) => match under {
            Under::Nothing => true,
            Under::Unknown => false,
            Under::Object(seen) => suffices(seen),
        },
    }
}

fn last_object(inode: &Inode) -> Result<Option<ObjectMeta>, Error> {
    if inode.place == Place::Vanished {
        return Err(Error::Stale);
    }
    match &inode.body {
        Body::Directory(_) => Err(Error::IsDirectory),
        Body::File(Residence::Remote(seen)) => Ok(Some(seen.meta.clone())),
        Body::File(Residence::Local { under, .. }) => Ok(match under {
            Under::Nothing | Under::Unknown => None,
            Under::Object(seen) => Some(seen.meta.clone()),
        }),
    }
}
