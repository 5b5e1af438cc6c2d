//! The tree against a model: one fact a name, the youngest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::{key, options};
use crate::namespace::FileKind;
use crate::namespace::edits::LocalState;
use crate::namespace::fold::{Asked, IsFirst, MarkerNews, News};
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{AsOf, Body, Evidence, Folder, Residence, Under};
use crate::namespace::names::Name;
use crate::namespace::tree::{Answer, Tree};
use crate::store::ListPage;
use crate::types::{Attributes, ETag, Ino, ObjectId, ObjectMeta, UnixTime};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const TTL: u64 = 10;

/// What is under a name, as the store or the model has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fact {
    Absent,
    File(u64),
    Local(u64),
    Directory,
}

#[derive(Clone, Debug)]
enum Step {
    /// A question about one name is answered so by the store, and delivered later.
    Ask(usize, Fact),
    /// A listing that shows these facts, delivered later.
    AskAll([Fact; NAMES.len()]),
    /// One of the answers on their way arrives.
    Deliver(usize),
    Create(usize),
    SetLocal(usize, u64),
    Commit(usize, u64),
    Remove(usize),
    Rename(usize, usize),
    Count(usize),
    Forget(usize),
    Expire(usize),
    Pin(usize),
    Unpin(usize),
    Renew(usize),
    Pass(u64),
}

fn remote_fact() -> impl Strategy<Value = Fact> {
    prop_oneof![Just(Fact::Absent), (1..9_u64).prop_map(Fact::File), Just(Fact::Directory)]
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        4 => (name.clone(), remote_fact()).prop_map(|(n, fact)| Step::Ask(n, fact)),
        2 => [remote_fact(), remote_fact(), remote_fact(), remote_fact()].prop_map(Step::AskAll),
        6 => (0..4_usize).prop_map(Step::Deliver),
        2 => name.clone().prop_map(Step::Create),
        2 => (name.clone(), 10..19_u64).prop_map(|(n, size)| Step::SetLocal(n, size)),
        2 => (name.clone(), 20..29_u64).prop_map(|(n, size)| Step::Commit(n, size)),
        2 => name.clone().prop_map(Step::Remove),
        2 => (name.clone(), name.clone()).prop_map(|(a, b)| Step::Rename(a, b)),
        3 => name.clone().prop_map(Step::Count),
        2 => name.clone().prop_map(Step::Forget),
        1 => name.clone().prop_map(Step::Expire),
        3 => name.clone().prop_map(Step::Pin),
        1 => name.clone().prop_map(Step::Unpin),
        1 => name.prop_map(Step::Renew),
        3 => (1..TTL).prop_map(Step::Pass),
    ]
}

/// The youngest fact about a name.
#[derive(Clone, Copy, Debug)]
struct Known {
    as_of: AsOf,
    fact: Fact,
}

#[derive(Debug)]
enum Pending {
    Name(usize, Asked, Fact),
    All(Asked, [Fact; NAMES.len()]),
}

/// The tree under test, in whose directory `dir` the names are, and what should be known.
#[derive(Debug)]
struct Rig {
    tree: Tree,
    directory: Ino,
    start: Instant,
    secs: u64,
    pending: Vec<Pending>,
    facts: [Known; NAMES.len()],
    /// Lookups the kernel has, by inode, with what it was told.
    kernel: BTreeMap<Ino, u64>,
    /// The inode of a name the kernel has looked up, until the name changes hands.
    numbers: BTreeMap<usize, Ino>,
    /// Lengths of the inodes that are pinned, as they were then or as they were changed here.
    pinned: BTreeMap<Ino, u64>,
}

fn name(index: usize) -> Name {
    Name::of_part(NAMES[index])
}

fn object(index: usize, size: u64) -> ObjectMeta {
    let id =
        ObjectId { key: key(&format!("dir/{}", NAMES[index])), etag: ETag::new(&size.to_string()), size };
    ObjectMeta { id, modified: UnixTime::default(), attributes: None, token: None, crc64: None }
}

fn news(index: usize, fact: Fact) -> News {
    match fact {
        Fact::Absent => News::Nothing,
        Fact::File(size) | Fact::Local(size) => News::File(object(index, size)),
        Fact::Directory => News::Directory(MarkerNews::Absent),
    }
}

fn local(size: u64) -> LocalState {
    LocalState { size, attributes: Attributes::default() }
}

