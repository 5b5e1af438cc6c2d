//! What to do when a fetch fails: go on, wait, or give up. Pure; time is passed in.
//!
//! Progress is what brings a reader on: a body that drips slower than [`SLOWEST_BODY`] over a whole stall time-out counts
//! as one that has stopped, and renews no time-out. What it brought is kept all the same.

use std::time::Duration;

use tokio::time::Instant;

use crate::read::Error;
use crate::store::{self, ErrorKind};
use crate::types::ObjectId;

/// First wait after a failure that follows another one.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest wait between two requests, unless the server asks for more.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Most answers of one fetch that break the protocol or arrive damaged.
const BAD_ANSWERS_MAX: u32 = 3;
/// A request that brought this much, in bytes, before it broke is followed by the next without a wait.
const GOOD_PROGRESS_BYTES: u64 = 64 << 10;

/// The slowest body that is worth going on with, in bytes a second.
const SLOWEST_BODY: u64 = 512;

/// How a fetch has fared so far.
#[derive(Debug)]
pub(crate) struct Patience {
    read_timeout: Duration,
    stall_timeout: Duration,
    /// When enough had come for the last time.
    last_progress: Instant,
    /// Since when the body is given time for the next enough.
    period_start: Instant,
    /// Bytes since then.
    period_bytes: u64,
    /// Bytes since the last failure.
    progress_bytes: u64,
    /// Failures since the last good progress.
    failures: u32,
    bad_answers: u32,
}

/// What to do after a failure.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Send the next request after this time.
    GoOn(Duration),
    /// Tell the waiters.
    GiveUp(Error),
}

impl Patience {
    /// For a fetch that begins now. It may go on for `read_timeout` without progress, one body for `stall_timeout`.
    pub(crate) fn new(read_timeout: Duration, stall_timeout: Duration, now: Instant) -> Patience {
        Patience {
            read_timeout,
            stall_timeout,
            last_progress: now,
            period_start: now,
            period_bytes: 0,
            progress_bytes: 0,
            failures: 0,
            bad_answers: 0,
        }
    }

    /// A body begins.
    pub(crate) fn on_body(&mut self, now: Instant) {
        self.period_start = now;
        self.period_bytes = 0;
    }

    /// Good bytes have arrived.
    pub(crate) fn on_bytes(&mut self, bytes: u64, now: Instant) {
        self.progress_bytes += bytes;
        self.period_bytes += bytes;
        if self.period_bytes >= self.enough_bytes() {
            self.last_progress = now;
            self.on_body(now);
        }
    }

    /// We have kept the server waiting ourselves.
    pub(crate) fn excuse(&mut self, time: Duration) {
        self.last_progress += time;
        self.period_start += time;
    }

    /// How long the fetch may go on without progress from now.
    pub(crate) fn left(&self, now: Instant) -> Duration {
        (self.last_progress + self.read_timeout).saturating_duration_since(now)
    }

    /// How long to wait for the next bytes of a body from now.
    pub(crate) fn left_for_bytes(&self, now: Instant) -> Duration {
        (self.period_start + self.stall_timeout).saturating_duration_since(now).min(self.left(now))
    }

    /// A request has failed or broken.
    pub(crate) fn on_failure(&mut self, id: &ObjectId, error: store::Error, now: Instant) -> Verdict {
        let asked = match error.kind {
            ErrorKind::NotFound | ErrorKind::Precondition => {
                return Verdict::GiveUp(Error::Gone(id.clone()));
            }
            ErrorKind::Protocol | ErrorKind::Integrity => {
                self.bad_answers += 1;
                if self.bad_answers >= BAD_ANSWERS_MAX {
                    return Verdict::GiveUp(Error::Store(error));
                }
                None
            }
            ErrorKind::Unavailable { retry_after } => retry_after,
            // A read changes nothing: whatever became of it, it can be sent again.
            ErrorKind::Ambiguous => None,
            ErrorKind::NoVolume
            | ErrorKind::UploadGone
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Unsupported => return Verdict::GiveUp(Error::Store(error)),
        };
        let left = self.left(now);
        if left.is_zero() {
            return Verdict::GiveUp(Error::Store(error));
        }
        if self.progress_bytes >= GOOD_PROGRESS_BYTES {
            self.failures = 0;
        }
        self.progress_bytes = 0;
        let wait = match self.failures {
            0 => Duration::ZERO,
            again => (BACKOFF_FIRST * 2u32.saturating_pow(again - 1)).min(BACKOFF_MAX),
        };
        self.failures += 1;
        Verdict::GoOn(wait.max(asked.unwrap_or_default()).min(left))
    }

