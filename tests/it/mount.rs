//! What programs do through a real mount, compared byte for byte and counted request by request.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;

use tetherfs::bucket::Operation;

use crate::support::{Rig, pattern, run, run_ok, sha256};

const MIB: usize = 1 << 20;

#[test]
fn a_small_file_is_one_put_and_reads_back_everywhere() {
    let mut rig = Rig::mounted(&[]);
    rig.bucket.requests().reset();
    fs::write(rig.path("hello.txt"), "hello, bucket").unwrap();
    assert_eq!(rig.bucket.count(Operation::PutObject), 1);
    assert_eq!(rig.bucket.count(Operation::CreateMultipartUpload), 0);
    assert_eq!(rig.bucket.get("hello.txt").unwrap(), b"hello, bucket");
    assert_eq!(fs::read(rig.path("hello.txt")).unwrap(), b"hello, bucket");
    assert!(rig.bucket.head("hello.txt").contains("content-type: text/plain"));
    rig.unmount();
    rig.mount_again();
    assert_eq!(fs::read(rig.path("hello.txt")).unwrap(), b"hello, bucket");
}

#[test]
fn a_large_file_goes_in_parts_and_comes_back_whole() {
    let mut rig = Rig::mounted(&["--part-size=5M"]);
    let bytes = pattern(1, 23 * MIB + 4711);
    let local = rig.home().join("large");
    fs::write(&local, &bytes).unwrap();
    rig.bucket.requests().reset();
    run_ok(Command::new("cp").arg(&local).arg(rig.path("large.bin")));
    assert_eq!(rig.bucket.count(Operation::CreateMultipartUpload), 1);
    assert_eq!(rig.bucket.count(Operation::UploadPart), 5);
    assert_eq!(rig.bucket.count(Operation::CompleteMultipartUpload), 1);
    assert_eq!(rig.bucket.requests().total().received as usize / MIB, 23, "bytes sent once");
    assert_eq!(sha256(&rig.bucket.get("large.bin").unwrap()), sha256(&bytes));
    rig.unmount();
    rig.mount_again();
    rig.bucket.requests().reset();
    assert_eq!(sha256(&fs::read(rig.path("large.bin")).unwrap()), sha256(&bytes));
    assert_eq!(rig.bucket.requests().count(Operation::GetObject).sent as usize, bytes.len(), "fetched once");
    rig.bucket.requests().reset();
    assert_eq!(sha256(&fs::read(rig.path("large.bin")).unwrap()), sha256(&bytes));
    assert_eq!(rig.bucket.count(Operation::GetObject), 0, "the second read is local");
}

#[test]
fn random_writes_appends_and_truncates_to_existing_files() {
    let rig = Rig::mounted(&["--part-size=5M"]);
    let mut model = pattern(2, 12 * MIB);
    rig.bucket.put("data", &model);
    let path = rig.path("data");
    let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    file.write_all_at(b"at the front", 0).unwrap();
    file.write_all_at(b"in the middle", 6_000_001).unwrap();
    model[..12].copy_from_slice(b"at the front");
    model[6_000_001..6_000_014].copy_from_slice(b"in the middle");
    let mut seen = vec![0; 100];
    file.read_exact_at(&mut seen, 5_999_950).unwrap();
    assert_eq!(seen, model[5_999_950..6_000_050], "own writes are read at once, over the bytes below");
    drop(file);
    assert_eq!(sha256(&rig.bucket.get("data").unwrap()), sha256(&model));

    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"at the end").unwrap();
    drop(file);
    model.extend_from_slice(b"at the end");
    assert_eq!(sha256(&rig.bucket.get("data").unwrap()), sha256(&model));

    run_ok(Command::new("truncate").args(["--size", "7000000"]).arg(&path));
    model.truncate(7_000_000);
    assert_eq!(sha256(&rig.bucket.get("data").unwrap()), sha256(&model));
    run_ok(Command::new("truncate").args(["--size", "7100000"]).arg(&path));
    model.resize(7_100_000, 0);
    assert_eq!(sha256(&fs::read(&path).unwrap()), sha256(&model), "what was cut off reads as zeros");
    assert_eq!(sha256(&rig.bucket.get("data").unwrap()), sha256(&model));
}

