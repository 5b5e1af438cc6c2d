//! What the store says of a whole object, against what came of it.
//!
//! A fetch that brings an object from end to end is compared before its last chunk is handed on; a small one that
//! comes unbroken, before any of it is. What came in pieces is compared in the cache, once all of it is there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::cache::{CachedObject, Judged};
use crate::observe::task;
use crate::read::Shared;
use crate::types::{ByteRange, Crc64, ObjectId};

/// Objects up to this many bytes wait until all of them has been compared, so that no byte of a damaged answer is
/// handed on. Larger ones would make readers of their start wait too long.
const HELD_BACK_BYTES_MAX: u64 = 1 << 20;

/// How long a fetch may take from its last chunk to the comparison.
const JUDGED_BY_FETCH_WITHIN: Duration = Duration::from_millis(500);

/// What a store has said of an object's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// It has not been asked in a way that it would tell.
    NotAsked,
    /// It has none.
    None,
    /// This one.
    Crc(Crc64),
}

/// The comparison of one fetch.
#[derive(Debug)]
pub(crate) struct WholeCheck {
    /// Bytes of the object, if the fetch is of all of them.
    size: Option<u64>,
    told: Told,
    /// Of all chunks handed on.
    handed_sum: Crc64,
    /// The next ones.
    held_back: Vec<(u64, Bytes)>,
    /// Of both.
    sum: Crc64,
    is_refuted: bool,
}

/// The bytes are not those that the store has the checksum of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mismatch;

impl WholeCheck {
    /// For a fetch of `range` of an object of `size` bytes.
    pub(crate) fn new(range: ByteRange, size: u64) -> WholeCheck {
        let size = (range == ByteRange::new(0, size)).then_some(size);
        let (handed_sum, sum) = (Crc64::EMPTY, Crc64::EMPTY);
        WholeCheck { size, told: Told::NotAsked, handed_sum, held_back: Vec::new(), sum, is_refuted: false }
    }

    /// Whether a request from this byte on is best sent without a range: servers tell the checksum only then.
    pub(crate) fn asks_for_all(&self, at: u64) -> bool {
        self.size.is_some() && at == 0
    }

    /// Takes in what an answer says; `is_whole` when it was not to a request for a range.
    pub(crate) fn hear(&mut self, crc: Option<Crc64>, asked_for_all: Asked) {
        self.told = match (crc, asked_for_all) {
            (Some(crc), Asked::ForAll | Asked::ForRange) => Told::Crc(crc),
            (None, Asked::ForAll) => Told::None,
            (None, Asked::ForRange) => self.told,
        };
    }

    /// Takes in the next chunk, of this range; returns those that can be handed on now, in order. After a mismatch, all
    /// that was not handed on must be fetched again: the chunk, and those held back.
    pub(crate) fn take(
        &mut self,
        chunk: u64,
        range: ByteRange,
        bytes: Bytes,
    ) -> Result<Vec<(u64, Bytes)>, Mismatch> {
        let Some(size) = self.size else {
            return Ok(vec![(chunk, bytes)]);
        };
        self.sum = self.sum.then(Crc64::of(&bytes), range.len());
        self.held_back.push((chunk, bytes));
        let is_last = range.end == size;
        let may_go = match self.told {
            Told::Crc(told) if is_last && self.sum != told => {
                self.sum = self.handed_sum;
                self.held_back.clear();
                self.is_refuted = true;
                return Err(Mismatch);
            }
            Told::Crc(_) => is_last || size > HELD_BACK_BYTES_MAX,
            Told::None | Told::NotAsked => true,
        };
        if !may_go {
            return Ok(Vec::new());
        }
        self.handed_sum = self.sum;
        Ok(std::mem::take(&mut self.held_back))
    }

    /// Chunks held back, which must be handed on now because the answer has broken off.
    pub(crate) fn release(&mut self) -> Vec<(u64, Bytes)> {
        self.handed_sum = self.sum;
        std::mem::take(&mut self.held_back)
    }

    pub(crate) fn told(&self) -> Told {
        self.told
    }

    /// Whether a comparison has failed.
    pub(crate) fn is_refuted(&self) -> bool {
        self.is_refuted
    }
}

/// How an answer was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// From end to end.
    ForAll,
    /// By a range.
    ForRange,
}

/// Has a completely cached object compared with the store's checksum, for which the store is asked if it has not told
/// yet. Does nothing when the object is not complete, has been compared, or somebody is at it.
pub(crate) async fn judge(shared: &Shared, id: &ObjectId, cached: &Arc<CachedObject>, told: Told) {
    if cached.begin_judging() {
        judge_begun(shared, id, cached, told).await;
    }
}

/// The same in the background, for an object that was completed before the process ended. Whoever has just completed it
/// knows more, and is given time.
pub(crate) fn judge_behind(shared: &Arc<Shared>, id: &ObjectId, cached: &Arc<CachedObject>) {
    if !cached.is_unjudged() {
        return;
    }
    let (shared, id, cached) = (shared.clone(), id.clone(), cached.clone());
    let runtime = shared.runtime.clone();
    task::spawn_on(&runtime, "cache-judge", async move {
        tokio::time::sleep(JUDGED_BY_FETCH_WITHIN).await;
        judge(&shared, &id, &cached, Told::NotAsked).await;
    });
}

