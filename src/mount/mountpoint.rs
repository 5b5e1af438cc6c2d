//! The directory to mount on: what is there already, and whether it can be mounted on.
//!
//! A mount whose daemon was killed answers everything with "Transport endpoint is not connected". If it is one of ours
//! it is taken off, so that mounting again is all that is needed after a crash.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

use crate::control::{Client, ClientError, Command as Ask};
use crate::observe::task;

/// How our mounts are called in the mount table.
const OUR_TYPE: &str = "fuse.tetherfs";
const MOUNT_TABLE: &str = "/proc/self/mountinfo";
/// Dead mounts on top of each other that are taken off before we give up.
const DEAD_MOUNTS_MAX: usize = 8;
/// Longest wait for the process of a finished mount to end.
const PREDECESSOR_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest wait for the kernel to tell whether it has lost the process behind a mount; it knows at once.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
pub enum MountpointError {
    /// It does not exist.
    #[error("the mountpoint {} does not exist", .0.display())]
    Absent(PathBuf),
    /// It is something else.
    #[error("the mountpoint {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Its files would be hidden.
    #[error("the mountpoint {} is not empty", .0.display())]
    NotEmpty(PathBuf),
    /// There is a mount of ours on it.
    #[error("{} is already mounted on {}{}", source_name, mountpoint.display(), pid.map_or(String::new(), |pid| format!(" by process {pid}")))]
    Mounted {
        /// Where.
        mountpoint: PathBuf,
        /// What.
        source_name: String,
        /// Who, when it answers.
        pid: Option<u32>,
    },
    /// A mount whose process is dead is on it and cannot be taken off.
    #[error("a dead mount ({kind}) is on {}: {reason}", mountpoint.display())]
    Dead {
        /// Where.
        mountpoint: PathBuf,
        /// The file system's type.
        kind: String,
        /// Why it is still there.
        reason: String,
    },
    /// The system refuses to look at it.
    #[error("cannot use the mountpoint {}: {source}", mountpoint.display())]
    Io {
        /// Where.
        mountpoint: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl MountpointError {
    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            MountpointError::Absent(path) => format!("make it: mkdir -p {}", path.display()),
            MountpointError::NotADirectory(_) => "name an empty directory".to_owned(),
            MountpointError::NotEmpty(_) => {
                "mounting would hide its files: move them away, or choose an empty directory".to_owned()
            }
            MountpointError::Mounted { mountpoint, .. } => {
                format!("unmount it first: tetherfs unmount {}", mountpoint.display())
            }
            MountpointError::Dead { mountpoint, .. } => {
                format!("take it off: fusermount3 -uz {0}, or as root: umount -l {0}", mountpoint.display())
            }
            MountpointError::Io { .. } => "check the path and its permissions".to_owned(),
        }
    }
}

/// A line of the mount table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MountEntry {
    /// Where.
    pub mountpoint: PathBuf,
    /// The file system's type, as `fuse.tetherfs`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

impl MountEntry {
    /// Whether it is one of tetherfs.
    pub fn is_ours(&self) -> bool {
        self.kind == OUR_TYPE
    }
}

/// Every mount of tetherfs on this machine, whoever's it is.
pub fn mounts_of_ours() -> io::Result<Vec<MountEntry>> {
    Ok(parse_table(&fs::read(MOUNT_TABLE)?).into_iter().filter(MountEntry::is_ours).collect())
}

/// What is mounted exactly there; the topmost, when there are several.
pub fn mounted_at(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    let table = fs::read(MOUNT_TABLE)?;
    Ok(parse_table(&table).into_iter().rfind(|entry| entry.mountpoint == mountpoint))
}

/// Whether there is a mount of ours whose process is dead.
pub fn is_dead_mount_of_ours(mountpoint: &Path) -> io::Result<bool> {
    let is_ours = mounted_at(mountpoint)?.is_some_and(|entry| entry.is_ours());
    Ok(is_ours && is_disconnected(mountpoint))
}

