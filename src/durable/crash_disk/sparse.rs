//! A file that is written anywhere, and what power loss leaves of it: of each unsynced write any of its sectors, also of
//! a later one and not of an earlier; of the length as much as was ever reached, with zeros where bytes were lost.

use std::collections::BTreeSet;
use std::io;

use crate::types::{ByteRange, RangeSet};

/// What a disk writes at once.
const SECTOR_BYTES: usize = 512;
/// Unit of space.
const PAGE_BYTES: u64 = 4096;

/// The live and the durable image of one file.
#[derive(Debug, Default)]
pub struct SparseImage {
    live: Content,
    durable: Content,
    /// Changes that are in `live` and not in `durable`, in order.
    pending: Vec<Change>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Pages that take space.
    pages: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Reserve(ByteRange),
    Punch(ByteRange),
}

impl SparseImage {
    /// The live content.
    pub fn bytes(&self) -> &[u8] {
        &self.live.bytes
    }

    /// Space that the live image takes.
    pub fn bytes_taken(&self) -> u64 {
        self.live.pages.len() as u64 * PAGE_BYTES
    }

    /// As [`crate::durable::SparseFile::write_at`].
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        self.change(Change::Write { at: at as usize, bytes: bytes.to_vec() });
    }

    /// As [`crate::durable::SparseFile::reserve`].
    pub fn reserve(&mut self, range: ByteRange) {
        self.change(Change::Reserve(range));
    }

    /// As [`crate::durable::SparseFile::punch`].
    pub fn punch(&mut self, range: ByteRange) {
        self.change(Change::Punch(range));
    }

    /// As [`crate::durable::SparseFile::read_exact_at`].
    pub fn read(&self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        let range = at as usize..at as usize + bytes.len();
        let found = self.live.bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(found);
        Ok(())
    }

    /// As [`crate::durable::SparseFile::written`].
    pub fn written(&self) -> RangeSet {
        let end = self.live.bytes.len() as u64;
        let pages = self.live.pages.iter().map(|page| ByteRange::at(page * PAGE_BYTES, PAGE_BYTES).clip(end));
        pages.filter(|range| !range.is_empty()).collect()
    }

    /// Makes the live image durable, but for what an earlier failed sync has dropped.
    pub fn sync(&mut self) {
        for change in std::mem::take(&mut self.pending) {
            self.durable.apply(&change, |_| true);
        }
    }

    /// A sync that fails: what was pending never becomes durable, though the live image still shows it.
    pub fn lose_unsynced(&mut self) {
        self.pending.clear();
    }

    /// Power loss. `keeps` is the share of sectors that are kept.
    pub fn crash(&mut self, random: &mut fastrand::Rng, keeps: f64) {
        let mut reached = self.durable.bytes.len();
        for change in std::mem::take(&mut self.pending) {
            if let Change::Write { at, bytes } = &change {
                reached = reached.max(at + bytes.len());
            }
            self.durable.apply(&change, |_| random.f64() < keeps);
        }
        if random.f64() < keeps {
            self.durable.bytes.resize(reached, 0);
        }
        self.live = self.durable.clone();
    }

    fn change(&mut self, change: Change) {
        self.live.apply(&change, |_| true);
        self.pending.push(change);
    }
}

impl Content {
    /// Applies those sectors of a write, or a whole change of another kind, that `keeps` says yes to.
    fn apply(&mut self, change: &Change, mut keeps: impl FnMut(usize) -> bool) {
        match change {
            Change::Write { at, bytes } => {
                let mut from = 0;
                while from < bytes.len() {
                    let start = at + from;
                    let to = bytes.len().min(from + SECTOR_BYTES - start % SECTOR_BYTES);
                    if keeps(start) {
                        let end = at + to;
                        self.bytes.resize(self.bytes.len().max(end), 0);
                        self.bytes[start..end].copy_from_slice(&bytes[from..to]);
                        self.pages.insert(start as u64 / PAGE_BYTES);
                    }
                    from = to;
                }
            }
            Change::Reserve(range) => {
                if keeps(range.start as usize) {
                    self.pages.extend(pages(*range));
                }
            }
            Change::Punch(range) => {
                if keeps(range.start as usize) {
                    let end = self.bytes.len().min(range.end as usize);
                    self.bytes[end.min(range.start as usize)..end].fill(0);
                    self.pages.retain(|page| !pages(*range).contains(page));
                }
            }
        }
    }
}

/// The pages that a range has a part of.
fn pages(range: ByteRange) -> std::ops::Range<u64> {
    range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_sectors_of_the_rest() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..300 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut file = SparseImage::default();
            file.write(100, &[1; 100]);
            file.sync();
            file.write(150, &[2; 700]);
            file.write(600, &[3; 100]);
            file.crash(&mut random, 0.5);
            let content = file.bytes().to_vec();
            assert_eq!(content[..150], [[0; 100].as_slice(), &[1; 50]].concat());
            let at = |place| content.get(place).copied();
            outcomes.insert((at(160), at(520), at(650), at(849)));
        }
        let has = |outcome| assert!(outcomes.contains(&outcome), "{outcome:?} is not in {outcomes:?}");
        has((Some(1), None, None, None));
        has((Some(2), Some(2), Some(3), Some(2)));
        has((Some(1), Some(0), Some(3), None));
        has((Some(2), Some(2), Some(2), Some(2)));
        has((Some(1), Some(0), Some(0), Some(0)));
    }

    #[test]
    fn what_a_failed_sync_dropped_is_shown_until_a_crash() {
        let mut file = SparseImage::default();
        file.write(0, &[1; 10]);
        file.lose_unsynced();
        file.write(10, &[2; 10]);
        file.sync();
        assert_eq!(file.bytes()[..10], [1; 10]);
        file.crash(&mut fastrand::Rng::with_seed(0), 1.0);
        assert_eq!(file.bytes(), [[0; 10], [2; 10]].concat());
    }

    #[test]
    fn holes_take_no_space() {
        let mut file = SparseImage::default();
        file.write(3 * PAGE_BYTES, &[1; 5000]);
        file.reserve(ByteRange::new(0, 1));
        assert_eq!(file.bytes_taken(), 3 * PAGE_BYTES);
        file.punch(ByteRange::at(3 * PAGE_BYTES, PAGE_BYTES));
        let written: Vec<ByteRange> = file.written().iter().collect();
        assert_eq!(
            written,
            [ByteRange::new(0, PAGE_BYTES), ByteRange::new(4 * PAGE_BYTES, 3 * PAGE_BYTES + 5000)]
        );
        let mut bytes = [7; 2];
        file.read(3 * PAGE_BYTES, &mut bytes).unwrap();
        assert_eq!(bytes, [0; 2]);
        assert!(file.read(3 * PAGE_BYTES + 4999, &mut bytes).is_err());
    }
}
