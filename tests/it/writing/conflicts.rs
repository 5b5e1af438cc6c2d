//! Another client writes what we write, on every path that a change takes into the bucket, for each `--on-conflict`:
//! neither side is lost, unless the user said that ours replaces theirs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use rustix::fs::{CWD, RenameFlags};
use tetherfs::bucket::{Action, Operation, Rule};

use super::{LIMIT, MIB, close, errno, expect_object, open, open_to_append, settle, write};
use crate::support::{Rig, pattern, wait_for};

const THEIRS: &[u8] = b"their version";
const KEY: &str = "doc";
const POLICIES: [&str; 3] = ["keep-both", "fail", "overwrite"];

/// Begins a change.
type Way = fn(&Rig) -> Change;

/// The ways of a change. Each begins when the bucket has an old version or none, and ends with a close.
const WAYS: [(&str, Way); 11] = [
    ("create", |rig| {
        let mut file = File::create(rig.path(KEY)).unwrap();
        file.write_all(b"our new file").unwrap();
        Change { file, ours: b"our new file".to_vec() }
    }),
    ("create in parts", |rig| {
        let ours = pattern(1, 12 * MIB);
        let mut file = File::create(rig.path(KEY)).unwrap();
        file.write_all(&ours).unwrap();
        Change { file, ours }
    }),
    ("create and nothing else", |rig| {
        let mut file = File::create_new(rig.path(KEY)).unwrap();
        file.write_all(b"ours alone").unwrap();
        Change { file, ours: b"ours alone".to_vec() }
    }),
    ("cut", |rig| {
        let mut ours = pattern(8, 300_000);
        known(rig, &ours);
        let file = open(rig, KEY);
        file.set_len(100_000).unwrap();
        ours.truncate(100_000);
        Change { file, ours }
    }),
    ("lengthen", |rig| {
        let mut ours = pattern(9, 300_000);
        known(rig, &ours);
        let file = open(rig, KEY);
        file.set_len(300_010).unwrap();
        ours.extend([0; 10]);
        Change { file, ours }
    }),
    ("write anew", |rig| {
        known(rig, &pattern(2, 1000));
        let mut file = OpenOptions::new().write(true).truncate(true).open(rig.path(KEY)).unwrap();
        file.write_all(b"ours anew").unwrap();
        Change { file, ours: b"ours anew".to_vec() }
    }),
    ("write anew in parts", |rig| {
        known(rig, &pattern(2, 1000));
        let ours = pattern(3, 12 * MIB);
        let mut file = OpenOptions::new().write(true).truncate(true).open(rig.path(KEY)).unwrap();
        file.write_all(&ours).unwrap();
        Change { file, ours }
    }),
    ("change", |rig| {
        let mut ours = pattern(4, 300_000);
        known(rig, &ours);
        let file = open(rig, KEY);
        ours[100_000..100_004].copy_from_slice(b"ours");
        file.write_all_at(b"ours", 100_000).unwrap();
        Change { file, ours }
    }),
    ("append", |rig| {
        let mut ours = pattern(5, 300_000);
        known(rig, &ours);
        let mut file = open_to_append(rig, KEY);
        file.write_all(b"ours").unwrap();
        ours.extend(b"ours");
        Change { file, ours }
    }),
    ("append in parts", |rig| {
        let mut ours = pattern(6, 12 * MIB);
        known(rig, &ours);
        let mut file = open_to_append(rig, KEY);
        file.write_all(b"ours").unwrap();
        ours.extend(b"ours");
        Change { file, ours }
    }),
    ("rename over while it is written", |rig| {
        known(rig, &pattern(7, 1000));
        let mut file = File::create(rig.path("doc.tmp")).unwrap();
        file.write_all(b"ours, under another name").unwrap();
        fs::rename(rig.path("doc.tmp"), rig.path(KEY)).unwrap();
        Change { file, ours: b"ours, under another name".to_vec() }
    }),
];

/// A change that only has to be closed.
struct Change {
    file: File,
    ours: Vec<u8>,
}

