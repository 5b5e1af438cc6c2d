//! Whole objects: proven, compared, sealed, handed out, and never when one of these is not so.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cache::files::seal::{Judgement, Proof, Seal, Verdict};
use crate::cache::files::witness::{BootId, Witness};
use crate::cache::files::{Opened, Pair};
use crate::cache::tests::{
    CHUNK, GROUP, check, check_absent, content, files, object, open, open_limited, put, read,
    wait_until_closed,
};
use crate::cache::{CachedObject, ChunkCache, Judged, Kept, Resident, WholeFile};
use crate::observe::{Counter, Metrics};
use crate::types::{ByteRange, Crc64, ObjectId};

fn whole_range(id: &ObjectId) -> ByteRange {
    ByteRange::new(0, id.size)
}

fn crc(id: &ObjectId) -> Crc64 {
    Crc64::of(&content(id, whole_range(id)))
}

/// An object that is all here and judged.
fn judged(cache: &Arc<ChunkCache>, id: &ObjectId) -> Arc<CachedObject> {
    let cached = cache.object(id);
    put(&cached, id, whole_range(id));
    assert_eq!(cached.judge(Some(crc(id))), Judged::Same);
    cached
}

#[track_caller]
fn check_file(whole: &WholeFile, id: &ObjectId) {
    let file = File::from(whole.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(file.metadata().unwrap().len(), id.size);
    let mut bytes = vec![0; id.size as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == content(id, whole_range(id)));
    assert!(file.write_at(b"x", 0).is_err(), "for reading only");
}

/// Waits until the object has been proven in the background.
#[track_caller]
fn wait_for_whole(cached: &Arc<CachedObject>) -> WholeFile {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(whole) = cached.whole() {
            return whole;
        }
        assert!(Instant::now() < deadline, "it is not proven");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn data_file(home: &Path) -> PathBuf {
    files(home, ".data").remove(0)
}

fn for_writing(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn what_was_written_and_compared_is_handed_out_also_by_the_next_process() {
    let home = TempDir::new().unwrap();
    let id = object("a", 20 * CHUNK + 5);
    {
        let (cache, _) = open(home.path());
        let cached = cache.object(&id);
        assert!(cached.whole().is_none());
        put(&cached, &id, ByteRange::new(0, 20 * CHUNK));
        assert_eq!((cached.whole_crc(), cached.judge(Some(crc(&id)))), (None, Judged::Incomplete));
        put(&cached, &id, whole_range(&id));
        assert!(cached.whole().is_none(), "not compared yet");
        assert_eq!(cached.whole_crc(), Some(crc(&id)));
        assert!(cached.begin_judging() && !cached.begin_judging(), "one at a time");
        assert_eq!(cached.judge(Some(crc(&id))), Judged::Same);
        assert!(!cached.begin_judging());
        check_file(&cached.whole().unwrap(), &id);
        assert!(cache.object_report(&id).is_sealed);
    }
    let (cache, metrics) = open(home.path());
    let cached = cache.object(&id);
    check_file(&cached.whole().expect("the seal holds"), &id);
    assert_eq!(cached.judge(None), Judged::Same, "it has been compared");
    assert_eq!(metrics.count(Counter::CacheDamaged), 0);
}

#[test]
fn a_store_without_checksums_is_believed_and_one_with_another_is_not() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open(home.path());
    let (a, b) = (object("a", 3 * CHUNK), object("b", 40 * CHUNK));
    let cached = cache.object(&a);
    put(&cached, &a, whole_range(&a));
    assert_eq!(cached.judge(None), Judged::NotTold);
    check_file(&cached.whole().unwrap(), &a);
    let cached = cache.object(&b);
    put(&cached, &b, whole_range(&b));
    assert_eq!(cached.judge(Some(Crc64(7))), Judged::Different);
    assert!(cached.whole().is_none() && cached.present().is_empty());
    assert_eq!(metrics.count(Counter::CacheWholeMismatch), 1);
    assert_eq!(cache.object_report(&b).bytes_present, 0);
    assert_eq!(files(home.path(), ".data").len(), 1);
    put(&cached, &b, whole_range(&b));
    assert_eq!(cached.judge(Some(crc(&b))), Judged::Same);
    check_file(&cached.whole().unwrap(), &b);
}

/// Things that somebody else may do to a chunk file.
type Meddling = (&'static str, fn(&Path));

const HARMLESS: [Meddling; 3] = [
    ("the same byte again", |path| {
        let (file, mut byte) = (for_writing(path), [0]);
        file.read_exact_at(&mut byte, 7).unwrap();
        file.write_all_at(&byte, 7).unwrap();
    }),
    ("another name", |path| fs::hard_link(path, path.with_extension("link")).unwrap()),
    ("another mode", |path| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    }),
];

#[test]
fn a_file_that_somebody_has_touched_is_proven_again_before_it_is_handed_out() {
    for (what, meddle) in HARMLESS {
        for reopened in [false, true] {
            let home = TempDir::new().unwrap();
            let id = object("a", 20 * CHUNK + 5);
            let (mut cache, _) = open(home.path());
            let mut cached = judged(&cache, &id);
            if reopened {
                drop((cached, cache));
                meddle(&data_file(home.path()));
                (cache, _) = open(home.path());
                cached = cache.object(&id);
            } else {
                meddle(&data_file(home.path()));
            }
            assert!(cached.whole().is_none(), "{what}");
            check_file(&wait_for_whole(&cached), &id);
            assert!(cache.object_report(&id).is_sealed, "{what}");
        }
    }
}

const HARMFUL: [Meddling; 5] = [
    ("a flipped byte", |path| {
        let (file, mut byte) = (for_writing(path), [0]);
        file.read_exact_at(&mut byte, 2 * CHUNK).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 2 * CHUNK).unwrap();
    }),
    ("a shorter file", |path| for_writing(path).set_len(2 * CHUNK).unwrap()),
    ("a hole", |path| {
        let file = for_writing(path);
        file.set_len(2 * CHUNK).unwrap();
        file.set_len(20 * CHUNK + 5).unwrap();
    }),
    ("a longer file", |path| for_writing(path).set_len(21 * CHUNK).unwrap()),
    ("another file", |path| {
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).unwrap();
        fs::rename(copy, path).unwrap();
    }),
];

