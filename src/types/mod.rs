//! Words every room uses: ids, ranges, sizes, times, digests.
//!
//! Plain values, checked once when they are made. No I/O, no async, no clock: this room waits for nothing.

mod attributes;
mod digest;
mod ids;
mod kept;
mod object;
mod range;
mod range_set;
mod size;

pub use attributes::{Attributes, UnixTime};
pub use digest::{Crc64, Sha256};
pub use ids::{Fh, Ino, PartNumber, SessionId, UploadToken};
pub use kept::{Carried, Xattrs};
pub use object::{ETag, Key, KeyError, ObjectId, ObjectMeta};
pub use range::ByteRange;
pub use range_set::RangeSet;
pub use size::{ByteSize, ByteSizeError};
