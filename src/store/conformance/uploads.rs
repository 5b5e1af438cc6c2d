//! Checks of uploads of both kinds.

use std::sync::Arc;

use bytes::Bytes;

use crate::store::conformance::scratch::{Scratch, assert_fails, content, drained, part_bytes, slots};
use crate::store::{
    Completion, ErrorKind, GetOptions, ObjectStore, PartReceipt, PartSlot, Precondition, Upload, UploadId,
    UploadKind, UploadOptions, UploadStatus,
};
use crate::types::{
    Attributes, ByteRange, Crc64, ETag, ObjectId, ObjectMeta, PartNumber, UnixTime, UploadToken,
};

/// Length of the last part, which has no minimum.
const TAIL_BYTES: u64 = 100;

/// Parts go in any order, are listed by the server, and become the object only by the completion.
pub async fn parts_upload_resumes(store: Arc<dyn ObjectStore>) {
    let kind = store.capabilities().upload;
    let UploadKind::Parts(_) = kind else { return };
    let scratch = Scratch::new(store.clone());
    let bytes = content(11, part_bytes(kind) * 2 + TAIL_BYTES);
    let slots = slots(kind, bytes.len() as u64);
    let options = some_options(&bytes);
    let upload = store.begin_upload(&scratch.key("object"), options.clone()).await.expect("begin upload");
    assert_eq!(status_parts(&store, &upload).await, [], "a new upload has no parts");
    let last = scratch.put_part(&upload, slots[2], &bytes).await;
    let first = scratch.put_part(&upload, slots[0], &bytes).await;
    // What another process knows of the upload after a restart.
    let upload = Upload { key: upload.key.clone(), id: UploadId(upload.id.0.clone()) };
    let listed = status_parts(&store, &upload).await;
    assert_eq!(
        identities(&listed),
        identities(&[first.clone(), last.clone()]),
        "the server lists what it has"
    );
    assert_fails(store.head(&upload.key).await, &[ErrorKind::NotFound], "head before the completion");
    let middle = scratch.put_part(&upload, slots[1], &bytes).await;
    let done = complete(&scratch, &upload, &[first, middle, last], &bytes, &options).await;
    let head = store.head(&upload.key).await.expect("head");
    assert_eq!(head.id, done.id, "the completion names the version that is there");
    assert_eq!(head.token, options.token, "the token of the upload");
    assert_eq!(head.attributes, Some(options.attributes), "the attributes of the upload");
    if store.capabilities().stores_crc64 {
        assert_eq!(head.crc64, Some(Crc64::of(&bytes)), "the checksum of the whole");
    }
    assert!(scratch.read("object").await == bytes, "the parts in the order of their numbers");
    scratch.finish().await;
}

/// A part sent again replaces the one before; parts that are not listed do not become part of the object.
pub async fn parts_replaced_and_listed(store: Arc<dyn ObjectStore>) {
    let kind = store.capabilities().upload;
    let UploadKind::Parts(limits) = kind else { return };
    let scratch = Scratch::new(store.clone());
    let size = part_bytes(kind);
    let (bytes, other) = (content(12, size * 2), content(13, size * 2));
    let slots = slots(kind, size * 2);
    let options = UploadOptions::default();
    let upload = store.begin_upload(&scratch.key("object"), options.clone()).await.expect("begin upload");
    let first = scratch.put_part(&upload, slots[0], &bytes).await;
    let mut second = scratch.put_part(&upload, slots[1], &other).await;
    if store.capabilities().replace_part {
        let stale = second;
        second = scratch.put_part(&upload, slots[1], &bytes).await;
        assert_ne!(stale.etag, second.etag, "other content has another etag");
        let listed = status_parts(&store, &upload).await;
        assert_eq!(
            identities(&listed),
            identities(&[first.clone(), second.clone()]),
            "the new part is listed"
        );
        let with_stale =
            store.complete_upload(&upload, &[first.clone(), stale], completion(&bytes, &options)).await;
        assert_fails(with_stale, &[ErrorKind::Refused], "completing with a part that was replaced");
    }
    let content = if store.capabilities().replace_part {
        bytes
    } else {
        [&bytes[..size as usize], &other[size as usize..]].concat().into()
    };
    // Numbers may leave gaps; this part is not listed in the completion.
    if limits.parts_max >= 9 {
        let unlisted =
            PartSlot { number: PartNumber::from_index(8), range: ByteRange::new(0, size), is_last: false };
        scratch.put_part(&upload, unlisted, &content).await;
    }
    complete(&scratch, &upload, &[first, second], &content, &options).await;
    assert!(scratch.read("object").await == content, "the object is made of the listed parts");
    scratch.finish().await;
}

