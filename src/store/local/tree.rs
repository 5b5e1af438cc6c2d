//! The visible tree: finding objects in it and changing it.
//!
//! Every path is opened part by part, each relative to its directory and without following links. That needs no newer
//! system call than `openat`, and holds also while others rename directories. All calls block.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::store::local::place::{Place, PlaceKind};
use crate::store::local::record::{Description, Found, RecordHome};
use crate::store::local::work::{Placement, Staged, Workspace, open_directory};
use crate::store::rules::About;
use crate::store::{
    CopyOptions, DeleteOptions, Error, ErrorKind, MetadataDirective, Op, Precondition, PutOptions, Result,
};
use crate::types::{Crc64, ETag, Key, ObjectId, ObjectMeta};

/// Never waits for the other end of a pipe.
const OBJECT_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);
/// All bits, for the umask to choose from.
const DIRECTORY_MODE: Mode = Mode::RWXU.union(Mode::RWXG).union(Mode::RWXO);

/// A volume's directory, open.
#[derive(Debug)]
pub(crate) struct Tree {
    pub root: OwnedFd,
    /// `None` where we may not write.
    work: Option<Workspace>,
}

/// What lies under a name.
#[derive(Debug)]
pub(crate) enum Occupant {
    Nothing,
    Object(Box<Found>),
    /// Something that is no object under this key: a directory where a file is asked for, or the other way round, a link,
    /// a device.
    Other,
}

/// A staged file and what it is to become.
#[derive(Debug)]
pub(crate) struct Commit<'w> {
    pub staged: Staged<'w>,
    pub description: Description,
    pub precondition: Precondition,
    /// The upload that ends with it.
    pub upload: Option<&'w str>,
}

impl Occupant {
    /// The version that preconditions are about. `Refused` when the place cannot be used.
    fn current(&self, about: About<'_>) -> Result<Option<ETag>> {
        match self {
            Occupant::Nothing => Ok(None),
            Occupant::Object(found) => Ok(Some(found.etag())),
            Occupant::Other => Err(about.refused("a directory, link or device of this name is in the way")),
        }
    }
}

