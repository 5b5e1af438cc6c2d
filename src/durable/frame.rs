//! Record framing: what a journal file looks like. Pure: bytes in, bytes out.
//!
//! All numbers are little-endian. CRC is CRC-64/NVME.
//!
//! ```text
//! file   := header record*
//! header := magic[8]="TETHJRNL" version:u32 zero:u32 generation:u64 crc:u64      (crc of the 24 bytes before it)
//! record := marker[4]=D7 52 45 C3 length:u32 sequence:u64 crc:u64 payload[length]
//!           crc of: generation:u64 length:u32 sequence:u64 payload
//! ```
//!
//! * Every later version keeps the header's layout, so that "newer" is told apart from "damaged".
//! * Sequences count from 0 in each file. The generation is part of the checksum, so that a stale block of an older
//!   file is never taken for a record of this one.
//! * Torn tail: bad bytes with nothing good behind them are what a crash leaves of an append, and are cut.
//! * Damage: bad bytes *followed* by a good record. The next good record is found by its marker and believed only when
//!   its checksum holds and its sequence is not below the one expected.

use std::ops::Range;

use crate::types::Crc64;

/// The version this code writes, and the newest it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Longest payload.
pub const RECORD_BYTES_MAX: usize = 64 << 20;
/// Length of a file's header.
pub const FILE_HEADER_BYTES: usize = 32;
/// Bytes of a record before its payload.
pub const RECORD_HEADER_BYTES: usize = 24;

const MAGIC: [u8; 8] = *b"TETHJRNL";
/// Not ASCII and not UTF-8, so that no text payload holds it.
const MARKER: [u8; 4] = [0xD7, b'R', b'E', 0xC3];

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// The payloads of good records, in order, as positions in the file.
    pub records: Vec<Range<usize>>,
    /// Stretches that are bad and not just a torn tail.
    pub damage: Vec<Stretch>,
    /// One past the last good byte: where a torn tail begins, or the end of the file.
    pub good_end: usize,
    /// The sequence of the record to be appended next.
    pub next_sequence: u64,
}

/// Bad bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where they are.
    pub range: Range<usize>,
    /// What is wrong with them.
    pub reason: String,
}

/// The file has this format version, which is above [`FORMAT_VERSION`].
#[derive(Debug, PartialEq, Eq)]
pub struct Newer(pub u32);

/// The header of a file.
pub fn file_header(generation: u64) -> [u8; FILE_HEADER_BYTES] {
    header_with_version(FORMAT_VERSION, generation)
}

/// Appends a framed record to `out`. `payload` has at most [`RECORD_BYTES_MAX`] bytes.
pub fn push_record(out: &mut Vec<u8>, generation: u64, sequence: u64, payload: &[u8]) {
    assert!(payload.len() <= RECORD_BYTES_MAX, "a record of {} bytes", payload.len());
    out.reserve(RECORD_HEADER_BYTES + payload.len());
    out.extend(MARKER);
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend(sequence.to_le_bytes());
    out.extend(record_crc(generation, sequence, payload).0.to_le_bytes());
    out.extend(payload);
}

/// Reads a file. `generation` is the one its name tells, used when the header is damaged.
pub fn scan(bytes: &[u8], generation: u64) -> Result<Scan, Newer> {
    let mut scan = Scan::default();
    let mut bad: Option<(usize, String)> = None;
    let (mut at, generation) = match read_header(bytes) {
        Header::Good { generation } => (FILE_HEADER_BYTES, generation),
        Header::Newer { version } => return Err(Newer(version)),
        Header::Bad => {
            bad = Some((0, "the file's header is damaged".to_owned()));
            (next_marker(bytes, 0), generation)
        }
    };
    scan.good_end = if bad.is_some() { 0 } else { at };
    while at < bytes.len() {
        match read_record(&bytes[at..], generation, scan.next_sequence) {
            Ok((sequence, payload_len)) => {
                if let Some((start, reason)) = bad.take() {
                    scan.damage.push(Stretch { range: start..at, reason });
                } else if sequence != scan.next_sequence {
                    let reason = format!("records {} to {} are missing", scan.next_sequence, sequence - 1);
                    scan.damage.push(Stretch { range: at..at, reason });
                }
                let payload = at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + payload_len;
                at = payload.end;
                scan.records.push(payload);
                scan.good_end = at;
                scan.next_sequence = sequence + 1;
            }
            Err(reason) => {
                if bad.is_none() {
                    bad = Some((at, format!("record {}: {reason}", scan.next_sequence)));
                }
                at = next_marker(bytes, at + 1);
            }
        }
    }
    // A header is synced before the file gets its name, so a bad one is no torn tail even if nothing follows.
    if let Some((0, reason)) = bad {
        scan.damage.push(Stretch { range: 0..bytes.len(), reason });
    }
    Ok(scan)
}

