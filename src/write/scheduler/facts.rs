//! What the scheduler decides and writes down by itself: taking contents, intending commits, settling conflicts,
//! renaming and giving up, closing.

use time::OffsetDateTime;
use time::macros::format_description;
use tokio::time::Instant;

use crate::observe::Counter;
use crate::store::ErrorKind;
use crate::types::{Key, ObjectMeta, SessionId};
use crate::write::context::GiveUpBy;
use crate::write::context::book::BookError;
use crate::write::context::outcome::{Settled, Trouble};
use crate::write::recovery::damage_text;
use crate::write::scheduler::job::{Job, Request};
use crate::write::scheduler::sender::new_token;
use crate::write::scheduler::{Scheduler, backoff, is_local, name_of};
use crate::write::upload::{
    Answer, CommitBy, Effect, EffectId, FileId, Record, Session, SessionEvent, State,
};
use crate::write::{Error, Event, Hold, OnConflict};

/// Longest key that stores take, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// A session's end that others are told of.
struct Ended {
    session: SessionId,
    key: Key,
    contested: Option<Key>,
    object: ObjectMeta,
}

impl Scheduler {
    /// Writes a fact down. Says no when that was not possible; then it is not one.
    pub(super) fn record(&mut self, file: FileId, event: SessionEvent) -> bool {
        match self.context.book.session_event(file, event) {
            Ok(_) => true,
            Err(BookError::Misfit(misfit)) => {
                // An answer to a question that is no longer asked.
                log::debug!("Ignored for file {}: {misfit}", file.0);
                false
            }
            Err(BookError::Journal(error)) => {
                self.failed(file, error, Some(backoff::pause(5, None)));
                false
            }
        }
    }

    /// Does the next thing that needs no store. Says whether there was one.
    pub(super) fn local_step(&mut self, file: FileId) -> bool {
        let now = Instant::now();
        let Some(job) = self.jobs.get(&file) else { return false };
        if job.is_held || job.not_before.is_some_and(|at| at > now) {
            return false;
        }
        let rules = &self.context.rules;
        let effects = self.context.book.upload(file, |upload| upload.effects(rules, job.passed, 1));
        let Some(effect) = effects.and_then(|effects| effects.into_iter().find(is_local)) else {
            return false;
        };
        let is_free = job.flights.is_empty() && job.may_commit() && !job.is_waiting(now);
        match effect {
            Effect::Take => self.take(file),
            Effect::Intend(by) => is_free && self.is_first_of_name(file) && self.intend(file, by),
            Effect::Withdraw => !job.is_committing() && self.record(file, SessionEvent::CommitWithdrawn),
            Effect::Discontinue => is_free && self.record(file, SessionEvent::UploadDropped),
            Effect::Resolve => self.resolve(file),
            Effect::Begin
            | Effect::QueryStatus
            | Effect::SendPart(_)
            | Effect::CopyPart(_)
            | Effect::Put
            | Effect::Copy
            | Effect::Complete
            | Effect::Look
            | Effect::Amend
            | Effect::Refuse
            | Effect::Abort(_) => false,
        }
    }

    fn take(&mut self, file: FileId) -> bool {
        let Some(job) = self.jobs.get(&file) else { return false };
        let Some((session, _)) = job.next else { return false };
        let rules = &self.context.rules;
        let next = self.context.book.upload(file, |upload| upload.next.clone()).flatten();
        // The data of a content sealed this moment come with the next command.
        let Some(next) = next.filter(|next| next.session == session) else { return false };
        let parts = self.context.book.upload(file, |upload| {
            upload.parts_kept(&next, rules, |_, _| false).map(|_| {
                let stored = upload.transfer().map(|transfer| transfer.parts.clone()).unwrap_or_default();
                stored.into_iter().map(|(number, part)| (number, part.range)).collect::<Vec<_>>()
            })
        });
        let handle = job.file.as_ref();
        let stale: Vec<_> = parts
            .flatten()
            .unwrap_or_default()
            .into_iter()
            .filter(|(number, range)| match (job.sent.get(number), handle) {
                (Some(version), Some(handle)) => handle.changed_since(*version, *range),
                (None, _) | (_, None) => true,
            })
            .map(|(number, _)| number)
            .collect();
        let kept = self
            .context
            .book
            .upload(file, |upload| upload.parts_kept(&next, rules, |n, _| stale.contains(&n)));
        if !self.record(file, SessionEvent::Taken { session, kept: kept.flatten() }) {
            return false;
        }
        self.with_job(file, |job| {
            job.content = job.next.take();
            (job.attempts, job.refusals) = (0, 0);
        });
        if self.context.book.upload(file, |upload| upload.state == State::Conflicted) == Some(true) {
            self.left_in_conflict(file);
        }
        true
    }

