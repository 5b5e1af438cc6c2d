//! Uploads behind the programs' backs: which goes first, and which need not go at all.

use std::fs;
use std::time::Duration;

use tetherfs::bucket::{Action, Operation, Rule};

use super::{LIMIT, MIB, expect_object, settle, write};
use crate::support::{Rig, pattern, wait_for};

/// Names are known, so that nothing but uploads is asked.
fn mounted(options: &[&str]) -> Rig {
    let rig = Rig::mounted(&[&["--commit=background", "--metadata-ttl=10m"], options].concat());
    fs::read_dir(rig.mountpoint()).unwrap().for_each(drop);
    rig
}

/// The keys of the objects made, in the order in which their requests were begun.
fn made(rig: &Rig) -> Vec<String> {
    let recent = rig.bucket.requests().recent();
    let commits = [Operation::PutObject, Operation::CompleteMultipartUpload];
    recent.into_iter().filter(|r| commits.contains(&r.operation) && r.done > 0).map(|r| r.key).collect()
}

#[test]
fn the_newest_content_wins_and_older_ones_are_not_sent() {
    let mut rig = mounted(&[]);
    let refused = Action::Status { code: 503, error: None, retry_after_s: None };
    let down = rig.bucket.faults().add(Rule::on(Operation::PutObject, refused));
    for round in 0..30 {
        write(&rig, "f", format!("version {round}").as_bytes()).unwrap();
    }
    // Just now, so that none is on its way when the server is up again.
    let tried = down.struck();
    wait_for("an upload was tried", LIMIT, || down.struck() > tried.max(2));
    rig.bucket.requests().reset();
    rig.bucket.faults().clear();
    settle(&rig);
    expect_object(&rig, "f", b"version 29");
    assert_eq!(made(&rig), ["f"], "one of thirty");
    // One that is on its way is let through, and the last comes behind it.
    let slow = rig.bucket.faults().add(Rule::on(Operation::PutObject, Action::Delay { ms: 500 }).times(1));
    write(&rig, "f", b"on its way").unwrap();
    wait_for("it is on its way", LIMIT, || slow.struck() == 1);
    rig.bucket.requests().reset();
    for round in 0..30 {
        write(&rig, "f", format!("later version {round}").as_bytes()).unwrap();
    }
    settle(&rig);
    expect_object(&rig, "f", b"later version 29");
    assert_eq!(made(&rig), ["f"], "one of thirty");
    rig.unmount();
}

#[test]
fn small_files_go_before_large_ones_and_one_that_somebody_waits_for_before_all() {
    // A quarter of the requests are for uploads: one at a time.
    let mut rig = mounted(&["--requests=4", "--part-size=5MiB"]);
    let slow =
        rig.bucket.faults().add(Rule::on(Operation::PutObject, Action::Delay { ms: 1500 }).key("first"));
    write(&rig, "first", b"keeps the others waiting").unwrap();
    wait_for("it is on its way", LIMIT, || slow.struck() == 1);
    rig.bucket.requests().reset();
    for (name, bytes) in [("parts", 11 * MIB), ("large", 3 * MIB), ("small", 1000), ("middle", 200_000)] {
        write(&rig, name, &pattern(1, bytes)).unwrap();
    }
    assert_eq!(
        rig.bucket.requests().total().requests,
        0,
        "all of them were there before the first was through"
    );
    settle(&rig);
    assert_eq!(made(&rig), ["small", "middle", "large", "parts"]);
    rig.unmount();
}

#[test]
fn several_files_are_on_their_way_at_once_and_each_is_sent_once() {
    let mut rig = mounted(&[]);
    rig.bucket.faults().add(Rule::on(Operation::PutObject, Action::Delay { ms: 300 }));
    let names: Vec<String> = (0..40).map(|number| format!("f{number:02}")).collect();
    for name in &names {
        write(&rig, name, name.as_bytes()).unwrap();
    }
    let under_way = || {
        let recent = rig.bucket.requests().recent();
        recent.iter().filter(|r| r.operation == Operation::PutObject && r.status.is_none()).count()
    };
    wait_for("eight at once", Duration::from_secs(20), || under_way() == 8);
    settle(&rig);
    let mut made = made(&rig);
    made.retain(|name| names.contains(name));
    made.sort();
    assert_eq!(made, names);
    rig.unmount();
}

#[test]
fn a_file_made_again_after_its_removal_comes_after_it() {
    let mut rig = mounted(&[]);
    for round in 0..20 {
        write(&rig, "f", format!("first of {round}").as_bytes()).unwrap();
        fs::remove_file(rig.path("f")).unwrap();
        write(&rig, "f", format!("second of {round}").as_bytes()).unwrap();
        fs::rename(rig.path("f"), rig.path("g")).unwrap();
    }
    settle(&rig);
    assert_eq!(rig.bucket.all_keys(), ["g"]);
    expect_object(&rig, "g", b"second of 19");
    rig.unmount();
}
