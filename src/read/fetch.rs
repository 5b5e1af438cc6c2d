//! One ranged GET, as often as it takes: pinned to one version, resumed where it broke, handed on chunk by chunk.
//!
//! Every byte that arrives is kept: a broken body is followed by a request for what is missing, from the last good byte
//! on, also in the middle of a chunk. Only after damaged bytes (`Integrity`) the chunk in progress begins anew.
//! A chunk goes to its waiters first and to the disk cache then.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::{Instant, timeout};

use crate::cache::CachedObject;
use crate::observe::{Counter, task};
use crate::read::budget::{Coming, Slot};
use crate::read::flight::{Flight, Place};
use crate::read::keeper::{Keeper, TOGETHER_WITHIN};
use crate::read::pace::{BodySample, Stopwatch};
use crate::read::patience::{Patience, Verdict};
use crate::read::plan::Grid;
use crate::read::whole::{self, Asked, Mismatch, WholeCheck};
use crate::read::{Error, Shared};
use crate::store::{self, Body, ErrorKind, GetOptions, Op};
use crate::types::{ByteRange, Crc64, ObjectId};

/// A failure that may be over at the next try.
const LATER: ErrorKind = ErrorKind::Unavailable { retry_after: None };

/// The bytes of one version of one object, as fetches and streams share them.
#[derive(Clone)]
pub(crate) struct Source {
    pub shared: Arc<Shared>,
    pub id: Arc<ObjectId>,
    /// The object's number in the table.
    pub number: u64,
    pub grid: Grid,
    pub cached: Option<Arc<CachedObject>>,
}

/// A fetch of chunks that the table has as being fetched. However it ends, they are not being fetched any more then.
struct Fetch {
    source: Source,
    flight: Arc<Flight>,
    /// Held until the last byte has come.
    slot: Option<Slot>,
    /// Next byte wanted from the store.
    at: u64,
    /// The chunk in progress, up to `at`.
    partial: Vec<u8>,
    /// Chunks up to here have been handed on. Between this and the chunk in progress are those held back by `check`.
    handed_to: u64,
    check: WholeCheck,
    keeper: Keeper,
}

/// An answer that is coming. How it came is noted when it is dropped.
struct Answer {
    shared: Arc<Shared>,
    body: Body,
    watch: Stopwatch,
    coming: Coming,
}

/// What the next step towards more bytes has brought.
enum Step {
    /// An answer, the checksum it tells of the whole object, and how it was asked for.
    Opened(Answer, Option<Crc64>, Asked),
    Bytes(Bytes),
    /// Nothing has come for longer than what came before should wait to be written.
    Quiet,
    Failed(store::Error),
}

/// Starts a flight that has just begun; with a slot, if nobody waits for it.
pub(crate) fn start(source: Source, flight: Arc<Flight>, slot: Option<Slot>) {
    let runtime = source.shared.runtime.clone();
    let (start, check) = (flight.range.start, WholeCheck::new(flight.range, source.id.size));
    let partial = Vec::new();
    let keeper = Keeper::new(source.clone());
    let fetch = Fetch { at: start, source, flight, slot, partial, handed_to: start, check, keeper };
    task::spawn_on(&runtime, "fetch", fetch.run());
}

impl Fetch {
    async fn run(mut self) {
        self.fetch().await;
        // Also when nobody wants the rest: what has come need not come again.
        self.keeper.finish().await;
    }

