//! Bytes of one version of one object: from the cache where it has them, from the store where not.
//!
//! Contract: a [`ReadStream`] never yields bytes of another version than its [`ObjectId`]. Each byte is fetched once
//! however many ask for it at the same time, a broken fetch goes on from its last good byte, and what arrived is kept
//! in the cache in whole chunks as it arrives, so that a crash loses at most what was in flight. Memory held is bounded
//! by [`Options::memory_bytes`]. The room has never heard of an inode, a path or FUSE.
//!
//! Lock order: a stream's steering, then the table of chunks, then the cache's own locks, of which only the short ones
//! are taken under the table. No lock is held across an await.

mod budget;
mod fetch;
mod flight;
mod keeper;
mod pace;
mod patience;
mod plan;
mod steering;
mod stream;
#[cfg(test)]
mod tests;
mod upkeep;
mod whole;
mod window;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::Notify;

pub use crate::cache::WholeFile;
pub use steering::FetchedAhead;
pub use stream::ReadStream;
pub use upkeep::{
    CacheReport, Evicted, Kept, ObjectReport, PinTarget, Purged, Repair, VerifyProgress, VerifyReport, Warmed,
};

use crate::cache::ChunkCache;
use crate::observe::Metrics;
use crate::read::budget::Load;
use crate::read::flight::Table;
use crate::read::pace::Pace;
use crate::store::ObjectStore;
use crate::types::{ByteRange, ByteSize, ObjectId};

/// Bytes a chunk when there is no cache that has its own.
const CHUNK_BYTES_UNCACHED: u64 = 256 << 10;
/// Memory for at least this many chunks is taken, however little is allowed: fewer cannot be read with.
const MEMORY_CHUNKS_MIN: u64 = 4;

/// How reading goes about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Most bytes held in memory for reading, over all streams.
    pub memory_bytes: ByteSize,
    /// Farthest that a sequential stream is fetched ahead.
    pub prefetch_bytes: ByteSize,
    /// Bytes a ranged request when reading sequentially, at the most; a multiple of the chunk size.
    pub request_bytes: ByteSize,
    /// Requests in flight for one stream that fetches ahead; those that are nearly done do not count. All streams
    /// together have twice as many. Reads that somebody waits for are not held up by this.
    pub requests_max: usize,
    /// Longest wait for a body to bring bytes, more than a few, before the request counts as broken.
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
pub struct Reader {
    shared: Arc<Shared>,
}

/// What all streams and fetches of a reader have in common.
pub(crate) struct Shared {
    store: Arc<dyn ObjectStore>,
    cache: Option<Arc<ChunkCache>>,
    options: Options,
    metrics: Arc<Metrics>,
    /// Streams are used from threads that are not the runtime's.
    runtime: Handle,
    chunk_bytes: u64,
    table: Mutex<Table>,
    load: Arc<Load>,
    pace: Mutex<Pace>,
    /// Told when memory may have become free.
    freed: Notify,
}

impl Reader {
    /// A reader over a store, with a cache or without. Must be called on the runtime that will do the fetching.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cache: Option<Arc<ChunkCache>>,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Arc<Reader> {
        let chunk_bytes = cache.as_ref().map_or(CHUNK_BYTES_UNCACHED, |cache| cache.chunk_bytes());
        let memory_bytes = options.memory_bytes.0.max(MEMORY_CHUNKS_MIN * chunk_bytes);
        let load = Arc::new(Load::default());
        let shared = Shared {
            store,
            cache,
            options,
            metrics,
            runtime: Handle::current(),
            chunk_bytes,
            table: Mutex::new(Table::new(memory_bytes, load.clone())),
            load,
            pace: Mutex::default(),
            freed: Notify::new(),
        };
        Arc::new(Reader { shared: Arc::new(shared) })
    }

    /// A stream over one version of an object; one for each open handle, so that each has its own window. No I/O.
    pub fn open(self: &Arc<Self>, object: ObjectId) -> ReadStream {
        ReadStream::new(self.shared.clone(), object)
    }

    /// The bytes of `range` (within the object), if all of them are in the disk cache and prove good. No request.
    pub async fn cached(&self, object: &ObjectId, range: ByteRange) -> Option<Bytes> {
        ReadStream::new(self.shared.clone(), object.clone()).read_disk(range).await
    }

    /// The whole object as one local file, if all of it is cached, checked and compared with the store. Waits for no
    /// request; when only the comparison is missing, it is made in the background, for the next time.
    pub fn whole(&self, object: &ObjectId) -> Option<WholeFile> {
        let cached = self.shared.cache.as_ref()?.object(object);
        let file = cached.whole();
        if file.is_none() {
            whole::judge_behind(&self.shared, object, &cached);
        }
        file
    }
}

impl Shared {
    /// A panic while the table was locked has cost one request; the table is changed in single steps.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never held together with another lock of the room.
    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("store", &self.store)
            .field("options", &self.options)
            .field("table", &self.table)
            .field("load", &self.load)
            .field("pace", &self.pace)
            .finish_non_exhaustive()
    }
}
