//! Completely cached files that the kernel reads by itself, and everything that may happen to them meanwhile.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use tetherfs::bucket::Operation;

use crate::cache_commands::cache;
use crate::support::{Mapping, Rig, Sharing, forget_pages, pattern, run, run_ok, sha256, wait_for};

const MIB: usize = 1 << 20;
/// Not a multiple of anything.
const LEN: usize = 3 * MIB + 4711;

/// Waits until the daemon has heard of every close: until then a file counts as open.
fn all_closed(rig: &Rig) {
    wait_for("every handle is closed", Duration::from_secs(10), || rig.metric("open_handles") == 0);
}

/// A rig whose file `data` is completely cached and closed, with its content.
fn cached(options: &[&str], seed: u64) -> (Rig, Vec<u8>) {
    let rig = Rig::mounted(options);
    let bytes = pattern(seed, LEN);
    rig.bucket.put("data", &bytes);
    assert_eq!(sha256(&fs::read(rig.path("data")).unwrap()), sha256(&bytes));
    all_closed(&rig);
    (rig, bytes)
}

/// Opens a file so that the kernel reads it by itself, which it does once the last byte read has been cached.
fn open_passed_through(rig: &Rig, name: &str) -> File {
    let mut found = None;
    wait_for("the file is passed through", Duration::from_secs(10), || {
        found = None;
        let before = rig.metric("passthrough_opens");
        let file = File::open(rig.path(name)).unwrap();
        let is_passed_through = rig.metric("passthrough_opens") > before;
        found = Some(file);
        is_passed_through
    });
    found.unwrap()
}

/// All of an open file, from its beginning, and not a byte of it through the daemon.
fn read_by_kernel(rig: &Rig, file: &File) -> Vec<u8> {
    let before = rig.metric("fuse_reads");
    let bytes = read_all(file);
    assert_eq!(rig.metric("fuse_reads"), before, "the kernel reads by itself");
    bytes
}

fn read_all(file: &File) -> Vec<u8> {
    let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(file.read_at(&mut [0], bytes.len() as u64).unwrap(), 0, "the length is that of the content");
    bytes
}

#[test]
fn a_cached_file_is_read_by_the_kernel_alone() {
    let (mut rig, bytes) = cached(&[], 30);
    rig.bucket.requests().reset();
    let file = open_passed_through(&rig, "data");
    assert!(read_by_kernel(&rig, &file) == bytes);
    let again = open_passed_through(&rig, "data");
    let mut middle = vec![0; 100_001];
    again.read_exact_at(&mut middle, 777_777).unwrap();
    assert!(middle == bytes[777_777..777_777 + 100_001]);
    assert_eq!(rig.bucket.count(Operation::GetObject), 0);
    assert_eq!(rig.status()["kernel"]["passthrough"]["state"], "on");
    assert_eq!(rig.status()["kernel"]["read_ahead_kib"], 1024);
    drop((file, again));

    rig.unmount();
    rig.mount_again();
    let file = open_passed_through(&rig, "data");
    assert!(read_by_kernel(&rig, &file) == bytes, "also after a remount, at the first open");
    drop(file);
    rig.unmount();
}

#[test]
fn mappings_show_the_file_in_both_modes() {
    for options in [&[] as &[&str], &["--passthrough=false"]] {
        let (rig, bytes) = cached(options, 31);
        let file = match options {
            [] => open_passed_through(&rig, "data"),
            _ => File::open(rig.path("data")).unwrap(),
        };
        for sharing in [Sharing::Private, Sharing::Shared] {
            let mapping = Mapping::of(&file, bytes.len(), sharing);
            assert!(mapping.bytes() == bytes, "{sharing:?} with {options:?}");
        }
        // A mapping outlives its descriptor, and keeps the file what it was.
        let mapping = Mapping::of(&file, bytes.len(), Sharing::Shared);
        drop(file);
        rig.bucket.put_quietly("data", &pattern(32, LEN));
        std::thread::sleep(Duration::from_millis(1100));
        assert_eq!(sha256(&fs::read(rig.path("data")).unwrap()), sha256(&pattern(32, LEN)));
        assert!(mapping.bytes() == bytes, "the mapping is of the version that was mapped");
    }
}

