//! Two versions of one file: nobody reads a mixture, and the next open sees the new one.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use tetherfs::bucket::Operation;

use crate::support::{Mapping, Rig, Sharing, pattern, wait_for};

const MIB: usize = 1 << 20;

/// Waits until the daemon has heard of every close.
fn all_closed(rig: &Rig) {
    wait_for("every handle is closed", Duration::from_secs(10), || rig.metric("open_handles") == 0);
}

fn conflict_copy(rig: &Rig) -> Option<String> {
    rig.bucket.keys().into_iter().find(|key| key.contains(".conflict-"))
}

/// Reads on through an old handle until its end: old bytes, or ESTALE where the old ones are gone. Returns how far it came.
fn read_old(file: &File, old: &[u8], from: usize) -> usize {
    let mut at = from;
    while at < old.len() {
        let mut piece = vec![0; 70_001.min(old.len() - at)];
        match file.read_at(&mut piece, at as u64) {
            Ok(0) => panic!("the old handle ends at {at} of {}", old.len()),
            Ok(read) => {
                assert!(piece[..read] == old[at..at + read], "other bytes at {at}");
                at += read;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
                break;
            }
        }
    }
    at
}

#[test]
fn replaced_in_the_middle_of_a_read_by_one_of_any_length() {
    for (len, is_told) in [(24 * MIB, false), (24 * MIB, true), (30 * MIB, true), (MIB, true), (0, true)] {
        let options = ["--metadata-ttl=0", "--request-size=1MiB", "--prefetch=1MiB"];
        let rig = Rig::mounted(&options);
        let (old, new) = (pattern(50, 24 * MIB), pattern(51, len));
        rig.bucket.put("data", &old);
        let file = File::open(rig.path("data")).unwrap();
        let ino = file.metadata().unwrap().ino();
        let mut beginning = vec![0; MIB];
        file.read_exact_at(&mut beginning, 0).unwrap();
        assert!(beginning == old[..MIB]);
        rig.bucket.put_quietly("data", &new);
        if is_told {
            // Whoever looks at the name sees the other version, as another inode.
            let meta = fs::metadata(rig.path("data")).unwrap();
            assert_eq!(meta.len() as usize, len);
            assert_ne!(meta.ino(), ino);
        }
        let meta = file.metadata().unwrap();
        assert_eq!((meta.len() as usize, meta.ino()), (old.len(), ino), "fstat tells of what is open");
        assert!(read_old(&file, &old, MIB) < old.len(), "the rest was never fetched, and is gone");
        assert_eq!(read_old(&file, &old[..MIB], 0), MIB, "what was cached is still there");
        let now = File::open(rig.path("data")).unwrap();
        let mut seen = vec![0; len];
        now.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == new, "the next open sees the new one");
        assert_eq!(read_old(&file, &old[..MIB], 0), MIB, "side by side");
        assert_eq!(file.metadata().unwrap().len() as usize, old.len());
        assert_eq!(now.metadata().unwrap().len() as usize, len);
    }
}

#[test]
fn two_versions_are_read_side_by_side_from_the_cache() {
    for options in [["--metadata-ttl=0", "--passthrough=false"], ["--metadata-ttl=0", "--passthrough=true"]] {
        let rig = Rig::mounted(&options);
        let versions = [pattern(52, 3 * MIB), pattern(53, 3 * MIB), pattern(54, 5 * MIB), pattern(52, MIB)];
        let mut open: Vec<(File, &[u8])> = Vec::new();
        for version in &versions {
            rig.bucket.put_quietly("data", version);
            assert!(&fs::read(rig.path("data")).unwrap() == version);
            all_closed_but(&rig, open.len());
            open.push((File::open(rig.path("data")).unwrap(), version));
            for (file, content) in open.iter().rev() {
                assert_eq!(read_old(file, content, 0), content.len());
                assert_eq!(file.metadata().unwrap().len() as usize, content.len());
                assert!(Mapping::of(file, content.len(), Sharing::Shared).bytes() == *content);
            }
        }
        rig.bucket.delete("data");
        assert!(fs::metadata(rig.path("data")).is_err());
        for (file, content) in &open {
            assert_eq!(read_old(file, content, 0), content.len(), "removed in the bucket");
        }
    }
}

