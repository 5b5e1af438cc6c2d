//! What the link to the store is like, as measured by the requests made, and what follows for the next ones. Pure.
//!
//! Two things are measured of each request: how long it waits for its first byte, and how fast its bytes come then,
//! without the time that they wait for us (for memory, for the disk). A single odd sample moves an estimate by little.
//!
//! * A request should carry for at least as long as it waits, or the waiting is most of it.
//! * It should not carry for longer than [`CARRY_MAX`], or what is behind it waits too long.
//! * When no more than that is left of a request, the next one is sent, so that all the time so many carry.
//! * No more requests are in flight than what arrives within [`HORIZON`] is worth: on a slow link they only take the
//!   bandwidth from the one that is waited for.
//!
//! Before anything is known, the link is taken to be fast and near: what that costs on another one is little, because
//! windows start small.

use std::time::Duration;

use tokio::time::Instant;

use crate::read::window::Scale;

/// Smallest request that is aimed at, and first window at the least, in bytes.
const REQUEST_BYTES_MIN: u64 = 1 << 20;
/// First window at the most, in bytes: what a look at the beginning of a large object can cost.
const FIRST_BYTES_MAX: u64 = 4 << 20;
/// Time that one request should take at the most.
const CARRY_MAX: Duration = Duration::from_secs(1);
/// Time within which what is in flight should have arrived.
const HORIZON: Duration = Duration::from_secs(2);
/// Fewest requests in flight for one stream, so that one waits while the other carries.
const REQUESTS_MIN: usize = 2;
/// Bodies shorter than this say little about the bandwidth, in bytes.
const SAMPLE_BYTES_MIN: u64 = 256 << 10;
/// Weight of a new sample: one of this many.
const WEIGHT: f64 = 4.0;
/// A sample counts as at most this many times the estimate, and at least as that part of it.
const OUTLIER: f64 = 4.0;
/// Samples are at least this many seconds.
const RESOLUTION: f64 = 1e-5;

/// Smoothed measurements.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub(crate) struct Pace {
    /// From the sending of a request to its first byte, in seconds.
    first_byte: Option<f64>,
    /// Bytes a second of one body.
    body_rate: Option<f64>,
    /// Bytes a second of all bodies together.
    link_rate: Option<f64>,
}

/// How a body has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BodySample {
    /// Bytes that came.
    pub bytes: u64,
    /// Time spent waiting for them, after the first.
    pub waited: Duration,
    /// Bodies that were coming at the same time, with this one.
    pub bodies: usize,
}

/// Times one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stopwatch {
    /// Since when we wait for the server, with what has come and has been waited for before; nothing has come yet if
    /// there is none.
    since: Instant,
    come: Option<(u64, Duration)>,
}

impl Stopwatch {
    /// A request is sent.
    pub(crate) fn start(now: Instant) -> Stopwatch {
        Stopwatch { since: now, come: None }
    }

    /// Bytes have come. Returns how long the first ones took, if these are the first.
    pub(crate) fn on_bytes(&mut self, bytes: u64, now: Instant) -> Option<Duration> {
        let waited = now.saturating_duration_since(self.since);
        match &mut self.come {
            Some((all, waited_in_all)) => {
                *all += bytes;
                *waited_in_all += waited;
                None
            }
            // What comes with the first byte has come in no time, and would say that the link is endlessly fast.
            None => {
                self.come = Some((0, Duration::ZERO));
                Some(waited)
            }
        }
    }

    /// We wait for more from now on.
    pub(crate) fn go_on(&mut self, now: Instant) {
        self.since = now;
    }

    /// What has come after the first bytes, and how long we waited for it.
    pub(crate) fn come(&self) -> (u64, Duration) {
        self.come.unwrap_or_default()
    }
}

impl Pace {
    /// A request's first byte has come.
    pub(crate) fn on_first_byte(&mut self, waited: Duration) {
        self.first_byte = Some(smooth(self.first_byte, waited.as_secs_f64().max(RESOLUTION)));
    }

    /// A body has ended, well or not.
    pub(crate) fn on_body(&mut self, sample: BodySample) {
        if sample.bytes >= SAMPLE_BYTES_MIN {
            let rate = sample.bytes as f64 / sample.waited.as_secs_f64().max(RESOLUTION);
            self.body_rate = Some(smooth(self.body_rate, rate));
            self.link_rate = Some(smooth(self.link_rate, rate * sample.bodies.max(1) as f64));
        }
    }

