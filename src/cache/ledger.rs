//! Who takes how many bytes of the cache, and who goes first: byte accounting and recency, without any I/O.
//!
//! A chunk is charged before it is written and given back after it is off the disk, so that the files never hold more
//! than [`Ledger::bytes`] says, and that never passes the limit by an admission.
//!
//! While the scan runs, what it has not come to yet counts as well, where a bound on it is known: the bound shrinks by
//! what is found. So chunks are admitted at once, and the limit holds before it is known what there is.

use std::collections::{HashMap, HashSet};

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
    /// The scan must go on first.
    Unknown,
}

/// What one object takes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Holding {
    /// Sum of the charges.
    pub bytes: u64,
    /// Of these parts.
    pub parts: Vec<Part>,
}

/// The books of one cache.
#[derive(Debug)]
pub(crate) struct Ledger {
    bytes_max: u64,
    /// Charge of each unit that may be evicted, least recently used last.
    units: LruCache<Unit, u64>,
    /// Charges of units that came up for eviction and must stay, until they are brought back.
    aside: HashMap<Name, HashMap<Part, u64>>,
    /// INVARIANT: the sum over `units` and `aside`.
    used: u64,
    /// Admitted, not written yet.
    reserved: u64,
    /// No longer a unit, still on disk.
    leaving: u64,
    scan: Scan,
}

#[derive(Debug)]
enum Scan {
    /// Not everything on disk has been found yet.
    Running {
        /// Objects already charged by their groups, which the scan must not charge again.
        charged: HashSet<Name>,
        /// What the scan has yet to find takes no more than this. `None`: nobody knows.
        unscanned: Option<u64>,
    },
    Done,
}

impl Ledger {
    pub(crate) fn new(bytes_max: u64) -> Ledger {
        Ledger {
            bytes_max,
            units: LruCache::unbounded(),
            aside: HashMap::new(),
            used: 0,
            reserved: 0,
            leaving: 0,
            scan: Scan::Running { charged: HashSet::new(), unscanned: None },
        }
    }

    /// Most bytes that may be on disk.
    pub(crate) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes that are or may be on disk.
    pub(crate) fn bytes(&self) -> u64 {
        let unscanned = match self.scan {
            Scan::Running { unscanned, .. } => unscanned.unwrap_or(0),
            Scan::Done => 0,
        };
        self.used + self.reserved + self.leaving + unscanned
    }

