//! One file that is open or has local changes: which content it has right now.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fs::Rights;
use crate::fs::kernel::Mode;
use crate::namespace::Pin;
use crate::read::ReadStream;
use crate::types::{Attributes, Ino, Key, ObjectId, ObjectMeta, SessionId, UnixTime};
use crate::write::WriteFile;

/// How long a name is kept for a program that could not open the inode it had. It is about to open the new one, or one
/// that comes after that; a reader that comes first must not make it unfit again.
const RESERVED_FOR: Duration = Duration::from_secs(1);

/// Most uploads remembered that are not about the file that has their name. There is one for each conflict, for a moment.
const STRAYS_MAX: usize = 1024;

/// One file that is open or has local changes.
#[derive(Debug)]
pub(crate) struct FileState {
    pub(crate) ino: Ino,
    /// Held across awaits by what exchanges the content as a whole: open, truncate, rename, unlink.
    pub(crate) gate: tokio::sync::Mutex<()>,
    content: Mutex<Content>,
}

/// Which content a file has. Guarded by one lock that is held over local file calls only.
#[derive(Debug)]
pub(crate) struct Content {
    /// INVARIANT: grows whenever `source` names other remote bytes than before, so that handles know to look again.
    pub(crate) epoch: u64,
    pub(crate) source: Source,
    /// The name is gone: nothing of this file goes to the bucket any more.
    pub(crate) is_removed: bool,
    /// How the kernel has it open.
    pub(crate) kernel: Mode,
    /// A handle has been opened through the kernel's page cache and closed: since then all its pages are of this content.
    pub(crate) are_pages_ours: bool,
    /// When somebody was last sent to look the name up again, because it leads to another inode.
    pub(crate) refused_at: Option<Instant>,
    /// INVARIANT: there while a handle is open. News of the store do not change what the inode is.
    pub(crate) pin: Option<Pin>,
}

/// What an open has to ask about a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    /// Which version it is.
    Unknown,
    /// Whether the version that the handles read is still under the name.
    Remote,
    /// Whether what we have put under the name is still there.
    Committed,
    /// Nothing: its changes are here.
    Changed,
}

/// Where the bytes come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Not asked yet.
    Unknown,
    /// An object as it is in the bucket.
    Remote(RemoteFile),
    /// Local changes, over an object or over nothing.
    Local(LocalFile),
}

/// A file without local changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RemoteFile {
    /// Which bytes.
    pub(crate) id: ObjectId,
    /// Kept when the file is rewritten. `None` where nobody asked for the object's metadata, which only changes need.
    pub(crate) attributes: Option<Attributes>,
}

impl From<ObjectMeta> for RemoteFile {
    fn from(object: ObjectMeta) -> RemoteFile {
        RemoteFile { id: object.id, attributes: object.attributes }
    }
}

/// A file with local changes.
#[derive(Debug)]
pub(crate) struct LocalFile {
    pub(crate) file: Arc<WriteFile>,
    /// Attributes as a `stat` shows them.
    pub(crate) attributes: Attributes,
    /// `attributes` has changed since `file` was told.
    pub(crate) attributes_are_new: bool,
    /// Just created and neither written nor changed: a `close` that comes now is one of the many that programs do before
    /// they write, and must not cost an upload.
    pub(crate) is_untouched: bool,
    /// The session whose commit the tree has been told of.
    pub(crate) told: Option<SessionId>,
    /// Reads what shows through from the object below.
    pub(crate) base: Option<Arc<ReadStream>>,
    /// The object whose bytes these are while only attributes have been changed.
    pub(crate) only_dressed: Option<ObjectId>,
}

impl LocalFile {
    pub(crate) fn new(file: Arc<WriteFile>) -> LocalFile {
        let attributes = file.attributes();
        LocalFile {
            file,
            attributes,
            attributes_are_new: false,
            is_untouched: false,
            told: None,
            base: None,
            only_dressed: None,
        }
    }

    /// The content has changed at `now`.
    pub(crate) fn touch(&mut self, now: UnixTime) {
        self.attributes.mtime = Some(now);
        self.attributes.carried.forget_bytes();
        self.only_dressed = None;
        self.attributes_are_new = true;
        self.is_untouched = false;
    }

    /// After a change of its content: what becomes of the rights that it lends.
    pub(crate) fn settle_rights(&mut self, rights: Rights) {
        let left = match rights {
            Rights::Stay => return,
            Rights::Revoked => self.attributes.mode.map(revoked),
        };
        if left != self.attributes.mode {
            self.attributes.mode = left;
            self.attributes_are_new = true;
        }
    }

    /// Hands the attributes on before the file is sealed.
    pub(crate) fn settle(&mut self) {
        if self.attributes_are_new {
            self.file.set_attributes(self.attributes.clone());
            self.attributes_are_new = false;
        }
    }

    /// Whether a `close` has anything to wait for.
    pub(crate) fn needs_commit(&self) -> bool {
        !self.is_untouched && (self.attributes_are_new || self.file.is_dirty() || self.file.is_pending())
    }

