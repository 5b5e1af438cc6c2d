//! A volume in memory, of either upload kind; the model for tests.
//!
//! Deterministic: versions, times and upload ids are counted, so that two runs of a test see the same ones. Everything a
//! real store may refuse is refused here.

mod upload;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::store::listing::PageBuilder;
use crate::store::memory::upload::Session;
use crate::store::rules::About;
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, ErrorKind, Fetched, GetOptions, ListOptions,
    ListPage, MetadataDirective, ObjectStore, Op, PartReceipt, PartSlot, Precondition, PutOptions, Result,
    Upload, UploadId, UploadKind, UploadOptions, UploadStatus,
};
use crate::types::{Attributes, ByteRange, Crc64, ETag, Key, ObjectId, ObjectMeta, UnixTime, UploadToken};

/// Bodies come in pieces of this many bytes, so that readers meet more than one.
const BODY_PIECE_BYTES: u64 = 64 << 10;
/// Largest object that one `put` takes, as with S3.
const PUT_BYTES_MAX: u64 = 5 << 30;
/// The time of the first change; each later one is a second later.
const FIRST_CHANGE_SECS: i64 = 1_700_000_000;

/// A volume in memory.
#[derive(Debug)]
pub struct MemoryStore {
    volume: String,
    capabilities: Capabilities,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    uploads: BTreeMap<String, Session>,
    /// Changes made so far: the source of etags and times.
    changes: u64,
    /// Uploads begun so far: the source of their ids.
    uploads_begun: u64,
}

#[derive(Clone, Debug)]
struct Object {
    bytes: Bytes,
    etag: ETag,
    modified: UnixTime,
    attributes: Attributes,
    token: Option<UploadToken>,
    crc64: Option<Crc64>,
}

impl Object {
    /// An object that has no version yet.
    fn unversioned(
        bytes: Bytes,
        attributes: Attributes,
        token: Option<UploadToken>,
        crc64: Option<Crc64>,
    ) -> Object {
        Object { bytes, etag: ETag::new(""), modified: UnixTime::default(), attributes, token, crc64 }
    }

    fn meta(&self, key: &Key) -> ObjectMeta {
        ObjectMeta {
            attributes: Some(self.attributes.clone()),
            token: self.token.clone(),
            crc64: self.crc64,
            ..self.listed(key)
        }
    }

    /// What a listing tells: no metadata.
    fn listed(&self, key: &Key) -> ObjectMeta {
        ObjectMeta {
            id: ObjectId { key: key.clone(), etag: self.etag.clone(), size: self.bytes.len() as u64 },
            modified: self.modified,
            attributes: None,
            token: None,
            crc64: None,
        }
    }
}

impl MemoryStore {
    /// An empty volume that can do everything `kind` allows.
    pub fn new(volume: &str, kind: UploadKind) -> MemoryStore {
        let has_parts = match kind {
            UploadKind::Parts(_) => true,
            UploadKind::Offset { .. } => false,
        };
        let capabilities = Capabilities {
            upload: kind,
            put_bytes_max: PUT_BYTES_MAX,
            object_bytes_max: u64::MAX,
            put_if_absent: true,
            put_if_match: true,
            conditional_complete: true,
            conditional_delete: true,
            conditional_get: true,
            copy_part: has_parts,
            stores_crc64: true,
            replace_part: has_parts,
        };
        MemoryStore::with_capabilities(volume, capabilities)
    }

    /// An empty volume that can do what `capabilities` says. Preconditions are checked in any case, as back ends do by
    /// looking first; the other fields take abilities away.
    pub fn with_capabilities(volume: &str, capabilities: Capabilities) -> MemoryStore {
        MemoryStore { volume: volume.to_owned(), capabilities, state: Mutex::default() }
    }

    /// The content of an object, for tests to compare with.
    pub fn object_bytes(&self, key: &Key) -> Option<Vec<u8>> {
        self.state().objects.get(key).map(|object| object.bytes.to_vec())
    }

    /// Number of uploads that are neither completed nor given up.
    pub fn open_uploads(&self) -> usize {
        self.state().uploads.len()
    }

    /// Forgets an upload as a server does that cleans up old ones.
    pub fn forget_upload(&self, id: &UploadId) {
        self.state().uploads.remove(&id.0);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic of another test thread leaves whole values behind: each change is one insertion or removal.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stored_crc64(&self, crc64: Option<Crc64>) -> Option<Crc64> {
        crc64.filter(|_| self.capabilities.stores_crc64)
    }

    fn pinned(&self, about: About<'_>, source: &ObjectId) -> Result<Object> {
        let about = About { key: &source.key, ..about };
        let object = self.state().find(about)?;
        about.check_precondition(&Precondition::Matches(source.etag.clone()), Some(&object.etag))?;
        Ok(object)
    }
}

impl State {
    fn find(&self, about: About<'_>) -> Result<Object> {
        self.objects
            .get(about.key)
            .cloned()
            .ok_or_else(|| about.error(ErrorKind::NotFound, "there is no such object"))
    }

    fn etag_of(&self, key: &Key) -> Option<&ETag> {
        self.objects.get(key).map(|object| &object.etag)
    }

