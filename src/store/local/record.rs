//! What is kept beside a file's bytes: its version, attributes, upload token and checksum.
//!
//! A record is JSON in the extended attribute `user.tetherfs`, or, where the file system has none, in a file named by the
//! inode in a directory of ours. It is stamped with inode, size and modification time of the file it describes: once
//! another program has changed the file, the record no longer counts and the file is described by what the system knows
//! of it. So a file that nobody else touches keeps its version when it is moved or linked, and one that is edited in
//! place gets another.
//!
//! Permission bits and modification time are also set on the file itself, for other programs to see.

use std::fs::{File, FileTimes, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::types::{Attributes, Crc64, ETag, Key, ObjectId, ObjectMeta, UnixTime, UploadToken};

const XATTR: &str = "user.tetherfs";
/// Format of [`Record`]; a record of another format does not count.
const FORMAT: u32 = 1;
/// Longest record; some file systems keep no more beside a file.
const RECORD_BYTES_MAX: usize = 4096;

/// Where records are kept.
#[derive(Debug)]
pub(crate) enum RecordHome {
    /// With the file.
    Xattr,
    /// In this directory.
    Sidecar(OwnedFd),
}

/// What the writer of an object says about it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Description {
    pub attributes: Attributes,
    pub token: Option<UploadToken>,
    pub crc64: Option<Crc64>,
}

/// A description of one version of one file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    format: u32,
    stamp: Stamp,
    /// Random, so that no two versions share it.
    version: u64,
    description: Description,
}

/// By what a file is recognised as unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Stamp {
    inode: u64,
    size: u64,
    modified: UnixTime,
}

impl Stamp {
    pub fn of(metadata: &Metadata) -> Stamp {
        match metadata.is_dir() {
            // A directory's size and time change with what is in it.
            true => Stamp { inode: metadata.ino(), size: 0, modified: UnixTime::default() },
            false => Stamp { inode: metadata.ino(), size: metadata.len(), modified: modified(metadata) },
        }
    }
}

/// A file or directory that is an object, with its record where that counts.
#[derive(Debug)]
pub(crate) struct Found {
    pub file: File,
    pub metadata: Metadata,
    record: Option<Record>,
}

impl Found {
    /// Reads what is known of an open file.
    pub fn new(file: File, home: &RecordHome) -> io::Result<Found> {
        let metadata = file.metadata()?;
        let record = home.read(&file, &metadata)?;
        Ok(Found { file, metadata, record })
    }

    /// Describes a file by the system's word alone, for one that may be looked at and not read.
    pub fn without_record(file: File) -> io::Result<Found> {
        let metadata = file.metadata()?;
        Ok(Found { file, metadata, record: None })
    }

    pub fn etag(&self) -> ETag {
        let metadata = &self.metadata;
        ETag::new(&match self.valid() {
            Some(record) => format!("{:016x}", record.version),
            None if metadata.is_dir() => format!("{:x}", metadata.ino()),
            None => {
                let (secs, nanos) = (metadata.ctime(), metadata.ctime_nsec());
                format!("{:x}-{secs:x}-{nanos:x}-{:x}", metadata.ino(), metadata.len())
            }
        })
    }

    pub fn size(&self) -> u64 {
        if self.metadata.is_dir() { 0 } else { self.metadata.len() }
    }

    /// The object without its metadata, as listings tell it.
    pub fn listed(&self, key: &Key) -> ObjectMeta {
        ObjectMeta {
            id: ObjectId { key: key.clone(), etag: self.etag(), size: self.size() },
            modified: modified(&self.metadata),
            attributes: None,
            token: None,
            crc64: None,
        }
    }

    /// The object with all that is known of it.
    pub fn meta(&self, key: &Key) -> ObjectMeta {
        let Description { attributes, token, crc64 } = self.description();
        ObjectMeta { attributes: Some(attributes), token, crc64, ..self.listed(key) }
    }

    /// The description given by the writer, or what the system knows.
    pub fn description(&self) -> Description {
        let native_mode = self.metadata.mode() & 0o7777;
        match self.valid() {
            Some(record) => {
                let mut description = record.description.clone();
                let attributes = &mut description.attributes;
                // Another program may have changed the bits since; that is no new content.
                if attributes.mode.is_some_and(|mode| applied_mode(mode, &self.metadata) != native_mode) {
                    attributes.mode = Some(native_mode);
                }
                description
            }
            None => {
                let attributes = Attributes {
                    mode: Some(native_mode),
                    uid: Some(self.metadata.uid()),
                    gid: Some(self.metadata.gid()),
                    mtime: Some(modified(&self.metadata)),
                    content_type: self
                        .record
                        .as_ref()
                        .and_then(|r| r.description.attributes.content_type.clone()),
                    ..Attributes::default()
                };
                Description { attributes, token: None, crc64: None }
            }
        }
    }

