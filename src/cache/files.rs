//! The two files of one object: what is done to them, in an order that a crash cannot turn into wrong bytes.
//!
//! Data are written before their slot, and a slot is cleared before its data are punched out, so a slot never vouches
//! for bytes that were not written. No call here knows of memory, limits or recency.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use crate::cache::layout::Name;
use crate::cache::map::{HEADER_BYTES_MAX, Header, SLOT_BYTES, Slot};
use crate::types::{ByteRange, Crc64};

/// Unit in which space comes back from a file. Larger blocks of a file system only make it come back later.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// Bytes of a map read at once.
const MAP_READ_BYTES: u64 = 64 << 10;
/// Unit of `st_blocks`, whatever the file system's own.
pub(crate) const STAT_BLOCK_BYTES: u64 = 512;

/// The open chunk file and map of one object.
#[derive(Debug)]
pub(crate) struct Pair {
    header: Header,
    checksum: Crc64,
    data: File,
    map: File,
}

impl Pair {
    /// Makes both files anew, without any chunk.
    pub(crate) fn create(directory: &Path, header: &Header) -> io::Result<Pair> {
        let name = Name::of(header);
        match DirBuilder::new().mode(0o700).create(name.shard(directory)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let made = Pair::create_files(directory, name, header);
        if made.is_err() {
            remove(directory, name);
        }
        made
    }

    fn create_files(directory: &Path, name: Name, header: &Header) -> io::Result<Pair> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let data = options.open(name.data(directory))?;
        // At full length from the start: no file system allocates ahead of writes that do not extend the file.
        data.set_len(header.size)?;
        let map = options.open(name.map(directory))?;
        let (bytes, checksum) = header.encode();
        map.write_all_at(&bytes, 0)?;
        map.set_len(header.map_bytes())?;
        Ok(Pair { header: header.clone(), checksum, data, map })
    }

