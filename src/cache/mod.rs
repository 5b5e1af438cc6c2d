//! Chunks of objects on local disk: checksummed, bounded, kept across remount and reboot.
//!
//! Contract: what [`CachedObject::read`] hands out has just been checked against its checksum; anything else is a miss.
//! The byte limit holds at every moment; when there is no room, or the disk fails, chunks are not kept and nobody
//! is told more than a counter. The room does not fetch and has never heard of a store.
//!
//! Each volume has a folder of its own under the cache directory, with a lease on it, and the limit is that of one
//! folder: two mounts of two buckets may share a directory and take the limit each. A second mount of the same volume
//! with the same directory keeps nothing and says so in the log.
//!
//! What is on disk is found by a scan of names and sizes in the background. Until it has ended, chunks already here are
//! served, and new ones wait, a moment at most, because the room left is not known.
//!
//! Lock order: the turn to evict, then an object's files, then leaves that are never nested (the table of held
//! objects, an object's presence, the ledger, the chunks checked last).

mod files;
mod layout;
mod ledger;
mod map;
mod object;
mod recent;
mod scan;
#[cfg(test)]
mod tests;
mod whole;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

pub use object::CachedObject;
pub use whole::WholeFile;

use crate::cache::layout::Name;
use crate::cache::ledger::{Admission, Ledger, Part};
use crate::cache::map::{HEADER_BYTES_MAX, Header};
use crate::cache::recent::Recent;
use crate::cache::scan::Found;
use crate::durable::{Lease, LeaseError};
use crate::observe::{Counter, Gauge, Metrics, task};
use crate::types::{ByteSize, ObjectId};

/// Longest that a `put` waits for the end of the scan.
const SCAN_WAIT_MAX: Duration = Duration::from_secs(2);
/// Sizes a chunk may have.
const CHUNK_BYTES_RANGE: std::ops::RangeInclusive<u64> = 4 << 10..=16 << 20;

/// How the cache is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where the files are; made (mode 0700) when absent.
    pub directory: PathBuf,
    /// Most bytes on disk for this volume: chunks in whole blocks, and what their maps take. 0 keeps nothing.
    pub bytes_max: ByteSize,
    /// Bytes a chunk, a power of two from 4 KiB to 16 MiB.
    pub chunk_bytes: ByteSize,
}

/// The cache of one volume.
#[derive(Debug)]
pub struct ChunkCache {
    volume: String,
    chunk_bytes: u64,
    metrics: Arc<Metrics>,
    keeping: Keeping,
}

/// Whether chunks are kept at all.
#[derive(Debug)]
enum Keeping {
    /// No: the limit is 0, or another process has the volume's folder.
    Nothing,
    /// Yes.
    OnDisk(Box<Disk>),
}

/// What a cache that keeps chunks knows.
#[derive(Debug)]
struct Disk {
    /// The volume's own folder.
    directory: PathBuf,
    /// Objects in use, so that all users of one share its locks.
    held: Mutex<HashMap<Name, Weak<CachedObject>>>,
    /// Held while evicting, so that no more is evicted than is needed.
    eviction_turn: Mutex<()>,
    ledger: Mutex<Ledger>,
    recent: Recent,
    scan_end: Arc<ScanEnd>,
    /// Set by the first failure to write, which is the one that is logged.
    failure_told: OnceLock<()>,
    /// Last, so that the folder is given back when nothing else is left of the cache.
    _lease: Lease,
}

/// Tells when the scan is over.
#[derive(Debug, Default)]
struct ScanEnd {
    has_come: Mutex<bool>,
    news: Condvar,
}

/// Why the cache cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The disk refuses.
    #[error("cannot use the cache directory {}: {source}; choose another with --cache-dir", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// No chunk can have this size.
    #[error("a chunk cannot have {0}: choose a power of two from 4 KiB to 16 MiB with --chunk-size")]
    ChunkBytes(ByteSize),
}

