//! The chunks checked last, as bytes in memory.
//!
//! A program that reads 4 KiB at a time would have each chunk read and checked 64 times. What is served from here is
//! memory that was checked, not disk that once was; it belongs to one version of one object and so never goes stale.

use std::fmt;
use std::sync::{Arc, Mutex};

use lru::LruCache;

use crate::cache::layout::Name;
use crate::cache::locked;

/// Most bytes held, over all objects, unless a single chunk is larger.
const RECENT_BYTES_MAX: u64 = 16 << 20;
/// Buffers kept for the next chunks: fresh memory costs as much as the checksum.
const SPARES_MAX: usize = 4;

/// A chunk's bytes, as they were when they were checked.
type Checked = Arc<Vec<u8>>;

/// A bounded memory of checked chunks.
pub(crate) struct Recent {
    chunks_max: usize,
    state: Mutex<State>,
}

struct State {
    chunks: LruCache<(Name, u64), Checked>,
    spares: Vec<Vec<u8>>,
}

impl Recent {
    pub(crate) fn new(chunk_bytes: u64) -> Recent {
        let chunks_max = (RECENT_BYTES_MAX / chunk_bytes).max(1) as usize;
        Recent { chunks_max, state: Mutex::new(State { chunks: LruCache::unbounded(), spares: Vec::new() }) }
    }

    pub(crate) fn get(&self, name: Name, chunk: u64) -> Option<Checked> {
        locked(&self.state).chunks.get(&(name, chunk)).cloned()
    }

    /// A buffer of this length with anything in it.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = locked(&self.state).spares.pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    /// Remembers a chunk that has just been checked.
    pub(crate) fn keep(&self, name: Name, chunk: u64, bytes: Checked) {
        let mut state = locked(&self.state);
        let mut left = state.chunks.put((name, chunk), bytes);
        if state.chunks.len() > self.chunks_max {
            left = state.chunks.pop_lru().map(|(_, bytes)| bytes);
        }
        if let Some(buffer) = left.and_then(Arc::into_inner)
            && state.spares.len() < SPARES_MAX
        {
            state.spares.push(buffer);
        }
    }
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").field("chunks_max", &self.chunks_max).finish_non_exhaustive()
    }
}
