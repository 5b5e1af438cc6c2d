//! Reads everything that is cached and checks it, while the cache is in use.
//!
//! Files are opened anew and read without any lock, so that nobody waits. What looks damaged is looked at once more
//! while nobody changes the object: it may just have been evicted or replaced. Recency and counters of use are left
//! as they are.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cache::files::map::Slot;
use crate::cache::files::{Access, ChunkState, Opened, Pair, Wait};
use crate::cache::health::is_unreadable;
use crate::cache::layout::{Name, shards};
use crate::cache::{ChunkCache, Disk, scan};

/// Progress is told after so many chunks, and after each object.
const PROGRESS_CHUNKS: u64 = 64;

/// What is done about damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repair {
    /// It is counted.
    Nothing,
    /// It is taken off the disk, and fetched again when it is asked for.
    TakeOff,
}

/// How far a verification has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerifyProgress {
    /// Objects that there are.
    pub objects: u64,
    /// Objects that have been read.
    pub objects_done: u64,
    /// Bytes that have been read.
    pub bytes_done: u64,
    /// Chunks and maps found to be damaged.
    pub damaged: u64,
}

/// What a verification has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VerifyReport {
    /// Objects read.
    pub objects: u64,
    /// Chunks read.
    pub chunks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Objects whose map or chunk file is of no use as a whole.
    pub damaged_objects: u64,
    /// Chunks that do not check.
    pub damaged_chunks: u64,
    /// Objects taken off the disk.
    pub removed_objects: u64,
    /// Chunks taken off the disk.
    pub removed_chunks: u64,
    /// Whether everything has been read; false when it was cancelled, or something could not be
    /// opened or listed.
    pub is_complete: bool,
}

/// A verification under way.
struct Verification<'a> {
    cache: &'a Arc<ChunkCache>,
    disk: &'a Disk,
    repair: Repair,
    tell: &'a mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    objects: u64,
    report: VerifyReport,
    is_all_read: bool,
    is_cancelled: bool,
}

impl ChunkCache {
    /// Reads all that is cached of the volume and checks headers, slots and chunks. Blocks on the disk for as long as
    /// that takes; readers go on. `progress` is told how far it is and cancels with [`ControlFlow::Break`]; what has
    /// been found until then is returned.
    pub fn verify(
        self: &Arc<Self>,
        repair: Repair,
        progress: &mut dyn FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> VerifyReport {
        let Some(disk) = self.disk() else {
            return VerifyReport { is_complete: true, ..VerifyReport::default() };
        };
        let listed: Vec<_> = shards().map(|shard| scan::names(&disk.directory, &shard)).collect();
        let listed_all = listed.iter().all(Result::is_ok);
        let names: Vec<Name> = listed.into_iter().flatten().flatten().collect();
        let mut verification = Verification {
            cache: self,
            disk,
            repair,
            tell: progress,
            objects: names.len() as u64,
            report: VerifyReport::default(),
            is_all_read: listed_all,
            is_cancelled: false,
        };
        for name in names {
            verification.object(name);
            if verification.is_cancelled {
                break;
            }
        }
        let is_complete = verification.is_all_read && !verification.is_cancelled;
        VerifyReport { is_complete, ..verification.report }
    }
}

impl Verification<'_> {
    fn object(&mut self, name: Name) {
        match Pair::open_for(&self.disk.directory, name, Access::ReadOnly) {
            // It has just been evicted.
            Ok(Opened::Missing) => {}
            Ok(Opened::Pair(pair)) => self.pair(name, &pair),
            Ok(Opened::Unusable) => self.unusable(name),
            Err(error) => self.unreadable(name, &error),
        }
        self.report.objects += 1;
        self.progress();
    }

    fn pair(&mut self, name: Name, pair: &Pair) {
        let mut suspects = Vec::new();
        let mut buffer = vec![0; pair.header().chunk_bytes.min(pair.header().size) as usize];
        let visited = pair.visit_slots(&mut |chunk, slot| {
            if self.is_cancelled {
                return;
            }
            let len = pair.header().chunk_range(chunk).len();
            let is_good = match slot {
                Slot::Here(_) => {
                    pair.read_chunk(chunk, &mut buffer[..len as usize], Wait::Allowed) == ChunkState::Good
                }
                Slot::Damaged => false,
                Slot::Absent => true,
            };
            if !is_good {
                suspects.push(chunk);
            }
            self.report.chunks += 1;
            self.report.bytes += len;
            if self.report.chunks.is_multiple_of(PROGRESS_CHUNKS) {
                self.progress();
            }
        });
        if let Err(error) = visited {
            return self.unreadable(name, &error);
        }
        for chunk in suspects {
            self.suspect(name, pair, chunk, &mut buffer);
        }
    }

    /// Looks at a chunk again while nobody changes the object.
    fn suspect(&mut self, name: Name, pair: &Pair, chunk: u64, buffer: &mut [u8]) {
        let object = self.cache.hold(name);
        let len = pair.header().chunk_range(chunk).len() as usize;
        match object.while_unchanged(|| pair.read_chunk(chunk, &mut buffer[..len], Wait::Allowed)) {
            ChunkState::Good | ChunkState::Absent | ChunkState::WouldBlock => return,
            ChunkState::Damaged => self.report.damaged_chunks += 1,
        }
        match self.repair {
            Repair::Nothing => {}
            Repair::TakeOff => {
                // A slot that does not check is cleared when the map is read for the first time.
                object.look();
                object.give_up_damaged(self.disk, chunk);
                self.report.removed_chunks += 1;
            }
        }
    }

    /// Looks at files of no use again while nobody makes or removes them.
    fn unusable(&mut self, name: Name) {
        let object = self.cache.hold(name);
        let reopen = || Pair::open_for(&self.disk.directory, name, Access::ReadOnly);
        match object.while_unchanged(reopen) {
            Ok(Opened::Missing) => return,
            Ok(Opened::Pair(pair)) if object.while_unchanged(|| pair.visit_slots(&mut |_, _| {})).is_ok() => {
                return;
            }
            Err(error) if !is_unreadable(&error) => {
                self.is_all_read = false;
                return;
            }
            Ok(Opened::Pair(_) | Opened::Unusable) | Err(_) => self.report.damaged_objects += 1,
        }
        match self.repair {
            Repair::Nothing => {}
            Repair::TakeOff => self.report.removed_objects += u64::from(object.give_up_files(self.disk)),
        }
    }

    /// A place on the disk that cannot be read is damage; other errors say nothing of the files.
    fn unreadable(&mut self, name: Name, error: &io::Error) {
        if is_unreadable(error) {
            self.unusable(name);
        } else {
            log::warn!("Cannot verify cache file {name}: {error}");
            self.is_all_read = false;
        }
    }

    fn progress(&mut self) {
        let progress = VerifyProgress {
            objects: self.objects,
            objects_done: self.report.objects,
            bytes_done: self.report.bytes,
            damaged: self.report.damaged_chunks + self.report.damaged_objects,
        };
        self.is_cancelled |= (self.tell)(progress).is_break();
    }
}
