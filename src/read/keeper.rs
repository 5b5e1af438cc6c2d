//! Chunks on their way from a fetch to the disk cache.
//!
//! Each hand-over to another thread costs as much as the writing of a chunk, so chunks that come fast are written several
//! at a time. One hand-over is under way at most: a disk slower than the network slows the fetch down and not memory up.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};

use crate::cache::CachedObject;
use crate::observe::task;
use crate::read::fetch::Source;
use crate::read::flight::Place;

/// Most chunks that wait for each other.
const TOGETHER_MAX: usize = 4;
/// A chunk that comes later than this after the one before does not wait for the next.
pub(crate) const TOGETHER_WITHIN: Duration = Duration::from_millis(20);

/// Keeps what one fetch brings.
pub(crate) struct Keeper {
    source: Source,
    waiting: Vec<(u64, Bytes)>,
    /// When the last one came.
    came: Instant,
    writing: Option<Writing>,
}

/// Chunks that are being written.
struct Writing {
    chunks: Vec<u64>,
    task: JoinHandle<()>,
}

impl Keeper {
    pub(crate) fn new(source: Source) -> Keeper {
        Keeper { source, waiting: Vec::new(), came: Instant::now(), writing: None }
    }

    /// Takes a chunk that has come, in order. Its memory is in use until it is written or cannot be.
    pub(crate) async fn keep(&mut self, chunk: u64, bytes: Bytes) {
        if self.source.cached.is_none() {
            return;
        }
        self.source.shared.table().writing(place(&self.source, chunk));
        self.waiting.push((chunk, bytes));
        let now = Instant::now();
        let is_late = now - self.came > TOGETHER_WITHIN;
        self.came = now;
        if is_late || self.waiting.len() >= TOGETHER_MAX {
            self.write().await;
        }
    }

    /// Whether chunks wait for others to be written with.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Has them wait no longer.
    pub(crate) async fn go_on(&mut self) {
        if self.is_waiting() {
            self.write().await;
        }
    }

    /// Waits until all that came is kept, or cannot be.
    pub(crate) async fn finish(&mut self) {
        self.go_on().await;
        self.wait().await;
    }

    async fn write(&mut self) {
        self.wait().await;
        if let Some(cached) = self.source.cached.clone() {
            let (source, waiting) = (self.source.clone(), std::mem::take(&mut self.waiting));
            let chunks = waiting.iter().map(|&(chunk, _)| chunk).collect();
            let task = task::spawn_blocking("cache-put", move || put(&source, &cached, waiting));
            self.writing = Some(Writing { chunks, task });
        }
    }

    async fn wait(&mut self) {
        if let Some(Writing { chunks, task }) = self.writing.take()
            && let Err(error) = task.await
        {
            log::debug!("Chunks were not kept: {error}");
            let mut table = self.source.shared.table();
            chunks.iter().for_each(|&chunk| table.not_kept(place(&self.source, chunk)));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Those of a fetch that was cut off by a panic or the runtime's end.
        let mut table = self.source.shared.table();
        self.waiting.iter().for_each(|&(chunk, _)| table.not_kept(place(&self.source, chunk)));
    }
}

fn put(source: &Source, cached: &Arc<CachedObject>, chunks: Vec<(u64, Bytes)>) {
    for (chunk, bytes) in chunks {
        let range = source.grid.range_of(chunk);
        cached.put(range.start, &bytes);
        drop(bytes);
        let is_kept = cached.present_within(range).contains(range);
        {
            let mut table = source.shared.table();
            match is_kept {
                true => table.kept(place(source, chunk)),
                false => table.not_kept(place(source, chunk)),
            }
        }
        source.shared.freed.notify_waiters();
    }
}

fn place(source: &Source, chunk: u64) -> Place {
    Place { object: source.number, chunk }
}
