//! Bytes that go bad on the disk under the cache: found before they are served, and fetched again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use fastrand::Rng;
use tetherfs::bucket::{Action, Operation, Rule, Side};

use super::{CHUNK, MIB, expect_at, expect_file, read_through, settle};
use crate::support::{Rig, forget_pages, pattern, seed};

const FLIPS: usize = 200;
const FLIPS_A_ROUND: usize = 20;

/// A file of the cache and its length.
type Kept = (PathBuf, u64);
/// What becomes of all of them.
type Harm<'a> = &'a dyn Fn(&[Kept]);

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x40], at).unwrap();
}

/// The files of the cache that hold something, and how long they are.
fn filled(rig: &Rig) -> Vec<Kept> {
    let length = |path: PathBuf| fs::metadata(&path).ok().map(|meta| (path, meta.size()));
    rig.cache_files().into_iter().filter_map(length).filter(|&(_, length)| length > 0).collect()
}

#[test]
fn of_two_hundred_flipped_bytes_none_is_served() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let mut rig = Rig::mounted(&["--metadata-ttl=10m"]);
    let objects: Vec<(String, Vec<u8>)> = [12 * MIB, 5 * MIB + 77, 300_000]
        .into_iter()
        .enumerate()
        .map(|(number, size)| (format!("f{number}"), pattern(seed.wrapping_add(number as u64), size)))
        .collect();
    for (name, bytes) in &objects {
        rig.bucket.put_quietly(name, bytes);
    }
    let mut fetched_again = 0;
    for round in 0..FLIPS / FLIPS_A_ROUND {
        objects.iter().for_each(|(name, bytes)| expect_file(&rig, name, bytes));
        settle();
        // Every other time the daemon starts afresh; else it has the files open, and knows of them what it knows.
        let starts_afresh = round % 2 == 0;
        if starts_afresh {
            rig.unmount();
        }
        let files = filled(&rig);
        assert!(files.len() >= 2 * objects.len(), "data and map of each: {files:?}");
        for _ in 0..FLIPS_A_ROUND {
            let (path, length) = random.choice(&files).unwrap();
            flip(path, random.u64(0..*length));
        }
        if starts_afresh {
            rig.mount_again();
        }
        rig.bucket.requests().reset();
        for (name, bytes) in &objects {
            let mut file = File::open(rig.path(name)).unwrap();
            forget_pages(&file);
            read_through(&format!("{name} in round {round}"), &mut file, bytes);
        }
        settle();
        fetched_again += rig.bucket.asked().sent;
        let size: usize = objects.iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(rig.bucket.asked().sent <= size as u64, "no byte is fetched twice for one flip");
    }
    assert!(fetched_again >= CHUNK as u64, "the flips were found, not missed: {fetched_again} bytes fetched");
    rig.bucket.requests().reset();
    objects.iter().for_each(|(name, bytes)| expect_file(&rig, name, bytes));
    settle();
    assert_eq!(rig.bucket.asked().gets, 0, "what was mended is cached again");
}

