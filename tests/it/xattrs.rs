//! Extended attributes: in the object's metadata as s3fs keeps them, and a few that tell how a file stands.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::XattrFlags;
use tetherfs::bucket::Operation;

use crate::support::{Rig, pattern, run_ok, wait_for};

const MIB: usize = 1 << 20;
/// Names and attributes are asked for once.
const LONG_TTL: &str = "--metadata-ttl=10m";
/// `user.color` = `blue` as s3fs writes it.
const BLUE: &str = "%7B%22user.color%22%3A%22Ymx1ZQ%3D%3D%22%7D";

fn set(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::setxattr(path, name, value, XattrFlags::empty())?)
}

fn get(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    let mut value = vec![0; 70_000];
    let len = rustix::fs::getxattr(path, name, &mut value[..])?;
    value.truncate(len);
    Ok(value)
}

fn names(path: &Path) -> Vec<String> {
    let mut list = vec![0; 70_000];
    let len = rustix::fs::listxattr(path, &mut list[..]).unwrap();
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8(name.to_vec()).unwrap()).collect()
}

fn settled(rig: &Rig) {
    wait_for("everything is in the bucket", Duration::from_secs(20), || rig.metric("uploads_pending") == 0);
}

#[track_caller]
fn fails(result: io::Result<impl std::fmt::Debug>, errno: i32) {
    assert_eq!(result.unwrap_err().raw_os_error(), Some(errno));
}

#[test]
fn they_are_set_listed_replaced_and_removed_on_files_and_directories() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    fs::write(rig.path("file"), "content").unwrap();
    fs::create_dir(rig.path("dir")).unwrap();
    for name in ["file", "dir"] {
        let path = rig.path(name);
        assert!(names(&path).is_empty());
        fails(get(&path, "user.color"), libc::ENODATA);
        set(&path, "user.color", b"red").unwrap();
        set(&path, "user.empty", b"").unwrap();
        let with = |flags| Ok::<(), io::Error>(rustix::fs::setxattr(&path, "user.color", b"blue", flags)?);
        fails(with(XattrFlags::CREATE), libc::EEXIST);
        with(XattrFlags::REPLACE).unwrap();
        let other = rustix::fs::setxattr(&path, "user.other", b"x", XattrFlags::REPLACE);
        fails(other.map_err(io::Error::from), libc::ENODATA);
        assert_eq!(get(&path, "user.color").unwrap(), b"blue");
        assert_eq!(names(&path), ["user.color", "user.empty"]);
        let mut short = [0; 3];
        let cut = rustix::fs::getxattr(&path, "user.color", &mut short[..]);
        fails(cut.map_err(io::Error::from), libc::ERANGE);
        rustix::fs::removexattr(&path, "user.empty").unwrap();
        fails(rustix::fs::removexattr(&path, "user.empty").map_err(io::Error::from), libc::ENODATA);
    }
    settled(&rig);
    assert_eq!(rig.bucket.header("file", "x-amz-meta-xattr").as_deref(), Some(BLUE));
    assert_eq!(rig.bucket.header("dir/", "x-amz-meta-xattr").as_deref(), Some(BLUE));
    rig.unmount();
    rig.mount_again();
    for name in ["file", "dir"] {
        assert_eq!(get(&rig.path(name), "user.color").unwrap(), b"blue", "{name}");
        assert_eq!(names(&rig.path(name)), ["user.color"]);
    }
}

#[test]
fn other_name_spaces_are_refused_and_so_is_what_does_not_fit() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let path = rig.path("f");
    fs::write(&path, "x").unwrap();
    for name in ["trusted.x", "security.x"] {
        fails(set(&path, name, b"x"), libc::EOPNOTSUPP);
    }
    fails(get(&path, "trusted.x"), libc::EOPNOTSUPP);
    fails(get(&path, "security.capability"), libc::ENODATA);
    fails(set(&path, "user.", b"x"), libc::EINVAL);
    symlink("f", rig.path("link")).unwrap();
    let on_link = rustix::fs::lsetxattr(rig.path("link"), "user.x", b"x", XattrFlags::empty());
    fails(on_link.map_err(io::Error::from), libc::EPERM);
    fails(set(&path, "user.large", &[7; 2049]), libc::E2BIG);
    fails(set(&path, "user.large", &[7; 1800]), libc::ENOSPC);
    set(&path, "user.a", &[7; 1200]).unwrap();
    fails(set(&path, "user.b", &[7; 200]), libc::ENOSPC);
    set(&path, "user.a", b"").unwrap();
    set(&path, "user.b", &[7; 1200]).unwrap();
    assert_eq!(names(&path), ["user.a", "user.b"]);
    settled(&rig);
    assert!(rig.bucket.header("f", "x-amz-meta-xattr").unwrap().len() > 1_600, "the server took them");
}

