//! The one owner of all uploads: waits for whatever comes first, folds it in, starts what is wanted.
//!
//! `run` waits and everything else is synchronous. Each fact is journaled before it is acted upon. Effects run as
//! tasks, at most `requests_max` at once with at most `memory_bytes` of bodies (one body larger than that runs alone).
//!
//! Order: contents somebody waits for go first, then sealed ones, then parts of files still being written; among
//! equals the smaller goes first. Of one name, files are committed in the order in which they were opened. Of one file,
//! the newest sealed content is the one to send, unless an older one is being committed this moment.
//!
//! What cannot be reached is tried again for ever with growing pauses; what is refused is tried again now and then, and
//! at once when somebody asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::observe::{Gauge, task};
use crate::store::wrap::{RetryListener, listening_to_retries};
use crate::types::{Key, SessionId};
use crate::write::context::{Command, Context, Urgency};
use crate::write::scheduler::sender::Work;
use crate::write::status::owed_from;
use crate::write::upload::{Effect, FileId};
use crate::write::{Error, Hold, WriteFile};

mod backoff;
mod conflicts;
mod facts;
mod job;
mod results;
mod sender;

pub use backoff::pause;
pub use job::Job;
use job::{Flight, Rank, Request};
use results::Done;
pub use sender::new_token;

/// How long a file must not be synced again before a content sealed by a sync is uploaded.
const SYNCED_UPLOAD_DELAY: std::time::Duration = std::time::Duration::from_secs(2);
/// How long new attributes wait for others. Programs that keep attributes (`cp -p`, `rsync -a`, `tar`) set them at once,
/// by several calls.
const ATTRIBUTES_UPLOAD_DELAY: std::time::Duration = std::time::Duration::from_secs(1);
/// How long after a change it is noted what an unsealed file holds.
const NOTE_DELAY: std::time::Duration = std::time::Duration::from_millis(250);
/// How long after that has failed it is tried again.
const NOTE_AGAIN_DELAY: std::time::Duration = std::time::Duration::from_secs(5);

/// How long to wait for the word that the data of a file are gone.
const GONE_DELAY: std::time::Duration = std::time::Duration::from_millis(100);

/// The owner of all uploads.
pub struct Scheduler {
    context: Arc<Context>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Results of effects. Holds at most `requests_max`.
    done: mpsc::UnboundedReceiver<Done>,
    report: mpsc::UnboundedSender<Done>,
    jobs: BTreeMap<FileId, Job>,
    /// Jobs that have something to start now.
    ready: BTreeSet<(Rank, FileId)>,
    /// When jobs want to be looked at again.
    timers: BTreeSet<(Instant, FileId)>,
    /// Files with pending contents by name, in the order in which they are to be committed.
    names: BTreeMap<Key, BTreeSet<FileId>>,
    /// Effects of one session that are looked at: one more than can be in flight.
    effects_max: usize,
    in_flight: usize,
    serial: u64,
    memory: u64,
    moves: usize,
    /// Prefixes below which nothing is committed, once for each who wants that.
    frozen: Vec<String>,
    /// Those who wait, and before which session the contents are that they wait for.
    drains: Vec<(SessionId, oneshot::Sender<()>)>,
    is_checkpointing: bool,
}

impl Scheduler {
    /// A scheduler for jobs left by an earlier process.
    pub fn new(
        context: Arc<Context>,
        commands: mpsc::UnboundedReceiver<Command>,
        left: BTreeMap<FileId, Job>,
    ) -> Scheduler {
        let (report, done) = mpsc::unbounded_channel();
        let mut scheduler = Scheduler {
            effects_max: context.options.requests_max + 1,
            context,
            commands,
            done,
            report,
            jobs: left,
            ready: BTreeSet::new(),
            timers: BTreeSet::new(),
            names: BTreeMap::new(),
            in_flight: 0,
            serial: 0,
            memory: 0,
            moves: 0,
            frozen: Vec::new(),
            drains: Vec::new(),
            is_checkpointing: false,
        };
        let files: Vec<FileId> = scheduler.jobs.keys().copied().collect();
        files.iter().for_each(|file| scheduler.enter_name(*file));
        files.into_iter().for_each(|file| scheduler.touch(file));
        scheduler
    }

