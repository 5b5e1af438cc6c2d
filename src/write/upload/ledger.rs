//! All files and moves that the journal speaks of: the fold of its records.
//!
//! The run and the replay call the same [`Ledger::apply`]. A checkpoint is a shorter list of records with the same fold.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::store::Precondition;
use crate::types::{Attributes, Key, ObjectId, ObjectMeta, SessionId, UnixTime};
use crate::write::upload::record::FileOpened;
use crate::write::upload::{
    Base, Content, Misfit, Record, Session, SessionEvent, State, TreeMove, TreePhase,
};

/// A file under change, which is also the id of its staging file. Never given out twice in a state directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct FileId(pub u64);

/// What the journal says of one file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FileRecord {
    /// The session of its first content.
    pub session: SessionId,
    /// What showed through when it was opened.
    pub base: Option<Base>,
    /// Attributes then.
    pub attributes: Attributes,
    /// When the program first wrote.
    pub since: UnixTime,
    /// What was written after the last seal, as far as it was noted.
    pub progress: Option<Box<Content>>,
    /// Its way into the bucket.
    pub upload: Session,
}

/// An object on its way to another key.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Move {
    /// The object.
    pub source: ObjectId,
    /// Its new key.
    pub target: Key,
    /// What must be under that key.
    pub replaces: Precondition,
    /// The file that has that key, if it is under change: given up once the copy is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over: Option<FileId>,
    /// How far it is.
    pub state: MoveState,
}

/// How far a move is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveState {
    /// The copy may have been made.
    Intended,
    /// The copy is there, the source may be.
    Copied(Box<ObjectMeta>),
}

/// The fold of all records.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Ledger {
    /// Files under change.
    pub files: BTreeMap<FileId, FileRecord>,
    /// Moves not finished.
    pub moves: BTreeMap<u64, Move>,
    /// Moves of directories not finished.
    pub trees: BTreeMap<u64, TreeMove>,
    /// All ids below have been given out.
    pub next_id: u64,
}

impl Ledger {
    /// Folds a record in. One that does not fit changes nothing.
    pub fn apply(&mut self, record: &Record) -> Result<(), Misfit> {
        let unknown = |what| Misfit { what, state: "unknown" };
        match record {
            Record::NextId(id) => self.next_id = self.next_id.max(*id),
            Record::File { file, entry } => {
                self.files.insert(*file, FileRecord::clone(entry));
            }
            Record::Move { id, entry } => {
                self.moves.insert(*id, Move::clone(entry));
            }
            Record::FileOpened(opened) => self.opened(opened),
            Record::Progress { file, content } => {
                let entry = self.files.get_mut(file).ok_or(unknown("progress"))?;
                entry.progress = Some(content.clone());
                self.carry(*file);
                self.next_id = self.next_id.max(content.session.0 + 1);
            }
            Record::Session { file, event } => self.session_event(*file, event)?,
            Record::Closed { file } => {
                self.files.remove(file).ok_or(unknown("closed"))?;
            }
            Record::MoveIntended { id, source, target, replaces, over } => {
                self.next_id = self.next_id.max(id + 1);
                let (source, target, replaces) = (source.clone(), target.clone(), replaces.clone());
                let state = MoveState::Intended;
                self.moves.insert(*id, Move { source, target, replaces, over: *over, state });
            }
            Record::MoveCopied { id, object } => {
                let entry = self.moves.get_mut(id).ok_or(unknown("move copied"))?;
                entry.state = MoveState::Copied(object.clone());
                let (over, target) = (entry.over, entry.target.clone());
                self.replaced(over, &target)?;
            }
            Record::MoveDone { id } => {
                self.moves.remove(id).ok_or(unknown("move done"))?;
            }
            Record::Tree { id, entry } => {
                self.trees.insert(*id, TreeMove::clone(entry));
            }
            Record::TreeIntended { id, source, target, onto_marker } => {
                self.next_id = self.next_id.max(id + 1);
                self.trees.insert(*id, TreeMove::new(source, target, *onto_marker));
            }
            Record::TreeCopied { id, through, objects, renewed } => {
                let tree = self.trees.get_mut(id).ok_or(unknown("tree copied"))?;
                tree.through = Some(through.clone());
                tree.objects += objects;
                tree.renewed.extend(renewed.iter().cloned());
            }
            Record::TreeSwitched { id } => {
                let tree = self.trees.get_mut(id).ok_or(unknown("tree switched"))?;
                tree.phase = TreePhase::Removing;
                self.files.values_mut().for_each(|entry| tree.carry(entry));
            }
            Record::TreeGivenUp { id } => {
                self.trees.get_mut(id).ok_or(unknown("tree given up"))?.phase = TreePhase::Undoing;
            }
            Record::TreeDone { id } => {
                self.trees.remove(id).ok_or(unknown("tree done"))?;
            }
        }
        Ok(())
    }

