//! What a mount will do with an upload that was left: the session is asked what it wants next, as the scheduler would.
//! Pure: what only the server knows is a question for the caller.

use serde::Serialize;

use crate::store::Upload;
use crate::types::Key;
use crate::write::upload::{CommitBy, Effect, Plan, Rules, Session, SessionEvent, State};

/// What the next mount does with a file that was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "next", rename_all = "kebab-case")]
pub enum Prospect {
    /// Sends it: the server has nothing of it that can be used.
    Send,
    /// Goes on with an upload in parts, and completes it.
    Resume {
        /// Parts that the server has.
        parts_there: usize,
        /// All parts.
        parts: usize,
    },
    /// Goes on with an upload in order, and completes it.
    ResumeAt {
        /// Bytes that the server has.
        offset: u64,
    },
    /// Looks whether it is in the bucket: the answer to its commit is not known.
    LookUp,
    /// Takes note that it is in the bucket already.
    Done,
    /// Meets another writer's version, and does what `--on-conflict` says.
    Conflict,
    /// Keeps it: the user decides about the conflict.
    Decide,
    /// Keeps it: nobody was told that it is safe, and the user decides.
    Interrupted,
    /// Sets its data aside: they are not what was written, or nobody knows what they are.
    SetAside,
    /// Nothing: its data have been set aside before.
    AsideAlready,
    /// Fails: the store takes no object of this size.
    TooLarge,
    /// Cleans up: nothing of it is wanted any more.
    CleanUp,
}

/// What becomes of an upload.
#[derive(Clone, PartialEq, Debug)]
pub enum Outlook {
    /// This.
    Known(Prospect),
    /// It depends on what the server says.
    Asks(Question),
}

/// A question to the server.
#[derive(Clone, PartialEq, Debug)]
pub enum Question {
    /// What it has of an upload.
    Status(Upload),
    /// What is under a key.
    Look(Key),
}

/// Lets a session do what needs no store, up to the first thing that does.
pub fn outlook(session: &mut Session, rules: &Rules) -> Outlook {
    loop {
        let Some(effect) = session.effects(rules, 0, 1).into_iter().next() else {
            return Outlook::Known(at_rest(session));
        };
        let event = match effect {
            Effect::Take => take(session, rules),
            Effect::Withdraw => Some(SessionEvent::CommitWithdrawn),
            Effect::Discontinue => Some(SessionEvent::UploadDropped),
            Effect::QueryStatus => {
                let upload = session.transfer().map(|transfer| transfer.upload.clone());
                return upload.map_or(Outlook::Known(Prospect::Send), |u| Outlook::Asks(Question::Status(u)));
            }
            Effect::Look => return Outlook::Asks(Question::Look(session.key.clone())),
            Effect::SendPart(_)
            | Effect::CopyPart(_)
            | Effect::Complete
            | Effect::Intend(CommitBy::Parts) => return Outlook::Known(resume(session, rules)),
            Effect::Begin | Effect::Put | Effect::Copy | Effect::Intend(CommitBy::Put | CommitBy::Copy) => {
                return Outlook::Known(Prospect::Send);
            }
            Effect::Resolve => return Outlook::Known(Prospect::Conflict),
            Effect::Amend => return Outlook::Known(Prospect::Done),
            Effect::Refuse => return Outlook::Known(Prospect::TooLarge),
            Effect::Abort(_) => None,
        };
        // What does not fit would be wanted again and again.
        if event.is_none_or(|event| session.apply(&event).is_err()) {
            return Outlook::Known(at_rest(session));
        }
    }
}

/// The bytes that parts were sent with are not known to be the next content's.
fn take(session: &Session, rules: &Rules) -> Option<SessionEvent> {
    let next = session.next.as_deref()?;
    let kept = session.parts_kept(next, rules, |_, _| true);
    Some(SessionEvent::Taken { session: next.session, kept })
}

fn resume(session: &Session, rules: &Rules) -> Prospect {
    match session.plan(rules) {
        Some(Plan::Parts(parts)) => {
            let wanted = session.effects(rules, 0, usize::MAX);
            let is_part = |effect: &&Effect| matches!(effect, Effect::SendPart(_) | Effect::CopyPart(_));
            let missing = wanted.iter().filter(is_part).count();
            Prospect::Resume { parts_there: parts.len().saturating_sub(missing), parts: parts.len() }
        }
        Some(Plan::Pieces(_)) => {
            let offset = session.transfer().map_or(0, |transfer| transfer.offset);
            Prospect::ResumeAt { offset }
        }
        Some(Plan::Put | Plan::Copy | Plan::TooLarge) | None => Prospect::Send,
    }
}

/// A session that wants nothing, or nothing but to be rid of uploads.
fn at_rest(session: &Session) -> Prospect {
    match &session.state {
        State::Committed { .. } => Prospect::Done,
        State::Conflicted => Prospect::Decide,
        State::Contested(_) => Prospect::Conflict,
        State::Quarantined { .. } => Prospect::AsideAlready,
        State::GivenUp => Prospect::CleanUp,
        State::Open | State::Sending(_) | State::Completing { .. } | State::Amending { .. } => Prospect::Send,
    }
}
