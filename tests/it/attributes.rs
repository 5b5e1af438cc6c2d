//! Mode, owner, time, links and extended attributes: in the bucket as s3fs keeps them, and in as few requests as can be.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use tetherfs::bucket::Operation;

use crate::support::{Rig, pattern, run_ok, sha256, wait_for};

const MIB: usize = 1 << 20;
/// Names and attributes are asked for once.
const LONG_TTL: &str = "--metadata-ttl=10m";

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Sets both times of a file, or of a link itself.
fn set_mtime(path: &Path, secs: i64, nanos: i64) {
    let time = Timespec { tv_sec: secs, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Waits until nothing is on its way into the bucket.
fn settled(rig: &Rig) {
    wait_for("everything is in the bucket", Duration::from_secs(20), || rig.metric("uploads_pending") == 0);
}

/// What a remount shows: mode, owner, group, time.
fn shown(rig: &Rig, name: &str) -> (u32, u32, u32, i64, i64) {
    let meta = fs::symlink_metadata(rig.path(name)).unwrap();
    (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
}

#[test]
fn what_other_tools_keep_with_an_object_outlives_our_changes() {
    let mut rig = Rig::mounted(&[]);
    let theirs = [
        "cache-control: max-age=60",
        "x-amz-storage-class: STANDARD_IA",
        "x-amz-meta-project: apollo",
        "x-amz-meta-xattr: %7B%22user.a%22%3A%22MQ%3D%3D%22%7D",
    ];
    let headers = [&theirs[..], &["x-amz-meta-md5chksum: 1B2M2Y8AsgTpgAmY7PhCfg=="]].concat();
    rig.bucket.put_with("f", b"content", &headers);
    let is_kept = |rig: &Rig, step: &str| {
        for header in theirs {
            let (name, value) = header.split_once(": ").unwrap();
            assert_eq!(rig.bucket.header("f", name).as_deref(), Some(value), "{name} after {step}");
        }
    };
    fs::set_permissions(rig.path("f"), fs::Permissions::from_mode(0o640)).unwrap();
    rig.unmount();
    is_kept(&rig, "chmod");
    assert_eq!(rig.bucket.header("f", "x-amz-meta-mode").as_deref(), Some("33184"));
    assert!(rig.bucket.header("f", "x-amz-meta-md5chksum").is_some(), "the bytes are the same");
    rig.mount_again();
    let mut file = OpenOptions::new().append(true).open(rig.path("f")).unwrap();
    file.write_all(b" and more").unwrap();
    drop(file);
    is_kept(&rig, "an append");
    assert_eq!(rig.bucket.header("f", "x-amz-meta-md5chksum"), None, "the bytes are other ones");
    assert_eq!(fs::metadata(rig.path("f")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn who_changes_a_file_without_being_root_takes_the_rights_that_it_lends() {
    const USER: u32 = 65534;
    let rig = Rig::mounted(&["--allow-other", LONG_TTL]);
    fs::set_permissions(rig.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let ways = [
        ("write", "printf x | dd of=$1 conv=notrunc status=none"),
        ("append", "printf x >>$1"),
        ("empty", ": >$1"),
        ("cut", "truncate -s 1 $1"),
        ("allocate", "fallocate -l 100000 $1"),
    ];
    for (name, way) in ways {
        let path = rig.path(name);
        fs::write(&path, pattern(71, 1000)).unwrap();
        let run = |uid: u32| {
            set_mode(&path, 0o6777);
            let mut shell = Command::new("sh");
            shell.args(["-euc", way, "sh"]).arg(&path).uid(uid).gid(uid);
            run_ok(&mut shell);
            fs::metadata(&path).unwrap().mode() & 0o7777
        };
        assert_eq!((run(0), run(USER)), (0o6777, 0o777), "{name}");
    }
}

#[test]
fn a_directory_has_the_time_of_the_last_change_of_its_names_until_it_is_set() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let (one, two) = (rig.path("one"), rig.path("two"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&two).unwrap();
    fs::write(one.join("before"), "").unwrap();
    let changes: [(&str, &dyn Fn() -> std::io::Result<()>); 8] = [
        ("a new file", &|| fs::write(one.join("file"), "")),
        ("a new link", &|| std::os::unix::fs::symlink("file", one.join("link"))),
        ("a new directory", &|| fs::create_dir(one.join("dir"))),
        ("a directory moved", &|| fs::rename(one.join("dir"), two.join("dir"))),
        ("and back", &|| fs::rename(two.join("dir"), one.join("dir"))),
        ("a directory removed", &|| fs::remove_dir(one.join("dir"))),
        ("a file moved over another", &|| fs::rename(one.join("file"), one.join("before"))),
        ("a file removed", &|| fs::remove_file(one.join("before"))),
    ];
    for (what, change) in changes {
        set_mtime(&one, 1_000_000, 7);
        let mtime = || fs::metadata(&one).unwrap().modified().unwrap();
        let set = Duration::new(1_000_000, 7);
        assert_eq!(mtime().duration_since(std::time::UNIX_EPOCH).unwrap(), set, "{what}: as it was set");
        let now = std::time::SystemTime::now();
        change().unwrap();
        assert!(mtime() >= now, "{what}");
    }
}

#[test]
fn an_open_file_whose_name_is_gone_has_no_link() {
    let rig = Rig::mounted(&[LONG_TTL]);
    for (name, is_open_to_write) in [("read", false), ("written", true)] {
        let path = rig.path(name);
        for way in
            [|path: &Path| fs::remove_file(path), |path: &Path| fs::rename(path.with_extension("new"), path)]
        {
            fs::write(&path, "content").unwrap();
            fs::write(path.with_extension("new"), "other").unwrap();
            let file = OpenOptions::new().read(true).write(is_open_to_write).open(&path).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 1, "{name}");
            way(&path).unwrap();
            assert_eq!(file.metadata().unwrap().nlink(), 0, "{name}");
        }
        assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
    }
}

#[test]
fn mode_owner_and_time_set_one_after_the_other_are_one_copy() {
    for size in [5, 9 * MIB] {
        let mut rig = Rig::mounted(&[LONG_TTL]);
        let bytes = pattern(70, size);
        rig.bucket.put("f", &bytes);
        let path = rig.path("f");
        fs::metadata(&path).unwrap();
        rig.bucket.requests().reset();
        set_mode(&path, 0o4750);
        chown(&path, Some(1234), Some(4321)).unwrap();
        set_mtime(&path, 981_173_106, 789_000_001);
        assert_eq!(shown(&rig, "f").0, 0o750, "chown takes the setuid bit away, as everywhere");
        set_mode(&path, 0o1750);
        let wanted = (0o1750, 1234, 4321, 981_173_106, 789_000_001);
        assert_eq!(shown(&rig, "f"), wanted, "at once here");
        settled(&rig);
        assert_eq!(rig.bucket.count(Operation::CopyObject), 1);
        assert_eq!(rig.bucket.asked().all, 1, "and nothing else");
        assert_eq!(rig.bucket.header("f", "x-amz-meta-mode").as_deref(), Some("33768"));
        assert_eq!(rig.bucket.header("f", "x-amz-meta-uid").as_deref(), Some("1234"));
        assert_eq!(rig.bucket.header("f", "x-amz-meta-mtime").as_deref(), Some("981173106.789000001"));
        rig.bucket.requests().reset();
        set_mode(&path, 0o1750);
        chown(&path, Some(1234), None).unwrap();
        set_mtime(&path, 981_173_106, 789_000_001);
        settled(&rig);
        assert_eq!(rig.bucket.asked().all, 0, "what is so already is not set again");
        assert_eq!(sha256(&rig.bucket.get("f").unwrap()), sha256(&bytes));
        rig.unmount();
        rig.mount_again();
        assert_eq!(shown(&rig, "f"), wanted);
        assert_eq!(sha256(&fs::read(rig.path("f")).unwrap()), sha256(&bytes));
    }
}

#[test]
fn a_copy_that_keeps_attributes_is_one_put() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    let local = rig.home().join("local");
    fs::write(&local, "content").unwrap();
    set_mode(&local, 0o751);
    chown(&local, Some(7), Some(8)).unwrap();
    set_mtime(&local, 1_000_000_000, 5);
    fs::read_dir(rig.mountpoint()).unwrap().count();
    rig.bucket.requests().reset();
    run_ok(Command::new("cp").args(["-p"]).arg(&local).arg(rig.path("copy")));
    run_ok(
        Command::new("tar")
            .args(["--format=posix", "-C"])
            .arg(rig.home())
            .args(["-cf", "tar", "local"])
            .current_dir(rig.home()),
    );
    run_ok(Command::new("tar").arg("-C").arg(rig.mountpoint()).args(["-xpf", "tar"]).current_dir(rig.home()));
    settled(&rig);
    assert_eq!(rig.bucket.count(Operation::PutObject), 2);
    assert_eq!(rig.bucket.asked().all, 2, "one PUT each and nothing else");
    rig.unmount();
    rig.mount_again();
    for name in ["copy", "local"] {
        assert_eq!(shown(&rig, name), (0o751, 7, 8, 1_000_000_000, 5), "{name}");
    }
}

#[test]
fn attributes_that_were_set_survive_a_kill_and_unmounting_brings_them_home() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    for name in ["killed", "unmounted"] {
        rig.bucket.put(name, b"x");
        set_mode(&rig.path(name), 0o600);
        set_mtime(&rig.path(name), 42, 0);
        assert_eq!(rig.bucket.header(name, "x-amz-meta-mode"), None, "it waits a moment");
        match name {
            "killed" => rig.kill(),
            _ => rig.unmount(),
        }
        if name == "killed" {
            rig.mount_again();
            settled(&rig);
        }
        assert_eq!(rig.bucket.header(name, "x-amz-meta-mode").as_deref(), Some("33152"));
        assert_eq!(rig.bucket.header(name, "x-amz-meta-mtime").as_deref(), Some("42"));
    }
}

#[test]
fn an_open_file_keeps_its_attributes_and_its_handles_their_bytes() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let bytes = pattern(71, 10 * MIB);
    rig.bucket.put("f", &bytes);
    let reader = File::open(rig.path("f")).unwrap();
    let mut seen = vec![0; MIB];
    reader.read_exact_at(&mut seen, 0).unwrap();
    rig.bucket.requests().reset();
    reader.set_permissions(fs::Permissions::from_mode(0o604)).unwrap();
    set_mtime(&rig.path("f"), 77, 7);
    assert_eq!(reader.metadata().unwrap().mode() & 0o7777, 0o604);
    settled(&rig);
    assert_eq!(rig.bucket.count(Operation::CopyObject), 1);
    let mut seen = vec![0; 10 * MIB];
    reader.read_exact_at(&mut seen, 0).unwrap();
    assert!(seen == bytes);
    // What is written goes along with what is set meanwhile, in one upload.
    rig.bucket.requests().reset();
    let mut file = OpenOptions::new().append(true).open(rig.path("f")).unwrap();
    file.write_all(b"more").unwrap();
    set_mode(&rig.path("f"), 0o640);
    set_mtime(&rig.path("f"), 78, 0);
    drop(file);
    assert_eq!(rig.bucket.count(Operation::CopyObject), 0);
    assert_eq!(rig.bucket.count(Operation::CompleteMultipartUpload), 1);
    assert_eq!(rig.bucket.header("f", "x-amz-meta-mode").as_deref(), Some("33184"));
    assert_eq!(shown(&rig, "f").3, 78);
}

#[test]
fn attributes_yield_to_the_version_of_another_client() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    rig.bucket.put("f", b"old");
    set_mode(&rig.path("f"), 0o600);
    rig.bucket.put("f", b"theirs");
    settled(&rig);
    assert_eq!(rig.bucket.get("f").unwrap(), b"theirs");
    assert_eq!(fs::read(rig.path("f")).unwrap(), b"theirs");
    assert_eq!(fs::metadata(rig.path("f")).unwrap().mode() & 0o777, 0o644);
    assert_eq!(rig.bucket.keys(), ["f"], "no conflict copy of attributes");
    assert_eq!(rig.status()["sessions"].as_array().map(Vec::len), Some(0), "{}", rig.status());
}

#[test]
fn a_script_can_be_run_right_after_it_was_listed() {
    let mut rig = Rig::mounted(&[]);
    fs::write(rig.path("x.sh"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(rig.path("x.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    rig.unmount();
    // Where nothing is remembered of it.
    let states = fs::read_dir(rig.home().join(".local/state/tetherfs")).unwrap();
    states.for_each(|state| fs::remove_dir_all(state.unwrap().path().join("metadata")).unwrap());
    rig.mount_again();
    rig.bucket.requests().reset();
    let line = format!("ls -l {0} > /dev/null; {0}/x.sh", rig.mountpoint().display());
    let ran = Command::new("sh").arg("-c").arg(line).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "ran\n", "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(rig.bucket.requests().count(Operation::HeadObject).requests, 1);
}

#[test]
fn what_objects_carry_is_shown_after_a_remount_without_asking_for_each() {
    let mut rig = Rig::mounted(&[]);
    for number in 0..20 {
        let path = rig.path(&format!("f{number}"));
        fs::write(&path, "content").unwrap();
        set_mode(&path, 0o700 + number);
        set_mtime(&path, 1_000_000 + i64::from(number), 5);
    }
    std::os::unix::fs::symlink("f3", rig.path("link")).unwrap();
    fs::write(rig.path("large"), pattern(1, 20 * MIB)).unwrap();
    set_mode(&rig.path("large"), 0o711);
    settled(&rig);
    let check = |rig: &Rig| {
        rig.bucket.requests().reset();
        let entries = fs::read_dir(rig.mountpoint()).unwrap().map(|entry| entry.unwrap());
        let seen: std::collections::BTreeMap<String, fs::Metadata> = entries
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap()))
            .collect();
        for number in 0..20 {
            let found = &seen[&format!("f{number}")];
            assert_eq!(found.mode() & 0o777, 0o700 + number);
            assert_eq!((found.mtime(), found.mtime_nsec()), (1_000_000 + i64::from(number), 5));
        }
        assert!(seen["link"].file_type().is_symlink());
        assert_eq!(seen["large"].mode() & 0o777, 0o711);
        assert_eq!(rig.bucket.requests().count(Operation::HeadObject).requests, 0);
    };
    rig.unmount();
    rig.mount_again();
    check(&rig);
    rig.kill();
    rig.mount_again();
    check(&rig);
    // What others put there is theirs.
    rig.kill();
    rig.bucket.put("f7", b"content");
    rig.bucket.put("link", b"f3");
    rig.mount_again();
    let (file, link) = (rig.path("f7"), rig.path("link"));
    assert_ne!(fs::symlink_metadata(&file).unwrap().mode() & 0o777, 0o707);
    assert!(fs::symlink_metadata(&link).unwrap().is_file());
    assert_eq!(fs::read(&file).unwrap(), b"content");
}

#[test]
fn with_posix_metadata_all_a_first_listing_tells_what_the_objects_of_others_carry() {
    let mut rig = Rig::mounted(&["--posix-metadata=all"]);
    for number in 0..40 {
        let mode = format!("x-amz-meta-mode: {}", 0o100_700 + number);
        rig.bucket.put_with(&format!("d/f{number}"), b"theirs", &[&mode, "x-amz-meta-uid: 1234"]);
    }
    let link_mode = format!("x-amz-meta-mode: {}", 0o120_777);
    rig.bucket.put_with("d/link", b"f3", &[&link_mode]);
    let asked = |rig: &Rig| {
        rig.bucket.requests().reset();
        let entries = fs::read_dir(rig.path("d")).unwrap().map(Result::unwrap);
        let seen: Vec<_> = entries.map(|entry| (entry.file_name(), entry.metadata().unwrap())).collect();
        assert_eq!(seen.len(), 41);
        for (name, meta) in seen {
            match name.to_str().unwrap().strip_prefix('f') {
                Some(number) => {
                    let mode = 0o700 + number.parse::<u32>().unwrap();
                    assert_eq!((meta.mode() & 0o7777, meta.uid()), (mode, 1234));
                }
                None => assert!(meta.file_type().is_symlink()),
            }
        }
        rig.bucket.asked()
    };
    let first = asked(&rig);
    // One for the directory, which is none.
    assert!((41..=42).contains(&first.heads) && first.gets == 0, "{first:?}");
    rig.unmount();
    rig.mount_again();
    let second = asked(&rig);
    assert!(second.heads <= 1 && second.gets == 0, "a second look is free: {second:?}");
}
