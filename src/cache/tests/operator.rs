//! What an operator asks: pins, reports, eviction by hand, purging, verifying.

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tempfile::TempDir;

use crate::cache::tests::{
    CHUNK, GROUP, check, check_absent, disk_bytes, files, object, open, open_limited, open_once, put, read,
};
use crate::cache::{
    ChunkCache, Evicted, Kept, ObjectReport, PinTarget, Purged, Repair, VerifyProgress, VerifyReport,
};
use crate::observe::Counter;
use crate::types::{ByteRange, ETag, ObjectId};

/// What a full group costs.
const GROUP_CHARGE: u64 = GROUP + 2 * CHUNK;

fn pin(text: &str) -> PinTarget {
    PinTarget::parse(text).unwrap()
}

fn fill(cache: &Arc<ChunkCache>, id: &ObjectId) {
    put(&cache.object(id), id, ByteRange::new(0, id.size));
}

fn present(cache: &Arc<ChunkCache>, id: &ObjectId) -> u64 {
    cache.object(id).present().bytes()
}

#[test]
fn pinned_chunks_stay_also_those_found_by_the_scan() {
    let home = TempDir::new().unwrap();
    let limit = 6 * GROUP_CHARGE;
    let ids: Vec<_> = ["keep/a", "keep/b", "go/a"].iter().map(|key| object(key, GROUP)).collect();
    let others = |cache: &Arc<ChunkCache>| {
        for n in 0..12 {
            fill(cache, &object(&format!("other{n}"), GROUP));
        }
    };
    {
        let (cache, _) = open_limited(home.path(), limit);
        cache.pin(pin("keep/")).unwrap();
        ids.iter().for_each(|id| fill(&cache, id));
        others(&cache);
        assert_eq!(ids.iter().map(|id| present(&cache, id)).collect::<Vec<_>>(), [GROUP, GROUP, 0]);
    }
    let (cache, metrics) = open_limited(home.path(), limit);
    assert_eq!(cache.pins(), [pin("keep/")]);
    // Nobody has asked for them since: only their maps tell what they are.
    others(&cache);
    assert_eq!(ids.iter().map(|id| present(&cache, id)).collect::<Vec<_>>(), [GROUP, GROUP, 0]);
    let report = cache.report();
    assert_eq!((report.pinned_objects, report.pinned_bytes), (2, 2 * GROUP_CHARGE));
    assert_eq!((report.objects, report.bytes <= limit, report.is_keeping()), (6, true, true));
    assert!(cache.unpin(&pin("keep/")).unwrap() && !cache.unpin(&pin("keep/")).unwrap());
    others(&cache);
    assert_eq!(ids.iter().map(|id| present(&cache, id)).sum::<u64>(), 0);
    assert_eq!(metrics.count(Counter::CacheBypassed), 0);
}

#[test]
fn when_all_that_is_left_is_pinned_new_chunks_are_bypassed() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open_limited(home.path(), 3 * GROUP_CHARGE + 2 * CHUNK);
    cache.pin(PinTarget::Volume).unwrap();
    let id = object("a", 3 * GROUP);
    fill(&cache, &id);
    fill(&cache, &object("b", 2 * GROUP));
    assert_eq!(metrics.count(Counter::CacheBypassed), 32);
    check(&cache.object(&id), &id, ByteRange::new(0, id.size));
    cache.unpin(&PinTarget::Volume).unwrap();
    fill(&cache, &object("b", 2 * GROUP));
    assert_eq!(present(&cache, &object("b", 2 * GROUP)), 2 * GROUP);
}

#[test]
fn a_pin_follows_the_name_and_holds_the_version_asked_for_last() {
    let home = TempDir::new().unwrap();
    let (cache, _) = open_limited(home.path(), 3 * GROUP_CHARGE);
    cache.pin(pin("a")).unwrap();
    let old = object("a", GROUP);
    let new = ObjectId { etag: ETag::new("v2"), ..old.clone() };
    fill(&cache, &old);
    for n in 0..4 {
        fill(&cache, &object(&format!("x{n}"), GROUP));
    }
    assert!(cache.object_report(&old).is_pinned);
    fill(&cache, &new);
    assert!(!cache.object_report(&old).is_pinned && cache.object_report(&new).is_pinned);
    for n in 0..4 {
        fill(&cache, &object(&format!("y{n}"), GROUP));
    }
    assert_eq!((cache.object_report(&old).bytes_present, present(&cache, &new)), (0, GROUP));
}

#[test]
fn objects_are_reported_evicted_and_purged() {
    let home = TempDir::new().unwrap();
    let (a, b, c) = (object("a", 5 * CHUNK + 9), object("b", 3 * CHUNK), object("c", CHUNK));
    {
        let (cache, _) = open(home.path());
        [&a, &b, &c].into_iter().for_each(|id| fill(&cache, id));
    }
    let (cache, metrics) = open(home.path());
    let expected = ObjectReport {
        bytes_present: a.size,
        size: a.size,
        is_whole: true,
        is_pinned: false,
        is_sealed: false,
        is_in_use: false,
    };
    assert_eq!(cache.object_report(&a), expected);
    assert_eq!(cache.object_report(&object("none", 7)), ObjectReport { size: 7, ..ObjectReport::default() });
    assert_eq!(cache.evict(&a).unwrap(), Evicted { bytes: 8 * CHUNK, kept: None });
    assert_eq!(cache.evict(&a).unwrap(), Evicted { bytes: 0, kept: None });
    cache.pin(pin("b")).unwrap();
    assert_eq!(cache.evict(&b).unwrap(), Evicted { bytes: 0, kept: Some(Kept::Pinned) });
    let reader = cache.object(&c);
    check(&reader, &c, ByteRange::new(0, CHUNK));
    let purged = cache.purge();
    let expected = Purged {
        objects: 1,
        bytes: 3 * CHUNK,
        pinned_objects: 1,
        pinned_bytes: purged.pinned_bytes,
        ..Purged::default()
    };
    assert_eq!(purged, expected);
    check_absent(&reader, ByteRange::new(0, CHUNK));
    fill(&cache, &c);
    check(&reader, &c, ByteRange::new(0, CHUNK));
    cache.unpin(&pin("b")).unwrap();
    cache.purge();
    assert_eq!((disk_bytes(home.path()), cache.report().bytes, cache.report().objects), (0, 0, 0));
    assert_eq!(metrics.count(Counter::CacheDamaged), 0);
}