#[test]
fn holes_and_seeks_past_the_end_read_as_zeros() {
    let rig = Rig::mounted(&[]);
    let mut file = fs::File::create(rig.path("sparse")).unwrap();
    file.seek(SeekFrom::Start(3 * MIB as u64)).unwrap();
    file.write_all(b"end").unwrap();
    drop(file);
    let mut expected = vec![0; 3 * MIB];
    expected.extend_from_slice(b"end");
    assert!(rig.bucket.get("sparse").unwrap() == expected);
    assert!(fs::read(rig.path("sparse")).unwrap() == expected);
}

#[test]
fn objects_of_other_clients_appear_and_ours_are_plain() {
    let rig = Rig::mounted(&["--metadata-ttl=0"]);
    rig.bucket.put("photos/2024/cat.jpg", b"not really a cat");
    assert_eq!(fs::read(rig.path("photos/2024/cat.jpg")).unwrap(), b"not really a cat");
    assert!(fs::metadata(rig.path("photos")).unwrap().is_dir());
    rig.bucket.put("photos/2024/cat.jpg", b"another cat");
    assert_eq!(
        fs::read(rig.path("photos/2024/cat.jpg")).unwrap(),
        b"another cat",
        "a replaced object is seen at open"
    );
    rig.bucket.delete("photos/2024/cat.jpg");
    assert!(fs::read(rig.path("photos/2024/cat.jpg")).is_err());
    fs::write(rig.path("ours.json"), "{}").unwrap();
    let head = rig.bucket.head("ours.json");
    assert!(head.contains("content-length: 2") && head.contains("content-type: application/json"), "{head}");
    assert!(rig.bucket.keys().contains(&"ours.json".to_owned()));
}

#[test]
fn odd_names_are_kept_as_they_are() {
    let rig = Rig::mounted(&[]);
    let names = [
        "a b",
        "a+b",
        "100%",
        "q?x=1&y",
        "#hash",
        "back\\slash",
        "trailing. ",
        "caf\u{e9}",
        "e\u{301}",
        "-dash",
        "~",
        "'\"",
    ];
    for name in names {
        fs::write(rig.path(name), name.as_bytes()).unwrap();
    }
    let mut listed: Vec<String> = fs::read_dir(rig.mountpoint())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    listed.sort();
    let mut expected: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    expected.sort();
    assert_eq!(listed, expected);
    for name in names {
        assert_eq!(fs::read(rig.path(name)).unwrap(), name.as_bytes(), "{name}");
    }
    let long = "x".repeat(256);
    assert_eq!(fs::write(rig.path(&long), "").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
}

#[test]
fn mode_and_times_are_kept_across_a_remount() {
    let mut rig = Rig::mounted(&[]);
    let path = rig.path("script.sh");
    fs::write(&path, "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o750)).unwrap();
    run_ok(Command::new("touch").args(["--date", "2001-02-03 04:05:06.789 UTC"]).arg(&path));
    let check = |rig: &Rig| {
        let meta = fs::metadata(rig.path("script.sh")).unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o750);
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (981_173_106, 789_000_000));
    };
    check(&rig);
    rig.unmount();
    rig.mount_again();
    check(&rig);
    assert_eq!(run_ok(&mut Command::new(rig.path("script.sh"))), "ran\n");
}

#[test]
fn the_time_of_the_last_write_does_not_move_later() {
    let mut rig = Rig::mounted(&["--metadata-ttl=0"]);
    fs::write(rig.path("f"), "content").unwrap();
    let written = fs::metadata(rig.path("f")).unwrap().modified().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(fs::metadata(rig.path("f")).unwrap().modified().unwrap(), written);
    rig.unmount();
    rig.mount_again();
    assert_eq!(fs::metadata(rig.path("f")).unwrap().modified().unwrap(), written);
}