fn all_closed_but(rig: &Rig, count: usize) {
    wait_for("the other handles are closed", Duration::from_secs(10), || {
        rig.metric("open_handles") == count as u64
    });
}

#[test]
fn a_listing_tells_of_a_new_version_too() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    let old = pattern(55, MIB);
    rig.bucket.put("data", &old);
    let file = File::open(rig.path("data")).unwrap();
    assert_eq!(read_old(&file, &old, 0), old.len());
    rig.bucket.put_quietly("data", b"new");
    for _ in 0..2 {
        let entries: Vec<_> = fs::read_dir(rig.mountpoint()).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].metadata().unwrap().len(), 3);
    }
    assert_eq!(file.metadata().unwrap().len() as usize, MIB);
    assert_eq!(read_old(&file, &old, 0), old.len());
}

#[test]
fn a_second_reading_of_what_has_not_changed_asks_nobody() {
    let rig = Rig::mounted(&["--metadata-ttl=60", "--passthrough=false"]);
    let bytes = pattern(56, 10 * MIB);
    rig.bucket.put("data", &bytes);
    unless_pages_are_dropped(|| {
        assert!(fs::read(rig.path("data")).unwrap() == bytes);
        all_closed(&rig);
        let reads = rig.metric("fuse_reads");
        assert!(reads > 0);
        rig.bucket.requests().reset();
        assert!(fs::read(rig.path("data")).unwrap() == bytes);
        all_closed(&rig);
        rig.metric("fuse_reads") == reads && rig.bucket.requests().total().requests == 0
    });
}

/// Tries again what depends on the kernel's pages: it may drop them at any time, and on a shared machine others make it.
fn unless_pages_are_dropped(mut are_kept: impl FnMut() -> bool) {
    assert!((0..5).any(|_| are_kept()), "the kernel had to ask again five times");
}

#[test]
fn pages_of_another_version_are_never_kept() {
    let rig = Rig::mounted(&["--metadata-ttl=0", "--passthrough=false"]);
    let versions = [pattern(57, 2 * MIB), pattern(58, 2 * MIB), pattern(59, MIB), pattern(57, 2 * MIB)];
    for version in versions.iter().chain(&versions) {
        rig.bucket.put_quietly("data", version);
        // Once more with what the kernel has kept by then.
        for _ in 0..2 {
            assert!(&fs::read(rig.path("data")).unwrap() == version);
        }
        all_closed(&rig);
    }
}

#[test]
fn what_was_written_here_is_not_read_again() {
    let rig = Rig::mounted(&["--metadata-ttl=0", "--passthrough=false"]);
    let mut seed = 0x60;
    unless_pages_are_dropped(|| {
        seed += 1;
        let bytes = pattern(seed, 10 * MIB);
        fs::write(rig.path("data"), &bytes).unwrap();
        all_closed(&rig);
        assert_eq!(fs::metadata(rig.path("data")).unwrap().len() as usize, bytes.len());
        let reads = rig.metric("fuse_reads");
        rig.bucket.requests().reset();
        assert!(fs::read(rig.path("data")).unwrap() == bytes);
        all_closed(&rig);
        rig.metric("fuse_reads") == reads && rig.bucket.count(Operation::GetObject) == 0
    });
    // Another client's version of the same length is another matter.
    let theirs = pattern(61, 10 * MIB);
    rig.bucket.put_quietly("data", &theirs);
    assert!(fs::read(rig.path("data")).unwrap() == theirs);
}

#[test]
fn pages_of_what_did_not_become_the_file_are_not_kept() {
    let rig = Rig::mounted(&["--metadata-ttl=0", "--passthrough=false"]);
    let (theirs, ours) = (pattern(62, MIB), pattern(63, MIB));
    rig.bucket.put("data", &pattern(64, MIB));
    let file = OpenOptions::new().write(true).truncate(true).open(rig.path("data")).unwrap();
    file.write_all_at(&ours, 0).unwrap();
    rig.bucket.put_quietly("data", &theirs);
    drop(file);
    wait_for("ours is kept beside", Duration::from_secs(20), || conflict_copy(&rig).is_some());
    assert!(rig.bucket.get(&conflict_copy(&rig).unwrap()).unwrap() == ours);
    assert!(fs::read(rig.path("data")).unwrap() == theirs);
    assert!(fs::read(rig.path("data")).unwrap() == theirs);
}

