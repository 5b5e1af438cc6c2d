//! One process a directory.
//!
//! The right is a `flock` on the file `lease` in the directory, so the kernel gives it back whatever way the holder ends.
//! The file is never removed: a holder could otherwise have the lock on a file that others no longer find.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::durable::disk::{Disk, RealDisk};

/// Name of the locked file.
const LEASE_FILE: &str = "lease";
/// Longest holder text that is read back.
const HOLDER_BYTES_MAX: u64 = 32;

/// The exclusive right to a directory, held until dropped or until the process dies (`flock`).
#[derive(Debug)]
pub struct Lease {
    /// Locked; closing it gives the lease back.
    _file: File,
}

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
    pub fn acquire(directory: &Path) -> Result<Lease, LeaseError> {
        let failed = |source: io::Error| LeaseError::Io { directory: directory.to_owned(), source };
        RealDisk.create_directory(directory).map_err(failed)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(directory.join(LEASE_FILE))
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LeaseError::Held { directory: directory.to_owned(), holder: holder(&file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(failed)?;
        Ok(Lease { _file: file })
    }
}

/// Who holds it, as far as can be told: between lock and pid there is a moment without a name.
fn holder(file: &File) -> String {
    let mut text = String::new();
    match file.take(HOLDER_BYTES_MAX).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "(unknown, just starting)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    /// Set for the child process of `another_process_is_named_and_death_releases`.
    const CHILD_DIRECTORY: &str = "TETHERFS_TEST_LEASE_DIRECTORY";

    fn holder_named_by(directory: &Path) -> String {
        match Lease::acquire(directory) {
            Err(LeaseError::Held { holder, .. }) => holder,
            other => panic!("the lease is held, but: {other:?}"),
        }
    }

    #[test]
    fn one_holder_at_a_time() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("state");
        let lease = Lease::acquire(&directory).unwrap();
        assert_eq!(holder_named_by(&directory), std::process::id().to_string());
        drop(lease);
        Lease::acquire(&directory).unwrap();
    }

    #[test]
    fn an_unusable_directory_is_an_error_of_its_own() {
        let temporary = tempfile::tempdir().unwrap();
        let file = temporary.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(Lease::acquire(&file.join("state")), Err(LeaseError::Io { .. })));
    }

    #[test]
    fn child_holds_until_killed() {
        let Some(directory) = std::env::var_os(CHILD_DIRECTORY) else {
            return;
        };
        let _lease = Lease::acquire(Path::new(&directory)).unwrap();
        println!("held");
        // Ends with the parent, which holds the other end of standard input.
        let _ = io::stdin().read_line(&mut String::new());
    }

    #[test]
    fn another_process_is_named_and_death_releases() {
        let temporary = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durable::lease::tests::child_holds_until_killed", "--nocapture"])
            .env(CHILD_DIRECTORY, temporary.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let held = output.lines().any(|line| line.unwrap().ends_with("held"));
        assert!(held, "the child took the lease");
        assert_eq!(holder_named_by(temporary.path()), child.id().to_string());
        child.kill().unwrap();
        child.wait().unwrap();
        Lease::acquire(temporary.path()).unwrap();
    }
}
