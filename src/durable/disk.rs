//! The file calls that a state directory needs, so that tests can put a disk under it that loses what was not synced.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FallocateFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use crate::types::{ByteRange, RangeSet};

/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;

/// A directory of files.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Opens a file for reading and appending, made (mode 0600) when absent.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file that is there, for reading and writing anywhere in it.
    fn open_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>>;
    /// Makes a file (mode 0600) for reading and writing anywhere in it. Fails when there is one.
    fn create_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>>;
    /// Bytes that a file takes on disk. Fails when there is none.
    fn bytes_taken(&self, path: &Path) -> io::Result<u64>;
    /// Renames a file over another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file, perhaps into another directory. Fails rather than replace one.
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes renames, creations and removals in this directory survive power loss.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and those above it (mode 0700) where absent, so that they survive power loss.
    fn create_directory(&self, path: &Path) -> io::Result<()>;
    /// Names of what is in a directory, in no particular order. Names that are not UTF-8 are left out.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
}

/// One open file of a [`Disk`].
pub trait DiskFile: Debug + Send + Sync {
    /// Appends all bytes.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Reads the whole file.
    fn read_all(&self) -> io::Result<Vec<u8>>;
    /// Cuts the file.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Takes space for this many bytes behind the end, so that appending them needs none: where the file system can do
    /// that, and has it. The file keeps its length.
    fn reserve(&self, bytes: u64) -> io::Result<()>;
    /// Makes the content survive power loss.
    fn sync(&self) -> io::Result<()>;
}

/// One open file of a [`Disk`] that is written anywhere and takes space only where it was.
pub trait SparseFile: Debug + Send + Sync {
    /// Length in bytes.
    fn length(&self) -> io::Result<u64>;
    /// Writes some of the bytes; says how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Fills `bytes` from `offset` on.
    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()>;
    /// Takes space; the length stays as it is.
    fn reserve(&self, range: ByteRange) -> io::Result<()>;
    /// Frees the space of whole pages; the length stays as it is.
    fn punch(&self, range: ByteRange) -> io::Result<()>;
    /// Stretches that have been written to. May say more than that, by parts of a page.
    fn written(&self) -> io::Result<RangeSet>;
    /// Makes the content survive power loss.
    fn sync(&self) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        Ok(Box::new(RealFile { file }))
    }

    fn open_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>> {
        Ok(Arc::new(RealFile { file: OpenOptions::new().read(true).write(true).open(path)? }))
    }

    fn create_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn bytes_taken(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.blocks() * BLOCK_BYTES)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        let parent = parent_of(path);
        self.create_directory(parent)?;
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => self.sync_directory(parent),
            // Another process was quicker.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }
}

/// The directory that a path lies in.
pub fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[derive(Debug)]
struct RealFile {
    file: File,
}

impl DiskFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn read_all(&self) -> io::Result<Vec<u8>> {
        let len = usize::try_from(self.file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let end = self.file.metadata()?.len();
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, end, bytes)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl SparseFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, offset)
    }

    fn reserve(&self, range: ByteRange) -> io::Result<()> {
        Ok(rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, range.start, range.len())?)
    }

    fn punch(&self, range: ByteRange) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, range.start, range.len())?)
    }

    fn written(&self) -> io::Result<RangeSet> {
        let mut written = RangeSet::default();
        let mut at = 0;
        loop {
            match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => {
                    let end = rustix::fs::seek(&self.file, SeekFrom::Hole(start))?;
                    written.insert(ByteRange::new(start, end));
                    at = end;
                }
                Err(Errno::NXIO) => return Ok(written),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_and_directories_are_private_and_appended_to() {
        let temporary = tempfile::tempdir().unwrap();
        let directory = temporary.path().join("a/b");
        RealDisk.create_directory(&directory).unwrap();
        RealDisk.create_directory(&directory).unwrap();
        assert_eq!(mode(&directory), 0o700);
        let path = directory.join("x");
        RealDisk.open(&path).unwrap().append(b"one").unwrap();
        let mut file = RealDisk.open(&path).unwrap();
        file.append(b"two").unwrap();
        assert_eq!(file.read_all().unwrap(), b"onetwo");
        file.truncate(4).unwrap();
        file.append(b"!").unwrap();
        file.sync().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"onet!");
        assert_eq!(mode(&path), 0o600);
        RealDisk.rename(&path, &directory.join("y")).unwrap();
        RealDisk.sync_directory(&directory).unwrap();
        assert_eq!(RealDisk.list(&directory).unwrap(), ["y"]);
        RealDisk.remove(&directory.join("y")).unwrap();
        assert!(RealDisk.list(&directory).unwrap().is_empty());
    }

    #[test]
    fn sparse_files_take_space_where_they_are_written() {
        let temporary = tempfile::tempdir().unwrap();
        let (path, other) = (temporary.path().join("x"), temporary.path().join("y"));
        assert_eq!(RealDisk.open_sparse(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let file = RealDisk.create_sparse(&path).unwrap();
        assert_eq!(RealDisk.create_sparse(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let page = 4096;
        file.write_at(b"end", 8 * page).unwrap();
        assert_eq!(file.length().unwrap(), 8 * page + 3);
        assert!(!file.written().unwrap().contains(ByteRange::new(0, page)));
        file.reserve(ByteRange::new(0, page)).unwrap();
        assert!(RealDisk.bytes_taken(&path).unwrap() >= 2 * page);
        file.punch(ByteRange::new(8 * page, 9 * page)).unwrap();
        let mut bytes = [1; 3];
        RealDisk.open_sparse(&path).unwrap().read_exact_at(&mut bytes, 8 * page).unwrap();
        assert_eq!(bytes, [0; 3]);
        RealDisk.create_sparse(&other).unwrap();
        assert_eq!(RealDisk.rename_new(&path, &other).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        RealDisk.remove(&other).unwrap();
        RealDisk.rename_new(&path, &other).unwrap();
        assert_eq!(mode(&other), 0o600);
    }

    #[test]
    fn a_path_without_directory_lies_in_the_current_one() {
        assert_eq!(parent_of(Path::new("x")), Path::new("."));
        assert_eq!(parent_of(Path::new("a/x")), Path::new("a"));
    }
}
