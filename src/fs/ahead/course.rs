//! From the order in which files are opened to which will be opened next. Pure.
//!
//! Two files opened one after the other, in the order of their directory, make a *course*: the files behind them are
//! expected. Each file that comes as expected doubles how many are fetched ahead, up to a limit. A file that was not
//! expected ends the course, and what was fetched for it is given up.

use std::collections::VecDeque;

use crate::namespace::{Neighbour, Order};
use crate::types::Ino;

/// Directories whose openings are followed at a time; several programs may read at once.
const DIRECTORIES_MAX: usize = 4;
/// Expected files that may be left out without ending a course: programs skip what does not interest them.
const SKIPPED_MAX: usize = 4;
/// Files fetched ahead when a course begins.
const DEPTH_MIN: usize = 4;
/// Most files fetched ahead of one course.
const DEPTH_MAX: usize = 32;
/// After so many openings in no order at all, only one in as many is looked at for the beginning of a course: the look
/// goes through the directory.
const MISSES_MAX: u32 = 16;
/// Files that a course knows of at a time.
pub(super) const EXPECTED_MAX: usize = 512;

/// What bounds what is fetched ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    /// Largest file that is fetched ahead, in bytes.
    pub(super) file_bytes_max: u64,
    /// Most bytes fetched ahead and not opened yet, over one course.
    pub(super) bytes_max: u64,
}

/// Everything that is being followed.
#[derive(Debug)]
pub(super) struct Courses {
    limits: Limits,
    /// The one followed last is in front.
    followed: VecDeque<Followed>,
}

/// The openings in one directory.
#[derive(Debug)]
struct Followed {
    directory: Ino,
    /// The file opened last.
    last: Ino,
    course: Option<Course>,
    /// Openings since a course was found or looked for in vain.
    misses: u32,
}

#[derive(Debug)]
struct Course {
    order: Order,
    depth: usize,
    /// The files to come, in order.
    expected: VecDeque<Neighbour>,
    /// So many of them, from the front, have been given out to be fetched.
    fetched: usize,
}

/// What an opening leads to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Step {
    /// To be fetched ahead.
    pub(super) fetch: Vec<Neighbour>,
    /// Fetched ahead, and no longer expected.
    pub(super) give_up: Vec<Ino>,
}

impl Courses {
    pub(super) fn new(limits: Limits) -> Courses {
        Courses { limits, followed: VecDeque::new() }
    }

    /// A file of `directory` has been opened. `behind` tells which files come behind one in its directory.
    pub(super) fn opened(
        &mut self,
        directory: Ino,
        ino: Ino,
        behind: impl Fn(Ino, Order) -> Vec<Neighbour>,
    ) -> Step {
        let mut step = Step::default();
        let known = self.followed.iter().position(|followed| followed.directory == directory);
        let mut followed = match known.and_then(|at| self.followed.remove(at)) {
            Some(followed) => followed,
            None => {
                self.make_room(&mut step);
                Followed { directory, last: ino, course: None, misses: 0 }
            }
        };
        if followed.last != ino {
            followed.course = match followed.course.take() {
                Some(course) => course.go_on(ino, &mut step),
                None => followed.begin(ino, &behind),
            };
            if let Some(course) = &mut followed.course {
                course.look_further(ino, &behind);
                course.fetch(self.limits, &mut step);
            }
            followed.last = ino;
            // It is being read, expected or not.
            step.give_up.retain(|&given_up| given_up != ino);
        }
        self.followed.push_front(followed);
        step
    }

    /// Forgets the directory followed longest, when there are too many.
    fn make_room(&mut self, step: &mut Step) {
        if self.followed.len() >= DIRECTORIES_MAX
            && let Some(Followed { course: Some(course), .. }) = self.followed.pop_back()
        {
            course.give_up(step);
        }
    }
}

