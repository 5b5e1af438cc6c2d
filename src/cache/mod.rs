//! Chunks of objects on local disk: checksummed, bounded, kept across remount and reboot.
//!
//! Contract:
//! * What [`CachedObject::read`] hands out has been checked against its checksum by this process, and the file has not
//!   been changed by anybody else since; anything else is a miss. Whole chunks are checked each time they are read.
//! * [`CachedObject::whole`] hands out a file of which that is true from end to end, and whose checksum is the store's
//!   where the store has one. What the kernel then reads from it, it reads unchecked: a disk that gives back other bytes
//!   than it was given, without an error and after they were checked, is beyond what can be promised there.
//! * The byte limit holds at every moment, and so much stays free on the disk as was asked for. When there is no room,
//!   or the disk fails, chunks are not kept and nobody is told more than a counter and one line in the log.
//! * What is pinned or handed out is not evicted. Pins follow the name; of one name, the version asked for last is held.
//!
//! The room does not fetch and has never heard of a store: [`CachedObject::judge`] is told what the store says.
//!
//! Each volume has a folder of its own under the cache directory, with a lease on it, and the limit is that of one
//! folder: two mounts of two buckets may share a directory and take the limit each. A second mount of the same volume
//! with the same directory keeps nothing and says so in the log.
//!
//! What is on disk is found by a scan of names and sizes in the background. Chunks already here are served at once. New
//! ones are admitted at once as well, because a file tells how much there is at most, which counts as used until the
//! scan has come to it; only after a crash of the machine they wait, a moment at most, for the scan.
//!
//! Lock order: the turn to evict, then an object's files, then the right to make files, then leaves that are never
//! nested (the table of held objects, an object's presence, the ledger, the pins).

mod admission;
mod files;
mod health;
mod layout;
mod ledger;
mod object;
mod pins;
mod report;
mod scan;
mod space;
#[cfg(test)]
mod tests;
mod total;
mod verify;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::{Duration, Instant};

pub use files::volumes;
pub use object::{CachedObject, Judged, Resident, WholeFile};
pub use pins::PinTarget;
pub use report::{CacheReport, Evicted, Kept, ObjectReport, Purged};
pub use verify::{Repair, VerifyProgress, VerifyReport};

use crate::cache::admission::ScanProgress;
use crate::cache::files::map::{HEADER_BYTES_MAX, Header};
use crate::cache::health::Health;
use crate::cache::layout::Name;
use crate::cache::ledger::Ledger;
use crate::cache::object::Prover;
use crate::cache::pins::Pins;
use crate::cache::space::Space;
use crate::cache::total::Total;
use crate::durable::{Lease, LeaseError};
use crate::observe::{Counter, Metrics};
use crate::types::{ByteSize, ObjectId};

/// Sizes a chunk may have.
const CHUNK_BYTES_RANGE: std::ops::RangeInclusive<u64> = 4 << 10..=16 << 20;
/// Longest wait for the folder of a volume that another process has. One that ends gives the memory of what it knew of
/// many objects back first.
const LEASE_WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LEASE_PAUSE: Duration = Duration::from_millis(20);

