//! Writing, held against the promises: every byte right, none lost, none sent twice, one commit for each content,
//! whatever server, disk and daemon do.
//!
//! Written from what users are promised, not from how it is done: errors are what a program gets, objects what the bucket
//! has, requests and bytes are counted at the server.

mod conflicts;
mod disk;
mod faults;
mod foreign;
mod modes;
mod order;
mod patience;
mod requests;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::time::Duration;

use tetherfs::bucket::Operation;

use crate::support::{Bucket, Rig, Served, expect_same, wait_for};

const MIB: usize = 1 << 20;
/// Longest that anything may take which must happen.
const LIMIT: Duration = Duration::from_secs(60);

/// Opens a file that is there for reading and writing.
fn open<B: Served>(rig: &Rig<B>, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(rig.path(name)).unwrap()
}

/// Opens a file for appending; it is made when it is not there.
fn open_to_append<B: Served>(rig: &Rig<B>, name: &str) -> File {
    OpenOptions::new().append(true).create(true).open(rig.path(name)).unwrap()
}

/// Closes a file and says what that said, which dropping it does not.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is ours, and nobody uses it after this.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Writes a file anew, as `cp` does.
fn write<B: Served>(rig: &Rig<B>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(rig.path(name))?;
    file.write_all(bytes)?;
    close(file)
}

/// The error number of what failed.
fn errno<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// Fails unless the bucket has this object with these bytes.
fn expect_object(rig: &Rig, key: &str, expected: &[u8]) {
    let found = rig.bucket.find(key).unwrap_or_else(|| panic!("{key} is not in the bucket"));
    expect_same(key, 0, &found, expected);
}

/// Waits until no upload is known.
fn settle<B: Served>(rig: &Rig<B>) {
    wait_for("nothing is pending", LIMIT, || rig.status()["sessions"].as_array().is_some_and(Vec::is_empty));
}

/// What was asked of the bucket since its log was last emptied, each operation with its count, by name.
fn asked(bucket: &Bucket) -> String {
    let counts = Operation::ALL.iter().map(|&operation| (operation, bucket.count(operation)));
    let happened = counts.filter(|(_, count)| *count > 0);
    happened.map(|(operation, count)| format!("{operation} {count}")).collect::<Vec<_>>().join(", ")
}

/// Bytes of objects that came from the mount.
fn sent(bucket: &Bucket) -> u64 {
    let of = |operation| bucket.requests().count(operation).received;
    of(Operation::PutObject) + of(Operation::UploadPart)
}
