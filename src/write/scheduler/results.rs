//! What the scheduler makes of the result of an effect.

use std::sync::Arc;
use std::time::Duration;

use crate::observe::{Counter, task};
use crate::store::ErrorKind;
use crate::types::PartNumber;
use crate::write::Error;
use crate::write::context::Command;
use crate::write::context::killpoint::KillPoint;
use crate::write::file::stopped;
use crate::write::scheduler::sender::{Failure, Work};
use crate::write::scheduler::{Scheduler, backoff};
use crate::write::upload::{Effect, EffectId, FileId, Found, Remedy, Reply, SessionEvent};

/// An effect that has ended.
pub struct Done {
    /// Whose it was.
    pub file: FileId,
    /// Which flight it was.
    pub serial: u64,
    /// What was to be done.
    pub work: Work,
    /// What came of it.
    pub result: Result<Reply, Failure>,
}

impl Scheduler {
    pub(super) fn finished(&mut self, done: Done) {
        let Done { file, serial, work, result } = done;
        let Some(job) = self.jobs.get_mut(&file) else { return };
        let id = work.effect.id();
        // What was called off has been accounted for; its result may have been on the way all the same.
        if job.flights.get(&id).is_none_or(|flight| flight.serial != serial) {
            return;
        }
        if let Some(flight) = job.flights.remove(&id) {
            self.in_flight -= 1;
            self.memory -= flight.bytes;
        }
        match result {
            Ok(reply) => self.replied(file, &work, reply),
            Err(failure) => self.effect_failed(file, &work, failure),
        }
    }

    fn replied(&mut self, file: FileId, work: &Work, reply: Reply) {
        let is_of_this_upload = self.context.book.upload(file, |upload| work.is_about(upload)) == Some(true);
        let is_of_this_content = self.context.book.upload(file, |upload| work.is_for_content_of(upload));
        if let Reply::Part(stored) = &reply {
            let Some(job) = self.jobs.get(&file) else { return };
            let is_stale = is_of_this_content != Some(true) && job.is_stale(work, stored);
            if !is_of_this_upload || is_stale {
                return;
            }
        }
        if let EffectId::Status = work.effect.id()
            && !is_of_this_upload
        {
            return;
        }
        let events = self.context.book.upload(file, |upload| upload.replied(reply)).unwrap_or_default();
        for event in events {
            self.happened(file, work, event);
        }
    }

    /// Writes down what an answer means, counts it, and does what follows.
    fn happened(&mut self, file: FileId, work: &Work, event: SessionEvent) {
        let metrics = Arc::clone(&self.context.metrics);
        match &event {
            SessionEvent::UploadBegun { .. } => {
                if self.record(file, event) {
                    self.context.kill.pass(KillPoint::AfterBegin);
                    self.sync_beginning(file, Duration::ZERO);
                    self.progressed(file);
                }
            }
            SessionEvent::PartStored(stored) => {
                let number = stored.receipt.number;
                if self.record(file, event) {
                    self.context.kill.pass(KillPoint::AfterPart);
                    self.count_part(file, number, work);
                    self.progressed(file);
                }
            }
            SessionEvent::PartsFound(_) | SessionEvent::OffsetFound(_) => {
                if self.record(file, event) {
                    let kept = self
                        .context
                        .book
                        .upload(file, |upload| upload.transfer().map_or(0, |t| t.parts.len()));
                    metrics.add(Counter::PartsKept, kept.unwrap_or(0) as u64);
                    self.mark_kept(file);
                    self.progressed(file);
                }
            }
            SessionEvent::Committed(_) => {
                if self.record(file, event) {
                    self.context.kill.pass(KillPoint::AfterComplete);
                    self.progressed(file);
                    self.after_commit(file);
                }
            }
            SessionEvent::LookedUp(found) => {
                let found = found.clone();
                if self.record(file, event) {
                    self.looked_up(file, &found);
                }
            }
            SessionEvent::Spoiled(object) => {
                log::error!(
                    "{}: the server made another object than it was sent; sending again",
                    object.id.key
                );
                self.record(file, event);
            }
            SessionEvent::UploadLost | SessionEvent::Aborted(_) | SessionEvent::UploadLeft(_) => {
                self.record(file, event);
            }
            SessionEvent::Sealed(_)
            | SessionEvent::Taken { .. }
            | SessionEvent::UploadDropped
            | SessionEvent::SourceLost
            | SessionEvent::CommitIntended { .. }
            | SessionEvent::CommitUnknown
            | SessionEvent::CommitWithdrawn
            | SessionEvent::ConflictKept(_)
            | SessionEvent::ConflictLeft
            | SessionEvent::ConflictOverruled
            | SessionEvent::Renamed { .. }
            | SessionEvent::GivenUp
            | SessionEvent::Quarantined { .. } => {
                self.record(file, event);
            }
        }
    }

    fn looked_up(&mut self, file: FileId, found: &Found) {
        match found {
            Found::Ours(_) => {
                self.context.metrics.add(Counter::CommitsLookedUp, 1);
                self.context.kill.pass(KillPoint::AfterComplete);
                self.progressed(file);
                self.after_commit(file);
            }
            Found::Expected | Found::Absent => self.put_off(file),
            Found::Other => self.after_commit(file),
        }
    }

