//! What a mount makes of what the time before it left, whatever has become of bucket, disk and clock meanwhile.
//!
//! Written from what users are promised: what a program was told is safe gets into the bucket, bytes that are not what
//! was written never do, and nothing is deleted.

mod unreachable;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tetherfs::bucket::{Action, FaultHandle, Operation, Rule};

use crate::support::{Rig, expect_same, wait_for};

/// Longest that anything may take which must happen.
const LIMIT: Duration = Duration::from_secs(60);

/// The state directory of the rig's volume.
fn state_directory(rig: &Rig) -> PathBuf {
    let all: Vec<PathBuf> = entries(&rig.home().join(".local/state/tetherfs"));
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

/// What is in a directory; nothing when it is not there.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

/// The server puts off every request of this kind.
fn put_off(rig: &Rig, operation: Operation) -> FaultHandle {
    let refusal = Action::Status { code: 503, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(operation, refusal))
}

/// Waits until an object of this length is there, which then has to have these bytes.
fn expect_in_bucket(rig: &Rig, key: &str, expected: &[u8]) {
    let mut found = None;
    wait_for(&format!("{key} is in the bucket"), LIMIT, || {
        found = rig.bucket.find(key);
        found.as_ref().is_some_and(|found| found.len() == expected.len())
    });
    expect_same(key, 0, &found.unwrap(), expected);
}

/// Waits until no upload is known.
fn settle(rig: &Rig) {
    wait_for("nothing is pending", LIMIT, || rig.status()["sessions"].as_array().is_some_and(Vec::is_empty));
}
