//! A disk under the cache that is small, full, or fails: reading goes on, as if there were no cache.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::{KIB, MIB, expect_at, expect_file, read_through, settle};
use crate::support::{Disk, Rig, expect_same, forget_pages, pattern, run_ok, wait_for};

const GIB: usize = 1 << 30;

/// An object of `size` zeros with random bytes at each MiB, read in order and compared.
struct Striped {
    stripes: Vec<Vec<u8>>,
}

impl Striped {
    const STRIPE: usize = 4 * KIB;

    fn put(rig: &Rig, name: &str, size: usize) -> Striped {
        let stripes: Vec<Vec<u8>> =
            (0..size / MIB).map(|number| pattern(number as u64, Self::STRIPE)).collect();
        let islands: Vec<(u64, &[u8])> =
            stripes.iter().enumerate().map(|(number, bytes)| ((number * MIB) as u64, &bytes[..])).collect();
        rig.bucket.put_sparse(name, size as u64, &islands);
        Striped { stripes }
    }

    fn expect_in_order(&self, rig: &Rig, name: &str) {
        let file = File::open(rig.path(name)).unwrap();
        let zeros = vec![0; MIB - Self::STRIPE];
        let mut seen = vec![0; MIB];
        for (number, stripe) in self.stripes.iter().enumerate() {
            let at = (number * MIB) as u64;
            file.read_exact_at(&mut seen, at).unwrap_or_else(|error| panic!("{name}: at {at}: {error}"));
            expect_same(name, at, &seen[..Self::STRIPE], stripe);
            expect_same(name, at + Self::STRIPE as u64, &seen[Self::STRIPE..], &zeros);
        }
    }
}

fn cache_on(disk: &Disk) -> String {
    format!("--cache-dir={}", disk.path("cache").display())
}

/// Of disks this small nothing is to be left to others, by default they are left alone.
const NO_FLOOR: &str = "--cache-free=0";

#[test]
fn a_gib_is_read_over_a_cache_disk_of_64_mib() {
    let mut rig = Rig::new();
    let disk = Disk::new(&rig.home().join("disk"), "64m");
    let film = Striped::put(&rig, "film", GIB);
    rig.mount(&[&cache_on(&disk), NO_FLOOR]);
    rig.bucket.requests().reset();
    film.expect_in_order(&rig, "film");
    let asked = rig.bucket.asked();
    assert!(asked.gets <= (GIB / (8 * MIB)) as u64 + 40, "requests as large as ever: {asked:?}");
    assert!(asked.sent as usize <= GIB + 32 * MIB, "{asked:?}");
    let evicted = rig.metric("cache_evicted_bytes") as usize;
    assert!(evicted > GIB / 2, "the disk was recycled, and not left alone: {evicted}");
    // What fits is still cached, and another file is no worse off.
    let small = pattern(1, 300_000);
    rig.bucket.put_quietly("small", &small);
    expect_file(&rig, "small", &small);
    settle();
    rig.bucket.requests().reset();
    let file = File::open(rig.path("small")).unwrap();
    forget_pages(&file);
    expect_at("small", &file, 0, &small);
    assert_eq!(rig.bucket.asked().gets, 0, "it is on the disk");
    drop(file);
    rig.unmount();
}