    /// Runs until it is shut down or nobody is left to give commands.
    pub async fn run(mut self) {
        loop {
            self.start_ready();
            self.answer_drains();
            let next_timer = self.timers.first().map(|(at, _)| *at);
            let timer = async {
                match next_timer {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(Command::Shutdown(reply)) => return self.stop(reply).await,
                    Some(command) => self.command(command),
                    None => return,
                },
                done = self.done.recv() => {
                    let done = done.expect("the scheduler keeps a sender");
                    let file = done.file;
                    self.finished(done);
                    self.touch(file);
                }
                () = timer => self.wake(),
            }
        }
    }

    fn command(&mut self, command: Command) {
        let file = match command {
            Command::Opened(file, handle) => {
                self.jobs.insert(file, Job::new(Some(handle)));
                file
            }
            Command::Changed(file) => {
                self.with_job(file, |job| job.note_at = Some(Instant::now() + NOTE_DELAY));
                file
            }
            Command::Passed(file, passed) => {
                self.with_job(file, |job| job.passed = job.passed.max(passed));
                file
            }
            Command::Cut(file, size) => {
                self.with_job(file, |job| job.passed = job.passed.min(size));
                file
            }
            Command::Sealed { file, session, snapshot, urgency } => {
                self.with_job(file, |job| {
                    let is_first = job.content.is_none() && job.next.is_none();
                    job.next = Some((session, snapshot));
                    job.note_at = None;
                    (job.not_before, job.lingers) = match urgency {
                        Urgency::Now => (None, false),
                        Urgency::Later => (Some(Instant::now() + SYNCED_UPLOAD_DELAY), false),
                        Urgency::Soon if is_first => (Some(Instant::now() + ATTRIBUTES_UPLOAD_DELAY), true),
                        Urgency::Soon => (job.not_before, job.lingers),
                    };
                });
                file
            }
            Command::Wanted(file) => {
                self.with_job(file, |job| {
                    job.is_wanted = true;
                    job.retry_at = None;
                    job.not_before = None;
                });
                file
            }
            Command::Closed(file) => {
                self.with_job(file, |job| job.not_before = job.not_before.filter(|_| job.lingers));
                file
            }
            Command::Rename { file, key, expected, over, reply } => {
                self.request(file, Request::Rename { key, expected, over, reply });
                file
            }
            Command::Hold { file, reply } => {
                self.request(file, Request::Hold { reply });
                file
            }
            Command::Released(file) => {
                self.with_job(file, |job| job.holds = job.holds.saturating_sub(1));
                file
            }
            Command::GiveUp { file, by, reply } => {
                self.request(file, Request::GiveUp { by, reply });
                file
            }
            Command::Resolve { file, resolution, reply } => {
                // Whoever asked may have stopped waiting; what was decided holds.
                reply.send(self.conflict_decided(file, resolution)).ok();
                file
            }
            Command::Retry(file) => {
                self.with_job(file, |job| {
                    (job.attempts, job.is_stuck) = (0, false);
                    (job.retry_at, job.not_before) = (None, None);
                    if let Some(handle) = &job.file {
                        handle.retried();
                    }
                });
                file
            }
            Command::Verified { file, damage } => {
                self.with_job(file, |job| (job.is_held, job.damage) = (false, damage));
                file
            }
            Command::BeginSynced(file, result) => {
                self.with_job(file, |job| job.is_held = false);
                if let Err(error) = result {
                    self.begin_not_durable(file, error);
                }
                file
            }
            Command::CheckpointEnded => {
                self.is_checkpointing = false;
                return;
            }
            Command::MoveBegun => {
                self.moves += 1;
                return;
            }
            Command::MoveEnded => {
                self.moves -= 1;
                return;
            }
            Command::Freeze { prefixes } => {
                self.frozen.extend(prefixes);
                return self.touch_all();
            }
            Command::Thaw { prefixes } => {
                for prefix in prefixes {
                    if let Some(at) = self.frozen.iter().position(|frozen| *frozen == prefix) {
                        self.frozen.swap_remove(at);
                    }
                }
                return self.touch_all();
            }
            Command::Carried => return self.touch_all(),
            Command::Drained { before, reply } => {
                self.drains.push((before, reply));
                return self.hurry();
            }
            Command::Shutdown(_) => unreachable!("the loop takes it"),
        };
        self.touch(file);
    }

    /// Nothing waits for more changes any longer.
    fn hurry(&mut self) {
        let waiting = self.jobs.iter().filter(|(_, job)| job.not_before.is_some());
        let waiting: Vec<FileId> = waiting.map(|(file, _)| *file).collect();
        for file in waiting {
            self.with_job(file, |job| job.not_before = None);
            self.touch(file);
        }
    }