    /// Whether everything is in the bucket and the tree knows: news of a commit come a moment after it.
    pub(crate) fn is_done(&self) -> bool {
        self.is_clean() && self.told == Some(self.file.session())
    }

    /// Whether everything is in the bucket.
    pub(crate) fn is_clean(&self) -> bool {
        !self.attributes_are_new && !self.file.is_dirty() && !self.file.is_pending()
    }
}

impl FileState {
    fn new(ino: Ino, source: Source) -> FileState {
        let content = Content {
            epoch: 0,
            source,
            is_removed: false,
            kernel: Mode::default(),
            are_pages_ours: false,
            refused_at: None,
            pin: None,
        };
        FileState { ino, gate: tokio::sync::Mutex::new(()), content: Mutex::new(content) }
    }

    /// The content, locked.
    pub(crate) fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file under change, if it is.
    pub(crate) fn local(&self) -> Option<Arc<WriteFile>> {
        self.content().local().map(|local| local.file.clone())
    }
}

impl Content {
    pub(crate) fn local(&mut self) -> Option<&mut LocalFile> {
        match &mut self.source {
            Source::Local(local) => Some(local),
            Source::Unknown | Source::Remote(_) => None,
        }
    }

    pub(crate) fn remote(&self) -> Option<&RemoteFile> {
        match &self.source {
            Source::Remote(object) => Some(object),
            Source::Unknown | Source::Local(_) => None,
        }
    }

    /// The attributes that it has, or that its object carries, if they are known here.
    pub(crate) fn attributes(&self) -> Option<Attributes> {
        match &self.source {
            Source::Unknown => None,
            Source::Remote(object) => object.attributes.clone(),
            Source::Local(local) => Some(local.attributes.clone()),
        }
    }

    /// What is known of it, and by whom.
    pub(crate) fn standing(&self) -> Standing {
        match &self.source {
            Source::Unknown => Standing::Unknown,
            Source::Remote(_) => Standing::Remote,
            Source::Local(local) if local.is_clean() => Standing::Committed,
            Source::Local(_) => Standing::Changed,
        }
    }

    /// The version in the bucket that this content is, byte for byte, if it is one for sure.
    pub(crate) fn version(&self) -> Option<ObjectId> {
        match &self.source {
            Source::Unknown => None,
            Source::Remote(object) => Some(object.id.clone()),
            Source::Local(local) if local.is_clean() => local.file.last_commit().map(|object| object.id),
            Source::Local(_) => None,
        }
    }

    /// The file is this object now: the first that is known of it, or the same bytes under another name or with other
    /// attributes. Handles that read look again.
    pub(crate) fn set_remote(&mut self, object: RemoteFile) {
        let same_bytes = self.remote().is_some_and(|now| now.id == object.id);
        self.source = Source::Remote(object);
        if !same_bytes {
            self.epoch += 1;
        }
    }

    /// Takes in what else is known of the object that the file is.
    pub(crate) fn learn(&mut self, object: ObjectMeta) {
        if self.remote().is_some_and(|now| now.id == object.id) {
            self.source = Source::Remote(object.into());
        }
    }

    pub(crate) fn set_local(&mut self, local: LocalFile) {
        self.source = Source::Local(local);
        self.epoch += 1;
    }
}

/// Every file that is open or has local changes.
#[derive(Debug, Default)]
pub(crate) struct Files {
    table: Mutex<Table>,
    /// Uploads of files that have lost their name to another inode, which their news are not about, and their own inode
    /// where they have one. Locked alone.
    strays: Mutex<BTreeMap<SessionId, Option<Ino>>>,
}

#[derive(Debug, Default)]
struct Table {
    by_ino: HashMap<Ino, Slot>,
    /// Where the news about an upload goes.
    local_by_key: HashMap<Key, Ino>,
    /// Names that a writer is about to open, and since when.
    reserved: HashMap<Key, Instant>,
}

#[derive(Debug)]
struct Slot {
    state: Arc<FileState>,
    opens: u32,
}

/// What is left to do when a handle was closed.
#[derive(Debug)]
pub(crate) enum Closed {
    /// Other handles are open.
    StillOpen,
    /// It was the last.
    Last,
}

/// Whether an inode has a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Name {
    /// It has.
    Kept,
    /// Another inode has it, or nobody.
    Lost,
}

impl Files {
    /// The state of a file, counting one more open.
    pub(crate) fn open(&self, ino: Ino) -> Arc<FileState> {
        let mut table = self.lock();
        let slot = table.by_ino.entry(ino).or_insert_with(|| Slot::new(ino, Source::Unknown));
        slot.opens += 1;
        slot.state.clone()
    }

    /// One open less. The file stays in the table until [`Files::retire`].
    pub(crate) fn close(&self, ino: Ino) -> Closed {
        let mut table = self.lock();
        let Some(slot) = table.by_ino.get_mut(&ino) else {
            return Closed::StillOpen;
        };
        slot.opens -= 1;
        if slot.opens == 0 { Closed::Last } else { Closed::StillOpen }
    }