    /// Bytes within a stall time-out that are progress.
    fn enough_bytes(&self) -> u64 {
        ((self.stall_timeout.as_secs_f64() * SLOWEST_BODY as f64) as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Op;
    use crate::types::{ETag, Key};

    fn id() -> ObjectId {
        ObjectId { key: Key::new("a").unwrap(), etag: ETag::new("1"), size: 9 }
    }

    /// What is enough within a stall time-out of 10 seconds.
    const ENOUGH: u64 = 10 * SLOWEST_BODY;

    fn patient(start: Instant) -> Patience {
        Patience::new(Duration::from_secs(60), Duration::from_secs(10), start)
    }

    fn fail(patience: &mut Patience, kind: ErrorKind, now: Instant) -> Verdict {
        patience.on_failure(&id(), store::Error::on(Op::Get, &id().key, kind, "x"), now)
    }

    #[track_caller]
    fn wait(verdict: Verdict) -> Duration {
        match verdict {
            Verdict::GoOn(wait) => wait,
            Verdict::GiveUp(error) => panic!("gave up: {error}"),
        }
    }

    const LATER: ErrorKind = ErrorKind::Unavailable { retry_after: None };

    #[test]
    fn waits_grow_without_progress_and_end_at_the_timeout() {
        let start = Instant::now();
        let mut patience = patient(start);
        let waits: Vec<_> = (0..10).map(|_| wait(fail(&mut patience, LATER, start)).as_millis()).collect();
        assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        patience.on_bytes(ENOUGH, start + Duration::from_secs(59));
        assert_eq!(wait(fail(&mut patience, LATER, start + Duration::from_secs(60))).as_millis(), 5000);
        patience.on_bytes(GOOD_PROGRESS_BYTES, start + Duration::from_secs(61));
        assert!(wait(fail(&mut patience, LATER, start + Duration::from_secs(61))).is_zero());
        assert_eq!(
            wait(fail(&mut patience, LATER, start + Duration::from_secs(120) + Duration::from_millis(990)))
                .as_millis(),
            10
        );
        assert!(matches!(
            fail(&mut patience, LATER, start + Duration::from_secs(121)),
            Verdict::GiveUp(Error::Store(_))
        ));
    }

    #[test]
    fn drops_are_no_progress() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut patience = patient(start);
        patience.on_body(at(1));
        for second in 2..9 {
            patience.on_bytes(SLOWEST_BODY, at(second));
        }
        assert_eq!(patience.left_for_bytes(at(9)), Duration::from_secs(2));
        assert_eq!(patience.left(at(9)), Duration::from_secs(51), "nothing has renewed it");
        patience.on_bytes(3 * SLOWEST_BODY, at(9));
        assert_eq!(patience.left_for_bytes(at(9)), Duration::from_secs(10));
        assert_eq!(patience.left(at(10)), Duration::from_secs(59));
        patience.on_bytes(ENOUGH - 1, at(19));
        patience.excuse(Duration::from_secs(5));
        assert_eq!(
            patience.left_for_bytes(at(19)),
            Duration::from_secs(5),
            "our own delay is not the server's"
        );
        patience.on_body(at(22));
        assert_eq!(patience.left_for_bytes(at(73)), Duration::ZERO);
        assert_eq!(patience.left(at(73)), Duration::from_secs(1));
    }

    #[test]
    fn the_server_may_ask_for_more_time() {
        let start = Instant::now();
        let mut patience = patient(start);
        let kind = ErrorKind::Unavailable { retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(wait(fail(&mut patience, kind, start)), Duration::from_secs(7));
    }

    #[test]
    fn some_failures_are_final_and_bad_answers_are_counted() {
        let start = Instant::now();
        for kind in [ErrorKind::NotFound, ErrorKind::Precondition] {
            let mut patience = patient(start);
            assert!(
                matches!(fail(&mut patience, kind, start), Verdict::GiveUp(Error::Gone(gone)) if gone == id())
            );
        }
        for kind in [ErrorKind::Denied, ErrorKind::NoVolume, ErrorKind::Refused] {
            let mut patience = patient(start);
            assert!(matches!(fail(&mut patience, kind, start), Verdict::GiveUp(Error::Store(_))));
        }
        let mut patience = patient(start);
        wait(fail(&mut patience, ErrorKind::Protocol, start));
        patience.on_bytes(1 << 20, start);
        wait(fail(&mut patience, ErrorKind::Integrity, start));
        assert!(matches!(fail(&mut patience, ErrorKind::Protocol, start), Verdict::GiveUp(Error::Store(_))));
    }
}
