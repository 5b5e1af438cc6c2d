//! Checks of whole objects: content, versions, conditions, metadata.

use std::sync::Arc;

use bytes::Bytes;

use crate::store::conformance::scratch::{Scratch, assert_fails, content, drained};
use crate::store::{
    CopyOptions, DeleteOptions, ErrorKind, GetOptions, MetadataDirective, ObjectStore, Precondition,
    PutOptions,
};
use crate::types::{Attributes, ByteRange, Crc64, ETag, ObjectId, UnixTime, UploadToken, Xattrs};

/// More than one piece of any body.
const OBJECT_BYTES: u64 = 300_000;
/// More keys than one request of S3 removes.
const KEYS_TO_DELETE: usize = 3;
/// A version that no store gives.
const NO_SUCH_VERSION: &str = "00000000000000000000000000000000";

/// What was put is there, whole and described, until it is removed.
pub async fn put_get_head_delete(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let key = scratch.key("object");
    assert_fails(store.head(&key).await, &[ErrorKind::NotFound], "head of nothing");
    assert_fails(store.get(&key, GetOptions::default()).await, &[ErrorKind::NotFound], "get of nothing");
    let bytes = content(1, OBJECT_BYTES);
    let put = scratch.put("object", &bytes).await;
    assert_eq!((&put.id.key, put.id.size), (&key, OBJECT_BYTES), "put answers with the object");
    let head = store.head(&key).await.expect("head");
    assert_eq!(head.id, put.id, "head and the answer to put name the same version");
    let fetched = store.get(&key, GetOptions::default()).await.expect("get");
    assert_eq!(fetched.meta.id, put.id, "get names the version");
    assert_eq!(fetched.range, ByteRange::new(0, OBJECT_BYTES));
    assert!(drained(fetched).await == bytes, "get yields what was put");
    let other = content(2, 1_000);
    let replaced = scratch.put("object", &other).await;
    assert_ne!(replaced.id.etag, put.id.etag, "other content is another version");
    assert!(scratch.read("object").await == other, "the new content replaces the old");
    store.delete(&key, DeleteOptions::default()).await.expect("delete");
    assert_fails(store.head(&key).await, &[ErrorKind::NotFound], "head after delete");
    store.delete(&key, DeleteOptions::default()).await.expect("removing what is not there succeeds");
    scratch.finish().await;
}

/// Ranges begin where they should, end at the object's end, and belong to the version asked for.
pub async fn ranges_and_versions(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let key = scratch.key("object");
    let bytes = content(3, OBJECT_BYTES);
    let etag = scratch.put("object", &bytes).await.id.etag;
    for (start, end) in [
        (0, 1),
        (0, 4_096),
        (12_345, 54_321),
        (OBJECT_BYTES - 1, OBJECT_BYTES),
        (OBJECT_BYTES - 10, OBJECT_BYTES + 99),
        (0, u64::MAX),
    ] {
        let wanted = ByteRange::new(start, end);
        let options = GetOptions { range: Some(wanted), if_match: Some(etag.clone()) };
        let fetched = store.get(&key, options).await.expect("get of a range");
        assert_eq!(fetched.range, wanted.clip(OBJECT_BYTES), "the answer's range for {wanted:?}");
        assert_eq!(
            (&fetched.meta.id.etag, fetched.meta.id.size),
            (&etag, OBJECT_BYTES),
            "the whole object's identity"
        );
        let range = fetched.range.start as usize..fetched.range.end as usize;
        assert!(drained(fetched).await == bytes.slice(range), "the bytes of {wanted:?}");
    }
    let beyond = GetOptions { range: Some(ByteRange::at(OBJECT_BYTES, 10)), if_match: None };
    assert!(store.get(&key, beyond).await.is_err(), "a range that begins at the object's end has no bytes");
    scratch.put("object", &content(4, OBJECT_BYTES)).await;
    for range in [None, Some(ByteRange::new(5, 10))] {
        let old = GetOptions { range, if_match: Some(etag.clone()) };
        assert_fails(store.get(&key, old).await, &[ErrorKind::Precondition], "get of a replaced version");
    }
    scratch.finish().await;
}

