//! Local changes on their way into the bucket: staging files, upload sessions, the journal, recovery.
//!
//! Contract:
//! * What [`WriteFile::sync`] acknowledged survives power loss; what [`WriteFile::seal`] acknowledged survives the death
//!   of this process. Both are committed by a later mount as of that point, if this one does not get there.
//! * An object is completed once, conditionally, and only with the content of one sealed snapshot.
//! * Nothing acknowledged is deleted but by [`Writer::discard`] or [`WriteFile::discard`].
//! * Sessions are keyed by session id, object key and staging file, never by inode.
//! * Recovery is the run itself, replayed: [`Writer::open`] folds the journal's events into the same sessions.
//! * News goes up as [`Event`]s; the room never calls upward. Bytes of a base object come through [`BaseSource`].

mod context;
mod extents;
mod file;
mod recovery;
mod rename;
mod scheduler;
mod staging;
mod status;
mod upload;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::durable::{Disk, Journal, RealDisk};
use crate::observe::{Metrics, task};
use crate::store::ObjectStore;
use crate::types::{Attributes, ByteRange, ByteSize, Key, ObjectId, ObjectMeta, SessionId, UnixTime};
use crate::write::context::{Command, Context, GiveUpBy};
use crate::write::file::{Beginning, Left, Naming};
use crate::write::upload::{Base, FileId, Move, MoveState};

pub use context::killpoint::{KillAt, KillAtError, KillPoint};
pub use file::{Hold, WriteFile};
pub use recovery::{
    Examination, FileReport, JournalReport, MoveReport, Prospect, StateReport, StrayReport, UnreadableReport,
};
pub use rename::tree::Tree;
pub use upload::{TreeMove, TreePhase};

/// Part of this room's face: what a file's commit expects, and what the errors below hold.
pub use crate::store::{Error as StoreError, ErrorKind as StoreErrorKind, Precondition};

/// How writing goes about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Where journal, staging files and `recovered/` are. The caller holds its lease.
    pub directory: PathBuf,
    /// Most bytes in staging files; beyond it writers get [`Error::StagingFull`].
    pub staging_bytes_max: ByteSize,
    /// Bytes of the first parts; later ones grow so that any size fits the store's part count.
    pub part_bytes: ByteSize,
    /// Most bytes of parts in memory at once.
    pub memory_bytes: ByteSize,
    /// Parts in flight over all sessions.
    pub requests_max: usize,
    /// Longest that [`WriteFile::commit`] waits without progress.
    pub close_timeout: Duration,
    /// What happens when another writer's version is in the bucket at completion.
    pub on_conflict: OnConflict,
    /// This machine's name, for the names of conflict copies.
    pub host: String,
    /// For crash tests: where this process is to be killed.
    pub kill_at: Option<KillAt>,
}

/// What to do when the bucket holds another version than the one our change is based on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnConflict {
    /// Upload ours as `NAME.conflict-HOST-TIME`.
    #[default]
    KeepBoth,
    /// Leave ours staged and report it.
    Fail,
    /// Replace theirs.
    Overwrite,
}

/// What a file was before it is changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Nothing. It is dirty at once.
    New,
    /// An object, which shows through where nothing is written.
    Over(ObjectId),
    /// An object that has been emptied. Nothing of it shows through, and the file is dirty at once; but what is written
    /// as it was before need not be sent.
    Emptied(ObjectId),
}

/// What a name has that is given to another content.
#[derive(Clone, Debug)]
pub struct Replaces {
    expected: Precondition,
    over: Option<FileId>,
}

impl Replaces {
    /// What must be there in the bucket, and the file that has the name, if there are changes of it: they are given up
    /// in one step with the change of the name, so that no crash can bring them back.
    pub fn new(expected: Precondition, file: Option<&WriteFile>) -> Replaces {
        Replaces { expected, over: file.and_then(WriteFile::id) }
    }

