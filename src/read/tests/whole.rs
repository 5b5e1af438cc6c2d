//! Whole objects against the store's checksum: on the wire, in the cache, handed out.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::observe::Counter;
use crate::read::tests::{Bench, CHUNK, KIB, MIB, check, content, hasty, options, read, settled};
use crate::read::{Error, Options, WholeFile};
use crate::store::wrap::{Action, FaultStore, Rule, When};
use crate::store::{ErrorKind, MemoryStore, ObjectStore, Op, UploadKind};
use crate::types::{ByteRange, ByteSize, ObjectId};

async fn read_all(bench: &Bench, id: &ObjectId) {
    let stream = bench.reader.open(id.clone());
    for range in ByteRange::new(0, id.size).split(128 * KIB) {
        read(&stream, range).await;
    }
    drop(stream);
    settled(&bench.reader).await;
}

#[track_caller]
fn check_file(whole: &WholeFile, id: &ObjectId) {
    let mut bytes = vec![0; id.size as usize];
    File::from(whole.as_fd().try_clone_to_owned().unwrap()).read_exact_at(&mut bytes, 0).unwrap();
    check(id, ByteRange::new(0, id.size), &bytes);
}

async fn wait_for_whole(bench: &Bench, id: &ObjectId) -> WholeFile {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(whole) = bench.reader.whole(id) {
            return whole;
        }
        assert!(Instant::now() < deadline, "it is not handed out");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_been_read_is_handed_out_with_no_request_more() {
    let bench = Bench::cached();
    let (small, large) = (bench.put("small", 5 * CHUNK + 1).await, bench.put("large", 9 * MIB + 5).await);
    for id in [&small, &large] {
        assert!(bench.reader.whole(id).is_none());
        read_all(&bench, id).await;
        check_file(&bench.reader.whole(id).expect("it has been compared"), id);
    }
    let asked = bench.store.calls();
    assert_eq!(
        asked.iter().find(|call| call.op == Op::Get).unwrap().range,
        None,
        "the small one, as a whole"
    );
    assert_eq!(bench.store.count(Op::Head), 0, "the answers told the checksum");
    let bench = bench.restarted().await;
    check_file(&bench.reader.whole(&large).unwrap(), &large);
    assert!(bench.store.calls().is_empty());
    assert_eq!(bench.metrics.count(Counter::CacheWholeMismatch), 0);
}

#[tokio::test]
async fn a_store_without_checksums_is_not_asked_for_them() {
    let memory = MemoryStore::new("memory://test", UploadKind::Offset { align: 1 });
    let capabilities = crate::store::Capabilities { stores_crc64: false, ..memory.capabilities().clone() };
    let store =
        Arc::new(FaultStore::new(Arc::new(MemoryStore::with_capabilities("memory://test", capabilities))));
    let bench = Bench::over(store, hasty(), Some(TempDir::new().unwrap()));
    let id = bench.put("plain", 3 * MIB).await;
    read_all(&bench, &id).await;
    check_file(&bench.reader.whole(&id).unwrap(), &id);
    assert_eq!(bench.store.count(Op::Head), 0);
}

#[tokio::test]
async fn a_byte_flipped_on_the_wire_is_never_served_of_a_small_object() {
    for at in [0, CHUNK, 3 * CHUNK + 7, 4 * CHUNK] {
        let bench = Bench::cached();
        let id = bench.put("flipped", 4 * CHUNK + 1).await;
        bench.store.add(Rule::on(Op::Get, Action::FlipByte { at }).when(When::First(2)));
        let stream = bench.reader.open(id.clone());
        read(&stream, ByteRange::new(0, 10)).await;
        read(&stream, ByteRange::new(0, id.size)).await;
        assert_eq!(bench.gets(), 3, "byte {at}");
        drop(stream);
        settled(&bench.reader).await;
        check_file(&bench.reader.whole(&id).unwrap(), &id);
        assert_eq!(bench.metrics.count(Counter::CacheWholeMismatch), 0);
    }
}

#[tokio::test]
async fn bytes_that_stay_wrong_are_an_error_and_leave_nothing_behind() {
    for (size, at) in [(3 * CHUNK, CHUNK), (MIB + 1, 5)] {
        for home in [Some(TempDir::new().unwrap()), None] {
            let bench = Bench::with(Options { request_bytes: ByteSize::mib(2), ..options() }, home);
            let id = bench.put("wrong", size).await;
            bench.store.add(Rule::on(Op::Get, Action::FlipByte { at }).when(When::Always));
            let stream = bench.reader.open(id.clone());
            let answer = stream.read(ByteRange::new(0, id.size)).await.map(|bytes| bytes.len());
            let Err(Error::Store(error)) = answer else {
                panic!("{size}, {at}: {answer:?}");
            };
            assert_eq!(error.kind, ErrorKind::Integrity);
            bench.store.clear();
            drop(stream);
            settled(&bench.reader).await;
            assert!(bench.reader.whole(&id).is_none());
            read(&bench.reader.open(id.clone()), ByteRange::new(0, id.size)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_object_with_a_wrong_byte_leaves_the_cache_and_comes_again() {
    let bench = Bench::cached();
    let id = bench.put("large", 6 * MIB).await;
    bench.store.add(Rule::on(Op::Get, Action::FlipByte { at: 77 }).when(When::First(1)));
    let stream = bench.reader.open(id.clone());
    for range in ByteRange::new(0, id.size).split(128 * KIB) {
        // What has come in pieces is compared when all is there: until then, the wrong byte is served.
        stream.read(range).await.unwrap();
    }
    drop(stream);
    settled(&bench.reader).await;
    assert_eq!(bench.metrics.count(Counter::CacheWholeMismatch), 1);
    assert!(bench.reader.whole(&id).is_none());
    read_all(&bench, &id).await;
    check_file(&bench.reader.whole(&id).unwrap(), &id);
}

#[tokio::test]
async fn an_object_completed_before_a_crash_is_compared_when_it_is_wanted() {
    let bench = Bench::cached();
    let id = bench.put("crashed", 6 * CHUNK).await;
    let chunks = bench.reader.shared.cache.as_ref().unwrap().object(&id);
    chunks.put(0, &content(id.key.as_str().len() as u64, ByteRange::new(0, id.size)));
    drop(chunks);
    let bench = bench.restarted().await;
    assert!(bench.reader.whole(&id).is_none());
    check_file(&wait_for_whole(&bench, &id).await, &id);
    assert_eq!((bench.store.count(Op::Head), bench.gets()), (1, 0));
    // Of a version that has gone nobody can tell; what is cached of it stays what it is.
    let old = bench.put("replaced", 6 * CHUNK).await;
    bench.put("replaced", 6 * CHUNK).await;
    let chunks = bench.reader.shared.cache.as_ref().unwrap().object(&old);
    chunks.put(0, &content(old.key.as_str().len() as u64, ByteRange::new(0, old.size)));
    assert!(bench.reader.whole(&old).is_none());
    settled(&bench.reader).await;
    assert!(bench.reader.whole(&old).is_none());
    read(&bench.reader.open(old.clone()), ByteRange::new(0, old.size)).await;
}