/// Preconditions of put and delete hold, by the server's word or by a look before the change.
pub async fn conditional_writes(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let key = scratch.key("object");
    let unmet = [ErrorKind::Precondition, ErrorKind::NotFound];
    let (one, two) = (Bytes::from_static(b"one"), Bytes::from_static(b"two"));
    let when = |precondition| PutOptions { precondition, ..PutOptions::default() };
    let matches = |etag: &ETag| when(Precondition::Matches(etag.clone()));
    let stranger = ETag::new(NO_SUCH_VERSION);

    assert_fails(
        store.put(&key, one.clone(), matches(&stranger)).await,
        &unmet,
        "replacing what is not there",
    );
    assert_fails(store.head(&key).await, &[ErrorKind::NotFound], "the refused put made nothing");
    let first = store.put(&key, one.clone(), when(Precondition::Absent)).await.expect("creating put").id.etag;
    let taken = store.put(&key, two.clone(), when(Precondition::Absent)).await;
    assert_fails(taken, &[ErrorKind::Precondition], "creating what is there");
    let other = store.put(&key, two.clone(), matches(&stranger)).await;
    assert_fails(other, &[ErrorKind::Precondition], "replacing another version");
    assert_eq!(scratch.read("object").await, one, "refused puts changed nothing");
    let second = store.put(&key, two.clone(), matches(&first)).await.expect("replacing put").id.etag;
    let stale = store.put(&key, one, matches(&first)).await;
    assert_fails(stale, &[ErrorKind::Precondition], "replacing the version before");

    let only = |etag: &ETag| DeleteOptions { if_match: Some(etag.clone()) };
    let stale = store.delete(&key, only(&first)).await;
    assert_fails(stale, &[ErrorKind::Precondition], "removing the version before");
    assert_eq!(scratch.read("object").await, two, "the refused delete removed nothing");
    store.delete(&key, only(&second)).await.expect("removing the version that is there");
    // Servers differ on removing a version that is already gone; what matters is that it stays gone.
    if let Err(error) = store.delete(&key, only(&second)).await {
        assert!(unmet.contains(&error.kind), "removing a version twice: {error}");
    }
    let gone = store.head(&key).await;
    assert_fails(gone, &[ErrorKind::NotFound], "looking for what was removed");
    scratch.finish().await;
}

/// Names are kept byte for byte; what a store cannot name it refuses and leaves alone.
pub async fn odd_keys(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let long = "n".repeat(200);
    let deep = ["d"; 20].join("/");
    let taken = [
        "with space",
        " leading and trailing ",
        "plus+percent%41%2F",
        "amp&lt;<tag>\"'`",
        "query?a=b;c#fragment",
        "star*[x]{y}|~!@$^,:",
        "back\\slash",
        "\u{fc}n\u{ef}c\u{f6}d\u{e9}-\u{65e5}\u{672c}\u{8a9e}-\u{1f41f}",
        "cafe\u{301}",
        ".hidden",
        "...",
        "-dash",
        "dir with space/\u{e4}/file",
        &long,
        &deep,
    ];
    for name in taken {
        let bytes = Bytes::from(name.to_owned());
        scratch.put(name, &bytes).await;
        assert_eq!(scratch.read(name).await, bytes, "the content of {name:?}");
    }
    let options = crate::store::ListOptions { prefix: scratch.prefix(), ..Default::default() };
    let (mut listed, _, _) = scratch.listed(options).await;
    listed.sort();
    let mut wanted = taken.map(str::to_owned);
    wanted.sort();
    assert_eq!(listed, wanted, "a listing has the names as they were put");
    for name in ["double//slash", "./dot", "dots/../dots", "dot/.", "tab\tand\nline"] {
        let bytes = Bytes::from(name.to_owned());
        match store.put(&scratch.key(name), bytes.clone(), PutOptions::default()).await {
            Ok(_) => {
                assert_eq!(scratch.read(name).await, bytes, "the content of {name:?}, which was taken");
                store.delete(&scratch.key(name), DeleteOptions::default()).await.expect("delete");
            }
            Err(error) => assert_eq!(error.kind, ErrorKind::Refused, "{name:?} is taken or refused: {error}"),
        }
    }
    scratch.finish().await;
}

