//! A half-open range of bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bytes `start..end`; empty when both are equal. `start` is never above `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl ByteRange {
    /// The range `start..end`. Panics when `start` is above `end`: that is a mistake in the caller, not bad input.
    pub fn new(start: u64, end: u64) -> ByteRange {
        assert!(start <= end, "a range ends before it starts: {start}..{end}");
        ByteRange { start, end }
    }

    /// `len` bytes from `start`, cut at `u64::MAX`.
    pub fn at(start: u64, len: u64) -> ByteRange {
        ByteRange { start, end: start.saturating_add(len) }
    }

    /// Number of bytes.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether every byte of `other` lies in `self`.
    pub fn contains(self, other: ByteRange) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// The bytes both have, if any.
    pub fn intersect(self, other: ByteRange) -> Option<ByteRange> {
        let start = self.start.max(other.start);
        let end = self.end.min(other.end);
        (start < end).then_some(ByteRange { start, end })
    }

    /// The part before `limit`.
    pub fn clip(self, limit: u64) -> ByteRange {
        ByteRange { start: self.start.min(limit), end: self.end.min(limit) }
    }

    /// The smallest range of whole `unit`s that holds this one (`unit` above 0).
    pub fn widen(self, unit: u64) -> ByteRange {
        ByteRange { start: self.start - self.start % unit, end: self.end.next_multiple_of(unit) }
    }

    /// The range cut at multiples of `unit` (above 0), in order.
    pub fn split(self, unit: u64) -> impl Iterator<Item = ByteRange> {
        let mut start = self.start;
        std::iter::from_fn(move || {
            if start >= self.end {
                return None;
            }
            let end = (start - start % unit).saturating_add(unit).min(self.end);
            let piece = ByteRange { start, end };
            start = end;
            Some(piece)
        })
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic() {
        let range = ByteRange::new(5, 25);
        assert_eq!(range.len(), 20);
        assert_eq!(range.intersect(ByteRange::new(20, 40)), Some(ByteRange::new(20, 25)));
        assert_eq!(range.intersect(ByteRange::new(25, 40)), None);
        assert_eq!(range.widen(10), ByteRange::new(0, 30));
        assert_eq!(range.clip(7), ByteRange::new(5, 7));
        assert_eq!(range.clip(2), ByteRange::new(2, 2));
        let pieces: Vec<_> = range.split(10).collect();
        assert_eq!(pieces, [ByteRange::new(5, 10), ByteRange::new(10, 20), ByteRange::new(20, 25)]);
        assert_eq!(ByteRange::new(3, 3).split(10).count(), 0);
        assert!(range.contains(ByteRange::new(5, 25)) && !range.contains(ByteRange::new(4, 6)));
    }
}
