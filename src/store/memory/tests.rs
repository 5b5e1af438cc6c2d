//! The suite over both upload kinds and lesser stores, and what the suite cannot see.

use std::sync::Arc;

use bytes::Bytes;

use crate::store::{
    Capabilities, Completion, ErrorKind, MemoryStore, ObjectStore, PartLimits, PartSlot, PutOptions,
    UploadKind, UploadOptions, UploadStatus, conformance,
};
use crate::types::{ByteRange, Key, PartNumber};

const PARTS: UploadKind =
    UploadKind::Parts(PartLimits { part_bytes_min: 100_000, part_bytes_max: 1 << 20, parts_max: 20 });

#[tokio::test]
async fn conforms_with_parts() {
    let store = Arc::new(MemoryStore::new("memory://parts", PARTS));
    conformance::run(store.clone()).await;
    assert_eq!(
        (store.open_uploads(), store.state().objects.len()),
        (0, 0),
        "the suite cleans up after itself"
    );
}

#[tokio::test]
async fn conforms_with_an_offset() {
    let store = Arc::new(MemoryStore::new("memory://offset", UploadKind::Offset { align: 256 }));
    conformance::run(store.clone()).await;
    assert_eq!(
        (store.open_uploads(), store.state().objects.len()),
        (0, 0),
        "the suite cleans up after itself"
    );
}

#[tokio::test]
async fn conforms_with_fewer_abilities() {
    let able = MemoryStore::new("memory://able", PARTS).capabilities;
    let capabilities = Capabilities {
        put_if_absent: false,
        put_if_match: false,
        conditional_complete: false,
        conditional_delete: false,
        conditional_get: false,
        copy_part: false,
        stores_crc64: false,
        replace_part: false,
        ..able
    };
    conformance::run(Arc::new(MemoryStore::with_capabilities("memory://poor", capabilities))).await;
}

#[tokio::test]
async fn limits_of_parts_are_enforced() {
    let store = MemoryStore::new("memory://limits", PARTS);
    let key = Key::new("k").unwrap();
    let upload = store.begin_upload(&key, UploadOptions::default()).await.unwrap();
    let slot = |index, len| PartSlot {
        number: PartNumber::from_index(index),
        range: ByteRange::at(0, len),
        is_last: false,
    };
    let zeros = |len: u64| Bytes::from(vec![0; len as usize]);
    let too_large = store.put_part(&upload, slot(0, (1 << 20) + 1), zeros((1 << 20) + 1)).await;
    assert_eq!(too_large.unwrap_err().kind, ErrorKind::TooLarge);
    assert_eq!(store.put_part(&upload, slot(20, 5), zeros(5)).await.unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(store.put_part(&upload, slot(0, 5), zeros(6)).await.unwrap_err().kind, ErrorKind::Refused);
    let small = [
        store.put_part(&upload, slot(0, 5), zeros(5)).await.unwrap(),
        store.put_part(&upload, slot(1, 5), zeros(5)).await.unwrap(),
    ];
    let completion = |size| Completion { size, ..Completion::default() };
    let refused = store.complete_upload(&upload, &small, completion(10)).await;
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Refused, "the first part is below the minimum");
    store.complete_upload(&upload, &small[1..], completion(5)).await.unwrap();
    assert_eq!(store.object_bytes(&key).unwrap(), [0; 5]);
}

#[tokio::test]
async fn a_forgotten_upload_is_gone() {
    let store = MemoryStore::new("memory://forgets", PARTS);
    let upload = store.begin_upload(&Key::new("k").unwrap(), UploadOptions::default()).await.unwrap();
    assert_eq!(store.open_uploads(), 1);
    store.forget_upload(&upload.id);
    assert_eq!(store.open_uploads(), 0);
    assert_eq!(store.upload_status(&upload).await.unwrap(), UploadStatus::Gone);
}

#[tokio::test]
async fn two_runs_see_the_same_versions() {
    let key = Key::new("k").unwrap();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let store = MemoryStore::new("memory://same", PARTS);
        store.put(&key, Bytes::from_static(b"1"), PutOptions::default()).await.unwrap();
        seen.push(store.put(&key, Bytes::from_static(b"1"), PutOptions::default()).await.unwrap());
    }
    assert_eq!(seen[0], seen[1]);
}
