//! Small files fetched before they are opened, for programs that go through a directory.
//!
//! `course` tells which; here they are fetched, several at a time, and kept for the open that is expected. Their bytes are
//! held by the reader, within its memory and only as far as others leave room. The request that brings a file also says
//! which version is there, so the open that follows needs no other.

mod course;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use crate::fs::FileSystem;
use crate::fs::ahead::course::{Courses, EXPECTED_MAX, Limits};
use crate::fs::file::FileState;
use crate::namespace::Neighbour;
use crate::observe::{Counter, task};
use crate::read::{FetchedAhead, ReadStream};
use crate::types::Ino;

/// Files fetched ahead at a time. With what streams fetch ahead it leaves requests to those who wait for one.
const FETCHES_MAX: usize = 12;
/// How long a file that was fetched is kept for an open.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// What is fetched ahead in one mount.
#[derive(Debug)]
pub(crate) struct Ahead {
    courses: Mutex<Courses>,
    expected: Mutex<HashMap<Ino, Expected>>,
    turns: Semaphore,
}

/// A file whose opening is expected. Dropped, it is not fetched any more.
#[derive(Debug)]
struct Expected {
    stream: Arc<ReadStream>,
    fetching: AbortHandle,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.fetching.abort();
    }
}

impl Ahead {
    /// Fetches files of at most `file_bytes_max`, and at most `bytes_max` ahead of one program.
    pub(crate) fn new(file_bytes_max: u64, bytes_max: u64) -> Ahead {
        Ahead {
            courses: Mutex::new(Courses::new(Limits { file_bytes_max, bytes_max })),
            expected: Mutex::default(),
            turns: Semaphore::new(FETCHES_MAX),
        }
    }

    fn expected(&self) -> MutexGuard<'_, HashMap<Ino, Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileSystem {
    /// A file has been opened for reading: fetches what will probably be next. Returns the stream over this one, if it
    /// was expected and still is the version that was fetched.
    pub(crate) fn look_ahead(self: &Arc<Self>, state: &FileState) -> Option<Arc<ReadStream>> {
        let directory = self.namespace.directory_of(state.ino)?;
        let behind = |ino, order| self.namespace.files_behind(ino, order, EXPECTED_MAX);
        let step = {
            let mut courses = self.ahead.courses.lock().unwrap_or_else(PoisonError::into_inner);
            courses.opened(directory, state.ino, behind)
        };
        let mut expected = self.ahead.expected();
        let given_up: Vec<Expected> = step.give_up.iter().filter_map(|ino| expected.remove(ino)).collect();
        let opened = expected.remove(&state.ino);
        for file in step.fetch {
            let stream = Arc::new(self.reader.open(file.object.clone()));
            let fetch = self.clone().fetch_ahead(file.clone(), stream.clone());
            let fetching = task::spawn("fetch-ahead", fetch).abort_handle();
            expected.insert(file.ino, Expected { stream, fetching });
        }
        drop(expected);
        self.metrics.add(Counter::FilesAheadUnused, given_up.len() as u64);
        let stream = opened?.stream.clone();
        let content = state.content();
        let is_current = content.remote().is_some_and(|object| object.id == *stream.object());
        let used = if is_current { Counter::FilesAhead } else { Counter::FilesAheadUnused };
        self.metrics.add(used, 1);
        is_current.then_some(stream)
    }

    async fn fetch_ahead(self: Arc<Self>, file: Neighbour, stream: Arc<ReadStream>) {
        {
            let Ok(_turn) = self.ahead.turns.acquire().await else {
                return;
            };
            let look = self.namespace.look(file.ino, Instant::now());
            match (stream.fetch_whole().await, look) {
                (Ok(FetchedAhead::Now(object)), Some(look)) => look.found(object),
                (Ok(FetchedAhead::Now(_)), None) | (Ok(FetchedAhead::NoRoom), _) => {}
                // What will be asked next is whether it still is what the bucket has.
                (Ok(FetchedAhead::Here), look) => {
                    drop(look);
                    if let Err(why) = self.namespace.version(file.ino, Instant::now()).await {
                        log::debug!("{}, expected to be opened, was not found: {why}", file.object.key);
                    }
                }
                (Err(why), _) => {
                    log::debug!("{}, expected to be opened, was not fetched: {why}", file.object.key);
                }
            }
        }
        drop(stream);
        let fs = Arc::downgrade(&self);
        drop(self);
        tokio::time::sleep(KEPT_FOR).await;
        if let Some(fs) = fs.upgrade()
            && fs.ahead.expected().remove(&file.ino).is_some()
        {
            fs.metrics.add(Counter::FilesAheadUnused, 1);
        }
    }
}
