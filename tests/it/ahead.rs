//! Small files read one after another, as tar, cp -r and grep -r do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tetherfs::bucket::{Action, Operation, Recorded, Rule};

use crate::support::{Rig, pattern, run_ok};

const FILES: usize = 120;
const BYTES: usize = 16 << 10;
/// What each request waits for the server, and so the least that a file read by itself takes.
const LATENCY: Duration = Duration::from_millis(30);

/// Fewer than this many requests at a time are hardly worth fetching ahead for.
const SEVERAL: usize = 4;

fn bytes_of(file: usize) -> Vec<u8> {
    pattern(file as u64, BYTES)
}

/// A bucket with files in `dir/`, far away, mounted.
fn far_away() -> Rig {
    let mut rig = Rig::new();
    for file in 0..FILES {
        rig.bucket.put_quietly(&format!("dir/f{file:03}"), &bytes_of(file));
    }
    rig.bucket.faults().add(Rule::always(Action::Delay { ms: LATENCY.as_millis() as u64 }));
    rig.mount(&[]);
    rig.bucket.requests().reset();
    rig
}

/// Reads files and compares them.
fn read_all(paths: &[PathBuf]) {
    for path in paths {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(fs::read(path).unwrap() == bytes_of(name[1..].parse().unwrap()), "{name}");
    }
}

/// Does something and tells how many GETs were waiting for the server at once, at most.
fn most_at_once(rig: &Rig, act: impl FnOnce()) -> usize {
    let is_done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let watcher = threads.spawn(|| {
            let mut most = 0;
            while !is_done.load(Ordering::Relaxed) {
                let recent = rig.bucket.requests().recent();
                let is_waiting = |r: &&Recorded| r.operation == Operation::GetObject && r.status.is_none();
                most = most.max(recent.iter().filter(is_waiting).count());
                std::thread::sleep(LATENCY / 10);
            }
            most
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        is_done.store(true, Ordering::Relaxed);
        let most = watcher.join().unwrap();
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        most
    })
}

/// Has all files read. How long this takes is for benchmarks to say; here it is that hardly a file was asked for by
/// whoever read it, and that several were on their way at a time.
#[track_caller]
fn expect_ahead(rig: &Rig, read: impl FnOnce()) {
    let most = most_at_once(rig, read);
    assert!(most >= SEVERAL, "{most} at once");
    let (gets, heads) = (rig.bucket.count(Operation::GetObject), rig.bucket.count(Operation::HeadObject));
    assert_eq!(gets, FILES as u64, "one request a file");
    assert!(heads <= FILES as u64 / 4, "{heads} looks beside them");
    assert!(rig.metric("files_ahead") > FILES as u64 * 9 / 10);
    assert_eq!(rig.metric("files_ahead_unused"), 0);
}

#[test]
fn files_in_the_order_of_their_names_are_fetched_ahead() {
    let rig = far_away();
    let mut paths: Vec<_> =
        fs::read_dir(rig.path("dir")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    expect_ahead(&rig, || read_all(&paths));
}

#[test]
fn files_in_the_order_of_their_numbers_are_fetched_ahead() {
    let rig = far_away();
    let entries = fs::read_dir(rig.path("dir")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<(u64, PathBuf)> =
        entries.map(|path| (fs::metadata(&path).unwrap().ino(), path)).collect();
    paths.sort();
    let paths: Vec<_> = paths.into_iter().map(|(_, path)| path).collect();
    expect_ahead(&rig, || read_all(&paths));
}

#[test]
fn programs_that_go_through_a_directory_have_it_fetched_ahead() {
    let programs: [(&str, &str); 3] = [
        ("tar", "tar -C \"$MOUNT\" -cf all.tar dir && tar -xf all.tar"),
        ("cp", "cp -r \"$MOUNT/dir\" ."),
        ("grep", "grep -rac '' \"$MOUNT/dir\" >counts"),
    ];
    for (program, script) in programs {
        let rig = far_away();
        let copy = rig.home().join("copy");
        fs::create_dir(&copy).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-euc", script]).current_dir(&copy).env("MOUNT", rig.mountpoint());
        expect_ahead(&rig, || {
            run_ok(&mut shell);
        });
        match program {
            "grep" => {
                let counts = fs::read_to_string(copy.join("counts")).unwrap();
                assert_eq!(counts.lines().count(), FILES, "grep has looked into each");
            }
            _ => read_all(&(0..FILES).map(|file| copy.join(format!("dir/f{file:03}"))).collect::<Vec<_>>()),
        }
    }
}

#[test]
fn files_in_no_order_are_fetched_when_they_are_read() {
    let rig = far_away();
    let mut paths: Vec<_> =
        fs::read_dir(rig.path("dir")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    // Neither order has two of these next to each other.
    let some: Vec<_> = (0..20).map(|n| paths[n * 37 % FILES].clone()).collect();
    read_all(&some);
    let gets = rig.bucket.count(Operation::GetObject);
    assert!((20..30).contains(&gets), "{gets} requests for 20 files");
}

#[test]
fn a_file_replaced_after_it_was_fetched_ahead_is_read_anew() {
    let rig = far_away();
    let path = |file: usize| rig.path(&format!("dir/f{file:03}"));
    fs::read_dir(rig.path("dir")).unwrap().for_each(drop);
    read_all(&[path(0), path(1), path(2)]);
    // By now the next ones are on their way.
    std::thread::sleep(Duration::from_millis(300));
    rig.bucket.put_quietly("dir/f003", b"new and of another length");
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(fs::read(path(3)).unwrap(), b"new and of another length");
    read_all(&[path(4), path(5)]);
}