enum Header {
    Good { generation: u64 },
    Newer { version: u32 },
    Bad,
}

fn read_header(bytes: &[u8]) -> Header {
    let Some(header) = bytes.get(..FILE_HEADER_BYTES) else {
        return Header::Bad;
    };
    if header[..8] != MAGIC || Crc64::of(&header[..24]) != Crc64(u64_at(header, 24)) {
        return Header::Bad;
    }
    match u32_at(header, 8) {
        FORMAT_VERSION => Header::Good { generation: u64_at(header, 16) },
        version if version > FORMAT_VERSION => Header::Newer { version },
        _ => Header::Bad,
    }
}

fn header_with_version(version: u32, generation: u64) -> [u8; FILE_HEADER_BYTES] {
    let mut header = [0; FILE_HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&version.to_le_bytes());
    header[16..24].copy_from_slice(&generation.to_le_bytes());
    let crc = Crc64::of(&header[..24]);
    header[24..].copy_from_slice(&crc.0.to_le_bytes());
    header
}

/// The sequence and payload length of the record at the start of `bytes`, or what is wrong with it.
fn read_record(bytes: &[u8], generation: u64, expected: u64) -> Result<(u64, usize), &'static str> {
    let Some(header) = bytes.get(..RECORD_HEADER_BYTES) else {
        return Err("it is cut short");
    };
    if header[..4] != MARKER {
        return Err("its marker is wrong");
    }
    let payload_len = u32_at(header, 4) as usize;
    if payload_len > RECORD_BYTES_MAX {
        return Err("its length is impossible");
    }
    let Some(payload) = bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + payload_len) else {
        return Err("it is cut short");
    };
    let sequence = u64_at(header, 8);
    if record_crc(generation, sequence, payload) != Crc64(u64_at(header, 16)) {
        return Err("its checksum is wrong");
    }
    if sequence < expected {
        return Err("its sequence goes back");
    }
    Ok((sequence, payload_len))
}

