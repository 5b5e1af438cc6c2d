//! What the scheduler knows of one file besides the ledger: data, requests in flight, pauses. Nothing of it outlives
//! the process.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::store::Precondition;
use crate::types::{Key, PartNumber, SessionId};
use crate::write::context::{GiveUpBy, Reply};
use crate::write::scheduler::is_local;
use crate::write::scheduler::sender::Work;
use crate::write::staging::Snapshot;
use crate::write::upload::{Effect, EffectId, FileId, Session, Stored};
use crate::write::{Error, Hold, WriteFile};

/// One file's upload in this process.
pub struct Job {
    /// The file, unless an earlier process left it and nobody needs its data.
    pub file: Option<Arc<WriteFile>>,
    /// The content on its way.
    pub content: Option<(SessionId, Arc<Snapshot>)>,
    /// A later one, not taken yet.
    pub next: Option<(SessionId, Arc<Snapshot>)>,
    /// Effects under way.
    pub flights: HashMap<EffectId, Flight>,
    /// The version of the bytes that each stored part was sent with.
    pub sent: HashMap<PartNumber, u64>,
    /// How far the writer has passed.
    pub passed: u64,
    /// Failures in a row.
    pub attempts: u32,
    /// How often the server has refused to make an object of the parts of this content.
    pub refusals: u32,
    /// Whether the last failure will not pass by itself.
    pub is_stuck: bool,
    /// Not before this after a failure.
    pub retry_at: Option<Instant>,
    /// Not before this, for the program is likely to write more.
    pub not_before: Option<Instant>,
    /// Whether that is to be kept when the file is closed: only attributes are new.
    pub lingers: bool,
    /// When to note what an unsealed file holds.
    pub note_at: Option<Instant>,
    /// Whether something must be on stable storage, or verified, first.
    pub is_held: bool,
    /// What is wrong with its data, found before it was known whether they are still needed.
    pub damage: Option<String>,
    /// Whether somebody waits for it.
    pub is_wanted: bool,
    /// How many want that no commit begins.
    pub holds: u32,
    /// Whether a directory above it is being moved, so that no commit may begin.
    pub is_frozen: bool,
    /// What waits until no commit is under way.
    pub requests: Vec<Request>,
    /// Its place among those that can start something.
    pub rank: Option<Rank>,
    /// Its timer.
    pub timer: Option<Instant>,
    /// The name under which its content waits.
    pub name: Option<Key>,
}

/// An effect under way.
pub struct Flight {
    /// Tells it from an earlier one of the same effect.
    pub serial: u64,
    /// Memory it holds.
    pub bytes: u64,
    /// To end it.
    pub handle: AbortHandle,
}

/// Who goes first: the class, then the bytes still to be sent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank {
    class: Class,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Class {
    Wanted,
    Sealed,
    Streamed,
    Leftover,
}

/// Something asked of a file that must not happen while a commit is under way.
pub enum Request {
    /// It has another name.
    Rename {
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
        /// Given the hold.
        reply: oneshot::Sender<Result<Hold, Error>>,
    },
    /// It is not wanted any more.
    GiveUp {
        /// By whose word.
        by: GiveUpBy,
        /// Told when it is so.
        reply: Reply,
    },
}

impl Request {
    /// Whether nobody waits for it any more: then it must not happen.
    pub fn is_withdrawn(&self) -> bool {
        match self {
            Request::Rename { reply, .. } | Request::GiveUp { reply, .. } => reply.is_closed(),
            Request::Hold { reply } => reply.is_closed(),
        }
    }

    /// Tells who asked; a hold itself tells that it was given.
    pub fn answer(self, result: Result<(), Error>) {
        match self {
            // Whoever asked may have stopped waiting.
            Request::Rename { reply, .. } | Request::GiveUp { reply, .. } => drop(reply.send(result)),
            Request::Hold { reply } => {
                if let Err(error) = result {
                    drop(reply.send(Err(error)));
                }
            }
        }
    }
}

impl Job {
    /// A job of a file.
    pub fn new(file: Option<Arc<WriteFile>>) -> Job {
        Job {
            file,
            content: None,
            next: None,
            flights: HashMap::new(),
            sent: HashMap::new(),
            passed: 0,
            attempts: 0,
            refusals: 0,
            is_stuck: false,
            retry_at: None,
            not_before: None,
            lingers: false,
            note_at: None,
            is_held: false,
            damage: None,
            is_wanted: false,
            holds: 0,
            is_frozen: false,
            requests: Vec::new(),
            rank: None,
            timer: None,
            name: None,
        }
    }

