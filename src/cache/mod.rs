//! Chunks of objects on local disk: checksummed, bounded, kept across remount and reboot.
//!
//! Contract: what [`CachedObject::read`] hands out has just been checked against its checksum; anything else is a miss.
//! The byte limit holds at every moment; when there is no room, or the disk fails, chunks are not kept and nobody
//! is told more than a counter. The room does not fetch and has never heard of a store.

use std::path::PathBuf;
use std::sync::Arc;

use crate::observe::Metrics;
use crate::types::{ByteRange, ByteSize, ObjectId, RangeSet};

/// How the cache is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where the files are; made (mode 0700) when absent.
    pub directory: PathBuf,
    /// Most bytes of chunks on disk. 0 keeps nothing.
    pub bytes_max: ByteSize,
    /// Bytes a chunk, a power of two from 4 KiB to 16 MiB.
    pub chunk_bytes: ByteSize,
}

/// The cache of one volume.
#[derive(Debug)]
pub struct ChunkCache {}

/// Why the cache cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The disk refuses.
    #[error("cannot use the cache directory {}: {source}; choose another with --cache-dir", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl ChunkCache {
    /// Opens the cache of `volume`. Does not read the chunks.
    pub fn open(
        _volume: &str,
        _options: Options,
        _metrics: Arc<Metrics>,
    ) -> Result<Arc<ChunkCache>, CacheError> {
        unimplemented!()
    }

    /// Bytes a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        unimplemented!()
    }

    /// The chunks of one version of one object; none yet, when it is new. Files are made at the first `put`.
    pub fn object(self: &Arc<Self>, _object: &ObjectId) -> Arc<CachedObject> {
        unimplemented!()
    }
}

/// The chunks of one version of one object. While it is held, eviction may still take chunks, but not the files' names.
#[derive(Debug)]
pub struct CachedObject {}

impl CachedObject {
    /// Which bytes of the object are here, in whole chunks (the last one cut at the object's end).
    pub fn present(&self) -> RangeSet {
        unimplemented!()
    }

    /// Appends the bytes of `range` (within the object) to `out` and returns true, if every chunk of it is here and
    /// proves good. Otherwise leaves `out` as it was; a damaged chunk is no longer present after that.
    pub fn read(&self, _range: ByteRange, _out: &mut Vec<u8>) -> bool {
        unimplemented!()
    }

    /// Keeps whole chunks: `offset` is a multiple of the chunk size, `bytes` ends on one or at the object's end.
    pub fn put(&self, _offset: u64, _bytes: &[u8]) {
        unimplemented!()
    }
}
