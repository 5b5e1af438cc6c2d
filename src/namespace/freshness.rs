//! How long an answer is believed. Time is passed in, so that tests own the clock.

use std::time::{Duration, Instant};

/// Until when something learned from the store is believed without asking again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// Not any more.
    Stale,
    /// Before this moment.
    Until(Instant),
    /// For the life of the mount.
    Always,
}

impl Freshness {
    /// Of an answer to a question asked at `asked`. It counts from the question: the answer cannot be older than that.
    pub fn of(asked: Instant, ttl: Duration) -> Freshness {
        asked.checked_add(ttl).map_or(Freshness::Always, Freshness::Until)
    }

    /// Whether it is still believed.
    pub fn holds(self, now: Instant) -> bool {
        match self {
            Freshness::Stale => false,
            Freshness::Until(end) => now < end,
            Freshness::Always => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_ttl() {
        let asked = Instant::now();
        let fresh = Freshness::of(asked, Duration::from_secs(2));
        assert!(fresh.holds(asked) && fresh.holds(asked + Duration::from_millis(1999)));
        assert!(!fresh.holds(asked + Duration::from_secs(2)));
        assert!(!Freshness::of(asked, Duration::ZERO).holds(asked));
        assert!(Freshness::of(asked, Duration::MAX).holds(asked + Duration::from_secs(1 << 30)));
        assert!(!Freshness::Stale.holds(asked));
    }
}
