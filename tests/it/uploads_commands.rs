//! `tetherfs uploads` and `tetherfs sync` on real mounts: what they wait for, what they do, and what is in the bucket
//! when they return.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tetherfs::bucket::{Action, FaultHandle, Operation, Rule};

use crate::support::{Ran, Rig, pattern, run_ok, sha256, wait_for};

const MIB: usize = 1 << 20;
/// Much less than what is stuck waits for by itself.
const SOON: Duration = Duration::from_secs(60);

fn uploads(rig: &Rig, words: &[&str]) -> Ran {
    rig.tetherfs(&[&["uploads"], words].concat())
}

fn mountpoint(rig: &Rig) -> String {
    rig.mountpoint().to_str().unwrap().to_owned()
}

/// Runs a command that ends with this code, and reads what it prints as JSON.
fn json(rig: &Rig, code: i32, words: &[&str]) -> Value {
    let ran = rig.tetherfs(&[words, &["--json"]].concat());
    assert_eq!(ran.code, Some(code), "{words:?}: {}{}\n{}", ran.out, ran.err, rig.log());
    serde_json::from_str(&ran.out).unwrap()
}

/// The upload of a key in `uploads list`.
fn listed(rig: &Rig, key: &str) -> Option<Value> {
    let all = json(rig, 0, &["uploads", "list"]);
    all.as_array().unwrap().iter().find(|upload| upload["key"] == key).cloned()
}

/// The number of the upload of a key, once it is in this state.
fn wait_for_state(rig: &Rig, key: &str, state: &str) -> String {
    let mut id = None;
    wait_for(&format!("{key} is {state}"), SOON, || {
        let all = json(rig, 0, &["uploads", "list"]);
        let found = all.as_array().unwrap().iter().find(|one| one["key"] == key && one["state"] == state);
        id = found.map(|upload| upload["id"].as_str().unwrap().to_owned());
        id.is_some()
    });
    id.unwrap()
}

/// Makes the bucket answer what it is sent with this status.
fn refuse(rig: &Rig, code: u16) -> FaultHandle {
    let action = Action::Status { code, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(Operation::PutObject, action))
}

/// Makes two versions of a file: ours, closed, and theirs, in the bucket. Ours is left to the user.
fn conflict(rig: &Rig, name: &str, ours: &[u8], theirs: &[u8]) -> String {
    fs::write(rig.path(name), "the first version").unwrap();
    wait_for("the first version is uploaded", SOON, || listed(rig, name).is_none());
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(rig.path(name)).unwrap();
    file.write_all(ours).unwrap();
    rig.bucket.put_quietly(name, theirs);
    drop(file);
    wait_for_state(rig, name, "conflicted")
}

fn wait_for_content(rig: &Rig, name: &str, bytes: &[u8]) {
    wait_for(&format!("{name} shows what the bucket has"), SOON, || {
        fs::read(rig.path(name)).is_ok_and(|seen| seen == bytes)
            && fs::metadata(rig.path(name)).is_ok_and(|meta| meta.len() == bytes.len() as u64)
    });
}

#[test]
fn wait_returns_when_everything_is_in_the_bucket_or_the_time_is_over() {
    let rig = Rig::mounted(&["--commit=background"]);
    let place = mountpoint(&rig);
    let nothing = &json(&rig, 0, &["uploads", "wait", &place])[0];
    assert_eq!((&nothing["is_done"], &nothing["uploads"]), (&true.into(), &Value::Array(Vec::new())));

    let down = refuse(&rig, 503);
    let names = ["a", "b", "c"];
    for (seed, name) in (0..).zip(names) {
        fs::write(rig.path(name), pattern(seed, 100_000)).unwrap();
    }
    let ran = uploads(&rig, &["wait", &place, "--timeout", "300ms"]);
    assert_eq!(ran.code, Some(6), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("3 uploads are not in the bucket yet (293.0 KiB to send)"), "{}", ran.err);
    assert!(ran.err.contains("  b  ") && ran.err.contains("goes on by itself"), "{}", ran.err);
    let pending = &json(&rig, 6, &["uploads", "wait", "--timeout", "0"])[0];
    assert_eq!((&pending["is_done"], &pending["uploads"].as_array().unwrap().len()), (&false.into(), &3));
    assert_eq!(pending["mountpoint"], place.as_str());
    assert!(down.struck() > 0 && rig.bucket.keys().is_empty());
}

