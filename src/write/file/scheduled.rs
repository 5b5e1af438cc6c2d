//! What the scheduler asks of a file and tells it.

use std::mem;

use crate::store::{self, Precondition};
use crate::types::{ByteRange, Key, ObjectMeta, RangeSet, SessionId};
use crate::write::context::Urgency;
use crate::write::context::book::BookError;
use crate::write::context::outcome::{Outcome, Settled, Trouble};
use crate::write::file::state::{FileState, Standing, damaged, remove_staging, removed};
use crate::write::staging::Snapshot;
use crate::write::upload::{Base, FileId, SessionEvent, TreeMove, union};
use crate::write::{Error, WriteFile};

impl WriteFile {
    /// A part as it is now, to be sent while the file is still being written.
    pub(in crate::write) fn freeze_range(&self, range: ByteRange) -> Option<Snapshot> {
        match &self.lock().standing {
            Standing::Live(_, staging) => Some(staging.freeze_range(range)),
            Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => None,
        }
    }

    /// Whether bytes have changed since a snapshot of this version was taken.
    pub(in crate::write) fn changed_since(&self, version: u64, range: ByteRange) -> bool {
        match &self.lock().standing {
            Standing::Live(_, staging) => staging.changed_since(version, range),
            Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => true,
        }
    }

    /// Writes down what the file holds that no seal holds; seals it where its last handle is closed.
    pub(in crate::write) fn note_progress(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.is_closed { self.seal_in(&mut state, Urgency::Now) } else { self.note(&mut state) }
    }

    /// A sealed content of it is in the bucket, under its name or as a conflict copy. Says whether that is still the
    /// file.
    pub(in crate::write) fn committed(
        &self,
        file: FileId,
        session: SessionId,
        object: &ObjectMeta,
        settled: Settled,
    ) -> bool {
        let mut state = self.lock();
        let state = &mut *state;
        self.settle(session, settled);
        match &state.standing {
            Standing::Live(id, _) if *id == file => {}
            Standing::Live(..) | Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => {
                return false;
            }
        }
        let next = self.context.book.upload(file, |upload| upload.latest().cloned()).flatten();
        let unsealed = state.since.as_ref();
        let valid = unsealed.map_or(object.id.size, |since| since.valid);
        let dirty = unsealed.map(|since| since.dirty.clone()).unwrap_or_default();
        match next {
            Some(next) => {
                state.base = next.base.clone().map(|base| base.cut(valid));
                state.dirty = union(&next.dirty, &dirty);
            }
            None => {
                state.base = Some(Base::whole(object.id.clone()).cut(valid));
                state.dirty = dirty;
            }
        }
        state.key = object.id.key.clone();
        state.expected = Precondition::Matches(object.id.etag.clone());
        if state.sealed.as_ref().is_some_and(|sealed| sealed.session == session) {
            state.replace_sealed(None);
        }
        !state.is_dirty && state.session == session
    }

    /// Tells those who wait that a content has reached its end.
    pub(in crate::write) fn settle(&self, session: SessionId, settled: Settled) {
        self.outcome.send_modify(|outcome| {
            outcome.last = Some((session, settled));
            outcome.trouble = None;
            outcome.progress += 1;
        });
    }

    /// Tells them that something went wrong, or that it passed.
    pub(in crate::write) fn trouble(&self, trouble: Option<Trouble>) {
        self.outcome.send_modify(|outcome| {
            match trouble {
                Some(_) => outcome.failures += 1,
                None => outcome.progress += 1,
            }
            outcome.trouble = trouble;
        });
    }

    /// A request about it failed, which is being seen to. Only for those who look: it hides no failure that needs the
    /// user, and counts as none.
    pub(in crate::write) fn retrying(&self, error: &store::Error) {
        self.outcome.send_modify(|outcome| {
            if outcome.trouble.as_ref().is_none_or(|trouble| !trouble.is_stuck) {
                outcome.trouble = Some(Trouble { error: Error::Store(error.clone()), is_stuck: false });
            }
        });
    }

    /// The user wants it tried again: whether the last failure passes by itself is open.
    pub(in crate::write) fn retried(&self) {
        self.outcome.send_modify(|outcome| {
            if let Some(trouble) = &mut outcome.trouble {
                trouble.is_stuck = false;
            }
        });
    }

    /// What those who wait would be told.
    pub(in crate::write) fn outcome(&self) -> Outcome {
        self.outcome.borrow().clone()
    }

