//! Filling the cache: files are fetched side by side, those for which there is room that this would not take from itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt, stream};

use crate::fs::FileSystem;
use crate::fs::error::Error;
use crate::fs::upkeep::jobs::Meter;
use crate::fs::upkeep::paths::Subject;
use crate::fs::upkeep::{CacheNumbers, LeftOut, Outcome, Stage, WarmReport, WorkError};
use crate::read::{ObjectReport, Warmed};
use crate::types::ObjectId;

/// Files fetched at once. A large one has several requests in flight as well.
const FILES_AT_ONCE: usize = 8;
/// Room that is left, as a share of the cache (one of this many) and in bytes: chunks on their way need a little more.
const MARGIN_SHARE: u64 = 32;
const MARGIN_BYTES_MAX: u64 = 1 << 20;
/// Files that fail one after another before the rest is not tried.
const FAILURES_MAX: u32 = 8;

/// What files that are being fetched have in common.
struct Run<'a> {
    fs: &'a FileSystem,
    meter: &'a Meter,
    /// Bytes that can come without evicting what is meant to be here.
    room: AtomicU64,
    /// The cache has refused something.
    is_full: AtomicBool,
    no_room: Mutex<LeftOut>,
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
            room: AtomicU64::new(self.room(&numbers, &before)),
            is_full: AtomicBool::new(false),
            no_room: Mutex::default(),
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
            no_room: run.no_room.into_inner().unwrap_or_else(PoisonError::into_inner),
            failed: run.failed.into_inner().unwrap_or_else(PoisonError::into_inner),
        }))
    }

    /// Bytes that can come without anything of these files having to go, or anything pinned.
    fn room(&self, numbers: &CacheNumbers, files: &[ObjectReport]) -> u64 {
        let unpinned = files.iter().filter(|report| !report.is_pinned);
        let wanted_here: u64 = unpinned.map(|report| self.reader.bytes_for(report.bytes_present)).sum();
        let margin = (numbers.bytes_max / MARGIN_SHARE).min(MARGIN_BYTES_MAX);
        numbers.bytes_max.saturating_sub(margin + numbers.pinned_bytes + wanted_here)
    }
}

impl Run<'_> {
    async fn fetch(&self, object: &ObjectId, before: &ObjectReport) {
        if self.failures_in_a_row.load(Ordering::Relaxed) >= FAILURES_MAX {
            return;
        }
        let reader = &self.fs.reader;
        let bytes = reader.bytes_for(object.size) - reader.bytes_for(before.bytes_present);
        if self.is_full.load(Ordering::Relaxed) || !self.take_room(bytes) {
            return note(&self.no_room, object, "there is no room for it in the cache");
        }
        let on_bytes = |bytes| self.meter.update(|progress| progress.bytes += bytes);
        match reader.warm(object, &on_bytes).await {
            Ok(Warmed { wanted_bytes, kept_bytes }) => {
                self.fetched.fetch_add(wanted_bytes, Ordering::Relaxed);
                self.failures_in_a_row.store(0, Ordering::Relaxed);
                if kept_bytes < wanted_bytes {
                    self.is_full.store(true, Ordering::Relaxed);
                    note(&self.no_room, object, "the cache took only a part of it");
                } else {
                    self.meter.update(|progress| progress.files += 1);
                }
            }
            Err(error) => {
                self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
                note(&self.failed, object, &Error::from(error).to_string());
            }
        }
    }

    /// Takes room for all of these bytes, if there is.
    fn take_room(&self, bytes: u64) -> bool {
        let take = |room: u64| room.checked_sub(bytes);
        self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

fn note(files: &Mutex<LeftOut>, object: &ObjectId, why: &str) {
    files.lock().unwrap_or_else(PoisonError::into_inner).add(object.key.as_str(), why);
}

fn bytes_here(files: &[ObjectReport]) -> u64 {
    files.iter().map(|report| report.bytes_present).sum()
}
