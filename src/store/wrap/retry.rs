//! Sends again what failed for now.
//!
//! Only kinds for which [`ErrorKind::is_retryable`] holds: the request was not applied, or is safe to apply again. A lost
//! answer to a change is ambiguous and goes to the caller, who looks. A `get` is sent again until its body begins; a body
//! that breaks goes to the caller, who keeps what has come and asks for the rest.
//!
//! The wait is random between nothing and a bound that doubles with each attempt ("full jitter"), so that clients which
//! failed together do not come back together.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::observe::{Counter, Metrics};
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, ErrorKind, Fetched, GetOptions, ListOptions,
    ListPage, ObjectStore, Op, PartReceipt, PartSlot, PutOptions, Result, Upload, UploadOptions,
    UploadStatus,
};
use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

/// Longest wait a server can impose by `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// Told of each failure after which a request is sent again.
pub type RetryListener = Arc<dyn Fn(&crate::store::Error) + Send + Sync>;

tokio::task_local! {
    static LISTENER: RetryListener;
    static ONCE: ();
}

/// Runs `future` and tells `listener` of every failure of its requests that is tried again, before the wait. They
/// may go on for minutes, and whoever looks at the mount meanwhile wants to know why nothing moves.
pub async fn listening_to_retries<F: Future>(listener: RetryListener, future: F) -> F::Output {
    LISTENER.scope(listener, future).await
}

/// Runs `future` with each of its requests sent once only: for who knows better what to do about a failure, or may want
/// something else by then.
pub async fn without_retries<F: Future>(future: F) -> F::Output {
    ONCE.scope((), future).await
}

/// How often and how patiently to try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryOptions {
    /// Most attempts of one operation, the first included; at least 1.
    pub attempts_max: u32,
    /// Upper bound of the wait after the first attempt. Doubles with each further one.
    pub backoff_first: Duration,
    /// Where the doubling ends.
    pub backoff_max: Duration,
}

impl RetryOptions {
    /// How long to wait before the next attempt when the one numbered `attempt` (from 1) failed with `kind`; `None` to give
    /// up. `random` is in 0..1.
    fn wait(&self, attempt: u32, kind: ErrorKind, random: f64) -> Option<Duration> {
        if !kind.is_retryable() || attempt >= self.attempts_max {
            return None;
        }
        let asked = match kind {
            ErrorKind::Unavailable { retry_after } => retry_after.unwrap_or_default().min(RETRY_AFTER_MAX),
            ErrorKind::NotFound
            | ErrorKind::NoVolume
            | ErrorKind::Precondition
            | ErrorKind::UploadGone
            | ErrorKind::Ambiguous
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Protocol
            | ErrorKind::Integrity
            | ErrorKind::Unsupported => Duration::ZERO,
        };
        let doubled =
            2_u32.checked_pow(attempt - 1).and_then(|factor| self.backoff_first.checked_mul(factor));
        let bound = doubled.map_or(self.backoff_max, |doubled| doubled.min(self.backoff_max));
        Some(asked + bound.mul_f64(random))
    }
}

/// A source of numbers in 0..1.
type Random = fn() -> f64;

/// A store that tries again.
#[derive(Debug)]
pub struct RetryStore {
    inner: Arc<dyn ObjectStore>,
    options: RetryOptions,
    metrics: Arc<Metrics>,
    random: Random,
}

impl RetryStore {
    /// Puts retries around a store.
    pub fn new(inner: Arc<dyn ObjectStore>, options: RetryOptions, metrics: Arc<Metrics>) -> RetryStore {
        RetryStore { inner, options, metrics, random: fastrand::f64 }
    }

    /// Sends until it succeeds, fails for good, or has been tried often enough.
    async fn attempts<T, F>(&self, op: Op, key: Option<&Key>, send: impl Fn() -> F + Send) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send,
    {
        let is_once = ONCE.try_with(|()| ()).is_ok();
        let mut attempt = 1;
        loop {
            log::debug!("Store request op={op} key={} attempt={attempt}", shown(key));
            let error = match send().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let Some(wait) = self.options.wait(attempt, error.kind, (self.random)()).filter(|_| !is_once)
            else {
                return Err(error);
            };
            self.pause(attempt, wait, &error).await;
            attempt += 1;
        }
    }

