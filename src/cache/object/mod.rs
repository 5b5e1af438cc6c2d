//! The chunks of one version of one object: which are here, and what may be done to their files.

mod arriving;
mod leaving;
mod presence;
mod prover;
mod reading;
mod whole;

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

pub(super) use leaving::Taken;
pub(super) use presence::GROUP_CHUNKS;
pub(super) use prover::Prover;
pub use reading::Resident;
pub use whole::{Judged, WholeFile};

use crate::cache::files::map::Header;
use crate::cache::files::{self, BLOCK_BYTES, Opened, Pair};
use crate::cache::health::is_unreadable;
use crate::cache::layout::Name;
use crate::cache::ledger::{Age, Part, Unit};
use crate::cache::object::presence::{Chunks, chunks_of};
use crate::cache::{ChunkCache, Disk, ObjectReport, locked};
use crate::observe::Counter;
use crate::types::{ByteRange, ObjectId, RangeSet};

/// What a group takes on disk besides its chunks: a block of the map, and its share of the header and of the file
/// system's own records.
pub(super) const GROUP_OVERHEAD_BYTES: u64 = 2 * BLOCK_BYTES;

/// The chunks of one version of one object. While it is held, eviction may still take chunks, but not the files' names.
pub struct CachedObject {
    cache: Arc<ChunkCache>,
    name: Name,
    /// Unset only while nobody but the evictor has asked for the object.
    header: OnceLock<Header>,
    /// Held for reading while chunks are read, for writing while they come and go.
    files: RwLock<Files>,
    /// Taken while `files` is held, or alone.
    presence: Mutex<Presence>,
    is_used: AtomicBool,
    /// Whole files of it that are handed out. Raised only while `files` is held.
    handed_out: AtomicUsize,
    /// Whether somebody has set out to compare it with the store.
    is_being_judged: AtomicBool,
}

#[derive(Debug)]
enum Files {
    /// Not looked for yet.
    Unopened,
    /// None on disk.
    Missing,
    /// Here.
    Open(Pair),
    /// Nothing is read or kept: there is no cache.
    Unusable,
}

#[derive(Debug)]
enum Presence {
    /// The map has not been read yet, or could not be.
    Unknown,
    /// It has been read.
    Known(Chunks),
}

impl CachedObject {
    pub(super) fn new(cache: Arc<ChunkCache>, name: Name) -> CachedObject {
        CachedObject::in_state(cache, name, (Files::Unopened, Presence::Unknown))
    }

    /// One that keeps nothing.
    pub(super) fn without_files(cache: Arc<ChunkCache>, name: Name) -> CachedObject {
        CachedObject::in_state(cache, name, (Files::Unusable, Presence::Known(Chunks::default())))
    }

    fn in_state(cache: Arc<ChunkCache>, name: Name, (files, presence): (Files, Presence)) -> CachedObject {
        CachedObject {
            cache,
            name,
            header: OnceLock::new(),
            files: RwLock::new(files),
            presence: Mutex::new(presence),
            is_used: AtomicBool::new(false),
            handed_out: AtomicUsize::new(0),
            is_being_judged: AtomicBool::new(false),
        }
    }

    #[cfg(test)]
    pub(super) fn name(&self) -> Name {
        self.name
    }

    #[cfg(test)]
    pub(super) fn groups(&self) -> usize {
        self.known(|chunks| chunks.groups().count()).unwrap_or(0)
    }

    /// Tells what the name stands for.
    pub(super) fn identify(&self, header: Header) {
        self.header.get_or_init(|| header);
    }

    /// Which bytes of the object are here, in whole chunks (the last one cut at the object's end).
    pub fn present(&self) -> RangeSet {
        self.present_within(ByteRange::new(0, u64::MAX))
    }

    /// The same, of the chunks that overlap `range`.
    pub fn present_within(&self, range: ByteRange) -> RangeSet {
        self.look();
        match (self.header.get(), &*locked(&self.presence)) {
            (Some(header), Presence::Known(chunks)) => chunks.within(header, range),
            (Some(_) | None, Presence::Known(_) | Presence::Unknown) => RangeSet::default(),
        }
    }

