//! What every part of the room works with.

pub mod book;
pub mod killpoint;
pub mod outcome;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};

use tokio::sync::{mpsc, oneshot};

use crate::observe::Metrics;
use crate::store::{ObjectStore, Precondition};
use crate::types::{Key, SessionId};
use crate::write::context::book::Book;
use crate::write::context::killpoint::KillSwitch;
use crate::write::recovery::RECOVERED_DIRECTORY;
use crate::write::staging::{Snapshot, Staging, StagingArea};
use crate::write::upload::{FileId, PartLayout, Rules};
use crate::write::{BaseSource, Error, Event, Hold, Options, Resolution, WriteFile};

/// The room's shared parts.
pub struct Context {
    /// Where objects go.
    pub store: Arc<dyn ObjectStore>,
    /// Where the bytes of base objects come from.
    pub base: Arc<dyn BaseSource>,
    /// How the user wants it.
    pub options: Options,
    /// The store's limits.
    pub rules: Rules,
    /// Where parts of uploads begun now lie.
    pub layout: PartLayout,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// The journal.
    pub book: Book,
    /// The staging files.
    pub area: Arc<StagingArea>,
    /// For crash tests.
    pub kill: KillSwitch,
    /// Files that are neither clean nor interrupted.
    pub files: Mutex<BTreeMap<FileId, Weak<WriteFile>>>,
    /// Files that were neither flushed nor synced when an earlier process died, and their data.
    pub interrupted: Mutex<BTreeMap<FileId, Staging>>,
    /// To the scheduler. Holds at most one command for each call in progress and each file.
    pub commands: mpsc::UnboundedSender<Command>,
    /// News for the room above. Holds at most a few for each session; the room above reads them as they come.
    pub events: mpsc::UnboundedSender<Event>,
}

/// When a sealed content is to be uploaded.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Urgency {
    /// When the program has not asked again for a while: it goes on writing, and newer content replaces this one.
    Later,
    /// A moment later, unless something else of the file is on its way already: only attributes are new, and where one of
    /// them is set others follow.
    Soon,
    /// Now.
    Now,
}

/// Why a file's changes are not wanted any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GiveUpBy {
    /// A program removed the file; whoever has it open goes on with the data.
    Removal,
    /// The user discarded the changes; the file is what it was before them.
    User,
}

/// The answer to a command.
pub type Reply = oneshot::Sender<Result<(), Error>>;

/// What others ask of the scheduler.
pub enum Command {
    /// A file is under change.
    Opened(FileId, Arc<WriteFile>),
    /// It has been changed since its content was last noted.
    Changed(FileId),
    /// Its writer has passed everything before this offset.
    Passed(FileId, u64),
    /// It was cut to this size.
    Cut(FileId, u64),
    /// It has been sealed.
    Sealed {
        /// The file.
        file: FileId,
        /// The content's session.
        session: SessionId,
        /// The content.
        snapshot: Arc<Snapshot>,
        /// When to upload it.
        urgency: Urgency,
    },
    /// Somebody waits for it to be in the bucket: try at once.
    Wanted(FileId),
    /// Its last handle is closed.
    Closed(FileId),
    /// It has another name.
    Rename {
        /// The file.
        file: FileId,
        /// The name.
        key: Key,
        /// What must be there.
        expected: Precondition,
        /// The file that has the name.
        over: Option<FileId>,
        /// Told when it is so.
        reply: Reply,
    },
    /// None of its contents may be committed for a while.
    Hold {
        /// The file.
        file: FileId,
        /// Given the hold when no commit is under way.
        reply: oneshot::Sender<Result<Hold, Error>>,
    },
    /// Such a while is over.
    Released(FileId),
    /// Its changes are not wanted any more.
    GiveUp {
        /// The file.
        file: FileId,
        /// By whose word.
        by: GiveUpBy,
        /// Told when it is so.
        reply: Reply,
    },
    /// The user decides about a conflict that was left to him.
    Resolve {
        /// The file.
        file: FileId,
        /// What becomes of it.
        resolution: Resolution,
        /// Told under which key it goes on.
        reply: oneshot::Sender<Result<Key, Error>>,
    },
    /// The user wants no more waiting for the next attempt.
    Retry(FileId),
    /// Damage was looked for in a recovered file.
    Verified {
        /// The file.
        file: FileId,
        /// What was found.
        damage: Option<String>,
    },
    /// The journal is synced up to the beginning of a file's upload.
    BeginSynced(FileId, Result<(), Error>),
    /// The journal has been rewritten, or could not be.
    CheckpointEnded,
    /// A move has begun.
    MoveBegun,
    /// A move is finished.
    MoveEnded,
    /// Of files below these prefixes nothing is committed from now on.
    Freeze {
        /// The prefixes.
        prefixes: [String; 2],
    },
    /// As far as that freeze is concerned, it is again.
    Thaw {
        /// The prefixes.
        prefixes: [String; 2],
    },
    /// Files have other names by a directory's move.
    Carried,
    /// Somebody waits until nothing more can be done about contents sealed before a session.
    Drained {
        /// The first session that is not waited for.
        before: SessionId,
        /// Told then.
        reply: oneshot::Sender<()>,
    },
    /// Told when everything has stopped.
    Shutdown(oneshot::Sender<()>),
}

impl Context {
    /// Sends a command. After a shutdown nobody listens, and nothing needs to be done.
    pub fn command(&self, command: Command) {
        if self.commands.send(command).is_err() {
            log::debug!("The upload scheduler has stopped");
        }
    }

    /// Sends news. A room above that has gone does not want them.
    pub fn event(&self, event: Event) {
        if self.events.send(event).is_err() {
            log::debug!("Nobody listens for write events");
        }
    }

    /// Where what is damaged or unknown is kept for the user.
    pub fn recovered_directory(&self) -> PathBuf {
        self.options.directory.join(RECOVERED_DIRECTORY)
    }

    /// Moves a file's local data, which nobody holds any more, to where the user finds them.
    pub fn set_aside(&self, file: FileId) {
        let to = self.recovered_directory();
        match self.area.quarantine(file.0, &to) {
            Ok(paths) => paths.iter().for_each(|path| log::warn!("Kept as {}", path.display())),
            Err(error) => log::error!("Staging file {} cannot be moved to {}: {error}", file.0, to.display()),
        }
    }

    /// A file under change.
    pub fn file(&self, file: FileId) -> Option<Arc<WriteFile>> {
        self.files.lock().expect("no holder of the lock panics").get(&file).and_then(Weak::upgrade)
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("store", &self.store).finish_non_exhaustive()
    }
}
