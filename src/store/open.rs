//! From a location to a store with its wrappers around it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::observe::Metrics;
use crate::store::s3::{self, Dialect};
use crate::store::wrap::{LimitStore, Limits, MeterStore, RetryOptions, RetryStore};
use crate::store::{Capabilities, LocalStore, Location, ObjectStore, Reach, S3Options, ServerFacts};
use crate::types::ByteSize;

/// Upper bound of the first wait between two attempts.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);

/// How a store is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// For `s3://`.
    pub s3: S3Options,
    /// Most requests in flight.
    pub requests_max: usize,
    /// Most bytes of bodies being sent.
    pub sending_bytes_max: ByteSize,
    /// Longest wait for an answer to begin, and for the next bytes of a body.
    pub stall_timeout: Duration,
    /// Most attempts of one operation, the first included.
    pub attempts_max: u32,
    /// Upper bound of the wait between two attempts.
    pub backoff_max: Duration,
}

/// Why a volume cannot be opened; says what to do about it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OpenError {
    /// The options make no sense.
    #[error("{0}")]
    Options(String),
    /// No credentials were found.
    #[error("{0}")]
    Credentials(String),
    /// The store refuses or cannot be reached.
    #[error("cannot open {volume}: {source}. {advice}")]
    Store {
        /// The volume.
        volume: String,
        /// What happened.
        source: crate::store::Error,
        /// What to do.
        advice: String,
    },
}

/// What is known of a volume before it is opened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Visit {
    /// Nothing. Its server must answer.
    First,
    /// It was opened before, so that its server need not answer now. With what was found out then, if that is known.
    Again(Option<ServerFacts>),
}

/// An open volume.
#[derive(Debug)]
pub struct Opened {
    /// The volume.
    pub store: Arc<dyn ObjectStore>,
    /// Whether its server can be worked with.
    pub reach: Reach,
    /// What its server is found to be like, as soon as it has been asked; for the next [`Visit`]. Nothing comes where
    /// there is nothing to be remembered.
    pub facts: oneshot::Receiver<ServerFacts>,
}

/// Opens a volume: finds credentials, checks that the bucket is there, probes what the server can do, and puts the
/// wrappers around the back end. On a visit that is not the first, a server that does not answer is asked behind.
pub async fn open(
    location: &Location,
    options: &Options,
    visit: Visit,
    metrics: Arc<Metrics>,
) -> Result<Opened, OpenError> {
    options.check()?;
    let reach = Reach::default();
    let (found, facts) = oneshot::channel();
    let back_end: Arc<dyn ObjectStore> = match location {
        Location::S3 { bucket, prefix } => {
            s3::open((bucket, prefix), &options.s3, options.stall_timeout, visit, &reach, found).await?
        }
        Location::Local { directory } => Arc::new(open_local(directory)?),
    };
    Ok(Opened { store: wrap(back_end, options, metrics, &reach), reach, facts })
}

/// Opens a volume for looking at objects and unfinished uploads. Nothing is tried out and nothing written, so that what
/// the store says of its capabilities is only what such a store can do at best.
pub async fn open_to_look(
    location: &Location,
    options: &Options,
    metrics: Arc<Metrics>,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    options.check()?;
    let back_end: Arc<dyn ObjectStore> = match location {
        Location::S3 { bucket, prefix } => {
            let way = s3::Way::find(bucket, prefix, &options.s3, options.stall_timeout).await?;
            Arc::new(way.look().await?)
        }
        Location::Local { directory } => Arc::new(open_local(directory)?),
    };
    Ok(wrap(back_end, options, metrics, &Reach::default()))
}

/// What a volume can do at best, of which nothing more is known.
pub fn supposed_capabilities() -> Capabilities {
    Dialect::amazon().capabilities()
}

impl Options {
    fn check(&self) -> Result<(), OpenError> {
        let wrong = |what: &str| Err(OpenError::Options(format!("{what} must be at least 1")));
        if self.requests_max == 0 {
            return wrong("the number of requests in flight");
        }
        if self.attempts_max == 0 {
            return wrong("the number of attempts");
        }
        if self.stall_timeout.is_zero() {
            return Err(OpenError::Options("the stall time-out must be above zero".to_owned()));
        }
        Ok(())
    }
}

/// The wrappers, from the inside: every request is counted, each attempt holds a permit, failures are tried again.
fn wrap(
    back_end: Arc<dyn ObjectStore>,
    options: &Options,
    metrics: Arc<Metrics>,
    reach: &Reach,
) -> Arc<dyn ObjectStore> {
    let metered = Arc::new(MeterStore::new(back_end, metrics.clone(), reach.clone()));
    let limits = Limits { requests_max: options.requests_max, bytes_max: options.sending_bytes_max.0 };
    let limited = Arc::new(LimitStore::new(metered, limits, metrics.clone()));
    let retry = RetryOptions {
        attempts_max: options.attempts_max,
        backoff_first: BACKOFF_FIRST.min(options.backoff_max),
        backoff_max: options.backoff_max,
    };
    Arc::new(RetryStore::new(limited, retry, metrics))
}

fn open_local(directory: &Path) -> Result<LocalStore, OpenError> {
    LocalStore::open(directory).map_err(|source| OpenError::Store {
        volume: format!("file://{}", directory.display()),
        source,
        advice: "Make the directory, or check who may read and write it".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_would_wait_forever_are_refused() {
        let sound = Options {
            s3: S3Options::default(),
            requests_max: 1,
            sending_bytes_max: ByteSize::mib(1),
            stall_timeout: Duration::from_secs(1),
            attempts_max: 1,
            backoff_max: Duration::from_secs(1),
        };
        assert!(sound.check().is_ok());
        for broken in [
            Options { requests_max: 0, ..sound.clone() },
            Options { attempts_max: 0, ..sound.clone() },
            Options { stall_timeout: Duration::ZERO, ..sound.clone() },
        ] {
            assert!(matches!(broken.check(), Err(OpenError::Options(_))), "{broken:?}");
        }
    }
}
