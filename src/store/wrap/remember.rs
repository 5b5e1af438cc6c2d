//! What objects carry, remembered: a listing does not say who may execute an object, or that it is a link.
//!
//! Metadata is believed of one version, told by etag and time of change: others may replace an object's metadata alone,
//! which leaves the etag as it was. The answer to a change of our own has no such time; the first listing after it sets it.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use lru::LruCache;
use serde::Deserialize;

use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, Fetched, GetOptions, ListOptions, ListPage,
    MetadataDirective, ObjectStore, PartReceipt, PartSlot, PutOptions, Result, Upload, UploadId,
    UploadOptions, UploadStatus,
};
use crate::types::{Attributes, ByteRange, Key, ObjectId, ObjectMeta, UnixTime};

/// Uploads of which it is known what their objects will carry. Those of an earlier process are not.
const UPLOADS_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("it is not zero");

/// Objects that are asked about at a time, where all of a listing are.
const HEADS_MAX: usize = 32;

/// Of which objects in a listing it is known what they carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetadataReach {
    /// Of those that were written or looked at here.
    #[default]
    Known,
    /// Of all: each of which it is not known is asked about, once a version.
    All,
}

/// Where it is remembered. Calls do not wait.
pub trait MetadataMemory: std::fmt::Debug + Send + Sync + 'static {
    /// What a version carries, if that is known of it. `modified` is when the store wrote it, where it says so.
    fn recall(&self, object: &ObjectId, modified: Option<UnixTime>) -> Option<Attributes>;

    /// A version carries this.
    fn learn(&self, object: &ObjectId, modified: Option<UnixTime>, attributes: &Attributes);

    /// The object is gone.
    fn forget(&self, key: &Key);
}

/// A store whose listings have metadata, where it has been seen before.
#[derive(Debug)]
pub struct RememberStore {
    inner: Arc<dyn ObjectStore>,
    memory: Arc<dyn MetadataMemory>,
    reach: MetadataReach,
    uploads: Mutex<LruCache<UploadId, Attributes>>,
}

impl RememberStore {
    /// A store around another.
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        memory: Arc<dyn MetadataMemory>,
        reach: MetadataReach,
    ) -> RememberStore {
        RememberStore { inner, memory, reach, uploads: Mutex::new(LruCache::new(UPLOADS_MAX)) }
    }

    /// What an object carries; `None` where it cannot be had, or another version is there by now.
    async fn ask(&self, object: &ObjectId) -> Option<Attributes> {
        match self.head(&object.key).await {
            Ok(there) => (there.id == *object).then(|| there.attributes.unwrap_or_default()),
            Err(error) => {
                log::debug!("What {} carries is not known: {error}", object.key);
                None
            }
        }
    }

    fn made(&self, object: &ObjectMeta, attributes: &Attributes) {
        self.memory.learn(&object.id, None, attributes);
    }

    fn upload(&self, upload: &Upload) -> Option<Attributes> {
        self.uploads.lock().expect("no holder of the lock panics").pop(&upload.id)
    }
}

#[async_trait]
impl ObjectStore for RememberStore {
    fn volume(&self) -> &str {
        self.inner.volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let object = self.inner.head(key).await?;
        self.memory.learn(
            &object.id,
            Some(object.modified),
            object.attributes.as_ref().unwrap_or(&Attributes::default()),
        );
        Ok(object)
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        self.inner.get(key, options).await
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        let mut page = self.inner.list(options).await?;
        for object in page.objects.iter_mut().filter(|object| object.attributes.is_none()) {
            object.attributes = self.memory.recall(&object.id, Some(object.modified));
        }
        match self.reach {
            MetadataReach::Known => {}
            MetadataReach::All => {
                let unknown = page.objects.iter_mut().filter(|object| object.attributes.is_none());
                stream::iter(unknown)
                    .for_each_concurrent(HEADS_MAX, |object| async {
                        object.attributes = self.ask(&object.id).await;
                    })
                    .await;
            }
        }
        Ok(page)
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        let attributes = options.attributes.clone();
        let object = self.inner.put(key, body, options).await?;
        self.made(&object, &attributes);
        Ok(object)
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        let attributes = match &options.metadata {
            MetadataDirective::Keep => self.memory.recall(source, None),
            MetadataDirective::Replace(attributes) => Some(attributes.clone()),
        };
        let object = self.inner.copy(source, target, options).await?;
        if let Some(attributes) = attributes {
            self.made(&object, &attributes);
        }
        Ok(object)
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.inner.delete(key, options).await?;
        self.memory.forget(key);
        Ok(())
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let results = self.inner.delete_many(keys).await?;
        let gone = keys.iter().zip(&results).filter(|(_, result)| result.is_ok());
        gone.for_each(|(key, _)| self.memory.forget(key));
        Ok(results)
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        let attributes = options.attributes.clone();
        let upload = self.inner.begin_upload(key, options).await?;
        self.uploads.lock().expect("no holder of the lock panics").push(upload.id.clone(), attributes);
        Ok(upload)
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        self.inner.upload_status(upload).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        self.inner.put_part(upload, slot, body).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        self.inner.copy_part(upload, slot, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let object = self.inner.complete_upload(upload, parts, completion).await?;
        if let Some(attributes) = self.upload(upload) {
            self.made(&object, &attributes);
        }
        Ok(object)
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.upload(upload);
        self.inner.abort_upload(upload).await
    }
}
