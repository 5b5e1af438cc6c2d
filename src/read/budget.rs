//! How many bytes reading may hold in memory, and for whom; how many requests fetch ahead.
//!
//! A part of the memory is kept back for reads that somebody waits for, so that fetching ahead can never starve them.
//! For the same reason no more requests fetch ahead than [`FULL_STREAMS`] streams may have. Streams that fetch ahead at
//! the same time share both.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Share of the memory kept back for demanded reads: one of this many.
const RESERVE_SHARE: u64 = 4;

/// Streams that can fetch ahead with all the requests that one may have, before they have to share.
const FULL_STREAMS: usize = 2;

/// Who wants memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Urgency {
    /// Somebody waits for the bytes.
    Demand,
    /// They may be of use later.
    Prefetch,
}

/// Bytes held or promised.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: u64,
    used: u64,
}

/// Who is fetching, over all streams of a reader.
#[derive(Default, Debug)]
pub(crate) struct Load {
    /// Objects of which chunks fetched ahead are on their way or unread.
    objects: AtomicUsize,
    /// Requests that fetch ahead.
    requests: AtomicUsize,
    /// Bodies that are coming, of all requests.
    bodies: AtomicUsize,
}

/// The right to one request that fetches ahead; returned by drop.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Load>);

/// A body that is coming; over when dropped.
#[derive(Debug)]
pub(crate) struct Coming(Arc<Load>);

impl Load {
    /// An object has its first chunk fetched ahead.
    pub(crate) fn enter(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
    }

    /// An object has no such chunk any more.
    pub(crate) fn leave(&self) {
        self.objects.fetch_sub(1, Ordering::Relaxed);
    }

    /// The share of one stream in what all may have together.
    pub(crate) fn share(&self, bytes: u64) -> u64 {
        bytes / self.objects.load(Ordering::Relaxed).max(1) as u64
    }

    /// The requests of one stream, of which it may have `requests_max` when it is alone.
    pub(crate) fn requests(&self, requests_max: usize) -> usize {
        let share = FULL_STREAMS * requests_max / self.objects.load(Ordering::Relaxed).max(1);
        share.clamp(1, requests_max.max(1))
    }

    /// Objects with chunks fetched ahead.
    #[cfg(test)]
    pub(crate) fn objects(&self) -> usize {
        self.objects.load(Ordering::Relaxed)
    }

    /// A slot for one more request that fetches ahead. Callers take turns by the table's lock.
    pub(crate) fn slot(self: &Arc<Self>, requests_max: usize) -> Option<Slot> {
        if self.requests.load(Ordering::Acquire) >= FULL_STREAMS * requests_max.max(1) {
            return None;
        }
        self.requests.fetch_add(1, Ordering::AcqRel);
        Some(Slot(self.clone()))
    }

    /// A body begins to come.
    pub(crate) fn body(self: &Arc<Self>) -> Coming {
        self.bodies.fetch_add(1, Ordering::Relaxed);
        Coming(self.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Coming {
    /// Bodies that are coming now, with this one.
    pub(crate) fn bodies(&self) -> usize {
        self.0.bodies.load(Ordering::Relaxed)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.bodies.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Budget {
    pub(crate) fn new(bytes_max: u64) -> Budget {
        Budget { bytes_max, used: 0 }
    }

    /// Most that one demanded read should ask for at once.
    pub(crate) fn demand_bytes(&self) -> u64 {
        self.bytes_max / RESERVE_SHARE
    }

    /// Most that fetching ahead can hold.
    pub(crate) fn prefetch_bytes(&self) -> u64 {
        self.bytes_max - self.bytes_max / RESERVE_SHARE
    }

    /// How many bytes must be given back before these can be had.
    pub(crate) fn shortage(&self, bytes: u64, urgency: Urgency) -> u64 {
        let bytes_max = match urgency {
            Urgency::Demand => self.bytes_max,
            Urgency::Prefetch => self.prefetch_bytes(),
        };
        (self.used + bytes).saturating_sub(bytes_max)
    }

    /// Takes bytes of which there is no shortage.
    pub(crate) fn take(&mut self, bytes: u64) {
        self.used += bytes;
        debug_assert!(self.used <= self.bytes_max, "more memory was taken than there is");
    }

    /// Gives bytes back.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.used, "more memory was given back than was taken");
        self.used = self.used.saturating_sub(bytes);
    }

    /// Bytes held or promised.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_leaves_the_reserve_to_demand() {
        let mut budget = Budget::new(100);
        assert_eq!(budget.shortage(75, Urgency::Prefetch), 0);
        budget.take(75);
        assert_eq!(budget.shortage(1, Urgency::Prefetch), 1);
        assert_eq!(budget.shortage(25, Urgency::Demand), 0);
        budget.take(25);
        assert_eq!(budget.shortage(10, Urgency::Demand), 10);
        budget.give_back(30);
        assert_eq!(budget.shortage(30, Urgency::Demand), 0);
        assert_eq!(budget.shortage(30, Urgency::Prefetch), 25);
        assert_eq!(budget.used(), 70);
    }

    #[test]
    fn streams_share_memory_and_requests() {
        let load = Arc::new(Load::default());
        assert_eq!((load.share(100), load.requests(8)), (100, 8));
        (0..4).for_each(|_| load.enter());
        assert_eq!((load.share(100), load.requests(8)), (25, 4));
        (0..96).for_each(|_| load.enter());
        assert_eq!((load.share(100), load.requests(8)), (1, 1));
        let slots: Vec<_> = (0..6).map(|_| load.slot(3).unwrap()).collect();
        assert!(load.slot(3).is_none());
        drop(slots);
        assert!(load.slot(3).is_some());
    }
}