    /// The first of the wanted effects that may start now.
    pub fn startable(&self, effects: Vec<Effect>, now: Instant) -> Option<Effect> {
        let must_wait = self.is_held || self.is_waiting(now);
        effects.into_iter().find(|effect| !must_wait && !is_local(effect) && self.has_room_for(effect))
    }

    /// Whether it is too early for the next attempt, or for a first.
    pub fn is_waiting(&self, now: Instant) -> bool {
        self.retry_at.is_some_and(|at| at > now) || self.not_before.is_some_and(|at| at > now)
    }

    fn has_room_for(&self, effect: &Effect) -> bool {
        match effect {
            Effect::SendPart(_) | Effect::CopyPart(_) => !self.flights.contains_key(&effect.id()),
            // A stray part must not arrive after these.
            Effect::Begin
            | Effect::QueryStatus
            | Effect::Look
            | Effect::Amend
            | Effect::Refuse
            | Effect::Abort(_) => self.flights.is_empty(),
            Effect::Put | Effect::Copy | Effect::Complete => self.flights.is_empty() && self.may_commit(),
            Effect::Take | Effect::Intend(_) | Effect::Withdraw | Effect::Discontinue | Effect::Resolve => {
                false
            }
        }
    }

    /// Whether nobody wants that no commit begins.
    pub fn may_commit(&self) -> bool {
        self.requests.is_empty() && self.holds == 0 && !self.is_frozen
    }

    /// Whether a commit is under way.
    pub fn is_committing(&self) -> bool {
        self.flights.contains_key(&EffectId::Commit)
    }

    /// Its place among those that can start something.
    pub fn rank_of(&self, upload: &Session) -> Rank {
        let class = match &upload.content {
            _ if self.is_wanted => Class::Wanted,
            Some(_) => Class::Sealed,
            None if upload.transfer().is_some() || self.passed > 0 => Class::Streamed,
            None => Class::Leftover,
        };
        let stored =
            upload.transfer().map_or(0, |transfer| transfer.parts.values().map(|p| p.range.len()).sum());
        let size = upload.content.as_ref().map_or(self.passed, |content| content.size);
        Rank { class, bytes: size.saturating_sub(stored) }
    }

    /// When it wants to be looked at again.
    pub fn next_timer(&self, now: Instant) -> Option<Instant> {
        let of_later = |at: &Instant| *at > now;
        [self.retry_at.filter(of_later), self.not_before.filter(of_later), self.note_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether a part that was just stored holds bytes that the content on its way does not.
    pub fn is_stale(&self, work: &Work, stored: &Stored) -> bool {
        self.file.as_ref().is_none_or(|file| file.changed_since(work.version, stored.range))
    }

    /// The id of the file in words.
    pub fn describe(&self, file: FileId) -> String {
        match &self.file {
            Some(handle) => handle.key().to_string(),
            None => format!("file {}", file.0),
        }
    }
}

impl Work {
    /// The work with the bytes that it sends, as they are now or as they were sealed. `None` when they are gone.
    pub fn with_bytes_of(mut self, job: &Job) -> Option<Work> {
        let needs_bytes = match &self.effect {
            Effect::SendPart(_) | Effect::Put | Effect::QueryStatus => true,
            Effect::Begin => {
                if !self.has_content() {
                    self.attributes = job.file.as_ref()?.attributes();
                }
                false
            }
            Effect::Take
            | Effect::CopyPart(_)
            | Effect::Intend(_)
            | Effect::Withdraw
            | Effect::Discontinue
            | Effect::Copy
            | Effect::Complete
            | Effect::Look
            | Effect::Resolve
            | Effect::Amend
            | Effect::Refuse
            | Effect::Abort(_) => false,
        };
        if !needs_bytes {
            return Some(self);
        }
        let snapshot = match (&job.content, &self.effect) {
            (Some((_, snapshot)), _) if self.has_content() => Arc::clone(snapshot),
            (_, Effect::SendPart(slot)) => {
                let now = job.file.as_ref()?.freeze_range(slot.range)?;
                // It may have been cut short this moment.
                (now.size() >= slot.range.end).then(|| Arc::new(now))?
            }
            (Some(_) | None, _) => return None,
        };
        self.version = snapshot.version();
        self.snapshot = Some(snapshot);
        self.before = job.file.as_ref().and_then(|file| file.base());
        Some(self)
    }
}
