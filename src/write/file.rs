//! A file under change: its staging data over its base, and the doors to seal, sync and commit it.
//!
//! Invariants:
//! * `dirty` is what differs from `base`; what is staged may be more, for staged data stay readable after a commit.
//! * `since` is what differs from the last sealed content, by which the next one goes on from that one's object.
//! * A removed file keeps its data for the handles that are open, and is never committed.

mod hold;
mod naming;
mod same;
mod scheduled;
mod state;

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::SystemTime;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::durable::Position;
use crate::observe::task;
use crate::store::Precondition;
use crate::types::{Attributes, ByteRange, Key, ObjectId, ObjectMeta, RangeSet, SessionId, UnixTime};
use crate::write::context::killpoint::KillPoint;
use crate::write::context::outcome::Outcome;
use crate::write::context::{Command, Context, Reply, Urgency};
use crate::write::file::state::{
    FileState, Noting, Recorded, Sealed, Standing, damaged, remove_staging, removed, unchanged,
};
use crate::write::staging::{Snapshot, Staging, StagingError};
use crate::write::upload::{Base, Content, FileId, FileOpened, Record, SessionEvent};
use crate::write::{Error, Piece};

pub use hold::Hold;
pub use state::{local_error, stopped};

/// One file under change. Shared by all handles of the file; dropped when the last is closed and nothing is pending.
/// Methods that are not `async` do local file calls only.
pub struct WriteFile {
    context: Arc<Context>,
    me: Weak<WriteFile>,
    state: Mutex<FileState>,
    outcome: watch::Sender<Outcome>,
}

/// Whether a file has the name that it is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::write) enum Naming {
    /// It is to be committed under it.
    Named,
    /// It was removed before its first change: what its handles write is for them alone.
    Nameless,
}

/// What a file is made from.
pub struct Beginning {
    /// Where it is to be committed.
    pub key: Key,
    /// What shows through.
    pub base: Option<Base>,
    /// What must be under the key.
    pub expected: Precondition,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A file that an earlier process left.
pub struct Left {
    /// Its id.
    pub file: FileId,
    /// Its data.
    pub staging: Staging,
    /// Its content.
    pub content: Content,
    /// That content as sealed, or `None` when it never was.
    pub sealed: Option<Arc<Snapshot>>,
}

impl WriteFile {
    pub(in crate::write) fn new(
        context: &Arc<Context>,
        beginning: Beginning,
        naming: Naming,
    ) -> Result<Arc<WriteFile>, Error> {
        let session = context.book.next_session();
        let is_empty = beginning.base.as_ref().is_none_or(|base| base.valid == 0);
        let file = WriteFile::with(context, beginning, session);
        let mut state = file.lock();
        match naming {
            Naming::Named => {}
            Naming::Nameless => state.standing = Standing::Removed(None),
        }
        if is_empty {
            // A file that nothing shows through of differs from what is in the bucket even before the first write.
            file.stage(&mut state, session)?;
            file.changed(&mut state, session, ByteRange::new(0, 0));
        }
        drop(state);
        Ok(file)
    }

    fn with(context: &Arc<Context>, beginning: Beginning, session: SessionId) -> Arc<WriteFile> {
        let Beginning { key, base, expected, attributes } = beginning;
        let state = FileState {
            standing: Standing::Clean,
            key,
            expected,
            base,
            attributes,
            session,
            is_dirty: false,
            dirty: RangeSet::default(),
            since: None,
            sealed: None,
            is_closed: false,
            passed: 0,
            looked_at: 0,
            noting: Noting::Fresh,
        };
        Arc::new_cyclic(|me| WriteFile {
            context: Arc::clone(context),
            me: Weak::clone(me),
            state: Mutex::new(state),
            outcome: watch::Sender::default(),
        })
    }