#[test]
fn a_cache_disk_smaller_than_what_stays_free_is_left_alone() {
    let mut rig = Rig::new();
    let disk = Disk::new(&rig.home().join("disk"), "64m");
    let bytes = pattern(6, 40 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    rig.mount(&[&cache_on(&disk)]);
    let free = free_bytes(&disk.path(""));
    for _ in 0..2 {
        let mut file = File::open(rig.path("f")).unwrap();
        forget_pages(&file);
        read_through("f", &mut file, &bytes);
    }
    assert!(free - free_bytes(&disk.path("")) < MIB as u64, "nothing is written to it");
    assert!(rig.metric("cache_bypassed") > 0);
    assert_eq!((rig.metric("cache_failures"), rig.metric("cache_evicted_bytes")), (0, 0));
    rig.unmount();
}

#[test]
fn a_cache_disk_filled_by_others_in_the_middle() {
    let mut rig = Rig::new();
    let disk = Disk::new(&rig.home().join("disk"), "64m");
    let bytes = pattern(2, 40 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    rig.mount(&[&cache_on(&disk), NO_FLOOR, "--prefetch=4MiB", "--request-size=1MiB"]);
    let file = File::open(rig.path("f")).unwrap();
    for at in (0..bytes.len()).step_by(MIB) {
        if (8 * MIB..24 * MIB).contains(&at) {
            // Again and again: what the cache gives back is taken as well, until it has nothing left.
            fill_up(&disk);
        }
        if at == 24 * MIB {
            let again = || {
                let is_bypassed = rig.metric("cache_bypassed") > 0 && rig.metric("cache_failures") > 0;
                if !is_bypassed {
                    fill_up(&disk);
                    forget_pages(&file);
                    (8..24).for_each(|n| expect_at("filled", &file, n * MIB, &bytes[n * MIB..(n + 1) * MIB]));
                }
                is_bypassed
            };
            wait_for("the cache is bypassed", Duration::from_secs(30), again);
            assert!(rig.metric("cache_evicted_bytes") > 0, "before that it makes room for itself");
            fs::remove_file(disk.path("filler")).unwrap();
        }
        expect_at("filled", &file, at, &bytes[at..at + MIB]);
    }
    drop(file);
    rig.unmount();
    // What had been bypassed is fetched again, and kept: there is room.
    for again in 0..2 {
        rig.mount_again();
        rig.bucket.requests().reset();
        expect_file(&rig, "f", &bytes);
        assert_eq!(rig.bucket.asked().gets == 0, again == 1, "{:?}", rig.bucket.asked());
        settle();
        rig.unmount();
    }
}

/// Takes all that is free of a disk.
fn fill(filler: &Path) {
    let mut filler = File::options().create(true).append(true).open(filler).unwrap();
    while filler.write_all(&[0; 64 * KIB]).is_ok() {}
}

/// Takes all there is, also what the cache gives back meanwhile.
fn fill_up(disk: &Disk) {
    wait_for("the disk is full", Duration::from_secs(10), || {
        fill(&disk.path("filler"));
        free_bytes(&disk.path("")) == 0
    });
}

fn free_bytes(place: &Path) -> u64 {
    let status = rustix::fs::statvfs(place).unwrap();
    status.f_bavail * status.f_frsize
}

/// Reads half of a file, does `harm` to the directory of the cache, and reads on: this file, again, and a new one.
fn reads_go_on_after(harm: impl Fn(&Path), undo: impl Fn(&Path)) {
    let mut rig = Rig::new();
    let directory = rig.home().join("cache");
    let (one, two) = (pattern(3, 24 * MIB), pattern(4, 3 * MIB));
    rig.bucket.put_quietly("one", &one);
    rig.bucket.put_quietly("two", &two);
    let option = format!("--cache-dir={}", directory.display());
    rig.mount(&[&option, "--prefetch=4MiB", "--request-size=1MiB"]);
    let file = File::open(rig.path("one")).unwrap();
    expect_at("before", &file, 0, &one[..12 * MIB]);
    harm(&directory);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        expect_at("the rest", &file, 12 * MIB, &one[12 * MIB..]);
        forget_pages(&file);
        expect_at("all of it", &file, 0, &one);
        expect_file(&rig, "two", &two);
        let again = File::open(rig.path("two")).unwrap();
        forget_pages(&again);
        expect_at("two", &again, 0, &two);
        assert!(rig.tetherfs(&["status"]).code == Some(0));
    }));
    undo(&directory);
    outcome.unwrap();
    drop(file);
    rig.unmount();
    rig.mount_again();
    expect_file(&rig, "one", &one);
    expect_file(&rig, "two", &two);
    rig.unmount();
}

#[test]
fn a_cache_directory_mounted_read_only_in_the_middle() {
    // A mount of the directory over itself, so that files that are open for writing are no hindrance.
    reads_go_on_after(
        |directory| {
            run_ok(Command::new("mount").arg("--bind").arg(directory).arg(directory));
            run_ok(Command::new("mount").args(["-o", "remount,bind,ro"]).arg(directory));
        },
        |directory| {
            run_ok(Command::new("umount").arg("--lazy").arg(directory));
        },
    );
}

#[test]
fn a_cache_whose_files_refuse_writes_in_the_middle() {
    // Immutable files refuse writes also through descriptors that are open, as a disk with errors does.
    reads_go_on_after(
        |directory| {
            run_ok(Command::new("chattr").args(["-R", "+i"]).arg(directory));
        },
        |directory| {
            run_ok(Command::new("chattr").args(["-R", "-i"]).arg(directory));
        },
    );
}

#[test]
fn a_cache_directory_deleted_in_the_middle() {
    reads_go_on_after(|directory| fs::remove_dir_all(directory).unwrap(), |_| ());
}

#[test]
fn a_cache_directory_that_is_another_one_in_the_middle() {
    reads_go_on_after(
        |directory| {
            fs::rename(directory, directory.with_extension("old")).unwrap();
            fs::create_dir(directory).unwrap();
        },
        |_| (),
    );
}
