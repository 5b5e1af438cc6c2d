//! The map of a chunk file: which object it holds, which of its chunks are here, and what they must hash to.
//!
//! Format 2. Integers are little-endian. A map is a header, then one slot for each chunk of the object, then, at the next
//! multiple of 64, the seal (`seal.rs`). (Format 1 had no seal; it was never released, and its files are removed.)
//!
//! ```text
//! header                                          slot i, at H + 16 * i
//!   0   8  magic "tethmap\n"                        0  8  CRC-64/NVME of the chunk
//!   8   4  format version, 2                        8  4  marker "HERE"
//!  12   4  H: bytes of the header, n * 512         12  4  slot check
//!  16   8  bytes of the object
//!  24   8  bytes a chunk
//!  32   4  v: bytes of the volume's name
//!  36   4  k: bytes of the key
//!  40   4  e: bytes of the etag
//!  44   4  zero
//!  48      volume, key, etag (UTF-8), then zeros
//! H-8   8  CRC-64/NVME of all bytes before it
//! ```
//!
//! The slot check is the CRC-64/NVME of: the header's checksum (8 bytes), the chunk's index (8 bytes), the slot's first
//! 12 bytes; its upper half xor its lower half. So a slot counts only where it was written, in the map it was written
//! for. A slot of zeros is an absent chunk; anything else that does not check is one as well.
//!
//! Nothing here is ever synced. Data are written before their slot; when a power loss keeps the slot and not the data,
//! the chunk's checksum tells. A slot is 16 bytes on a 16-byte boundary, so it lies within one sector.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::cache::files::seal::SEAL_BYTES;
use crate::types::{ByteRange, Crc64, ObjectId};

/// Bytes of a slot.
pub(crate) const SLOT_BYTES: u64 = 16;
/// Longest header that is written or read: one block. Keys have at most 1,024 bytes; volumes and etags are short.
pub(crate) const HEADER_BYTES_MAX: usize = 4096;
/// Shortest header there can be.
pub(crate) const HEADER_BYTES_MIN: u64 = HEADER_UNIT as u64;

const MAGIC: [u8; 8] = *b"tethmap\n";
const FORMAT: u32 = 2;
const MARKER: [u8; 4] = *b"HERE";
const HEADER_UNIT: usize = 512;
const FIXED_BYTES: usize = 48;
const CHECKSUM_BYTES: usize = 8;

/// Which bytes a pair of files holds, and how they are cut.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// The volume's stable name.
    pub volume: String,
    /// The object's key.
    pub key: String,
    /// The object's version.
    pub etag: String,
    /// Bytes of the object.
    pub size: u64,
    /// Bytes a chunk.
    pub chunk_bytes: u64,
}

/// What a slot says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    /// The chunk is not here.
    Absent,
    /// The chunk is here and must hash to this.
    Here(Crc64),
    /// Torn, stale or foreign bytes: the chunk counts as absent, and the slot should be cleared.
    Damaged,
}

impl Header {
    pub(crate) fn new(volume: &str, object: &ObjectId, chunk_bytes: u64) -> Header {
        Header {
            volume: volume.to_owned(),
            key: object.key.as_str().to_owned(),
            etag: object.etag.as_str().to_owned(),
            size: object.size,
            chunk_bytes,
        }
    }

    /// Bytes of the encoded header: where the slots begin.
    pub(crate) fn encoded_bytes(&self) -> usize {
        let text = self.volume.len() + self.key.len() + self.etag.len();
        (FIXED_BYTES + text + CHECKSUM_BYTES).next_multiple_of(HEADER_UNIT)
    }

    /// The header as it stands in the file, and its checksum.
    pub(crate) fn encode(&self) -> (Vec<u8>, Crc64) {
        let len = self.encoded_bytes();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(len as u32).to_le_bytes());
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        for text in [&self.volume, &self.key, &self.etag] {
            bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
        }
        bytes.extend_from_slice(&0u32.to_le_bytes());
        for text in [&self.volume, &self.key, &self.etag] {
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.resize(len - CHECKSUM_BYTES, 0);
        let checksum = Crc64::of(&bytes);
        bytes.extend_from_slice(&checksum.0.to_le_bytes());
        (bytes, checksum)
    }

