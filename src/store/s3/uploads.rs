//! Multipart uploads: begun, filled, listed, joined, given up.

use bytes::Bytes;
use http::Method;
use std::collections::BTreeMap;

use crate::store::http::client::Stage;
use crate::store::http::headers;
use crate::store::http::xml::{Element, push_text};
use crate::store::s3::S3Store;
use crate::store::s3::client::{Call, CallError};
use crate::store::s3::dialect::PARTS_MAX;
use crate::store::s3::metadata;
use crate::store::s3::objects::missing_is_changed;
use crate::store::{
    Completion, Error, ErrorKind, Op, PartReceipt, PartSlot, Precondition, Result, Upload, UploadId,
    UploadOptions, UploadStatus,
};
use crate::types::{Crc64, ETag, Key, ObjectId, ObjectMeta, PartNumber};

const CHECKSUM_ALGORITHM: &str = "x-amz-checksum-algorithm";
const CHECKSUM_TYPE: &str = "x-amz-checksum-type";
/// One checksum of all bytes rather than a checksum of checksums.
const FULL_OBJECT: &str = "FULL_OBJECT";

impl S3Store {
    pub(super) async fn create_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        let mut headers = http::HeaderMap::new();
        metadata::write(key, &options.attributes, options.token.as_ref(), &mut headers);
        let mut call =
            Call::new(Op::BeginUpload, Method::POST, Some(key)).query("uploads", "").headers(headers);
        if self.dialect.takes_crc64 {
            call = call.header(CHECKSUM_ALGORITHM, "CRC64NVME").header(CHECKSUM_TYPE, FULL_OBJECT);
        }
        let (_, root) = self.client.send_for_document(&call).await?;
        match root.text_of("UploadId").filter(|id| !id.is_empty()) {
            Some(id) => Ok(Upload { key: key.clone(), id: UploadId(id.to_owned()) }),
            None => Err(call.error(ErrorKind::Protocol, "the answer names no upload")),
        }
    }

    /// Some servers sort wrongly, repeat the first part of a page, or ignore the page size: parts are kept by number.
    pub(super) async fn list_parts(&self, upload: &Upload) -> Result<UploadStatus> {
        let mut parts = BTreeMap::new();
        let mut marker: Option<String> = None;
        // A page brings at least one new part, or the marker does not move: either ends it.
        for _ in 0..=PARTS_MAX {
            let mut call = about(Op::UploadStatus, Method::GET, upload);
            if let Some(marker) = &marker {
                call = call.query("part-number-marker", marker.clone());
            }
            let root = match self.client.send_for_document(&call).await {
                Ok((_, root)) => root,
                Err(error) if error.kind == ErrorKind::UploadGone => return Ok(UploadStatus::Gone),
                Err(error) => return Err(error),
            };
            let known = parts.len();
            for part in root.all("Part").filter_map(receipt) {
                parts.insert(part.number, part);
            }
            let is_truncated = root.text_of("IsTruncated").is_some_and(|text| text.trim() == "true");
            let next = root.text_of("NextPartNumberMarker").map(|text| text.trim().to_owned());
            match next {
                _ if !is_truncated => return Ok(UploadStatus::Parts(parts.into_values().collect())),
                Some(next) if parts.len() > known => marker = Some(next),
                Some(_) | None => {
                    return Err(call.error(ErrorKind::Protocol, "the list of parts does not end"));
                }
            }
        }
        Err(about(Op::UploadStatus, Method::GET, upload)
            .error(ErrorKind::Protocol, format!("more than {PARTS_MAX} parts are listed")))
    }

    pub(super) async fn upload_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        body: Bytes,
    ) -> Result<PartReceipt> {
        let len = body.len() as u64;
        let call = about(Op::PutPart, Method::PUT, upload).query("partNumber", slot.number.get().to_string());
        if len != slot.range.len() {
            let detail = format!("{len} bytes were given for the {} of this part", slot.range.len());
            return Err(call.error(ErrorKind::Refused, detail));
        }
        let crc64 = self.dialect.takes_crc64.then(|| Crc64::of(&body));
        let call = self.guarded(call, body, crc64).await;
        let answer = match self.client.attempt(&call).await {
            Ok(answer) => answer,
            Err(CallError::Failed(failure))
                if failure.stage == Stage::MaybeSent && self.is_gone(upload).await =>
            {
                return Err(call.error(ErrorKind::UploadGone, "the server does not know the upload any more"));
            }
            Err(error) => return Err(error.into_error(&call)),
        };
        let etag = headers::text(&answer.headers, http::header::ETAG)
            .ok_or_else(|| call.error(ErrorKind::Protocol, "the answer has no ETag"))?;
        Ok(PartReceipt { number: slot.number, len, etag: ETag::new(etag).to_string(), crc64 })
    }

    pub(super) async fn join_parts(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let honoured = match completion.precondition {
            Precondition::None => true,
            Precondition::Absent => self.dialect.complete_if_absent,
            Precondition::Matches(_) => self.dialect.complete_if_match,
        };
        let precondition = &completion.precondition;
        let conditions = self.conditions(Op::CompleteUpload, &upload.key, precondition, honoured).await?;
        let mut call = about(Op::CompleteUpload, Method::POST, upload)
            .headers(conditions)
            .header(http::header::CONTENT_TYPE, "application/xml")
            .header("x-amz-mp-object-size", &completion.size.to_string())
            .body(self.part_list(parts));
        if let Some(crc64) = completion.crc64.filter(|_| self.dialect.takes_crc64) {
            call = call
                .header(metadata::CRC64, &metadata::write_crc64(crc64))
                .header(CHECKSUM_TYPE, FULL_OBJECT);
        }
        let (headers, root) = self
            .client
            .send_for_document(&call)
            .await
            .map_err(|error| missing_is_changed(error, precondition))?;
        let etag = root.text_of("ETag").map(str::trim).filter(|etag| !etag.is_empty());
        match etag {
            Some(etag) if !self.dialect.etag_settles_late => Ok(self.described(ObjectMeta {
                id: ObjectId { key: upload.key.clone(), etag: ETag::new(etag), size: completion.size },
                modified: headers::date(&headers, http::header::DATE).unwrap_or_default(),
                attributes: Some(completion.attributes),
                token: completion.token,
                crc64: completion.crc64,
            })),
            Some(_) | None => self.joined(&upload.key, &completion).await,
        }
    }

    pub(super) async fn drop_upload(&self, upload: &Upload) -> Result<()> {
        match self.client.send(&about(Op::AbortUpload, Method::DELETE, upload)).await {
            Ok(_) => Ok(()),
            Err(error) if error.kind == ErrorKind::UploadGone => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The object just made, as a HEAD tells it.
    async fn joined(&self, key: &Key, completion: &Completion) -> Result<ObjectMeta> {
        let meta = self.changed(Op::CompleteUpload, key).await?;
        let is_ours = match &completion.token {
            Some(token) => meta.token.as_ref() == Some(token),
            None => meta.id.size == completion.size,
        };
        if is_ours {
            return Ok(meta);
        }
        let detail = "another object is there already";
        Err(Error::on(Op::CompleteUpload, key, ErrorKind::Ambiguous, detail))
    }

    /// Whether the server surely does not know an upload. Asked when the sending of a part broke off: a server that
    /// refuses before it has read the body hangs up, and its answer is lost (Garage).
    async fn is_gone(&self, upload: &Upload) -> bool {
        let call = about(Op::UploadStatus, Method::GET, upload).query("max-parts", "1");
        self.client.send(&call).await.is_err_and(|error| error.kind == ErrorKind::UploadGone)
    }

    fn part_list(&self, parts: &[PartReceipt]) -> Bytes {
        // Amazon takes the checksums of all parts or of none.
        let with_checksums = self.dialect.takes_crc64 && parts.iter().all(|part| part.crc64.is_some());
        let mut document = "<CompleteMultipartUpload>".to_owned();
        for part in parts {
            document.push_str("<Part>");
            push_text(&mut document, "PartNumber", &part.number.get().to_string());
            push_text(&mut document, "ETag", &format!("\"{}\"", part.etag));
            if let Some(crc64) = part.crc64.filter(|_| with_checksums) {
                push_text(&mut document, "ChecksumCRC64NVME", &metadata::write_crc64(crc64));
            }
            document.push_str("</Part>");
        }
        document.push_str("</CompleteMultipartUpload>");
        Bytes::from(document)
    }
}

/// A call about an upload.
pub(super) fn about(op: Op, method: Method, upload: &Upload) -> Call<'_> {
    Call::new(op, method, Some(&upload.key)).query("uploadId", upload.id.0.clone())
}