#[test]
fn directories_are_made_listed_and_removed() {
    let mut rig = Rig::mounted(&[]);
    fs::create_dir(rig.path("empty")).unwrap();
    fs::create_dir_all(rig.path("a/b/c")).unwrap();
    fs::write(rig.path("a/b/c/file"), "x").unwrap();
    let error = fs::remove_dir(rig.path("a/b")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTEMPTY));
    assert_eq!(fs::create_dir(rig.path("a")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    fs::remove_file(rig.path("a/b/c/file")).unwrap();
    rig.unmount();
    rig.mount_again();
    assert!(fs::metadata(rig.path("empty")).unwrap().is_dir(), "an empty directory survives a remount");
    assert!(fs::metadata(rig.path("a/b/c")).unwrap().is_dir(), "and does not go with its last file");
    fs::remove_dir(rig.path("a/b/c")).unwrap();
    fs::remove_dir(rig.path("empty")).unwrap();
    assert!(!rig.path("empty").exists());
    run_ok(Command::new("rm").arg("-r").arg(rig.path("a")));
    assert_eq!(rig.bucket.keys(), Vec::<String>::new());
}

#[test]
fn rename_moves_replaces_and_refuses() {
    let rig = Rig::mounted(&[]);
    fs::write(rig.path("a"), "content of a").unwrap();
    fs::write(rig.path("b"), "content of b").unwrap();
    fs::rename(rig.path("a"), rig.path("c")).unwrap();
    assert_eq!(rig.bucket.keys(), ["b", "c"]);
    fs::rename(rig.path("c"), rig.path("b")).unwrap();
    assert_eq!(rig.bucket.keys(), ["b"]);
    assert_eq!(rig.bucket.get("b").unwrap(), b"content of a");
    assert_eq!(fs::read(rig.path("b")).unwrap(), b"content of a");
    fs::write(rig.path("d"), "d").unwrap();
    run_ok(Command::new("mv").arg("--no-clobber").arg(rig.path("d")).arg(rig.path("b")));
    assert_eq!(rig.bucket.get("b").unwrap(), b"content of a", "mv -n replaces nothing");
    assert_eq!(
        fs::rename(rig.path("nothing"), rig.path("x")).unwrap_err().raw_os_error(),
        Some(libc::ENOENT)
    );
    // A whole directory: mv falls back to copying and removing.
    fs::create_dir(rig.path("dir")).unwrap();
    fs::write(rig.path("dir/inside"), "i").unwrap();
    run_ok(Command::new("mv").arg(rig.path("dir")).arg(rig.path("moved")));
    assert_eq!(rig.bucket.get("moved/inside").unwrap(), b"i");
    assert!(!rig.path("dir").exists());
}

#[test]
fn a_file_renamed_while_it_is_written_lands_under_the_new_name() {
    let rig = Rig::mounted(&[]);
    let mut file = fs::File::create(rig.path("download.part")).unwrap();
    file.write_all(b"first half, ").unwrap();
    fs::rename(rig.path("download.part"), rig.path("download")).unwrap();
    file.write_all(b"second half").unwrap();
    drop(file);
    assert_eq!(rig.bucket.get("download").unwrap(), b"first half, second half");
    assert_eq!(rig.bucket.keys(), ["download"]);
    // The same over an object that exists already.
    let mut file = fs::OpenOptions::new().append(true).open(rig.path("download")).unwrap();
    file.write_all(b" and more").unwrap();
    fs::rename(rig.path("download"), rig.path("final")).unwrap();
    file.write_all(b" to come").unwrap();
    drop(file);
    assert_eq!(rig.bucket.get("final").unwrap(), b"first half, second half and more to come");
    assert_eq!(rig.bucket.keys(), ["final"]);
}

#[test]
fn a_file_removed_while_it_is_open_never_reaches_the_bucket() {
    let rig = Rig::mounted(&[]);
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(rig.path("tmp"))
        .unwrap();
    file.write_all(b"scratch").unwrap();
    fs::remove_file(rig.path("tmp")).unwrap();
    assert!(!rig.path("tmp").exists());
    file.write_all(b" space").unwrap();
    let mut back = String::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut back).unwrap();
    assert_eq!(back, "scratch space");
    drop(file);
    assert_eq!(rig.bucket.keys(), Vec::<String>::new());
    fs::write(rig.path("tmp"), "new").unwrap();
    assert_eq!(rig.bucket.get("tmp").unwrap(), b"new", "the name is free again");
}

#[test]
fn one_winner_of_an_exclusive_create() {
    let rig = Rig::mounted(&[]);
    let open = || fs::OpenOptions::new().write(true).create_new(true).open(rig.path("lock"));
    let first = open().unwrap();
    assert_eq!(open().unwrap_err().raw_os_error(), Some(libc::EEXIST));
    drop(first);
    assert_eq!(open().unwrap_err().raw_os_error(), Some(libc::EEXIST));
    fs::remove_file(rig.path("lock")).unwrap();
    open().unwrap();
}

