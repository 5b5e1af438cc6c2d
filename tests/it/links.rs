//! Symbolic links, kept as s3fs keeps them.

use std::fs;
use std::os::unix::fs::{MetadataExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use tetherfs::bucket::Operation;

use crate::support::{Rig, run, run_ok, wait_for};

/// Names and attributes are asked for once.
const LONG_TTL: &str = "--metadata-ttl=10m";
/// The mode of a link as s3fs writes it.
const LINK: &str = "41471";

fn target(path: &Path) -> PathBuf {
    fs::read_link(path).unwrap()
}

fn settled(rig: &Rig) {
    wait_for("everything is in the bucket", Duration::from_secs(20), || rig.metric("uploads_pending") == 0);
}

/// Names and whether each is a link, as a listing tells it.
fn listed(folder: &Path) -> Vec<(String, bool)> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let mut listed: Vec<_> = entries
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.file_type().unwrap().is_symlink()))
        .collect();
    listed.sort();
    listed
}

#[test]
fn a_link_is_an_object_that_holds_its_target_and_survives_a_remount() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    fs::write(rig.path("file"), "content").unwrap();
    fs::create_dir(rig.path("d")).unwrap();
    rig.bucket.requests().reset();
    symlink("file", rig.path("link")).unwrap();
    symlink("../file", rig.path("d/up")).unwrap();
    symlink("no such thing", rig.path("dangling")).unwrap();
    symlink("d", rig.path("to-d")).unwrap();
    let check = |rig: &Rig| {
        let meta = fs::symlink_metadata(rig.path("link")).unwrap();
        assert!(meta.file_type().is_symlink());
        assert_eq!((meta.len(), meta.nlink(), meta.mode() & 0o7777), (4, 1, 0o777));
        assert_eq!(target(&rig.path("link")), Path::new("file"));
        assert_eq!(fs::read(rig.path("link")).unwrap(), b"content");
        assert_eq!(fs::read(rig.path("d/up")).unwrap(), b"content");
        assert_eq!(fs::read(rig.path("to-d/up")).unwrap(), b"content");
        assert_eq!(target(&rig.path("dangling")), Path::new("no such thing"));
        assert!(!rig.path("dangling").exists());
        let links = [("d", false), ("dangling", true), ("file", false), ("link", true), ("to-d", true)];
        let links: Vec<(String, bool)> = links.map(|(name, is_link)| (name.to_owned(), is_link)).into();
        assert_eq!(listed(&rig.mountpoint()), links);
    };
    check(&rig);
    settled(&rig);
    assert_eq!(rig.bucket.count(Operation::PutObject), 4, "one PUT each");
    check(&rig);
    assert_eq!(rig.bucket.get("link").unwrap(), b"file");
    assert_eq!(rig.bucket.header("link", "x-amz-meta-mode").as_deref(), Some(LINK));
    rig.unmount();
    rig.mount_again();
    for name in ["link", "dangling", "to-d"] {
        fs::symlink_metadata(rig.path(name)).unwrap();
    }
    check(&rig);
}