impl Followed {
    fn begin(&mut self, ino: Ino, behind: impl Fn(Ino, Order) -> Vec<Neighbour>) -> Option<Course> {
        let is_looked_at = self.misses < MISSES_MAX || self.misses.is_multiple_of(MISSES_MAX);
        let course = is_looked_at.then(|| Course::begin(self.last, ino, behind)).flatten();
        self.misses = if course.is_some() { 0 } else { self.misses.saturating_add(1) };
        course
    }
}

impl Course {
    /// A course, if `ino` comes soon behind `last` in one of the orders.
    fn begin(last: Ino, ino: Ino, behind: impl Fn(Ino, Order) -> Vec<Neighbour>) -> Option<Course> {
        [Order::Names, Order::Numbers].into_iter().find_map(|order| {
            let mut expected = VecDeque::from(behind(last, order));
            let at = expected.iter().take(SKIPPED_MAX + 1).position(|file| file.ino == ino)?;
            expected.drain(..=at);
            Some(Course { order, depth: DEPTH_MIN, expected, fetched: 0 })
        })
    }

    /// The course behind `ino`, if that was expected.
    fn go_on(mut self, ino: Ino, step: &mut Step) -> Option<Course> {
        let Some(at) = self.expected.iter().take(SKIPPED_MAX + 1).position(|file| file.ino == ino) else {
            self.give_up(step);
            return None;
        };
        let passed = self.expected.drain(..=at);
        let skipped = passed.take(at.min(self.fetched)).map(|file| file.ino);
        step.give_up.extend(skipped);
        self.fetched = self.fetched.saturating_sub(at + 1);
        self.depth = (self.depth * 2).min(DEPTH_MAX);
        Some(self)
    }

    /// Finds out what comes behind what is expected, when that is nearly used up.
    fn look_further(&mut self, ino: Ino, behind: impl Fn(Ino, Order) -> Vec<Neighbour>) {
        if self.expected.len() < DEPTH_MAX {
            let last = self.expected.back().map_or(ino, |file| file.ino);
            self.expected.extend(behind(last, self.order));
        }
    }

    /// Gives out what is to be fetched now. A file too large for it ends what can be fetched until it has been opened.
    fn fetch(&mut self, limits: Limits, step: &mut Step) {
        let ahead = self.expected.iter().take(self.fetched);
        let mut bytes: u64 = ahead.map(|file| file.object.size).sum();
        for file in self.expected.iter().take(self.depth).skip(self.fetched) {
            bytes += file.object.size;
            if file.object.size > limits.file_bytes_max || bytes > limits.bytes_max {
                return;
            }
            self.fetched += 1;
            step.fetch.push(file.clone());
        }
    }