/// A completion makes the object only under its precondition, and once.
pub async fn complete_conditionally(store: Arc<dyn ObjectStore>) {
    let kind = store.capabilities().upload;
    let scratch = Scratch::new(store.clone());
    let original = Bytes::from_static(b"original");
    let there = scratch.put("object", &original).await.id.etag;
    let bytes = content(14, part_bytes(kind) + TAIL_BYTES);
    let options = UploadOptions { size: Some(bytes.len() as u64), ..UploadOptions::default() };
    let unmet = [Precondition::Absent, Precondition::Matches(ETag::new("00000000000000000000000000000000"))];
    for precondition in unmet {
        let (upload, parts) = uploaded(&scratch, "object", &bytes, &options).await;
        let wanted = Completion { precondition, ..completion(&bytes, &options) };
        let refused = store.complete_upload(&upload, &parts, wanted).await;
        assert_fails(refused, &[ErrorKind::Precondition], "completing where another version is");
        assert_eq!(scratch.read("object").await, original, "a refused completion changes nothing");
        store.abort_upload(&upload).await.expect("abort after a refused completion");
    }
    for (name, precondition) in [("object", Precondition::Matches(there)), ("new", Precondition::Absent)] {
        let (upload, parts) = uploaded(&scratch, name, &bytes, &options).await;
        let wanted = Completion { precondition, ..completion(&bytes, &options) };
        let done = store.complete_upload(&upload, &parts, wanted).await.expect("completing as agreed").id;
        assert!(scratch.read(name).await == bytes, "the completed object");
        match store.complete_upload(&upload, &parts, completion(&bytes, &options)).await {
            Ok(again) => {
                assert_eq!(again.id, done, "a repeated completion answers with the object, if at all")
            }
            Err(error) => assert_eq!(error.kind, ErrorKind::UploadGone, "a repeated completion: {error}"),
        }
        assert_eq!(scratch.etag(name).await, done.etag, "a repeated completion changes nothing");
    }
    scratch.finish().await;
}

/// A part is filled from an existing object, of the version asked for.
pub async fn copy_part_pinned(store: Arc<dyn ObjectStore>) {
    let kind = store.capabilities().upload;
    let scratch = Scratch::new(store.clone());
    let size = part_bytes(kind);
    // S3 takes ranges only of sources above its smallest part.
    let bytes = content(15, size * 2 + TAIL_BYTES);
    let source = scratch.put("source", &bytes).await.id;
    let options = UploadOptions::default();
    let upload = store.begin_upload(&scratch.key("object"), options.clone()).await.expect("begin upload");
    let slot = |index, start, len, is_last| PartSlot {
        number: PartNumber::from_index(index),
        range: ByteRange::at(start, len),
        is_last,
    };
    let range = ByteRange::at(size / 2, size);
    if !store.capabilities().copy_part {
        let refused = store.copy_part(&upload, slot(0, 0, size, false), &source, range).await;
        assert_fails(refused, &[ErrorKind::Unsupported], "copying into an upload where that is not possible");
        store.abort_upload(&upload).await.expect("abort");
        scratch.finish().await;
        return;
    }
    let copied = store.copy_part(&upload, slot(0, 0, size, false), &source, range).await.expect("copy part");
    assert_eq!(
        (copied.number, copied.len),
        (PartNumber::from_index(0), size),
        "the receipt of a copied part"
    );
    let tail = content(16, TAIL_BYTES);
    let sent =
        store.put_part(&upload, slot(1, size, TAIL_BYTES, true), tail.clone()).await.expect("put part");
    let whole = Bytes::from([&bytes[range.start as usize..range.end as usize], &tail[..]].concat());
    complete(&scratch, &upload, &[copied, sent], &whole, &options).await;
    assert!(scratch.read("object").await == whole, "copied and sent bytes together");

    let upload = store.begin_upload(&scratch.key("object"), options).await.expect("begin upload");
    scratch.put("source", &content(17, size * 2)).await;
    let stale = store.copy_part(&upload, slot(0, 0, size, false), &source, range).await;
    assert_fails(stale, &[ErrorKind::Precondition], "copying from a version that was replaced");
    let nothing = ObjectId { key: scratch.key("nothing"), ..source };
    let missing = store.copy_part(&upload, slot(0, 0, size, false), &nothing, range).await;
    assert_fails(missing, &[ErrorKind::NotFound, ErrorKind::Precondition], "copying from what is not there");
    store.abort_upload(&upload).await.expect("abort");
    scratch.finish().await;
}