#[test]
fn a_writer_finds_the_name_on_an_inode_of_its_own() {
    let (rig, mut bytes) = cached(&[], 33);
    let old = bytes.clone();
    let reader = open_passed_through(&rig, "data");
    let writer = OpenOptions::new().read(true).write(true).open(rig.path("data")).unwrap();
    assert_ne!(writer.metadata().unwrap().ino(), reader.metadata().unwrap().ino());
    writer.write_all_at(b"written meanwhile", 1_000_000).unwrap();
    bytes[1_000_000..1_000_017].copy_from_slice(b"written meanwhile");
    assert!(read_all(&writer) == bytes, "the writer sees its own bytes over the old ones");
    assert!(read_by_kernel(&rig, &reader) == old);
    let second = OpenOptions::new().append(true).open(rig.path("data")).unwrap();
    assert_eq!(second.metadata().unwrap().ino(), writer.metadata().unwrap().ino(), "writers share an inode");
    drop((writer, second));
    assert_eq!(sha256(&rig.bucket.get("data").unwrap()), sha256(&bytes), "committed");
    assert!(read_by_kernel(&rig, &reader) == old, "the reader keeps what it opened");
    assert_eq!(reader.metadata().unwrap().len() as usize, LEN);
    assert_eq!(
        sha256(&fs::read(rig.path("data")).unwrap()),
        sha256(&bytes),
        "the next open sees the new one"
    );
    assert_eq!(rig.bucket.keys(), ["data"]);
    assert_eq!(rig.metric("fuse_errors"), 0, "nobody was told of an error: {}", rig.log());
}

/// Something that happens to `data` while it is passed through, and what is under the name after it.
type Event = (&'static str, fn(&Rig), fn(&[u8]) -> Option<Vec<u8>>);

#[test]
fn nothing_that_happens_to_the_name_reaches_a_reader() {
    let events: [Event; 8] = [
        (
            "emptied and written",
            |rig| fs::write(rig.path("data"), "short").unwrap(),
            |_| Some(b"short".to_vec()),
        ),
        (
            "truncated by path",
            |rig| {
                run_ok(Command::new("truncate").arg("--size=1000000").arg(rig.path("data")));
            },
            |old| Some(old[..1_000_000].to_vec()),
        ),
        (
            "extended by path",
            |rig| {
                let path = std::ffi::CString::new(rig.path("data").to_str().unwrap()).unwrap();
                // SAFETY: the path is a string that ends in NUL.
                let result = unsafe { libc::truncate(path.as_ptr(), LEN as libc::off_t + 10) };
                assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            },
            |old| Some([old, &[0; 10]].concat()),
        ),
        (
            "replaced by a rename",
            |rig| {
                fs::write(rig.path("new"), "renamed").unwrap();
                fs::rename(rig.path("new"), rig.path("data")).unwrap();
            },
            |_| Some(b"renamed".to_vec()),
        ),
        ("removed", |rig| fs::remove_file(rig.path("data")).unwrap(), |_| None),
        ("renamed away", |rig| fs::rename(rig.path("data"), rig.path("elsewhere")).unwrap(), |_| None),
        (
            "replaced in the bucket",
            |rig| rig.bucket.put_quietly("data", b"theirs"),
            |_| Some(b"theirs".to_vec()),
        ),
        ("removed in the bucket", |rig| rig.bucket.delete("data"), |_| None),
    ];
    for (what, happen, after) in events {
        let (rig, old) = cached(&["--metadata-ttl=0"], 34);
        let reader = open_passed_through(&rig, "data");
        happen(&rig);
        let expected = after(&old);
        match &expected {
            Some(bytes) => {
                assert!(&fs::read(rig.path("data")).unwrap() == bytes, "{what}: the name shows it");
                assert!(&rig.bucket.get("data").unwrap() == bytes, "{what}: it is in the bucket");
            }
            None => assert!(fs::metadata(rig.path("data")).is_err(), "{what}"),
        }
        assert!(read_by_kernel(&rig, &reader) == old, "{what}: the reader keeps what it opened");
        // Through the descriptor, without a path that could be looked up again.
        let same = File::open(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        assert!(read_by_kernel(&rig, &same) == old, "{what}: opened once more by its descriptor");
        if what == "renamed away" {
            assert!(fs::read(rig.path("elsewhere")).unwrap() == old);
        }
        assert_eq!(rig.metric("fuse_errors"), 0, "{what}: {}", rig.log());
    }
}

#[test]
fn attributes_change_under_a_reader() {
    let (rig, bytes) = cached(&[], 35);
    let reader = open_passed_through(&rig, "data");
    let ino = reader.metadata().unwrap().ino();
    fs::set_permissions(rig.path("data"), fs::Permissions::from_mode(0o600)).unwrap();
    // Not by `touch`, which opens the file for writing.
    reader.set_modified(UNIX_EPOCH + Duration::from_secs(981_173_106)).unwrap();
    for meta in [reader.metadata().unwrap(), fs::metadata(rig.path("data")).unwrap()] {
        assert_eq!((meta.ino(), meta.mode() & 0o7777, meta.mtime()), (ino, 0o600, 981_173_106));
    }
    assert!(read_by_kernel(&rig, &reader) == bytes);
    let joined = open_passed_through(&rig, "data");
    assert!(read_by_kernel(&rig, &joined) == bytes);
}

#[test]
fn a_descriptor_cannot_be_reopened_for_writing_and_its_reader_is_left_alone() {
    let (rig, bytes) = cached(&[], 36);
    let reader = open_passed_through(&rig, "data");
    let by_descriptor = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let error = OpenOptions::new().write(true).open(by_descriptor).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ESTALE));
    assert!(read_by_kernel(&rig, &reader) == bytes);
    fs::write(rig.path("data"), "by its path").unwrap();
    assert_eq!(rig.bucket.get("data").unwrap(), b"by its path");
}