    /// Whether more is on disk than may be, as after the limit was lowered.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes() > self.bytes_max
    }

    /// Whether all that is on disk is known.
    pub(crate) fn is_scanned(&self) -> bool {
        match self.scan {
            Scan::Running { .. } => false,
            Scan::Done => true,
        }
    }

    /// Asks for bytes; `Granted` ones must be given to [`Ledger::settle`] or [`Ledger::release`].
    pub(crate) fn admit(&mut self, bytes: u64) -> Admission {
        if bytes > self.bytes_max {
            return Admission::Refused;
        }
        let is_scanned = match self.scan {
            Scan::Done => true,
            Scan::Running { unscanned: Some(_), .. } => false,
            Scan::Running { unscanned: None, .. } => return Admission::Unknown,
        };
        if self.bytes() + bytes <= self.bytes_max {
            self.reserved += bytes;
            return Admission::Granted;
        }
        match (self.units.is_empty(), is_scanned) {
            (false, _) => Admission::Full,
            (true, true) => Admission::Refused,
            (true, false) => Admission::Unknown,
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
        self.mark_charged(unit.name);
        match self.aside_mut(unit) {
            Some(before) => *before += charge,
            None => *self.units.get_or_insert_mut(unit, || 0) += charge,
        }
    }

    /// Marks a unit as just used.
    pub(crate) fn touch(&mut self, unit: Unit) {
        self.units.promote(&unit);
    }

    /// Takes some charge off a unit whose chunk is off the disk.
    pub(crate) fn shrink(&mut self, unit: Unit, charge: u64) {
        let left = match self.units.peek_mut(&unit) {
            Some(left) => Some(left),
            None => self.aside.get_mut(&unit.name).and_then(|parts| parts.get_mut(&unit.part)),
        };
        if let Some(left) = left {
            let cut = charge.min(*left);
            *left -= cut;
            self.used -= cut;
        }
    }

    /// Strikes a unit that is off the disk.
    pub(crate) fn forget(&mut self, unit: Unit) {
        let aside = self.take_aside(unit);
        if let Some(charge) = self.units.pop(&unit).or(aside) {
            self.used -= charge;
        }
    }

    /// The unit that goes first, and its charge, which counts until [`Ledger::left`], [`Ledger::put_aside`] or
    /// [`Ledger::put_back`].
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

    /// What was taken must stay, and not come up again before it is brought back.
    pub(crate) fn put_aside(&mut self, unit: Unit, charge: u64) {
        self.leaving -= charge;
        self.used += charge;
        let grown = self.units.pop(&unit).unwrap_or(0);
        *self.aside.entry(unit.name).or_default().entry(unit.part).or_insert(0) += charge + grown;
    }

    /// What was taken could not be taken off the disk; it is tried again after all others.
    pub(crate) fn put_back(&mut self, unit: Unit, charge: u64) {
        self.leaving -= charge;
        self.used += charge;
        *self.units.get_or_insert_mut(unit, || 0) += charge;
    }

    /// What was put aside of an object may be evicted again.
    pub(crate) fn bring_back(&mut self, name: Name) {
        for (part, charge) in self.aside.remove(&name).into_iter().flatten() {
            *self.units.get_or_insert_mut(Unit { name, part }, || 0) += charge;
        }
    }

    /// All that was put aside may be evicted again.
    pub(crate) fn bring_all_back(&mut self) {
        let names: Vec<Name> = self.aside.keys().copied().collect();
        names.into_iter().for_each(|name| self.bring_back(name));
    }

    /// Charges an object by its groups, now that its map has been read, in place of what it was charged before. Its
    /// files take `bytes_on_disk`.
    pub(crate) fn adopt(
        &mut self,
        name: Name,
        groups: impl Iterator<Item = (u64, u64)>,
        bytes_on_disk: u64,
        age: Age,
    ) {
        self.forget(Unit { name, part: Part::Whole });
        if self.mark_charged(name)
            && let Scan::Running { unscanned: Some(bound), .. } = &mut self.scan
        {
            *bound = bound.saturating_sub(bytes_on_disk);
        }
        for (group, charge) in groups {
            self.enter(Unit { name, part: Part::Group(group) }, charge, age);
        }
    }

    /// All that the scan is going to find takes no more than this. When that is over the limit, because the limit was
    /// lowered, it is better to wait for the scan's end and to evict the oldest of all.
    pub(crate) fn expect(&mut self, bytes: u64) {
        if let Scan::Running { unscanned, .. } = &mut self.scan {
            *unscanned = Some(bytes).filter(|&bytes| bytes <= self.bytes_max);
        }
    }

    /// Takes in some of what the scan finds: objects with the bytes of their files, most recently used first.
    pub(crate) fn learn(&mut self, found: impl Iterator<Item = (Name, u64)>) {
        for (name, bytes) in found {
            let Scan::Running { charged, unscanned } = &mut self.scan else {
                return;
            };
            if !charged.insert(name) {
                continue;
            }
            if let Some(bound) = unscanned {
                *bound = bound.saturating_sub(bytes);
            }
            self.enter(Unit { name, part: Part::Whole }, bytes, Age::Oldest);
        }
    }

    /// Ends the scan: `found` are all objects on disk, most recently used first.
    pub(crate) fn end_scan(&mut self, found: impl Iterator<Item = Name>) {
        self.scan = Scan::Done;
        for name in found {
            self.units.demote(&Unit { name, part: Part::Whole });
        }
    }

    /// What each object takes.
    pub(crate) fn holdings(&self) -> HashMap<Name, Holding> {
        let mut holdings: HashMap<Name, Holding> = HashMap::new();
        let aside =
            self.aside.iter().flat_map(|(&name, parts)| parts.iter().map(move |(&part, &c)| (name, part, c)));
        for (name, part, charge) in
            self.units.iter().map(|(unit, &charge)| (unit.name, unit.part, charge)).chain(aside)
        {
            let holding = holdings.entry(name).or_default();
            holding.bytes += charge;
            holding.parts.push(part);
        }
        holdings
    }

    fn enter(&mut self, unit: Unit, charge: u64, age: Age) {
        self.forget(unit);
        self.units.push(unit, charge);
        self.used += charge;
        match age {
            Age::Newest => {}
            Age::Oldest => {
                self.units.demote(&unit);
            }
        }
    }

    /// Has the scan leave an object alone. True when it would not have done so.
    fn mark_charged(&mut self, name: Name) -> bool {
        match &mut self.scan {
            Scan::Running { charged, .. } => charged.insert(name),
            Scan::Done => false,
        }
    }

    fn aside_mut(&mut self, unit: Unit) -> Option<&mut u64> {
        self.aside.get_mut(&unit.name)?.get_mut(&unit.part)
    }

    fn take_aside(&mut self, unit: Unit) -> Option<u64> {
        let parts = self.aside.get_mut(&unit.name)?;
        let charge = parts.remove(&unit.part);
        if parts.is_empty() {
            self.aside.remove(&unit.name);
        }
        charge
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::files::map::Header;

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
        ledger.adopt(name(1), [(0, 10), (4, 20)].into_iter(), 30, Age::Newest);
        ledger.learn([(name(2), 7), (name(1), 30)].into_iter());
        ledger.learn([(name(3), 5)].into_iter());
        assert_eq!(ledger.admit(1), Admission::Unknown);
        ledger.end_scan([name(3), name(1), name(2)].into_iter());
        assert_eq!(ledger.bytes(), 42);
        assert_eq!(ledger.take_oldest(), Some((Unit { name: name(2), part: Part::Whole }, 7)));
        ledger.adopt(name(3), [(0, 2), (1, 3)].into_iter(), 5, Age::Oldest);
        assert_eq!(ledger.bytes(), 42);
        assert_eq!(ledger.take_oldest(), Some((group(3, 1), 3)), "an object is given up from its end");
        ledger.shrink(group(3, 0), 1);
        ledger.forget(group(1, 0));
        assert_eq!(ledger.take_oldest(), Some((group(3, 0), 1)));
        assert_eq!(ledger.take_oldest(), Some((group(1, 4), 20)));
    }

    #[test]
    fn what_is_not_found_yet_counts_by_its_bound() {
        let mut ledger = Ledger::new(100);
        ledger.expect(60);
        assert_eq!((ledger.bytes(), ledger.admit(40)), (60, Admission::Granted));
        ledger.settle(group(9, 0), 40, 35);
        assert_eq!(ledger.admit(6), Admission::Full, "the new one could go");
        assert_eq!(ledger.take_oldest(), Some((group(9, 0), 35)));
        ledger.left(35);
        assert_eq!(ledger.admit(41), Admission::Unknown, "nothing is known that could go");
        ledger.learn([(name(1), 20), (name(9), 99)].into_iter());
        assert_eq!(ledger.bytes(), 60, "what is made meanwhile is not found as well");
        ledger.adopt(name(2), [(0, 12)].into_iter(), 10, Age::Newest);
        assert_eq!(ledger.bytes(), 62);
        ledger.learn([(name(2), 10)].into_iter());
        assert_eq!(ledger.admit(41), Admission::Full);
        assert_eq!(ledger.take_oldest(), Some((Unit { name: name(1), part: Part::Whole }, 20)));
        ledger.left(20);
        ledger.end_scan([name(2)].into_iter());
        assert_eq!(ledger.bytes(), 12);
        let mut lowered = Ledger::new(50);
        lowered.expect(80);
        lowered.learn([(name(1), 20)].into_iter());
        assert_eq!(lowered.admit(1), Admission::Unknown);
    }

    #[test]
    fn what_is_put_aside_counts_and_does_not_come_up_until_it_is_brought_back() {
        let mut ledger = scanned(30);
        fill(&mut ledger, group(1, 0), 10);
        fill(&mut ledger, group(1, 1), 10);
        fill(&mut ledger, group(2, 0), 10);
        for _ in 0..2 {
            let (unit, charge) = ledger.take_oldest().unwrap();
            ledger.put_aside(unit, charge);
        }
        assert_eq!((ledger.bytes(), ledger.admit(1)), (30, Admission::Full));
        assert_eq!(ledger.take_oldest(), Some((group(2, 0), 10)));
        ledger.put_aside(group(2, 0), 10);
        assert_eq!(ledger.admit(1), Admission::Refused);
        ledger.shrink(group(1, 1), 4);
        assert_eq!(ledger.admit(4), Admission::Granted);
        ledger.settle(group(1, 1), 4, 3);
        assert_eq!(ledger.holdings()[&name(1)].bytes, 19);
        ledger.forget(group(1, 0));
        ledger.bring_back(name(1));
        assert_eq!(ledger.take_oldest(), Some((group(1, 1), 9)));
        ledger.put_back(group(1, 1), 9);
        ledger.bring_all_back();
        let left: Vec<_> = std::iter::from_fn(|| ledger.take_oldest()).collect();
        assert_eq!(left, [(group(1, 1), 9), (group(2, 0), 10)]);
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