    /// Opens both files. `None` when they are not there or of no use; what there is of them is removed then.
    pub(crate) fn open(directory: &Path, name: Name) -> io::Result<Option<Pair>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let opened = (found(options.open(name.map(directory)))?, found(options.open(name.data(directory)))?);
        let pair = match opened {
            (None, None) => return Ok(None),
            (Some(map), Some(data)) => {
                Pair::checked(map, data)?.filter(|pair| Name::of(&pair.header) == name)
            }
            (Some(_), None) | (None, Some(_)) => None,
        };
        if pair.is_none() {
            remove(directory, name);
        }
        Ok(pair)
    }

    fn checked(map: File, data: File) -> io::Result<Option<Pair>> {
        let map_bytes = map.metadata()?.len();
        let mut start = vec![0; map_bytes.min(HEADER_BYTES_MAX as u64) as usize];
        map.read_exact_at(&mut start, 0)?;
        let Some((header, checksum)) = Header::decode(&start) else {
            return Ok(None);
        };
        let is_whole = map_bytes == header.map_bytes() && data.metadata()?.len() == header.size;
        Ok(is_whole.then_some(Pair { header, checksum, data, map }))
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The chunks that are here, in order. Reads what is allocated of the map; slots that do not check are cleared.
    pub(crate) fn chunks(&self) -> io::Result<Vec<u64>> {
        let mut present = Vec::new();
        let slots_at = self.header.slot_at(0);
        let mut at = slots_at;
        while let Some(area) = next_data(&self.map, at, self.header.map_bytes())? {
            // An area of data begins and ends at blocks, which are whole slots.
            for piece in area.split(MAP_READ_BYTES) {
                let mut bytes = vec![0; piece.len() as usize];
                self.map.read_exact_at(&mut bytes, piece.start)?;
                let first = (piece.start - slots_at) / SLOT_BYTES;
                for (chunk, slot) in (first..).zip(bytes.chunks_exact(SLOT_BYTES as usize)) {
                    match Slot::decode(self.checksum, chunk, slot) {
                        Slot::Absent => {}
                        Slot::Here(_) => present.push(chunk),
                        Slot::Damaged => self.clear_slots(chunk..chunk + 1)?,
                    }
                }
            }
            at = area.end;
        }
        Ok(present)
    }

    /// Reads a whole chunk into `into`, which has its length. False when it is not here or does not prove good.
    pub(crate) fn read_chunk(&self, chunk: u64, into: &mut [u8]) -> bool {
        let mut slot = [0; SLOT_BYTES as usize];
        if self.map.read_exact_at(&mut slot, self.header.slot_at(chunk)).is_err() {
            return false;
        }
        match Slot::decode(self.checksum, chunk, &slot) {
            Slot::Here(crc) => {
                self.data.read_exact_at(into, self.header.chunk_range(chunk).start).is_ok()
                    && Crc64::of(into) == crc
            }
            Slot::Absent | Slot::Damaged => false,
        }
    }

    /// Writes a whole chunk, then its slot. After an error the chunk is not here.
    pub(crate) fn write_chunk(&self, chunk: u64, crc: Crc64, bytes: &[u8]) -> io::Result<()> {
        let slot = Slot::encode(self.checksum, chunk, crc);
        let written = self
            .data
            .write_all_at(bytes, self.header.chunk_range(chunk).start)
            .and_then(|()| self.map.write_all_at(&slot, self.header.slot_at(chunk)));
        if let Err(error) = written {
            // Best effort: a slot that stays half written does not check, and data without a slot are not served.
            if let Err(again) = self.discard(chunk..chunk + 1) {
                log::debug!("Cannot take back a chunk that could not be written: {again}");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Takes chunks off the disk: their slots first, then their data.
    pub(crate) fn discard(&self, chunks: Range<u64>) -> io::Result<()> {
        let chunks = chunks.start..chunks.end.min(self.header.chunks());
        if chunks.is_empty() {
            return Ok(());
        }
        self.clear_slots(chunks.clone())?;
        self.punch_chunks(chunks)
    }

    /// Gives back the data of chunks (at least one) that have no slot.
    pub(crate) fn punch_chunks(&self, chunks: Range<u64>) -> io::Result<()> {
        let start = self.header.chunk_range(chunks.start).start;
        let end = self.header.chunk_range(chunks.end - 1).end;
        punch(&self.data, ByteRange::new(start, end.next_multiple_of(BLOCK_BYTES)))
    }

    /// Takes all chunks off the disk, where single ones cannot be.
    pub(crate) fn discard_all(&self) -> io::Result<()> {
        self.map.set_len(self.header.slot_at(0))?;
        self.map.set_len(self.header.map_bytes())?;
        self.data.set_len(0)?;
        self.data.set_len(self.header.size)
    }

    /// Bytes that the chunk file takes on disk.
    pub(crate) fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.data.metadata()?.blocks() * STAT_BLOCK_BYTES)
    }

    /// Notes in the map's time of change that the object has been used, for the order after a restart.
    pub(crate) fn touch(&self) -> io::Result<()> {
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        Ok(rustix::fs::futimens(&self.map, &Timestamps { last_access: omit, last_modification: now })?)
    }

    fn clear_slots(&self, chunks: Range<u64>) -> io::Result<()> {
        let (start, end) = (self.header.slot_at(chunks.start), self.header.slot_at(chunks.end));
        self.map.write_all_at(&vec![0; (end - start) as usize], start)?;
        for block in ByteRange::new(start, end).widen(BLOCK_BYTES).split(BLOCK_BYTES) {
            self.free_if_empty(block)?;
        }
        Ok(())
    }

    /// Gives a block of the map back when no slot in it is used. The header's blocks never are.
    fn free_if_empty(&self, block: ByteRange) -> io::Result<()> {
        let mut bytes = vec![0; block.clip(self.header.map_bytes()).len() as usize];
        self.map.read_exact_at(&mut bytes, block.start)?;
        match bytes.iter().all(|&byte| byte == 0) {
            true => punch(&self.map, block),
            false => Ok(()),
        }
    }
}

/// Removes both files, as far as they are there. The map first: data without a map are removed by the next scan.
pub(crate) fn remove(directory: &Path, name: Name) {
    for path in [name.map(directory), name.data(directory)] {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => log::warn!("Cannot remove cache file {}: {error}", path.display()),
        }
    }
}

fn found(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The next stretch of `file` in `from..end` that may hold anything but zeros.
fn next_data(file: &File, from: u64, end: u64) -> io::Result<Option<ByteRange>> {
    if from >= end {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stop = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok((start < end).then(|| ByteRange::new(start, stop.min(end))))
}

fn punch(file: &File, range: ByteRange) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, range.start, range.len())?)
}
