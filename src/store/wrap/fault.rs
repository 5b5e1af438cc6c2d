//! Faults by script and a recording of all calls, for tests of whatever uses a store.
//!
//! A [`Rule`] says on which calls something goes wrong and what. Of the rules that fire on a call the first added acts.
//! Every call is recorded, also those that fail.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use crate::store::{
    Body, Capabilities, Completion, CopyOptions, DeleteOptions, Error, ErrorKind, Fetched, GetOptions,
    ListOptions, ListPage, ObjectStore, Op, PartReceipt, PartSlot, PutOptions, Result, Upload, UploadOptions,
    UploadStatus,
};
use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// The request fails without having been applied; a `delete_many` under a rule for certain keys fails for these keys.
    FailBefore(ErrorKind),
    /// The request is applied and its answer is lost.
    FailAfter(ErrorKind),
    /// The connection breaks after this many bytes of the body: a `get` yields them and an error, a `put` or `put_part`
    /// is not applied. Has no effect on other operations, or when the body is shorter.
    ShortBody {
        /// Bytes that come through.
        bytes: u64,
    },
    /// No more bytes come after this many of a `get`'s body. Has no effect on other operations, or when the body is shorter.
    StallBody {
        /// Bytes that come through.
        bytes: u64,
    },
    /// The answer never comes; the request is not applied.
    Stall,
    /// One bit of a body (fetched or sent) is turned. Has no effect when the body is shorter.
    FlipByte {
        /// The byte's place in the body.
        at: u64,
    },
    /// The request waits before it is sent.
    Delay(Duration),
}

/// Which keys a rule is about. A listing goes by its prefix, `delete_many` by any of its keys, `copy` by its target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyPattern {
    /// All.
    Any,
    /// This one.
    Is(String),
    /// Those that begin so.
    StartsWith(String),
    /// Those that end so.
    EndsWith(String),
}

impl KeyPattern {
    fn matches(&self, key: &str) -> bool {
        match self {
            KeyPattern::Any => true,
            KeyPattern::Is(whole) => key == whole,
            KeyPattern::StartsWith(start) => key.starts_with(start),
            KeyPattern::EndsWith(end) => key.ends_with(end),
        }
    }
}

/// On which of the matching calls a rule fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Each.
    Always,
    /// This one only, counted from 1.
    Nth(u64),
    /// This many from the first.
    First(u64),
    /// This share of them, the same ones for the same seed.
    Chance {
        /// Of a hundred.
        percent: u8,
        /// Seed of the choice.
        seed: u64,
    },
}

/// One line of the script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The operation; all when `None`.
    pub op: Option<Op>,
    /// The keys.
    pub key: KeyPattern,
    /// Which of the calls.
    pub when: When,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// A rule for every call of an operation.
    pub fn on(op: Op, action: Action) -> Rule {
        Rule { op: Some(op), key: KeyPattern::Any, when: When::Always, action }
    }

    /// The rule, for these keys only.
    pub fn key(self, key: KeyPattern) -> Rule {
        Rule { key, ..self }
    }

    /// The rule, for these calls only.
    pub fn when(self, when: When) -> Rule {
        Rule { when, ..self }
    }
}

/// A recorded call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// The operation.
    pub op: Op,
    /// The object's key (a copy's target); the prefix of a `list`; the keys of a `delete_many`, one a line.
    pub key: String,
    /// The range of a `get`, as asked for; the slot of a `put_part`; the source's range of a `copy_part`.
    pub range: Option<ByteRange>,
    /// Bytes of the body: sent by a `put` or `put_part`, yielded so far by a `get`.
    pub bytes: u64,
}

/// A store whose calls are recorded and fail by script.
#[derive(Debug)]
pub struct FaultStore {
    inner: Arc<dyn ObjectStore>,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    script: Vec<Line>,
}

/// A rule and how far it has come.
#[derive(Debug)]
struct Line {
    rule: Rule,
    matched: u64,
    random: fastrand::Rng,
}

impl Line {
    /// Takes note of a call, and says whether the rule fires on it.
    fn fires(&mut self, call: &Call) -> bool {
        let is_op = self.rule.op.is_none_or(|op| op == call.op);
        let is_key = match call.op {
            Op::DeleteMany => call.key.lines().any(|key| self.rule.key.matches(key)),
            Op::Head
            | Op::Get
            | Op::List
            | Op::Put
            | Op::Copy
            | Op::Delete
            | Op::BeginUpload
            | Op::UploadStatus
            | Op::PutPart
            | Op::CopyPart
            | Op::CompleteUpload
            | Op::AbortUpload
            | Op::Probe => self.rule.key.matches(&call.key),
        };
        if !is_op || !is_key {
            return false;
        }
        self.matched += 1;
        match self.rule.when {
            When::Always => true,
            When::Nth(nth) => self.matched == nth,
            When::First(count) => self.matched <= count,
            When::Chance { percent, seed: _ } => self.random.u8(0..100) < percent,
        }
    }
}

