//! Directories: reading, making, removing.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::fs::error::{Error, Result};
use crate::fs::handles::DirectoryHandle;
use crate::fs::{Attr, DirEntry, FileSystem};
use crate::types::{Attributes, Fh, Ino, UnixTime};

impl FileSystem {
    /// Opens a directory for reading.
    pub async fn open_directory(self: Arc<Self>, ino: Ino) -> Result<Fh> {
        let listing = self.namespace.open_directory(ino)?;
        Ok(self.handles.add_directory(DirectoryHandle { ino, listing }))
    }

    /// The entries behind `offset`, at least one unless the end is reached, without `.` and `..`.
    pub async fn read_directory(self: Arc<Self>, fh: Fh, offset: u64) -> Result<Vec<DirEntry>> {
        let handle = self.handles.directory(fh)?;
        let entries = self.namespace.read_directory(&handle.listing, offset, Instant::now()).await?;
        let with_local =
            |entry: &DirEntry| DirEntry { attr: self.with_local(entry.attr.clone()), ..entry.clone() };
        Ok(entries.iter().map(with_local).collect())
    }

    /// The inode a directory handle reads.
    pub fn directory_ino(&self, fh: Fh) -> Result<Ino> {
        Ok(self.handles.directory(fh)?.ino)
    }

    /// The kernel was given an entry together with its attributes, which counts as a lookup.
    pub fn remember(&self, ino: Ino) {
        self.namespace.remember(ino);
    }

    /// A directory handle is closed.
    pub fn release_directory(&self, fh: Fh) {
        self.handles.remove_directory(fh);
    }

    /// `fsync` of a directory. Names are made, moved and removed in the bucket, or in the journal, before their calls
    /// return; after this they survive power loss too.
    pub async fn sync_directory(self: Arc<Self>) -> Result<()> {
        Ok(self.writer.sync().await?)
    }

    /// Makes a directory.
    pub async fn mkdir(self: Arc<Self>, parent: Ino, name: OsString, attributes: Attributes) -> Result<Attr> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let mtime = Some(UnixTime::from(SystemTime::now()));
        let attributes = Attributes { mtime, ..attributes };
        let _turn = self.turn_beside(parent).await;
        Ok(self.namespace.mkdir(parent, &name, attributes, Instant::now()).await?)
    }

    /// Removes an empty directory.
    pub async fn rmdir(self: Arc<Self>, parent: Ino, name: OsString) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let _turn = self.turn(&[parent]).await?;
        Ok(self.namespace.rmdir(parent, &name, Instant::now()).await?)
    }
}