    pub(super) fn is_pinned(&self) -> bool {
        match (self.cache.disk(), self.header.get()) {
            (Some(disk), Some(header)) => disk.pins().holds(&header.key, self.name),
            (Some(_) | None, Some(_) | None) => false,
        }
    }

    /// Reads the map, if that has not been done and the disk is not to be left alone.
    pub(super) fn look(&self) {
        if matches!(*locked(&self.presence), Presence::Known(_)) {
            return;
        }
        let Some(disk) = self.cache.disk() else {
            return;
        };
        if disk.health.is_paused(Instant::now()) {
            return;
        }
        let mut files = self.write_files();
        if matches!(*locked(&self.presence), Presence::Unknown) {
            let looked = self.open(disk, &mut files).and_then(|()| self.index(disk, &mut files, Age::Newest));
            if let Err(error) = looked {
                self.cope_with_unreadable(disk, &mut files, &error);
            }
        }
    }

    /// A file that cannot be read is given up, so that the next one is written elsewhere on the disk. When that cannot
    /// be done either, or the error is another, the disk is left alone for a while.
    fn cope_with_unreadable(&self, disk: &Disk, files: &mut Files, error: &io::Error) {
        if is_unreadable(error) && self.remove_files(disk, files).is_ok() {
            self.cache.metrics.add(Counter::CacheFailures, 1);
            log::warn!("Cache file {} cannot be read and has been removed: {error}", self.name);
        } else {
            self.cache.note_failure(disk, error);
        }
    }

    /// Opens the files, if that has not been done. What is of no use is removed.
    fn open(&self, disk: &Disk, files: &mut Files) -> io::Result<()> {
        if !matches!(files, Files::Unopened) {
            return Ok(());
        }
        *files = match Pair::open(&disk.directory, self.name)? {
            Opened::Pair(pair) => {
                self.identify(pair.header().clone());
                Files::Open(pair)
            }
            Opened::Missing => Files::Missing,
            Opened::Unusable => {
                // Where that fails, new files will take their place.
                if let Err(error) = files::remove(&disk.directory, self.name) {
                    log::debug!("Cannot remove useless cache file {}: {error}", self.name);
                }
                Files::Missing
            }
        };
        Ok(())
    }

    /// Makes presence known, and charges what is here.
    fn index(&self, disk: &Disk, files: &mut Files, age: Age) -> io::Result<()> {
        let mut chunks = Chunks::default();
        if let Files::Open(pair) = &*files {
            chunks = whole::read_map(pair)?;
            let header = pair.header();
            let bytes_on_disk = pair.bytes_on_disk()?;
            self.trim(pair, &mut chunks);
            let charges = chunks.groups().map(|(group, bits)| (group, charge_of(header, group, bits)));
            self.cache.books(disk, |ledger| ledger.adopt(self.name, charges, bytes_on_disk, age));
        }
        *locked(&self.presence) = Presence::Known(chunks);
        Ok(())
    }

    /// Gives back space that no slot vouches for: a crash may have come between data and slot.
    fn trim(&self, pair: &Pair, chunks: &mut Chunks) {
        let header = pair.header();
        let here: Vec<(u64, u16)> = chunks.groups().collect();
        let here = || here.iter().flat_map(|&(group, bits)| chunks_of(group, bits));
        let charged: u64 = here().map(|chunk| chunk_charge(header, chunk)).sum();
        // The file system may count a block of its own records.
        if pair.data_bytes_on_disk().is_ok_and(|bytes| bytes <= charged + BLOCK_BYTES) {
            return;
        }
        let mut next = 0;
        for chunk in here().chain([header.chunks()]) {
            if next < chunk
                && let Err(error) = pair.punch_chunks(next..chunk)
            {
                log::debug!("Cannot give back unused space of {}: {error}", self.name);
                break;
            }
            next = chunk + 1;
        }
        chunks.renew(pair.witness().ok());
    }