    /// Whatever is there in the bucket.
    pub fn whatever_is_there(self) -> Replaces {
        Replaces { expected: Precondition::None, ..self }
    }
}

impl From<Precondition> for Replaces {
    fn from(expected: Precondition) -> Replaces {
        Replaces { expected, over: None }
    }
}

impl Origin {
    fn base(self) -> Option<Base> {
        match self {
            Origin::New => None,
            Origin::Over(object) => Some(Base::whole(object)),
            Origin::Emptied(object) => Some(Base::whole(object).cut(0)),
        }
    }
}

/// What the user makes of one conflict that was left to him.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// As [`OnConflict::KeepBoth`].
    KeepBoth,
    /// As [`OnConflict::Overwrite`].
    Overwrite,
}

/// Bytes of objects that local changes are based on. Implemented above, by the room that can read.
#[async_trait]
pub trait BaseSource: Send + Sync + 'static {
    /// The bytes of `range` of exactly this version.
    async fn base(&self, object: &ObjectId, range: ByteRange) -> Result<Bytes, BaseError>;

    /// The same, if they are on this machine. Makes no request.
    async fn base_here(&self, object: &ObjectId, range: ByteRange) -> Option<Bytes>;
}

/// Why base bytes cannot be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BaseError {
    /// That version is gone: the change cannot be completed as it was meant.
    #[error("the version that the changes are based on is gone")]
    Gone,
    /// Not now.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

/// What happened to a session, for the room above.
#[derive(Clone, Debug)]
pub enum Event {
    /// The sealed content is in the bucket.
    Committed {
        /// The session.
        session: SessionId,
        /// The object as it is now.
        object: ObjectMeta,
        /// Whether nothing was written since that seal, so that the object is the file.
        is_current: bool,
    },
    /// Another writer's version is under the key; ours went to `kept_as`, or stays staged when that is `None`.
    Conflicted {
        /// The session.
        session: SessionId,
        /// The key both wanted.
        key: Key,
        /// The conflict copy.
        kept_as: Option<ObjectMeta>,
    },
    /// Only attributes were changed here, and another writer has replaced or removed the object: there is nothing of ours to
    /// keep.
    Yielded {
        /// The session.
        session: SessionId,
        /// The key.
        key: Key,
    },
    /// A file that an earlier mount left has lost its name to an object: a rename was finished that one had begun.
    Replaced {
        /// The name.
        key: Key,
        /// The file.
        file: Arc<WriteFile>,
    },
    /// An upload failed in a way that will not pass by itself; it is kept and tried again now and then.
    Stuck {
        /// The session.
        session: SessionId,
        /// The key.
        key: Key,
        /// Why.
        reason: String,
    },
}

/// Why a change was not taken or not committed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The staging limit is reached.
    #[error("the staging limit of {limit} is reached")]
    StagingFull {
        /// The limit.
        limit: ByteSize,
    },
    /// The local disk refuses. `errno` is the system's number.
    #[error("staging: {detail}")]
    Staging {
        /// The system's error number.
        errno: i32,
        /// What was tried and what the system said.
        detail: String,
    },
    /// No progress within the deadline. The data are kept and go on by themselves.
    #[error("no progress for {waited:?}: {reason}")]
    Timeout {
        /// The deadline.
        waited: Duration,
        /// The last failure.
        reason: String,
    },
    /// Another writer's version is in the bucket. Ours is kept (see [`Event::Conflicted`]).
    #[error("{key} was changed by another writer; this version is kept {}", kept_as.as_ref().map_or("in staging".to_owned(), |k| format!("as {k}")))]
    Conflict {
        /// The key both wanted.
        key: Key,
        /// The conflict copy.
        kept_as: Option<Key>,
    },
    /// The store refuses for good. The data are kept.
    #[error(transparent)]
    Store(#[from] crate::store::Error),
    /// The base version is gone. The data are kept.
    #[error("the version that the changes to {key} are based on is gone")]
    BaseGone {
        /// The key.
        key: Key,
    },
}

