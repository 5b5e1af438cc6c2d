//! What a file under change knows of itself, under its lock.

use std::sync::Arc;

use crate::durable::Position;
use crate::store::Precondition;
use crate::types::{Attributes, ByteRange, Key, ObjectMeta, RangeSet, SessionId};
use crate::write::context::Urgency;
use crate::write::staging::{Snapshot, Staging, StagingError};
use crate::write::upload::{Base, Change, Content, FileId};
use crate::write::{Error, Piece};

/// The present content and what has been sealed of it.
pub struct FileState {
    /// Where the bytes are.
    pub standing: Standing,
    /// Where the content is to be committed.
    pub key: Key,
    /// What must be there.
    pub expected: Precondition,
    /// What shows through.
    pub base: Option<Base>,
    /// Attributes to commit with it.
    pub attributes: Attributes,
    /// The session of the present content.
    pub session: SessionId,
    /// Whether there are changes that no seal holds.
    pub is_dirty: bool,
    /// What differs from the base.
    pub dirty: RangeSet,
    /// What differs from the last sealed content.
    pub since: Option<Change>,
    /// The last sealed content, until it is in the bucket. Keeps its bytes from being overwritten.
    pub sealed: Option<Sealed>,
    /// Whether no handle is open.
    pub is_closed: bool,
    /// How far the writer is known to have passed, everything before having been written.
    pub passed: u64,
    /// Up to where that has been looked at.
    pub looked_at: u64,
    /// What the journal has been told of the unsealed content.
    pub noting: Noting,
}

/// What the journal has been told of an unsealed content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Noting {
    /// Nothing yet.
    Fresh,
    /// Everything there was to tell.
    Idle,
    /// The scheduler will see to it that it is told of the latest changes.
    Due,
}

/// Where a file's bytes are.
pub enum Standing {
    /// All in its base.
    Clean,
    /// In staging, over the base.
    Live(FileId, Staging),
    /// As before, but the file has no name any more.
    Removed(Option<(FileId, Staging)>),
    /// Set aside, for they are not what was written.
    Damaged(String),
}

/// A sealed content that is not in the bucket.
pub struct Sealed {
    /// Its session.
    pub session: SessionId,
    /// Its bytes.
    pub snapshot: Recorded,
    /// The record of it.
    pub position: Position,
    /// Whether both survive power loss.
    pub is_synced: bool,
    /// Whether somebody may have been told so, by this process or an earlier one.
    pub is_promised: bool,
    /// When it is to be uploaded.
    pub urgency: Urgency,
}

/// A snapshot that the journal speaks of: the next process needs its bytes when this one ends, however it ends.
/// Dropping a snapshot frees bytes, so this one is only dropped when its record is superseded, and else left alone.
pub struct Recorded(Option<Arc<Snapshot>>);

impl Recorded {
    /// Keeps a snapshot beyond this process.
    pub fn new(snapshot: Arc<Snapshot>) -> Recorded {
        Recorded(Some(snapshot))
    }

    /// The snapshot.
    pub fn share(&self) -> Arc<Snapshot> {
        Arc::clone(self.0.as_ref().expect("only a release takes it"))
    }

    /// The record is superseded.
    fn release(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        std::mem::forget(self.0.take());
    }
}

impl FileState {
    /// Replaces the sealed content that is not in the bucket, whose record has been superseded.
    pub fn replace_sealed(&mut self, sealed: Option<Sealed>) {
        if let Some(before) = std::mem::replace(&mut self.sealed, sealed) {
            before.snapshot.release();
        }
    }

    /// Length of the present content.
    pub fn size(&self) -> u64 {
        match &self.standing {
            Standing::Live(_, staging) | Standing::Removed(Some((_, staging))) => staging.size(),
            Standing::Clean | Standing::Removed(None) | Standing::Damaged(_) => {
                self.base.as_ref().map_or(0, |base| base.valid)
            }
        }
    }

    /// Where changes go.
    pub fn staging(&self) -> Result<&Staging, Error> {
        match &self.standing {
            Standing::Live(_, staging) | Standing::Removed(Some((_, staging))) => Ok(staging),
            Standing::Damaged(why) => Err(damaged(why)),
            Standing::Clean | Standing::Removed(None) => Err(stopped()),
        }
    }

    /// What is seen where nothing is staged.
    pub fn show_through(&self, range: ByteRange, pieces: &mut Vec<Piece>) {
        let valid = self.base.as_ref().map_or(0, |base| base.valid);
        if let Some(base) = self.base.as_ref().filter(|_| range.start < valid) {
            pieces.push(Piece::Base { object: base.object.clone(), range: range.clip(valid) });
        }
        if range.end > valid.max(range.start) {
            pieces.push(Piece::Zeros(range.end - valid.max(range.start)));
        }
    }

    /// The present content, to be sealed or noted.
    pub fn content(&self, snapshot: &Snapshot) -> Content {
        let size = snapshot.size();
        Content {
            session: self.session,
            size,
            extents: snapshot.extents().to_vec(),
            base: self.base.clone().map(|base| base.cut(size)),
            dirty: self.dirty.within(ByteRange::new(0, size)).collect(),
            change: self.since.clone(),
            attributes: self.attributes.clone(),
        }
    }

    /// What a commit returns when there is nothing to commit.
    pub fn unchanged_object(&self) -> Result<ObjectMeta, Error> {
        let base = self.base.as_ref().ok_or_else(stopped)?;
        Ok(ObjectMeta {
            id: base.object.clone(),
            modified: self.attributes.mtime.unwrap_or_default(),
            attributes: Some(self.attributes.clone()),
            token: None,
            crc64: None,
        })
    }
}

/// No change since this content.
pub fn unchanged(content: &Content) -> Change {
    Change { session: content.session, dirty: RangeSet::default(), valid: content.size }
}

/// Deletes data that are no longer needed.
pub fn remove_staging(staging: &Staging) {
    if let Err(error) = staging.remove() {
        log::warn!("Staging file {} is no longer needed but cannot be removed: {error}", staging.id());
    }
}

impl From<StagingError> for Error {
    fn from(error: StagingError) -> Error {
        match error {
            StagingError::Full { limit } => Error::StagingFull { limit },
            StagingError::Io { errno, detail } => Error::Staging { errno, detail },
        }
    }
}

/// A failed local file call.
pub fn local_error(what: &str, error: &std::io::Error) -> Error {
    Error::Staging { errno: error.raw_os_error().unwrap_or(libc::EIO), detail: format!("{what}: {error}") }
}

/// The data are not what was written.
pub fn damaged(why: &str) -> Error {
    Error::Staging { errno: libc::EIO, detail: why.to_owned() }
}

/// The file has no name.
pub fn removed() -> Error {
    Error::Staging { errno: libc::ENOENT, detail: "the file was removed before its upload".to_owned() }
}

/// The writer has been shut down.
pub fn stopped() -> Error {
    Error::Staging {
        errno: libc::ESHUTDOWN,
        detail: "the mount is shutting down; the next one goes on".to_owned(),
    }
}
