//! What `close`, `fsync` and synchronous writes have done when they return, in each commit mode.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use tetherfs::bucket::{Action, FaultHandle, Operation, Rule};

use super::{LIMIT, close, expect_object, open, open_to_append, settle, write};
use crate::support::{Rig, pattern, wait_for};

/// The server refuses for now whatever would change anything.
fn down(rig: &Rig) -> FaultHandle {
    let refused = Action::Status { code: 503, error: None, retry_after_s: None };
    for operation in [Operation::CreateMultipartUpload, Operation::CopyObject, Operation::DeleteObject] {
        rig.bucket.faults().add(Rule::on(operation, refused.clone()));
    }
    rig.bucket.faults().add(Rule::on(Operation::PutObject, refused))
}

/// Opens a new file whose every write returns only when it is as safe as `fsync` makes it.
fn create_synchronous(rig: &Rig, name: &str, flag: i32) -> File {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flag)
        .open(rig.path(name))
        .unwrap()
}

fn sync_directory(rig: &Rig) {
    File::open(rig.mountpoint()).unwrap().sync_all().unwrap();
}

fn puts(rig: &Rig) -> u64 {
    rig.bucket.count(Operation::PutObject)
}

#[test]
fn in_close_mode_close_is_in_the_bucket_and_fsync_is_on_this_disk() {
    let mut rig = Rig::mounted(&[]);
    let mut file = File::create(rig.path("f")).unwrap();
    file.write_all(b"first").unwrap();
    let copy = file.try_clone().unwrap();
    close(copy).unwrap();
    expect_object(&rig, "f", b"first");
    rig.bucket.requests().reset();
    close(file.try_clone().unwrap()).unwrap();
    assert_eq!(rig.bucket.requests().total().requests, 0, "nothing has changed since");
    file.write_all(b" and second").unwrap();
    file.sync_all().unwrap();
    sync_directory(&rig);
    assert_eq!(puts(&rig), 0, "both wait for this machine alone");
    expect_object(&rig, "f", b"first");
    let synchronous = create_synchronous(&rig, "s", libc::O_SYNC);
    for at in 0..10 {
        synchronous.write_all_at(&[at as u8; 100], 100 * at).unwrap();
    }
    let data_only = create_synchronous(&rig, "d", libc::O_DSYNC);
    data_only.write_all_at(b"data", 0).unwrap();
    let empty = File::create(rig.path("empty")).unwrap();
    empty.sync_all().unwrap();
    assert_eq!(rig.bucket.all_keys(), ["f"]);
    rig.kill();
    drop((file, synchronous, data_only, empty));
    rig.mount_again();
    settle(&rig);
    expect_object(&rig, "f", b"first and second");
    expect_object(&rig, "s", &(0..10).flat_map(|at| [at as u8; 100]).collect::<Vec<_>>());
    expect_object(&rig, "d", b"data");
    expect_object(&rig, "empty", b"");
    rig.unmount();
}

#[test]
fn in_background_mode_both_are_on_this_disk_and_the_upload_goes_on_behind() {
    let mut rig = Rig::mounted(&["--commit=background"]);
    rig.bucket.put_quietly("old", b"old content");
    fs::metadata(rig.path("old")).unwrap();
    let refused = down(&rig);
    let (small, large) = (pattern(1, 1000), pattern(2, 20 << 20));
    write(&rig, "small", &small).unwrap();
    write(&rig, "large", &large).unwrap();
    writeln!(open_to_append(&rig, "old"), ", and more").unwrap();
    let synced = create_synchronous(&rig, "synced", libc::O_SYNC);
    synced.write_all_at(b"synced", 0).unwrap();
    sync_directory(&rig);
    wait_for("an upload was tried", LIMIT, || refused.struck() > 0);
    assert_eq!(rig.bucket.all_keys(), ["old"]);
    assert_eq!(rig.status()["sessions"].as_array().unwrap().len(), 4, "{}", rig.status());
    assert_eq!(fs::read(rig.path("old")).unwrap(), b"old content, and more\n");
    rig.kill();
    drop(synced);
    rig.bucket.faults().clear();
    rig.mount_again();
    assert_eq!(fs::read(rig.path("small")).unwrap(), small, "shown at once");
    settle(&rig);
    expect_object(&rig, "small", &small);
    expect_object(&rig, "large", &large);
    expect_object(&rig, "old", b"old content, and more\n");
    expect_object(&rig, "synced", b"synced");
    rig.unmount();
}

#[test]
fn in_remote_mode_both_are_in_the_bucket() {
    let mut rig = Rig::mounted(&["--commit=remote", "--close-timeout=1s"]);
    let mut file = File::create(rig.path("f")).unwrap();
    file.write_all(b"synced").unwrap();
    assert_eq!(rig.bucket.find("f"), None);
    file.sync_all().unwrap();
    expect_object(&rig, "f", b"synced");
    file.write_all(b", data").unwrap();
    file.sync_data().unwrap();
    expect_object(&rig, "f", b"synced, data");
    file.write_all(b", closed").unwrap();
    close(file).unwrap();
    expect_object(&rig, "f", b"synced, data, closed");
    for (name, flag) in [("s", libc::O_SYNC), ("d", libc::O_DSYNC)] {
        let file = create_synchronous(&rig, name, flag);
        for round in 1..=3 {
            file.write_all_at(&[round; 10], u64::from(round - 1) * 10).unwrap();
            assert_eq!(
                rig.bucket.read(name).len(),
                usize::from(round) * 10,
                "{name}: when the write returns"
            );
        }
    }
    let empty = File::create(rig.path("empty")).unwrap();
    empty.sync_all().unwrap();
    expect_object(&rig, "empty", b"");
    drop(empty);
    // And when it cannot be had, they say so, again and again.
    let file = open(&rig, "f");
    down(&rig);
    file.write_all_at(b"SYNCED", 0).unwrap();
    for _ in 0..2 {
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
    }
    assert_eq!(super::errno(close(file)), libc::ETIMEDOUT);
    rig.bucket.faults().clear();
    settle(&rig);
    expect_object(&rig, "f", b"SYNCED, data, closed");
    open(&rig, "f").sync_all().unwrap();
    rig.unmount();
}
