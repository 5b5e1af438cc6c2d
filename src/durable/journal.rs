//! An append-only log of opaque records.
//!
//! One directory holds one journal: the file `journal-<generation>` (format: `frame`). A checkpoint writes the next
//! generation as `journal-<generation>.new`, syncs it, renames it, syncs the directory and removes the old file, so that
//! whichever file has the highest generation is complete and alone the truth. Opening does the same with what it finds.
//!
//! INVARIANT: a record is in the file with the highest generation before `append` returns its position; everything
//! below `synced` is on stable storage.
//! INVARIANT: once the disk may have dropped what we wrote (a failed sync, an append that could not be taken back),
//! nothing is taken or called synced until a checkpoint has rewritten everything into a new file: a later sync of the
//! same file may report success for data that are gone.
//!
//! The file has space reserved behind its end: on a full disk it must be possible to note that a file was removed, or
//! there would never be room again.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::durable::disk::parent_of;
use crate::durable::{Disk, DiskFile, frame};

/// Bytes of a checkpoint that are collected before they are written.
const CHECKPOINT_BUFFER_BYTES: usize = 1 << 20;
/// Bytes reserved behind the end, renewed when half of them are used.
const RESERVE_BYTES: u64 = 1 << 20;
const FILE_PREFIX: &str = "journal-";
/// Ending of a generation that is not complete.
const UNFINISHED_SUFFIX: &str = ".new";
/// Directory, beside the journal's own, for what was found damaged.
const RECOVERED_DIRECTORY: &str = "recovered";

/// A journal in a directory: append, group sync, checkpoint, replay.
///
/// After an error of [`Journal::sync`] (and of an append that left a torn record) every call fails until a
/// [`Journal::checkpoint`] succeeded: the caller still has the records, the disk perhaps not.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    state: Mutex<State>,
    /// Told when a sync ended.
    sync_ended: Condvar,
}

/// How far the journal had grown after an append; give it to [`Journal::sync`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position(pub u64);

/// What a journal held when it was opened.
#[derive(Debug, Default)]
pub struct Replay {
    /// Every good record, in the order of its append.
    pub records: Vec<Vec<u8>>,
    /// What was found damaged, other than a torn tail. [`Journal::open`] has set the damaged bytes aside.
    pub damage: Vec<Damage>,
    /// Length of the torn tail: what a crash leaves of an append. [`Journal::open`] has cut it.
    pub torn_bytes: usize,
}

/// A stretch of a journal file that could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where [`Journal::open`] sets the bytes aside.
    pub kept_as: PathBuf,
    /// What is wrong with them.
    pub reason: String,
}

/// Why a journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The disk refuses.
    #[error("journal {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A newer tetherfs wrote it.
    #[error("journal {} has format {found}, this tetherfs reads up to {known}: use the newer tetherfs that wrote it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format version.
        found: u32,
        /// Ours.
        known: u32,
    },
}

#[derive(Debug)]
struct State {
    file: GenerationFile,
    /// Bytes appended since the journal was opened; positions count these.
    appended: u64,
    /// The part of them that survives power loss.
    synced: u64,
    /// Bytes in the file when the checkpoint that began it was done.
    checkpoint_len: u64,
    sync: SyncState,
    health: Health,
}

/// The file that is the truth.
#[derive(Debug)]
struct GenerationFile {
    path: PathBuf,
    generation: u64,
    /// For appending.
    file: Box<dyn DiskFile>,
    /// The same file once more, for syncing it without the lock.
    syncer: Arc<dyn DiskFile>,
    /// Bytes in it, all of them good.
    len: u64,
    /// Up to where space is reserved, as far as that could be done.
    reserved: u64,
    next_sequence: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SyncState {
    Idle,
    /// One caller is syncing; the others wait for `sync_ended`.
    Running,
}

#[derive(Debug)]
enum Health {
    Sound,
    /// What the file says on stable storage is not known.
    Doubtful {
        reason: String,
    },
}

impl Journal {
    /// Opens the journal in `directory`, made when absent, and reads what it holds. Damaged stretches are copied to
    /// `recovered/` beside the directory. The caller holds a lease on it: one process, one [`Journal`].
    pub fn open(disk: Arc<dyn Disk>, directory: &Path) -> Result<(Journal, Replay), JournalError> {
        disk.create_directory(directory).map_err(at(directory))?;
        let newest = remove_unfinished(&*disk, directory)?;
        let (file, replay) = match newest {
            None => (begin_generation(&*disk, directory, 1, &[])?.durable()?, Replay::default()),
            Some(generation) => renew_generation(&*disk, directory, generation)?,
        };
        remove_older(&*disk, directory, file.generation);
        let state = State {
            checkpoint_len: file.len,
            file,
            appended: 0,
            synced: 0,
            sync: SyncState::Idle,
            health: Health::Sound,
        };
        let journal = Journal {
            disk,
            directory: directory.to_owned(),
            state: Mutex::new(state),
            sync_ended: Condvar::new(),
        };
        Ok((journal, replay))
    }

