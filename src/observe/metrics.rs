//! Every number the daemon counts, in one place.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! names {
    ($(#[$doc:meta])* $kind:ident { $($(#[$variant_doc:meta])* $variant:ident => $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $kind {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $kind {
            const ALL: &'static [$kind] = &[$($kind::$variant,)*];

            /// The name under which it is printed.
            pub fn name(self) -> &'static str {
                match self {
                    $($kind::$variant => $name,)*
                }
            }
        }
    };
}

names! {
    /// Something that only ever grows.
    Counter {
        /// Requests sent to the store, retries included.
        StoreRequests => "store_requests",
        /// Requests sent again after a failure.
        StoreRetries => "store_retries",
        /// Requests that failed, each attempt for itself.
        StoreErrors => "store_errors",
        /// Object bytes received from the store.
        FetchedBytes => "fetched_bytes",
        /// Object bytes sent to the store.
        SentBytes => "sent_bytes",
        /// Ranged reads that broke and went on from where they were.
        FetchesResumed => "fetches_resumed",
        /// Chunks served from the disk cache.
        CacheHits => "cache_hits",
        /// Chunks asked for that were not in the disk cache.
        CacheMisses => "cache_misses",
        /// Chunks whose checksum was wrong and which were therefore fetched again.
        CacheDamaged => "cache_damaged",
        /// Bytes put out of the disk cache to make room.
        CacheEvictedBytes => "cache_evicted_bytes",
        /// Chunks not kept because the cache was full or failing.
        CacheBypassed => "cache_bypassed",
        /// Errors of the cache's disk.
        CacheFailures => "cache_failures",
        /// Completely cached objects whose checksum was not the store's, and which were therefore taken out.
        CacheWholeMismatch => "cache_whole_mismatch",
        /// Parts stored by the server.
        PartsSent => "parts_sent",
        /// Parts found on the server after a restart and not sent again.
        PartsKept => "parts_kept",
        /// Parts written anew as they were, and therefore copied on the server.
        PartsUnchanged => "parts_unchanged",
        /// Parts sent a second time.
        PartsResent => "parts_resent",
        /// Files whose content became visible in the bucket.
        Commits => "commits",
        /// Commits whose answer was lost and that were resolved by looking.
        CommitsLookedUp => "commits_looked_up",
        /// Commits that met another writer's version.
        Conflicts => "conflicts",
        /// Uploads taken up again at mount.
        UploadsRecovered => "uploads_recovered",
        /// Records or staging files set aside as damaged.
        Quarantined => "quarantined",
        /// Requests from the kernel.
        FuseRequests => "fuse_requests",
        /// Requests of the kernel for bytes of files.
        FuseReads => "fuse_reads",
        /// Files opened to be read by the kernel without asking us.
        PassthroughOpens => "passthrough_opens",
        /// Files fetched before they were opened, and then opened.
        FilesAhead => "files_ahead",
        /// Files fetched before they were opened, and given up.
        FilesAheadUnused => "files_ahead_unused",
        /// Requests answered with an unexpected error (EIO, ETIMEDOUT).
        FuseErrors => "fuse_errors",
        /// Tasks that panicked.
        TaskPanics => "task_panics",
    }
}

names! {
    /// Something that goes up and down.
    Gauge {
        /// Bytes of objects in the disk cache.
        CacheBytes => "cache_bytes",
        /// Bytes in staging files.
        StagingBytes => "staging_bytes",
        /// Uploads not yet in the bucket.
        UploadsPending => "uploads_pending",
        /// Requests on their way to the store.
        RequestsInFlight => "requests_in_flight",
        /// Handles the kernel holds open.
        OpenHandles => "open_handles",
    }
}

/// The counters and gauges of one mount. Shared by `Arc`; every method is wait-free.
#[derive(Debug)]
pub struct Metrics {
    counters: Vec<AtomicU64>,
    gauges: Vec<AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            counters: Counter::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            gauges: Gauge::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Metrics {
    /// Adds to a counter.
    pub fn add(&self, counter: Counter, count: u64) {
        self.counters[counter as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// Reads a counter.
    pub fn count(&self, counter: Counter) -> u64 {
        self.counters[counter as usize].load(Ordering::Relaxed)
    }

    /// Sets a gauge.
    pub fn set(&self, gauge: Gauge, value: u64) {
        self.gauges[gauge as usize].store(value, Ordering::Relaxed);
    }

    /// Raises a gauge.
    pub fn raise(&self, gauge: Gauge, by: u64) {
        self.gauges[gauge as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Lowers a gauge, at most to zero.
    pub fn lower(&self, gauge: Gauge, by: u64) {
        let cell = &self.gauges[gauge as usize];
        let lowered =
            cell.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| Some(now.saturating_sub(by)));
        debug_assert!(lowered.is_ok(), "the closure never declines");
    }

    /// Reads a gauge.
    pub fn level(&self, gauge: Gauge) -> u64 {
        self.gauges[gauge as usize].load(Ordering::Relaxed)
    }

    /// All values by name.
    pub fn snapshot(&self) -> MetricsSnapshot {
        let counters = Counter::ALL.iter().map(|&c| (c.name().to_owned(), self.count(c)));
        let gauges = Gauge::ALL.iter().map(|&g| (g.name().to_owned(), self.level(g)));
        MetricsSnapshot(counters.chain(gauges).collect())
    }
}

/// All values at one moment, by name.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MetricsSnapshot(pub BTreeMap<String, u64>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_values_are_kept_apart() {
        let metrics = Metrics::default();
        metrics.add(Counter::Commits, 2);
        metrics.raise(Gauge::CacheBytes, 5);
        metrics.lower(Gauge::CacheBytes, 9);
        let snapshot = metrics.snapshot();
        assert_eq!(snapshot.0.len(), Counter::ALL.len() + Gauge::ALL.len());
        assert_eq!(snapshot.0["commits"], 2);
        assert_eq!(snapshot.0["cache_bytes"], 0);
    }
}