#[test]
fn a_file_that_somebody_has_changed_is_not_handed_out_until_it_has_healed() {
    for (what, meddle) in HARMFUL {
        for reopened in [false, true] {
            let home = TempDir::new().unwrap();
            let id = object("a", 20 * CHUNK + 5);
            let (mut cache, _) = open(home.path());
            let mut cached = judged(&cache, &id);
            if reopened {
                drop((cached, cache));
                meddle(&data_file(home.path()));
                (cache, _) = open(home.path());
                cached = cache.object(&id);
            } else {
                meddle(&data_file(home.path()));
            }
            assert!(cached.whole().is_none(), "{what}");
            cached.prove_rest();
            if let Some(whole) = cached.whole() {
                assert!(reopened && what == "another file", "{what}: only a copy that was found good");
                check_file(&whole, &id);
            }
            // Whatever is read is right, and what is missing comes again.
            for part in whole_range(&id).split(CHUNK / 2) {
                if let Some(bytes) = read(&cached, part) {
                    assert!(bytes == content(&id, part), "{what}");
                }
            }
            // What has been done to the name or the length is seen when the file is opened again.
            drop(cached);
            wait_until_closed(&cache);
            let cached = cache.object(&id);
            put(&cached, &id, whole_range(&id));
            check(&cached, &id, whole_range(&id));
            assert_ne!(cached.judge(Some(crc(&id))), Judged::Different);
            check_file(&wait_for_whole(&cached), &id);
        }
    }
}

#[test]
fn after_a_reboot_a_seal_proves_nothing_but_the_comparison_holds() {
    let home = TempDir::new().unwrap();
    let id = object("a", 20 * CHUNK);
    {
        let (cache, _) = open(home.path());
        let cached = judged(&cache, &id);
        let Ok(Opened::Pair(pair)) = Pair::open(&cache.disk().unwrap().directory, cached.name()) else {
            panic!("it is there");
        };
        drop(cached);
        // The seal of another boot, with the look that the file has.
        let proof = Proof { boot: BootId([1; 16]), witness: pair.witness().unwrap() };
        let judgement = Judgement { crc: crc(&id), verdict: Verdict::Same };
        pair.write_seal(&Seal { judgement, proof: Some(proof) }).unwrap();
    }
    let (cache, _) = open(home.path());
    let cached = cache.object(&id);
    assert!(!cache.object_report(&id).is_sealed && cached.whole().is_none());
    assert_eq!(cached.judge(Some(Crc64(1))), Judged::Same, "nobody needs to ask the store again");
    check_file(&wait_for_whole(&cached), &id);
    assert!(cache.object_report(&id).is_sealed);
}

