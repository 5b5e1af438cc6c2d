//! One file's way into the bucket as a state machine: events in, effects out.
//!
//! Events are exactly what is journaled, so replaying them gives the same machine. Effects are what is wanted next;
//! they are a function of the state alone and may be wanted again after a crash, which is why every one of them is
//! either harmless to repeat or preceded by a look.
//!
//! Invariants:
//! * A commit (put, copy or completion) is only sent after `CommitIntended` is journaled. While its answer is unknown
//!   the only effect is to look.
//! * An upload whose completion was in doubt is never filled with another content: a late answer would commit that.
//! * What is under way when it is no longer wanted becomes a leftover and is aborted; nothing else is ever aborted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::{PartReceipt, PartSlot, Precondition, Upload, UploadId};
use crate::types::{
    Attributes, ByteRange, Crc64, ETag, Key, ObjectId, ObjectMeta, PartNumber, SessionId, UploadToken,
};
use crate::write::upload::{Content, FileId, PartLayout, Plan, Rules, Source};

/// One file's upload, and the contents that wait for it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Session {
    /// Where the content is to go.
    pub key: Key,
    /// What must be there.
    pub expected: Precondition,
    /// The key that another writer's version is under, when ours goes to a conflict copy instead.
    pub contested: Option<Key>,
    /// The content on its way; `None` while the file is still being written.
    pub content: Option<Arc<Content>>,
    /// A later content, not taken yet.
    pub next: Option<Arc<Content>>,
    /// Uploads to be given up.
    pub leftovers: Vec<Upload>,
    /// Whether the server has shown that the base cannot be copied there.
    pub base_is_out_of_reach: bool,
    /// How far it is.
    pub state: State,
}

/// How far a session is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nothing has been asked of the store.
    Open,
    /// Parts are on their way.
    Sending(Box<Transfer>),
    /// The commit is intended or sent.
    Completing {
        /// By which request.
        way: Way,
        /// The mark by which it is recognised.
        token: UploadToken,
        /// What is known of its answer.
        answer: Answer,
    },
    /// Another writer's version is under the key; what to do is not decided yet.
    Contested(Way),
    /// Committed with attributes that have changed since the upload began.
    Amending {
        /// The content's session.
        session: SessionId,
        /// The object as it was committed.
        object: ObjectMeta,
        /// What is known of the answer.
        answer: Answer,
    },
    /// In the bucket.
    Committed {
        /// The content's session.
        session: SessionId,
        /// The object.
        object: ObjectMeta,
    },
    /// Another writer's version stays; ours is kept here.
    Conflicted,
    /// The local data are damaged and have been set aside.
    Quarantined {
        /// What is wrong.
        why: String,
    },
    /// Not wanted any more. Done when no leftovers remain.
    GivenUp,
}

/// The request that commits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A put of all bytes.
    Put,
    /// A copy of the base.
    Copy,
    /// The completion of an upload.
    Parts(Box<Transfer>),
}

/// What is known of the answer to a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// It has not come; nor has it been lost.
    Awaited,
    /// It was lost, or says that the precondition does not hold: look before anything else.
    Unknown,
    /// We looked, and it was not applied: send again. A lost request may still arrive.
    Again,
}

/// An upload under way.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Transfer {
    /// The server's name for it.
    pub upload: Upload,
    /// The mark given to it.
    pub token: UploadToken,
    /// Where its parts lie.
    pub layout: PartLayout,
    /// The attributes given to it.
    pub attributes: Attributes,
    /// Parts that the server has.
    pub parts: BTreeMap<PartNumber, Stored>,
    /// For uploads in order: bytes that the server has.
    pub offset: u64,
    /// What is known of it after a restart.
    pub standing: Standing,
}

/// What is known of an upload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// The server has what we say it has.
    Known,
    /// To be asked first.
    Unchecked,
    /// The server does not know it any more.
    Gone,
}

