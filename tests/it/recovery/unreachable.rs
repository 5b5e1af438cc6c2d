//! The server cannot be reached when a volume is mounted.

use std::fs::{self, OpenOptions};
use std::io::Write;

use tetherfs::bucket::Operation;

use super::{LIMIT, expect_in_bucket, put_off, settle, state_directory};
use crate::support::{Ran, Rig, pattern, run, wait_for};

const MIB: usize = 1 << 20;

/// A volume with an object, mounted once, with files on their way: a small one, one in a directory, and a large one
/// that changes the object. Not mounted any more; the server is gone.
fn left_behind() -> (Rig, Vec<(&'static str, Vec<u8>)>) {
    let mut rig = Rig::new();
    let changed = pattern(1, 12 * MIB);
    rig.bucket.put_quietly("changed", &changed);
    rig.bucket.put_quietly("other", b"what was there");
    rig.mount(&["--commit=background", "--part-size=5M"]);
    let puts = put_off(&rig, Operation::PutObject);
    put_off(&rig, Operation::CompleteMultipartUpload);
    let small = pattern(2, 10_000);
    fs::write(rig.path("small"), &small).unwrap();
    fs::write(rig.path("deep"), &small[..5000]).unwrap();
    let mut file = OpenOptions::new().append(true).open(rig.path("changed")).unwrap();
    file.write_all(&small).unwrap();
    drop(file);
    wait_for("an upload was tried", LIMIT, || puts.struck() > 0);
    rig.kill();
    rig.bucket.stop();
    let changed = [&changed[..], &small[..]].concat();
    (rig, vec![("deep", small[..5000].to_vec()), ("small", small), ("changed", changed)])
}

fn outage(rig: &Rig) -> Option<String> {
    rig.status()["outage"]["why"].as_str().map(str::to_owned)
}

#[test]
fn what_is_staged_is_there_at_once_and_goes_on_when_the_server_is_back() {
    let (mut rig, mut left) = left_behind();
    rig.mount_again();
    assert!(rig.log().contains("by what is remembered of it"), "{}", rig.log());
    let why = outage(&rig).expect("the status tells of it");
    assert!(why.contains("refused"), "{why}");
    let shown = rig.tetherfs(&["status"]).out;
    assert!(shown.contains("bucket     not available for") && shown.contains("uploads wait"), "{shown}");
    assert_eq!(rig.status()["sessions"].as_array().unwrap().len(), 3);

    // New files and files that are staged as a whole need nothing of the server.
    for (name, bytes) in &mut left[..2] {
        assert!(fs::read(rig.path(name)).unwrap() == *bytes, "{name}");
        let mut file = OpenOptions::new().append(true).open(rig.path(name)).unwrap();
        file.write_all(b"and more").unwrap();
        file.sync_all().unwrap();
        drop(file);
        bytes.extend_from_slice(b"and more");
        assert!(fs::read(rig.path(name)).unwrap() == *bytes, "{name} with its changes");
    }
    // The end of the changed file is here, and what is written into it too.
    let mut file = OpenOptions::new().append(true).open(rig.path("changed")).unwrap();
    file.write_all(b"its end").unwrap();
    file.sync_all().unwrap();
    drop(file);
    left[2].1.extend_from_slice(b"its end");
    assert_eq!(fs::metadata(rig.path("changed")).unwrap().len(), left[2].1.len() as u64);
    // What only the server knows is an error, after the usual patience.
    let error = fs::read(rig.path("other")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");

    rig.bucket.start_again();
    for (name, bytes) in &left {
        expect_in_bucket(&rig, name, bytes);
    }
    settle(&rig);
    assert_eq!(fs::read(rig.path("other")).unwrap(), b"what was there");
    assert_eq!(outage(&rig), None, "it is over");
    let names: Vec<_> =
        fs::read_dir(rig.mountpoint()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.len() >= 4, "{names:?}");
    let told = format!(" at {} answers\n", rig.bucket.endpoint());
    wait_for("the log tells of it", LIMIT, || rig.log().contains(&told));
    rig.unmount();
}

#[test]
fn the_server_is_used_as_it_was_found_the_last_time() {
    for note in ["kept", "gone", "damaged"] {
        let (mut rig, left) = left_behind();
        let path = state_directory(&rig).join("server");
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("secret"), "{text}");
        match note {
            "gone" => fs::remove_file(&path).unwrap(),
            "damaged" => fs::write(&path, text.replace("true", "false")).unwrap(),
            _ => {}
        }
        // Objects can be written, but the server cannot be tried out for now: it refuses to list.
        rig.bucket.start_again();
        let lists = put_off(&rig, Operation::ListObjectsV2);
        rig.mount_again();
        for (name, bytes) in &left {
            expect_in_bucket(&rig, name, bytes);
        }
        let probed = rig.bucket.requests().recent().iter().any(|r| r.key.contains("probe"));
        assert!(!probed && lists.struck() > 0, "{note}: it is asked, and has not answered");
        let copies = rig.bucket.count(Operation::UploadPartCopy);
        match note {
            "kept" => assert!(copies > 0, "it copies parts"),
            _ => assert_eq!(copies, 0, "{note}: nothing is known of it, so little is asked of it"),
        }
        rig.bucket.faults().clear();
        settle(&rig);
        wait_for("the note is as it was", LIMIT, || {
            fs::read_to_string(&path).is_ok_and(|found| found == text)
        });
        rig.unmount();
    }
}

fn refused(rig: &Rig, secret: Option<&str>) -> Ran {
    let mut command = rig.command();
    if let Some(secret) = secret {
        command.env("AWS_SECRET_ACCESS_KEY", secret);
    }
    let ran = run(command.arg("mount").args(rig.mount_arguments()));
    assert!(!rig.is_mounted(), "{ran:?}");
    ran
}

#[test]
fn a_first_mount_and_one_with_wrong_keys_fail() {
    let mut rig = Rig::new();
    rig.bucket.stop();
    for _ in 0..2 {
        let ran = refused(&rig, None);
        assert_eq!(ran.code, Some(3), "{ran:?}");
        assert!(ran.err.contains("cannot open s3://test-bucket"), "{}", ran.err);
    }
    rig.bucket.start_again();
    rig.mount(&[]);
    rig.unmount();
    let ran = refused(&rig, Some("wrong-secret-value"));
    assert_eq!(ran.code, Some(3), "{ran:?}");
    assert!(ran.err.contains("secret access key"), "{}", ran.err);
    rig.mount_again();
    rig.unmount();
}

#[test]
fn whoever_mounts_behind_is_told_that_the_server_is_not_available() {
    let (rig, _) = left_behind();
    let mounted = run(rig.command().arg("mount").args(rig.mount_arguments()));
    let unmounted = rig.tetherfs(&["unmount", "--no-wait", rig.mountpoint().to_str().unwrap()]);
    assert_eq!(mounted.code, Some(0), "{mounted:?}");
    let told = "is not available yet, 3 uploads of an earlier mount go on when it is";
    assert!(mounted.err.contains(told), "{mounted:?}");
    assert_eq!(unmounted.code, Some(6), "{unmounted:?}");
}
