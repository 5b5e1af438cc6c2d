//! An append-only log of opaque records.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::Disk;

/// A journal in a directory: append, group sync, checkpoint, replay.
#[derive(Debug)]
pub struct Journal {}

/// How far the journal had grown after an append; give it to [`Journal::sync`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Position(pub u64);

/// What a journal held when it was opened.
#[derive(Debug, Default)]
pub struct Replay {
    /// Every good record, in the order of its append.
    pub records: Vec<Vec<u8>>,
    /// What was found damaged, other than a torn tail. The damaged bytes have been set aside.
    pub damage: Vec<Damage>,
}

/// A stretch of a journal file that could not be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// Where the bytes have been set aside.
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

impl Journal {
    /// Opens the journal in `directory`, made when absent, and reads what it holds.
    pub fn open(_disk: Arc<dyn Disk>, _directory: &Path) -> Result<(Journal, Replay), JournalError> {
        unimplemented!()
    }

    /// Appends a record. When this returns, the record survives the death of this process.
    pub fn append(&self, _record: &[u8]) -> Result<Position, JournalError> {
        unimplemented!()
    }

    /// Waits until everything up to `position` survives power loss. Calls that wait together share one sync.
    /// Blocks; callers on a runtime use its blocking threads.
    pub fn sync(&self, _position: Position) -> Result<(), JournalError> {
        unimplemented!()
    }

    /// Bytes appended since the last checkpoint, by which callers decide when to take the next.
    pub fn bytes_since_checkpoint(&self) -> u64 {
        unimplemented!()
    }

    /// Replaces everything appended so far by `records`, atomically and synced.
    pub fn checkpoint(&self, _records: &[Vec<u8>]) -> Result<(), JournalError> {
        unimplemented!()
    }
}
