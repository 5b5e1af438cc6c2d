//! Whole objects: put, get, ranges, conditions, checksums, copies, deletes, buckets, signatures.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Bench, pattern};
use crate::bucket::{Operation, Quirks};
use crate::types::Crc64;

fn crc64_header(bytes: &[u8]) -> String {
    STANDARD.encode(Crc64::of(bytes).0.to_be_bytes())
}

#[tokio::test]
async fn an_object_comes_back_as_it_was_sent() {
    let bench = Bench::start(Quirks::default()).await;
    let bytes = pattern(700_000, 1);
    let headers =
        [("content-type", "text/x-test"), ("x-amz-meta-mode", "33188"), ("cache-control", "no-store")];
    let put = bench.client.send("PUT", "/box/dir/file", &headers, &bytes).await.unwrap();
    assert_eq!(put.status, 200);
    let got =
        bench.client.send("GET", "/box/dir/file", &[("x-amz-checksum-mode", "ENABLED")], b"").await.unwrap();
    assert_eq!(got.body, bytes);
    assert_eq!(got.header("etag"), put.header("etag"));
    assert_eq!(got.header("content-length"), "700000");
    assert_eq!(got.header("content-type"), "text/x-test");
    assert_eq!(got.header("cache-control"), "no-store");
    assert_eq!(got.header("x-amz-meta-mode"), "33188");
    assert_eq!(got.header("x-amz-checksum-crc64nvme"), crc64_header(&bytes));
    assert_eq!(got.header("x-amz-checksum-type"), "FULL_OBJECT");
    let head =
        bench.client.send("HEAD", "/box/dir/file", &[("x-amz-checksum-mode", "ENABLED")], b"").await.unwrap();
    assert_eq!((head.status, head.body.len()), (200, 0));
    for name in ["etag", "content-length", "last-modified", "x-amz-meta-mode", "x-amz-checksum-crc64nvme"] {
        assert_eq!(head.header(name), got.header(name), "{name}");
    }
    assert_eq!(bench.client.get("/box/other").await.error(), (404, "NoSuchKey".to_owned()));
    assert_eq!(bench.client.get("/nobody/other").await.error(), (404, "NoSuchBucket".to_owned()));
    assert_eq!(bench.server.requests().count(Operation::PutObject).received, 700_000);
    assert_eq!(bench.server.requests().recent()[0].status, Some(200));
}

#[tokio::test]
async fn a_storage_class_lasts_until_a_copy_does_not_name_it_and_metadata_have_an_end() {
    let bench = Bench::start(Quirks::default()).await;
    let class = ("x-amz-storage-class", "STANDARD_IA");
    assert_eq!(bench.client.send("PUT", "/box/a", &[class], b"x").await.unwrap().status, 200);
    assert_eq!(bench.client.send("HEAD", "/box/a", &[], b"").await.unwrap().header(class.0), class.1);
    let list = bench.client.get("/box?list-type=2").await;
    assert!(String::from_utf8_lossy(&list.body).contains("<StorageClass>STANDARD_IA</StorageClass>"));
    let copy = [("x-amz-copy-source", "/box/a"), ("x-amz-metadata-directive", "REPLACE")];
    assert_eq!(bench.client.send("PUT", "/box/a", &copy, b"").await.unwrap().status, 200);
    let head = bench.client.send("HEAD", "/box/a", &[], b"").await.unwrap();
    assert!(!head.headers.contains_key(class.0), "it is STANDARD now");

    let (fits, too_long) = ("x".repeat(2_047), "x".repeat(2_048));
    let put = bench.client.send("PUT", "/box/b", &[("x-amz-meta-n", &fits)], b"").await.unwrap();
    assert_eq!(put.status, 200);
    let put = bench.client.send("PUT", "/box/b", &[("x-amz-meta-n", &too_long)], b"").await.unwrap();
    assert_eq!(put.error(), (400, "MetadataTooLarge".to_owned()));
}

