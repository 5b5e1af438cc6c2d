//! Counts requests, failures and bytes, and notes whether the server can be worked with.
//!
//! Every operation that reaches this store is one request, so it belongs inside the retries. "Not found" and "precondition
//! failed" are answers, not failures.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;

use crate::observe::{Counter, Metrics};
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, Error, ErrorKind, Fetched, GetOptions, ListOptions,
    ListPage, ObjectStore, PartReceipt, PartSlot, PutOptions, Reach, Result, Upload, UploadOptions,
    UploadStatus,
};
use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

/// A store that counts.
#[derive(Debug)]
pub struct MeterStore {
    inner: Arc<dyn ObjectStore>,
    metrics: Arc<Metrics>,
    reach: Reach,
}

impl MeterStore {
    /// Puts counters around a store.
    pub fn new(inner: Arc<dyn ObjectStore>, metrics: Arc<Metrics>, reach: Reach) -> MeterStore {
        MeterStore { inner, metrics, reach }
    }

    /// Sends a request with this many object bytes.
    async fn counted<T>(&self, sent_bytes: usize, send: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.metrics.add(Counter::StoreRequests, 1);
        self.metrics.add(Counter::SentBytes, sent_bytes as u64);
        let outcome = send.await;
        match &outcome {
            Ok(_) => self.reach.regained(),
            Err(error) => {
                self.reach.failed(error);
                count_failure(&self.metrics, error);
            }
        }
        outcome
    }
}

fn count_failure(metrics: &Metrics, error: &Error) {
    match error.kind {
        ErrorKind::NotFound | ErrorKind::Precondition => {}
        ErrorKind::NoVolume
        | ErrorKind::UploadGone
        | ErrorKind::Unavailable { .. }
        | ErrorKind::Ambiguous
        | ErrorKind::Denied
        | ErrorKind::TooLarge
        | ErrorKind::Refused
        | ErrorKind::Protocol
        | ErrorKind::Integrity
        | ErrorKind::Unsupported => metrics.add(Counter::StoreErrors, 1),
    }
}

#[async_trait]
impl ObjectStore for MeterStore {
    fn volume(&self) -> &str {
        self.inner.volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.counted(0, self.inner.head(key)).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        let Fetched { meta, range, body } = self.counted(0, self.inner.get(key, options)).await?;
        let metrics = self.metrics.clone();
        let body = body.inspect(move |piece| match piece {
            Ok(bytes) => metrics.add(Counter::FetchedBytes, bytes.len() as u64),
            Err(error) => count_failure(&metrics, error),
        });
        Ok(Fetched { meta, range, body: body.boxed() })
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        self.counted(0, self.inner.list(options)).await
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        self.counted(body.len(), self.inner.put(key, body, options)).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        self.counted(0, self.inner.copy(source, target, options)).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.counted(0, self.inner.delete(key, options)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let results = self.counted(0, self.inner.delete_many(keys)).await?;
        results
            .iter()
            .filter_map(|result| result.as_ref().err())
            .for_each(|e| count_failure(&self.metrics, e));
        Ok(results)
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        self.counted(0, self.inner.begin_upload(key, options)).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        self.counted(0, self.inner.upload_status(upload)).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        self.counted(body.len(), self.inner.put_part(upload, slot, body)).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        self.counted(0, self.inner.copy_part(upload, slot, source, range)).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        self.counted(0, self.inner.complete_upload(upload, parts, completion)).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.counted(0, self.inner.abort_upload(upload)).await
    }
}