#[test]
fn reading_all_of_an_object_proves_it() {
    let home = TempDir::new().unwrap();
    let id = object("a", 20 * CHUNK);
    {
        let (cache, _) = open(home.path());
        judged(&cache, &id);
    }
    for_writing(&data_file(home.path())).set_len(id.size).unwrap();
    {
        let (cache, _) = open(home.path());
        let cached = cache.object(&id);
        for part in whole_range(&id).split(GROUP) {
            check(&cached, &id, part);
        }
        check_file(&cached.whole().expect("every chunk has been checked"), &id);
    }
    let (cache, _) = open(home.path());
    assert!(cache.object_report(&id).is_sealed, "by the one who closed it");
}

#[test]
fn what_is_handed_out_stays_and_others_go() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open_limited(home.path(), 4 * (GROUP + 2 * CHUNK));
    let (a, b) = (object("a", 2 * GROUP), object("b", 40 * GROUP));
    let cached = judged(&cache, &a);
    let first = cached.whole().unwrap();
    let second = cached.whole().unwrap();
    let other = cache.object(&b);
    put(&other, &b, ByteRange::new(0, 10 * GROUP));
    assert_eq!(metrics.count(Counter::CacheBypassed), 0);
    check_file(&first, &a);
    check(&other, &b, ByteRange::new(9 * GROUP, 10 * GROUP));
    let evicted = cache.evict(&a).unwrap();
    assert_eq!((evicted.kept, evicted.bytes), (Some(Kept::InUse), 0));
    assert!(cache.object_report(&a).is_in_use);
    let purged = cache.purge();
    assert_eq!((purged.objects, purged.in_use_objects), (1, 1));
    assert!(purged.bytes >= GROUP && purged.in_use_bytes >= 2 * GROUP);
    assert!(other.present().is_empty());
    drop(first);
    check_file(&second, &a);
    drop(second);
    put(&other, &b, ByteRange::new(0, 10 * GROUP));
    assert!(cached.whole().is_none(), "it could go now");
    assert_eq!(cache.evict(&a).unwrap().kept, None);
    assert!(cached.present().is_empty());
}

#[test]
fn when_all_that_is_left_is_handed_out_new_chunks_are_refused_at_once() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open_limited(home.path(), 40 * (GROUP + 2 * CHUNK) + 2 * CHUNK);
    let ids: Vec<_> = (0..20).map(|n| object(&format!("o{n}"), 2 * GROUP)).collect();
    let held: Vec<_> = ids.iter().map(|id| judged(&cache, id).whole().unwrap()).collect();
    let other = object("other", 100 * GROUP);
    let cached = cache.object(&other);
    put(&cached, &other, whole_range(&other));
    assert_eq!(metrics.count(Counter::CacheBypassed), 1600);
    held.iter().zip(&ids).for_each(|(whole, id)| check_file(whole, id));
    drop(held);
    put(&cached, &other, ByteRange::new(0, GROUP));
    check(&cached, &other, ByteRange::new(0, GROUP));
}

#[test]
fn a_chunk_damaged_while_it_is_handed_out_leaves_no_hole_and_heals_in_place() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open(home.path());
    let id = object("a", 4 * CHUNK);
    let cached = judged(&cache, &id);
    let whole = cached.whole().unwrap();
    for_writing(&data_file(home.path())).write_all_at(b"bad", CHUNK).unwrap();
    check_absent(&cached, ByteRange::new(CHUNK, 2 * CHUNK));
    assert_eq!(metrics.count(Counter::CacheDamaged), 1);
    let mut seen = [0; 5];
    File::from(whole.as_fd().try_clone_to_owned().unwrap()).read_exact_at(&mut seen, CHUNK).unwrap();
    assert_eq!(seen[3..], content(&id, ByteRange::new(CHUNK + 3, CHUNK + 5)), "what was good stays");
    assert!(cached.whole().is_none());
    put(&cached, &id, whole_range(&id));
    check_file(&whole, &id);
    assert_eq!(cached.judge(Some(crc(&id))), Judged::Same);
    check_file(&wait_for_whole(&cached), &id);
}

