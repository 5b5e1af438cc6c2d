//! Where the bytes of a file under change are, with snapshots that later writes never alter. Pure.
//!
//! A file under change is two sparse local files: `home`, in which byte N lies at offset N, and `spill`. `layout` decides
//! which of them a write goes to; this file keeps the answer: an ordered map of extents.
//!
//! INVARIANT: extents are not empty, do not overlap, and do not cross multiples of [`EXTENT_BYTES_MAX`]. Neighbours are
//! joined when they lie together. The bound keeps small what has to be read back when a few bytes of a large file are
//! overwritten and its checksums are wanted again.

mod layout;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::{ByteRange, Crc64, RangeSet};

pub use layout::{Layout, PAGE_BYTES, PinId};
pub use versions::Versions;

/// No extent crosses a multiple of this.
pub const EXTENT_BYTES_MAX: u64 = 4 << 20;

/// One of the two local files of a file under change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalFile {
    /// Bytes at the offsets they have in the object.
    Home,
    /// Bytes whose place in `home` a snapshot still needs.
    Spill,
}

/// Which local file holds some bytes, and where in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In `home`, at the offset that the bytes have in the object.
    Home,
    /// In `spill`, from this offset on.
    Spill(u64),
}

/// Bytes of the file that lie together. Serialised as `[start, length, spill offset or null, checksum or null]`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Fields", into = "Fields")]
pub struct Extent {
    /// Which bytes of the file. Never empty.
    pub range: ByteRange,
    /// Where they are.
    pub place: Place,
    /// Their checksum; `None` while it would have to be read back to be known.
    pub crc: Option<Crc64>,
}

type Fields = (u64, u64, Option<u64>, Option<u64>);

impl From<Fields> for Extent {
    fn from((start, len, spill, crc): Fields) -> Extent {
        let place = spill.map_or(Place::Home, Place::Spill);
        Extent { range: ByteRange::at(start, len), place, crc: crc.map(Crc64) }
    }
}

impl From<Extent> for Fields {
    fn from(extent: Extent) -> Fields {
        let spill = match extent.place {
            Place::Home => None,
            Place::Spill(offset) => Some(offset),
        };
        (extent.range.start, extent.range.len(), spill, extent.crc.map(|crc| crc.0))
    }
}

impl Extent {
    /// The local file that has the bytes, and which of its bytes they are.
    pub fn local(&self) -> (LocalFile, ByteRange) {
        match self.place {
            Place::Home => (LocalFile::Home, self.range),
            Place::Spill(offset) => (LocalFile::Spill, ByteRange::at(offset, self.range.len())),
        }
    }

    /// The part within `range`, if any. Its checksum is known only if it is the whole extent.
    pub fn cut(&self, range: ByteRange) -> Option<Extent> {
        let part = self.range.intersect(range)?;
        if part == self.range {
            return Some(*self);
        }
        let place = match self.place {
            Place::Home => Place::Home,
            Place::Spill(offset) => Place::Spill(offset + (part.start - self.range.start)),
        };
        Some(Extent { range: part, place, crc: None })
    }

    /// Both as one, if `next` follows in the file, in its place, and not beyond a bound.
    fn join(&self, next: &Extent) -> Option<Extent> {
        let follows = match (self.place, next.place) {
            (Place::Home, Place::Home) => true,
            (Place::Spill(offset), Place::Spill(next)) => offset + self.range.len() == next,
            (Place::Home, Place::Spill(_)) | (Place::Spill(_), Place::Home) => false,
        };
        if !follows || self.range.end != next.range.start || next.range.start.is_multiple_of(EXTENT_BYTES_MAX)
        {
            return None;
        }
        let crc = self.crc.zip(next.crc).map(|(crc, next_crc)| crc.then(next_crc, next.range.len()));
        Some(Extent { range: ByteRange::new(self.range.start, next.range.end), place: self.place, crc })
    }
}

/// Where each byte is; what is in no extent is not staged.
#[derive(Clone, Default, Debug)]
pub struct ExtentMap {
    /// By start of their range. INVARIANT: see the head of this file.
    extents: BTreeMap<u64, Extent>,
}

impl ExtentMap {
    /// What lies within `range`, in order, cut to it.
    pub fn lookup(&self, range: ByteRange) -> Vec<Extent> {
        self.overlapping(range).filter_map(|extent| extent.cut(range)).collect()
    }

    /// Puts an extent in place of what was in its range, which is returned. It must not cross a bound.
    pub fn insert(&mut self, extent: Extent) -> Vec<Extent> {
        let displaced = self.remove(extent.range);
        let mut joined = extent;
        if let Some((&start, before)) = self.extents.range(..joined.range.start).next_back()
            && let Some(both) = before.join(&joined)
        {
            self.extents.remove(&start);
            joined = both;
        }
        if let Some(both) = self.extents.get(&joined.range.end).and_then(|after| joined.join(after)) {
            self.extents.remove(&joined.range.end);
            joined = both;
        }
        self.extents.insert(joined.range.start, joined);
        displaced
    }

    /// Takes out what lies within `range` and returns it.
    pub fn remove(&mut self, range: ByteRange) -> Vec<Extent> {
        let removed = self.lookup(range);
        for part in &removed {
            let (&start, &whole) =
                self.extents.range(..=part.range.start).next_back().expect("a part was just looked up");
            self.extents.remove(&start);
            let before = ByteRange::new(whole.range.start, part.range.start);
            let after = ByteRange::new(part.range.end, whole.range.end);
            for rest in [before, after].into_iter().filter_map(|rest| whole.cut(rest)) {
                self.extents.insert(rest.range.start, rest);
            }
        }
        removed
    }

    /// Notes the checksum of an extent, if it is still the same one.
    pub fn learn(&mut self, extent: Extent) {
        if let Some(known) = self.extents.get_mut(&extent.range.start)
            && (known.range, known.place) == (extent.range, extent.place)
        {
            known.crc = extent.crc;
        }
    }

    /// Forgets the checksums of all extents that reach into `range`.
    pub fn doubt(&mut self, range: ByteRange) {
        let starts: Vec<u64> = self.overlapping(range).map(|extent| extent.range.start).collect();
        for start in starts {
            self.extents.entry(start).and_modify(|extent| extent.crc = None);
        }
    }

    /// All extents, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.extents.values()
    }

    /// Which bytes are in any extent.
    pub fn staged(&self) -> RangeSet {
        self.iter().map(|extent| extent.range).collect()
    }

    fn overlapping(&self, range: ByteRange) -> impl Iterator<Item = &Extent> {
        let first = self.extents.range(..=range.start).next_back().map_or(range.start, |(&start, _)| start);
        let reach = self.extents.range(first..).map(|(_, extent)| extent);
        reach
            .take_while(move |extent| extent.range.start < range.end)
            .filter(move |extent| extent.range.end > range.start)
    }
}
