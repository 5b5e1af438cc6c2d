//! Copies on the server: whole objects of any size, and ranges into parts.

use futures_util::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, Method};

use crate::store::http::headers;
use crate::store::s3::S3Store;
use crate::store::s3::client::Call;
use crate::store::s3::dialect::{PARTS_MAX, REQUEST_BYTES_MAX};
use crate::store::s3::list::read_moment;
use crate::store::s3::metadata;
use crate::store::s3::objects::quoted;
use crate::store::s3::uploads::about;
use crate::store::{
    Completion, CopyOptions, Error, ErrorKind, MetadataDirective, Op, PartReceipt, PartSlot, Result, Upload,
    UploadOptions,
};
use crate::types::{ByteRange, ETag, Key, ObjectId, ObjectMeta, PartNumber};

/// Pieces in which an object too large for one copy is copied, while the part count allows.
const COPY_PART_BYTES: u64 = 1 << 30;
/// Pieces copied at the same time.
const COPY_PARTS_AT_ONCE: usize = 4;

impl S3Store {
    pub(super) async fn copy_object(
        &self,
        source: &ObjectId,
        target: &Key,
        options: CopyOptions,
    ) -> Result<ObjectMeta> {
        if source.size > REQUEST_BYTES_MAX {
            return self.copy_in_parts(source, target, options).await;
        }
        if !self.dialect.copy_pinned {
            self.look_at_source(Op::Copy, source).await?;
        }
        let honoured = self.dialect.copy_conditional;
        let mut headers = self.conditions(Op::Copy, target, &options.precondition, honoured).await?;
        let directive = match &options.metadata {
            MetadataDirective::Keep => "COPY",
            MetadataDirective::Replace(attributes) => {
                metadata::write(target, attributes, options.token.as_ref(), &mut headers);
                "REPLACE"
            }
        };
        let call = Call::new(Op::Copy, Method::PUT, Some(target))
            .headers(headers)
            .headers(self.pinned_source(Op::Copy, source)?)
            .header("x-amz-metadata-directive", directive);
        let (answer_headers, root) = self.client.send_for_document(&call).await?;
        let Some(etag) = root.text_of("ETag") else {
            return self.changed(Op::Copy, target).await;
        };
        let (attributes, token) = match options.metadata {
            MetadataDirective::Keep => (None, None),
            MetadataDirective::Replace(attributes) => (Some(attributes), options.token),
        };
        Ok(ObjectMeta {
            id: ObjectId { key: target.clone(), etag: ETag::new(etag.trim()), size: source.size },
            modified: root
                .text_of("LastModified")
                .and_then(read_moment)
                .or_else(|| headers::date(&answer_headers, http::header::DATE))
                .unwrap_or_default(),
            attributes,
            token,
            crc64: None,
        })
    }

    pub(super) async fn upload_part_copy(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        let call =
            about(Op::CopyPart, Method::PUT, upload).query("partNumber", slot.number.get().to_string());
        if !self.dialect.copy_part {
            return Err(
                call.error(ErrorKind::Unsupported, "this server cannot copy ranges of a given version")
            );
        }
        if range.is_empty() || range.len() != slot.range.len() || range.end > source.size {
            let detail = format!("{range:?} of the source does not fill the part's {:?}", slot.range);
            return Err(call.error(ErrorKind::Refused, detail));
        }
        let call = call
            .headers(self.pinned_source(Op::CopyPart, source)?)
            .header("x-amz-copy-source-range", &format!("bytes={}-{}", range.start, range.end - 1));
        let (_, root) = self.client.send_for_document(&call).await?;
        let etag =
            root.text_of("ETag").ok_or_else(|| call.error(ErrorKind::Protocol, "the answer has no ETag"))?;
        Ok(PartReceipt {
            number: slot.number,
            len: range.len(),
            etag: ETag::new(etag.trim()).to_string(),
            crc64: root.text_of("ChecksumCRC64NVME").and_then(metadata::read_crc64),
        })
    }

