//! A disk that is full, shared, read-only or broken.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::cache::health::FULL_PAUSE;
use crate::cache::tests::{
    CHUNK, GROUP, check, check_absent, disk_bytes, object, open, open_limited, open_once, put, read,
};
use crate::cache::{ChunkCache, Options};
use crate::observe::{Counter, Gauge, Metrics};
use crate::types::{ByteRange, ByteSize};

/// Runs `test` on a file system of its own, which takes root.
pub(super) fn on_mount(kind: &str, options: &str, test: impl FnOnce(&Path) + std::panic::UnwindSafe) {
    let home = TempDir::new().unwrap();
    let mount = Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(home.path()).status();
    assert!(mount.is_ok_and(|status| status.success()), "this needs the right to mount a {kind}");
    let result = std::panic::catch_unwind(|| test(home.path()));
    let unmounted = Command::new("umount").arg(home.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    result.unwrap();
}

#[test]
fn a_disk_that_others_have_filled_is_recycled() {
    on_mount("tmpfs", "size=256k", |home| {
        let (cache, metrics) = open(home);
        let id = object("a", 1000 * CHUNK);
        let cached = cache.object(&id);
        for chunk in ByteRange::new(0, 200 * CHUNK).split(CHUNK) {
            put(&cached, &id, chunk);
        }
        let present = cached.present();
        assert!(present.bytes() >= 8 * CHUNK, "{present:?}");
        assert!(present.contains(ByteRange::new(199 * CHUNK, 200 * CHUNK)), "the newest replaced the oldest");
        present.iter().for_each(|range| check(&cached, &id, range));
        assert!(metrics.count(Counter::CacheEvictedBytes) > 0);
        assert_eq!(metrics.count(Counter::CacheDamaged), 0);
    });
}

#[test]
fn a_full_disk_is_bypassed() {
    on_mount("tmpfs", "size=256k", |home| {
        let (cache, metrics) = open(home);
        fs::write(home.join("others"), vec![0; 256 << 10]).unwrap_err();
        let id = object("a", CHUNK);
        put(&cache.object(&id), &id, ByteRange::new(0, CHUNK));
        assert_eq!(metrics.count(Counter::CacheBypassed), 1);
        check_absent(&cache.object(&id), ByteRange::new(0, CHUNK));
        assert_eq!(metrics.level(Gauge::CacheBytes), 0);
    });
}

#[test]
fn a_file_system_without_holes_gives_up_whole_objects() {
    on_mount("ramfs", "mode=0700", |home| {
        let limit = 5 * GROUP;
        let (cache, metrics) = open_limited(home, limit);
        let ids: Vec<_> = (0..4).map(|n| object(&format!("o{n}"), 2 * GROUP)).collect();
        let held: Vec<_> = ids.iter().map(|id| cache.object(id)).collect();
        for (id, cached) in ids.iter().zip(&held) {
            put(cached, id, ByteRange::new(0, id.size));
            assert!(metrics.level(Gauge::CacheBytes) <= limit);
        }
        assert!(held[0].present().is_empty() && held[1].present().is_empty());
        for (id, cached) in ids.iter().zip(&held).skip(2) {
            check(cached, id, ByteRange::new(0, id.size));
        }
        put(&held[0], &ids[0], ByteRange::new(0, GROUP));
        check(&held[0], &ids[0], ByteRange::new(0, GROUP));
        assert_eq!(metrics.count(Counter::CacheBypassed) + metrics.count(Counter::CacheDamaged), 0);
    });
}

#[test]
fn a_second_user_of_a_volume_and_a_limit_of_zero_keep_nothing() {
    let home = TempDir::new().unwrap();
    let id = object("a", CHUNK);
    let (first, _) = open(home.path());
    let (second, _) = open_once(home.path(), 1 << 30);
    let (none, _) = open_once(&home.path().join("unmade"), 0);
    for cache in [&second, &none] {
        let cached = cache.object(&id);
        put(&cached, &id, ByteRange::new(0, CHUNK));
        assert!(cached.present().is_empty());
        check_absent(&cached, ByteRange::new(0, CHUNK));
    }
    assert!(!home.path().join("unmade").exists());
    put(&first.object(&id), &id, ByteRange::new(0, CHUNK));
    assert_eq!(first.object(&id).present().bytes(), CHUNK);
}

/// As [`open_once`], with room that stays free.
fn open_with_floor(home: &Path, free_bytes_min: u64) -> (Arc<ChunkCache>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let options = Options {
        directory: home.into(),
        bytes_max: ByteSize(1 << 30),
        free_bytes_min: ByteSize(free_bytes_min),
        chunk_bytes: ByteSize(CHUNK),
    };
    let cache = ChunkCache::open("memory://test", options, metrics.clone()).unwrap();
    let disk = cache.disk().expect("nobody else has this mount");
    assert!(disk.scan.wait_end(Duration::from_secs(60)));
    (cache, metrics)
}

fn free_bytes(home: &Path) -> u64 {
    let told = rustix::fs::statvfs(home).unwrap();
    told.f_bavail * told.f_frsize
}

#[test]
fn so_much_stays_free_for_others_also_when_they_take_more() {
    on_mount("tmpfs", "size=4m", |home| {
        let floor = 1 << 20;
        let (cache, metrics) = open_with_floor(home, floor);
        let id = object("a", 2000 * CHUNK);
        let cached = cache.object(&id);
        let mut least = u64::MAX;
        for chunk in ByteRange::new(0, 1500 * CHUNK).split(CHUNK) {
            put(&cached, &id, chunk);
            least = least.min(free_bytes(home));
        }
        assert!(least >= floor, "{least} bytes were free at some moment");
        assert_eq!(metrics.count(Counter::CacheBypassed), 0, "the oldest made room");
        check(&cached, &id, ByteRange::new(1499 * CHUNK, 1500 * CHUNK));
        let before = cached.present().bytes();
        // Others take most of what is left: the next chunks give back what they need.
        fs::write(home.join("others"), vec![1; 1 << 20]).unwrap();
        for chunk in ByteRange::new(1500 * CHUNK, 1520 * CHUNK).split(CHUNK) {
            put(&cached, &id, chunk);
        }
        assert!(free_bytes(home) >= floor);
        assert!(cached.present().bytes() < before);
        // They take all: nothing more is kept, nothing fails.
        let mut left = File::create(home.join("more")).unwrap();
        while std::io::Write::write_all(&mut left, &[1; 4096]).is_ok() {}
        for chunk in ByteRange::new(1520 * CHUNK, 1990 * CHUNK).split(CHUNK) {
            put(&cached, &id, chunk);
        }
        assert!(free_bytes(home) >= floor || cached.present().is_empty());
        assert_eq!(metrics.count(Counter::CacheDamaged) + metrics.count(Counter::CacheFailures), 0);
    });
}

#[test]
fn a_disk_smaller_than_the_floor_keeps_nothing_and_says_so() {
    on_mount("tmpfs", "size=2m", |home| {
        let (cache, metrics) = open_with_floor(home, 1 << 30);
        let id = object("a", 10 * CHUNK);
        put(&cache.object(&id), &id, ByteRange::new(0, id.size));
        assert_eq!(metrics.count(Counter::CacheBypassed), 10);
        let report = cache.report();
        assert!(report.not_keeping.unwrap().contains("1 GiB"));
        assert_eq!((disk_bytes(home), report.bytes), (0, 0));
    });
}

#[test]
fn a_full_disk_is_tried_again_later() {
    on_mount("tmpfs", "size=256k", |home| {
        let (cache, metrics) = open(home);
        fs::write(home.join("others"), vec![0; 256 << 10]).unwrap_err();
        let id = object("a", 3 * CHUNK);
        let cached = cache.object(&id);
        put(&cached, &id, ByteRange::new(0, id.size));
        assert_eq!(metrics.count(Counter::CacheBypassed), 3);
        assert_eq!(metrics.count(Counter::CacheFailures), 1, "the disk is left alone after the first");
        assert!(!cache.report().is_keeping());
        fs::remove_file(home.join("others")).unwrap();
        std::thread::sleep(FULL_PAUSE);
        put(&cached, &id, ByteRange::new(0, id.size));
        check(&cached, &id, ByteRange::new(0, id.size));
        assert!(cache.report().is_keeping());
    });
}

#[test]
fn a_directory_that_is_read_only_or_full_from_the_start_keeps_nothing() {
    for (options, is_full) in [("size=256k,ro", false), ("size=64k", true)] {
        on_mount("tmpfs", options, move |home| {
            if is_full {
                fs::write(home.join("others"), vec![0; 1 << 20]).unwrap_err();
            }
            let (cache, metrics) = open_once(home, 1 << 30);
            let id = object("a", CHUNK);
            let cached = cache.object(&id);
            put(&cached, &id, ByteRange::new(0, CHUNK));
            check_absent(&cached, ByteRange::new(0, CHUNK));
            assert!(!cache.report().is_keeping());
            assert_eq!(metrics.level(Gauge::CacheBytes), 0);
        });
    }
}

/// Runs `test` on an ext4 of its own, which takes root, a loop device and what `scripts/setup.sh` installs.
fn on_ext4(test: impl FnOnce(&Path) + std::panic::UnwindSafe) {
    let (home, image) = (TempDir::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    image.as_file().set_len(32 << 20).unwrap();
    let made = Command::new("mkfs.ext4").arg("-q").arg(image.path()).status();
    assert!(made.is_ok_and(|status| status.success()), "this needs mkfs.ext4");
    let mounted = Command::new("mount").args(["-o", "loop"]).arg(image.path()).arg(home.path()).status();
    assert!(mounted.is_ok_and(|status| status.success()), "this needs a loop device and the right to mount");
    let result = std::panic::catch_unwind(|| test(home.path()));
    let unmounted = Command::new("umount").arg(home.path()).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    result.unwrap();
}

#[test]
fn a_disk_that_turns_read_only_is_read_on_and_left_alone() {
    on_ext4(|home| {
        let (ids, whole) = ([object("a", GROUP), object("b", GROUP)], ByteRange::new(0, GROUP));
        let (cache, metrics) = open(home);
        ids.iter().for_each(|id| put(&cache.object(id), id, whole));
        let (open_already, bytes) = (cache.object(&ids[0]), metrics.level(Gauge::CacheBytes));
        check(&open_already, &ids[0], whole);
        let aborted = Command::new("mount").args(["-o", "remount,abort"]).arg(home).status().unwrap();
        assert!(aborted.success());
        let new = object("new", 20 * GROUP);
        let cached = cache.object(&new);
        put(&cached, &new, ByteRange::new(0, new.size));
        assert!(cached.present().is_empty());
        assert_eq!(metrics.count(Counter::CacheBypassed), 320);
        assert_eq!(metrics.count(Counter::CacheFailures), 1, "the disk is left alone after the first");
        assert!(cache.report().not_keeping.unwrap().contains("ead-only"));
        check(&open_already, &ids[0], whole);
        cache.disk().unwrap().health.end_pause();
        check(&cache.object(&ids[1]), &ids[1], whole);
        put(&cached, &new, ByteRange::new(0, CHUNK));
        assert_eq!(metrics.count(Counter::CacheFailures), 2, "tried again");
        // What cannot be taken off stays charged.
        assert!(cache.evict(&ids[0]).is_err());
        assert_eq!(cache.purge().failed_objects, 2);
        assert!(metrics.level(Gauge::CacheBytes) >= bytes);
        assert_eq!(metrics.count(Counter::CacheDamaged), 0);
    });
}

#[test]
fn a_disk_that_is_gone_is_a_cache_without_anything() {
    on_ext4(|home| {
        let (id, whole) = (object("a", GROUP), ByteRange::new(0, GROUP));
        let (cache, metrics) = open(home);
        put(&cache.object(&id), &id, whole);
        shut_down(home);
        let cached = cache.object(&id);
        // Nothing is asserted of what is still in memory, but that it is right.
        if let Some(bytes) = read(&cached, whole) {
            assert!(bytes == crate::cache::tests::content(&id, whole));
        }
        let new = object("new", 20 * GROUP);
        let cached = cache.object(&new);
        put(&cached, &new, ByteRange::new(0, new.size));
        check_absent(&cached, ByteRange::new(0, 1));
        assert_eq!(metrics.count(Counter::CacheBypassed), 320);
        assert!((1..=2).contains(&metrics.count(Counter::CacheFailures)));
        assert!(!cache.report().is_keeping());
        let (again, _) = {
            drop((cached, cache));
            open_once(home, 1 << 30)
        };
        assert!(!again.report().is_keeping(), "also when it is opened");
    });
}

/// Has a file system answer everything with EIO from now on.
fn shut_down(home: &Path) {
    /// `EXT4_IOC_SHUTDOWN`, the same number as for XFS and F2FS.
    const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
    /// Without writing anything out.
    const NO_LOG_FLUSH: u32 = 2;
    let root = File::open(home).unwrap();
    // SAFETY: the call reads four bytes from the pointer, which is to a u32 that lives longer.
    let done = unsafe { libc::ioctl(root.as_raw_fd(), SHUTDOWN, &NO_LOG_FLUSH) };
    assert_eq!(done, 0);
}

#[test]
fn a_limit_of_little_more_than_nothing_refuses_politely() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open_limited(home.path(), 2 * CHUNK);
    let id = object("a", CHUNK);
    put(&cache.object(&id), &id, ByteRange::new(0, CHUNK));
    assert_eq!(metrics.count(Counter::CacheBypassed), 1);
    assert_eq!(disk_bytes(home.path()), 0);
}
