//! Which local file a write goes to, which bytes of them are still needed, and which pages they take.
//!
//! A write goes to `home`, unless a living snapshot needs those bytes of `home`; then it goes over its own bytes in
//! `spill` if no snapshot needs these, else to the end of `spill`. So snapshots are never altered, sequential writes
//! stay one extent, and rewriting one place between snapshots goes back and forth between two places.
//!
//! Space is counted in pages: a page is taken while a byte in it is needed, by the file or by a snapshot. Pages that
//! nobody needs any more come out of [`Layout::sweep`], for the caller to punch out of the local files.

use std::collections::BTreeMap;

use crate::types::{ByteRange, RangeSet};
use crate::write::extents::{EXTENT_BYTES_MAX, Extent, ExtentMap, LocalFile, Place};

/// Unit of space in the local files.
pub const PAGE_BYTES: u64 = 4096;

/// A living snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PinId(u64);

/// The places of a file's bytes, of its snapshots' bytes, and the pages they take.
#[derive(Default, Debug)]
pub struct Layout {
    map: ExtentMap,
    /// Bytes of `spill` that `map` names.
    spill_live: RangeSet,
    /// What each living snapshot needs.
    pins: BTreeMap<PinId, Pinned>,
    pins_made: u64,
    /// Where the next bytes in `spill` go.
    spill_end: u64,
    /// Whole pages of `home` that are taken.
    home_pages: RangeSet,
    /// Whole pages of `spill` that are taken.
    spill_pages: RangeSet,
    /// Bytes that lost a user since the last sweep.
    loose: Vec<(LocalFile, ByteRange)>,
}

#[derive(Debug, Default)]
struct Pinned {
    home: RangeSet,
    spill: RangeSet,
}

impl Pinned {
    fn of(&self, file: LocalFile) -> &RangeSet {
        match file {
            LocalFile::Home => &self.home,
            LocalFile::Spill => &self.spill,
        }
    }
}

impl Layout {
    /// The layout of files found on disk: `extents` in order, and the pages that are taken.
    pub fn restore(extents: &[Extent], home_pages: RangeSet, spill_pages: RangeSet) -> Layout {
        let spill_end = spill_pages.iter().last().map_or(0, |range| range.end);
        let mut layout = Layout { home_pages, spill_pages, spill_end, ..Layout::default() };
        layout.occupy(extents);
        extents.iter().for_each(|&extent| layout.place(extent));
        layout
    }

    /// Where the bytes are.
    pub fn map(&self) -> &ExtentMap {
        &self.map
    }

    /// Where bytes written to `range` have to go: pieces in order, without checksums. Changes nothing yet.
    pub fn plan(&self, range: ByteRange) -> Vec<Extent> {
        let mut pieces: Vec<Extent> = Vec::new();
        let mut spill_end = self.spill_end;
        for unit in range.split(EXTENT_BYTES_MAX) {
            let pinned = self.pinned(LocalFile::Home, unit);
            let free =
                pinned.gaps(unit).into_iter().map(|range| Extent { range, place: Place::Home, crc: None });
            let mut parts: Vec<Extent> = free.collect();
            for blocked in pinned.iter() {
                let reusable = self.reusable_spill(blocked);
                let reused: RangeSet = reusable.iter().map(|part| part.range).collect();
                parts.extend(reusable);
                for range in reused.gaps(blocked) {
                    parts.push(Extent { range, place: Place::Spill(spill_end), crc: None });
                    spill_end += range.len();
                }
            }
            parts.sort_by_key(|part| part.range.start);
            for part in parts {
                match pieces.last().and_then(|last| last.join(&part)) {
                    Some(joined) => *pieces.last_mut().expect("it was just joined to") = joined,
                    None => pieces.push(part),
                }
            }
        }
        pieces
    }

    /// Bytes of pages that these pieces would take in addition.
    pub fn bytes_to_take(&self, pieces: &[Extent]) -> u64 {
        let mut fresh = [RangeSet::default(), RangeSet::default()];
        for (file, range) in pieces.iter().map(Extent::local) {
            let (pages, fresh) = match file {
                LocalFile::Home => (&self.home_pages, &mut fresh[0]),
                LocalFile::Spill => (&self.spill_pages, &mut fresh[1]),
            };
            pages.gaps(range.widen(PAGE_BYTES)).into_iter().for_each(|gap| fresh.insert(gap));
        }
        fresh.iter().map(RangeSet::bytes).sum()
    }

    /// Takes the pages of pieces that are about to be written.
    pub fn occupy(&mut self, pieces: &[Extent]) {
        for (file, range) in pieces.iter().map(Extent::local) {
            self.keep_pages(file, range.widen(PAGE_BYTES));
            match file {
                LocalFile::Home => {}
                LocalFile::Spill => self.spill_end = self.spill_end.max(range.end),
            }
        }
    }

    /// The bytes of a piece are in their place: the file has them there from now on.
    pub fn place(&mut self, extent: Extent) {
        let displaced = self.map.insert(extent);
        self.loosen(displaced);
        match extent.local() {
            (LocalFile::Home, _) => {}
            (LocalFile::Spill, range) => self.spill_live.insert(range),
        }
    }

