//! Test data and waiting.

use std::time::{Duration, Instant};

use tetherfs::types::Sha256;

/// Bytes that look random, repeat nowhere, and are the same for the same seed.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

/// A digest to compare and to print.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::of(bytes).to_string()
}

/// Asks again and again until the answer is yes; fails the test with `what` after `limit`.
pub fn wait_for(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < limit, "still not so after {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
