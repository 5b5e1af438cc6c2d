//! Who gets in: the limit, the room that stays free, and what is evicted for both.
//!
//! What is evicted is the unit that goes first of those that may go. One that is handed out or pinned is put aside, so
//! that it does not come up again; it is brought back when it is given back or unpinned. So a cache full of such
//! objects refuses at once instead of going round.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::layout::{Name, shards};
use crate::cache::ledger::{Admission, Ledger, Part};
use crate::cache::object::Taken;
use crate::cache::scan::{self, Found};
use crate::cache::{ChunkCache, Disk, locked};
use crate::observe::{Counter, Gauge, task};
use crate::types::ByteSize;

/// Longest that a `put` waits for the scan.
const SCAN_WAIT_MAX: Duration = Duration::from_secs(2);
/// Most units that one chunk may cost for the room that stays free.
const FREEING_MAX: u32 = 64;
/// For this long nothing is evicted for the room that stays free after that was of no use, as where snapshots hold it.
const FREEING_PAUSE: Duration = Duration::from_secs(10);

/// How far the scan has come.
#[derive(Debug, Default)]
pub(super) struct ScanProgress {
    state: Mutex<ScanState>,
    news: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct ScanState {
    /// Grows with each piece of news.
    step: u64,
    is_over: bool,
}

/// What has come of trying to evict a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Eviction {
    /// It is off the disk.
    Done,
    /// It had to stay; another may go.
    Kept,
    /// There is none that may go.
    Nothing,
    /// The disk refuses.
    Failed,
}

impl ChunkCache {
    /// Reserves bytes, evicting for them what it takes. False when they cannot be had.
    ///
    /// Must be called without any object's lock: it takes those of the objects that it evicts from.
    pub(super) fn admit(self: &Arc<Self>, disk: &Disk, bytes: u64) -> bool {
        let deadline = Instant::now() + SCAN_WAIT_MAX;
        loop {
            let seen = disk.scan.step();
            let admission = match self.books(disk, |ledger| ledger.admit(bytes)) {
                Admission::Full => {
                    let _turn = locked(&disk.eviction_turn);
                    // Whoever had the turn before may have made room for this as well.
                    match self.books(disk, |ledger| ledger.admit(bytes)) {
                        Admission::Full => match self.evict_oldest(disk) {
                            Eviction::Done | Eviction::Kept => continue,
                            Eviction::Nothing | Eviction::Failed => return false,
                        },
                        admission => admission,
                    }
                }
                admission => admission,
            };
            match admission {
                Admission::Granted => break,
                Admission::Unknown if disk.scan.wait_beyond(seen, deadline) => {}
                Admission::Unknown | Admission::Refused => return false,
                Admission::Full => {}
            }
        }
        let has_room = self.cover(disk) && self.leave_free(disk, bytes);
        if !has_room {
            self.books(disk, |ledger| ledger.release(bytes));
        }
        has_room
    }

    /// Evicts something because others have filled the disk. False when there is nothing.
    pub(super) fn evict_for_others(self: &Arc<Self>, disk: &Disk) -> bool {
        let _turn = locked(&disk.eviction_turn);
        self.evict_next(disk) == Eviction::Done
    }

    /// Does something to the ledger and shows the new sum.
    pub(super) fn books<T>(&self, disk: &Disk, act: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = locked(&disk.ledger);
        let answer = act(&mut ledger);
        self.metrics.set(Gauge::CacheBytes, ledger.bytes());
        answer
    }

    /// What had been put aside of an object may be evicted again, if nothing else holds it.
    pub(super) fn bring_back(&self, disk: &Disk, name: Name) {
        self.books(disk, |ledger| ledger.bring_back(name));
    }

    /// Notes on disk, before anything is written, how much there is going to be.
    fn cover(&self, disk: &Disk) -> bool {
        let bytes = locked(&disk.ledger).bytes();
        let covered = disk.total.cover(bytes);
        if let Err(error) = &covered {
            self.note_failure(disk, error);
        }
        covered.is_ok()
    }

