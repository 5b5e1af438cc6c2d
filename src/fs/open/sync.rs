//! Sealing everything that has changed, as `fsync` of every file would. The kernel does not hand sync(2) on: `fuser` has
//! no syncfs.

use crate::fs::FileSystem;
use crate::fs::open::Settle;
use crate::types::{Key, SessionId};
use crate::write;

/// What came of sealing everything.
#[derive(Debug)]
pub struct Sealing {
    /// What is sealed has sessions below this one.
    pub before: SessionId,
    /// Files whose changes could not be sealed.
    pub unsealed: Vec<Unsealed>,
}

/// A file whose changes could not be sealed.
#[derive(Debug)]
pub struct Unsealed {
    /// Its name.
    pub key: Key,
    /// Why.
    pub error: write::Error,
}

impl FileSystem {
    /// Takes the present content of every changed file for upload, also of those that are open. Blocks on the local disk.
    pub fn seal_all(&self) -> Sealing {
        let mut unsealed = Vec::new();
        for state in self.files.all() {
            let Some(file) = self.settled(&state, Settle::EvenUntouched) else {
                continue;
            };
            if let Err(error) = file.seal() {
                log::error!("Changes to {} cannot be taken for upload: {error}", file.key());
                unsealed.push(Unsealed { key: file.key(), error });
            }
        }
        Sealing { before: self.writer.mark(), unsealed }
    }
}