    async fn fetch(&mut self) {
        let options = &self.source.shared.options;
        let mut patience = Patience::new(options.read_timeout, options.stall_timeout, Instant::now());
        let mut answer = None;
        while self.at < self.flight.range.end {
            let was_open = answer.is_some();
            if !was_open {
                self.keeper.go_on().await;
            }
            let Some(step) = self.step_unless_unwanted(&mut answer, &patience).await else {
                return;
            };
            let step = match step {
                Step::Bytes(bytes) => {
                    let arrived = Instant::now();
                    patience.on_bytes(bytes.len() as u64, arrived);
                    let refuted = self.take(bytes).await.err();
                    self.flight.set_left(self.flight.range.end - self.at);
                    let taken = Instant::now();
                    patience.excuse(taken - arrived);
                    if let Some(answer) = &mut answer {
                        answer.watch.go_on(taken);
                    }
                    refuted
                }
                Step::Opened(opened, crc, asked) => {
                    self.check.hear(crc, asked);
                    patience.on_body(Instant::now());
                    answer = Some(opened);
                    continue;
                }
                Step::Quiet => {
                    let quiet = Instant::now();
                    self.keeper.go_on().await;
                    patience.excuse(quiet.elapsed());
                    continue;
                }
                Step::Failed(error) => Some(error),
            };
            match step {
                None => {
                    // The news that nobody is interested may have come while somebody still waited.
                    if !self.flight.is_wanted() && self.is_worth_ending() && self.cancel() {
                        return;
                    }
                }
                Some(error) => {
                    answer = None;
                    // Whatever comes of this, they have come, and need not come again.
                    for (chunk, complete) in self.check.release() {
                        self.hand_on(chunk, complete).await;
                    }
                    if error.kind == ErrorKind::Integrity {
                        self.at -= self.partial.len() as u64;
                        self.partial.clear();
                    }
                    log::debug!("Fetch of {} broke at byte {}: {error}", self.source.id.key, self.at);
                    match patience.on_failure(&self.source.id, error, Instant::now()) {
                        Verdict::GoOn(wait) => {
                            if was_open {
                                self.source.shared.metrics.add(Counter::FetchesResumed, 1);
                            }
                            if self.is_unwanted_while(wait).await {
                                return;
                            }
                        }
                        Verdict::GiveUp(error) => {
                            self.give_up(&error).await;
                            return;
                        }
                    }
                }
            }
        }
        // The flight is over for those who wait to start the next one; the last chunk may still go to disk.
        drop(answer);
        self.slot = None;
        self.flight.end();
        self.keeper.finish().await;
        if let Some(cached) = &self.source.cached {
            whole::judge(&self.source.shared, &self.source.id, cached, self.check.told()).await;
        }
    }

    /// The next step, or `None` when nobody wants the rest any more.
    async fn step_unless_unwanted(&self, answer: &mut Option<Answer>, patience: &Patience) -> Option<Step> {
        let step = self.step(answer, patience);
        tokio::pin!(step);
        loop {
            tokio::select! {
                biased;
                () = self.flight.unwanted() => if self.is_worth_ending() && self.cancel() { return None },
                step = &mut step => return Some(step),
            }
        }
    }

    async fn is_unwanted_while(&self, wait: Duration) -> bool {
        if !self.flight.is_wanted() && self.cancel() {
            return true;
        }
        let sleep = tokio::time::sleep(wait);
        tokio::pin!(sleep);
        loop {
            tokio::select! {
                biased;
                () = self.flight.unwanted() => if self.cancel() { return true },
                () = &mut sleep => return false,
            }
        }
    }

    async fn step(&self, answer: &mut Option<Answer>, patience: &Patience) -> Step {
        let now = Instant::now();
        let step = match answer {
            None => timeout(patience.left(now), self.open()).await,
            Some(answer) => {
                let left = patience.left_for_bytes(now);
                let wait = if self.keeper.is_waiting() { left.min(TOGETHER_WITHIN) } else { left };
                match timeout(wait, self.next_bytes(answer)).await {
                    Err(_) if wait < left => return Step::Quiet,
                    step => step,
                }
            }
        };
        step.unwrap_or_else(|_| {
            Step::Failed(self.error(LATER, "the server sends nothing, or next to nothing"))
        })
    }

    async fn open(&self) -> Step {
        let Source { shared, id, .. } = &self.source;
        let watch = Stopwatch::start(Instant::now());
        let wanted = ByteRange::new(self.at, self.flight.range.end);
        let asked = if self.check.asks_for_all(self.at) { Asked::ForAll } else { Asked::ForRange };
        let get = GetOptions {
            range: match asked {
                Asked::ForAll => None,
                Asked::ForRange => Some(wanted),
            },
            // A weak etag can be compared, but not be asked for.
            if_match: (!id.etag.is_weak()).then(|| id.etag.clone()),
        };
        match shared.store.get(&id.key, get).await {
            Err(error) => Step::Failed(error),
            // A whole answer of the right version that announces fewer bytes is one that ends early, in order.
            Ok(answer)
                if answer.meta.id.etag != id.etag
                    || answer.meta.id.size > id.size
                    || (answer.meta.id.size < id.size && asked == Asked::ForRange) =>
            {
                Step::Failed(self.error(ErrorKind::Precondition, "another version is there"))
            }
            Ok(answer) if answer.range.start != wanted.start || !wanted.contains(answer.range) => {
                let detail = format!("asked for bytes {wanted:?}, the answer has {:?}", answer.range);
                Step::Failed(self.error(ErrorKind::Protocol, &detail))
            }
            Ok(answer) => {
                let (coming, crc) = (shared.load.body(), answer.meta.crc64);
                self.flight.tell(answer.meta);
                let opened = Answer { shared: shared.clone(), body: answer.body, watch, coming };
                Step::Opened(opened, crc, asked)
            }
        }
    }

