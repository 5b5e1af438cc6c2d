//! What each event makes of a session. Total: an event that does not fit changes nothing and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use crate::store::{PartReceipt, Precondition, UploadId};
use crate::types::{Key, ObjectMeta, PartNumber, SessionId, UploadToken};
use crate::write::upload::session::{
    Answer, CommitBy, Found, Session, SessionEvent, Standing, State, Stored, Transfer, Way, matches,
    needs_amending,
};
use crate::write::upload::{Content, Misfit, TreeMove};

impl Session {
    /// Folds an event in.
    pub fn apply(&mut self, event: &SessionEvent) -> Result<(), Misfit> {
        let fits = match event {
            SessionEvent::Sealed(content) => self.sealed(content),
            SessionEvent::Taken { session, kept } => self.taken(*session, kept.as_deref()),
            SessionEvent::UploadBegun { upload, token, layout, attributes } => {
                self.begun(Box::new(Transfer {
                    upload: upload.clone(),
                    token: token.clone(),
                    layout: *layout,
                    attributes: attributes.clone(),
                    parts: BTreeMap::new(),
                    offset: 0,
                    standing: Standing::Known,
                }))
            }
            SessionEvent::UploadLeft(upload) => {
                self.leftovers.push(upload.clone());
                true
            }
            SessionEvent::PartStored(stored) => self.sending(|transfer| transfer.store(stored)),
            SessionEvent::PartsFound(parts) => self.sending(|transfer| transfer.keep_found(parts)),
            SessionEvent::OffsetFound(offset) => self.sending(|transfer| {
                transfer.offset = *offset;
                transfer.standing = Standing::Known;
            }),
            SessionEvent::UploadLost => self.upload_lost(),
            SessionEvent::UploadDropped => self.upload_dropped(),
            SessionEvent::SourceLost => {
                let fits = self.upload_dropped() || self.withdrawn() || matches!(self.state, State::Open);
                self.base_is_out_of_reach |= fits;
                fits
            }
            SessionEvent::CommitIntended { token, by } => self.intended(token, *by),
            SessionEvent::CommitUnknown => self.answered(Answer::Unknown),
            SessionEvent::CommitWithdrawn => self.withdrawn(),
            SessionEvent::LookedUp(found) => self.looked_up(found),
            SessionEvent::Committed(object) => self.committed(object),
            SessionEvent::Spoiled(object) => self.spoiled(object),
            SessionEvent::ConflictKept(key) => self.conflict_kept(key),
            SessionEvent::ConflictLeft => self.contested(|session, _| session.state = State::Conflicted),
            SessionEvent::ConflictOverruled => self.conflict_overruled(),
            SessionEvent::Renamed { key, expected, over: _ } => self.renamed(key, expected),
            SessionEvent::Aborted(id) => self.aborted(id),
            SessionEvent::GivenUp => {
                self.end(State::GivenUp);
                (self.content, self.next) = (None, None);
                true
            }
            SessionEvent::Quarantined { why } => {
                self.end(State::Quarantined { why: why.clone() });
                true
            }
        };
        if fits { Ok(()) } else { Err(Misfit { what: event.name(), state: self.state.name() }) }
    }

    fn sealed(&mut self, content: &Arc<Content>) -> bool {
        if let State::GivenUp | State::Quarantined { .. } = self.state {
            return false;
        }
        let mut content = Content::clone(content);
        let follows = content.change.as_ref().map(|change| change.session);
        if let Some(earlier) = self.latest().filter(|earlier| Some(earlier.session) == follows) {
            content = content.over_base_of(earlier);
            if self.next.as_ref().is_some_and(|next| Some(next.session) == follows) {
                content = content.replacing(&self.next.take().expect("just seen"));
            }
        } else if let State::Committed { session, object } = &self.state
            && Some(*session) == follows
        {
            content = content.over_object(&object.id);
        }
        self.next = Some(Arc::new(content));
        true
    }