/// A part that the server has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stored {
    /// The bytes of the object.
    pub range: ByteRange,
    /// The server's word.
    pub receipt: PartReceipt,
}

/// What a look at the key showed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Our commit.
    Ours(Box<ObjectMeta>),
    /// What we expected to replace.
    Expected,
    /// Nothing, where we expected a version.
    Absent,
    /// Another writer's version.
    Other,
}

/// A fact about a session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionEvent {
    /// The program asked for this content to be uploaded.
    Sealed(Arc<Content>),
    /// The sealed content becomes the one on its way. Of an upload under way these parts are kept; `None` gives it up.
    Taken {
        /// The content's session.
        session: SessionId,
        /// The parts that hold its bytes.
        kept: Option<Vec<PartNumber>>,
    },
    /// An upload has begun.
    UploadBegun {
        /// The server's name for it.
        upload: Upload,
        /// The mark given to it.
        token: UploadToken,
        /// Where its parts lie.
        layout: PartLayout,
        /// The attributes given to it.
        attributes: Attributes,
    },
    /// An upload has begun that nobody wants any more.
    UploadLeft(Upload),
    /// The server has a part.
    PartStored(Stored),
    /// The server says which parts it has.
    PartsFound(Vec<PartReceipt>),
    /// The server says how far an upload in order is.
    OffsetFound(u64),
    /// The server does not know the upload.
    UploadLost,
    /// The upload under way is of no use for the content.
    UploadDropped,
    /// The base cannot be copied on the server.
    SourceLost,
    /// A commit is about to be sent.
    CommitIntended {
        /// The mark by which it is recognised.
        token: UploadToken,
        /// By which request.
        by: CommitBy,
    },
    /// Its answer was lost, or it was refused because of what is under the key.
    CommitUnknown,
    /// It was not applied and is not wanted any more.
    CommitWithdrawn,
    /// A look showed this.
    LookedUp(Found),
    /// The commit was applied.
    Committed(Box<ObjectMeta>),
    /// What was committed is not what we sent.
    Spoiled(Box<ObjectMeta>),
    /// Ours goes to this key, both are kept.
    ConflictKept(Key),
    /// Ours stays here until the user decides.
    ConflictLeft,
    /// Ours replaces theirs.
    ConflictOverruled,
    /// The file has another name.
    Renamed {
        /// The name.
        key: Key,
        /// What must be there.
        expected: Precondition,
        /// The file that had the name: what is on its way of it is not wanted any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over: Option<FileId>,
    },
    /// A leftover is gone.
    Aborted(UploadId),
    /// The file's data are not wanted any more.
    GivenUp,
    /// The local data are damaged.
    Quarantined {
        /// What is wrong.
        why: String,
    },
}

/// The kinds of [`Way`], in the journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitBy {
    /// A put.
    Put,
    /// A copy.
    Copy,
    /// The completion of the upload under way.
    Parts,
}

/// Work that a session wants done.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Take the next content. Local.
    Take,
    /// Begin an upload.
    Begin,
    /// Ask what the server has of the upload.
    QueryStatus,
    /// Send a part.
    SendPart(PartSlot),
    /// Copy a part from the base.
    CopyPart(PartSlot),
    /// Write down that a commit follows. Local.
    Intend(CommitBy),
    /// Take an intended commit back, for there is a newer content. Local.
    Withdraw,
    /// Give up the upload under way, for the store's rules have changed since it began. Local.
    Discontinue,
    /// Commit by a put.
    Put,
    /// Commit by a copy.
    Copy,
    /// Commit by completing the upload.
    Complete,
    /// Look at what is under the key.
    Look,
    /// Decide what becomes of a conflict. Local.
    Resolve,
    /// Bring the committed object's attributes up to date.
    Amend,
    /// Say that the content is larger than the store takes.
    Refuse,
    /// Give an upload up.
    Abort(Upload),
}

