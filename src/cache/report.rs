//! What the operator asks of a cache: what is in it, what shall stay, what shall go.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::cache::files::map::Header;
use crate::cache::layout::Name;
use crate::cache::{ChunkCache, Disk, Keeping, PinTarget, locked};
use crate::observe::Counter;
use crate::types::{ByteSize, ObjectId};

/// Longest that a purge waits for the scan, before which it would not find everything.
const PURGE_SCAN_WAIT_MAX: Duration = Duration::from_secs(60);

/// A cache at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CacheReport {
    /// The volume's own folder; the cache directory where nothing is kept.
    pub directory: PathBuf,
    /// Bytes that are on disk, at most.
    pub bytes: u64,
    /// Most bytes that may be.
    pub bytes_max: u64,
    /// Bytes that are to stay free on the disk.
    pub free_bytes_min: u64,
    /// Bytes that are free there; `None` when the disk does not say.
    pub free_bytes: Option<u64>,
    /// Objects of which there is anything, as far as the scan has come.
    pub objects: u64,
    /// Those that a pin holds.
    pub pinned_objects: u64,
    /// Bytes of those.
    pub pinned_bytes: u64,
    /// Chunks served since the mount.
    pub hits: u64,
    /// Chunks that had to be fetched.
    pub misses: u64,
    /// Chunks that were damaged.
    pub damaged: u64,
    /// Chunks that were not kept.
    pub bypassed: u64,
    /// Bytes that made room for others.
    pub evicted_bytes: u64,
    /// Errors of the disk.
    pub failures: u64,
    /// Whether the scan has found everything.
    pub is_scanned: bool,
    /// Why nothing new is kept at this moment; `None` when it is.
    pub not_keeping: Option<String>,
}

/// One version of one object in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ObjectReport {
    /// Bytes of it that are here.
    pub bytes_present: u64,
    /// Bytes that it has.
    pub size: u64,
    /// All of it is here.
    pub is_whole: bool,
    /// A pin holds this version.
    pub is_pinned: bool,
    /// All of it is here, proven and compared with the store, and that is noted on disk.
    pub is_sealed: bool,
    /// It is handed out as a whole file.
    pub is_in_use: bool,
}

/// Why something stays in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// It is handed out as a whole file; it can go when that is given back.
    InUse,
    /// A pin holds it.
    Pinned,
}

/// What has come of evicting an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evicted {
    /// Bytes that are off the disk.
    pub bytes: u64,
    /// Why it had to stay; then nothing of it has gone.
    pub kept: Option<Kept>,
}

/// What has come of a purge.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Purged {
    /// Objects that are off the disk.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that stay because they are handed out.
    pub in_use_objects: u64,
    /// Their bytes.
    pub in_use_bytes: u64,
    /// Objects that stay because a pin holds them.
    pub pinned_objects: u64,
    /// Their bytes.
    pub pinned_bytes: u64,
    /// Objects that the disk did not let go.
    pub failed_objects: u64,
    /// What the disk said to the first of those.
    pub failure: Option<String>,
}

impl CacheReport {
    /// Whether new chunks are kept at this moment.
    pub fn is_keeping(&self) -> bool {
        self.not_keeping.is_none()
    }
}

impl ChunkCache {
    /// Keeps the chunks of a name, or of all names below a directory, from being evicted; fetches nothing. When it
    /// returns, the pin survives a crash. An error when nothing is cached, or the pin cannot be written down.
    pub fn pin(&self, what: PinTarget) -> io::Result<()> {
        let disk = self.disk_or_error()?;
        disk.pins.write().unwrap_or_else(PoisonError::into_inner).add(what)
    }

    /// Takes a pin off; false when there is none like it. What only it held can be evicted after that.
    pub fn unpin(&self, what: &PinTarget) -> io::Result<bool> {
        let disk = self.disk_or_error()?;
        let was_there = disk.pins.write().unwrap_or_else(PoisonError::into_inner).remove(what)?;
        if was_there {
            // Those that another pin holds are put aside again when they come up.
            self.books(disk, |ledger| ledger.bring_all_back());
        }
        Ok(was_there)
    }

    /// All pins, in order.
    pub fn pins(&self) -> Vec<PinTarget> {
        self.disk().map(|disk| disk.pins().targets().cloned().collect()).unwrap_or_default()
    }