#[tokio::test]
async fn odd_keys_live_side_by_side() {
    let bench = Bench::start(Quirks::default()).await;
    let long = "x".repeat(1024);
    let slashes = format!("{}y", "x/".repeat(500));
    let keys = [
        "d",
        "d/",
        "d/x",
        "d//x",
        "..",
        "../up",
        "a%20b",
        "a%2Bb",
        "%C3%A9",
        long.as_str(),
        slashes.as_str(),
    ];
    for (at, key) in keys.iter().enumerate() {
        let put = bench.client.put(&format!("/box/{key}"), format!("content {at}").as_bytes()).await;
        assert_eq!(put.status, 200, "{key}");
    }
    for (at, key) in keys.iter().enumerate() {
        assert_eq!(
            bench.client.get(&format!("/box/{key}")).await.body,
            format!("content {at}").as_bytes(),
            "{key}"
        );
    }
    assert_eq!(bench.server.keys("box").unwrap().len(), keys.len());
    assert_eq!(bench.read("a b").unwrap(), b"content 6");
    let too_long = bench.client.put(&format!("/box/{}", "x".repeat(1025)), b"").await;
    assert_eq!(too_long.error(), (400, "KeyTooLongError".to_owned()));
}

#[tokio::test]
async fn ranges() {
    let bench = Bench::start(Quirks::default()).await;
    let bytes = pattern(1000, 2);
    bench.client.put("/box/k", &bytes).await;
    bench.client.put("/box/empty", b"").await;
    let get =
        async |key: &str, range: &str| bench.client.send("GET", key, &[("range", range)], b"").await.unwrap();
    for (range, from, to) in
        [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=990-2000", 990, 1000), ("bytes=-5", 995, 1000)]
    {
        let reply = get("/box/k", range).await;
        assert_eq!((reply.status, reply.body.as_slice()), (206, &bytes[from..to]), "{range}");
        assert_eq!(reply.header("content-range"), format!("bytes {from}-{}/1000", to - 1));
    }
    let past = get("/box/k", "bytes=1000-").await;
    assert_eq!(past.error(), (416, "InvalidRange".to_owned()));
    assert_eq!(past.header("content-range"), "bytes */1000");
    let empty = get("/box/empty", "bytes=0-").await;
    assert_eq!((empty.status, empty.header("content-range")), (416, "bytes */0"));
    assert_eq!(bench.client.get("/box/empty").await.status, 200);
    assert_eq!(bench.server.requests().recent().last().unwrap().range, None);
}

#[tokio::test]
async fn reads_are_conditional_before_they_are_ranged() {
    let bench = Bench::start(Quirks::default()).await;
    let etag = bench.client.put("/box/k", b"abc").await.header("etag").to_owned();
    let status = async |method: &str, headers: &[(&str, &str)]| {
        bench.client.send(method, "/box/k", headers, b"").await.unwrap().status
    };
    for method in ["GET", "HEAD"] {
        assert_eq!(status(method, &[("if-match", &etag)]).await, 200);
        assert_eq!(status(method, &[("if-match", "\"other\"")]).await, 412);
        assert_eq!(status(method, &[("if-match", "\"other\""), ("range", "bytes=100-")]).await, 412);
        assert_eq!(status(method, &[("if-match", &etag), ("range", "bytes=100-")]).await, 416);
        assert_eq!(status(method, &[("if-match", &etag), ("range", "bytes=1-")]).await, 206);
        assert_eq!(status(method, &[("if-none-match", &etag)]).await, 304);
        assert_eq!(status(method, &[("if-none-match", "\"other\"")]).await, 200);
    }
}

#[tokio::test]
async fn writes_are_conditional() {
    let bench = Bench::start(Quirks::default()).await;
    let put = async |name: &str, value: &str, body: &[u8]| {
        bench.client.send("PUT", "/box/k", &[(name, value)], body).await.unwrap()
    };
    assert_eq!(put("if-match", "\"any\"", b"0").await.error(), (404, "NoSuchKey".to_owned()));
    let first = put("if-none-match", "*", b"1").await;
    assert_eq!(first.status, 200);
    assert_eq!(put("if-none-match", "*", b"2").await.error(), (412, "PreconditionFailed".to_owned()));
    assert_eq!(put("if-match", "\"other\"", b"3").await.status, 412);
    assert_eq!(bench.read("k").unwrap(), b"1");
    assert_eq!(put("if-match", first.header("etag"), b"4").await.status, 200);
    assert_eq!(bench.read("k").unwrap(), b"4");
    let delete =
        async |etag: &str| bench.client.send("DELETE", "/box/k", &[("if-match", etag)], b"").await.unwrap();
    assert_eq!(delete(first.header("etag")).await.status, 412);
    assert_eq!(delete("*").await.status, 204);
    assert_eq!(delete("*").await.status, 204);
    assert_eq!(bench.read("k"), None);
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let bench = Bench::start(Quirks::default()).await;
    let creators = (0..16).map(|at: u8| {
        let client = &bench.client;
        async move { client.send("PUT", "/box/k", &[("if-none-match", "*")], &[at]).await.unwrap().status }
    });
    let statuses = futures_util::future::join_all(creators).await;
    assert_eq!(statuses.iter().filter(|&&status| status == 200).count(), 1, "{statuses:?}");
    let winner = statuses.iter().position(|&status| status == 200).unwrap();
    assert_eq!(bench.read("k").unwrap(), [winner as u8]);
}

#[tokio::test]
async fn checksums_are_verified() {
    let bench = Bench::start(Quirks::default()).await;
    let put = async |name: &str, value: &str| {
        bench.client.send("PUT", "/box/k", &[(name, value)], b"hello").await.unwrap()
    };
    let wrong = crc64_header(b"other");
    assert_eq!(put("x-amz-checksum-crc64nvme", &wrong).await.error(), (400, "BadDigest".to_owned()));
    assert_eq!(put("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==").await.error(), (400, "BadDigest".to_owned()));
    assert_eq!(put("x-amz-checksum-crc32", "AAAAAA==").await.error(), (400, "BadDigest".to_owned()));
    assert_eq!(bench.read("k"), None);
    assert_eq!(put("content-md5", "XUFAKrxLKna5cZ2REBfFkg==").await.status, 200);
    let right = crc64_header(b"hello");
    let stored = put("x-amz-checksum-crc64nvme", &right).await;
    assert_eq!((stored.status, stored.header("x-amz-checksum-crc64nvme")), (200, right.as_str()));
    let data = std::fs::read_dir(bench.directory.path().join("box/data")).unwrap().count();
    assert_eq!(data, 1, "refused and replaced bytes are gone from the disk");
}

#[tokio::test]
async fn copies_keep_or_replace_metadata() {
    let bench = Bench::start(Quirks::default()).await;
    let etag = bench.client.send("PUT", "/box/k%20y", &[("x-amz-meta-a", "1")], b"abc").await.unwrap();
    let etag = etag.header("etag").to_owned();
    let copy = async |to: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("x-amz-copy-source", "/box/k%20y")];
        all.extend(headers);
        bench.client.send("PUT", to, &all, b"").await.unwrap()
    };
    assert_eq!(copy("/box/other", &[]).await.one("ETag"), etag);
    let other = bench.client.get("/box/other").await;
    assert_eq!((other.body.as_slice(), other.header("x-amz-meta-a")), (&b"abc"[..], "1"));
    assert_eq!(copy("/box/k%20y", &[]).await.error(), (400, "InvalidRequest".to_owned()));
    let replaced =
        [("x-amz-metadata-directive", "REPLACE"), ("x-amz-meta-b", "2"), ("if-match", etag.as_str())];
    assert_eq!(copy("/box/k%20y", &replaced).await.status, 200);
    let itself = bench.client.get("/box/k%20y").await;
    assert_eq!((itself.header("x-amz-meta-a"), itself.header("x-amz-meta-b")), ("", "2"));
    assert_eq!(itself.body, b"abc");
    assert_eq!(copy("/box/other", &[("if-none-match", "*")]).await.status, 412);
    assert_eq!(copy("/box/new", &[("x-amz-copy-source-if-match", "\"x\"")]).await.status, 412);
    assert_eq!(copy("/box/new", &[("if-match", "\"x\"")]).await.status, 404);
    let missing =
        bench.client.send("PUT", "/box/new", &[("x-amz-copy-source", "/box/none")], b"").await.unwrap();
    assert_eq!(missing.error(), (404, "NoSuchKey".to_owned()));
    // The bytes are shared: deleting one name leaves the other.
    bench.client.send("DELETE", "/box/k%20y", &[], b"").await.unwrap();
    assert_eq!(bench.read("other").unwrap(), b"abc");
}

