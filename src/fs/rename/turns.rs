//! Who waits for whom among operations on names: those that share a directory, and those above, below or in a directory
//! that is being moved.
//!
//! A turn is asked for once, with all that it needs, and granted when nothing that was asked for before and is not given
//! back is in its way. So there is one order of locks, the order of asking; nobody who has a turn asks for another.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What an operation needs for itself. Directories are told by the prefix of their keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Claim {
    /// Names in these are changed: one operation at a time, for a directory's last name takes it along.
    pub(crate) directories: Vec<String>,
    /// Something in these is changed, which only minds that they are moved.
    pub(crate) shared: Vec<String>,
    /// These are moved with everything below them.
    pub(crate) trees: Vec<String>,
}

/// Turns that are taken and waited for.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queue: Mutex<Queue>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    claims: BTreeMap<u64, Claim>,
    next: u64,
}

/// A turn, or a place in the queue for one. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Turns>,
    number: u64,
}

impl Claim {
    /// Names in these directories are changed.
    pub(crate) fn on(directories: Vec<String>) -> Claim {
        Claim { directories, ..Claim::default() }
    }

    /// Something in this directory is changed.
    pub(crate) fn within(directory: String) -> Claim {
        Claim { shared: vec![directory], ..Claim::default() }
    }

    fn is_in_the_way_of(&self, other: &Claim) -> bool {
        let share = self.directories.iter().any(|directory| other.directories.contains(directory));
        share || self.moves_something_of(other) || other.moves_something_of(self)
    }

    fn moves_something_of(&self, other: &Claim) -> bool {
        let mut touched = other.directories.iter().chain(&other.shared).chain(&other.trees);
        touched.any(|touched| self.trees.iter().any(|tree| touched.starts_with(tree)))
    }
}

impl Turns {
    /// Waits for a turn: as long as those before it take, each of which ends within its own time.
    pub(crate) async fn take(self: &Arc<Self>, claim: Claim) -> Turn {
        let number = {
            let mut queue = self.lock();
            queue.next += 1;
            let number = queue.next;
            queue.claims.insert(number, claim);
            number
        };
        let turn = Turn { turns: Arc::clone(self), number };
        loop {
            let changed = self.changed.notified();
            if self.lock().is_granted(number) {
                return turn;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_granted(&self, number: u64) -> bool {
        let Some(claim) = self.claims.get(&number) else { return true };
        !self.claims.range(..number).any(|(_, before)| before.is_in_the_way_of(claim))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.turns.lock().claims.remove(&self.number);
        self.turns.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn on(prefixes: &[&str]) -> Claim {
        Claim::on(prefixes.iter().map(|&prefix| prefix.to_owned()).collect())
    }

    fn moving(parent: &str, tree: &str) -> Claim {
        Claim { trees: vec![tree.to_owned()], ..on(&[parent]) }
    }

    #[test]
    fn only_those_that_share_something_wait() {
        for (one, other, is_in_the_way) in [
            (on(&["a/"]), on(&["b/"]), false),
            (on(&["a/"]), on(&["a/b/"]), false),
            (on(&["a/", "b/"]), on(&["b/", "c/"]), true),
            (Claim::within("a/".to_owned()), on(&["a/"]), false),
            (moving("", "a/"), on(&["a/b/"]), true),
            (moving("", "a/"), on(&["ab/"]), false),
            (moving("", "a/"), Claim::within("a/b/".to_owned()), true),
            (moving("", "a/"), Claim::within(String::new()), false),
            (moving("x/", "x/a/"), moving("y/", "y/b/"), false),
            (moving("x/", "x/a/"), moving("x/a/b/", "x/a/b/c/"), true),
        ] {
            assert_eq!(one.is_in_the_way_of(&other), is_in_the_way, "{one:?} {other:?}");
            assert_eq!(other.is_in_the_way_of(&one), is_in_the_way, "{other:?} {one:?}");
        }
    }

    #[test]
    fn turns_come_in_the_order_of_asking() {
        let turns = Arc::new(Turns::default());
        let mut context = Context::from_waker(Waker::noop());
        let mut first = Box::pin(turns.take(on(&["a/"])));
        let Poll::Ready(first) = first.as_mut().poll(&mut context) else { panic!("nobody is before it") };
        let mut second = Box::pin(turns.take(on(&["a/", "b/"])));
        let mut third = Box::pin(turns.take(on(&["b/"])));
        let mut other = Box::pin(turns.take(on(&["c/"])));
        assert!(second.as_mut().poll(&mut context).is_pending());
        assert!(third.as_mut().poll(&mut context).is_pending(), "the second asked before it");
        assert!(other.as_mut().poll(&mut context).is_ready());
        // One that is not waited for any more is in nobody's way.
        drop(second);
        assert!(third.as_mut().poll(&mut context).is_ready());
        drop(first);
    }
}
