//! Reading, held against the promises: every byte right, none fetched twice, whatever server, disk and daemon do.
//!
//! Written from what users are promised, not from how it is done: bytes are compared with the object's, requests and
//! bytes are counted at the server, memory is the kernel's own figure.

mod answers;
mod crash;
mod damage;
mod disk;
mod faults;
mod limits;
mod patience;
mod patterns;
mod requests;
mod versions;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::support::{Rig, expect_same};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// What is cached and fetched at least, by default.
const CHUNK: usize = 256 * KIB;

/// Reads a file from where it stands to its end, as `cat` does, and compares.
fn read_through(what: &str, file: &mut File, expected: &[u8]) {
    let mut buffer = vec![0; 128 * KIB];
    let mut at = 0;
    loop {
        let read = file.read(&mut buffer).unwrap_or_else(|error| panic!("{what}: at {at}: {error}"));
        if read == 0 {
            break;
        }
        assert!(at + read <= expected.len(), "{what}: longer than {} bytes", expected.len());
        expect_same(what, at as u64, &buffer[..read], &expected[at..at + read]);
        at += read;
    }
    assert_eq!(at, expected.len(), "{what}: bytes to its end");
}

/// Opens a file of the mount, reads all of it and compares.
fn expect_file(rig: &Rig, name: &str, expected: &[u8]) {
    read_through(name, &mut File::open(rig.path(name)).unwrap(), expected);
}

/// Reads `len` bytes at a place and compares.
fn expect_at(what: &str, file: &File, at: usize, expected: &[u8]) {
    let mut seen = vec![0; expected.len()];
    file.read_exact_at(&mut seen, at as u64).unwrap_or_else(|error| panic!("{what}: at {at}: {error}"));
    expect_same(what, at as u64, &seen, expected);
}

/// Long enough for requests that nobody waits for to have been sent.
fn settle() {
    std::thread::sleep(Duration::from_millis(300));
}
