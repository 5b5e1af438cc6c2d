//! One file's local data on disk: what was written and is not in the bucket yet, and snapshots of it.
//!
//! Calls are local file calls under an inner lock; they may come from several threads. A write holds the lock over its
//! `pwrite`, and never writes to a byte that a living snapshot needs, so a snapshot is read without the lock.
//!
//! Lock order: `Shared::state`, then the area's ledger.

mod area;
mod local;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::types::{ByteRange, ByteSize, Crc64, RangeSet};
use crate::write::extents::{Extent, Layout, LocalFile, PinId, Versions};
use crate::write::staging::local::LocalFiles;

pub use area::StagingArea;

/// Largest offset that file systems take.
const OFFSET_MAX: u64 = i64::MAX as u64;
/// What the system says of larger ones.
const TOO_LARGE: rustix::io::Errno = rustix::io::Errno::FBIG;

/// One file's local data. Dropping it leaves its files for recovery; [`Staging::remove`] deletes them.
#[derive(Debug)]
pub struct Staging {
    shared: Arc<Shared>,
}

/// The content of a file at one moment. Later writes never alter it, as long as it lives: whoever keeps a record of its
/// extents keeps it until the record is superseded. Dropping it frees what only it needed.
#[derive(Debug)]
pub struct Snapshot {
    shared: Arc<Shared>,
    pin: PinId,
    /// Sorted, not overlapping.
    extents: Vec<Extent>,
    size: u64,
    version: u64,
}

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

/// What a file and its snapshots have in common.
#[derive(Debug)]
struct Shared {
    area: Arc<StagingArea>,
    id: u64,
    files: LocalFiles,
    state: RwLock<State>,
    /// Set by the first failed sync. The system may have dropped the bytes and would call the next sync a success.
    sync_failure: OnceLock<String>,
}

#[derive(Debug)]
struct State {
    layout: Layout,
    size: u64,
    version: u64,
    versions: Versions,
    fate: Fate,
}

/// What becomes of the local files when the last user goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Left,
    Removed,
}

impl Staging {
    pub(in crate::write) fn new(
        area: Arc<StagingArea>,
        id: u64,
        files: LocalFiles,
        layout: Layout,
        size: u64,
    ) -> Staging {
        let state = State { layout, size, version: 0, versions: Versions::default(), fate: Fate::Left };
        let shared = Shared { area, id, files, state: RwLock::new(state), sync_failure: OnceLock::new() };
        Staging { shared: Arc::new(shared) }
    }

