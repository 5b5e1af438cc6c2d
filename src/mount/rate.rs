//! Bytes a second over the last few seconds. Pure: time is passed in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::control::Rates;

/// Time between two samples.
pub const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// Samples kept: what a rate is an average over.
const SAMPLES_MAX: usize = 6;

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    sent: u64,
    fetched: u64,
}

/// Turns growing counters into rates.
#[derive(Debug, Default)]
pub struct RateMeter {
    samples: VecDeque<Sample>,
}

impl RateMeter {
    /// Notes the counters as they are `at` that time.
    pub fn sample(&mut self, at: Instant, sent: u64, fetched: u64) {
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample { at, sent, fetched });
    }

    /// The rates over the samples kept; 0 before there are two.
    pub fn rates(&self) -> Rates {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return Rates::default();
        };
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rates::default();
        }
        let rate = |from: u64, to: u64| (to.saturating_sub(from) as f64 / seconds) as u64;
        Rates { sent: rate(first.sent, last.sent), fetched: rate(first.fetched, last.fetched) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_an_average_of_the_last_seconds() {
        let start = Instant::now();
        let mut meter = RateMeter::default();
        assert_eq!(meter.rates(), Rates::default());
        for second in 0..20_u64 {
            let sent = if second < 10 { 0 } else { (second - 10) * 1000 };
            meter.sample(start + SAMPLE_INTERVAL * second as u32, sent, second * 7);
        }
        assert_eq!(meter.rates(), Rates { sent: 1000, fetched: 7 });
    }

    #[test]
    fn samples_of_one_moment_have_no_rate() {
        let now = Instant::now();
        let mut meter = RateMeter::default();
        meter.sample(now, 0, 0);
        meter.sample(now, 9, 9);
        assert_eq!(meter.rates(), Rates::default());
    }
}
