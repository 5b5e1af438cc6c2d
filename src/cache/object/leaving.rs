//! How chunks leave the disk: evicted for others, by the operator, or because they are damaged.

use std::io;
use std::sync::atomic::Ordering;

use crate::cache::files::{self, ChunkState, Wait};
use crate::cache::ledger::{Age, Part, Unit};
use crate::cache::object::presence::{Chunks, GROUP_CHUNKS};
use crate::cache::object::{CachedObject, Files, Presence, charge_of};
use crate::cache::report::Pinned;
use crate::cache::{Disk, Kept, locked};
use crate::observe::Counter;

/// Objects found on disk are evicted as a whole up to this many groups; larger ones are looked into first.
const WHOLE_GROUPS_MAX: u64 = 4;

/// What has become of a unit that was to be evicted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cache) enum Taken {
    /// It is off the disk.
    Off,
    /// It is now charged by its groups, and one of those can go.
    Split,
    /// It must stay.
    Kept,
}

impl CachedObject {
    /// Why the object may not be evicted.
    pub(in crate::cache) fn why_kept(&self) -> Option<Kept> {
        if self.handed_out.load(Ordering::SeqCst) > 0 {
            return Some(Kept::InUse);
        }
        self.is_pinned().then_some(Kept::Pinned)
    }

    /// Takes a group of chunks off the disk.
    pub(in crate::cache) fn evict_group(&self, group: u64) -> io::Result<Taken> {
        let Some(disk) = self.cache.disk() else {
            return Ok(Taken::Off);
        };
        let mut files = self.write_files();
        self.open(disk, &mut files)?;
        if self.why_kept().is_some() {
            return Ok(Taken::Kept);
        }
        let chunks = group * GROUP_CHUNKS..(group + 1) * GROUP_CHUNKS;
        let done = match &*files {
            Files::Open(pair) => self.change(pair, || {
                self.known(|chunks| chunks.remove_group(group));
                pair.discard(chunks)
            }),
            Files::Unopened | Files::Missing | Files::Unusable => Ok(()),
        };
        match done {
            Ok(()) => {}
            Err(error) if is_without_holes(&error) => self.remove_files(disk, &mut files)?,
            Err(error) => return Err(error),
        }
        // Chunks may have come to the group after it had been chosen. They are off the disk as well now.
        self.cache.books(disk, |ledger| ledger.forget(self.unit(group)));
        Ok(Taken::Off)
    }

    /// Takes an object off the disk that was found there and charged with `charge`, or, when it is large, charges it
    /// by its groups, of which the evictor then takes what it needs.
    pub(in crate::cache) fn evict_whole(&self, charge: u64) -> io::Result<Taken> {
        let Some(disk) = self.cache.disk() else {
            return Ok(Taken::Off);
        };
        let mut files = self.write_files();
        if matches!(*locked(&self.presence), Presence::Known(_)) {
            return Ok(Taken::Split);
        }
        let may_be_large = charge > WHOLE_GROUPS_MAX * GROUP_CHUNKS * self.cache.chunk_bytes;
        if may_be_large || !disk.pins().is_empty() {
            self.open(disk, &mut files)?;
        }
        if self.why_kept().is_some() {
            return Ok(Taken::Kept);
        }
        let is_of_our_cut =
            matches!(&*files, Files::Open(pair) if pair.header().chunk_bytes == self.cache.chunk_bytes);
        if may_be_large && is_of_our_cut {
            self.index(disk, &mut files, Age::Oldest)?;
            return Ok(Taken::Split);
        }
        self.remove_files(disk, &mut files)?;
        Ok(Taken::Off)
    }

