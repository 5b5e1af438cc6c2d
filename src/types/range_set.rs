//! A set of bytes as sorted ranges that neither touch nor overlap.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::ByteRange;

/// Bytes that are dirty, present or missing.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct RangeSet {
    /// INVARIANT: start to end; every end is above its start and below the next start.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range, joining it with what it touches.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let ByteRange { mut start, mut end } = range;
        if let Some((&before, &before_end)) = self.ranges.range(..=start).next_back()
            && before_end >= start
        {
            start = before;
            end = end.max(before_end);
        }
        while let Some((&next, &next_end)) = self.ranges.range(start..).next() {
            if next > end {
                break;
            }
            end = end.max(next_end);
            self.ranges.remove(&next);
        }
        self.ranges.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        if let Some((&before, &before_end)) = self.ranges.range(..range.start).next_back()
            && before_end > range.start
        {
            self.ranges.insert(before, range.start);
            if before_end > range.end {
                self.ranges.insert(range.end, before_end);
            }
        }
        while let Some((&next, &next_end)) = self.ranges.range(range.start..range.end).next() {
            self.ranges.remove(&next);
            if next_end > range.end {
                self.ranges.insert(range.end, next_end);
            }
        }
    }

    /// Whether every byte of `range` is in the set.
    pub fn contains(&self, range: ByteRange) -> bool {
        range.is_empty()
            || self.ranges.range(..=range.start).next_back().is_some_and(|(_, &end)| end >= range.end)
    }

    /// Whether any byte of `range` is in the set.
    pub fn overlaps(&self, range: ByteRange) -> bool {
        self.within(range).next().is_some()
    }

    /// The pieces of `range` that are in the set, in order.
    pub fn within(&self, range: ByteRange) -> impl Iterator<Item = ByteRange> + '_ {
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        self.ranges
            .range(first..)
            .take_while(move |&(&start, _)| start < range.end)
            .filter_map(move |(&start, &end)| ByteRange { start, end }.intersect(range))
    }

    /// The pieces of `range` that are not in the set, in order.
    pub fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for piece in self.within(range) {
            if at < piece.start {
                gaps.push(ByteRange { start: at, end: piece.start });
            }
            at = piece.end;
        }
        if at < range.end {
            gaps.push(ByteRange { start: at, end: range.end });
        }
        gaps
    }

    /// All ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.ranges.iter().map(|(&start, &end)| ByteRange { start, end })
    }

    /// Number of bytes in the set.
    pub fn bytes(&self) -> u64 {
        self.iter().map(ByteRange::len).sum()
    }

    /// Whether the set holds no byte.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> RangeSet {
        let mut set = RangeSet::default();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPACE: u64 = 64;

    fn bytes_of(set: &RangeSet) -> Vec<bool> {
        (0..SPACE).map(|at| set.contains(ByteRange::at(at, 1))).collect()
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_bytes(steps in proptest::collection::vec((any::<bool>(), 0..SPACE, 0..SPACE), 1..40)) {
            let mut set = RangeSet::default();
            let mut model = vec![false; SPACE as usize];
            for (insert, a, b) in steps {
                let range = ByteRange::new(a.min(b), a.max(b));
                if insert { set.insert(range) } else { set.remove(range) }
                (range.start..range.end).for_each(|at| model[at as usize] = insert);
                prop_assert_eq!(bytes_of(&set), model.clone());
                prop_assert_eq!(set.bytes(), model.iter().filter(|&&b| b).count() as u64);
                let ranges: Vec<_> = set.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
                let whole = ByteRange::new(0, SPACE);
                let gaps: u64 = set.gaps(whole).into_iter().map(ByteRange::len).sum();
                prop_assert_eq!(gaps + set.bytes(), SPACE);
                prop_assert_eq!(set.overlaps(range), model[range.start as usize..range.end as usize].contains(&true));
            }
        }
    }
}
