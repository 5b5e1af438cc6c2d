//! Another client changes what we change: neither side is lost, and the name shows what the bucket has.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::support::{Rig, wait_for};

fn conflict_copy(rig: &Rig) -> Option<String> {
    rig.bucket.keys().into_iter().find(|key| key.contains(".conflict-"))
}

#[test]
fn both_versions_are_kept_and_the_name_shows_theirs() {
    let rig = Rig::mounted(&[]);
    fs::write(rig.path("doc"), "first version").unwrap();
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(rig.path("doc")).unwrap();
    file.write_all(b"our version, rather longer than theirs").unwrap();
    rig.bucket.put_quietly("doc", b"their version");
    assert_eq!(file.sync_all().map_err(|error| error.raw_os_error()), Ok(()), "fsync is local in this mode");
    drop(file);
    wait_for("our version is kept beside", Duration::from_secs(20), || conflict_copy(&rig).is_some());
    let copy = conflict_copy(&rig).unwrap();
    assert!(copy.starts_with("doc.conflict-"), "{copy}");
    assert_eq!(rig.bucket.get(&copy).unwrap(), b"our version, rather longer than theirs");
    assert_eq!(rig.bucket.get("doc").unwrap(), b"their version");
    wait_for("the name shows theirs", Duration::from_secs(5), || {
        fs::read(rig.path("doc")).is_ok_and(|bytes| bytes == b"their version")
            && fs::metadata(rig.path("doc")).is_ok_and(|meta| meta.len() == 13)
    });
    fs::write(rig.path("doc"), "and on it goes").unwrap();
    assert_eq!(rig.bucket.get("doc").unwrap(), b"and on it goes");
    wait_for("nothing is pending", Duration::from_secs(20), || {
        rig.status()["sessions"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn changes_of_others_show_after_our_own_commit() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    fs::write(rig.path("f"), "ours").unwrap();
    rig.bucket.put("f", b"theirs, which is longer");
    assert_eq!(
        fs::metadata(rig.path("f")).unwrap().len(),
        23,
        "a file that was closed is the bucket's again"
    );
    assert_eq!(fs::read(rig.path("f")).unwrap(), b"theirs, which is longer");
    rig.bucket.delete("f");
    assert!(fs::metadata(rig.path("f")).is_err());
}

#[test]
fn a_discarded_conflict_shows_what_the_bucket_has() {
    let rig = Rig::mounted(&["--on-conflict=fail"]);
    fs::write(rig.path("doc"), "first").unwrap();
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(rig.path("doc")).unwrap();
    file.write_all(b"ours").unwrap();
    rig.bucket.put_quietly("doc", b"theirs");
    drop(file);
    let conflicted =
        || rig.status()["sessions"].as_array().unwrap().iter().find(|s| s["state"] == "conflicted").cloned();
    wait_for("the conflict is told", Duration::from_secs(20), || conflicted().is_some());
    assert_eq!(rig.bucket.get("doc").unwrap(), b"theirs");
    let ran = rig.tetherfs(&["uploads", "list"]);
    let number = ran
        .out
        .split_whitespace()
        .find(|word| word.len() == 16 && word.chars().all(|c| c.is_ascii_hexdigit()));
    let ran = rig.tetherfs(&["uploads", "discard", "--yes", number.expect("the list shows the number")]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    wait_for("the name shows theirs", Duration::from_secs(5), || {
        fs::read(rig.path("doc")).is_ok_and(|bytes| bytes == b"theirs")
    });
}
