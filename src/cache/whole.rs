//! A completely cached object as one file that can be handed out.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use crate::cache::CachedObject;

/// All bytes of one version of one object in one local file, every one of them checked. While it is held, nothing of the
/// object is evicted. The file is open for reading only.
#[derive(Debug)]
pub struct WholeFile {
    pub(super) file: File,
    pub(super) _object: Arc<CachedObject>,
}

impl AsFd for WholeFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
