//! An embedded S3 server for demonstrations and tests. Not for production: it speaks plain HTTP, knows one key pair, and
//! syncs nothing, so a power failure may lose what it acknowledged (a crash of the server alone does not).
//!
//! The wire format and the signatures come from the `s3s` crate; what the operations mean is ours:
//!
//! | folder | purpose |
//! |---|---|
//! | `door` | HTTP: each request is named, logged, met by the fault rules, then handed on; `/-/` for other processes |
//! | `service` | the S3 operations: conditions, checksums, ranges, listings, uploads |
//! | `disk` | objects and uploads as files that anyone can read, and what survives a crash |
//!
//! Tests steer a server by [`Server::faults`], look at [`Server::requests`], and compare with [`Server::read`].
//! Deviations of real servers are switched on by [`Quirks`].

mod disk;
mod door;
mod plant;
mod quirks;
mod service;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub use door::faults::{Action, FaultHandle, Faults, Rule, Side};
pub use door::operation::Operation;
pub use door::requests::{Count, REQUESTS_KEPT_MAX, Recorded, Requests, RequestsSnapshot};
pub use quirks::{PART_BYTES_MIN, Quirks};

use crate::bucket::disk::{Condition, Refusal, Store, UploadQuery};
use crate::bucket::door::{Door, Link};
use crate::bucket::service::Service;
use crate::observe::task;

/// Connections open at a time; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;
/// How long `stop` waits for requests under way.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of one connection that wait to be parsed or sent. Large, because bodies go through here.
const CONNECTION_BUFFER_BYTES: usize = 1 << 20;
/// Wait after the system could not accept (out of file descriptors, for example).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a server is set up.
#[derive(Clone)]
pub struct Options {
    /// Where buckets are kept; made when missing. One server a directory.
    pub directory: PathBuf,
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The access key requests are signed with. Any region is taken.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Buckets made at start when they are not there. Others are made by CreateBucket.
    pub buckets: Vec<String>,
    /// Deviations from S3.
    pub quirks: Quirks,
    /// Waited before each request, as a long line would.
    pub latency: Duration,
    /// Bytes per second that all requests together may move in each direction; no limit when `None`.
    pub bandwidth: Option<u64>,
    /// Opens `/-/`, unsigned: fault rules and request log for other processes.
    pub admin: bool,
}

impl Options {
    /// Loopback, any free port, keys `tetherfs` and `tetherfs-secret`, no bucket, nothing odd.
    pub fn new(directory: &Path) -> Options {
        Options {
            directory: directory.to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            access_key: "tetherfs".to_owned(),
            secret_key: "tetherfs-secret".to_owned(),
            buckets: Vec::new(),
            quirks: Quirks::default(),
            latency: Duration::ZERO,
            bandwidth: None,
            admin: false,
        }
    }
}

/// Why a server did not start, or why what was asked of it directly failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be used.
    #[error("cannot serve {}: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another server has it.
    #[error("cannot serve {}: another server is using this directory; stop that one first", path.display())]
    Busy {
        /// The directory.
        path: PathBuf,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The name breaks the rules for bucket names.
    #[error(
        "'{name}' is no bucket name: take 3 to 63 of a-z, 0-9, '-' and '.', with a letter or digit at both ends"
    )]
    BucketName {
        /// The name.
        name: String,
    },
    /// A bucket or object could not be read or written.
    #[error("cannot use {what}: {why}")]
    Content {
        /// The bucket, or bucket and key.
        what: String,
        /// Why.
        why: String,
    },
}

/// A running server. Dropped without `stop`, it breaks off every connection, as a crash would.
pub struct Server {
    address: SocketAddr,
    door: Arc<Door>,
    phase: watch::Sender<Phase>,
}

/// How far a server's life has gone; connections watch it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Serving,
    /// No new connection, no further request on those open.
    Draining,
    /// Every connection is broken off.
    Stopped,
}

impl Server {
    /// Starts a server on the current runtime.
    pub async fn start(options: Options) -> Result<Server, Error> {
        let store = Arc::new(Store::open(&options.directory)?);
        for name in &options.buckets {
            if !s3s::path::check_bucket_name(name) {
                return Err(Error::BucketName { name: name.clone() });
            }
            match store.create(name) {
                Ok(()) | Err(Refusal::BucketExists) => {}
                Err(refusal) => return Err(Error::Content { what: name.clone(), why: refusal.to_string() }),
            }
        }
        let unheard = |source| Error::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(unheard)?;
        let address = listener.local_addr().map_err(unheard)?;
        let mut s3 = S3ServiceBuilder::new(Service::new(store.clone(), options.quirks.clone()));
        s3.set_auth(SimpleAuth::from_single(options.access_key, options.secret_key));
        let door = Arc::new(Door {
            s3: s3.build(),
            store,
            quirks: options.quirks,
            faults: Faults::default(),
            requests: Requests::default(),
            latency: options.latency,
            pace: options.bandwidth.map(Door::paces),
            admin: options.admin,
        });
        let (phase, watched) = watch::channel(Phase::Serving);
        task::spawn("bucket-accept", accept(listener, door.clone(), watched));
        Ok(Server { address, door, phase })
    }

    /// Where it is: `http://ADDRESS:PORT`.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The fault rules.
    pub fn faults(&self) -> &Faults {
        &self.door.faults
    }

    /// The request log.
    pub fn requests(&self) -> &Requests {
        &self.door.requests
    }