    /// Takes a file in that an earlier mount left. One that is here already stays as it is.
    pub(crate) fn adopt(&self, ino: Ino, key: Key, local: LocalFile) {
        let mut table = self.lock();
        table.by_ino.entry(ino).or_insert_with(|| Slot::new(ino, Source::Local(local)));
        table.local_by_key.insert(key, ino);
    }

    /// News about this key go to this inode from now on.
    pub(crate) fn watch_key(&self, key: Key, ino: Ino) {
        self.lock().local_by_key.insert(key, ino);
    }

    /// No more news about this key for this inode.
    pub(crate) fn unwatch_key(&self, key: &Key, ino: Ino) {
        let mut table = self.lock();
        if table.local_by_key.get(key) == Some(&ino) {
            table.local_by_key.remove(key);
        }
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<FileState>> {
        self.lock().by_ino.get(&ino).map(|slot| slot.state.clone())
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<FileState>> {
        self.lock().by_ino.values().map(|slot| slot.state.clone()).collect()
    }

    /// News that would come about one key come about another.
    pub(crate) fn carry_keys(&self, renaming: impl Fn(&Key) -> Option<Key>) {
        let mut table = self.lock();
        let carried: Vec<(Key, Key)> =
            table.local_by_key.keys().filter_map(|key| Some((key.clone(), renaming(key)?))).collect();
        for (before, key) in carried {
            if let Some(ino) = table.local_by_key.remove(&before) {
                table.local_by_key.insert(key, ino);
            }
        }
    }

    pub(crate) fn by_key(&self, key: &Key) -> Option<Arc<FileState>> {
        let table = self.lock();
        let ino = table.local_by_key.get(key)?;
        table.by_ino.get(ino).map(|slot| slot.state.clone())
    }

    /// Whether anybody but the caller, who has it open, has the file open too.
    pub(crate) fn is_shared(&self, ino: Ino) -> bool {
        self.lock().by_ino.get(&ino).is_some_and(|slot| slot.opens > 1)
    }

    /// Whether anybody has the file open.
    pub(crate) fn is_open(&self, ino: Ino) -> bool {
        self.lock().by_ino.get(&ino).is_some_and(|slot| slot.opens > 0)
    }

    /// Keeps what has a name from being passed through for a moment, so that a writer can open it.
    pub(crate) fn reserve(&self, key: Key, now: Instant) {
        let mut table = self.lock();
        table.reserved.retain(|_, since| now.duration_since(*since) < RESERVED_FOR);
        table.reserved.insert(key, now);
    }

    /// Whether a writer is about to open the name.
    pub(crate) fn is_reserved(&self, key: &Key, now: Instant) -> bool {
        self.lock().reserved.get(key).is_some_and(|since| now.duration_since(*since) < RESERVED_FOR)
    }

    /// News of this upload are not about the file that has its name, but about this one, if any.
    pub(crate) fn note_stray(&self, session: SessionId, ino: Option<Ino>) {
        let mut strays = self.strays();
        strays.insert(session, ino);
        if strays.len() > STRAYS_MAX {
            strays.pop_first();
        }
    }

    /// Whether news of this upload are not about the file that has its name.
    pub(crate) fn is_stray(&self, session: SessionId) -> bool {
        self.strays().contains_key(&session)
    }

    /// The file whose upload this is, if it is not the one that has its name.
    pub(crate) fn stray(&self, session: SessionId) -> Option<Ino> {
        self.strays().get(&session).copied().flatten()
    }

    /// No more news of this upload will come.
    pub(crate) fn forget_stray(&self, session: SessionId) {
        self.strays().remove(&session);
    }

    /// Lets go of a file that nobody has open and that has nothing to upload, or nothing to show of it.
    pub(crate) fn retire(&self, ino: Ino, name: Name) {
        let mut table = self.lock();
        let Some(slot) = table.by_ino.get(&ino).filter(|slot| slot.opens == 0) else {
            return;
        };
        let key = {
            let mut content = slot.state.content();
            let is_removed = content.is_removed;
            match content.local() {
                Some(local) if !local.is_done() && !is_removed && name == Name::Kept => return,
                Some(local) => Some(local.file.key()),
                None => None,
            }
        };
        table.by_ino.remove(&ino);
        if let Some(key) = key.filter(|key| table.local_by_key.get(key) == Some(&ino)) {
            table.local_by_key.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn strays(&self) -> MutexGuard<'_, BTreeMap<SessionId, Option<Ino>>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn new(ino: Ino, source: Source) -> Slot {
        Slot { state: Arc::new(FileState::new(ino, source)), opens: 0 }
    }
}

/// A mode without the bits that lend the rights of owner or group to whoever executes the file, as chown(2) and write(2)
/// take them: setgid only where the group may execute it.
pub(crate) fn revoked(mode: u32) -> u32 {
    let lends_group = mode & libc::S_IXGRP != 0;
    mode & !libc::S_ISUID & !(if lends_group { libc::S_ISGID } else { 0 })
}