    fn taken(&mut self, session: SessionId, kept: Option<&[PartNumber]>) -> bool {
        let Some(next) = self.next.take_if(|next| next.session == session) else { return false };
        match mem::replace(&mut self.state, State::Open) {
            State::Open => {}
            // After a conflict the file goes on as its copy.
            State::Committed { .. } => self.contested = None,
            State::Sending(mut transfer) => match kept {
                Some(kept) => {
                    let kept: BTreeSet<PartNumber> = kept.iter().copied().collect();
                    transfer.parts.retain(|number, _| kept.contains(number));
                    self.state = State::Sending(transfer);
                }
                None => self.leave(transfer),
            },
            State::Conflicted => self.state = State::Conflicted,
            other @ (State::Completing { .. }
            | State::Contested(_)
            | State::Amending { .. }
            | State::Quarantined { .. }
            | State::GivenUp) => {
                self.state = other;
                self.next = Some(next);
                return false;
            }
        }
        self.content = Some(next);
        true
    }

    fn begun(&mut self, transfer: Box<Transfer>) -> bool {
        let fits = matches!(self.state, State::Open);
        if fits {
            self.state = State::Sending(transfer);
        }
        fits
    }

    fn sending(&mut self, change: impl FnOnce(&mut Transfer)) -> bool {
        let State::Sending(transfer) = &mut self.state else { return false };
        change(transfer);
        true
    }

    /// An upload that the server does not know may have been completed: look, where there was something to complete.
    fn upload_lost(&mut self) -> bool {
        match mem::replace(&mut self.state, State::Open) {
            State::Sending(_) if self.content.is_none() => true,
            State::Sending(transfer) | State::Completing { way: Way::Parts(transfer), .. } => {
                let transfer = Box::new(Transfer { standing: Standing::Gone, ..*transfer });
                let token = transfer.token.clone();
                self.state = State::Completing { way: Way::Parts(transfer), token, answer: Answer::Unknown };
                true
            }
            other @ (State::Open
            | State::Completing { way: Way::Put | Way::Copy, .. }
            | State::Contested(_)
            | State::Amending { .. }
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp) => {
                self.state = other;
                false
            }
        }
    }

    fn upload_dropped(&mut self) -> bool {
        let fits = matches!(self.state, State::Sending(_));
        if fits {
            self.end(State::Open);
        }
        fits
    }

    fn intended(&mut self, token: &UploadToken, by: CommitBy) -> bool {
        if self.content.is_none() {
            return false;
        }
        let way = match (by, mem::replace(&mut self.state, State::Open)) {
            (CommitBy::Put, State::Open) => Way::Put,
            (CommitBy::Copy, State::Open) => Way::Copy,
            (CommitBy::Parts, State::Sending(transfer)) => Way::Parts(transfer),
            (CommitBy::Put | CommitBy::Copy | CommitBy::Parts, other) => {
                self.state = other;
                return false;
            }
        };
        self.state = State::Completing { way, token: token.clone(), answer: Answer::Awaited };
        true
    }

    fn answered(&mut self, known: Answer) -> bool {
        let (State::Completing { answer, .. } | State::Amending { answer, .. }) = &mut self.state else {
            return false;
        };
        *answer = known;
        true
    }

    /// An upload whose completion was in doubt is left: a late answer would commit whatever it then holds.
    fn withdrawn(&mut self) -> bool {
        match mem::replace(&mut self.state, State::Open) {
            State::Completing { way: Way::Put | Way::Copy, .. } => true,
            State::Completing { way: Way::Parts(transfer), answer: Answer::Awaited, .. } => {
                self.state = State::Sending(transfer);
                true
            }
            State::Completing {
                way: Way::Parts(transfer), answer: Answer::Unknown | Answer::Again, ..
            } => {
                self.leave(transfer);
                true
            }
            other @ (State::Open
            | State::Sending(_)
            | State::Contested(_)
            | State::Amending { .. }
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp) => {
                self.state = other;
                false
            }
        }
    }

    fn looked_up(&mut self, found: &Found) -> bool {
        match found {
            Found::Ours(object) => self.committed(object),
            Found::Expected => self.commit_again(),
            // There is nothing left that could have these attributes.
            Found::Absent if self.dresses_base() => self.contest(),
            Found::Absent => {
                let fits = self.commit_again();
                if fits {
                    self.expected = Precondition::Absent;
                }
                fits
            }
            Found::Other => self.contest(),
        }
    }

