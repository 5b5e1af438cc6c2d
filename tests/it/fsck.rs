//! `tetherfs fsck` on what real mounts leave behind: what it tells is what the next mount does, and what it sets aside is
//! all that is missing then.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tetherfs::bucket::{Action, Operation, Rule};

use crate::support::{BUCKET, Rig, pattern, run, sha256, wait_for};

const MIB: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const PART_DELAY: Duration = Duration::from_millis(200);

/// The only state directory below the rig's home.
fn state_directory(rig: &Rig) -> PathBuf {
    let all = rig.home().join(".local/state/tetherfs");
    let mut found = fs::read_dir(all).unwrap().map(|entry| entry.unwrap().path());
    let directory = found.next().unwrap();
    assert_eq!(found.next(), None);
    directory
}

/// Runs `tetherfs fsck` on the state directory, which ends with this code.
fn fsck(rig: &Rig, code: i32, options: &[&str]) -> Value {
    let ran = run(rig.command().arg("fsck").arg(state_directory(rig)).arg("--json").args(options));
    assert_eq!(ran.code, Some(code), "{options:?}: {}{}", ran.out, ran.err);
    serde_json::from_str(&ran.out).unwrap()
}

fn file<'a>(checked: &'a Value, key: &str) -> &'a Value {
    let files = checked["files"].as_array().unwrap();
    files.iter().find(|file| file["key"] == key).unwrap_or_else(|| panic!("{key} is not in {checked}"))
}

fn refuse(rig: &Rig, operation: Operation, code: u16) {
    let action = Action::Status { code, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(operation, action));
}

fn copy_in(rig: &Rig, bytes: &[u8], name: &str) -> Child {
    let local = rig.home().join("source");
    fs::write(&local, bytes).unwrap();
    let mut cp = Command::new("cp");
    cp.arg(local).arg(rig.path(name)).stdin(Stdio::null()).stderr(Stdio::null());
    cp.spawn().unwrap()
}

fn expect_in_bucket(rig: &Rig, key: &str, bytes: &[u8]) {
    wait_for(&format!("{key} is in the bucket"), LIMIT, || rig.bucket.get(key).is_some());
    assert_eq!(sha256(&rig.bucket.read(key)), sha256(bytes), "{key}");
}