impl Tree {
    /// Opens a directory. What cannot be written can still be read.
    pub fn open(path: &Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let work = match Workspace::open(&root) {
            Ok(work) => Some(work),
            Err(error)
                if [Some(Errno::ROFS), Some(Errno::ACCESS)].contains(&Errno::from_io_error(&error)) =>
            {
                log::info!("Local volume is read-only error={error}");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(Tree { root, work })
    }

    /// Keeps records in files, as on a file system without extended attributes.
    #[cfg(test)]
    pub fn with_sidecars(self) -> io::Result<Tree> {
        let work = self.work.map(|work| work.with_sidecars(&self.root)).transpose()?;
        Ok(Tree { work, ..self })
    }

    /// Where changes are prepared; `Denied` where we may not write.
    pub fn work(&self, about: About<'_>) -> Result<&Workspace> {
        self.work.as_ref().ok_or_else(|| {
            about.error(ErrorKind::Denied, "the directory is read-only or belongs to somebody else")
        })
    }

    /// The object, if there is one.
    pub fn find(&self, about: About<'_>) -> Result<Found> {
        let place = Place::of(about)?;
        match self.look(&place).map_err(|error| failure(about, "cannot open", error))? {
            Occupant::Object(found) => Ok(*found),
            Occupant::Nothing | Occupant::Other => {
                Err(about.error(ErrorKind::NotFound, "there is no such object"))
            }
        }
    }

    /// The object, if it is still this version.
    pub fn find_version(&self, about: About<'_>, id: &ObjectId) -> Result<Found> {
        let about = About { key: &id.key, ..about };
        let found = self.find(about)?;
        about.check_precondition(&Precondition::Matches(id.etag.clone()), Some(&found.etag()))?;
        Ok(found)
    }

    /// A directory by the names of its parts.
    pub fn directory(&self, parts: &[&str]) -> io::Result<OwnedFd> {
        let mut directory = self.root.try_clone()?;
        for part in parts {
            directory = open_directory(&directory, part)?;
        }
        Ok(directory)
    }

    /// An object among the entries of a directory.
    pub fn found_in(&self, parent: &OwnedFd, name: &str) -> io::Result<Found> {
        let opened = match rustix::fs::openat(parent, name, OBJECT_FLAGS, Mode::empty()) {
            Err(Errno::ACCESS | Errno::PERM) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                return Found::without_record(rustix::fs::openat(parent, name, flags, Mode::empty())?.into());
            }
            opened => File::from(opened?),
        };
        Found::new(opened, self.records())
    }

    /// Writes an object.
    pub fn put(&self, about: About<'_>, body: &Bytes, options: PutOptions) -> Result<ObjectMeta> {
        let place = Place::of(about)?;
        let crc64 = Crc64::of(body);
        about.check_crc64(options.crc64, crc64)?;
        let PutOptions { precondition, attributes, token, .. } = options;
        let description = Description { attributes, token, crc64: Some(crc64) };
        if place.kind == PlaceKind::Directory {
            if !body.is_empty() {
                return Err(about.refused("a name that ends in '/' is a directory and has no content"));
            }
            return self.put_directory(about, &place, &precondition, description);
        }
        self.check(about, &place, &precondition)?;
        let staged = self.work(about)?.stage().map_err(|error| failure(about, "cannot begin", error))?;
        io::Write::write_all(&mut &staged.file, body)
            .map_err(|error| failure(about, "cannot write", error))?;
        self.commit(about, Commit { staged, description, precondition, upload: None })
    }

    /// Copies an object.
    pub fn copy(&self, about: About<'_>, source: &ObjectId, options: CopyOptions) -> Result<ObjectMeta> {
        let place = Place::of(about)?;
        let found = self.find_version(about, source)?;
        let mut description = found.description();
        match options.metadata {
            MetadataDirective::Keep => {}
            MetadataDirective::Replace(attributes) => {
                (description.attributes, description.token) = (attributes, options.token);
            }
        }
        if place.kind == PlaceKind::Directory {
            if found.size() > 0 {
                return Err(about.refused("a name that ends in '/' is a directory and has no content"));
            }
            return self.put_directory(about, &place, &options.precondition, description);
        }
        self.check(about, &place, &options.precondition)?;
        let staged = self.work(about)?.stage().map_err(|error| failure(about, "cannot begin", error))?;
        if found.metadata.is_file() {
            // In the kernel, and shared between both files where the file system can.
            let copied = io::copy(&mut &found.file, &mut &staged.file);
            let copied = copied.map_err(|error| failure(about, "cannot copy", error))?;
            check_unchanged(about, &found)?;
            if copied != found.size() {
                return Err(about.error(ErrorKind::Precondition, "the source changed while it was copied"));
            }
        }
        let precondition = options.precondition;
        self.commit(about, Commit { staged, description, precondition, upload: None })
    }

    /// Removes an object. A directory that is not empty stays, as its contents need it.
    pub fn delete(&self, about: About<'_>, options: DeleteOptions) -> Result<()> {
        match self.unlink(about, options)? {
            Some(parent) => sync_names(about, &parent),
            None => Ok(()),
        }
    }

    /// Removes objects; each directory is synced once.
    pub fn delete_many(&self, keys: &[Key]) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(keys.len());
        // The last directory changed, and from which result on it is not synced.
        let mut unsynced: Option<(OwnedFd, &str, usize)> = None;
        for (index, key) in keys.iter().enumerate() {
            let above = key.as_str().trim_end_matches('/').rsplit_once('/').map_or("", |(above, _)| above);
            if let Some((parent, _, first)) = unsynced.take_if(|(_, last, _)| *last != above) {
                sync_deleted(&parent, &keys[first..index], &mut results[first..]);
            }
            match self.unlink(About { op: Op::DeleteMany, key }, DeleteOptions::default()) {
                Ok(Some(parent)) => {
                    let first = unsynced.map_or(index, |(_, _, first)| first);
                    unsynced = Some((parent, above, first));
                    results.push(Ok(()));
                }
                Ok(None) => results.push(Ok(())),
                Err(error) => results.push(Err(error)),
            }
        }
        if let Some((parent, _, first)) = unsynced {
            sync_deleted(&parent, &keys[first..], &mut results[first..]);
        }
        results
    }