/// The server holds one offset; bytes come from exactly there.
pub async fn offset_upload_resumes(store: Arc<dyn ObjectStore>) {
    let kind = store.capabilities().upload;
    let UploadKind::Offset { align } = kind else { return };
    let scratch = Scratch::new(store.clone());
    let size = part_bytes(kind);
    let bytes = content(18, size * 2 + TAIL_BYTES);
    let slots = slots(kind, bytes.len() as u64);
    let options = some_options(&bytes);
    let upload = store.begin_upload(&scratch.key("object"), options.clone()).await.expect("begin upload");
    assert_eq!(store.upload_status(&upload).await.expect("status"), UploadStatus::Offset(0));
    let first = scratch.put_part(&upload, slots[0], &bytes).await;
    let upload = Upload { key: upload.key.clone(), id: UploadId(upload.id.0.clone()) };
    assert_eq!(store.upload_status(&upload).await.expect("status"), UploadStatus::Offset(size));
    let ahead = bytes.slice(slots[2].range.start as usize..);
    assert!(
        store.put_part(&upload, slots[2], ahead).await.is_err(),
        "bytes from beyond the offset are refused"
    );
    if align > 1 {
        let odd = PartSlot { range: ByteRange::at(size, align - 1), ..slots[1] };
        let body = bytes.slice(odd.range.start as usize..odd.range.end as usize);
        assert!(store.put_part(&upload, odd, body).await.is_err(), "a piece that is no multiple is refused");
    }
    assert_eq!(
        store.upload_status(&upload).await.expect("status"),
        UploadStatus::Offset(size),
        "nothing was taken"
    );
    let second = scratch.put_part(&upload, slots[1], &bytes).await;
    let last = scratch.put_part(&upload, slots[2], &bytes).await;
    let done = complete(&scratch, &upload, &[first, second, last], &bytes, &options).await;
    let fetched = store.get(&upload.key, GetOptions::default()).await.expect("get");
    assert_eq!(fetched.meta.id, done.id, "the completion names the version that is there");
    assert!(drained(fetched).await == bytes, "the pieces in order");
    let head = store.head(&upload.key).await.expect("head");
    assert_eq!(
        (head.token, head.attributes),
        (options.token, Some(options.attributes)),
        "the upload's metadata"
    );
    scratch.finish().await;
}

/// An upload that the store does not know says so, whatever is asked of it.
pub async fn unknown_upload_is_gone(store: Arc<dyn ObjectStore>) {
    let kind = store.capabilities().upload;
    let scratch = Scratch::new(store.clone());
    let bytes = content(19, part_bytes(kind));
    let options = UploadOptions { size: Some(bytes.len() as u64), ..UploadOptions::default() };
    let (upload, parts) = uploaded(&scratch, "object", &bytes, &options).await;
    store.abort_upload(&upload).await.expect("abort");
    assert_gone(&scratch, &upload, &parts, &bytes).await;
    let (upload, parts) = uploaded(&scratch, "object", &bytes, &options).await;
    complete(&scratch, &upload, &parts, &bytes, &options).await;
    assert_eq!(
        store.upload_status(&upload).await.expect("status"),
        UploadStatus::Gone,
        "completed uploads are gone"
    );
    for id in ["no-such-upload", "../../etc", "../.."] {
        let invented = Upload { key: scratch.key("object"), id: UploadId(id.to_owned()) };
        match store.upload_status(&invented).await {
            Ok(status) => assert_eq!(status, UploadStatus::Gone, "an invented upload id"),
            Err(error) => assert_eq!(error.kind, ErrorKind::Refused, "an invented upload id: {error}"),
        }
    }
    scratch.finish().await;
}