    fn intend(&mut self, file: FileId, by: CommitBy) -> bool {
        let token = self.context.book.upload(file, |upload| match upload.transfer() {
            Some(transfer) => Some(transfer.token.clone()),
            None => upload.content.as_ref().and_then(|content| content.token()),
        });
        let token = token.flatten().unwrap_or_else(new_token);
        self.record(file, SessionEvent::CommitIntended { token, by })
    }

    fn resolve(&mut self, file: FileId) -> bool {
        let Some((key, contested)) =
            self.context.book.upload(file, |upload| (upload.key.clone(), upload.contested.clone()))
        else {
            return false;
        };
        if self.yield_attributes(file) {
            return true;
        }
        let is_first = contested.is_none();
        if is_first {
            self.context.metrics.add(Counter::Conflicts, 1);
        }
        // That the name of a copy is taken by another one is not what the user is asked about.
        let settled = if is_first { self.context.options.on_conflict } else { OnConflict::KeepBoth };
        match settled {
            OnConflict::KeepBoth => {
                let attempt = if is_first { 0 } else { fastrand::u32(2..10_000) };
                let copy =
                    conflict_key(contested.as_ref().unwrap_or(&key), &self.context.options.host, attempt);
                log::warn!("{key} was changed by another writer; this version is kept as {copy}");
                self.record(file, SessionEvent::ConflictKept(copy))
            }
            OnConflict::Fail => {
                log::warn!("{key} was changed by another writer; this version is kept in staging");
                let is_recorded = self.record(file, SessionEvent::ConflictLeft);
                if is_recorded {
                    self.left_in_conflict(file);
                }
                is_recorded
            }
            OnConflict::Overwrite => {
                log::warn!("{key} was changed by another writer; this version replaces that one");
                self.record(file, SessionEvent::ConflictOverruled)
            }
        }
    }

    /// New attributes of a version that is no longer there are of no use to anybody.
    fn yield_attributes(&mut self, file: FileId) -> bool {
        let about = self.context.book.upload(file, |upload| {
            let content = upload.content.as_ref().filter(|_| upload.dresses_base())?;
            Some((content.session, upload.key.clone()))
        });
        let Some(Some((session, key))) = about else { return false };
        let Some(job) = self.jobs.get_mut(&file) else { return false };
        let yielded = match &job.file {
            Some(handle) => handle.yield_attributes(file).map_err(Error::from),
            None => Ok(false),
        };
        match yielded {
            Ok(true) => {
                (job.content, job.not_before) = (None, None);
                log::info!("{key} was changed by another writer; attributes that were set here are given up");
                self.context.event(Event::Yielded { session, key });
                true
            }
            Ok(false) => false,
            Err(error) => {
                log::warn!("That the attributes of {key} are given up cannot be noted: {error}");
                false
            }
        }
    }

    fn left_in_conflict(&mut self, file: FileId) {
        let found = self.context.book.upload(file, |upload| {
            upload.content.as_ref().map(|content| (content.session, upload.key.clone()))
        });
        let Some((session, key)) = found.flatten() else { return };
        if let Some(handle) = self.jobs.get(&file).and_then(|job| job.file.as_ref()) {
            handle.settle(session, Settled::Conflicted { key: key.clone(), kept_as: None });
        }
        self.context.event(Event::Conflicted { session, key, kept_as: None });
    }

