//! A corner of the volume for one check, and the words checks are written in.

use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;

use crate::store::{
    ErrorKind, Fetched, GetOptions, ListOptions, ObjectStore, PartReceipt, PartSlot, PutOptions, Result,
    Upload, UploadKind,
};
use crate::types::{ByteRange, ETag, Key, ObjectMeta, PartNumber};

/// Smallest part the checks send; the store's own minimum is used when it is larger.
const PART_BYTES: u64 = 64 << 10;
/// Rounds of clean-up; a store where directories outlive their objects needs one for each level.
const SWEEPS_MAX: usize = 30;

/// A random prefix of its own.
pub(crate) struct Scratch {
    pub store: Arc<dyn ObjectStore>,
    prefix: String,
}

impl Scratch {
    pub fn new(store: Arc<dyn ObjectStore>) -> Scratch {
        Scratch { store, prefix: format!("tetherfs-conformance-{:016x}", fastrand::u64(..)) }
    }

    /// The prefix, with its closing `/`.
    pub fn prefix(&self) -> String {
        format!("{}/", self.prefix)
    }

    pub fn key(&self, name: &str) -> Key {
        Key::new(&format!("{}/{name}", self.prefix)).expect("the checks' names make keys")
    }

    pub async fn put(&self, name: &str, content: &Bytes) -> ObjectMeta {
        self.store.put(&self.key(name), content.clone(), PutOptions::default()).await.expect("put")
    }

    pub async fn read(&self, name: &str) -> Bytes {
        let fetched = self.store.get(&self.key(name), GetOptions::default()).await.expect("get");
        drained(fetched).await
    }

    pub async fn etag(&self, name: &str) -> ETag {
        self.store.head(&self.key(name)).await.expect("head").id.etag
    }

    /// All pages of a listing: keys and prefixes without the scratch prefix, in the order of their pages, and pages.
    pub async fn listed(&self, mut options: ListOptions) -> (Vec<String>, Vec<String>, usize) {
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        for pages in 1.. {
            let page = self.store.list(options.clone()).await.expect("list");
            let entries = page.objects.len() + page.prefixes.len();
            let most = options.entries_max.unwrap_or(u32::MAX) as usize;
            assert!(entries <= most, "a page of {entries} entries where at most {most} were asked for");
            let short =
                |key: &str| key.strip_prefix(&self.prefix()).expect("a key below the prefix").to_owned();
            objects.extend(page.objects.iter().map(|object| short(object.id.key.as_str())));
            prefixes.extend(page.prefixes.iter().map(|prefix| short(prefix)));
            match page.next {
                Some(next) => {
                    options = ListOptions { continuation: Some(next), start_after: None, ..options }
                }
                None => return (objects, prefixes, pages),
            }
        }
        unreachable!("the loop ends with the last page")
    }

    /// Removes everything the check made.
    pub async fn finish(self) {
        // Without the closing slash, so that a directory that stands for the prefix itself goes too.
        let options = ListOptions { prefix: self.prefix.clone(), ..ListOptions::default() };
        for _ in 0..SWEEPS_MAX {
            let mut keys = Vec::new();
            let mut page = self.store.list(options.clone()).await.expect("list for the clean-up");
            loop {
                keys.extend(page.objects.drain(..).map(|object| object.id.key));
                let Some(next) = page.next.take() else { break };
                let options = ListOptions { continuation: Some(next), ..options.clone() };
                page = self.store.list(options).await.expect("list for the clean-up");
            }
            if keys.is_empty() {
                return;
            }
            for result in self.store.delete_many(&keys).await.expect("delete many for the clean-up") {
                result.expect("every object can be removed");
            }
        }
        panic!("objects below {} are still listed after {SWEEPS_MAX} removals", self.prefix);
    }

    pub async fn put_part(&self, upload: &Upload, slot: PartSlot, content: &Bytes) -> PartReceipt {
        let body = content.slice(slot.range.start as usize..slot.range.end as usize);
        let receipt = self.store.put_part(upload, slot, body).await.expect("put part");
        assert_eq!(
            (receipt.number, receipt.len),
            (slot.number, slot.range.len()),
            "a receipt names its part"
        );
        receipt
    }
}

/// Bytes that look random and are the same for the same seed.
pub(crate) fn content(seed: u64, len: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len as usize).collect()
}

/// The bytes of an answer, which must be as many as it says.
pub(crate) async fn drained(fetched: Fetched) -> Bytes {
    let pieces: Vec<Bytes> = fetched.body.try_collect().await.expect("the body comes whole");
    let bytes = Bytes::from(pieces.concat());
    assert_eq!(bytes.len() as u64, fetched.range.len(), "the body has as many bytes as its range");
    bytes
}

/// The result must be an error of one of these kinds.
pub(crate) fn assert_fails<T: Debug>(result: Result<T>, kinds: &[ErrorKind], what: &str) {
    match result {
        Ok(answer) => panic!("{what}: this must fail with {kinds:?}, the store answered {answer:?}"),
        Err(error) => {
            assert!(kinds.contains(&error.kind), "{what}: {:?} instead of {kinds:?}: {error}", error.kind)
        }
    }
}

/// What a check sends as one part; a multiple of 4.
pub(crate) fn part_bytes(kind: UploadKind) -> u64 {
    match kind {
        UploadKind::Parts(limits) => PART_BYTES.max(limits.part_bytes_min).next_multiple_of(4),
        UploadKind::Offset { align } => PART_BYTES.next_multiple_of(align * 4),
    }
}

/// The slots of an object of `size` bytes.
pub(crate) fn slots(kind: UploadKind, size: u64) -> Vec<PartSlot> {
    let ranges: Vec<ByteRange> = ByteRange::new(0, size).split(part_bytes(kind)).collect();
    (0..)
        .zip(&ranges)
        .map(|(index, &range)| PartSlot {
            number: PartNumber::from_index(index),
            range,
            is_last: range.end == size,
        })
        .collect()
}
