//! The user's word on a conflict that was left to him.

use crate::types::Key;
use crate::write::scheduler::facts::conflict_key;
use crate::write::scheduler::{Job, Scheduler};
use crate::write::upload::{FileId, SessionEvent, State};
use crate::write::{Error, Resolution};

impl Scheduler {
    /// Settles a conflict as the user says, and tells the key under which the content goes on.
    pub(super) fn conflict_decided(&mut self, file: FileId, resolution: Resolution) -> Result<Key, Error> {
        let found = self.context.book.upload(file, |upload| match upload.state {
            State::Conflicted => Some(upload.key.clone()),
            State::Open
            | State::Sending(_)
            | State::Completing { .. }
            | State::Contested(_)
            | State::Amending { .. }
            | State::Committed { .. }
            | State::Quarantined { .. }
            | State::GivenUp => None,
        });
        let Some(key) = found.flatten() else {
            let detail = "there is no conflict to be decided about".to_owned();
            return Err(Error::Staging { errno: libc::EINVAL, detail });
        };
        let (event, goes_to) = match resolution {
            Resolution::KeepBoth => {
                let copy = conflict_key(&key, &self.context.options.host, 0);
                (SessionEvent::ConflictKept(copy.clone()), copy)
            }
            Resolution::Overwrite => (SessionEvent::ConflictOverruled, key.clone()),
        };
        self.context.book.session_event(file, event)?;
        log::info!("The conflict about {key} is settled: this version goes to {goes_to}");
        let job = self.jobs.entry(file).or_insert_with(|| Job::new(None));
        (job.attempts, job.is_stuck, job.retry_at) = (0, false, None);
        Ok(goes_to)
    }
}
