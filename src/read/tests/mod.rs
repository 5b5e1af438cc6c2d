//! Reading as its users see it: which bytes, how many requests, what happens when the store fails.

mod ahead;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use tempfile::TempDir;

use crate::cache::{self, ChunkCache};
use crate::observe::{Counter, Metrics, task};
use crate::read::{Error, Options, ReadStream, Reader};
use crate::store::wrap::{Action, FaultStore, Rule, When};
use crate::store::{ErrorKind, MemoryStore, ObjectStore, Op, PutOptions, UploadKind};
use crate::types::{ByteRange, ByteSize, ETag, Key, ObjectId};

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const CHUNK: u64 = 16 * KIB;
const LATER: ErrorKind = ErrorKind::Unavailable { retry_after: None };

/// A reader over a store in memory.
pub(super) struct Bench {
    pub(super) store: Arc<FaultStore>,
    pub(super) reader: Arc<Reader>,
    metrics: Arc<Metrics>,
    cache: Option<TempDir>,
}

pub(super) fn options() -> Options {
    Options {
        memory_bytes: ByteSize::mib(16),
        prefetch_bytes: ByteSize::mib(8),
        request_bytes: ByteSize::mib(1),
        requests_max: 4,
        stall_timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(20),
    }
}

/// For tests in which bodies stall.
pub(super) fn hasty() -> Options {
    Options { stall_timeout: Duration::from_millis(80), ..options() }
}

impl Bench {
    pub(super) fn with(options: Options, cache: Option<TempDir>) -> Bench {
        let memory = MemoryStore::new("memory://test", UploadKind::Offset { align: 1 });
        Bench::over(Arc::new(FaultStore::new(Arc::new(memory))), options, cache)
    }

    fn over(store: Arc<FaultStore>, options: Options, cache: Option<TempDir>) -> Bench {
        let metrics = Arc::new(Metrics::default());
        let chunks = cache.as_ref().map(|home| open_cache(home.path(), ByteSize::mib(256), &metrics));
        let reader = Reader::new(store.clone(), chunks, options, metrics.clone());
        Bench { store, reader, metrics, cache }
    }

    pub(super) fn cached() -> Bench {
        Bench::with(options(), Some(TempDir::new().unwrap()))
    }

    pub(super) fn uncached() -> Bench {
        Bench::with(options(), None)
    }

    /// The same store and cache directory after a restart.
    async fn restarted(self) -> Bench {
        let Bench { store, reader, cache, .. } = self;
        self::settled(&reader).await;
        drop(reader);
        store.forget_calls();
        Bench::over(store, options(), cache)
    }

    pub(super) async fn put(&self, key: &str, size: u64) -> ObjectId {
        let bytes = content(key.len() as u64, ByteRange::new(0, size));
        let key = Key::new(key).unwrap();
        self.store.put(&key, Bytes::from(bytes), PutOptions::default()).await.unwrap().id
    }

    pub(super) fn gets(&self) -> usize {
        self.store.count(Op::Get)
    }

    pub(super) fn fetched(&self) -> u64 {
        self.store.bytes(Op::Get)
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.reader.shared.table().budget().used()
    }
}

fn open_cache(home: &Path, bytes_max: ByteSize, metrics: &Arc<Metrics>) -> Arc<ChunkCache> {
    let options = || cache::Options {
        directory: home.to_owned(),
        bytes_max,
        free_bytes_min: ByteSize(0),
        chunk_bytes: ByteSize(CHUNK),
    };
    let probe = ObjectId { key: Key::new("probe").unwrap(), etag: ETag::new("1"), size: 1 };
    loop {
        let cache = ChunkCache::open("memory://test", options(), metrics.clone()).unwrap();
        // A program that another test starts has the lease of the reader before as well, from its fork to its exec.
        let object = cache.object(&probe);
        object.put(0, b"x");
        if !object.present().is_empty() {
            return cache;
        }
    }
}