#[test]
fn a_cache_that_keeps_nothing_says_why() {
    let home = TempDir::new().unwrap();
    let (first, _) = open(home.path());
    let (second, _) = open_once(home.path(), 1 << 30);
    let report = second.report();
    assert!(!report.is_keeping() && report.not_keeping.unwrap().contains(&std::process::id().to_string()));
    assert!(second.pin(pin("a")).unwrap_err().to_string().contains("nothing is cached"));
    assert!(second.pins().is_empty() && second.purge() == Purged::default());
    assert!(second.verify(Repair::TakeOff, &mut |_| ControlFlow::Continue(())).is_complete);
    assert!(first.report().is_keeping());
}

fn verify(cache: &Arc<ChunkCache>, repair: Repair) -> VerifyReport {
    cache.verify(repair, &mut |_| ControlFlow::Continue(()))
}

#[test]
fn verifying_finds_all_damage_and_repairs_only_when_told() {
    let home = TempDir::new().unwrap();
    let ids: Vec<_> = (0..5).map(|n| object(&format!("o{n}"), 3 * CHUNK)).collect();
    {
        let (cache, _) = open(home.path());
        ids.iter().for_each(|id| fill(&cache, id));
    }
    let good = |report: VerifyReport| VerifyReport { damaged_chunks: 0, ..report };
    let (maps, datas) = (files(home.path(), ".map"), files(home.path(), ".data"));
    for in_use in [false, true] {
        let (cache, metrics) = open(home.path());
        ids.iter().for_each(|id| fill(&cache, id));
        let held: Vec<_> = ids.iter().filter(|_| in_use).map(|id| cache.object(id)).collect();
        held.iter().for_each(|cached| assert!(!cached.present().is_empty()));
        let clean = VerifyReport {
            objects: 5,
            chunks: 15,
            bytes: 15 * CHUNK,
            is_complete: true,
            ..VerifyReport::default()
        };
        assert_eq!(verify(&cache, Repair::TakeOff), clean);
        let write = |path: &std::path::Path, at| {
            File::options().write(true).open(path).unwrap().write_all_at(b"bad", at).unwrap();
        };
        write(&datas[0], 5);
        write(&datas[0], 2 * CHUNK);
        write(&maps[1], 512 + 16);
        write(&maps[2], 20);
        let expected = VerifyReport { chunks: 12, bytes: 12 * CHUNK, damaged_objects: 1, ..clean };
        for _ in 0..2 {
            let report = verify(&cache, Repair::Nothing);
            assert_eq!((report.damaged_chunks, good(report)), (3, expected), "nothing has been changed");
        }
        let report = verify(&cache, Repair::TakeOff);
        assert_eq!((report.removed_chunks, report.removed_objects, report.damaged_chunks), (3, 1, 3));
        let left = VerifyReport { objects: 4, chunks: 9, bytes: 9 * CHUNK, ..clean };
        assert_eq!(verify(&cache, Repair::Nothing), left);
        assert_eq!(metrics.level(crate::observe::Gauge::CacheBytes) % CHUNK, 0);
        for id in &ids {
            let cached = cache.object(id);
            cached.present().iter().for_each(|range| check(&cached, id, range));
        }
    }
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn verifying_can_be_cancelled_and_disturbs_neither_readers_nor_the_evictor() {
    let home = TempDir::new().unwrap();
    let (cache, metrics) = open_limited(home.path(), 20 * GROUP_CHARGE);
    let ids: Vec<_> = (0..12).map(|n| object(&format!("o{n}"), 2 * GROUP)).collect();
    ids.iter().take(8).for_each(|id| fill(&cache, id));
    let mut told = Vec::new();
    let report = cache.verify(Repair::Nothing, &mut |progress: VerifyProgress| {
        told.push(progress);
        if progress.objects_done == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!((report.objects, report.is_complete), (3, false));
    assert_eq!(told.last().unwrap().objects, 8);
    std::thread::scope(|scope| {
        let verifier = scope.spawn(|| (0..10).map(|_| verify(&cache, Repair::TakeOff)).collect::<Vec<_>>());
        for round in 0..40 {
            for id in &ids {
                let cached = cache.object(id);
                put(&cached, id, ByteRange::new(0, id.size));
                let range = ByteRange::at(round * CHUNK / 3, 3 * CHUNK).clip(id.size);
                if let Some(bytes) = read(&cached, range) {
                    assert!(bytes == crate::cache::tests::content(id, range));
                }
            }
        }
        for report in verifier.join().unwrap() {
            assert_eq!((report.damaged_chunks, report.damaged_objects), (0, 0));
        }
    });
    assert_eq!(metrics.count(Counter::CacheDamaged), 0);
    assert!(metrics.count(Counter::CacheEvictedBytes) > 0);
}
