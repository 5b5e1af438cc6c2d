//! The ledger and its journal as one: nothing is folded that is not written down, nothing written down that is not
//! folded, and both in the same order.
//!
//! Locks: a file's own lock is taken before the book's, never after. The book's lock is held across an append (a local
//! file call) and across a checkpoint, never across a wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::durable::{Journal, JournalError, Position};
use crate::types::SessionId;
use crate::write::Error;
use crate::write::upload::{FileId, Ledger, Misfit, Record, Session, SessionEvent};

/// Journal growth after which a checkpoint is taken, in bytes.
const CHECKPOINT_BYTES: u64 = 4 << 20;

/// The ledger, written down.
#[derive(Debug)]
pub struct Book {
    journal: Journal,
    ledger: Mutex<Ledger>,
    /// How far the journal has grown. Written under the ledger's lock.
    position: AtomicU64,
}

/// Why a record was not taken.
#[derive(Debug)]
pub enum BookError {
    /// It does not fit what is known, for it comes too late. Nothing was written.
    Misfit(Misfit),
    /// The journal cannot be written.
    Journal(Error),
}

impl Book {
    /// A book over a journal and the fold of its records.
    pub fn new(journal: Journal, ledger: Ledger) -> Book {
        Book { journal, ledger: Mutex::new(ledger), position: AtomicU64::new(0) }
    }

    /// Writes a record down and folds it in. Survives the death of this process when it returns.
    pub fn record(&self, record: &Record) -> Result<Position, BookError> {
        let mut ledger = self.lock();
        ledger.check(record).map_err(BookError::Misfit)?;
        let position = match self.journal.append(&record.encode()) {
            Ok(position) => position,
            Err(error) => {
                log::debug!("A record cannot be appended: {error}");
                // A journal that failed takes nothing until it is rewritten as a whole. What keeps it from that is what
                // is wrong now.
                self.rewrite(&ledger).map_err(BookError::Journal)?;
                self.journal
                    .append(&record.encode())
                    .map_err(|error| BookError::Journal(journal_error(&error)))?
            }
        };
        self.position.store(position.0, Ordering::Relaxed);
        ledger.apply(record).expect("it was checked under the same lock");
        Ok(position)
    }

    /// Writes down what happened to a file's upload.
    pub fn session_event(&self, file: FileId, event: SessionEvent) -> Result<Position, BookError> {
        self.record(&Record::Session { file, event })
    }

    /// Looks at the ledger.
    pub fn look<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock())
    }

    /// Looks at a file's upload.
    pub fn upload<T>(&self, file: FileId, look: impl FnOnce(&Session) -> T) -> Option<T> {
        self.look(|ledger| ledger.upload(file).map(look))
    }

    /// Asks the server again what it has of a file's upload. Not a fact, so not written down.
    pub fn doubt_parts(&self, file: FileId) {
        if let Some(entry) = self.lock().files.get_mut(&file) {
            entry.upload.doubt_parts();
        }
    }

    /// An id never given out before in this state directory.
    pub fn next_id(&self) -> u64 {
        let mut ledger = self.lock();
        ledger.next_id += 1;
        ledger.next_id - 1
    }

    /// A session id never given out before.
    pub fn next_session(&self) -> SessionId {
        SessionId(self.next_id())
    }

    /// Where everything that has been recorded so far is.
    pub fn position(&self) -> Position {
        Position(self.position.load(Ordering::Relaxed))
    }

    /// Waits until everything up to `position` survives power loss. Blocks.
    pub fn sync(&self, position: Position) -> Result<(), Error> {
        match self.journal.sync(position) {
            Ok(()) => Ok(()),
            // What was not synced may be lost from the file; the ledger has it all.
            Err(error) => {
                log::debug!("The journal cannot be synced: {error}");
                self.rewrite(&self.lock())
            }
        }
    }

    /// Whether the journal has grown enough for a checkpoint.
    pub fn wants_checkpoint(&self) -> bool {
        self.journal.bytes_since_checkpoint() > CHECKPOINT_BYTES
    }

    /// Rewrites the journal as short as it can be. Blocks.
    pub fn checkpoint(&self) -> Result<(), Error> {
        self.rewrite(&self.lock())
    }

    fn rewrite(&self, ledger: &Ledger) -> Result<(), Error> {
        let records: Vec<Vec<u8>> = ledger.checkpoint().iter().map(Record::encode).collect();
        self.journal.checkpoint(&records).map_err(|error| journal_error(&error))
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no holder of the lock panics")
    }
}

impl From<BookError> for Error {
    fn from(error: BookError) -> Error {
        match error {
            BookError::Misfit(misfit) => Error::Staging { errno: libc::ESTALE, detail: misfit.to_string() },
            BookError::Journal(error) => error,
        }
    }
}

/// The journal's failure as the program that writes sees it.
pub fn journal_error(error: &JournalError) -> Error {
    let errno = match error {
        JournalError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        JournalError::Newer { .. } => libc::EIO,
    };
    Error::Staging { errno, detail: error.to_string() }
}
