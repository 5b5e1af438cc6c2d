//! Fault rules on the wire, and the admin door.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use super::uploads::{create, put_part};
use super::{Bench, Client, pattern};
use crate::bucket::{Action, Operation, Quirks, RequestsSnapshot, Rule, Side};

async fn with_object(bytes: &[u8]) -> Bench {
    let bench = Bench::start(Quirks::default()).await;
    bench.server.put("box", "k", bytes).unwrap();
    bench
}

#[tokio::test]
async fn a_status_with_retry_after_then_success() {
    let bench = with_object(b"abc").await;
    let busy = Action::Status { code: 503, error: None, retry_after_s: Some(3) };
    let fault = bench.server.faults().add(Rule::on(Operation::GetObject, busy).skip(1).times(1));
    assert_eq!(bench.client.get("/box/k").await.status, 200);
    let refused = bench.client.get("/box/k").await;
    assert_eq!((refused.error(), refused.header("retry-after")), ((503, "SlowDown".to_owned()), "3"));
    assert_eq!(bench.client.get("/box/k").await.body, b"abc");
    assert_eq!(fault.struck(), 1);
    let gone = Action::Status { code: 404, error: Some("NoSuchUpload".to_owned()), retry_after_s: None };
    bench.server.faults().add(Rule::on(Operation::PutObject, gone));
    let refused = bench.client.put("/box/k", &pattern(2_000_000, 1)).await;
    assert_eq!(refused.error(), (404, "NoSuchUpload".to_owned()));
    assert_eq!(bench.read("k").unwrap(), b"abc");
    let odd = Action::ErrorIn200 { error: "InternalError".to_owned() };
    bench.server.faults().add(Rule::on(Operation::DeleteObject, odd));
    let reply = bench.client.send("DELETE", "/box/k", &[], b"").await.unwrap();
    assert_eq!(reply.error(), (200, "InternalError".to_owned()));
}

#[tokio::test]
async fn a_reset_comes_before_anything_is_done() {
    let bench = with_object(b"abc").await;
    bench.server.faults().add(Rule::on(Operation::PutObject, Action::Reset).times(1));
    let error = bench.client.send("PUT", "/box/k", &[], b"new").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(bench.read("k").unwrap(), b"abc");
    assert_eq!(bench.server.requests().recent()[0].status, None);
    assert_eq!(bench.client.put("/box/k", b"new").await.status, 200);
}

#[tokio::test]
async fn a_lost_answer_comes_after_the_deed() {
    let bench = with_object(b"abc").await;
    bench.server.faults().add(Rule::on(Operation::PutObject, Action::LoseAnswer));
    bench.server.faults().add(Rule::on(Operation::DeleteObject, Action::LoseAnswer));
    let error = bench.client.send("PUT", "/box/k", &[], b"new").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(bench.read("k").unwrap(), b"new");
    assert!(bench.client.send("DELETE", "/box/k", &[], b"").await.is_err());
    assert_eq!(bench.read("k"), None);
}

