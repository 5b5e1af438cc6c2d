//! Reading chunks: checked, unless they are proven and only a part is wanted.
//!
//! A part of a proven chunk is read without its checksum; that the file is still as we left it is looked at *after* the
//! bytes have been read, because whoever changes a file changes its witness before its bytes.

use std::ops::RangeInclusive;
use std::sync::TryLockError;
use std::sync::atomic::Ordering;

use crate::cache::Disk;
use crate::cache::files::map::Header;
use crate::cache::files::{ChunkState, Pair, Wait};
use crate::cache::locked;
use crate::cache::object::presence::GROUP_CHUNKS;
use crate::cache::object::{CachedObject, Files, Presence};
use crate::observe::Counter;
use crate::types::ByteRange;

/// Tries to read what somebody else is changing; the second one checks everything.
const TRIES_MAX: u32 = 2;

/// The answer to a read that does not wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resident {
    /// The bytes have been read.
    Yes,
    /// They may be here, but the disk, or somebody who writes, would have to be waited for.
    WouldBlock,
    /// They are not here.
    Missing,
}

/// What has come of one try to copy bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Copied {
    /// All of them, which were in so many chunks.
    All(u64),
    Missing,
    /// This chunk is not good.
    Damaged(u64),
    WouldBlock,
    /// Somebody else has changed the chunk file, so that nothing was proven.
    Changed,
}

impl CachedObject {
    /// Appends the bytes of `range` (within the object) to `out` and returns true, if every chunk of it is here and
    /// proves good. Otherwise leaves `out` as it was; a damaged chunk is no longer present after that.
    pub fn read(&self, range: ByteRange, out: &mut Vec<u8>) -> bool {
        if range.is_empty() {
            return true;
        }
        let Some(disk) = self.cache.disk() else {
            return false;
        };
        self.look();
        let files = self.read_files();
        let copied = self.copy_as_is(disk, &files, range, out, Wait::Allowed);
        drop(files);
        match copied {
            Copied::All(_) => true,
            Copied::Damaged(chunk) => {
                self.give_up_damaged(disk, chunk);
                false
            }
            Copied::Missing | Copied::WouldBlock | Copied::Changed => false,
        }
    }

    /// The same without waiting, neither for the disk nor for anybody who writes. Only where the file system cannot
    /// tell what is in memory, the disk is waited for. After `WouldBlock`, [`CachedObject::read`] knows more.
    pub fn read_resident(&self, range: ByteRange, out: &mut Vec<u8>) -> Resident {
        if range.is_empty() {
            return Resident::Yes;
        }
        let Some(disk) = self.cache.disk() else {
            return Resident::Missing;
        };
        if matches!(*locked(&self.presence), Presence::Unknown) {
            return Resident::WouldBlock;
        }
        let files = match self.files.try_read() {
            Ok(files) => files,
            Err(TryLockError::Poisoned(files)) => files.into_inner(),
            Err(TryLockError::WouldBlock) => return Resident::WouldBlock,
        };
        match self.copy_as_is(disk, &files, range, out, Wait::Never) {
            Copied::All(_) => Resident::Yes,
            Copied::Missing => Resident::Missing,
            // Giving a damaged chunk up takes writing.
            Copied::Damaged(_) | Copied::WouldBlock | Copied::Changed => Resident::WouldBlock,
        }
    }

    /// Reads and checks those chunks that are not proven; true when all of the object is here and proven after that.
    /// Blocks on the disk, for as long as the object is large; readers go on meanwhile. Ends early, with false, when
    /// nobody else uses the cache any more.
    pub fn prove_rest(&self) -> bool {
        let Some(disk) = self.cache.disk() else {
            return false;
        };
        self.look();
        let mut next = 0;
        while let Some(chunk) = self.known(|chunks| chunks.next_unproven(next)).flatten() {
            if self.is_last_user() {
                return false;
            }
            let files = self.read_files();
            let Files::Open(pair) = &*files else {
                return false;
            };
            let witness = self.known(|chunks| chunks.witness()).flatten();
            let mut bytes = vec![0; pair.header().chunk_range(chunk).len() as usize];
            let state = pair.read_chunk(chunk, &mut bytes, Wait::Allowed);
            drop(files);
            match state {
                ChunkState::Good => {
                    self.known(|chunks| chunks.prove(chunk, witness));
                }
                ChunkState::Damaged | ChunkState::Absent => {
                    self.give_up_damaged(disk, chunk);
                    return false;
                }
                ChunkState::WouldBlock => return false,
            }
            next = chunk + 1;
        }
        self.seal_if_proven()
    }

