//! What one server makes of the protocol: found out by probing, or known of Amazon.

use serde::{Deserialize, Serialize};

use crate::store::{Capabilities, PartLimits, UploadKind};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
/// Largest single PUT, largest part and largest source of a single copy.
pub const REQUEST_BYTES_MAX: u64 = 5 * GIB;
/// Most parts of an upload.
pub const PARTS_MAX: u32 = 10_000;

/// Largest object: 50 TB, as Amazon's model of the protocol says.
pub const OBJECT_BYTES_MAX: u64 = 50_000_000_000_000;

/// How one server behaves where servers differ. Deterministic per server, so it could be kept.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Dialect {
    /// PUT honours `If-None-Match: *`.
    pub put_if_absent: bool,
    /// PUT honours `If-Match`.
    pub put_if_match: bool,
    /// GET honours `If-Match`.
    pub get_if_match: bool,
    /// DELETE honours `If-Match`.
    pub delete_if_match: bool,
    /// CompleteMultipartUpload honours `If-None-Match: *`.
    pub complete_if_absent: bool,
    /// CompleteMultipartUpload honours `If-Match`.
    pub complete_if_match: bool,
    /// CopyObject honours preconditions on its target.
    pub copy_conditional: bool,
    /// CopyObject honours the pin of its source.
    pub copy_pinned: bool,
    /// UploadPartCopy works with a range and honours the pin of its source.
    pub copy_part: bool,
    /// A part can be replaced by sending its number again.
    pub replace_part: bool,
    /// Requests may carry CRC-64/NVME checksums.
    pub takes_crc64: bool,
    /// HEAD tells the CRC-64/NVME of whole objects, and it is right.
    pub stores_crc64: bool,
    /// The object's etag is another one than the answer to CompleteMultipartUpload says.
    pub etag_settles_late: bool,
    /// How names stand in listings.
    pub list_encoding: ListEncoding,
}

/// How names stand in listings.
///
/// With `encoding-type=url` Amazon and rclone write a space as `+`, Garage and moto as `%20`; all write a plus sign as
/// `%2B`, so one decoder serves. s3s-fs answers "url" and does not encode at all; decoding would then name other
/// objects. So encoding is asked for only where a name with ` `, `+` and `%` was seen to come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ListEncoding {
    /// As they are. Names with control characters may make the listing unreadable.
    Plain,
    /// Percent-encoded, asked for with `encoding-type=url`.
    Url,
}

impl Dialect {
    /// Amazon S3, by its API reference.
    pub fn amazon() -> Dialect {
        Dialect {
            put_if_absent: true,
            put_if_match: true,
            get_if_match: true,
            delete_if_match: true,
            complete_if_absent: true,
            complete_if_match: true,
            copy_conditional: true,
            copy_pinned: true,
            copy_part: true,
            replace_part: true,
            takes_crc64: true,
            stores_crc64: true,
            etag_settles_late: false,
            list_encoding: ListEncoding::Url,
        }
    }

    /// The least that anything called S3 does; for servers that cannot be probed.
    pub fn cautious() -> Dialect {
        Dialect {
            put_if_absent: false,
            put_if_match: false,
            get_if_match: false,
            delete_if_match: false,
            complete_if_absent: false,
            complete_if_match: false,
            copy_conditional: false,
            copy_pinned: false,
            copy_part: false,
            replace_part: false,
            takes_crc64: false,
            stores_crc64: false,
            etag_settles_late: true,
            list_encoding: ListEncoding::Plain,
        }
    }

    /// The changes whose preconditions the server ignores, so that the object must be looked at before.
    pub fn unguarded(&self) -> Vec<&'static str> {
        let guards = [
            (self.put_if_absent && self.put_if_match, "put"),
            (self.complete_if_absent && self.complete_if_match, "complete"),
            (self.copy_conditional && self.copy_pinned, "copy"),
            (self.delete_if_match, "delete"),
        ];
        guards.into_iter().filter(|(honoured, _)| !honoured).map(|(_, change)| change).collect()
    }

    /// The same in the words of the store trait.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            upload: UploadKind::Parts(PartLimits {
                part_bytes_min: 5 * MIB,
                part_bytes_max: REQUEST_BYTES_MAX,
                parts_max: PARTS_MAX,
            }),
            put_bytes_max: REQUEST_BYTES_MAX,
            object_bytes_max: OBJECT_BYTES_MAX,
            put_if_absent: self.put_if_absent,
            put_if_match: self.put_if_match,
            conditional_complete: self.complete_if_absent && self.complete_if_match,
            conditional_delete: self.delete_if_match,
            conditional_get: self.get_if_match,
            copy_part: self.copy_part,
            stores_crc64: self.stores_crc64,
            replace_part: self.replace_part,
        }
    }
}
