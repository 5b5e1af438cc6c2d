//! What the store's answers mean: from a reply or a failure to the events to be journaled.

use crate::store::{ErrorKind, Upload, UploadKind, UploadStatus};
use crate::types::{Attributes, ObjectMeta, UploadToken};
use crate::write::upload::session::{Answer, Effect, Session, SessionEvent, State, Stored};
use crate::write::upload::{PartLayout, Rules};

/// What a performed effect brought.
#[derive(Clone, PartialEq, Debug)]
pub enum Reply {
    /// An upload has begun.
    Begun {
        /// The server's name for it.
        upload: Upload,
        /// The mark given to it.
        token: UploadToken,
        /// Where its parts are to lie.
        layout: PartLayout,
        /// The attributes given to it.
        attributes: Attributes,
    },
    /// What the server has of the upload, and parts besides what we knew whose bytes have been verified.
    Status(UploadStatus, Vec<Stored>),
    /// A part is there.
    Part(Stored),
    /// A commit was applied.
    Object(ObjectMeta),
    /// What is under the key.
    Looked(Option<ObjectMeta>),
    /// A leftover is gone.
    Aborted(Upload),
}

/// What to do about a failed effect.
#[derive(Clone, PartialEq, Debug)]
pub enum Remedy {
    /// The same again, later.
    Retry,
    /// The same again, later, once the server has said how far the upload is ([`Session::doubt_parts`]).
    RetryAsking,
    /// The same again, much later: it will not pass by itself.
    Wait,
    /// These facts follow, and then what the session wants.
    Record(Vec<SessionEvent>),
    /// The server refuses the parts as we list them: take the commit back and ask what it has, later.
    WithdrawAsking,
}

impl Session {
    /// The facts that a reply means.
    pub fn replied(&self, reply: Reply) -> Vec<SessionEvent> {
        match reply {
            Reply::Begun { upload, token, layout, attributes } => {
                let is_wanted = matches!(self.state, State::Open) && upload.key == self.key;
                vec![if is_wanted {
                    SessionEvent::UploadBegun { upload, token, layout, attributes }
                } else {
                    SessionEvent::UploadLeft(upload)
                }]
            }
            Reply::Status(UploadStatus::Parts(found), verified) => {
                let verified = verified.into_iter().map(SessionEvent::PartStored);
                verified.chain([SessionEvent::PartsFound(found)]).collect()
            }
            Reply::Status(UploadStatus::Offset(offset), _) => {
                let size = self.content.as_ref().map_or(0, |content| content.size);
                vec![if offset <= size {
                    SessionEvent::OffsetFound(offset)
                } else {
                    SessionEvent::UploadDropped
                }]
            }
            Reply::Status(UploadStatus::Gone, _) => vec![SessionEvent::UploadLost],
            Reply::Part(stored) => vec![SessionEvent::PartStored(stored)],
            Reply::Object(object) if self.is_spoiled(&object) => {
                vec![SessionEvent::Spoiled(Box::new(object))]
            }
            Reply::Object(object) => vec![SessionEvent::Committed(Box::new(object))],
            Reply::Looked(found) => vec![SessionEvent::LookedUp(self.judge(found.as_ref()))],
            Reply::Aborted(upload) => vec![SessionEvent::Aborted(upload.id)],
        }
    }

    /// Whether the server made something else than what we sent.
    fn is_spoiled(&self, object: &ObjectMeta) -> bool {
        match &self.state {
            State::Completing { .. } => {
                self.content.as_ref().is_some_and(|content| content.size != object.id.size)
            }
            State::Open
            | State::Sending(_)
            | State::Contested(_)
            | State::Amending { .. }
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp => false,
        }
    }

    /// What to do about a failure of `kind`.
    pub fn failed(&self, effect: &Effect, kind: ErrorKind, rules: &Rules) -> Remedy {
        let record = |event| Remedy::Record(vec![event]);
        match (effect, kind) {
            (Effect::Refuse, _) => Remedy::Wait,
            (
                Effect::SendPart(_),
                ErrorKind::Unavailable { .. }
                | ErrorKind::Integrity
                | ErrorKind::Ambiguous
                | ErrorKind::Protocol,
            ) => match rules.upload {
                UploadKind::Parts(_) => Remedy::Retry,
                // A piece may have arrived, whole or in part; the next must begin where the server is.
                UploadKind::Offset { .. } => Remedy::RetryAsking,
            },
            (_, ErrorKind::Unavailable { .. } | ErrorKind::Integrity) => Remedy::Retry,
            (
                Effect::Put | Effect::Copy | Effect::Complete | Effect::Amend,
                ErrorKind::Ambiguous | ErrorKind::Protocol,
            ) => record(SessionEvent::CommitUnknown),
            (_, ErrorKind::Ambiguous | ErrorKind::Protocol) => Remedy::Retry,
            (Effect::Put | Effect::Complete, ErrorKind::Precondition | ErrorKind::NotFound) => {
                record(SessionEvent::CommitUnknown)
            }
            (Effect::Copy, ErrorKind::Precondition | ErrorKind::NotFound) if !self.was_looked_up() => {
                record(SessionEvent::CommitUnknown)
            }
            // The target is as expected, so it must be the source that is not.
            (
                Effect::Copy | Effect::CopyPart(_),
                ErrorKind::Precondition
                | ErrorKind::NotFound
                | ErrorKind::Unsupported
                | ErrorKind::Refused
                | ErrorKind::TooLarge,
            ) => record(SessionEvent::SourceLost),
            (Effect::Amend, ErrorKind::Precondition | ErrorKind::NotFound) if !self.was_looked_up() => {
                record(SessionEvent::CommitUnknown)
            }
            (
                Effect::Amend,
                ErrorKind::Precondition
                | ErrorKind::NotFound
                | ErrorKind::Unsupported
                | ErrorKind::Refused
                | ErrorKind::TooLarge
                | ErrorKind::Denied,
            ) => self.without_amendment(),
            (
                Effect::SendPart(_) | Effect::CopyPart(_) | Effect::QueryStatus | Effect::Complete,
                ErrorKind::UploadGone,
            ) => record(SessionEvent::UploadLost),
            (Effect::Abort(upload), ErrorKind::UploadGone | ErrorKind::NotFound) => {
                record(SessionEvent::Aborted(upload.id.clone()))
            }
            (Effect::Complete, ErrorKind::Refused) => Remedy::WithdrawAsking,
            (
                _,
                ErrorKind::NotFound
                | ErrorKind::NoVolume
                | ErrorKind::Precondition
                | ErrorKind::UploadGone
                | ErrorKind::Denied
                | ErrorKind::TooLarge
                | ErrorKind::Refused
                | ErrorKind::Unsupported,
            ) => Remedy::Wait,
        }
    }

    fn was_looked_up(&self) -> bool {
        matches!(
            self.state,
            State::Completing { answer: Answer::Again, .. } | State::Amending { answer: Answer::Again, .. }
        )
    }

    /// The content is in the bucket; that its attributes cannot be changed any more must not hold anybody up.
    fn without_amendment(&self) -> Remedy {
        let State::Amending { object, .. } = &self.state else { return Remedy::Wait };
        Remedy::Record(vec![SessionEvent::Committed(Box::new(object.clone()))])
    }
}