    /// Copies an object that is too large for one request. A caller that stops waiting leaves an upload behind.
    async fn copy_in_parts(
        &self,
        source: &ObjectId,
        target: &Key,
        options: CopyOptions,
    ) -> Result<ObjectMeta> {
        let as_copy = |error: Error| Error { op: Op::Copy, key: Some(target.clone()), ..error };
        if !self.dialect.copy_part {
            let detail = "this server cannot copy objects above 5 GiB";
            return Err(Error::on(Op::Copy, target, ErrorKind::Unsupported, detail));
        }
        // A multipart upload has no "keep the source's metadata".
        let known = self.look_at_source(Op::Copy, source).await?;
        let (attributes, token) = match options.metadata {
            MetadataDirective::Keep => (known.attributes.unwrap_or_default(), known.token),
            MetadataDirective::Replace(attributes) => (attributes, options.token),
        };
        let begun =
            UploadOptions { attributes: attributes.clone(), token: token.clone(), size: Some(source.size) };
        let upload = self.create_upload(target, begun).await.map_err(as_copy)?;
        let completion = Completion {
            precondition: options.precondition,
            size: source.size,
            crc64: known.crc64,
            attributes,
            token,
        };
        let joined = match self.copy_parts(&upload, source).await {
            Ok(parts) => self.join_parts(&upload, &parts, completion).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(meta) => Ok(meta),
            // It may have been joined: the caller looks, and what is left is harmless.
            Err(error) if error.kind == ErrorKind::Ambiguous => Err(as_copy(error)),
            Err(error) => {
                if let Err(left) = self.drop_upload(&upload).await {
                    log::warn!("A half-done copy to {target} is left on the server: {left}");
                }
                Err(as_copy(error))
            }
        }
    }

    async fn copy_parts(&self, upload: &Upload, source: &ObjectId) -> Result<Vec<PartReceipt>> {
        stream::iter(copy_slots(source.size))
            .map(|slot| self.upload_part_copy(upload, slot, source, slot.range))
            .buffered(COPY_PARTS_AT_ONCE)
            .try_collect()
            .await
    }

    /// A HEAD that must find the source's version.
    async fn look_at_source(&self, op: Op, source: &ObjectId) -> Result<ObjectMeta> {
        let meta = self.head_object(&source.key).await.map_err(|error| Error { op, ..error })?;
        if meta.id.etag == source.etag {
            return Ok(meta);
        }
        let detail = format!("the source is now version {}, not {}", meta.id.etag, source.etag);
        Err(Error::on(op, &source.key, ErrorKind::Precondition, detail))
    }

    fn pinned_source(&self, op: Op, source: &ObjectId) -> Result<HeaderMap> {
        // Without the pin the copy could be of any version.
        let pin = HeaderValue::from_str(&quoted(&source.etag)).map_err(|_| {
            Error::on(op, &source.key, ErrorKind::Precondition, "the version's name is unprintable")
        })?;
        let place = HeaderValue::from_str(&self.client.address.copy_source(&source.key))
            .expect("percent-encoded names are plain ASCII");
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-copy-source-if-match", pin);
        headers.insert("x-amz-copy-source", place);
        Ok(headers)
    }
}

/// An object cut into pieces that are copied one by one.
fn copy_slots(size: u64) -> Vec<PartSlot> {
    let part_bytes = COPY_PART_BYTES.max(size.div_ceil(u64::from(PARTS_MAX)));
    let ranges = ByteRange::new(0, size).split(part_bytes);
    let numbered = (0..PARTS_MAX).map(PartNumber::from_index).zip(ranges);
    numbered.map(|(number, range)| PartSlot { number, range, is_last: range.end == size }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_objects_are_cut_without_gaps() {
        const GIB: u64 = 1 << 30;
        for size in [5 * GIB + 1, 6 * GIB, 10_000 * GIB, 10_000 * GIB + 1, 48_000 * GIB + 12_345] {
            let slots = copy_slots(size);
            assert!(slots.len() <= PARTS_MAX as usize, "{size}");
            let mut at = 0;
            for slot in &slots {
                assert_eq!(slot.range.start, at);
                assert!(slot.range.len() <= REQUEST_BYTES_MAX);
                assert_eq!(slot.is_last, slot.range.end == size);
                at = slot.range.end;
            }
            assert_eq!(at, size);
        }
    }
}