/// Checks that `mountpoint` can be mounted on and takes dead mounts of ours off it. A predecessor that was unmounted
/// by umount(8) and is still uploading hands its uploads over. Returns the path without symbolic links.
pub fn prepare(mountpoint: &Path, control_directories: &[PathBuf]) -> Result<PathBuf, MountpointError> {
    let mountpoint = resolve(mountpoint)?;
    take_off_the_dead(&mountpoint, control_directories)?;
    relieve_predecessor(&mountpoint, control_directories);
    let wrong = |source| MountpointError::Io { mountpoint: mountpoint.clone(), source };
    if !fs::metadata(&mountpoint).map_err(wrong)?.is_dir() {
        return Err(MountpointError::NotADirectory(mountpoint));
    }
    if fs::read_dir(&mountpoint).map_err(wrong)?.next().is_some() {
        return Err(MountpointError::NotEmpty(mountpoint));
    }
    Ok(mountpoint)
}

/// The path without symbolic links; of a dead mount, whose own directory cannot be asked, as far as it goes.
pub fn resolve(mountpoint: &Path) -> Result<PathBuf, MountpointError> {
    let wrong = |source| MountpointError::Io { mountpoint: mountpoint.to_owned(), source };
    match fs::canonicalize(mountpoint) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(MountpointError::Absent(mountpoint.to_owned()))
        }
        Err(error) if error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()) => {
            match (mountpoint.parent(), mountpoint.file_name()) {
                (Some(parent), Some(name)) => Ok(fs::canonicalize(parent).map_err(wrong)?.join(name)),
                (None | Some(_), _) => Err(wrong(error)),
            }
        }
        Err(error) => Err(wrong(error)),
    }
}

/// Takes a mount off whatever its state: new calls fail at once, open files stay until they are closed.
pub fn detach(mountpoint: &Path) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?);
    }
    let run = Command::new("fusermount3").arg("-uz").arg("--").arg(mountpoint).stdin(Stdio::null()).output();
    let output = run.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("fusermount3 is not installed (package fuse3)"),
        _ => error,
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn take_off_the_dead(mountpoint: &Path, control_directories: &[PathBuf]) -> Result<(), MountpointError> {
    let wrong = |source| MountpointError::Io { mountpoint: mountpoint.to_owned(), source };
    for _ in 0..DEAD_MOUNTS_MAX {
        let Some(entry) = mounted_at(mountpoint).map_err(wrong)? else {
            return Ok(());
        };
        let is_ours = entry.is_ours();
        let mounted = |entry: MountEntry, pid| MountpointError::Mounted {
            mountpoint: entry.mountpoint,
            source_name: entry.source,
            pid,
        };
        match Client::connect(control_directories, mountpoint) {
            Ok(client) if is_ours => return Err(mounted(entry, Some(client.hello().pid))),
            // It listens but does not talk: to look at its mount could hang.
            Err(ClientError::Silent(_) | ClientError::Strange | ClientError::Refused { .. }) if is_ours => {
                return Err(mounted(entry, None));
            }
            Ok(_) | Err(_) => {}
        }
        let dead = |reason: String| MountpointError::Dead {
            mountpoint: mountpoint.to_owned(),
            kind: entry.kind.clone(),
            reason,
        };
        match (is_ours, is_disconnected(mountpoint)) {
            (true, true) => {
                log::info!("Taking off the mount of a dead tetherfs on {}", mountpoint.display());
                detach(mountpoint).map_err(|error| dead(format!("it cannot be taken off: {error}")))?;
            }
            (true, false) => return Err(mounted(entry, None)),
            (false, true) => return Err(dead("it is not one of tetherfs".to_owned())),
            // Another file system: an empty directory of it can be mounted on.
            (false, false) => return Ok(()),
        }
    }
    Err(MountpointError::Dead {
        mountpoint: mountpoint.to_owned(),
        kind: OUR_TYPE.to_owned(),
        reason: format!("more than {DEAD_MOUNTS_MAX} lie on top of each other"),
    })
}

