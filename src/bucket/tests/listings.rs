//! ListObjectsV2 and V1 on the wire. The rules of paging are tested with a model in `disk::listing`.

use super::Bench;
use crate::bucket::Quirks;

async fn filled(quirks: Quirks) -> Bench {
    let bench = Bench::start(quirks).await;
    for key in ["a", "d", "d/", "d/x", "d/y/z", "e/1", "sp ace+plus", "\u{e9}"] {
        bench.server.put("box", key, key.as_bytes()).unwrap();
    }
    bench
}

#[tokio::test]
async fn keys_and_prefixes_share_the_page() {
    let bench = filled(Quirks::default()).await;
    let mut path = "/box?list-type=2&delimiter=%2F&max-keys=2".to_owned();
    let mut pages = Vec::new();
    loop {
        let page = bench.client.get(&path).await;
        assert_eq!(page.status, 200);
        assert_eq!(
            page.one("KeyCount"),
            (page.all("Key").len() + page.all("CommonPrefixes").len()).to_string()
        );
        let prefixes = page.text().split("<CommonPrefixes><Prefix>").skip(1);
        let prefixes: Vec<_> = prefixes.map(|rest| rest.split('<').next().unwrap().to_owned()).collect();
        pages.push((page.all("Key"), prefixes));
        if page.one("IsTruncated") == "false" {
            break;
        }
        let token = page.one("NextContinuationToken");
        path = format!("/box?list-type=2&delimiter=%2F&max-keys=2&continuation-token={token}");
    }
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let expected = [
        (own(&["a", "d"]), own(&[])),
        (own(&[]), own(&["d/", "e/"])),
        (own(&["sp ace+plus", "\u{e9}"]), own(&[])),
    ];
    assert_eq!(pages, expected);
}

#[tokio::test]
async fn a_prefix_shows_its_own_marker_and_its_facts() {
    let bench = filled(Quirks::default()).await;
    let page = bench.client.get("/box?list-type=2&delimiter=%2F&prefix=d%2F").await;
    assert_eq!(page.all("Key"), ["d/", "d/x"]);
    assert_eq!(page.all("Size"), ["2", "3"]);
    let etags = page.all("ETag");
    let head = bench.client.send("HEAD", "/box/d/x", &[], b"").await.unwrap();
    assert_eq!(etags[1], head.header("etag"));
    let after = bench.client.get("/box?list-type=2&start-after=d%2Fx").await;
    assert_eq!(after.all("Key"), ["d/y/z", "e/1", "sp ace+plus", "\u{e9}"]);
    let v1 = bench.client.get("/box?delimiter=%2F&max-keys=3").await;
    assert_eq!(
        (v1.all("Key"), v1.one("NextMarker")),
        (vec!["a".to_owned(), "d".to_owned()], "d/".to_owned())
    );
    let v1 = bench.client.get("/box?delimiter=%2F&max-keys=3&marker=d%2F").await;
    assert_eq!(v1.all("Key"), ["sp ace+plus", "\u{e9}"]);
}

#[tokio::test]
async fn keys_are_encoded_where_asked() {
    let bench = filled(Quirks::default()).await;
    let keys = bench.client.get("/box?list-type=2&encoding-type=url&start-after=e%2F1").await.all("Key");
    assert_eq!(keys, ["sp%20ace%2Bplus", "%C3%A9"]);
    let odd = filled(Quirks { lists_space_as_plus: true, ..Quirks::default() }).await;
    let keys = odd.client.get("/box?list-type=2&encoding-type=url&start-after=e%2F1").await.all("Key");
    assert_eq!(keys, ["sp+ace%2Bplus", "%C3%A9"]);
}

#[tokio::test]
async fn a_token_of_another_server_is_refused() {
    let bench = Bench::start(Quirks::default()).await;
    let reply = bench.client.get("/box?list-type=2&continuation-token=zzz").await;
    assert_eq!(reply.error(), (400, "InvalidArgument".to_owned()));
}
