//! A volume that was opened before: its server need not answer for it to be opened again.
//!
//! The server is asked all the same, by a task that goes on until it has answered. Until then requests are made by what
//! is remembered of it, and after that by what it was found to do.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::observe::task;
use crate::store::reach::Reach;
use crate::store::s3::S3Store;
use crate::store::s3::dialect::Dialect;
use crate::store::s3::open::Way;
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, ErrorKind, Fetched, GetOptions, ListOptions,
    ListPage, ObjectStore, OpenError, PartReceipt, PartSlot, PutOptions, Result, Upload, UploadOptions,
    UploadStatus,
};
use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

/// Longest that opening waits for the answer of a server that need not give one.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Pause before a silent server is asked again. Doubles up to `PAUSE_MAX`.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// What was found out about a volume's server, to be given to the next opening. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServerFacts {
    /// The volume that they are about.
    pub(in crate::store::s3) volume: String,
    /// The region that requests are signed for.
    pub(in crate::store::s3) region: String,
    /// What the server makes of the protocol.
    pub(in crate::store::s3) dialect: Dialect,
}

/// Where the facts go once the server has answered.
pub type FactsSender = oneshot::Sender<ServerFacts>;

/// A volume whose server has been asked, or is being asked behind.
pub struct RevisitedStore {
    /// By what is remembered.
    remembered: S3Store,
    /// By what was found out.
    asked: OnceLock<S3Store>,
}

/// Opens a volume that was opened before. What the server refuses fails, if it says so soon.
pub async fn revisit(
    way: Way,
    remembered: Option<ServerFacts>,
    reach: Reach,
    facts: FactsSender,
) -> Result<Arc<RevisitedStore>, OpenError> {
    let remembered = way.unasked(remembered)?;
    let volume = remembered.volume.clone();
    let store = Arc::new(RevisitedStore { remembered, asked: OnceLock::new() });
    let (told, first) = oneshot::channel();
    let asking = Asking { way, store: Arc::clone(&store), reach: reach.clone(), told: Some(told), facts };
    let asking = task::spawn("server-question", asking.run());
    let outage = match tokio::time::timeout(ANSWER_WAIT_MAX, first).await {
        Ok(Ok(Ok(()))) => return Ok(store),
        Ok(Ok(Err(error))) if !is_outage(&error) => {
            asking.abort();
            return Err(error);
        }
        Ok(Ok(Err(error))) => error.to_string(),
        Ok(Err(_)) => "the question was given up".to_owned(),
        Err(_) => format!("no answer for {} s", ANSWER_WAIT_MAX.as_secs()),
    };
    log::warn!("Opened {volume} by what is remembered of it, for its server does not answer: {outage}");
    if store.asked.get().is_none() {
        reach.lost(outage);
    }
    Ok(store)
}

/// Whether the server was not there to answer, so that nothing is known of what it would say.
fn is_outage(error: &OpenError) -> bool {
    match error {
        OpenError::Options(_) | OpenError::Credentials(_) => false,
        OpenError::Store { source, .. } => match source.kind {
            ErrorKind::Unavailable { .. } | ErrorKind::Ambiguous => true,
            ErrorKind::NotFound
            | ErrorKind::NoVolume
            | ErrorKind::Precondition
            | ErrorKind::UploadGone
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Protocol
            | ErrorKind::Integrity
            | ErrorKind::Unsupported => false,
        },
    }
}

/// A question that is put until it is answered.
struct Asking {
    way: Way,
    store: Arc<RevisitedStore>,
    reach: Reach,
    /// Who waits for the first answer.
    told: Option<oneshot::Sender<Result<(), OpenError>>>,
    facts: FactsSender,
}

impl Asking {
    async fn run(mut self) {
        let mut pause = PAUSE_FIRST;
        loop {
            match self.way.ask().await {
                Ok(asked) => return self.answered(asked),
                Err(error) => self.refused(error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn answered(self, asked: S3Store) {
        self.reach.regained();
        // Whoever wanted the facts may have gone.
        self.facts.send(asked.facts()).ok();
        let volume = asked.volume.clone();
        // Nobody else sets it.
        self.store.asked.set(asked).ok();
        let is_awaited = self.told.is_some_and(|told| told.send(Ok(())).is_ok());
        if !is_awaited {
            log::info!("The server of {volume} answers");
        }
    }

    fn refused(&mut self, error: OpenError) {
        let text = error.to_string();
        if self.told.take().is_none_or(|told| told.send(Err(error)).is_err()) {
            self.reach.lost(text);
        }
    }
}

impl RevisitedStore {
    fn current(&self) -> &S3Store {
        self.asked.get().unwrap_or(&self.remembered)
    }
}

impl fmt::Debug for RevisitedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RevisitedStore").field(self.current()).finish()
    }
}

#[async_trait]
impl ObjectStore for RevisitedStore {
    fn volume(&self) -> &str {
        self.current().volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.current().capabilities()
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.current().head(key).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        self.current().get(key, options).await
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        self.current().list(options).await
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        self.current().put(key, body, options).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        self.current().copy(source, target, options).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.current().delete(key, options).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        self.current().delete_many(keys).await
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        self.current().begin_upload(key, options).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        self.current().upload_status(upload).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        self.current().put_part(upload, slot, body).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        self.current().copy_part(upload, slot, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        self.current().complete_upload(upload, parts, completion).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.current().abort_upload(upload).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::s3::{Identity, S3Options};

    #[tokio::test(start_paused = true)]
    async fn a_server_that_takes_the_question_and_is_silent_is_not_waited_for_long() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let options =
            S3Options { endpoint: Some(endpoint), identity: Identity::Anonymous, ..S3Options::default() };
        let way = Way::find("b", "", &options, Duration::from_secs(600)).await.unwrap();
        let reach = Reach::default();
        let begun = tokio::time::Instant::now();
        let (sender, _facts) = oneshot::channel();
        let store = revisit(way, None, reach.clone(), sender).await.unwrap();
        assert_eq!(begun.elapsed(), ANSWER_WAIT_MAX);
        assert!(reach.outage().unwrap().why.contains("no answer"));
        assert!(!store.capabilities().put_if_absent, "nothing is known of it");
    }
}
