//! Who takes how many bytes of the cache, and who goes first: byte accounting and recency, without any I/O.
//!
//! A chunk is charged before it is written and given back after it is off the disk, so that the files never hold more
//! than [`Ledger::bytes`] says, and that never passes the limit by an admission.

use std::collections::HashSet;

use lru::LruCache;

use crate::cache::layout::Name;

/// What is evicted as one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Unit {
    /// Of this object.
    pub name: Name,
    /// This much.
    pub part: Part,
}

/// How much of an object a unit is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Part {
    /// All of it: found on disk and not looked into yet.
    Whole,
    /// One group of neighbouring chunks, by index.
    Group(u64),
}

/// Where something new stands among the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Age {
    /// It has just been used.
    Newest,
    /// It goes first.
    Oldest,
}

/// The answer to a wish for bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// They are reserved.
    Granted,
    /// Something must be evicted first.
    Full,
    /// They cannot be had.
    Refused,
    /// What is on disk is not known yet.
    Unknown,
}

/// The books of one cache.
#[derive(Debug)]
pub(crate) struct Ledger {
    bytes_max: u64,
    /// Charge of each unit, least recently used last.
    units: LruCache<Unit, u64>,
    /// INVARIANT: the sum over `units`.
    used: u64,
    /// Admitted, not written yet.
    reserved: u64,
    /// No longer a unit, still on disk.
    leaving: u64,
    scan: Scan,
}

#[derive(Debug)]
enum Scan {
    /// What is on disk is not known yet, so nothing is admitted.
    Running {
        /// Objects already charged by their groups, which the scan must not charge again.
        charged: HashSet<Name>,
    },
    Done,
}

impl Ledger {
    pub(crate) fn new(bytes_max: u64) -> Ledger {
        Ledger {
            bytes_max,
            units: LruCache::unbounded(),
            used: 0,
            reserved: 0,
            leaving: 0,
            scan: Scan::Running { charged: HashSet::new() },
        }
    }

