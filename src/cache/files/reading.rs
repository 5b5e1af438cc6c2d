//! Reading a pair: chunks with and without their checksum, slots, the seal.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use rustix::fs::SeekFrom;
use rustix::io::{Errno, ReadWriteFlags};

use crate::cache::files::Pair;
use crate::cache::files::map::{SLOT_BYTES, Slot};
use crate::cache::files::seal::{SEAL_BYTES, Seal};
use crate::types::{ByteRange, Crc64};

/// Bytes of a map read at once.
const MAP_READ_BYTES: u64 = 64 << 10;

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    Allowed,
    /// Only what is in memory is read; where the file system cannot tell, the read waits all the same.
    Never,
}

/// What has become of reading a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChunkState {
    /// Its bytes are what they should be.
    Good,
    /// It has no slot.
    Absent,
    /// Its slot or its bytes are not what they should be, or cannot be read.
    Damaged,
    /// The disk would have to be waited for.
    WouldBlock,
}

impl Pair {
    /// Reads a whole chunk into `into`, which has its length, and checks it.
    pub(crate) fn read_chunk(&self, chunk: u64, into: &mut [u8], wait: Wait) -> ChunkState {
        let mut slot = [0; SLOT_BYTES as usize];
        if let Err(error) = read_at(&self.map, &mut slot, self.header.slot_at(chunk), wait) {
            return failure(&error);
        }
        let crc = match Slot::decode(self.checksum, chunk, &slot) {
            Slot::Here(crc) => crc,
            Slot::Absent => return ChunkState::Absent,
            Slot::Damaged => return ChunkState::Damaged,
        };
        match read_at(&self.data, into, self.header.chunk_range(chunk).start, wait) {
            Ok(()) if Crc64::of(into) == crc => ChunkState::Good,
            Ok(()) => ChunkState::Damaged,
            Err(error) => failure(&error),
        }
    }

    /// Reads bytes of the chunk file as they are. What they are worth, the caller must know.
    pub(crate) fn read_unchecked(&self, at: u64, into: &mut [u8], wait: Wait) -> ChunkState {
        match read_at(&self.data, into, at, wait) {
            Ok(()) => ChunkState::Good,
            Err(error) => failure(&error),
        }
    }

    /// Shows every slot that is not absent, in order. Reads only what is allocated of the map.
    pub(crate) fn visit_slots(&self, visit: &mut dyn FnMut(u64, Slot)) -> io::Result<()> {
        let (slots_at, slots_end) = (self.header.slot_at(0), self.header.slots_end());
        let mut at = slots_at;
        while let Some(area) = next_data(&self.map, at, slots_end)? {
            // An area of data begins and ends at blocks, which are whole slots.
            for piece in area.split(MAP_READ_BYTES) {
                let mut bytes = vec![0; piece.len() as usize];
                self.map.read_exact_at(&mut bytes, piece.start)?;
                let first = (piece.start - slots_at) / SLOT_BYTES;
                for (chunk, slot) in (first..).zip(bytes.chunks_exact(SLOT_BYTES as usize)) {
                    match Slot::decode(self.checksum, chunk, slot) {
                        Slot::Absent => {}
                        slot @ (Slot::Here(_) | Slot::Damaged) => visit(chunk, slot),
                    }
                }
            }
            at = area.end;
        }
        Ok(())
    }

    /// The checksum of the whole object, if all of its chunks are here: what the slots combine to.
    pub(crate) fn whole_crc(&self) -> io::Result<Option<Crc64>> {
        let mut sum = WholeSum::default();
        self.visit_slots(&mut |chunk, slot| sum.add(chunk, slot, self.header.chunk_range(chunk)))?;
        Ok(sum.of_chunks(self.header.chunks()))
    }

    /// The seal, if there is one that checks.
    pub(crate) fn read_seal(&self) -> io::Result<Option<Seal>> {
        let mut bytes = [0; SEAL_BYTES as usize];
        self.map.read_exact_at(&mut bytes, self.header.seal_at())?;
        Ok(Seal::decode(self.checksum, self.header.size, &bytes))
    }
}

/// The checksums of chunks that follow each other, combined.
#[derive(Debug)]
pub(crate) struct WholeSum {
    crc: Crc64,
    /// Chunks so far.
    chunks: u64,
}

impl Default for WholeSum {
    fn default() -> WholeSum {
        WholeSum { crc: Crc64::EMPTY, chunks: 0 }
    }
}

impl WholeSum {
    /// Takes the next slot in, which has this range; what does not follow on is left out.
    pub(crate) fn add(&mut self, chunk: u64, slot: Slot, range: ByteRange) {
        if let Slot::Here(crc) = slot
            && chunk == self.chunks
        {
            self.crc = self.crc.then(crc, range.len());
            self.chunks += 1;
        }
    }

    /// The checksum, if it is of so many chunks.
    pub(crate) fn of_chunks(&self, chunks: u64) -> Option<Crc64> {
        (self.chunks == chunks).then_some(self.crc)
    }
}

fn failure(error: &io::Error) -> ChunkState {
    match error.kind() {
        io::ErrorKind::WouldBlock => ChunkState::WouldBlock,
        // By kind there are more reasons than anybody could name; all of them mean that the bytes cannot be had.
        _ => ChunkState::Damaged,
    }
}

fn read_at(file: &File, into: &mut [u8], at: u64, wait: Wait) -> io::Result<()> {
    match wait {
        Wait::Allowed => file.read_exact_at(into, at),
        Wait::Never => read_resident_at(file, into, at),
    }
}

/// Reads what is in memory; `WouldBlock` when not all of it is.
fn read_resident_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    let mut done = 0;
    while done < into.len() {
        let mut rest = [IoSliceMut::new(&mut into[done..])];
        match rustix::io::preadv2(file, &mut rest, at + done as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            // Not every file system can tell, and not every kernel knows the call.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                return file.read_exact_at(&mut into[done..], at + done as u64);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The next stretch of `file` in `from..end` that may hold anything but zeros.
fn next_data(file: &File, from: u64, end: u64) -> io::Result<Option<ByteRange>> {
    if from >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if start >= end {
        return Ok(None);
    }
    let stop = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some(ByteRange::new(start, stop.min(end))))
}
