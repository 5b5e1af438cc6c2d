//! One process a directory.

use std::path::{Path, PathBuf};

/// The exclusive right to a directory, held until dropped or until the process dies (`flock`).
#[derive(Debug)]
pub struct Lease {}

/// Why a lease was not given.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Another process has it.
    #[error("{} is in use by process {holder}: unmount that one first, or give this mount a --state-dir of its own", directory.display())]
    Held {
        /// The directory.
        directory: PathBuf,
        /// Its holder's pid, as the holder wrote it.
        holder: String,
    },
    /// The disk refuses.
    #[error("cannot take the lease on {}: {source}", directory.display())]
    Io {
        /// The directory.
        directory: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Lease {
    /// Takes the lease on a directory, which is made (mode 0700) when absent.
    pub fn acquire(_directory: &Path) -> Result<Lease, LeaseError> {
        unimplemented!()
    }
}
