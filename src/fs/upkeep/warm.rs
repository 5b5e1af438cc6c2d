//! Filling the cache: files are fetched side by side, as far as there is room that this would not take from itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};

use crate::fs::FileSystem;
use crate::fs::upkeep::jobs::Meter;
use crate::fs::upkeep::paths::Subject;
use crate::fs::upkeep::{CacheNumbers, LeftOut, Outcome, Stage, WarmReport, WorkError};
use crate::read::{ObjectReport, Warmed};
use crate::types::ObjectId;

/// Files fetched at once. A large one has several requests in flight as well.
const FILES_AT_ONCE: usize = 8;
/// Files that fail one after another before the rest is not tried.
const FAILURES_MAX: u32 = 8;

/// What files that are being fetched have in common.
struct Run<'a> {
    fs: &'a FileSystem,
    meter: &'a Meter,
    /// Bytes that can be fetched without evicting what is meant to be here.
    room: AtomicU64,
    is_full: AtomicBool,
    fetched: AtomicU64,
    failures_in_a_row: AtomicU32,
    failed: Mutex<LeftOut>,
}

impl FileSystem {
    pub(super) async fn warm(
        self: &Arc<Self>,
        paths: &[String],
        meter: &Arc<Meter>,
    ) -> Result<Outcome, WorkError> {
        let numbers = self.cache_in_use().await?;
        let mut objects = Vec::new();
        let mut changed = LeftOut::default();
        for subject in self.subjects(paths, meter).await? {
            match subject {
                Subject::Object(object) => objects.push(object),
                Subject::Changed(key) => {
                    changed.add(key.as_str(), "it has changes that are not in the bucket yet")
                }
            }
        }
        let objects = Arc::new(objects);
        let before = self.reports(&objects, meter).await?;
        meter.update(|progress| {
            progress.stage = Stage::Working;
            progress.files_total = objects.len() as u64;
            progress.files = before.iter().filter(|report| report.is_whole).count() as u64;
            progress.bytes = bytes_here(&before);
        });
        let run = Run {
            fs: self,
            meter,
            room: AtomicU64::new(room(&numbers, &before)),
            is_full: AtomicBool::new(false),
            fetched: AtomicU64::new(0),
            failures_in_a_row: AtomicU32::new(0),
            failed: Mutex::default(),
        };
        let missing = objects.iter().zip(&before).filter(|(_, report)| !report.is_whole);
        stream::iter(missing)
            .for_each_concurrent(FILES_AT_ONCE, |(object, report)| run.fetch(object, report))
            .await;
        // Looked at anew: what was here at first may have been evicted by what came.
        let after = self.reports(&objects, meter).await?;
        let not_keeping = self.cache_in_use().await?.not_keeping;
        Ok(Outcome::Warmed(WarmReport {
            files: objects.len() as u64,
            whole_files: after.iter().filter(|report| report.is_whole).count() as u64,
            bytes: objects.iter().map(|object| object.size).sum(),
            kept_bytes: bytes_here(&after),
            fetched_bytes: run.fetched.into_inner(),
            cache_bytes_max: numbers.bytes_max,
            not_keeping,
            changed,
            failed: run.failed.into_inner().unwrap_or_else(PoisonError::into_inner),
        }))
    }
}

impl Run<'_> {
    async fn fetch(&self, object: &ObjectId, before: &ObjectReport) {
        let granted = self.take_room(object.size - before.bytes_present);
        let is_hopeless = self.failures_in_a_row.load(Ordering::Relaxed) >= FAILURES_MAX;
        if granted == 0 || is_hopeless || self.is_full.load(Ordering::Relaxed) {
            return;
        }
        let on_bytes = |bytes| self.meter.update(|progress| progress.bytes += bytes);
        match self.fs.reader.warm(object, granted, &on_bytes).await {
            Ok(Warmed { wanted_bytes, kept_bytes }) => {
                self.fetched.fetch_add(wanted_bytes, Ordering::Relaxed);
                self.failures_in_a_row.store(0, Ordering::Relaxed);
                if kept_bytes < wanted_bytes {
                    self.is_full.store(true, Ordering::Relaxed);
                } else if kept_bytes + before.bytes_present >= object.size {
                    self.meter.update(|progress| progress.files += 1);
                }
            }
            Err(error) => {
                self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
                let why = crate::fs::error::Error::from(error).to_string();
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).add(object.key.as_str(), why);
            }
        }
    }

    /// As much of these bytes as there is room for.
    fn take_room(&self, bytes: u64) -> u64 {
        let take = |room: u64| Some(room.saturating_sub(bytes));
        let before = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        before.unwrap_or_else(|room| room).min(bytes)
    }
}

/// Bytes that can come without anything of these files having to go, or anything pinned.
fn room(numbers: &CacheNumbers, files: &[ObjectReport]) -> u64 {
    let unpinned = files.iter().filter(|report| !report.is_pinned);
    let wanted_here: u64 = unpinned.map(|report| report.bytes_present).sum();
    numbers.bytes_max.saturating_sub(numbers.pinned_bytes).saturating_sub(wanted_here)
}

fn bytes_here(files: &[ObjectReport]) -> u64 {
    files.iter().map(|report| report.bytes_present).sum()
}
