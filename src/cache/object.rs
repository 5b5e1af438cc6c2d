//! The chunks of one version of one object: looking, reading, keeping, giving up.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard};

use crate::cache::files::{self, BLOCK_BYTES, Pair};
use crate::cache::layout::Name;
use crate::cache::ledger::{Age, Part, Unit};
use crate::cache::map::Header;
use crate::cache::{ChunkCache, Disk, WholeFile, locked};
use crate::observe::Counter;
use crate::types::{ByteRange, Crc64, RangeSet};

/// Chunks that are evicted together. At most 16: a group's chunks are the bits of a `u16`.
const GROUP_CHUNKS: u64 = 16;
/// What a group takes on disk besides its chunks: a block of the map, and its share of the header and of the file
/// system's own records.
const GROUP_OVERHEAD_BYTES: u64 = 2 * BLOCK_BYTES;
/// Objects found on disk are evicted as a whole up to this many groups; larger ones are looked into first.
const WHOLE_GROUPS_MAX: u64 = 4;
/// Tries to write a chunk; between two of them something is evicted.
const WRITES_MAX: u32 = 2;

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
}

#[derive(Debug)]
enum Files {
    /// Not looked for yet.
    Unopened,
    /// None on disk.
    Missing,
    /// Here.
    Open(Pair),
    /// Nothing is read or kept: the disk fails, or there is no cache.
    Unusable,
}

#[derive(Debug)]
enum Presence {
    /// The map has not been read yet.
    Unknown,
    /// Bit n of a group says that its n-th chunk is here. Groups without any are left out.
    Known(BTreeMap<u64, u16>),
}

/// A chunk on its way to the disk.
struct Arrival<'a> {
    chunk: u64,
    crc: Crc64,
    bytes: &'a [u8],
    /// Bytes admitted for it.
    reserved: u64,
}

impl CachedObject {
    pub(super) fn new(cache: Arc<ChunkCache>, name: Name) -> CachedObject {
        CachedObject::in_state(cache, name, (Files::Unopened, Presence::Unknown))
    }

    /// One that keeps nothing.
    pub(super) fn without_files(cache: Arc<ChunkCache>, name: Name) -> CachedObject {
        CachedObject::in_state(cache, name, (Files::Unusable, Presence::Known(BTreeMap::new())))
    }

    fn in_state(cache: Arc<ChunkCache>, name: Name, (files, presence): (Files, Presence)) -> CachedObject {
        CachedObject {
            cache,
            name,
            header: OnceLock::new(),
            files: RwLock::new(files),
            presence: Mutex::new(presence),
            is_used: AtomicBool::new(false),
        }
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
        let (Some(header), Presence::Known(groups)) = (self.header.get(), &*locked(&self.presence)) else {
            return RangeSet::default();
        };
        let range = range.clip(header.size);
        if range.is_empty() {
            return RangeSet::default();
        }
        let (first, last) = (range.start / header.chunk_bytes, (range.end - 1) / header.chunk_bytes);
        let mut present = RangeSet::default();
        for (&group, &bits) in groups.range(first / GROUP_CHUNKS..=last / GROUP_CHUNKS) {
            if bits == u16::MAX {
                let whole = ByteRange::at(
                    group * GROUP_CHUNKS * header.chunk_bytes,
                    GROUP_CHUNKS * header.chunk_bytes,
                );
                present.insert(whole.clip(header.size));
                continue;
            }
            for chunk in chunks_of(group, bits) {
                present.insert(header.chunk_range(chunk));
            }
        }
        let window = header.chunk_range(first).start..header.chunk_range(last).end;
        present.remove(ByteRange::new(0, window.start));
        present.remove(ByteRange::new(window.end, u64::MAX));
        present
    }

    /// Appends the bytes of `range` (within the object) to `out` and returns true, if every chunk of it is here and
    /// proves good. Otherwise leaves `out` as it was; a damaged chunk is no longer present after that.
    pub fn read(&self, range: ByteRange, out: &mut Vec<u8>) -> bool {
        if range.is_empty() {
            return true;
        }
        let Some(disk) = self.cache.disk() else {
            return false;
        };
        if !self.present_within(range).contains(range) {
            return false;
        }
        let before = out.len();
        match self.copy(disk, range, out) {
            Ok(chunks) => {
                self.is_used.store(true, Ordering::Relaxed);
                self.cache.metrics.add(Counter::CacheHits, chunks);
                true
            }
            Err(chunk) => {
                out.truncate(before);
                self.give_up_damaged(disk, chunk);
                false
            }
        }
    }

