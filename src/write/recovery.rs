//! What an earlier process left: replayed, verified, taken up again or set aside.
//!
//! Opening asks the network nothing. Verification of staged data and everything that needs the store run behind it;
//! no byte of a file is sent before the file has been verified.

mod examine;
mod left;
mod outlook;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::durable::{Disk, Journal};
use crate::observe::{Counter, Metrics, task};
use crate::store::ObjectStore;
use crate::types::{Crc64, SessionId};
use crate::write::context::book::{Book, journal_error};
use crate::write::context::killpoint::KillSwitch;
use crate::write::context::{Command, Context};
use crate::write::file::{Beginning, Left, WriteFile, local_error};
use crate::write::scheduler::{Job, Scheduler};
use crate::write::staging::{Snapshot, Staging, StagingArea};
use crate::write::status::status_of;
use crate::write::upload::{
    Content, FileId, FileRecord, Ledger, Record, RecordError, Rules, SessionEvent, State,
};
use crate::write::{BaseSource, Error, Event, OnConflict, Options, Recovered, rename};

pub use examine::Examination;
pub use outlook::Prospect;
pub use report::{FileReport, JournalReport, MoveReport, StateReport, StrayReport, UnreadableReport};

/// Where in a state directory things are.
const JOURNAL_DIRECTORY: &str = "journal";
const STAGING_DIRECTORY: &str = "staging";
/// What is damaged or unknown, kept for the user.
pub const RECOVERED_DIRECTORY: &str = "recovered";

/// A room as it was left, ready to go on.
pub struct Opened {
    /// Its parts.
    pub context: Arc<Context>,
    /// What was found.
    pub recovered: Recovered,
    /// News from it.
    pub events: mpsc::UnboundedReceiver<Event>,
}

/// Opens the state directory and starts what is to be finished.
pub fn open(
    disk: Arc<dyn Disk>,
    store: Arc<dyn ObjectStore>,
    base: Arc<dyn BaseSource>,
    options: Options,
    metrics: Arc<Metrics>,
) -> Result<Opened, Error> {
    let directory = options.directory.clone();
    let (journal, replay) = Journal::open(Arc::clone(&disk), &directory.join(JOURNAL_DIRECTORY))
        .map_err(|error| journal_error(&error))?;
    for damage in &replay.damage {
        metrics.add(Counter::Quarantined, 1);
        log::error!(
            "Part of the journal is damaged ({}) and kept as {}",
            damage.reason,
            damage.kept_as.display()
        );
    }
    let (mut ledger, unusable) = fold(&replay.records)?;
    for record in unusable {
        metrics.add(Counter::Quarantined, 1);
        let why = &record.why;
        match record.set_aside(&*disk, &directory.join(RECOVERED_DIRECTORY)) {
            Ok(path) => log::error!("A journal record is set aside as {}: {why}", path.display()),
            // The journal still has it, and so has the next replay.
            Err(error) => {
                log::error!("A journal record is unusable ({why}) and cannot be set aside: {error}")
            }
        }
    }
    let area = StagingArea::open(
        disk,
        &directory.join(STAGING_DIRECTORY),
        options.staging_bytes_max,
        Arc::clone(&metrics),
    )
    .map_err(|error| local_error("opening the staging directory", &error))?;
    let highest = area.leftovers().last().map_or(0, |id| id + 1);
    ledger.next_id = ledger.next_id.max(highest).max(1);
    ledger.files.values_mut().for_each(|entry| entry.upload.restart());
    let (commands, commanded) = mpsc::unbounded_channel();
    let (events, news) = mpsc::unbounded_channel();
    let rules = Rules::new(store.capabilities(), options.part_bytes);
    let context = Arc::new(Context {
        layout: rules.layout(),
        rules,
        kill: KillSwitch::new(options.kill_at),
        store,
        base,
        options,
        metrics,
        book: Book::new(journal, ledger),
        area,
        files: Mutex::default(),
        interrupted: Mutex::default(),
        commands,
        events,
    });
    let mut recovery = Recovery {
        context: &context,
        jobs: BTreeMap::new(),
        found: Recovered::default(),
        to_verify: Vec::new(),
    };
    recovery.take_up();
    let Recovery { jobs, found: mut recovered, to_verify, .. } = recovery;
    // Before the scheduler runs, so that it begins with these frozen.
    recovered.trees = rename::tree::left(&context);
    task::spawn("scheduler", Scheduler::new(Arc::clone(&context), commanded, jobs).run());
    verify(Arc::clone(&context), to_verify);
    recovered.moves = rename::finish_moves(&context);
    Ok(Opened { context, recovered, events: news })
}

