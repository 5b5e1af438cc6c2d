//! copy_file_range, fallocate, lseek, O_APPEND, O_DIRECT and large sparse files, as programs use them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use tetherfs::bucket::Operation;

use crate::support::{Rig, pattern, run_ok, sha256, wait_for};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn read_write(rig: &Rig, name: &str) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(rig.path(name)).unwrap()
}

/// Bytes of objects that crossed the wire, either way.
fn moved(rig: &Rig) -> u64 {
    let requests = rig.bucket.requests();
    let sent = requests.count(Operation::GetObject).sent;
    sent + requests.count(Operation::PutObject).received + requests.count(Operation::UploadPart).received
}

#[test]
fn cp_within_the_mount_is_one_copy_on_the_server() {
    let mut rig = Rig::mounted(&[]);
    let bytes = pattern(1, 20 * MIB as usize);
    rig.bucket.put_quietly("from", &bytes);
    rig.bucket.requests().reset();
    run_ok(Command::new("cp").arg(rig.path("from")).arg(rig.path("to")));
    // Whatever becomes of the source now.
    fs::remove_file(rig.path("from")).unwrap();
    assert_eq!(moved(&rig), 0);
    assert_eq!(rig.bucket.count(Operation::CopyObject), 1);
    assert_eq!(sha256(&rig.bucket.read("to")), sha256(&bytes));
    assert_eq!(sha256(&fs::read(rig.path("to")).unwrap()), sha256(&bytes));
    // Over a file that is there.
    rig.bucket.put_quietly("third", b"short");
    run_ok(Command::new("cp").arg(rig.path("to")).arg(rig.path("third")));
    assert_eq!(sha256(&rig.bucket.read("third")), sha256(&bytes));
    rig.unmount();
}

#[test]
fn a_range_that_is_not_all_of_an_object_is_copied_byte_by_byte() {
    let rig = Rig::mounted(&[]);
    let bytes = pattern(2, 3 * MIB as usize);
    rig.bucket.put_quietly("from", &bytes);
    let source = File::open(rig.path("from")).unwrap();
    let target = read_write(&rig, "to");
    let (mut at, mut to, mut left) = (1000, 5, 2 * MIB as usize);
    while left > 0 {
        let copied =
            rustix::fs::copy_file_range(&source, Some(&mut at), &target, Some(&mut to), left).unwrap();
        assert!(copied > 0);
        left -= copied;
    }
    drop(target);
    let expected = [&[0; 5][..], &bytes[1000..1000 + 2 * MIB as usize]].concat();
    assert_eq!(sha256(&rig.bucket.get("to").unwrap()), sha256(&expected));
    // What the source is now, not what the bucket has.
    let mut changed = read_write(&rig, "from");
    changed.write_all(b"local change").unwrap();
    let target = read_write(&rig, "of-local");
    let copied = io::copy(&mut File::open(rig.path("from")).unwrap(), &mut &target).unwrap();
    assert_eq!(copied, 3 * MIB);
    drop(target);
    assert_eq!(&rig.bucket.get("of-local").unwrap()[..14], [b"local change", &bytes[12..14]].concat());
}

#[test]
fn space_is_taken_ahead_and_given_back() {
    let rig = Rig::mounted(&["--staging-size=16MiB"]);
    let file = read_write(&rig, "reserved");
    fallocate(&file, FallocateFlags::empty(), 0, 6 * MIB).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 6 * MIB);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 6 * MIB, 4 * MIB).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 6 * MIB);
    let full = fallocate(&file, FallocateFlags::empty(), 0, 20 * MIB).unwrap_err();
    assert_eq!((full, file.metadata().unwrap().size()), (Errno::NOSPC, 6 * MIB));
    // Somebody else takes all that is left; what was taken ahead can be written all the same.
    let greedy = read_write(&rig, "greedy");
    let mut taken = 0;
    let refused = loop {
        match greedy.write_all_at(&[7; 1 << 16], taken) {
            Ok(()) => taken += 1 << 16,
            Err(error) => break error,
        }
    };
    assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC));
    let bytes = pattern(3, 10 * MIB as usize);
    file.write_all_at(&bytes, 0).unwrap();
    // What is cut off is given back, if it is on its way already once it has arrived.
    file.set_len(MIB).unwrap();
    wait_for("what was cut off is given back", LIMIT, || greedy.write_all_at(&[8; 8 << 20], taken).is_ok());
    drop((file, greedy));
    assert_eq!(sha256(&rig.bucket.get("reserved").unwrap()), sha256(&bytes[..MIB as usize]));
    assert_eq!(rig.bucket.get("greedy").unwrap().len() as u64, taken + 8 * MIB);
    assert_eq!(rig.status()["metrics"]["staging_bytes"], 0);
}