    /// Removes a name, if the precondition holds. Answers with the directory to sync, if it has changed.
    fn unlink(&self, about: About<'_>, options: DeleteOptions) -> Result<Option<OwnedFd>> {
        let place = Place::of(about)?;
        let precondition = options.if_match.map_or(Precondition::None, Precondition::Matches);
        let failed = |error| failure(about, "cannot remove", error);
        let work = self.work(about)?;
        let guard = work.lock().map_err(failed)?;
        let found = match self.look(&place).map_err(failed)? {
            Occupant::Object(found) => found,
            Occupant::Nothing | Occupant::Other => {
                return about.check_precondition(&precondition, None).map(|()| None);
            }
        };
        about.check_precondition(&precondition, Some(&found.etag()))?;
        let parent = self.directory(&place.parents).map_err(failed)?;
        let flags = match place.kind {
            PlaceKind::File => AtFlags::empty(),
            PlaceKind::Directory => AtFlags::REMOVEDIR,
        };
        match rustix::fs::unlinkat(&parent, place.name, flags) {
            Err(Errno::NOTEMPTY | Errno::NOENT) => return Ok(None),
            removed => removed.map_err(|error| failed(error.into()))?,
        }
        drop(guard);
        work.records.forget(&found);
        Ok(Some(parent))
    }

    /// Looks whether a precondition holds, to fail before the work instead of after it.
    pub fn check(&self, about: About<'_>, place: &Place<'_>, precondition: &Precondition) -> Result<()> {
        let occupant = self.look(place).map_err(|error| failure(about, "cannot look up", error))?;
        about.check_precondition(precondition, occupant.current(about)?.as_ref())
    }

    /// Makes a staged file the object, whole and durable, if the precondition holds.
    pub fn commit(&self, about: About<'_>, commit: Commit<'_>) -> Result<ObjectMeta> {
        let failed = |error: io::Error| failure(about, "cannot finish", error);
        let records = &self.work(about)?.records;
        let Commit { staged, description, precondition, upload } = commit;
        let file = staged.file.try_clone().map_err(failed)?;
        let new = records.dress(file, description).map_err(failed)?;
        let synced = new.file.sync_all().map_err(failed);
        match synced.and_then(|()| self.replace(about, staged, &precondition, upload)) {
            Ok(()) => Ok(new.meta(about.key)),
            Err(error) => {
                // An ambiguous failure has come after the change.
                if error.kind != ErrorKind::Ambiguous {
                    records.forget(&new);
                }
                Err(error)
            }
        }
    }

    /// Puts a finished file in its place, durably, and ends the upload it came from.
    fn replace(
        &self,
        about: About<'_>,
        staged: Staged<'_>,
        precondition: &Precondition,
        upload: Option<&str>,
    ) -> Result<()> {
        let failed = |error: io::Error| failure(about, "cannot put the file in its place", error);
        let place = Place::of(about)?;
        let work = self.work(about)?;
        let guard = work.lock().map_err(failed)?;
        if let Some(id) = upload {
            match rustix::fs::statat(&work.uploads, id, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    let detail = "the upload was completed or given up meanwhile";
                    return Err(about.error(ErrorKind::UploadGone, detail));
                }
                there => drop(there.map_err(|error| failed(error.into()))?),
            }
        }
        let old = self.look(&place).map_err(failed)?;
        about.check_precondition(precondition, old.current(about)?.as_ref())?;
        let parent = self.make_directories(&place.parents).map_err(failed)?;
        let placement = match precondition {
            Precondition::Absent => Placement::Create,
            Precondition::None | Precondition::Matches(_) => Placement::Replace,
        };
        staged.place(&parent, place.name, placement).map_err(failed)?;
        if let Occupant::Object(old) = old {
            work.records.forget(&old);
        }
        let Some(id) = upload else {
            drop(guard);
            return sync_names(about, &parent);
        };
        // The object must be durable before its parts go, and they go under the lock: a commit happens once.
        sync_names(about, &parent)?;
        let retired = work.retire_upload(id);
        drop(guard);
        match retired {
            Ok(Some(name)) => work.discard(&name),
            // Completing it again meets the object that it made, so nothing is lost but the space.
            Err(error) => log::warn!("Completed upload stays behind error={error}"),
            Ok(None) => {}
        }
        Ok(())
    }

    fn put_directory(
        &self,
        about: About<'_>,
        place: &Place<'_>,
        precondition: &Precondition,
        description: Description,
    ) -> Result<ObjectMeta> {
        let failed = |error: io::Error| failure(about, "cannot make the directory", error);
        let work = self.work(about)?;
        let guard = work.lock().map_err(failed)?;
        self.check(about, place, precondition)?;
        let parent = self.make_directories(&place.parents).map_err(failed)?;
        match rustix::fs::mkdirat(&parent, place.name, DIRECTORY_MODE) {
            // Made by a program that does not know our lock.
            Err(Errno::EXIST) if *precondition == Precondition::Absent => {
                return Err(failed(Errno::EXIST.into()));
            }
            Err(Errno::EXIST) | Ok(()) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let directory = open_directory(&parent, place.name).map_err(failed)?;
        let new = work.records.dress(directory.into(), description).map_err(failed)?;
        new.file.sync_all().map_err(failed)?;
        drop(guard);
        sync_names(about, &parent)?;
        Ok(new.meta(about.key))
    }

    fn look(&self, place: &Place<'_>) -> io::Result<Occupant> {
        let parent = match self.directory(&place.parents) {
            Ok(parent) => parent,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Occupant::Nothing),
                Some(_) | None => return Err(error),
            },
        };
        let file = match rustix::fs::openat(&parent, place.name, OBJECT_FLAGS, Mode::empty()) {
            Ok(opened) => File::from(opened),
            Err(Errno::NOENT) => return Ok(Occupant::Nothing),
            // A link; a socket or device.
            Err(Errno::LOOP | Errno::NXIO) => return Ok(Occupant::Other),
            Err(error) => return Err(error.into()),
        };
        let found = Found::new(file, self.records())?;
        let fits = match place.kind {
            PlaceKind::File => found.metadata.is_file(),
            PlaceKind::Directory => found.metadata.is_dir(),
        };
        Ok(if fits { Occupant::Object(Box::new(found)) } else { Occupant::Other })
    }

    /// Opens a directory; makes what is missing of it, durably.
    fn make_directories(&self, parts: &[&str]) -> io::Result<OwnedFd> {
        let mut directory = self.root.try_clone()?;
        for part in parts {
            directory = match open_directory(&directory, part) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    match rustix::fs::mkdirat(&directory, *part, DIRECTORY_MODE) {
                        Ok(()) | Err(Errno::EXIST) => rustix::fs::fsync(&directory)?,
                        Err(error) => return Err(error.into()),
                    }
                    open_directory(&directory, part)?
                }
                opened => opened?,
            };
        }
        Ok(directory)
    }

    fn records(&self) -> &RecordHome {
        self.work.as_ref().map_or(&RecordHome::Xattr, |work| &work.records)
    }
}