fn files_in(directory: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The id of the upload that the journal speaks of.
fn upload_id(rig: &Rig) -> String {
    let journal = files_in(&state_directory(rig).join("journal")).pop().unwrap();
    let text = String::from_utf8_lossy(&fs::read(journal).unwrap()).into_owned();
    let id = text.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    assert!(id.len() > 8, "{id}");
    id.to_owned()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

/// Some files whose upload the bucket refuses, left by a daemon that was killed.
fn left_pending(number: u64) -> (Rig, Vec<(String, Vec<u8>)>) {
    let mut rig = Rig::mounted(&["--commit=background"]);
    refuse(&rig, Operation::PutObject, 403);
    let files: Vec<(String, Vec<u8>)> =
        (0..number).map(|seed| (format!("file-{seed}"), pattern(seed, 200_000))).collect();
    for (name, bytes) in &files {
        fs::write(rig.path(name), bytes).unwrap();
    }
    wait_for("all are sealed", LIMIT, || {
        let status = rig.status();
        let sessions = status["sessions"].as_array().unwrap();
        sessions.len() as u64 == number && sessions.iter().all(|session| session["state"] == "stuck")
    });
    rig.kill();
    rig.bucket.faults().clear();
    (rig, files)
}

#[test]
fn a_clean_directory_is_told_so_and_a_mounted_one_is_left_alone() {
    let mut rig = Rig::mounted(&[]);
    fs::write(rig.path("done"), "content").unwrap();
    let directory = state_directory(&rig);
    let ran = run(rig.command().arg("fsck").arg(&directory));
    assert_eq!(ran.code, Some(5), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("is in use by process"), "{}", ran.err);
    rig.unmount();

    rig.bucket.requests().reset();
    let checked = fsck(&rig, 0, &[]);
    assert_eq!((&checked["problems"], &checked["is_asked"]), (&0.into(), &true.into()), "{checked}");
    assert_eq!(
        (&checked["url"], checked["files"].as_array().unwrap().len()),
        (&"s3://test-bucket".into(), 0)
    );
    let endpoint = format!("--endpoint={}", rig.bucket.endpoint());
    let ran = run(rig.command().args(["fsck", &format!("s3://{BUCKET}"), &endpoint]));
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains(directory.to_str().unwrap()), "{}", ran.out);
    assert!(ran.out.contains("No problems found."), "{}", ran.out);
    assert_eq!(rig.bucket.asked().all, 0, "there was nothing to ask");

    let elsewhere = run(rig.command().arg("fsck").arg(rig.home()));
    assert_eq!(elsewhere.code, Some(2), "{}{}", elsewhere.out, elsewhere.err);
    assert!(!rig.home().join("lease").exists(), "nothing is written where nothing was staged");
    assert_eq!(run(rig.command().args(["fsck", "s3://other", &endpoint])).code, Some(2));
}

#[test]
fn an_upload_that_is_half_there_is_told_and_goes_on_just_so() {
    let mut rig = Rig::mounted(&["--part-size=5M"]);
    let bytes = pattern(1, 60 * MIB);
    rig.bucket
        .faults()
        .add(Rule::on(Operation::UploadPart, Action::Delay { ms: PART_DELAY.as_millis() as u64 }));
    let mut cp = copy_in(&rig, &bytes, "big");
    wait_for("half of the parts are stored", LIMIT, || {
        rig.bucket.done(Operation::UploadPart, "big") >= 6
            && rig.status()["sessions"][0]["state"] == "sending"
    });
    rig.kill();
    cp.wait().unwrap();
    rig.bucket.faults().clear();
    // What the dead one had sent whole is stored a moment later.
    let mut stored = None;
    wait_for("nothing more of it arrives", LIMIT, || {
        thread::sleep(2 * PART_DELAY);
        let before = stored.replace(rig.bucket.done(Operation::UploadPart, "big"));
        before == stored
    });
    rig.bucket.requests().reset();

    let checked = fsck(&rig, 0, &[]);
    let big = file(&checked, "big");
    assert_eq!(
        (&big["next"], &big["parts"], &big["bytes"]),
        (&"resume".into(), &12.into(), &bytes.len().into())
    );
    let there = big["parts_there"].as_u64().unwrap();
    assert!((6..=12).contains(&there), "{big}");
    let asked = rig.bucket.requests().recent();
    assert!(asked.iter().all(|request| request.method == "GET" || request.method == "HEAD"), "it only looks");
    assert_eq!(rig.bucket.count(Operation::ListParts), 1);
    let upload = upload_id(&rig);
    assert!(!checked.to_string().contains(&upload), "who has an upload's id can write");
    assert!(!fsck(&rig, 0, &["--offline"]).to_string().contains(&upload));
    assert_eq!(rig.bucket.count(Operation::ListParts), 1);
    // One who has no keys cannot ask, and is told all the same what is here.
    let mut keyless = rig.command();
    keyless.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    keyless.env("AWS_EC2_METADATA_DISABLED", "true");
    let ran = run(keyless.arg("fsck").arg(state_directory(&rig)));
    assert_eq!(ran.code, Some(3), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("goes on:") && ran.err.contains("could not be asked"), "{}{}", ran.out, ran.err);

    rig.bucket.requests().reset();
    rig.mount_again();
    expect_in_bucket(&rig, "big", &bytes);
    assert_eq!(rig.bucket.done(Operation::UploadPart, "big"), 12 - there, "as it was told");
    rig.unmount();
    assert_eq!(fsck(&rig, 0, &[])["files"].as_array().unwrap().len(), 0);
}

#[test]
fn a_flipped_byte_is_found_and_repair_loses_nothing_else() {
    let (mut rig, files) = left_pending(3);
    let directory = state_directory(&rig);
    let staged = files_in(&directory.join("staging"));
    assert_eq!(staged.len(), 3);
    flip(&staged[1], 123_456);
    let damaged = fs::read(&staged[1]).unwrap();

    let checked = fsck(&rig, 1, &[]);
    assert_eq!(checked["problems"], 1, "{checked}");
    let broken = file(&checked, &files[1].0);
    assert_eq!(broken["next"], "set-aside");
    assert!(broken["damage"].as_str().unwrap().contains("places"), "{broken}");
    assert_eq!(file(&checked, &files[0].0)["next"], "send");
    assert_eq!(files_in(&directory.join("staging")), staged, "nothing is moved without --repair");
    let ran = run(rig.command().arg("fsck").arg(&directory));
    assert!(ran.out.contains("1 problem found") && ran.out.contains("--repair"), "{}{}", ran.out, ran.err);

    let repaired = fsck(&rig, 1, &["--repair"]);
    let kept = PathBuf::from(repaired["set_aside"][0].as_str().unwrap());
    assert!(kept.starts_with(directory.join("recovered")) && fs::read(&kept).unwrap() == damaged);
    let again = fsck(&rig, 0, &[]);
    assert_eq!(
        (&again["problems"], &file(&again, &files[1].0)["next"]),
        (&0.into(), &"aside-already".into())
    );

    rig.mount_again();
    for number in [0, 2] {
        expect_in_bucket(&rig, &files[number].0, &files[number].1);
    }
    let stuck = rig.status()["sessions"].as_array().unwrap().clone();
    assert_eq!(stuck.len(), 1, "{stuck:?}");
    assert_eq!((&stuck[0]["key"], &stuck[0]["state"]), (&files[1].0.as_str().into(), &"stuck".into()));
    assert_eq!(rig.bucket.get(&files[1].0), None, "damaged bytes are never sent");
    let id = format!("{:016x}", stuck[0]["session"].as_u64().unwrap());
    assert_eq!(rig.tetherfs(&["uploads", "discard", "--yes", &id]).code, Some(0));
    rig.unmount();
    assert!(fs::read(&kept).unwrap() == damaged, "also then it is the user's");
    assert_eq!(fsck(&rig, 0, &[])["files"].as_array().unwrap().len(), 0);
}

#[test]
fn a_damaged_journal_is_repaired_and_every_byte_is_somewhere() {
    let (mut rig, files) = left_pending(4);
    let directory = state_directory(&rig);
    let journals = files_in(&directory.join("journal"));
    let journal = journals.last().unwrap();
    flip(journal, fs::metadata(journal).unwrap().len() as usize / 2);
    let before = fs::read(journal).unwrap();

    let checked = fsck(&rig, 1, &[]);
    let parts = checked["journal"]["damaged"].as_array().unwrap();
    assert!(!parts.is_empty(), "{checked}");
    assert!(fs::read(journal).unwrap() == before && !directory.join("recovered").exists());
    let repaired = fsck(&rig, 1, &["--repair"]);
    for path in repaired["set_aside"].as_array().unwrap() {
        assert!(Path::new(path.as_str().unwrap()).exists(), "{path}");
    }
    let again = fsck(&rig, 0, &[]);
    assert_eq!((&again["problems"], &again["journal"]["torn_bytes"]), (&0.into(), &0.into()), "{again}");

    rig.mount_again();
    let kept: Vec<String> =
        files_in(&directory.join("recovered")).iter().map(|path| sha256(&fs::read(path).unwrap())).collect();
    let mut in_bucket = 0;
    for (name, bytes) in &files {
        if kept.contains(&sha256(bytes)) {
            continue;
        }
        expect_in_bucket(&rig, name, bytes);
        in_bucket += 1;
    }
    assert!(in_bucket >= 3, "one record is about one file");
    rig.unmount();
}

#[test]
fn an_upload_that_was_completed_and_not_noted_is_found_out() {
    let mut rig = Rig::mounted(&["--part-size=5M"]);
    rig.unmount();
    for (name, bytes) in [("small", pattern(2, 10_000)), ("large", pattern(3, 11 * MIB))] {
        rig.mount_killed_at(Some("after-complete-before-journal"));
        let mut cp = copy_in(&rig, &bytes, name);
        rig.wait_for_death();
        cp.wait().unwrap();
        let alone = fsck(&rig, 0, &["--offline"]);
        assert_eq!(file(&alone, name)["next"], "look-up", "{alone}");
        assert_eq!((&alone["is_asked"], &alone["problems"]), (&false.into(), &0.into()));
        let asked = fsck(&rig, 0, &[]);
        assert_eq!(file(&asked, name)["next"], "done", "{asked}");
        // Damaged by now, which does not matter: the next mount looks first.
        flip(&files_in(&state_directory(&rig).join("staging"))[0], 17);
        assert_eq!(fsck(&rig, 0, &[])["problems"], 0);
        assert_eq!(fsck(&rig, 1, &["--offline", "--repair"])["set_aside"], Value::Array(Vec::new()));
        rig.bucket.requests().reset();
        rig.mount_again();
        wait_for("nothing is pending", LIMIT, || rig.status()["sessions"].as_array().unwrap().is_empty());
        assert_eq!(sha256(&rig.bucket.read(name)), sha256(&bytes));
        let sent = rig.bucket.requests().recent();
        let sent = sent.iter().filter(|request| request.key == name && request.method != "HEAD").count();
        assert_eq!(sent, 0, "looked at, not sent again");
        rig.unmount();
    }
}

#[test]
fn a_server_that_refuses_is_no_damage() {
    let mut rig = Rig::mounted(&["--part-size=5M"]);
    // First it is sealed; else it might be interrupted, about which nobody is asked.
    refuse(&rig, Operation::CreateMultipartUpload, 503);
    let mut cp = copy_in(&rig, &pattern(4, 11 * MIB), "f");
    wait_for("it is sealed", LIMIT, || rig.status()["sessions"][0]["state"] == "queued");
    rig.kill();
    cp.wait().unwrap();
    rig.bucket.faults().clear();
    rig.mount_killed_at(Some("after-part"));
    rig.wait_for_death();
    assert_eq!(file(&fsck(&rig, 0, &[]), "f")["next"], "resume");

    refuse(&rig, Operation::ListObjectsV2, 403);
    let checked = fsck(&rig, 3, &[]);
    assert_eq!((&checked["is_asked"], &checked["problems"]), (&false.into(), &0.into()), "{checked}");
    assert_eq!(file(&checked, "f")["next"], "resume", "as far as the journal tells");
    rig.bucket.faults().clear();
    refuse(&rig, Operation::ListParts, 403);
    let checked = fsck(&rig, 3, &[]);
    assert!(file(&checked, "f")["unasked"].as_str().unwrap().contains("403"), "{checked}");
    // A directory of an older release does not say which volume it is of.
    fs::remove_file(state_directory(&rig).join("volume.json")).unwrap();
    let unknown = fsck(&rig, 0, &[]);
    assert_eq!((&unknown["url"], &unknown["is_asked"]), (&Value::Null, &false.into()), "{unknown}");
    assert!(unknown["not_asked"].as_str().unwrap().contains("URL"), "{unknown}");
}
