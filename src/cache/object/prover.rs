//! Proves in the background what somebody wanted as a whole, one object at a time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, Weak};

use crate::cache::layout::Name;
use crate::cache::{ChunkCache, Disk, locked};
use crate::observe::task;

/// Most objects that wait to be proven. Of more, those that are wanted again come later.
const WANTED_MAX: usize = 256;

/// The objects that wait to be proven.
#[derive(Debug, Default)]
pub(in crate::cache) struct Prover {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Idle,
    /// A thread is at it.
    Working { wanted: VecDeque<Name> },
}

impl Prover {
    /// Has an object proven, whether or not anybody still has it open then.
    pub(in crate::cache) fn want(&self, cache: &Arc<ChunkCache>, name: Name) {
        let mut state = locked(&self.state);
        match &mut *state {
            State::Working { wanted } => {
                if !wanted.contains(&name) && wanted.len() < WANTED_MAX {
                    wanted.push_back(name);
                }
            }
            State::Idle => {
                let weak = Arc::downgrade(cache);
                match task::thread("cache-prove", move || work(&weak)) {
                    Ok(_) => *state = State::Working { wanted: VecDeque::from([name]) },
                    Err(error) => log::debug!("Cannot check cached files in the background: {error}"),
                }
            }
        }
    }

    #[cfg(test)]
    pub(in crate::cache) fn is_idle(&self) -> bool {
        matches!(*locked(&self.state), State::Idle)
    }

    /// The next one, or none, and then nobody is at it any more.
    fn next(&self) -> Option<Name> {
        let mut state = locked(&self.state);
        let next = match &mut *state {
            State::Idle => None,
            State::Working { wanted } => wanted.pop_front(),
        };
        if next.is_none() {
            *state = State::Idle;
        }
        next
    }
}

/// Holds the cache only through the object it is at, so that [`CachedObject::prove_rest`] sees when nobody else does.
///
/// [`CachedObject::prove_rest`]: crate::cache::CachedObject::prove_rest
fn work(weak: &Weak<ChunkCache>) {
    loop {
        let object = weak.upgrade().and_then(|cache| {
            let name = cache.disk().map(|disk: &Disk| &disk.prover).and_then(Prover::next)?;
            Some(cache.hold(name))
        });
        match object {
            Some(object) => object.prove_rest(),
            None => return,
        };
    }
}