/// Waits until nothing is on its way, neither from the store nor to the disk.
async fn settled(reader: &Arc<Reader>) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(&reader.shared) > 1 {
        assert!(Instant::now() < deadline, "something goes on");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn content(salt: u64, range: ByteRange) -> Vec<u8> {
    (range.start..range.end).map(|at| ((at ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

#[track_caller]
fn check(id: &ObjectId, range: ByteRange, bytes: &[u8]) {
    let expected = content(id.key.as_str().len() as u64, range.clip(id.size));
    assert_eq!(bytes.len(), expected.len(), "length of {range:?}");
    assert!(bytes == expected, "{range:?} has other bytes");
}

pub(super) async fn read(stream: &ReadStream, range: ByteRange) {
    let bytes = stream.read(range).await.unwrap();
    check(stream.object(), range, &bytes);
}

/// As the file system does it: at once if possible.
pub(super) async fn read_either_way(stream: &ReadStream, range: ByteRange) {
    let mut out = Vec::new();
    if stream.read_now(range, &mut out) {
        check(stream.object(), range, &out);
    } else {
        assert!(out.is_empty());
        read(stream, range).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_ranges_from_several_streams_are_right() {
    let tight = Options { memory_bytes: ByteSize(5 * CHUNK), ..options() };
    let evicting = {
        let Bench { store, metrics, .. } = Bench::uncached();
        let home = TempDir::new().unwrap();
        let chunks = open_cache(home.path(), ByteSize(50 * CHUNK), &metrics);
        let reader = Reader::new(store.clone(), Some(chunks), tight.clone(), metrics.clone());
        Bench { store, reader, metrics, cache: Some(home) }
    };
    for (name, bench) in [
        ("little cache", evicting),
        ("cache", Bench::cached()),
        ("no cache", Bench::uncached()),
        ("little memory", Bench::with(tight.clone(), None)),
        ("little memory and cache", Bench::with(tight, Some(TempDir::new().unwrap()))),
    ] {
        let id = bench.put("random", 3 * MIB + 77).await;
        let streams = (0..6).map(|seed| {
            let (stream, mut random) = (bench.reader.open(id.clone()), fastrand::Rng::with_seed(seed));
            let id = id.clone();
            async move {
                for _ in 0..60 {
                    let start = random.u64(0..id.size + 10);
                    let len = if random.bool() { random.u64(0..9000) } else { random.u64(0..MIB) };
                    read_either_way(&stream, ByteRange::at(start, len)).await;
                }
            }
        });
        join_all(streams).await;
        assert!(bench.gets() > 0, "{name}");
        assert_eq!(bench.metrics.count(Counter::CacheDamaged), 0, "{name}");
        let evicted = bench.metrics.count(Counter::CacheEvictedBytes);
        assert_eq!(evicted > 0, name == "little cache", "{name}");
    }
}

#[tokio::test]
async fn a_small_file_costs_one_request_once() {
    let bench = Bench::cached();
    let id = bench.put("small", 700 * KIB + 3).await;
    for turn in 0..3 {
        let stream = bench.reader.open(id.clone());
        for range in ByteRange::new(0, id.size).split(128 * KIB) {
            read_either_way(&stream, range).await;
        }
        assert_eq!(bench.gets(), 1, "turn {turn}");
    }
    let bench = bench.restarted().await;
    let stream = bench.reader.open(id.clone());
    let mut out = Vec::new();
    assert!(!stream.read_now(ByteRange::new(0, 1), &mut out), "the map would have to be waited for");
    read(&stream, ByteRange::new(1, id.size)).await;
    assert!(stream.read_now(ByteRange::new(0, id.size), &mut out));
    check(&id, ByteRange::new(0, id.size), &out);
    assert_eq!(bench.gets(), 0);
    assert!(bench.metrics.count(Counter::CacheHits) > 0);
}

#[tokio::test]
async fn nothing_is_asked_for_an_empty_object_or_past_the_end() {
    let bench = Bench::cached();
    let (empty, short) = (bench.put("empty", 0).await, bench.put("short", 10).await);
    let empty = bench.reader.open(empty);
    let short = bench.reader.open(short);
    for range in [ByteRange::new(0, 0), ByteRange::new(0, 4096), ByteRange::at(5, u64::MAX)] {
        read_either_way(&empty, range).await;
        assert!(empty.read(range).await.unwrap().is_empty());
    }
    for range in [ByteRange::new(10, 20), ByteRange::new(4, 4), ByteRange::at(u64::MAX, 1)] {
        assert!(short.read(range).await.unwrap().is_empty());
    }
    assert_eq!(bench.gets(), 0);
    read(&short, ByteRange::new(4, 4096)).await;
    assert_eq!(bench.gets(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_read_fetches_each_byte_once_within_its_memory() {
    for bench in [Bench::cached(), Bench::uncached()] {
        let id = bench.put("sequential", 48 * MIB + 5).await;
        let stream = bench.reader.open(id.clone());
        for range in ByteRange::new(0, id.size).split(256 * KIB) {
            read_either_way(&stream, range).await;
            assert!(bench.held_bytes() <= 16 * MIB);
        }
        assert_eq!(bench.fetched(), id.size);
        let gets = bench.gets();
        assert!(gets <= 48 + 12, "{gets} requests");
    }
}

#[tokio::test]
async fn sequential_readers_that_share_too_little_memory_still_fetch_each_byte_once() {
    let bench = Bench::uncached();
    let mut streams = Vec::new();
    for key in ["a", "bc", "def", "ghij"] {
        streams.push(bench.reader.open(bench.put(key, 12 * MIB).await));
    }
    for range in ByteRange::new(0, 12 * MIB).split(128 * KIB) {
        for stream in &streams {
            read_either_way(stream, range).await;
        }
    }
    assert_eq!(bench.fetched(), 4 * 12 * MIB);
}

#[tokio::test]
async fn a_random_reader_fetches_just_its_chunks() {
    let bench = Bench::cached();
    let id = bench.put("random", 32 * MIB).await;
    let stream = bench.reader.open(id.clone());
    let mut random = fastrand::Rng::with_seed(5);
    let mut chunks = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let start = random.u64(1..id.size / 4096) * 4096;
        read_either_way(&stream, ByteRange::at(start, 4096)).await;
        chunks.insert(start / CHUNK);
    }
    drop(stream);
    settled_streams(&bench).await;
    assert_eq!(bench.fetched(), chunks.len() as u64 * CHUNK);
    assert_eq!(bench.gets(), chunks.len());
    assert_eq!(bench.metrics.count(Counter::CacheMisses), chunks.len() as u64);
}

/// Waits until all memory has been given back, as it is when what was read has come to the disk.
async fn settled_streams(bench: &Bench) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while bench.held_bytes() > 0 {
        assert!(Instant::now() < deadline, "{} bytes stay in memory", bench.held_bytes());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_readers_of_one_chunk_share_one_request() {
    let bench = Bench::cached();
    let id = bench.put("shared", 10 * MIB).await;
    bench.store.add(Rule::on(Op::Get, Action::Delay(Duration::from_millis(50))));
    let range = ByteRange::at(5 * MIB + 10, 100);
    let streams: Vec<_> = (0..20).map(|_| bench.reader.open(id.clone())).collect();
    join_all(streams.iter().map(|stream| read(stream, range))).await;
    assert_eq!(bench.gets(), 1);
}

#[tokio::test]
async fn a_waiter_that_goes_away_takes_nothing_from_the_others() {
    let bench = Bench::cached();
    let id = bench.put("shared", 10 * MIB).await;
    bench.store.add(Rule::on(Op::Get, Action::Delay(Duration::from_millis(80))));
    let (first, second) = (bench.reader.open(id.clone()), bench.reader.open(id.clone()));
    let range = ByteRange::at(5 * MIB, CHUNK);
    let impatient = tokio::time::timeout(Duration::from_millis(20), first.read(range));
    let (left, ()) = tokio::join!(impatient, read(&second, range));
    assert!(left.is_err());
    drop(first);
    assert_eq!(bench.gets(), 1);
}

#[tokio::test]
async fn a_broken_body_goes_on_from_its_last_byte() {
    let size = 5 * CHUNK + 100;
    let edges = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 77, 5 * CHUNK, 5 * CHUNK + 1, size - 1];
    for bytes in edges {
        for action in [Action::ShortBody { bytes }, Action::StallBody { bytes }] {
            let bench = Bench::with(hasty(), Some(TempDir::new().unwrap()));
            let id = bench.put("broken", size).await;
            bench.store.add(Rule::on(Op::Get, action).when(When::First(1)));
            read(&bench.reader.open(id.clone()), ByteRange::new(0, size)).await;
            assert_eq!(bench.gets(), 2, "{action:?}");
            assert_eq!(bench.fetched(), size, "{action:?}");
            // From the start on, all is asked for without a range.
            let asked = bench.store.calls().last().unwrap().range;
            assert_eq!(asked, (bytes > 0).then(|| ByteRange::new(bytes, size)));
            assert_eq!(bench.metrics.count(Counter::FetchesResumed), 1);
        }
    }
}

#[tokio::test]
async fn a_body_that_keeps_breaking_still_arrives_once() {
    let bench = Bench::uncached();
    let id = bench.put("rough", 900 * KIB).await;
    bench.store.add(Rule::on(Op::Get, Action::ShortBody { bytes: 70_001 }).when(When::First(5)));
    bench.store.add(Rule::on(Op::Get, Action::FailBefore(LATER)).when(When::Nth(6)));
    bench.store.add(Rule::on(Op::Get, Action::Stall).when(When::Nth(7)));
    let bench =
        Bench::over(bench.store, Options { read_timeout: Duration::from_millis(600), ..hasty() }, None);
    // The seventh request is never answered: the fetch runs into its deadline, and another's read takes up from there.
    let (stream, other) = (bench.reader.open(id.clone()), bench.reader.open(id.clone()));
    let whole = ByteRange::new(0, id.size);
    assert!(matches!(stream.read(whole).await, Err(Error::Store(error)) if error.kind == LATER));
    read(&other, whole).await;
    assert_eq!(
        bench.store.bytes(Op::Get),
        id.size + 5 * 70_001 % CHUNK_UNCACHED,
        "but the chunk in progress"
    );
}

pub(super) const CHUNK_UNCACHED: u64 = 256 * KIB;

#[tokio::test]
async fn an_object_replaced_while_it_is_read_is_gone_and_never_mixed() {
    let bench = Bench::cached();
    let id = bench.put("replaced", 6 * MIB).await;
    let stream = bench.reader.open(id.clone());
    let first = ByteRange::at(3 * MIB, CHUNK);
    read(&stream, first).await;
    let newer = bench.put("replaced", 6 * MIB).await;
    assert!(matches!(stream.read(ByteRange::new(0, MIB)).await, Err(Error::Gone(gone)) if gone == id));
    read(&stream, first).await;
    read(&bench.reader.open(newer.clone()), ByteRange::new(0, 6 * MIB)).await;
    bench.store.delete(&newer.key, Default::default()).await.unwrap();
    drop(stream);
    let bench = bench.restarted().await;
    assert!(matches!(bench.reader.open(id.clone()).read(ByteRange::new(0, 1)).await, Err(Error::Gone(_))));
    read(&bench.reader.open(newer), ByteRange::new(0, 6 * MIB)).await;
    // Where a version cannot be asked for, the answer's is compared.
    let other = bench.put("other", MIB).await;
    let weak = ObjectId { etag: ETag::new("W/\"1\""), ..other };
    assert!(matches!(bench.reader.open(weak).read(ByteRange::new(0, 1)).await, Err(Error::Gone(_))));
}

#[tokio::test]
async fn a_replacement_between_two_requests_of_one_fetch_is_noticed() {
    let options = Options { stall_timeout: Duration::from_millis(300), ..options() };
    let bench = Bench::with(options, Some(TempDir::new().unwrap()));
    let id = bench.put("replaced", MIB).await;
    bench.store.add(Rule::on(Op::Get, Action::StallBody { bytes: 100_000 }).when(When::First(1)));
    let stream = bench.reader.open(id.clone());
    let replace = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        bench.put("replaced", MIB).await;
    };
    let (answer, ()) = tokio::join!(stream.read(ByteRange::new(0, MIB)), replace);
    assert!(matches!(answer, Err(Error::Gone(gone)) if gone == id));
    read(&stream, ByteRange::new(0, 6 * CHUNK)).await;
}

#[tokio::test]
async fn failures_are_told_apart_and_do_not_stick() {
    let bench = Bench::with(Options { read_timeout: Duration::from_millis(300), ..options() }, None);
    let id = bench.put("failing", MIB).await;
    let range = ByteRange::new(0, 1);
    let stream = bench.reader.open(id.clone());
    for (kind, gets) in [(ErrorKind::Denied, 1..=1), (ErrorKind::Protocol, 3..=3), (LATER, 3..=9)] {
        bench.store.forget_calls();
        bench.store.add(Rule::on(Op::Get, Action::FailBefore(kind)));
        let started = Instant::now();
        assert!(matches!(stream.read(range).await, Err(Error::Store(error)) if error.kind == kind));
        assert!(gets.contains(&bench.gets()), "{kind:?}: {}", bench.gets());
        assert!(started.elapsed() < Duration::from_secs(5));
        bench.store.clear();
    }
    let (asked, started) = (bench.gets(), Instant::now());
    assert!(stream.read(range).await.is_err(), "the kernel's second try for what has just timed out");
    assert!(started.elapsed() < Duration::from_millis(100) && bench.gets() == asked);
    read(&bench.reader.open(id), range).await;
    tokio::time::sleep(Duration::from_millis(250)).await;
    read(&stream, range).await;
}

#[tokio::test]
async fn reading_now_never_waits_and_needs_no_runtime() {
    let bench = Bench::cached();
    let id = bench.put("now", 8 * MIB).await;
    let stream = Arc::new(bench.reader.open(id.clone()));
    let first = ByteRange::new(0, 128 * KIB);
    let mut out = b"before".to_vec();
    assert!(!stream.read_now(first, &mut out));
    assert_eq!(out, b"before");
    assert_eq!(bench.gets(), 0);
    read(&stream, first).await;
    let (reader, other) = (bench.reader.clone(), stream.clone());
    let (told, answer) = tokio::sync::oneshot::channel();
    let on_a_thread = task::thread("not-of-the-runtime", move || {
        // While what was fetched ahead is being written, a look at the cache would have to wait.
        let soon = |stream: &ReadStream, out: &mut Vec<u8>| {
            (0..500).any(|_| {
                let is_now = stream.read_now(first, out);
                is_now || {
                    std::thread::sleep(Duration::from_millis(10));
                    false
                }
            })
        };
        let mut out = b"before".to_vec();
        let at_once = soon(&other, &mut out);
        let also_by_others = soon(&reader.open(other.object().clone()), &mut Vec::new());
        told.send((at_once, also_by_others, out)).unwrap();
    });
    assert!(on_a_thread.is_ok());
    let (at_once, also_by_others, out) = answer.await.unwrap();
    assert!(at_once && also_by_others);
    check(&id, first, &out[6..]);
}

#[tokio::test]
async fn a_dropped_stream_stops_its_prefetch() {
    let bench = Bench::uncached();
    let id = bench.put("dropped", 40 * MIB).await;
    bench.store.add(Rule::on(Op::Get, Action::StallBody { bytes: CHUNK_UNCACHED }).when(When::Always));
    let stream = bench.reader.open(id.clone());
    read(&stream, ByteRange::new(0, 1000)).await;
    assert!(bench.held_bytes() > CHUNK_UNCACHED, "more is on its way");
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.held_bytes() > CHUNK_UNCACHED {
        assert!(Instant::now() < deadline, "it is stopped before it would stall");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    settled(&bench.reader).await;
    assert_eq!(bench.gets(), 1);
}

#[tokio::test]
async fn prefetch_never_starves_a_read_that_somebody_waits_for() {
    let options = Options { memory_bytes: ByteSize::mib(4), ..options() };
    let bench = Bench::with(options, None);
    let id = bench.put("stalled", 40 * MIB).await;
    // All but the first chunk of each request stalls, so that windows fill the memory and stay.
    bench.store.add(Rule::on(Op::Get, Action::StallBody { bytes: CHUNK_UNCACHED }));
    let streams: Vec<_> = (0..8).map(|_| bench.reader.open(id.clone())).collect();
    for (stream, start) in streams.iter().zip((0..).step_by(4 << 20)) {
        let first = stream.read(ByteRange::at(start, 1000));
        let answer = tokio::time::timeout(Duration::from_secs(2), first).await;
        assert!(answer.is_ok(), "the read at {start} is starved");
        let next = stream.read(ByteRange::at(start + 1000, 1000));
        assert!(tokio::time::timeout(Duration::from_secs(2), next).await.is_ok());
        assert!(bench.held_bytes() <= 4 * MIB);
    }
}

#[tokio::test]
async fn a_damaged_cache_file_costs_a_request_and_heals() {
    let bench = Bench::cached();
    let id = bench.put("damaged", 10 * CHUNK).await;
    let whole = ByteRange::new(0, id.size);
    read(&bench.reader.open(id.clone()), whole).await;
    let bench = bench.restarted().await;
    let data = files(bench.cache.as_ref().unwrap().path()).into_iter().find(|path| {
        path.to_str().unwrap().ends_with(".data") && fs::metadata(path).unwrap().len() == id.size
    });
    let data = data.unwrap();
    let mut bytes = fs::read(&data).unwrap();
    bytes[3 * CHUNK as usize + 5] ^= 1;
    fs::write(&data, bytes).unwrap();
    for range in [whole, whole, ByteRange::new(3 * CHUNK, 3 * CHUNK + 9)] {
        read(&bench.reader.open(id.clone()), range).await;
    }
    assert_eq!(bench.fetched(), CHUNK);
    assert_eq!(bench.metrics.count(Counter::CacheDamaged), 1);
    let bench = bench.restarted().await;
    read(&bench.reader.open(id), whole).await;
    assert_eq!(bench.gets(), 0);
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