#[test]
fn refusals_carry_the_usual_error_numbers() {
    let rig = Rig::mounted(&[]);
    fs::write(rig.path("f"), "x").unwrap();
    let number = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    assert_eq!(number(fs::hard_link(rig.path("f"), rig.path("g"))), Some(libc::EPERM));
    assert_eq!(number(fs::create_dir(rig.path("f/sub"))), Some(libc::ENOTDIR));
    assert_eq!(number(fs::remove_dir(rig.path("f"))), Some(libc::ENOTDIR));
    fs::create_dir(rig.path("d")).unwrap();
    assert_eq!(number(fs::remove_file(rig.path("d"))), Some(libc::EISDIR));
    assert_eq!(number(fs::File::create(rig.path("d")).map(drop)), Some(libc::EISDIR));
    assert_eq!(run(Command::new("mkfifo").arg(rig.path("pipe"))).code, Some(1));
}

#[test]
fn a_read_only_mount_changes_nothing() {
    let mut rig = Rig::new();
    rig.bucket.put("f", b"content");
    rig.mount(&["--read-only"]);
    assert_eq!(fs::read(rig.path("f")).unwrap(), b"content");
    assert_eq!(fs::write(rig.path("f"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::remove_file(rig.path("f")).unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(rig.bucket.get("f").unwrap(), b"content");
}

#[test]
fn closing_without_a_change_asks_nothing() {
    let rig = Rig::mounted(&["--metadata-ttl=60"]);
    fs::write(rig.path("f"), "content").unwrap();
    rig.bucket.requests().reset();
    // The shell opens, duplicates and closes descriptors around every command.
    run_ok(
        Command::new("sh")
            .arg("-c")
            .arg("exec 3>>\"$1\"; true; true; exec 3>&-")
            .arg("sh")
            .arg(rig.path("f")),
    );
    assert_eq!(rig.bucket.requests().total().requests, 0, "{:?}", rig.bucket.requests().recent());
    run_ok(
        Command::new("sh")
            .arg("-c")
            .arg("exec 3>>\"$1\"; true; echo more >&3; exec 3>&-")
            .arg("sh")
            .arg(rig.path("f")),
    );
    assert_eq!(rig.bucket.get("f").unwrap(), b"contentmore\n");
}

#[test]
fn tar_and_dd_and_a_tree_of_files() {
    let rig = Rig::mounted(&[]);
    let tree = rig.home().join("tree");
    for directory in 0..5 {
        fs::create_dir_all(tree.join(format!("d{directory}/sub"))).unwrap();
        for file in 0..20 {
            fs::write(tree.join(format!("d{directory}/sub/f{file}")), pattern(file, 1000 * file as usize))
                .unwrap();
        }
    }
    run_ok(Command::new("cp").arg("-r").arg(&tree).arg(rig.path("copy")));
    run_ok(Command::new("diff").arg("-r").arg(&tree).arg(rig.path("copy")));
    run_ok(Command::new("tar").arg("-C").arg(rig.home()).arg("-cf").arg(rig.path("tree.tar")).arg("tree"));
    fs::create_dir(rig.path("unpacked")).unwrap();
    run_ok(Command::new("tar").arg("-C").arg(rig.path("unpacked")).arg("-xf").arg(rig.path("tree.tar")));
    run_ok(Command::new("diff").arg("-r").arg(&tree).arg(rig.path("unpacked/tree")));
    let out = rig.path("dd.out");
    run_ok(
        Command::new("dd")
            .args(["if=/dev/zero", "bs=1M", "count=9", "status=none"])
            .arg(format!("of={}", out.display())),
    );
    let patch = rig.home().join("patch");
    fs::write(&patch, "patched").unwrap();
    let arguments = [format!("if={}", patch.display()), format!("of={}", out.display())];
    run_ok(Command::new("dd").args(arguments).args(["bs=1", "seek=5000000", "conv=notrunc", "status=none"]));
    let mut expected = vec![0; 9 * MIB];
    expected[5_000_000..5_000_007].copy_from_slice(b"patched");
    assert_eq!(sha256(&rig.bucket.get("dd.out").unwrap()), sha256(&expected));
    run_ok(Command::new("rm").arg("-r").arg(rig.path("copy")).arg(rig.path("unpacked")));
    assert_eq!(rig.bucket.keys(), ["dd.out", "tree.tar"]);
}