    /// Whether the open file still has the bytes it had when it was found.
    pub fn is_unchanged(&self) -> io::Result<bool> {
        Ok(Stamp::of(&self.file.metadata()?) == Stamp::of(&self.metadata))
    }

    fn valid(&self) -> Option<&Record> {
        self.record
            .as_ref()
            .filter(|record| record.format == FORMAT && record.stamp == Stamp::of(&self.metadata))
    }
}

impl RecordHome {
    /// Gives a file its attributes and a new version. The bytes must be complete; they are not synced here, but a record
    /// in a directory of ours is.
    pub fn dress(&self, file: File, description: Description) -> io::Result<Found> {
        let metadata = file.metadata()?;
        if let Some(mode) = description.attributes.mode {
            file.set_permissions(Permissions::from_mode(applied_mode(mode, &metadata)))?;
        }
        if let Some(mtime) = description.attributes.mtime
            && !metadata.is_dir()
        {
            file.set_times(FileTimes::new().set_modified(mtime.into()))?;
        }
        let metadata = file.metadata()?;
        let stamp = Stamp::of(&metadata);
        let record = Record { format: FORMAT, stamp, version: fastrand::u64(..), description };
        let text = serde_json::to_vec(&record).expect("a record is plain data");
        if text.len() > RECORD_BYTES_MAX {
            return Err(Errno::TOOBIG.into());
        }
        match self {
            RecordHome::Xattr => rustix::fs::fsetxattr(&file, XATTR, &text, XattrFlags::empty())?,
            RecordHome::Sidecar(directory) => write_sidecar(directory, metadata.ino(), &text)?,
        }
        Ok(Found { file, metadata, record: Some(record) })
    }

    /// Drops the record of a file that is no more.
    pub fn forget(&self, gone: &Found) {
        match self {
            RecordHome::Xattr => {}
            RecordHome::Sidecar(directory) => {
                let removed =
                    rustix::fs::unlinkat(directory, sidecar_name(gone.metadata.ino()), AtFlags::empty());
                // What is left counts for no other file: its stamp does not fit.
                if let Err(error) = removed {
                    log::debug!("Record of a removed file stays behind error={error}");
                }
            }
        }
    }

    /// The record, valid or not; damaged ones are as good as none.
    fn read(&self, file: &File, metadata: &Metadata) -> io::Result<Option<Record>> {
        let mut text = vec![0; RECORD_BYTES_MAX];
        match self {
            RecordHome::Xattr => match rustix::fs::fgetxattr(file, XATTR, &mut text[..]) {
                Ok(len) => text.truncate(len),
                Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => return Ok(None),
                Err(error) => return Err(error.into()),
            },
            RecordHome::Sidecar(directory) => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let name = sidecar_name(metadata.ino());
                match rustix::fs::openat(directory, name, flags, Mode::empty()) {
                    Ok(sidecar) => {
                        text.clear();
                        File::from(sidecar).take(RECORD_BYTES_MAX as u64).read_to_end(&mut text)?;
                    }
                    Err(Errno::NOENT) => return Ok(None),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(serde_json::from_slice(&text).ok())
    }
}

/// The permission bits a file is given: never fewer than its owner, who is us, needs to read and replace it, and none
/// that lend the owner's rights to others. The bits as they were asked for stay in the record.
fn applied_mode(mode: u32, metadata: &Metadata) -> u32 {
    (mode & 0o777) | if metadata.is_dir() { 0o700 } else { 0o600 }
}

fn modified(metadata: &Metadata) -> UnixTime {
    let nanos = u32::try_from(metadata.mtime_nsec()).expect("the kernel keeps nanoseconds below a second");
    UnixTime { secs: metadata.mtime(), nanos }
}

fn sidecar_name(inode: u64) -> String {
    format!("{inode:016x}")
}

fn write_sidecar(directory: &OwnedFd, inode: u64, text: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let temporary = format!("{:016x}.new", fastrand::u64(..));
    let mut file = File::from(rustix::fs::openat(directory, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text)?;
    file.sync_all()?;
    rustix::fs::renameat(directory, &temporary, directory, sidecar_name(inode))?;
    rustix::fs::fsync(directory)?;
    Ok(())
}