    /// All of the object as one file, if every chunk of it is here and proves good. Never waits on the network.
    pub fn whole(self: &Arc<Self>) -> Option<WholeFile> {
        let (disk, header) = (self.cache.disk()?, self.header.get()?);
        let all = ByteRange::new(0, header.size);
        if all.is_empty() || !self.present().contains(all) {
            return None;
        }
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let Files::Open(pair) = &*files else {
            return None;
        };
        let is_good = |chunk| pair.read_chunk(chunk, &mut vec![0; header.chunk_range(chunk).len() as usize]);
        if !(0..header.chunks()).all(is_good) {
            return None;
        }
        let file = std::fs::File::open(self.name.data(&disk.directory)).ok()?;
        Some(WholeFile { file, _object: self.clone() })
    }

    /// Keeps whole chunks: `offset` is a multiple of the chunk size, `bytes` ends on one or at the object's end.
    pub fn put(&self, offset: u64, bytes: &[u8]) {
        let (Some(disk), Some(header)) = (self.cache.disk(), self.header.get()) else {
            return;
        };
        let end = offset + bytes.len() as u64;
        assert!(
            offset.is_multiple_of(header.chunk_bytes)
                && (end.is_multiple_of(header.chunk_bytes) || end == header.size)
                && end <= header.size,
            "only whole chunks of the object are kept, not {offset}..{end}"
        );
        self.look();
        let first = offset / header.chunk_bytes;
        for (chunk, bytes) in (first..).zip(bytes.chunks(header.chunk_bytes as usize)) {
            if !self.has(chunk) && !self.keep(disk, header, chunk, bytes) {
                self.cache.metrics.add(Counter::CacheBypassed, 1);
            }
        }
    }

    /// Takes a group of chunks off the disk.
    pub(super) fn evict_group(&self, group: u64) {
        let Some(disk) = self.cache.disk() else {
            return;
        };
        let mut files = self.write_files();
        self.open(disk, &mut files);
        if let Files::Open(pair) = &*files {
            if let Presence::Known(groups) = &mut *locked(&self.presence) {
                groups.remove(&group);
            }
            self.take_off(disk, pair, group * GROUP_CHUNKS..(group + 1) * GROUP_CHUNKS);
        }
        // Chunks may have come to the group after it had been chosen. They are off the disk as well now.
        self.cache.books(disk, |ledger| ledger.forget(self.unit(group)));
    }

    /// Takes an object off the disk that was found there and charged with `charge`, or, when it is large, charges it
    /// by its groups, of which the evictor then takes what it needs.
    pub(super) fn evict_whole(&self, charge: u64) {
        let Some(disk) = self.cache.disk() else {
            return;
        };
        let mut files = self.write_files();
        if matches!(*locked(&self.presence), Presence::Known(_)) {
            return;
        }
        self.open(disk, &mut files);
        let is_large = match &*files {
            Files::Open(pair) => {
                let group_bytes = GROUP_CHUNKS * pair.header().chunk_bytes;
                pair.header().chunk_bytes == self.cache.chunk_bytes && charge > WHOLE_GROUPS_MAX * group_bytes
            }
            Files::Unopened | Files::Missing | Files::Unusable => false,
        };
        if is_large {
            self.index(disk, &mut files, Age::Oldest);
        } else {
            files::remove(&disk.directory, self.name);
            *files = Files::Missing;
            *locked(&self.presence) = Presence::Known(BTreeMap::new());
        }
    }

    /// Reads the map, if that has not been done.
    fn look(&self) {
        if matches!(*locked(&self.presence), Presence::Known(_)) {
            return;
        }
        let Some(disk) = self.cache.disk() else {
            return;
        };
        let mut files = self.write_files();
        if matches!(*locked(&self.presence), Presence::Unknown) {
            self.open(disk, &mut files);
            self.index(disk, &mut files, Age::Newest);
        }
    }

    /// Opens the files, if that has not been tried.
    fn open(&self, disk: &Disk, files: &mut Files) {
        if !matches!(files, Files::Unopened) {
            return;
        }
        *files = match Pair::open(&disk.directory, self.name) {
            Ok(Some(pair)) => Files::Open(pair),
            Ok(None) => Files::Missing,
            Err(error) => {
                self.tell_failure(disk, &error);
                Files::Unusable
            }
        };
    }

    /// Makes presence known, and charges what is here.
    fn index(&self, disk: &Disk, files: &mut Files, age: Age) {
        let mut groups: BTreeMap<u64, u16> = BTreeMap::new();
        if let Files::Open(pair) = &*files {
            match pair.chunks() {
                Ok(chunks) => {
                    for chunk in chunks {
                        *groups.entry(chunk / GROUP_CHUNKS).or_default() |= bit(chunk);
                    }
                    let header = pair.header().clone();
                    self.trim(pair, &header, &groups);
                    let charges =
                        groups.iter().map(|(&group, &bits)| (group, charge_of(&header, group, bits)));
                    self.cache.books(disk, |ledger| ledger.adopt(self.name, charges, age));
                }
                Err(error) => {
                    self.tell_failure(disk, &error);
                    *files = Files::Unusable;
                }
            }
        }
        *locked(&self.presence) = Presence::Known(groups);
    }