    /// Reads what the journal in `directory` holds, and changes nothing. `None` when there is none.
    pub fn read(disk: &dyn Disk, directory: &Path) -> Result<Option<Replay>, JournalError> {
        let names = match disk.list(directory) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(directory)(error)),
        };
        let Some(generation) = names.iter().filter_map(|name| generation_of(name)).max() else {
            return Ok(None);
        };
        let (bytes, scan) = scan_generation(disk, directory, generation)?;
        let damage = scan.damage.iter().map(|stretch| damage_of(directory, generation, stretch)).collect();
        Ok(Some(replay(&bytes, &scan, damage)))
    }

    /// Whether there is a journal in `directory`, sound or not. Changes nothing.
    pub fn exists(disk: &dyn Disk, directory: &Path) -> bool {
        let names = disk.list(directory).unwrap_or_default();
        let is_complete = |name: &String| name.starts_with(FILE_PREFIX) && !name.ends_with(UNFINISHED_SUFFIX);
        names.iter().any(is_complete)
    }

    /// Appends a record (64 MiB at most). When this returns, the record survives the death of this process.
    /// After an error the record is not in the journal.
    pub fn append(&self, record: &[u8]) -> Result<Position, JournalError> {
        let mut state = self.lock();
        let state = &mut *state;
        check_length(&state.file.path, record)?;
        state.check_health()?;
        let file = &mut state.file;
        let mut framed = Vec::new();
        frame::push_record(&mut framed, file.generation, file.next_sequence, record);
        file.reserve();
        if let Err(error) = file.file.append(&framed) {
            // A cut gives up what is behind it.
            file.reserved = file.len;
            if let Err(cut) = file.file.truncate(file.len) {
                state.health = Health::Doubtful {
                    reason: format!("a torn record ({error}) could not be taken back ({cut})"),
                };
            }
            return Err(at(&file.path)(error));
        }
        file.len += framed.len() as u64;
        file.next_sequence += 1;
        state.appended += framed.len() as u64;
        Ok(Position(state.appended))
    }

    /// Waits until everything up to `position` survives power loss. Calls that wait together share one sync.
    /// Blocks; callers on a runtime use its blocking threads.
    pub fn sync(&self, position: Position) -> Result<(), JournalError> {
        let mut state = self.lock();
        loop {
            if position.0 <= state.synced {
                return Ok(());
            }
            state.check_health()?;
            match state.sync {
                SyncState::Idle => break,
                SyncState::Running => {
                    state = self.sync_ended.wait(state).expect("no holder of the lock panics");
                }
            }
        }
        state.sync = SyncState::Running;
        let target = state.appended;
        let generation = state.file.generation;
        let syncer = Arc::clone(&state.file.syncer);
        drop(state);
        let result = syncer.sync();
        let mut state = self.lock();
        state.sync = SyncState::Idle;
        self.sync_ended.notify_all();
        if state.file.generation != generation {
            // A checkpoint took the file's place meanwhile and tells by itself what is synced.
            return if target <= state.synced { Ok(()) } else { state.check_health() };
        }
        match result {
            Ok(()) => {
                state.synced = state.synced.max(target);
                Ok(())
            }
            Err(error) => {
                state.health = Health::Doubtful { reason: format!("a sync failed ({error})") };
                Err(at(&state.file.path)(error))
            }
        }
    }

    /// Bytes appended since the last checkpoint, by which callers decide when to take the next.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        let state = self.lock();
        state.file.len - state.checkpoint_len
    }

    /// Replaces everything appended so far by `records`, atomically and synced. Appends wait meanwhile; the caller sees
    /// to it that `records` say all that was appended before. After an error the journal holds either.
    pub fn checkpoint(&self, records: &[Vec<u8>]) -> Result<(), JournalError> {
        let mut state = self.lock();
        let state = &mut *state;
        records.iter().try_for_each(|record| check_length(&state.file.path, record))?;
        let next = state.file.generation + 1;
        let begun = match begin_generation(&*self.disk, &self.directory, next, records) {
            Ok(begun) => begun,
            Err(BeginError { error, leaves }) => {
                match leaves {
                    Leftover::Nothing => {}
                    Leftover::PerhapsNamed => {
                        state.health = Health::Doubtful { reason: format!("a checkpoint failed ({error})") };
                    }
                }
                return Err(error);
            }
        };
        state.checkpoint_len = begun.file.len;
        state.file = begun.file;
        if let Err(error) = begun.named {
            // A crash of the machine may bring back the old file, one of the process will not: this file is the one to
            // go on with, but nothing in it can be called synced.
            state.health =
                Health::Doubtful { reason: format!("a checkpoint's name is not synced ({error})") };
            return Err(at(&self.directory)(error));
        }
        state.synced = state.appended;
        state.health = Health::Sound;
        remove_older(&*self.disk, &self.directory, next);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder of the lock panics")
    }
}