#[test]
fn holes_and_zeros_hide_what_the_object_has_there() {
    let rig = Rig::mounted(&[]);
    let mut bytes = pattern(4, 12 * MIB as usize);
    rig.bucket.put_quietly("holey", &bytes);
    let file = read_write(&rig, "holey");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, MIB + 5, 300_000).unwrap();
    bytes[MIB as usize + 5..MIB as usize + 300_005].fill(0);
    fallocate(&file, FallocateFlags::ZERO_RANGE, 12 * MIB - 10, 1000).unwrap();
    let len = bytes.len();
    bytes[len - 10..].fill(0);
    bytes.resize(len + 990, 0);
    fallocate(&file, punch, 100 * MIB, MIB).unwrap();
    assert_eq!(file.metadata().unwrap().size(), bytes.len() as u64);
    let mut seen = vec![0; bytes.len()];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(sha256(&seen), sha256(&bytes));
    drop(file);
    assert_eq!(sha256(&rig.bucket.get("holey").unwrap()), sha256(&bytes));
    let file = read_write(&rig, "holey");
    assert_eq!(fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096), Err(Errno::OPNOTSUPP));
    let reader = File::open(rig.path("holey")).unwrap();
    assert_eq!(fallocate(&reader, FallocateFlags::empty(), 0, 10), Err(Errno::BADF));
}

#[test]
fn the_whole_of_a_file_is_data() {
    let rig = Rig::mounted(&[]);
    rig.bucket.put_quietly("data", &[0; 100_000]);
    let file = File::open(rig.path("data")).unwrap();
    assert_eq!(rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Data(5000)).unwrap(), 5000);
    assert_eq!(rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Hole(5000)).unwrap(), 100_000);
    assert_eq!(rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Data(100_000)), Err(Errno::NXIO));
}

#[test]
fn appenders_never_overwrite_each_other() {
    let rig = Rig::mounted(&[]);
    rig.bucket.put_quietly("log", b"begin\n");
    std::thread::scope(|threads| {
        for writer in 0..4 {
            let path = rig.path("log");
            threads.spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                for line in 0..50 {
                    file.write_all(format!("{writer} {line}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let text = String::from_utf8(rig.bucket.get("log").unwrap()).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (201, "begin"));
    lines.sort_unstable();
    lines.dedup();
    assert_eq!(lines.len(), 201, "each line once and whole");
}

#[test]
fn direct_and_synchronous_writes_work() {
    let rig = Rig::mounted(&[]);
    let mut bytes = pattern(5, 64 << 10);
    let open = |flags| {
        OpenOptions::new().write(true).create(true).truncate(false).custom_flags(flags).open(rig.path("f"))
    };
    let file = open(libc::O_DIRECT).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    drop(file);
    assert_eq!(sha256(&rig.bucket.get("f").unwrap()), sha256(&bytes));
    let file = open(libc::O_DSYNC).unwrap();
    file.write_all_at(b"synced", 100).unwrap();
    bytes[100..106].copy_from_slice(b"synced");
    let mut seen = Vec::new();
    let mut reader = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(rig.path("f")).unwrap();
    reader.read_to_end(&mut seen).unwrap();
    assert_eq!(sha256(&seen), sha256(&bytes));
}

#[test]
fn sparse_files_beyond_four_gigabytes_are_read_and_seeked() {
    let rig = Rig::mounted(&[]);
    let islands: [(u64, &[u8]); 3] = [(0, b"start"), (5 << 30, b"middle"), ((9 << 30) - 3, b"end")];
    rig.bucket.put_sparse("huge", 9 << 30, &islands);
    let mut file = File::open(rig.path("huge")).unwrap();
    assert_eq!(file.metadata().unwrap().size(), 9 << 30);
    for (at, expected) in islands {
        file.seek(SeekFrom::Start(at)).unwrap();
        let mut seen = vec![1; expected.len()];
        file.read_exact(&mut seen).unwrap();
        assert_eq!(seen, expected);
    }
    // A change beyond 4 GiB sends what changed.
    rig.bucket.requests().reset();
    let file = OpenOptions::new().write(true).open(rig.path("huge")).unwrap();
    file.write_all_at(b"MIDDLE", 5 << 30).unwrap();
    drop(file);
    let sent = rig.bucket.requests().count(Operation::UploadPart).received;
    assert!(sent <= 8 * MIB, "{sent} bytes sent");
    let mut seen = [0; 8];
    File::open(rig.path("huge")).unwrap().read_exact_at(&mut seen, (5 << 30) - 1).unwrap();
    assert_eq!(&seen, b"\0MIDDLE\0");
}
