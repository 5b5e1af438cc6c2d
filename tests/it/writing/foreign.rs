//! Changes of every kind over servers that others wrote, which do less than they should: Garage ignores conditions,
//! `rclone serve s3` forgets uploads when it ends and neither copies parts nor takes one twice.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;

use super::{LIMIT, MIB, close, open, open_to_append, settle, write};
use crate::support::{Client, Foreign, Rig, expect_same, pattern, wait_for};

fn expect_there(server: &Client, key: &str, expected: &[u8]) {
    let found = server.get(key).unwrap_or_else(|| panic!("{key} is not on the server"));
    expect_same(key, 0, &found, expected);
}

/// Makes, changes, renames and removes files, large and small; then the daemon is killed in the middle of an upload.
fn everything_arrives(server: Foreign, warning: &str, interlude: impl Fn(&mut Foreign)) {
    let outside = Client::of(&server);
    let mut rig = Rig::over(server);
    rig.mount(&["--part-size=5M"]);
    assert!(rig.log().contains(warning), "the log says what this server lacks: {}", rig.log());
    let small = pattern(1, 50_000);
    write(&rig, "small", &small).unwrap();
    let mut large = pattern(2, 17 * MIB + 5);
    write(&rig, "large", &large).unwrap();
    expect_there(&outside, "small", &small);
    expect_there(&outside, "large", &large);
    let file = open(&rig, "large");
    file.write_all_at(b"in the middle", 9 * MIB as u64).unwrap();
    close(file).unwrap();
    large[9 * MIB..9 * MIB + 13].copy_from_slice(b"in the middle");
    let mut file = open_to_append(&rig, "large");
    file.write_all(b"at the end").unwrap();
    close(file).unwrap();
    large.extend_from_slice(b"at the end");
    expect_there(&outside, "large", &large);
    let file = open(&rig, "large");
    file.set_len(6 * MIB as u64).unwrap();
    close(file).unwrap();
    large.truncate(6 * MIB);
    expect_there(&outside, "large", &large);
    write(&rig, "temporary", b"saved safely").unwrap();
    fs::rename(rig.path("temporary"), rig.path("small")).unwrap();
    expect_there(&outside, "small", b"saved safely");
    assert_eq!(outside.get("temporary"), None);
    fs::remove_file(rig.path("large")).unwrap();
    assert_eq!(outside.get("large"), None);

    // Synced, and killed before or while it is uploaded: the next mount finishes it, whatever the server has forgotten.
    let bytes = pattern(3, 23 * MIB);
    let mut file = File::create(rig.path("killed")).unwrap();
    file.write_all(&bytes).unwrap();
    file.sync_all().unwrap();
    rig.kill();
    drop(file);
    interlude(&mut rig.bucket);
    rig.mount_again();
    wait_for("it is on the server", LIMIT, || outside.get("killed").is_some_and(|found| found == bytes));
    settle(&rig);
    rig.unmount();
    rig.mount_again();
    expect_same("killed", 0, &fs::read(rig.path("killed")).unwrap(), &bytes);
    let keys = outside.keys();
    assert!(!keys.iter().any(|key| key.contains(".conflict-")), "nobody else wrote: {keys:?}");
    rig.unmount();
}

#[test]
fn over_garage() {
    everything_arrives(Foreign::garage(), "The server ignores preconditions on", |_| {});
}

#[test]
fn over_rclone_serve_s3_which_forgets_uploads() {
    everything_arrives(Foreign::rclone(), "The server", Foreign::restart);
}