    /// Bytes that are or may be on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.used + self.reserved + self.leaving
    }

    /// Whether more is on disk than may be, as after the limit was lowered.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Asks for bytes; `Granted` ones must be given to [`Ledger::settle`] or [`Ledger::release`].
    pub(crate) fn admit(&mut self, bytes: u64) -> Admission {
        match self.scan {
            Scan::Running { .. } => Admission::Unknown,
            Scan::Done if bytes > self.bytes_max => Admission::Refused,
            Scan::Done if self.bytes() + bytes <= self.bytes_max => {
                self.reserved += bytes;
                Admission::Granted
            }
            Scan::Done if self.units.is_empty() => Admission::Refused,
            Scan::Done => Admission::Full,
        }
    }

    /// Gives back what was reserved.
    pub(crate) fn release(&mut self, reserved: u64) {
        self.reserved -= reserved;
    }

    /// Turns a reservation into a charge (not above it) on a unit that has just grown.
    pub(crate) fn settle(&mut self, unit: Unit, reserved: u64, charge: u64) {
        debug_assert!(charge <= reserved, "a chunk takes no more than was admitted for it");
        self.reserved -= reserved;
        self.used += charge;
        *self.units.get_or_insert_mut(unit, || 0) += charge;
    }

    /// Marks a unit as just used.
    pub(crate) fn touch(&mut self, unit: Unit) {
        self.units.promote(&unit);
    }

    /// Takes some charge off a unit whose chunk is off the disk.
    pub(crate) fn shrink(&mut self, unit: Unit, charge: u64) {
        if let Some(left) = self.units.peek_mut(&unit) {
            let cut = charge.min(*left);
            *left -= cut;
            self.used -= cut;
        }
    }

    /// Strikes a unit that is off the disk.
    pub(crate) fn forget(&mut self, unit: Unit) {
        if let Some(charge) = self.units.pop(&unit) {
            self.used -= charge;
        }
    }

    /// The unit that goes first, and its charge, which counts until [`Ledger::left`].
    pub(crate) fn take_oldest(&mut self) -> Option<(Unit, u64)> {
        let (unit, charge) = self.units.pop_lru()?;
        self.used -= charge;
        self.leaving += charge;
        Some((unit, charge))
    }

    /// What was taken is off the disk now.
    pub(crate) fn left(&mut self, charge: u64) {
        self.leaving -= charge;
    }

    /// Charges an object by its groups, now that its map has been read, in place of what it was charged before.
    pub(crate) fn adopt(&mut self, name: Name, groups: impl Iterator<Item = (u64, u64)>, age: Age) {
        self.forget(Unit { name, part: Part::Whole });
        if let Scan::Running { charged } = &mut self.scan {
            charged.insert(name);
        }
        for (group, charge) in groups {
            self.enter(Unit { name, part: Part::Group(group) }, charge, age);
        }
    }

    /// Ends the scan: `found` are the objects on disk with their bytes, most recently used first.
    pub(crate) fn end_scan(&mut self, found: impl Iterator<Item = (Name, u64)>) {
        let Scan::Running { charged } = std::mem::replace(&mut self.scan, Scan::Done) else {
            return;
        };
        for (name, bytes) in found.filter(|(name, _)| !charged.contains(name)) {
            self.enter(Unit { name, part: Part::Whole }, bytes, Age::Oldest);
        }
    }

    fn enter(&mut self, unit: Unit, charge: u64, age: Age) {
        if let Some((_, before)) = self.units.push(unit, charge) {
            self.used -= before;
        }
        self.used += charge;
        match age {
            Age::Newest => {}
            Age::Oldest => {
                self.units.demote(&unit);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::map::Header;

    fn name(n: u64) -> Name {
        Name::of(&Header {
            volume: String::new(),
            key: String::new(),
            etag: String::new(),
            size: n,
            chunk_bytes: 1,
        })
    }

    fn group(object: u64, group: u64) -> Unit {
        Unit { name: name(object), part: Part::Group(group) }
    }

    fn scanned(bytes_max: u64) -> Ledger {
        let mut ledger = Ledger::new(bytes_max);
        ledger.end_scan(std::iter::empty());
        ledger
    }

    fn fill(ledger: &mut Ledger, unit: Unit, bytes: u64) {
        assert_eq!(ledger.admit(bytes), Admission::Granted);
        ledger.settle(unit, bytes, bytes);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_counts_until_it_has_left() {
        let mut ledger = scanned(30);
        fill(&mut ledger, group(1, 0), 10);
        fill(&mut ledger, group(1, 1), 10);
        fill(&mut ledger, group(2, 0), 10);
        ledger.touch(group(1, 0));
        assert_eq!(ledger.admit(1), Admission::Full);
        assert_eq!(ledger.take_oldest(), Some((group(1, 1), 10)));
        assert_eq!(ledger.admit(1), Admission::Full, "it is still on disk");
        ledger.left(10);
        assert_eq!(ledger.admit(10), Admission::Granted);
        ledger.release(10);
        assert_eq!(ledger.take_oldest(), Some((group(2, 0), 10)));
        assert_eq!(ledger.take_oldest(), Some((group(1, 0), 10)));
        assert_eq!(ledger.take_oldest(), None);
        assert_eq!(ledger.admit(31), Admission::Refused);
    }

    #[test]
    fn nothing_is_admitted_before_the_scan_and_nothing_is_charged_twice() {
        let mut ledger = Ledger::new(100);
        assert_eq!(ledger.admit(1), Admission::Unknown);
        ledger.adopt(name(1), [(0, 10), (4, 20)].into_iter(), Age::Newest);
        ledger.end_scan([(name(3), 5), (name(1), 30), (name(2), 7)].into_iter());
        assert_eq!(ledger.bytes(), 42);
        assert_eq!(ledger.take_oldest(), Some((Unit { name: name(2), part: Part::Whole }, 7)));
        ledger.adopt(name(3), [(0, 2), (1, 3)].into_iter(), Age::Oldest);
        assert_eq!(ledger.bytes(), 42);
        assert_eq!(ledger.take_oldest(), Some((group(3, 1), 3)), "an object is given up from its end");
        ledger.shrink(group(3, 0), 1);
        ledger.forget(group(1, 0));
        assert_eq!(ledger.take_oldest(), Some((group(3, 0), 1)));
        assert_eq!(ledger.take_oldest(), Some((group(1, 4), 20)));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Admit(u64, u64),
        Evict,
        Touch(u64),
        Forget(u64),
        Shrink(u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6u64, 0..40u64).prop_map(|(unit, bytes)| Step::Admit(unit, bytes)),
            1 => Just(Step::Evict),
            1 => (0..6u64).prop_map(Step::Touch),
            1 => (0..6u64).prop_map(Step::Forget),
            1 => (0..6u64, 0..40u64).prop_map(|(unit, bytes)| Step::Shrink(unit, bytes)),
        ]
    }

    proptest! {
        /// Against a list of (unit, charge), oldest first.
        #[test]
        fn behaves_like_a_list(steps in proptest::collection::vec(step(), 1..60)) {
            let mut ledger = scanned(100);
            let mut model: Vec<(u64, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Admit(unit, bytes) => {
                        let used: u64 = model.iter().map(|(_, charge)| charge).sum();
                        if used + bytes <= 100 {
                            prop_assert_eq!(ledger.admit(bytes), Admission::Granted);
                            ledger.settle(group(0, unit), bytes, bytes);
                            let at = model.iter().position(|(u, _)| *u == unit);
                            let before = at.map_or(0, |at| model.remove(at).1);
                            model.push((unit, before + bytes));
                        } else {
                            let expected = if model.is_empty() { Admission::Refused } else { Admission::Full };
                            prop_assert_eq!(ledger.admit(bytes), expected);
                        }
                    }
                    Step::Evict => {
                        let expected = (!model.is_empty()).then(|| model.remove(0));
                        let got = ledger.take_oldest();
                        prop_assert_eq!(got, expected.map(|(unit, charge)| (group(0, unit), charge)));
                        ledger.left(got.map_or(0, |(_, charge)| charge));
                    }
                    Step::Touch(unit) => {
                        ledger.touch(group(0, unit));
                        if let Some(at) = model.iter().position(|(u, _)| *u == unit) {
                            let entry = model.remove(at);
                            model.push(entry);
                        }
                    }
                    Step::Forget(unit) => {
                        ledger.forget(group(0, unit));
                        model.retain(|(u, _)| *u != unit);
                    }
                    Step::Shrink(unit, bytes) => {
                        ledger.shrink(group(0, unit), bytes);
                        for entry in model.iter_mut().filter(|(u, _)| *u == unit) {
                            entry.1 -= bytes.min(entry.1);
                        }
                    }
                }
                prop_assert_eq!(ledger.bytes(), model.iter().map(|(_, charge)| charge).sum::<u64>());
            }
        }
    }
}