    /// Does what was asked for, where no commit is under way.
    pub(super) fn serve_requests(&mut self, file: FileId) {
        loop {
            let Some(job) = self.jobs.get_mut(&file) else { return };
            job.requests.retain(|request| !request.is_withdrawn());
            if job.requests.is_empty() || job.is_committing() {
                return;
            }
            match self.context.book.upload(file, may_be_taken_back) {
                Some(TakeBack::AsItIs) | None => {}
                Some(TakeBack::Withdraw) => {
                    match self.context.book.session_event(file, SessionEvent::CommitWithdrawn) {
                        Ok(_) => {}
                        Err(BookError::Misfit(_)) => return,
                        Err(BookError::Journal(error)) => {
                            let Some(job) = self.jobs.get_mut(&file) else { return };
                            let waiting = std::mem::take(&mut job.requests);
                            waiting.into_iter().for_each(|request| request.answer(Err(error.clone())));
                            return;
                        }
                    }
                }
                Some(TakeBack::NotYet) => return,
            }
            let Some(job) = self.jobs.get_mut(&file) else { return };
            let request = job.requests.remove(0);
            self.serve(file, request);
        }
    }

    fn serve(&mut self, file: FileId, request: Request) {
        let event = match &request {
            Request::Rename { key, expected, over, .. } => {
                SessionEvent::Renamed { key: key.clone(), expected: expected.clone(), over: *over }
            }
            Request::GiveUp { .. } => SessionEvent::GivenUp,
            Request::Hold { .. } => return self.hold(file, request),
        };
        if let Err(error) = self.context.book.session_event(file, event) {
            return request.answer(Err(error.into()));
        }
        let Some(job) = self.jobs.get_mut(&file) else { return };
        job.attempts = 0;
        job.retry_at = None;
        job.is_stuck = false;
        match &request {
            Request::Hold { .. } => {}
            Request::Rename { key, expected, .. } => {
                if let Some(handle) = &job.file {
                    handle.renamed(key.clone(), expected.clone());
                }
            }
            Request::GiveUp { by, .. } => {
                (job.content, job.next, job.passed) = (None, None, 0);
                (job.note_at, job.not_before) = (None, None);
                match (by, &job.file) {
                    (GiveUpBy::Removal, Some(handle)) => handle.given_up(),
                    (GiveUpBy::User, Some(handle)) => handle.reverted(),
                    (GiveUpBy::Removal | GiveUpBy::User, None) => {}
                }
                self.call_off_flights(file);
                self.remove_interrupted(file);
            }
        }
        request.answer(Ok(()));
    }

    fn hold(&mut self, file: FileId, request: Request) {
        if let Request::Hold { reply } = request {
            self.with_job(file, |job| job.holds += 1);
            // Whoever asked may have stopped waiting; then dropping it ends the hold.
            reply.send(Ok(Hold::new(&self.context, file))).ok();
        }
    }

    /// Ends what is under way. A beginning is let through: its upload has to be aborted.
    fn call_off_flights(&mut self, file: FileId) {
        let Some(job) = self.jobs.get_mut(&file) else { return };
        let called_off = job.flights.extract_if(|id, _| *id != EffectId::Begin);
        for (_, flight) in called_off {
            flight.handle.abort();
            self.in_flight -= 1;
            self.memory -= flight.bytes;
        }
    }

    fn remove_interrupted(&mut self, file: FileId) {
        let left = self.context.interrupted.lock().expect("no holder of the lock panics").remove(&file);
        if let Some(staging) = left
            && let Err(error) = staging.remove()
        {
            log::warn!("Staging file {} was discarded but cannot be removed: {error}", file.0);
        }
    }

    /// A content has become an object: tells everybody.
    pub(super) fn after_commit(&mut self, file: FileId) {
        let Some(Some(ended)) = self.context.book.upload(file, ended) else { return };
        let Some(job) = self.jobs.get_mut(&file) else { return };
        (job.content, job.is_wanted, job.attempts, job.is_stuck) = (None, false, 0, false);
        (job.retry_at, job.passed, job.refusals) = (None, 0, 0);
        job.sent.clear();
        let Ended { session, key, contested, object } = ended;
        let settled = match &contested {
            None => Settled::Committed(Box::new(object.clone())),
            Some(wanted) => Settled::Conflicted { key: wanted.clone(), kept_as: Some(key.clone()) },
        };
        let is_current =
            job.file.as_ref().is_none_or(|handle| handle.committed(file, session, &object, settled));
        self.context.metrics.add(Counter::Commits, 1);
        self.context.event(match contested {
            None => Event::Committed { session, object, is_current },
            Some(key) => Event::Conflicted { session, key, kept_as: Some(object) },
        });
        self.replace_interrupted(&key);
    }

