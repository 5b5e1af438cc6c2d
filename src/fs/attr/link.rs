//! Symbolic links: objects whose content is the target, with the type in their metadata, as s3fs keeps them.
//!
//! A new one is made here and uploaded a moment later, so that the attributes that `cp -a` and `tar` give it then go along.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;

use crate::fs::error::{Error, Result};
use crate::fs::file::{FileState, LocalFile};
use crate::fs::{Attr, CommitMode, FileSystem, OpenMode};
use crate::types::{Attributes, ByteRange, Ino, Key, UnixTime};
use crate::write::{Origin, Precondition, WriteFile};

/// Longest target in bytes: with its end it fills a page (`PATH_MAX` of Linux), and the kernel takes no more.
const TARGET_BYTES_MAX: u64 = 4095;
/// What s3fs says of a link's content.
const CONTENT_TYPE: &str = "application/octet-stream";

impl FileSystem {
    /// Makes a symbolic link. It is in the bucket, or journaled so that it gets there also after a crash, when this returns.
    pub async fn symlink(
        self: Arc<Self>,
        parent: Ino,
        name: OsString,
        target: Vec<u8>,
        attributes: Attributes,
    ) -> Result<Attr> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        if target.len() as u64 > TARGET_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        let attributes = Attributes {
            mtime: Some(UnixTime::from(SystemTime::now())),
            content_type: Some(CONTENT_TYPE.to_owned()),
            is_symlink: true,
            ..attributes
        };
        let key = self.namespace.child_key(parent, &name)?;
        let attr = self.namespace.create(parent, &name, attributes.clone(), Instant::now()).await?;
        let state = self.files.open(attr.ino);
        self.files.watch_key(key.clone(), attr.ino);
        let made = match self.make_link(key.clone(), &target, attributes).await {
            Ok(file) => {
                state.content().set_local(LocalFile::new(file));
                let shown = self.with_local(attr);
                self.settle_link(&state).await.map(|()| shown)
            }
            Err(error) => {
                self.files.unwatch_key(&key, attr.ino);
                self.namespace.remove(parent, &name, Instant::now());
                self.namespace.forget(attr.ino, 1);
                Err(error)
            }
        };
        self.close_state(&state);
        made
    }

    /// The target of a symbolic link.
    pub async fn read_link(self: Arc<Self>, ino: Ino) -> Result<Bytes> {
        let state = self.files.open(ino);
        let result = self.target_of(&state).await;
        self.close_state(&state);
        result
    }

    /// A link on its way into the bucket. Of one that cannot be noted nothing is left.
    async fn make_link(&self, key: Key, target: &[u8], attributes: Attributes) -> Result<Arc<WriteFile>> {
        let file = self.writer.create(key, Origin::New, Precondition::Absent, attributes)?;
        match file.write(0, target).and_then(|()| file.seal_soon()) {
            Ok(()) => Ok(file),
            Err(error) => {
                file.discard().await?;
                Err(error.into())
            }
        }
    }

    async fn settle_link(&self, state: &FileState) -> Result<()> {
        match self.options.commit {
            CommitMode::Close | CommitMode::Background => Ok(()),
            CommitMode::Remote => self.flush_state(state).await,
        }
    }

    async fn target_of(&self, state: &FileState) -> Result<Bytes> {
        {
            let _gate = state.gate.lock().await;
            self.settle_version(state, OpenMode::Read).await?;
        }
        let size = self.with_local(self.namespace.attr_known(state.ino)?).size;
        if size > TARGET_BYTES_MAX {
            return Err(Error::NameTooLong);
        }
        let range = ByteRange::new(0, size);
        let object = state.content().remote().map(|object| object.id.clone());
        match (object, state.local()) {
            (Some(object), _) => Ok(self.reader.open(object).read(range).await?),
            (None, Some(file)) => self.read_local(state, &file, range).await,
            (None, None) => Err(Error::NotFound),
        }
    }
}
