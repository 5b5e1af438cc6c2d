//! The cache as its users see it, on real files.

mod damage;
mod failing;
mod opening;
mod operator;
mod whole;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cache::{CachedObject, ChunkCache, Options};
use crate::observe::{Counter, Gauge, Metrics};
use crate::types::{ByteRange, ByteSize, ETag, Key, ObjectId};

const VOLUME: &str = "memory://test";
const CHUNK: u64 = 4096;
const GROUP: u64 = 16 * CHUNK;
const SEAL_BYTES: u64 = 64;

fn object(key: &str, size: u64) -> ObjectId {
    ObjectId { key: Key::new(key).unwrap(), etag: ETag::new("v1"), size }
}

/// Bytes that differ between objects and places.
fn content(id: &ObjectId, range: ByteRange) -> Vec<u8> {
    let salt = id.key.as_str().bytes().fold(7u64, |sum, byte| sum * 31 + u64::from(byte));
    (range.start..range.end).map(|at| ((at ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

fn open_once(directory: &Path, bytes_max: u64) -> (Arc<ChunkCache>, Arc<Metrics>) {
    let (cache, metrics) = open_unscanned(directory, bytes_max);
    if let Some(disk) = cache.disk() {
        assert!(disk.scan.wait_end(Duration::from_secs(60)));
    }
    (cache, metrics)
}

/// Without waiting for the scan.
fn open_unscanned(directory: &Path, bytes_max: u64) -> (Arc<ChunkCache>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    let options = Options {
        directory: directory.into(),
        bytes_max: ByteSize(bytes_max),
        free_bytes_min: ByteSize(0),
        chunk_bytes: ByteSize(CHUNK),
    };
    (ChunkCache::open(VOLUME, options, metrics.clone()).unwrap(), metrics)
}

fn open_limited(directory: &Path, bytes_max: u64) -> (Arc<ChunkCache>, Arc<Metrics>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let opened = open_once(directory, bytes_max);
        // A program that another test starts has our lease as well, from its fork to its exec.
        if opened.0.disk().is_some() {
            return opened;
        }
        assert!(Instant::now() < deadline, "the lease is not given back");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until nobody has any object open, also in the background.
#[track_caller]
fn wait_until_closed(cache: &ChunkCache) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let disk = cache.disk().unwrap();
    while !disk.prover.is_idle() || !crate::cache::locked(&disk.held).is_empty() {
        assert!(Instant::now() < deadline, "somebody keeps an object open");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn open(directory: &Path) -> (Arc<ChunkCache>, Arc<Metrics>) {
    open_limited(directory, 1 << 30)
}

fn put(cached: &CachedObject, id: &ObjectId, range: ByteRange) {
    cached.put(range.start, &content(id, range));
}

fn read(cached: &CachedObject, range: ByteRange) -> Option<Vec<u8>> {
    let mut out = b"before".to_vec();
    let found = cached.read(range, &mut out);
    assert_eq!(&out[..6], b"before");
    assert!(found || out.len() == 6, "a miss leaves the buffer as it was");
    found.then(|| out.split_off(6))
}

/// Reads what must be here, and be right.
#[track_caller]
fn check(cached: &CachedObject, id: &ObjectId, range: ByteRange) {
    let bytes = read(cached, range);
    assert!(bytes.is_some(), "{range:?} is not here");
    assert!(bytes == Some(content(id, range)), "{range:?} has other bytes");
}

#[track_caller]
fn check_absent(cached: &CachedObject, range: ByteRange) {
    assert!(read(cached, range).is_none(), "{range:?} is here");
}

fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, suffix));
        } else if path.to_str().unwrap().ends_with(suffix) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn disk_bytes(directory: &Path) -> u64 {
    let of = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.blocks() * 512);
    files(directory, ".data").into_iter().chain(files(directory, ".map")).map(of).sum()
}

#[test]
fn what_was_put_is_read_in_any_cut_and_after_reopening() {
    let home = TempDir::new().unwrap();
    let id = object("dir/file", 10 * CHUNK + 100);
    let whole = ByteRange::new(0, id.size);
    {
        let (cache, metrics) = open(home.path());
        let cached = cache.object(&id);
        assert!(cached.present().is_empty());
        assert_eq!(files(home.path(), ".map").len(), 0, "files are made by the first put");
        put(&cached, &id, ByteRange::new(2 * CHUNK, 5 * CHUNK));
        put(&cached, &id, ByteRange::new(10 * CHUNK, id.size));
        let present: Vec<_> = cached.present().iter().collect();
        assert_eq!(present, [ByteRange::new(2 * CHUNK, 5 * CHUNK), ByteRange::new(10 * CHUNK, id.size)]);
        check_absent(&cached, ByteRange::new(2 * CHUNK, 5 * CHUNK + 1));
        put(&cached, &id, whole);
        assert_eq!(metrics.count(Counter::CacheBypassed), 0);
    }
    let (cache, metrics) = open(home.path());
    let cached = cache.object(&id);
    assert_eq!(cached.present().iter().collect::<Vec<_>>(), [whole]);
    let middle = cached.present_within(ByteRange::new(CHUNK + 1, 2 * CHUNK + 1));
    assert_eq!(middle.iter().collect::<Vec<_>>(), [ByteRange::new(CHUNK, 3 * CHUNK)]);
    let mut seed = fastrand::Rng::with_seed(1);
    for _ in 0..500 {
        let (a, b) = (seed.u64(0..=id.size), seed.u64(0..=id.size));
        let range = ByteRange::new(a.min(b), a.max(b));
        check(&cached, &id, range);
    }
    assert_eq!(metrics.count(Counter::CacheDamaged), 0);
    let other = ObjectId { etag: ETag::new("v2"), ..id };
    assert!(cache.object(&other).present().is_empty(), "another version is another object");
}

#[test]
fn parts_of_a_chunk_are_checked_once_and_again_when_somebody_has_been_at_the_file() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open(home.path());
    let id = object("a", CHUNK);
    let cached = cache.object(&id);
    put(&cached, &id, ByteRange::new(0, CHUNK));
    check(&cached, &id, ByteRange::new(0, 100));
    File::options()
        .write(true)
        .open(&files(home.path(), ".data")[0])
        .unwrap()
        .write_all_at(b"bad", 200)
        .unwrap();
    check_absent(&cached, ByteRange::new(100, 150));
    assert_eq!(metrics.count(Counter::CacheDamaged), 1);
    put(&cached, &id, ByteRange::new(0, CHUNK));
    check(&cached, &id, ByteRange::new(100, 300));
}

#[test]
fn the_least_recently_used_group_goes_first() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open_limited(home.path(), 4 * (GROUP + 2 * CHUNK) + 2 * CHUNK);
    let ids: Vec<_> = ["a", "b"].iter().map(|key| object(key, 2 * GROUP)).collect();
    let held: Vec<_> = ids.iter().map(|id| cache.object(id)).collect();
    for (id, cached) in ids.iter().zip(&held) {
        put(cached, id, ByteRange::new(0, 2 * GROUP));
    }
    assert_eq!(metrics.count(Counter::CacheEvictedBytes), 0);
    assert!(read(&held[0], ByteRange::new(0, 1)).is_some());
    let third = object("c", CHUNK);
    put(&cache.object(&third), &third, ByteRange::new(0, CHUNK));
    let first_left: Vec<_> = held[0].present().iter().collect();
    assert_eq!(first_left, [ByteRange::new(0, GROUP)], "the group that was read stays");
    assert_eq!(held[1].present().bytes(), 2 * GROUP);
    assert_eq!(metrics.count(Counter::CacheEvictedBytes), GROUP + 2 * CHUNK);
}