    /// Sees to it that enough stays free on the disk. False when it cannot be.
    fn leave_free(self: &Arc<Self>, disk: &Disk, bytes: u64) -> bool {
        let mut free_before = None;
        for _ in 0..FREEING_MAX {
            let now = Instant::now();
            match disk.space.admit(bytes, now) {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    self.note_failure(disk, &error);
                    return false;
                }
            }
            if disk.freeing_pause.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|end| now < end)
            {
                return false;
            }
            free_before = free_before.or(disk.space.free_bytes().ok());
            let turn = locked(&disk.eviction_turn);
            let eviction = self.evict_next(disk);
            drop(turn);
            match eviction {
                Eviction::Done => {}
                Eviction::Failed => return false,
                Eviction::Kept | Eviction::Nothing => break,
            }
        }
        if disk.space.admit(bytes, Instant::now()).unwrap_or(false) {
            return true;
        }
        if disk.space.free_bytes().ok() <= free_before {
            *locked(&disk.freeing_pause) = Some(Instant::now() + FREEING_PAUSE);
        }
        disk.floor_told.get_or_init(|| {
            log::warn!(
                "Nothing more is cached for now: less than {} would stay free in {}; make room there, or lower --cache-free",
                ByteSize(disk.space.free_bytes_min()),
                disk.directory.display()
            );
        });
        false
    }

    /// Evicts the first unit that may go. The caller has the turn to evict.
    fn evict_next(self: &Arc<Self>, disk: &Disk) -> Eviction {
        // Each one kept is put aside, so this ends.
        loop {
            match self.evict_oldest(disk) {
                Eviction::Kept => {}
                eviction @ (Eviction::Done | Eviction::Nothing | Eviction::Failed) => return eviction,
            }
        }
    }

    /// Evicts the unit that goes first. The caller has the turn to evict.
    fn evict_oldest(self: &Arc<Self>, disk: &Disk) -> Eviction {
        let Some((unit, charge)) = self.books(disk, Ledger::take_oldest) else {
            return Eviction::Nothing;
        };
        let object = self.hold(unit.name);
        let taken = match unit.part {
            Part::Whole => object.evict_whole(charge),
            Part::Group(group) => object.evict_group(group),
        };
        match taken {
            Ok(taken @ (Taken::Off | Taken::Split)) => {
                // Dropping the last hold removes the files of an object that has nothing left.
                drop(object);
                self.books(disk, |ledger| ledger.left(charge));
                if taken == Taken::Off {
                    self.metrics.add(Counter::CacheEvictedBytes, charge);
                }
                Eviction::Done
            }
            Ok(Taken::Kept) => {
                self.books(disk, |ledger| ledger.put_aside(unit, charge));
                // It may have been given back before it was put aside, when there was nothing to bring back yet.
                if object.why_kept().is_none() {
                    self.bring_back(disk, unit.name);
                }
                Eviction::Kept
            }
            Err(error) => {
                self.books(disk, |ledger| ledger.put_back(unit, charge));
                self.note_failure(disk, &error);
                Eviction::Failed
            }
        }
    }

    /// Takes in what the scan has found in one folder.
    fn learn(&self, found: &[Found]) {
        if let Some(disk) = self.disk() {
            self.books(disk, |ledger| ledger.learn(found.iter().map(|object| (object.name, object.bytes))));
        }
    }

    /// Ends the scan, and brings the cache under a limit that may have been lowered.
    fn end_scan(self: &Arc<Self>, found: &[Found]) {
        let Some(disk) = self.disk() else {
            return;
        };
        self.books(disk, |ledger| ledger.end_scan(found.iter().map(|object| object.name)));
        self.cover(disk);
        loop {
            let turn = locked(&disk.eviction_turn);
            let is_over = self.books(disk, |ledger| ledger.is_over());
            let eviction = if is_over { self.evict_next(disk) } else { Eviction::Nothing };
            drop(turn);
            match eviction {
                Eviction::Done => {}
                Eviction::Kept | Eviction::Nothing | Eviction::Failed => return,
            }
        }
    }
}

impl ScanProgress {
    /// The number of the latest news.
    fn step(&self) -> u64 {
        locked(&self.state).step
    }

    /// Waits for news later than `seen`. False when there was none by then, or there will be none any more.
    fn wait_beyond(&self, seen: u64, deadline: Instant) -> bool {
        let longest = deadline.saturating_duration_since(Instant::now());
        let has_none = |state: &mut ScanState| state.step == seen && !state.is_over;
        let waited = self.news.wait_timeout_while(locked(&self.state), longest, has_none);
        waited.unwrap_or_else(PoisonError::into_inner).0.step != seen
    }

    /// Waits until the scan is over; false when it was not by then.
    pub(super) fn wait_end(&self, longest: Duration) -> bool {
        let waited = self.news.wait_timeout_while(locked(&self.state), longest, |state| !state.is_over);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_over
    }

    fn tell(&self, is_over: bool) {
        let mut state = locked(&self.state);
        state.step += 1;
        state.is_over |= is_over;
        drop(state);
        self.news.notify_all();
    }
}

/// Scans in the background. The thread holds the cache only for the moments in which it hands over what it found.
/// `bound` is what there is at most, where that is known.
pub(super) fn start_scan(cache: &Arc<ChunkCache>, disk: &Disk, bound: Option<u64>) {
    let (weak, directory, progress) = (Arc::downgrade(cache), disk.directory.clone(), disk.scan.clone());
    let started = task::thread("cache-scan", move || {
        let mut all = Vec::new();
        for shard in std::iter::once(None).chain(shards().map(Some)) {
            let Some(cache) = weak.upgrade() else {
                break;
            };
            let Some(disk) = cache.disk() else {
                break;
            };
            match shard {
                None => begin_with(&cache, disk, bound),
                Some(shard) => {
                    let making = locked(&disk.making);
                    let found = scan::scan_shard(&directory, &shard);
                    drop(making);
                    cache.learn(&found);
                    all.extend(found);
                }
            }
            progress.tell(false);
        }
        all.sort_by_key(|object| std::cmp::Reverse(object.used));
        if let Some(cache) = weak.upgrade() {
            cache.end_scan(&all);
        }
        progress.tell(true);
    });
    if let Err(error) = started {
        log::warn!("Nothing new is cached: cannot start the scan of the cache: {error}");
        disk.scan.tell(true);
    }
}

/// Lets chunks in by what is known before the scan.
fn begin_with(cache: &ChunkCache, disk: &Disk, bound: Option<u64>) {
    if let Err(error) = disk.total.sync() {
        cache.note_failure(disk, &error);
    } else if let Some(bytes) = bound {
        cache.books(disk, |ledger| ledger.expect(bytes));
    }
}