/// What tells effects of one session apart while they run.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum EffectId {
    /// Beginning an upload.
    Begin,
    /// Asking for its status.
    Status,
    /// Sending or copying this part.
    Part(PartNumber),
    /// Anything that commits, or looks whether it did.
    Commit,
    /// Giving up this upload.
    Abort(UploadId),
    /// Done at once.
    Local,
}

impl Effect {
    /// Its identity.
    pub fn id(&self) -> EffectId {
        match self {
            Effect::Take | Effect::Intend(_) | Effect::Withdraw | Effect::Discontinue | Effect::Resolve => {
                EffectId::Local
            }
            Effect::Begin => EffectId::Begin,
            Effect::QueryStatus => EffectId::Status,
            Effect::SendPart(slot) | Effect::CopyPart(slot) => EffectId::Part(slot.number),
            Effect::Put | Effect::Copy | Effect::Complete | Effect::Look | Effect::Amend | Effect::Refuse => {
                EffectId::Commit
            }
            Effect::Abort(upload) => EffectId::Abort(upload.id.clone()),
        }
    }
}

impl Session {
    /// A session of a file that is to be committed under `key`.
    pub fn new(key: Key, expected: Precondition) -> Session {
        Session {
            key,
            expected,
            contested: None,
            content: None,
            next: None,
            leftovers: Vec::new(),
            base_is_out_of_reach: false,
            state: State::Open,
        }
    }

    /// Whether a sealed content is not in the bucket and will be, if the store lets us.
    pub fn is_pending(&self) -> bool {
        match &self.state {
            State::Open | State::Sending(_) => self.content.is_some() || self.next.is_some(),
            State::Completing { .. } | State::Contested(_) | State::Amending { .. } => true,
            State::Committed { .. } => self.next.is_some(),
            State::Conflicted | State::Quarantined { .. } | State::GivenUp => false,
        }
    }

    /// Whether the content on its way is what is under the key already, with other attributes.
    pub fn dresses_base(&self) -> bool {
        self.content.as_ref().is_some_and(|content| content.is_base_with_attributes(&self.key))
    }

    /// The upload under way.
    pub fn transfer(&self) -> Option<&Transfer> {
        match &self.state {
            State::Sending(transfer)
            | State::Completing { way: Way::Parts(transfer), .. }
            | State::Contested(Way::Parts(transfer)) => Some(transfer),
            State::Open
            | State::Completing { way: Way::Put | Way::Copy, .. }
            | State::Contested(Way::Put | Way::Copy)
            | State::Amending { .. }
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp => None,
        }
    }

    /// The latest sealed content that is not in the bucket.
    pub fn latest(&self) -> Option<&Arc<Content>> {
        self.next.as_ref().or(self.content.as_ref())
    }

    /// The plan for the content on its way.
    pub fn plan(&self, rules: &Rules) -> Option<Plan> {
        self.content.as_ref().map(|content| self.plan_of(content, rules))
    }

    fn plan_of(&self, content: &Content, rules: &Rules) -> Plan {
        let layout = self.transfer().map_or_else(|| rules.layout(), |transfer| transfer.layout);
        Plan::new(content.shape(!self.base_is_out_of_reach), rules, layout)
    }

    /// Which stored parts hold the bytes of `next`, `is_stale` telling which hold others; `None` when the upload under
    /// way is of no use for it.
    pub fn parts_kept(
        &self,
        next: &Content,
        rules: &Rules,
        is_stale: impl Fn(PartNumber, ByteRange) -> bool,
    ) -> Option<Vec<PartNumber>> {
        let State::Sending(transfer) = &self.state else { return None };
        let Plan::Parts(planned) = self.plan_of(next, rules) else { return None };
        let holds = |number: PartNumber, stored: &Stored| {
            let part = planned.get(number.index() as usize);
            part.is_some_and(|part| part.range == stored.range) && !is_stale(number, stored.range)
        };
        let kept: Vec<PartNumber> =
            transfer.parts.iter().filter(|(n, stored)| holds(**n, stored)).map(|(n, _)| *n).collect();
        let lost = transfer.parts.len() - kept.len();
        let begin_anew = lost > 0 && !rules.replaces_parts
            || kept.is_empty() && needs_amending(&transfer.attributes, &next.attributes);
        (!begin_anew).then_some(kept)
    }