/// How the cache is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where the files are; made (mode 0700) when absent.
    pub directory: PathBuf,
    /// Most bytes on disk for this volume: chunks in whole blocks, and what their maps take. 0 keeps nothing.
    pub bytes_max: ByteSize,
    /// Bytes that stay free on the disk for others. 0 fills it up.
    pub free_bytes_min: ByteSize,
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
    /// No.
    Nothing {
        directory: PathBuf,
        bytes_max: u64,
        /// Why not, for the user.
        reason: String,
    },
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
    /// Held while the files of an object are made, and while a folder is scanned.
    making: Mutex<()>,
    ledger: Mutex<Ledger>,
    pins: RwLock<Pins>,
    scan: Arc<ScanProgress>,
    total: Total,
    space: Space,
    /// Until when nothing is evicted for the room that stays free.
    freeing_pause: Mutex<Option<Instant>>,
    /// Set when chunks were first refused for the room that stays free, which is logged once.
    floor_told: OnceLock<()>,
    health: Health,
    prover: Prover,
    /// Last, so that the folder is given back when nothing else is left of the cache.
    _lease: Lease,
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
    /// Opens the cache of `volume`. Does not read the chunks. A disk that is full, read-only or failing is no error:
    /// then nothing is cached.
    pub fn open(
        volume: &str,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<ChunkCache>, CacheError> {
        let chunk_bytes = options.chunk_bytes.0;
        if !chunk_bytes.is_power_of_two() || !CHUNK_BYTES_RANGE.contains(&chunk_bytes) {
            return Err(CacheError::ChunkBytes(options.chunk_bytes));
        }
        let (keeping, bound) = Keeping::of(volume, &options)?;
        let cache = Arc::new(ChunkCache { volume: volume.to_owned(), chunk_bytes, metrics, keeping });
        if let Some(disk) = cache.disk() {
            admission::start_scan(&cache, disk, bound);
        }
        Ok(cache)
    }

    /// Bytes a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The chunks of one version of one object; none yet, when it is new. Files are made at the first `put`. Of a pinned
    /// name, this is the version that is held from now on.
    pub fn object(self: &Arc<Self>, object: &ObjectId) -> Arc<CachedObject> {
        let header = self.header(object);
        let name = Name::of(&header);
        match self.disk() {
            Some(disk) if header.encoded_bytes() <= HEADER_BYTES_MAX => {
                if disk.pins().covers(&header.key) {
                    let before = disk
                        .pins
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .use_version(&header.key, name);
                    before.into_iter().for_each(|before| self.bring_back(disk, before));
                }
                let held = self.hold(name);
                held.identify(header);
                held
            }
            Some(_) | None => Arc::new(CachedObject::without_files(self.clone(), name)),
        }
    }

    fn header(&self, object: &ObjectId) -> Header {
        Header::new(&self.volume, object, self.chunk_bytes)
    }

    fn disk(&self) -> Option<&Disk> {
        match &self.keeping {
            Keeping::Nothing { .. } => None,
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

    /// Counts a failure of the disk, and leaves it alone for a while.
    fn note_failure(&self, disk: &Disk, error: &std::io::Error) {
        self.metrics.add(Counter::CacheFailures, 1);
        disk.health.failed(error, &disk.directory, Instant::now());
    }
}

impl Keeping {
    /// Also tells how much is on disk at most, where that is known.
    fn of(volume: &str, options: &Options) -> Result<(Keeping, Option<u64>), CacheError> {
        let nothing = |reason: String| {
            let (directory, bytes_max) = (options.directory.clone(), options.bytes_max.0);
            Ok((Keeping::Nothing { directory, bytes_max, reason }, None))
        };
        if options.bytes_max.0 == 0 {
            return nothing("--cache-size is 0".to_owned());
        }
        let directory = layout::volume_directory(&options.directory, volume);
        let failed = |source: std::io::Error| {
            if !health::is_disk_failing(&source) {
                return Err(CacheError::Io { directory: directory.clone(), source });
            }
            // As later, when it fails while we are mounted.
            log::warn!("Nothing is cached: {} cannot be used: {source}", directory.display());
            nothing(format!("{} cannot be used: {source}", directory.display()))
        };
        let lease = match take_folder(&directory) {
            Ok(lease) => lease,
            Err(LeaseError::Held { holder, .. }) => {
                log::warn!(
                    "Nothing is cached: process {holder} has the cache of this volume; give one of the mounts a --cache-dir of its own"
                );
                return nothing(format!("process {holder} has the cache of this volume"));
            }
            Err(LeaseError::Io { source, .. }) => return failed(source),
        };
        let opened = Total::open(&directory).and_then(|total| Ok((total, Pins::open(&directory)?)));
        let ((total, bound), pins) = match opened {
            Ok(opened) => opened,
            Err(source) => return failed(source),
        };
        let disk = Disk {
            held: Mutex::default(),
            eviction_turn: Mutex::default(),
            making: Mutex::default(),
            ledger: Mutex::new(Ledger::new(options.bytes_max.0)),
            pins: RwLock::new(pins),
            scan: Arc::default(),
            total,
            space: Space::new(directory.clone(), options.free_bytes_min.0),
            freeing_pause: Mutex::default(),
            floor_told: OnceLock::new(),
            health: Health::default(),
            prover: Prover::default(),
            directory,
            _lease: lease,
        };
        Ok((Keeping::OnDisk(Box::new(disk)), bound))
    }
}

impl Disk {
    fn pins(&self) -> RwLockReadGuard<'_, Pins> {
        self.pins.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let ledger = self.ledger.get_mut().unwrap_or_else(PoisonError::into_inner);
        if ledger.is_scanned()
            && let Err(error) = self.total.close(ledger.bytes())
        {
            log::debug!("Cannot note how much is cached: {error}");
        }
    }
}

/// Takes a volume's folder, which the process of a mount that has just ended may have for a moment longer.
fn take_folder(directory: &Path) -> Result<Lease, LeaseError> {
    let deadline = Instant::now() + LEASE_WAIT_MAX;
    loop {
        match Lease::acquire(directory) {
            Err(LeaseError::Held { .. }) if Instant::now() < deadline => std::thread::sleep(LEASE_PAUSE),
            taken @ (Ok(_) | Err(LeaseError::Held { .. } | LeaseError::Io { .. })) => return taken,
        }
    }
}

/// A panic while a lock was held has cost one request; the data under it are changed in single steps.
fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