/// The write side of a volume.
#[derive(Debug)]
pub struct Writer {
    context: Arc<Context>,
}

/// What a mount found of the time before it.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Files with changes that are being uploaded again: to be shown under their names with these contents.
    pub pending: Vec<Arc<WriteFile>>,
    /// Files that were neither flushed nor synced. Not shown under their names.
    pub interrupted: Vec<SessionStatus>,
    /// Directories on their way to another name, to be gone on with.
    pub trees: Vec<Tree>,
    /// Files on their way to another name.
    moves: Vec<JoinHandle<()>>,
}

/// Longest that a mount waits for the moves of files that were left. They are a few, and each takes some requests.
const MOVES_WAIT_MAX: Duration = Duration::from_secs(5);

impl Recovered {
    /// Waits until files that were on their way to another name have that one or the former, so that no program sees a
    /// name change by itself. Where the server does not answer in time they go on behind the caller.
    pub async fn wait_for_moves(&mut self) {
        let all = futures_util::future::join_all(std::mem::take(&mut self.moves));
        if tokio::time::timeout(MOVES_WAIT_MAX, all).await.is_err() {
            log::warn!("Files that were being renamed may get their other name only in a while");
        }
    }
}

impl Writer {
    /// Opens the state directory, replays the journal and starts to finish what it says, behind the caller.
    /// Must be called on the runtime that will do the uploading. The events' channel has no bound of its own: it holds
    /// at most a few for each session, and the room above reads them as they come.
    pub fn open(
        store: Arc<dyn ObjectStore>,
        base: Arc<dyn BaseSource>,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Writer>, Recovered, mpsc::UnboundedReceiver<Event>), Error> {
        Writer::open_on(Arc::new(RealDisk), store, base, options, metrics)
    }

    /// The same on another disk, for tests.
    fn open_on(
        disk: Arc<dyn Disk>,
        store: Arc<dyn ObjectStore>,
        base: Arc<dyn BaseSource>,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Writer>, Recovered, mpsc::UnboundedReceiver<Event>), Error> {
        let opened = recovery::open(disk, store, base, options, metrics)?;
        Ok((Arc::new(Writer { context: opened.context }), opened.recovered, opened.events))
    }

    /// Begins changing the file under `key`; `expected` is what must be there at completion. No request is made.
    pub fn create(
        self: &Arc<Self>,
        key: Key,
        origin: Origin,
        expected: Precondition,
        attributes: Attributes,
    ) -> Result<Arc<WriteFile>, Error> {
        let beginning = Beginning { key, base: origin.base(), expected, attributes };
        WriteFile::new(&self.context, beginning, Naming::Named)
    }

    /// The same of an object that was removed while somebody has it open, whose writes are for him alone.
    pub fn create_nameless(
        self: &Arc<Self>,
        key: Key,
        origin: Origin,
        attributes: Attributes,
    ) -> Result<Arc<WriteFile>, Error> {
        let beginning = Beginning { key, base: origin.base(), expected: Precondition::Absent, attributes };
        WriteFile::new(&self.context, beginning, Naming::Nameless)
    }

    /// Every session that is not in the bucket yet, oldest first.
    pub fn sessions(&self) -> Vec<SessionStatus> {
        self.sessions_before(SessionId(u64::MAX))
    }

    /// Those of files with changes from before a [`Writer::mark`] that are not in the bucket yet.
    pub fn sessions_before(&self, mark: SessionId) -> Vec<SessionStatus> {
        status::statuses(&self.context, mark)
    }

    /// The file of a session that is not in the bucket yet, while it is known here.
    pub fn file(&self, session: SessionId) -> Option<Arc<WriteFile>> {
        self.context.file(status::file_of(&self.context, session)?)
    }

