//! The wrappers, each by what it promises, and all of them stacked.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future};

use crate::observe::{Counter, Gauge, Metrics, task};
use crate::store::wrap::{
    Action, Call, FaultStore, KeyPattern, LimitStore, Limits, MeterStore, RetryOptions, RetryStore, Rule,
    When,
};
use crate::store::{
    Error, ErrorKind, GetOptions, ListOptions, MemoryStore, ObjectStore, Op, PartLimits, PutOptions, Reach,
    UploadKind, conformance,
};
use crate::types::{ByteRange, Crc64, Key};

const BUSY: ErrorKind = ErrorKind::Unavailable { retry_after: None };
/// More than one piece of a body of the store in memory.
const OBJECT_BYTES: usize = 200_000;

fn memory() -> Arc<MemoryStore> {
    let limits = PartLimits { part_bytes_min: 1_000, part_bytes_max: 1 << 20, parts_max: 100 };
    Arc::new(MemoryStore::new("memory://wrapped", UploadKind::Parts(limits)))
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn object() -> Bytes {
    (0..OBJECT_BYTES).map(|at| (at % 251) as u8).collect()
}

async fn put(store: &dyn ObjectStore, name: &str, body: &Bytes) -> Result<(), Error> {
    let options = PutOptions { crc64: Some(Crc64::of(body)), ..PutOptions::default() };
    store.put(&key(name), body.clone(), options).await.map(drop)
}

/// The bytes that came and the error that ended them.
async fn read(store: &dyn ObjectStore, name: &str) -> (Vec<u8>, Option<Error>) {
    let mut body = store.get(&key(name), GetOptions::default()).await.unwrap().body;
    let mut bytes = Vec::new();
    loop {
        match body.try_next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return (bytes, None),
            Err(error) => {
                assert!(body.next().await.is_none(), "a broken body ends");
                return (bytes, Some(error));
            }
        }
    }
}

#[tokio::test]
async fn conforms_with_all_wrappers_on_a_bad_day() {
    let memory = memory();
    let faults = Arc::new(FaultStore::new(memory.clone()));
    faults.add(Rule {
        op: None,
        key: KeyPattern::Any,
        when: When::Chance { percent: 10, seed: 7 },
        action: Action::FailBefore(BUSY),
    });
    let metrics = Arc::new(Metrics::default());
    let meter = Arc::new(MeterStore::new(faults.clone(), metrics.clone(), Reach::default()));
    let limit = Arc::new(LimitStore::new(meter, limits(3), metrics.clone()));
    let options = RetryOptions {
        attempts_max: 12,
        backoff_first: Duration::from_micros(1),
        backoff_max: Duration::from_micros(10),
    };
    conformance::run(Arc::new(RetryStore::new(limit, options, metrics.clone()))).await;
    assert_eq!(memory.open_uploads(), 0);
    assert_eq!(metrics.level(Gauge::RequestsInFlight), 0, "every permit is back");
    assert_eq!(metrics.count(Counter::StoreRequests), faults.calls().len() as u64);
    assert!(metrics.count(Counter::StoreRetries) > 100, "a tenth of all requests failed");
}

#[tokio::test]
async fn the_limit_is_never_exceeded() {
    let metrics = Arc::new(Metrics::default());
    let inner = memory();
    put(&*inner, "k", &object()).await.unwrap();
    let limit = Arc::new(LimitStore::new(inner, limits(3), metrics.clone()));
    let readers = (0..20).map(|_| {
        let (limit, metrics) = (limit.clone(), metrics.clone());
        task::spawn("test reader", async move {
            let mut body = limit.get(&key("k"), GetOptions::default()).await.unwrap().body;
            let mut level_max = 0;
            while let Some(piece) = body.next().await {
                level_max = level_max.max(metrics.level(Gauge::RequestsInFlight));
                piece.unwrap();
                tokio::task::yield_now().await;
            }
            level_max
        })
    });
    let levels: Vec<u64> = future::join_all(readers).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(levels.iter().max(), Some(&3), "the limit is reached and not exceeded: {levels:?}");
    assert_eq!(metrics.level(Gauge::RequestsInFlight), 0, "every permit is back");
}

