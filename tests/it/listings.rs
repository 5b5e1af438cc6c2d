//! Large directories: how many requests a look at them takes, and what it shows while they change.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;
use std::time::Duration;

use tetherfs::bucket::Operation;

use crate::support::{Rig, run_ok, wait_for};

const LIMIT: Duration = Duration::from_secs(60);
/// So that no answer becomes old during a test.
const LONG: &str = "--metadata-ttl=10m";

fn mounted_over(count: usize, options: &[&str]) -> Rig {
    let mut rig = Rig::new();
    for n in 0..count {
        rig.bucket.put_quietly(&format!("big/{n:06}"), b"x");
    }
    rig.mount(options);
    rig
}

#[test]
fn ls_l_of_10000_objects_is_11_lists_and_then_answers_every_name() {
    let mut rig = mounted_over(10_000, &[LONG]);
    assert!(rig.path("big").is_dir());
    rig.bucket.requests().reset();
    let listing = run_ok(Command::new("ls").arg("-l").arg(rig.path("big")));
    assert_eq!(listing.lines().count(), 10_001);
    let asked = rig.bucket.asked();
    assert!(asked.lists <= 11 && asked.all == asked.lists, "{asked:?}");
    // Names that are there, names that are not, and a second look.
    rig.bucket.requests().reset();
    for n in (0..10_000).step_by(97) {
        assert_eq!(fs::metadata(rig.path(&format!("big/{n:06}"))).unwrap().len(), 1);
        let absent = fs::metadata(rig.path(&format!("big/{n:06}.lock")));
        assert_eq!(absent.unwrap_err().kind(), ErrorKind::NotFound);
    }
    let found = run_ok(Command::new("find").arg(rig.path("big")).args(["-type", "f", "-size", "-2"]));
    assert_eq!(found.lines().count(), 10_000);
    assert_eq!(rig.bucket.asked().all, 0);
    rig.unmount();
}

#[test]
fn one_page_is_asked_for_ahead_of_who_reads_a_directory_and_no_more() {
    let mut rig = mounted_over(5_000, &[LONG]);
    assert!(rig.path("big").is_dir());
    rig.bucket.requests().reset();
    let mut reading = fs::read_dir(rig.path("big")).unwrap();
    reading.next().unwrap().unwrap();
    wait_for("the second page is asked for", LIMIT, || rig.bucket.count(Operation::ListObjectsV2) == 2);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(rig.bucket.count(Operation::ListObjectsV2), 2);
    let names: HashSet<_> = reading.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 4_999);
    assert_eq!(rig.bucket.count(Operation::ListObjectsV2), 5);
    rig.unmount();
}

#[test]
fn a_directory_is_removed_while_it_is_listed_and_every_name_that_stays_is_shown_once() {
    let mut rig = mounted_over(2_500, &[]);
    let mut shown = Vec::new();
    let mut reading = fs::read_dir(rig.path("big")).unwrap();
    for entry in reading.by_ref().take(100) {
        shown.push(entry.unwrap().file_name().into_string().unwrap());
    }
    // Every other name goes, and some come, ahead of the reader and behind it.
    for n in (0..2_500).step_by(2) {
        fs::remove_file(rig.path(&format!("big/{n:06}"))).unwrap();
    }
    for n in (0..2_500).step_by(250) {
        fs::write(rig.path(&format!("big/{n:06}-new")), b"new").unwrap();
    }
    shown.extend(reading.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    let unique: HashSet<&str> = shown.iter().map(String::as_str).collect();
    assert_eq!(unique.len(), shown.len(), "each once");
    for n in (1..2_500).step_by(2) {
        assert!(unique.contains(format!("{n:06}").as_str()), "{n:06} is lost");
    }
    run_ok(Command::new("rm").arg("-r").arg(rig.path("big")));
    assert!(!rig.path("big").exists());
    assert_eq!(rig.bucket.all_keys(), Vec::<String>::new());
    rig.unmount();
}