    async fn pause(&self, attempt: u32, wait: Duration, error: &crate::store::Error) {
        let wait_ms = wait.as_millis();
        log::debug!("Store request failed, will retry attempt={attempt} wait_ms={wait_ms} error={error}");
        self.metrics.add(Counter::StoreRetries, 1);
        // Err means that nobody listens, as for reads.
        let _ = LISTENER.try_with(|listener| listener(error));
        tokio::time::sleep(wait).await;
    }
}

fn shown(key: Option<&Key>) -> &str {
    key.map_or("-", Key::as_str)
}

#[async_trait]
impl ObjectStore for RetryStore {
    fn volume(&self) -> &str {
        self.inner.volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.attempts(Op::Head, Some(key), || self.inner.head(key)).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        self.attempts(Op::Get, Some(key), || self.inner.get(key, options.clone())).await
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        self.attempts(Op::List, None, || self.inner.list(options.clone())).await
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        self.attempts(Op::Put, Some(key), || self.inner.put(key, body.clone(), options.clone())).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        self.attempts(Op::Copy, Some(target), || self.inner.copy(source, target, options.clone())).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.attempts(Op::Delete, Some(key), || self.inner.delete(key, options.clone())).await
    }

    /// Sends again only the keys that failed for now.
    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let mut results = self.attempts(Op::DeleteMany, None, || self.inner.delete_many(keys)).await?;
        for attempt in 1..self.options.attempts_max {
            let failed = |result: &Result<()>| result.as_ref().is_err_and(|error| error.kind.is_retryable());
            let again: Vec<usize> = (0..results.len()).filter(|&index| failed(&results[index])).collect();
            let Some(error) = again.first().and_then(|&first| results[first].clone().err()) else {
                break;
            };
            let Some(wait) = self.options.wait(attempt, error.kind, (self.random)()) else {
                break;
            };
            self.pause(attempt, wait, &error).await;
            let keys: Vec<Key> = again.iter().map(|&index| keys[index].clone()).collect();
            let Ok(second) = self.inner.delete_many(&keys).await else {
                break;
            };
            again.into_iter().zip(second).for_each(|(index, result)| results[index] = result);
        }
        Ok(results)
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        self.attempts(Op::BeginUpload, Some(key), || self.inner.begin_upload(key, options.clone())).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        self.attempts(Op::UploadStatus, Some(&upload.key), || self.inner.upload_status(upload)).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        let send = || self.inner.put_part(upload, slot, body.clone());
        self.attempts(Op::PutPart, Some(&upload.key), send).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        let send = || self.inner.copy_part(upload, slot, source, range);
        self.attempts(Op::CopyPart, Some(&upload.key), send).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let send = || self.inner.complete_upload(upload, parts, completion.clone());
        self.attempts(Op::CompleteUpload, Some(&upload.key), send).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.attempts(Op::AbortUpload, Some(&upload.key), || self.inner.abort_upload(upload)).await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::wrap::{Action, FaultStore, Rule, When};
    use crate::store::{MemoryStore, UploadKind};

    const OPTIONS: RetryOptions = RetryOptions {
        attempts_max: 4,
        backoff_first: Duration::from_millis(100),
        backoff_max: Duration::from_millis(300),
    };
    const BUSY: ErrorKind = ErrorKind::Unavailable { retry_after: None };

    #[test]
    fn the_wait_doubles_up_to_its_bound() {
        let bounds: Vec<_> = (1..=4).map(|attempt| OPTIONS.wait(attempt, BUSY, 1.0)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(bounds, [ms(100), ms(200), ms(300), None]);
        assert_eq!(OPTIONS.wait(1, BUSY, 0.0), ms(0));
        assert_eq!(OPTIONS.wait(2, BUSY, 0.25), ms(50));
    }

    #[test]
    fn only_what_is_safe_is_sent_again() {
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::NoVolume,
            ErrorKind::Precondition,
            ErrorKind::UploadGone,
            ErrorKind::Ambiguous,
            ErrorKind::Denied,
            ErrorKind::TooLarge,
            ErrorKind::Refused,
            ErrorKind::Protocol,
            ErrorKind::Unsupported,
        ] {
            assert_eq!(OPTIONS.wait(1, kind, 0.5), None, "{kind:?}");
        }
        assert!(OPTIONS.wait(1, ErrorKind::Integrity, 0.5).is_some());
    }