impl Rig {
    fn new() -> Rig {
        let mut tree = Tree::new(3);
        let folder = Folder::new(Evidence::Store, Freshness::Always);
        let dir = Name::of_part("dir");
        let directory = tree.add(Ino::ROOT, &dir, Body::Directory(folder)).unwrap();
        tree.hold(directory).unwrap();
        Rig {
            tree,
            directory,
            start: Instant::now(),
            secs: 0,
            pending: Vec::new(),
            facts: [Known { as_of: AsOf::default(), fact: Fact::Absent }; NAMES.len()],
            kernel: BTreeMap::new(),
            numbers: BTreeMap::new(),
            pinned: BTreeMap::new(),
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs(self.secs)
    }

    fn asked(&mut self) -> Asked {
        Asked { stamp: self.tree.ask(), fresh: self.fresh() }
    }

    fn fresh(&self) -> Freshness {
        Freshness::of(self.now(), Duration::from_secs(TTL))
    }

    fn known(&self, index: usize) -> Answer {
        self.tree.last_known(self.directory, &name(index)).unwrap()
    }

    fn change(&mut self, index: usize, fact: Fact) {
        let as_of = AsOf::change(self.tree.tick());
        self.learn(index, as_of, fact);
    }

    /// The model takes in a fact as of `stamp`.
    fn learn(&mut self, index: usize, as_of: AsOf, fact: Fact) {
        let kind = |fact| match fact {
            Fact::Absent => None,
            Fact::File(_) | Fact::Local(_) => Some(FileKind::File),
            Fact::Directory => Some(FileKind::Directory),
        };
        if kind(self.facts[index].fact) != kind(fact) {
            self.numbers.remove(&index);
        }
        self.facts[index] = Known { as_of, fact };
    }

    fn told(&mut self, index: usize, asked: Asked, fact: Fact) {
        let Known { as_of, fact: known } = self.facts[index];
        // What was dropped may be learned again from an older answer, but never what a change made here has overtaken.
        let youngest = match self.known(index) {
            Answer::Unknown => as_of.changed,
            Answer::Present(_) | Answer::Absent => as_of.stamp,
        };
        let as_of = as_of.answer(asked.stamp);
        match known {
            _ if asked.stamp <= youngest => {}
            Fact::Local(_) => self.facts[index].as_of = as_of,
            Fact::Absent | Fact::File(_) | Fact::Directory => {
                let is_pinned =
                    matches!(self.known(index), Answer::Present(ino) if self.pinned.contains_key(&ino));
                if is_pinned && fact != known {
                    self.numbers.remove(&index);
                }
                self.learn(index, as_of, fact);
            }
        }
    }

    fn deliver(&mut self, pending: Pending) {
        match pending {
            Pending::Name(index, asked, fact) => {
                self.told(index, asked, fact);
                self.tree.answered(asked.stamp);
                self.tree.fold(self.directory, &name(index), asked, news(index, fact)).unwrap();
                assert_ne!(self.known(index), Answer::Unknown);
            }
            Pending::All(asked, facts) => {
                let mut page = ListPage::default();
                for (index, fact) in facts.into_iter().enumerate() {
                    match fact {
                        Fact::Absent => {}
                        Fact::File(size) | Fact::Local(size) => page.objects.push(object(index, size)),
                        Fact::Directory => page.prefixes.push(format!("dir/{}/", NAMES[index])),
                    }
                    self.told(index, asked, fact);
                }
                self.tree.answered(asked.stamp);
                let told = self.tree.fold_page(self.directory, page, asked, IsFirst::Yes).unwrap();
                for (index, fact) in facts.into_iter().enumerate() {
                    assert!(fact == Fact::Absent || self.known(index) != Answer::Unknown, "lost");
                }
                self.tree.fold_end(self.directory, asked, told.doubtful).unwrap();
            }
        }
    }

    fn take(&mut self, step: Step) {
        let directory = self.directory;
        match step {
            Step::Ask(index, fact) => {
                let asked = self.asked();
                self.pending.push(Pending::Name(index, asked, fact));
            }
            Step::AskAll(facts) => {
                let asked = self.asked();
                self.pending.push(Pending::All(asked, facts));
            }
            Step::Deliver(index) if index < self.pending.len() => {
                let pending = self.pending.remove(index);
                self.deliver(pending);
            }
            Step::Create(index) => {
                let residence =
                    Residence::Local { size: 0, attributes: Attributes::default(), under: Under::Nothing };
                let is_free = !matches!(self.known(index), Answer::Present(_));
                let made = self.tree.add(directory, &name(index), Body::File(residence));
                assert_eq!(made.is_ok(), is_free);
                if is_free {
                    self.change(index, Fact::Local(0));
                }
            }
            Step::Rename(from, to) => self.rename(from, to),
            Step::Pass(secs) => {
                self.secs += secs;
                self.tree.sweep(self.now());
            }
            Step::SetLocal(index, _)
            | Step::Commit(index, _)
            | Step::Remove(index)
            | Step::Count(index)
            | Step::Forget(index)
            | Step::Expire(index)
            | Step::Pin(index)
            | Step::Unpin(index)
            | Step::Renew(index) => {
                if let Answer::Present(ino) = self.known(index) {
                    self.take_on(step, index, ino);
                }
            }
            Step::Deliver(_) => {}
        }
    }

    fn take_on(&mut self, step: Step, index: usize, ino: Ino) {
        let is_file = self.tree.require_file(ino).is_ok();
        match step {
            Step::SetLocal(_, size) if is_file => {
                self.tree.set_local(ino, local(size)).unwrap();
                // Not a change of the name: answers on their way stay news about what is under the key.
                self.facts[index].fact = Fact::Local(size);
                self.pinned.entry(ino).and_modify(|pinned| *pinned = size);
            }
            Step::Commit(_, size) if is_file => {
                let fresh = self.fresh();
                self.tree.committed(ino, &object(index, size), fresh).unwrap();
                self.change(index, Fact::File(size));
                self.pinned.entry(ino).and_modify(|pinned| *pinned = size);
            }
            Step::Pin(_) if is_file && !self.pinned.contains_key(&ino) => {
                self.tree.pin(ino).unwrap();
                self.pinned.insert(ino, self.tree.inode(ino).unwrap().attr(&options()).size);
            }
            Step::Unpin(_) => {
                // Of any file, also of one that has lost its name.
                if let Some((ino, _)) = self.pinned.pop_last() {
                    self.tree.unpin(ino);
                }
            }
            Step::Renew(_) if is_file => {
                let renewed = self.tree.renew(ino).unwrap();
                assert_eq!(self.known(index), Answer::Present(renewed));
                // Where nobody refers to the old one its number is free for the new one.
                let is_referred_to = self.kernel.contains_key(&ino) || self.pinned.contains_key(&ino);
                assert!(renewed != ino || !is_referred_to);
                self.numbers.remove(&index);
            }
            Step::Remove(_) => {
                let fresh = self.fresh();
                assert_eq!(self.tree.remove(self.directory, &name(index), fresh).unwrap(), Some(ino));
                self.change(index, Fact::Absent);
            }
            Step::Count(_) => {
                self.tree.count(ino).unwrap();
                *self.kernel.entry(ino).or_default() += 1;
                self.numbers.insert(index, ino);
            }
            Step::Forget(_) => {
                if let Some(count) = self.kernel.remove(&ino) {
                    self.numbers.remove(&index);
                    self.tree.forget(ino, count);
                }
            }
            Step::Expire(_) => {
                self.tree.expire(ino);
                let fact = self.facts[index].fact;
                self.change(index, fact);
            }
            Step::SetLocal(..) | Step::Commit(..) | Step::Pin(_) | Step::Renew(_) => {}
            Step::Ask(..)
            | Step::AskAll(_)
            | Step::Deliver(_)
            | Step::Create(_)
            | Step::Rename(..)
            | Step::Pass(_) => unreachable!("not about one inode"),
        }
    }

    fn rename(&mut self, from: usize, to: usize) {
        let kind = |answer| match answer {
            Answer::Present(ino) => Some(self.tree.kind(ino).unwrap()),
            Answer::Absent | Answer::Unknown => None,
        };
        let (source, target) = (kind(self.known(from)), kind(self.known(to)));
        let is_possible = source == Some(FileKind::File) && target != Some(FileKind::Directory);
        let moved = self.known(from);
        let absence = self.fresh();
        let names = (name(from), name(to));
        let directory = self.directory;
        let renamed = self.tree.rename((directory, &names.0), (directory, &names.1), self.now(), absence);
        assert_eq!(renamed.is_ok(), is_possible, "{renamed:?}");
        if is_possible && from != to {
            assert_eq!(self.known(to), moved, "the number goes with the file");
            let fact = self.facts[from].fact;
            let number = self.numbers.remove(&from);
            self.change(from, Fact::Absent);
            self.change(to, fact);
            self.numbers.remove(&to);
            number.map(|number| self.numbers.insert(to, number));
        }
    }

    fn check(&self) {
        self.tree.check_invariants();
        for (index, Known { fact, .. }) in self.facts.into_iter().enumerate() {
            let is_held = self.numbers.contains_key(&index);
            match (self.known(index), fact) {
                (Answer::Present(ino), Fact::File(size) | Fact::Local(size)) => {
                    let attr = self.tree.inode(ino).unwrap().attr(&options());
                    assert_eq!((attr.kind, attr.size), (FileKind::File, size), "{}", NAMES[index]);
                    assert!(self.numbers.get(&index).is_none_or(|number| *number == ino));
                }
                (Answer::Present(ino), Fact::Directory) => {
                    assert_eq!(self.tree.kind(ino).unwrap(), FileKind::Directory, "{}", NAMES[index]);
                    assert!(self.numbers.get(&index).is_none_or(|number| *number == ino));
                }
                (Answer::Absent, Fact::Absent) => {}
                (Answer::Unknown, Fact::Absent | Fact::File(_) | Fact::Directory) => {
                    assert!(!is_held, "{} was dropped and the kernel has it", NAMES[index]);
                }
                (known, fact) => panic!("{} is {fact:?} and the tree says {known:?}", NAMES[index]),
            }
            if self.tree.answer(self.directory, &name(index), self.now()).unwrap() == Answer::Absent {
                assert_eq!(fact, Fact::Absent, "{} is denied", NAMES[index]);
            }
        }
        for ino in self.kernel.keys() {
            assert!(self.tree.inode(*ino).is_ok(), "the kernel has {ino} and it is not known");
        }
        for (ino, size) in &self.pinned {
            let attr = self.tree.inode(*ino).expect("what is pinned is known").attr(&options());
            assert_eq!((attr.kind, attr.size), (FileKind::File, *size), "{ino} is pinned");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_youngest_fact_counts(steps in proptest::collection::vec(step(), 1..60)) {
        let mut rig = Rig::new();
        for step in steps {
            rig.take(step);
            rig.check();
        }
    }
}

#[test]
fn an_answer_about_a_directory_that_was_there_before_is_no_news() {
    let mut tree = Tree::new(100);
    let (above, below) = (Name::of_part("dir"), name(0));
    let folder = || Body::Directory(Folder::new(Evidence::Store, Freshness::Always));
    let first = tree.add(Ino::ROOT, &above, folder()).unwrap();
    let asked = Asked { stamp: tree.ask(), fresh: Freshness::Always };
    tree.remove(Ino::ROOT, &above, Freshness::Always).unwrap();
    let second = tree.add(Ino::ROOT, &above, folder()).unwrap();
    assert_eq!(first, second, "the number is free again");
    tree.fold(second, &below, asked, news(0, Fact::File(1))).unwrap();
    assert_eq!(tree.last_known(second, &below).unwrap(), Answer::Unknown);
    let asked = Asked { stamp: tree.ask(), ..asked };
    tree.fold(second, &below, asked, news(0, Fact::File(1))).unwrap();
    assert!(matches!(tree.last_known(second, &below).unwrap(), Answer::Present(_)));
}

#[test]
fn memory_is_bounded_by_forgetting_what_nobody_refers_to() {
    let mut tree = Tree::new(100);
    let fresh = Freshness::Always;
    for n in 0..1_000 {
        let name = Name::of_part(&format!("{n}"));
        let stamp = tree.tick();
        tree.fold(Ino::ROOT, &name, Asked { stamp, fresh }, News::Nothing).unwrap();
        let id = ObjectId { key: key(&format!("{n}-")), etag: ETag::new("e"), size: 1 };
        let meta =
            ObjectMeta { id, modified: UnixTime::default(), attributes: None, token: None, crc64: None };
        let name = Name::of_part(&format!("{n}-"));
        tree.fold(Ino::ROOT, &name, Asked { stamp, fresh }, News::File(meta)).unwrap();
        if let Answer::Present(ino) = tree.last_known(Ino::ROOT, &name).unwrap() {
            tree.count(ino).unwrap();
            tree.forget(ino, 1);
        }
    }
    assert!(tree.inodes.len() <= 101 && tree.order.len() <= 100);
    assert!(tree.folder(Ino::ROOT).unwrap().entries.len() <= 100);
    tree.check_invariants();
}

#[test]
fn a_listing_is_not_complete_when_part_of_it_was_dropped() {
    let mut tree = Tree::new(2);
    let now = Instant::now();
    let asked = Asked { stamp: tree.tick(), fresh: Freshness::Always };
    let objects = ["a", "b", "c", "d"].map(|text| {
        let id = ObjectId { key: key(text), etag: ETag::new("e"), size: 1 };
        ObjectMeta { id, modified: UnixTime::default(), attributes: None, token: None, crc64: None }
    });
    let page = ListPage { objects: objects.to_vec(), ..ListPage::default() };
    let told = tree.fold_page(Ino::ROOT, page, asked, IsFirst::Yes).unwrap();
    tree.sweep(now);
    tree.fold_end(Ino::ROOT, asked, told.doubtful).unwrap();
    let dropped = Name::of_part("a");
    assert_eq!(tree.answer(Ino::ROOT, &dropped, now).unwrap(), Answer::Unknown);
}
