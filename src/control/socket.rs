//! Where control sockets are, what they are called, and whether they may be trusted.
//!
//! A socket's name is a hash of its mountpoint, because the address of a Unix socket has room for 107 bytes only.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::types::Sha256;

/// `sun_path` of unix(7), less its final NUL.
const ADDRESS_BYTES_MAX: usize = 107;
const NAME_HASH_DIGITS: usize = 16;
const SUFFIX: &str = "sock";

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// None of the directories can be used.
    #[error(
        "cannot make a control socket: {reasons}; set TETHERFS_RUNTIME_DIR to a short path to a directory of yours"
    )]
    NoDirectory {
        /// One reason a directory.
        reasons: String,
    },
    /// A daemon answers for this mountpoint.
    #[error("another tetherfs answers for this mountpoint at {}", path.display())]
    InUse {
        /// Its socket.
        path: PathBuf,
    },
}

/// The file name of the socket of a mount.
pub fn socket_name(mountpoint: &Path) -> String {
    let hash = Sha256::of(mountpoint.as_os_str().as_bytes()).to_string();
    format!("{}.{SUFFIX}", &hash[..NAME_HASH_DIGITS])
}

/// The first directory that can hold a socket of this name, made (mode 0700) when absent.
pub fn place(directories: &[PathBuf], name: &str) -> Result<PathBuf, ControlError> {
    let mut reasons = Vec::new();
    for directory in directories {
        let path = directory.join(name);
        if path.as_os_str().len() > ADDRESS_BYTES_MAX {
            reasons.push(format!("{} is too long", directory.display()));
            continue;
        }
        match make_private(directory) {
            Ok(()) => return Ok(path),
            Err(error) => reasons.push(format!("{}: {error}", directory.display())),
        }
    }
    Err(ControlError::NoDirectory { reasons: reasons.join(", ") })
}

/// Whether a daemon listens at `path`. A socket whose daemon is dead is removed.
pub fn is_alive(path: &Path) -> bool {
    match UnixStream::connect(path) {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if let Err(error) = fs::remove_file(path) {
                log::debug!("Cannot remove the stale socket {}: {error}", path.display());
            }
            false
        }
        Err(_) => false,
    }
}

/// The sockets in those of the directories that can be trusted.
pub fn all(directories: &[PathBuf]) -> Vec<PathBuf> {
    let trusted = directories.iter().filter(|directory| check_private(directory).is_ok());
    let mut found: Vec<PathBuf> = trusted
        .filter_map(|directory| fs::read_dir(directory).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|e| e == SUFFIX))
        .collect();
    found.sort();
    found
}

/// Whether clients may believe what listens in this directory.
pub fn check_private(directory: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(directory)?;
    let us = rustix::process::geteuid().as_raw();
    let refuse = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned()));
    if !found.is_dir() {
        return refuse("it is not a directory");
    }
    if found.uid() != us && found.uid() != 0 {
        return refuse("it belongs to another user");
    }
    if found.mode() & 0o022 != 0 {
        return refuse("others may write in it");
    }
    Ok(())
}

fn make_private(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    check_private(directory)?;
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn the_first_usable_directory_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let long = folder.path().join("x".repeat(120));
        let open_to_all = folder.path().join("open");
        fs::create_dir(&open_to_all).unwrap();
        fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o777)).unwrap();
        let link = folder.path().join("link");
        symlink("/", &link).unwrap();
        let good = folder.path().join("good");
        let refused = [long, open_to_all, link, folder.path().join("absent/deep")];
        let error = place(&refused, "n.sock").unwrap_err().to_string();
        assert!(error.contains("too long") && error.contains("others may write"), "{error}");
        let directories = [&refused[..], std::slice::from_ref(&good)].concat();
        assert_eq!(place(&directories, "n.sock").unwrap(), good.join("n.sock"));
        assert_eq!(fs::metadata(&good).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn sockets_of_the_dead_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(is_alive(&path) && path.exists());
        drop(listener);
        assert!(!is_alive(&path));
        assert!(!path.exists());
        assert!(!is_alive(&path), "absent is not alive");
    }

    #[test]
    fn names_are_short_and_differ() {
        let long = PathBuf::from(format!("/{}", "d/".repeat(2000)));
        assert_eq!(socket_name(&long).len(), NAME_HASH_DIGITS + 5);
        assert_ne!(socket_name(Path::new("/a")), socket_name(Path::new("/b")));
    }
}