/// A record that cannot be read, or does not fit those before it.
#[derive(Debug)]
struct UnusableRecord {
    bytes: Vec<u8>,
    why: String,
}

impl UnusableRecord {
    /// Where it is kept once it is set aside.
    fn kept_as(&self, recovered: &Path) -> PathBuf {
        recovered.join(format!("record-{}", Crc64::of(&self.bytes)))
    }

    fn set_aside(&self, disk: &dyn Disk, recovered: &Path) -> io::Result<PathBuf> {
        let path = self.kept_as(recovered);
        keep(disk, &path, &self.bytes)?;
        Ok(path)
    }
}

/// Folds all records that can be.
fn fold(records: &[Vec<u8>]) -> Result<(Ledger, Vec<UnusableRecord>), Error> {
    let mut ledger = Ledger::default();
    let mut unusable = Vec::new();
    for bytes in records {
        let why = match Record::decode(bytes) {
            Ok(record) => match ledger.apply(&record) {
                Ok(()) => continue,
                Err(misfit) => misfit.to_string(),
            },
            Err(error @ RecordError::Version(_)) => {
                let detail = format!("{error}: mount with the newer tetherfs that wrote it");
                return Err(Error::Staging { errno: libc::EPROTO, detail });
            }
            Err(error @ RecordError::Syntax(_)) => error.to_string(),
        };
        unusable.push(UnusableRecord { bytes: bytes.clone(), why });
    }
    Ok((ledger, unusable))
}

/// Writes down what cannot be used where the user finds it.
fn keep(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("it is in a directory of ours");
    disk.create_directory(directory)?;
    let mut file = disk.open(path)?;
    file.truncate(0)?;
    file.append(bytes)?;
    file.sync()?;
    disk.sync_directory(directory)
}

/// One pass over what was left.
struct Recovery<'a> {
    context: &'a Arc<Context>,
    jobs: BTreeMap<FileId, Job>,
    found: Recovered,
    to_verify: Vec<(FileId, Arc<Snapshot>)>,
}

/// What becomes of a file that was left.
enum Fate {
    /// Its latest sealed content is to be uploaded.
    Pending(Arc<Content>),
    /// Its sealed content waits for the user's decision.
    Conflicted(Arc<Content>),
    /// It was being written.
    Interrupted(Box<Content>),
    /// It was being written, and what it holds was not noted yet.
    Unnoted,
    /// Its data have been set aside before.
    Quarantined,
    /// Nothing is left to do but to clean up.
    Finished,
}

