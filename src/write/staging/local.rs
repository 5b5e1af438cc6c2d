//! The two local files of a staged file, made when first written to.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::durable::{Disk, SparseFile};
use crate::types::{ByteRange, Crc64, RangeSet};
use crate::write::extents::{Extent, LocalFile, PAGE_BYTES};

/// Bytes read at a time for a checksum.
const CHECKSUM_BUFFER_BYTES: usize = 256 << 10;

/// The local files of one staged file.
#[derive(Debug)]
pub struct LocalFiles {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    home: Slot,
    spill: Slot,
    /// Files made so far, and how many of them have a name that survives power loss.
    made: AtomicU64,
    names_synced: AtomicU64,
}

/// One of the two.
#[derive(Debug)]
struct Slot {
    path: PathBuf,
    /// Whether an earlier process made it. It is opened for each call until it is written to: thousands may wait.
    is_found: AtomicBool,
    open: OnceLock<Arc<dyn SparseFile>>,
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

impl LocalFiles {
    /// Files that are made when they are first written to.
    pub fn new(disk: Arc<dyn Disk>, directory: &Path, id: u64) -> LocalFiles {
        let slot = |file| Slot {
            path: directory.join(file_name(id, file)),
            is_found: AtomicBool::new(false),
            open: OnceLock::new(),
        };
        LocalFiles {
            disk,
            directory: directory.to_owned(),
            home: slot(LocalFile::Home),
            spill: slot(LocalFile::Spill),
            made: AtomicU64::new(0),
            names_synced: AtomicU64::new(0),
        }
    }

    /// Where a file is or would be.
    pub fn path(&self, file: LocalFile) -> &Path {
        &self.slot(file).path
    }

    /// Takes up a file that is there already. Returns its length, 0 when it is not there, and the pages that take space.
    pub fn take_up(&self, file: LocalFile) -> io::Result<(u64, RangeSet)> {
        let slot = self.slot(file);
        let found = match self.disk.open_sparse(&slot.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, RangeSet::default())),
            Err(error) => return Err(error),
        };
        let pages = found.written()?.iter().map(|range| range.widen(PAGE_BYTES)).collect();
        let len = found.length()?;
        // Whoever made it may not have synced its name.
        self.made.fetch_add(1, Ordering::SeqCst);
        slot.is_found.store(true, Ordering::SeqCst);
        Ok((len, pages))
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

    /// Reads the bytes of an extent, as many as `into` is long.
    pub fn read(&self, extent: &Extent, into: &mut [u8]) -> io::Result<()> {
        let (file, range) = extent.local();
        self.existing(file)?.read_exact_at(into, range.start)
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
        self.existing(file)?.sync()
    }

    /// Waits until the names of the files made so far survive power loss. Costs nothing the second time.
    pub fn sync_names(&self) -> io::Result<()> {
        let made = self.made.load(Ordering::SeqCst);
        if self.names_synced.load(Ordering::SeqCst) < made {
            self.disk.sync_directory(&self.directory)?;
            self.names_synced.fetch_max(made, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Takes space for pages of the home file, whose length stays as it is.
    pub fn reserve(&self, pages: ByteRange) -> io::Result<()> {
        self.made(LocalFile::Home)?.reserve(pages)
    }

    /// Frees the space of whole pages.
    pub fn punch(&self, file: LocalFile, pages: ByteRange) -> io::Result<()> {
        match self.existing(file) {
            Ok(made) => made.punch(pages),
            // It could not be made, so it takes no space.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes the files' names. Their bytes can be read until this is dropped.
    pub fn remove(&self) -> io::Result<()> {
        for (file, slot) in [(LocalFile::Home, &self.home), (LocalFile::Spill, &self.spill)] {
            if let Ok(found) = self.existing(file) {
                slot.open.get_or_init(|| found);
            }
            match self.disk.remove(&slot.path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn slot(&self, file: LocalFile) -> &Slot {
        match file {
            LocalFile::Home => &self.home,
            LocalFile::Spill => &self.spill,
        }
    }

    fn existing(&self, file: LocalFile) -> io::Result<Arc<dyn SparseFile>> {
        let slot = self.slot(file);
        match slot.open.get() {
            Some(open) => Ok(Arc::clone(open)),
            None if slot.is_found.load(Ordering::SeqCst) => self.disk.open_sparse(&slot.path),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// The file, made when it is not there. Callers write one at a time.
    fn made(&self, file: LocalFile) -> io::Result<&Arc<dyn SparseFile>> {
        let slot = self.slot(file);
        if let Some(open) = slot.open.get() {
            return Ok(open);
        }
        let made = if slot.is_found.load(Ordering::SeqCst) {
            self.disk.open_sparse(&slot.path)?
        } else {
            let made = self.disk.create_sparse(&slot.path)?;
            self.made.fetch_add(1, Ordering::SeqCst);
            made
        };
        Ok(slot.open.get_or_init(|| made))
    }
}
