//! The back end against a scripted server: what goes out, in how many requests, and what is made of each answer.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::store::http::client::HttpClient;
use crate::store::http::credentials::CredentialSource;
use crate::store::s3::address::Address;
use crate::store::s3::client::{Login, S3Client};
use crate::store::s3::dialect::Dialect;
use crate::store::s3::{S3Options, S3Store};
use crate::store::{
    Completion, CopyOptions, DeleteOptions, ErrorKind, GetOptions, ListOptions, ObjectStore, PartReceipt,
    PartSlot, Precondition, PutOptions, Upload, UploadId, UploadStatus,
};
use crate::types::{Attributes, ByteRange, Crc64, ETag, Key, ObjectId, PartNumber, UnixTime, UploadToken};

/// Requests as they came in: head and body.
type Seen = Arc<Mutex<Vec<String>>>;

/// A volume `s3://bkt/v/` on a server that gives these answers, one a request; at an empty one it just hangs up.
async fn scripted(login: Login, dialect: Dialect, answers: &[&str]) -> (S3Store, Seen) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let (recorded, answers) = (seen.clone(), answers.iter().map(|&a| a.to_owned()).collect::<Vec<_>>());
    crate::observe::task::spawn("scripted-server", async move {
        for answer in answers {
            let (mut socket, _) = listener.accept().await.unwrap();
            let request = read_request(&mut socket).await;
            recorded.lock().unwrap().push(request);
            if answer.is_empty() {
                continue;
            }
            let (head, body) = answer.split_once("\n\n").unwrap_or((&answer, ""));
            let length = if head.contains("content-length") {
                String::new()
            } else {
                format!("\ncontent-length: {}", body.len())
            };
            let head = format!("HTTP/1.1 {head}{length}\nconnection: close\n\n").replace('\n', "\r\n");
            socket.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        }
    });
    let options = S3Options { endpoint: Some(endpoint), ..S3Options::default() };
    let address = Address::new("bkt", "v/", &options, "lab").unwrap();
    let http = HttpClient::new(Duration::from_secs(5)).unwrap();
    let client = S3Client::new(http, address, "lab", Arc::new(login));
    (S3Store::new(client, "test".to_owned(), dialect), seen)
}

async fn read_request(socket: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        let count = socket.read(&mut piece).await.unwrap();
        assert!(count > 0, "the request ended early: {text}");
        bytes.extend_from_slice(&piece[..count]);
    }
}

async fn amazon(answers: &[&str]) -> (S3Store, Seen) {
    scripted(Login::Anonymous, Dialect::amazon(), answers).await
}

fn requests(seen: &Seen) -> Vec<String> {
    seen.lock().unwrap().iter().map(|text| text.lines().next().unwrap_or_default().to_owned()).collect()
}