#[test]
fn unaligned_direct_reads_do_not_meet_the_local_disk() {
    let (rig, bytes) = cached(&[], 37);
    let reader = open_passed_through(&rig, "data");
    let direct = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(rig.path("data")).unwrap();
    let mut piece = vec![0; 12_345];
    direct.read_exact_at(&mut piece, 4_321).unwrap();
    assert!(piece == bytes[4_321..4_321 + 12_345]);
    assert!(read_by_kernel(&rig, &reader) == bytes);
}

#[test]
fn children_read_what_they_inherit() {
    let (rig, bytes) = cached(&[], 38);
    let file = open_passed_through(&rig, "data");
    let before = rig.metric("fuse_reads");
    let child = Command::new("sha256sum").stdin(Stdio::from(file)).output().unwrap();
    let printed = String::from_utf8(child.stdout).unwrap();
    assert_eq!(printed.split(' ').next(), Some(sha256(&bytes).as_str()));
    assert_eq!(rig.metric("fuse_reads"), before);
    all_closed(&rig);
}

#[test]
fn programs_run_from_passed_through_files() {
    let rig = Rig::mounted(&[]);
    let program = fs::read("/bin/echo").unwrap();
    rig.bucket.put("echo", &program);
    fs::set_permissions(rig.path("echo"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(run_ok(Command::new(rig.path("echo")).arg("first")), "first\n");
    assert!(fs::read(rig.path("echo")).unwrap() == program);
    drop(open_passed_through(&rig, "echo"));
    all_closed(&rig);
    let (opens, reads) = (rig.metric("passthrough_opens"), rig.metric("fuse_reads"));
    assert_eq!(run_ok(Command::new(rig.path("echo")).arg("second")), "second\n");
    assert!(rig.metric("passthrough_opens") > opens);
    assert_eq!(rig.metric("fuse_reads"), reads);
}

#[test]
fn it_can_be_switched_off() {
    let (rig, bytes) = cached(&["--passthrough=false"], 39);
    assert!(fs::read(rig.path("data")).unwrap() == bytes);
    assert_eq!(rig.metric("passthrough_opens"), 0);
    let status = rig.status();
    assert_eq!(status["kernel"]["passthrough"]["state"], "off");
    assert_eq!(status["kernel"]["passthrough"]["reason"], "--passthrough=false");
    let shown = run(rig.command().arg("status").arg(rig.mountpoint())).out;
    assert!(shown.contains("passthrough off (--passthrough=false)"), "{shown}");
}

/// A tmpfs with an overlay in it, taken down at the end.
struct Overlay {
    tmpfs: std::path::PathBuf,
}

impl Overlay {
    fn mounted(at: &std::path::Path) -> Overlay {
        fs::create_dir(at).unwrap();
        run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"]).arg(at));
        let overlay = Overlay { tmpfs: at.to_owned() };
        for name in ["lower", "upper", "work", "merged"] {
            fs::create_dir(at.join(name)).unwrap();
        }
        let layer = |name: &str| at.join(name).display().to_string();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
        run_ok(
            Command::new("mount").args(["-t", "overlay", "-o", &options, "overlay"]).arg(overlay.merged()),
        );
        overlay
    }

    fn merged(&self) -> std::path::PathBuf {
        self.tmpfs.join("merged")
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.merged()).status();
        let _ = Command::new("umount").arg("--lazy").arg(&self.tmpfs).status();
    }
}

#[test]
fn a_cache_on_a_stacked_file_system_is_read_the_ordinary_way_and_told_once() {
    let mut rig = Rig::new();
    let overlay = Overlay::mounted(&rig.home().join("disk"));
    let bytes = pattern(40, LEN);
    rig.bucket.put("data", &bytes);
    rig.mount(&["--cache-free=0", &format!("--cache-dir={}", overlay.merged().join("cache").display())]);
    // Not before all of it is cached and compared, a moment after the first reading.
    wait_for("the kernel has refused the file", Duration::from_secs(10), || {
        assert!(fs::read(rig.path("data")).unwrap() == bytes);
        all_closed(&rig);
        rig.status()["kernel"]["passthrough"]["state"] == "off"
    });
    assert!(fs::read(rig.path("data")).unwrap() == bytes);
    assert_eq!(rig.metric("passthrough_opens"), 0);
    let reason = rig.status()["kernel"]["passthrough"]["reason"].to_string();
    assert!(reason.contains("--cache-dir"), "{reason}");
    assert_eq!(rig.log().matches("Passthrough is off").count(), 1, "{}", rig.log());
    rig.unmount();
}

#[test]
fn making_room_in_the_cache_spares_what_the_kernel_reads() {
    let rig = Rig::mounted(&["--cache-size=8MiB"]);
    let (bytes, others) = (pattern(41, LEN), pattern(42, 20 * MIB));
    rig.bucket.put("data", &bytes);
    rig.bucket.put("others", &others);
    assert!(fs::read(rig.path("data")).unwrap() == bytes);
    all_closed(&rig);
    let file = open_passed_through(&rig, "data");
    assert!(fs::read(rig.path("others")).unwrap() == others);
    assert!(rig.metric("cache_evicted_bytes") > 0, "something had to go");
    assert!(read_by_kernel(&rig, &file) == bytes);
}

#[test]
fn the_cache_is_cleared_around_a_file_that_the_kernel_reads() {
    let (rig, bytes) = cached(&[], 43);
    rig.bucket.put("other", &pattern(44, MIB));
    fs::read(rig.path("other")).unwrap();
    all_closed(&rig);
    let file = open_passed_through(&rig, "data");

    let purged = &cache(&rig, 0, &["purge", "--yes"], &[""])[0];
    assert_eq!((&purged["objects"], &purged["in_use_objects"]), (&1.into(), &1.into()), "{purged}");
    assert!(purged["in_use_bytes"].as_u64() >= Some(LEN as u64), "{purged}");
    assert!(read_by_kernel(&rig, &file) == bytes, "purged");
    let evicted = &cache(&rig, 1, &["evict"], &["data"])[0];
    assert_eq!((&evicted["files"], &evicted["in_use"]["count"]), (&0.into(), &1.into()), "{evicted}");
    cache(&rig, 0, &["pin"], &["data"]);
    let evicted = &cache(&rig, 1, &["evict", "--pinned"], &["data"])[0];
    assert_eq!((&evicted["bytes"], &evicted["in_use"]["count"]), (&0.into(), &1.into()), "{evicted}");
    assert!(read_by_kernel(&rig, &file) == bytes, "evicted");
    let verified = &cache(&rig, 0, &["verify", "--repair"], &[""])[0];
    let chunks = LEN.div_ceil(256 << 10);
    assert_eq!(
        (&verified["chunks"], &verified["removed_chunks"], &verified["removed_objects"]),
        (&chunks.into(), &0.into(), &0.into()),
        "{verified}"
    );
    forget_pages(&file);
    assert!(read_by_kernel(&rig, &file) == bytes, "verified");
    rig.bucket.requests().reset();
    let again = open_passed_through(&rig, "data");
    assert!(read_by_kernel(&rig, &again) == bytes, "opened once more");
    drop((file, again));
    all_closed(&rig);

    let evicted = &cache(&rig, 0, &["evict", "--pinned"], &["data"])[0];
    assert_eq!((&evicted["files"], &evicted["in_use"]["count"]), (&1.into(), &0.into()), "{evicted}");
    let on_disk = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "data");
    assert!(!rig.cache_files().iter().any(on_disk), "nothing of it is left");
    assert_eq!(rig.bucket.count(Operation::GetObject), 0);
    let file = File::open(rig.path("data")).unwrap();
    forget_pages(&file);
    assert!(read_all(&file) == bytes);
    assert_eq!(rig.bucket.requests().count(Operation::GetObject).sent, LEN as u64, "fetched again");
}
