//! Objects that others replace or remove while they are read: no handle ever has bytes of two versions.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use fastrand::Rng;
use tetherfs::bucket::{Action, Operation, Quirks, Rule};

use super::{KIB, MIB, expect_at, expect_file};
use crate::support::{Bucket, Rig, expect_same, pattern, seed, wait_for};

/// Longest until a new version is seen, in these mounts.
const TTL: &str = "--metadata-ttl=100ms";
const TTL_OVER: Duration = Duration::from_millis(150);

/// Reads at a place from a handle that was opened when the object was `version`: its bytes, or ESTALE.
fn of_this_version_or_stale(what: &str, file: &File, at: usize, wanted: usize, version: &[u8]) -> bool {
    let end = (at + wanted).min(version.len()).max(at);
    let mut seen = vec![0; wanted];
    let mut filled = 0;
    while filled < wanted {
        match file.read_at(&mut seen[filled..], (at + filled) as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{what}: at {at}: {error}");
                return false;
            }
        }
    }
    let right = version.get(at..end).unwrap_or_default();
    expect_same(what, at as u64, &seen[..filled], right);
    true
}

/// What a new version is like.
#[derive(Clone, Copy)]
enum Size {
    /// As long as the old one.
    Same,
    /// Longer or shorter.
    Other,
}

fn replaced_at_random(rig: &Rig, rounds: u64, size_of_new: Size) {
    let seed = seed();
    for round in 0..rounds {
        let mut random = Rng::with_seed(seed.wrapping_add(round));
        let size = random.usize(1..6 * MIB);
        let new_size = match size_of_new {
            Size::Same => size,
            Size::Other => random.usize(1..6 * MIB),
        };
        let (old, new) = (pattern(round, size), pattern(round + 1000, new_size));
        let (name, what) = (format!("r{round}"), format!("round {round}"));
        rig.bucket.put_quietly(&name, &old);
        let file = File::open(rig.path(&name)).unwrap();
        for _ in 0..random.usize(0..6) {
            let at = random.usize(0..old.len());
            let wanted = random.usize(1..200 * KIB);
            assert!(of_this_version_or_stale(&what, &file, at, wanted, &old), "{what}: not replaced yet");
        }
        rig.bucket.put_quietly(&name, &new);
        if random.bool() {
            // Makes the kernel learn of the new size and time, with the handle of the old version open.
            std::thread::sleep(TTL_OVER);
            fs::metadata(rig.path(&name)).unwrap();
        }
        for _ in 0..10 {
            let at = random.usize(0..old.len().max(new.len()));
            of_this_version_or_stale(&what, &file, at, random.usize(1..200 * KIB), &old);
        }
        drop(file);
        std::thread::sleep(TTL_OVER);
        expect_file(rig, &name, &new);
    }
}

#[test]
fn a_handle_stays_with_its_version() {
    let rig = Rig::mounted(&[TTL, "--request-size=512KiB"]);
    replaced_at_random(&rig, 15, Size::Same);
}

#[test]
fn a_handle_stays_with_its_version_at_a_server_that_ignores_if_match() {
    let quirks = Quirks { ignores_get_if_match: true, ..Quirks::default() };
    let mut rig = Rig::over(Bucket::with(quirks));
    rig.mount(&[TTL, "--request-size=512KiB", "--read-timeout=5s"]);
    replaced_at_random(&rig, 10, Size::Same);
}

#[test]
fn a_handle_stays_with_its_version_when_the_new_one_is_longer_or_shorter() {
    let rig = Rig::mounted(&[TTL, "--request-size=512KiB"]);
    replaced_at_random(&rig, 15, Size::Other);
}