fn limits(requests_max: usize) -> Limits {
    Limits { requests_max, bytes_max: 1 << 30 }
}

#[tokio::test(start_paused = true)]
async fn bytes_being_sent_are_bounded_and_one_large_body_goes_alone() {
    let faults = Arc::new(FaultStore::new(memory()));
    faults.add(Rule {
        op: Some(Op::Put),
        key: KeyPattern::Any,
        when: When::Always,
        action: Action::Delay(Duration::from_secs(1)),
    });
    let limits = Limits { requests_max: 100, bytes_max: 256 << 10 };
    let limit = Arc::new(LimitStore::new(faults, limits, Arc::new(Metrics::default())));
    let send = |name: &str, len: usize| {
        let (limit, key) = (limit.clone(), key(name));
        task::spawn("test sender", async move {
            limit.put(&key, Bytes::from(vec![1; len]), PutOptions::default()).await
        })
    };
    let start = tokio::time::Instant::now();
    let small = (0..8).map(|number| send(&format!("s{number}"), 128 << 10));
    future::join_all(small).await.into_iter().for_each(|sent| drop(sent.unwrap().unwrap()));
    assert_eq!(start.elapsed().as_secs(), 4, "two at a time");
    let start = tokio::time::Instant::now();
    let large = (0..2).map(|number| send(&format!("l{number}"), 1 << 20));
    future::join_all(large).await.into_iter().for_each(|sent| drop(sent.unwrap().unwrap()));
    assert_eq!(start.elapsed().as_secs(), 2, "one after the other");
}

#[tokio::test(start_paused = true)]
async fn a_body_holds_its_permit_until_it_is_done_or_dropped() {
    let inner = memory();
    put(&*inner, "k", &object()).await.unwrap();
    let limit = LimitStore::new(inner, limits(1), Arc::new(Metrics::default()));
    let is_free = async || {
        let k = key("k");
        tokio::time::timeout(Duration::from_secs(1), limit.head(&k)).await.is_ok()
    };
    let mut fetched = limit.get(&key("k"), GetOptions::default()).await.unwrap();
    assert!(!is_free().await, "an open body is a request in flight");
    while !fetched.range.is_empty() {
        let piece = fetched.body.try_next().await.unwrap().unwrap();
        fetched.range = ByteRange::new(fetched.range.start + piece.len() as u64, fetched.range.end);
    }
    assert!(is_free().await, "the last byte ends it, also when nobody asks for more");
    let half_read = limit.get(&key("k"), GetOptions::default()).await.unwrap();
    drop(half_read);
    assert!(is_free().await, "dropping the body ends it");
}