/// A part as listings and copies describe it; `None` when it makes no sense.
fn receipt(part: &Element) -> Option<PartReceipt> {
    let index = u32::try_from(part.number_of("PartNumber")?).ok()?.checked_sub(1)?;
    Some(PartReceipt {
        number: PartNumber::from_index(index),
        len: part.number_of("Size")?,
        etag: part.text_of("ETag").map(|etag| ETag::new(etag.trim()).to_string()).unwrap_or_default(),
        crc64: part.text_of("ChecksumCRC64NVME").and_then(metadata::read_crc64),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_with_what_the_server_tells() {
        let part = |text: &str| receipt(&Element::parse(format!("<Part>{text}</Part>").as_bytes()).unwrap());
        let full = part(
            "<PartNumber>3</PartNumber><ETag>&quot;e&quot;</ETag><Size>5</Size>\
             <ChecksumCRC64NVME>rosUhgp5mIg=</ChecksumCRC64NVME>",
        );
        let expected = PartReceipt {
            number: PartNumber::from_index(2),
            len: 5,
            etag: "e".to_owned(),
            crc64: Some(Crc64::of(b"123456789")),
        };
        assert_eq!(full, Some(expected));
        let bare = part("<PartNumber>1</PartNumber><Size>5</Size>").unwrap();
        assert_eq!((bare.etag.as_str(), bare.crc64), ("", None));
        assert_eq!(part("<PartNumber>0</PartNumber><Size>5</Size>"), None);
        assert_eq!(part("<PartNumber>1</PartNumber>"), None);
    }
}
