//! Directories: moved with everything below them, whatever happens meanwhile.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tetherfs::bucket::{Action, Operation, Rule};

use crate::support::{Rig, run, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Puts `count` objects below `old/`, some of them deeper.
fn fill(rig: &Rig, count: usize) {
    for n in 0..count {
        rig.bucket.put_quietly(&key("old/", n), content(n).as_bytes());
    }
}

fn key(prefix: &str, n: usize) -> String {
    format!("{prefix}{}{n:04}", ["", "a/", "a/b/"][n % 3])
}

fn content(n: usize) -> String {
    format!("content of {n}")
}

fn keys(rig: &Rig) -> BTreeSet<String> {
    rig.bucket.all_keys().into_iter().collect()
}

/// Everything is under the new name, byte for byte, and nothing else is anywhere.
fn expect_moved(rig: &Rig, count: usize, what: &str) {
    let expected: BTreeSet<String> = (0..count).map(|n| key("new/", n)).collect();
    assert_eq!(keys(rig), expected, "{what}");
    for n in (0..count).step_by(7) {
        assert_eq!(rig.bucket.read(&key("new/", n)), content(n).as_bytes(), "{what}");
    }
}

/// Starts a program that renames; `mv` would copy where it cannot.
fn start_rename(rig: &Rig, from: &str, to: &str) -> Child {
    Command::new("python3")
        .args(["-c", "import os, sys; os.rename(sys.argv[1], sys.argv[2])"])
        .arg(rig.path(from))
        .arg(rig.path(to))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn errno(result: std::io::Result<()>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn a_directory_with_1000_objects_is_moved_by_1000_copies_and_one_removal() {
    let mut rig = Rig::new();
    fill(&rig, 1000);
    rig.mount(&[]);
    assert_eq!(fs::read(rig.path(&key("old/", 4))).unwrap(), content(4).as_bytes());
    let before = fs::metadata(rig.path("old/a/b")).unwrap().ino();
    rig.bucket.requests().reset();
    fs::rename(rig.path("old"), rig.path("new")).unwrap();
    let count = |operation| rig.bucket.count(operation);
    assert_eq!(count(Operation::CopyObject), 1000);
    assert_eq!(count(Operation::DeleteObjects), 1);
    assert_eq!((count(Operation::DeleteObject), count(Operation::PutObject)), (0, 0));
    let asked = rig.bucket.asked();
    assert!(asked.lists <= 6 && asked.heads <= 2, "{asked:?}");
    expect_moved(&rig, 1000, "moved");
    // At once, and for the inodes that are known.
    assert!(!rig.path("old").exists());
    assert_eq!(fs::metadata(rig.path("new/a/b")).unwrap().ino(), before);
    assert_eq!(fs::read_dir(rig.path("new/a/b")).unwrap().count(), 333);
    assert_eq!(fs::read(rig.path(&key("new/", 5))).unwrap(), content(5).as_bytes());
    assert_eq!(rig.status()["moves"], serde_json::json!([]));
    rig.unmount();
}

#[test]
fn killed_at_every_named_point_of_a_move_it_is_finished_by_the_next_mount() {
    let points = [
        "after-tree-intent",
        "after-tree-copy:40",
        "after-tree-page",
        "after-tree-switch",
        "after-tree-removal",
    ];
    for point in points {
        let mut rig = Rig::new();
        fill(&rig, 60);
        rig.mount(&["--commit=background"]);
        // A new file whose upload is kept from ending, and a change to an object.
        let refused = Action::Status { code: 403, error: None, retry_after_s: None };
        rig.bucket.faults().add(Rule::on(Operation::PutObject, refused).key("old/"));
        fs::write(rig.path("old/a/fresh"), b"fresh").unwrap();
        fs::write(rig.path(&key("old/", 4)), b"changed").unwrap();
        rig.kill();
        rig.mount_killed_at(Some(point));
        let mut renaming = start_rename(&rig, "old", "new");
        rig.wait_for_death();
        assert!(!renaming.wait().unwrap().success(), "{point}: it was told");
        rig.bucket.faults().clear();
        rig.mount_again();
        wait_for("the move is finished", LIMIT, || {
            let status = rig.status();
            let is_empty = |list: &str| status[list].as_array().is_some_and(Vec::is_empty);
            is_empty("moves") && is_empty("sessions")
        });
        let mut expected: BTreeSet<String> = (0..60).map(|n| key("new/", n)).collect();
        expected.insert("new/a/fresh".to_owned());
        assert_eq!(keys(&rig), expected, "{point}");
        for n in 0..60 {
            let bytes = if n == 4 { "changed".to_owned() } else { content(n) };
            assert_eq!(rig.bucket.read(&key("new/", n)), bytes.as_bytes(), "{point}");
        }
        assert_eq!(fs::read(rig.path("new/a/fresh")).unwrap(), b"fresh", "{point}");
        wait_for("the old name is gone", LIMIT, || !rig.path("old").exists());
        rig.unmount();
    }
}

#[test]
fn files_that_are_open_below_a_moved_directory_go_along() {
    let mut rig = Rig::new();
    fill(&rig, 30);
    rig.mount(&[]);
    let mut read = File::open(rig.path(&key("old/", 1))).unwrap();
    let mut changed = File::options().read(true).write(true).open(rig.path(&key("old/", 2))).unwrap();
    let mut fresh = File::create(rig.path("old/fresh")).unwrap();
    let mut later = File::options().write(true).open(rig.path(&key("old/", 3))).unwrap();
    changed.write_all(b"CONTENT").unwrap();
    fresh.write_all(b"before, ").unwrap();
    fs::rename(rig.path("old"), rig.path("new")).unwrap();
    fresh.write_all(b"after").unwrap();
    later.write_all(b"later").unwrap();
    let mut bytes = String::new();
    read.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, content(1));
    changed.rewind().unwrap();
    bytes.clear();
    changed.read_to_string(&mut bytes).unwrap();
    assert_eq!(bytes, "CONTENT of 2");
    for file in [&changed, &fresh, &later] {
        file.sync_all().unwrap();
    }
    drop((read, changed, fresh, later));
    wait_for("all is uploaded", LIMIT, || rig.status()["sessions"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(rig.bucket.read("new/fresh"), b"before, after");
    assert_eq!(rig.bucket.read(&key("new/", 2)), b"CONTENT of 2");
    assert_eq!(rig.bucket.read(&key("new/", 3)), b"laternt of 3");
    assert!(keys(&rig).iter().all(|key| key.starts_with("new/")), "{:?}", keys(&rig));
    assert_eq!(fs::read(rig.path("new/fresh")).unwrap(), b"before, after");
    rig.unmount();
    assert_eq!(keys(&rig).len(), 31);
}

#[test]
fn while_a_directory_is_moved_its_files_are_read_and_written_and_others_are_not_held_up() {
    let mut rig = Rig::new();
    fill(&rig, 40);
    rig.bucket.put_quietly("other/file", b"other");
    rig.mount(&[]);
    let names = |directory: &str| fs::read_dir(rig.path(directory)).unwrap().count();
    assert_eq!((names("old"), names("old/a/b"), names("other")), (15, 13, 1));
    let mut open = File::options().read(true).write(true).open(rig.path(&key("old/", 6))).unwrap();
    let slow = rig
        .bucket
        .faults()
        .add(Rule::on(Operation::CopyObject, Action::Delay { ms: 3000 }).key("old/a/b/0002").times(1));
    let slow_new = rig
        .bucket
        .faults()
        .add(Rule::on(Operation::CopyObject, Action::Delay { ms: 3000 }).key("new/a/b/0002").times(1));
    let mut renaming = start_rename(&rig, "old", "new");
    wait_for("the move is under way", LIMIT, || slow.struck() + slow_new.struck() > 0);
    let moves = rig.status()["moves"].clone();
    assert_eq!((&moves[0]["source"], &moves[0]["phase"]), (&"old/".into(), &"copying".into()), "{moves}");
    let text = rig.tetherfs(&["status", rig.mountpoint().to_str().unwrap()]).out;
    assert!(text.contains("moving     old/ to new/, "), "{text}");
    // Elsewhere everything can be done; the descriptor that is open below can be read and written.
    fs::write(rig.path("other/new"), b"new").unwrap();
    fs::rename(rig.path("other/new"), rig.path("other/newer")).unwrap();
    fs::remove_file(rig.path("other/file")).unwrap();
    open.write_all(b"CONTENT").unwrap();
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " of 6");
    assert!(renaming.try_wait().unwrap().is_none(), "the move was over too soon to show anything");
    assert!(renaming.wait().unwrap().success());
    drop(open);
    wait_for("all is uploaded", LIMIT, || rig.status()["sessions"].as_array().is_some_and(Vec::is_empty));
    assert_eq!(rig.bucket.read(&key("new/", 6)), b"CONTENT of 6");
    assert_eq!(keys(&rig).iter().filter(|key| key.starts_with("new/")).count(), 40);
    assert!(keys(&rig).iter().all(|key| !key.starts_with("old/")));
    rig.unmount();
}

#[test]
fn a_move_that_is_refused_in_the_middle_leaves_everything_under_the_old_name() {
    let mut rig = Rig::new();
    fill(&rig, 30);
    rig.mount(&[]);
    fs::create_dir(rig.path("new")).unwrap();
    let refused = Action::Status { code: 403, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(Operation::CopyObject, refused).key("new/a/b/0020"));
    assert_eq!(errno(fs::rename(rig.path("old"), rig.path("new"))), Some(libc::EACCES));
    let mut expected: BTreeSet<String> = (0..30).map(|n| key("old/", n)).collect();
    expected.insert("new/".to_owned());
    assert_eq!(keys(&rig), expected);
    assert_eq!(fs::read(rig.path(&key("old/", 20))).unwrap(), content(20).as_bytes());
    fs::remove_dir(rig.path("new")).unwrap();
    rig.bucket.faults().clear();
    fs::rename(rig.path("old"), rig.path("new")).unwrap();
    expect_moved(&rig, 30, "the second time");
    rig.unmount();
}

#[test]
fn directories_are_moved_over_empty_ones_alone_and_never_into_themselves() {
    let mut rig = Rig::mounted(&[]);
    for directory in ["one", "one/inner", "empty", "full"] {
        fs::create_dir(rig.path(directory)).unwrap();
    }
    for file in ["one/file", "full/file", "plain"] {
        fs::write(rig.path(file), file).unwrap();
    }
    let rename = |from: &str, to: &str| fs::rename(rig.path(from), rig.path(to));
    assert_eq!(errno(rename("one", "full")), Some(libc::ENOTEMPTY));
    assert_eq!(errno(rename("one", "one/inner/deep")), Some(libc::EINVAL));
    assert_eq!(errno(rename("one", "plain")), Some(libc::ENOTDIR));
    assert_eq!(errno(rename("plain", "one")), Some(libc::EISDIR));
    let kept = run(Command::new("mv").arg("-nT").arg(rig.path("one")).arg(rig.path("empty")));
    assert!(rig.path("one").exists(), "{kept:?}");
    rename("one", "empty").unwrap();
    let expected = ["empty/", "empty/file", "empty/inner/", "full/", "full/file", "plain"];
    assert_eq!(rig.bucket.keys(), expected);
    assert_eq!(fs::read(rig.path("empty/file")).unwrap(), b"one/file");
    // The last entry of a directory is moved away: the directory stays.
    rename("empty/inner", "full/inner").unwrap();
    rig.bucket.delete("empty/");
    fs::remove_file(rig.path("empty/file")).unwrap();
    assert!(fs::read_dir(rig.path("empty")).unwrap().next().is_none());
    assert_eq!(fs::read_dir(rig.path("full")).unwrap().count(), 2);
    // What has just got its name can be moved on, and a new directory can have the old name.
    rename("full", "again").unwrap();
    fs::create_dir(rig.path("full")).unwrap();
    fs::write(rig.path("full/new"), b"new").unwrap();
    rename("again/file", "full/file").unwrap();
    rig.unmount();
    assert_eq!(
        rig.bucket.keys(),
        ["again/", "again/inner/", "empty/", "full/", "full/file", "full/new", "plain"]
    );
}

#[test]
fn objects_uploaded_in_parts_are_verified_and_can_be_read_while_they_are_moved() {
    let mut rig = Rig::mounted(&["--part-size=5M"]);
    fs::create_dir(rig.path("old")).unwrap();
    let bytes = crate::support::pattern(3, 11 << 20);
    fs::write(rig.path("old/large"), &bytes).unwrap();
    let mut open = File::open(rig.path("old/large")).unwrap();
    fs::rename(rig.path("old"), rig.path("new")).unwrap();
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == bytes, "the open file");
    drop(open);
    assert!(fs::read(rig.path("new/large")).unwrap() == bytes, "the new name");
    assert_eq!(rig.bucket.keys(), ["new/", "new/large"]);
    rig.unmount();
}