/// Puts a version into the bucket, and all of it into the cache.
fn known(rig: &Rig, bytes: &[u8]) {
    rig.bucket.put_quietly(KEY, bytes);
    assert!(fs::read(rig.path(KEY)).unwrap() == bytes);
    // It is written there behind the reader's back, and what a kill meets before that is not there after it.
    let mut percent = [0; 8];
    wait_for("all of it is in the cache", LIMIT, || {
        let len = rustix::fs::getxattr(rig.path(KEY), "user.tetherfs.cached-percent", &mut percent).unwrap();
        &percent[..len] == b"100"
    });
}

fn mounted(policy: &str, options: &[&str]) -> Rig {
    let policy = format!("--on-conflict={policy}");
    Rig::mounted(&[&["--part-size=5MiB", &policy], options].concat())
}

fn copies(rig: &Rig) -> Vec<String> {
    rig.bucket.all_keys().into_iter().filter(|key| key.starts_with("doc.conflict-")).collect()
}

/// What a policy promises, once a change has been closed (or was acknowledged before a crash) and met another version.
fn expect_kept(what: &str, rig: &Rig, policy: &str, ours: &[u8]) {
    let theirs = |rig: &Rig| {
        expect_object(rig, KEY, THEIRS);
        wait_for("the name shows theirs", LIMIT, || fs::read(rig.path(KEY)).is_ok_and(|seen| seen == THEIRS));
    };
    match policy {
        "keep-both" => {
            wait_for("ours is kept beside theirs", LIMIT, || !copies(rig).is_empty());
            settle(rig);
            let copies = copies(rig);
            assert_eq!(copies.len(), 1, "{what}: {copies:?}");
            expect_object(rig, &copies[0], ours);
            theirs(rig);
            assert!(rig.log().contains(&format!("{KEY} was changed by another writer")), "{what}: logged");
            assert_eq!(rig.metric("conflicts"), 1, "{what}");
        }
        "fail" => {
            let session = || rig.status()["sessions"][0].clone();
            wait_for("ours is kept in staging", LIMIT, || session()["state"] == "conflicted");
            theirs(rig);
            assert_eq!(rig.bucket.all_keys(), [KEY], "{what}");
            let id = format!("{:016x}", session()["session"].as_u64().unwrap());
            let ran = rig.tetherfs(&["uploads", "discard", "--yes", &id]);
            assert_eq!(ran.code, Some(0), "{what}: {}{}", ran.out, ran.err);
            settle(rig);
            theirs(rig);
        }
        _ => {
            settle(rig);
            expect_object(rig, KEY, ours);
            assert_eq!(rig.bucket.all_keys(), [KEY], "{what}");
            assert!(fs::read(rig.path(KEY)).unwrap() == ours, "{what}");
        }
    }
    // A kill may have come between the beginning of an upload and its record: one without a part.
    wait_for("no part is left behind", LIMIT, || {
        rig.bucket.pending_uploads() == rig.bucket.uploads_without_parts()
    });
}

fn expect_told(what: &str, policy: &str, closed: io::Result<()>) {
    match policy {
        "overwrite" => closed.unwrap_or_else(|error| panic!("{what}: {error}")),
        _ => assert_eq!(errno(closed), libc::ESTALE, "{what}"),
    }
}

#[test]
fn every_way_meets_another_version_at_close() {
    for policy in POLICIES {
        for (name, begin) in WAYS {
            let what = format!("{name}, {policy}");
            let mut rig = mounted(policy, &[]);
            let Change { file, ours } = begin(&rig);
            rig.bucket.put_quietly(KEY, THEIRS);
            expect_told(&what, policy, close(file));
            expect_kept(&what, &rig, policy, &ours);
            wait_for("no upload is left behind", LIMIT, || rig.bucket.pending_uploads() == 0);
            // And the name is a file like any other again.
            write(&rig, KEY, b"and on it goes").unwrap_or_else(|error| panic!("{what}: {error}"));
            expect_object(&rig, KEY, b"and on it goes");
            rig.unmount();
        }
    }
}

