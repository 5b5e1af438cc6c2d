//! The few file calls a journal needs, so that tests can put a disk under it that loses what was not synced.

use std::fmt::Debug;
use std::io;
use std::path::Path;

/// A directory of files.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens a file for reading and appending, made (mode 0600) when absent.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Renames a file over another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes renames, creations and removals in this directory survive power loss.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
}

/// One open file of a [`Disk`].
pub trait DiskFile: Debug + Send + Sync {
    /// Appends all bytes.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Reads the whole file.
    fn read_all(&self) -> io::Result<Vec<u8>>;
    /// Cuts the file.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Makes the content survive power loss.
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;
