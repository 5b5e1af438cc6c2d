//! Moving an object to another key, and replacing its attributes: copies on the server, whose lost answers are looked up.
//!
//! A move is intended, copied, done; each step is journaled before the next, and the intention is on stable storage
//! before the copy is asked for. The source is pinned to its version throughout: what another writer puts in its place
//! is neither copied nor removed.
//!
//! A move that a process died in was never answered. The next process finishes it if the copy was made, and gives it up if
//! it was not: programs that run by then know the names as they are, and none may get another content by itself.

pub mod tree;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::observe::task;
use crate::store::{CopyOptions, DeleteOptions, ErrorKind, MetadataDirective, Op, Precondition};
use crate::types::{Attributes, ETag, Key, ObjectId, ObjectMeta};
use crate::write::context::book::BookError;
use crate::write::context::killpoint::KillPoint;
use crate::write::context::{Command, Context, GiveUpBy};
use crate::write::file::stopped;
use crate::write::scheduler::{new_token, pause};
use crate::write::upload::{Move, MoveState, Record};
use crate::write::{Error, Event};

type Answer = oneshot::Sender<Result<ObjectMeta, Error>>;

/// Moves an object. The move goes on when nobody waits for it any more.
pub async fn rename(context: &Arc<Context>, plan: Move) -> Result<ObjectMeta, Error> {
    let id = context.book.next_id();
    let Move { source, target, replaces, over, state: _ } = plan;
    let position = context.book.record(&Record::MoveIntended { id, source, target, replaces, over })?;
    let synced = Arc::clone(context);
    let synced = task::spawn_blocking("sync", move || synced.book.sync(position)).await;
    if let Err(error) = synced.map_err(|_| stopped()).and_then(|result| result) {
        done(context, id);
        return Err(error);
    }
    context.kill.pass(KillPoint::AfterRenameIntent);
    let (answer, answered) = oneshot::channel();
    let deadline = Instant::now() + context.options.close_timeout;
    let waiting = Some((answer, deadline));
    start(context, id, Mover { is_left: false, is_in_doubt: false, attempts: 0, waiting, giving_up: None });
    answered.await.map_err(|_| stopped())?
}

/// Goes on with the moves that an earlier process left. Each ends when it is finished or given up.
pub fn finish_moves(context: &Arc<Context>) -> Vec<JoinHandle<()>> {
    let left: Vec<u64> = context.book.look(|ledger| ledger.moves.keys().copied().collect());
    let mover = || Mover { is_left: true, is_in_doubt: true, attempts: 0, waiting: None, giving_up: None };
    left.into_iter().map(|id| start(context, id, mover())).collect()
}

fn start(context: &Arc<Context>, id: u64, mover: Mover) -> JoinHandle<()> {
    context.command(Command::MoveBegun);
    let context = Arc::clone(context);
    task::spawn("move", async move {
        // After a shutdown the next mount goes on.
        tokio::select! {
            () = mover.run(&context, id) => {}
            () = context.commands.closed() => {}
        }
        context.command(Command::MoveEnded);
    })
}

/// One move under way.
struct Mover {
    /// Whether it was begun by an earlier process.
    is_left: bool,
    /// Whether a copy may have been made that we do not know of.
    is_in_doubt: bool,
    attempts: u32,
    waiting: Option<(Answer, Instant)>,
    /// The file that has lost its name to the copy, where nobody waits who sees to it.
    giving_up: Option<JoinHandle<()>>,
}

/// What came of an attempt.
enum Attempt {
    Done,
    Copied(ObjectMeta),
    /// Again, after a pause.
    Again(crate::store::Error),
    /// An earlier process died before it was begun.
    NotBegun,
    /// It cannot be done.
    Failed(Error),
}

impl Mover {
    async fn run(mut self, context: &Arc<Context>, id: u64) {
        while let Some(plan) = context.book.look(|ledger| ledger.moves.get(&id).cloned()) {
            let attempt = match &plan.state {
                MoveState::Intended => self.copy(context, &plan).await,
                MoveState::Copied(_) => remove_source(context, &plan).await,
            };
            match attempt {
                Attempt::Copied(object) => {
                    context.kill.pass(KillPoint::AfterRenameCopyBeforeJournal);
                    self.attempts = 0;
                    match context.book.record(&Record::MoveCopied { id, object: Box::new(object) }) {
                        Ok(_) => {
                            context.kill.pass(KillPoint::AfterRenameCopy);
                            if self.waiting.is_none() {
                                self.giving_up = give_up_replaced(context, &plan);
                            }
                        }
                        Err(error) => self.not_written(error).await,
                    }
                }
                Attempt::Done => {
                    context.kill.pass(KillPoint::AfterRenameDelete);
                    done(context, id);
                    self.answer(outcome(&plan));
                    if let Some(giving_up) = self.giving_up {
                        // Its own failure is logged where it happens.
                        giving_up.await.ok();
                    }
                    return;
                }
                Attempt::NotBegun => {
                    log::info!("{} keeps its name: the last mount died before it was moved", plan.source.key);
                    done(context, id);
                    return;
                }
                Attempt::Failed(error) => {
                    log::warn!("{} was not moved to {}: {error}", plan.source.key, plan.target);
                    done(context, id);
                    self.answer(Err(error));
                    return;
                }
                Attempt::Again(error) => {
                    if self.put_off(context, id, &plan, error).await {
                        return;
                    }
                }
            }
        }
    }

