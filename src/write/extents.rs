//! Where the bytes of a file under change are, with snapshots that later writes never alter.

use serde::{Deserialize, Serialize};

use crate::types::{ByteRange, Crc64};

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
#[serde(from = "(u64, u64, Option<u64>, Option<u64>)", into = "(u64, u64, Option<u64>, Option<u64>)")]
pub struct Extent {
    /// Which bytes of the file. Never empty.
    pub range: ByteRange,
    /// Where they are.
    pub place: Place,
    /// Their checksum; `None` while it would have to be read back to be known.
    pub crc: Option<Crc64>,
}

impl From<(u64, u64, Option<u64>, Option<u64>)> for Extent {
    fn from((start, len, spill, crc): (u64, u64, Option<u64>, Option<u64>)) -> Extent {
        let place = spill.map_or(Place::Home, Place::Spill);
        Extent { range: ByteRange::at(start, len), place, crc: crc.map(Crc64) }
    }
}

impl From<Extent> for (u64, u64, Option<u64>, Option<u64>) {
    fn from(extent: Extent) -> (u64, u64, Option<u64>, Option<u64>) {
        let spill = match extent.place {
            Place::Home => None,
            Place::Spill(offset) => Some(offset),
        };
        (extent.range.start, extent.range.len(), spill, extent.crc.map(|crc| crc.0))
    }
}