/// A source must not change while it is read.
pub(crate) fn check_unchanged(about: About<'_>, found: &Found) -> Result<()> {
    match found.is_unchanged() {
        Ok(true) => Ok(()),
        Ok(false) => {
            Err(about.error(ErrorKind::Precondition, "another program changed the file while it was read"))
        }
        Err(error) => Err(failure(about, "cannot look again", error)),
    }
}

/// An error of the system as one of the store.
pub(crate) fn failure(about: About<'_>, what: &str, error: io::Error) -> Error {
    about.error(kind_of(about.op, &error), format!("{what}: {error}"))
}

pub(crate) fn kind_of(op: Op, error: &io::Error) -> ErrorKind {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) if op == Op::Probe => ErrorKind::NoVolume,
        // A directory vanished between two steps; the next attempt makes it again.
        Some(Errno::NOENT) => ErrorKind::Unavailable { retry_after: None },
        Some(Errno::EXIST) => ErrorKind::Precondition,
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => ErrorKind::Denied,
        Some(Errno::FBIG | Errno::OVERFLOW) => ErrorKind::TooLarge,
        Some(
            Errno::NAMETOOLONG
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::INVAL
            | Errno::ILSEQ
            | Errno::TOOBIG,
        ) => ErrorKind::Refused,
        // A full or failing disk: nothing has been applied, and it may be mended.
        Some(_) | None => ErrorKind::Unavailable { retry_after: None },
    }
}

/// Makes a change of names durable. The change is visible already, so failure is no clear "no".
fn sync_names(about: About<'_>, directory: &OwnedFd) -> Result<()> {
    rustix::fs::fsync(directory).map_err(|error| not_durable(about, error))
}

/// Makes removals durable; where that fails, none of them is certain.
fn sync_deleted(parent: &OwnedFd, keys: &[Key], results: &mut [Result<()>]) {
    let Err(error) = rustix::fs::fsync(parent) else {
        return;
    };
    for (key, result) in keys.iter().zip(results).filter(|(_, result)| result.is_ok()) {
        *result = Err(not_durable(About { op: Op::DeleteMany, key }, error));
    }
}

fn not_durable(about: About<'_>, error: Errno) -> Error {
    about.error(ErrorKind::Ambiguous, format!("done, but cannot be made durable: {error}"))
}