impl FaultStore {
    /// Puts a script, still empty, and a recording around a store.
    pub fn new(inner: Arc<dyn ObjectStore>) -> FaultStore {
        FaultStore { inner, book: Arc::default() }
    }

    /// Adds a rule. Its calls are counted from now on.
    pub fn add(&self, rule: Rule) {
        let seed = match rule.when {
            When::Chance { percent: _, seed } => seed,
            When::Always | When::Nth(_) | When::First(_) => 0,
        };
        let line = Line { rule, matched: 0, random: fastrand::Rng::with_seed(seed) };
        open(&self.book).script.push(line);
    }

    /// Ends all faults.
    pub fn clear(&self) {
        open(&self.book).script.clear();
    }

    /// All calls so far, in order.
    pub fn calls(&self) -> Vec<Call> {
        open(&self.book).calls.clone()
    }

    /// Number of calls of an operation so far.
    pub fn count(&self, op: Op) -> usize {
        open(&self.book).calls.iter().filter(|call| call.op == op).count()
    }

    /// Bytes of all bodies of an operation so far.
    pub fn bytes(&self, op: Op) -> u64 {
        open(&self.book).calls.iter().filter(|call| call.op == op).map(|call| call.bytes).sum()
    }

    /// Begins a new recording. Bodies still open are no longer counted.
    pub fn forget_calls(&self) {
        open(&self.book).calls.clear();
    }

    /// Records a call; says its number and what is to go wrong.
    fn note(&self, call: Call) -> (usize, Option<Action>) {
        let (number, rule) = self.note_for_rule(call);
        (number, rule.map(|rule| rule.action))
    }

    fn note_for_rule(&self, call: Call) -> (usize, Option<Rule>) {
        let mut book = open(&self.book);
        let mut acting = None;
        for line in &mut book.script {
            // Every line counts the call, whether or not an earlier one acts.
            if line.fires(&call) && acting.is_none() {
                acting = Some(line.rule.clone());
            }
        }
        book.calls.push(call);
        (book.calls.len() - 1, acting)
    }

    /// Removes the keys that `pattern` spares; the others fail.
    async fn delete_spared(
        &self,
        keys: &[Key],
        pattern: &KeyPattern,
        kind: ErrorKind,
    ) -> Result<Vec<Result<()>>> {
        let spared: Vec<Key> = keys.iter().filter(|key| !pattern.matches(key.as_str())).cloned().collect();
        let mut answers = self.inner.delete_many(&spared).await?.into_iter();
        let failed = |key: &Key| injected(Op::DeleteMany, key.as_str(), kind, "injected for this key");
        Ok(keys
            .iter()
            .map(|key| match pattern.matches(key.as_str()) {
                true => Err(failed(key)),
                false => answers.next().expect("the inner store answers for each key"),
            })
            .collect())
    }

    /// Sends a request that has no body of interest.
    async fn sent<T>(&self, op: Op, key: &str, send: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let (_, action) = self.note(Call { op, key: key.to_owned(), range: None, bytes: 0 });
        acted(op, key, action, send).await
    }
}