    fn with_job(&mut self, file: FileId, change: impl FnOnce(&mut Job)) {
        if let Some(job) = self.jobs.get_mut(&file) {
            change(job);
        }
    }

    fn request(&mut self, file: FileId, request: Request) {
        let is_known = self.context.book.upload(file, |_| ()).is_some();
        if !is_known {
            if let Request::Hold { reply } = request {
                // It was let go this moment: there is nothing that could be committed.
                reply.send(Ok(Hold::new(&self.context, file))).ok();
                return;
            }
            request.answer(Err(Error::Staging {
                errno: libc::ENOENT,
                detail: "there is no such upload".to_owned(),
            }));
            return;
        }
        // What an earlier process left and nobody has opened has no job until something is to be done.
        self.jobs.entry(file).or_insert_with(|| Job::new(None)).requests.push(request);
    }

    fn wake(&mut self) {
        let now = Instant::now();
        while let Some((at, file)) = self.timers.first().copied()
            && at <= now
        {
            self.timers.pop_first();
            self.with_job(file, |job| job.timer = None);
            self.note(file, now);
            self.touch(file);
        }
    }

    fn note(&mut self, file: FileId, now: Instant) {
        let Some(job) = self.jobs.get_mut(&file) else { return };
        if job.note_at.take_if(|at| *at <= now).is_some()
            && let Some(handle) = &job.file
            && let Err(error) = handle.note_progress()
        {
            log::warn!("What {} holds cannot be noted: {error}", handle.key());
            job.note_at = Some(now + NOTE_AGAIN_DELAY);
        }
    }

    fn touch_all(&mut self) {
        let files: Vec<FileId> = self.jobs.keys().copied().collect();
        files.into_iter().for_each(|file| self.touch(file));
    }

    fn is_frozen(&self, key: &Key) -> bool {
        self.frozen.iter().any(|prefix| key.as_str().starts_with(prefix))
    }

    /// Does what can be done at once for a job, and puts it where it belongs.
    fn touch(&mut self, file: FileId) {
        let is_frozen = self.context.book.upload(file, |upload| self.is_frozen(&upload.key));
        self.with_job(file, |job| job.is_frozen = is_frozen == Some(true));
        self.serve_requests(file);
        self.quarantine_damage(file);
        while self.local_step(file) {}
        self.enter_name(file);
        self.finish(file);
        let Some(job) = self.jobs.get_mut(&file) else { return };
        if let Some(rank) = job.rank.take() {
            self.ready.remove(&(rank, file));
        }
        if let Some(at) = job.timer.take() {
            self.timers.remove(&(at, file));
        }
        let now = Instant::now();
        let wanted = self.context.book.upload(file, |upload| {
            let effects = upload.effects(&self.context.rules, job.passed, self.effects_max);
            job.startable(effects, now).map(|_| job.rank_of(upload))
        });
        if let Some(Some(rank)) = wanted {
            job.rank = Some(rank);
            self.ready.insert((rank, file));
        }
        job.timer = job.next_timer(now);
        if let Some(at) = job.timer {
            self.timers.insert((at, file));
        }
        self.checkpoint_if_due();
    }

    fn start_ready(&mut self) {
        while self.in_flight < self.context.options.requests_max.max(1) {
            let Some((_, file)) = self.ready.first().copied() else { return };
            if !self.start_one(file) {
                return;
            }
            self.touch(file);
        }
    }

    /// Starts the first startable effect of a job. Says no when memory does not allow it now.
    fn start_one(&mut self, file: FileId) -> bool {
        let now = Instant::now();
        let context = Arc::clone(&self.context);
        let Some(job) = self.jobs.get_mut(&file) else { return true };
        let work = context.book.upload(file, |upload| {
            let effects = upload.effects(&context.rules, job.passed, self.effects_max);
            job.startable(effects, now).map(|effect| Work::new(upload, effect, &context))
        });
        let Some(Some(work)) = work else { return true };
        let Some(work) = work.with_bytes_of(job) else {
            // The file has no data any more: whoever took them is about to tell the session.
            job.retry_at = Some(now + GONE_DELAY);
            return true;
        };
        let bytes = work.bytes();
        if self.memory > 0 && self.memory + bytes > context.options.memory_bytes.0 {
            return false;
        }
        self.memory += bytes;
        self.in_flight += 1;
        self.serial += 1;
        let serial = self.serial;
        let id = work.effect.id();
        let report = self.report.clone();
        let written = job.file.as_ref().map(Arc::downgrade);
        let listener: RetryListener = Arc::new(move |error| {
            if let Some(written) = written.as_ref().and_then(Weak::upgrade) {
                written.retrying(error);
            }
        });
        let handle = task::spawn("upload", async move {
            let result = listening_to_retries(listener, work.perform(&context)).await;
            // The scheduler may have been shut down meanwhile.
            report.send(Done { file, serial, work, result }).ok();
        });
        job.flights.insert(id, Flight { serial, bytes, handle: handle.abort_handle() });
        true
    }

