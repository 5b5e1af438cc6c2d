//! Multipart uploads: parts, lists, copies, completion.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Bench, Client, Reply, pattern};
use crate::bucket::{Operation, PART_BYTES_MIN, Quirks};
use crate::types::Crc64;

/// No minimum, so that parts can be small.
fn small_parts() -> Quirks {
    Quirks { part_bytes_min: 0, ..Quirks::default() }
}

pub async fn create(client: &Client, key: &str) -> String {
    let reply = client.post(&format!("/box/{key}?uploads"), "").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.one("UploadId")
}

pub async fn put_part(client: &Client, (key, id): (&str, &str), number: u32, bytes: &[u8]) -> Reply {
    client.put(&format!("/box/{key}?partNumber={number}&uploadId={id}"), bytes).await
}

pub async fn complete(
    client: &Client,
    (key, id): (&str, &str),
    parts: &[(u32, &str)],
    headers: &[(&str, &str)],
) -> Reply {
    let part = |(number, etag): &(u32, &str)| {
        format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
    };
    let list: String = parts.iter().map(part).collect();
    let body = format!("<CompleteMultipartUpload>{list}</CompleteMultipartUpload>");
    client.send("POST", &format!("/box/{key}?uploadId={id}"), headers, body.as_bytes()).await.unwrap()
}

fn base64_crc64(bytes: &[u8]) -> String {
    STANDARD.encode(Crc64::of(bytes).0.to_be_bytes())
}

#[tokio::test]
async fn parts_become_one_object() {
    let bench = Bench::start(Quirks::default()).await;
    let bytes = pattern(PART_BYTES_MIN as usize + 100, 4);
    let (first, second) = bytes.split_at(PART_BYTES_MIN as usize);
    let headers = [("x-amz-meta-token", "t"), ("content-type", "text/x-test")];
    let created = bench.client.send("POST", "/box/k?uploads", &headers, b"").await.unwrap();
    let id = created.one("UploadId");
    let upload = ("k", id.as_str());
    let second_etag = put_part(&bench.client, upload, 7, second).await.header("etag").to_owned();
    put_part(&bench.client, upload, 1, b"to be replaced").await;
    let first_etag = put_part(&bench.client, upload, 1, first).await.header("etag").to_owned();
    put_part(&bench.client, upload, 9, b"not named at completion").await;
    assert_eq!(bench.read("k"), None);
    let crc64 = base64_crc64(&bytes);
    let done = complete(
        &bench.client,
        upload,
        &[(1, &first_etag), (7, &second_etag)],
        &[("x-amz-checksum-crc64nvme", &crc64), ("x-amz-mp-object-size", &bytes.len().to_string())],
    )
    .await;
    assert_eq!((done.status, done.one("ChecksumCRC64NVME")), (200, crc64.clone()));
    assert!(done.one("ETag").ends_with("-2\""));
    let got = bench.client.send("GET", "/box/k", &[("x-amz-checksum-mode", "ENABLED")], b"").await.unwrap();
    assert!(got.body == bytes);
    assert_eq!(got.header("etag"), done.one("ETag"));
    assert_eq!((got.header("x-amz-meta-token"), got.header("content-type")), ("t", "text/x-test"));
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), crc64);
    let across = format!("bytes={}-{}", PART_BYTES_MIN - 3, PART_BYTES_MIN + 2);
    let piece = bench.client.send("GET", "/box/k", &[("range", &across)], b"").await.unwrap();
    assert_eq!(piece.body, bytes[PART_BYTES_MIN as usize - 3..][..6]);
    let again = complete(&bench.client, upload, &[(1, &first_etag), (7, &second_etag)], &[]).await;
    assert_eq!(again.error(), (404, "NoSuchUpload".to_owned()));
    let data = std::fs::read_dir(bench.directory.path().join("box/data")).unwrap().count();
    assert_eq!(data, 2, "replaced and unnamed parts are gone from the disk");
    assert_eq!(bench.server.requests().count(Operation::UploadPart).requests, 4);
}