#[test]
fn wait_waits_for_a_slow_bucket() {
    let rig = Rig::mounted(&["--commit=background", "--part-size=5M"]);
    let bytes = pattern(7, 12 * MIB);
    for operation in [Operation::PutObject, Operation::UploadPart, Operation::CompleteMultipartUpload] {
        rig.bucket.faults().add(Rule::on(operation, Action::Delay { ms: 700 }));
    }
    fs::write(rig.path("large"), &bytes).unwrap();
    for number in 0..10 {
        fs::write(rig.path(&format!("small-{number}")), pattern(number, 5000)).unwrap();
    }
    let waited = &json(&rig, 0, &["uploads", "wait"])[0];
    assert_eq!(waited["is_done"], true);
    assert_eq!(sha256(&rig.bucket.read("large")), sha256(&bytes));
    for number in 0..10 {
        assert_eq!(rig.bucket.read(&format!("small-{number}")), pattern(number, 5000));
    }
}

#[test]
fn after_an_outage_retry_does_not_wait_for_the_pause() {
    let rig = Rig::mounted(&["--commit=background"]);
    refuse(&rig, 403);
    for name in ["one", "two", "three"] {
        fs::write(rig.path(name), name).unwrap();
    }
    let ids = ["one", "two", "three"].map(|name| wait_for_state(&rig, name, "stuck"));
    let ran = uploads(&rig, &["wait"]);
    assert_eq!(ran.code, Some(6), "it cannot go on by itself: {}{}", ran.out, ran.err);
    assert!(ran.err.contains("'tetherfs uploads retry'"), "{}", ran.err);

    rig.bucket.faults().clear();
    let tried = json(&rig, 0, &["uploads", "retry", &ids[0], &ids[2]]);
    assert_eq!(tried[0]["uploads"], 2, "{tried}");
    wait_for("the first is uploaded", SOON, || listed(&rig, "one").is_none());
    wait_for("the third is uploaded", SOON, || listed(&rig, "three").is_none());
    assert_eq!(listed(&rig, "two").unwrap()["state"], "stuck", "only those that were named");
    assert_eq!((rig.bucket.read("one"), rig.bucket.read("three")), (b"one".to_vec(), b"three".to_vec()));

    let ran = uploads(&rig, &["retry", "--all"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("1 upload is tried now"), "{}", ran.err);
    assert_eq!(json(&rig, 0, &["uploads", "wait"])[0]["is_done"], true);
    assert_eq!(rig.bucket.read("two"), b"two");
    assert_eq!(json(&rig, 0, &["uploads", "retry", "--all"])[0]["uploads"], 0);
    assert_eq!(uploads(&rig, &["retry", &ids[1]]).code, Some(1), "there is no such upload any more");
}

#[test]
fn a_conflict_is_resolved_each_way_without_a_remount() {
    let rig = Rig::mounted(&["--on-conflict=fail", "--metadata-ttl=100ms"]);
    let (ours, theirs) = (pattern(1, 700_000), pattern(2, 50_000));
    let [kept, replaced, dropped] =
        ["kept", "replaced", "dropped"].map(|name| conflict(&rig, name, &ours, &theirs));
    assert_eq!(uploads(&rig, &["retry", &kept]).code, Some(1), "it waits for the user, not for the store");

    let resolved = json(&rig, 0, &["uploads", "resolve", &kept, "--keep-both"]);
    let copy = resolved["key"].as_str().unwrap();
    assert!(copy.starts_with("kept.conflict-"), "{resolved}");
    let ran = uploads(&rig, &["resolve", &replaced, "--overwrite"]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("replaces what is there"), "{}", ran.err);
    let ran = uploads(&rig, &["resolve", &dropped, "--discard"]);
    assert_eq!(ran.code, Some(2), "nobody can be asked here: {}{}", ran.out, ran.err);
    assert!(listed(&rig, "dropped").is_some());
    let resolved = json(&rig, 0, &["uploads", "resolve", &dropped, "--discard", "--yes"]);
    assert_eq!((&resolved["key"], &resolved["id"]), (&Value::Null, &dropped.as_str().into()));

    assert_eq!(json(&rig, 0, &["uploads", "wait"])[0]["is_done"], true);
    let expected = [("kept", &theirs), (copy, &ours), ("replaced", &ours), ("dropped", &theirs)];
    for (name, bytes) in expected {
        assert_eq!(sha256(&rig.bucket.read(name)), sha256(bytes), "{name}");
        wait_for_content(&rig, name, bytes);
    }
    assert_eq!(rig.bucket.keys().len(), 4);
    assert_eq!(uploads(&rig, &["resolve", &kept, "--overwrite"]).code, Some(1), "it is decided");
}

#[test]
fn resolving_does_not_touch_a_newer_file_of_the_same_name() {
    let rig = Rig::mounted(&["--on-conflict=fail", "--commit=background", "--metadata-ttl=100ms"]);
    let id = conflict(&rig, "doc", b"ours, the conflicted one", b"theirs");
    // The name shows theirs by now; a program goes on from there.
    wait_for_content(&rig, "doc", b"theirs");
    refuse(&rig, 403);
    fs::write(rig.path("doc"), "newer").unwrap();
    wait_for_state(&rig, "doc", "stuck");
    rig.bucket.faults().clear();
    let copy = json(&rig, 0, &["uploads", "resolve", &id, "--keep-both"])["key"].as_str().unwrap().to_owned();
    wait_for("the copy is uploaded", SOON, || listed(&rig, &copy).is_none());
    // Longer than names are believed without asking.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(fs::read(rig.path("doc")).unwrap(), b"newer", "shown while it waits");
    assert_eq!(uploads(&rig, &["retry", "--all"]).code, Some(0));
    assert_eq!(json(&rig, 0, &["uploads", "wait"])[0]["is_done"], true);
    assert_eq!(rig.bucket.read("doc"), b"newer");
    assert_eq!(rig.bucket.read(&copy), b"ours, the conflicted one");
    assert_eq!(fs::read(rig.path("doc")).unwrap(), b"newer");
}

#[test]
fn a_conflict_is_resolved_after_a_remount_too() {
    let mut rig = Rig::mounted(&["--on-conflict=fail"]);
    let ours = pattern(4, 300_000);
    let id = conflict(&rig, "doc", &ours, b"theirs");
    rig.kill();
    rig.mount_again();
    assert_eq!(listed(&rig, "doc").unwrap()["state"], "conflicted");
    assert_eq!(fs::read(rig.path("doc")).unwrap(), b"theirs");
    json(&rig, 0, &["uploads", "resolve", &id, "--overwrite"]);
    assert_eq!(json(&rig, 0, &["uploads", "wait"])[0]["is_done"], true);
    assert_eq!(sha256(&rig.bucket.read("doc")), sha256(&ours));
    rig.unmount();
}

#[test]
fn several_uploads_are_discarded_at_once_and_not_without_consent() {
    let rig = Rig::mounted(&["--commit=background"]);
    refuse(&rig, 403);
    for name in ["keep", "drop-1", "drop-2"] {
        fs::write(rig.path(name), name).unwrap();
    }
    let ids = ["keep", "drop-1", "drop-2"].map(|name| wait_for_state(&rig, name, "stuck"));
    let ran = uploads(&rig, &["discard", &ids[1], &ids[2]]);
    assert_eq!(ran.code, Some(2), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("'drop-1' (6 B, stuck), 'drop-2' (6 B, stuck) are not"), "{}", ran.err);
    let ran = uploads(&rig, &["discard", "--yes", &ids[1], "ffff"]);
    assert_eq!(ran.code, Some(1), "one of them is unknown: {}{}", ran.out, ran.err);
    assert_eq!(json(&rig, 0, &["uploads", "list"]).as_array().unwrap().len(), 3, "nothing was deleted");

    let gone = json(&rig, 0, &["uploads", "discard", "--yes", &ids[1], &ids[2]]);
    assert_eq!((&gone[0]["key"], &gone[1]["key"]), (&"drop-1".into(), &"drop-2".into()));
    assert!(!rig.path("drop-1").exists() && rig.path("keep").exists());
    rig.bucket.faults().clear();
    assert_eq!(uploads(&rig, &["retry", &ids[0]]).code, Some(0));
    assert_eq!(uploads(&rig, &["wait"]).code, Some(0));
    assert_eq!(rig.bucket.keys(), ["keep"]);
}

/// A program that has a file of the mount open and writes what it is given. Not this process: each program that it starts
/// would close the files that it inherits, which is a flush of all of them.
struct Program {
    child: Child,
    path: PathBuf,
    written: u64,
}

impl Program {
    fn start(rig: &Rig, redirection: &str, name: &str) -> Program {
        let path = rig.path(name);
        let script = format!("exec cat {redirection} \"$1\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(&path).stdin(Stdio::piped());
        Program { child: command.spawn().unwrap(), path, written: 0 }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
        self.written += bytes.len() as u64;
        wait_for("the program has written", SOON, || {
            fs::metadata(&self.path).is_ok_and(|meta| meta.len() == self.written)
        });
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn sync_brings_open_files_into_the_bucket_as_they_are() {
    let rig = Rig::mounted(&["--part-size=5M"]);
    let first = pattern(5, 11 * MIB);
    fs::create_dir(rig.path("dir")).unwrap();
    let mut open = Program::start(&rig, ">", "open");
    open.write(&first);
    rig.bucket.put("edited", b"0123456789");
    let mut edited = Program::start(&rig, "1<>", "edited");
    edited.write(b"abcde56789");
    let created = Program::start(&rig, ">", "created");
    wait_for("the file is there", SOON, || rig.path("created").exists());
    // The kernel does not tell us of syncfs(2), as the help says.
    run_ok(Command::new("sync").arg("--file-system").arg(rig.mountpoint()));
    assert!(rig.bucket.get("open").is_none() && rig.bucket.get("created").is_none());

    let synced = json(&rig, 0, &["sync", rig.path("dir").to_str().unwrap()]);
    assert_eq!((&synced[0]["is_done"], &synced[0]["mountpoint"]), (&true.into(), &mountpoint(&rig).into()));
    assert_eq!(sha256(&rig.bucket.read("open")), sha256(&first));
    assert_eq!(rig.bucket.read("edited"), b"abcde56789");
    assert_eq!(rig.bucket.read("created"), b"");

    open.write(b"and more");
    assert_eq!(rig.tetherfs(&["sync"]).code, Some(0), "all mounts of this user");
    let second = [first.as_slice(), b"and more"].concat();
    assert_eq!(sha256(&rig.bucket.read("open")), sha256(&second));
    rig.bucket.requests().reset();
    assert_eq!(rig.tetherfs(&["sync"]).code, Some(0));
    assert_eq!(rig.bucket.asked().all, 0, "with nothing changed it asks the bucket nothing");
    [open, edited, created].into_iter().for_each(Program::end);
    assert_eq!(sha256(&fs::read(rig.path("open")).unwrap()), sha256(&second));
}

#[test]
fn sync_tells_what_it_did_not_get_into_the_bucket() {
    let rig = Rig::mounted(&["--close-timeout=1s"]);
    let down = refuse(&rig, 503);
    let mut open = Program::start(&rig, ">", "open");
    open.write(b"data");
    assert_eq!(json(&rig, 0, &["uploads", "wait"])[0]["is_done"], true, "nobody was told that it is safe");
    assert_eq!(down.struck(), 0);
    let left = json(&rig, 6, &["sync", "--timeout", "300ms"]);
    assert_eq!(left[0]["uploads"][0]["key"], "open", "{left}");
    assert!(down.struck() > 0);
    let elsewhere = rig.tetherfs(&["sync", rig.home().to_str().unwrap()]);
    assert_eq!(elsewhere.code, Some(4), "{}{}", elsewhere.out, elsewhere.err);
    let help = rig.tetherfs(&["sync", "--help"]).out;
    assert!(help.contains("syncfs") && help.contains("does not hand them on"), "{help}");
}
