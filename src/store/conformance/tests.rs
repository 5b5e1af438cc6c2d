//! The suite has teeth: for each check a store that breaks just the promise it is about.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::observe::task;
use crate::store::conformance::CHECKS;
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, Error, ErrorKind, Fetched, GetOptions, ListOptions,
    ListPage, MemoryStore, MetadataDirective, ObjectStore, Op, PartLimits, PartReceipt, PartSlot,
    Precondition, PutOptions, Result, Upload, UploadKind, UploadOptions, UploadStatus,
};
use crate::types::{Attributes, ByteRange, Key, ObjectId, ObjectMeta};

/// What a careless store does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Defect {
    DeletesNothing,
    ShiftsRanges,
    IgnoresVersionOnGet,
    IgnoresPreconditionOnPut,
    IgnoresVersionOnDelete,
    NeverFolds,
    IgnoresStartAfter,
    ListsOnePage,
    TrimsKeys,
    DropsAttributes,
    DropsToken,
    CopiesAnyVersion,
    KeepsMetadata,
    IgnoresPreconditionOnCopy,
    ListsNoParts,
    JoinsAllParts,
    IgnoresPreconditionOnCompletion,
    CopiesPartOfAnyVersion,
    MiscountsOffset,
    GoneLooksEmpty,
    AbortsNothing,
    DeletesFirstOnly,
    HidesEmpty,
    IgnoresChecksum,
}

/// Each defect, the check that finds it, and the kind of upload it takes.
const DEFECTS: [(Defect, &str, UploadKind); 24] = [
    (Defect::DeletesNothing, "put_get_head_delete", PARTS),
    (Defect::ShiftsRanges, "ranges_and_versions", PARTS),
    (Defect::IgnoresVersionOnGet, "ranges_and_versions", PARTS),
    (Defect::IgnoresPreconditionOnPut, "conditional_writes", PARTS),
    (Defect::IgnoresVersionOnDelete, "conditional_writes", PARTS),
    (Defect::NeverFolds, "listing_pages_and_directories", PARTS),
    (Defect::IgnoresStartAfter, "listing_pages_and_directories", PARTS),
    (Defect::ListsOnePage, "large_listing", PARTS),
    (Defect::TrimsKeys, "odd_keys", PARTS),
    (Defect::DropsAttributes, "metadata_round_trip", PARTS),
    (Defect::DropsToken, "metadata_round_trip", PARTS),
    (Defect::CopiesAnyVersion, "copy_and_replace_metadata", PARTS),
    (Defect::KeepsMetadata, "copy_and_replace_metadata", PARTS),
    (Defect::IgnoresPreconditionOnCopy, "copy_and_replace_metadata", PARTS),
    (Defect::ListsNoParts, "parts_upload_resumes", PARTS),
    (Defect::JoinsAllParts, "parts_replaced_and_listed", PARTS),
    (Defect::IgnoresPreconditionOnCompletion, "complete_conditionally", PARTS),
    (Defect::CopiesPartOfAnyVersion, "copy_part_pinned", PARTS),
    (Defect::MiscountsOffset, "offset_upload_resumes", UploadKind::Offset { align: 256 }),
    (Defect::GoneLooksEmpty, "unknown_upload_is_gone", PARTS),
    (Defect::AbortsNothing, "abort_frees", PARTS),
    (Defect::DeletesFirstOnly, "delete_many", PARTS),
    (Defect::HidesEmpty, "empty_objects", PARTS),
    (Defect::IgnoresChecksum, "crc_is_checked", PARTS),
];

const PARTS: UploadKind =
    UploadKind::Parts(PartLimits { part_bytes_min: 1_000, part_bytes_max: 1 << 20, parts_max: 20 });

#[tokio::test]
async fn each_check_finds_what_it_is_about() {
    for (name, check) in CHECKS {
        let defects: Vec<_> = DEFECTS.iter().filter(|(_, by, _)| *by == name).collect();
        assert!(!defects.is_empty(), "no defect shows that {name} can fail");
        for (defect, _, kind) in defects {
            let store = Careless { inner: MemoryStore::new("memory://careless", *kind), defect: *defect };
            let run = task::spawn("check of a careless store", check(Arc::new(store)));
            let outcome = run.await.map_err(|error| error.is_panic());
            assert_eq!(outcome, Err(true), "{name} passes a store that {defect:?}");
        }
    }
}

/// A store with one defect.
#[derive(Debug)]
struct Careless {
    inner: MemoryStore,
    defect: Defect,
}

impl Careless {
    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn key(&self, key: &Key) -> Key {
        match self.is(Defect::TrimsKeys) {
            true => Key::new(&key.as_str().replace("/ ", "/")).unwrap(),
            false => key.clone(),
        }
    }