    /// A session that comes after everything sealed so far, and before everything that is sealed later.
    pub fn mark(&self) -> SessionId {
        self.context.book.next_session()
    }

    /// Gives up an interrupted or stuck session and its data, at the user's word. A file that is open goes on as what
    /// it was before the changes. `ENOENT` when there is no such session.
    pub async fn discard(&self, session: SessionId) -> Result<(), Error> {
        let file = status::file_of(&self.context, session).ok_or_else(|| no_session(session))?;
        let (reply, answer) = oneshot::channel();
        self.context.command(Command::GiveUp { file, by: GiveUpBy::User, reply });
        let waited = self.context.options.close_timeout;
        match tokio::time::timeout(waited, answer).await {
            Ok(answer) => answer.map_err(|_| file::stopped())?,
            Err(_) => Err(Error::Timeout {
                waited,
                reason: "a commit is under way whose answer is not known".to_owned(),
            }),
        }
    }

    /// Decides about a session whose conflict was left to the user; it goes on under the key that is returned. `ENOENT`
    /// when there is no such session, `EINVAL` when it has no conflict.
    pub async fn resolve(&self, session: SessionId, resolution: Resolution) -> Result<Key, Error> {
        let file = status::file_of(&self.context, session).ok_or_else(|| no_session(session))?;
        let (reply, answer) = oneshot::channel();
        self.context.command(Command::Resolve { file, resolution, reply });
        answer.await.map_err(|_| file::stopped())?
    }

    /// Tries a pending session at once instead of after its pause, or all of them. Says how many are tried. `ENOENT`
    /// when there is no such session, `EINVAL` when it does not wait for the store.
    pub fn retry(&self, session: Option<SessionId>) -> Result<usize, Error> {
        let pending = status::pending_files(&self.context, session);
        if let (Some(session), []) = (session, pending.as_slice()) {
            status::file_of(&self.context, session).ok_or_else(|| no_session(session))?;
            let detail = format!("session {session} does not wait for the store");
            return Err(Error::Staging { errno: libc::EINVAL, detail });
        }
        pending.iter().for_each(|file| self.context.command(Command::Retry(*file)));
        Ok(pending.len())
    }

    /// Takes an interrupted session for complete, at the user's word: its content is uploaded as it is. The file is
    /// returned closed. `ENOENT` when no interrupted session has this id.
    pub fn commit_interrupted(&self, session: SessionId) -> Result<Arc<WriteFile>, Error> {
        let (id, entry) =
            recovery::interrupted_file(&self.context, session).ok_or_else(|| no_session(session))?;
        let staging = self.context.interrupted.lock().expect("no holder of the lock panics").remove(&id);
        let (Some(staging), Some(content)) = (staging, entry.progress.as_deref()) else {
            return Err(no_session(session));
        };
        let left = Left { file: id, staging, content: content.clone(), sealed: None };
        let file = WriteFile::left(&self.context, recovery::beginning(&entry, content), left);
        self.context.command(Command::Opened(id, Arc::clone(&file)));
        file.close()?;
        Ok(file)
    }

    /// What is done about another writer's version.
    pub fn on_conflict(&self) -> OnConflict {
        self.context.options.on_conflict
    }

    /// Moves an object under another key, finished after a crash.
    /// With [`Error::Timeout`] the move has not happened, or its answer is still looked for and it may yet.
    pub async fn rename(
        &self,
        source: &ObjectId,
        target: &Key,
        replaces: impl Into<Replaces>,
    ) -> Result<ObjectMeta, Error> {
        let Replaces { expected: replaces, over } = replaces.into();
        let (source, target, state) = (source.clone(), target.clone(), MoveState::Intended);
        rename::rename(&self.context, Move { source, target, replaces, over, state }).await
    }

