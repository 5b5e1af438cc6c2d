//! Downloads that go on after SIGKILL: what had come is there, what was under way comes once more.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use fastrand::Rng;
use tetherfs::bucket::{Action, Operation, Rule};

use super::{CHUNK, KIB, MIB, expect_at, expect_file, settle};
use crate::support::{Rig, expect_same, pattern, seed};

const KILLS: usize = 20;

#[test]
fn killed_at_twenty_random_points_of_a_cold_read() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let bytes = pattern(seed, 128 * MIB);
    let window = 8 * MIB;
    let mut rig = Rig::new();
    rig.bucket.put_quietly("big", &bytes);
    rig.mount(&["--prefetch=8MiB", "--request-size=2MiB"]);
    // Slow enough that something is under way whenever the daemon dies.
    rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Bandwidth { bytes_per_s: 30 << 20 }));
    rig.bucket.requests().reset();
    let mut points: Vec<usize> = (0..KILLS).map(|_| random.usize(1..bytes.len())).collect();
    points.sort_unstable();
    let (mut at, mut sent, mut most) = (0, 0, 0);
    for (kills, point) in points.into_iter().enumerate() {
        let what = format!("before kill {} at {point}", kills + 1);
        let file = File::open(rig.path("big")).unwrap();
        // The part before is looked at again: it comes from what the killed daemon left.
        let back = at - at.min(random.usize(0..2 * MIB));
        for piece in (back..point).step_by(128 * KIB) {
            let end = (piece + 128 * KIB).min(point);
            expect_at(&what, &file, piece, &bytes[piece..end]);
        }
        std::thread::sleep(Duration::from_millis(random.u64(0..20)));
        rig.kill();
        let fetched = rig.bucket.asked().sent as usize - sent;
        // What was under way at the kill before comes again; and there is the window ahead of the reader, in whole chunks.
        let fair = point - at + 2 * window + CHUNK;
        assert!(fetched <= fair, "{what}: {fetched} bytes since the last one, {fair} would be fair");
        most = most.max(fetched.saturating_sub(point - at));
        (at, sent) = (point, sent + fetched);
        drop(file);
        rig.mount_again();
    }
    rig.bucket.faults().clear();
    expect_file(&rig, "big", &bytes);
    settle();
    let twice = rig.bucket.asked().sent as i64 - bytes.len() as i64;
    eprintln!("{KILLS} kills: {twice} bytes fetched twice; {most} more than read between two, at most");
    assert!(twice >= 0 && twice <= (KILLS * window) as i64, "{twice} bytes twice");
    rig.unmount();
    rig.mount_again();
    rig.bucket.requests().reset();
    expect_file(&rig, "big", &bytes);
    assert_eq!(rig.bucket.asked().gets, 0, "all of it is cached, and right");
    rig.unmount();
}

#[test]
fn two_files_are_kept_across_a_kill_and_a_remount() {
    let mut rig = Rig::mounted(&["--prefetch=2MiB", "--request-size=1MiB"]);
    let (whole, half) = (pattern(1, 20 * MIB + 5), pattern(2, 20 * MIB));
    rig.bucket.put_quietly("whole", &whole);
    rig.bucket.put_quietly("half", &half);
    rig.bucket.requests().reset();
    expect_file(&rig, "whole", &whole);
    let file = File::open(rig.path("half")).unwrap();
    for at in (0..10 * MIB).step_by(MIB) {
        expect_at("half", &file, at, &half[at..at + MIB]);
    }
    settle();
    let fetched_of_half = rig.bucket.asked().sent as usize - whole.len();
    rig.kill();
    drop(file);
    rig.mount_again();
    rig.bucket.requests().reset();
    expect_file(&rig, "whole", &whole);
    assert_eq!(rig.bucket.asked().gets, 0, "what was read whole is there");
    expect_file(&rig, "half", &half);
    settle();
    let rest = rig.bucket.asked().sent as usize;
    assert_eq!(rest + fetched_of_half, half.len(), "nothing had been under way, so nothing comes twice");
    rig.unmount();
    rig.mount_again();
    rig.bucket.requests().reset();
    expect_file(&rig, "half", &half);
    expect_file(&rig, "whole", &whole);
    assert_eq!(rig.bucket.asked().gets, 0);
    rig.unmount();
}

#[test]
fn killed_again_and_again_while_random_reads_run() {
    let seed = seed();
    let mut random = Rng::with_seed(seed);
    let bytes = pattern(seed, 24 * MIB);
    let mut rig = Rig::new();
    rig.bucket.put_quietly("f", &bytes);
    rig.mount(&[]);
    for kill in 0..5 {
        let places: Vec<usize> = (0..200).map(|_| random.usize(0..bytes.len() - 5000)).collect();
        let pause = Duration::from_millis(random.u64(10..80));
        let files: Vec<File> = (0..3).map(|_| File::open(rig.path("f")).unwrap()).collect();
        std::thread::scope(|threads| {
            let readers: Vec<_> = files
                .iter()
                .enumerate()
                .map(|(number, file)| {
                    let (places, bytes) = (&places, &bytes);
                    threads.spawn(move || {
                        for &at in places.iter().skip(number * 60) {
                            let mut seen = [0; 5000];
                            // The daemon dies under it at some point; until then every byte is right.
                            if file.read_exact_at(&mut seen, at as u64).is_err() {
                                return;
                            }
                            expect_same("read", at as u64, &seen, &bytes[at..at + 5000]);
                        }
                    })
                })
                .collect();
            std::thread::sleep(pause);
            rig.kill();
            readers.into_iter().for_each(|reader| reader.join().unwrap());
        });
        rig.mount_again();
        let file = File::open(rig.path("f")).unwrap();
        for &at in &places[..50] {
            expect_at(&format!("after kill {kill}"), &file, at, &bytes[at..at + 5000]);
        }
    }
    expect_file(&rig, "f", &bytes);
    rig.unmount();
}

#[test]
fn a_cache_that_was_wiped_while_the_daemon_was_away_is_a_cold_cache() {
    let mut rig = Rig::mounted(&[]);
    let bytes = pattern(3, 5 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    expect_file(&rig, "f", &bytes);
    rig.unmount();
    assert!(!rig.cache_files().is_empty());
    rig.cache_files().iter().for_each(|file| fs::remove_file(file).unwrap());
    rig.mount_again();
    rig.bucket.requests().reset();
    expect_file(&rig, "f", &bytes);
    settle();
    assert_eq!(rig.bucket.asked().sent, bytes.len() as u64);
}
