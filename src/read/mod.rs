//! Bytes of one version of one object: from the cache where it has them, from the store where not.
//!
//! Contract: a [`ReadStream`] never yields bytes of another version than its [`ObjectId`]. Each byte is fetched once
//! however many ask for it at the same time, a broken fetch goes on from its last good byte, and what arrived is kept
//! in the cache in whole chunks as it arrives, so that a crash loses at most what was in flight. Memory held is bounded
//! by [`Options::memory_bytes`]. The room has never heard of an inode, a path or FUSE.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cache::ChunkCache;
use crate::observe::Metrics;
use crate::store::ObjectStore;
use crate::types::{ByteRange, ByteSize, ObjectId};

/// How reading goes about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Most bytes held in memory for reading, over all streams.
    pub memory_bytes: ByteSize,
    /// Farthest that a sequential stream is fetched ahead.
    pub prefetch_bytes: ByteSize,
    /// Bytes a ranged request when reading sequentially; a multiple of the chunk size.
    pub request_bytes: ByteSize,
    /// Requests in flight for one stream.
    pub requests_max: usize,
    /// Longest wait for the next byte of a body before the request counts as broken.
    pub stall_timeout: Duration,
    /// Longest a `read` keeps trying without progress before it fails.
    pub read_timeout: Duration,
}

/// Why bytes cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The version asked for is no longer in the store, and its bytes are not all in the cache.
    #[error("{0:?} has been replaced or removed in the bucket")]
    Gone(ObjectId),
    /// The store did not deliver within the deadline.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// The read side of a volume.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// A reader over a store, with a cache or without. Must be called on the runtime that will do the fetching.
    pub fn new(
        _store: Arc<dyn ObjectStore>,
        _cache: Option<Arc<ChunkCache>>,
        _options: Options,
        _metrics: Arc<Metrics>,
    ) -> Arc<Reader> {
        unimplemented!()
    }

    /// A stream over one version of an object; one for each open handle, so that each has its own window. No I/O.
    pub fn open(self: &Arc<Self>, _object: ObjectId) -> ReadStream {
        unimplemented!()
    }
}

/// One handle's view of one version of an object.
#[derive(Debug)]
pub struct ReadStream {}

impl ReadStream {
    /// The version it reads.
    pub fn object(&self) -> &ObjectId {
        unimplemented!()
    }

    /// Appends the bytes of `range` (cut at the object's end) to `out` and returns true, if that needs no waiting on
    /// the network. Otherwise leaves `out` as it was. Never blocks on more than a local file.
    pub fn read_now(&self, _range: ByteRange, _out: &mut Vec<u8>) -> bool {
        unimplemented!()
    }

    /// The bytes of `range`, cut at the object's end.
    pub async fn read(&self, _range: ByteRange) -> Result<Bytes, Error> {
        unimplemented!()
    }
}