    /// A file that an earlier process left, closed.
    pub(in crate::write) fn left(context: &Arc<Context>, beginning: Beginning, left: Left) -> Arc<WriteFile> {
        let Left { file: id, staging, content, sealed } = left;
        let file = WriteFile::with(context, beginning, content.session);
        let mut state = file.lock();
        state.since = sealed.is_some().then(|| unchanged(&content));
        state.is_dirty = sealed.is_none();
        state.sealed = sealed.map(|snapshot| Sealed {
            session: content.session,
            snapshot: Recorded::new(snapshot),
            position: Position(0),
            is_synced: false,
            is_promised: true,
            urgency: Urgency::Now,
        });
        state.base = content.base;
        state.dirty = content.dirty;
        state.is_closed = true;
        state.noting = Noting::Idle;
        state.standing = Standing::Live(id, staging);
        drop(state);
        file.register(id);
        file
    }

    /// The session that the present content will be committed by: another one after the first change after a seal.
    pub fn session(&self) -> SessionId {
        self.lock().session
    }

    /// The key it will be committed under.
    pub fn key(&self) -> Key {
        self.lock().key.clone()
    }

    /// The object that is being changed, if any.
    pub fn base(&self) -> Option<ObjectId> {
        self.lock().base.as_ref().map(|base| base.object.clone())
    }

    /// Length of the present content in bytes.
    pub fn size(&self) -> u64 {
        self.lock().size()
    }

    /// Attributes that will be committed with it.
    pub fn attributes(&self) -> Attributes {
        self.lock().attributes.clone()
    }

    /// Changes the attributes; the file is dirty after that. When the local disk refuses to take note, the attributes
    /// hold for this process and go with the next change that it takes.
    pub fn set_attributes(&self, attributes: Attributes) {
        let mut state = self.lock();
        if state.attributes == attributes {
            return;
        }
        state.attributes = attributes;
        match self.stage_for_change(&mut state) {
            Ok(session) => self.changed(&mut state, session, ByteRange::new(0, 0)),
            Err(error) => log::warn!("Attributes of {} are not noted yet: {error}", state.key),
        }
    }

    /// Takes bytes at `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let session = self.stage_for_change(&mut state)?;
        let range = ByteRange::at(offset, bytes.len() as u64);
        match state.staging()?.write(offset, bytes) {
            Ok(()) => self.changed(&mut state, session, range),
            Err(error @ StagingError::Full { .. }) => return Err(error.into()),
            Err(error @ StagingError::Io { .. }) => {
                // Bytes within the size may be other ones now.
                let touched = range.clip(state.size());
                if !touched.is_empty() {
                    self.changed(&mut state, session, touched);
                }
                return Err(error.into());
            }
        }
        self.watch_writer(&mut state, offset);
        Ok(())
    }

    /// Takes the space that writing to `range` needs. Its content stays what it is.
    pub fn reserve(&self, range: ByteRange) -> Result<(), Error> {
        let mut state = self.lock();
        self.stage_for_change(&mut state)?;
        Ok(state.staging()?.reserve(range)?)
    }

    /// Cuts or extends (with zeros) to `size`.
    pub fn truncate(&self, size: u64) -> Result<(), Error> {
        let mut state = self.lock();
        if state.size() == size {
            return Ok(());
        }
        let session = self.stage_for_change(&mut state)?;
        state.staging()?.truncate(size);
        state.base = state.base.take().map(|base| base.cut(size));
        state.dirty.remove(ByteRange::new(size, u64::MAX));
        if state.passed > size
            && let Standing::Live(id, _) = &state.standing
        {
            self.context.command(Command::Cut(*id, size));
        }
        state.passed = state.passed.min(size);
        state.looked_at = state.looked_at.min(size);
        if let Some(since) = &mut state.since {
            since.valid = since.valid.min(size);
            since.dirty.remove(ByteRange::new(size, u64::MAX));
        }
        self.changed(&mut state, session, ByteRange::new(size, size));
        Ok(())
    }

