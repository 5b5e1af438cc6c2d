//! What a session wants done next, as a function of its state.

use crate::store::{PartSlot, Precondition};
use crate::types::{Attributes, ByteRange, ObjectMeta, PartNumber};
use crate::write::upload::session::{
    Answer, CommitBy, Effect, Found, Session, Standing, State, Transfer, Way, is_version, part_effect,
};
use crate::write::upload::{Plan, PlannedPart, Rules, Source};

impl Session {
    /// What is wanted now, at most `limit` effects, the most urgent first. `passed` is how far the writer of a file
    /// still being written has come: parts before that can be sent.
    pub fn effects(&self, rules: &Rules, passed: u64, limit: usize) -> Vec<Effect> {
        let mut effects = self.progress(rules, passed, limit);
        effects.extend(self.leftovers.iter().take(limit).cloned().map(Effect::Abort));
        effects
    }

    fn progress(&self, rules: &Rules, passed: u64, limit: usize) -> Vec<Effect> {
        match &self.state {
            State::Open | State::Sending(_) | State::Committed { .. } if self.next.is_some() => {
                vec![Effect::Take]
            }
            State::Open => self.first_effect(rules, passed).into_iter().collect(),
            State::Sending(transfer) => match transfer.standing {
                Standing::Unchecked => self.content.iter().map(|_| Effect::QueryStatus).collect(),
                Standing::Known | Standing::Gone => self.parts_wanted(transfer, rules, passed, limit),
            },
            State::Completing { answer: Answer::Unknown, .. } => vec![Effect::Look],
            State::Completing { answer: Answer::Awaited | Answer::Again, .. } if self.next.is_some() => {
                vec![Effect::Withdraw]
            }
            State::Completing { way, answer: Answer::Awaited | Answer::Again, .. } => vec![match way {
                Way::Put => Effect::Put,
                Way::Copy => Effect::Copy,
                Way::Parts(_) => Effect::Complete,
            }],
            State::Contested(_) => vec![Effect::Resolve],
            State::Amending { answer: Answer::Unknown, .. } => vec![Effect::Look],
            State::Amending { answer: Answer::Awaited | Answer::Again, .. } => vec![Effect::Amend],
            State::Conflicted if self.next.is_some() => vec![Effect::Take],
            State::Committed { .. } | State::Conflicted | State::Quarantined { .. } | State::GivenUp => {
                Vec::new()
            }
        }
    }

    fn first_effect(&self, rules: &Rules, passed: u64) -> Option<Effect> {
        match self.plan(rules) {
            None => (passed > 0).then_some(Effect::Begin),
            Some(Plan::Put) => Some(Effect::Intend(CommitBy::Put)),
            Some(Plan::Copy) => Some(Effect::Intend(CommitBy::Copy)),
            Some(Plan::Parts(_) | Plan::Pieces(_)) => Some(Effect::Begin),
            Some(Plan::TooLarge) => Some(Effect::Refuse),
        }
    }

    fn parts_wanted(&self, transfer: &Transfer, rules: &Rules, passed: u64, limit: usize) -> Vec<Effect> {
        let Some(content) = &self.content else {
            let parts =
                (0..).map_while(|index| transfer.layout.part(index)).take_while(|part| part.end <= passed);
            let parts = parts.map(|range| PlannedPart { range, source: Source::Send });
            // Where the object ends is not known yet.
            return missing(transfer, parts, u64::MAX).take(limit).collect();
        };
        let wanted: Vec<Effect> = match self.plan_of(content, rules) {
            Plan::Parts(parts) => missing(transfer, parts.into_iter(), content.size).take(limit).collect(),
            Plan::Pieces(bytes) => next_piece(transfer, bytes, content.size).into_iter().collect(),
            Plan::Put | Plan::Copy | Plan::TooLarge => vec![Effect::Discontinue],
        };
        if wanted.is_empty() { vec![Effect::Intend(CommitBy::Parts)] } else { wanted }
    }

    /// What an object found under the key means for a commit whose answer is not known.
    pub fn judge(&self, found: Option<&ObjectMeta>) -> Found {
        let Some(meta) = found else {
            return match self.expected {
                Precondition::Matches(_) => Found::Absent,
                Precondition::None | Precondition::Absent => Found::Expected,
            };
        };
        let is_ours = match (&self.state, &self.content) {
            (State::Completing { token, .. }, Some(content)) => {
                meta.token.as_ref() == Some(token) && meta.id.size == content.size
            }
            (State::Amending { .. }, Some(content)) => {
                let agrees = |seen: &Attributes| seen.agree_with(&content.attributes);
                meta.id.size == content.size && meta.attributes.as_ref().is_some_and(agrees)
            }
            (State::Amending { .. } | State::Completing { .. }, None)
            | (
                State::Open
                | State::Sending(_)
                | State::Contested(_)
                | State::Committed { .. }
                | State::Conflicted
                | State::Quarantined { .. }
                | State::GivenUp,
                Some(_) | None,
            ) => false,
        };
        if is_ours {
            Found::Ours(Box::new(meta.clone()))
        } else if is_version(&self.expected, &meta.id.etag) {
            Found::Expected
        } else {
            Found::Other
        }
    }
}

/// The parts that the server does not have.
fn missing<'a>(
    transfer: &'a Transfer,
    parts: impl Iterator<Item = PlannedPart> + 'a,
    size: u64,
) -> impl Iterator<Item = Effect> + 'a {
    parts
        .enumerate()
        .map(|(index, part)| (PartNumber::from_index(index as u32), part))
        .filter(|(number, part)| transfer.parts.get(number).is_none_or(|stored| stored.range != part.range))
        .map(move |(number, part)| {
            part_effect(part.source, PartSlot { number, range: part.range, is_last: part.range.end == size })
        })
}

/// The next bytes of an upload in order.
fn next_piece(transfer: &Transfer, bytes: u64, size: u64) -> Option<Effect> {
    let range = ByteRange::at(transfer.offset, bytes).clip(size);
    let number = PartNumber::from_index((transfer.offset / bytes) as u32);
    (!range.is_empty()).then_some(Effect::SendPart(PartSlot { number, range, is_last: range.end == size }))
}