/// Asks a daemon that only uploads any more to leave the rest to us. Best effort: the lease decides in the end.
fn relieve_predecessor(mountpoint: &Path, control_directories: &[PathBuf]) {
    let Ok(mut predecessor) = Client::connect(control_directories, mountpoint) else {
        return;
    };
    log::info!("Taking the uploads over from process {}", predecessor.hello().pid);
    match predecessor.call(Ask::Unmount { wait_ms: Some(0) }, Some(PREDECESSOR_WAIT_MAX)) {
        Ok(_) => predecessor.wait_for_end(PREDECESSOR_WAIT_MAX),
        Err(error) => log::warn!("The former mount does not let go: {error}"),
    }
}

/// Whether the kernel has lost the process behind a mount. A process that is there and does not answer would keep us
/// waiting for ever, so a thread asks; it ends with this process at the latest.
fn is_disconnected(mountpoint: &Path) -> bool {
    let (sender, answer) = mpsc::sync_channel(1);
    let path = mountpoint.to_owned();
    let asked = task::thread("look-at-mount", move || {
        let is_lost = fs::metadata(&path)
            .is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()));
        // Nobody takes an answer that comes too late.
        let _ = sender.send(is_lost);
    });
    asked.is_ok() && answer.recv_timeout(LOOK_MAX).unwrap_or(false)
}

/// Reads proc_pid_mountinfo(5): fields by blanks, optional ones up to a lone `-`, then type and source.
fn parse_table(table: &[u8]) -> Vec<MountEntry> {
    let text = String::from_utf8_lossy(table);
    let entry = |line: &str| {
        let mut fields = line.split(' ');
        let mountpoint = fields.nth(4)?;
        let mut rest = fields.skip_while(|field| *field != "-").skip(1);
        let kind = rest.next()?.to_owned();
        Some(MountEntry { mountpoint: unescape(mountpoint).into(), kind, source: unescape(rest.next()?) })
    };
    text.lines().filter_map(entry).collect()
}

/// Undoes the octal escapes of the mount table: `\040` is a blank.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = code.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_mount_table_is_understood() {
        let table = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
            90 22 0:51 / /mnt/my\\040photos rw,nosuid shared:5 master:2 - fuse.tetherfs s3://b/p\\0542024 rw,user_id=0\n\
            91 22 0:52 / /short - fuse\n\
            garbage\n";
        let entries = parse_table(table);
        assert_eq!(entries.len(), 2);
        assert_eq!(
            entries[1],
            MountEntry {
                mountpoint: "/mnt/my photos".into(),
                kind: "fuse.tetherfs".to_owned(),
                source: "s3://b/p,2024".to_owned(),
            }
        );
        assert_eq!(unescape("a\\"), "a\\");
        assert_eq!(unescape("\\999x"), "\\999x");
    }

    #[test]
    fn only_empty_directories_are_mounted_on() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let empty = root.join("empty");
        fs::create_dir(&empty).unwrap();
        symlink(&empty, root.join("link")).unwrap();
        fs::write(root.join("file"), "x").unwrap();
        assert_eq!(prepare(&empty, &[]).unwrap(), empty);
        assert_eq!(prepare(&root.join("link"), &[]).unwrap(), empty, "symbolic links are followed");
        let error = prepare(&root, &[]).unwrap_err();
        assert!(matches!(error, MountpointError::NotEmpty(_)), "{error}");
        let error = prepare(&root.join("file"), &[]).unwrap_err();
        assert!(matches!(error, MountpointError::NotADirectory(_)), "{error}");
        let error = prepare(&root.join("absent"), &[]).unwrap_err();
        assert!(matches!(error, MountpointError::Absent(_)), "{error}");
        assert!(error.hint().starts_with("make it: mkdir -p /"), "{}", error.hint());
    }

    #[test]
    fn the_own_mount_table_can_be_read() {
        assert!(mounted_at(Path::new("/proc")).unwrap().is_some_and(|entry| entry.kind == "proc"));
        assert!(mounted_at(Path::new("/no/such/place")).unwrap().is_none());
        assert!(!is_dead_mount_of_ours(Path::new("/proc")).unwrap());
    }
}