    /// What an earlier process left unfinished under this name is replaced now.
    fn replace_interrupted(&mut self, key: &Key) {
        let left: Vec<FileId> =
            self.context.interrupted.lock().expect("no holder of the lock panics").keys().copied().collect();
        for file in left {
            let is_replaced = self.context.book.upload(file, |upload| upload.key == *key) == Some(true);
            if is_replaced && self.record(file, SessionEvent::GivenUp) {
                log::info!("An interrupted version of {key} is replaced by a complete one");
                self.remove_interrupted(file);
                self.jobs.entry(file).or_insert_with(|| Job::new(None));
                self.touch(file);
            }
        }
    }

    /// A failure: those who wait are told, and the next attempt is put off. Without a pause it is one that will not
    /// pass by itself.
    pub(super) fn failed(&mut self, file: FileId, error: Error, pause: Option<std::time::Duration>) {
        let Some(job) = self.jobs.get_mut(&file) else { return };
        let was_stuck = std::mem::replace(&mut job.is_stuck, pause.is_none());
        job.retry_at = Some(Instant::now() + pause.unwrap_or_else(backoff::stuck_pause));
        let is_stuck = job.is_stuck;
        if is_stuck && !was_stuck {
            log::error!("{} cannot be uploaded: {error}", name_of(job.file.as_ref()));
            let about = self.context.book.upload(file, |upload| {
                upload.content.as_ref().map(|content| (content.session, upload.key.clone()))
            });
            if let Some(Some((session, key))) = about {
                self.context.event(Event::Stuck { session, key, reason: error.to_string() });
            }
        } else {
            log::info!("{}, attempt {}: {error}", job.describe(file), job.attempts);
        }
        if let Some(handle) = &job.file {
            handle.trouble(Some(Trouble { error, is_stuck }));
        }
    }

    /// Damaged data are set aside once it is certain that they are needed: a commit in doubt is looked up first.
    pub(super) fn quarantine_damage(&mut self, file: FileId) {
        let Some(job) = self.jobs.get_mut(&file).filter(|job| job.damage.is_some()) else { return };
        let is_needed = self.context.book.upload(file, |upload| match may_be_taken_back(upload) {
            TakeBack::AsItIs | TakeBack::Withdraw => upload.is_pending(),
            TakeBack::NotYet => false,
        });
        if is_needed == Some(true)
            && let Some(why) = job.damage.take()
        {
            self.quarantine(file, &why);
        }
    }

    /// Local data are not what was written: they are set aside, never sent, never dropped.
    fn quarantine(&mut self, file: FileId, why: &str) {
        let to = self.context.recovered_directory();
        let why = damage_text(why, &to);
        let found = self
            .context
            .book
            .upload(file, |upload| upload.latest().map(|content| (content.session, upload.key.clone())));
        if !self.record(file, SessionEvent::Quarantined { why: why.clone() }) {
            return;
        }
        if let Some(job) = self.jobs.get_mut(&file) {
            (job.content, job.next) = (None, None);
            if let Some(handle) = job.file.take() {
                handle.damaged(&why);
            }
        }
        self.context.set_aside(file);
        if let Some(Some((session, key))) = found {
            log::error!("{key} cannot be uploaded: {why}");
            self.context.event(Event::Stuck { session, key, reason: why });
        }
    }

    /// An upload must not be filled before it is certain that it will be found again.
    pub(super) fn begin_not_durable(&mut self, file: FileId, error: Error) {
        if let Some(job) = self.jobs.get_mut(&file) {
            job.attempts += 1;
            let pause = backoff::pause(job.attempts, None);
            self.failed(file, error, Some(pause));
            self.sync_beginning(file, pause);
        }
    }

