//! Names that change while their content is on its way: nothing removed comes back, nothing moved is left behind, and
//! what a refused change would have replaced is still there.

use std::fs;
use std::io::Write;
use std::time::Duration;

use tetherfs::bucket::{Action, Operation, Rule};

use crate::support::{Rig, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// Writes a file whose upload is on its way, and slow, when this returns.
fn write_slowly(rig: &Rig, name: &str, bytes: &[u8]) {
    let slow = Rule::on(Operation::PutObject, Action::Delay { ms: 1000 }).key(name).times(1);
    let slow = rig.bucket.faults().add(slow);
    fs::write(rig.path(name), bytes).unwrap();
    wait_for("the upload is under way", LIMIT, || slow.struck() == 1);
}

fn refuse(rig: &Rig, operation: Operation) {
    let refused = Action::Status { code: 403, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(operation, refused));
}

fn settle(rig: &Rig) {
    wait_for("no upload is pending", LIMIT, || {
        rig.status()["sessions"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn a_file_removed_while_it_is_uploaded_does_not_come_back() {
    let mut rig = Rig::mounted(&["--commit=background"]);
    write_slowly(&rig, "new", b"content");
    fs::remove_file(rig.path("new")).unwrap();
    fs::write(rig.path("old"), b"before").unwrap();
    settle(&rig);
    write_slowly(&rig, "old", b"after");
    fs::remove_file(rig.path("old")).unwrap();
    settle(&rig);
    assert_eq!(rig.bucket.keys(), Vec::<String>::new());
    assert!(!rig.path("new").exists() && !rig.path("old").exists());
    rig.unmount();
    assert_eq!(rig.bucket.keys(), Vec::<String>::new());
}

#[test]
fn a_file_made_again_after_a_removal_in_its_upload_holds_the_second_content_alone() {
    let mut rig = Rig::mounted(&["--commit=background"]);
    for round in 0..3 {
        write_slowly(&rig, "again", format!("first {round}").as_bytes());
        fs::remove_file(rig.path("again")).unwrap();
        fs::write(rig.path("again"), format!("second {round}")).unwrap();
    }
    rig.unmount();
    assert_eq!(rig.bucket.keys(), ["again"]);
    assert_eq!(rig.bucket.get("again").unwrap(), b"second 2");
}

#[test]
fn a_file_renamed_while_it_is_uploaded_is_under_its_new_name() {
    let mut rig = Rig::mounted(&["--commit=background"]);
    write_slowly(&rig, "before", b"moved");
    fs::rename(rig.path("before"), rig.path("after")).unwrap();
    assert_eq!(fs::read(rig.path("after")).unwrap(), b"moved");
    settle(&rig);
    assert_eq!(rig.bucket.keys(), ["after"]);
    rig.unmount();
    assert_eq!(rig.bucket.get("after").unwrap(), b"moved");
}

#[test]
fn a_file_is_renamed_over_one_that_is_being_uploaded() {
    let mut rig = Rig::mounted(&["--commit=background"]);
    fs::write(rig.path("source"), b"source").unwrap();
    settle(&rig);
    write_slowly(&rig, "target", b"target");
    fs::rename(rig.path("source"), rig.path("target")).unwrap();
    assert_eq!(fs::read(rig.path("target")).unwrap(), b"source");
    rig.unmount();
    assert_eq!(rig.bucket.keys(), ["target"]);
    assert_eq!(rig.bucket.get("target").unwrap(), b"source");
}

#[test]
fn what_a_refused_removal_or_rename_would_have_taken_goes_on() {
    let mut rig = Rig::mounted(&[]);
    for name in ["removed", "replaced", "source"] {
        fs::write(rig.path(name), b"before").unwrap();
    }
    let open = |name| fs::OpenOptions::new().write(true).open(rig.path(name)).unwrap();
    let (mut removed, mut replaced) = (open("removed"), open("replaced"));
    // What is synced is acknowledged.
    for file in [&mut removed, &mut replaced] {
        file.write_all(b"synced").unwrap();
        file.sync_all().unwrap();
    }
    refuse(&rig, Operation::DeleteObject);
    fs::remove_file(rig.path("removed")).unwrap_err();
    rig.bucket.faults().clear();
    refuse(&rig, Operation::CopyObject);
    fs::rename(rig.path("source"), rig.path("replaced")).unwrap_err();
    rig.bucket.faults().clear();
    for mut file in [removed, replaced] {
        file.write_all(b", and more").unwrap();
    }
    for name in ["removed", "replaced"] {
        assert_eq!(fs::read(rig.path(name)).unwrap(), b"synced, and more", "{name}");
    }
    rig.unmount();
    for (name, bytes) in
        [("removed", &b"synced, and more"[..]), ("replaced", b"synced, and more"), ("source", b"before")]
    {
        assert_eq!(rig.bucket.get(name).unwrap(), bytes, "{name}");
    }
    assert_eq!(rig.bucket.keys().len(), 3);
}
