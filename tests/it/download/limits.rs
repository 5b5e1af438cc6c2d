//! What reading may take of the machine: memory within its bound, whatever is read; objects of a TiB like any other.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use fastrand::Rng;

use super::{CHUNK, KIB, MIB, expect_at, settle};
use crate::support::{Rig, expect_same, pattern, seed};

/// What a daemon needs besides the data it reads: its program, threads, buffers of connections and of the kernel's.
const OVERHEAD_KIB: u64 = 32 << 10;
const TIB: u64 = 1 << 40;

#[test]
fn eight_readers_of_eight_files_stay_within_the_memory_they_were_given() {
    let rig = Rig::mounted(&["--memory=64MiB", "--metadata-ttl=10m"]);
    let size = 48 * MIB;
    let files: Vec<(String, Vec<u8>)> =
        (0..8).map(|number| (format!("f{number}"), pattern(number, size))).collect();
    for (name, bytes) in &files {
        rig.bucket.put_quietly(name, bytes);
    }
    let idle = rig.memory_kib("VmHWM");
    rig.bucket.requests().reset();
    std::thread::scope(|threads| {
        for (name, bytes) in &files {
            threads.spawn(|| super::expect_file(&rig, name, bytes));
        }
    });
    settle();
    let peak = rig.memory_kib("VmHWM");
    eprintln!("idle {idle} KiB, at most {peak} KiB");
    assert!(peak <= idle + (64 << 10) + OVERHEAD_KIB, "{peak} KiB, {idle} KiB when idle");
    let asked = rig.bucket.asked();
    assert!(asked.sent as usize <= 8 * (size + 4 * CHUNK), "{asked:?}");
}

