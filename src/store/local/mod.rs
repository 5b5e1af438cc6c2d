//! A directory as a volume (`file:///dir`).
//!
//! * Objects are plain files under their own names; other programs read and write them too. Attributes, upload token and
//!   checksum are kept beside them ([`record`]).
//! * A file is written aside, synced, renamed into its place, and its directory synced: after power loss there is the
//!   old or the new object. Changes by tetherfs, in any process, are made one at a time under a file lock; creating never
//!   replaces another program's file. Only replacing and removing *by version* cannot see a program that does not know
//!   the lock and changes the file between look and change.
//! * Directories are kept when their last object goes, and an empty one is an object `dir/`.
//! * Links and devices are no objects. Keys cannot leave the directory ([`place`]).

mod body;
mod place;
mod record;
mod tree;
mod upload;
mod walk;
mod work;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::observe::task;
use crate::store::local::body::{body, interrupted};
use crate::store::local::tree::{Tree, kind_of};
use crate::store::rules::About;
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, Error, ErrorKind, Fetched, GetOptions, ListOptions,
    ListPage, ObjectStore, Op, PartReceipt, PartSlot, Precondition, PutOptions, Result, Upload, UploadKind,
    UploadOptions, UploadStatus,
};
use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

/// Largest object that one `put` takes; it is in memory, after all.
const PUT_BYTES_MAX: u64 = 5 << 30;
/// Largest file that offsets can name.
const OBJECT_BYTES_MAX: u64 = i64::MAX as u64;

/// A directory as a volume.
#[derive(Debug)]
pub struct LocalStore {
    volume: String,
    capabilities: Capabilities,
    tree: Arc<Tree>,
}

impl LocalStore {
    /// Opens a directory, which must exist. Makes `.tetherfs` in it, for files on their way; where it may not write, the
    /// volume is read-only. Blocks. `NoVolume` when there is no such directory, `Denied` when it may not be read.
    pub fn open(directory: &Path) -> Result<LocalStore> {
        let failed = |error: std::io::Error| {
            let kind = kind_of(Op::Probe, &error);
            Error::of(Op::Probe, kind, format!("cannot open {}: {error}", directory.display()))
        };
        let path = directory.canonicalize().map_err(failed)?;
        let tree = Tree::open(&path).map_err(failed)?;
        Ok(LocalStore::of(format!("file://{}", path.display()), tree))
    }

    fn of(volume: String, tree: Tree) -> LocalStore {
        let capabilities = Capabilities {
            upload: UploadKind::Parts(upload::LIMITS),
            put_bytes_max: PUT_BYTES_MAX,
            object_bytes_max: OBJECT_BYTES_MAX,
            put_if_absent: true,
            put_if_match: true,
            conditional_complete: true,
            conditional_delete: true,
            conditional_get: true,
            copy_part: true,
            stores_crc64: true,
            replace_part: true,
        };
        LocalStore { volume, capabilities, tree: Arc::new(tree) }
    }

    /// Runs a call about one object where it may block.
    async fn blocking<T: Send + 'static>(
        &self,
        op: Op,
        key: &Key,
        call: impl FnOnce(&Tree, About<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (tree, owned) = (self.tree.clone(), key.clone());
        let called = task::spawn_blocking("local store", move || call(&tree, About { op, key: &owned }));
        called.await.unwrap_or_else(|lost| Err(interrupted(op, key, &lost.to_string())))
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    fn volume(&self) -> &str {
        &self.volume
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.blocking(Op::Head, key, |tree, about| Ok(tree.find(about)?.meta(about.key))).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        let found = self.blocking(Op::Get, key, move |tree, about| {
            let found = tree.find(about)?;
            let precondition = options.if_match.map_or(Precondition::None, Precondition::Matches);
            about.check_precondition(&precondition, Some(&found.etag()))?;
            let range = about.check_range(options.range, found.size())?;
            Ok((found.meta(about.key), range, found))
        });
        let (meta, range, found) = found.await?;
        Ok(Fetched { meta, range, body: body(found, key, range) })
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        let tree = self.tree.clone();
        let listed = task::spawn_blocking("local list", move || tree.list(options)).await;
        listed.unwrap_or_else(|lost| {
            Err(Error::of(
                Op::List,
                ErrorKind::Unavailable { retry_after: None },
                format!("interrupted: {lost}"),
            ))
        })
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        self.blocking(Op::Put, key, move |tree, about| tree.put(about, &body, options)).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        let source = source.clone();
        self.blocking(Op::Copy, target, move |tree, about| tree.copy(about, &source, options)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.blocking(Op::Delete, key, |tree, about| tree.delete(about, options)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let (tree, keys) = (self.tree.clone(), keys.to_vec());
        let deleted = task::spawn_blocking("local delete", move || tree.delete_many(&keys)).await;
        deleted
            .map_err(|lost| Error::of(Op::DeleteMany, ErrorKind::Ambiguous, format!("interrupted: {lost}")))
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        self.blocking(Op::BeginUpload, key, |tree, about| tree.begin_upload(about, options)).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        let known = upload.clone();
        let call = move |tree: &Tree, about: About<'_>| tree.upload_status(about, &known);
        self.blocking(Op::UploadStatus, &upload.key, call).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        let known = upload.clone();
        let call = move |tree: &Tree, about: About<'_>| tree.put_part(about, &known, slot, &body);
        self.blocking(Op::PutPart, &upload.key, call).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        let (known, source) = (upload.clone(), source.clone());
        let call = move |tree: &Tree, about: About<'_>| tree.copy_part(about, &known, slot, (&source, range));
        self.blocking(Op::CopyPart, &upload.key, call).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let (known, parts) = (upload.clone(), parts.to_vec());
        let call =
            move |tree: &Tree, about: About<'_>| tree.complete_upload(about, &known, &parts, completion);
        self.blocking(Op::CompleteUpload, &upload.key, call).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let known = upload.clone();
        let call = move |tree: &Tree, about: About<'_>| tree.abort_upload(about, &known);
        self.blocking(Op::AbortUpload, &upload.key, call).await
    }
}
