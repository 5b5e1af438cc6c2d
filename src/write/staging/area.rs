//! The directory of staging files, and the limit on the bytes they take together.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::durable::Disk;
use crate::observe::{Counter, Gauge, Metrics};
use crate::types::{ByteRange, ByteSize};
use crate::write::extents::{EXTENT_BYTES_MAX, Extent, Layout, LocalFile, PAGE_BYTES, Place};
use crate::write::staging::local::{LocalFiles, file_name, id_in_name};
use crate::write::staging::{ReopenError, Staging, StagingError};

/// The directory of staging files and the bytes they may take together.
///
/// The limit is kept at admission: a write that needs another page beyond it is refused before it changes anything.
#[derive(Debug)]
pub struct StagingArea {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    bytes_max: ByteSize,
    metrics: Arc<Metrics>,
    /// A leaf lock: nothing else is locked while it is held.
    ledger: Mutex<Ledger>,
}

#[derive(Debug, Default)]
struct Ledger {
    /// Bytes of pages of all files here, leftovers included.
    used: u64,
    /// Bytes of those files that no living [`Staging`] has.
    leftovers: BTreeMap<u64, u64>,
}

impl StagingArea {
    /// Opens the directory (made, mode 0700, when absent). Files of an earlier process are counted at once.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        bytes_max: ByteSize,
        metrics: Arc<Metrics>,
    ) -> io::Result<Arc<StagingArea>> {
        disk.create_directory(directory)?;
        let mut ledger = Ledger::default();
        for name in disk.list(directory)? {
            if let Some(id) = id_in_name(&name) {
                let bytes = disk.bytes_taken(&directory.join(name))?.next_multiple_of(PAGE_BYTES);
                *ledger.leftovers.entry(id).or_default() += bytes;
                ledger.used += bytes;
            }
        }
        metrics.set(Gauge::StagingBytes, ledger.used);
        let directory = directory.to_owned();
        Ok(Arc::new(StagingArea { disk, directory, bytes_max, metrics, ledger: Mutex::new(ledger) }))
    }

    /// An empty file. Local files are made by the first write. `id` was never used in this directory.
    pub fn create(self: &Arc<Self>, id: u64) -> Staging {
        Staging::new(Arc::clone(self), id, self.files(id), Layout::default(), 0)
    }

    /// Takes up the files of an earlier process with the extents of its last sealed snapshot; what else they hold stays
    /// on disk and counts, until it is overwritten or removed. With no extents and size 0 it is a way to
    /// [`Staging::remove`] a leftover.
    pub fn reopen(self: &Arc<Self>, id: u64, extents: &[Extent], size: u64) -> Result<Staging, ReopenError> {
        check_extents(extents, size)?;
        let files = self.files(id);
        let failed = |file, source| ReopenError::Io { path: files.path(file).to_owned(), source };
        let mut pages = Vec::new();
        for file in [LocalFile::Home, LocalFile::Spill] {
            let (len, taken) = files.take_up(file).map_err(|error| failed(file, error))?;
            let ends =
                extents.iter().map(Extent::local).filter(|(of, _)| *of == file).map(|(_, range)| range.end);
            let needed = ends.max().unwrap_or(0);
            if len < needed {
                return Err(ReopenError::Short { path: files.path(file).to_owned(), len, needed });
            }
            pages.push(taken);
        }
        let spill_pages = pages.pop().expect("one for each file");
        let home_pages = pages.pop().expect("one for each file");
        let layout = Layout::restore(extents, home_pages, spill_pages);
        self.update(|ledger| {
            ledger.used -= ledger.leftovers.remove(&id).unwrap_or(0);
            ledger.used += layout.bytes_taken();
        });
        Ok(Staging::new(Arc::clone(self), id, files, layout, size))
    }

    /// What a leftover holds of which no record says anything, and the size it had: whole pages of its home file, so it
    /// is right only for a file that nothing shows through of. `None` when it has other bytes, whose place is not known.
    pub fn salvage(&self, id: u64) -> io::Result<Option<(Vec<Extent>, u64)>> {
        let files = self.files(id);
        if files.take_up(LocalFile::Spill)?.0 > 0 {
            return Ok(None);
        }
        let (size, pages) = files.take_up(LocalFile::Home)?;
        let pieces = pages.within(ByteRange::new(0, size)).flat_map(|range| range.split(EXTENT_BYTES_MAX));
        let extents = pieces.map(|range| Extent { range, place: Place::Home, crc: None }).collect();
        Ok(Some((extents, size)))
    }

    /// Ids that have files here and no living [`Staging`], ascending.
    pub fn leftovers(&self) -> Vec<u64> {
        self.lock().leftovers.keys().copied().collect()
    }

    /// The files of an id that are there.
    pub fn files_of(&self, id: u64) -> io::Result<Vec<PathBuf>> {
        let mut there = Vec::new();
        for path in [LocalFile::Home, LocalFile::Spill].map(|file| self.directory.join(file_name(id, file))) {
            match self.disk.bytes_taken(&path) {
                Ok(_) => there.push(path),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(there)
    }

    /// Bytes that the files of an id take on disk, in whole pages.
    pub fn bytes_of(&self, id: u64) -> io::Result<u64> {
        let pages = |path: &PathBuf| Ok(self.disk.bytes_taken(path)?.next_multiple_of(PAGE_BYTES));
        self.files_of(id)?.iter().map(pages).sum()
    }

    /// Moves a leftover's files into `to` (made when absent, on the same file system), where they no longer count.
    /// Returns their new paths. Fails rather than replace a file there.
    pub fn quarantine(&self, id: u64, to: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.create_directory(to)?;
        let mut moved = Vec::new();
        for from in self.files_of(id)? {
            let to = to.join(from.file_name().expect("files of ours have names"));
            self.disk.rename_new(&from, &to)?;
            moved.push(to);
        }
        self.disk.sync_directory(to)?;
        self.disk.sync_directory(&self.directory)?;
        self.update(|ledger| ledger.used -= ledger.leftovers.remove(&id).unwrap_or(0));
        self.metrics.add(Counter::Quarantined, 1);
        Ok(moved)
    }

    /// Bytes taken by all files, in whole pages.
    #[cfg(test)]
    pub fn used(&self) -> ByteSize {
        ByteSize(self.lock().used)
    }

    /// Takes bytes of new pages, if the limit allows.
    pub(in crate::write) fn admit(&self, bytes: u64) -> Result<(), StagingError> {
        self.update(|ledger| {
            // Within the pages it has, a file can be rewritten even when a lowered limit is exceeded.
            if bytes > 0 && ledger.used.saturating_add(bytes) > self.bytes_max.0 {
                return Err(StagingError::Full { limit: self.bytes_max });
            }
            ledger.used += bytes;
            Ok(())
        })
    }

    /// Gives bytes back.
    pub(in crate::write) fn release(&self, bytes: u64) {
        self.update(|ledger| ledger.used -= bytes);
    }

    /// The files of this id go on existing without anybody who has them open.
    pub(in crate::write) fn leave(&self, id: u64, bytes: u64) {
        self.update(|ledger| ledger.leftovers.insert(id, bytes));
    }

    fn files(&self, id: u64) -> LocalFiles {
        LocalFiles::new(Arc::clone(&self.disk), &self.directory, id)
    }

    fn update<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.lock();
        let result = change(&mut ledger);
        self.metrics.set(Gauge::StagingBytes, ledger.used);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no holder of the lock panics")
    }
}

fn check_extents(extents: &[Extent], size: u64) -> Result<(), ReopenError> {
    let mut at = 0;
    for ByteRange { start, end } in extents.iter().map(|extent| extent.range) {
        if start < at || start == end || end > size {
            return Err(ReopenError::Extents { at: start });
        }
        at = end;
    }
    Ok(())
}