#[async_trait]
impl ObjectStore for FaultStore {
    fn volume(&self) -> &str {
        self.inner.volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.sent(Op::Head, key.as_str(), self.inner.head(key)).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        let call = Call { op: Op::Get, key: key.as_str().to_owned(), range: options.range, bytes: 0 };
        let (call, action) = self.note(call);
        let Fetched { meta, range, body } =
            acted(Op::Get, key.as_str(), action, self.inner.get(key, options)).await?;
        let body = FaultyBody {
            inner: body,
            key: key.clone(),
            at: 0,
            action,
            call,
            book: self.book.clone(),
            broke: false,
        };
        Ok(Fetched { meta, range, body: body.boxed() })
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        let prefix = options.prefix.clone();
        self.sent(Op::List, &prefix, self.inner.list(options)).await
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        let call = Call { op: Op::Put, key: key.as_str().to_owned(), range: None, bytes: body.len() as u64 };
        let (_, action) = self.note(call);
        let body = sent_body(Op::Put, key, action, body)?;
        acted(Op::Put, key.as_str(), action, self.inner.put(key, body, options)).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        self.sent(Op::Copy, target.as_str(), self.inner.copy(source, target, options)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.sent(Op::Delete, key.as_str(), self.inner.delete(key, options)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let lines = keys.iter().map(Key::as_str).collect::<Vec<_>>().join("\n");
        let call = Call { op: Op::DeleteMany, key: lines.clone(), range: None, bytes: 0 };
        match self.note_for_rule(call).1 {
            Some(Rule {
                key: key @ (KeyPattern::Is(_) | KeyPattern::StartsWith(_) | KeyPattern::EndsWith(_)),
                action: Action::FailBefore(kind),
                ..
            }) => self.delete_spared(keys, &key, kind).await,
            rule => {
                let action = rule.map(|rule| rule.action);
                acted(Op::DeleteMany, &lines, action, self.inner.delete_many(keys)).await
            }
        }
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        self.sent(Op::BeginUpload, key.as_str(), self.inner.begin_upload(key, options)).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        self.sent(Op::UploadStatus, upload.key.as_str(), self.inner.upload_status(upload)).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        let key = upload.key.as_str();
        let bytes = body.len() as u64;
        let call = Call { op: Op::PutPart, key: key.to_owned(), range: Some(slot.range), bytes };
        let (_, action) = self.note(call);
        let body = sent_body(Op::PutPart, &upload.key, action, body)?;
        acted(Op::PutPart, key, action, self.inner.put_part(upload, slot, body)).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        let key = upload.key.as_str();
        let (_, action) =
            self.note(Call { op: Op::CopyPart, key: key.to_owned(), range: Some(range), bytes: 0 });
        acted(Op::CopyPart, key, action, self.inner.copy_part(upload, slot, source, range)).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let send = self.inner.complete_upload(upload, parts, completion);
        self.sent(Op::CompleteUpload, upload.key.as_str(), send).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.sent(Op::AbortUpload, upload.key.as_str(), self.inner.abort_upload(upload)).await
    }
}

/// A fetched body that is counted, and damaged by an [`Action`] about bodies.
struct FaultyBody {
    inner: Body,
    key: Key,
    /// Bytes yielded so far.
    at: u64,
    action: Option<Action>,
    call: usize,
    book: Arc<Mutex<Book>>,
    broke: bool,
}

impl Stream for FaultyBody {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if self.broke {
            return Poll::Ready(None);
        }
        let mut next = ready!(self.inner.poll_next_unpin(context));
        let Some(Ok(bytes)) = &mut next else {
            return Poll::Ready(next);
        };
        match self.action {
            Some(Action::ShortBody { bytes: allowed }) => {
                bytes.truncate((allowed - self.at) as usize);
                if bytes.is_empty() {
                    self.broke = true;
                    return Poll::Ready(Some(Err(broken(Op::Get, &self.key))));
                }
            }
            Some(Action::StallBody { bytes: allowed }) => {
                bytes.truncate((allowed - self.at) as usize);
                if bytes.is_empty() {
                    // Nobody will wake this task: that is what a stall is.
                    return Poll::Pending;
                }
            }
            Some(Action::FlipByte { at }) if at >= self.at => *bytes = flipped(bytes, at - self.at),
            Some(
                Action::FlipByte { .. }
                | Action::FailBefore(_)
                | Action::FailAfter(_)
                | Action::Stall
                | Action::Delay(_),
            )
            | None => {}
        }
        let len = bytes.len() as u64;
        self.at += len;
        if let Some(call) = open(&self.book).calls.get_mut(self.call) {
            call.bytes += len;
        }
        Poll::Ready(next)
    }
}

fn open(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    // A panic of another test task leaves whole lines behind.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets a request run as the action wills. What actions do to bodies is done elsewhere.
async fn acted<T>(
    op: Op,
    key: &str,
    action: Option<Action>,
    send: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    match action {
        Some(Action::FailBefore(kind)) => Err(injected(op, key, kind, "injected before the request")),
        Some(Action::FailAfter(kind)) => {
            // Whatever the answer was, it is lost.
            let _lost = send.await;
            Err(injected(op, key, kind, "injected after the request"))
        }
        Some(Action::Stall) => std::future::pending().await,
        Some(Action::Delay(delay)) => {
            tokio::time::sleep(delay).await;
            send.await
        }
        Some(Action::ShortBody { .. } | Action::StallBody { .. } | Action::FlipByte { .. }) | None => {
            send.await
        }
    }
}

/// The body as it arrives at the store.
fn sent_body(op: Op, key: &Key, action: Option<Action>, body: Bytes) -> Result<Bytes> {
    match action {
        Some(Action::ShortBody { bytes }) if bytes < body.len() as u64 => Err(broken(op, key)),
        Some(Action::FlipByte { at }) => Ok(flipped(&body, at)),
        Some(
            Action::ShortBody { .. }
            | Action::StallBody { .. }
            | Action::FailBefore(_)
            | Action::FailAfter(_)
            | Action::Stall
            | Action::Delay(_),
        )
        | None => Ok(body),
    }
}

fn flipped(bytes: &Bytes, at: u64) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(byte) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
        *byte ^= 1;
    }
    Bytes::from(bytes)
}

fn broken(op: Op, key: &Key) -> Error {
    Error::on(op, key, ErrorKind::Unavailable { retry_after: None }, "injected: the connection broke")
}

fn injected(op: Op, key: &str, kind: ErrorKind, detail: &str) -> Error {
    Error { op, kind, key: Key::new(key).ok(), detail: detail.to_owned() }
}
