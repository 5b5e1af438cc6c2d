//! The two files of one object: what is done to them, in an order that a crash cannot turn into wrong bytes.
//!
//! Data are written before their slot, and a slot is cleared before its data are punched out, so a slot never vouches
//! for bytes that were not written. No call here knows of memory, limits or recency.

pub(crate) mod map;
mod reading;
pub(crate) mod seal;
pub(crate) mod witness;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

pub(crate) use reading::{ChunkState, Wait, WholeSum};

use crate::cache::files::map::{HEADER_BYTES_MAX, Header, Slot};
use crate::cache::files::seal::{SEAL_BYTES, Seal};
use crate::cache::files::witness::Witness;
use crate::cache::layout::Name;
use crate::types::{ByteRange, Crc64};

/// Unit in which space comes back from a file. Larger blocks of a file system only make it come back later.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// Unit of `st_blocks`, whatever the file system's own.
pub(crate) const STAT_BLOCK_BYTES: u64 = 512;

/// The open chunk file and map of one object.
#[derive(Debug)]
pub(crate) struct Pair {
    header: Header,
    checksum: Crc64,
    data: File,
    map: File,
    access: Access,
}

/// What may be done to an open pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    ReadWrite,
    /// The file system takes no changes.
    ReadOnly,
}

/// What was found under a name.
#[derive(Debug)]
pub(crate) enum Opened {
    Pair(Pair),
    /// Nothing.
    Missing,
    /// Files that are of no use: one alone, cut, damaged, of another format, or those of another object.
    Unusable,
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
        if made.is_err()
            && let Err(error) = remove(directory, name)
        {
            log::debug!("Cannot remove a cache file that could not be made: {error}");
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
        Ok(Pair { header: header.clone(), checksum, data, map, access: Access::ReadWrite })
    }

    /// Opens both files, if it can be for changes.
    pub(crate) fn open(directory: &Path, name: Name) -> io::Result<Opened> {
        match Pair::open_for(directory, name, Access::ReadWrite) {
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                Pair::open_for(directory, name, Access::ReadOnly)
            }
            opened => opened,
        }
    }

    /// Opens both files. Changes nothing, whatever is found.
    pub(crate) fn open_for(directory: &Path, name: Name, access: Access) -> io::Result<Opened> {
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::ReadWrite);
        let opened = (found(options.open(name.map(directory)))?, found(options.open(name.data(directory)))?);
        let (map, data) = match opened {
            (None, None) => return Ok(Opened::Missing),
            (Some(map), Some(data)) => (map, data),
            (Some(_), None) | (None, Some(_)) => return Ok(Opened::Unusable),
        };
        let map_bytes = map.metadata()?.len();
        let mut start = vec![0; map_bytes.min(HEADER_BYTES_MAX as u64) as usize];
        map.read_exact_at(&mut start, 0)?;
        let Some((header, checksum)) = Header::decode(&start) else {
            return Ok(Opened::Unusable);
        };
        let is_whole = map_bytes == header.map_bytes() && data.metadata()?.len() == header.size;
        if !is_whole || Name::of(&header) != name {
            return Ok(Opened::Unusable);
        }
        Ok(Opened::Pair(Pair { header, checksum, data, map, access }))
    }

    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// How the chunk file looks now.
    pub(crate) fn witness(&self) -> io::Result<Witness> {
        Witness::of(&self.data)
    }

    /// Writes a whole chunk, then its slot. After an error it must be discarded.
    pub(crate) fn write_chunk(&self, chunk: u64, crc: Crc64, bytes: &[u8]) -> io::Result<()> {
        self.check_access()?;
        let slot = Slot::encode(self.checksum, chunk, crc);
        self.data.write_all_at(bytes, self.header.chunk_range(chunk).start)?;
        self.map.write_all_at(&slot, self.header.slot_at(chunk))
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
        self.check_access()?;
        let start = self.header.chunk_range(chunks.start).start;
        let end = self.header.chunk_range(chunks.end - 1).end;
        punch(&self.data, ByteRange::new(start, end.next_multiple_of(BLOCK_BYTES)))?;
        // Somebody may have cut the file; it is opened again only at its full length.
        if self.data.metadata()?.len() < self.header.size {
            self.data.set_len(self.header.size)?;
        }
        Ok(())
    }

    /// Clears the slots of chunks, so that they are not here. Their data stay.
    pub(crate) fn clear_slots(&self, chunks: Range<u64>) -> io::Result<()> {
        self.check_access()?;
        let (start, end) = (self.header.slot_at(chunks.start), self.header.slot_at(chunks.end));
        self.map.write_all_at(&vec![0; (end - start) as usize], start)?;
        self.free_if_empty(ByteRange::new(start, end))
    }

    /// Writes the seal over the one that is there.
    pub(crate) fn write_seal(&self, seal: &Seal) -> io::Result<()> {
        self.check_access()?;
        self.map.write_all_at(&seal.encode(self.checksum), self.header.seal_at())
    }

    /// Takes the seal off, or what is left of one.
    pub(crate) fn clear_seal(&self) -> io::Result<()> {
        let at = self.header.seal_at();
        let mut bytes = [0; SEAL_BYTES as usize];
        self.map.read_exact_at(&mut bytes, at)?;
        if bytes == [0; SEAL_BYTES as usize] {
            return Ok(());
        }
        self.check_access()?;
        self.map.write_all_at(&[0; SEAL_BYTES as usize], at)?;
        self.free_if_empty(ByteRange::at(at, SEAL_BYTES))
    }

    /// Bytes that the chunk file takes on disk.
    pub(crate) fn data_bytes_on_disk(&self) -> io::Result<u64> {
        Ok(self.data.metadata()?.blocks() * STAT_BLOCK_BYTES)
    }

    /// Bytes that both files take on disk.
    pub(crate) fn bytes_on_disk(&self) -> io::Result<u64> {
        Ok(self.data_bytes_on_disk()? + self.map.metadata()?.blocks() * STAT_BLOCK_BYTES)
    }

    /// Notes in the map's time of change that the object has been used, for the order after a restart.
    pub(crate) fn touch(&self) -> io::Result<()> {
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        Ok(rustix::fs::futimens(&self.map, &Timestamps { last_access: omit, last_modification: now })?)
    }

    fn check_access(&self) -> io::Result<()> {
        match self.access {
            Access::ReadWrite => Ok(()),
            Access::ReadOnly => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    /// Gives those blocks of the map back that overlap `range` and hold nothing. The header's blocks never do.
    fn free_if_empty(&self, range: ByteRange) -> io::Result<()> {
        for block in range.widen(BLOCK_BYTES).split(BLOCK_BYTES) {
            let mut bytes = vec![0; block.clip(self.header.map_bytes()).len() as usize];
            self.map.read_exact_at(&mut bytes, block.start)?;
            if bytes.iter().all(|&byte| byte == 0) {
                punch(&self.map, block)?;
            }
        }
        Ok(())
    }
}

/// Removes both files, as far as they are there. The map first: data without a map are removed by the next scan.
pub(crate) fn remove(directory: &Path, name: Name) -> io::Result<()> {
    for path in [name.map(directory), name.data(directory)] {
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn found(opened: io::Result<File>) -> io::Result<Option<File>> {
    match opened {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn punch(file: &File, range: ByteRange) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, range.start, range.len())?)
}
