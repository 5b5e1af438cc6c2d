//! Our own directory below the volume's: files on their way, uploads, the lock.
//!
//! ```text
//! .tetherfs/lock           taken (flock) for each change of the visible tree, by every process that has the volume open
//! .tetherfs/staged/RANDOM  a file before it is renamed to its place, or an upload on its way out
//! .tetherfs/uploads/ID/    an upload
//! .tetherfs/records/INODE  a record, where the file system has no extended attributes
//! ```
//!
//! A file being written is locked, so that what a crash left can be told from what another process is writing.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;

use crate::store::local::place::WORK_DIRECTORY;
use crate::store::local::record::RecordHome;

/// What was left in `staged` and is unlocked goes when it is this old. Younger ones may not have been locked yet.
const STALE_AGE: Duration = Duration::from_secs(60 * 60);

/// Our own directory, open.
#[derive(Debug)]
pub(crate) struct Workspace {
    staged: OwnedFd,
    pub uploads: OwnedFd,
    pub records: RecordHome,
    lock: Mutex<File>,
}

/// The exclusive right to change the visible tree.
#[derive(Debug)]
pub(crate) struct ChangeGuard<'w> {
    lock: MutexGuard<'w, File>,
}

impl Drop for ChangeGuard<'_> {
    fn drop(&mut self) {
        // Fails only on a file that was never locked.
        let _ = rustix::fs::flock(&*self.lock, FlockOperation::Unlock);
    }
}

/// A file that is not in its place yet; removed by drop.
#[derive(Debug)]
pub(crate) struct Staged<'w> {
    work: &'w Workspace,
    name: String,
    pub file: File,
}

/// What a file being put in its place may meet there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Placement {
    /// A file, which it replaces.
    Replace,
    /// Nothing; `EEXIST` otherwise.
    Create,
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        // Not there any more once it is in its place.
        let _ = rustix::fs::unlinkat(&self.work.staged, &self.name, AtFlags::empty());
    }
}

impl Staged<'_> {
    /// Puts the file in its place.
    pub fn place(self, parent: &OwnedFd, name: &str, placement: Placement) -> io::Result<()> {
        let from = &self.work.staged;
        match placement {
            Placement::Replace => rustix::fs::renameat(from, &self.name, parent, name)?,
            Placement::Create => {
                match rustix::fs::renameat_with(from, &self.name, parent, name, RenameFlags::NOREPLACE) {
                    // Some file systems do not know the flag; a link never replaces anything either.
                    Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                        rustix::fs::linkat(from, &self.name, parent, name, AtFlags::empty())?;
                    }
                    done => done?,
                }
            }
        }
        Ok(())
    }
}

impl Workspace {
    /// Opens our directory, made when absent, and removes what crashes have left.
    pub fn open(root: &OwnedFd) -> io::Result<Workspace> {
        let work = make_directory(root, WORK_DIRECTORY)?;
        let staged = make_directory(&work, "staged")?;
        let uploads = make_directory(&work, "uploads")?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = File::from(rustix::fs::openat(&work, "lock", flags, Mode::RUSR | Mode::WUSR)?);
        let records = match rustix::fs::fsetxattr(&lock, "user.tetherfs", b"probe", XattrFlags::empty()) {
            Ok(()) => RecordHome::Xattr,
            Err(_not_here) => RecordHome::Sidecar(make_directory(&work, "records")?),
        };
        let workspace = Workspace { staged, uploads, records, lock: Mutex::new(lock) };
        workspace.sweep(SystemTime::now())?;
        Ok(workspace)
    }

    /// Keeps records in files, as on a file system without extended attributes.
    #[cfg(test)]
    pub fn with_sidecars(self, root: &OwnedFd) -> io::Result<Workspace> {
        let work = make_directory(root, WORK_DIRECTORY)?;
        Ok(Workspace { records: RecordHome::Sidecar(make_directory(&work, "records")?), ..self })
    }

    /// Waits for the exclusive right to change the visible tree. Holders do not wait for data.
    pub fn lock(&self) -> io::Result<ChangeGuard<'_>> {
        // A panic while it was held left a whole rename, or none, behind.
        let lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match rustix::fs::flock(&*lock, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                // Without file locks only this process is kept in order.
                Ok(()) | Err(Errno::NOTSUP | Errno::NOLCK | Errno::NOSYS) => return Ok(ChangeGuard { lock }),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A new file that is not visible yet.
    pub fn stage(&self) -> io::Result<Staged<'_>> {
        let name = random_name();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // All bits, for the umask to choose from; our directory keeps others out until the file is in its place.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::WGRP | Mode::ROTH | Mode::WOTH;
        let file = File::from(rustix::fs::openat(&self.staged, &name, flags, mode)?);
        // Failure costs only the protection of a file that takes longer than STALE_AGE to write.
        let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        Ok(Staged { work: self, name, file })
    }

