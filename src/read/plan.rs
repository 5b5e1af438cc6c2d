//! From a range and what is known of its chunks to what must be done for it. Pure.

use crate::types::{ByteRange, RangeSet};

/// How an object is cut into chunks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Grid {
    /// Bytes of the object.
    pub size: u64,
    /// Bytes a chunk, above 0.
    pub chunk_bytes: u64,
}

/// One step of a plan: bytes that are all dealt with in one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Span {
    /// They are here.
    Hit(ByteRange),
    /// Somebody is fetching them.
    Join(ByteRange),
    /// They must be fetched.
    Fetch(ByteRange),
}

impl Grid {
    /// The chunk that a byte is in.
    pub(crate) fn chunk_of(self, at: u64) -> u64 {
        at / self.chunk_bytes
    }

    /// The bytes of a chunk, cut at the object's end.
    pub(crate) fn range_of(self, chunk: u64) -> ByteRange {
        ByteRange::at(chunk * self.chunk_bytes, self.chunk_bytes).clip(self.size)
    }

    /// The range in whole chunks, cut at the object's end.
    pub(crate) fn cover(self, range: ByteRange) -> ByteRange {
        let range = range.clip(self.size);
        if range.is_empty() { range } else { range.widen(self.chunk_bytes).clip(self.size) }
    }

    /// The chunks that a range touches.
    pub(crate) fn chunks(self, range: ByteRange) -> std::ops::Range<u64> {
        let range = range.clip(self.size);
        if range.is_empty() {
            return 0..0;
        }
        range.start / self.chunk_bytes..range.end.div_ceil(self.chunk_bytes)
    }
}

/// Plans a range: spans of whole chunks, in order, without gaps, neighbours always of different kinds.
///
/// `present` and `coming` hold whole chunks; what is in both is here.
pub(crate) fn plan(range: ByteRange, grid: Grid, present: &RangeSet, coming: &RangeSet) -> Vec<Span> {
    let mut spans = Vec::new();
    let whole = grid.cover(range);
    let mut at = whole.start;
    for here in present.within(whole) {
        plan_missing(ByteRange::new(at, here.start), coming, &mut spans);
        spans.push(Span::Hit(here));
        at = here.end;
    }
    plan_missing(ByteRange::new(at, whole.end), coming, &mut spans);
    spans
}

fn plan_missing(range: ByteRange, coming: &RangeSet, spans: &mut Vec<Span>) {
    let mut at = range.start;
    for joined in coming.within(range) {
        if at < joined.start {
            spans.push(Span::Fetch(ByteRange::new(at, joined.start)));
        }
        spans.push(Span::Join(joined));
        at = joined.end;
    }
    if at < range.end {
        spans.push(Span::Fetch(ByteRange::new(at, range.end)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GRID: Grid = Grid { size: 95, chunk_bytes: 10 };

    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Kind {
        Hit,
        Join,
        Fetch,
    }

    fn parts(span: Span) -> (Kind, ByteRange) {
        match span {
            Span::Hit(range) => (Kind::Hit, range),
            Span::Join(range) => (Kind::Join, range),
            Span::Fetch(range) => (Kind::Fetch, range),
        }
    }

    #[test]
    fn an_example() {
        let present: RangeSet = [ByteRange::new(20, 40)].into_iter().collect();
        let coming: RangeSet = [ByteRange::new(50, 60)].into_iter().collect();
        let spans = plan(ByteRange::new(15, 91), GRID, &present, &coming);
        assert_eq!(
            spans,
            [
                Span::Fetch(ByteRange::new(10, 20)),
                Span::Hit(ByteRange::new(20, 40)),
                Span::Fetch(ByteRange::new(40, 50)),
                Span::Join(ByteRange::new(50, 60)),
                Span::Fetch(ByteRange::new(60, 95)),
            ]
        );
        assert_eq!(plan(ByteRange::new(95, 99), GRID, &present, &coming), []);
        assert_eq!(GRID.chunks(ByteRange::new(9, 11)), 0..2);
        assert_eq!(GRID.chunks(ByteRange::new(90, 95)), 9..10);
        assert_eq!(GRID.chunks(ByteRange::new(5, 5)), 0..0);
    }

    proptest! {
        /// Against a table of chunks.
        #[test]
        fn each_chunk_is_dealt_with_once_and_rightly(
            a in 0..120u64,
            b in 0..120u64,
            here in proptest::collection::vec(any::<bool>(), 10),
            underway in proptest::collection::vec(any::<bool>(), 10),
        ) {
            let range = ByteRange::new(a.min(b), a.max(b) + 1);
            let set = |flags: &[bool]| -> RangeSet {
                (0..10).filter(|&chunk| flags[chunk as usize]).map(|chunk| GRID.range_of(chunk)).collect()
            };
            let spans = plan(range, GRID, &set(&here), &set(&underway));
            let parts: Vec<_> = spans.iter().map(|&span| parts(span)).collect();
            prop_assert!(parts.windows(2).all(|pair| pair[0].1.end == pair[1].1.start && pair[0].0 != pair[1].0));
            let whole = GRID.cover(range);
            prop_assert_eq!(parts.iter().map(|(_, range)| range.len()).sum::<u64>(), whole.len());
            prop_assert!(whole.is_empty() || parts[0].1.start == whole.start);
            for chunk in GRID.chunks(range) {
                let (kind, _) = parts.iter().find(|(_, range)| range.contains(GRID.range_of(chunk))).unwrap();
                let expected = match (here[chunk as usize], underway[chunk as usize]) {
                    (true, _) => Kind::Hit,
                    (false, true) => Kind::Join,
                    (false, false) => Kind::Fetch,
                };
                prop_assert_eq!(*kind, expected);
            }
        }
    }
}