    /// Checksum of the whole object, when all parts' are known.
    pub fn whole_crc(&self, rules: &Rules) -> Option<Crc64> {
        let (transfer, Some(Plan::Parts(parts))) = (self.transfer()?, self.plan(rules)) else { return None };
        (0..parts.len() as u32).try_fold(Crc64::EMPTY, |whole, index| {
            let receipt = &transfer.parts.get(&PartNumber::from_index(index))?.receipt;
            Some(whole.then(receipt.crc64?, receipt.len))
        })
    }

    /// The receipts to complete the upload with.
    pub fn receipts(&self, rules: &Rules) -> Vec<PartReceipt> {
        let Some(transfer) = self.transfer() else { return Vec::new() };
        let count = match self.plan(rules) {
            Some(Plan::Parts(parts)) => parts.len(),
            Some(Plan::Put | Plan::Copy | Plan::Pieces(_) | Plan::TooLarge) | None => transfer.parts.len(),
        };
        transfer.parts.values().take(count).map(|stored| stored.receipt.clone()).collect()
    }

    /// Parts to be sent that the server is not known to have.
    pub fn parts_unknown(&self, rules: &Rules) -> Vec<(PartNumber, ByteRange)> {
        let (State::Sending(transfer), Some(Plan::Parts(parts))) = (&self.state, self.plan(rules)) else {
            return Vec::new();
        };
        let sent = parts.iter().enumerate().filter(|(_, part)| part.source == Source::Send);
        sent.map(|(index, part)| (PartNumber::from_index(index as u32), part.range))
            .filter(|(number, _)| !transfer.parts.contains_key(number))
            .collect()
    }

    /// What a restart leaves unknown. Not an event: it happens to whoever replays.
    pub fn restart(&mut self) {
        match &mut self.state {
            State::Sending(transfer) => transfer.standing = Standing::Unchecked,
            State::Completing { answer, .. } | State::Amending { answer, .. } => *answer = Answer::Unknown,
            State::Open
            | State::Contested(_)
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp => {}
        }
    }

    /// Asks the server again what it has, for it refuses what we say it has.
    pub fn doubt_parts(&mut self) {
        if let State::Sending(transfer) = &mut self.state {
            transfer.standing = Standing::Unchecked;
        }
    }
}

mod answers;
mod effects;
mod events;

pub use answers::{Remedy, Reply};

#[cfg(test)]
mod tests;

/// Whether attributes given to an upload at its beginning are too far from those of the content.
///
/// A modification time that merely moved on while the file was written is not: the store's own time is as good.
/// One that was set back (as archivers and copiers do) is, and so is everything else.
fn needs_amending(begun: &Attributes, wanted: &Attributes) -> bool {
    let moved_on = wanted.mtime >= begun.mtime;
    let begun = Attributes { mtime: if moved_on { wanted.mtime } else { begun.mtime }, ..begun.clone() };
    begun != *wanted
}

/// The version under a key, as a precondition.
fn matches(object: &ObjectId) -> Precondition {
    Precondition::Matches(object.etag.clone())
}

fn is_version(expected: &Precondition, etag: &ETag) -> bool {
    match expected {
        Precondition::None => true,
        Precondition::Absent => false,
        Precondition::Matches(version) => version == etag,
    }
}

/// A part's source as an effect.
fn part_effect(source: Source, slot: PartSlot) -> Effect {
    match source {
        Source::Send => Effect::SendPart(slot),
        Source::Copy => Effect::CopyPart(slot),
    }
}