    fn contest(&mut self) -> bool {
        match mem::replace(&mut self.state, State::Open) {
            State::Completing { way, .. } => {
                self.state = State::Contested(way);
                true
            }
            // What we committed has been replaced since: it was in the bucket, and its attributes are history.
            State::Amending { session, object, .. } => {
                self.in_bucket(session, object);
                true
            }
            other @ (State::Open
            | State::Sending(_)
            | State::Contested(_)
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp) => {
                self.state = other;
                false
            }
        }
    }

    fn commit_again(&mut self) -> bool {
        if let State::Completing { way: Way::Parts(transfer), .. } = &self.state
            && transfer.standing == Standing::Gone
        {
            self.state = State::Open;
            return true;
        }
        self.answered(Answer::Again)
    }

    fn committed(&mut self, object: &ObjectMeta) -> bool {
        if let State::Amending { session, .. } | State::Committed { session, .. } = &self.state {
            let session = *session;
            self.in_bucket(session, object.clone());
            return true;
        }
        let Some(content) = self.content.clone() else { return false };
        match mem::replace(&mut self.state, State::Open) {
            State::Completing { way: Way::Parts(transfer), .. }
                if needs_amending(&transfer.attributes, &content.attributes) =>
            {
                self.expected = matches(&object.id);
                let (session, object) = (content.session, object.clone());
                self.state = State::Amending { session, object, answer: Answer::Awaited };
            }
            // Also without the intention: a damaged journal may have lost that record and kept this one.
            State::Completing { .. } | State::Open | State::Sending(_) | State::Contested(_) => {
                self.in_bucket(content.session, object.clone());
            }
            other @ (State::Amending { .. }
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp) => {
                self.state = other;
                return false;
            }
        }
        true
    }

    fn in_bucket(&mut self, session: SessionId, object: ObjectMeta) {
        self.content = None;
        self.base_is_out_of_reach = false;
        self.expected = matches(&object.id);
        if let Some(next) = self.next.take() {
            let follows = next.change.as_ref().is_some_and(|change| change.session == session);
            let next = Content::clone(&next);
            self.next = Some(Arc::new(if follows { next.over_object(&object.id) } else { next }));
        }
        self.state = State::Committed { session, object };
    }

    /// What is under the key now is ours but wrong: it is to be replaced.
    fn spoiled(&mut self, object: &ObjectMeta) -> bool {
        let fits = matches!(self.state, State::Completing { .. });
        if fits {
            self.state = State::Open;
            self.expected = matches(&object.id);
        }
        fits
    }

    fn contested(&mut self, settle: impl FnOnce(&mut Session, Way)) -> bool {
        match mem::replace(&mut self.state, State::Open) {
            State::Contested(way) => {
                if let Way::Parts(transfer) = &way {
                    self.leave(transfer.clone());
                }
                settle(self, way);
                true
            }
            other @ (State::Open
            | State::Sending(_)
            | State::Completing { .. }
            | State::Amending { .. }
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp) => {
                self.state = other;
                false
            }
        }
    }

    /// A conflict is settled, also one that had been left to the user.
    fn conflict_settled(&mut self, settle: impl FnOnce(&mut Session)) -> bool {
        if let State::Conflicted = self.state {
            self.state = State::Open;
            settle(self);
            return true;
        }
        self.contested(|session, _| settle(session))
    }

    fn conflict_kept(&mut self, key: &Key) -> bool {
        self.conflict_settled(|session| {
            let wanted = std::mem::replace(&mut session.key, key.clone());
            session.contested.get_or_insert(wanted);
            session.expected = Precondition::Absent;
        })
    }

    fn conflict_overruled(&mut self) -> bool {
        self.conflict_settled(|session| session.expected = Precondition::None)
    }

    fn renamed(&mut self, key: &Key, expected: &Precondition) -> bool {
        if let State::Completing { .. } | State::Amending { .. } = self.state {
            return false;
        }
        match &self.state {
            State::Sending(_) | State::Contested(_) | State::Conflicted => self.end(State::Open),
            State::Open
            | State::Committed { .. }
            | State::Quarantined { .. }
            | State::GivenUp
            | State::Completing { .. }
            | State::Amending { .. } => {}
        }
        self.key = key.clone();
        self.expected = expected.clone();
        self.contested = None;
        true
    }