    /// Lets go of a file that has nothing left to do.
    pub(super) fn finish(&mut self, file: FileId) {
        let Some(job) = self.jobs.get(&file) else { return };
        if !job.flights.is_empty() || !job.requests.is_empty() || job.is_held || job.holds > 0 {
            return;
        }
        let is_idle =
            self.context.book.upload(file, |upload| !upload.is_pending() && upload.leftovers.is_empty());
        let is_kept = self.context.book.upload(file, is_kept_for_the_user);
        if is_idle != Some(true) || is_kept != Some(false) {
            return;
        }
        if job.file.as_ref().is_some_and(|handle| !handle.finish(file)) {
            return;
        }
        match self.context.book.record(&Record::Closed { file }) {
            Ok(_) | Err(BookError::Misfit(_)) => self.forget(file),
            Err(BookError::Journal(error)) => log::warn!("File {} stays in the journal: {error}", file.0),
        }
    }

    fn forget(&mut self, file: FileId) {
        if let Some(job) = self.jobs.remove(&file) {
            if let Some(rank) = job.rank {
                self.ready.remove(&(rank, file));
            }
            if let Some(at) = job.timer {
                self.timers.remove(&(at, file));
            }
        }
    }

    /// Whether a store failure is one that only a pause can help.
    pub(super) fn retry_after(error: &crate::store::Error) -> Option<std::time::Duration> {
        match error.kind {
            ErrorKind::Unavailable { retry_after } => retry_after,
            ErrorKind::NotFound
            | ErrorKind::NoVolume
            | ErrorKind::Precondition
            | ErrorKind::UploadGone
            | ErrorKind::Ambiguous
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Protocol
            | ErrorKind::Integrity
            | ErrorKind::Unsupported => None,
        }
    }
}

/// Whether a session can be taken out of what it is doing.
enum TakeBack {
    AsItIs,
    Withdraw,
    NotYet,
}

fn may_be_taken_back(upload: &Session) -> TakeBack {
    match &upload.state {
        State::Completing { answer: Answer::Awaited | Answer::Again, .. } => TakeBack::Withdraw,
        State::Completing { answer: Answer::Unknown, .. } | State::Amending { .. } => TakeBack::NotYet,
        State::Open
        | State::Sending(_)
        | State::Contested(_)
        | State::Committed { .. }
        | State::Conflicted
        | State::Quarantined { .. }
        | State::GivenUp => TakeBack::AsItIs,
    }
}

fn is_kept_for_the_user(upload: &Session) -> bool {
    match &upload.state {
        State::Conflicted | State::Quarantined { .. } => true,
        State::Open
        | State::Sending(_)
        | State::Completing { .. }
        | State::Contested(_)
        | State::Amending { .. }
        | State::Committed { .. }
        | State::GivenUp => false,
    }
}

fn ended(upload: &Session) -> Option<Ended> {
    let State::Committed { session, object } = &upload.state else { return None };
    let (key, contested) = (upload.key.clone(), upload.contested.clone());
    Some(Ended { session: *session, key, contested, object: object.clone() })
}

/// The name of a conflict copy: `NAME.conflict-HOST-TIME`, with a number where that is taken as well.
pub(super) fn conflict_key(key: &Key, host: &str, attempt: u32) -> Key {
    let time = OffsetDateTime::now_utc()
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .expect("the description asks for what every time has");
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let host: String = host.chars().map(plain).take(64).collect();
    let mut ending = format!(".conflict-{host}-{time}");
    if attempt > 0 {
        ending.push_str(&format!("-{attempt}"));
    }
    let mut name = key.as_str();
    while name.len() + ending.len() > KEY_BYTES_MAX {
        name = &name[..name.char_indices().next_back().map_or(0, |(at, _)| at)];
    }
    Key::new(&format!("{name}{ending}")).expect("a key, cut, and an ending of plain characters make a key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conflict_copies_are_named_after_host_and_time_and_fit() {
        let copy = conflict_key(&Key::new("dir/a.txt").unwrap(), "my host", 0);
        let ending = copy.as_str().strip_prefix("dir/a.txt.conflict-my-host-").unwrap();
        assert_eq!(ending.len(), "20261120T074900Z".len());
        assert!(ending.ends_with('Z') && ending.as_bytes()[8] == b'T');
        let long = conflict_key(&Key::new(&"\u{e4}".repeat(512)).unwrap(), "h", 7);
        assert!(long.as_str().len() <= 1024 && long.as_str().ends_with("Z-7"));
    }
}
