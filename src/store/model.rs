//! The plain values that requests and answers are made of.

use std::fmt;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::store::Result;
use crate::types::{Attributes, ByteRange, Crc64, ETag, Key, ObjectMeta, PartNumber, UploadToken};

/// What a volume can do. Fields that a server is known to lie about are probed at mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Capabilities {
    /// How large files are uploaded.
    pub upload: UploadKind,
    /// Largest object one `put` takes, in bytes.
    pub put_bytes_max: u64,
    /// Largest object, in bytes.
    pub object_bytes_max: u64,
    /// `put` honours [`Precondition::Absent`].
    pub put_if_absent: bool,
    /// `put` honours [`Precondition::Matches`].
    pub put_if_match: bool,
    /// `complete_upload` honours both preconditions.
    pub conditional_complete: bool,
    /// `delete` honours `if_match`.
    pub conditional_delete: bool,
    /// `get` honours `if_match`. (Every back end compares the answer's version as well.)
    pub conditional_get: bool,
    /// `copy_part` works, pinned to the source's version.
    pub copy_part: bool,
    /// The store keeps a CRC-64/NVME of whole objects.
    pub stores_crc64: bool,
    /// A stored part can be replaced by sending its number again.
    pub replace_part: bool,
}

/// The two families of resumable uploads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum UploadKind {
    /// Numbered parts in any order, replaceable, listed by the server, joined by an explicit commit.
    Parts(PartLimits),
    /// One offset held by the server; bytes come in order, each piece but the last a multiple of `align` bytes.
    Offset {
        /// Unit of every piece but the last, in bytes; at least 1.
        align: u64,
    },
}

/// Limits on parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartLimits {
    /// Smallest part but the last, in bytes.
    pub part_bytes_min: u64,
    /// Largest part, in bytes.
    pub part_bytes_max: u64,
    /// Most parts of one upload.
    pub parts_max: u32,
}

/// What must be true under the target key for a change to be made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// No object is there.
    Absent,
    /// This version is there.
    Matches(ETag),
}

/// Options of `get`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GetOptions {
    /// The bytes wanted, not empty; all when `None`. The end is cut at the object's.
    pub range: Option<ByteRange>,
    /// The version wanted.
    pub if_match: Option<ETag>,
}

/// Bytes on their way from the store. Ends with an error when the connection breaks before `range` is complete.
pub type Body = BoxStream<'static, Result<Bytes>>;

/// An accepted `get`.
pub struct Fetched {
    /// The object as the answer describes it.
    pub meta: ObjectMeta,
    /// The bytes that `body` yields, cut at the object's end.
    pub range: ByteRange,
    /// Those bytes.
    pub body: Body,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetched")
            .field("meta", &self.meta)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// Options of `list`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListOptions {
    /// Only keys that begin so; may be empty.
    pub prefix: String,
    /// Fold everything below the next `/` after the prefix into one entry of `prefixes`.
    pub by_directory: bool,
    /// `next` of the page before.
    pub continuation: Option<String>,
    /// Only keys above this one (first page only).
    pub start_after: Option<String>,
    /// Most entries in the page (1 to 1,000); the store's own limit when `None`.
    pub entries_max: Option<u32>,
}

/// One page of a listing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ListPage {
    /// Objects; without metadata where the store does not list it.
    pub objects: Vec<ObjectMeta>,
    /// Folded prefixes, each with its closing `/`.
    pub prefixes: Vec<String>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
    /// Objects whose key cannot be a [`Key`]; they are counted and not shown.
    pub skipped: u64,
}

/// Options of `put`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PutOptions {
    /// What must be there.
    pub precondition: Precondition,
    /// Metadata to keep with the object.
    pub attributes: Attributes,
    /// The mark by which a lost answer is resolved.
    pub token: Option<UploadToken>,
    /// The body's checksum, sent along where the server checks it.
    pub crc64: Option<Crc64>,
}

/// What a copy does with metadata.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum MetadataDirective {
    /// The source's is kept.
    #[default]
    Keep,
    /// It is replaced.
    Replace(Attributes),
}

/// Options of `copy`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopyOptions {
    /// What must be under the target key.
    pub precondition: Precondition,
    /// What becomes of the metadata.
    pub metadata: MetadataDirective,
    /// The mark by which a lost answer is resolved, where the metadata are replaced.
    pub token: Option<UploadToken>,
}

/// Options of `delete`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeleteOptions {
    /// Remove only this version.
    pub if_match: Option<ETag>,
}

/// Options of `begin_upload`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploadOptions {
    /// Metadata to keep with the object.
    pub attributes: Attributes,
    /// The mark by which a lost answer is resolved.
    pub token: Option<UploadToken>,
    /// The object's size, where it is known already. `Offset` uploads may need it.
    pub size: Option<u64>,
}

/// A server's name for an upload. A secret: who has it can write. Never logged.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UploadId(pub String);

impl fmt::Debug for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadId(***)")
    }
}

/// An upload that can be written down and gone on with after a restart.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Upload {
    /// The object it will become.
    pub key: Key,
    /// The server's name for it.
    pub id: UploadId,
}

/// Where a part goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartSlot {
    /// The part's number.
    pub number: PartNumber,
    /// The bytes of the object that it holds.
    pub range: ByteRange,
    /// Whether the object ends with it. `Offset` uploads need to know.
    pub is_last: bool,
}

/// The store's word that it has a part.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartReceipt {
    /// The part's number.
    pub number: PartNumber,
    /// Its length in bytes.
    pub len: u64,
    /// The server's name for its content. Empty for `Offset` uploads and where a server lists parts without.
    pub etag: String,
    /// Its checksum, where it is known (we sent it, or the server tells).
    pub crc64: Option<Crc64>,
}

/// What the store has of an upload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UploadStatus {
    /// These parts, sorted by number.
    Parts(Vec<PartReceipt>),
    /// All bytes before this offset.
    Offset(u64),
    /// It does not know the upload: never begun, given up, or completed.
    Gone,
}

/// How an upload is to be completed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Completion {
    /// What must be under the key.
    pub precondition: Precondition,
    /// Length of the whole object in bytes.
    pub size: u64,
    /// Checksum of the whole object, where it is known.
    pub crc64: Option<Crc64>,
    /// Attributes and token given to `begin_upload`, for the answer's [`ObjectMeta`].
    pub attributes: Attributes,
    /// The mark by which a lost answer is resolved.
    pub token: Option<UploadToken>,
}
