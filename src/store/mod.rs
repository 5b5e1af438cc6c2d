//! The object store: one trait, the wrappers around it, the back ends below it.
//!
//! Contract of [`ObjectStore`], for implementers and callers:
//! * One method is one operation; the trait has no default methods, so a wrapper cannot lose one.
//! * Keys are relative to the mounted volume. The back end adds and cuts the volume's prefix.
//! * A back end sends each request once. The `retry` wrapper alone sends again, and only what is safe to send again.
//! * An error of kind [`ErrorKind::Ambiguous`] means that the answer was lost and the change may have been applied.
//!   Only the caller can resolve it, by looking ([`ObjectStore::head`], [`ObjectStore::upload_status`]).
//! * A precondition the server is known to ignore ([`Capabilities`]) is replaced by a HEAD before the change. That
//!   leaves a gap between look and change, which `doctor` and the log tell the user about.
//! * [`ObjectStore::get`] promises that every byte it yields belongs to the version asked for, starts where it was asked
//!   for, and that a short body is an error after its last good byte (protocol rules: RFC 9110 section 14).
//! * Dropping a future or a body cancels the request.

pub mod conformance;
mod error;
mod http;
mod listing;
mod local;
mod location;
mod memory;
mod model;
mod open;
mod reach;
mod rules;
mod s3;
pub mod wrap;

use async_trait::async_trait;
use bytes::Bytes;

pub use error::{Error, ErrorKind, Op, Result};
pub use local::LocalStore;
pub use location::{Location, LocationError};
pub use memory::MemoryStore;
pub use model::{
    Body, Capabilities, Completion, CopyOptions, DeleteOptions, Fetched, GetOptions, ListOptions, ListPage,
    MetadataDirective, PartLimits, PartReceipt, PartSlot, Precondition, PutOptions, Upload, UploadId,
    UploadKind, UploadOptions, UploadStatus,
};
pub use open::{OpenError, Opened, Options, Visit, open, open_to_look, supposed_capabilities};
pub use reach::{Outage, Reach};
pub use s3::{AddressingStyle, Identity, KeyPair, S3Options, ServerFacts};

use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

/// A bucket, or a part of one, as the rest of tetherfs sees it.
#[async_trait]
pub trait ObjectStore: std::fmt::Debug + Send + Sync + 'static {
    /// A stable text that names the volume (server, bucket, prefix) without secrets. Keys the cache and the state.
    fn volume(&self) -> &str;

    /// What this volume can do, as declared by the protocol and corrected by probing.
    fn capabilities(&self) -> &Capabilities;

    /// What the store knows of an object. `NotFound` when there is none.
    async fn head(&self, key: &Key) -> Result<ObjectMeta>;

    /// Bytes of an object. With `if_match`, `Precondition` when another version is there.
    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched>;

    /// One page of a listing, in byte order of keys where the store orders them.
    async fn list(&self, options: ListOptions) -> Result<ListPage>;

    /// Stores an object in one request.
    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta>;

    /// Copies an object on the server, whatever its size, pinned to the source's version.
    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta>;

    /// Removes an object. Removing what is not there succeeds; under `if_match` it may also be `Precondition` or `NotFound`.
    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()>;

    /// Removes objects, in as few requests as the store allows. One result a key, in order.
    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>>;

    /// Begins an upload of the kind that [`Capabilities::upload`] names.
    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload>;

    /// Asks what the store has of an upload.
    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus>;

    /// Sends one part. For `Offset` uploads the slots must come in order, each where the last ended.
    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt>;

    /// Fills one part from bytes of an existing object, on the server. `Unsupported` where it cannot.
    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt>;

    /// Makes the uploaded parts the object, if the precondition holds. `UploadGone` when the upload is not known (any more).
    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta>;

    /// Gives an upload up and frees its parts. Succeeds when it is already gone.
    async fn abort_upload(&self, upload: &Upload) -> Result<()>;
}
