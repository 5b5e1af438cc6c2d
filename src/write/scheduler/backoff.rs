//! How long to wait before the next attempt: full jitter, so that many uploads do not come back at the same moment.

use std::time::Duration;

/// Bound of the first pause.
const FIRST: Duration = Duration::from_millis(200);
/// Bound of every pause.
const MAX: Duration = Duration::from_secs(30);
/// Pause after a failure that will not pass by itself.
const STUCK: Duration = Duration::from_secs(300);

/// The pause after the `attempt`th failure in a row, counted from 1, and not less than the server asks for.
pub fn pause(attempt: u32, retry_after: Option<Duration>) -> Duration {
    let bound = FIRST.saturating_mul(1 << (attempt.max(1) - 1).min(16)).min(MAX);
    let jittered = bound.mul_f64(fastrand::f64());
    jittered.max(retry_after.unwrap_or_default().min(MAX * 10))
}

/// The pause after a failure that will not pass by itself.
pub fn stuck_pause() -> Duration {
    STUCK.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_obey_the_server() {
        for attempt in [1, 2, 10, 1000, u32::MAX] {
            assert!(pause(attempt, None) <= MAX);
        }
        assert!(pause(1, None) <= FIRST);
        assert!((0..100).any(|_| pause(9, None) > FIRST * 8), "they grow");
        assert_eq!(pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
    }
}