    /// The bytes of `range`, cut at the file's size, as pieces in order.
    pub fn read(&self, range: ByteRange) -> Result<Vec<Piece>, Error> {
        let state = self.lock();
        let range = range.clip(state.size());
        let mut pieces = Vec::new();
        match &state.standing {
            Standing::Clean | Standing::Removed(None) => state.show_through(range, &mut pieces),
            Standing::Live(_, staging) | Standing::Removed(Some((_, staging))) => {
                for piece in
                    staging.read(range).map_err(|error| local_error("reading staged bytes", &error))?
                {
                    match piece.bytes {
                        Some(bytes) => pieces.push(Piece::Staged(bytes)),
                        None => state.show_through(piece.range, &mut pieces),
                    }
                }
            }
            Standing::Damaged(why) => return Err(damaged(why)),
        }
        Ok(pieces)
    }

    /// Whether there are changes that no seal holds yet.
    pub fn is_dirty(&self) -> bool {
        self.lock().is_dirty
    }

    /// Its id in the journal while it has changes.
    pub(in crate::write) fn id(&self) -> Option<FileId> {
        match &self.lock().standing {
            Standing::Live(id, _) => Some(*id),
            Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => None,
        }
    }

    /// Whether anything sealed is not yet in the bucket.
    pub fn is_pending(&self) -> bool {
        let Some(id) = self.id() else { return false };
        self.context.book.upload(id, |upload| upload.is_pending()).unwrap_or(false)
    }

    /// Takes the present content for upload and returns at once. Survives the death of this process.
    /// Does nothing when nothing is dirty.
    pub fn seal(&self) -> Result<(), Error> {
        self.seal_in(&mut self.lock(), Urgency::Now)
    }

    /// As [`WriteFile::seal`], for new attributes: they are uploaded a moment later, together with what is changed until
    /// then.
    pub fn seal_soon(&self) -> Result<(), Error> {
        self.seal_in(&mut self.lock(), Urgency::Soon)
    }

    /// Seals, and waits until it survives power loss. The upload begins when the program pauses, or with
    /// [`WriteFile::seal`], [`WriteFile::commit`] or [`WriteFile::close`].
    pub async fn sync(&self) -> Result<(), Error> {
        self.recognise().await;
        let (session, snapshot, position) = {
            let mut state = self.lock();
            self.seal_in(&mut state, Urgency::Later)?;
            match &state.sealed {
                Some(sealed) if !sealed.is_synced => {
                    (sealed.session, sealed.snapshot.share(), sealed.position)
                }
                Some(_) | None => return Ok(()),
            }
        };
        let context = Arc::clone(&self.context);
        let synced = task::spawn_blocking("sync", move || {
            snapshot.sync().map_err(|error| local_error("syncing staged bytes", &error))?;
            context.book.sync(position)
        });
        synced.await.map_err(|_| stopped())??;
        if let Some(sealed) = self.lock().sealed.as_mut().filter(|sealed| sealed.session == session) {
            (sealed.is_synced, sealed.is_promised) = (true, true);
        }
        Ok(())
    }

    /// Seals, and waits until the content is in the bucket. Fails with the session's error when it is stuck, with
    /// [`Error::Timeout`] without progress; the data stay queued either way. A later call waits or fails again.
    pub async fn commit(&self) -> Result<ObjectMeta, Error> {
        self.recognise().await;
        let mut outcome = self.outcome.subscribe();
        let (session, id) = {
            let mut state = self.lock();
            self.seal_in(&mut state, Urgency::Now)?;
            match (&state.standing, &state.sealed) {
                (Standing::Damaged(why), _) => return Err(damaged(why)),
                (Standing::Live(id, _), Some(_)) => (state.session, *id),
                (Standing::Removed(_), _) => return Err(removed()),
                (Standing::Live(..), None) | (Standing::Clean, _) => {
                    let settled = outcome.borrow().settled(state.session, u64::MAX);
                    return settled.unwrap_or_else(|| state.unchanged_object());
                }
            }
        };
        let failures = outcome.borrow().failures;
        self.context.command(Command::Wanted(id));
        let waited = self.context.options.close_timeout;
        let mut progress = outcome.borrow().progress;
        let mut deadline = Instant::now() + waited;
        loop {
            {
                let now = outcome.borrow_and_update();
                if let Some(result) = now.settled(session, failures) {
                    return result;
                }
                if now.progress != progress {
                    (progress, deadline) = (now.progress, Instant::now() + waited);
                }
            }
            tokio::select! {
                changed = outcome.changed() => changed.expect("the file owns the sender"),
                () = tokio::time::sleep_until(deadline) => {
                    return Err(Error::Timeout { waited, reason: outcome.borrow().reason() });
                }
                () = self.context.commands.closed() => return Err(stopped()),
            }
        }
    }

