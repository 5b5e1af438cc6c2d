//! A bucket that cannot be reached, or only slowly: how long a program waits, what it is told, and that nothing is lost.

use std::fs;
use std::io::Write;
use std::time::Duration;

use tetherfs::bucket::{Action, FaultHandle, Operation, Rule, Side};

use super::{LIMIT, MIB, close, errno, expect_object, open, open_to_append, settle, write};
use crate::support::{Rig, pattern, wait_for};

const FOR_EVER_MS: u64 = 600_000;
const OPTIONS: [&str; 3] = ["--close-timeout=1s", "--stall-timeout=300ms", "--part-size=5MiB"];

fn every(rig: &Rig, action: Action) -> FaultHandle {
    for operation in [Operation::UploadPart, Operation::CompleteMultipartUpload] {
        rig.bucket.faults().add(Rule::on(operation, action.clone()));
    }
    rig.bucket.faults().add(Rule::on(Operation::PutObject, action))
}

#[test]
fn close_fails_in_time_says_so_again_and_the_data_arrive_all_the_same() {
    for action in [
        Action::Status { code: 503, error: None, retry_after_s: None },
        Action::Status { code: 500, error: None, retry_after_s: None },
        Action::Reset,
        Action::Delay { ms: FOR_EVER_MS },
    ] {
        let what = format!("{action:?}");
        let mut rig = Rig::mounted(&OPTIONS);
        every(&rig, action);
        let content = pattern(1, 1000);
        assert_eq!(errno(write(&rig, "f", &content)), libc::ETIMEDOUT, "{what}");
        assert_eq!(errno(close(open(&rig, "f"))), libc::ETIMEDOUT, "{what}: told again");
        let mut more = open_to_append(&rig, "f");
        more.write_all(b"more").unwrap();
        assert_eq!(errno(close(more)), libc::ETIMEDOUT, "{what}: told who goes on with it");
        let status = rig.status();
        assert!(status["sessions"][0]["last_error"].is_string(), "{what}: {status}");
        assert_eq!(rig.bucket.all_keys(), [""; 0], "{what}");
        rig.bucket.faults().clear();
        settle(&rig);
        expect_object(&rig, "f", &[&content[..], b"more"].concat());
        close(open(&rig, "f")).unwrap();
        rig.unmount();
    }
}

#[test]
fn a_large_file_that_stopped_half_way_goes_on_where_it_was() {
    let mut rig = Rig::mounted(&OPTIONS);
    let content = pattern(2, 22 * MIB);
    let refused = Action::Status { code: 503, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(Operation::UploadPart, refused.clone()).skip(2));
    rig.bucket.faults().add(Rule::on(Operation::CompleteMultipartUpload, refused));
    assert_eq!(errno(write(&rig, "f", &content)), libc::ETIMEDOUT);
    assert_eq!(rig.bucket.done(Operation::UploadPart, "f"), 2);
    let status = rig.status();
    let session = &status["sessions"][0];
    assert!(session["last_error"].is_string() && session["sent_bytes"] == 10 << 20, "{session}");
    assert_eq!(fs::read(rig.path("f")).unwrap(), content, "readable meanwhile");
    rig.bucket.faults().clear();
    settle(&rig);
    expect_object(&rig, "f", &content);
    assert_eq!(rig.bucket.done(Operation::UploadPart, "f"), 5, "none twice");
    assert_eq!(
        (rig.bucket.made("f", &[Operation::CompleteMultipartUpload]), rig.bucket.pending_uploads()),
        (1, 0)
    );
    rig.unmount();
}

#[test]
fn what_could_not_be_sent_goes_on_after_a_remount() {
    let mut rig = Rig::mounted(&OPTIONS);
    every(&rig, Action::Status { code: 503, error: None, retry_after_s: None });
    assert_eq!(errno(write(&rig, "f", b"kept")), libc::ETIMEDOUT);
    let ran = rig.tetherfs(&["unmount", "--no-wait", rig.mountpoint().to_str().unwrap()]);
    assert_eq!(ran.code, Some(6), "{}{}", ran.out, ran.err);
    assert!(format!("{}{}", ran.out, ran.err).contains('f'), "{}{}", ran.out, ran.err);
    rig.wait_for_end(6);
    rig.bucket.faults().clear();
    rig.mount_again();
    settle(&rig);
    expect_object(&rig, "f", b"kept");
    rig.unmount();
}

#[test]
fn a_slow_line_that_gets_on_is_waited_for_longer_than_the_time_without_progress() {
    let mut rig = Rig::mounted(&["--close-timeout=2s", "--part-size=5MiB", "--requests=4"]);
    // One part takes a second, one at a time.
    let slow =
        rig.bucket.faults().add(Rule::on(Operation::UploadPart, Action::Bandwidth { bytes_per_s: 5 << 20 }));
    let bytes = pattern(3, 20 * MIB);
    write(&rig, "slow", &bytes).unwrap();
    expect_object(&rig, "slow", &bytes);
    assert_eq!(slow.struck(), 4, "no part twice");
    rig.unmount();
}

#[test]
fn a_refusal_is_told_at_once_and_kept_until_it_is_lifted() {
    let mut rig = Rig::mounted(&OPTIONS);
    every(&rig, Action::Status { code: 403, error: None, retry_after_s: None });
    for name in ["small", "large"] {
        let bytes = pattern(4, if name == "small" { 1000 } else { 6 * MIB });
        assert_eq!(errno(write(&rig, name, &bytes)), libc::EACCES, "{name}");
        assert_eq!(errno(close(open(&rig, name))), libc::EACCES, "{name}: told again");
    }
    assert!(rig.status()["sessions"].as_array().unwrap().iter().all(|s| s["state"] == "stuck"));
    rig.bucket.faults().clear();
    // Tried again now and then, and at once when somebody asks.
    for name in ["small", "large"] {
        close(open(&rig, name)).unwrap();
        assert!(rig.bucket.find(name).is_some(), "{name}");
    }
    settle(&rig);
    rig.unmount();
}

#[test]
fn a_server_that_comes_back_in_time_is_not_noticed() {
    let mut rig = Rig::mounted(&["--stall-timeout=300ms", "--close-timeout=30s"]);
    let stalled = Action::Stall { side: Side::Request, after: 10, ms: FOR_EVER_MS };
    let down = rig.bucket.faults().add(Rule::on(Operation::PutObject, stalled));
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| write(&rig, "f", b"waits for the server"));
        wait_for("it was tried twice", LIMIT, || down.struck() >= 2);
        std::thread::sleep(Duration::from_millis(500));
        rig.bucket.faults().clear();
        writer.join().unwrap().unwrap();
    });
    expect_object(&rig, "f", b"waits for the server");
    assert_eq!(rig.bucket.made("f", &[Operation::PutObject]), 1);
    rig.unmount();
}
