//! What is fetched ahead, for whom and how fast: patterns of reading over a store in memory, and links of any latency
//! and bandwidth in simulated time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::time::{Duration, Instant};

use super::{Bench, CHUNK_UNCACHED, KIB, MIB, options, read, read_either_way};
use crate::read::*;
use crate::store::wrap::{Action, Rule, When};
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, ErrorKind, Fetched, GetOptions, ListOptions,
    ListPage, MemoryStore, Op, PartReceipt, PartSlot, PutOptions, Result, Upload, UploadKind, UploadOptions,
    UploadStatus,
};
use crate::types::{ByteRange, ETag, Key, ObjectMeta, UnixTime};

const GIB: u64 = 1 << 30;
/// What bytes come over a [`LinkStore`] in, unless it drips.
const PIECE_BYTES: u64 = 64 * KIB;
/// How fast the kernel and the program take what is here, in bytes a second.
const READER_RATE: u64 = 2500 * MIB;
/// Timers fire at whole milliseconds; a link that was kept waiting for so long makes up for it.
const TICK: Duration = Duration::from_millis(2);

/// A store of zeros behind a link, in simulated time.
#[derive(Debug)]
struct LinkStore {
    /// Says what can be said of a store without asking it.
    manners: MemoryStore,
    size: u64,
    /// From the request to its first byte.
    latency: Duration,
    /// Bytes a second over the link, and of one body.
    link_rate: u64,
    body_rate: u64,
    piece_bytes: u64,
    /// When the link has carried all that was put on it.
    link_free: Arc<Mutex<Instant>>,
    gets: AtomicUsize,
}

impl LinkStore {
    fn new(size: u64, latency: Duration, link_rate: u64, body_rate: u64) -> LinkStore {
        LinkStore {
            manners: MemoryStore::new("memory://link", UploadKind::Offset { align: 1 }),
            size,
            latency,
            link_rate,
            body_rate,
            piece_bytes: PIECE_BYTES,
            link_free: Arc::new(Mutex::new(Instant::now())),
            gets: AtomicUsize::new(0),
        }
    }

    fn id(&self) -> ObjectId {
        ObjectId { key: Key::new("zeros").unwrap(), etag: ETag::new("1"), size: self.size }
    }
}

/// Puts bytes behind what a line carries already; returns when they are through.
fn carry(free: &mut Instant, bytes: u64, rate: u64) -> Instant {
    let start = (*free).max(Instant::now() - TICK);
    *free = start + Duration::from_secs_f64(bytes as f64 / rate as f64);
    *free
}

#[async_trait]
impl ObjectStore for LinkStore {
    fn volume(&self) -> &str {
        self.manners.volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.manners.capabilities()
    }

    async fn get(&self, _: &Key, options: GetOptions) -> Result<Fetched> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.latency).await;
        let range = options.range.unwrap();
        let (link_free, link_rate, body_rate) = (self.link_free.clone(), self.link_rate, self.body_rate);
        let piece_bytes = self.piece_bytes;
        let body = stream::unfold((range.len(), Instant::now()), move |(left, mut body_free)| {
            let link_free = link_free.clone();
            async move {
                let bytes = left.min(piece_bytes);
                let by_link = carry(&mut link_free.lock().unwrap(), bytes, link_rate);
                let by_body = carry(&mut body_free, bytes, body_rate);
                tokio::time::sleep_until(by_link.max(by_body)).await;
                // The others' turn, also when there is time to make up for.
                tokio::task::yield_now().await;
                let piece = Bytes::from_static(&[0; PIECE_BYTES as usize]).slice(..bytes as usize);
                (bytes > 0).then_some((Ok(piece), (left - bytes, body_free)))
            }
        });
        let meta = ObjectMeta {
            id: self.id(),
            modified: UnixTime::from(SystemTime::UNIX_EPOCH),
            attributes: None,
            token: None,
            crc64: None,
        };
        Ok(Fetched { meta, range, body: body.boxed() })
    }

    async fn head(&self, _: &Key) -> Result<ObjectMeta> {
        unreachable!("reading only reads")
    }

    async fn list(&self, _: ListOptions) -> Result<ListPage> {
        unreachable!("reading only reads")
    }

    async fn put(&self, _: &Key, _: Bytes, _: PutOptions) -> Result<ObjectMeta> {
        unreachable!("reading only reads")
    }

    async fn copy(&self, _: &ObjectId, _: &Key, _: CopyOptions) -> Result<ObjectMeta> {
        unreachable!("reading only reads")
    }

    async fn delete(&self, _: &Key, _: DeleteOptions) -> Result<()> {
        unreachable!("reading only reads")
    }

    async fn delete_many(&self, _: &[Key]) -> Result<Vec<Result<()>>> {
        unreachable!("reading only reads")
    }

    async fn begin_upload(&self, _: &Key, _: UploadOptions) -> Result<Upload> {
        unreachable!("reading only reads")
    }

    async fn upload_status(&self, _: &Upload) -> Result<UploadStatus> {
        unreachable!("reading only reads")
    }

    async fn put_part(&self, _: &Upload, _: PartSlot, _: Bytes) -> Result<PartReceipt> {
        unreachable!("reading only reads")
    }

    async fn copy_part(&self, _: &Upload, _: PartSlot, _: &ObjectId, _: ByteRange) -> Result<PartReceipt> {
        unreachable!("reading only reads")
    }

    async fn complete_upload(&self, _: &Upload, _: &[PartReceipt], _: Completion) -> Result<ObjectMeta> {
        unreachable!("reading only reads")
    }

    async fn abort_upload(&self, _: &Upload) -> Result<()> {
        unreachable!("reading only reads")
    }
}

