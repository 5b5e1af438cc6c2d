//! What was found in a state directory, for people and for scripts. No upload id, which is a secret, comes into it.

use std::path::PathBuf;

use serde::Serialize;

use crate::types::{Key, SessionId, UnixTime};
use crate::write::{Prospect, SessionPhase};

/// Everything that was found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct StateReport {
    /// The journal.
    pub journal: JournalReport,
    /// Files that the journal speaks of, in the order in which they were opened.
    pub files: Vec<FileReport>,
    /// Renames that are not finished.
    pub moves: Vec<MoveReport>,
    /// Staging files that no record speaks of.
    pub strays: Vec<StrayReport>,
    /// What has been set aside before.
    pub recovered: Vec<StrayReport>,
}

/// The journal.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct JournalReport {
    /// Good records.
    pub records: usize,
    /// Bytes of a record that a crash cut short, at the end.
    pub torn_bytes: usize,
    /// What cannot be read, or does not fit.
    pub damaged: Vec<UnreadableReport>,
}

/// A part of the journal that is of no use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UnreadableReport {
    /// What is wrong with it.
    pub why: String,
    /// Where a repair, or the next mount, keeps it.
    pub kept_as: PathBuf,
}

/// A file that was left.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FileReport {
    /// Its session.
    pub session: SessionId,
    /// Where it goes.
    pub key: Key,
    /// How far it is; `None` when nothing of it is on its way.
    pub state: Option<SessionPhase>,
    /// Length of its content in bytes.
    pub bytes: u64,
    /// Bytes on disk.
    pub staged_bytes: u64,
    /// When the program first wrote.
    pub since: UnixTime,
    /// What is wrong with its data.
    pub damage: Option<String>,
    /// What becomes of it.
    #[serde(flatten)]
    pub prospect: Prospect,
    /// Why the server was not asked, where it should have been.
    pub unasked: Option<String>,
    /// Uploads of its that the next mount gives up.
    pub leftover_uploads: usize,
}

/// A rename that is not finished; the next mount goes on with it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct MoveReport {
    /// The object.
    pub from: Key,
    /// Its new name.
    pub to: Key,
    /// Whether it is known to be under the new name.
    pub is_copied: bool,
}

/// A local file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StrayReport {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes on disk.
    pub bytes: u64,
}

impl StateReport {
    /// How much is not as it should be: it is set aside by a repair, or by the next mount.
    pub fn problems(&self) -> usize {
        let damaged = self.files.iter().filter(|file| file.is_problem()).count();
        self.journal.damaged.len() + damaged + self.strays.len()
    }
}

impl FileReport {
    /// Whether its data are not what they should be, and are needed.
    pub fn is_problem(&self) -> bool {
        self.damage.is_some() && self.prospect != Prospect::Done
    }
}