    /// How to read ahead on this link, for one of `streams` that do so.
    pub(crate) fn scale(&self, window_bytes: u64, requests: usize, request_bytes_max: u64) -> Scale {
        let (carried_while_waiting, carried_at_most) = match (self.first_byte, self.body_rate) {
            (Some(first_byte), Some(rate)) => {
                ((first_byte * rate) as u64, (rate * CARRY_MAX.as_secs_f64()) as u64)
            }
            (Some(_) | None, _) => (0, u64::MAX),
        };
        let least = carried_while_waiting.max(REQUEST_BYTES_MIN).min(request_bytes_max);
        let worthwhile = match self.link_rate {
            Some(rate) => (rate * HORIZON.as_secs_f64() / least as f64) as usize,
            None => usize::MAX,
        };
        Scale {
            window_bytes,
            first_bytes: carried_while_waiting.clamp(REQUEST_BYTES_MIN, FIRST_BYTES_MAX),
            request_bytes_least: least,
            request_bytes_most: carried_at_most.max(least),
            overlap_bytes: carried_while_waiting,
            requests: worthwhile.max(REQUESTS_MIN).min(requests).max(1),
        }
    }
}

fn smooth(estimate: Option<f64>, sample: f64) -> f64 {
    match estimate {
        None => sample,
        Some(estimate) => {
            let sample = sample.clamp(estimate / OUTLIER, estimate * OUTLIER);
            estimate + (sample - estimate) / WEIGHT
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn scale(pace: &Pace) -> Scale {
        pace.scale(64 * MIB, 8, 8 * MIB)
    }

    fn on_link(first_byte: Duration, body_rate: u64, bodies: usize) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..20 {
            pace.on_first_byte(first_byte);
            pace.on_body(BodySample { bytes: body_rate, waited: Duration::from_secs(1), bodies });
        }
        pace
    }

    #[test]
    fn an_unknown_link_gets_a_small_first_window_and_all_requests() {
        let scale = scale(&Pace::default());
        assert_eq!(scale.first_bytes, MIB);
        assert_eq!((scale.request_bytes_least, scale.request_bytes_most), (MIB, u64::MAX));
        assert_eq!(scale.requests, 8);
    }

    #[test]
    fn requests_carry_for_as_long_as_they_wait_and_no_longer_than_a_second() {
        let far = scale(&on_link(Duration::from_millis(50), 100 * MIB, 8));
        assert_eq!((far.first_bytes, far.request_bytes_least), (4 * MIB, 5 * MIB));
        assert_eq!((far.request_bytes_most, far.requests), (100 * MIB, 8));
        let near = scale(&on_link(Duration::from_micros(300), 300 * MIB, 4));
        assert_eq!((near.first_bytes, near.request_bytes_least, near.requests), (MIB, MIB, 8));
        let slow = scale(&on_link(Duration::from_millis(300), MIB / 2, 4));
        assert_eq!((slow.first_bytes, slow.request_bytes_least, slow.request_bytes_most), (MIB, MIB, MIB));
        assert_eq!(slow.requests, 4, "two seconds of two megabytes each");
        assert_eq!(scale(&on_link(Duration::from_millis(300), MIB / 3, 1)).requests, 2);
        assert_eq!(
            on_link(Duration::from_secs(9), 100 * MIB, 1).scale(MIB, 1, 2 * MIB).request_bytes_least,
            2 * MIB
        );
    }

    #[test]
    fn one_odd_sample_moves_little_and_many_move_it_all() {
        let mut pace = on_link(Duration::from_millis(20), 100 * MIB, 1);
        let before = scale(&pace).request_bytes_least;
        pace.on_first_byte(Duration::from_secs(30));
        pace.on_body(BodySample { bytes: 100, waited: Duration::from_secs(30), bodies: 1 });
        assert!(scale(&pace).request_bytes_least <= 2 * before);
        (0..20).for_each(|_| pace.on_first_byte(Duration::from_millis(40)));
        let after = scale(&pace).request_bytes_least;
        assert!(after.abs_diff(2 * before) < before / 20, "{before} {after}");
    }

    #[test]
    fn a_stopwatch_leaves_out_what_is_our_own_time() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut watch = Stopwatch::start(start);
        assert_eq!(watch.on_bytes(1000, at(20)), Some(Duration::from_millis(20)));
        watch.go_on(at(500));
        assert_eq!(watch.on_bytes(2000, at(510)), None);
        watch.go_on(at(900));
        assert_eq!(watch.on_bytes(3000, at(905)), None);
        assert_eq!(watch.come(), (5000, Duration::from_millis(15)));
    }
}