    /// Reads a header from the first bytes of a map. `None` when it is not one of ours, whole and of this format.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Header, Crc64)> {
        let len = u32_at(bytes, 12)? as usize;
        if bytes.get(..8)? != MAGIC || u32_at(bytes, 8)? != FORMAT || len > HEADER_BYTES_MAX {
            return None;
        }
        let body = bytes.get(..len.checked_sub(CHECKSUM_BYTES)?)?;
        let checksum = Crc64(u64_at(bytes, body.len())?);
        if Crc64::of(body) != checksum {
            return None;
        }
        let mut at = FIXED_BYTES;
        let mut text = |field: usize| {
            let end = at.checked_add(u32_at(body, field)? as usize)?;
            let text = std::str::from_utf8(body.get(at..end)?).ok()?;
            at = end;
            Some(text.to_owned())
        };
        let (volume, key, etag) = (text(32)?, text(36)?, text(40)?);
        let header = Header { volume, key, etag, size: u64_at(body, 16)?, chunk_bytes: u64_at(body, 24)? };
        (header.encoded_bytes() == len && header.chunk_bytes.is_power_of_two()).then_some((header, checksum))
    }

    /// Reads the header of a map, if there is one that is whole. Waits for the disk.
    pub(crate) fn read(map: &Path) -> Option<Header> {
        let mut start = Vec::with_capacity(HEADER_BYTES_MAX);
        File::open(map).ok()?.take(HEADER_BYTES_MAX as u64).read_to_end(&mut start).ok()?;
        Header::decode(&start).map(|(header, _)| header)
    }

    /// Number of chunks.
    pub(crate) fn chunks(&self) -> u64 {
        self.size.div_ceil(self.chunk_bytes)
    }

    /// The bytes of a chunk; the last one is cut at the object's end.
    pub(crate) fn chunk_range(&self, chunk: u64) -> ByteRange {
        ByteRange::at(chunk * self.chunk_bytes, self.chunk_bytes).clip(self.size)
    }

    /// Where a chunk's slot is in the map.
    pub(crate) fn slot_at(&self, chunk: u64) -> u64 {
        self.encoded_bytes() as u64 + chunk * SLOT_BYTES
    }

    /// Where the slots end.
    pub(crate) fn slots_end(&self) -> u64 {
        self.slot_at(self.chunks())
    }

    /// Where the seal is in the map.
    pub(crate) fn seal_at(&self) -> u64 {
        self.slots_end().next_multiple_of(SEAL_BYTES)
    }

    /// Bytes of the whole map.
    pub(crate) fn map_bytes(&self) -> u64 {
        self.seal_at() + SEAL_BYTES
    }
}

