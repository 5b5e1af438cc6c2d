//! What there is when a cache is opened: at once, of any size, within the limit.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cache::files::Pair;
use crate::cache::files::map::Header;
use crate::cache::layout::volume_directory;
use crate::cache::tests::failing::on_mount;
use crate::cache::tests::{
    CHUNK, GROUP, VOLUME, check, disk_bytes, disk_bytes_racing, object, open, open_limited, open_unscanned,
    put, read,
};
use crate::cache::total::Total;
use crate::observe::{Counter, Gauge};
use crate::types::ByteRange;

#[test]
fn a_terabyte_object_with_few_chunks_is_small_everywhere() {
    let home = TempDir::new().unwrap();
    let id = object("tera", 1 << 40);
    let chunks = [0, 1 << 20, (1 << 28) - 1];
    {
        let (cache, _) = open(home.path());
        let cached = cache.object(&id);
        for chunk in chunks {
            put(&cached, &id, ByteRange::at(chunk * CHUNK, CHUNK));
        }
    }
    assert!(disk_bytes(home.path()) <= 64 << 10, "{}", disk_bytes(home.path()));
    let (cache, metrics) = open(home.path());
    let started = Instant::now();
    let cached = cache.object(&id);
    assert_eq!(cached.present().bytes(), 3 * CHUNK);
    for chunk in chunks {
        let range = ByteRange::at(chunk * CHUNK, CHUNK);
        check(&cached, &id, range);
    }
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(metrics.level(Gauge::CacheBytes), 3 * 3 * CHUNK);
}

#[test]
fn a_predecessor_that_is_still_ending_is_waited_for() {
    let home = TempDir::new().unwrap();
    let id = object("a", CHUNK);
    let (before, _) = open(home.path());
    put(&before.object(&id), &id, ByteRange::new(0, CHUNK));
    std::thread::scope(|threads| {
        threads.spawn(move || {
            std::thread::sleep(Duration::from_millis(200));
            drop(before);
        });
        let (cache, _) = open_unscanned(home.path(), 1 << 30);
        assert!(cache.report().is_keeping(), "{:?}", cache.report().not_keeping);
        check(&cache.object(&id), &id, ByteRange::new(0, CHUNK));
    });
}

#[test]
fn many_objects_open_at_once() {
    let home = TempDir::new().unwrap();
    let count = 2_000;
    {
        let (cache, _) = open(home.path());
        for n in 0..count {
            let id = object(&format!("small/{n}"), 100);
            put(&cache.object(&id), &id, ByteRange::new(0, 100));
        }
    }
    let (cache, metrics) = open(home.path());
    assert_eq!(metrics.level(Gauge::CacheBytes), count * 2 * CHUNK);
    let id = object("small/77", 100);
    check(&cache.object(&id), &id, ByteRange::new(0, 100));
}

#[test]
fn a_lowered_limit_holds_at_once_and_keeps_the_most_recent() {
    let home = TempDir::new().unwrap();
    let ids: Vec<_> = (0..6).map(|n| object(&format!("o{n}"), 4 * CHUNK)).collect();
    {
        let (cache, _) = open(home.path());
        for id in &ids {
            put(&cache.object(id), id, ByteRange::new(0, id.size));
            std::thread::sleep(Duration::from_millis(15));
        }
        assert!(read(&cache.object(&ids[0]), ByteRange::new(0, 1)).is_some());
    }
    let limit = 3 * 6 * CHUNK;
    let (cache, metrics) = open_limited(home.path(), limit);
    assert!(disk_bytes(home.path()) <= limit);
    assert!(metrics.level(Gauge::CacheBytes) <= limit);
    let left: Vec<_> =
        ids.iter().filter(|id| !cache.object(id).present().is_empty()).map(|id| id.key.as_str()).collect();
    assert_eq!(left, ["o0", "o4", "o5"]);
}

/// Makes the files of objects without chunks, as fast as can be.
fn plant(home: &Path, keys: impl Iterator<Item = String>) {
    let directory = volume_directory(home, VOLUME);
    std::fs::create_dir_all(&directory).unwrap();
    for key in keys {
        let header = Header::new(VOLUME, &object(&key, 10 * CHUNK), CHUNK);
        drop(Pair::create(&directory, &header).unwrap());
    }
}

/// As if the process had been killed: the number is of this boot, and nobody has closed it.
fn kill(home: &Path, bytes: u64) {
    let (total, _) = Total::open(&volume_directory(home, VOLUME)).unwrap();
    total.close(bytes).unwrap();
    let (_, found) = Total::open(&volume_directory(home, VOLUME)).unwrap();
    assert_eq!(found, Some(bytes));
}

