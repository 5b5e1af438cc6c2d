//! What the kernel holds open.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::fs::error::{Error, Result};
use crate::fs::file::FileState;
use crate::fs::open::Process;
use crate::namespace::Directory;
use crate::observe::{Gauge, Metrics};
use crate::read::ReadStream;
use crate::types::{Fh, Ino};

/// An open file.
#[derive(Debug)]
pub(crate) struct FileHandle {
    /// The file.
    pub(crate) state: Arc<FileState>,
    /// Opened for writing.
    pub(crate) is_writable: bool,
    /// Who opened it for writing, as far as that is known.
    pub(crate) writer: Option<Process>,
    /// The version this handle reads while the file has no local changes, and the epoch of the file it belongs to.
    pub(crate) stream: Mutex<Option<(u64, Arc<ReadStream>)>>,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct DirectoryHandle {
    pub(crate) ino: Ino,
    pub(crate) listing: Directory,
}

#[derive(Clone, Debug)]
enum Handle {
    File(Arc<FileHandle>),
    Directory(Arc<DirectoryHandle>),
}

/// Every open handle by its number. Numbers are not used twice.
#[derive(Debug)]
pub(crate) struct Handles {
    open: RwLock<HashMap<Fh, Handle>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Handles {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Handles {
        Handles { open: RwLock::default(), next: AtomicU64::new(1), metrics }
    }

    pub(crate) fn add_file(&self, handle: FileHandle) -> Fh {
        self.add(Handle::File(Arc::new(handle)))
    }

    pub(crate) fn add_directory(&self, handle: DirectoryHandle) -> Fh {
        self.add(Handle::Directory(Arc::new(handle)))
    }

    pub(crate) fn file(&self, fh: Fh) -> Result<Arc<FileHandle>> {
        match self.get(fh) {
            Some(Handle::File(handle)) => Ok(handle),
            Some(Handle::Directory(_)) | None => Err(Error::BadHandle),
        }
    }

    pub(crate) fn directory(&self, fh: Fh) -> Result<Arc<DirectoryHandle>> {
        match self.get(fh) {
            Some(Handle::Directory(handle)) => Ok(handle),
            Some(Handle::File(_)) | None => Err(Error::BadHandle),
        }
    }

    /// Takes a file handle out.
    pub(crate) fn remove_file(&self, fh: Fh) {
        self.remove(fh);
    }

    /// Takes a directory handle out.
    pub(crate) fn remove_directory(&self, fh: Fh) -> Option<Arc<DirectoryHandle>> {
        match self.remove(fh) {
            Some(Handle::Directory(handle)) => Some(handle),
            Some(Handle::File(_)) | None => None,
        }
    }

    fn add(&self, handle: Handle) -> Fh {
        let fh = Fh(self.next.fetch_add(1, Ordering::Relaxed));
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(fh, handle);
        self.metrics.raise(Gauge::OpenHandles, 1);
        fh
    }

    fn get(&self, fh: Fh) -> Option<Handle> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&fh).cloned()
    }

    fn remove(&self, fh: Fh) -> Option<Handle> {
        let handle = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&fh);
        if handle.is_some() {
            self.metrics.lower(Gauge::OpenHandles, 1);
        }
        handle
    }
}