    /// Gives the object a version of its own and makes it visible.
    fn insert(&mut self, key: &Key, mut object: Object) -> ObjectMeta {
        self.changes += 1;
        object.etag = ETag::new(&format!("memory-{}", self.changes));
        object.modified = UnixTime::from_secs(FIRST_CHANGE_SECS + self.changes as i64);
        let meta = object.meta(key);
        self.objects.insert(key.clone(), object);
        meta
    }

    fn remove(&mut self, about: About<'_>, if_match: Option<ETag>) -> Result<()> {
        let precondition = if_match.map_or(Precondition::None, Precondition::Matches);
        about.check_precondition(&precondition, self.etag_of(about.key))?;
        self.objects.remove(about.key);
        Ok(())
    }

    fn session(&mut self, about: About<'_>, upload: &Upload) -> Result<&mut Session> {
        self.uploads
            .get_mut(&upload.id.0)
            .filter(|session| session.key == upload.key)
            .ok_or_else(|| about.error(ErrorKind::UploadGone, "the upload is not known"))
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    fn volume(&self) -> &str {
        &self.volume
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        Ok(self.state().find(About { op: Op::Head, key })?.meta(key))
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        let about = About { op: Op::Get, key };
        let object = self.state().find(about)?;
        let precondition = options.if_match.map_or(Precondition::None, Precondition::Matches);
        about.check_precondition(&precondition, Some(&object.etag))?;
        let range = about.check_range(options.range, object.bytes.len() as u64)?;
        let meta = object.meta(key);
        let pieces = range
            .split(BODY_PIECE_BYTES)
            .map(move |piece| Ok(object.bytes.slice(piece.start as usize..piece.end as usize)));
        Ok(Fetched { meta, range, body: stream::iter(pieces.collect::<Vec<_>>()).boxed() })
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        let mut page = PageBuilder::new(options)?;
        for (key, object) in &self.state().objects {
            if !page.wants(key.as_str()) {
                continue;
            }
            let step = match page.folded(key.as_str()) {
                Some(prefix) => page.push_prefix(prefix),
                None => page.push_object(object.listed(key)),
            };
            if step.is_break() {
                break;
            }
        }
        Ok(page.finish())
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        let about = About { op: Op::Put, key };
        if body.len() as u64 > self.capabilities.put_bytes_max {
            return Err(about.error(ErrorKind::TooLarge, "too large for one request"));
        }
        let crc64 = self.stored_crc64(Some(Crc64::of(&body)));
        if let Some(crc64) = crc64 {
            about.check_crc64(options.crc64, crc64)?;
        }
        let mut state = self.state();
        about.check_precondition(&options.precondition, state.etag_of(key))?;
        Ok(state.insert(key, Object::unversioned(body, options.attributes, options.token, crc64)))
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        let about = About { op: Op::Copy, key: target };
        let object = self.pinned(about, source)?;
        let (attributes, token) = match options.metadata {
            MetadataDirective::Keep => (object.attributes, object.token),
            MetadataDirective::Replace(attributes) => (attributes, options.token),
        };
        let mut state = self.state();
        about.check_precondition(&options.precondition, state.etag_of(target))?;
        Ok(state.insert(target, Object::unversioned(object.bytes, attributes, token, object.crc64)))
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.state().remove(About { op: Op::Delete, key }, options.if_match)
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let mut state = self.state();
        Ok(keys.iter().map(|key| state.remove(About { op: Op::DeleteMany, key }, None)).collect())
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        let mut state = self.state();
        state.uploads_begun += 1;
        let id = format!("memory-upload-{}", state.uploads_begun);
        state.uploads.insert(id.clone(), Session::new(key, options, self.capabilities.upload));
        Ok(Upload { key: key.clone(), id: UploadId(id) })
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        let about = About { op: Op::UploadStatus, key: &upload.key };
        Ok(match self.state().session(about, upload) {
            Ok(session) => session.status(),
            Err(_unknown) => UploadStatus::Gone,
        })
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        let about = About { op: Op::PutPart, key: &upload.key };
        self.state().session(about, upload)?.put(about, &self.capabilities, slot, body)
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        let about = About { op: Op::CopyPart, key: &upload.key };
        if !self.capabilities.copy_part {
            return Err(about.error(ErrorKind::Unsupported, "this store cannot copy into an upload"));
        }
        let object = self.pinned(about, source)?;
        if range.is_empty() || range.end > object.bytes.len() as u64 {
            return Err(about.refused("the range is not within the source"));
        }
        let body = object.bytes.slice(range.start as usize..range.end as usize);
        self.state().session(about, upload)?.put(about, &self.capabilities, slot, body)
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let about = About { op: Op::CompleteUpload, key: &upload.key };
        let mut state = self.state();
        let session = state.session(about, upload)?;
        let (bytes, crc64) = session.join(about, parts, &completion)?;
        let UploadOptions { attributes, token, size: _ } = session.options.clone();
        about.check_precondition(&completion.precondition, state.etag_of(&upload.key))?;
        state.uploads.remove(&upload.id.0);
        let crc64 = self.stored_crc64(Some(crc64));
        Ok(state.insert(&upload.key, Object::unversioned(bytes, attributes, token, crc64)))
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let about = About { op: Op::AbortUpload, key: &upload.key };
        let mut state = self.state();
        let known = state.session(about, upload).is_ok();
        if known {
            state.uploads.remove(&upload.id.0);
        }
        Ok(())
    }
}