    /// It has another name.
    pub(in crate::write) fn renamed(&self, key: Key, expected: Precondition) {
        let mut state = self.lock();
        (state.key, state.expected) = (key, expected);
        // A conflict about the old name is none about the new one.
        self.outcome.send_modify(|outcome| outcome.last = None);
    }

    /// A directory was moved. What this file knows of itself, of its base and of its last commit follows, where it is about
    /// something below.
    pub fn carried(&self, tree: &TreeMove) {
        let mut state = self.lock();
        if let Some(key) = tree.key(&state.key) {
            (state.expected, state.key) = (tree.expected(&state.key, &state.expected), key);
        }
        if let Some(base) = &mut state.base {
            tree.carry_base(base);
        }
        self.outcome.send_if_modified(|outcome| {
            match &mut outcome.last {
                Some((_, Settled::Committed(object))) => match tree.object(&object.id) {
                    Some(id) => object.id = id,
                    None => return false,
                },
                Some((_, Settled::Conflicted { .. } | Settled::Lost(_))) | None => return false,
            }
            true
        });
    }

    /// It has no name any more. Its data stay for the handles that are open.
    pub(in crate::write) fn given_up(&self) {
        let mut state = self.lock();
        state.is_dirty = false;
        state.replace_sealed(None);
        self.settle(state.session, Settled::Lost(removed()));
        state.standing = match mem::replace(&mut state.standing, Standing::Clean) {
            Standing::Live(id, staging) => Standing::Removed(Some((id, staging))),
            other @ (Standing::Clean | Standing::Removed(_) | Standing::Damaged(_)) => other,
        };
    }

    /// The user discarded the changes: it is what it was before them.
    pub(in crate::write) fn reverted(&self) {
        let why =
            Error::Staging { errno: libc::EIO, detail: "its changes were discarded by the user".to_owned() };
        self.revert(&mut self.lock(), Settled::Lost(why));
    }

    /// Another writer's version is where new attributes were to go, and has its own: ours are given up. Says no when there
    /// are changes of the content by now.
    pub(in crate::write) fn yield_attributes(&self, file: FileId) -> Result<bool, BookError> {
        let mut state = self.lock();
        let has_next = self.context.book.upload(file, |upload| upload.next.is_some());
        if state.is_dirty || has_next == Some(true) {
            return Ok(false);
        }
        self.context.book.session_event(file, SessionEvent::GivenUp)?;
        let key = state.key.clone();
        self.revert(&mut state, Settled::Conflicted { key, kept_as: None });
        Ok(true)
    }

    fn revert(&self, state: &mut FileState, settled: Settled) {
        self.settle(state.session, settled);
        state.session = self.context.book.next_session();
        state.base = state.base.take().map(|base| Base::whole(base.object));
        (state.is_dirty, state.since) = (false, None);
        state.replace_sealed(None);
        state.dirty = RangeSet::default();
        let before = mem::replace(&mut state.standing, Standing::Clean);
        if let Standing::Live(id, staging) | Standing::Removed(Some((id, staging))) = before {
            remove_staging(&staging);
            self.context.files.lock().expect("no holder of the lock panics").remove(&id);
        }
    }

    /// Its data are not what was written. They are let go, to be set aside.
    pub(in crate::write) fn damaged(&self, why: &str) {
        let mut state = self.lock();
        state.is_dirty = false;
        state.replace_sealed(None);
        self.settle(state.session, Settled::Lost(damaged(why)));
        state.standing = Standing::Damaged(why.to_owned());
    }

    /// Drops the local data of a closed file that holds nothing but what is in the bucket, or that has no name.
    /// Returns whether they are gone.
    pub(in crate::write) fn finish(&self, file: FileId) -> bool {
        let mut state = self.lock();
        let next = match &state.standing {
            Standing::Live(id, _) if *id == file => Standing::Clean,
            Standing::Removed(Some((id, _))) if *id == file => Standing::Removed(None),
            // They went before, and the file may have others by now.
            Standing::Live(..) | Standing::Removed(_) | Standing::Clean | Standing::Damaged(_) => {
                return true;
            }
        };
        let is_pending = || self.context.book.upload(file, |upload| upload.is_pending()).unwrap_or(false);
        if !state.is_closed || state.is_dirty || is_pending() {
            return false;
        }
        if let Standing::Live(_, staging) | Standing::Removed(Some((_, staging))) =
            mem::replace(&mut state.standing, next)
        {
            remove_staging(&staging);
        }
        self.context.files.lock().expect("no holder of the lock panics").remove(&file);
        true
    }
}