    /// Files of one name wait for each other; the gauge counts who waits at all.
    fn enter_name(&mut self, file: FileId) {
        let Some(job) = self.jobs.get_mut(&file) else { return };
        let is_pending =
            |upload: &crate::write::upload::Session| upload.is_pending().then(|| upload.key.clone());
        let name = self.context.book.upload(file, is_pending).flatten();
        if job.name == name {
            return;
        }
        let before = std::mem::replace(&mut job.name, name.clone());
        if let Some(name) = name {
            self.names.entry(name).or_default().insert(file);
            if before.is_none() {
                self.context.metrics.raise(Gauge::UploadsPending, 1);
            }
        } else {
            self.context.metrics.lower(Gauge::UploadsPending, 1);
        }
        let Some(before) = before else { return };
        let Some(waiting) = self.names.get_mut(&before) else { return };
        waiting.remove(&file);
        let first = waiting.first().copied();
        if waiting.is_empty() {
            self.names.remove(&before);
        }
        if let Some(first) = first {
            self.touch(first);
        }
    }

    fn is_first_of_name(&self, file: FileId) -> bool {
        let name = self.jobs.get(&file).and_then(|job| job.name.as_ref());
        name.and_then(|name| self.names.get(name))
            .and_then(BTreeSet::first)
            .is_none_or(|first| *first == file)
    }

    fn answer_drains(&mut self) {
        self.drains.retain(|(_, reply)| !reply.is_closed());
        if self.drains.is_empty() || self.moves > 0 {
            return;
        }
        let drains = std::mem::take(&mut self.drains);
        for (before, reply) in drains {
            if self.can_any_go_on(before) {
                self.drains.push((before, reply));
            } else {
                // Whoever asked may have stopped waiting.
                reply.send(()).unwrap_or_default();
            }
        }
    }

    /// Whether there is anything to be done about contents sealed before a session.
    fn can_any_go_on(&self, before: SessionId) -> bool {
        let mut pending = self.names.values().flatten();
        pending.any(|file| {
            let can_go_on = self.jobs.get(file).is_some_and(|job| !job.is_stuck);
            let opened =
                || self.context.book.look(|ledger| ledger.files.get(file).map(|entry| entry.session));
            can_go_on && opened().is_some_and(|opened| owed_from(&self.context, *file, opened) < before)
        })
    }

    fn checkpoint_if_due(&mut self) {
        if self.is_checkpointing || !self.context.book.wants_checkpoint() {
            return;
        }
        self.is_checkpointing = true;
        let context = Arc::clone(&self.context);
        task::spawn_blocking("checkpoint", move || {
            if let Err(error) = context.book.checkpoint() {
                log::warn!("The journal cannot be shortened: {error}");
            }
            context.command(Command::CheckpointEnded);
        });
    }

    async fn stop(self, reply: oneshot::Sender<()>) {
        for flight in self.jobs.values().flat_map(|job| job.flights.values()) {
            flight.handle.abort();
        }
        let context = Arc::clone(&self.context);
        let synced = task::spawn_blocking("sync", move || context.book.checkpoint());
        match synced.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => log::error!("The journal cannot be synced at the end: {error}"),
            Err(error) => log::error!("The journal was not synced at the end: {error}"),
        }
        // Whoever asked may have stopped waiting.
        reply.send(()).ok();
    }
}

/// A handle's file, for jobs that have one.
fn name_of(file: Option<&Arc<WriteFile>>) -> String {
    file.map_or_else(|| "an upload of an earlier mount".to_owned(), |file| file.key().to_string())
}

/// Whether an effect is done without the store.
fn is_local(effect: &Effect) -> bool {
    effect.id() == crate::write::upload::EffectId::Local
}
