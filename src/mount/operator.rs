//! What the commands of the control socket do to a mount.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::control::{
    Answer, CacheAnswer, CacheCommand, Command, DrainProgress, ErrorCode, Hello, MountStatus, Operator,
    Outage, Rates, Unsealed, VERSION,
};
use crate::fs::{self, FileSystem, Status};
use crate::mount::Phase;
use crate::mount::rate::{RateMeter, SAMPLE_INTERVAL};
use crate::observe::{Counter, Metrics, task};
use crate::store::Reach;
use crate::types::{SessionId, UnixTime};

/// Longest that one `drain` request is held back.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(1);

/// A client's wish to end the mount.
#[derive(Debug)]
pub struct EndRequest {
    /// Longest wait for uploads; `None` until nothing can go on.
    pub wait: Option<Duration>,
    /// Answered at the end.
    pub reply: oneshot::Sender<Answer>,
}

/// Answers for one mount.
#[derive(Debug)]
pub struct Desk {
    config: Config,
    started: UnixTime,
    fs: Arc<FileSystem>,
    metrics: Arc<Metrics>,
    reach: Reach,
    phase: watch::Receiver<Phase>,
    meter: Mutex<RateMeter>,
    ends: mpsc::Sender<EndRequest>,
}

impl Desk {
    /// A desk for a mount made of `config`. Wishes to end it go to `ends`.
    pub fn new(
        config: Config,
        fs: Arc<FileSystem>,
        metrics: Arc<Metrics>,
        reach: Reach,
        phase: watch::Receiver<Phase>,
        ends: mpsc::Sender<EndRequest>,
    ) -> Arc<Desk> {
        let started = std::time::SystemTime::now().into();
        Arc::new(Desk { config, started, fs, metrics, reach, phase, meter: Mutex::default(), ends })
    }

    /// Keeps the rates up to date for as long as it is polled.
    pub async fn keep_rates(&self) {
        loop {
            let (sent, fetched) =
                (self.metrics.count(Counter::SentBytes), self.metrics.count(Counter::FetchedBytes));
            self.meter().sample(Instant::now(), sent, fetched);
            tokio::time::sleep(SAMPLE_INTERVAL).await;
        }
    }

    fn meter(&self) -> std::sync::MutexGuard<'_, RateMeter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rates(&self) -> Rates {
        self.meter().rates()
    }

    fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            release: env!("CARGO_PKG_VERSION").to_owned(),
            mountpoint: self.config.fuse.mountpoint.to_string_lossy().into_owned(),
            url: self.config.url.clone(),
            pid: std::process::id(),
            started: self.started,
            phase: self.phase.borrow().view(),
        }
    }

    fn status(&self) -> MountStatus {
        MountStatus {
            hello: self.hello(),
            commit: self.config.fs.commit,
            read_only: self.config.fs.read_only,
            cache_bytes_max: self.config.cache.bytes_max.0,
            staging_bytes_max: self.config.write.staging_bytes_max.0,
            rates: self.rates(),
            outage: self.reach.outage().map(|outage| Outage { since: outage.since, why: outage.why }),
            inside: self.fs.status(),
        }
    }

    async fn drain(&self, wait: Duration, before: Option<SessionId>) -> Answer {
        let before = before.unwrap_or(SessionId(u64::MAX));
        let drained = self.fs.drained_before(before);
        let is_settled = tokio::time::timeout(wait.min(DRAIN_WAIT_MAX), drained).await.is_ok();
        let inside = Status { sessions: self.fs.sessions_before(before), ..self.fs.status() };
        Answer::Drain(Box::new(DrainProgress { is_settled, rates: self.rates(), inside }))
    }

    async fn seal(&self) -> Answer {
        let seal = |fs: &FileSystem| {
            let fs::Sealing { before, unsealed } = fs.seal_all();
            let told = |file: fs::Unsealed| Unsealed { key: file.key, error: file.error.to_string() };
            Answer::Sealed { before, unsealed: unsealed.into_iter().map(told).collect() }
        };
        self.on_disk(seal).await
    }

    async fn cache(&self, command: CacheCommand) -> Answer {
        match command {
            CacheCommand::Report => self.on_disk(|fs| CacheAnswer::Report(fs.cache_numbers()).into()).await,
            CacheCommand::Pins => self.on_disk(|fs| CacheAnswer::Pins { pins: fs.pins() }.into()).await,
            CacheCommand::Unpin { paths } => {
                let unpin = move |fs: &FileSystem| match fs.unpin(&paths) {
                    Ok(unpinned) => CacheAnswer::Unpinned(unpinned).into(),
                    Err(error) => failed(&error),
                };
                self.on_disk(unpin).await
            }
            CacheCommand::Start { work } => match self.fs.start_work(work) {
                Ok(id) => CacheAnswer::Started { id }.into(),
                Err(error) => failed(&error),
            },
            CacheCommand::Ask { job, wait_ms } => {
                match self.fs.job(job, Duration::from_millis(wait_ms)).await {
                    Some(view) => CacheAnswer::Job(view).into(),
                    None => {
                        failed(&"what was begun is forgotten, because nobody asked about it for too long")
                    }
                }
            }
            CacheCommand::Cancel { job } => {
                self.fs.cancel_job(job);
                Answer::Done
            }
        }
    }

    /// An answer that needs the local disk.
    async fn on_disk(&self, answer: impl FnOnce(&FileSystem) -> Answer + Send + 'static) -> Answer {
        let fs = self.fs.clone();
        let answering = task::spawn_blocking("control-answer", move || answer(&fs));
        answering.await.unwrap_or_else(|error| failed(&error))
    }

    async fn end(&self, wait: Option<Duration>) -> Answer {
        let (reply, answer) = oneshot::channel();
        let ending =
            || Answer::Error { code: ErrorCode::Failed, message: "the mount is ending already".to_owned() };
        if self.ends.send(EndRequest { wait, reply }).await.is_err() {
            return ending();
        }
        answer.await.unwrap_or_else(|_| ending())
    }
}

#[async_trait]
impl Operator for Desk {
    async fn answer(&self, command: Command) -> Answer {
        match command {
            Command::Hello => Answer::Hello(self.hello()),
            Command::Status => Answer::Status(Box::new(self.status())),
            Command::Drain { wait_ms, before } => self.drain(Duration::from_millis(wait_ms), before).await,
            Command::Seal => self.seal().await,
            Command::Unmount { wait_ms } => self.end(wait_ms.map(Duration::from_millis)).await,
            Command::Commit { session } => done(self.fs.commit_interrupted(session)),
            Command::Discard { session } => done(self.fs.discard(session).await),
            Command::Retry { session } => match self.fs.retry(session) {
                Ok(uploads) => Answer::Retried { uploads },
                Err(error) => failed(&error),
            },
            Command::Resolve { session, resolution } => match self.fs.resolve(session, resolution).await {
                Ok(key) => Answer::Resolved { key },
                Err(error) => failed(&error),
            },
            Command::Refresh { paths, below } => done(self.fs.refresh(&paths, below)),
            Command::Cache(command) => self.cache(command).await,
        }
    }
}

fn done(result: fs::Result<()>) -> Answer {
    match result {
        Ok(()) => Answer::Done,
        Err(error) => failed(&error),
    }
}

fn failed(why: &impl std::fmt::Display) -> Answer {
    Answer::Error { code: ErrorCode::Failed, message: why.to_string() }
}