#[test]
fn filling_the_cache_stays_within_the_memory_too_whatever_a_request_may_bring() {
    for request_size in ["--request-size=8MiB", "--request-size=32MiB"] {
        let rig = Rig::mounted(&["--memory=64MiB", "--metadata-ttl=10m", request_size]);
        let size = 48 * MIB;
        for number in 0..8 {
            rig.bucket.put_quietly(&format!("dir/f{number}"), &pattern(number, size));
        }
        let idle = rig.memory_kib("VmHWM");
        rig.bucket.requests().reset();
        let ran = rig.tetherfs(&["cache", "warm", rig.path("dir").to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
        let peak = rig.memory_kib("VmHWM");
        eprintln!("{request_size}: idle {idle} KiB, at most {peak} KiB");
        assert!(peak <= idle + (64 << 10) + OVERHEAD_KIB, "{peak} KiB, {idle} KiB when idle");
        let asked = rig.bucket.asked();
        assert_eq!(asked.sent as usize, 8 * size, "each byte once: {asked:?}");
        for number in 0..8 {
            super::expect_file(&rig, &format!("dir/f{number}"), &pattern(number, size));
        }
        assert_eq!(rig.bucket.asked().gets, asked.gets, "all of it is on disk");
    }
}

#[test]
fn with_little_memory_and_many_readers_no_byte_is_fetched_twice() {
    let rig = Rig::mounted(&["--memory=64MiB", "--metadata-ttl=10m"]);
    let size = 256 * MIB as u64;
    let names: Vec<String> = (0..8).map(|number| format!("f{number}")).collect();
    for name in &names {
        rig.bucket.put_sparse(name, size / 8, &[(0, name.as_bytes())]);
    }
    rig.bucket.requests().reset();
    std::thread::scope(|threads| {
        for name in &names {
            threads.spawn(|| fs::read(rig.path(name)).unwrap());
        }
    });
    settle();
    let asked = rig.bucket.asked();
    assert_eq!(asked.sent, size, "{asked:?}");
}

#[test]
fn an_object_of_a_tib_is_read_at_scattered_places() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let mut rig = Rig::new();
    let mut places: Vec<u64> = (0..60).map(|_| random.u64(MIB as u64..TIB - MIB as u64)).collect();
    places.extend([0, TIB - 5000]);
    places.sort_unstable();
    places.dedup_by(|two, one| *two - *one < 10_000);
    let islands: Vec<(u64, Vec<u8>)> = places.iter().map(|&at| (at, pattern(at, 5000))).collect();
    let planted: Vec<(u64, &[u8])> = islands.iter().map(|(at, bytes)| (*at, &bytes[..])).collect();
    rig.bucket.put_sparse("huge", TIB, &planted);
    rig.mount(&["--memory=64MiB", "--metadata-ttl=10m"]);
    assert_eq!(fs::metadata(rig.path("huge")).unwrap().len(), TIB);
    let file = File::open(rig.path("huge")).unwrap();
    rig.bucket.requests().reset();
    let idle = rig.memory_kib("VmRSS");
    let mut order: Vec<usize> = (0..islands.len()).collect();
    random.shuffle(&mut order);
    for number in order {
        let (at, island) = &islands[number];
        let before = at.saturating_sub(1000);
        let end = (at + 6000).min(TIB);
        let mut right = vec![0; (end - before) as usize];
        let inside = (at - before) as usize;
        right[inside..inside + island.len()].copy_from_slice(island);
        expect_at("huge", &file, before as usize, &right);
    }
    settle();
    let asked = rig.bucket.asked();
    // Two chunks where an island lies across their border; and the kernel reads a little ahead.
    assert!(asked.sent <= (islands.len() * 3 * CHUNK + 4 * MIB) as u64, "{asked:?}");
    assert_eq!(file.read_at(&mut [0; 10], TIB).unwrap(), 0, "the end");
    // A run somewhere in the middle is fetched ahead as anywhere.
    let middle = TIB / 2 + 12345;
    let mut seen = vec![0; 128 * KIB];
    for step in 0..160 {
        let at = middle + step * seen.len() as u64;
        file.read_exact_at(&mut seen, at).unwrap();
        for (place, island) in &islands {
            assert!(
                place + island.len() as u64 <= at || *place >= at + seen.len() as u64,
                "bad luck: take another seed"
            );
        }
        assert!(seen.iter().all(|&byte| byte == 0), "at {at}");
    }
    let peak = rig.memory_kib("VmHWM");
    eprintln!("idle {idle} KiB, at most {peak} KiB");
    assert!(peak <= idle + (64 << 10) + OVERHEAD_KIB, "{peak} KiB, {idle} KiB when idle");
    let blocks: u64 = rig.cache_files().iter().map(|path| blocks(path)).sum();
    assert!(blocks * 512 <= 2 * rig.bucket.asked().sent + (16 * MIB) as u64, "{blocks} blocks on disk");
    drop(file);
    rig.unmount();
    rig.mount_again();
    rig.bucket.requests().reset();
    let file = File::open(rig.path("huge")).unwrap();
    // Not the first: to begin at the beginning looks like a run.
    for (at, island) in &islands[1..] {
        let mut seen = vec![0; island.len()];
        file.read_exact_at(&mut seen, *at).unwrap();
        expect_same("after a remount", *at, &seen, island);
    }
    let asked = rig.bucket.asked();
    assert_eq!(asked.gets, 0, "kept across the remount: {asked:?}");
    drop(file);
    rig.unmount();
}

/// None of a file that has made room for others meanwhile.
fn blocks(path: &Path) -> u64 {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        found => found.unwrap().blocks(),
    }
}

#[test]
fn the_cache_stays_within_its_size_and_serves_right_bytes() {
    let rig = Rig::mounted(&["--cache-size=16MiB", "--metadata-ttl=10m"]);
    let files: Vec<(String, Vec<u8>)> =
        (0..6).map(|number| (format!("f{number}"), pattern(number, 6 * MIB + 99))).collect();
    for (name, bytes) in &files {
        rig.bucket.put_quietly(name, bytes);
    }
    for round in 0..3 {
        for (name, bytes) in &files {
            super::expect_file(&rig, name, bytes);
            let used: u64 = rig.cache_files().iter().map(|path| blocks(path)).sum::<u64>() * 512;
            // Maps and the rounding to blocks come on top.
            assert!(used <= 17 * MIB as u64, "{used} bytes in round {round}");
        }
    }
    rig.bucket.requests().reset();
    let (name, bytes) = &files[5];
    super::expect_file(&rig, name, bytes);
    assert_eq!(rig.bucket.asked().gets, 0, "what was read last is still there");
}