    fn give_up(self, step: &mut Step) {
        step.give_up.extend(self.expected.into_iter().take(self.fetched).map(|file| file.ino));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::types::{ETag, Key, ObjectId};

    const LIMITS: Limits = Limits { file_bytes_max: 100, bytes_max: 1000 };
    const FILES: u64 = 200;

    fn neighbour(ino: u64) -> Neighbour {
        let key = Key::new(&format!("f{ino}")).unwrap();
        Neighbour { ino: Ino(ino), object: ObjectId { key, etag: ETag::new("1"), size: 10 } }
    }

    /// Files 1 to 200; by name in the order of their numbers, by number backwards for the sake of a difference.
    fn behind(ino: Ino, order: Order) -> Vec<Neighbour> {
        let files: Vec<_> = match order {
            Order::Names => (ino.0 + 1..=FILES).map(neighbour).collect(),
            Order::Numbers => (1..ino.0).rev().map(neighbour).collect(),
        };
        files.into_iter().take(EXPECTED_MAX).collect()
    }

    fn numbers(files: &[Neighbour]) -> Vec<u64> {
        files.iter().map(|file| file.ino.0).collect()
    }

    const DIRECTORY: Ino = Ino(1000);

    #[test]
    fn the_second_file_in_order_begins_a_course_that_deepens() {
        let mut courses = Courses::new(LIMITS);
        assert_eq!(courses.opened(DIRECTORY, Ino(10), behind), Step::default());
        assert_eq!(numbers(&courses.opened(DIRECTORY, Ino(11), behind).fetch), [12, 13, 14, 15]);
        assert_eq!(
            courses.opened(DIRECTORY, Ino(11), behind),
            Step::default(),
            "the same again says nothing"
        );
        assert_eq!(numbers(&courses.opened(DIRECTORY, Ino(12), behind).fetch), [16, 17, 18, 19, 20]);
        let step = courses.opened(DIRECTORY, Ino(15), behind);
        assert_eq!(step.give_up, [Ino(13), Ino(14)], "what is skipped is not waited for");
        assert_eq!(numbers(&step.fetch), (21..=31).collect::<Vec<_>>());
        let step = courses.opened(DIRECTORY, Ino(100), behind);
        assert_eq!(step.fetch, []);
        assert_eq!(step.give_up, (16..=31).map(Ino).collect::<Vec<_>>());
        assert_eq!(numbers(&courses.opened(DIRECTORY, Ino(99), behind).fetch), [98, 97, 96, 95]);
    }

    #[test]
    fn directories_are_followed_side_by_side_up_to_a_bound() {
        let mut courses = Courses::new(LIMITS);
        for directory in 0..4 {
            courses.opened(Ino(1000 + directory), Ino(1), behind);
            courses.opened(Ino(1000 + directory), Ino(2), behind);
        }
        let step = courses.opened(Ino(2000), Ino(1), behind);
        assert_eq!(step.give_up, [3, 4, 5, 6].map(Ino), "the one followed longest is forgotten");
        assert_eq!(numbers(&courses.opened(Ino(1001), Ino(3), behind).fetch), [7, 8, 9, 10, 11]);
    }

    #[test]
    fn large_files_and_large_sums_are_not_fetched() {
        let sized = |ino: Ino, order: Order| {
            let mut files = behind(ino, order);
            files.iter_mut().for_each(|file| file.object.size = if file.ino.0 == 6 { 101 } else { 60 });
            files
        };
        let mut courses = Courses::new(Limits { file_bytes_max: 100, bytes_max: 200 });
        courses.opened(DIRECTORY, Ino(1), sized);
        assert_eq!(numbers(&courses.opened(DIRECTORY, Ino(2), sized).fetch), [3, 4, 5]);
        assert_eq!(courses.opened(DIRECTORY, Ino(3), sized).fetch, []);
        assert_eq!(courses.opened(DIRECTORY, Ino(5), sized).fetch, []);
        assert_eq!(numbers(&courses.opened(DIRECTORY, Ino(6), sized).fetch), [7, 8, 9]);
    }

    proptest! {
        /// Whatever is opened: what is held ahead is what was given out and neither opened nor given up, and it is bounded.
        #[test]
        fn nothing_is_fetched_twice_or_kept_for_nothing(
            opens in proptest::collection::vec((0..6u64, 1..=FILES, 0..4u8), 1..120)
        ) {
            // Each directory has numbers of its own.
            let number = |directory: u64, file: u64| Ino(directory * 10_000 + file);
            let behind = |ino: Ino, order| {
                let directory = ino.0 / 10_000;
                let mut files = behind(Ino(ino.0 % 10_000), order);
                files.iter_mut().for_each(|file| file.ino = number(directory, file.ino.0));
                files
            };
            let mut courses = Courses::new(LIMITS);
            let mut held: BTreeSet<Ino> = BTreeSet::new();
            let mut last = [1; 6];
            for (directory, jump, how) in opens {
                let at = &mut last[directory as usize];
                *at = if how == 0 { jump } else { (*at + u64::from(how)).min(FILES) };
                let opened = number(directory, *at);
                let step = courses.opened(Ino(100_000 + directory), opened, behind);
                held.remove(&opened);
                for ino in step.give_up {
                    prop_assert!(held.remove(&ino), "{ino:?} was not held");
                }
                for file in step.fetch {
                    prop_assert!(held.insert(file.ino), "{:?} is held already", file.ino);
                }
                prop_assert!(held.len() <= DIRECTORIES_MAX * DEPTH_MAX);
            }
        }
    }
}