    /// Its id in the area.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    /// Takes bytes at `offset`; the file grows when they end beyond its size.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), StagingError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let range = ByteRange::at(offset, bytes.len() as u64);
        if range.end > OFFSET_MAX {
            return Err(self.shared.refused(range, &TOO_LARGE.into()));
        }
        let mut state = self.shared.write();
        let state = &mut *state;
        let pieces = state.layout.plan(range);
        self.shared.area.admit(state.layout.bytes_to_take(&pieces))?;
        state.layout.occupy(&pieces);
        let result = self.shared.write_pieces(&mut state.layout, &pieces, range, bytes);
        state.changed(range);
        match &result {
            Ok(()) => state.size = state.size.max(range.end),
            // A program that gets an error tries again at the same place, so the file must not have grown.
            Err(_) => state.layout.forget(ByteRange::new(state.size.min(range.end), range.end)),
        }
        self.shared.free(&mut state.layout);
        result
    }

    /// Takes the space that bytes in `range` need, so that writing them does not fail for lack of it. Given back by a
    /// truncation that cuts it off. While a snapshot lives, bytes that it needs are written elsewhere, without a promise.
    pub fn reserve(&self, range: ByteRange) -> Result<(), StagingError> {
        if range.end > OFFSET_MAX {
            return Err(self.shared.refused(range, &TOO_LARGE.into()));
        }
        let mut state = self.shared.write();
        for pages in state.layout.pages_to_take(range) {
            self.shared.area.admit(pages.len())?;
            if let Err(error) = self.shared.files.reserve(pages) {
                self.shared.area.release(pages.len());
                return Err(self.shared.refused(pages, &error));
            }
            state.layout.keep_pages(LocalFile::Home, pages);
        }
        Ok(())
    }

    /// Cuts to `size`, or extends with a stretch where nothing is staged.
    pub fn truncate(&self, size: u64) {
        let mut state = self.shared.write();
        if size == state.size {
            return;
        }
        let difference = ByteRange::new(size.min(state.size), size.max(state.size));
        state.layout.forget(difference);
        state.changed(difference);
        state.size = size;
        self.shared.free(&mut state.layout);
    }

    /// Length of the file in bytes.
    pub fn size(&self) -> u64 {
        self.shared.read().size
    }

    /// The bytes of `range`, cut at the file's size, as pieces in order.
    pub fn read(&self, range: ByteRange) -> io::Result<Vec<StagedPiece>> {
        // Held over the reading: a write could otherwise free a place that we are about to read.
        let state = self.shared.read();
        let range = range.clip(state.size);
        self.shared.read_pieces(state.layout.map().lookup(range), range)
    }

    /// Which bytes are here.
    pub fn staged(&self) -> RangeSet {
        self.shared.read().layout.map().staged()
    }

    /// The present content, each extent with its checksum. Cheap after sequential writes; else what was partly
    /// overwritten is read back. Writers are not kept waiting meanwhile.
    pub fn freeze(&self) -> io::Result<Snapshot> {
        let mut snapshot = self.freeze_range(ByteRange::new(0, u64::MAX));
        let mut learned = Vec::new();
        for extent in snapshot.extents.iter_mut().filter(|extent| extent.crc.is_none()) {
            extent.crc = Some(self.shared.files.checksum(extent)?);
            learned.push(*extent);
        }
        if !learned.is_empty() {
            // The snapshot pins these bytes, so an extent that is still the same has still the same content.
            let mut state = self.shared.write();
            learned.into_iter().for_each(|extent| state.layout.learn(extent));
        }
        Ok(snapshot)
    }

    /// The present content of a part. Checksums of extents that are cut stay unknown.
    pub fn freeze_range(&self, range: ByteRange) -> Snapshot {
        let mut state = self.shared.write();
        let (pin, extents) = state.layout.pin(range);
        let (size, version) = (state.size, state.version);
        Snapshot { shared: Arc::clone(&self.shared), pin, extents, size, version }
    }

    /// Grows with every write and truncation.
    #[cfg(test)]
    pub fn version(&self) -> u64 {
        self.shared.read().version
    }

    /// Whether any byte of `range` was written or cut after `version`. May say yes for a close neighbour's change in a
    /// file that changed in very many places.
    pub fn changed_since(&self, version: u64, range: ByteRange) -> bool {
        self.shared.read().versions.changed_since(version, range)
    }

    /// Deletes the files. Living snapshots stay readable; the bytes count until the last is dropped. After power loss
    /// the files may be found again as leftovers.
    pub fn remove(&self) -> io::Result<()> {
        let mut state = self.shared.write();
        self.shared.files.remove()?;
        state.fate = Fate::Removed;
        Ok(())
    }
}

impl Snapshot {
    /// Where the bytes are, in order.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// Length of the file at that moment.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// [`Staging::version`] at that moment.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The bytes of `range`, cut at the size of that moment, as pieces in order.
    pub fn read(&self, range: ByteRange) -> io::Result<Vec<StagedPiece>> {
        let range = range.clip(self.size);
        self.shared.read_pieces(self.within(range).collect(), range)
    }

    /// The bytes of `range`, cut at the size of that moment, if all of them are staged.
    pub fn read_whole(&self, range: ByteRange) -> io::Result<Option<Vec<u8>>> {
        let range = range.clip(self.size);
        if self.within(range).map(|extent| extent.range.len()).sum::<u64>() != range.len() {
            return Ok(None);
        }
        let mut bytes = zeros(range.len())?;
        let mut rest = bytes.as_mut_slice();
        for extent in self.within(range) {
            let (into, after) = rest.split_at_mut(extent.range.len() as usize);
            self.shared.files.read(&extent, into)?;
            rest = after;
        }
        Ok(Some(bytes))
    }