fn record_crc(generation: u64, sequence: u64, payload: &[u8]) -> Crc64 {
    let mut prefix = [0; 20];
    prefix[..8].copy_from_slice(&generation.to_le_bytes());
    prefix[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    prefix[12..].copy_from_slice(&sequence.to_le_bytes());
    Crc64::of(&prefix).then(Crc64::of(payload), payload.len() as u64)
}

/// Where the next marker at or after `from` begins, or the end.
fn next_marker(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(MARKER.len()).position(|window| window == MARKER).map_or(bytes.len(), |found| from + found)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GENERATION: u64 = 7;

    fn file_of(payloads: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = file_header(GENERATION).to_vec();
        for (sequence, payload) in payloads.iter().enumerate() {
            push_record(&mut bytes, GENERATION, sequence as u64, payload);
        }
        bytes
    }

    fn samples() -> Vec<Vec<u8>> {
        vec![
            b"first".to_vec(),
            Vec::new(),
            vec![0xD7; 40],
            b"RE\xC3\xD7RE\xC3".to_vec(),
            b"the last".to_vec(),
        ]
    }

    fn payloads_of(bytes: &[u8], scan: &Scan) -> Vec<Vec<u8>> {
        scan.records.iter().map(|range| bytes[range.clone()].to_vec()).collect()
    }

    /// Where each record of `samples()` begins, and the end.
    fn bounds(payloads: &[Vec<u8>]) -> Vec<usize> {
        let mut bounds = vec![FILE_HEADER_BYTES];
        for payload in payloads {
            bounds.push(bounds[bounds.len() - 1] + RECORD_HEADER_BYTES + payload.len());
        }
        bounds
    }

    #[test]
    fn the_format_is_what_the_header_of_this_file_says() {
        let bytes = file_of(&[b"abc".to_vec()]);
        assert_eq!(&bytes[..24], b"TETHJRNL\x01\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0");
        assert_eq!(bytes[24..32], Crc64::of(&bytes[..24]).0.to_le_bytes());
        assert_eq!(&bytes[32..48], b"\xD7RE\xC3\x03\0\0\0\0\0\0\0\0\0\0\0");
        let covered = b"\x07\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0abc";
        assert_eq!(bytes[48..56], Crc64::of(covered).0.to_le_bytes());
        assert_eq!(&bytes[56..], b"abc");
    }

    #[test]
    fn a_tail_torn_at_any_byte_costs_only_the_record_it_tears() {
        let payloads = samples();
        let whole = file_of(&payloads);
        let bounds = bounds(&payloads);
        for cut in FILE_HEADER_BYTES..=whole.len() {
            for filler in [None, Some(0u8), Some(0xD7)] {
                let mut bytes = whole[..cut].to_vec();
                // A file system may have given the file its length without its bytes.
                if let Some(filler) = filler {
                    bytes.resize(cut + 50, filler);
                }
                let scan = scan(&bytes, GENERATION).unwrap();
                let kept = bounds.iter().filter(|&&bound| bound <= cut).count() - 1;
                // A filler may by chance be the bytes that were cut: never more than what was written, though.
                let found = payloads_of(&bytes, &scan);
                assert!(found.len() >= kept && found[..] == payloads[..found.len()], "cut at {cut}");
                assert!(filler.is_some() || found.len() == kept, "cut at {cut}");
                assert_eq!(scan.damage, [], "cut at {cut}");
                assert_eq!(scan.good_end, bounds[found.len()]);
                assert_eq!(scan.next_sequence, found.len() as u64);
            }
        }
    }

    #[test]
    fn a_flipped_byte_anywhere_costs_only_the_record_it_is_in_and_is_reported() {
        let payloads = samples();
        let whole = file_of(&payloads);
        let bounds = bounds(&payloads);
        for at in 0..whole.len() {
            for mask in [0x01, 0x80, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] ^= mask;
                let scan = scan(&bytes, GENERATION).unwrap();
                let mut expected = payloads.clone();
                let hit = bounds.iter().filter(|&&bound| bound <= at).count().checked_sub(1);
                hit.map(|record| expected.remove(record));
                assert_eq!(payloads_of(&bytes, &scan), expected, "flip at {at}");
                let stretch = match hit {
                    None => Some(0..FILE_HEADER_BYTES),
                    Some(record) if record == payloads.len() - 1 => None,
                    Some(record) => Some(bounds[record]..bounds[record + 1]),
                };
                let reported: Vec<_> = scan.damage.iter().map(|stretch| stretch.range.clone()).collect();
                assert_eq!(reported, Vec::from_iter(stretch), "flip at {at}");
            }
        }
    }

    #[test]
    fn a_damaged_header_of_an_empty_file_is_damage() {
        let mut bytes = file_header(GENERATION).to_vec();
        bytes[20] ^= 1;
        assert_eq!(scan(&bytes, GENERATION).unwrap().damage[0].range, 0..FILE_HEADER_BYTES);
        assert_eq!(scan(b"", GENERATION).unwrap().damage[0].range, 0..0);
    }

    #[test]
    fn newer_is_told_apart_from_damaged() {
        assert_eq!(scan(&header_with_version(FORMAT_VERSION + 1, 1), 1), Err(Newer(FORMAT_VERSION + 1)));
        assert_eq!(scan(&header_with_version(0, 1), 1).unwrap().damage.len(), 1);
    }

    #[test]
    fn records_of_another_generation_or_out_of_order_are_not_taken() {
        let mut bytes = file_of(&[b"mine".to_vec()]);
        let good_end = bytes.len();
        push_record(&mut bytes, GENERATION - 1, 1, b"stale");
        push_record(&mut bytes, GENERATION, 0, b"again");
        let found = scan(&bytes, GENERATION).unwrap();
        assert_eq!((found.records.len(), found.good_end, found.damage.len()), (1, good_end, 0));
        push_record(&mut bytes, GENERATION, 1, b"next");
        let found = scan(&bytes, GENERATION).unwrap();
        assert_eq!(payloads_of(&bytes, &found), [b"mine".to_vec(), b"next".to_vec()]);
        assert_eq!(found.damage.len(), 1);
    }

    #[test]
    fn a_missing_record_is_reported_even_without_bad_bytes() {
        let mut bytes = file_of(&[b"0".to_vec()]);
        push_record(&mut bytes, GENERATION, 3, b"3");
        let found = scan(&bytes, GENERATION).unwrap();
        assert_eq!(found.records.len(), 2);
        assert_eq!(found.damage[0].reason, "records 1 to 2 are missing");
    }

    proptest! {
        #[test]
        fn whatever_is_overwritten_no_record_is_invented(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 1..12),
            writes in proptest::collection::vec((any::<prop::sample::Index>(), proptest::collection::vec(any::<u8>(), 1..40)), 0..4),
        ) {
            let mut bytes = file_of(&payloads);
            for (at, noise) in writes {
                let at = at.index(bytes.len());
                let end = bytes.len().min(at + noise.len());
                bytes[at..end].copy_from_slice(&noise[..end - at]);
            }
            if let Ok(found) = scan(&bytes, GENERATION) {
                let mut rest = payloads.iter();
                for payload in payloads_of(&bytes, &found) {
                    prop_assert!(rest.any(|written| *written == payload), "an invented or reordered record");
                }
                let mut at = 0;
                for stretch in &found.damage {
                    prop_assert!(at <= stretch.range.start && stretch.range.end <= bytes.len());
                    at = stretch.range.end;
                }
            }
        }
    }
}