/// As they are by default.
fn usual() -> Options {
    Options {
        memory_bytes: ByteSize::mib(256),
        prefetch_bytes: ByteSize::mib(128),
        request_bytes: ByteSize::mib(8),
        requests_max: 8,
        stall_timeout: Duration::from_secs(30),
        read_timeout: Duration::from_secs(60),
    }
}

/// Reads all of an object of zeros by reads of a size; returns the time it took and the requests.
async fn time_to_read(store: LinkStore, read_bytes: u64) -> (Duration, usize) {
    let (id, store) = (store.id(), Arc::new(store));
    let reader = Reader::new(store.clone(), None, usual(), Arc::default());
    let stream = reader.open(id.clone());
    let begun = Instant::now();
    let (mut out, mut busy_until) = (Vec::new(), begun);
    for range in ByteRange::new(0, id.size).split(read_bytes) {
        out.clear();
        if !stream.read_now(range, &mut out) {
            assert_eq!(stream.read(range).await.unwrap().len() as u64, range.len());
        }
        tokio::time::sleep_until(carry(&mut busy_until, range.len(), READER_RATE)).await;
    }
    (begun.elapsed(), store.gets.load(Ordering::Relaxed))
}

#[tokio::test(start_paused = true)]
async fn twenty_milliseconds_of_latency_cost_less_than_a_tenth() {
    let rate = 1200 * MIB;
    let read_bytes = 128 * KIB;
    let near = LinkStore::new(GIB, Duration::ZERO, rate, rate);
    let far = LinkStore::new(GIB, Duration::from_millis(20), rate, rate);
    let ((near, _), (far, gets)) =
        (time_to_read(near, read_bytes).await, time_to_read(far, read_bytes).await);
    assert!(far.mul_f64(0.9) < near, "{read_bytes} bytes a read: {near:?} and {far:?}");
    assert!(gets < 128 + 30, "{gets} requests");
}

