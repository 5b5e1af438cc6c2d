//! What an operator does to the cache of a mount: looking, filling, pinning, evicting, checking, emptying.
//!
//! Whatever may take long is a job: started, asked about, cancelled. Jobs change nothing but the local disk, they never
//! keep a mount from ending, and what they have done so far stays when they are cut off; so each can be repeated, and
//! goes on where it was. Files are told by their paths in the mount, and are the versions that the bucket has now.
//!
//! Files with local changes are left alone: what they need is not in the bucket yet.

mod jobs;
mod paths;
mod pins;
mod refresh;
mod report;
mod warm;
mod works;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::fs::FileSystem;
use crate::fs::error;
use crate::fs::upkeep::jobs::Meter;

pub(crate) use jobs::Jobs;
pub use jobs::{JobId, JobView, TooManyJobs};
pub use report::{
    CacheNumbers, EvictReport, LeftOut, NamedFile, Outcome, PathReport, Progress, PurgeReport, Stage,
    Unpinned, VerifyReport, WarmReport, Work,
};

/// Most files that one job is about: so many names are held in memory.
const FILES_MAX: usize = 250_000;

/// Why some work ended early.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// A path cannot be had.
    #[error("'{path}': {error}")]
    Path {
        /// Which.
        path: String,
        /// Why.
        error: error::Error,
    },
    /// The mount has no cache, or cannot use it.
    #[error("nothing is cached on this mount: {0}")]
    NoCache(String),
    /// Too many files.
    #[error("these are more than {FILES_MAX} files: do it with fewer directories at a time")]
    TooManyFiles,
    /// The list of pins cannot be changed.
    #[error("the pin of '{pin}' cannot be noted: {error}")]
    Pin {
        /// Which.
        pin: String,
        /// Why.
        error: io::Error,
    },
    /// A defect, or the mount's end.
    #[error("it was cut off")]
    CutOff,
}

impl FileSystem {
    /// The cache in numbers. Blocks on the local disk.
    pub fn cache_numbers(&self) -> CacheNumbers {
        let Some(report) = self.reader.cache_report() else {
            let not_keeping = Some("--cache-size is 0".to_owned());
            return CacheNumbers { not_keeping, is_scanned: true, ..CacheNumbers::default() };
        };
        CacheNumbers {
            is_keeping: report.not_keeping.is_none(),
            not_keeping: report.not_keeping,
            directory: report.directory,
            bytes: report.bytes,
            bytes_max: report.bytes_max,
            free_bytes_min: report.free_bytes_min,
            free_bytes: report.free_bytes,
            objects: report.objects,
            pins: self.reader.pins().len() as u64,
            pinned_objects: report.pinned_objects,
            pinned_bytes: report.pinned_bytes,
            hits: report.hits,
            misses: report.misses,
            damaged: report.damaged,
            bypassed: report.bypassed,
            evicted_bytes: report.evicted_bytes,
            failures: report.failures,
            is_scanned: report.is_scanned,
        }
    }

    /// Begins some work. Must be called on the runtime.
    pub fn start_work(self: &Arc<Self>, work: Work) -> Result<JobId, TooManyJobs> {
        let fs = self.clone();
        self.jobs.start(move |meter| async move { fs.work(work, &meter).await })
    }

    /// How a job is doing, told when it has ended or after `wait` (a second at most). `None` when there is no such job: what
    /// came of one is told once, and forgotten a minute after its end. A job that nobody asks about for a minute is cancelled.
    pub async fn job(&self, job: JobId, wait: Duration) -> Option<JobView> {
        self.jobs.view(job, wait).await
    }

    /// Cancels a job, if there is one.
    pub fn cancel_job(&self, job: JobId) {
        self.jobs.cancel(job);
    }

    async fn work(self: &Arc<Self>, work: Work, meter: &Arc<Meter>) -> Result<Outcome, WorkError> {
        match work {
            Work::Stat { paths } => self.look_at(&paths, meter).await,
            Work::Pin { paths } => self.pin(&paths).await,
            Work::Warm { paths } => self.warm(&paths, meter).await,
            Work::Evict { paths, pinned_too } => self.evict(&paths, pinned_too, meter).await,
            Work::Verify { repair } => self.verify(repair, meter).await,
            Work::Purge => self.purge(meter).await,
        }
    }
}