    /// The store has taken something: what went wrong before is over.
    fn progressed(&mut self, file: FileId) {
        let Some(job) = self.jobs.get_mut(&file) else { return };
        (job.attempts, job.is_stuck, job.retry_at) = (0, false, None);
        if let Some(handle) = &job.file {
            handle.trouble(None);
        }
    }

    /// The same again after a pause, without anything having failed.
    fn put_off(&mut self, file: FileId) {
        self.with_job(file, |job| {
            job.attempts += 1;
            job.retry_at = Some(tokio::time::Instant::now() + backoff::pause(job.attempts, None));
        });
    }

    /// No part is sent before a power failure could not make us forget the upload.
    pub(super) fn sync_beginning(&mut self, file: FileId, delay: Duration) {
        self.with_job(file, |job| job.is_held = true);
        let context = Arc::clone(&self.context);
        task::spawn("sync beginning", async move {
            tokio::time::sleep(delay).await;
            let book = Arc::clone(&context);
            let synced = task::spawn_blocking("sync", move || book.book.sync(book.book.position())).await;
            context.command(Command::BeginSynced(file, synced.unwrap_or_else(|_| Err(stopped()))));
        });
    }

    fn count_part(&mut self, file: FileId, number: PartNumber, work: &Work) {
        let Some(job) = self.jobs.get_mut(&file) else { return };
        if let EffectId::Part(_) = work.effect.id() {
            self.context.metrics.add(Counter::PartsSent, 1);
            if job.sent.insert(number, work.version).is_some() {
                self.context.metrics.add(Counter::PartsResent, 1);
            }
        }
    }

    /// Parts that were found on the server hold the present content's bytes: they were sent from it.
    fn mark_kept(&mut self, file: FileId) {
        let kept = self.context.book.upload(file, |upload| {
            upload.transfer().map(|t| t.parts.keys().copied().collect::<Vec<_>>()).unwrap_or_default()
        });
        self.with_job(file, |job| {
            if let Some((_, snapshot)) = &job.content {
                let version = snapshot.version();
                job.sent.extend(kept.unwrap_or_default().into_iter().map(|number| (number, version)));
            }
        });
    }

    fn effect_failed(&mut self, file: FileId, work: &Work, failure: Failure) {
        let (error, kind) = match failure {
            Failure::Store(error) => (error.clone(), error.kind),
            Failure::BaseGone => return self.failed(file, Error::BaseGone { key: work.key.clone() }, None),
            Failure::Local(error) => return self.failed(file, error, None),
        };
        let is_of_this_upload = self.context.book.upload(file, |upload| work.is_about(upload)) == Some(true);
        if !is_of_this_upload && kind == ErrorKind::UploadGone && !matches!(work.effect, Effect::Abort(_)) {
            return;
        }
        let rules = &self.context.rules;
        let remedy = self.context.book.upload(file, |upload| upload.failed(&work.effect, kind, rules));
        let retry_after = Scheduler::retry_after(&error);
        match remedy.unwrap_or(Remedy::Wait) {
            Remedy::Retry => self.retry(file, error, retry_after),
            Remedy::RetryAsking => {
                self.context.book.doubt_parts(file);
                self.retry(file, error, retry_after);
            }
            Remedy::Wait => self.failed(file, Error::Store(error), None),
            Remedy::Record(events) => {
                log::info!("{}: {error}", work.key);
                if let Some(handle) = self.jobs.get(&file).and_then(|job| job.file.as_ref()) {
                    handle.retrying(&error);
                }
                events.into_iter().for_each(|event| self.happened(file, work, event));
            }
            Remedy::WithdrawAsking => self.parts_refused(file, error),
        }
    }

    /// The server refuses to make an object of the parts as we list them. At first it is asked what it has, and sent what
    /// it lacks; if that is no cure, everything goes to another upload; after that only time can help.
    fn parts_refused(&mut self, file: FileId, error: crate::store::Error) {
        if !self.record(file, SessionEvent::CommitWithdrawn) {
            return;
        }
        let Some(job) = self.jobs.get_mut(&file) else { return };
        job.refusals += 1;
        match job.refusals {
            1 => {
                self.context.book.doubt_parts(file);
                self.retry(file, error, None);
            }
            2 => {
                self.record(file, SessionEvent::UploadDropped);
                self.retry(file, error, None);
            }
            _ => {
                self.context.book.doubt_parts(file);
                self.failed(file, Error::Store(error), None);
            }
        }
    }

    fn retry(&mut self, file: FileId, error: crate::store::Error, retry_after: Option<Duration>) {
        let Some(job) = self.jobs.get_mut(&file) else { return };
        self.context.metrics.add(Counter::StoreRetries, 1);
        job.attempts += 1;
        let pause = backoff::pause(job.attempts, retry_after);
        self.failed(file, Error::Store(error), Some(pause));
    }
}