#[tokio::test(start_paused = true)]
async fn one_reader_gets_what_parallel_requests_get() {
    // With the longest, the memory for one stream cannot keep the link full.
    for (latency, worst) in [(1, 1.1), (20, 1.2), (50, 1.4)] {
        let store = LinkStore::new(GIB, Duration::from_millis(latency), 100 * GIB, 100 * MIB);
        let (time, _) = time_to_read(store, 256 * KIB).await;
        let best = Duration::from_secs_f64(1024.0 / 800.0);
        assert!(best.mul_f64(0.99) < time && time < best.mul_f64(worst), "{time:?} with {latency} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_carries_little_that_is_not_waited_for() {
    let store = Arc::new(LinkStore::new(GIB, Duration::from_millis(100), 2 * MIB, 2 * MIB));
    let reader = Reader::new(store.clone(), None, usual(), Arc::default());
    let stream = reader.open(store.id());
    let mut longest = Duration::ZERO;
    for (nth, range) in ByteRange::new(0, 64 * MIB).split(256 * KIB).enumerate() {
        let begun = Instant::now();
        stream.read(range).await.unwrap();
        if nth > 64 {
            longest = longest.max(begun.elapsed());
        }
    }
    assert!(longest <= Duration::from_secs(4), "{longest:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_drips_fails_a_read_at_its_time_out() {
    let store = LinkStore { piece_bytes: 10, ..LinkStore::new(GIB, Duration::ZERO, GIB, 100) };
    let (id, store) = (store.id(), Arc::new(store));
    let reader = Reader::new(store.clone(), None, usual(), Arc::default());
    let begun = Instant::now();
    let error = reader.open(id).read(ByteRange::new(0, 1000)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Store(error) if error.kind == ErrorKind::Unavailable { retry_after: None })
    );
    let time = begun.elapsed().as_secs();
    assert!((60..=61).contains(&time), "{time} s");
    assert_eq!(store.gets.load(Ordering::Relaxed), 2, "one for each stall time-out");
    // Slow is not dripping.
    let store = LinkStore { piece_bytes: 100, ..LinkStore::new(GIB, Duration::ZERO, GIB, 2000) };
    let (id, store) = (store.id(), Arc::new(store));
    let reader = Reader::new(store.clone(), None, usual(), Arc::default());
    let begun = Instant::now();
    reader.open(id).read(ByteRange::new(0, 1000)).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(120) && store.gets.load(Ordering::Relaxed) == 1);
}

#[tokio::test]
async fn a_look_at_the_start_of_a_large_object_costs_little() {
    let bench = Bench::with(Options { request_bytes: ByteSize::mib(8), ..usual() }, None);
    let id = bench.put("large", 40 * MIB).await;
    let stream = bench.reader.open(id);
    read(&stream, ByteRange::new(0, 128 * KIB)).await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(bench.fetched() <= MIB + CHUNK_UNCACHED, "{}", bench.fetched());
    assert_eq!(bench.gets(), 1);
}

#[tokio::test]
async fn several_readers_of_one_handle_each_have_a_window() {
    for bench in [Bench::cached(), Bench::uncached()] {
        let id = bench.put("shared", 40 * MIB).await;
        let stream = bench.reader.open(id.clone());
        let parts: Vec<Vec<ByteRange>> =
            ByteRange::new(0, id.size).split(10 * MIB).map(|part| part.split(64 * KIB).collect()).collect();
        for nth in 0..parts[0].len() {
            for part in &parts {
                read_either_way(&stream, part[nth]).await;
            }
        }
        assert_eq!(bench.fetched(), id.size);
        assert!(bench.gets() < 40 + 60, "{}", bench.gets());
    }
}

#[tokio::test]
async fn a_reader_that_goes_backwards_has_a_window() {
    let bench = Bench::uncached();
    let id = bench.put("backwards", 20 * MIB).await;
    let stream = bench.reader.open(id.clone());
    let mut reads: Vec<_> = ByteRange::new(0, id.size).split(64 * KIB).collect();
    reads.reverse();
    let mut waits = 0;
    for range in reads {
        let mut out = Vec::new();
        if !stream.read_now(range, &mut out) {
            waits += 1;
            read(&stream, range).await;
        }
        // As time passes for a program that does something with what it reads.
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.fetched(), id.size);
    assert!(bench.gets() <= 20 + 20, "{} requests", bench.gets());
    assert!(waits < 100, "{waits} reads have waited");
}

#[tokio::test]
async fn strides_are_fetched_ahead_and_nothing_else() {
    let bench = Bench::cached();
    let id = bench.put("strided", 40 * MIB).await;
    let stream = bench.reader.open(id.clone());
    let mut waits = 0;
    for nth in 0..35 {
        let range = ByteRange::at(KIB + nth * MIB, 10 * KIB);
        let mut out = Vec::new();
        if !stream.read_now(range, &mut out) {
            waits += 1;
            read(&stream, range).await;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(stream);
    assert!(bench.fetched() <= 40 * 16 * KIB, "the chunks of the strides alone: {}", bench.fetched());
    assert_eq!(bench.gets() as u64 * 16 * KIB, bench.fetched());
    assert!(waits < 12, "{waits} reads have waited");
}

#[tokio::test]
async fn a_seek_stops_what_was_on_its_way() {
    let bench = Bench::uncached();
    let id = bench.put("sought", 40 * MIB).await;
    let stream = bench.reader.open(id.clone());
    read(&stream, ByteRange::new(0, MIB)).await;
    bench.store.add(Rule::on(Op::Get, Action::StallBody { bytes: 100 }).when(When::Always));
    let next = stream.read(ByteRange::at(MIB, 6 * MIB));
    assert!(tokio::time::timeout(Duration::from_millis(50), next).await.is_err());
    let held = bench.held_bytes();
    assert!(held > 3 * MIB, "a window is on its way: {held}");
    bench.store.clear();
    read(&stream, ByteRange::at(30 * MIB, 1000)).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(bench.held_bytes() < held, "what was not done yet is stopped: {}", bench.held_bytes());
}

#[tokio::test]
async fn random_reads_leave_nothing_behind_in_the_handle() {
    let bench = Bench::uncached();
    let id = bench.put("random", 40 * MIB).await;
    let stream = bench.reader.open(id.clone());
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        read(&stream, ByteRange::at(random.u64(1..40) * MIB - 5000, 1000)).await;
    }
    assert!(stream.interests() <= 2, "{}", stream.interests());
}

#[tokio::test]
async fn streams_share_the_requests_that_fetch_ahead() {
    let bench = Bench::with(Options { memory_bytes: ByteSize::mib(128), ..options() }, None);
    let mut ids = Vec::new();
    for nth in 1..=8 {
        ids.push(bench.put(&"x".repeat(nth), 8 * MIB).await);
    }
    let streams: Vec<_> = ids.iter().map(|id| bench.reader.open(id.clone())).collect();
    for stream in &streams {
        read(stream, ByteRange::new(0, MIB)).await;
    }
    bench.store.forget_calls();
    bench.store.add(Rule::on(Op::Get, Action::Stall).when(When::Always));
    for stream in &streams {
        let next = stream.read(ByteRange::at(MIB, 6 * MIB));
        assert!(tokio::time::timeout(Duration::from_millis(20), next).await.is_err());
    }
    let gets = bench.gets();
    assert!(gets >= 8, "{gets}");
    assert!(gets <= 2 * options().requests_max + 8, "those waited for come on top: {gets}");
}