    async fn next_bytes(&self, answer: &mut Answer) -> Step {
        match answer.body.next().await {
            Some(Ok(bytes)) => {
                if let Some(first) = answer.watch.on_bytes(bytes.len() as u64, Instant::now()) {
                    self.source.shared.pace().on_first_byte(first);
                }
                Step::Bytes(bytes)
            }
            Some(Err(error)) => Step::Failed(error),
            None => Step::Failed(self.error(LATER, "the answer ended early")),
        }
    }

    /// Takes bytes in, and hands on each chunk that they complete.
    async fn take(&mut self, mut bytes: Bytes) -> Result<(), store::Error> {
        // More than was asked for is of no use.
        bytes.truncate((self.flight.range.end - self.at).min(bytes.len() as u64) as usize);
        while !bytes.is_empty() {
            let chunk = self.source.grid.chunk_of(self.at);
            let whole = self.source.grid.range_of(chunk);
            if self.partial.capacity() == 0 {
                self.partial.reserve_exact(whole.len() as usize);
            }
            let piece = bytes.split_to(((whole.end - self.at) as usize).min(bytes.len()));
            self.partial.extend_from_slice(&piece);
            self.at += piece.len() as u64;
            if self.at == whole.end {
                let complete = Bytes::from(std::mem::take(&mut self.partial));
                match self.check.take(chunk, whole, complete) {
                    Ok(ready) => {
                        for (chunk, complete) in ready {
                            self.hand_on(chunk, complete).await;
                        }
                    }
                    Err(Mismatch) => {
                        self.at = self.handed_to;
                        let detail = "the bytes that came do not have the checksum that the store tells";
                        return Err(self.error(ErrorKind::Integrity, detail));
                    }
                }
            }
        }
        Ok(())
    }

    async fn hand_on(&mut self, chunk: u64, bytes: Bytes) {
        let place = Place { object: self.source.number, chunk };
        self.handed_to = self.source.grid.range_of(chunk).end;
        let waiters = self.source.shared.table().arrive(place, bytes.clone());
        for waiter in waiters {
            // A waiter that has gone away does not need its answer.
            let _ = waiter.send(Ok(bytes.clone()));
        }
        // What has arrived can be evicted, if somebody needs the room.
        self.source.shared.freed.notify_waiters();
        self.keeper.keep(chunk, bytes).await;
    }

    /// Whether ending the fetch saves more than it costs: with a body that is cut off goes its connection, and what was on
    /// its way has to come again when it is wanted after all.
    fn is_worth_ending(&self) -> bool {
        self.rest().len() > self.source.grid.chunk_bytes
    }

    /// Ends the fetch if nobody wants the rest any more.
    fn cancel(&self) -> bool {
        let rest = self.rest();
        self.source.shared.table().cancel(self.source.number, self.source.grid, &self.flight, rest)
    }

    /// Tells everyone who still waits.
    async fn give_up(&mut self, error: &Error) {
        self.flight.end();
        self.keeper.finish().await;
        if self.check.is_refuted() {
            whole::distrust(&self.source.shared, &self.source.id, self.source.cached.as_ref()).await;
        }
        let waiters =
            self.source.shared.table().fail(self.source.number, self.source.grid, &self.flight, self.rest());
        for waiter in waiters {
            let _ = waiter.send(Err(error.clone()));
        }
    }

    /// The chunks that have not been handed on.
    fn rest(&self) -> ByteRange {
        ByteRange::new(self.handed_to, self.flight.range.end)
    }

    fn error(&self, kind: ErrorKind, detail: &str) -> store::Error {
        store::Error::on(Op::Get, &self.source.id.key, kind, detail)
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let (bytes, waited) = self.watch.come();
        let bodies = self.coming.bodies();
        self.shared.pace().on_body(BodySample { bytes, waited, bodies });
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.flight.end();
        // Waiters of a fetch that was cut off by a panic or the runtime's end learn it by their channel's.
        let waiters =
            self.source.shared.table().fail(self.source.number, self.source.grid, &self.flight, self.rest());
        drop(waiters);
        self.source.shared.freed.notify_waiters();
    }
}