    /// Whether a record fits, changing nothing.
    pub fn check(&self, record: &Record) -> Result<(), Misfit> {
        let unknown = |what| Misfit { what, state: "unknown" };
        match record {
            Record::Session { file, event } => {
                let upload = self.upload(*file).ok_or(unknown(event.name()))?;
                upload.clone().apply(event)
            }
            Record::Progress { file, .. } => self.upload(*file).map(drop).ok_or(unknown("progress")),
            Record::Closed { file } => self.upload(*file).map(drop).ok_or(unknown("closed")),
            Record::MoveCopied { id, .. } => self.moves.get(id).map(drop).ok_or(unknown("move copied")),
            Record::MoveDone { id } => self.moves.get(id).map(drop).ok_or(unknown("move done")),
            Record::TreeCopied { id, .. }
            | Record::TreeSwitched { id }
            | Record::TreeGivenUp { id }
            | Record::TreeDone { id } => self.trees.get(id).map(drop).ok_or(unknown("tree")),
            Record::NextId(_)
            | Record::File { .. }
            | Record::Move { .. }
            | Record::Tree { .. }
            | Record::FileOpened(_)
            | Record::MoveIntended { .. }
            | Record::TreeIntended { .. } => Ok(()),
        }
    }

    /// A file's upload.
    pub fn upload(&self, file: FileId) -> Option<&Session> {
        self.files.get(&file).map(|entry| &entry.upload)
    }

    fn opened(&mut self, opened: &FileOpened) {
        self.next_id = self.next_id.max(opened.file.0 + 1).max(opened.session.0 + 1);
        let entry = FileRecord {
            session: opened.session,
            base: opened.base.clone(),
            attributes: opened.attributes.clone(),
            since: opened.since,
            progress: None,
            upload: Session::new(opened.key.clone(), opened.expected.clone()),
        };
        self.files.insert(opened.file, entry);
        self.carry(opened.file);
    }

    /// What a file says the moment after a directory has been moved may still be in the terms of before.
    fn carry(&mut self, file: FileId) {
        if let Some(entry) = self.files.get_mut(&file) {
            let switched = self.trees.values().filter(|tree| tree.phase == TreePhase::Removing);
            switched.for_each(|tree| tree.carry(entry));
        }
    }

    fn session_event(&mut self, file: FileId, event: &SessionEvent) -> Result<(), Misfit> {
        let entry = self.files.get_mut(&file).ok_or(Misfit { what: event.name(), state: "unknown" })?;
        entry.upload.apply(event)?;
        if let SessionEvent::Renamed { key, over, .. } = event {
            return self.replaced(*over, key);
        }
        if let SessionEvent::Sealed(content) = event {
            self.next_id = self.next_id.max(content.session.0 + 1);
            entry.progress = None;
        }
        if let SessionEvent::Sealed(_) = event {
            self.carry(file);
        }
        let Some(entry) = self.files.get(&file) else { return Ok(()) };
        if let State::Committed { object, .. } = &entry.upload.state
            && let SessionEvent::Committed(_) | SessionEvent::LookedUp(_) = event
        {
            let object = object.id.clone();
            self.expect(file, &object);
        }
        Ok(())
    }

    /// A name has another content, in one step with that: what was on its way of the file that had it is given up.
    fn replaced(&mut self, over: Option<FileId>, key: &Key) -> Result<(), Misfit> {
        match over.and_then(|over| self.files.get_mut(&over)).filter(|entry| entry.upload.key == *key) {
            Some(entry) => entry.upload.apply(&SessionEvent::GivenUp),
            None => Ok(()),
        }
    }

    /// Files of the same name that were opened later and could not know this version expect it now: it is ours.
    fn expect(&mut self, committed: FileId, object: &ObjectId) {
        for (file, entry) in &mut self.files {
            let upload = &mut entry.upload;
            let waits = match upload.state {
                State::Open | State::Sending(_) => true,
                State::Completing { .. }
                | State::Contested(_)
                | State::Amending { .. }
                | State::Committed { .. }
                | State::Conflicted
                | State::Quarantined { .. }
                | State::GivenUp => false,
            };
            if *file > committed && waits && upload.key == object.key {
                upload.expected = Precondition::Matches(object.etag.clone());
            }
        }
    }

    /// Records with the same fold.
    pub fn checkpoint(&self) -> Vec<Record> {
        let files = self
            .files
            .iter()
            .map(|(file, entry)| Record::File { file: *file, entry: Box::new(entry.clone()) });
        let moves =
            self.moves.iter().map(|(id, entry)| Record::Move { id: *id, entry: Box::new(entry.clone()) });
        let trees =
            self.trees.iter().map(|(id, entry)| Record::Tree { id: *id, entry: Box::new(entry.clone()) });
        std::iter::once(Record::NextId(self.next_id)).chain(files).chain(moves).chain(trees).collect()
    }
}
