//! The daemon is killed, mounted again, and what is in the bucket is compared with what was promised.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tetherfs::bucket::{Action, Operation, Rule};

use crate::support::{Rig, pattern, sha256, wait_for};

const MIB: usize = 1 << 20;
/// Longest that recovery may take to bring a file into the bucket.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Parts in flight of one file, by default; a kill may cost each of them once.
const PARTS_IN_FLIGHT: u64 = 8;

/// Starts `cp` into the mount, which blocks in close until the upload is done.
fn copy_in(rig: &Rig, bytes: &[u8], name: &str) -> Child {
    let local = rig.home().join("source");
    fs::write(&local, bytes).unwrap();
    Command::new("cp")
        .arg(local)
        .arg(rig.path(name))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn expect_in_bucket(rig: &Rig, key: &str, bytes: &[u8]) {
    let mut last = None;
    wait_for(&format!("{key} is in the bucket"), RECOVERY_LIMIT, || {
        last = rig.bucket.get(key);
        last.as_ref().is_some_and(|last| last.len() == bytes.len())
    });
    assert_eq!(sha256(&last.unwrap()), sha256(bytes), "{key}");
}

fn expect_nothing_pending(rig: &Rig) {
    wait_for("no upload is pending", RECOVERY_LIMIT, || {
        rig.status()["sessions"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn killed_at_every_named_point_of_an_upload() {
    let points = [
        "before-begin",
        "after-begin-before-journal",
        "after-begin",
        "after-part-before-journal",
        "after-part:2",
        "before-complete",
        "after-complete-before-journal",
        "after-complete",
    ];
    let mut rig = Rig::mounted(&["--part-size=5M"]);
    rig.unmount();
    for (number, point) in points.into_iter().enumerate() {
        let key = format!("at-{number}");
        let bytes = pattern(number as u64, 17 * MIB);
        // First the file is sealed and its upload kept from beginning; else it would begin while cp still writes.
        rig.mount_again();
        let refused = Action::Status { code: 503, error: None, retry_after_s: None };
        let refusal = rig.bucket.faults().add(Rule::on(Operation::CreateMultipartUpload, refused).key(&key));
        let mut cp = copy_in(&rig, &bytes, &key);
        wait_for("the file is sealed", RECOVERY_LIMIT, || {
            refusal.struck() > 0 && rig.status()["sessions"][0]["state"] != "writing"
        });
        rig.kill();
        assert!(!cp.wait().unwrap().success(), "{point}: cp was told");
        rig.bucket.faults().clear();
        // Then the upload goes on, and the daemon dies at the point.
        rig.mount_killed_at(Some(point));
        rig.wait_for_death();
        rig.mount_again();
        expect_in_bucket(&rig, &key, &bytes);
        assert_eq!(sha256(&fs::read(rig.path(&key)).unwrap()), sha256(&bytes), "{point}: through the mount");
        expect_nothing_pending(&rig);
        assert_eq!(rig.bucket.done(Operation::CompleteMultipartUpload, &key), 1, "{point}: committed once");
        let parts = rig.bucket.done(Operation::UploadPart, &key);
        assert!((4..=8).contains(&parts), "{point}: {parts} parts sent for 4, all of which were in flight");
        rig.unmount();
    }
    // Between the begin and its record nobody knows the upload's id: that one kill leaks one.
    assert!(rig.bucket.pending_uploads() <= 1, "{} uploads are left behind", rig.bucket.pending_uploads());
}

#[test]
fn killed_at_every_named_point_of_a_small_file() {
    let mut rig = Rig::new();
    rig.mount(&[]);
    rig.unmount();
    for (number, point) in
        ["after-seal", "before-complete", "after-complete-before-journal", "after-complete"]
            .into_iter()
            .enumerate()
    {
        let key = format!("small-{number}");
        let bytes = pattern(number as u64, 10_000);
        rig.mount_killed_at(Some(point));
        let mut cp = copy_in(&rig, &bytes, &key);
        rig.wait_for_death();
        cp.wait().unwrap();
        rig.mount_again();
        expect_in_bucket(&rig, &key, &bytes);
        expect_nothing_pending(&rig);
        rig.unmount();
    }
}

#[test]
fn killed_in_the_middle_of_close_sends_no_part_twice_but_those_in_flight() {
    let mut rig = Rig::mounted(&["--part-size=5M"]);
    let bytes = pattern(7, 100 * MIB);
    rig.bucket.requests().reset();
    let slow = rig.bucket.faults().add(Rule::on(Operation::UploadPart, Action::Delay { ms: 300 }));
    let mut cp = copy_in(&rig, &bytes, "big");
    wait_for("half of the parts are stored", RECOVERY_LIMIT, || {
        rig.bucket.done(Operation::UploadPart, "big") >= 10
            && rig.status()["sessions"][0]["state"] == "sending"
    });
    rig.kill();
    assert!(slow.struck() > 0);
    assert!(!cp.wait().unwrap().success());
    assert_eq!(rig.bucket.get("big"), None, "nothing under the name before it is whole");
    rig.bucket.faults().clear();
    rig.mount_again();
    assert_eq!(sha256(&fs::read(rig.path("big")).unwrap()), sha256(&bytes), "shown and readable at once");
    expect_in_bucket(&rig, "big", &bytes);
    let sent = rig.bucket.done(Operation::UploadPart, "big");
    assert!(sent <= 20 + PARTS_IN_FLIGHT, "{sent} parts sent for 20");
    assert_eq!(rig.bucket.done(Operation::CreateMultipartUpload, "big"), 1, "the same upload went on");
    rig.unmount();
}

#[test]
fn killed_while_writing_keeps_the_old_object_and_the_new_bytes() {
    let mut rig = Rig::mounted(&[]);
    rig.bucket.put("doc", b"the old content");
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(rig.path("doc")).unwrap();
    file.write_all(b"half of the new").unwrap();
    rig.kill();
    drop(file);
    rig.mount_again();
    assert_eq!(rig.bucket.get("doc").unwrap(), b"the old content");
    assert_eq!(fs::read(rig.path("doc")).unwrap(), b"the old content");
    let ran = rig.tetherfs(&["uploads", "list"]);
    assert!(ran.out.contains("doc") && ran.out.contains("interrupted"), "{}{}", ran.out, ran.err);
    fs::write(rig.path("doc"), "all of the new").unwrap();
    assert_eq!(rig.bucket.get("doc").unwrap(), b"all of the new");
    expect_nothing_pending(&rig);
    rig.unmount();
}

#[test]
fn an_interrupted_file_is_committed_at_the_users_word() {
    let mut rig = Rig::mounted(&[]);
    let mut file = fs::File::create(rig.path("recording")).unwrap();
    file.write_all(&pattern(5, 300_000)).unwrap();
    rig.kill();
    drop(file);
    rig.mount_again();
    assert_eq!(rig.bucket.get("recording"), None);
    let id = rig.status()["sessions"][0]["session"].as_u64().unwrap();
    let ran = rig.tetherfs(&["uploads", "commit", &format!("{id:016x}")]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert_eq!(fs::read(rig.path("recording")).unwrap(), pattern(5, 300_000), "shown at once");
    expect_in_bucket(&rig, "recording", &pattern(5, 300_000));
    let again = rig.tetherfs(&["uploads", "commit", &format!("{id:016x}")]);
    assert_ne!(again.code, Some(0), "there is nothing to decide any more");
    expect_nothing_pending(&rig);
    rig.unmount();
}

#[test]
fn what_was_synced_is_committed_as_of_that_point() {
    let mut rig = Rig::mounted(&[]);
    let file = fs::OpenOptions::new().create(true).truncate(true).write(true).open(rig.path("db")).unwrap();
    file.write_all_at(&[1; 300_000], 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(&[2; 100_000], 50_000).unwrap();
    file.write_all_at(&[3; 100_000], 300_000).unwrap();
    rig.kill();
    drop(file);
    rig.mount_again();
    expect_in_bucket(&rig, "db", &[1; 300_000]);
    rig.unmount();
}

#[test]
fn background_uploads_survive_the_daemon() {
    let mut rig = Rig::mounted(&["--commit=background"]);
    let down = rig
        .bucket
        .faults()
        .add(Rule::on(Operation::PutObject, Action::Status { code: 503, error: None, retry_after_s: None }));
    for number in 0..20 {
        fs::write(rig.path(&format!("f{number}")), pattern(number, 5000)).unwrap();
    }
    wait_for("an upload was tried", RECOVERY_LIMIT, || down.struck() > 0);
    rig.kill();
    rig.bucket.faults().clear();
    rig.mount_again();
    for number in 0..20 {
        assert_eq!(
            fs::read(rig.path(&format!("f{number}"))).unwrap(),
            pattern(number, 5000),
            "readable at once"
        );
        expect_in_bucket(&rig, &format!("f{number}"), &pattern(number, 5000));
    }
    rig.unmount();
}

#[test]
fn lost_answers_are_no_failures_and_no_second_commits() {
    let rig = Rig::mounted(&["--part-size=5M"]);
    rig.bucket.requests().reset();
    rig.bucket.faults().add(Rule::on(Operation::PutObject, Action::LoseAnswer).key("small").times(1));
    fs::write(rig.path("small"), "small").unwrap();
    assert_eq!(rig.bucket.get("small").unwrap(), b"small");
    let puts =
        rig.bucket.requests().recent().iter().filter(|r| r.key == "small" && r.method == "PUT").count();
    assert_eq!(puts, 1, "looked at, not sent again");

    let bytes = pattern(3, 12 * MIB);
    rig.bucket.faults().add(Rule::on(Operation::CompleteMultipartUpload, Action::LoseAnswer).times(1));
    fs::write(rig.path("large"), &bytes).unwrap();
    assert_eq!(sha256(&rig.bucket.get("large").unwrap()), sha256(&bytes));
    assert_eq!(rig.bucket.count(Operation::CreateMultipartUpload), 1);

    rig.bucket.faults().add(Rule::on(Operation::CopyObject, Action::LoseAnswer).times(1));
    rig.bucket.faults().add(Rule::on(Operation::DeleteObject, Action::LoseAnswer).times(1));
    fs::rename(rig.path("large"), rig.path("moved")).unwrap();
    let mut keys = rig.bucket.keys();
    keys.sort();
    assert_eq!(keys, ["moved", "small"]);
    assert_eq!(sha256(&fs::read(rig.path("moved")).unwrap()), sha256(&bytes));
}

#[test]
fn killed_in_the_middle_of_a_rename_finishes_it() {
    let mut rig = Rig::mounted(&[]);
    fs::write(rig.path("from"), "content").unwrap();
    rig.unmount();
    rig.mount_killed_at(Some("after-rename-copy"));
    fs::rename(rig.path("from"), rig.path("to")).unwrap_err();
    rig.wait_for_death();
    rig.mount_again();
    wait_for("the rename is finished", RECOVERY_LIMIT, || rig.bucket.keys() == ["to"]);
    assert_eq!(rig.bucket.get("to").unwrap(), b"content");
    rig.unmount();
}

#[test]
fn killed_in_the_middle_of_a_read_fetches_at_most_one_window_twice() {
    let window = 16 * MIB as u64;
    let mut rig = Rig::new();
    let bytes = pattern(11, 128 * MIB);
    rig.bucket.put("big", &bytes);
    rig.mount(&["--prefetch=16M"]);
    rig.bucket.requests().reset();
    let slow = Action::Bandwidth { bytes_per_s: 20 << 20 };
    rig.bucket.faults().add(Rule::on(Operation::GetObject, slow));
    let mut file = fs::File::open(rig.path("big")).unwrap();
    let mut half = vec![0; 64 * MIB];
    file.read_exact(&mut half).unwrap();
    assert_eq!(sha256(&half), sha256(&bytes[..64 * MIB]));
    rig.kill();
    drop(file);
    rig.bucket.faults().clear();
    rig.mount_again();
    assert_eq!(sha256(&fs::read(rig.path("big")).unwrap()), sha256(&bytes));
    let fetched = rig.bucket.requests().count(Operation::GetObject).sent;
    assert!(fetched >= bytes.len() as u64);
    assert!(fetched <= bytes.len() as u64 + window, "{fetched} bytes fetched of {}", bytes.len());
    rig.unmount();
}

#[test]
fn a_new_empty_file_that_replaced_another_is_there_after_a_kill() {
    let mut rig = Rig::mounted(&["--commit=background"]);
    fs::write(rig.path("name"), b"old").unwrap();
    expect_nothing_pending(&rig);
    let file = fs::File::create_new(rig.path("new")).unwrap();
    fs::rename(rig.path("new"), rig.path("name")).unwrap();
    drop(file);
    rig.kill();
    rig.mount_again();
    assert_eq!(fs::read(rig.path("name")).unwrap(), b"");
    expect_in_bucket(&rig, "name", b"");
    expect_nothing_pending(&rig);
    assert_eq!(rig.bucket.keys(), ["name"]);
    rig.unmount();
}

#[test]
fn a_killed_daemon_can_be_mounted_over() {
    let mut rig = Rig::mounted(&[]);
    fs::write(rig.path("f"), "x").unwrap();
    rig.kill_leaving_mount();
    assert_eq!(fs::read(rig.path("f")).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    rig.mount_again();
    assert_eq!(fs::read(rig.path("f")).unwrap(), b"x");
    rig.unmount();
}