#[tokio::test]
async fn many_are_deleted_at_once() {
    let bench = Bench::start(Quirks::default()).await;
    for key in ["a", "b", "c"] {
        bench.server.put("box", key, key.as_bytes()).unwrap();
    }
    let list = "<Delete><Object><Key>a</Key></Object><Object><Key>c</Key></Object><Object><Key>none</Key></Object></Delete>";
    let reply = bench
        .client
        .send("POST", "/box?delete", &[("content-md5", &md5_of(list))], list.as_bytes())
        .await
        .unwrap();
    assert_eq!(
        (reply.status, reply.all("Key")),
        (200, vec!["a".to_owned(), "c".to_owned(), "none".to_owned()])
    );
    assert_eq!(bench.server.keys("box").unwrap(), ["b"]);
}

fn md5_of(text: &str) -> String {
    use md5::Digest;
    STANDARD.encode(md5::Md5::digest(text))
}

#[tokio::test]
async fn buckets_come_and_go() {
    let bench = Bench::start(Quirks::default()).await;
    let send = async |method: &str, path: &str| bench.client.send(method, path, &[], b"").await.unwrap();
    assert_eq!(send("HEAD", "/second").await.status, 404);
    assert_eq!(send("PUT", "/second").await.status, 200);
    assert_eq!(send("PUT", "/second").await.error(), (409, "BucketAlreadyOwnedByYou".to_owned()));
    assert_eq!(send("HEAD", "/second").await.status, 200);
    assert_eq!(send("GET", "/").await.all("Name"), ["box", "second"]);
    bench.client.put("/second/k", b"x").await;
    assert_eq!(send("DELETE", "/second").await.error(), (409, "BucketNotEmpty".to_owned()));
    send("DELETE", "/second/k").await;
    assert_eq!(send("DELETE", "/second").await.status, 204);
    assert_eq!(send("PUT", "/second/k").await.error(), (404, "NoSuchBucket".to_owned()));
    assert!(!bench.directory.path().join("second").exists());
}

#[tokio::test]
async fn only_signed_requests_are_served() {
    let mut bench = Bench::start(Quirks::default()).await;
    bench.client.put("/box/k", b"x").await;
    let unsigned =
        format!("GET /box/k HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", bench.client.address);
    assert_eq!(bench.client.exchange(unsigned, b"").await.unwrap().error(), (403, "AccessDenied".to_owned()));
    bench.client.secret = "wrong".to_owned();
    assert_eq!(bench.client.get("/box/k").await.error(), (403, "SignatureDoesNotMatch".to_owned()));
    let refused = bench.client.put("/box/k", &pattern(3_000_000, 3)).await;
    assert_eq!(refused.status, 403, "the answer arrives although the body was not wanted");
    assert_eq!(bench.read("k").unwrap(), b"x");
}