#[tokio::test]
async fn requests_arrive_twice() {
    let bench = with_object(b"abc").await;
    let fault = |action: Action| {
        bench.server.faults().clear();
        bench.server.faults().add(Rule::always(action).times(1));
    };
    let new = [("if-none-match", "*")];
    fault(Action::Twice);
    let refused = bench.client.send("PUT", "/box/new", &new, b"new").await.unwrap();
    assert_eq!(refused.error(), (412, "PreconditionFailed".to_owned()), "the second is answered");
    assert_eq!(bench.read("new").unwrap(), b"new", "the first has done it");
    assert_eq!(bench.server.requests().recent()[0].done, 1);
    fault(Action::Echo { ms: 50 });
    assert_eq!(bench.client.put("/box/k", b"one").await.status, 200);
    assert_eq!(bench.client.put("/box/k", b"two").await.status, 200);
    tokio::time::timeout(Duration::from_secs(10), async {
        while bench.read("k").unwrap() != b"one" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("what was held up arrives");
    assert_eq!(bench.server.requests().recent()[1].done, 2);
}

#[tokio::test]
async fn a_stored_part_is_spoilt() {
    let bench = with_object(b"abc").await;
    bench.server.faults().add(Rule::on(Operation::UploadPart, Action::SpoilPart { at: 1 }));
    let id = create(&bench.client, "k").await;
    let before = put_part(&bench.client, ("k", &id), 1, b"xyz").await;
    let listed = bench.client.get(&format!("/box/k?uploadId={id}")).await;
    assert_eq!(listed.all("ETag"), [before.header("etag")]);
    let crc64 = |bytes: &[u8]| crate::bucket::service::digests::to_base64(crate::types::Crc64::of(bytes));
    assert_eq!(listed.all("ChecksumCRC64NVME"), [crc64(&[b'x', !b'y', b'z'])]);
    assert_eq!(before.header("x-amz-checksum-crc64nvme"), crc64(b"xyz"));
}

#[tokio::test]
async fn bodies_are_cut_both_ways() {
    let bytes = pattern(1_000_000, 8);
    let bench = with_object(&bytes).await;
    let cut = Action::Cut { side: Side::Answer, after: 300_001 };
    bench.server.faults().add(Rule::on(Operation::GetObject, cut).times(1));
    let short = bench.client.get("/box/k").await;
    assert_eq!((short.status, short.header("content-length")), (200, "1000000"));
    assert!(short.body == bytes[..300_001], "{} bytes", short.body.len());
    assert_eq!(bench.server.requests().count(Operation::GetObject).sent, 300_001);
    assert_eq!(short.broken, None, "closed in order, only too early");
    assert!(bench.client.get("/box/k").await.body == bytes);

    let cut = Action::Cut { side: Side::Request, after: 100 };
    bench.server.faults().add(Rule::on(Operation::PutObject, cut));
    let error = bench.client.send("PUT", "/box/k", &[], &pattern(500_000, 9)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof), "{error}");
    assert!(bench.read("k").unwrap() == bytes);
    assert_eq!(bench.server.requests().count(Operation::PutObject).received, 100);
    assert_eq!(std::fs::read_dir(bench.directory.path().join("box/data")).unwrap().count(), 1);
}

#[tokio::test]
async fn bytes_are_flipped_both_ways() {
    let bytes = pattern(400_000, 10);
    let bench = with_object(&bytes).await;
    bench
        .server
        .faults()
        .add(Rule::on(Operation::GetObject, Action::Flip { side: Side::Answer, at: 300_000 }));
    let mut got = bench.client.get("/box/k").await.body;
    assert_eq!(got[300_000], !bytes[300_000]);
    got[300_000] = bytes[300_000];
    assert!(got == bytes);
    bench.server.faults().add(Rule::on(Operation::PutObject, Action::Flip { side: Side::Request, at: 1 }));
    let digest = [("content-md5", "XUFAKrxLKna5cZ2REBfFkg==")];
    let refused = bench.client.send("PUT", "/box/k", &digest, b"hello").await.unwrap();
    assert_eq!(refused.error(), (400, "BadDigest".to_owned()));
}

#[tokio::test]
async fn time_is_lost_where_the_rules_say() {
    let bench = with_object(&pattern(200_000, 11)).await;
    let timed = async |action: Action| {
        bench.server.faults().clear();
        bench.server.faults().add(Rule::always(action));
        let start = Instant::now();
        let body = bench.client.get("/box/k").await.body;
        assert_eq!(body.len(), 200_000);
        start.elapsed()
    };
    for action in [
        Action::Delay { ms: 150 },
        Action::Stall { side: Side::Answer, after: 100_000, ms: 150 },
        Action::Bandwidth { bytes_per_s: 1_000_000 },
    ] {
        let took = timed(action.clone()).await;
        assert!(took > Duration::from_millis(145) && took < Duration::from_secs(5), "{action:?}: {took:?}");
    }
    let stall = Action::Stall { side: Side::Request, after: 10, ms: 150 };
    bench.server.faults().add(Rule::on(Operation::PutObject, stall));
    let start = Instant::now();
    assert_eq!(bench.client.put("/box/new", &[1; 1000]).await.status, 200);
    assert!(start.elapsed() > Duration::from_millis(145));
    assert_eq!(bench.read("new").unwrap(), [1; 1000]);
}

#[tokio::test]
async fn the_whole_server_can_be_slow() {
    let bench = Bench::start_with(|options| {
        options.latency = Duration::from_millis(30);
        options.bandwidth = Some(1_000_000);
    })
    .await;
    bench.server.put("box", "k", &pattern(100_000, 12)).unwrap();
    let start = Instant::now();
    let (one, two) = tokio::join!(bench.client.get("/box/k"), bench.client.get("/box/k"));
    assert_eq!((one.body.len(), two.body.len()), (100_000, 100_000));
    // Two hundred thousand bytes share one line of a million a second.
    let took = start.elapsed();
    assert!(took > Duration::from_millis(225) && took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test]
async fn things_change_between_two_requests() {
    let bytes = pattern(1000, 13);
    let bench = with_object(&bytes).await;
    let etag = bench.client.get("/box/k").await.header("etag").to_owned();
    bench
        .server
        .faults()
        .add(Rule::on(Operation::GetObject, Action::Replace { text: None }).skip(1).times(1));
    let pinned = [("if-match", etag.as_str()), ("range", "bytes=0-9")];
    assert_eq!(bench.client.send("GET", "/box/k", &pinned, b"").await.unwrap().status, 206);
    assert_eq!(bench.client.send("GET", "/box/k", &pinned, b"").await.unwrap().status, 412);
    assert_eq!(bench.read("k").unwrap(), bytes.iter().map(|byte| !byte).collect::<Vec<_>>());
    bench.server.faults().clear();
    bench
        .server
        .faults()
        .add(Rule::on(Operation::GetObject, Action::Replace { text: Some("new".to_owned()) }));
    assert_eq!(bench.client.get("/box/k").await.body, b"new");
    bench.server.faults().clear();
    bench.server.faults().add(Rule::on(Operation::GetObject, Action::Delete));
    assert_eq!(bench.client.get("/box/k").await.status, 404);
    bench.server.faults().add(Rule::on(Operation::UploadPart, Action::ForgetUpload).skip(1));
    let id = create(&bench.client, "k").await;
    assert_eq!(put_part(&bench.client, ("k", &id), 1, b"x").await.status, 200);
    let lost = put_part(&bench.client, ("k", &id), 2, b"x").await;
    assert_eq!(lost.error(), (404, "NoSuchUpload".to_owned()));
}

#[tokio::test]
async fn a_reader_keeps_the_version_it_began() {
    let bytes = pattern(3 << 20, 14);
    let bench = with_object(&bytes).await;
    let stall = Action::Stall { side: Side::Answer, after: 100_000, ms: 200 };
    bench.server.faults().add(Rule::on(Operation::GetObject, stall));
    let overwrite = async {
        tokio::time::sleep(Duration::from_millis(80)).await;
        bench.server.put("box", "k", b"other").unwrap();
    };
    let (got, ()) = tokio::join!(bench.client.get("/box/k"), overwrite);
    assert!(got.body == bytes);
    assert_eq!(std::fs::read_dir(bench.directory.path().join("box/data")).unwrap().count(), 1);
}

#[tokio::test]
async fn answers_are_torn_shortened_and_dripped() {
    let bytes = pattern(1_000_000, 15);
    let bench = with_object(&bytes).await;
    let fault = |action| {
        bench.server.faults().clear();
        bench.server.faults().add(Rule::on(Operation::GetObject, action));
    };
    fault(Action::Tear { after: 300_001 });
    let torn = bench.client.get("/box/k").await;
    assert_eq!((torn.status, torn.broken), (200, Some(ErrorKind::ConnectionReset)));
    assert!(torn.body.len() <= 300_001 && torn.body == bytes[..torn.body.len()], "{} bytes", torn.body.len());
    fault(Action::Shorten { to: 20 });
    let short = bench.client.send("GET", "/box/k", &[("range", "bytes=100-199")], b"").await.unwrap();
    assert_eq!((short.header("content-length"), short.broken), ("20", None));
    assert_eq!((short.status, short.header("content-range")), (206, "bytes 100-199/1000000"));
    assert!(short.body == bytes[100..120]);
    fault(Action::Shorten { to: 200 });
    let whole = bench.client.send("GET", "/box/k", &[("range", "bytes=100-199")], b"").await.unwrap();
    assert!(whole.header("content-length") == "100" && whole.body == bytes[100..200]);
    fault(Action::Bandwidth { bytes_per_s: 20 });
    let start = Instant::now();
    let dripped = bench.client.send("GET", "/box/k", &[("range", "bytes=0-9")], b"").await.unwrap();
    assert!(dripped.body == bytes[..10] && start.elapsed() > Duration::from_millis(490));
}

#[tokio::test]
async fn answers_lie_about_what_they_are() {
    let bytes = pattern(1000, 16);
    let bench = with_object(&bytes).await;
    let range = [("range", "bytes=10-19")];
    bench.server.faults().add(Rule::on(Operation::GetObject, Action::IgnoreRange));
    let whole = bench.client.send("GET", "/box/k", &range, b"").await.unwrap();
    assert_eq!((whole.status, whole.header("content-range"), whole.body == bytes), (200, "", true));
    bench.server.faults().clear();
    let lie = |name: &str, value: Option<&str>| {
        let action = Action::Header { name: name.to_owned(), value: value.map(str::to_owned) };
        bench.server.faults().add(Rule::on(Operation::GetObject, action));
    };
    lie("content-range", Some("bytes 0-9/1000"));
    lie("etag", None);
    let lying = bench.client.send("GET", "/box/k", &range, b"").await.unwrap();
    assert_eq!((lying.status, lying.header("content-range")), (206, "bytes 0-9/1000"));
    assert!(!lying.headers.contains_key("etag") && lying.body == bytes[10..20]);
}

#[tokio::test]
async fn a_frozen_listing_does_not_change() {
    let bench = with_object(b"abc").await;
    let fault = bench.server.faults().add(Rule::on(Operation::ListObjectsV2, Action::Freeze));
    let first = bench.client.get("/box?list-type=2").await.all("Key");
    bench.server.put("box", "new", b"x").unwrap();
    assert_eq!(bench.client.get("/box?list-type=2").await.all("Key"), first);
    assert_eq!(bench.client.get("/box?list-type=2&prefix=n").await.all("Key"), ["new"], "another URL");
    assert_eq!(fault.struck(), 3);
    bench.server.faults().clear();
    assert_eq!(bench.client.get("/box?list-type=2").await.all("Key"), ["k", "new"]);
}

#[tokio::test]
async fn a_huge_object_of_zeros_takes_no_space() {
    let bench = Bench::start(Quirks::default()).await;
    let size = 1 << 40;
    bench.server.put_sparse("box", "huge", size, &[(0, b"start"), (1 << 39, b"middle")]).unwrap();
    let at = async |range| bench.client.send("GET", "/box/huge", &[("range", range)], b"").await.unwrap();
    assert_eq!(at("bytes=0-6").await.body, b"start\0\0");
    assert_eq!(at("bytes=549755813887-549755813894").await.body, b"\0middle\0");
    let end = at("bytes=-3").await;
    assert_eq!(
        (end.body.len(), end.header("content-range")),
        (3, "bytes 1099511627773-1099511627775/1099511627776")
    );
    assert!(bench.server.put_sparse("box", "x", 10, &[(8, b"abc")]).is_err());
    assert!(bench.server.put_sparse("box", "x", 10, &[(2, b"abc"), (4, b"d")]).is_err());
    bench.server.put_sparse("box", "small", 10, &[(2, b"abc")]).unwrap();
    assert_eq!(bench.read("small").unwrap(), b"\0\0abc\0\0\0\0\0");
}

async fn admin(client: &Client, method: &str, path: &str, body: &str) -> super::Reply {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n",
        client.address
    );
    client.exchange(head, body.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn another_process_steers_by_the_admin_door() {
    let bench = Bench::start_with(|options| options.admin = true).await;
    let rules = r#"[{"operation":"PutObject","times":1,"action":{"kind":"status","code":500}}]"#;
    assert_eq!(admin(&bench.client, "POST", "/-/faults", rules).await.status, 204);
    assert_eq!(bench.client.put("/box/k", b"x").await.error(), (500, "InternalError".to_owned()));
    assert_eq!(bench.client.put("/box/k", b"x").await.status, 200);
    let list = admin(&bench.client, "GET", "/-/faults", "").await;
    assert!(list.text().ends_with(r#""struck":1}]"#), "{}", list.text());
    let seen: RequestsSnapshot =
        serde_json::from_slice(&admin(&bench.client, "GET", "/-/requests", "").await.body).unwrap();
    assert_eq!(seen.counts["PutObject"].requests, 2);
    assert_eq!(seen.recent.iter().map(|one| one.status).collect::<Vec<_>>(), [Some(500), Some(200)]);
    assert_eq!(admin(&bench.client, "POST", "/-/requests/reset", "").await.status, 204);
    assert_eq!(bench.server.requests().total().requests, 0);
    assert_eq!(admin(&bench.client, "DELETE", "/-/faults", "").await.status, 204);
    assert_eq!(bench.server.faults().list(), []);
    assert_eq!(admin(&bench.client, "POST", "/-/faults", "[{}]").await.status, 400);
    assert_eq!(admin(&bench.client, "GET", "/-/other", "").await.status, 404);
    let closed = Bench::start(Quirks::default()).await;
    assert_ne!(admin(&closed.client, "GET", "/-/requests", "").await.status, 200);
}