#[test]
fn handles_of_two_versions_do_not_mix() {
    let rig = Rig::mounted(&[TTL, "--request-size=512KiB"]);
    for (round, sizes) in [(3 * MIB, 3 * MIB), (3 * MIB, MIB), (MIB, 3 * MIB)].into_iter().enumerate() {
        let (name, what) = (format!("f{round}"), format!("of {} bytes, then {}", sizes.0, sizes.1));
        let (old, new) = (pattern(6, sizes.0), pattern(7, sizes.1));
        rig.bucket.put_quietly(&name, &old);
        let first = File::open(rig.path(&name)).unwrap();
        expect_at(&what, &first, 0, &old[..100 * KIB]);
        rig.bucket.put_quietly(&name, &new);
        std::thread::sleep(TTL_OVER);
        let second = File::open(rig.path(&name)).unwrap();
        expect_at(&what, &second, 0, &new);
        for at in [0, 50 * KIB, 700 * KIB, sizes.0 - 1000] {
            of_this_version_or_stale(&format!("the old {what}"), &first, at, 1000, &old);
            let end = (at + 1000).min(new.len());
            if at < end {
                expect_at(&format!("the new {what}"), &second, at, &new[at..end]);
            }
        }
    }
}

#[test]
fn a_removed_object_is_read_on_as_far_as_it_is_cached() {
    let rig = Rig::mounted(&[TTL]);
    let bytes = pattern(8, 3 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    let file = File::open(rig.path("f")).unwrap();
    expect_at("before", &file, 0, &bytes);
    super::settle();
    rig.bucket.delete("f");
    std::thread::sleep(TTL_OVER);
    expect_at("after", &file, 0, &bytes);
    crate::support::forget_pages(&file);
    expect_at("from the disk", &file, 0, &bytes);
}

#[test]
fn a_cached_version_is_read_to_its_end_after_it_is_gone() {
    let rig = Rig::mounted(&[TTL]);
    let (old, new) = (pattern(1, 3 * MIB), pattern(2, 3 * MIB));
    rig.bucket.put_quietly("f", &old);
    let file = File::open(rig.path("f")).unwrap();
    expect_at("before", &file, 0, &old);
    super::settle();
    rig.bucket.put_quietly("f", &new);
    crate::support::forget_pages(&file);
    expect_at("of the old version", &file, 0, &old);
    rig.bucket.delete("f");
    drop(file);
    std::thread::sleep(TTL_OVER);
    assert_eq!(File::open(rig.path("f")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn an_object_removed_in_the_middle_is_stale_where_it_is_not_cached() {
    let rig = Rig::mounted(&[TTL, "--request-size=512KiB", "--prefetch=1MiB"]);
    let bytes = pattern(3, 20 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    let file = File::open(rig.path("f")).unwrap();
    expect_at("before", &file, 0, &bytes[..MIB]);
    rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Delete).times(1));
    assert!(!of_this_version_or_stale("after", &file, 15 * MIB, 1000, &bytes), "it is gone");
}

#[test]
fn a_listing_that_is_out_of_date_mixes_nothing() {
    let rig = Rig::mounted(&[TTL, "--read-timeout=5s"]);
    let (old, new) = (pattern(4, 3 * MIB), pattern(5, 3 * MIB + 100));
    for name in ["d/replaced", "d/removed", "d/same"] {
        rig.bucket.put_quietly(name, &old);
    }
    let stale = rig.bucket.faults().add(Rule::on(Operation::ListObjectsV2, Action::Freeze));
    assert_eq!(fs::read_dir(rig.path("d")).unwrap().count(), 3);
    rig.bucket.put_quietly("d/replaced", &new);
    rig.bucket.put_quietly("d/added", &new);
    rig.bucket.delete("d/removed");
    for round in 0..3 {
        std::thread::sleep(TTL_OVER);
        let names = fs::read_dir(rig.path("d")).unwrap().count();
        assert!((2..=4).contains(&names), "{names} names in round {round}");
        expect_file(&rig, "d/same", &old);
        match fs::read(rig.path("d/replaced")) {
            Ok(bytes) => expect_same("replaced", 0, &bytes, &new),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}"),
        }
        let removed = fs::read(rig.path("d/removed")).map(|bytes| bytes.len()).unwrap_err();
        assert!([libc::ENOENT, libc::ESTALE].contains(&removed.raw_os_error().unwrap()), "{removed}");
    }
    assert!(stale.struck() > 1, "the listing was asked for again");
    // Told of the mistake by the object itself, the next open finds the version that is there.
    wait_for("the new version is read in spite of the listing", Duration::from_secs(5), || {
        fs::read(rig.path("d/replaced")).is_ok_and(|bytes| bytes == new)
    });
    rig.bucket.faults().clear();
    std::thread::sleep(TTL_OVER);
    expect_file(&rig, "d/added", &new);
}
