//! Replacing a file as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::durable::disk::{Disk, RealDisk, parent_of};

/// Writes `bytes` under `path` (mode 0600): to a temporary file beside it, synced, renamed over it, directory synced.
/// After a crash the file has the old or the new content.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_synced(&temporary, bytes).and_then(|()| fs::rename(&temporary, path));
    if let Err(error) = written {
        // The failure that counts is the first one; what cannot be removed either is a small file nobody reads.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    RealDisk.sync_directory(parent_of(path))
}

/// A name that no other writer of this process or of another uses.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display())));
    };
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}-{}.tmp", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    Ok(path.with_file_name(temporary))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replaces_the_whole_content_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        write_atomic(&path, b"a longer first content").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(RealDisk.list(directory.path()).unwrap(), ["state"]);
    }

    #[test]
    fn a_failure_leaves_the_old_state() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        fs::create_dir(&path).unwrap();
        assert!(write_atomic(&path, b"x").is_err(), "a file cannot replace a directory");
        assert_eq!(RealDisk.list(directory.path()).unwrap(), ["state"]);
        assert!(write_atomic(Path::new("/"), b"x").is_err());
    }

    #[test]
    fn writers_at_the_same_time_do_not_mix() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        std::thread::scope(|scope| {
            for byte in 0..8u8 {
                let path = &path;
                scope.spawn(move || (0..5).for_each(|_| write_atomic(path, &vec![byte; 4096]).unwrap()));
            }
        });
        let content = fs::read(&path).unwrap();
        assert_eq!(content, vec![content[0]; 4096]);
        assert_eq!(RealDisk.list(directory.path()).unwrap(), ["state"]);
    }
}