    /// Ends it: requests under way are answered, for at most five seconds, then the rest is broken off. When this
    /// returns, another server can have the directory.
    pub async fn stop(self) {
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(DRAIN_DEADLINE, self.phase.closed()).await.is_err() {
            self.kill().await;
        } else {
            self.door.store.release();
        }
    }

    /// Ends it at once: connections are broken off in the middle of whatever they do. What was acknowledged stays.
    pub async fn kill(self) {
        self.phase.send_replace(Phase::Stopped);
        self.phase.closed().await;
        self.door.store.release();
    }

    /// Puts an object without a request.
    pub fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> Result<(), Error> {
        let put = self.door.store.bucket(bucket).and_then(|bucket| plant::put(&bucket, key, bytes));
        put.map(drop).map_err(|refusal| unusable(bucket, key, &refusal))
    }

    /// Puts an object of `size` zeros without a request, with bytes in between at the offsets named, in ascending order.
    /// Takes no more space than those. Fails when they overlap or reach beyond the end.
    pub fn put_sparse(
        &self,
        bucket: &str,
        key: &str,
        size: u64,
        islands: &[(u64, &[u8])],
    ) -> Result<(), Error> {
        let put = self.door.store.bucket(bucket);
        let put = put.and_then(|bucket| plant::put_sparse(&bucket, key, size, islands));
        put.map(drop).map_err(|refusal| unusable(bucket, key, &refusal))
    }

    /// Reads an object without a request; `None` when there is none.
    pub fn read(&self, bucket: &str, key: &str) -> Result<Option<Vec<u8>>, Error> {
        match self.door.store.bucket(bucket).and_then(|bucket| plant::read(&bucket, key)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Refusal::NoSuchKey) => Ok(None),
            Err(refusal) => Err(unusable(bucket, key, &refusal)),
        }
    }

    /// Deletes an object without a request.
    pub fn delete(&self, bucket: &str, key: &str) -> Result<(), Error> {
        let deleted = self.door.store.bucket(bucket).and_then(|bucket| bucket.delete(key, &Condition::None));
        deleted.map_err(|refusal| unusable(bucket, key, &refusal))
    }

    /// Every key of a bucket, in order, without a request.
    pub fn keys(&self, bucket: &str) -> Result<Vec<String>, Error> {
        let found = self.door.store.bucket(bucket).map_err(|refusal| unusable(bucket, "", &refusal))?;
        let query = disk::Query { limit: usize::MAX, ..disk::Query::default() };
        Ok(found.list(&query).0.items.iter().map(|item| item.text().to_owned()).collect())
    }

    /// The keys of the uploads neither completed nor aborted, without a request; a key with two uploads comes twice.
    pub fn pending_uploads(&self, bucket: &str) -> Result<Vec<String>, Error> {
        let found = self.door.store.bucket(bucket).map_err(|refusal| unusable(bucket, "", &refusal))?;
        let query = UploadQuery { limit: usize::MAX, ..UploadQuery::default() };
        Ok(found.uploads(&query).uploads.into_iter().map(|upload| upload.key).collect())
    }

    /// How many of those uploads have no part, without a request.
    pub fn uploads_without_parts(&self, bucket: &str) -> Result<usize, Error> {
        let found = self.door.store.bucket(bucket).map_err(|refusal| unusable(bucket, "", &refusal))?;
        let query = UploadQuery { limit: usize::MAX, ..UploadQuery::default() };
        // One that ends at this moment is none any more.
        let is_bare = |key: &str, id: &str| found.parts(key, id).is_ok_and(|parts| parts.is_empty());
        Ok(found.uploads(&query).uploads.iter().filter(|upload| is_bare(&upload.key, &upload.id)).count())
    }
}

fn unusable(bucket: &str, key: &str, refusal: &Refusal) -> Error {
    Error::Content { what: format!("{bucket}/{key}"), why: refusal.to_string() }
}

async fn accept(listener: TcpListener, door: Arc<Door>, mut phase: watch::Receiver<Phase>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = async {
            let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, slot)
        };
        tokio::select! {
            _ = phase.changed() => break,
            (accepted, slot) = accepted => match accepted {
                Ok((stream, _)) => {
                    task::spawn("bucket-connection", serve(stream, door.clone(), phase.clone(), slot));
                }
                Err(error) => {
                    log::warn!("Cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}

/// Answers the requests of one connection until either side ends it. `_slot` is given back when it does.
async fn serve(
    stream: TcpStream,
    door: Arc<Door>,
    mut phase: watch::Receiver<Phase>,
    _slot: OwnedSemaphorePermit,
) {
    let (Ok(()), Ok(socket)) = (stream.set_nodelay(true), stream.as_fd().try_clone_to_owned()) else {
        log::warn!("Cannot set up a connection");
        return;
    };
    let link = Arc::new(Link::new(socket));
    let service = service_fn(move |request| {
        let (door, link) = (door.clone(), link.clone());
        async move { door.answer(request, &link).await }
    });
    let connection = http1::Builder::new()
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    log::debug!("Connection ended: {error}");
                }
                return;
            }
            changed = phase.changed() => {
                let phase = *phase.borrow_and_update();
                match (changed, phase) {
                    (Ok(()), Phase::Serving) => {}
                    (Ok(()), Phase::Draining) => connection.as_mut().graceful_shutdown(),
                    (Ok(()), Phase::Stopped) | (Err(_), _) => return,
                }
            }
        }
    }
}