    /// Takes all of the object off the disk, which is charged with `parts`, unless it must stay.
    pub(in crate::cache) fn evict_all(&self, parts: &[Part], pinned: Pinned) -> io::Result<Option<Kept>> {
        let Some(disk) = self.cache.disk() else {
            return Ok(None);
        };
        let mut files = self.write_files();
        self.open(disk, &mut files)?;
        let kept = self.why_kept().filter(|kept| match (kept, pinned) {
            (Kept::InUse, Pinned::Stays | Pinned::Goes) | (Kept::Pinned, Pinned::Stays) => true,
            (Kept::Pinned, Pinned::Goes) => false,
        });
        if kept.is_none() {
            self.remove_files(disk, &mut files)?;
            self.cache.books(disk, |ledger| {
                parts.iter().for_each(|&part| ledger.forget(Unit { name: self.name, part }));
            });
        }
        Ok(kept)
    }

    /// Takes a chunk off the disk that did not prove good, unless it has been replaced meanwhile. True when it has.
    pub(in crate::cache) fn give_up_damaged(&self, disk: &Disk, chunk: u64) -> bool {
        let mut files = self.write_files();
        let Files::Open(pair) = &*files else {
            return false;
        };
        let header = pair.header();
        let mut bytes = vec![0; header.chunk_range(chunk).len() as usize];
        if !self.has(chunk) || pair.read_chunk(chunk, &mut bytes, Wait::Allowed) == ChunkState::Good {
            return false;
        }
        let group = chunk / GROUP_CHUNKS;
        let charge = || {
            let bits = self.known(|chunks| chunks.group(group)).unwrap_or(0);
            charge_of(header, group, bits)
        };
        let before = charge();
        self.cache.metrics.add(Counter::CacheDamaged, 1);
        log::warn!("Chunk {chunk} of cache file {} is damaged and will be fetched again", self.name);
        let is_handed_out = self.handed_out.load(Ordering::SeqCst) > 0;
        let done = self.change(pair, || {
            self.known(|chunks| chunks.remove(chunk));
            match is_handed_out {
                // Whoever has the file would read zeros from a hole. Its bytes are written over when they are fetched.
                true => pair.clear_slots(chunk..chunk + 1),
                false => pair.discard(chunk..chunk + 1),
            }
        });
        let charge = before - charge();
        match done {
            // What is still on disk stays charged.
            Ok(()) if is_handed_out => {}
            Ok(()) => self.cache.books(disk, |ledger| ledger.shrink(self.unit(group), charge)),
            Err(error) if is_without_holes(&error) && !is_handed_out => {
                if let Err(error) = self.remove_files(disk, &mut files) {
                    self.cache.note_failure(disk, &error);
                }
            }
            Err(error) => {
                self.known(|chunks| chunks.remove(chunk));
                self.cache.note_failure(disk, &error);
            }
        }
        true
    }

    /// Takes files of no use off the disk, unless they are handed out. True when they have gone.
    pub(in crate::cache) fn give_up_files(&self, disk: &Disk) -> bool {
        let mut files = self.write_files();
        if self.handed_out.load(Ordering::SeqCst) > 0 {
            return false;
        }
        let removed = self.remove_files(disk, &mut files);
        if let Err(error) = &removed {
            self.cache.note_failure(disk, error);
        }
        removed.is_ok()
    }

    /// Removes the files. The caller holds `files` for writing.
    pub(super) fn remove_files(&self, disk: &Disk, files: &mut Files) -> io::Result<()> {
        files::remove(&disk.directory, self.name)?;
        *files = Files::Missing;
        let known = Presence::Known(Chunks::default());
        let before = std::mem::replace(&mut *locked(&self.presence), known);
        self.cache.books(disk, |ledger| {
            ledger.forget(Unit { name: self.name, part: Part::Whole });
            match before {
                Presence::Unknown => {}
                Presence::Known(chunks) => {
                    chunks.groups().for_each(|(group, _)| ledger.forget(self.unit(group)));
                }
            }
        });
        Ok(())
    }
}

/// Whether a file system has told that it cannot take parts out of files.
fn is_without_holes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported)
}