#[tokio::test]
async fn requests_failures_and_bytes_are_counted() {
    let faults = Arc::new(FaultStore::new(memory()));
    let metrics = Arc::new(Metrics::default());
    let meter = MeterStore::new(faults.clone(), metrics.clone(), Reach::default());
    put(&meter, "k", &object()).await.unwrap();
    assert_eq!(meter.head(&key("nothing")).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(metrics.count(Counter::StoreErrors), 0, "not found is an answer");
    faults.add(Rule::on(Op::Head, Action::FailBefore(ErrorKind::Denied)));
    meter.head(&key("k")).await.unwrap_err();
    assert_eq!(metrics.count(Counter::StoreErrors), 1);
    faults.add(Rule::on(Op::Get, Action::ShortBody { bytes: 70_000 }));
    let (bytes, error) = read(&meter, "k").await;
    assert_eq!((bytes.len(), error.unwrap().kind), (70_000, BUSY));
    assert_eq!(metrics.count(Counter::StoreErrors), 2, "a broken body is a failure");
    assert_eq!(metrics.count(Counter::FetchedBytes), 70_000);
    assert_eq!(metrics.count(Counter::SentBytes), OBJECT_BYTES as u64);
    assert_eq!(metrics.count(Counter::StoreRequests), 4);
}

#[tokio::test]
async fn every_call_is_recorded() {
    let faults = FaultStore::new(memory());
    put(&faults, "a/b", &object()).await.unwrap();
    let range = Some(ByteRange::new(5, 105));
    let options = GetOptions { range, if_match: None };
    let body = faults.get(&key("a/b"), options).await.unwrap().body;
    body.try_collect::<Vec<_>>().await.unwrap();
    faults.list(ListOptions { prefix: "a/".into(), ..ListOptions::default() }).await.unwrap();
    faults.delete_many(&[key("a/b"), key("c")]).await.unwrap();
    let call = |op, key: &str, range, bytes| Call { op, key: key.to_owned(), range, bytes };
    let wanted = [
        call(Op::Put, "a/b", None, OBJECT_BYTES as u64),
        call(Op::Get, "a/b", range, 100),
        call(Op::List, "a/", None, 0),
        call(Op::DeleteMany, "a/b\nc", None, 0),
    ];
    assert_eq!(faults.calls(), wanted);
    assert_eq!((faults.count(Op::Get), faults.bytes(Op::Get)), (1, 100));
    faults.forget_calls();
    assert_eq!(faults.calls(), []);
}

#[tokio::test]
async fn rules_fire_where_they_should() {
    let faults = FaultStore::new(memory());
    let fail = |kind| Rule::on(Op::Head, Action::FailBefore(kind));
    faults.add(fail(ErrorKind::Denied).key(KeyPattern::Is("denied".into())));
    faults.add(fail(BUSY).key(KeyPattern::EndsWith(".busy".into())).when(When::Nth(2)));
    faults.add(fail(ErrorKind::Protocol).key(KeyPattern::StartsWith("odd".into())).when(When::First(1)));
    let mut kinds = Vec::new();
    for name in ["denied", "a.busy", "b.busy", "c.busy", "odd", "odd", "denied"] {
        kinds.push(faults.head(&key(name)).await.unwrap_err().kind);
    }
    use ErrorKind::{Denied, NotFound, Protocol};
    assert_eq!(kinds, [Denied, NotFound, BUSY, NotFound, Protocol, NotFound, Denied]);
    faults.clear();
    assert_eq!(faults.head(&key("denied")).await.unwrap_err().kind, NotFound);
    faults.add(Rule::on(Op::Head, Action::FailBefore(BUSY)).when(When::Chance { percent: 30, seed: 1 }));
    let mut failed = 0;
    for _ in 0..1_000 {
        failed += usize::from(faults.head(&key("k")).await.unwrap_err().kind == BUSY);
    }
    assert!((200..400).contains(&failed), "about three of ten, not {failed} of 1000");
}

#[tokio::test(start_paused = true)]
async fn each_action_does_what_it_says() {
    let memory = memory();
    let faults = FaultStore::new(memory.clone());
    let script = |rule| {
        faults.clear();
        faults.add(rule);
    };
    script(Rule::on(Op::Put, Action::FailBefore(BUSY)));
    put(&faults, "k", &object()).await.unwrap_err();
    assert_eq!(memory.object_bytes(&key("k")), None, "not applied");
    script(Rule::on(Op::Put, Action::FailAfter(ErrorKind::Ambiguous)));
    assert_eq!(put(&faults, "k", &object()).await.unwrap_err().kind, ErrorKind::Ambiguous);
    assert_eq!(memory.object_bytes(&key("k")).unwrap(), object(), "applied");
    script(Rule::on(Op::Put, Action::FlipByte { at: 99 }));
    assert_eq!(
        put(&faults, "k", &object()).await.unwrap_err().kind,
        ErrorKind::Integrity,
        "the store notices"
    );
    script(Rule::on(Op::Put, Action::ShortBody { bytes: 5 }));
    assert_eq!(put(&faults, "short", &object()).await.unwrap_err().kind, BUSY);
    assert_eq!(memory.object_bytes(&key("short")), None);

    script(Rule::on(Op::Get, Action::ShortBody { bytes: 0 }));
    let (bytes, error) = read(&faults, "k").await;
    assert_eq!((bytes.len(), error.unwrap().kind), (0, BUSY));
    script(Rule::on(Op::Get, Action::ShortBody { bytes: 100_001 }));
    let (bytes, error) = read(&faults, "k").await;
    assert!(bytes == object()[..100_001] && error.is_some());
    script(Rule::on(Op::Get, Action::FlipByte { at: 150_000 }));
    let (bytes, error) = read(&faults, "k").await;
    let whole = object();
    let damaged: Vec<usize> = (0..OBJECT_BYTES).filter(|&at| bytes[at] != whole[at]).collect();
    assert!(error.is_none() && damaged == [150_000], "{damaged:?}");

    let second = Duration::from_secs(1);
    script(Rule::on(Op::Get, Action::StallBody { bytes: 70_000 }));
    faults.forget_calls();
    assert!(tokio::time::timeout(second, read(&faults, "k")).await.is_err(), "the body never ends");
    assert_eq!(faults.bytes(Op::Get), 70_000);
    script(Rule::on(Op::Head, Action::Stall));
    let k = key("k");
    assert!(tokio::time::timeout(second, faults.head(&k)).await.is_err(), "the answer never comes");
    script(Rule::on(Op::Head, Action::Delay(second)));
    let begun = tokio::time::Instant::now();
    faults.head(&k).await.unwrap();
    assert_eq!(begun.elapsed(), second);
}

#[tokio::test(start_paused = true)]
async fn only_the_keys_that_failed_are_removed_again() {
    let metrics = Arc::new(Metrics::default());
    let options = RetryOptions {
        attempts_max: 3,
        backoff_first: Duration::from_secs(1),
        backoff_max: Duration::from_secs(1),
    };
    let memory = memory();
    let faults = Arc::new(FaultStore::new(memory.clone()));
    let fail = |kind| Rule::on(Op::DeleteMany, Action::FailBefore(kind));
    faults.add(fail(BUSY).key(KeyPattern::StartsWith("busy".into())).when(When::First(2)));
    faults.add(fail(ErrorKind::Denied).key(KeyPattern::Is("denied".into())));
    let names = ["kept", "a", "busy1", "busy2", "b"];
    for name in names {
        put(&*memory, name, &object()).await.unwrap();
    }
    let retry = RetryStore::new(faults.clone(), options, metrics.clone());
    let results =
        retry.delete_many(&names[1..].iter().map(|name| key(name)).collect::<Vec<_>>()).await.unwrap();
    assert!(results.len() == 4 && results.iter().all(Result::is_ok), "{results:?}");
    let asked: Vec<String> = faults.calls().into_iter().map(|call| call.key).collect();
    assert_eq!(asked, ["a\nbusy1\nbusy2\nb", "busy1\nbusy2", "busy1\nbusy2"]);
    assert_eq!(metrics.count(Counter::StoreRetries), 2);
    let left = memory.list(ListOptions::default()).await.unwrap().objects;
    assert_eq!(left.into_iter().map(|object| object.id.key).collect::<Vec<_>>(), [key("kept")]);
    let denied = retry.delete_many(&[key("denied"), key("kept")]).await.unwrap();
    assert_eq!(denied[0].as_ref().unwrap_err().kind, ErrorKind::Denied);
    assert!(denied[1].is_ok());
    assert_eq!(faults.count(Op::DeleteMany), 4, "what was denied is not sent again");
}
