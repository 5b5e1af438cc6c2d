//! Keeps the requests in flight, and the bytes they send, below a bound each.
//!
//! A `get` is in flight until its body is done or dropped. A caller that holds an unfinished body must go on reading it
//! without waiting for another request, or a bound of one would stop both.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::observe::{Gauge, Metrics};
use crate::store::{
    Body, Capabilities, Completion, CopyOptions, DeleteOptions, Fetched, GetOptions, ListOptions, ListPage,
    ObjectStore, PartReceipt, PartSlot, PutOptions, Result, Upload, UploadOptions, UploadStatus,
};
use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

/// Bytes of one permit for sending; finer counting would gain nothing.
const BYTES_A_PERMIT: u64 = 64 << 10;

/// What may be in flight at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Requests; at least 1.
    pub requests_max: usize,
    /// Bytes of bodies being sent. One body larger than that is sent alone. What is fetched is bounded by its reader.
    pub bytes_max: u64,
}

/// A store with a bound on what is in flight. Requests wait in the order they came.
#[derive(Debug)]
pub struct LimitStore {
    inner: Arc<dyn ObjectStore>,
    requests: Arc<Semaphore>,
    bytes: Semaphore,
    /// Permits of `bytes` when nothing is in flight.
    bytes_permits: u32,
    metrics: Arc<Metrics>,
}

/// The right to one request; returned by drop.
#[derive(Debug)]
struct Permit {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.metrics.lower(Gauge::RequestsInFlight, 1);
    }
}

/// A body that holds its permit until it is done.
struct PermittedBody {
    inner: Body,
    bytes_left: u64,
    permit: Option<Permit>,
}

impl Stream for PermittedBody {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let next = ready!(self.inner.poll_next_unpin(context));
        let is_done = match &next {
            Some(Ok(bytes)) => {
                self.bytes_left = self.bytes_left.saturating_sub(bytes.len() as u64);
                self.bytes_left == 0
            }
            Some(Err(_)) | None => true,
        };
        if is_done {
            self.permit = None;
        }
        Poll::Ready(next)
    }
}

impl LimitStore {
    /// Puts bounds around a store.
    pub fn new(inner: Arc<dyn ObjectStore>, limits: Limits, metrics: Arc<Metrics>) -> LimitStore {
        let requests = Arc::new(Semaphore::new(limits.requests_max.clamp(1, Semaphore::MAX_PERMITS)));
        let bytes_permits = permits_for(limits.bytes_max);
        let bytes = Semaphore::new(bytes_permits as usize);
        LimitStore { inner, requests, bytes, bytes_permits, metrics }
    }

    /// The right to send a body. Taken before the right to a request, always, so that nobody waits in a circle.
    async fn bytes(&self, body: &Bytes) -> SemaphorePermit<'_> {
        let permits = permits_for(body.len() as u64).min(self.bytes_permits);
        self.bytes.acquire_many(permits).await.expect("the semaphore is never closed")
    }

    async fn permit(&self) -> Permit {
        let permit = self.requests.clone().acquire_owned().await.expect("the semaphore is never closed");
        self.metrics.raise(Gauge::RequestsInFlight, 1);
        Permit { metrics: self.metrics.clone(), _permit: permit }
    }
}

/// At least one, and few enough for any semaphore.
fn permits_for(bytes: u64) -> u32 {
    let most = (Semaphore::MAX_PERMITS as u64).min(u64::from(u32::MAX));
    bytes.div_ceil(BYTES_A_PERMIT).clamp(1, most) as u32
}

#[async_trait]
impl ObjectStore for LimitStore {
    fn volume(&self) -> &str {
        self.inner.volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let _permit = self.permit().await;
        self.inner.head(key).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        let permit = self.permit().await;
        let Fetched { meta, range, body } = self.inner.get(key, options).await?;
        let body = PermittedBody { inner: body, bytes_left: range.len(), permit: Some(permit) };
        let body: BoxStream<'static, Result<Bytes>> = Box::pin(body);
        Ok(Fetched { meta, range, body })
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        let _permit = self.permit().await;
        self.inner.list(options).await
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        let _bytes = self.bytes(&body).await;
        let _permit = self.permit().await;
        self.inner.put(key, body, options).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        let _permit = self.permit().await;
        self.inner.copy(source, target, options).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.delete(key, options).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let _permit = self.permit().await;
        self.inner.delete_many(keys).await
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        let _permit = self.permit().await;
        self.inner.begin_upload(key, options).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        let _permit = self.permit().await;
        self.inner.upload_status(upload).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        let _bytes = self.bytes(&body).await;
        let _permit = self.permit().await;
        self.inner.put_part(upload, slot, body).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        let _permit = self.permit().await;
        self.inner.copy_part(upload, slot, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let _permit = self.permit().await;
        self.inner.complete_upload(upload, parts, completion).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        let _permit = self.permit().await;
        self.inner.abort_upload(upload).await
    }
}
