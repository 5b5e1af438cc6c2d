//! Looking at a state directory that is not mounted, and setting aside what is damaged.
//!
//! By the same fold and the same checks as a mount, which would do with each file what is told here. Nothing is changed but
//! by [`Examination::repair`], which deletes nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::{Journal, RealDisk};
use crate::observe::Metrics;
use crate::store::{Capabilities, ErrorKind, ObjectStore};
use crate::types::ByteSize;
use crate::write::Error;
use crate::write::context::book::{Book, journal_error};
use crate::write::file::local_error;
use crate::write::recovery::left::LeftFile;
use crate::write::recovery::{
    JOURNAL_DIRECTORY, JournalReport, MoveReport, Prospect, RECOVERED_DIRECTORY, STAGING_DIRECTORY,
    StateReport, StrayReport, UnreadableReport, fold,
};
use crate::write::staging::StagingArea;
use crate::write::upload::{Ledger, MoveState, Rules};

/// A state directory that was looked at. Whoever has it holds the directory's lease.
pub struct Examination {
    directory: PathBuf,
    rules: Rules,
    area: Arc<StagingArea>,
    journal: JournalReport,
    ledger: Ledger,
    files: Vec<LeftFile>,
    strays: Vec<u64>,
}

impl Examination {
    /// Whether this is a state directory that something was ever staged in.
    pub fn is_possible(directory: &Path) -> bool {
        [JOURNAL_DIRECTORY, STAGING_DIRECTORY].iter().any(|name| directory.join(name).is_dir())
    }