    proptest! {
        #[test]
        fn the_wait_stays_in_its_range(attempt in 1u32..200, random in 0.0..1.0f64, asked_secs in 0u64..1_000_000) {
            let options = RetryOptions { attempts_max: u32::MAX, ..OPTIONS };
            let plain = options.wait(attempt, BUSY, random).unwrap();
            prop_assert!(plain <= OPTIONS.backoff_max);
            let retry_after = Some(Duration::from_secs(asked_secs));
            let asked = options.wait(attempt, ErrorKind::Unavailable { retry_after }, random).unwrap();
            prop_assert_eq!(asked, plain + Duration::from_secs(asked_secs.min(60)));
        }
    }

    fn stack(rules: Vec<Rule>) -> (Arc<FaultStore>, RetryStore, Arc<Metrics>) {
        let memory = MemoryStore::new("memory://retry", UploadKind::Offset { align: 1 });
        let faults = Arc::new(FaultStore::new(Arc::new(memory)));
        rules.into_iter().for_each(|rule| faults.add(rule));
        let metrics = Arc::new(Metrics::default());
        let retry =
            RetryStore { random: || 1.0, ..RetryStore::new(faults.clone(), OPTIONS, metrics.clone()) };
        (faults, retry, metrics)
    }

    fn key() -> Key {
        Key::new("k").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_put_is_sent_until_it_succeeds() {
        let busy = Rule::on(Op::Put, Action::FailBefore(BUSY)).when(When::First(2));
        let (faults, retry, metrics) = stack(vec![busy]);
        let begun = tokio::time::Instant::now();
        let body = Bytes::from_static(b"body");
        retry.put(&key(), body.clone(), PutOptions::default()).await.unwrap();
        assert_eq!((faults.count(Op::Put), metrics.count(Counter::StoreRetries)), (3, 2));
        assert_eq!(begun.elapsed(), Duration::from_millis(100 + 200));
        let fetched = retry.get(&key(), GetOptions::default()).await.unwrap();
        assert_eq!(fetched.range.len(), body.len() as u64);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_are_bounded_and_a_lost_answer_is_not_one() {
        let busy = Rule::on(Op::Head, Action::FailBefore(BUSY));
        let lost = Rule::on(Op::Put, Action::FailAfter(ErrorKind::Ambiguous));
        let (faults, retry, metrics) = stack(vec![busy, lost]);
        assert_eq!(retry.head(&key()).await.unwrap_err().kind, BUSY);
        assert_eq!((faults.count(Op::Head), metrics.count(Counter::StoreRetries)), (4, 3));
        let put = retry.put(&key(), Bytes::from_static(b"x"), PutOptions::default()).await;
        assert_eq!(put.unwrap_err().kind, ErrorKind::Ambiguous);
        assert_eq!(faults.count(Op::Put), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_sent_again_for_who_does_not_want_it() {
        let (faults, retry, _) = stack(vec![Rule::on(Op::Put, Action::FailBefore(BUSY))]);
        let put = without_retries(retry.put(&key(), Bytes::from_static(b"x"), PutOptions::default())).await;
        assert_eq!((put.unwrap_err().kind, faults.count(Op::Put)), (BUSY, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_is_given_the_time_it_asks_for() {
        let kind = ErrorKind::Unavailable { retry_after: Some(Duration::from_secs(7)) };
        let (_, retry, _) = stack(vec![Rule::on(Op::List, Action::FailBefore(kind)).when(When::Nth(1))]);
        let begun = tokio::time::Instant::now();
        retry.list(ListOptions::default()).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_millis(7_100));
    }
}
