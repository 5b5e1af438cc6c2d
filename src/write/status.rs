//! Sessions as an operator sees them.

use crate::types::SessionId;
use crate::write::context::Context;
use crate::write::context::outcome::Settled;
use crate::write::upload::{FileId, FileRecord, Session, State};
use crate::write::{SessionPhase, SessionStatus};

/// Every session that is not in the bucket yet, oldest first, of files with changes from before `mark`.
pub fn statuses(context: &Context, mark: SessionId) -> Vec<SessionStatus> {
    let files: Vec<(FileId, FileRecord)> =
        context.book.look(|ledger| ledger.files.iter().map(|(file, entry)| (*file, entry.clone())).collect());
    let owed = files.iter().filter(|(file, entry)| owed_from(context, *file, entry.session) < mark);
    owed.filter_map(|(file, entry)| status_of(context, *file, entry)).collect()
}

/// The first session of a file whose content may not be in the bucket. `opened` is the first it had.
pub fn owed_from(context: &Context, file: FileId, opened: SessionId) -> SessionId {
    match context.file(file).and_then(|handle| handle.outcome().last) {
        Some((
            session,
            Settled::Committed(_) | Settled::Conflicted { kept_as: Some(_), .. } | Settled::Lost(_),
        )) => opened.max(SessionId(session.0 + 1)),
        Some((_, Settled::Conflicted { kept_as: None, .. })) | None => opened,
    }
}

/// The files that wait for the store: all of them, or the one of a session.
pub fn pending_files(context: &Context, session: Option<SessionId>) -> Vec<FileId> {
    context.book.look(|ledger| {
        let pending = ledger.files.iter().filter(|(_, entry)| entry.upload.is_pending());
        let is_meant =
            |entry: &FileRecord| session.is_none_or(|meant| sessions_of(entry).any(|s| s == meant));
        pending.filter(|(_, entry)| is_meant(entry)).map(|(file, _)| *file).collect()
    })
}

/// The file that a session belongs to.
pub fn file_of(context: &Context, session: SessionId) -> Option<FileId> {
    context.book.look(|ledger| {
        ledger
            .files
            .iter()
            .find(|(_, entry)| sessions_of(entry).any(|one| one == session))
            .map(|(file, _)| *file)
    })
}

fn sessions_of(entry: &FileRecord) -> impl Iterator<Item = SessionId> {
    let sealed = entry.upload.content.iter().chain(&entry.upload.next).map(|content| content.session);
    let noted = entry.progress.iter().map(|content| content.session);
    sealed.chain(noted).chain([entry.session])
}

/// A file's session, unless everything of the file is in the bucket.
pub fn status_of(context: &Context, file: FileId, entry: &FileRecord) -> Option<SessionStatus> {
    let upload = &entry.upload;
    let handle = context.file(file);
    let outcome = handle.as_ref().map(|handle| handle.outcome());
    let trouble = outcome.and_then(|outcome| outcome.trouble);
    let is_stuck = trouble.as_ref().is_some_and(|trouble| trouble.is_stuck);
    let is_interrupted =
        context.interrupted.lock().expect("no holder of the lock panics").contains_key(&file);
    let phase = if is_interrupted { Some(SessionPhase::Interrupted) } else { phase_of(upload, is_stuck) };
    let is_written = || handle.as_ref().is_some_and(|handle| handle.is_dirty());
    let state = phase.or_else(|| is_written().then_some(SessionPhase::Writing))?;
    let content = upload.latest().map(AsRef::as_ref).or(entry.progress.as_deref());
    let sent =
        upload.transfer().map_or(0, |transfer| transfer.parts.values().map(|part| part.range.len()).sum());
    let last_error = match &upload.state {
        State::Quarantined { why } => Some(why.clone()),
        State::Open
        | State::Sending(_)
        | State::Completing { .. }
        | State::Contested(_)
        | State::Amending { .. }
        | State::Committed { .. }
        | State::Conflicted
        | State::GivenUp => trouble.map(|trouble| trouble.error.to_string()),
    };
    Some(SessionStatus {
        session: content.map_or(entry.session, |content| content.session),
        key: upload.key.clone(),
        state,
        bytes: content.map_or_else(|| handle.map_or(0, |handle| handle.size()), |content| content.size),
        sent_bytes: sent,
        since: entry.since,
        last_error,
    })
}

/// How far an upload is; `None` when it has nothing on its way.
pub fn phase_of(upload: &Session, is_stuck: bool) -> Option<SessionPhase> {
    match &upload.state {
        State::Quarantined { .. } => Some(SessionPhase::Stuck),
        State::Conflicted => Some(SessionPhase::Conflicted),
        State::GivenUp => None,
        State::Open | State::Sending(_) | State::Committed { .. } if !upload.is_pending() => None,
        State::Open
        | State::Sending(_)
        | State::Committed { .. }
        | State::Completing { .. }
        | State::Contested(_)
        | State::Amending { .. }
            if is_stuck =>
        {
            Some(SessionPhase::Stuck)
        }
        State::Open | State::Committed { .. } => Some(SessionPhase::Queued),
        State::Sending(_) => Some(SessionPhase::Sending),
        State::Completing { .. } | State::Contested(_) | State::Amending { .. } => {
            Some(SessionPhase::Completing)
        }
    }
}