#[test]
fn they_go_along_with_every_change_of_the_file() {
    let mut rig = Rig::mounted(&[LONG_TTL, "--part-size=5M"]);
    let is_kept = |rig: &Rig, key: &str, step: &str| {
        assert_eq!(rig.bucket.header(key, "x-amz-meta-xattr").as_deref(), Some(BLUE), "{step}");
    };
    // Set while it is written: no request of their own.
    let mut file = fs::File::create(rig.path("f")).unwrap();
    file.write_all(b"content").unwrap();
    rig.bucket.requests().reset();
    set(&rig.path("f"), "user.color", b"blue").unwrap();
    drop(file);
    assert_eq!((rig.bucket.count(Operation::PutObject), rig.bucket.asked().all), (1, 1));
    is_kept(&rig, "f", "set while it was written");
    fs::write(rig.path("f"), "rewritten").unwrap();
    is_kept(&rig, "f", "rewritten");
    let mut file = OpenOptions::new().append(true).open(rig.path("f")).unwrap();
    file.write_all(&pattern(80, 11 * MIB)).unwrap();
    drop(file);
    is_kept(&rig, "f", "grown to several parts");
    fs::set_permissions(rig.path("f"), fs::Permissions::from_mode(0o600)).unwrap();
    settled(&rig);
    is_kept(&rig, "f", "another mode");
    rig.unmount();
    rig.mount_again();
    fs::rename(rig.path("f"), rig.path("g")).unwrap();
    is_kept(&rig, "g", "renamed");
    let mut file = OpenOptions::new().append(true).open(rig.path("g")).unwrap();
    file.write_all(b"more").unwrap();
    drop(file);
    is_kept(&rig, "g", "appended to");
    // Several at once are one copy on the server.
    rig.bucket.requests().reset();
    set(&rig.path("g"), "user.one", b"1").unwrap();
    set(&rig.path("g"), "user.two", b"2").unwrap();
    fs::set_permissions(rig.path("g"), fs::Permissions::from_mode(0o640)).unwrap();
    settled(&rig);
    assert_eq!((rig.bucket.count(Operation::CopyObject), rig.bucket.asked().all), (1, 1));
    // A program that copies attributes copies these, and those of ours stay behind.
    rig.bucket.requests().reset();
    run_ok(Command::new("cp").arg("-a").arg(rig.path("g")).arg(rig.path("copy")));
    settled(&rig);
    // One for the bytes and one for all that is set then.
    let copies = rig.bucket.count(Operation::CopyObject);
    assert_eq!((copies, rig.bucket.count(Operation::PutObject)), (2, 0));
    assert_eq!(names(&rig.path("copy")), ["user.color", "user.one", "user.two"]);
    assert_eq!(get(&rig.path("copy"), "user.two").unwrap(), b"2");
}

#[test]
fn those_of_s3fs_are_read() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    rig.bucket.put_with("f", b"x", &[&format!("x-amz-meta-xattr: {BLUE}")]);
    let acl = "x-amz-meta-xattr: %7B%22system.posix_acl_access%22%3A%22AgA%3D%22%2C%22user.a%22%3A%22%22%7D";
    rig.bucket.put_with("acl", b"x", &[acl]);
    fs::read_dir(rig.mountpoint()).unwrap().count();
    assert_eq!(get(&rig.path("f"), "user.color").unwrap(), b"blue");
    assert_eq!(names(&rig.path("f")), ["user.color"]);
    assert_eq!(names(&rig.path("acl")), ["user.a"], "what cannot be asked for is not listed");
    set(&rig.path("acl"), "user.a", b"1").unwrap();
    settled(&rig);
    let kept = rig.bucket.header("acl", "x-amz-meta-xattr").unwrap();
    assert!(kept.contains("system.posix_acl_access%22%3A%22AgA%3D%22"), "{kept}");
}

#[test]
fn some_tell_how_a_file_stands_and_cannot_be_set() {
    let rig = Rig::mounted(&[LONG_TTL, "--chunk-size=64KiB", "--prefetch=0", "--request-size=64KiB"]);
    rig.bucket.put_with("f", &pattern(81, MIB), &["x-amz-storage-class: STANDARD_IA"]);
    rig.bucket.put("usual", b"x");
    let path = rig.path("f");
    let told = |path: &Path, name: &str| get(path, &format!("user.tetherfs.{name}"));
    let etag = rig.bucket.header("f", "etag").unwrap();
    assert_eq!(String::from_utf8(told(&path, "etag").unwrap()).unwrap(), etag.trim_matches('"'));
    assert_eq!(told(&path, "storage-class").unwrap(), b"STANDARD_IA");
    assert_eq!(told(&rig.path("usual"), "storage-class").unwrap(), b"STANDARD");
    assert_eq!(told(&path, "cached-percent").unwrap(), b"0");
    fs::read(&path).unwrap();
    let percent = || told(&path, "cached-percent").unwrap();
    wait_for("all of it is cached", Duration::from_secs(10), || percent() == b"100");
    assert_eq!(told(&path, "upload-state").unwrap(), b"stored");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(told(&path, "upload-state").unwrap(), b"queued");
    settled(&rig);
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"x").unwrap();
    assert_eq!(told(&path, "upload-state").unwrap(), b"writing");
    drop(file);
    assert_eq!(told(&path, "upload-state").unwrap(), b"stored");
    assert!(names(&path).is_empty());
    fails(set(&path, "user.tetherfs.etag", b"x"), libc::EPERM);
    fails(set(&path, "user.tetherfs.mine", b"x"), libc::EPERM);
    fails(rustix::fs::removexattr(&path, "user.tetherfs.etag").map_err(io::Error::from), libc::EPERM);
    fails(told(&path, "other"), libc::ENODATA);
    fails(told(&rig.mountpoint(), "etag"), libc::ENODATA);
}

#[test]
fn the_kernels_own_questions_cost_no_request() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    rig.bucket.put("f", &pattern(82, MIB));
    let mut file = OpenOptions::new().write(true).open(rig.path("f")).unwrap();
    rig.bucket.requests().reset();
    for _ in 0..100 {
        file.write_all(&[7; 100]).unwrap();
    }
    // Another test's program may close what it inherits, and so upload the file as it is.
    let asked = rig.bucket.asked();
    assert_eq!(
        (asked.heads, asked.lists),
        (0, 0),
        "the kernel asks for security.capability before each write"
    );
}