    /// Reads the journal, and all that is staged. `capabilities` are those of the store, as far as they are known.
    /// `progress` is told how many staged bytes of how many have been read. Blocks.
    pub fn of(
        directory: &Path,
        capabilities: &Capabilities,
        part_bytes: ByteSize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Examination, Error> {
        let (journal, staging) = (directory.join(JOURNAL_DIRECTORY), directory.join(STAGING_DIRECTORY));
        let replay = Journal::read(&RealDisk, &journal).map_err(|error| journal_error(&error))?;
        let replay = replay.unwrap_or_default();
        let (mut ledger, unusable) = fold(&replay.records)?;
        ledger.files.values_mut().for_each(|entry| entry.upload.restart());
        let recovered = directory.join(RECOVERED_DIRECTORY);
        let good = replay.records.len() - unusable.len();
        let damaged = replay
            .damage
            .into_iter()
            .map(|damage| UnreadableReport { why: damage.reason, kept_as: damage.kept_as });
        let unusable = unusable
            .iter()
            .map(|record| UnreadableReport { why: record.why.clone(), kept_as: record.kept_as(&recovered) });
        let journal = JournalReport {
            records: good,
            torn_bytes: replay.torn_bytes,
            damaged: damaged.chain(unusable).collect(),
        };
        let area =
            StagingArea::open(Arc::new(RealDisk), &staging, ByteSize(u64::MAX), Arc::new(Metrics::default()))
                .map_err(|error| local_error("reading the staging directory", &error))?;
        let known: BTreeSet<u64> = ledger.files.keys().map(|file| file.0).collect();
        let strays = area.leftovers().into_iter().filter(|id| !known.contains(id)).collect();
        let rules = Rules::new(capabilities, part_bytes);
        let files = look_at_files(&ledger, &area, &rules, progress);
        Ok(Examination { directory: directory.to_owned(), rules, area, journal, ledger, files, strays })
    }

    /// Whether the fate of any file depends on what the server says.
    pub fn has_questions(&self) -> bool {
        self.files.iter().any(LeftFile::has_question)
    }

    /// Asks the server about each file whose fate depends on what it says. Once it cannot be reached, it is asked no more.
    pub async fn ask(&mut self, store: &dyn ObjectStore) {
        let mut unreachable: Option<String> = None;
        for file in self.files.iter_mut().filter(|file| file.has_question()) {
            if let Some(why) = &unreachable {
                file.unasked = Some(why.clone());
                continue;
            }
            let Err(error) = file.ask(store, &self.area, &self.rules).await else { continue };
            file.unasked = Some(error.to_string());
            match error.kind {
                ErrorKind::Unavailable { .. } | ErrorKind::Denied | ErrorKind::NoVolume => {
                    unreachable = file.unasked.clone();
                }
                ErrorKind::NotFound
                | ErrorKind::Precondition
                | ErrorKind::UploadGone
                | ErrorKind::Ambiguous
                | ErrorKind::TooLarge
                | ErrorKind::Refused
                | ErrorKind::Protocol
                | ErrorKind::Integrity
                | ErrorKind::Unsupported => {}
            }
        }
    }

    /// What was found.
    pub fn report(&self) -> StateReport {
        let strays = self.strays.iter().flat_map(|id| self.area.files_of(*id).unwrap_or_default());
        let moves = self.ledger.moves.values().map(|one| MoveReport {
            from: one.source.key.clone(),
            to: one.target.clone(),
            is_copied: match one.state {
                MoveState::Intended => false,
                MoveState::Copied(_) => true,
            },
        });
        StateReport {
            journal: self.journal.clone(),
            files: self.files.iter().map(|file| file.report(&self.area, &self.rules)).collect(),
            moves: moves.collect(),
            strays: strays.map(local_file).collect(),
            recovered: files_in(&self.directory.join(RECOVERED_DIRECTORY)),
        }
    }

    /// Sets aside what is damaged or unknown, and leaves a journal that opens cleanly. What may be in the bucket already is
    /// left to the next mount, which looks first. Returns where everything is kept. Blocks.
    pub fn repair(self) -> Result<Vec<PathBuf>, Error> {
        let recovered = self.directory.join(RECOVERED_DIRECTORY);
        let journal = self.directory.join(JOURNAL_DIRECTORY);
        let (journal, replay) =
            Journal::open(Arc::new(RealDisk), &journal).map_err(|error| journal_error(&error))?;
        let mut kept: Vec<PathBuf> = replay.damage.into_iter().map(|damage| damage.kept_as).collect();
        let (ledger, unusable) = fold(&replay.records)?;
        for record in unusable {
            let path = record.set_aside(&RealDisk, &recovered);
            kept.push(path.map_err(|error| local_error("setting a journal record aside", &error))?);
        }
        let book = Book::new(journal, ledger);
        // Written down before the data go, as a mount does: one that finds them still there moves them.
        for file in &self.files {
            if let (Prospect::SetAside, Some(event)) =
                (file.prospect(&self.rules), file.end_of_damaged(&recovered))
            {
                book.session_event(file.file, event)?;
            }
        }
        book.checkpoint()?;
        let damaged = self.files.iter().filter(|file| file.prospect(&self.rules) == Prospect::SetAside);
        for id in damaged.map(|file| file.file.0).chain(self.strays.iter().copied()) {
            let moved = self.area.quarantine(id, &recovered);
            kept.extend(moved.map_err(|error| local_error("setting staged data aside", &error))?);
        }
        Ok(kept)
    }
}

fn look_at_files(
    ledger: &Ledger,
    area: &Arc<StagingArea>,
    rules: &Rules,
    progress: &mut dyn FnMut(u64, u64),
) -> Vec<LeftFile> {
    let staged: Vec<u64> = ledger.files.keys().map(|file| area.bytes_of(file.0).unwrap_or(0)).collect();
    let total = staged.iter().sum();
    let mut done = 0;
    let mut files = Vec::with_capacity(staged.len());
    for ((file, entry), bytes) in ledger.files.iter().zip(staged) {
        progress(done, total);
        files.push(LeftFile::look_at(area, rules, *file, entry));
        done += bytes;
    }
    files
}

fn files_in(directory: &Path) -> Vec<StrayReport> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().map(local_file).collect()
}

fn local_file(path: PathBuf) -> StrayReport {
    let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
    StrayReport { path, bytes }
}