impl State {
    fn check_health(&self) -> Result<(), JournalError> {
        match &self.health {
            Health::Sound => Ok(()),
            Health::Doubtful { reason } => {
                let text = format!("{reason}; nothing is taken until a checkpoint has rewritten the journal");
                Err(at(&self.file.path)(io::Error::other(text)))
            }
        }
    }
}

impl GenerationFile {
    /// Sees to it that there is space behind the end, if there is any.
    fn reserve(&mut self) {
        if self.reserved >= self.len + RESERVE_BYTES / 2 {
            return;
        }
        match self.file.reserve(RESERVE_BYTES) {
            Ok(()) => self.reserved = self.len + RESERVE_BYTES,
            Err(error) => log::debug!("No space reserved path={} error={error}", self.path.display()),
        }
    }
}

/// A generation that has its name.
struct Begun {
    file: GenerationFile,
    /// Whether the name survives power loss.
    named: io::Result<()>,
}

impl Begun {
    fn durable(self) -> Result<GenerationFile, JournalError> {
        match self.named {
            Ok(()) => Ok(self.file),
            Err(error) => Err(at(&self.file.path)(error)),
        }
    }
}

#[derive(Debug)]
struct BeginError {
    error: JournalError,
    leaves: Leftover,
}

#[derive(Debug)]
enum Leftover {
    /// The older generation is still the newest.
    Nothing,
    /// The new file may be found under its name, now or after a crash.
    PerhapsNamed,
}

impl From<BeginError> for JournalError {
    fn from(failed: BeginError) -> JournalError {
        failed.error
    }
}

/// Writes, syncs and names a new generation.
fn begin_generation(
    disk: &dyn Disk,
    directory: &Path,
    generation: u64,
    records: &[Vec<u8>],
) -> Result<Begun, BeginError> {
    let path = generation_path(directory, generation);
    let unfinished = directory.join(format!("{FILE_PREFIX}{generation}{UNFINISHED_SUFFIX}"));
    let (file, syncer, len) = write_generation(disk, &unfinished, generation, records).map_err(|source| {
        // What cannot be removed now is removed by the next opening.
        let _ = disk.remove(&unfinished);
        BeginError { error: at(&unfinished)(source), leaves: Leftover::Nothing }
    })?;
    if let Err(source) = disk.rename(&unfinished, &path) {
        let gone = [&unfinished, &path].into_iter().all(|name| match disk.remove(name) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        });
        let leaves = if gone && disk.sync_directory(directory).is_ok() {
            Leftover::Nothing
        } else {
            Leftover::PerhapsNamed
        };
        return Err(BeginError { error: at(&path)(source), leaves });
    }
    let named = disk.sync_directory(directory);
    let next_sequence = records.len() as u64;
    let mut file = GenerationFile { path, generation, file, syncer, len, reserved: len, next_sequence };
    file.reserve();
    Ok(Begun { file, named })
}

type WrittenFile = (Box<dyn DiskFile>, Arc<dyn DiskFile>, u64);

fn write_generation(
    disk: &dyn Disk,
    path: &Path,
    generation: u64,
    records: &[Vec<u8>],
) -> io::Result<WrittenFile> {
    let mut file = disk.open(path)?;
    let syncer: Arc<dyn DiskFile> = Arc::from(disk.open(path)?);
    file.truncate(0)?;
    let mut buffer = frame::file_header(generation).to_vec();
    let mut len = 0;
    for (sequence, record) in records.iter().enumerate() {
        frame::push_record(&mut buffer, generation, sequence as u64, record);
        if buffer.len() >= CHECKPOINT_BUFFER_BYTES {
            file.append(&buffer)?;
            len += buffer.len() as u64;
            buffer.clear();
        }
    }
    file.append(&buffer)?;
    len += buffer.len() as u64;
    syncer.sync()?;
    Ok((file, syncer, len))
}

/// Reads a generation and writes what is good in it as the next one. That cuts a torn tail, leaves damage behind, and
/// makes durable what the process before us did not sync or synced in vain: its failed syncs are unknown to us.
fn renew_generation(
    disk: &dyn Disk,
    directory: &Path,
    generation: u64,
) -> Result<(GenerationFile, Replay), JournalError> {
    let (bytes, scan) = scan_generation(disk, directory, generation)?;
    let damage = match scan.damage.as_slice() {
        [] => Vec::new(),
        stretches => set_aside(disk, directory, generation, &bytes, stretches)?,
    };
    let replay = replay(&bytes, &scan, damage);
    if replay.torn_bytes > 0 {
        log::info!("Journal's torn tail cut generation={generation} bytes={}", replay.torn_bytes);
    }
    let file = begin_generation(disk, directory, generation + 1, &replay.records)?.durable()?;
    Ok((file, replay))
}

