//! What an operator does to the cache below a reader: filling it ahead, pinning, evicting, checking.
//!
//! All but [`Reader::warm`] is passed on to the cache as it is, and blocks on the local disk. Filling goes through the
//! ordinary streams, so that a byte is fetched once whoever wants it, and within the limits that all reading has.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub use crate::cache::{
    CacheReport, Evicted, Kept, ObjectReport, PinTarget, Purged, Repair, VerifyProgress, VerifyReport,
};

use crate::cache::CachedObject;
use crate::observe::task;
use crate::read::{Error, Reader};
use crate::types::{ByteRange, ObjectId, RangeSet};

/// Longest that bytes in memory may take to get to the disk, each time that some have got there.
const KEEP_WAIT_MAX: Duration = Duration::from_secs(5);
/// Pause between two looks at what has got there.
const KEEP_PAUSE: Duration = Duration::from_millis(5);
/// Pause between two news about the progress.
const TELL_INTERVAL: Duration = Duration::from_millis(250);

/// What was done to fill the cache with an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Warmed {
    /// Bytes that were not in the cache and were asked for.
    pub wanted_bytes: u64,
    /// Those of them that are in the cache now.
    pub kept_bytes: u64,
}

impl Reader {
    /// Brings what the cache lacks of an object, and waits until it is on disk or it is clear that it does not get there.
    /// `on_bytes` is told how many more bytes are there, a few times a second. Dropping the future ends it; what has come
    /// stays.
    pub async fn warm(
        self: &Arc<Self>,
        object: &ObjectId,
        on_bytes: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<Warmed, Error> {
        let Some(cache) = self.shared.cache.clone() else {
            return Ok(Warmed::default());
        };
        let cached = cache.object(object);
        let all = ByteRange::new(0, object.size);
        let wanted = present(&cached).await.gaps(all);
        let reading = self.read_all(object, &wanted);
        tokio::pin!(reading);
        let mut told = 0;
        let mut tell = |kept: u64| {
            on_bytes(kept.saturating_sub(told));
            told = told.max(kept);
        };
        loop {
            tokio::select! {
                read = &mut reading => break read?,
                () = sleep(TELL_INTERVAL) => tell(kept(&cached, &wanted).await),
            }
        }
        let kept_bytes = settled(&cached, &wanted).await;
        tell(kept_bytes);
        Ok(Warmed { wanted_bytes: sum(&wanted), kept_bytes })
    }

    /// Has all of this come by. A chunk at a time: what a read has in hand is no longer in the books of the memory.
    async fn read_all(self: &Arc<Self>, object: &ObjectId, wanted: &[ByteRange]) -> Result<(), Error> {
        let stream = self.open(object.clone());
        for gap in wanted {
            for chunk in gap.split(self.shared.chunk_bytes) {
                stream.read(chunk).await?;
            }
        }
        Ok(())
    }

    /// The cache in numbers; `None` without one.
    pub fn cache_report(&self) -> Option<CacheReport> {
        self.shared.cache.as_ref().map(|cache| cache.report())
    }

    /// What the first `object_bytes` of an object take in the cache, at most.
    pub fn bytes_for(&self, object_bytes: u64) -> u64 {
        self.shared.cache.as_ref().map_or(0, |cache| cache.bytes_for(object_bytes))
    }

    /// What is cached of an object. An empty one is whole without being there.
    pub fn object_report(&self, object: &ObjectId) -> ObjectReport {
        let report = match &self.shared.cache {
            Some(cache) => cache.object_report(object),
            None => ObjectReport { size: object.size, ..ObjectReport::default() },
        };
        ObjectReport { is_whole: report.is_whole || object.size == 0, ..report }
    }

    /// Pins something: it is not evicted to make room for others, in any version, until it is unpinned, also after a
    /// remount. An error when nothing is cached, or the pin cannot be written down.
    pub fn pin(&self, target: PinTarget) -> io::Result<()> {
        match &self.shared.cache {
            Some(cache) => cache.pin(target),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "there is no cache")),
        }
    }

    /// Takes a pin off; false when there is none like it.
    pub fn unpin(&self, target: &PinTarget) -> io::Result<bool> {
        self.shared.cache.as_ref().map_or(Ok(false), |cache| cache.unpin(target))
    }

    /// All pins, in order.
    pub fn pins(&self) -> Vec<PinTarget> {
        self.shared.cache.as_ref().map(|cache| cache.pins()).unwrap_or_default()
    }

    /// Takes what is cached of an object off the disk, unless it has to stay. An error when the disk does not let it go.
    pub fn evict(&self, object: &ObjectId) -> io::Result<Evicted> {
        match &self.shared.cache {
            Some(cache) => cache.evict(object),
            None => Ok(Evicted { bytes: 0, kept: None }),
        }
    }

    /// As [`Reader::evict`], also when it is pinned. The pin stays: what is fetched again is held again.
    pub fn evict_pinned(&self, object: &ObjectId) -> io::Result<Evicted> {
        match &self.shared.cache {
            Some(cache) => cache.evict_pinned(object),
            None => Ok(Evicted { bytes: 0, kept: None }),
        }
    }

    /// Takes everything off the disk that need not stay.
    pub fn purge(&self) -> Purged {
        self.shared.cache.as_ref().map(|cache| cache.purge()).unwrap_or_default()
    }

    /// Checks every cached chunk; `progress` is told how far it is and may end it.
    pub fn verify(
        &self,
        repair: Repair,
        progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyReport {
        self.shared.cache.as_ref().map(|cache| cache.verify(repair, progress)).unwrap_or_default()
    }
}

/// Waits until these bytes are on disk, or no more of them get there; returns how many are.
async fn settled(cached: &Arc<CachedObject>, wanted: &[ByteRange]) -> u64 {
    let (mut before, mut since) = (0, Instant::now());
    loop {
        let kept = kept(cached, wanted).await;
        if kept == sum(wanted) || since.elapsed() >= KEEP_WAIT_MAX {
            return kept;
        }
        if kept > before {
            (before, since) = (kept, Instant::now());
        }
        sleep(KEEP_PAUSE).await;
    }
}

/// How many of these bytes are on disk.
async fn kept(cached: &Arc<CachedObject>, wanted: &[ByteRange]) -> u64 {
    let here = present(cached).await;
    wanted.iter().flat_map(|&gap| here.within(gap)).map(ByteRange::len).sum()
}

fn sum(ranges: &[ByteRange]) -> u64 {
    ranges.iter().map(|range| range.len()).sum()
}

/// What is on disk of an object; its map is read for that.
async fn present(cached: &Arc<CachedObject>) -> RangeSet {
    let cached = cached.clone();
    task::spawn_blocking("cache-look", move || cached.present()).await.unwrap_or_default()
}