    /// The extents in a range, cut at its ends.
    fn within(&self, range: ByteRange) -> impl Iterator<Item = Extent> + '_ {
        let first = self.extents.partition_point(|extent| extent.range.end <= range.start);
        self.extents[first..].iter().map_while(move |extent| extent.cut(range))
    }

    /// Waits until the bytes survive power loss. After a failure it fails for good: the system may have dropped bytes
    /// that it still shows.
    pub fn sync(&self) -> io::Result<()> {
        if let Some(failure) = self.shared.sync_failure.get() {
            return Err(io::Error::other(format!("an earlier sync of this file failed: {failure}")));
        }
        let uses = |file| self.extents.iter().any(|extent| extent.local().0 == file);
        let used = [LocalFile::Home, LocalFile::Spill].into_iter().filter(|&file| uses(file));
        let synced = used
            .map(|file| self.shared.files.sync(file))
            .chain(std::iter::once_with(|| self.shared.files.sync_names()))
            .collect();
        if let Err(error) = &synced {
            self.shared.sync_failure.get_or_init(|| io::Error::to_string(error));
        }
        synced
    }

    /// The extents whose bytes on disk do not have their checksum or cannot be read.
    pub fn verify(&self) -> Vec<ByteRange> {
        let is_damaged = |extent: &&Extent| {
            extent.crc.is_some_and(|crc| self.shared.files.checksum(extent).ok() != Some(crc))
        };
        self.extents.iter().filter(is_damaged).map(|extent| extent.range).collect()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // A panic elsewhere has poisoned the lock: the space is found again when the area is opened next.
        let Ok(mut state) = self.shared.state.write() else {
            return;
        };
        state.layout.unpin(self.pin);
        self.shared.free(&mut state.layout);
    }
}

impl State {
    fn changed(&mut self, range: ByteRange) {
        self.version += 1;
        self.versions.record(range, self.version);
    }
}

impl Shared {
    /// Writes the pieces of `range` in order. After a failure, what is not written keeps its old place.
    fn write_pieces(
        &self,
        layout: &mut Layout,
        pieces: &[Extent],
        range: ByteRange,
        bytes: &[u8],
    ) -> Result<(), StagingError> {
        let bytes_of = |part: ByteRange| {
            let start = (part.start - range.start) as usize;
            &bytes[start..start + part.len() as usize]
        };
        for (number, piece) in pieces.iter().enumerate() {
            let content = bytes_of(piece.range);
            let Err((written, error)) = self.files.write(piece, content) else {
                layout.place(Extent { crc: Some(Crc64::of(content)), ..*piece });
                continue;
            };
            if let Some(part) = piece.cut(ByteRange::at(piece.range.start, written)) {
                layout.place(Extent { crc: Some(Crc64::of(bytes_of(part.range))), ..part });
            }
            pieces[number..].iter().for_each(|&piece| layout.abandon(piece));
            return Err(self.refused(range, &error));
        }
        Ok(())
    }

    fn refused(&self, range: ByteRange, error: &io::Error) -> StagingError {
        let errno = error.raw_os_error().unwrap_or(rustix::io::Errno::IO.raw_os_error());
        let path = self.files.path(LocalFile::Home);
        StagingError::Io { errno, detail: format!("writing bytes {range:?} to {}: {error}", path.display()) }
    }

    /// Frees the pages that nobody needs any more.
    fn free(&self, layout: &mut Layout) {
        for (file, pages) in layout.sweep() {
            match self.files.punch(file, pages) {
                Ok(()) => self.area.release(pages.len()),
                // The space stays taken, and counted, until the file is removed or writes there again.
                Err(error) => {
                    log::debug!("Staging space not freed id={:016x} pages={pages:?} error={error}", self.id);
                    layout.keep_pages(file, pages);
                }
            }
        }
    }

    /// The bytes of extents within `range`, and the gaps between them.
    fn read_pieces(&self, extents: Vec<Extent>, range: ByteRange) -> io::Result<Vec<StagedPiece>> {
        let mut pieces = Vec::with_capacity(extents.len() + 1);
        let mut at = range.start;
        for extent in extents {
            if at < extent.range.start {
                pieces.push(StagedPiece { range: ByteRange::new(at, extent.range.start), bytes: None });
            }
            let mut bytes = zeros(extent.range.len())?;
            self.files.read(&extent, &mut bytes)?;
            pieces.push(StagedPiece { range: extent.range, bytes: Some(bytes) });
            at = extent.range.end;
        }
        if at < range.end {
            pieces.push(StagedPiece { range: ByteRange::new(at, range.end), bytes: None });
        }
        Ok(pieces)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no holder of the lock panics")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no holder of the lock panics")
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let Ok(state) = self.state.get_mut() else {
            return;
        };
        let bytes = state.layout.bytes_taken();
        match state.fate {
            Fate::Left if self.files.any_made() => self.area.leave(self.id, bytes),
            Fate::Left => self.area.release(bytes),
            Fate::Removed => {
                // A write after the removal may have made a file anew; a failure leaves it as a leftover.
                let _ = self.files.remove();
                self.area.release(bytes);
            }
        }
    }
}

fn zeros(len: u64) -> io::Result<Vec<u8>> {
    Ok(vec![0; usize::try_from(len).map_err(io::Error::other)?])
}
