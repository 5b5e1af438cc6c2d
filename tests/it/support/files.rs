//! Test data, comparing, waiting, and a disk that can be filled.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tetherfs::types::Sha256;

use crate::support::run_ok;

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

/// The seed of a random test: `TETHERFS_TEST_SEED`, or another each time. Printed, so that a failure can be had again.
pub fn seed() -> u64 {
    let given = std::env::var("TETHERFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TETHERFS_TEST_SEED={seed}");
    seed
}

/// Makes the kernel forget what it keeps of a file, so that the next read comes to the daemon.
pub fn forget_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

/// Fails with the place and no flood of bytes when they differ.
pub fn expect_same(what: &str, at: u64, seen: &[u8], expected: &[u8]) {
    assert_eq!(seen.len(), expected.len(), "{what}: bytes at {at}");
    // Compared as a whole first, which is much faster.
    if seen != expected
        && let Some(place) = seen.iter().zip(expected).position(|(seen, expected)| seen != expected)
    {
        let (other, right) = (seen[place], expected[place]);
        panic!("{what}: byte {} is {other:#04x}, should be {right:#04x} (read from {at})", at + place as u64);
    }
}

/// A small file system in memory, taken down with its owner.
pub struct Disk(PathBuf);

impl Disk {
    /// Mounts one of `size` (as tmpfs writes it) at a new directory.
    pub fn new(place: &Path, size: &str) -> Disk {
        fs::create_dir(place).unwrap();
        let options = format!("size={size}");
        run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place));
        Disk(place.to_owned())
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