/// Attributes and token come back as they were given.
pub async fn metadata_round_trip(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let full = some_attributes(UnixTime { secs: 1_600_000_000, nanos: 123_456_789 });
    let old = Attributes { mode: Some(0o4_711), ..some_attributes(UnixTime { secs: -86_400, nanos: 0 }) };
    let link = Attributes { mode: Some(0o777), is_symlink: true, ..full.clone() };
    let token = UploadToken::from_bits(fastrand::u128(..));
    for (attributes, token) in [
        (full, Some(token.clone())),
        (old, None),
        (link, None),
        (Attributes::default(), Some(token)),
        (Attributes::default(), None),
    ] {
        let key = scratch.key("object");
        let options =
            PutOptions { attributes: attributes.clone(), token: token.clone(), ..PutOptions::default() };
        store.put(&key, Bytes::from_static(b"content"), options).await.expect("put with attributes");
        let head = store.head(&key).await.expect("head");
        assert_attributes(head.attributes.expect("head tells the attributes"), &attributes);
        assert_eq!(head.token, token, "the token");
    }
    scratch.finish().await;
}

/// A copy has the source's content, its metadata or other ones, and is made of the version it was asked of.
pub async fn copy_and_replace_metadata(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let bytes = content(5, OBJECT_BYTES);
    let kept = some_attributes(UnixTime::from_secs(1_500_000_000));
    let (source, target) = (scratch.key("source"), scratch.key("dir/target"));
    let options = PutOptions { attributes: kept.clone(), ..PutOptions::default() };
    let id = store.put(&source, bytes.clone(), options).await.expect("put").id;

    let copy = store.copy(&id, &target, CopyOptions::default()).await.expect("copy").id;
    assert!(scratch.read("dir/target").await == bytes, "the copy has the source's content");
    let head = store.head(&target).await.expect("head of the copy");
    assert_eq!(head.id, copy, "the copy is what the answer named");
    assert_attributes(head.attributes.expect("head tells the attributes"), &kept);
    let absent = CopyOptions { precondition: Precondition::Absent, ..CopyOptions::default() };
    let taken = store.copy(&id, &target, absent).await;
    assert_fails(taken, &[ErrorKind::Precondition], "copying onto what should not be there");

    let other = Attributes { mode: Some(0o600), ..some_attributes(UnixTime::from_secs(1_400_000_000)) };
    let token = Some(UploadToken::from_bits(fastrand::u128(..)));
    let replace = CopyOptions {
        metadata: MetadataDirective::Replace(other.clone()),
        token: token.clone(),
        ..CopyOptions::default()
    };
    let id = store.copy(&id, &source, replace).await.expect("copy onto itself with other metadata").id;
    let head = store.head(&source).await.expect("head");
    assert_eq!((head.id, head.token), (id.clone(), token), "the changed object is what the answer named");
    assert_attributes(head.attributes.expect("head tells the attributes"), &other);
    assert!(scratch.read("source").await == bytes, "a change of metadata leaves the content alone");

    scratch.put("source", &content(6, 10)).await;
    let stale = store.copy(&id, &target, CopyOptions::default()).await;
    assert_fails(stale, &[ErrorKind::Precondition], "copying a version that was replaced");
    let nothing = ObjectId { key: scratch.key("nothing"), ..id };
    let missing = store.copy(&nothing, &target, CopyOptions::default()).await;
    assert_fails(missing, &[ErrorKind::NotFound, ErrorKind::Precondition], "copying what is not there");
    assert!(scratch.read("dir/target").await == bytes, "refused copies changed nothing");
    scratch.finish().await;
}

