//! One file's local data on disk: what was written and is not in the bucket yet, and snapshots of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::observe::Metrics;
use crate::types::{ByteRange, ByteSize, RangeSet};
use crate::write::extents::Extent;

/// The directory of staging files and the bytes they may take together.
#[derive(Debug)]
pub struct StagingArea {}

/// One file's local data. Dropping it leaves its files for recovery; [`Staging::remove`] deletes them.
#[derive(Debug)]
pub struct Staging {}

/// The content of a file at one moment. Later writes never alter it. Dropping it frees what only it needed.
#[derive(Debug)]
pub struct Snapshot {}

/// A stretch of a file: its bytes, or `None` where nothing is staged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StagedPiece {
    /// Which bytes of the file.
    pub range: ByteRange,
    /// Their content, as long as the range.
    pub bytes: Option<Vec<u8>>,
}

/// Why bytes were not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StagingError {
    /// The limit of the whole area is reached. Nothing was changed.
    #[error("the staging limit of {limit} is reached")]
    Full {
        /// The limit.
        limit: ByteSize,
    },
    /// The local disk refuses. The file has not grown; bytes within its size may have been overwritten.
    #[error("{detail}")]
    Io {
        /// The system's error number.
        errno: i32,
        /// What was tried and what the system said.
        detail: String,
    },
}

/// Why staging files cannot be taken up again.
#[derive(Debug, thiserror::Error)]
pub enum ReopenError {
    /// A file is shorter than the extents say, or not there at all (`len` 0).
    #[error("{} has {len} bytes where {needed} are needed", path.display())]
    Short {
        /// The file.
        path: PathBuf,
        /// Its length.
        len: u64,
        /// The length the extents ask for.
        needed: u64,
    },
    /// The extents contradict each other or the size.
    #[error("the recorded extents are not sorted, overlap, or lie beyond the size, at byte {at}")]
    Extents {
        /// Where.
        at: u64,
    },
    /// The disk refuses.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl StagingArea {
    /// Opens the directory (made, mode 0700, when absent). Files of an earlier process are counted at once.
    pub fn open(
        _directory: &Path,
        _bytes_max: ByteSize,
        _metrics: Arc<Metrics>,
    ) -> io::Result<Arc<StagingArea>> {
        unimplemented!()
    }

    /// An empty file. Local files are made by the first write.
    pub fn create(self: &Arc<Self>, _id: u64) -> Staging {
        unimplemented!()
    }

    /// Takes up the files of an earlier process with the extents of its last sealed snapshot.
    /// With no extents and size 0 it is a way to [`Staging::remove`] a leftover.
    pub fn reopen(
        self: &Arc<Self>,
        _id: u64,
        _extents: &[Extent],
        _size: u64,
    ) -> Result<Staging, ReopenError> {
        unimplemented!()
    }

    /// Ids that have files here and no living [`Staging`], ascending.
    pub fn leftovers(&self) -> Vec<u64> {
        unimplemented!()
    }

    /// Moves a leftover's files into `to` (made when absent), where they no longer count. Returns their new paths.
    pub fn quarantine(&self, _id: u64, _to: &Path) -> io::Result<Vec<PathBuf>> {
        unimplemented!()
    }

    /// Bytes taken by all files, in whole pages.
    pub fn used(&self) -> ByteSize {
        unimplemented!()
    }
}

impl Staging {
    /// Its id in the area.
    pub fn id(&self) -> u64 {
        unimplemented!()
    }

    /// Takes bytes at `offset`; the file grows when they end beyond its size.
    pub fn write(&self, _offset: u64, _bytes: &[u8]) -> Result<(), StagingError> {
        unimplemented!()
    }

    /// Cuts to `size`, or extends with a stretch where nothing is staged.
    pub fn truncate(&self, _size: u64) {
        unimplemented!()
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }

    /// The bytes of `range`, cut at the file's size, as pieces in order.
    pub fn read(&self, _range: ByteRange) -> io::Result<Vec<StagedPiece>> {
        unimplemented!()
    }

    /// Which bytes are here.
    pub fn staged(&self) -> RangeSet {
        unimplemented!()
    }

    /// The present content, each extent with its checksum. Cheap after sequential writes; else what was partly
    /// overwritten is read back.
    pub fn freeze(&self) -> io::Result<Snapshot> {
        unimplemented!()
    }

    /// The present content of a part. Checksums of extents that are cut stay unknown.
    pub fn freeze_range(&self, _range: ByteRange) -> Snapshot {
        unimplemented!()
    }

    /// Grows with every write and truncation.
    pub fn version(&self) -> u64 {
        unimplemented!()
    }

    /// Whether any byte of `range` was written or cut after `version`. May say yes for a close neighbour's change.
    pub fn changed_since(&self, _version: u64, _range: ByteRange) -> bool {
        unimplemented!()
    }

    /// Deletes the files. Living snapshots stay readable; the bytes count until the last is dropped.
    pub fn remove(&self) -> io::Result<()> {
        unimplemented!()
    }
}

impl Snapshot {
    /// Where the bytes are, in order.
    pub fn extents(&self) -> &[Extent] {
        unimplemented!()
    }

    /// Length of the file at that moment.
    pub fn size(&self) -> u64 {
        unimplemented!()
    }

    /// [`Staging::version`] at that moment.
    pub fn version(&self) -> u64 {
        unimplemented!()
    }

    /// The bytes of `range`, cut at the size of that moment, as pieces in order.
    pub fn read(&self, _range: ByteRange) -> io::Result<Vec<StagedPiece>> {
        unimplemented!()
    }

    /// Waits until the bytes survive power loss.
    pub fn sync(&self) -> io::Result<()> {
        unimplemented!()
    }

    /// The extents whose bytes on disk do not have their checksum or cannot be read.
    pub fn verify(&self) -> Vec<ByteRange> {
        unimplemented!()
    }
}
