//! How many requests reading takes, and how many bytes: none twice, none in vain.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use super::{CHUNK, KIB, MIB, expect_at, expect_file, settle};
use crate::support::{Asked, Rig, forget_pages, pattern, seed};

/// Names and sizes are believed for the whole of a test.
const LONG_TTL: &str = "--metadata-ttl=10m";

const NOTHING: Asked = Asked { gets: 0, heads: 0, lists: 0, all: 0, sent: 0 };

#[test]
fn a_small_file_after_ls_is_one_get() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let sizes = [1, 4 * KIB, CHUNK - 1, CHUNK, CHUNK + 1, MIB, 3 * MIB + 7];
    for (number, size) in sizes.into_iter().enumerate() {
        // Each in a folder of its own: of several in one, the next are fetched ahead.
        rig.bucket.put(&format!("d{number}/f"), &pattern(number as u64, size));
        assert_eq!(fs::read_dir(rig.path(&format!("d{number}"))).unwrap().count(), 1);
    }
    rig.bucket.put("d/empty", b"");
    assert_eq!(fs::read_dir(rig.path("d")).unwrap().count(), 1);
    for (number, size) in sizes.into_iter().enumerate() {
        rig.bucket.requests().reset();
        expect_file(&rig, &format!("d{number}/f"), &pattern(number as u64, size));
        settle();
        let one_get = Asked { gets: 1, all: 1, sent: size as u64, ..NOTHING };
        assert_eq!(rig.bucket.asked(), one_get, "{size} bytes");
    }
    rig.bucket.requests().reset();
    expect_file(&rig, "d/empty", b"");
    assert_eq!(rig.bucket.asked(), NOTHING, "of an empty file there is nothing to get");
}

#[test]
fn a_small_file_after_stat_is_one_get_and_stat_is_one_head() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let bytes = pattern(1, 100_000);
    rig.bucket.put("f", &bytes);
    rig.bucket.requests().reset();
    assert_eq!(fs::metadata(rig.path("f")).unwrap().len(), 100_000);
    let stat = rig.bucket.asked();
    assert!(stat.heads == 1 && stat.lists <= 1 && stat.all == stat.heads + stat.lists, "{stat:?}");
    rig.bucket.requests().reset();
    for _ in 0..5 {
        assert_eq!(fs::metadata(rig.path("f")).unwrap().len(), 100_000);
    }
    assert_eq!(rig.bucket.asked(), NOTHING, "stat within the time to live");
    expect_file(&rig, "f", &bytes);
    settle();
    assert_eq!(rig.bucket.asked(), Asked { gets: 1, all: 1, sent: 100_000, ..NOTHING });
}

#[test]
fn a_small_file_of_which_nothing_is_known_needs_one_look_besides() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    let bytes = pattern(1, 100_000);
    rig.bucket.put("deep/down/f", &bytes);
    rig.unmount();
    rig.mount_again();
    rig.bucket.requests().reset();
    expect_file(&rig, "deep/down/f", &bytes);
    settle();
    let asked = rig.bucket.asked();
    assert!(asked.gets == 1 && asked.sent == 100_000, "{asked:?}");
    // Each name on the way may be a file or a directory: one look at the one, one at the other.
    assert!(asked.heads <= 3 && asked.lists <= 3 && asked.all <= 7, "{asked:?}");
    rig.bucket.put("f", &bytes);
    rig.bucket.requests().reset();
    expect_file(&rig, "f", &bytes);
    settle();
    let asked = rig.bucket.asked();
    assert!(asked.gets == 1 && asked.heads <= 1 && asked.lists <= 1 && asked.all <= 3, "{asked:?}");
}

#[test]
fn a_directory_full_of_small_files_is_one_listing_and_one_get_each() {
    let rig = Rig::mounted(&[LONG_TTL]);
    for number in 0..50 {
        rig.bucket.put_quietly(&format!("d/f{number}"), &pattern(number, 5_000));
    }
    rig.bucket.requests().reset();
    let total: u64 =
        fs::read_dir(rig.path("d")).unwrap().map(|entry| entry.unwrap().metadata().unwrap().size()).sum();
    assert_eq!(total, 50 * 5_000);
    let listed = rig.bucket.asked();
    // One to find out that `d` is a directory, one for what is in it.
    assert!(listed.lists <= 2 && listed.heads <= 1 && listed.gets == 0, "{listed:?}");
    rig.bucket.requests().reset();
    for number in 0..50 {
        expect_file(&rig, &format!("d/f{number}"), &pattern(number, 5_000));
    }
    settle();
    let asked = rig.bucket.asked();
    assert_eq!((asked.gets, asked.all, asked.sent), (50, 50, 50 * 5_000), "{asked:?}");
}