async fn judge_begun(shared: &Shared, id: &ObjectId, cached: &Arc<CachedObject>, told: Told) {
    let crc = match told {
        Told::Crc(crc) => Some(crc),
        Told::None => None,
        Told::NotAsked if !shared.store.capabilities().stores_crc64 => None,
        Told::NotAsked => match shared.store.head(&id.key).await {
            Ok(meta) if meta.id == *id => meta.crc64,
            // Of this version nobody can say anything any more.
            Ok(_) => return cached.leave_unjudged(),
            Err(error) => {
                log::debug!("Cannot compare the cached {} with the store: {error}", id.key);
                return cached.leave_unjudged();
            }
        },
    };
    let object = cached.clone();
    match task::spawn_blocking("cache-judge", move || object.judge(crc)).await {
        Ok(Judged::Different) => forget(shared, id),
        Ok(Judged::Same | Judged::NotTold | Judged::Incomplete) => {}
        Err(error) => {
            log::debug!("The cached {} was not compared with the store: {error}", id.key);
            cached.leave_unjudged();
        }
    }
}

/// Gives everything up that is here of an object whose bytes are not those that the store has the checksum of.
pub(crate) async fn distrust(shared: &Shared, id: &ObjectId, cached: Option<&Arc<CachedObject>>) {
    if let Some(object) = cached.cloned()
        && let Err(error) = task::spawn_blocking("cache-distrust", move || object.distrust()).await
    {
        log::debug!("The cached {} was not given up: {error}", id.key);
    }
    forget(shared, id);
}

/// Drops what is in memory of an object.
fn forget(shared: &Shared, id: &ObjectId) {
    shared.table().discard(id);
    shared.freed.notify_waiters();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(size: u64, chunk_bytes: u64) -> Vec<(u64, ByteRange, Bytes)> {
        let ranges = ByteRange::new(0, size).split(chunk_bytes);
        (0..)
            .zip(ranges)
            .map(|(n, range)| (n, range, Bytes::from(vec![n as u8; range.len() as usize])))
            .collect()
    }

    fn crc(chunks: &[(u64, ByteRange, Bytes)]) -> Crc64 {
        chunks.iter().fold(Crc64::EMPTY, |sum, (_, range, bytes)| sum.then(Crc64::of(bytes), range.len()))
    }

    #[test]
    fn a_small_object_is_held_back_until_it_has_been_compared() {
        let (size, whole) = (300_000, ByteRange::new(0, 300_000));
        let parts = chunks(size, 100_000);
        let mut check = WholeCheck::new(whole, size);
        assert!(check.asks_for_all(0) && !check.asks_for_all(1));
        check.hear(Some(crc(&parts)), Asked::ForAll);
        let bad = Bytes::from(vec![9; 100_000]);
        assert_eq!(check.take(0, parts[0].1, bad), Ok(vec![]));
        assert_eq!(check.take(1, parts[1].1, parts[1].2.clone()), Ok(vec![]));
        assert_eq!(check.take(2, parts[2].1, parts[2].2.clone()), Err(Mismatch));
        let mut handed = Vec::new();
        for (n, range, bytes) in &parts {
            handed.extend(check.take(*n, *range, bytes.clone()).unwrap());
        }
        assert_eq!(handed.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn of_a_large_object_the_last_chunk_waits() {
        let size = HELD_BACK_BYTES_MAX + 1;
        let parts = chunks(size, 1 << 18);
        let mut check = WholeCheck::new(ByteRange::new(0, size), size);
        check.hear(Some(crc(&parts)), Asked::ForAll);
        let (last, rest) = parts.split_last().unwrap();
        for (n, range, bytes) in rest {
            assert_eq!(check.take(*n, *range, bytes.clone()).unwrap().len(), 1);
        }
        check.hear(None, Asked::ForRange);
        assert_eq!(check.take(last.0, last.1, Bytes::from_static(b"x")), Err(Mismatch));
        assert_eq!(check.take(last.0, last.1, last.2.clone()).unwrap().len(), 1);
    }

    #[test]
    fn without_a_word_of_the_store_or_all_of_the_object_nothing_is_held_back() {
        let parts = chunks(10, 5);
        let mut untold = WholeCheck::new(ByteRange::new(0, 10), 10);
        untold.hear(None, Asked::ForAll);
        assert_eq!(untold.told(), Told::None);
        assert_eq!(untold.take(0, parts[0].1, parts[0].2.clone()).unwrap().len(), 1);
        let mut partial = WholeCheck::new(ByteRange::new(0, 5), 10);
        assert!(!partial.asks_for_all(0));
        partial.hear(Some(Crc64(1)), Asked::ForRange);
        assert_eq!(partial.take(0, parts[0].1, parts[0].2.clone()).unwrap().len(), 1);
        assert_eq!(partial.told(), Told::Crc(Crc64(1)));
    }
}