/// Many objects go at once, those that are not there included, and the others stay.
pub async fn delete_many(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let mut keys = Vec::new();
    for index in 0..KEYS_TO_DELETE {
        let name = format!("a&b<{index}> {index}");
        scratch.put(&name, &Bytes::from_static(b"x")).await;
        keys.push(scratch.key(&name));
    }
    keys.push(scratch.key("never put"));
    scratch.put("kept", &Bytes::from_static(b"kept")).await;
    let results = store.delete_many(&keys).await.expect("delete many");
    assert_eq!(results.len(), keys.len(), "one result a key");
    for (key, result) in keys.iter().zip(results) {
        result.unwrap_or_else(|error| panic!("removing {key}: {error}"));
        assert_fails(store.head(key).await, &[ErrorKind::NotFound], "head after delete many");
    }
    assert_eq!(scratch.read("kept").await, Bytes::from_static(b"kept"));
    assert!(store.delete_many(&[]).await.expect("removing nothing").is_empty());
    scratch.finish().await;
}

/// Objects without content are objects.
pub async fn empty_objects(store: Arc<dyn ObjectStore>) {
    let scratch = Scratch::new(store.clone());
    let key = scratch.key("empty");
    let put = scratch.put("empty", &Bytes::new()).await;
    assert_eq!(put.id.size, 0);
    assert_eq!(store.head(&key).await.expect("head").id, put.id);
    let options = GetOptions { range: None, if_match: Some(put.id.etag) };
    let fetched = store.get(&key, options).await.expect("get of an empty object");
    assert!(fetched.range.is_empty(), "an empty object has no bytes");
    assert!(drained(fetched).await.is_empty());
    scratch.put("marker/", &Bytes::new()).await;
    assert_eq!(store.head(&scratch.key("marker/")).await.expect("head of a directory marker").id.size, 0);
    scratch.finish().await;
}

/// A store that keeps checksums refuses bytes that do not have theirs.
pub async fn crc_is_checked(store: Arc<dyn ObjectStore>) {
    if !store.capabilities().stores_crc64 {
        return;
    }
    let scratch = Scratch::new(store.clone());
    let key = scratch.key("object");
    let bytes = content(7, OBJECT_BYTES);
    let crc64 = Crc64::of(&bytes);
    let with = |crc64| PutOptions { crc64: Some(crc64), ..PutOptions::default() };
    let wrong = store.put(&key, bytes.clone(), with(Crc64(crc64.0 ^ 1))).await;
    assert_fails(wrong, &[ErrorKind::Integrity, ErrorKind::Refused], "put with a wrong checksum");
    assert_fails(store.head(&key).await, &[ErrorKind::NotFound], "the refused put made nothing");
    store.put(&key, bytes, with(crc64)).await.expect("put with the right checksum");
    assert_eq!(store.head(&key).await.expect("head").crc64, Some(crc64), "the store tells the checksum");
    scratch.finish().await;
}

fn some_attributes(mtime: UnixTime) -> Attributes {
    let mut xattrs = Xattrs::default();
    xattrs.set("user.conformance", b"\x00\xff any, bytes: at all");
    Attributes {
        mode: Some(0o640),
        uid: Some(1_000),
        gid: Some(1_001),
        mtime: Some(mtime),
        content_type: Some("text/x-conformance".to_owned()),
        xattrs,
        ..Attributes::default()
    }
}

/// A store may name a content type where none was given.
fn assert_attributes(mut found: Attributes, given: &Attributes) {
    if given.content_type.is_none() {
        found.content_type = None;
    }
    // Nor are its own headers, such as a storage class, the giver's.
    found.carried = given.carried.clone();
    assert_eq!(&found, given, "attributes come back as they were given");
}