impl Recovery<'_> {
    fn take_up(&mut self) {
        let left: Vec<(FileId, FileRecord)> = self
            .context
            .book
            .look(|ledger| ledger.files.iter().map(|(file, entry)| (*file, entry.clone())).collect());
        let known: BTreeSet<u64> = left.iter().map(|(file, _)| file.0).collect();
        for id in self.context.area.leftovers().into_iter().filter(|id| !known.contains(id)) {
            log::warn!("Staging file {id} is in no record of the journal");
            self.context.set_aside(FileId(id));
        }
        for (file, entry) in left {
            match fate(&entry) {
                Fate::Pending(content) => self.pending(file, &entry, content),
                Fate::Conflicted(content) => self.conflicted(file, &entry, content),
                Fate::Interrupted(content) => self.interrupted(file, &entry, &content),
                Fate::Unnoted => self.unnoted(file, &entry),
                Fate::Quarantined => self.context.set_aside_if_left(file),
                Fate::Finished => self.finished(file),
            }
        }
    }

    fn pending(&mut self, file: FileId, entry: &FileRecord, content: Arc<Content>) {
        self.context.metrics.add(Counter::UploadsRecovered, 1);
        let handle = self.take_up_sealed(file, entry, &content);
        self.found.pending.extend(handle);
    }

    /// Gives a sealed content a job, which begins once the content is verified.
    fn take_up_sealed(
        &mut self,
        file: FileId,
        entry: &FileRecord,
        content: &Arc<Content>,
    ) -> Option<Arc<WriteFile>> {
        let (job, handle) = match self.reopen(file, entry, content) {
            Ok((handle, snapshot)) => {
                let mut job = Job::new(Some(Arc::clone(&handle)));
                let sealed = Some((content.session, Arc::clone(&snapshot)));
                if entry.upload.next.is_some() {
                    job.next = sealed;
                } else {
                    job.content = sealed;
                }
                job.is_held = true;
                self.to_verify.push((file, snapshot));
                (job, Some(handle))
            }
            Err(why) => {
                let mut job = Job::new(None);
                job.damage = Some(why);
                (job, None)
            }
        };
        self.jobs.insert(file, job);
        handle
    }

    fn conflicted(&mut self, file: FileId, entry: &FileRecord, content: Arc<Content>) {
        match self.context.options.on_conflict {
            // The user may still decide for sending it, before which it is verified like any other.
            OnConflict::Fail => drop(self.take_up_sealed(file, entry, &content)),
            // The user has changed his mind: the conflict is met, and settled, once more.
            OnConflict::KeepBoth | OnConflict::Overwrite => {
                let (key, expected) = (entry.upload.key.clone(), entry.upload.expected.clone());
                if self.recorded(file, SessionEvent::Renamed { key, expected, over: None }) {
                    self.pending(file, entry, content);
                }
            }
        }
    }

    fn reopen(
        &self,
        file: FileId,
        entry: &FileRecord,
        content: &Arc<Content>,
    ) -> Result<(Arc<WriteFile>, Arc<Snapshot>), String> {
        let (staging, snapshot) = sealed_data(&self.context.area, file, content)?;
        let left =
            Left { file, staging, content: Content::clone(content), sealed: Some(Arc::clone(&snapshot)) };
        Ok((WriteFile::left(self.context, beginning(entry, content), left), snapshot))
    }

    fn interrupted(&mut self, file: FileId, entry: &FileRecord, content: &Content) {
        match self.context.area.reopen(file.0, &content.extents, content.size) {
            Ok(staging) => {
                self.context.interrupted.lock().expect("no holder of the lock panics").insert(file, staging);
                self.found.interrupted.extend(status_of(self.context, file, entry));
            }
            Err(error) => {
                log::error!("An interrupted version of {} is damaged: {error}", entry.upload.key);
                self.set_aside_and_give_up(file);
            }
        }
    }

    /// Written to so shortly before the end that no record says which bytes there are. A new file's bytes are found by
    /// themselves; changes to an object are set aside, for the user to look at.
    fn unnoted(&mut self, file: FileId, entry: &FileRecord) {
        if let Some(content) = self.salvaged(file, entry) {
            let noted = FileRecord { progress: Some(Box::new(content.clone())), ..entry.clone() };
            self.interrupted(file, &noted, &content);
        } else if self.context.area.leftovers().contains(&file.0) {
            log::warn!("{} was being written when the last mount died", entry.upload.key);
            self.set_aside_and_give_up(file);
        } else if self.recorded(file, SessionEvent::GivenUp) {
            self.jobs.insert(file, Job::new(None));
        }
    }

    fn salvaged(&self, file: FileId, entry: &FileRecord) -> Option<Content> {
        let content = salvage(&self.context.area, file, entry)?;
        let record = Record::Progress { file, content: Box::new(content.clone()) };
        match self.context.book.record(&record) {
            Ok(_) => Some(content),
            Err(error) => {
                log::error!("File {} cannot be taken up: {}", file.0, Error::from(error));
                None
            }
        }
    }

    fn set_aside_and_give_up(&mut self, file: FileId) {
        self.context.set_aside(file);
        if self.recorded(file, SessionEvent::GivenUp) {
            self.jobs.insert(file, Job::new(None));
        }
    }

    /// Its uploads may still have to be aborted; the scheduler closes it.
    fn finished(&mut self, file: FileId) {
        if self.context.area.leftovers().contains(&file.0) {
            let removed = self.context.area.reopen(file.0, &[], 0).map(|staging| staging.remove());
            match removed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::warn!("Staging file {} cannot be removed: {error}", file.0),
                Err(error) => log::warn!("Staging file {} cannot be removed: {error}", file.0),
            }
        }
        self.jobs.insert(file, Job::new(None));
    }

    fn recorded(&self, file: FileId, event: SessionEvent) -> bool {
        match self.context.book.session_event(file, event) {
            Ok(_) => true,
            Err(error) => {
                log::error!("File {} cannot be settled: {}", file.0, Error::from(error));
                false
            }
        }
    }
}