fn has_header(request: &str, line: &str) -> bool {
    request.lines().any(|found| found == line)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn upload() -> Upload {
    Upload { key: key("k"), id: UploadId("U/1".to_owned()) }
}

fn part(index: u32) -> PartReceipt {
    PartReceipt {
        number: PartNumber::from_index(index),
        len: 5,
        etag: format!("e{index}"),
        crc64: Some(Crc64(7)),
    }
}

#[tokio::test]
async fn a_server_that_knows_no_crc_64_compares_the_md5() {
    for body in [Bytes::from_static(b"hello"), Bytes::from(vec![7; 100_000])] {
        let answers = ["200 OK\netag: \"E\"", "200 OK\netag: \"E\""];
        let dialect = Dialect { put_if_absent: true, ..Dialect::cautious() };
        let (store, seen) = scripted(Login::Anonymous, dialect, &answers).await;
        store.put(&key("k"), body.clone(), PutOptions::default()).await.unwrap();
        let range = ByteRange::new(0, body.len() as u64);
        let slot = PartSlot { number: PartNumber::from_index(0), range, is_last: true };
        store.put_part(&upload(), slot, body.clone()).await.unwrap();
        let digest = if body.len() == 5 { "XUFAKrxLKna5cZ2REBfFkg==" } else { "O0fiy4WtlqkIgHPuQ+gUxg==" };
        for request in seen.lock().unwrap().iter() {
            assert!(has_header(request, &format!("content-md5: {digest}")), "{request:.600}");
        }
    }
}

#[tokio::test]
async fn a_put_is_one_request_with_all_that_it_must_carry() {
    let (store, seen) = amazon(&["200 OK\netag: \"E\"\ndate: Fri, 20 Nov 2026 07:00:00 GMT"]).await;
    let options = PutOptions {
        precondition: Precondition::Absent,
        attributes: Attributes { mode: Some(0o644), ..Attributes::default() },
        token: Some(UploadToken::from_text("T")),
        crc64: Some(Crc64::of(b"123456789")),
    };
    let meta = store.put(&key("a b/\u{e9}+"), Bytes::from_static(b"123456789"), options).await.unwrap();
    assert_eq!((meta.id.etag.as_str(), meta.id.size), ("E", 9));
    assert_eq!(meta.modified, UnixTime::from_secs(1_795_158_000));
    let request = seen.lock().unwrap()[0].clone();
    assert!(request.starts_with("PUT /bkt/v/a%20b/%C3%A9%2B HTTP/1.1\r\n"), "{request}");
    for line in [
        "if-none-match: *",
        "x-amz-meta-mode: 33188",
        "x-amz-meta-tetherfs-token: T",
        "x-amz-checksum-crc64nvme: rosUhgp5mIg=",
        "content-length: 9",
    ] {
        assert!(has_header(&request, line), "{line} is missing in {request}");
    }
    assert!(!request.contains("authorization") && !request.contains("chunked"), "{request}");
    assert!(request.ends_with("123456789"));
}

#[tokio::test]
async fn a_put_whose_answer_tells_no_version_is_looked_up() {
    let found = "200 OK\netag: \"E\"\ncontent-length: 1";
    for (looked, outcome) in [(found, Ok("E".to_owned())), ("503 Slow Down", Err(ErrorKind::Ambiguous))] {
        let (store, _) = amazon(&["200 OK", looked]).await;
        let put = store.put(&key("k"), Bytes::from_static(b"x"), PutOptions::default()).await;
        assert_eq!(put.map(|meta| meta.id.etag.to_string()).map_err(|error| error.kind), outcome);
    }
}

#[tokio::test]
async fn ignored_preconditions_are_replaced_by_a_look() {
    let there = "200 OK\netag: \"new\"\ncontent-length: 3";
    let body = Bytes::from_static(b"x");
    let options = |precondition| PutOptions { precondition, ..PutOptions::default() };
    let matches = Precondition::Matches(ETag::new("old"));

    let (store, seen) = scripted(Login::Anonymous, Dialect::cautious(), &[there]).await;
    let error = store.put(&key("k"), body.clone(), options(matches.clone())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert_eq!(requests(&seen), ["HEAD /bkt/v/k HTTP/1.1"], "nothing is changed");

    let answers = ["404 Not Found", "200 OK\netag: \"E\""];
    let (store, seen) = scripted(Login::Anonymous, Dialect::cautious(), &answers).await;
    store.put(&key("k"), body.clone(), options(Precondition::Absent)).await.unwrap();
    assert_eq!(requests(&seen), ["HEAD /bkt/v/k HTTP/1.1", "PUT /bkt/v/k HTTP/1.1"]);
    assert!(!seen.lock().unwrap()[1].contains("if-none-match"));

    let (store, _) = amazon(&["404 Not Found\n\n<Error><Code>NoSuchKey</Code></Error>"]).await;
    let error = store.put(&key("k"), body, options(matches)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition, "a missing object is another version");
}

#[tokio::test]
async fn a_wrong_clock_is_corrected_by_the_servers() {
    let server_time = SystemTime::now() - Duration::from_secs(7200);
    let refusal = format!(
        "403 Forbidden\ndate: {}\n\n<Error><Code>RequestTimeTooSkewed</Code></Error>",
        httpdate::fmt_http_date(server_time)
    );
    let fine = "200 OK\netag: \"E\"\ncontent-length: 0";
    let login = Login::Signed(CredentialSource::fixed("AK", "SK"));
    let (store, seen) = scripted(login, Dialect::amazon(), &[&refusal, fine, fine]).await;
    store.head(&key("k")).await.unwrap();
    store.head(&key("k")).await.unwrap();
    let signed: Vec<i64> = seen.lock().unwrap().iter().map(|request| signed_at(request)).collect();
    let server_secs = UnixTime::from(server_time).secs;
    assert_eq!(signed.len(), 3, "one request more, once");
    assert!((signed[0] - server_secs).abs() > 7000, "{signed:?}");
    assert!(signed[1..].iter().all(|secs| (secs - server_secs).abs() < 60), "{signed:?}");
}

fn signed_at(request: &str) -> i64 {
    let stamp = request.lines().find_map(|line| line.strip_prefix("x-amz-date: ")).unwrap();
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    time::PrimitiveDateTime::parse(stamp, format).unwrap().assume_utc().unix_timestamp()
}

#[tokio::test]
async fn other_denials_are_not_tried_again() {
    let now = httpdate::fmt_http_date(SystemTime::now());
    let refusal = format!("403 Forbidden\ndate: {now}\n\n<Error><Code>AccessDenied</Code></Error>");
    let login = Login::Signed(CredentialSource::fixed("AK", "SK"));
    let (store, seen) = scripted(login, Dialect::amazon(), &[&refusal]).await;
    assert_eq!(store.head(&key("k")).await.unwrap_err().kind, ErrorKind::Denied);
    assert_eq!(requests(&seen).len(), 1);
}

#[tokio::test]
async fn a_broken_body_keeps_its_good_bytes_and_ends_in_an_error() {
    let answer = "206 Partial Content\netag: \"E\"\ncontent-range: bytes 2-9/20\ncontent-length: 8\n\n2345";
    let (store, seen) = amazon(&[answer]).await;
    let options = GetOptions { range: Some(ByteRange::new(2, 10)), if_match: Some(ETag::new("E")) };
    let mut fetched = store.get(&key("k"), options).await.unwrap();
    assert_eq!((fetched.range, fetched.meta.id.size), (ByteRange::new(2, 10), 20));
    let mut bytes = Vec::new();
    let error = loop {
        match fetched.body.next().await.expect("a short body ends in an error") {
            Ok(piece) => bytes.extend_from_slice(&piece),
            Err(error) => break error,
        }
    };
    assert_eq!(bytes, b"2345");
    assert_eq!(error.kind, ErrorKind::Unavailable { retry_after: None });
    let request = seen.lock().unwrap()[0].clone();
    assert!(has_header(&request, "range: bytes=2-9") && has_header(&request, "if-match: \"E\""), "{request}");
}

#[tokio::test]
async fn a_range_without_an_end_is_cut_at_the_objects() {
    let (store, seen) =
        amazon(&["206 Partial Content\netag: \"E\"\ncontent-range: bytes 2-4/5\n\n234"]).await;
    let options = GetOptions { range: Some(ByteRange::new(2, u64::MAX)), if_match: None };
    let fetched = store.get(&key("k"), options).await.unwrap();
    assert_eq!((fetched.range, fetched.meta.id.size), (ByteRange::new(2, 5), 5));
    assert_eq!(fetched.body.count().await, 1);
    assert!(has_header(&seen.lock().unwrap()[0], "range: bytes=2-"));
}

#[tokio::test]
async fn a_success_that_holds_an_error_is_none() {
    let completion = || Completion { size: 10, ..Completion::default() };
    let inside = "200 OK\n\n  \n<Error><Code>InternalError</Code><Message>no U/1</Message></Error>";
    let (store, _) = amazon(&[inside]).await;
    let error = store.complete_upload(&upload(), &[part(0)], completion()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Ambiguous);
    assert!(!error.to_string().contains("U/1"), "{error}");

    let (store, _) = amazon(&["200 OK\n\n<CompleteMulti"]).await;
    let error = store.complete_upload(&upload(), &[part(0)], completion()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Ambiguous, "half an answer");

    let slow_down = "503 Slow Down\nretry-after: 7\n\n<Error><Code>SlowDown</Code></Error>";
    let (store, _) = amazon(&[slow_down]).await;
    let error = store.complete_upload(&upload(), &[part(0)], completion()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable { retry_after: Some(Duration::from_secs(7)) });

    let source = ObjectId { key: key("s"), etag: ETag::new("E"), size: 3 };
    let (store, _) = amazon(&["200 OK\n\n<Error><Code>InternalError</Code></Error>"]).await;
    let error = store.copy(&source, &key("t"), CopyOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Ambiguous);
}

#[tokio::test]
async fn a_completion_names_the_parts_and_what_they_make() {
    let done = "200 OK\n\n<CompleteMultipartUploadResult><ETag>&quot;E-2&quot;</ETag></CompleteMultipartUploadResult>";
    let (store, seen) = amazon(&[done]).await;
    let completion = Completion {
        precondition: Precondition::Matches(ETag::new("old")),
        size: 10,
        crc64: Some(Crc64::of(b"123456789")),
        ..Completion::default()
    };
    let meta = store.complete_upload(&upload(), &[part(0), part(1)], completion).await.unwrap();
    assert_eq!((meta.id.etag.as_str(), meta.id.size), ("E-2", 10));
    let request = seen.lock().unwrap()[0].clone();
    assert!(request.starts_with("POST /bkt/v/k?uploadId=U%2F1 HTTP/1.1"), "{request}");
    for line in [
        "if-match: \"old\"",
        "x-amz-mp-object-size: 10",
        "x-amz-checksum-crc64nvme: rosUhgp5mIg=",
        "x-amz-checksum-type: FULL_OBJECT",
    ] {
        assert!(has_header(&request, line), "{line} is missing in {request}");
    }
    assert!(request.ends_with(
        "<Part><PartNumber>2</PartNumber><ETag>&quot;e1&quot;</ETag>\
         <ChecksumCRC64NVME>AAAAAAAAAAc=</ChecksumCRC64NVME></Part></CompleteMultipartUpload>"
    ));
}

#[tokio::test]
async fn an_etag_that_settles_late_is_looked_up() {
    let done = "200 OK\n\n<CompleteMultipartUploadResult><ETag>E-2</ETag></CompleteMultipartUploadResult>";
    let found = "200 OK\netag: \"md5\"\ncontent-length: 10\nx-amz-meta-tetherfs-token: T";
    let completion =
        || Completion { size: 10, token: Some(UploadToken::from_text("T")), ..Completion::default() };
    let (store, _) = scripted(Login::Anonymous, Dialect::cautious(), &[done, found]).await;
    let meta = store.complete_upload(&upload(), &[part(0)], completion()).await.unwrap();
    assert_eq!(meta.id.etag.as_str(), "md5");

    for looked in [found.replace("token: T", "token: X").as_str(), "404 Not Found", "503 Slow Down"] {
        let (store, _) = scripted(Login::Anonymous, Dialect::cautious(), &[done, looked]).await;
        let error = store.complete_upload(&upload(), &[part(0)], completion()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Ambiguous, "{looked}");
    }
}

#[tokio::test]
async fn parts_are_listed_page_by_page_whatever_their_order() {
    let listed = |numbers: &[u32], more: &str| {
        let parts: String = numbers
            .iter()
            .map(|n| format!("<Part><PartNumber>{n}</PartNumber><ETag>e{n}</ETag><Size>5</Size></Part>"))
            .collect();
        format!("200 OK\n\n<ListPartsResult>{more}{parts}</ListPartsResult>")
    };
    let more = "<IsTruncated>true</IsTruncated><NextPartNumberMarker>3</NextPartNumberMarker>";
    // The second page begins with the marker itself, as rclone's does.
    let (store, seen) = amazon(&[&listed(&[3, 1, 2], more), &listed(&[3, 10, 4], "")]).await;
    let UploadStatus::Parts(parts) = store.upload_status(&upload()).await.unwrap() else {
        panic!("the upload is there");
    };
    assert_eq!(parts.iter().map(|part| part.number.get()).collect::<Vec<_>>(), [1, 2, 3, 4, 10]);
    assert_eq!(
        requests(&seen),
        ["GET /bkt/v/k?uploadId=U%2F1 HTTP/1.1", "GET /bkt/v/k?part-number-marker=3&uploadId=U%2F1 HTTP/1.1"]
    );

    let (store, _) = amazon(&[&listed(&[1], more), &listed(&[1], more)]).await;
    assert_eq!(
        store.upload_status(&upload()).await.unwrap_err().kind,
        ErrorKind::Protocol,
        "no endless list"
    );

    let gone = "404 Not Found\n\n<Error><Code>NoSuchUpload</Code></Error>";
    let (store, _) = amazon(&[gone, gone]).await;
    assert_eq!(store.upload_status(&upload()).await.unwrap(), UploadStatus::Gone);
    store.abort_upload(&upload()).await.expect("what is gone needs no giving up");

    let (store, _) = amazon(&["403 Forbidden\n\n<Error><Code>AccessDenied</Code></Error>"]).await;
    assert_eq!(
        store.upload_status(&upload()).await.unwrap_err().kind,
        ErrorKind::Denied,
        "not sure that it is gone"
    );
}

#[tokio::test]
async fn parts_carry_their_checksum() {
    let (store, seen) = amazon(&["200 OK\netag: \"e\""]).await;
    let slot = PartSlot { number: PartNumber::from_index(2), range: ByteRange::new(10, 19), is_last: true };
    let receipt = store.put_part(&upload(), slot, Bytes::from_static(b"123456789")).await.unwrap();
    let crc64 = Crc64::of(b"123456789");
    assert_eq!(receipt, PartReceipt { number: slot.number, len: 9, etag: "e".into(), crc64: Some(crc64) });
    let request = seen.lock().unwrap()[0].clone();
    assert!(request.starts_with("PUT /bkt/v/k?partNumber=3&uploadId=U%2F1 HTTP/1.1"), "{request}");
    assert!(has_header(&request, "x-amz-checksum-crc64nvme: rosUhgp5mIg="));
    let error = store.put_part(&upload(), slot, Bytes::from_static(b"short")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
}

#[tokio::test]
async fn a_part_that_breaks_off_may_belong_to_an_upload_that_is_gone() {
    let slot = PartSlot { number: PartNumber::from_index(0), range: ByteRange::new(0, 1), is_last: true };
    let hung_up = "";
    let gone = "404 Not Found\n\n<Error><Code>NoSuchUpload</Code></Error>";
    let later = ErrorKind::Unavailable { retry_after: None };
    for (status, kind) in [(gone, ErrorKind::UploadGone), ("200 OK\n\n<R/>", later), (hung_up, later)] {
        let (store, seen) = amazon(&[hung_up, status]).await;
        let error = store.put_part(&upload(), slot, Bytes::from_static(b"x")).await.unwrap_err();
        assert_eq!((error.kind, requests(&seen).len()), (kind, 2), "{status}");
    }
}

#[tokio::test]
async fn copies_are_pinned_to_the_sources_version() {
    let copied = "200 OK\n\n<CopyPartResult><ETag>e</ETag></CopyPartResult>";
    let (store, seen) = amazon(&[copied]).await;
    let source = ObjectId { key: key("a b"), etag: ETag::new("E"), size: 100 };
    let slot = PartSlot { number: PartNumber::from_index(0), range: ByteRange::new(0, 10), is_last: false };
    let receipt = store.copy_part(&upload(), slot, &source, ByteRange::new(50, 60)).await.unwrap();
    assert_eq!((receipt.len, receipt.etag.as_str()), (10, "e"));
    let request = seen.lock().unwrap()[0].clone();
    for line in [
        "x-amz-copy-source: /bkt/v/a%20b",
        "x-amz-copy-source-if-match: \"E\"",
        "x-amz-copy-source-range: bytes=50-59",
    ] {
        assert!(has_header(&request, line), "{line} is missing in {request}");
    }
    let error = store.copy_part(&upload(), slot, &source, ByteRange::new(95, 105)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "behind the source's end");
    let (store, seen) = scripted(Login::Anonymous, Dialect::cautious(), &[]).await;
    let error = store.copy_part(&upload(), slot, &source, ByteRange::new(0, 10)).await.unwrap_err();
    assert_eq!((error.kind, requests(&seen).len()), (ErrorKind::Unsupported, 0));
}

#[tokio::test]
async fn an_object_above_five_gigabytes_is_copied_in_parts() {
    const GIB: u64 = 1 << 30;
    let source = ObjectId { key: key("s"), etag: ETag::new("E"), size: 5 * GIB + 1 };
    let head = format!("200 OK\netag: \"E\"\ncontent-length: {}\nx-amz-meta-uid: 7", source.size);
    let begun = "200 OK\n\n<R><UploadId>U</UploadId></R>";
    let copied = "200 OK\n\n<R><ETag>e</ETag></R>";
    let refused = "412 Precondition Failed\n\n<Error><Code>PreconditionFailed</Code></Error>";
    let done = "200 OK\n\n<R><ETag>E-6</ETag></R>";
    let mut answers = vec![head.as_str(), begun];
    answers.extend([copied; 6]);
    let (store, seen) = amazon(&[&answers[..], &[done]].concat()).await;
    let meta = store.copy(&source, &key("t"), CopyOptions::default()).await.unwrap();
    assert_eq!((meta.id.etag.as_str(), meta.id.size), ("E-6", source.size));
    assert_eq!(meta.attributes.unwrap().uid, Some(7), "the source's metadata are kept");
    let requests_seen = requests(&seen);
    assert_eq!(requests_seen.len(), 9);
    assert_eq!(requests_seen[1], "POST /bkt/v/t?uploads= HTTP/1.1");
    assert!(has_header(&seen.lock().unwrap()[1], "x-amz-meta-uid: 7"));

    let (store, seen) = amazon(&[&answers[..], &[refused, "204 No Content"]].concat()).await;
    let error = store.copy(&source, &key("t"), CopyOptions::default()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition);
    assert_eq!(
        requests(&seen).last().unwrap(),
        "DELETE /bkt/v/t?uploadId=U HTTP/1.1",
        "nothing is left behind"
    );
}

#[tokio::test]
async fn many_are_removed_at_once_and_failures_told_apart() {
    let answer = "200 OK\n\n<DeleteResult><Error><Key>v/b&amp;</Key><Code>AccessDenied</Code></Error>\
                  <Error><Key>v/c</Key><Code>NoSuchKey</Code></Error></DeleteResult>";
    let (store, seen) = amazon(&[answer, "204 No Content"]).await;
    let keys = [key("a"), key("b&"), key("c"), key("d\u{1}")];
    let results = store.delete_many(&keys).await.unwrap();
    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().err().map(|error| error.kind)).collect();
    assert_eq!(kinds, [None, Some(ErrorKind::Denied), None, None]);
    assert_eq!(requests(&seen), ["POST /bkt?delete= HTTP/1.1", "DELETE /bkt/v/d%01 HTTP/1.1"]);
    let document = "<Delete><Quiet>true</Quiet><Object><Key>v/a</Key></Object><Object><Key>v/b&amp;</Key></Object>\
                    <Object><Key>v/c</Key></Object></Delete>";
    assert!(seen.lock().unwrap()[0].ends_with(document));

    let keys: Vec<Key> = (0..1001).map(|n| key(&format!("{n}"))).collect();
    let (store, seen) = amazon(&["200 OK\n\n<DeleteResult/>", "503 Slow Down"]).await;
    let results = store.delete_many(&keys).await.unwrap();
    assert_eq!(requests(&seen).len(), 2);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1000);
    assert!(results[1000].is_err(), "the second thousand failed");
    let (store, _) = amazon(&["503 Slow Down"]).await;
    assert!(store.delete_many(&keys).await.is_err(), "nothing is removed: all may be sent again");
}

#[tokio::test]
async fn removal_of_what_is_gone_succeeds_unless_a_version_was_named() {
    let gone = "404 Not Found\n\n<Error><Code>NoSuchKey</Code></Error>";
    let (store, _) = amazon(&[gone, gone]).await;
    store.delete(&key("k"), DeleteOptions::default()).await.unwrap();
    let named = DeleteOptions { if_match: Some(ETag::new("E")) };
    assert_eq!(store.delete(&key("k"), named).await.unwrap_err().kind, ErrorKind::Precondition);
}

#[tokio::test]
async fn listings_ask_within_the_volume() {
    let empty = "200 OK\n\n<ListBucketResult/>";
    let (store, seen) = amazon(&[empty, empty]).await;
    let first = ListOptions {
        prefix: "d/".to_owned(),
        by_directory: true,
        start_after: Some("d/a b".to_owned()),
        entries_max: Some(7),
        ..ListOptions::default()
    };
    store.list(first).await.unwrap();
    store.list(ListOptions { continuation: Some("t=/".to_owned()), ..ListOptions::default() }).await.unwrap();
    assert_eq!(
        requests(&seen),
        [
            "GET /bkt?delimiter=%2F&encoding-type=url&list-type=2&max-keys=7&prefix=v%2Fd%2F&start-after=v%2Fd%2Fa%20b HTTP/1.1",
            "GET /bkt?continuation-token=t%3D%2F&encoding-type=url&list-type=2&prefix=v%2F HTTP/1.1"
        ]
    );
}

#[tokio::test]
async fn versions_that_a_listing_does_not_tell_are_looked_up() {
    let listing = "200 OK\n\n<ListBucketResult><Contents><Key>v/a</Key><Size>3</Size></Contents>\
                   <Contents><Key>v/b</Key><Size>3</Size><ETag>B</ETag></Contents></ListBucketResult>";
    let (store, seen) = amazon(&[listing, "200 OK\netag: \"A\"\ncontent-length: 3"]).await;
    let page = store.list(ListOptions::default()).await.unwrap();
    let etags: Vec<_> = page.objects.iter().map(|object| object.id.etag.as_str()).collect();
    assert_eq!(etags, ["A", "B"]);
    assert_eq!(requests(&seen)[1..], ["HEAD /bkt/v/a HTTP/1.1"]);

    let (store, _) = amazon(&[listing, "404 Not Found"]).await;
    assert_eq!(
        store.list(ListOptions::default()).await.unwrap().objects.len(),
        1,
        "what is gone is not listed"
    );
}
