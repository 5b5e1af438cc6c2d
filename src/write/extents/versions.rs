//! Which bytes of a file changed since when, in bounded memory. Pure.

use std::collections::BTreeMap;

use crate::types::ByteRange;

/// Most stretches that are told apart. Beyond it neighbours share the latest version among them.
const STRETCHES_MAX: usize = 16 * 1024;
/// First unit when single bytes are too fine: what programs write in.
const UNIT_FIRST: u64 = 4096;

/// The version at which each byte last changed. Exact for as long as there are few stretches; a yes too much later.
#[derive(Debug)]
pub struct Versions {
    /// Version of the bytes from a start up to the next start. What is before the first never changed.
    stretches: BTreeMap<u64, u64>,
    /// Stretches begin and end at multiples of this.
    unit: u64,
}

impl Default for Versions {
    fn default() -> Versions {
        Versions { stretches: BTreeMap::new(), unit: 1 }
    }
}

impl Versions {
    /// The bytes of `range` changed. `version` is above all before.
    pub fn record(&mut self, range: ByteRange, version: u64) {
        self.paint(range, version);
        if self.stretches.len() > STRETCHES_MAX {
            self.coarsen();
        }
    }

    /// Whether any byte of `range` changed after `version`.
    pub fn changed_since(&self, version: u64, range: ByteRange) -> bool {
        if range.is_empty() {
            return false;
        }
        let at_start = self.version_at(range.start);
        at_start > version
            || self.stretches.range(range.start..range.end).any(|(_, &changed)| changed > version)
    }

    fn version_at(&self, at: u64) -> u64 {
        self.stretches.range(..=at).next_back().map_or(0, |(_, &version)| version)
    }

    fn paint(&mut self, range: ByteRange, version: u64) {
        if range.is_empty() {
            return;
        }
        let start = range.start - range.start % self.unit;
        let end = range.end.checked_next_multiple_of(self.unit).unwrap_or(u64::MAX);
        let behind = self.version_at(end);
        let covered: Vec<u64> = self.stretches.range(start..end).map(|(&start, _)| start).collect();
        covered.iter().for_each(|start| {
            self.stretches.remove(start);
        });
        self.stretches.insert(start, version);
        self.stretches.entry(end).or_insert(behind);
    }

    /// Doubles the unit (at least to pages) until half the stretches are enough.
    fn coarsen(&mut self) {
        while self.stretches.len() > STRETCHES_MAX / 2 {
            let ends = self.stretches.keys().skip(1).copied().chain([u64::MAX]);
            let mut all: Vec<(u64, ByteRange)> = self
                .stretches
                .iter()
                .zip(ends)
                .map(|((&start, &version), end)| (version, ByteRange::new(start, end)))
                .collect();
            // The latest is painted last, and so is what a unit shared by several keeps.
            all.sort_unstable();
            let mut coarser = Versions { stretches: BTreeMap::new(), unit: (self.unit * 2).max(UNIT_FIRST) };
            all.into_iter().for_each(|(version, range)| coarser.paint(range, version));
            *self = coarser;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn few_stretches_are_exact(
            changes in proptest::collection::vec((0u64..100, 0u64..100), 0..30),
            asked in (0u64..100, 0u64..100, 0u64..30),
        ) {
            let mut versions = Versions::default();
            let mut model = [0; 100];
            for (version, (a, b)) in (1..).zip(changes) {
                let range = ByteRange::new(a.min(b), a.max(b));
                versions.record(range, version);
                model[range.start as usize..range.end as usize].fill(version);
            }
            let (a, b, version) = asked;
            let range = ByteRange::new(a.min(b), a.max(b));
            let changed = model[range.start as usize..range.end as usize].iter().any(|&at| at > version);
            prop_assert_eq!(versions.changed_since(version, range), changed);
        }
    }

    #[test]
    fn many_stretches_are_bounded_and_never_miss_a_change() {
        let mut versions = Versions::default();
        let mut random = fastrand::Rng::with_seed(5);
        let mut changes = Vec::new();
        for version in 1..60_000 {
            let range = ByteRange::at(random.u64(0..1 << 40), random.u64(1..100_000));
            versions.record(range, version);
            changes.push((range, version));
            assert!(versions.stretches.len() <= STRETCHES_MAX);
        }
        for (range, version) in changes {
            assert!(versions.changed_since(version - 1, ByteRange::at(range.start, 1)));
            assert!(versions.changed_since(version - 1, ByteRange::new(range.end - 1, range.end)));
        }
        assert!(!versions.changed_since(60_000, ByteRange::new(0, u64::MAX)));
    }

    #[test]
    fn a_stream_changes_nothing_behind_it() {
        const WRITE: u64 = 4096;
        const PART: u64 = 8 << 20;
        let mut versions = Versions::default();
        let mut sealed = Vec::new();
        for version in 1..=(1 << 30) / WRITE {
            versions.record(ByteRange::at((version - 1) * WRITE, WRITE), version);
            if (version * WRITE).is_multiple_of(PART) {
                sealed.push((ByteRange::new(version * WRITE - PART, version * WRITE), version));
            }
        }
        assert!(sealed.iter().all(|&(part, version)| !versions.changed_since(version, part)));
        assert!(sealed.iter().all(|&(part, version)| versions.changed_since(version - 1, part)));
    }

    #[test]
    fn a_change_to_the_end_of_everything_is_kept() {
        let mut versions = Versions::default();
        versions.record(ByteRange::new(10, u64::MAX), 1);
        assert!(versions.changed_since(0, ByteRange::new(u64::MAX - 1, u64::MAX)));
        assert!(!versions.changed_since(0, ByteRange::new(0, 10)));
    }
}