impl Context {
    /// Moves data that a process died over while it set them aside.
    fn set_aside_if_left(&self, file: FileId) {
        if self.area.leftovers().contains(&file.0) {
            self.set_aside(file);
        }
    }
}

fn fate(entry: &FileRecord) -> Fate {
    let upload = &entry.upload;
    match (&upload.state, upload.latest(), &entry.progress) {
        (State::Quarantined { .. }, _, _) => Fate::Quarantined,
        (State::GivenUp, _, _) => Fate::Finished,
        (State::Conflicted, Some(content), _) => Fate::Conflicted(Arc::clone(content)),
        (_, Some(content), _) => Fate::Pending(Arc::clone(content)),
        (_, None, Some(progress)) => Fate::Interrupted(progress.clone()),
        (State::Committed { .. }, None, None) => Fate::Finished,
        (
            State::Open
            | State::Sending(_)
            | State::Completing { .. }
            | State::Contested(_)
            | State::Amending { .. }
            | State::Conflicted,
            None,
            None,
        ) => Fate::Unnoted,
    }
}

/// The data of a sealed content as an earlier process left them, or why they are not there as they should be.
fn sealed_data(
    area: &Arc<StagingArea>,
    file: FileId,
    content: &Content,
) -> Result<(Staging, Arc<Snapshot>), String> {
    let staging = area.reopen(file.0, &content.extents, content.size).map_err(|error| error.to_string())?;
    let snapshot = staging.freeze().map_err(|error| error.to_string())?;
    Ok((staging, Arc::new(snapshot)))
}

/// What is told of data that have been set aside.
pub fn damage_text(why: &str, kept_in: &Path) -> String {
    format!("the staged data are damaged ({why}); they are kept in {}", kept_in.display())
}

/// What is wrong with staged data, if anything is.
fn damage_in(snapshot: &Snapshot) -> Option<String> {
    let damaged = snapshot.verify();
    damaged.first().map(|range| format!("{} places, the first at {range:?}", damaged.len()))
}

/// What a file held of which no record says anything: a new file's bytes are found by themselves.
fn salvage(area: &StagingArea, file: FileId, entry: &FileRecord) -> Option<Content> {
    if entry.base.as_ref().is_some_and(|base| base.valid > 0) {
        return None;
    }
    let found = area.salvage(file.0);
    let found = found.inspect_err(|error| log::warn!("Staging file {} cannot be read: {error}", file.0));
    let (extents, size) = found.ok().flatten().filter(|(extents, _)| !extents.is_empty())?;
    Some(Content {
        session: entry.session,
        size,
        dirty: extents.iter().map(|extent| extent.range).collect(),
        extents,
        base: None,
        change: None,
        attributes: entry.attributes.clone(),
    })
}

/// What a file is made from that an earlier process left.
pub fn beginning(entry: &FileRecord, content: &Content) -> Beginning {
    Beginning {
        key: entry.upload.key.clone(),
        base: content.base.clone(),
        expected: entry.upload.expected.clone(),
        attributes: content.attributes.clone(),
    }
}

/// Checks all staged data, one file after the other, and that what the journal says of them is on stable storage.
fn verify(context: Arc<Context>, files: Vec<(FileId, Arc<Snapshot>)>) {
    if files.is_empty() {
        return;
    }
    task::spawn_blocking("verify", move || {
        if let Err(error) = context.book.sync(context.book.position()) {
            log::warn!("The journal is not synced: {error}");
        }
        for (file, snapshot) in files {
            context.command(Command::Verified { file, damage: damage_in(&snapshot) });
        }
    });
}

/// The file of a session that an earlier process left interrupted.
pub fn interrupted_file(context: &Context, session: SessionId) -> Option<(FileId, FileRecord)> {
    let files: Vec<FileId> =
        context.interrupted.lock().expect("no holder of the lock panics").keys().copied().collect();
    context.book.look(|ledger| {
        let found = files.iter().filter_map(|file| ledger.files.get(file).map(|entry| (*file, entry)));
        found
            .filter(|(_, entry)| entry.progress.as_ref().is_some_and(|content| content.session == session))
            .map(|(file, entry)| (file, entry.clone()))
            .next()
    })
}
