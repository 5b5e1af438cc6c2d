//! What survives the end of the server, orderly or not.

use std::fs;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::uploads::{complete, create, put_part};
use super::{Bench, options_for, pattern};
use crate::bucket::{Error, Operation, Quirks, Server};

#[tokio::test]
async fn objects_and_uploads_survive_a_crash() {
    let bench = Bench::start(Quirks::default()).await;
    bench.client.send("PUT", "/box/d/x", &[("x-amz-meta-a", "1")], b"kept").await.unwrap();
    bench.client.put("/box/gone", b"gone").await;
    bench.client.send("DELETE", "/box/gone", &[], b"").await.unwrap();
    let bytes = pattern(6 << 20, 6);
    let created =
        bench.client.send("POST", "/box/big?uploads", &[("x-amz-meta-token", "t")], b"").await.unwrap();
    let id = created.one("UploadId");
    let first = put_part(&bench.client, ("big", &id), 1, &bytes[..5 << 20]).await.header("etag").to_owned();
    let other = create(&bench.client, "aborted").await;
    bench.client.send("DELETE", &format!("/box/aborted?uploadId={other}"), &[], b"").await.unwrap();

    let bench = bench.crash().await;
    let kept = bench.client.get("/box/d/x").await;
    assert_eq!((kept.body.as_slice(), kept.header("x-amz-meta-a")), (&b"kept"[..], "1"));
    assert_eq!(bench.server.keys("box").unwrap(), ["d/x"]);
    assert_eq!(bench.server.pending_uploads("box").unwrap(), ["big"]);
    assert_eq!(bench.client.get(&format!("/box/big?uploadId={id}")).await.one("ETag"), first);
    let second = put_part(&bench.client, ("big", &id), 2, &bytes[5 << 20..]).await.header("etag").to_owned();
    let done = complete(&bench.client, ("big", &id), &[(1, &first), (2, &second)], &[]).await;
    assert_eq!(done.status, 200, "{}", done.text());

    let bench = bench.crash().await;
    let got = bench.client.get("/box/big").await;
    assert!(got.body == bytes);
    assert_eq!((got.header("etag"), got.header("x-amz-meta-token")), (done.one("ETag").as_str(), "t"));
    assert_eq!(bench.server.pending_uploads("box").unwrap(), Vec::<String>::new());
}

/// Puts the files of a completed upload back to where a crash between the two steps of completion leaves them.
#[tokio::test]
async fn an_upload_half_cleaned_up_counts_as_completed() {
    let bench = Bench::start(Quirks::default()).await;
    let id = create(&bench.client, "k").await;
    let etag = put_part(&bench.client, ("k", &id), 1, b"bytes").await.header("etag").to_owned();
    let folder = bench.directory.path().join("box/uploads").join(&id);
    let saved: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    assert_eq!(saved.len(), 2);
    complete(&bench.client, ("k", &id), &[(1, &etag)], &[]).await;
    fs::create_dir(&folder).unwrap();
    saved.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    let bench = bench.crash().await;
    assert_eq!(bench.server.pending_uploads("box").unwrap(), Vec::<String>::new());
    assert_eq!(bench.read("k").unwrap(), b"bytes");
}

#[tokio::test]
async fn a_put_cut_off_by_the_crash_leaves_the_old_object_and_no_waste() {
    let bench = Bench::start(Quirks::default()).await;
    bench.client.put("/box/k", b"old").await;
    let id = create(&bench.client, "k").await;
    let head = bench.client.signed_head("PUT", "/box/k", &[], 1_000_000).await;
    let mut stream = TcpStream::connect(&bench.client.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&pattern(500_000, 7)).await.unwrap();
    while bench.server.requests().count(Operation::PutObject).received < 500_000 + 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What a crash of the whole process leaves behind.
    let stray = bench.directory.path().join("box/data/0000000000000000-stray");
    fs::write(&stray, b"of a put under way").unwrap();
    fs::write(bench.directory.path().join("box/tmp/draft"), b"{").unwrap();
    let bench = bench.crash().await;
    assert!(!stray.exists());
    assert_eq!(fs::read_dir(bench.directory.path().join("box/tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(bench.directory.path().join("box/data")).unwrap().count(), 1);
    assert_eq!(bench.read("k").unwrap(), b"old");
    assert_eq!(bench.client.get(&format!("/box/k?uploadId={id}")).await.status, 200);
}

#[tokio::test]
async fn a_damaged_record_costs_one_object_and_no_data() {
    let bench = Bench::start(Quirks::default()).await;
    bench.client.put("/box/good", b"good").await;
    bench.client.put("/box/bad", b"bad").await;
    let record = bench.directory.path().join("box/objects/bad.json");
    let text = fs::read(&record).unwrap();
    fs::write(&record, &text[..text.len() / 2]).unwrap();
    let bench = bench.crash().await;
    assert_eq!(bench.server.keys("box").unwrap(), ["good"]);
    fs::write(&record, &text).unwrap();
    let bench = bench.crash().await;
    assert_eq!(bench.read("bad").unwrap(), b"bad");
}

#[tokio::test]
async fn one_server_a_directory() {
    let bench = Bench::start(Quirks::default()).await;
    let second = Server::start(options_for(&bench.directory)).await;
    assert!(matches!(second, Err(Error::Busy { .. })));
    bench.server.stop().await;
    let third = Server::start(options_for(&bench.directory)).await.unwrap();
    third.stop().await;
}

#[tokio::test]
async fn stop_lets_a_request_finish() {
    let bench = Bench::start_with(|options| options.latency = Duration::from_millis(200)).await;
    let request = bench.client.put("/box/k", b"late");
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.server.stop().await;
    };
    let (reply, ()) = tokio::join!(request, stop);
    assert_eq!(reply.status, 200);
    let again = Server::start(options_for(&bench.directory)).await.unwrap();
    assert_eq!(again.read("box", "k").unwrap().unwrap(), b"late");
}

#[tokio::test]
async fn foreign_directories_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("holiday")).unwrap();
    fs::write(directory.path().join("holiday/photo.jpg"), b"photo").unwrap();
    fs::create_dir_all(directory.path().join("empty")).unwrap();
    let server = Server::start(options_for(&directory)).await.unwrap();
    assert!(server.keys("holiday").is_err());
    assert_eq!(server.keys("empty").unwrap(), Vec::<String>::new());
    assert_eq!(fs::read(directory.path().join("holiday/photo.jpg")).unwrap(), b"photo");
    let mut options = options_for(&directory);
    options.buckets = vec!["No_Name".to_owned()];
    server.stop().await;
    assert!(matches!(Server::start(options).await, Err(Error::BucketName { .. })));
}
