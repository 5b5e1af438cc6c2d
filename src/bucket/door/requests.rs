//! What was asked of the server: exact counts by operation, and the last requests one by one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use http::header::RANGE;
use http::request::Parts;
use serde::{Deserialize, Serialize};

use crate::bucket::door::operation::{Operation, Target};

/// Requests kept one by one; older ones are forgotten, but stay in the counts.
pub const REQUESTS_KEPT_MAX: usize = 8192;

/// The requests to one server. Cheap to clone; all clones are the same log.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// By the operation's place in `Operation::ALL`.
    counts: Arc<[Cells]>,
    kept: Mutex<VecDeque<Arc<Entry>>>,
}

#[derive(Debug, Default)]
struct Cells {
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// How much of one operation there was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Count {
    /// Requests begun.
    pub requests: u64,
    /// Bytes of request bodies received.
    pub received: u64,
    /// Bytes of answer bodies sent.
    pub sent: u64,
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// What it wanted done.
    pub operation: Operation,
    /// The HTTP method.
    pub method: String,
    /// The bucket; empty when there is none.
    pub bucket: String,
    /// The key; empty when there is none.
    pub key: String,
    /// The Range header.
    pub range: Option<String>,
    /// The part number.
    pub part: Option<u32>,
    /// The status answered; `None` while there was no answer, or when it was dropped on purpose.
    pub status: Option<u16>,
    /// How often it was done with success: more than once when a fault repeated it, once also when its answer was lost.
    pub done: u64,
    /// Bytes of its body received.
    pub received: u64,
    /// Bytes of the answer's body sent.
    pub sent: u64,
}

/// Everything at one moment, as the admin door tells it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct RequestsSnapshot {
    /// Counts by operation name, those with requests only.
    pub counts: BTreeMap<String, Count>,
    /// The last requests, oldest first.
    pub recent: Vec<Recorded>,
}

/// A request on its way; whoever moves its bytes counts them here.
#[derive(Debug)]
pub struct Entry {
    facts: Recorded,
    status: AtomicU16,
    done: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    counts: Arc<[Cells]>,
}

impl Requests {
    /// The count of one operation.
    pub fn count(&self, operation: Operation) -> Count {
        self.0.counts[operation as usize].read()
    }

    /// The count of all operations together.
    pub fn total(&self) -> Count {
        self.0.counts.iter().map(Cells::read).fold(Count::default(), |sum, count| Count {
            requests: sum.requests + count.requests,
            received: sum.received + count.received,
            sent: sum.sent + count.sent,
        })
    }

    /// The last requests, oldest first, at most [`REQUESTS_KEPT_MAX`].
    pub fn recent(&self) -> Vec<Recorded> {
        let kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().map(|entry| entry.read()).collect()
    }

    /// Counts and last requests together.
    pub fn snapshot(&self) -> RequestsSnapshot {
        let counts = Operation::ALL
            .iter()
            .map(|&operation| (operation.name().to_owned(), self.count(operation)))
            .filter(|(_, count)| count.requests > 0)
            .collect();
        RequestsSnapshot { counts, recent: self.recent() }
    }

    /// Starts from zero. Requests still on their way add their remaining bytes to the new counts.
    pub fn reset(&self) {
        for cells in self.0.counts.iter() {
            cells.requests.store(0, Ordering::Relaxed);
            cells.received.store(0, Ordering::Relaxed);
            cells.sent.store(0, Ordering::Relaxed);
        }
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn begin(&self, target: &Target, request: &Parts) -> Arc<Entry> {
        let range =
            request.headers.get(RANGE).map(|range| String::from_utf8_lossy(range.as_bytes()).into_owned());
        let facts = Recorded {
            operation: target.operation,
            method: request.method.to_string(),
            bucket: target.bucket.clone(),
            key: target.key.clone(),
            range,
            part: target.part,
            status: None,
            done: 0,
            received: 0,
            sent: 0,
        };
        let entry = Arc::new(Entry {
            facts,
            status: AtomicU16::new(0),
            done: AtomicU64::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            counts: self.0.counts.clone(),
        });
        self.0.counts[target.operation as usize].requests.fetch_add(1, Ordering::Relaxed);
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == REQUESTS_KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(entry.clone());
        entry
    }
}

impl Default for Inner {
    fn default() -> Inner {
        Inner {
            counts: Operation::ALL.iter().map(|_| Cells::default()).collect(),
            kept: Mutex::new(VecDeque::new()),
        }
    }
}

impl Cells {
    fn read(&self) -> Count {
        Count {
            requests: self.requests.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

impl Entry {
    /// The status that goes out.
    pub fn answered(&self, status: http::StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// It was done with success.
    pub fn done(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of the request's body came in.
    pub fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        self.cells().received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether nothing of the request's body came in so far.
    pub fn has_received_nothing(&self) -> bool {
        self.received.load(Ordering::Relaxed) == 0
    }

    /// Bytes of the answer's body went out.
    pub fn sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
        self.cells().sent.fetch_add(bytes, Ordering::Relaxed);
    }

    fn cells(&self) -> &Cells {
        &self.counts[self.facts.operation as usize]
    }

    fn read(&self) -> Recorded {
        let status = self.status.load(Ordering::Relaxed);
        Recorded {
            status: (status != 0).then_some(status),
            done: self.done.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            ..self.facts.clone()
        }
    }
}