#[test]
fn parts_of_proven_chunks_are_read_alone() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open(home.path());
    let id = object("a", 2 * CHUNK);
    let cached = cache.object(&id);
    put(&cached, &id, whole_range(&id));
    // The slot is of no use any more, and is not needed for a part of what has been written by ourselves.
    let map = for_writing(&files(home.path(), ".map")[0]);
    map.write_all_at(b"bad", 512).unwrap();
    check(&cached, &id, ByteRange::new(5, 100));
    check(&cached, &id, ByteRange::new(CHUNK - 1, 2 * CHUNK));
    check_absent(&cached, ByteRange::new(0, CHUNK));
    assert_eq!(metrics.count(Counter::CacheDamaged), 1);
}

#[test]
fn what_is_in_memory_is_read_without_waiting_and_what_is_not_is_told() {
    let home = TempDir::new().unwrap();
    let id = object("a", 64 * CHUNK);
    {
        let (cache, _) = open(home.path());
        put(&cache.object(&id), &id, ByteRange::new(0, 32 * CHUNK));
    }
    let (cache, metrics) = open(home.path());
    let cached = cache.object(&id);
    let mut out = b"before".to_vec();
    assert_eq!(
        cached.read_resident(ByteRange::new(1, 2), &mut out),
        Resident::WouldBlock,
        "not looked at yet"
    );
    check(&cached, &id, ByteRange::new(0, 32 * CHUNK));
    assert_eq!(cached.read_resident(ByteRange::new(40 * CHUNK, 41 * CHUNK), &mut out), Resident::Missing);
    for range in [ByteRange::new(5, 9), ByteRange::new(CHUNK, 3 * CHUNK + 7), ByteRange::new(3, 3)] {
        assert_eq!(out, b"before");
        assert_eq!(cached.read_resident(range, &mut out), Resident::Yes);
        assert_eq!(out.split_off(6), content(&id, range));
    }
    let file = for_writing(&data_file(home.path()));
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let far = ByteRange::at(20 * CHUNK, 100);
    if cached.read_resident(far, &mut out) == Resident::WouldBlock {
        assert_eq!(out, b"before");
        check(&cached, &id, far);
        assert_eq!(cached.read_resident(far, &mut out), Resident::Yes);
    } else {
        eprintln!("skipped: {} keeps all in memory", home.path().display());
    }
    assert_eq!(metrics.count(Counter::CacheDamaged), 0);
    cached.while_unchanged(|| {
        assert_eq!(cached.read_resident(far, &mut Vec::new()), Resident::WouldBlock, "somebody writes");
    });
}

#[test]
fn readers_provers_and_the_evictor_at_once_see_right_bytes_only() {
    let home = TempDir::new().unwrap();
    let (cache, metrics): (Arc<ChunkCache>, Arc<Metrics>) =
        open_limited(home.path(), 12 * (GROUP + 2 * CHUNK));
    let ids: Vec<_> = (0..4).map(|n| object(&format!("o{n}"), 4 * GROUP - 77)).collect();
    let handed_out = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (cache, ids, handed_out) = (&cache, &ids, &handed_out);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                for _ in 0..60 {
                    let id = &ids[random.usize(0..ids.len())];
                    let cached = cache.object(id);
                    if let Some(whole) = cached.whole() {
                        check_file(&whole, id);
                        handed_out.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    for _ in 0..20 {
                        let start = random.u64(0..id.size);
                        let range = ByteRange::at(start, random.u64(1..3 * CHUNK)).clip(id.size);
                        if let Some(bytes) = read(&cached, range) {
                            assert!(bytes == content(id, range));
                        }
                    }
                    put(&cached, id, whole_range(id));
                    if cached.begin_judging() {
                        assert_ne!(cached.judge(Some(crc(id))), Judged::Different);
                    }
                }
            });
        }
    });
    assert!(handed_out.into_inner() > 0 && metrics.count(Counter::CacheEvictedBytes) > 0);
    assert_eq!(metrics.count(Counter::CacheDamaged) + metrics.count(Counter::CacheWholeMismatch), 0);
}

#[test]
fn the_witness_is_of_the_file_that_is_handed_out() {
    let home = TempDir::new().unwrap();
    let (cache, _) = open(home.path());
    let id = object("a", CHUNK);
    let whole = judged(&cache, &id).whole().unwrap();
    let file = File::from(whole.as_fd().try_clone_to_owned().unwrap());
    let by_name = File::open(data_file(home.path())).unwrap();
    assert_eq!(Witness::of(&file).unwrap(), Witness::of(&by_name).unwrap());
}