    /// Begins to move everything below the prefix `source` to below `target`, where nothing is, but perhaps a marker
    /// (`onto_marker`). Waits for commits under way below the two; none begins there before what is returned is dropped.
    /// Finished after a crash.
    pub async fn move_tree(&self, source: &str, target: &str, onto_marker: bool) -> Result<Tree, Error> {
        rename::tree::begin(&self.context, TreeMove::new(source, target, onto_marker)).await
    }

    /// Every directory on its way to another name.
    pub fn trees(&self) -> Vec<TreeStatus> {
        rename::tree::statuses(&self.context)
    }

    /// Replaces an object's attributes, its bytes staying as they are.
    pub async fn replace_attributes(
        &self,
        object: &ObjectId,
        attributes: Attributes,
    ) -> Result<ObjectMeta, Error> {
        rename::replace_attributes(&self.context, object, attributes).await
    }

    /// Longest that a program waits without progress.
    pub fn close_timeout(&self) -> Duration {
        self.context.options.close_timeout
    }

    /// Waits until what is journaled so far, above all changes of names, survives power loss.
    pub async fn sync(&self) -> Result<(), Error> {
        let context = Arc::clone(&self.context);
        let synced = task::spawn_blocking("sync", move || context.book.sync(context.book.position()));
        synced.await.map_err(|_| file::stopped())?
    }

    /// Waits until every sealed session is in the bucket (interrupted ones excepted) or none can go on.
    pub async fn drained(&self) {
        self.drained_before(SessionId(u64::MAX)).await;
    }

    /// The same for what was sealed before a [`Writer::mark`]. Of a file that is being rewritten all the time it may wait
    /// for one content more, never for another.
    pub async fn drained_before(&self, mark: SessionId) {
        let (reply, drained) = oneshot::channel();
        self.context.command(Command::Drained { before: mark, reply });
        // A scheduler that has been shut down drops the question, which is an answer as well.
        drained.await.ok();
    }

    /// Stops sending and syncs the journal. Sealed sessions go on at the next [`Writer::open`].
    pub async fn shutdown(&self) {
        let (reply, stopped) = oneshot::channel();
        self.context.command(Command::Shutdown(reply));
        // One that has been shut down before drops the question.
        stopped.await.ok();
    }
}

/// Whether an earlier process has journaled changes in this directory, finished or not.
pub fn is_begun(directory: &Path) -> bool {
    Journal::exists(&RealDisk, &directory.join("journal"))
}

fn no_session(session: SessionId) -> Error {
    Error::Staging {
        errno: libc::ENOENT,
        detail: format!("there is no session {session} to be decided about"),
    }
}

/// One session as an operator sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The session.
    pub session: SessionId,
    /// The key it will be committed under.
    pub key: Key,
    /// How far it is.
    pub state: SessionPhase,
    /// Length of the content in bytes.
    pub bytes: u64,
    /// Bytes the store has already.
    pub sent_bytes: u64,
    /// When the program first wrote.
    pub since: UnixTime,
    /// The last failure.
    pub last_error: Option<String>,
}

/// A directory on its way to another name, as an operator sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TreeStatus {
    /// Its prefix.
    pub source: String,
    /// The one it gets.
    pub target: String,
    /// How far it is.
    pub phase: TreePhase,
    /// Objects copied so far.
    pub objects: u64,
}

/// How far a session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionPhase {
    /// A program is writing.
    Writing,
    /// Sealed, not begun.
    Queued,
    /// Parts are on their way.
    Sending,
    /// All parts are there; being made the object.
    Completing,
    /// Failing in a way that will not pass by itself.
    Stuck,
    /// Neither flushed nor synced when the daemon died.
    Interrupted,
    /// Another writer's version is in the way and the user wants to decide.
    Conflicted,
}

/// One piece of a read from a file under change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    /// These bytes, from staging.
    Staged(Vec<u8>),
    /// These bytes of the object below.
    Base {
        /// Which object.
        object: ObjectId,
        /// Which bytes of it.
        range: ByteRange,
    },
    /// This many zeros.
    Zeros(u64),
}
