//! Readers that are neither in order nor at random: several places at a time, backward, with strides, a short look.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::{CHUNK, KIB, MIB, expect_at, settle};
use crate::support::{Rig, pattern, seed};

const LONG_TTL: &str = "--metadata-ttl=10m";
/// Requests of a run before they have their full size.
const RAMP: u64 = 8;
/// Bytes of a full request.
const REQUEST: usize = 8 * MIB;

fn mounted_with(bytes: &[u8]) -> Rig {
    let rig = Rig::mounted(&[LONG_TTL]);
    rig.bucket.put_quietly("big", bytes);
    fs::metadata(rig.path("big")).unwrap();
    rig.bucket.requests().reset();
    rig
}

#[test]
fn four_handles_each_in_order_through_its_quarter() {
    let bytes = pattern(1, 64 * MIB);
    let rig = mounted_with(&bytes);
    let quarter = bytes.len() / 4;
    let files: Vec<File> = (0..4).map(|_| File::open(rig.path("big")).unwrap()).collect();
    let step = 128 * KIB;
    for within in (0..quarter).step_by(step) {
        for (number, file) in files.iter().enumerate() {
            let at = number * quarter + within;
            expect_at("quarter", file, at, &bytes[at..at + step]);
        }
    }
    settle();
    let asked = rig.bucket.asked();
    assert_eq!(asked.sent, bytes.len() as u64, "no byte twice: {asked:?}");
    assert!(asked.gets <= 4 * (2 + RAMP), "{asked:?}");
}

#[test]
fn a_backward_reader_fetches_no_byte_twice() {
    let bytes = pattern(2, 16 * MIB);
    let rig = mounted_with(&bytes);
    let file = File::open(rig.path("big")).unwrap();
    let step = 64 * KIB;
    for at in (0..bytes.len()).step_by(step).rev() {
        expect_at("backward", &file, at, &bytes[at..at + step]);
    }
    settle();
    let asked = rig.bucket.asked();
    assert_eq!(asked.sent, bytes.len() as u64, "{asked:?}");
    assert!(asked.gets <= (bytes.len() / CHUNK) as u64, "{asked:?}");
}

#[test]
fn a_strided_reader_fetches_little_more_than_the_chunks_it_touches() {
    let bytes = pattern(3, 64 * MIB);
    let rig = mounted_with(&bytes);
    let file = File::open(rig.path("big")).unwrap();
    let touched = bytes.len() / MIB;
    for at in (0..bytes.len()).step_by(MIB) {
        expect_at("strided", &file, at, &bytes[at..at + 4 * KIB]);
    }
    settle();
    let asked = rig.bucket.asked();
    // The beginning of a file counts as the beginning of a run: one window may be in vain.
    let fair = (touched * CHUNK + 2 * MIB) as u64;
    assert!(asked.sent <= fair, "{} bytes for {touched} chunks: {asked:?}", asked.sent);
}

#[test]
fn four_places_of_one_descriptor_each_in_order_through_its_quarter() {
    let bytes = pattern(10, 64 * MIB);
    let rig = mounted_with(&bytes);
    let quarter = bytes.len() / 4;
    let file = File::open(rig.path("big")).unwrap();
    let places: Vec<File> = (0..4).map(|_| file.try_clone().unwrap()).collect();
    let step = 128 * KIB;
    for within in (0..quarter).step_by(step) {
        for (number, file) in places.iter().enumerate() {
            let at = number * quarter + within;
            expect_at("quarter", file, at, &bytes[at..at + step]);
        }
    }
    settle();
    let asked = rig.bucket.asked();
    // The first jump looks like a seek, which drops the window of the first place.
    let first_window = 4 * MIB as u64;
    assert!(asked.sent <= bytes.len() as u64 + first_window, "no byte twice after that: {asked:?}");
    assert!(asked.gets <= 4 * (2 + RAMP), "as few requests as with four handles: {asked:?}");
}