    /// The bytes of a piece could not be written. What the file has there may have been half overwritten.
    pub fn abandon(&mut self, piece: Extent) {
        self.loose.push(piece.local());
        self.map.doubt(piece.range);
    }

    /// The file has no bytes within `range` any more, and no room kept for any.
    pub fn forget(&mut self, range: ByteRange) {
        let displaced = self.map.remove(range);
        self.loosen(displaced);
        self.loose.push((LocalFile::Home, range));
    }

    /// Pages of `home` that bytes in `range` would take in addition.
    pub fn pages_to_take(&self, range: ByteRange) -> Vec<ByteRange> {
        self.home_pages.gaps(range.widen(PAGE_BYTES))
    }

    /// Notes a checksum that was read back.
    pub fn learn(&mut self, extent: Extent) {
        self.map.learn(extent);
    }

    /// Keeps what lies within `range` now from being altered until [`Layout::unpin`].
    pub fn pin(&mut self, range: ByteRange) -> (PinId, Vec<Extent>) {
        let extents = self.map.lookup(range);
        let mut pinned = Pinned::default();
        for (file, range) in extents.iter().map(Extent::local) {
            match file {
                LocalFile::Home => pinned.home.insert(range),
                LocalFile::Spill => pinned.spill.insert(range),
            }
        }
        let id = PinId(self.pins_made);
        self.pins_made += 1;
        self.pins.insert(id, pinned);
        (id, extents)
    }

    /// Ends a snapshot.
    pub fn unpin(&mut self, id: PinId) {
        if let Some(pinned) = self.pins.remove(&id) {
            self.loose.extend(pinned.home.iter().map(|range| (LocalFile::Home, range)));
            self.loose.extend(pinned.spill.iter().map(|range| (LocalFile::Spill, range)));
        }
    }

    /// Gives up the pages that nobody needs any more and returns them, for their space to be freed.
    pub fn sweep(&mut self) -> Vec<(LocalFile, ByteRange)> {
        let mut unneeded = Vec::new();
        for (file, range) in std::mem::take(&mut self.loose) {
            let pages = range.widen(PAGE_BYTES);
            let needed: RangeSet =
                self.needed(file, pages).iter().map(|range| range.widen(PAGE_BYTES)).collect();
            let taken = match file {
                LocalFile::Home => &mut self.home_pages,
                LocalFile::Spill => &mut self.spill_pages,
            };
            for gap in needed.gaps(pages) {
                unneeded.extend(taken.within(gap).map(|range| (file, range)));
                taken.remove(gap);
            }
        }
        if self.spill_pages.is_empty() {
            self.spill_end = 0;
        }
        unneeded
    }

    /// Counts whole pages as taken: also those that a sweep gave up and whose space could not be freed.
    pub fn keep_pages(&mut self, file: LocalFile, pages: ByteRange) {
        match file {
            LocalFile::Home => self.home_pages.insert(pages),
            LocalFile::Spill => self.spill_pages.insert(pages),
        }
    }

    /// Bytes of all pages taken.
    pub fn bytes_taken(&self) -> u64 {
        self.home_pages.bytes() + self.spill_pages.bytes()
    }

    fn loosen(&mut self, displaced: Vec<Extent>) {
        for (file, range) in displaced.iter().map(Extent::local) {
            match file {
                LocalFile::Home => {}
                LocalFile::Spill => self.spill_live.remove(range),
            }
            self.loose.push((file, range));
        }
    }

    /// What living snapshots need of `range` of a local file.
    fn pinned(&self, file: LocalFile, range: ByteRange) -> RangeSet {
        self.pins.values().flat_map(|pinned| pinned.of(file).within(range)).collect()
    }

    /// What the file and its snapshots need of `range` of a local file.
    fn needed(&self, file: LocalFile, range: ByteRange) -> RangeSet {
        let mut needed = self.pinned(file, range);
        match file {
            LocalFile::Home => {
                let extents = self.map.lookup(range);
                let home = extents.iter().filter(|extent| extent.place == Place::Home);
                home.for_each(|extent| needed.insert(extent.range));
            }
            LocalFile::Spill => self.spill_live.within(range).for_each(|range| needed.insert(range)),
        }
        needed
    }

    /// The parts of `range` that lie in `spill` where no snapshot needs them, and can be written over.
    fn reusable_spill(&self, range: ByteRange) -> Vec<Extent> {
        let mut reusable = Vec::new();
        for extent in self.map.lookup(range) {
            match extent.local() {
                (LocalFile::Home, _) => {}
                (LocalFile::Spill, place) => {
                    for free in self.pinned(LocalFile::Spill, place).gaps(place) {
                        let start = extent.range.start + (free.start - place.start);
                        let range = ByteRange::at(start, free.len());
                        reusable.push(Extent { range, place: Place::Spill(free.start), crc: None });
                    }
                }
            }
        }
        reusable
    }
}