#[test]
fn every_way_meets_another_version_after_a_kill() {
    for policy in POLICIES {
        for (name, begin) in WAYS {
            let what = format!("{name}, killed, {policy}");
            let mut rig = mounted(policy, &["--commit=background"]);
            let Change { file, ours } = begin(&rig);
            let refused = Action::Status { code: 503, error: None, retry_after_s: None };
            for operation in [Operation::PutObject, Operation::CompleteMultipartUpload] {
                rig.bucket.faults().add(Rule::on(operation, refused.clone()).key(KEY));
            }
            close(file).unwrap_or_else(|error| panic!("{what}: {error}"));
            rig.kill();
            rig.bucket.put_quietly(KEY, THEIRS);
            rig.bucket.faults().clear();
            rig.mount_again();
            expect_kept(&what, &rig, policy, &ours);
            rig.unmount();
        }
    }
}

#[test]
fn a_rename_over_a_version_that_nobody_here_has_seen() {
    for policy in POLICIES {
        for is_known in [true, false] {
            let mut rig = mounted(policy, &["--metadata-ttl=10m"]);
            match is_known {
                true => known(&rig, b"the old version"),
                false => assert!(!rig.path(KEY).exists()),
            }
            write(&rig, "ours", b"our version").unwrap();
            rig.bucket.put_quietly(KEY, THEIRS);
            let kept =
                rustix::fs::renameat_with(CWD, rig.path("ours"), CWD, rig.path(KEY), RenameFlags::NOREPLACE);
            assert!(kept.is_err(), "{policy}: never against the program's own word");
            expect_object(&rig, KEY, THEIRS);
            let renamed = fs::rename(rig.path("ours"), rig.path(KEY));
            if policy == "overwrite" {
                renamed.unwrap();
                assert_eq!(rig.bucket.all_keys(), [KEY]);
                expect_object(&rig, KEY, b"our version");
                assert_eq!(fs::read(rig.path(KEY)).unwrap(), b"our version");
            } else {
                // Both are there already, each under a name of its own.
                assert_eq!(errno(renamed), libc::ESTALE, "{policy}");
                assert_eq!(rig.bucket.all_keys(), [KEY, "ours"], "{policy}");
                expect_object(&rig, KEY, THEIRS);
                expect_object(&rig, "ours", b"our version");
                assert_eq!(fs::read(rig.path("ours")).unwrap(), b"our version");
            }
            rig.unmount();
        }
    }
}

#[test]
fn a_change_whose_old_bytes_are_gone_is_kept_until_the_user_says_otherwise() {
    for policy in POLICIES {
        let mut rig = mounted(policy, &[]);
        rig.bucket.put_quietly(KEY, &pattern(8, 300_000));
        let file = open(&rig, KEY);
        file.write_all_at(b"ours", 1000).unwrap();
        rig.bucket.put_quietly(KEY, THEIRS);
        assert_eq!(errno(close(file)), libc::ESTALE, "{policy}");
        expect_object(&rig, KEY, THEIRS);
        assert_eq!(rig.bucket.all_keys(), [KEY], "{policy}");
        rig.kill();
        rig.mount_again();
        // Where conflicts are left to the user it is one of them, before anybody asks for the old bytes.
        let state = if policy == "fail" { "conflicted" } else { "stuck" };
        wait_for("it is told of", LIMIT, || rig.status()["sessions"][0]["state"] == state);
        let id = format!("{:016x}", rig.status()["sessions"][0]["session"].as_u64().unwrap());
        let ran = rig.tetherfs(&["uploads", "discard", "--yes", &id]);
        assert_eq!(ran.code, Some(0), "{policy}: {}{}", ran.out, ran.err);
        wait_for("the name shows theirs", LIMIT, || fs::read(rig.path(KEY)).is_ok_and(|seen| seen == THEIRS));
        rig.unmount();
    }
}
