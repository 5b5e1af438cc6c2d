//! Each deviation, against what the protocol says (which the other tests hold).

use super::Bench;
use super::uploads::{complete, create, put_part};
use crate::bucket::Quirks;

#[tokio::test]
async fn conditions_are_ignored() {
    let bench = Bench::start(Quirks {
        ignores_put_if_none_match: true,
        ignores_put_if_match: true,
        ignores_complete_conditions: true,
        ignores_get_if_match: true,
        ignores_delete_if_match: true,
        ignores_copy_source_if_match: true,
        ..Quirks::default()
    })
    .await;
    bench.server.put("box", "k", b"there").unwrap();
    let put = async |name: &str, value: &str| {
        bench.client.send("PUT", "/box/k", &[(name, value)], name.as_bytes()).await.unwrap().status
    };
    assert_eq!(put("if-none-match", "*").await, 200);
    assert_eq!(bench.read("k").unwrap(), b"if-none-match");
    assert_eq!(put("if-match", "\"x\"").await, 200);
    assert_eq!(bench.read("k").unwrap(), b"if-match");
    let got = bench.client.send("GET", "/box/k", &[("if-match", "\"x\"")], b"").await.unwrap();
    assert_eq!(got.status, 200);
    let source = [("x-amz-copy-source", "/box/k"), ("x-amz-copy-source-if-match", "\"x\"")];
    assert_eq!(bench.client.send("PUT", "/box/copy", &source, b"").await.unwrap().status, 200);
    let id = create(&bench.client, "k").await;
    let etag = put_part(&bench.client, ("k", &id), 1, b"part").await.header("etag").to_owned();
    let done = complete(&bench.client, ("k", &id), &[(1, &etag)], &[("if-none-match", "*")]).await;
    assert_eq!(done.status, 200);
    assert_eq!(bench.read("k").unwrap(), b"part");
    assert_eq!(
        bench.client.send("DELETE", "/box/k", &[("if-match", "\"x\"")], b"").await.unwrap().status,
        204
    );
    assert_eq!(bench.read("k"), None);
}

#[tokio::test]
async fn reads_answer_oddly() {
    let bench =
        Bench::start(Quirks { answers_range_with_200: true, hides_md5: true, ..Quirks::default() }).await;
    let etag = bench.client.put("/box/k", b"hello").await.header("etag").to_owned();
    assert_ne!(etag, "\"5d41402abc4b2a76b9719d911017c592\"");
    let ranged = bench.client.send("GET", "/box/k", &[("range", "bytes=1-2")], b"").await.unwrap();
    assert_eq!((ranged.status, ranged.body.as_slice()), (200, &b"el"[..]));
    assert_eq!(ranged.header("content-range"), "bytes 1-2/5");
    assert_eq!(ranged.header("etag"), etag);
    assert_eq!(bench.client.put("/box/k", b"other").await.status, 200);
    assert_ne!(bench.client.get("/box/k").await.header("etag"), etag);
}

#[tokio::test]
async fn uploads_answer_oddly() {
    let bench = Bench::start(Quirks {
        lists_parts_without_etags: true,
        lists_no_uploads: true,
        takes_a_part_once: true,
        accepts_wrong_part_etags: true,
        changes_etag_after_complete: true,
        answers_failed_complete_with_200: true,
        copies_no_parts: true,
        knows_no_crc64nvme: true,
        part_bytes_min: 3,
        ..Quirks::default()
    })
    .await;
    let id = create(&bench.client, "k").await;
    let upload = ("k", id.as_str());
    let headers = [("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=")];
    let path = format!("/box/k?partNumber=1&uploadId={id}");
    let part = bench.client.send("PUT", &path, &headers, b"abc").await.unwrap();
    assert_eq!((part.status, part.header("x-amz-checksum-crc64nvme")), (200, ""));
    assert_eq!(put_part(&bench.client, upload, 1, b"abd").await.error(), (501, "NotImplemented".to_owned()));
    put_part(&bench.client, upload, 2, b"d").await;
    put_part(&bench.client, upload, 3, b"e").await;
    let listed = bench.client.get(&format!("/box/k?uploadId={id}")).await;
    assert_eq!((listed.all("PartNumber").len(), listed.all("ETag").len()), (3, 0));
    assert_eq!(listed.all("ChecksumCRC64NVME").len(), 0);
    assert_eq!(bench.client.get("/box?uploads").await.error(), (501, "NotImplemented".to_owned()));
    let copy = bench.client.send("PUT", &path, &[("x-amz-copy-source", "/box/k")], b"").await.unwrap();
    assert_eq!(copy.error(), (501, "NotImplemented".to_owned()));
    let failed = complete(&bench.client, upload, &[(1, "x"), (2, "x"), (3, "x")], &[]).await;
    assert_eq!(failed.error(), (200, "EntityTooSmall".to_owned()));
    let done = complete(&bench.client, upload, &[(1, "\"wrong\""), (2, "\"wrong\"")], &[]).await;
    assert_eq!((done.status, bench.read("k").unwrap().as_slice()), (200, &b"abcd"[..]));
    let (told, found) = (done.one("ETag"), bench.client.get("/box/k").await.header("etag").to_owned());
    assert_eq!(told.replace("-2", ""), found);
    assert_ne!(told, found);
}

#[test]
fn quirks_are_written_by_name() {
    let quirks: Quirks = serde_json::from_str(r#"{"lists_no_uploads":true}"#).unwrap();
    assert_eq!(quirks, Quirks { lists_no_uploads: true, ..Quirks::default() });
    assert!(serde_json::from_str::<Quirks>(r#"{"list_no_uploads":true}"#).is_err());
}
