//! A disk under the state directory that is full, limited, fails, or is read-only: the writer is told, nothing that was
//! acknowledged suffers, and the mount goes on when it is well again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::process::Command;

use tetherfs::bucket::{Action, Operation, Rule};

use super::{LIMIT, MIB, close, errno, expect_object, open, settle, write};
use crate::support::{AilingDisk, Call, Disk, Rig, pattern, run, wait_for};

/// The server takes nothing for now.
fn down(rig: &Rig) {
    let refused = Action::Status { code: 503, error: None, retry_after_s: None };
    for operation in [Operation::PutObject, Operation::CreateMultipartUpload, Operation::UploadPart] {
        rig.bucket.faults().add(Rule::on(operation, refused.clone()));
    }
}

/// Writes until the disk refuses; how much it took, and the error's number.
fn write_until_refused(file: &File, piece: &[u8]) -> (u64, i32) {
    let mut at = 0;
    loop {
        match file.write_all_at(piece, at) {
            Ok(()) => at += piece.len() as u64,
            Err(error) => return (at, error.raw_os_error().unwrap()),
        }
        assert!(at < 1 << 30, "never refused");
    }
}

#[test]
fn a_full_disk_is_told_at_the_write_and_harms_nothing_else() {
    let mut rig = Rig::new();
    let disk = Disk::new(&rig.home().join("disk"), "32m");
    rig.mount(&["--commit=background", &format!("--state-dir={}", disk.path("state").display())]);
    down(&rig);
    let kept = pattern(1, 9 * MIB);
    write(&rig, "kept", &kept).unwrap();
    let file = File::create(rig.path("too-large")).unwrap();
    let piece = pattern(2, MIB);
    let (taken, number) = write_until_refused(&file, &piece);
    assert_eq!(number, libc::ENOSPC);
    assert!(taken >= 16 << 20, "{taken} bytes taken");
    assert!(file.metadata().unwrap().len() >= taken, "what was taken is there");
    // Not a byte is left, for anybody.
    run(Command::new("dd").arg("if=/dev/zero").arg(format!("of={}", disk.path("filler").display())));
    let refused = (0..10_000).find_map(|number| write(&rig, &format!("small{number}"), b"x").err());
    assert_eq!(refused.expect("a full disk takes no more").raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(fs::read(rig.path("kept")).unwrap(), kept);
    // Names can be changed for quite a while.
    for _ in 0..100 {
        fs::rename(rig.path("kept"), rig.path("moved")).unwrap();
        fs::rename(rig.path("moved"), rig.path("kept")).unwrap();
    }
    // A program that gives up removes what it began, and that makes room.
    drop(file);
    fs::remove_file(rig.path("too-large")).unwrap();
    for entry in fs::read_dir(rig.mountpoint()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_str().unwrap().starts_with("small") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    wait_for("its space is given back", LIMIT, || rig.metric("staging_bytes") <= 9 << 20);
    let after = pattern(3, 5 * MIB);
    write(&rig, "after", &after).unwrap();
    rig.bucket.faults().clear();
    settle(&rig);
    assert_eq!(rig.bucket.all_keys(), ["after", "kept"]);
    expect_object(&rig, "kept", &kept);
    expect_object(&rig, "after", &after);
    assert_eq!(rig.metric("staging_bytes"), 0);
    rig.unmount();
}

#[test]
fn a_full_disk_is_told_by_cp_and_by_fsync_of_what_lies_on_it() {
    let mut rig = Rig::new();
    let disk = Disk::new(&rig.home().join("disk"), "16m");
    rig.mount(&[&format!("--state-dir={}", disk.path("state").display())]);
    let source = rig.home().join("source");
    fs::write(&source, pattern(4, 40 * MIB)).unwrap();
    let cp = run(Command::new("cp").arg(&source).arg(rig.path("copy")));
    assert!(cp.code == Some(1) && cp.err.contains("No space left on device"), "{cp:?}");
    fs::remove_file(rig.path("copy")).unwrap();
    wait_for("its space is given back", LIMIT, || rig.metric("staging_bytes") == 0);
    write(&rig, "small", &pattern(5, 10 * MIB)).unwrap();
    expect_object(&rig, "small", &pattern(5, 10 * MIB));
    rig.unmount();
}

#[test]
fn the_staging_limit_is_kept_at_the_write_and_frees_itself() {
    let mut rig = Rig::mounted(&["--commit=background", "--staging-size=16MiB"]);
    down(&rig);
    let kept = pattern(6, 10 * MIB);
    write(&rig, "kept", &kept).unwrap();
    let file = File::create(rig.path("f")).unwrap();
    let piece = pattern(7, MIB);
    assert_eq!(write_until_refused(&file, &piece), (6 << 20, libc::ENOSPC));
    // What it has can be sent.
    close(file).unwrap();
    assert!(rig.metric("staging_bytes") <= 16 << 20);
    rig.bucket.faults().clear();
    settle(&rig);
    expect_object(&rig, "f", &piece.repeat(6));
    expect_object(&rig, "kept", &kept);
    write(&rig, "again", &pattern(8, 15 * MIB)).unwrap();
    rig.unmount();
    expect_object(&rig, "again", &pattern(8, 15 * MIB));
}

/// A mount with its state on a disk that fails when told to, and an upload acknowledged and waiting.
fn ailing(options: &[&str]) -> (Rig, AilingDisk) {
    let mut rig = Rig::new();
    let disk = AilingDisk::new(&rig.home().join("disk"));
    let state = format!("--state-dir={}", disk.path("state").display());
    rig.mount(&[options, &[&state]].concat());
    (rig, disk)
}

fn number<T: std::fmt::Debug>(result: io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

#[test]
fn a_write_that_the_disk_refuses_is_told_and_can_be_repeated() {
    let (mut rig, disk) = ailing(&[]);
    let content = pattern(9, 3 * MIB);
    let mut file = File::create(rig.path("f")).unwrap();
    file.write_all(&content[..MIB]).unwrap();
    for failure in [libc::EIO, libc::EDQUOT, libc::EROFS] {
        disk.fail(Call::Write, "staging", failure);
        assert_eq!(number(file.write_all_at(&content[MIB..2 * MIB], MIB as u64)), Some(failure));
        assert_eq!(file.metadata().unwrap().len(), MIB as u64, "it has not grown");
        disk.heal();
    }
    file.write_all_at(&content[MIB..], MIB as u64).unwrap();
    close(file).unwrap();
    expect_object(&rig, "f", &content);
    rig.unmount();
}

#[test]
fn a_sync_that_fails_is_told_and_never_taken_back() {
    let (mut rig, disk) = ailing(&[]);
    let content = pattern(10, MIB);
    let mut file = File::create(rig.path("f")).unwrap();
    file.write_all(&content).unwrap();
    disk.fail(Call::Sync, "staging", libc::EIO);
    assert_eq!(number(file.sync_all()), Some(libc::EIO));
    disk.heal();
    // The disk would call the next one a success, whatever became of the bytes.
    assert_eq!(number(file.sync_all()), Some(libc::EIO));
    // They are still in memory, have their checksums, and reach the bucket.
    close(file).unwrap();
    expect_object(&rig, "f", &content);
    let file = open(&rig, "f");
    file.write_all_at(b"anew", 0).unwrap();
    file.sync_all().unwrap();
    close(file).unwrap();
    expect_object(&rig, "f", &[b"anew", &content[4..]].concat());
    rig.unmount();
}

#[test]
fn in_background_mode_close_tells_of_a_sync_that_failed_until_the_file_is_in_the_bucket() {
    let (mut rig, disk) = ailing(&["--commit=background"]);
    down(&rig);
    disk.fail(Call::Sync, "staging", libc::EIO);
    assert_eq!(errno(write(&rig, "f", b"content")), libc::EIO);
    disk.heal();
    assert_eq!(errno(close(open(&rig, "f"))), libc::EIO, "again");
    write(&rig, "other", b"other").unwrap();
    rig.bucket.faults().clear();
    settle(&rig);
    expect_object(&rig, "f", b"content");
    expect_object(&rig, "other", b"other");
    close(open(&rig, "f")).unwrap();
    rig.unmount();
}

#[test]
fn a_journal_that_cannot_be_written_refuses_what_it_would_have_to_promise() {
    for failure in [libc::EIO, libc::EROFS, libc::ENOSPC] {
        let (mut rig, disk) = ailing(&["--commit=background"]);
        down(&rig);
        write(&rig, "kept", b"acknowledged before").unwrap();
        let mut file = File::create(rig.path("f")).unwrap();
        file.write_all(b"written before").unwrap();
        disk.fail(Call::Write, "journal", failure);
        disk.fail(Call::Name, "journal", failure);
        assert_eq!(number(file.sync_all()), Some(failure));
        assert_eq!(number(File::create(rig.path("new"))), Some(failure));
        assert_eq!(number(fs::rename(rig.path("kept"), rig.path("moved"))), Some(failure));
        assert_eq!(errno(close(file)), failure);
        assert_eq!(fs::read(rig.path("kept")).unwrap(), b"acknowledged before", "reading goes on");
        rig.bucket.faults().clear();
        disk.heal();
        settle(&rig);
        expect_object(&rig, "kept", b"acknowledged before");
        expect_object(&rig, "f", b"written before");
        write(&rig, "new", b"and it goes on").unwrap();
        rig.unmount();
        assert_eq!(rig.bucket.all_keys(), ["f", "kept", "new"]);
        rig.mount_again();
        assert_eq!(rig.status()["sessions"].as_array().unwrap().len(), 0);
        rig.unmount();
    }
}

#[test]
fn a_journal_that_cannot_be_synced_fails_fsync_of_files_and_directories() {
    let (mut rig, disk) = ailing(&["--commit=background"]);
    down(&rig);
    write(&rig, "before", b"pending").unwrap();
    fs::rename(rig.path("before"), rig.path("after")).unwrap();
    let directory = File::open(rig.mountpoint()).unwrap();
    let mut file = File::create(rig.path("f")).unwrap();
    file.write_all(b"content").unwrap();
    disk.fail(Call::Sync, "journal", libc::EIO);
    assert_eq!(number(directory.sync_all()), Some(libc::EIO), "the new name is not on stable storage");
    assert_eq!(number(file.sync_all()), Some(libc::EIO));
    disk.heal();
    directory.sync_all().unwrap();
    file.sync_all().unwrap();
    drop((directory, file));
    rig.kill();
    rig.bucket.faults().clear();
    rig.mount_again();
    settle(&rig);
    expect_object(&rig, "after", b"pending");
    expect_object(&rig, "f", b"content");
    assert_eq!(rig.bucket.find("before"), None);
    rig.unmount();
}

#[test]
fn staged_bytes_that_cannot_be_read_are_told_and_tried_again() {
    let (mut rig, disk) = ailing(&[]);
    let content = pattern(11, MIB);
    let mut file = File::create(rig.path("f")).unwrap();
    file.write_all(&content).unwrap();
    disk.fail(Call::Read, "staging", libc::EIO);
    assert_eq!(errno(close(file)), libc::EIO);
    assert_eq!(rig.bucket.find("f"), None);
    disk.heal();
    close(open(&rig, "f")).unwrap();
    expect_object(&rig, "f", &content);
    rig.unmount();
}

#[test]
fn a_disk_that_turned_read_only_stops_writers_and_nobody_else() {
    let (mut rig, disk) = ailing(&["--commit=background"]);
    rig.bucket.put_quietly("theirs", b"theirs");
    down(&rig);
    let kept = pattern(12, 6 * MIB);
    write(&rig, "kept", &kept).unwrap();
    for call in [Call::Write, Call::Name] {
        disk.fail(call, "state", libc::EROFS);
    }
    assert_eq!(number(File::create(rig.path("new"))), Some(libc::EROFS));
    assert_eq!(number(open(&rig, "theirs").write_all_at(b"x", 0)), Some(libc::EROFS));
    assert_eq!(fs::read(rig.path("theirs")).unwrap(), b"theirs");
    assert_eq!(fs::read(rig.path("kept")).unwrap(), kept);
    rig.bucket.faults().clear();
    disk.heal();
    settle(&rig);
    expect_object(&rig, "kept", &kept);
    expect_object(&rig, "theirs", b"theirs");
    write(&rig, "new", b"new").unwrap();
    rig.unmount();
    expect_object(&rig, "new", b"new");
    assert!(disk.failed() > 0);
}