    /// Gives back space that no slot vouches for: a crash may have come between data and slot.
    fn trim(&self, pair: &Pair, header: &Header, groups: &BTreeMap<u64, u16>) {
        let here = || groups.iter().flat_map(|(&group, &bits)| chunks_of(group, bits));
        let charged: u64 = here().map(|chunk| chunk_charge(header, chunk)).sum();
        // The file system may count a block of its own records.
        if pair.allocated_bytes().is_ok_and(|bytes| bytes <= charged + BLOCK_BYTES) {
            return;
        }
        let mut next = 0;
        for chunk in here().chain([header.chunks()]) {
            if next < chunk
                && let Err(error) = pair.punch_chunks(next..chunk)
            {
                log::debug!("Cannot give back unused space of {}: {error}", self.name);
                return;
            }
            next = chunk + 1;
        }
    }

    /// Copies checked bytes; returns how many chunks they are from, or the chunk that is not good.
    fn copy(&self, disk: &Disk, range: ByteRange, out: &mut Vec<u8>) -> Result<u64, u64> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let Files::Open(pair) = &*files else {
            return Err(0);
        };
        let header = pair.header();
        let (first, last) = (range.start / header.chunk_bytes, (range.end - 1) / header.chunk_bytes);
        for chunk in first..=last {
            let whole = header.chunk_range(chunk);
            let wanted = whole.intersect(range).expect("the chunks were taken from the range");
            if wanted == whole {
                let at = out.len();
                out.resize(at + whole.len() as usize, 0);
                if !pair.read_chunk(chunk, &mut out[at..]) {
                    return Err(chunk);
                }
            } else {
                let bytes = match disk.recent.get(self.name, chunk) {
                    Some(bytes) => bytes,
                    None => {
                        let mut bytes = disk.recent.buffer(whole.len() as usize);
                        if !pair.read_chunk(chunk, &mut bytes) {
                            return Err(chunk);
                        }
                        let bytes = Arc::new(bytes);
                        disk.recent.keep(self.name, chunk, bytes.clone());
                        bytes
                    }
                };
                let at = (wanted.start - whole.start) as usize;
                out.extend_from_slice(&bytes[at..at + wanted.len() as usize]);
            }
        }
        let mut ledger = locked(&disk.ledger);
        for group in first / GROUP_CHUNKS..=last / GROUP_CHUNKS {
            ledger.touch(self.unit(group));
        }
        Ok(last - first + 1)
    }

    /// Takes a chunk off the disk that did not prove good, unless it has been replaced meanwhile.
    fn give_up_damaged(&self, disk: &Disk, chunk: u64) {
        let files = self.write_files();
        let Files::Open(pair) = &*files else {
            return;
        };
        let header = pair.header();
        if !self.has(chunk) || pair.read_chunk(chunk, &mut vec![0; header.chunk_range(chunk).len() as usize])
        {
            return;
        }
        let group = chunk / GROUP_CHUNKS;
        let charge = {
            let mut presence = locked(&self.presence);
            let Presence::Known(groups) = &mut *presence else {
                return;
            };
            let Some(bits) = groups.get_mut(&group) else {
                return;
            };
            let before = charge_of(header, group, *bits);
            *bits &= !bit(chunk);
            let after = charge_of(header, group, *bits);
            if *bits == 0 {
                groups.remove(&group);
            }
            before - after
        };
        self.cache.metrics.add(Counter::CacheDamaged, 1);
        log::warn!("Chunk {chunk} of cache file {} is damaged and will be fetched again", self.name);
        if self.take_off(disk, pair, chunk..chunk + 1) {
            self.cache.books(disk, |ledger| ledger.shrink(self.unit(group), charge));
        }
    }

    /// Writes a chunk that is not here. False when it could not be kept.
    fn keep(&self, disk: &Disk, header: &Header, chunk: u64, bytes: &[u8]) -> bool {
        let reserved = chunk_charge(header, chunk) + GROUP_OVERHEAD_BYTES;
        let arrival = Arrival { chunk, crc: Crc64::of(bytes), bytes, reserved };
        for write in 1..=WRITES_MAX {
            if !self.cache.admit(disk, reserved) {
                return false;
            }
            let Err(error) = self.write(disk, header, &arrival) else {
                return true;
            };
            self.cache.books(disk, |ledger| ledger.release(reserved));
            // Others have filled the disk: what is cached longest makes room for what is wanted now.
            let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            if write == WRITES_MAX || !is_full || !self.cache.evict_for_others(disk) {
                self.tell_failure(disk, &error);
                return false;
            }
        }
        false
    }

    /// One try to write. Settles the reservation unless it fails.
    fn write(&self, disk: &Disk, header: &Header, arrival: &Arrival<'_>) -> io::Result<()> {
        let Arrival { chunk, crc, bytes, reserved } = *arrival;
        let mut files = self.write_files();
        if self.has(chunk) {
            self.cache.books(disk, |ledger| ledger.release(reserved));
            return Ok(());
        }
        match &*files {
            Files::Open(_) => {}
            Files::Missing => *files = Files::Open(Pair::create(&disk.directory, header)?),
            Files::Unopened | Files::Unusable => return Err(io::Error::other("its files cannot be opened")),
        }
        let Files::Open(pair) = &*files else {
            unreachable!("it has just been opened");
        };
        pair.write_chunk(chunk, crc, bytes)?;
        let group = chunk / GROUP_CHUNKS;
        let mut presence = locked(&self.presence);
        let Presence::Known(groups) = &mut *presence else {
            unreachable!("whoever keeps a chunk has looked for it first");
        };
        let bits = groups.entry(group).or_default();
        let before = charge_of(header, group, *bits);
        *bits |= bit(chunk);
        let charge = charge_of(header, group, *bits) - before;
        drop(presence);
        self.cache.books(disk, |ledger| ledger.settle(self.unit(group), reserved, charge));
        Ok(())
    }

    fn has(&self, chunk: u64) -> bool {
        match &*locked(&self.presence) {
            Presence::Unknown => false,
            Presence::Known(groups) => {
                groups.get(&(chunk / GROUP_CHUNKS)).is_some_and(|bits| bits & bit(chunk) != 0)
            }
        }
    }

    /// Takes chunks off the disk, or, where the file system cannot, all of them, which are then struck from the
    /// ledger. True when it was just those asked for.
    fn take_off(&self, disk: &Disk, pair: &Pair, chunks: std::ops::Range<u64>) -> bool {
        let Err(error) = pair.discard(chunks) else {
            return true;
        };
        self.tell_failure(disk, &error);
        if let Err(error) = pair.discard_all() {
            log::warn!("Cannot empty cache file {}: {error}", self.name);
        }
        let before = mem::replace(&mut *locked(&self.presence), Presence::Known(BTreeMap::new()));
        match before {
            Presence::Unknown => {}
            Presence::Known(groups) => self.cache.books(disk, |ledger| {
                groups.keys().for_each(|&group| ledger.forget(self.unit(group)));
            }),
        }
        false
    }

    fn unit(&self, group: u64) -> Unit {
        Unit { name: self.name, part: Part::Group(group) }
    }

    fn write_files(&self) -> RwLockWriteGuard<'_, Files> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_failure(&self, disk: &Disk, error: &io::Error) {
        disk.failure_told.get_or_init(|| {
            log::warn!(
                "The cache in {} fails, reading goes on without it where it does: {error}",
                disk.directory.display()
            );
        });
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
        let is_empty = match self.presence.get_mut().unwrap_or_else(PoisonError::into_inner) {
            Presence::Unknown => pair.allocated_bytes().is_ok_and(|bytes| bytes == 0),
            Presence::Known(groups) => groups.is_empty(),
        };
        if is_empty {
            files::remove(&disk.directory, self.name);
        } else if *self.is_used.get_mut()
            && let Err(error) = pair.touch()
        {
            log::debug!("Cannot note the use of cache file {}: {error}", self.name);
        }
    }
}

impl fmt::Debug for CachedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedObject").field("name", &self.name).finish_non_exhaustive()
    }
}

fn bit(chunk: u64) -> u16 {
    1 << (chunk % GROUP_CHUNKS)
}

fn chunks_of(group: u64, bits: u16) -> impl Iterator<Item = u64> {
    (group * GROUP_CHUNKS..(group + 1) * GROUP_CHUNKS).filter(move |&chunk| bits & bit(chunk) != 0)
}

fn chunk_charge(header: &Header, chunk: u64) -> u64 {
    header.chunk_range(chunk).len().next_multiple_of(BLOCK_BYTES)
}

/// What a group with these chunks takes on disk, at most.
fn charge_of(header: &Header, group: u64, bits: u16) -> u64 {
    let chunks: u64 = chunks_of(group, bits).map(|chunk| chunk_charge(header, chunk)).sum();
    if bits == 0 { 0 } else { chunks + GROUP_OVERHEAD_BYTES }
}