impl ChunkCache {
    /// Opens the cache of `volume`. Does not read the chunks.
    pub fn open(
        volume: &str,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<ChunkCache>, CacheError> {
        let chunk_bytes = options.chunk_bytes.0;
        if !chunk_bytes.is_power_of_two() || !CHUNK_BYTES_RANGE.contains(&chunk_bytes) {
            return Err(CacheError::ChunkBytes(options.chunk_bytes));
        }
        let keeping = Keeping::of(volume, &options)?;
        let cache = Arc::new(ChunkCache { volume: volume.to_owned(), chunk_bytes, metrics, keeping });
        if let Some(disk) = cache.disk() {
            start_scan(&cache, disk);
        }
        Ok(cache)
    }

    /// Bytes a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The chunks of one version of one object; none yet, when it is new. Files are made at the first `put`.
    pub fn object(self: &Arc<Self>, object: &ObjectId) -> Arc<CachedObject> {
        let header = Header::new(&self.volume, object, self.chunk_bytes);
        let name = Name::of(&header);
        match self.disk() {
            Some(_) if header.encoded_bytes() <= HEADER_BYTES_MAX => {
                let held = self.hold(name);
                held.identify(header);
                held
            }
            Some(_) | None => Arc::new(CachedObject::without_files(self.clone(), name)),
        }
    }

    fn disk(&self) -> Option<&Disk> {
        match &self.keeping {
            Keeping::Nothing => None,
            Keeping::OnDisk(disk) => Some(disk),
        }
    }

    /// The one [`CachedObject`] of a name.
    fn hold(self: &Arc<Self>, name: Name) -> Arc<CachedObject> {
        let Some(disk) = self.disk() else {
            return Arc::new(CachedObject::without_files(self.clone(), name));
        };
        let mut held = locked(&disk.held);
        if let Some(object) = held.get(&name).and_then(Weak::upgrade) {
            return object;
        }
        let object = Arc::new(CachedObject::new(self.clone(), name));
        held.insert(name, Arc::downgrade(&object));
        object
    }

    /// Reserves bytes, evicting for them what it takes. False when they cannot be had.
    ///
    /// Must be called without any object's lock: it takes those of the objects that it evicts from.
    fn admit(self: &Arc<Self>, disk: &Disk, bytes: u64) -> bool {
        loop {
            match self.books(disk, |ledger| ledger.admit(bytes)) {
                Admission::Granted => return true,
                Admission::Refused => return false,
                Admission::Unknown if disk.scan_end.wait(SCAN_WAIT_MAX) => continue,
                Admission::Unknown => return false,
                Admission::Full => {}
            }
            let turn = locked(&disk.eviction_turn);
            // Whoever had the turn before may have made room for this as well.
            match self.books(disk, |ledger| ledger.admit(bytes)) {
                Admission::Granted => return true,
                Admission::Refused | Admission::Unknown => return false,
                Admission::Full => {}
            }
            let evicted = self.evict_oldest(disk);
            drop(turn);
            if !evicted {
                return false;
            }
        }
    }

    /// Evicts something because others have filled the disk. False when there is nothing.
    fn evict_for_others(self: &Arc<Self>, disk: &Disk) -> bool {
        let _turn = locked(&disk.eviction_turn);
        self.evict_oldest(disk)
    }

    /// Evicts the unit that goes first. False when there is none. The caller has the turn to evict.
    fn evict_oldest(self: &Arc<Self>, disk: &Disk) -> bool {
        let Some((unit, charge)) = self.books(disk, Ledger::take_oldest) else {
            return false;
        };
        let object = self.hold(unit.name);
        match unit.part {
            Part::Whole => object.evict_whole(charge),
            Part::Group(group) => object.evict_group(group),
        }
        // Dropping the last hold removes the files of an object that has nothing left.
        drop(object);
        self.books(disk, |ledger| ledger.left(charge));
        self.metrics.add(Counter::CacheEvictedBytes, charge);
        true
    }

    /// Does something to the ledger and shows the new sum.
    fn books<T>(&self, disk: &Disk, act: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = locked(&disk.ledger);
        let answer = act(&mut ledger);
        self.metrics.set(Gauge::CacheBytes, ledger.bytes());
        answer
    }

    /// Takes in what the scan has found, and brings the cache under a limit that may have been lowered.
    fn end_scan(self: &Arc<Self>, found: &[Found]) {
        let Some(disk) = self.disk() else {
            return;
        };
        self.books(disk, |ledger| ledger.end_scan(found.iter().map(|object| (object.name, object.bytes))));
        loop {
            let turn = locked(&disk.eviction_turn);
            let done = !self.books(disk, |ledger| ledger.is_over()) || !self.evict_oldest(disk);
            drop(turn);
            if done {
                return;
            }
        }
    }
}

impl Keeping {
    fn of(volume: &str, options: &Options) -> Result<Keeping, CacheError> {
        if options.bytes_max.0 == 0 {
            return Ok(Keeping::Nothing);
        }
        let directory = layout::volume_directory(&options.directory, volume);
        let lease = match Lease::acquire(&directory) {
            Ok(lease) => lease,
            Err(LeaseError::Held { holder, .. }) => {
                log::warn!(
                    "Nothing is cached: process {holder} has the cache of this volume; give one of the mounts a --cache-dir of its own"
                );
                return Ok(Keeping::Nothing);
            }
            // As later, when it fills up while we are mounted.
            Err(LeaseError::Io { directory, source }) if is_full(&source) => {
                log::warn!("Nothing is cached: there is no room for {}: {source}", directory.display());
                return Ok(Keeping::Nothing);
            }
            Err(LeaseError::Io { directory, source }) => return Err(CacheError::Io { directory, source }),
        };
        Ok(Keeping::OnDisk(Box::new(Disk {
            directory,
            held: Mutex::default(),
            eviction_turn: Mutex::default(),
            ledger: Mutex::new(Ledger::new(options.bytes_max.0)),
            recent: Recent::new(options.chunk_bytes.0),
            scan_end: Arc::default(),
            failure_told: OnceLock::new(),
            _lease: lease,
        })))
    }
}

impl ScanEnd {
    fn come(&self) {
        *locked(&self.has_come) = true;
        self.news.notify_all();
    }

    /// Waits for the end; false when it has not come by then.
    fn wait(&self, longest: Duration) -> bool {
        let waited = self.news.wait_timeout_while(locked(&self.has_come), longest, |has_come| !*has_come);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Scans in the background. The thread holds the cache only for the moment in which it hands over what it found.
fn start_scan(cache: &Arc<ChunkCache>, disk: &Disk) {
    let (weak, directory, end) = (Arc::downgrade(cache), disk.directory.clone(), disk.scan_end.clone());
    let started = task::thread("cache-scan", move || {
        let found = scan::scan(&directory, || weak.strong_count() == 0);
        if let Some(cache) = weak.upgrade() {
            cache.end_scan(&found);
        }
        end.come();
    });
    if let Err(error) = started {
        log::warn!("Nothing new is cached: cannot start the scan of the cache: {error}");
        disk.scan_end.come();
    }
}

/// A panic while a lock was held has cost one request; the data under it are changed in single steps.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