#[test]
fn links_are_renamed_replaced_and_removed() {
    let mut rig = Rig::mounted(&[]);
    for step in ["pending", "in the bucket"] {
        symlink("one", rig.path("a")).unwrap();
        if step == "in the bucket" {
            settled(&rig);
        }
        fs::rename(rig.path("a"), rig.path("b")).unwrap();
        assert_eq!(target(&rig.path("b")), Path::new("one"), "{step}");
        assert!(fs::symlink_metadata(rig.path("a")).is_err());
        run_ok(Command::new("ln").args(["-sf", "two"]).arg(rig.path("b")));
        assert_eq!(target(&rig.path("b")), Path::new("two"), "{step}");
        run_ok(Command::new("ln").args(["-sfn", "one"]).arg(rig.path("b")));
        assert_eq!(target(&rig.path("b")), Path::new("one"), "{step}: of the same length");
        fs::write(rig.path("file"), "x").unwrap();
        fs::rename(rig.path("b"), rig.path("file")).unwrap();
        assert_eq!(target(&rig.path("file")), Path::new("one"), "{step}: over a file");
        fs::write(rig.path("other"), "y").unwrap();
        fs::rename(rig.path("other"), rig.path("file")).unwrap();
        assert_eq!(fs::read(rig.path("file")).unwrap(), b"y", "{step}: a file over it");
        symlink("three", rig.path("c")).unwrap();
        assert_eq!(symlink("four", rig.path("c")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        settled(&rig);
        fs::remove_file(rig.path("c")).unwrap();
        fs::remove_file(rig.path("file")).unwrap();
        settled(&rig);
        assert_eq!(rig.bucket.keys(), Vec::<String>::new(), "{step}");
    }
    symlink("target", rig.path("kept")).unwrap();
    symlink("target", rig.path("gone")).unwrap();
    fs::remove_file(rig.path("gone")).unwrap();
    rig.kill();
    rig.mount_again();
    settled(&rig);
    assert_eq!(target(&rig.path("kept")), Path::new("target"), "a kill loses no link");
    assert_eq!(rig.bucket.keys(), ["kept"]);
}

#[test]
fn the_longest_target_fits_and_all_bytes_are_kept() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    let longest = "x".repeat(4095);
    symlink(&longest, rig.path("longest")).unwrap();
    let odd = " spaces, \u{e9} and\nlines \\ ";
    symlink(odd, rig.path("odd")).unwrap();
    let too_long = symlink("x".repeat(4096), rig.path("too long")).unwrap_err();
    assert_eq!(too_long.raw_os_error(), Some(libc::ENAMETOOLONG));
    rig.unmount();
    rig.mount_again();
    assert_eq!(target(&rig.path("longest")), Path::new(&longest));
    assert_eq!(target(&rig.path("odd")), Path::new(odd));
    assert_eq!(fs::symlink_metadata(rig.path("longest")).unwrap().len(), 4095);
}

#[test]
fn cp_and_tar_take_links_along_with_their_times_in_one_put_each() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    let tree = rig.home().join("tree");
    fs::create_dir(&tree).unwrap();
    symlink("elsewhere", tree.join("link")).unwrap();
    let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, tree.join("link"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    lchown(tree.join("link"), Some(7), Some(8)).unwrap();
    fs::create_dir(rig.path("cp")).unwrap();
    fs::create_dir(rig.path("tar")).unwrap();
    rig.bucket.requests().reset();
    run_ok(Command::new("cp").arg("-a").arg(tree.join("link")).arg(rig.path("cp/link")));
    run_ok(Command::new("tar").arg("-C").arg(&tree).arg("-cf").arg(rig.home().join("t")).arg("link"));
    run_ok(Command::new("tar").arg("-C").arg(rig.path("tar")).arg("-xpf").arg(rig.home().join("t")));
    settled(&rig);
    assert_eq!(rig.bucket.count(Operation::PutObject), 2);
    assert_eq!(rig.bucket.count(Operation::CopyObject), 0);
    rig.unmount();
    rig.mount_again();
    for name in ["cp/link", "tar/link"] {
        let meta = fs::symlink_metadata(rig.path(name)).unwrap();
        assert_eq!((meta.mtime(), meta.uid(), meta.gid()), (1_000_000_000, 7, 8), "{name}");
        assert_eq!(target(&rig.path(name)), Path::new("elsewhere"));
    }
    // And back.
    let back = rig.home().join("back");
    run_ok(Command::new("cp").arg("-a").arg(rig.path("cp")).arg(&back));
    assert_eq!(target(&back.join("link")), Path::new("elsewhere"));
    assert_eq!(fs::symlink_metadata(back.join("link")).unwrap().mtime(), 1_000_000_000);
    // Times of one that is there already are a copy on the server.
    rig.bucket.requests().reset();
    let time = Timespec { tv_sec: 5, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, rig.path("cp/link"), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    settled(&rig);
    assert_eq!((rig.bucket.count(Operation::CopyObject), rig.bucket.asked().all), (1, 1));
    assert_eq!(rig.bucket.header("cp/link", "x-amz-meta-mode").as_deref(), Some(LINK), "it is still a link");
    assert_eq!(target(&rig.path("cp/link")), Path::new("elsewhere"));
}

#[test]
fn a_link_of_s3fs_is_one_and_its_new_targets_are_seen() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    let mode = format!("x-amz-meta-mode: {LINK}");
    let put = |key: &str, target: &str| rig.bucket.put_with(key, target.as_bytes(), &[&mode]);
    rig.bucket.put("one", b"1");
    rig.bucket.put("two", b"2");
    put("link", "one");
    assert_eq!(fs::read(rig.path("link")).unwrap(), b"1");
    put("link", "two");
    assert_eq!(target(&rig.path("link")), Path::new("two"), "a target of the same length");
    assert_eq!(fs::read(rig.path("link")).unwrap(), b"2");
    rig.bucket.put("link", b"a file now");
    assert_eq!(fs::read(rig.path("link")).unwrap(), b"a file now");
    assert!(fs::symlink_metadata(rig.path("link")).unwrap().is_file());
    put("link", "one");
    assert_eq!(fs::read(rig.path("link")).unwrap(), b"1");
    // A listing does not tell; whoever looks sees what it is.
    put("unmet", "two");
    assert!(listed(&rig.mountpoint()).contains(&("unmet".to_owned(), false)));
    assert!(fs::symlink_metadata(rig.path("unmet")).unwrap().file_type().is_symlink());
    assert_eq!(fs::read(rig.path("unmet")).unwrap(), b"2");
    assert!(listed(&rig.mountpoint()).contains(&("unmet".to_owned(), true)), "now it is known");
}

#[test]
fn what_cannot_be_an_object_is_refused() {
    let rig = Rig::mounted(&[]);
    fs::write(rig.path("file"), "x").unwrap();
    let refused = |error: std::io::Error| assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
    refused(fs::hard_link(rig.path("file"), rig.path("hard")).unwrap_err());
    refused(std::os::unix::net::UnixListener::bind(rig.path("socket")).map(drop).unwrap_err());
    for kind in [["fifo", "p"].as_slice(), &["device", "c", "1", "3"]] {
        let ran = run(Command::new("mknod").arg(rig.path(kind[0])).args(&kind[1..]));
        assert!(ran.code != Some(0) && ran.err.contains("not permitted"), "{ran:?}");
    }
    assert_eq!(listed(&rig.mountpoint()), [("file".to_owned(), false)]);
}
