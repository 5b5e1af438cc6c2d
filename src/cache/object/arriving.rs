//! How chunks come to the disk: admitted, written, then told of.

use std::io;
use std::time::Instant;

use crate::cache::Disk;
use crate::cache::files::map::Header;
use crate::cache::files::{Access, Opened, Pair};
use crate::cache::health::is_full;
use crate::cache::locked;
use crate::cache::object::presence::GROUP_CHUNKS;
use crate::cache::object::{CachedObject, Files, GROUP_OVERHEAD_BYTES, Presence, charge_of, chunk_charge};
use crate::observe::Counter;
use crate::types::Crc64;

/// Tries to write a chunk; between two of them something is evicted.
const WRITES_MAX: u32 = 2;

/// A chunk on its way to the disk.
struct Arrival<'a> {
    chunk: u64,
    crc: Crc64,
    bytes: &'a [u8],
    /// Bytes admitted for it.
    reserved: u64,
}

impl CachedObject {
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

    /// Writes a chunk that is not here. False when it could not be kept.
    fn keep(&self, disk: &Disk, header: &Header, chunk: u64, bytes: &[u8]) -> bool {
        if disk.health.is_paused(Instant::now()) {
            return false;
        }
        let reserved = chunk_charge(header, chunk) + GROUP_OVERHEAD_BYTES;
        let arrival = Arrival { chunk, crc: Crc64::of(bytes), bytes, reserved };
        for write in 1..=WRITES_MAX {
            if !self.cache.admit(disk, reserved) {
                return false;
            }
            let Err(error) = self.write(disk, header, &arrival) else {
                disk.health.worked(&disk.directory);
                return true;
            };
            // Others have filled the disk: what is cached longest makes room for what is wanted now.
            if write == WRITES_MAX || !is_full(&error) || !self.cache.evict_for_others(disk) {
                self.cache.note_failure(disk, &error);
                return false;
            }
        }
        false
    }

    /// One try to write. Settles the reservation, or releases it.
    fn write(&self, disk: &Disk, header: &Header, arrival: &Arrival<'_>) -> io::Result<()> {
        let Arrival { chunk, crc, bytes, reserved } = *arrival;
        let mut files = self.write_files();
        let release = || self.cache.books(disk, |ledger| ledger.release(reserved));
        if self.has(chunk) {
            release();
            return Ok(());
        }
        if let Err(error) = self.open_for_writing(disk, header, &mut files) {
            release();
            return Err(error);
        }
        let Files::Open(pair) = &*files else {
            unreachable!("it has just been opened");
        };
        let group = chunk / GROUP_CHUNKS;
        let charge = |bits| charge_of(header, group, bits);
        let before = self.known(|chunks| chunks.group(group)).unwrap_or(0);
        let mut is_undone = true;
        let written = self.change(pair, || {
            pair.write_chunk(chunk, crc, bytes).inspect_err(|_| {
                // A slot that stays half written does not check, and data without a slot are not served; but they
                // may still take room.
                is_undone = pair.discard(chunk..chunk + 1).is_ok();
            })
        });
        if written.is_err() && is_undone {
            release();
            return written;
        }
        let grown = before | 1 << (chunk % GROUP_CHUNKS);
        self.cache.books(disk, |ledger| {
            ledger.settle(self.unit(group), reserved, charge(grown) - charge(before));
        });
        written?;
        self.known(|chunks| {
            chunks.insert(chunk);
            let as_left = chunks.witness();
            chunks.prove(chunk, as_left);
        });
        Ok(())
    }

    fn open_for_writing(&self, disk: &Disk, header: &Header, files: &mut Files) -> io::Result<()> {
        if matches!(*locked(&self.presence), Presence::Unknown) {
            return Err(io::Error::other("its map has not been read"));
        }
        match files {
            Files::Open(pair) if pair.access() == Access::ReadWrite => Ok(()),
            Files::Open(_) => match Pair::open_for(&disk.directory, self.name, Access::ReadWrite)? {
                Opened::Pair(pair) => {
                    *files = Files::Open(pair);
                    Ok(())
                }
                Opened::Missing | Opened::Unusable => Err(io::Error::other("its files have changed")),
            },
            Files::Missing => {
                let _making = locked(&disk.making);
                *files = Files::Open(Pair::create(&disk.directory, header)?);
                Ok(())
            }
            Files::Unopened | Files::Unusable => Err(io::Error::other("its files cannot be opened")),
        }
    }
}