/// An upload that was given up takes nothing more, and leaves what is under its key.
pub async fn abort_frees(store: Arc<dyn ObjectStore>) {
    let kind = store.capabilities().upload;
    let scratch = Scratch::new(store.clone());
    let original = Bytes::from_static(b"original");
    let there = scratch.put("object", &original).await.id;
    let bytes = content(20, part_bytes(kind));
    let options = UploadOptions { size: Some(bytes.len() as u64), ..UploadOptions::default() };
    let (upload, parts) = uploaded(&scratch, "object", &bytes, &options).await;
    let (other, other_parts) = uploaded(&scratch, "object", &bytes, &options).await;
    store.abort_upload(&upload).await.expect("abort");
    store.abort_upload(&upload).await.expect("giving up twice succeeds");
    assert_gone(&scratch, &upload, &parts, &bytes).await;
    assert_eq!(store.head(&upload.key).await.expect("head").id, there, "the object is as it was");
    complete(&scratch, &other, &other_parts, &bytes, &options).await;
    assert!(scratch.read("object").await == bytes, "another upload of the same key is not touched");
    scratch.finish().await;
}

async fn assert_gone(scratch: &Scratch, upload: &Upload, parts: &[PartReceipt], bytes: &Bytes) {
    let store = &scratch.store;
    let slot = slots(store.capabilities().upload, bytes.len() as u64)[0];
    assert_eq!(store.upload_status(upload).await.expect("status"), UploadStatus::Gone);
    let gone = [ErrorKind::UploadGone];
    assert_fails(
        store.put_part(upload, slot, bytes.clone()).await,
        &gone,
        "a part of an upload that is gone",
    );
    let completed = store.complete_upload(upload, parts, completion(bytes, &UploadOptions::default())).await;
    assert_fails(completed, &gone, "completing an upload that is gone");
    store.abort_upload(upload).await.expect("giving up what is gone succeeds");
}

/// An upload that has all its parts.
async fn uploaded(
    scratch: &Scratch,
    name: &str,
    bytes: &Bytes,
    options: &UploadOptions,
) -> (Upload, Vec<PartReceipt>) {
    let upload = scratch.store.begin_upload(&scratch.key(name), options.clone()).await.expect("begin upload");
    let mut parts = Vec::new();
    for slot in slots(scratch.store.capabilities().upload, bytes.len() as u64) {
        parts.push(scratch.put_part(&upload, slot, bytes).await);
    }
    (upload, parts)
}

async fn complete(
    scratch: &Scratch,
    upload: &Upload,
    parts: &[PartReceipt],
    bytes: &Bytes,
    options: &UploadOptions,
) -> ObjectMeta {
    let completed = scratch.store.complete_upload(upload, parts, completion(bytes, options)).await;
    let meta = completed.expect("complete upload");
    assert_eq!((&meta.id.key, meta.id.size), (&upload.key, bytes.len() as u64), "what the completion made");
    meta
}

fn completion(bytes: &Bytes, options: &UploadOptions) -> Completion {
    Completion {
        precondition: Precondition::None,
        size: bytes.len() as u64,
        crc64: Some(Crc64::of(bytes)),
        attributes: options.attributes.clone(),
        token: options.token.clone(),
    }
}

fn some_options(bytes: &Bytes) -> UploadOptions {
    let attributes = Attributes {
        mode: Some(0o600),
        uid: Some(7),
        gid: Some(8),
        mtime: Some(UnixTime { secs: 1_234_567_890, nanos: 500_000_000 }),
        content_type: Some("application/x-conformance".to_owned()),
        ..Attributes::default()
    };
    let token = UploadToken::from_bits(fastrand::u128(..));
    UploadOptions { attributes, token: Some(token), size: Some(bytes.len() as u64) }
}

async fn status_parts(store: &Arc<dyn ObjectStore>, upload: &Upload) -> Vec<PartReceipt> {
    match store.upload_status(upload).await.expect("upload status") {
        UploadStatus::Parts(parts) => parts,
        other => panic!("an upload in parts has parts, not {other:?}"),
    }
}

/// What receipts have in common whichever way they were got.
fn identities(parts: &[PartReceipt]) -> Vec<(PartNumber, u64)> {
    parts.iter().map(|part| (part.number, part.len)).collect()
}