#[test]
fn bytes_flipped_under_an_open_handle_are_not_served() {
    let mut random = Rng::with_seed(seed());
    let rig = Rig::mounted(&["--metadata-ttl=10m"]);
    let bytes = pattern(1, 8 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    let file = File::open(rig.path("f")).unwrap();
    expect_at("cold", &file, 0, &bytes);
    settle();
    for round in 0..10 {
        for (path, length) in filled(&rig) {
            flip(&path, random.u64(0..length));
        }
        forget_pages(&file);
        expect_at(&format!("round {round}"), &file, 0, &bytes);
    }
}

#[test]
fn cache_files_that_are_cut_emptied_or_exchanged_are_no_source() {
    let mut rig = Rig::mounted(&["--metadata-ttl=10m"]);
    let objects = [("a", pattern(1, 3 * MIB)), ("b", pattern(2, 3 * MIB))];
    for (name, bytes) in &objects {
        rig.bucket.put_quietly(name, bytes);
    }
    let shorten = |path: &Path, to: u64| File::options().write(true).open(path).unwrap().set_len(to).unwrap();
    let harms: [(&str, Harm<'_>); 4] = [
        ("cut", &|files| files.iter().for_each(|(path, length)| shorten(path, length / 2))),
        ("emptied", &|files| files.iter().for_each(|(path, _)| shorten(path, 0))),
        ("zeroed", &|files| {
            files.iter().for_each(|(path, length)| {
                shorten(path, 0);
                shorten(path, *length);
            })
        }),
        ("exchanged", &|files| {
            for (number, (one, length)) in files.iter().enumerate() {
                let same = |(path, other): &&Kept| other == length && path.extension() == one.extension();
                if let Some((other, _)) = files[number + 1..].iter().find(same) {
                    let aside = one.with_extension("aside");
                    fs::rename(one, &aside).unwrap();
                    fs::rename(other, one).unwrap();
                    fs::rename(&aside, other).unwrap();
                }
            }
        }),
    ];
    for (harm, act) in harms {
        for restarts in [false, true] {
            objects.iter().for_each(|(name, bytes)| expect_file(&rig, name, bytes));
            settle();
            if restarts {
                rig.unmount();
            }
            act(&filled(&rig));
            if restarts {
                rig.mount_again();
            }
            for (name, bytes) in &objects {
                let mut file = File::open(rig.path(name)).unwrap();
                forget_pages(&file);
                read_through(&format!("{name}, {harm}, restarts: {restarts}"), &mut file, bytes);
            }
        }
    }
}

fn flipped(at: u64) -> Rule {
    Rule::on(Operation::GetObject, Action::Flip { side: Side::Answer, at })
}

#[test]
fn a_byte_flipped_on_the_way_of_a_small_object_is_not_served() {
    let mut random = Rng::with_seed(seed());
    let rig = Rig::mounted(&["--metadata-ttl=10m"]);
    for (number, size) in [1, 5_000, CHUNK, CHUNK + 1, MIB].into_iter().enumerate() {
        for is_listed in [false, true] {
            let (name, bytes) = (format!("d{number}-{is_listed}/f"), pattern(number as u64, size));
            rig.bucket.put_quietly(&name, &bytes);
            if is_listed {
                fs::read_dir(rig.path(&name).parent().unwrap()).unwrap().for_each(drop);
            }
            let flip = rig.bucket.faults().add(flipped(random.u64(0..size as u64)).times(1));
            expect_file(&rig, &name, &bytes);
            assert_eq!(flip.struck(), 1);
            rig.bucket.faults().clear();
            let mut file = File::open(rig.path(&name)).unwrap();
            forget_pages(&file);
            read_through(&name, &mut file, &bytes);
        }
    }
}

#[test]
fn a_small_object_that_always_comes_flipped_is_an_error() {
    let rig = Rig::mounted(&["--metadata-ttl=10m", "--read-timeout=3s"]);
    let bytes = pattern(1, 100_000);
    rig.bucket.put_quietly("f", &bytes);
    rig.bucket.faults().add(flipped(77_777));
    let error = fs::read(rig.path("f")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
    rig.bucket.faults().clear();
    expect_file(&rig, "f", &bytes);
}

#[test]
fn a_byte_flipped_on_the_way_of_a_large_object_does_not_stay() {
    let mut rig = Rig::mounted(&["--metadata-ttl=10m"]);
    let bytes = pattern(2, 20 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    let flip = rig.bucket.faults().add(flipped(100_000).skip(2).times(1));
    // Of a part alone no server tells a checksum, so this once the byte may be served; when all is there it is found.
    let first = fs::read(rig.path("f"));
    assert_eq!(flip.struck(), 1);
    eprintln!("the flipped byte was served: {}", first.is_ok_and(|first| first != bytes));
    settle();
    let mut file = File::open(rig.path("f")).unwrap();
    forget_pages(&file);
    read_through("again", &mut file, &bytes);
    drop(file);
    rig.unmount();
    rig.mount_again();
    expect_file(&rig, "f", &bytes);
}