#[test]
fn a_hundred_thousand_objects_are_no_reason_to_wait() {
    // In memory, where so many files are made in a moment.
    on_mount("tmpfs", "size=1g", |home| {
        let old = object("old", 3 * GROUP);
        let count = 100_000;
        {
            let (cache, _) = open(home);
            put(&cache.object(&old), &old, ByteRange::new(0, old.size));
        }
        plant(home, (0..count).map(|n| format!("small/{n}")));
        for killed in [false, true] {
            if killed {
                kill(home, (count + 100) * CHUNK);
            }
            let begun = Instant::now();
            let (cache, metrics) = open_unscanned(home, 1 << 30);
            let opened = begun.elapsed();
            check(&cache.object(&old), &old, ByteRange::new(0, old.size));
            let read = begun.elapsed();
            let new = object(&format!("new{killed}"), CHUNK);
            put(&cache.object(&new), &new, ByteRange::new(0, CHUNK));
            let admitted = begun.elapsed();
            check(&cache.object(&new), &new, ByteRange::new(0, CHUNK));
            assert!(!cache.report().is_scanned, "none of these had to wait for the scan");
            assert_eq!(metrics.count(Counter::CacheBypassed), 0, "nor was anything turned away for it");
            assert!(cache.disk().unwrap().scan.wait_end(Duration::from_secs(60)));
            println!(
                "{count} objects: open {opened:?}, read {read:?}, admitted {admitted:?}, scanned {:?}",
                begun.elapsed()
            );
            assert!(cache.report().objects > count);
            assert!(metrics.level(Gauge::CacheBytes) >= count * CHUNK);
            check(&cache.object(&new), &new, ByteRange::new(0, CHUNK));
        }
    });
}

#[test]
fn after_a_crash_of_the_machine_the_scan_is_waited_for() {
    let home = TempDir::new().unwrap();
    plant(home.path(), (0..500).map(|n| format!("small/{n}")));
    std::fs::write(volume_directory(home.path(), VOLUME).join("total"), b"damaged").unwrap();
    let (cache, metrics) = open_unscanned(home.path(), 1 << 30);
    let new = object("new", CHUNK);
    put(&cache.object(&new), &new, ByteRange::new(0, CHUNK));
    assert!(cache.report().is_scanned);
    check(&cache.object(&new), &new, ByteRange::new(0, CHUNK));
    assert_eq!(metrics.count(Counter::CacheBypassed), 0);
}

#[test]
fn the_limit_holds_while_the_scan_is_still_running() {
    let home = TempDir::new().unwrap();
    let limit = 3000 * CHUNK;
    {
        let (cache, _) = open_limited(home.path(), limit);
        for n in 0..400 {
            let id = object(&format!("old{n}"), 4 * CHUNK);
            put(&cache.object(&id), &id, ByteRange::new(0, id.size));
        }
        assert!(disk_bytes(home.path()) > limit / 2);
    }
    for round in 0..3u64 {
        let done = AtomicBool::new(false);
        let (cache, _) = open_unscanned(home.path(), limit);
        let highest = std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut highest = 0;
                while !done.load(Ordering::Relaxed) {
                    highest = highest.max(disk_bytes_racing(home.path()));
                }
                highest
            });
            for n in 0..100 {
                let id = object(&format!("new{round}/{n}"), 7 * CHUNK);
                let cached = cache.object(&id);
                put(&cached, &id, ByteRange::new(0, id.size));
                // Some of what was there is looked into before the scan comes to it.
                let old = object(&format!("old{}", 5 * n % 400), 4 * CHUNK);
                if let Some(bytes) = read(&cache.object(&old), ByteRange::new(0, old.size)) {
                    assert_eq!(bytes.len() as u64, old.size);
                }
            }
            done.store(true, Ordering::Relaxed);
            watcher.join().unwrap()
        });
        assert!(highest <= limit, "{highest} bytes on disk at some moment, {limit} allowed");
        assert!(cache.disk().unwrap().scan.wait_end(Duration::from_secs(60)));
        let told = cache.report().bytes;
        assert!(disk_bytes(home.path()) <= told && told <= limit);
    }
}

#[test]
fn a_terabyte_object_with_scattered_chunks_is_indexed_in_no_time() {
    let home = TempDir::new().unwrap();
    let id = object("tera", 1 << 40);
    let mut random = fastrand::Rng::with_seed(3);
    let mut chunks: Vec<u64> = (0..1000).map(|_| random.u64(0..1 << 28)).collect();
    chunks.sort_unstable();
    chunks.dedup();
    {
        let (cache, _) = open(home.path());
        let cached = cache.object(&id);
        for chunk in &chunks {
            put(&cached, &id, ByteRange::at(chunk * CHUNK, CHUNK));
        }
    }
    let (cache, metrics) = open(home.path());
    let cached = cache.object(&id);
    let begun = Instant::now();
    let bytes = cached.present_within(ByteRange::new(0, u64::MAX)).bytes();
    let indexed = begun.elapsed();
    println!("1 TiB with {} chunks: indexed in {indexed:?}", chunks.len());
    assert_eq!(bytes, chunks.len() as u64 * CHUNK);
    assert!(indexed < Duration::from_millis(500), "{indexed:?}");
    assert!(cached.groups() <= 1000, "only what is here is remembered");
    assert!(metrics.level(Gauge::CacheBytes) <= 1000 * 3 * CHUNK);
    for chunk in chunks.iter().step_by(97) {
        check(&cached, &id, ByteRange::at(chunk * CHUNK, CHUNK));
    }
}
