//! What each kind of change costs: requests and bytes, counted at the server.

use std::fs::{self, File, Permissions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use tetherfs::bucket::Operation;

use super::{LIMIT, MIB, asked, expect_object, open, open_to_append, sent, settle};
use crate::support::{Rig, pattern, run_ok, wait_for};

const KIB: usize = 1 << 10;
/// Names are asked for once.
const OPTIONS: [&str; 2] = ["--metadata-ttl=10m", "--part-size=5MiB"];
/// Smallest part that a store takes, but the last.
const PART_MIN: u64 = 5 << 20;
/// What is fetched and cached at least.
const CHUNK: u64 = 256 << 10;
/// A change in the middle leaves more than one piece to copy behind it.
const LARGE: usize = 300 * MIB;

/// A mount that knows what is in its root, so that what is counted is about content.
fn mounted(options: &[&str]) -> Rig {
    let rig = Rig::mounted(&[&OPTIONS[..], options].concat());
    count_anew(&rig);
    rig
}

fn count_anew(rig: &Rig) {
    fs::read_dir(rig.mountpoint()).unwrap().for_each(|entry| drop(entry.unwrap().metadata()));
    rig.bucket.requests().reset();
}

/// Fails unless these were the requests, and so many bytes of objects went up and at most so many came down. Then counts
/// anew.
fn expect_cost(what: &str, rig: &Rig, requests: &str, bytes_sent: u64, bytes_fetched_max: u64) {
    assert_eq!(asked(&rig.bucket), requests, "{what}");
    assert_eq!(sent(&rig.bucket), bytes_sent, "{what}: bytes sent");
    let fetched = rig.bucket.asked().sent;
    assert!(fetched <= bytes_fetched_max, "{what}: {fetched} bytes fetched, {bytes_fetched_max} needed");
    count_anew(rig);
}

/// A mount over an object of zeros with random bytes at places, and its content.
fn with_large() -> (Rig, Vec<u8>) {
    let rig = Rig::mounted(&OPTIONS);
    let mut content = vec![0; LARGE];
    let islands: Vec<(u64, Vec<u8>)> =
        (0..LARGE as u64).step_by(PART_MIN as usize).map(|at| (at, pattern(at, 64))).collect();
    for (at, bytes) in &islands {
        content[*at as usize..][..bytes.len()].copy_from_slice(bytes);
    }
    let islands: Vec<(u64, &[u8])> = islands.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
    rig.bucket.put_sparse("large", LARGE as u64, &islands);
    count_anew(&rig);
    (rig, content)
}

#[test]
fn a_small_file_is_one_request_whatever_is_done_to_it_before_close() {
    let rig = mounted(&[]);
    fs::write(rig.path("small"), "content").unwrap();
    expect_cost("new", &rig, "PutObject 1", 7, 0);
    fs::write(rig.path("small"), "other content").unwrap();
    expect_cost("rewritten", &rig, "PutObject 1", 13, 0);
    File::create(rig.path("empty")).unwrap();
    wait_for("the empty file is there", LIMIT, || rig.bucket.find("empty").is_some());
    expect_cost("empty", &rig, "PutObject 1", 0, 0);
    let file = File::create(rig.path("much")).unwrap();
    for at in 0..200 {
        file.write_all_at(&[at as u8; 1000], at * 500).unwrap();
    }
    file.set_len(50_000).unwrap();
    file.sync_all().unwrap();
    file.set_len(60_000).unwrap();
    file.set_permissions(Permissions::from_mode(0o640)).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
    drop(file);
    expect_cost("written, cut, grown, synced, chmod, utimes", &rig, "PutObject 1", 60_000, 0);
    let head = rig.bucket.head("much");
    assert!(head.contains("x-amz-meta-mode: 33184") && head.contains("x-amz-meta-mtime: 1000000"), "{head}");
}

#[test]
fn what_changes_no_content_sends_none() {
    let rig = mounted(&[]);
    fs::write(rig.path("f"), "content").unwrap();
    count_anew(&rig);
    fs::set_permissions(rig.path("f"), Permissions::from_mode(0o600)).unwrap();
    settle(&rig);
    expect_cost("chmod", &rig, "CopyObject 1", 0, 0);
    run_ok(Command::new("touch").arg(rig.path("f")));
    expect_cost("touch", &rig, "CopyObject 1", 0, 0);
    let file = open(&rig, "f");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
    drop(file);
    expect_cost("utimes of an open file", &rig, "CopyObject 1", 0, 0);
    drop(open(&rig, "f"));
    expect_cost("opened for writing and closed", &rig, "", 0, 0);
    fs::rename(rig.path("f"), rig.path("g")).unwrap();
    let moved = fs::metadata(rig.path("g")).unwrap();
    assert_eq!((moved.mode() & 0o777, moved.mtime()), (0o600, 1_000_000), "known, and not changed by that");
    expect_cost("renamed", &rig, "CopyObject 1, DeleteObject 1", 0, 0);
    fs::remove_file(rig.path("g")).unwrap();
    expect_cost("removed", &rig, "DeleteObject 1", 0, 0);
    let file = File::create(rig.path("temporary")).unwrap();
    fs::remove_file(rig.path("temporary")).unwrap();
    file.write_all_at(b"never seen", 0).unwrap();
    drop(file);
    expect_cost("a file without a name", &rig, "", 0, 0);
}

#[test]
fn a_file_written_under_another_name_and_renamed_is_sent_once() {
    let mut rig = mounted(&[]);
    fs::write(rig.path("doc"), "the old version").unwrap();
    count_anew(&rig);
    fs::write(rig.path("doc.tmp"), "the new version").unwrap();
    fs::rename(rig.path("doc.tmp"), rig.path("doc")).unwrap();
    expect_cost("closed before", &rig, "CopyObject 1, DeleteObject 1, PutObject 1", 15, 0);
    let mut file = File::create(rig.path("doc.tmp")).unwrap();
    file.write_all(b"renamed while it is open").unwrap();
    fs::rename(rig.path("doc.tmp"), rig.path("doc")).unwrap();
    drop(file);
    expect_cost("open", &rig, "PutObject 1", 24, 0);
    expect_object(&rig, "doc", b"renamed while it is open");
    fs::write(rig.path("other"), "other").unwrap();
    rig.unmount();
    rig.mount_again();
    count_anew(&rig);
    fs::rename(rig.path("other"), rig.path("doc")).unwrap();
    expect_cost("of what was listed", &rig, "CopyObject 1, DeleteObject 1", 0, 0);
    assert_eq!(rig.bucket.all_keys(), ["doc"]);
}

#[test]
fn a_change_in_the_middle_of_a_large_object_costs_one_part() {
    let (rig, mut content) = with_large();
    let at = LARGE / 2 + 12_345;
    content[at..][..4 * KIB].copy_from_slice(&pattern(1, 4 * KIB));
    let file = open(&rig, "large");
    file.write_all_at(&content[at..][..4 * KIB], at as u64).unwrap();
    drop(file);
    let requests = "CompleteMultipartUpload 1, CreateMultipartUpload 1, GetObject 2, HeadObject 1, \
                    UploadPart 1, UploadPartCopy 4";
    // What the part holds besides the change comes from the object; its chunks begin and end elsewhere.
    expect_cost("4 KiB", &rig, requests, PART_MIN, PART_MIN + 2 * CHUNK);
    expect_object(&rig, "large", &content);
    content[at - 100..][..50].fill(9);
    let file = open(&rig, "large");
    file.write_all_at(&[9; 50], at as u64 - 100).unwrap();
    drop(file);
    assert_eq!(sent(&rig.bucket), PART_MIN, "the same again");
    expect_object(&rig, "large", &content);
}

#[test]
fn appending_to_a_large_object_costs_what_is_appended() {
    let (rig, mut content) = with_large();
    for number in 0..20 {
        let more = pattern(number, MIB);
        open_to_append(&rig, "large").write_all(&more).unwrap();
        content.extend(&more);
    }
    let requests = "CompleteMultipartUpload 20, CreateMultipartUpload 20, HeadObject 1, UploadPart 20, \
                    UploadPartCopy 60";
    expect_cost("20 times 1 MiB", &rig, requests, 20 << 20, 0);
    expect_object(&rig, "large", &content);
}

#[test]
fn cutting_and_growing_a_large_object_sends_only_the_zeros() {
    let (rig, mut content) = with_large();
    let file = open(&rig, "large");
    content.truncate(123_456_789);
    file.set_len(content.len() as u64).unwrap();
    drop(file);
    let requests = "CompleteMultipartUpload 1, CreateMultipartUpload 1, HeadObject 1, UploadPartCopy 1";
    expect_cost("cut", &rig, requests, 0, 0);
    let file = open(&rig, "large");
    content.resize(content.len() + 3 * MIB, 0);
    file.set_len(content.len() as u64).unwrap();
    drop(file);
    let requests = "CompleteMultipartUpload 1, CreateMultipartUpload 1, UploadPart 1, UploadPartCopy 1";
    expect_cost("grown", &rig, requests, 3 << 20, 0);
    fs::set_permissions(rig.path("large"), Permissions::from_mode(0o600)).unwrap();
    settle(&rig);
    expect_cost("chmod", &rig, "CopyObject 1", 0, 0);
    fs::rename(rig.path("large"), rig.path("moved")).unwrap();
    expect_cost("renamed", &rig, "CopyObject 1, DeleteObject 1", 0, 0);
    expect_object(&rig, "moved", &content);
}

#[test]
fn filling_a_directory_for_longer_than_names_are_believed_asks_for_none_of_them() {
    let ttl = Duration::from_millis(200);
    let rig = Rig::mounted(&["--metadata-ttl=200ms"]);
    fs::create_dir(rig.path("new")).unwrap();
    rig.bucket.requests().reset();
    let start = Instant::now();
    for number in 0..100_u64 {
        fs::write(rig.path(&format!("new/{number:02}")), pattern(number, 100)).unwrap();
        sleep(Duration::from_millis(10));
    }
    // The directory itself, and what is in it.
    let lists_max = 2 * (start.elapsed().div_duration_f64(ttl) as u64 + 1);
    let asked = rig.bucket.asked();
    assert_eq!(rig.bucket.count(Operation::PutObject), 100, "{asked:?}");
    // Of the directory's own object.
    assert!(asked.heads <= 1 && asked.lists <= lists_max, "{asked:?}, not more than {lists_max} listings");
    for number in 0..100_u64 {
        expect_object(&rig, &format!("new/{number:02}"), &pattern(number, 100));
    }
}

#[test]
fn a_hole_is_sent_as_the_zeros_it_is_and_fetches_nothing() {
    let rig = mounted(&[]);
    let file = File::create(rig.path("sparse")).unwrap();
    file.write_all_at(b"end", 17 << 20).unwrap();
    drop(file);
    let requests = "CompleteMultipartUpload 1, CreateMultipartUpload 1, UploadPart 4";
    expect_cost("a hole", &rig, requests, (17 << 20) + 3, 0);
    let mut content = vec![0; 17 * MIB];
    content.extend(b"end");
    expect_object(&rig, "sparse", &content);
}

#[test]
fn a_large_file_leaves_while_it_is_written_and_only_what_changes_again_is_sent_again() {
    let rig = mounted(&[]);
    let mut content = pattern(5, 23 * MIB + 17);
    let mut file = File::create(rig.path("new")).unwrap();
    file.write_all(&content).unwrap();
    wait_for("parts leave", LIMIT, || rig.bucket.done(Operation::UploadPart, "new") == 4);
    content[MIB..MIB + 10].fill(7);
    file.seek(SeekFrom::Start(MIB as u64)).unwrap();
    file.write_all(&[7; 10]).unwrap();
    drop(file);
    let requests = "CompleteMultipartUpload 1, CreateMultipartUpload 1, UploadPart 6";
    expect_cost("one part twice", &rig, requests, content.len() as u64 + PART_MIN, 0);
    expect_object(&rig, "new", &content);
    let mut file = File::create(rig.path("other")).unwrap();
    file.write_all(&content).unwrap();
    wait_for("parts leave", LIMIT, || rig.bucket.done(Operation::UploadPart, "other") == 4);
    file.set_permissions(Permissions::from_mode(0o600)).unwrap();
    drop(file);
    // The upload had begun with another mode: a copy on the server mends it.
    let requests = "CompleteMultipartUpload 1, CopyObject 1, CreateMultipartUpload 1, UploadPart 5";
    expect_cost("chmod before close", &rig, requests, content.len() as u64, 0);
    assert!(rig.bucket.head("other").contains("x-amz-meta-mode: 33152"), "{}", rig.bucket.head("other"));
}

#[test]
fn appending_to_a_small_object_fetches_it_and_sends_it_once() {
    let rig = Rig::mounted(&OPTIONS);
    rig.bucket.put_quietly("log", &pattern(6, 300 * KIB));
    count_anew(&rig);
    writeln!(open_to_append(&rig, "log"), "one line").unwrap();
    expect_cost("the first", &rig, "GetObject 1, HeadObject 1, PutObject 1", 300 * 1024 + 9, 300 * 1024);
    let file = open(&rig, "log");
    for number in 0..20 {
        file.write_all_at(b"line\n", 300 * 1024 + 9 + 5 * number).unwrap();
    }
    drop(file);
    expect_cost("a batch", &rig, "GetObject 1, PutObject 1", 300 * 1024 + 109, 300 * 1024 + 9);
}