    /// The cache at this moment. Where there are pins, the header of each object is read.
    pub fn report(&self) -> CacheReport {
        let count = |counter| self.metrics.count(counter);
        let mut report = CacheReport {
            directory: PathBuf::new(),
            bytes: 0,
            bytes_max: 0,
            free_bytes_min: 0,
            free_bytes: None,
            objects: 0,
            pinned_objects: 0,
            pinned_bytes: 0,
            hits: count(Counter::CacheHits),
            misses: count(Counter::CacheMisses),
            damaged: count(Counter::CacheDamaged),
            bypassed: count(Counter::CacheBypassed),
            evicted_bytes: count(Counter::CacheEvictedBytes),
            failures: count(Counter::CacheFailures),
            is_scanned: true,
            not_keeping: None,
        };
        match &self.keeping {
            Keeping::Nothing { directory, bytes_max, reason } => {
                report.directory = directory.clone();
                report.bytes_max = *bytes_max;
                report.not_keeping = Some(reason.clone());
            }
            Keeping::OnDisk(disk) => self.report_on(disk, &mut report),
        }
        report
    }

    /// One version of one object. Reads its map.
    pub fn object_report(self: &Arc<Self>, object: &ObjectId) -> ObjectReport {
        self.hold(Name::of(&self.header(object))).report(object)
    }

    /// Takes one version of an object off the disk, unless it is handed out or pinned. Whoever reads it goes on with the
    /// store. An error when the disk does not let it go.
    pub fn evict(self: &Arc<Self>, object: &ObjectId) -> io::Result<Evicted> {
        let Some(disk) = self.disk() else {
            return Ok(Evicted { bytes: 0, kept: None });
        };
        let name = Name::of(&self.header(object));
        let held = self.hold(name);
        // Until its map has been read, what it takes may not be known yet.
        held.look();
        let holding = locked(&disk.ledger).holdings().remove(&name).unwrap_or_default();
        let kept = held.evict_all(&holding.parts)?;
        Ok(Evicted { bytes: if kept.is_none() { holding.bytes } else { 0 }, kept })
    }

    /// Takes everything off the disk that is neither handed out nor pinned, and says what stays. Waits for the scan.
    pub fn purge(self: &Arc<Self>) -> Purged {
        let mut purged = Purged::default();
        let Some(disk) = self.disk() else {
            return purged;
        };
        disk.scan.wait_end(PURGE_SCAN_WAIT_MAX);
        let holdings = locked(&disk.ledger).holdings();
        for (name, holding) in holdings {
            let (objects, bytes) = match self.hold(name).evict_all(&holding.parts) {
                Ok(None) => (&mut purged.objects, &mut purged.bytes),
                Ok(Some(Kept::InUse)) => (&mut purged.in_use_objects, &mut purged.in_use_bytes),
                Ok(Some(Kept::Pinned)) => (&mut purged.pinned_objects, &mut purged.pinned_bytes),
                Err(error) => {
                    self.note_failure(disk, &error);
                    purged.failed_objects += 1;
                    purged.failure.get_or_insert(error.to_string());
                    continue;
                }
            };
            *objects += 1;
            *bytes += holding.bytes;
        }
        purged
    }

    fn report_on(&self, disk: &Disk, report: &mut CacheReport) {
        let holdings = {
            let ledger = locked(&disk.ledger);
            report.bytes = ledger.bytes();
            report.bytes_max = ledger.bytes_max();
            report.is_scanned = ledger.is_scanned();
            ledger.holdings()
        };
        report.directory = disk.directory.clone();
        report.objects = holdings.len() as u64;
        report.free_bytes_min = disk.space.free_bytes_min();
        report.free_bytes = disk.space.free_bytes().ok();
        report.not_keeping = disk.health.reason(Instant::now()).or_else(|| {
            let short = report.free_bytes.is_some_and(|free| free < report.free_bytes_min);
            short.then(|| format!("less than {} is free on its disk", ByteSize(report.free_bytes_min)))
        });
        if disk.pins().is_empty() {
            return;
        }
        for (name, holding) in holdings {
            let header = Header::read(&name.map(&disk.directory));
            if header.is_some_and(|header| disk.pins().holds(&header.key, name)) {
                report.pinned_objects += 1;
                report.pinned_bytes += holding.bytes;
            }
        }
    }

    fn disk_or_error(&self) -> io::Result<&Disk> {
        match &self.keeping {
            Keeping::Nothing { reason, .. } => {
                Err(io::Error::new(io::ErrorKind::Unsupported, format!("nothing is cached: {reason}")))
            }
            Keeping::OnDisk(disk) => Ok(disk),
        }
    }
}
