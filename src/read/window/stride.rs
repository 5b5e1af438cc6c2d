//! Reads at a constant distance from each other, in either direction.
//!
//! The kernel reads whole pages, so that distances are constant but for a page; what is expected next goes by their
//! mean.

use crate::read::window::{GROWTH, Limits, Scale};
use crate::types::ByteRange;

/// Times that a distance must be seen in a row: three reads have two distances.
const REPEATS: u64 = 2;
/// By so much one distance may differ from the others, in bytes.
const SLACK: u64 = 4096;
/// Longer blocks are runs of their own.
const BLOCK_BYTES_MAX: u64 = 2 << 20;
/// Most blocks asked for ahead.
const BLOCKS_MAX: u64 = 32;

/// The reads of a handle that were not where one would expect them, as far as they may be a strided run.
#[derive(Clone, Default, Debug)]
pub(super) struct Strides {
    /// The last block read, which may take several reads; `None` before the first.
    block: Option<ByteRange>,
    /// Where the first block began.
    origin: u64,
    /// Blocks after the first one, each at about the same distance from the one before.
    repeats: u64,
    /// Hardly a chunk lies between two blocks, so that they are fetched no better one by one.
    is_dense: bool,
    /// Blocks asked for beyond the last one read.
    asked: u64,
}

impl Strides {
    /// Whether there is a strided run.
    pub(super) fn is_established(&self) -> bool {
        self.repeats >= REPEATS
            && !self.is_dense
            && self.block.is_some_and(|block| block.len() <= BLOCK_BYTES_MAX)
    }

    /// The distance, if the blocks are so near to each other that they are better taken as a run with gaps.
    pub(super) fn dense_distance(&self) -> Option<i64> {
        self.distance().filter(|_| self.repeats >= REPEATS && self.is_dense)
    }

    /// Takes note of a read if it is part of the run: of the last block or of the next one.
    pub(super) fn go_on(&mut self, range: ByteRange) -> bool {
        let Some(block) = self.block.filter(|_| self.is_established()) else {
            return false;
        };
        if block.contains(range) {
            return true;
        }
        let Some(mut next) = self.block_after(1) else {
            return false;
        };
        let roughly = ByteRange::new(next.start.saturating_sub(SLACK), next.end.saturating_add(SLACK));
        if !roughly.contains(range) {
            return false;
        }
        if next.start.abs_diff(range.start) <= SLACK {
            next = ByteRange::at(range.start, next.len());
        }
        self.block = Some(next);
        self.repeats += 1;
        self.asked = self.asked.saturating_sub(1);
        true
    }

    /// A read that goes on where another ended: it may be the rest of a block. How long they are is learned from the
    /// first ones.
    pub(super) fn widen(&mut self, range: ByteRange) {
        if !self.is_established()
            && let Some(block) = &mut self.block
            && range.start == block.end
        {
            block.end = range.end;
        }
    }

    /// A read that is nowhere expected. Returns what had been asked for in vain.
    pub(super) fn jump(&mut self, range: ByteRange, limits: &Limits) -> Option<ByteRange> {
        let vain = self.ahead(limits);
        let mut len = range.len();
        if let Some(block) = self.block {
            let distance = range.start as i64 - block.start as i64;
            if self.distance().is_some_and(|before| before.abs_diff(distance) <= SLACK) {
                self.repeats += 1;
                // The last block has been read as a whole, of this one maybe only the beginning.
                len = len.max(block.len());
            } else {
                self.repeats = 1;
                self.origin = block.start;
            }
            self.is_dense = distance.unsigned_abs() < len.saturating_add(2 * limits.chunk_bytes);
        }
        self.asked = 0;
        self.block = Some(ByteRange::at(range.start, len).clip(limits.size));
        vain
    }

    /// The requests that should be made now, the nearest first: the chunks of the next blocks.
    pub(super) fn due(&self, limits: &Limits, scale: &Scale, room: u64) -> Vec<ByteRange> {
        let mut due = Vec::new();
        if !self.is_established() {
            return due;
        }
        let mut left = room.saturating_sub(self.asked_bytes(limits));
        let blocks_max =
            (GROWTH * (self.repeats + 1)).min(BLOCKS_MAX).min(self.asked + scale.requests as u64);
        for nth in self.asked + 1..=blocks_max {
            match self.cover_after(nth, limits) {
                Some(cover) if cover.len() <= left => {
                    left -= cover.len();
                    due.extend(cover.split(limits.request_bytes));
                }
                Some(_) | None => break,
            }
        }
        due
    }

    /// Everything in this range has been asked for; of a block, its end last.
    pub(super) fn asked(&mut self, range: ByteRange, limits: &Limits) {
        if self.is_established()
            && let Some(cover) = self.cover_after(self.asked + 1, limits)
            && (range.start..range.end).contains(&(cover.end - 1))
        {
            self.asked += 1;
        }
    }

    /// From the next block to the last one that has been asked for.
    pub(super) fn ahead(&self, limits: &Limits) -> Option<ByteRange> {
        if self.asked == 0 {
            return None;
        }
        let (first, last) = (self.cover_after(1, limits)?, self.cover_after(self.asked, limits)?);
        Some(ByteRange::new(first.start.min(last.start), first.end.max(last.end)))
    }

    /// Bytes asked for ahead of the reader.
    pub(super) fn asked_bytes(&self, limits: &Limits) -> u64 {
        (1..=self.asked).map_while(|nth| self.cover_after(nth, limits)).map(ByteRange::len).sum()
    }

    fn cover_after(&self, nth: u64, limits: &Limits) -> Option<ByteRange> {
        let block = self.block_after(nth)?;
        (block.start < limits.size).then(|| block.widen(limits.chunk_bytes).clip(limits.size))
    }

    fn block_after(&self, nth: u64) -> Option<ByteRange> {
        let block = self.block?;
        let all = block.start as i64 - self.origin as i64;
        let ahead = all.checked_mul(nth as i64)?.checked_div(self.repeats as i64)?;
        Some(ByteRange::at(block.start.checked_add_signed(ahead)?, block.len()))
    }

    /// The mean distance, once there is one.
    fn distance(&self) -> Option<i64> {
        let all = self.block?.start as i64 - self.origin as i64;
        all.checked_div(self.repeats as i64)
    }
}