    async fn copy(&mut self, context: &Context, plan: &Move) -> Attempt {
        if self.is_in_doubt {
            match look(context, plan).await {
                Looked::Copied(object) => return Attempt::Copied(object),
                Looked::NotCopied if self.is_left => return Attempt::NotBegun,
                Looked::NotCopied => self.is_in_doubt = false,
                Looked::Conflict => return Attempt::Failed(conflict(&plan.target)),
                Looked::SourceGone(error) => return Attempt::Failed(Error::Store(error)),
                Looked::Unknown(error) => return Attempt::Again(error),
            }
        }
        let options = CopyOptions { precondition: plan.replaces.clone(), ..CopyOptions::default() };
        let error = match context.store.copy(&plan.source, &plan.target, options).await {
            Ok(object) => return Attempt::Copied(object),
            Err(error) => error,
        };
        match error.kind {
            ErrorKind::Unavailable { .. } | ErrorKind::Integrity => Attempt::Again(error),
            ErrorKind::Ambiguous | ErrorKind::Protocol | ErrorKind::Precondition | ErrorKind::NotFound => {
                self.is_in_doubt = true;
                Attempt::Again(error)
            }
            ErrorKind::NoVolume
            | ErrorKind::UploadGone
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Unsupported => Attempt::Failed(Error::Store(error)),
        }
    }

    /// Waits a little. Says whether the move ends here, for its time is over and nothing of it has happened.
    async fn put_off(
        &mut self,
        context: &Arc<Context>,
        id: u64,
        plan: &Move,
        error: crate::store::Error,
    ) -> bool {
        let is_over = self.waiting.as_ref().is_some_and(|(_, deadline)| *deadline <= Instant::now());
        if is_over {
            let timeout = Error::Timeout { waited: context.options.close_timeout, reason: error.to_string() };
            match &plan.state {
                MoveState::Copied(_) => self.answer(outcome(plan)),
                MoveState::Intended if self.is_in_doubt => self.answer(Err(timeout)),
                MoveState::Intended => {
                    done(context, id);
                    self.answer(Err(timeout));
                    return true;
                }
            }
        }
        self.attempts += 1;
        // The first look follows at once: most doubts are resolved by it.
        let is_first_look = self.is_in_doubt && self.attempts == 1;
        let wait = if is_first_look { Duration::ZERO } else { pause(self.attempts, None) };
        let deadline = self.waiting.as_ref().map(|(_, deadline)| *deadline);
        let until = Instant::now() + wait;
        tokio::time::sleep_until(deadline.map_or(until, |deadline| until.min(deadline.max(Instant::now()))))
            .await;
        false
    }

    async fn not_written(&mut self, error: BookError) {
        log::warn!("A move cannot be noted: {}", Error::from(error));
        self.is_in_doubt = true;
        self.attempts += 1;
        tokio::time::sleep(pause(self.attempts, None)).await;
    }

    fn answer(&mut self, result: Result<ObjectMeta, Error>) {
        if let Some((answer, _)) = self.waiting.take() {
            // Whoever asked may have stopped waiting.
            answer.send(result).ok();
        }
    }
}

/// An earlier process died in the move, so that this one shows what it has replaced: that ends now.
fn give_up_replaced(context: &Arc<Context>, plan: &Move) -> Option<JoinHandle<()>> {
    let (id, file) = plan.over.and_then(|id| Some((id, context.file(id)?)))?;
    let (reply, given_up) = oneshot::channel();
    context.event(Event::Replaced { key: plan.target.clone(), file: Arc::clone(&file) });
    context.command(Command::GiveUp { file: id, by: GiveUpBy::Removal, reply });
    // The journal has given it up already; what is left is to let go of its data.
    Some(task::spawn("give up", async move {
        if let Ok(Err(error)) = given_up.await {
            log::warn!("What a finished rename has replaced is kept: {error}");
        }
    }))
}

/// Takes a move out of the journal.
fn done(context: &Context, id: u64) {
    if let Err(error) = context.book.record(&Record::MoveDone { id }) {
        // The next mount sees that there is nothing left to do.
        log::warn!("The end of a move cannot be noted: {}", Error::from(error));
    }
}

fn outcome(plan: &Move) -> Result<ObjectMeta, Error> {
    match &plan.state {
        MoveState::Copied(object) => Ok(ObjectMeta::clone(object)),
        MoveState::Intended => Err(stopped()),
    }
}

