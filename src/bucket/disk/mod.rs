//! The buckets on disk: a directory anyone can read, and an index of it in memory.
//!
//! ```text
//! DIR/.tetherfs-serve               lease: one server a directory
//! DIR/<bucket>/objects/<name>.json  one object: key, etag, metadata, and which bytes of which files it is made of
//! DIR/<bucket>/data/<id>-<hint>     plain bytes of a put or of one part; the hint is the end of the key
//! DIR/<bucket>/uploads/<id>/        an upload not yet completed: `upload.json`, and `<part number>.json` a part
//! DIR/<bucket>/tmp/                 records being written; emptied at start
//! ```
//!
//! `<name>` is the key, percent-escaped; a key too long for a file name is cut and ends in its SHA-256. So `d`, `d/x`, `..`
//! and `a//b` are four different objects.
//!
//! An object is a list of *slices* (file, start, length), so completing an upload or copying an object writes one small
//! record and moves no data. Data files are never changed once written and go away with the last record that names
//! them. Records are replaced by rename: after `kill -9` at any moment an object is the old or the new one. Nothing is
//! synced: a power failure may lose what the kernel had not written.

mod blob;
mod condition;
mod index;
mod listing;
mod record;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use crate::bucket::Error;
use crate::types::UnixTime;

pub use blob::{Content, Writer};
pub use condition::{Condition, ReadCondition};
pub use index::{Bucket, Object};
pub use listing::{Item, Page, Query};
pub use record::{About, ObjectFacts, UploadRecord};
pub use upload::{Made, Part, Upload, UploadQuery};

const LEASE: &str = ".tetherfs-serve";

/// Why an operation was not done, by meaning. The S3 code and status are chosen in one place, `s3::refuse`.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No bucket of that name.
    #[error("there is no such bucket")]
    NoSuchBucket,
    /// The bucket is there already.
    #[error("the bucket exists already")]
    BucketExists,
    /// A bucket with objects cannot be deleted.
    #[error("the bucket is not empty")]
    BucketNotEmpty,
    /// No object of that name, where one was needed.
    #[error("there is no such object")]
    NoSuchKey,
    /// The upload id is unknown: never created, completed or aborted.
    #[error("there is no such upload; it may have been completed or aborted")]
    NoSuchUpload,
    /// If-Match or If-None-Match did not hold.
    #[error("a condition of the request does not hold")]
    PreconditionFailed,
    /// A conditional read found the version the client has.
    #[error("not modified")]
    NotModified,
    /// A completion without parts.
    #[error("an upload is completed with at least one part")]
    NoParts,
    /// A completion named a part that is not there, or not with that etag or checksum.
    #[error("part {0} was not uploaded, or its etag or checksum is another")]
    InvalidPart(u32),
    /// Part numbers must rise.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// A part that is not the last is below the minimum.
    #[error("part {number} has {bytes} bytes, below the minimum; only the last part may be smaller")]
    PartTooSmall {
        /// Its number.
        number: u32,
        /// Its length.
        bytes: u64,
    },
    /// A part number out of range.
    #[error("part numbers go from 1 to 10000")]
    PartNumber,
    /// The object would have another length than the client announced.
    #[error("the parts have {found} bytes in all, the request says {expected}")]
    WrongSize {
        /// As announced.
        expected: u64,
        /// As uploaded.
        found: u64,
    },
    /// A checksum of the content differs from the one sent.
    #[error("the content's checksum differs from the one in the request")]
    BadDigest,
    /// A quirk is on that takes a part number only once.
    #[error("this server takes each part once (a quirk that is switched on)")]
    PartTaken,
    /// The disk failed.
    #[error("the server's disk failed: {0}")]
    Disk(#[from] io::Error),
}

/// All buckets of one directory.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    buckets: RwLock<BTreeMap<String, Arc<Bucket>>>,
    lease: File,
}

impl Store {
    /// Opens a directory, making it when missing, and reads what is in it.
    pub fn open(directory: &Path) -> Result<Store, Error> {
        let failed = |source| Error::Directory { path: directory.to_owned(), source };
        fs::create_dir_all(directory).map_err(failed)?;
        let lease = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(LEASE))
            .map_err(failed)?;
        lease.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => Error::Busy { path: directory.to_owned() },
            fs::TryLockError::Error(source) => failed(source),
        })?;
        let mut buckets = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !entry.path().is_dir() || !s3s::path::check_bucket_name(&name) {
                continue;
            }
            if Bucket::is_one(&entry.path()).map_err(failed)? {
                buckets.insert(name, Arc::new(Bucket::open(entry.path()).map_err(failed)?));
            } else {
                log::warn!("Directory {} holds other files and is not served", entry.path().display());
            }
        }
        Ok(Store { directory: directory.to_owned(), buckets: RwLock::new(buckets), lease })
    }

    /// Gives the directory free for another server; called when no request is running any more.
    pub fn release(&self) {
        if let Err(error) = self.lease.unlock() {
            log::warn!("Cannot release {}: {error}", self.directory.display());
        }
    }

    /// The bucket of this name.
    pub fn bucket(&self, name: &str) -> Result<Arc<Bucket>, Refusal> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.get(name).cloned().ok_or(Refusal::NoSuchBucket)
    }

    /// Makes an empty bucket.
    pub fn create(&self, name: &str) -> Result<(), Refusal> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if buckets.contains_key(name) {
            return Err(Refusal::BucketExists);
        }
        let path = self.directory.join(name);
        fs::create_dir_all(&path)?;
        buckets.insert(name.to_owned(), Arc::new(Bucket::open(path)?));
        Ok(())
    }

    /// Deletes a bucket without objects; its unfinished uploads go with it.
    pub fn remove(&self, name: &str) -> Result<(), Refusal> {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        buckets.get(name).ok_or(Refusal::NoSuchBucket)?.close()?;
        buckets.remove(name);
        fs::remove_dir_all(self.directory.join(name))?;
        Ok(())
    }

    /// Every bucket's name and when it was made.
    pub fn names(&self) -> Vec<(String, UnixTime)> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.iter().map(|(name, bucket)| (name.clone(), bucket.created())).collect()
    }
}

/// The data files of one bucket by name, while its records are read.
type BlobsByName = HashMap<String, Arc<blob::Blob>>;
