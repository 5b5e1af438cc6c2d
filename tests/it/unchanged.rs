//! A file rewritten with the content it had sends nothing that the bucket has.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};

use tetherfs::bucket::Operation;

use crate::support::{Rig, pattern, sha256};

const MIB: usize = 1 << 20;

/// Bytes of objects and parts that the bucket received.
fn received(rig: &Rig) -> u64 {
    [Operation::PutObject, Operation::UploadPart]
        .into_iter()
        .map(|operation| rig.bucket.requests().count(operation).received)
        .sum()
}

#[test]
fn a_small_file_saved_again_unchanged_sends_no_byte_and_gets_its_new_time() {
    let mut rig = Rig::mounted(&[]);
    let bytes = pattern(1, 300_000);
    fs::write(rig.path("doc"), &bytes).unwrap();
    rig.unmount();
    rig.mount_again();
    assert!(fs::read(rig.path("doc")).unwrap() == bytes);
    let before = fs::metadata(rig.path("doc")).unwrap();
    rig.bucket.requests().reset();
    fs::write(rig.path("doc"), &bytes).unwrap();
    assert_eq!(received(&rig), 0);
    assert_eq!(rig.bucket.count(Operation::CopyObject), 1);
    let after = fs::metadata(rig.path("doc")).unwrap();
    assert!((after.mtime(), after.mtime_nsec()) > (before.mtime(), before.mtime_nsec()));
    assert!(rig.bucket.get("doc").unwrap() == bytes);
    // One other byte, and it is sent.
    let mut other = bytes.clone();
    other[299_999] ^= 1;
    fs::write(rig.path("doc"), &other).unwrap();
    assert_eq!(received(&rig), 300_000);
    assert!(rig.bucket.get("doc").unwrap() == other);
    rig.unmount();
    rig.mount_again();
    assert!(fs::read(rig.path("doc")).unwrap() == other);
}

#[test]
fn of_a_large_file_copied_over_itself_only_the_part_that_differs_is_sent() {
    let rig = Rig::mounted(&["--part-size=5M"]);
    let mut bytes = pattern(2, 33 * MIB);
    rig.bucket.put_quietly("big", &bytes);
    assert_eq!(sha256(&fs::read(rig.path("big")).unwrap()), sha256(&bytes));
    rig.bucket.requests().reset();
    bytes[17 * MIB] ^= 1;
    fs::write(rig.path("big"), &bytes).unwrap();
    assert_eq!(received(&rig), 5 * MIB as u64);
    assert_eq!(rig.bucket.count(Operation::UploadPartCopy), 6);
    assert_eq!(sha256(&rig.bucket.read("big")), sha256(&bytes));
    // In place, too.
    rig.bucket.requests().reset();
    let file = fs::OpenOptions::new().write(true).open(rig.path("big")).unwrap();
    let sent_before = received(&rig);
    file.write_all_at(&bytes[MIB..2 * MIB], MIB as u64).unwrap();
    drop(file);
    assert!(received(&rig) - sent_before <= 5 * MIB as u64);
    assert_eq!(sha256(&rig.bucket.read("big")), sha256(&bytes));
}