#[tokio::test]
async fn completion_refuses_what_does_not_fit() {
    let bench = Bench::start(Quirks::default()).await;
    let id = create(&bench.client, "k").await;
    let upload = ("k", id.as_str());
    let one = put_part(&bench.client, upload, 1, b"small").await.header("etag").to_owned();
    let two = put_part(&bench.client, upload, 2, b"last").await.header("etag").to_owned();
    let outcome = async |parts: &[(u32, &str)], headers: &[(&str, &str)]| {
        complete(&bench.client, upload, parts, headers).await.error()
    };
    let expected = |status, code: &str| (status, code.to_owned());
    assert_eq!(outcome(&[(1, &one), (2, &two)], &[]).await, expected(400, "EntityTooSmall"));
    assert_eq!(outcome(&[(2, &two), (1, &one)], &[]).await, expected(400, "InvalidPartOrder"));
    assert_eq!(outcome(&[(1, &one), (1, &one)], &[]).await, expected(400, "InvalidPartOrder"));
    assert_eq!(outcome(&[(1, &two)], &[]).await, expected(400, "InvalidPart"));
    assert_eq!(outcome(&[(3, &two)], &[]).await, expected(400, "InvalidPart"));
    assert_eq!(outcome(&[], &[]).await, expected(400, "MalformedXML"));
    let size = [("x-amz-mp-object-size", "9")];
    assert_eq!(outcome(&[(2, &two)], &size).await, expected(400, "InvalidRequest"));
    let crc64 = base64_crc64(b"other");
    let crc64 = [("x-amz-checksum-crc64nvme", crc64.as_str())];
    assert_eq!(outcome(&[(2, &two)], &crc64).await, expected(400, "BadDigest"));
    assert_eq!(outcome(&[(2, &two)], &[("if-match", "\"x\"")]).await, expected(404, "NoSuchKey"));
    bench.server.put("box", "k", b"there").unwrap();
    assert_eq!(outcome(&[(2, &two)], &[("if-none-match", "*")]).await, expected(412, "PreconditionFailed"));
    assert_eq!(bench.read("k").unwrap(), b"there");
    // After all that the upload is still there and can be completed.
    assert_eq!(complete(&bench.client, upload, &[(2, &two)], &[]).await.status, 200);
    assert_eq!(bench.read("k").unwrap(), b"last");
}

#[tokio::test]
async fn parts_are_listed_in_pages() {
    let bench = Bench::start(small_parts()).await;
    let id = create(&bench.client, "k").await;
    let mut etags = Vec::new();
    for number in [3, 1, 10_000, 2] {
        let part = put_part(&bench.client, ("k", &id), number, &vec![7; number as usize]).await;
        etags.push((number, part.header("etag").to_owned()));
    }
    etags.sort();
    let page = bench.client.get(&format!("/box/k?uploadId={id}&max-parts=3")).await;
    assert_eq!(page.all("PartNumber"), ["1", "2", "3"]);
    assert_eq!(page.all("Size"), ["1", "2", "3"]);
    assert_eq!(page.all("ETag"), etags.iter().take(3).map(|(_, etag)| etag.clone()).collect::<Vec<_>>());
    assert_eq!(page.all("ChecksumCRC64NVME")[0], base64_crc64(&[7]));
    assert_eq!(
        (page.one("IsTruncated"), page.one("NextPartNumberMarker")),
        ("true".to_owned(), "3".to_owned())
    );
    let rest = bench.client.get(&format!("/box/k?uploadId={id}&max-parts=3&part-number-marker=3")).await;
    assert_eq!(
        (rest.all("PartNumber"), rest.one("IsTruncated")),
        (vec!["10000".to_owned()], "false".to_owned())
    );
    for number in [0, 10_001] {
        let refused = put_part(&bench.client, ("k", &id), number, b"x").await;
        assert_eq!(refused.error(), (400, "InvalidArgument".to_owned()));
    }
    let unknown = bench.client.get("/box/k?uploadId=unknown").await;
    assert_eq!(unknown.error(), (404, "NoSuchUpload".to_owned()));
    assert_eq!(bench.client.get(&format!("/box/other?uploadId={id}")).await.status, 404);
}

