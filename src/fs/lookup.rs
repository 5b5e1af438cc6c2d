//! Names to inodes, inodes to attributes.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Instant;

use crate::fs::error::Result;
use crate::fs::file::Standing;
use crate::fs::{Attr, FileSystem};
use crate::types::Ino;

impl FileSystem {
    /// Finds a name; the kernel's lookup count of the inode grows by one.
    pub async fn lookup(self: Arc<Self>, parent: Ino, name: OsString) -> Result<Attr> {
        let attr = self.namespace.lookup(parent, &name, Instant::now()).await?;
        Ok(self.with_local(attr))
    }

    /// Attributes of an inode. Of a name that a listing has shown the kernel asks once what it was told has run out, or at
    /// once when it would refuse somebody by it. Then they are the object's own: a listing does not say who may execute it.
    /// Until then a guess may also allow what the object's own mode does not; the store's keys decide who gets the bytes.
    pub async fn attr(self: Arc<Self>, ino: Ino) -> Result<Attr> {
        if self.files.get(ino).is_none() && self.namespace.is_guessed(ino)? {
            self.namespace.object(ino, Instant::now()).await?;
        }
        self.attr_of(ino).await
    }

    /// The kernel gives back `count` of its lookups. Never waits.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.pages.forget(ino);
        self.namespace.forget(ino, count);
    }

    /// An entry that was counted by [`FileSystem::remember`] did not reach the kernel after all.
    pub fn unremember(&self, ino: Ino) {
        self.namespace.forget(ino, 1);
    }

    pub(crate) async fn attr_of(&self, ino: Ino) -> Result<Attr> {
        // A file that is open is what it was when it was opened, but for our own changes, whatever the bucket has.
        let standing = self.files.get(ino).map_or(Standing::Unknown, |state| state.content().standing());
        let attr = match standing {
            Standing::Unknown => self.namespace.attr(ino, Instant::now()).await?,
            Standing::Remote | Standing::Committed | Standing::Changed => self.namespace.attr_known(ino)?,
        };
        Ok(self.with_local(attr))
    }

    /// A file under change looks as its changes make it look, whatever the bucket holds.
    pub(crate) fn with_local(&self, mut attr: Attr) -> Attr {
        let Some(state) = self.files.get(attr.ino) else {
            return attr;
        };
        let mut content = state.content();
        if let Some(local) = content.local() {
            attr.size = local.file.size();
            attr.mtime = local.attributes.mtime.unwrap_or(attr.mtime);
            attr.mode = local.attributes.mode.unwrap_or(attr.mode);
            attr.uid = local.attributes.uid.unwrap_or(attr.uid);
            attr.gid = local.attributes.gid.unwrap_or(attr.gid);
        }
        attr
    }
}