#[test]
fn a_hundred_mib_in_order_are_few_requests_and_no_byte_twice() {
    let mut rig = Rig::mounted(&[LONG_TTL]);
    let bytes = pattern(2, 100 * MIB);
    rig.bucket.put_quietly("big", &bytes);
    fs::metadata(rig.path("big")).unwrap();
    rig.bucket.requests().reset();
    expect_file(&rig, "big", &bytes);
    settle();
    let cold = rig.bucket.asked();
    assert_eq!(cold.sent, bytes.len() as u64, "every byte once: {cold:?}");
    // Thirteen of 8 MiB, and some small ones until it is known that it goes on.
    assert!(cold.gets <= 13 + 8, "{cold:?}");
    // A look for the checksum of the whole, at most.
    assert!(cold.heads <= 1 && cold.lists == 0, "{cold:?}");
    rig.bucket.requests().reset();
    let mut file = File::open(rig.path("big")).unwrap();
    forget_pages(&file);
    super::read_through("read again", &mut file, &bytes);
    drop(file);
    assert_eq!(rig.bucket.asked(), NOTHING, "the second read is local");
    rig.unmount();
    rig.mount_again();
    rig.bucket.requests().reset();
    expect_file(&rig, "big", &bytes);
    settle();
    let kept = rig.bucket.asked();
    assert!(kept.gets == 0 && kept.heads <= 1, "after a remount: {kept:?}");
    rig.unmount();
}

#[test]
fn random_reads_are_one_chunk_each() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let bytes = pattern(3, 64 * MIB);
    rig.bucket.put_quietly("big", &bytes);
    let file = File::open(rig.path("big")).unwrap();
    let mut random = fastrand::Rng::with_seed(seed());
    // Never two neighbours, of which the second would look like going on; and not the beginning.
    let mut chunks: Vec<usize> = (1..bytes.len() / CHUNK / 2).map(|pair| pair * 2).collect();
    random.shuffle(&mut chunks);
    rig.bucket.requests().reset();
    for (number, chunk) in chunks.into_iter().take(40).enumerate() {
        let at = chunk * CHUNK + random.usize(0..CHUNK / (4 * KIB)) * 4 * KIB;
        expect_at("random", &file, at, &bytes[at..at + 4 * KIB]);
        expect_at("random, again", &file, at, &bytes[at..at + 4 * KIB]);
        let wanted = number as u64 + 1;
        let asked = rig.bucket.asked();
        let fair = Asked { gets: wanted, all: wanted, sent: wanted * CHUNK as u64, ..NOTHING };
        assert_eq!(asked, fair, "after {wanted} reads, the last at {at}");
    }
    settle();
    assert_eq!(rig.bucket.asked().gets, 40, "and nothing behind the reader's back");
    rig.bucket.requests().reset();
    super::read_through("the rest", &mut File::open(rig.path("big")).unwrap(), &bytes);
    settle();
    let rest = (bytes.len() - 40 * CHUNK) as u64;
    assert_eq!(rig.bucket.asked().sent, rest, "what was fetched at random is not fetched again");
}

#[test]
fn two_programs_that_read_the_same_file_fetch_it_once() {
    let rig = Rig::mounted(&[LONG_TTL]);
    let bytes = pattern(4, 40 * MIB);
    rig.bucket.put_quietly("big", &bytes);
    fs::metadata(rig.path("big")).unwrap();
    rig.bucket.requests().reset();
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| expect_file(&rig, "big", &bytes));
        }
    });
    settle();
    let asked = rig.bucket.asked();
    assert_eq!(asked.sent, bytes.len() as u64, "{asked:?}");
    // Each has a window of its own, which begins anew where the kernel had pages from the others.
    assert!(asked.gets <= 3 * (5 + 8), "{asked:?}");
}

#[test]
fn without_a_cache_no_byte_is_fetched_twice_in_one_pass() {
    let rig = Rig::mounted(&[LONG_TTL, "--cache-size=0"]);
    let bytes = pattern(5, 40 * MIB);
    rig.bucket.put_quietly("big", &bytes);
    fs::metadata(rig.path("big")).unwrap();
    rig.bucket.requests().reset();
    expect_file(&rig, "big", &bytes);
    settle();
    let asked = rig.bucket.asked();
    assert_eq!(asked.sent, bytes.len() as u64, "{asked:?}");
    // How large each is the link decides; never below 1 MiB.
    assert!(asked.gets <= 40, "{asked:?}");
}