    /// A handle was opened: its data stay until the next [`WriteFile::close`], whatever becomes of its name.
    pub fn open_again(&self) {
        self.lock().is_closed = false;
    }

    /// The last handle was closed. What is sealed goes on, new attributes in their own time; what is dirty is sealed first.
    /// When that fails now it is tried again later.
    pub fn close(&self) -> Result<(), Error> {
        let mut state = self.lock();
        state.is_closed = true;
        let is_new = |sealed: &Sealed| sealed.urgency != Urgency::Soon;
        let is_due = state.is_dirty || state.sealed.as_ref().is_none_or(is_new);
        let sealed = if is_due { self.seal_in(&mut state, Urgency::Now) } else { Ok(()) };
        match &state.standing {
            Standing::Live(id, _) if sealed.is_err() => self.context.command(Command::Changed(*id)),
            Standing::Live(id, _) | Standing::Removed(Some((id, _))) => {
                self.context.command(Command::Closed(*id))
            }
            Standing::Clean | Standing::Removed(None) | Standing::Damaged(_) => {}
        }
        sealed
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), Error> {
        let waited = self.context.options.close_timeout;
        let (reply, answer) = oneshot::channel();
        self.context.command(command(reply));
        match tokio::time::timeout(waited, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::Timeout { waited, reason: self.outcome.borrow().reason() }),
        }
    }

    fn seal_in(&self, state: &mut FileState, urgency: Urgency) -> Result<(), Error> {
        let (id, staging) = match &state.standing {
            Standing::Live(id, staging) => (*id, staging),
            Standing::Damaged(why) => return Err(damaged(why)),
            Standing::Clean | Standing::Removed(_) => return Ok(()),
        };
        if !state.is_dirty {
            // A content sealed by a sync may be waiting for the program to pause.
            if urgency == Urgency::Now && state.sealed.is_some() {
                self.context.command(Command::Wanted(id));
            }
            return Ok(());
        }
        let snapshot = staging.freeze().map_err(|error| local_error("sealing staged bytes", &error))?;
        let snapshot = Arc::new(snapshot);
        let content = state.content(&snapshot);
        let session = content.session;
        let since = unchanged(&content);
        // What survives power loss is only superseded by what does: else neither might be there after it.
        let is_promised = state.sealed.as_ref().is_some_and(|before| before.is_promised);
        if is_promised {
            snapshot.sync().map_err(|error| local_error("syncing staged bytes", &error))?;
        }
        let position = self.context.book.session_event(id, SessionEvent::Sealed(Arc::new(content)))?;
        if is_promised {
            self.context.book.sync(position)?;
        }
        state.is_dirty = false;
        state.noting = Noting::Idle;
        state.since = Some(since);
        let kept = Recorded::new(Arc::clone(&snapshot));
        let is_synced = is_promised;
        let sealed = Sealed { session, snapshot: kept, position, is_synced, is_promised, urgency };
        state.replace_sealed(Some(sealed));
        self.context.kill.pass(KillPoint::AfterSeal);
        self.context.command(Command::Sealed { file: id, session, snapshot, urgency });
        Ok(())
    }

    /// Sees to it that changes have a place to go, and says which session a change now belongs to.
    fn stage_for_change(&self, state: &mut FileState) -> Result<SessionId, Error> {
        state.is_closed = false;
        let is_sealed = state.since.as_ref().is_some_and(|since| since.session == state.session);
        let session =
            if is_sealed && !state.is_dirty { self.context.book.next_session() } else { state.session };
        self.stage(state, session)?;
        Ok(session)
    }

    fn stage(&self, state: &mut FileState, session: SessionId) -> Result<(), Error> {
        let is_removed = match &state.standing {
            Standing::Live(..) | Standing::Removed(Some(_)) => return Ok(()),
            Standing::Damaged(why) => return Err(damaged(why)),
            Standing::Clean => false,
            Standing::Removed(None) => true,
        };
        let id = FileId(self.context.book.next_id());
        let opened = FileOpened {
            file: id,
            session,
            key: state.key.clone(),
            base: state.base.clone(),
            expected: state.expected.clone(),
            attributes: state.attributes.clone(),
            since: UnixTime::from(SystemTime::now()),
        };
        self.context.book.record(&Record::FileOpened(opened))?;
        if is_removed {
            self.context.book.session_event(id, SessionEvent::GivenUp)?;
        }
        let staging = self.context.area.create(id.0);
        staging.truncate(state.base.as_ref().map_or(0, |base| base.valid));
        (state.passed, state.looked_at) = (0, 0);
        state.since = None;
        state.noting = Noting::Fresh;
        state.standing =
            if is_removed { Standing::Removed(Some((id, staging))) } else { Standing::Live(id, staging) };
        self.register(id);
        if let Some(me) = self.me.upgrade() {
            self.context.command(Command::Opened(id, me));
        }
        Ok(())
    }

    fn register(&self, id: FileId) {
        let mut files = self.context.files.lock().expect("no holder of the lock panics");
        files.insert(id, Weak::clone(&self.me));
    }

    /// Takes note of a change that staging has taken.
    fn changed(&self, state: &mut FileState, session: SessionId, range: ByteRange) {
        let id = match &state.standing {
            Standing::Live(id, _) => *id,
            Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => return,
        };
        state.session = session;
        state.is_dirty = true;
        state.dirty.insert(range);
        if let Some(since) = &mut state.since {
            since.dirty.insert(range);
        }
        match state.noting {
            Noting::Due => {}
            Noting::Fresh if range.is_empty() => {}
            Noting::Fresh => {
                // After a crash a new file's bytes are found by themselves; changes to an object are not.
                let is_over_base = state.base.as_ref().is_some_and(|base| base.valid > 0);
                if is_over_base && let Err(error) = self.note(state) {
                    log::warn!("What {} holds cannot be noted: {error}", state.key);
                }
                self.note_later(state, id);
            }
            Noting::Idle => self.note_later(state, id),
        }
    }

    fn note_later(&self, state: &mut FileState, id: FileId) {
        state.noting = Noting::Due;
        self.context.command(Command::Changed(id));
    }

    /// Writes down what the file holds that no seal holds, so that a crash leaves something to show.
    fn note(&self, state: &mut FileState) -> Result<(), Error> {
        state.noting = Noting::Idle;
        let Standing::Live(id, staging) = &state.standing else { return Ok(()) };
        if !state.is_dirty {
            return Ok(());
        }
        let snapshot = staging.freeze_range(ByteRange::new(0, staging.size()));
        let content = Box::new(state.content(&snapshot));
        self.context.book.record(&Record::Progress { file: *id, content })?;
        Ok(())
    }

    /// Tells the scheduler when the writer of a new file has passed a part. Looks at most once a part.
    fn watch_writer(&self, state: &mut FileState, offset: u64) {
        let Standing::Live(id, staging) = &state.standing else { return };
        let boundary = self.context.layout.boundary_before(offset);
        let is_new = state.base.as_ref().is_none_or(|base| base.valid == 0);
        if boundary <= state.looked_at || !is_new || !self.context.rules.can_stream() {
            return;
        }
        state.looked_at = boundary;
        if staging.staged().contains(ByteRange::new(state.passed, boundary)) {
            self.context.command(Command::Passed(*id, boundary));
            state.passed = boundary;
        }
    }

    fn lock(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

impl Drop for WriteFile {
    fn drop(&mut self) {
        // A removed file whose handles are gone leaves nothing behind; the record of it is closed by the next mount.
        let state = self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Standing::Removed(Some((_, staging))) = &state.standing {
            remove_staging(staging);
        }
    }
}

impl std::fmt::Debug for WriteFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteFile").field("key", &self.key()).finish_non_exhaustive()
    }
}
