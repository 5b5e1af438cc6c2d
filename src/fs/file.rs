//! One file that is open or has local changes: which content it has right now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::read::ReadStream;
use crate::types::{Attributes, Ino, Key, ObjectId, ObjectMeta, UnixTime};
use crate::write::WriteFile;

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
    /// Kept when the file is rewritten. `None` also where nobody asked for the object's metadata, which only writing needs.
    pub(crate) content_type: Option<String>,
}

impl From<ObjectMeta> for RemoteFile {
    fn from(object: ObjectMeta) -> RemoteFile {
        RemoteFile {
            id: object.id,
            content_type: object.attributes.and_then(|attributes| attributes.content_type),
        }
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
    /// Reads what shows through from the object below.
    pub(crate) base: Option<Arc<ReadStream>>,
}

impl LocalFile {
    pub(crate) fn new(file: Arc<WriteFile>) -> LocalFile {
        let attributes = file.attributes();
        LocalFile { file, attributes, attributes_are_new: false, is_untouched: false, base: None }
    }

    /// The content has changed at `now`.
    pub(crate) fn touch(&mut self, now: UnixTime) {
        self.attributes.mtime = Some(now);
        self.attributes_are_new = true;
        self.is_untouched = false;
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

    /// Whether everything is in the bucket.
    pub(crate) fn is_clean(&self) -> bool {
        !self.attributes_are_new && !self.file.is_dirty() && !self.file.is_pending()
    }
}

impl FileState {
    fn new(ino: Ino, source: Source) -> FileState {
        let content = Content { epoch: 0, source, is_removed: false };
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

    /// The file is this object now. Handles that read look again.
    pub(crate) fn set_remote(&mut self, object: RemoteFile) {
        let same_bytes = self.remote().is_some_and(|now| now.id == object.id);
        self.source = Source::Remote(object);
        if !same_bytes {
            self.epoch += 1;
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
}

#[derive(Debug, Default)]
struct Table {
    by_ino: HashMap<Ino, Slot>,
    /// Where the news about an upload goes.
    local_by_key: HashMap<Key, Ino>,
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

    pub(crate) fn by_key(&self, key: &Key) -> Option<Arc<FileState>> {
        let table = self.lock();
        let ino = table.local_by_key.get(key)?;
        table.by_ino.get(ino).map(|slot| slot.state.clone())
    }

    /// Whether anybody but the caller, who has it open, has the file open too.
    pub(crate) fn is_shared(&self, ino: Ino) -> bool {
        self.lock().by_ino.get(&ino).is_some_and(|slot| slot.opens > 1)
    }

    /// Lets go of a file that nobody has open and that has nothing to upload.
    pub(crate) fn retire(&self, ino: Ino) {
        let mut table = self.lock();
        let Some(slot) = table.by_ino.get(&ino).filter(|slot| slot.opens == 0) else {
            return;
        };
        let key = {
            let mut content = slot.state.content();
            let is_removed = content.is_removed;
            match content.local() {
                Some(local) if !local.is_clean() && !is_removed => return,
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
}

impl Slot {
    fn new(ino: Ino, source: Source) -> Slot {
        Slot { state: Arc::new(FileState::new(ino, source)), opens: 0 }
    }
}