    /// The version that is there, whichever was asked for.
    async fn current(&self, id: &ObjectId) -> Result<ObjectId> {
        self.inner.head(&id.key).await.map(|meta| meta.id)
    }
}

#[async_trait]
impl ObjectStore for Careless {
    fn volume(&self) -> &str {
        self.inner.volume()
    }

    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let meta = self.inner.head(&self.key(key)).await?;
        match self.is(Defect::HidesEmpty) && meta.id.size == 0 {
            true => Err(Error::on(Op::Head, key, ErrorKind::NotFound, "no bytes, no object")),
            false => Ok(meta),
        }
    }

    async fn get(&self, key: &Key, mut options: GetOptions) -> Result<Fetched> {
        if self.is(Defect::IgnoresVersionOnGet) {
            options.if_match = None;
        }
        let asked = options.range;
        if self.is(Defect::ShiftsRanges) {
            options.range = asked.map(|range| ByteRange::new(range.start.saturating_sub(1), range.end - 1));
        }
        let fetched = self.inner.get(&self.key(key), options).await?;
        match self.is(Defect::ShiftsRanges) {
            true => Ok(Fetched {
                range: asked.map_or(fetched.range, |r| r.clip(fetched.meta.id.size)),
                ..fetched
            }),
            false => Ok(fetched),
        }
    }

    async fn list(&self, mut options: ListOptions) -> Result<ListPage> {
        if self.is(Defect::NeverFolds) {
            options.by_directory = false;
        }
        if self.is(Defect::IgnoresStartAfter) {
            options.start_after = None;
        }
        let mut page = self.inner.list(options).await?;
        if self.is(Defect::ListsOnePage) {
            page.next = None;
        }
        Ok(page)
    }

    async fn put(&self, key: &Key, body: Bytes, mut options: PutOptions) -> Result<ObjectMeta> {
        if self.is(Defect::IgnoresPreconditionOnPut) {
            options.precondition = Precondition::None;
        }
        if self.is(Defect::IgnoresChecksum) {
            options.crc64 = None;
        }
        if self.is(Defect::DropsAttributes) {
            options.attributes = Attributes::default();
        }
        if self.is(Defect::DropsToken) {
            options.token = None;
        }
        self.inner.put(&self.key(key), body, options).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, mut options: CopyOptions) -> Result<ObjectMeta> {
        if self.is(Defect::KeepsMetadata) {
            options.metadata = MetadataDirective::Keep;
        }
        if self.is(Defect::IgnoresPreconditionOnCopy) {
            options.precondition = Precondition::None;
        }
        match self.is(Defect::CopiesAnyVersion) {
            true => self.inner.copy(&self.current(source).await?, target, options).await,
            false => self.inner.copy(source, target, options).await,
        }
    }

    async fn delete(&self, key: &Key, mut options: DeleteOptions) -> Result<()> {
        if self.is(Defect::DeletesNothing) {
            return Ok(());
        }
        if self.is(Defect::IgnoresVersionOnDelete) {
            options.if_match = None;
        }
        self.inner.delete(&self.key(key), options).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        if self.is(Defect::DeletesFirstOnly) {
            self.inner.delete_many(&keys[..keys.len().min(1)]).await?;
            return Ok(keys.iter().map(|_| Ok(())).collect());
        }
        self.inner.delete_many(keys).await
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        self.inner.begin_upload(key, options).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        Ok(match self.inner.upload_status(upload).await? {
            UploadStatus::Parts(_) if self.is(Defect::ListsNoParts) => UploadStatus::Parts(Vec::new()),
            UploadStatus::Offset(offset) if self.is(Defect::MiscountsOffset) => {
                UploadStatus::Offset(offset + 1)
            }
            UploadStatus::Gone if self.is(Defect::GoneLooksEmpty) => UploadStatus::Parts(Vec::new()),
            status => status,
        })
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        self.inner.put_part(upload, slot, body).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        match self.is(Defect::CopiesPartOfAnyVersion) {
            true => self.inner.copy_part(upload, slot, &self.current(source).await?, range).await,
            false => self.inner.copy_part(upload, slot, source, range).await,
        }
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        mut completion: Completion,
    ) -> Result<ObjectMeta> {
        if self.is(Defect::IgnoresPreconditionOnCompletion) {
            completion.precondition = Precondition::None;
        }
        if self.is(Defect::JoinsAllParts)
            && let UploadStatus::Parts(all) = self.inner.upload_status(upload).await?
        {
            completion.size = all.iter().map(|part| part.len).sum();
            completion.crc64 = None;
            return self.inner.complete_upload(upload, &all, completion).await;
        }
        self.inner.complete_upload(upload, parts, completion).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        match self.is(Defect::AbortsNothing) {
            true => Ok(()),
            false => self.inner.abort_upload(upload).await,
        }
    }
}