#[test]
fn a_writer_whose_name_was_taken_ends_in_a_conflict_copy() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    rig.bucket.put("data", b"the first version");
    let file = OpenOptions::new().read(true).write(true).open(rig.path("data")).unwrap();
    let mut seen = [0; 17];
    file.read_exact_at(&mut seen, 0).unwrap();
    rig.bucket.put_quietly("data", b"theirs");
    assert_eq!(fs::read(rig.path("data")).unwrap(), b"theirs", "the name has another inode from here on");
    file.write_all_at(b"OUR", 4).unwrap();
    file.set_len(10).unwrap();
    let mut seen = [0; 10];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(&seen, b"the OURst ");
    // A file of that name that is being written meanwhile is told of its own upload alone.
    let mut other = OpenOptions::new().append(true).open(rig.path("data")).unwrap();
    std::io::Write::write_all(&mut other, b" and more").unwrap();
    drop(file);
    wait_for("ours is kept beside", Duration::from_secs(20), || conflict_copy(&rig).is_some());
    assert_eq!(rig.bucket.get(&conflict_copy(&rig).unwrap()).unwrap(), b"the OURst ");
    drop(other);
    assert_eq!(rig.bucket.get("data").unwrap(), b"theirs and more");
    assert_eq!(fs::read(rig.path("data")).unwrap(), b"theirs and more");
    wait_for("nothing is pending", Duration::from_secs(20), || {
        rig.status()["sessions"].as_array().is_some_and(Vec::is_empty)
    });
}

#[test]
fn what_was_committed_and_replaced_stays_with_its_handle() {
    let rig = Rig::mounted(&["--metadata-ttl=0", "--commit=remote"]);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(rig.path("data")).unwrap();
    file.write_all_at(b"ours", 0).unwrap();
    file.sync_all().unwrap();
    assert_eq!(rig.bucket.get("data").unwrap(), b"ours");
    rig.bucket.put_quietly("data", b"theirs, longer");
    assert_eq!(fs::read(rig.path("data")).unwrap(), b"theirs, longer");
    assert_eq!(file.metadata().unwrap().len(), 4);
    file.write_all_at(b", later", 4).unwrap();
    let error = file.sync_all().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
    assert_eq!(rig.bucket.get(&conflict_copy(&rig).unwrap()).unwrap(), b"ours, later");
    drop(file);
    assert_eq!(fs::read(rig.path("data")).unwrap(), b"theirs, longer");
    assert_eq!(rig.bucket.get("data").unwrap(), b"theirs, longer");
}

#[test]
fn discarded_changes_leave_the_pages_of_an_open_file() {
    let rig = Rig::mounted(&["--on-conflict=fail", "--metadata-ttl=0", "--passthrough=false"]);
    let before = pattern(65, MIB);
    rig.bucket.put("data", &before);
    assert!(fs::read(rig.path("data")).unwrap() == before);
    let file = OpenOptions::new().read(true).write(true).open(rig.path("data")).unwrap();
    file.write_all_at(&[7; 10_000], 5_000).unwrap();
    rig.bucket.put_quietly("data", b"theirs");
    let same = file.try_clone().unwrap();
    drop(file);
    wait_for("the conflict is told", Duration::from_secs(20), || {
        rig.status()["sessions"].as_array().unwrap().iter().any(|session| session["state"] == "conflicted")
    });
    let list = rig.tetherfs(&["uploads", "list"]).out;
    let is_number = |word: &&str| word.len() == 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    let number = list.split_whitespace().find(is_number).expect("the list shows the number");
    let ran = rig.tetherfs(&["uploads", "discard", "--yes", number]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    wait_for("the open file is what it was", Duration::from_secs(10), || {
        let mut seen = vec![0; before.len()];
        same.read_exact_at(&mut seen, 0).is_ok() && seen == before
    });
    assert_eq!(fs::read(rig.path("data")).unwrap(), b"theirs");
}