impl Slot {
    /// The slot of a chunk that is here, for the map with this header checksum.
    pub(crate) fn encode(header: Crc64, chunk: u64, crc: Crc64) -> [u8; SLOT_BYTES as usize] {
        let mut bytes = [0; SLOT_BYTES as usize];
        bytes[..8].copy_from_slice(&crc.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&MARKER);
        let check = check(header, chunk, &bytes[..12]);
        bytes[12..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads the slot of a chunk; `bytes` are [`SLOT_BYTES`] of them.
    pub(crate) fn decode(header: Crc64, chunk: u64, bytes: &[u8]) -> Slot {
        if bytes.iter().all(|&byte| byte == 0) {
            return Slot::Absent;
        }
        match (u64_at(bytes, 0), bytes.get(8..12), u32_at(bytes, 12)) {
            (Some(crc), Some(marker), Some(stored))
                if marker == MARKER && stored == check(header, chunk, &bytes[..12]) =>
            {
                Slot::Here(Crc64(crc))
            }
            _ => Slot::Damaged,
        }
    }
}

fn check(header: Crc64, chunk: u64, slot: &[u8]) -> u32 {
    let mut covered = [0; 28];
    covered[..8].copy_from_slice(&header.0.to_le_bytes());
    covered[8..16].copy_from_slice(&chunk.to_le_bytes());
    covered[16..].copy_from_slice(slot);
    let sum = Crc64::of(&covered).0;
    (sum >> 32) as u32 ^ sum as u32
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(field.try_into().expect("four bytes were taken")))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(field.try_into().expect("eight bytes were taken")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Header {
        Header {
            volume: "s3://server/bucket/".into(),
            key: "films/a.mkv".into(),
            etag: "d41d8cd98f-2".into(),
            size: 1_000_000,
            chunk_bytes: 262_144,
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn format_2_stays_what_it_is() {
        let (bytes, checksum) = sample().encode();
        assert_eq!(bytes.len(), 512);
        let fixed = "746574686d61700a020000000002000040420f00000000000000040000000000130000000b0000000c00000000000000";
        assert_eq!(hex(&bytes[..48]), fixed);
        assert_eq!(&bytes[48..90], b"s3://server/bucket/films/a.mkvd41d8cd98f-2");
        assert_eq!(hex(&bytes[504..]), "e447dd839cc14124");
        assert_eq!(
            hex(&Slot::encode(checksum, 3, Crc64::of(b"123456789"))),
            "8898790a86148bae4845524586b4b46c"
        );
        assert_eq!(sample().slot_at(3), 512 + 48);
        assert_eq!((sample().seal_at(), sample().map_bytes()), (512 + 4 * 16, 512 + 4 * 16 + 64));
        assert_eq!(Header { size: 1, ..sample() }.seal_at(), 512 + 64);
    }

    #[test]
    fn any_flipped_bit_of_a_header_is_noticed() {
        let (bytes, _) = sample().encode();
        assert_eq!(Header::decode(&bytes).map(|(header, _)| header), Some(sample()));
        for at in 0..bytes.len() * 8 {
            let mut bent = bytes.clone();
            bent[at / 8] ^= 1 << (at % 8);
            assert_eq!(Header::decode(&bent), None, "bit {at}");
        }
        for len in 0..bytes.len() {
            assert_eq!(Header::decode(&bytes[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn any_flipped_bit_of_a_slot_is_noticed_and_so_is_a_foreign_slot() {
        let (header, crc) = (Crc64(7), Crc64(0x0123_4567_89ab_cdef));
        let bytes = Slot::encode(header, 9, crc);
        assert_eq!(Slot::decode(header, 9, &bytes), Slot::Here(crc));
        assert_eq!(Slot::decode(header, 10, &bytes), Slot::Damaged);
        assert_eq!(Slot::decode(Crc64(8), 9, &bytes), Slot::Damaged);
        assert_eq!(Slot::decode(header, 9, &[0; 16]), Slot::Absent);
        for at in 0..bytes.len() * 8 {
            let mut bent = bytes;
            bent[at / 8] ^= 1 << (at % 8);
            assert_eq!(Slot::decode(header, 9, &bent), Slot::Damaged, "bit {at}");
        }
    }

    proptest! {
        /// A write of a slot over what was there before, cut at any byte: the old slot, the new one or none.
        #[test]
        fn a_torn_slot_is_the_old_the_new_or_none(before: Option<u64>, after: u64, header: u64, chunk: u64, torn in 0..=16usize) {
            let header = Crc64(header);
            let old = before.map_or([0; 16], |crc| Slot::encode(header, chunk, Crc64(crc)));
            let new = Slot::encode(header, chunk, Crc64(after));
            let mut found = old;
            found[..torn].copy_from_slice(&new[..torn]);
            match Slot::decode(header, chunk, &found) {
                Slot::Absent => prop_assert_eq!(found, [0; 16]),
                Slot::Here(crc) if Some(crc.0) == before => prop_assert_eq!(found, old),
                Slot::Here(crc) => prop_assert_eq!((crc.0, found), (after, new)),
                Slot::Damaged => prop_assert!(torn > 0 && torn < 16),
            }
        }

        #[test]
        fn headers_come_back(volume in "[ -~]{0,900}", key in ".{1,200}", etag in ".{0,70}", size: u64, bits in 12u32..25) {
            let header = Header { volume, key, etag, size, chunk_bytes: 1 << bits };
            let (bytes, checksum) = header.encode();
            prop_assert_eq!(bytes.len() % 512, 0);
            prop_assert_eq!(Header::decode(&bytes), Some((header, checksum)));
        }

        #[test]
        fn garbage_is_no_header(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            prop_assert_eq!(Header::decode(&bytes), None);
        }
    }
}