    /// The directory that the file is in, or the one that its base is in, has another name. No commit is under way.
    pub fn carried(&mut self, tree: &TreeMove) {
        self.content.iter_mut().chain(&mut self.next).for_each(|content| tree.carry_content(content));
        if let State::Committed { object, .. } = &mut self.state
            && let Some(id) = tree.object(&object.id)
        {
            object.id = id;
        }
        if let Some(key) = tree.key(&self.key) {
            let (expected, contested) = (tree.expected(&self.key, &self.expected), self.contested.clone());
            if self.renamed(&key, &expected) {
                self.contested = contested.and_then(|key| tree.key(&key));
            }
        }
    }

    fn aborted(&mut self, id: &UploadId) -> bool {
        let before = self.leftovers.len();
        self.leftovers.retain(|upload| upload.id != *id);
        self.leftovers.len() < before
    }

    /// Goes to a state in which the upload under way has no place.
    fn end(&mut self, state: State) {
        if let Some(transfer) = self.transfer().cloned() {
            self.leave(Box::new(transfer));
        }
        self.state = state;
    }

    fn leave(&mut self, transfer: Box<Transfer>) {
        match transfer.standing {
            Standing::Known | Standing::Unchecked => self.leftovers.push(transfer.upload),
            Standing::Gone => {}
        }
    }
}

impl Transfer {
    fn store(&mut self, stored: &Stored) {
        self.offset = stored.range.end;
        self.parts.insert(stored.receipt.number, stored.clone());
    }

    /// Keeps the parts that the server has as they were sent. What it has besides is of unknown content.
    fn keep_found(&mut self, found: &[PartReceipt]) {
        self.parts.retain(|number, stored| {
            found.iter().any(|part| part.number == *number && is_same(part, &stored.receipt))
        });
        self.standing = Standing::Known;
    }
}

/// Whether a listed part is the one that was sent.
fn is_same(listed: &PartReceipt, sent: &PartReceipt) -> bool {
    let etag_agrees = listed.etag.is_empty() || sent.etag.is_empty() || listed.etag == sent.etag;
    let crc_agrees = match (listed.crc64, sent.crc64) {
        (Some(listed), Some(sent)) => listed == sent,
        (None, _) | (_, None) => true,
    };
    listed.len == sent.len && etag_agrees && crc_agrees
}

impl SessionEvent {
    /// A word for it.
    pub fn name(&self) -> &'static str {
        match self {
            SessionEvent::Sealed(_) => "sealed",
            SessionEvent::Taken { .. } => "taken",
            SessionEvent::UploadBegun { .. } => "upload begun",
            SessionEvent::UploadLeft(_) => "upload left",
            SessionEvent::PartStored(_) => "part stored",
            SessionEvent::PartsFound(_) => "parts found",
            SessionEvent::OffsetFound(_) => "offset found",
            SessionEvent::UploadLost => "upload lost",
            SessionEvent::UploadDropped => "upload dropped",
            SessionEvent::SourceLost => "source lost",
            SessionEvent::CommitIntended { .. } => "commit intended",
            SessionEvent::CommitUnknown => "commit unknown",
            SessionEvent::CommitWithdrawn => "commit withdrawn",
            SessionEvent::LookedUp(_) => "looked up",
            SessionEvent::Committed(_) => "committed",
            SessionEvent::Spoiled(_) => "spoiled",
            SessionEvent::ConflictKept(_) => "conflict kept",
            SessionEvent::ConflictLeft => "conflict left",
            SessionEvent::ConflictOverruled => "conflict overruled",
            SessionEvent::Renamed { .. } => "renamed",
            SessionEvent::Aborted(_) => "aborted",
            SessionEvent::GivenUp => "given up",
            SessionEvent::Quarantined { .. } => "quarantined",
        }
    }
}

impl State {
    /// A word for it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Open => "open",
            State::Sending(_) => "sending",
            State::Completing { .. } => "completing",
            State::Contested(_) => "contested",
            State::Amending { .. } => "amending",
            State::Committed { .. } => "committed",
            State::Conflicted => "conflicted",
            State::Quarantined { .. } => "quarantined",
            State::GivenUp => "given up",
        }
    }
}
