//! File operations: the only room that speaks both inodes and objects.

mod status;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::namespace::Namespace;
use crate::observe::Metrics;
use crate::read::Reader;
use crate::write::{Event, Recovered, Writer};

pub use status::Status;

/// What the file system promises and to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// When `close` and `fsync` return.
    pub commit: CommitMode,
    /// Refuse every change.
    pub read_only: bool,
}

/// When `close` and `fsync` return success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitMode {
    /// `close`: the object is in the bucket. `fsync`: the data survive power loss locally.
    #[default]
    Close,
    /// Both: the data survive power loss locally; the upload goes on behind.
    Background,
    /// Both: the object is in the bucket.
    Remote,
}

/// The file operations of one mount.
#[derive(Debug)]
pub struct FileSystem {}

impl FileSystem {
    /// Puts the rooms together and takes in what the time before this mount left. Must be called on the runtime.
    pub fn new(
        _namespace: Arc<Namespace>,
        _reader: Arc<Reader>,
        _writer: Arc<Writer>,
        _recovered: Recovered,
        _events: mpsc::UnboundedReceiver<Event>,
        _options: Options,
        _metrics: Arc<Metrics>,
    ) -> Arc<FileSystem> {
        unimplemented!()
    }

    /// What is going on.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Gives up an upload and its data, at the user's word.
    pub async fn discard(&self, _session: crate::types::SessionId) -> Result<(), crate::write::Error> {
        unimplemented!()
    }

    /// Waits until everything acknowledged is in the bucket, or nothing of it can go on.
    pub async fn drained(&self) {
        unimplemented!()
    }

    /// Stops: what is not in the bucket goes on at the next mount.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}

/// Base bytes of changed files, through the reader.
pub fn base_source(_reader: Arc<Reader>) -> Arc<dyn crate::write::BaseSource> {
    unimplemented!()
}