#[test]
fn a_finely_strided_reader_fetches_no_byte_twice() {
    let bytes = pattern(4, 16 * MIB);
    let rig = mounted_with(&bytes);
    let file = File::open(rig.path("big")).unwrap();
    for at in (0..bytes.len()).step_by(48 * KIB) {
        let end = (at + 4 * KIB).min(bytes.len());
        expect_at("finely strided", &file, at, &bytes[at..end]);
    }
    settle();
    let asked = rig.bucket.asked();
    assert!(asked.sent <= bytes.len() as u64, "{asked:?}");
    assert!(asked.gets <= (bytes.len() / CHUNK) as u64, "{asked:?}");
}

#[test]
fn a_short_look_at_a_long_file_costs_little() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let (head, tail) = (pattern(5, 64 * KIB), pattern(6, 64 * KIB));
    let size = 1 << 30;
    rig.bucket.put_sparse("film", size, &[(0, &head), (size - tail.len() as u64, &tail)]);
    rig.bucket.requests().reset();
    let file = File::open(rig.path("film")).unwrap();
    // What `file`, a player or `unzip` do first: the beginning, then the end.
    expect_at("head", &file, 0, &head[..4 * KIB]);
    expect_at("tail", &file, size as usize - tail.len(), &tail);
    drop(file);
    settle();
    let asked = rig.bucket.asked();
    assert!(asked.sent <= 4 * MIB as u64, "{asked:?}");
    assert!(asked.gets <= 6, "{asked:?}");
}

#[test]
fn a_reader_who_stops_half_way_wastes_a_bounded_window() {
    let bytes = pattern(7, 64 * MIB);
    let rig = mounted_with(&bytes);
    let mut file = File::open(rig.path("big")).unwrap();
    let read = 4 * MIB;
    let mut seen = vec![0; read];
    std::io::Read::read_exact(&mut file, &mut seen).unwrap();
    crate::support::expect_same("start", 0, &seen, &bytes[..read]);
    drop(file);
    settle();
    let asked = rig.bucket.asked();
    // Twice what was read is ahead of the reader, rounded up to a request.
    assert!(asked.sent as usize <= 3 * read + 2 * REQUEST, "{asked:?}");
    settle();
    assert_eq!(rig.bucket.asked().sent, asked.sent, "nothing more comes after the close");
}

#[test]
fn small_steps_in_order_are_as_cheap_as_large_ones() {
    let bytes = pattern(8, 24 * MIB + 333);
    let rig = mounted_with(&bytes);
    let mut file = File::open(rig.path("big")).unwrap();
    let mut at = 0;
    let mut piece = [0; 1000];
    loop {
        let read = std::io::Read::read(&mut file, &mut piece).unwrap();
        if read == 0 {
            break;
        }
        crate::support::expect_same("small steps", at as u64, &piece[..read], &bytes[at..at + read]);
        at += read;
    }
    assert_eq!(at, bytes.len());
    settle();
    let asked = rig.bucket.asked();
    assert!(asked.sent == bytes.len() as u64 && asked.gets <= 4 + RAMP, "{asked:?}");
}

#[test]
fn readers_of_every_kind_at_once_get_their_own_bytes() {
    let bytes = pattern(9, 48 * MIB);
    let rig = mounted_with(&bytes);
    let seed = seed();
    let one = File::open(rig.path("big")).unwrap();
    std::thread::scope(|threads| {
        for number in 0..4 {
            let (file, bytes) = (one.try_clone().unwrap(), &bytes);
            threads.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed + number);
                for _ in 0..60 {
                    let at = random.usize(0..bytes.len());
                    let end = (at + random.usize(1..300 * KIB)).min(bytes.len());
                    expect_at("one of four", &file, at, &bytes[at..end]);
                }
            });
        }
        threads.spawn(|| super::expect_file(&rig, "big", &bytes));
        threads.spawn(|| {
            let file = File::open(rig.path("big")).unwrap();
            for at in (0..bytes.len()).step_by(512 * KIB).rev() {
                expect_at("backward", &file, at, &bytes[at..at + 512 * KIB]);
            }
        });
    });
    settle();
    // Those at random begin and abandon runs: what was on its way then is lost, a request each time at most.
    let asked = rig.bucket.asked();
    assert!(asked.sent as usize <= bytes.len() * 3 / 2, "{asked:?}");
    assert_eq!(one.read_at(&mut [0; 10], bytes.len() as u64).unwrap(), 0, "the end");
}