#[tokio::test]
async fn uploads_are_listed_and_aborted() {
    let bench = Bench::start(small_parts()).await;
    let mut ids = Vec::new();
    for key in ["p/a", "p/a", "p/b", "q"] {
        ids.push(create(&bench.client, key).await);
    }
    put_part(&bench.client, ("p/b", &ids[2]), 1, b"bytes").await;
    let mut listed = Vec::new();
    let mut path = "/box?uploads&prefix=p%2F&max-uploads=1".to_owned();
    loop {
        let page = bench.client.get(&path).await;
        listed.extend(page.all("UploadId"));
        if page.one("IsTruncated") == "false" {
            break;
        }
        let (key, id) = (page.one("NextKeyMarker"), page.one("NextUploadIdMarker"));
        path = format!("/box?uploads&prefix=p%2F&max-uploads=1&key-marker={key}&upload-id-marker={id}");
    }
    assert_eq!(listed, ids[..3]);
    let rolled = bench.client.get("/box?uploads&delimiter=%2F").await;
    assert_eq!(rolled.all("UploadId"), ids[3..]);
    assert!(rolled.text().contains("<CommonPrefixes><Prefix>p/</Prefix></CommonPrefixes>"));
    let abort = format!("/box/p/b?uploadId={}", ids[2]);
    assert_eq!(bench.client.send("DELETE", &abort, &[], b"").await.unwrap().status, 204);
    assert_eq!(bench.client.send("DELETE", &abort, &[], b"").await.unwrap().status, 404);
    assert_eq!(bench.server.pending_uploads("box").unwrap(), ["p/a", "p/a", "q"]);
    assert_eq!(std::fs::read_dir(bench.directory.path().join("box/data")).unwrap().count(), 0);
}

#[tokio::test]
async fn parts_are_copied_from_objects() {
    let bench = Bench::start(Quirks { part_bytes_min: 10, ..Quirks::default() }).await;
    let source = pattern(5000, 5);
    let etag = bench.client.put("/box/source", &source).await.header("etag").to_owned();
    let id = create(&bench.client, "k").await;
    let copy = async |number: u32, headers: &[(&str, &str)]| {
        let mut all = vec![("x-amz-copy-source", "box/source"), ("x-amz-copy-source-if-match", &etag)];
        all.extend(headers);
        bench
            .client
            .send("PUT", &format!("/box/k?partNumber={number}&uploadId={id}"), &all, b"")
            .await
            .unwrap()
    };
    let range = "x-amz-copy-source-range";
    let head = copy(1, &[(range, "bytes=0-1999")]).await.one("ETag");
    let middle = put_part(&bench.client, ("k", &id), 2, b"changed bytes").await.header("etag").to_owned();
    let tail = copy(3, &[(range, "bytes=2013-4999")]).await.one("ETag");
    let whole = copy(4, &[]).await.one("ETag");
    assert_eq!(copy(5, &[(range, "bytes=0-5000")]).await.error(), (400, "InvalidArgument".to_owned()));
    assert_eq!(copy(5, &[(range, "bytes=10-")]).await.error(), (400, "InvalidArgument".to_owned()));
    let stale = copy(5, &[("x-amz-copy-source-if-match", "\"other\"")]).await;
    assert_eq!(stale.error(), (412, "PreconditionFailed".to_owned()));
    let expected = [&source[..2000], b"changed bytes", &source[2013..], &source].concat();
    // The source may go before the upload is completed.
    bench.server.delete("box", "source").unwrap();
    let crc64 = base64_crc64(&expected);
    let parts = [(1, head.as_str()), (2, &middle), (3, &tail), (4, &whole)];
    let done = complete(&bench.client, ("k", &id), &parts, &[("x-amz-checksum-crc64nvme", &crc64)]).await;
    assert_eq!(done.status, 200, "{}", done.text());
    assert_eq!(bench.read("k").unwrap(), expected);
    assert_eq!(bench.server.requests().count(Operation::UploadPartCopy).requests, 6);
}

#[tokio::test]
async fn small_sources_are_only_copied_whole() {
    let bench = Bench::start(Quirks::default()).await;
    bench.server.put("box", "source", b"small").unwrap();
    let id = create(&bench.client, "k").await;
    let headers = [("x-amz-copy-source", "box/source"), ("x-amz-copy-source-range", "bytes=0-1")];
    let reply =
        bench.client.send("PUT", &format!("/box/k?partNumber=1&uploadId={id}"), &headers, b"").await.unwrap();
    assert_eq!(reply.error(), (400, "InvalidRequest".to_owned()));
}

#[tokio::test]
async fn an_empty_part_makes_an_empty_object() {
    let bench = Bench::start(Quirks::default()).await;
    let id = create(&bench.client, "k").await;
    let etag = put_part(&bench.client, ("k", &id), 1, b"").await.header("etag").to_owned();
    assert_eq!(complete(&bench.client, ("k", &id), &[(1, &etag)], &[]).await.status, 200);
    assert_eq!(bench.read("k").unwrap(), b"");
}