/// What the keys of a move show.
enum Looked {
    Copied(ObjectMeta),
    NotCopied,
    Conflict,
    SourceGone(crate::store::Error),
    Unknown(crate::store::Error),
}

async fn look(context: &Context, plan: &Move) -> Looked {
    let there = match head(context, &plan.target).await {
        Ok(there) => there,
        Err(error) => return Looked::Unknown(error),
    };
    let source = match head(context, &plan.source.key).await {
        Ok(source) => source.filter(|source| source.id.etag == plan.source.etag),
        Err(error) => return Looked::Unknown(error),
    };
    if let Some(there) = &there
        && plan.target != plan.source.key
        && source.as_ref().map_or(there.id.etag == plan.source.etag, |source| is_copy(there, source))
    {
        return Looked::Copied(there.clone());
    }
    let holds = match (&plan.replaces, &there) {
        (Precondition::None, _) | (Precondition::Absent, None) => true,
        (Precondition::Absent, Some(_)) | (Precondition::Matches(_), None) => false,
        (Precondition::Matches(etag), Some(there)) => *etag == there.id.etag,
    };
    match (holds, source) {
        (false, _) => Looked::Conflict,
        (true, Some(_)) => Looked::NotCopied,
        (true, None) => Looked::SourceGone(crate::store::Error::on(
            Op::Copy,
            &plan.source.key,
            ErrorKind::NotFound,
            "it was removed or replaced by another writer",
        )),
    }
}

/// Whether one object was made by copying another: there is no token of a copy, but its marks are the source's.
fn is_copy(there: &ObjectMeta, source: &ObjectMeta) -> bool {
    let same_mark = there.token.is_some() && there.token == source.token
        || there.crc64.is_some() && there.crc64 == source.crc64
        || there.id.etag == source.id.etag;
    let agree = match (&there.attributes, &source.attributes) {
        (Some(there), Some(source)) => there.agree_with(source),
        (None, None) => true,
        (None, Some(_)) | (Some(_), None) => false,
    };
    there.id.size == source.id.size && same_mark && agree
}

async fn head(context: &Context, key: &Key) -> Result<Option<ObjectMeta>, crate::store::Error> {
    match context.store.head(key).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn remove_source(context: &Context, plan: &Move) -> Attempt {
    let options = DeleteOptions { if_match: Some(plan.source.etag.clone()) };
    let error = match context.store.delete(&plan.source.key, options).await {
        Ok(()) => return Attempt::Done,
        Err(error) => error,
    };
    match error.kind {
        // Gone already, by us or by others; or another writer's version, which is not ours to remove.
        ErrorKind::NotFound | ErrorKind::Precondition => Attempt::Done,
        ErrorKind::Unavailable { .. } | ErrorKind::Integrity | ErrorKind::Ambiguous | ErrorKind::Protocol => {
            Attempt::Again(error)
        }
        ErrorKind::NoVolume
        | ErrorKind::UploadGone
        | ErrorKind::Denied
        | ErrorKind::TooLarge
        | ErrorKind::Refused
        | ErrorKind::Unsupported => Attempt::Failed(Error::Store(error)),
    }
}

/// Replaces an object's attributes.
pub async fn replace_attributes(
    context: &Context,
    object: &ObjectId,
    attributes: Attributes,
) -> Result<ObjectMeta, Error> {
    let waited = context.options.close_timeout;
    let deadline = Instant::now() + waited;
    let token = new_token();
    let mut attempts = 0;
    loop {
        let options = CopyOptions {
            precondition: Precondition::Matches(object.etag.clone()),
            metadata: MetadataDirective::Replace(attributes.clone()),
            token: Some(token.clone()),
        };
        let error = match context.store.copy(object, &object.key, options).await {
            Ok(meta) => return Ok(meta),
            Err(error) => error,
        };
        let error = match error.kind {
            ErrorKind::Unavailable { .. } | ErrorKind::Integrity => error,
            ErrorKind::Ambiguous | ErrorKind::Protocol | ErrorKind::Precondition | ErrorKind::NotFound => {
                match head(context, &object.key).await {
                    Ok(Some(there)) if there.token.as_ref() == Some(&token) => return Ok(there),
                    Ok(Some(there)) if is_version(&there, &object.etag) => error,
                    Ok(Some(_)) => return Err(conflict(&object.key)),
                    Ok(None) => return Err(Error::BaseGone { key: object.key.clone() }),
                    Err(look) => look,
                }
            }
            ErrorKind::NoVolume
            | ErrorKind::UploadGone
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Unsupported => return Err(Error::Store(error)),
        };
        attempts += 1;
        if Instant::now() >= deadline {
            return Err(Error::Timeout { waited, reason: error.to_string() });
        }
        tokio::time::sleep(pause(attempts, None)).await;
    }
}

fn is_version(there: &ObjectMeta, etag: &ETag) -> bool {
    there.id.etag == *etag
}

fn conflict(key: &Key) -> Error {
    Error::Conflict { key: key.clone(), kept_as: None }
}