fn scan_generation(
    disk: &dyn Disk,
    directory: &Path,
    generation: u64,
) -> Result<(Vec<u8>, frame::Scan), JournalError> {
    let path = generation_path(directory, generation);
    let bytes = disk.open(&path).and_then(|file| file.read_all()).map_err(at(&path))?;
    match frame::scan(&bytes, generation) {
        Ok(scan) => Ok((bytes, scan)),
        Err(frame::Newer(found)) => Err(JournalError::Newer { path, found, known: frame::FORMAT_VERSION }),
    }
}

fn replay(bytes: &[u8], scan: &frame::Scan, damage: Vec<Damage>) -> Replay {
    let records = scan.records.iter().map(|range| bytes[range.clone()].to_vec()).collect();
    // A damaged header is damage up to the end, so that nothing of the file is good and nothing of it torn.
    let bad_end = scan.damage.last().map_or(0, |stretch| stretch.range.end);
    Replay { records, damage, torn_bytes: bytes.len() - scan.good_end.max(bad_end) }
}

fn damage_of(directory: &Path, generation: u64, stretch: &frame::Stretch) -> Damage {
    let frame::Stretch { range, reason } = stretch;
    let name = format!("{FILE_PREFIX}{generation}-at-{}.damaged", range.start);
    Damage {
        kept_as: parent_of(directory).join(RECOVERED_DIRECTORY).join(name),
        reason: format!("journal {generation}, bytes {} to {}: {reason}", range.start, range.end),
    }
}

/// Copies damaged stretches to files of their own.
fn set_aside(
    disk: &dyn Disk,
    directory: &Path,
    generation: u64,
    bytes: &[u8],
    stretches: &[frame::Stretch],
) -> Result<Vec<Damage>, JournalError> {
    let recovered = parent_of(directory).join(RECOVERED_DIRECTORY);
    disk.create_directory(&recovered).map_err(at(&recovered))?;
    let mut damage = Vec::new();
    for stretch in stretches {
        let found = damage_of(directory, generation, stretch);
        let copy = || -> io::Result<()> {
            let mut file = disk.open(&found.kept_as)?;
            file.truncate(0)?;
            file.append(&bytes[stretch.range.clone()])?;
            file.sync()
        };
        copy().map_err(at(&found.kept_as))?;
        let (path, reason) = (found.kept_as.display(), &found.reason);
        log::warn!("Journal damaged, bytes set aside kept_as={path} reason={reason}");
        damage.push(found);
    }
    disk.sync_directory(&recovered).map_err(at(&recovered))?;
    Ok(damage)
}

/// Removes generations that were never completed; returns the newest complete one.
fn remove_unfinished(disk: &dyn Disk, directory: &Path) -> Result<Option<u64>, JournalError> {
    let mut complete = BTreeSet::new();
    for name in disk.list(directory).map_err(at(directory))? {
        if name.starts_with(FILE_PREFIX) && name.ends_with(UNFINISHED_SUFFIX) {
            let path = directory.join(&name);
            disk.remove(&path).map_err(at(&path))?;
        }
        complete.extend(generation_of(&name));
    }
    Ok(complete.last().copied())
}

/// Removes the generations before `newest`. A failure costs disk space until the next opening, no more.
fn remove_older(disk: &dyn Disk, directory: &Path, newest: u64) {
    for name in disk.list(directory).unwrap_or_default() {
        if generation_of(&name).is_some_and(|generation| generation < newest)
            && let Err(error) = disk.remove(&directory.join(&name))
        {
            log::warn!("Old journal not removed name={name} error={error}");
        }
    }
}

/// The generation of a complete file, by its name.
fn generation_of(name: &str) -> Option<u64> {
    name.strip_prefix(FILE_PREFIX)?.parse().ok()
}

fn generation_path(directory: &Path, generation: u64) -> PathBuf {
    directory.join(format!("{FILE_PREFIX}{generation}"))
}

fn check_length(path: &Path, record: &[u8]) -> Result<(), JournalError> {
    if record.len() <= frame::RECORD_BYTES_MAX {
        return Ok(());
    }
    let text = format!("a record has at most {} bytes, not {}", frame::RECORD_BYTES_MAX, record.len());
    Err(at(path)(io::Error::new(io::ErrorKind::InvalidInput, text)))
}

fn at(path: &Path) -> impl Fn(io::Error) -> JournalError + use<> {
    let path = path.to_owned();
    move |source| JournalError::Io { path: path.clone(), source }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
