//! The two local files of a staged file, made when first written to.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::durable::{Disk, RealDisk};
use crate::types::{ByteRange, Crc64, RangeSet};
use crate::write::extents::{Extent, LocalFile, PAGE_BYTES};

/// Unit of `st_blocks`.
const BLOCK_BYTES: u64 = 512;
/// Bytes read at a time for a checksum.
const CHECKSUM_BUFFER_BYTES: usize = 256 << 10;

/// The local files of one staged file.
#[derive(Debug)]
pub struct LocalFiles {
    directory: PathBuf,
    home: (PathBuf, OnceLock<File>),
    spill: (PathBuf, OnceLock<File>),
    /// Files made so far, and how many of them have a name that survives power loss.
    made: AtomicU64,
    names_synced: AtomicU64,
}

/// Name of a local file.
pub fn file_name(id: u64, file: LocalFile) -> String {
    match file {
        LocalFile::Home => format!("{id:016x}.home"),
        LocalFile::Spill => format!("{id:016x}.spill"),
    }
}

/// The id in the name of a local file.
pub fn id_in_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".home").or_else(|| name.strip_suffix(".spill"))?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Bytes that a file takes on disk, in whole pages.
pub fn bytes_on_disk(path: &Path) -> io::Result<u64> {
    Ok((fs::metadata(path)?.blocks() * BLOCK_BYTES).next_multiple_of(PAGE_BYTES))
}

impl LocalFiles {
    /// Files that are made when they are first written to.
    pub fn new(directory: &Path, id: u64) -> LocalFiles {
        let path = |file| (directory.join(file_name(id, file)), OnceLock::new());
        LocalFiles {
            directory: directory.to_owned(),
            home: path(LocalFile::Home),
            spill: path(LocalFile::Spill),
            made: AtomicU64::new(0),
            names_synced: AtomicU64::new(0),
        }
    }

    /// Where a file is or would be.
    pub fn path(&self, file: LocalFile) -> &Path {
        &self.slot(file).0
    }

    /// Opens a file that is there already. Returns its length, 0 when it is not there.
    pub fn open_existing(&self, file: LocalFile) -> io::Result<u64> {
        let (path, slot) = self.slot(file);
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(opened) => {
                let len = opened.metadata()?.len();
                // Whoever made it may not have synced its name.
                self.made.fetch_add(1, Ordering::SeqCst);
                slot.get_or_init(|| opened);
                Ok(len)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Whether there is any file.
    pub fn any_made(&self) -> bool {
        self.made.load(Ordering::SeqCst) > 0
    }

    /// Writes bytes to their place. After an error the count says how many are there.
    pub fn write(&self, extent: &Extent, bytes: &[u8]) -> Result<(), (u64, io::Error)> {
        let (file, range) = extent.local();
        let file = self.made(file).map_err(|error| (0, error))?;
        let mut written = 0;
        while written < bytes.len() {
            match file.write_at(&bytes[written..], range.start + written as u64) {
                Ok(0) => return Err((written as u64, io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((written as u64, error)),
            }
        }
        Ok(())
    }

    /// Reads the bytes of an extent.
    pub fn read(&self, extent: &Extent) -> io::Result<Vec<u8>> {
        let (file, range) = extent.local();
        let len = usize::try_from(range.len()).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        self.existing(file)?.read_exact_at(&mut bytes, range.start)?;
        Ok(bytes)
    }

    /// Reads the bytes of an extent for their checksum.
    pub fn checksum(&self, extent: &Extent) -> io::Result<Crc64> {
        let (file, range) = extent.local();
        let file = self.existing(file)?;
        let mut buffer = vec![0; CHECKSUM_BUFFER_BYTES.min(range.len() as usize)];
        let mut crc = Crc64::EMPTY;
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(buffer.len() as u64);
            let bytes = &mut buffer[..len as usize];
            file.read_exact_at(bytes, at)?;
            crc = crc.then(Crc64::of(bytes), len);
            at += len;
        }
        Ok(crc)
    }

    /// Waits until a file's bytes survive power loss.
    pub fn sync(&self, file: LocalFile) -> io::Result<()> {
        self.existing(file)?.sync_data()
    }

    /// Waits until the names of the files made so far survive power loss. Costs nothing the second time.
    pub fn sync_names(&self) -> io::Result<()> {
        let made = self.made.load(Ordering::SeqCst);
        if self.names_synced.load(Ordering::SeqCst) < made {
            RealDisk.sync_directory(&self.directory)?;
            self.names_synced.fetch_max(made, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Takes space for pages of the home file, whose length stays as it is.
    pub fn reserve(&self, pages: ByteRange) -> io::Result<()> {
        let home = self.made(LocalFile::Home)?;
        Ok(rustix::fs::fallocate(home, FallocateFlags::KEEP_SIZE, pages.start, pages.len())?)
    }

    /// Frees the space of whole pages.
    pub fn punch(&self, file: LocalFile, pages: ByteRange) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match self.slot(file).1.get() {
            Some(made) => Ok(rustix::fs::fallocate(made, flags, pages.start, pages.len())?),
            // It could not be made, so it takes no space.
            None => Ok(()),
        }
    }

    /// The pages of a file that take space.
    pub fn pages(&self, file: LocalFile) -> io::Result<RangeSet> {
        let mut pages = RangeSet::default();
        let Some(opened) = self.slot(file).1.get() else {
            return Ok(pages);
        };
        let mut at = 0;
        loop {
            match rustix::fs::seek(opened, SeekFrom::Data(at)) {
                Ok(start) => {
                    let end = rustix::fs::seek(opened, SeekFrom::Hole(start))?;
                    pages.insert(ByteRange::new(start, end).widen(PAGE_BYTES));
                    at = end;
                }
                Err(Errno::NXIO) => return Ok(pages),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Deletes the files' names.
    pub fn remove(&self) -> io::Result<()> {
        for (path, _) in [&self.home, &self.spill] {
            match fs::remove_file(path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn slot(&self, file: LocalFile) -> &(PathBuf, OnceLock<File>) {
        match file {
            LocalFile::Home => &self.home,
            LocalFile::Spill => &self.spill,
        }
    }

    fn existing(&self, file: LocalFile) -> io::Result<&File> {
        self.slot(file).1.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The file, made (mode 0600) when it is not there. Callers write one at a time.
    fn made(&self, file: LocalFile) -> io::Result<&File> {
        let (path, slot) = self.slot(file);
        if let Some(made) = slot.get() {
            return Ok(made);
        }
        let made = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        self.made.fetch_add(1, Ordering::SeqCst);
        Ok(slot.get_or_init(|| made))
    }
}