#[test]
fn an_object_without_chunks_loses_its_files() {
    let home = TempDir::new().unwrap();
    let (cache, _) = open_limited(home.path(), 3 * GROUP);
    let (a, b) = (object("a", GROUP), object("b", 3 * GROUP));
    put(&cache.object(&a), &a, ByteRange::new(0, GROUP));
    assert_eq!(files(home.path(), ".map").len(), 1);
    let held = cache.object(&b);
    for chunk in ByteRange::new(0, b.size).split(CHUNK) {
        put(&held, &b, chunk);
    }
    assert!(cache.object(&a).present().is_empty());
    assert_eq!(files(home.path(), ".map").len(), 1, "only the second object is left");
}

#[test]
fn the_limit_holds_at_every_moment_with_many_writers() {
    let home = TempDir::new().unwrap();
    let limit = 40 * CHUNK;
    let (cache, metrics) = open_limited(home.path(), limit);
    let done = AtomicBool::new(false);
    let highest = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut highest = 0;
            while !done.load(Ordering::Relaxed) {
                highest = highest.max(disk_bytes_racing(home.path()));
            }
            highest
        });
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let cache = cache.clone();
                scope.spawn(move || {
                    let mut random = fastrand::Rng::with_seed(writer);
                    for _ in 0..300 {
                        let id = object(&format!("o{}", random.u64(0..6)), 40 * CHUNK + 5);
                        let cached = cache.object(&id);
                        let chunk = random.u64(0..41);
                        let range = ByteRange::at(chunk * CHUNK, CHUNK).clip(id.size);
                        put(&cached, &id, range);
                        if let Some(bytes) = read(&cached, range) {
                            assert_eq!(bytes, content(&id, range));
                        }
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        done.store(true, Ordering::Relaxed);
        watcher.join().unwrap()
    });
    assert!(highest <= limit, "{highest} bytes on disk at some moment, {limit} allowed");
    assert!(highest > limit / 2, "the watcher has seen nothing: {highest}");
    assert!(metrics.level(Gauge::CacheBytes) <= limit);
    assert!(metrics.count(Counter::CacheEvictedBytes) > 0);
    assert_eq!(metrics.count(Counter::CacheDamaged), 0);
}

/// [`disk_bytes`] while files come and go.
fn disk_bytes_racing(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => disk_bytes_racing(&entry.path()),
            Ok(metadata) if entry.file_name() != "lease" => metadata.blocks() * 512,
            Ok(_) | Err(_) => 0,
        })
        .sum()
}

#[test]
fn a_large_object_found_on_disk_is_evicted_by_groups_from_its_end() {
    let home = TempDir::new().unwrap();
    let id = object("film", 20 * GROUP);
    {
        let (cache, _) = open(home.path());
        put(&cache.object(&id), &id, ByteRange::new(0, id.size));
    }
    let (cache, _) = open_limited(home.path(), 20 * GROUP + 8 * CHUNK);
    let other = object("other", GROUP);
    put(&cache.object(&other), &other, ByteRange::new(0, GROUP));
    check(&cache.object(&other), &other, ByteRange::new(0, GROUP));
    let present: Vec<_> = cache.object(&id).present().iter().collect();
    assert_eq!(present, [ByteRange::new(0, 17 * GROUP)]);
}