    /// A new directory that is not in its place yet, by name and open.
    pub fn stage_directory(&self) -> io::Result<(String, OwnedFd)> {
        let name = random_name();
        let directory = make_directory(&self.staged, &name)?;
        Ok((name, directory))
    }

    /// Makes a staged directory an upload of the same name.
    pub fn place_upload(&self, staged: &str) -> io::Result<()> {
        rustix::fs::renameat(&self.staged, staged, &self.uploads, staged)?;
        rustix::fs::fsync(&self.uploads)?;
        Ok(())
    }

    /// Makes an upload unknown at once. Says under which name it waits for [`Workspace::discard`]; `None` when it was not
    /// known.
    pub fn retire_upload(&self, id: &str) -> io::Result<Option<String>> {
        let name = random_name();
        match rustix::fs::renameat(&self.uploads, id, &self.staged, &name) {
            Ok(()) => {
                rustix::fs::fsync(&self.uploads)?;
                Ok(Some(name))
            }
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a staged directory and the files in it.
    pub fn discard(&self, staged: &str) {
        if let Err(error) = self.remove_directory(staged) {
            log::debug!("Staged directory stays until the next start error={error}");
        }
    }

    fn remove_directory(&self, staged: &str) -> io::Result<()> {
        let directory = open_directory(&self.staged, staged)?;
        for name in names(&directory)? {
            rustix::fs::unlinkat(&directory, &name, AtFlags::empty())?;
        }
        rustix::fs::unlinkat(&self.staged, staged, AtFlags::REMOVEDIR)?;
        Ok(())
    }

    /// Removes what no process is writing any more.
    fn sweep(&self, now: SystemTime) -> io::Result<()> {
        for name in names(&self.staged)? {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let Ok(opened) = rustix::fs::openat(&self.staged, &name, flags, Mode::empty()) else {
                continue;
            };
            let file = File::from(opened);
            let metadata = file.metadata()?;
            let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(metadata.ctime().max(0) as u64);
            let is_old = now.duration_since(changed).is_ok_and(|age| age > STALE_AGE);
            let is_free = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
            match (is_old && is_free, name.to_str()) {
                (true, Ok(name)) if metadata.is_dir() => self.discard(name),
                (true, _) => rustix::fs::unlinkat(&self.staged, &name, AtFlags::empty())?,
                (false, _) => {}
            }
        }
        Ok(())
    }
}

/// Opens a directory below another; a link is not followed (`ENOTDIR`).
pub(crate) fn open_directory(parent: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// The names in a directory, but for `.` and `..`.
pub(crate) fn names(directory: impl AsFd) -> io::Result<Vec<std::ffi::CString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if ![&b"."[..], b".."].contains(&name.as_bytes()) {
            names.push(name);
        }
    }
    Ok(names)
}

/// Opens a directory of ours, made (mode 0700) and synced when absent.
fn make_directory(parent: &OwnedFd, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => rustix::fs::fsync(parent)?,
        Err(Errno::EXIST) => {}
        // A read-only volume that has our directory already can still be opened.
        Err(error) => return open_directory(parent, name).map_err(|_absent| error.into()),
    }
    open_directory(parent, name)
}

fn random_name() -> String {
    format!("{:032x}", fastrand::u128(..))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_sweep_takes_what_is_old_and_nobody_writes() {
        let directory = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(directory.path()).unwrap());
        let work = Workspace::open(&root).unwrap();
        let staged = directory.path().join(WORK_DIRECTORY).join("staged");
        let being_written = work.stage().unwrap();
        fs::write(staged.join("left behind"), b"half").unwrap();
        fs::create_dir(staged.join("upload")).unwrap();
        fs::write(staged.join("upload/00001"), b"part").unwrap();
        let left = || fs::read_dir(&staged).unwrap().count();
        let other_process = Workspace::open(&root).unwrap();
        assert_eq!(left(), 3, "nothing is old yet");
        other_process.sweep(SystemTime::now() + STALE_AGE * 2).unwrap();
        assert_eq!(left(), 1);
        assert!(staged.join(&being_written.name).exists(), "a file being written is locked");
        drop(being_written);
        assert_eq!(left(), 0, "a file that was given up is removed");
    }

    #[test]
    fn creating_never_replaces() {
        let directory = tempfile::tempdir().unwrap();
        let root = OwnedFd::from(File::open(directory.path()).unwrap());
        let work = Workspace::open(&root).unwrap();
        fs::write(directory.path().join("file"), b"theirs").unwrap();
        let taken = work.stage().unwrap().place(&root, "file", Placement::Create).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"theirs");
        work.stage().unwrap().place(&root, "file", Placement::Replace).unwrap();
        assert_eq!(fs::read(directory.path().join("file")).unwrap(), b"");
    }
}