    /// Changes the files. Whether somebody else has changed them before is found out first, and no seal is left on
    /// them; how they look after that is remembered. The caller holds `files` for writing.
    fn change<T>(&self, pair: &Pair, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let before = pair.witness()?;
        let may_be_sealed = match &mut *locked(&self.presence) {
            Presence::Unknown => true,
            Presence::Known(chunks) => {
                chunks.see(before);
                chunks.unseal()
            }
        };
        if may_be_sealed {
            pair.clear_seal()?;
        }
        let done = act();
        self.known(|chunks| chunks.renew(pair.witness().ok()));
        done
    }

    /// Does something while nobody changes the object.
    pub(super) fn while_unchanged<T>(&self, act: impl FnOnce() -> T) -> T {
        let _files = self.write_files();
        act()
    }

    pub(super) fn report(&self, object: &ObjectId) -> ObjectReport {
        self.look();
        let (header, is_in_use) = (self.header.get(), self.handed_out.load(Ordering::SeqCst) > 0);
        let sealed = match &*self.read_files() {
            Files::Open(pair) => pair.witness().is_ok_and(|now| {
                self.known(|chunks| {
                    chunks.see(now);
                    chunks.is_sealed()
                })
                .unwrap_or(false)
            }),
            Files::Unopened | Files::Missing | Files::Unusable => false,
        };
        let present = header.and_then(|header| self.known(|chunks| chunks.bytes(header)));
        ObjectReport {
            bytes_present: present.unwrap_or(0),
            size: object.size,
            is_whole: self.is_complete(),
            is_pinned: self
                .cache
                .disk()
                .is_some_and(|disk| disk.pins().holds(object.key.as_str(), self.name)),
            is_sealed: sealed,
            is_in_use,
        }
    }

    fn has(&self, chunk: u64) -> bool {
        self.known(|chunks| chunks.has(chunk)).unwrap_or(false)
    }

    /// Does something to what is known to be here, if that is known.
    fn known<T>(&self, act: impl FnOnce(&mut Chunks) -> T) -> Option<T> {
        match &mut *locked(&self.presence) {
            Presence::Unknown => None,
            Presence::Known(chunks) => Some(act(chunks)),
        }
    }

    fn unit(&self, group: u64) -> Unit {
        Unit { name: self.name, part: Part::Group(group) }
    }

    fn read_files(&self) -> RwLockReadGuard<'_, Files> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_files(&self) -> RwLockWriteGuard<'_, Files> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CachedObject {
    fn drop(&mut self) {
        let Some(disk) = self.cache.disk() else {
            return;
        };
        // The table stays locked to the end: nobody can take the object up while its files may be removed.
        let mut held = locked(&disk.held);
        let own: *const CachedObject = self;
        if held.get(&self.name).is_none_or(|other| other.as_ptr() != own) {
            return;
        }
        held.remove(&self.name);
        let files = self.files.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Files::Open(pair) = files else {
            return;
        };
        let presence = self.presence.get_mut().unwrap_or_else(PoisonError::into_inner);
        let is_empty = match presence {
            Presence::Unknown => pair.data_bytes_on_disk().is_ok_and(|bytes| bytes == 0),
            Presence::Known(chunks) => {
                whole::seal(pair, chunks);
                chunks.is_empty()
            }
        };
        let left = match (is_empty, *self.is_used.get_mut()) {
            (true, _) => files::remove(&disk.directory, self.name),
            (false, true) => pair.touch(),
            (false, false) => Ok(()),
        };
        if let Err(error) = left {
            log::debug!("Cannot take leave of cache file {}: {error}", self.name);
        }
    }
}

impl fmt::Debug for CachedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedObject").field("name", &self.name).finish_non_exhaustive()
    }
}

fn chunk_charge(header: &Header, chunk: u64) -> u64 {
    header.chunk_range(chunk).len().next_multiple_of(BLOCK_BYTES)
}

/// What a group with these chunks takes on disk, at most.
fn charge_of(header: &Header, group: u64, bits: u16) -> u64 {
    let chunks: u64 = chunks_of(group, bits).map(|chunk| chunk_charge(header, chunk)).sum();
    if bits == 0 { 0 } else { chunks + GROUP_OVERHEAD_BYTES }
}
