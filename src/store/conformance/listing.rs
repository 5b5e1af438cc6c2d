//! Checks of listings: order, pages, folding, size.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::store::conformance::scratch::Scratch;
use crate::store::{ListOptions, ObjectStore, PutOptions};

/// More than one page of any store.
const MANY: usize = 1_100;
/// How many of them are put at a time.
const PUTS_AT_ONCE: usize = 16;

/// Pages join to the whole, in byte order; a listing by directory shows one level.
pub async fn listing_pages_and_directories(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    // In byte order: `-` and `.` come before `/`, digits after.
    let names = ["a-x", "a.txt", "a/1", "a/2/deep", "a/2/deeper/x", "a0", "b", "c/only", "\u{fc}"];
    for name in names {
        scratch.put(name, &Bytes::from_static(b"x")).await;
    }
    let below = |prefix: &str| ListOptions {
        prefix: format!("{}{prefix}", scratch.prefix()),
        ..ListOptions::default()
    };
    for entries_max in [None, Some(1), Some(2), Some(4), Some(1_000)] {
        let (objects, prefixes, pages) = scratch.listed(ListOptions { entries_max, ..below("") }).await;
        assert_eq!(objects, names, "every object once and in order, {entries_max:?} a page");
        assert!(prefixes.is_empty(), "nothing is folded when it was not asked for");
        let least = names.len().div_ceil(entries_max.unwrap_or(1_000) as usize);
        assert!(pages >= least, "{pages} pages where there must be {least}");

        let directory = ListOptions { by_directory: true, entries_max, ..below("") };
        let (objects, prefixes, _) = scratch.listed(directory).await;
        assert_eq!(objects, ["a-x", "a.txt", "a0", "b", "\u{fc}"], "objects of this level");
        assert_eq!(prefixes, ["a/", "c/"], "each directory once");
        let directory = ListOptions { by_directory: true, entries_max, ..below("a/") };
        let (objects, prefixes, _) = scratch.listed(directory).await;
        assert_eq!((objects, prefixes), (vec!["a/1".to_owned()], vec!["a/2/".to_owned()]), "one level below");
    }
    let (objects, _, _) = scratch.listed(below("a/2")).await;
    assert_eq!(objects, ["a/2/deep", "a/2/deeper/x"], "a prefix need not end at a directory");
    let (objects, prefixes, _) = scratch.listed(ListOptions { by_directory: true, ..below("a") }).await;
    assert_eq!((objects.len(), prefixes), (3, vec!["a/".to_owned()]), "a prefix in the middle of a name");
    for after in ["a/1", "a/15", "a/2"] {
        let start_after = Some(scratch.key(after).as_str().to_owned());
        let (objects, _, _) =
            scratch.listed(ListOptions { start_after, entries_max: Some(2), ..below("") }).await;
        assert_eq!(objects, names[3..], "only keys above {after}");
    }
    let (objects, prefixes, pages) = scratch.listed(below("nothing/")).await;
    assert_eq!((objects.len(), prefixes.len(), pages), (0, 0, 1), "a listing of nothing is empty");

    scratch.put("empty/", &Bytes::new()).await;
    let (objects, _, _) = scratch.listed(below("empty")).await;
    assert_eq!(objects, ["empty/"], "a directory marker is an object");
    let (objects, prefixes, _) = scratch.listed(ListOptions { by_directory: true, ..below("empty") }).await;
    assert_eq!(
        (objects.len(), prefixes),
        (0, vec!["empty/".to_owned()]),
        "a marker shows as a directory above"
    );
    let (objects, prefixes, _) = scratch.listed(ListOptions { by_directory: true, ..below("empty/") }).await;
    assert_eq!((objects, prefixes.len()), (vec!["empty/".to_owned()], 0), "and as an object within");
    let object = &store.list(below("b")).await.expect("list").objects[0];
    assert_eq!(
        (&object.id.etag, object.id.size),
        (&scratch.etag("b").await, 1),
        "a listing tells version and size"
    );
    scratch.finish().await;
}

/// A directory of more objects than a page holds is listed whole.
pub async fn large_listing(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let names: Vec<String> = (0..MANY).map(|index| format!("many/{index:05}")).collect();
    // The first alone: a server that keeps objects as files makes their directory with it.
    store.put(&scratch.key(&names[0]), Bytes::from_static(b"x"), PutOptions::default()).await.expect("put");
    stream::iter(names[1..].iter().map(|name| scratch.key(name)))
        .for_each_concurrent(PUTS_AT_ONCE, |key| {
            let store = store.clone();
            async move {
                store.put(&key, Bytes::from_static(b"x"), PutOptions::default()).await.expect("put");
            }
        })
        .await;
    for by_directory in [false, true] {
        let options = ListOptions {
            prefix: format!("{}many/", scratch.prefix()),
            by_directory,
            ..ListOptions::default()
        };
        let (objects, prefixes, pages) = scratch.listed(options).await;
        assert!(objects == names, "all {MANY} objects in order, {} were listed", objects.len());
        assert!(prefixes.is_empty() && pages >= 2, "{pages} pages");
    }
    scratch.finish().await;
}