    /// [`CachedObject::copy`], once more if somebody else has changed the file. Leaves `out` as it was unless all is
    /// copied.
    fn copy_as_is(
        &self,
        disk: &Disk,
        files: &Files,
        range: ByteRange,
        out: &mut Vec<u8>,
        wait: Wait,
    ) -> Copied {
        let Files::Open(pair) = files else {
            return Copied::Missing;
        };
        let header = pair.header();
        let (first, last) = (range.start / header.chunk_bytes, (range.end - 1) / header.chunk_bytes);
        let before = out.len();
        let mut copied = Copied::Changed;
        for _ in 0..TRIES_MAX {
            copied = self.copy(pair, range, out, wait);
            if copied != Copied::Changed {
                break;
            }
            out.truncate(before);
        }
        match copied {
            Copied::All(chunks) => {
                self.is_used.store(true, Ordering::Relaxed);
                self.cache.metrics.add(Counter::CacheHits, chunks);
                let mut ledger = locked(&disk.ledger);
                for group in first / GROUP_CHUNKS..=last / GROUP_CHUNKS {
                    ledger.touch(self.unit(group));
                }
            }
            Copied::Missing | Copied::Damaged(_) | Copied::WouldBlock | Copied::Changed => {
                out.truncate(before);
            }
        }
        copied
    }

    /// Copies bytes, of whole chunks with their checksum, of parts of proven chunks without.
    fn copy(&self, pair: &Pair, range: ByteRange, out: &mut Vec<u8>, wait: Wait) -> Copied {
        let header = pair.header();
        let (first, last) = (range.start / header.chunk_bytes, (range.end - 1) / header.chunk_bytes);
        let known = self.known(|chunks| {
            let is_proven = [first, last].map(|chunk| chunks.is_proven(chunk));
            (chunks.has_all(first..=last), is_proven, chunks.witness())
        });
        let Some((true, [is_first_proven, is_last_proven], witness)) = known else {
            return Copied::Missing;
        };
        let mut relied_on_proof = false;
        for chunk in first..=last {
            let whole = header.chunk_range(chunk);
            let wanted = whole.intersect(range).expect("the chunks were taken from the range");
            let is_proven = (chunk == first && is_first_proven) || (chunk == last && is_last_proven);
            let state = if wanted == whole {
                pair.read_chunk(chunk, grow(out, whole.len()), wait)
            } else if is_proven {
                relied_on_proof = true;
                pair.read_unchecked(wanted.start, grow(out, wanted.len()), wait)
            } else {
                read_part(pair, header, wanted, out, wait)
            };
            match state {
                ChunkState::Good => {}
                ChunkState::Absent | ChunkState::Damaged => return Copied::Damaged(chunk),
                ChunkState::WouldBlock => return Copied::WouldBlock,
            }
        }
        if relied_on_proof && !self.is_as_left(pair) {
            return Copied::Changed;
        }
        self.note_proven(first..=last, witness);
        Copied::All(last - first + 1)
    }

    /// Whether nobody else has changed the chunk file; otherwise nothing is proven any more.
    fn is_as_left(&self, pair: &Pair) -> bool {
        match pair.witness() {
            Ok(now) => self.known(|chunks| chunks.see(now)).unwrap_or(false),
            Err(_) => false,
        }
    }

    fn note_proven(
        &self,
        chunks: RangeInclusive<u64>,
        witness: Option<crate::cache::files::witness::Witness>,
    ) {
        self.known(|known| chunks.for_each(|chunk| known.prove(chunk, witness)));
    }
}

/// Reads a chunk that is not proven, checks it, and takes a part of it.
fn read_part(pair: &Pair, header: &Header, wanted: ByteRange, out: &mut Vec<u8>, wait: Wait) -> ChunkState {
    let chunk = wanted.start / header.chunk_bytes;
    let whole = header.chunk_range(chunk);
    let mut bytes = vec![0; whole.len() as usize];
    let state = pair.read_chunk(chunk, &mut bytes, wait);
    let at = (wanted.start - whole.start) as usize;
    out.extend_from_slice(&bytes[at..at + wanted.len() as usize]);
    state
}

/// Lengthens `out` and returns what has been added.
fn grow(out: &mut Vec<u8>, len: u64) -> &mut [u8] {
    let at = out.len();
    out.resize(at + len as usize, 0);
    &mut out[at..]
}
