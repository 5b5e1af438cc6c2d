//! Operations on uploads: create, parts, copied parts, lists, complete.

use std::time::SystemTime;

use s3s::dto::{
    ChecksumAlgorithm, CommonPrefix, CompleteMultipartUploadInput, CompleteMultipartUploadOutput,
    CompletedPart, CopyPartResult, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    ListMultipartUploadsInput, ListMultipartUploadsOutput, ListPartsInput, ListPartsOutput, MultipartUpload,
    Part as WirePart, Range, StorageClass, UploadPartCopyInput, UploadPartCopyOutput, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result};

use crate::bucket::disk::{About, Content, Made, Part, Refusal, Upload, UploadQuery};
use crate::bucket::quirks::Quirks;
use crate::bucket::service::digests::{copied_etag, multipart_etag, to_base64};
use crate::bucket::service::reading::{PAGE_ITEMS_MAX, full_object};
use crate::bucket::service::writing::{Arriving, CopyFrom};
use crate::bucket::service::{
    Answered, Ignored, Service, answer, class_from, metadata_from, off, refuse, timestamp, wire_etag,
    write_condition,
};
use crate::observe::task;
use crate::types::{ByteRange, ETag, UnixTime};

/// Highest part number.
const PART_NUMBER_MAX: i32 = 10_000;

/// What a client asks to be made of an upload.
struct Completion<'a> {
    parts: &'a [CompletedPart],
    size: Option<u64>,
    crc64: Option<&'a str>,
}

impl Service {
    pub(super) fn create_upload(
        &self,
        input: CreateMultipartUploadInput,
    ) -> Answered<CreateMultipartUploadOutput> {
        let about = About {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            content_disposition: input.content_disposition,
            cache_control: input.cache_control,
            storage_class: class_from(input.storage_class),
            metadata: metadata_from(input.metadata)?,
        };
        let id = self.bucket(&input.bucket)?.create_upload(&input.key, about).map_err(refuse)?;
        answer(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: self.told_algorithm(),
            checksum_type: self.told_algorithm().map(|_| full_object()),
            ..Default::default()
        })
    }

    pub(super) async fn put_part(&self, request: S3Request<UploadPartInput>) -> Answered<UploadPartOutput> {
        let input = request.input;
        let bucket = self.bucket(&input.bucket)?;
        bucket.check_upload(&input.key, &input.upload_id).map_err(refuse)?;
        let number = part_number(input.part_number)?;
        self.check_new_part(&input.bucket, &input.key, &input.upload_id, number)?;
        let arriving =
            Arriving { body: input.body, headers: request.headers, trailers: request.trailing_headers };
        let received = self.receive(&bucket, &input.key, arriving).await?;
        let crc64 = self.told_crc64(&received.content);
        let e_tag = Some(wire_etag(&received.etag));
        let modified = UnixTime::from(SystemTime::now());
        let part = Part { number, etag: received.etag, modified, content: received.content };
        bucket.put_part(&input.key, &input.upload_id, part).map_err(refuse)?;
        answer(UploadPartOutput { e_tag, checksum_crc64nvme: crc64, ..Default::default() })
    }

    pub(super) async fn copy_part(&self, input: UploadPartCopyInput) -> Answered<UploadPartCopyOutput> {
        if self.quirks.copies_no_parts {
            return Err(off("This server copies no parts (a quirk that is switched on)."));
        }
        let bucket = self.bucket(&input.bucket)?;
        bucket.check_upload(&input.key, &input.upload_id).map_err(refuse)?;
        let number = part_number(input.part_number)?;
        self.check_new_part(&input.bucket, &input.key, &input.upload_id, number)?;
        let source = self.source(CopyFrom {
            source: input.copy_source,
            is: input.copy_source_if_match,
            is_not: input.copy_source_if_none_match,
            since: input.copy_source_if_modified_since,
            not_since: input.copy_source_if_unmodified_since,
        })?;
        let size = source.content.len();
        let range = match &input.copy_source_range {
            Some(text) => self.copied_range(text, size)?,
            None => ByteRange::new(0, size),
        };
        let etag = copied_etag(&source.facts.etag, &range);
        // Reads what is cut for its checksum, which takes a while for large parts.
        let cut = task::spawn_blocking("bucket-cut", move || source.content.cut(range)).await;
        let content = match cut {
            Ok(content) => content.map_err(|error| refuse(error.into()))?,
            Err(_) => return Err(S3Error::new(S3ErrorCode::InternalError)),
        };
        let crc64 = self.told_crc64(&content);
        let modified = UnixTime::from(SystemTime::now());
        let part = Part { number, etag: etag.clone(), modified, content };
        bucket.put_part(&input.key, &input.upload_id, part).map_err(refuse)?;
        let result = CopyPartResult {
            e_tag: Some(wire_etag(&etag)),
            last_modified: Some(timestamp(modified)),
            checksum_crc64nvme: crc64,
            ..Default::default()
        };
        answer(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    pub(super) fn parts(&self, input: ListPartsInput) -> Answered<ListPartsOutput> {
        let parts = self.bucket(&input.bucket)?.parts(&input.key, &input.upload_id).map_err(refuse)?;
        let marker = input.part_number_marker.unwrap_or(0);
        let max_parts = input.max_parts.unwrap_or(PAGE_ITEMS_MAX).clamp(0, PAGE_ITEMS_MAX);
        let mut behind = parts.iter().filter(|part| i64::from(part.number) > i64::from(marker));
        let page: Vec<_> = behind.by_ref().take(max_parts as usize).map(|part| self.listed(part)).collect();
        let last = page.last().and_then(|part| part.part_number);
        answer(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            part_number_marker: Some(marker),
            next_part_number_marker: last,
            max_parts: Some(max_parts),
            is_truncated: Some(behind.next().is_some()),
            checksum_algorithm: self.told_algorithm(),
            checksum_type: self.told_algorithm().map(|_| full_object()),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            parts: Some(page),
            ..Default::default()
        })
    }

    pub(super) fn uploads(&self, input: ListMultipartUploadsInput) -> Answered<ListMultipartUploadsOutput> {
        if self.quirks.lists_no_uploads {
            return Err(off("This server lists no uploads (a quirk that is switched on)."));
        }
        let max_uploads = input.max_uploads.unwrap_or(PAGE_ITEMS_MAX).clamp(1, PAGE_ITEMS_MAX);
        let query = UploadQuery {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after_key: input.key_marker.clone().unwrap_or_default(),
            after_id: input.upload_id_marker.clone().unwrap_or_default(),
            limit: max_uploads as usize,
        };
        let page = self.bucket(&input.bucket)?.uploads(&query);
        let encode = |text: &str| self.encode(text, input.encoding_type.as_ref());
        let upload = |record: &crate::bucket::disk::UploadRecord| MultipartUpload {
            key: Some(encode(&record.key)),
            upload_id: Some(record.id.clone()),
            initiated: Some(timestamp(record.initiated)),
            storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
            ..Default::default()
        };
        let prefix = |prefix: &String| CommonPrefix { prefix: Some(encode(prefix)) };
        answer(ListMultipartUploadsOutput {
            bucket: Some(input.bucket),
            uploads: Some(page.uploads.iter().map(upload).collect()),
            common_prefixes: Some(page.prefixes.iter().map(prefix).collect()),
            is_truncated: Some(page.next.is_some()),
            next_key_marker: page.next.as_ref().map(|(key, _)| encode(key)),
            next_upload_id_marker: page.next.map(|(_, id)| id),
            max_uploads: Some(max_uploads),
            prefix: Some(encode(&query.prefix)),
            delimiter: input.delimiter.as_deref().map(encode),
            key_marker: Some(encode(&query.after_key)),
            upload_id_marker: Some(query.after_id),
            encoding_type: input.encoding_type.clone(),
            ..Default::default()
        })
    }

    pub(super) fn complete(
        &self,
        input: CompleteMultipartUploadInput,
    ) -> Answered<CompleteMultipartUploadOutput> {
        let bucket = self.bucket(&input.bucket)?;
        let ignores = self.quirks.ignores_complete_conditions;
        let ignored = Ignored { is: ignores, is_not: ignores };
        let condition = write_condition(input.if_match, input.if_none_match, &ignored)?;
        let list = input.multipart_upload.and_then(|list| list.parts).unwrap_or_default();
        let completion = Completion {
            parts: &list,
            size: input.mpu_object_size.map(|size| size.max(0) as u64),
            crc64: input.checksum_crc64nvme.as_deref().filter(|_| !self.quirks.knows_no_crc64nvme),
        };
        let mut told_etag = None;
        let object = bucket
            .complete(&input.key, &input.upload_id, &condition, |upload| {
                let mut made = assemble(upload, &completion, &self.quirks)?;
                told_etag = Some(made.etag.clone());
                if self.quirks.changes_etag_after_complete {
                    let bare = made.etag.as_str().split('-').next().unwrap_or_default();
                    made.etag = ETag::new(bare);
                }
                Ok(made)
            })
            .map_err(refuse)?;
        let crc64 = self.told_crc64(&object.content);
        answer(CompleteMultipartUploadOutput {
            location: Some(format!("/{}/{}", input.bucket, input.key)),
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: told_etag.as_ref().map(wire_etag),
            checksum_type: crc64.as_ref().map(|_| full_object()),
            checksum_crc64nvme: crc64,
            ..Default::default()
        })
    }

    fn listed(&self, part: &Part) -> WirePart {
        WirePart {
            part_number: i32::try_from(part.number).ok(),
            e_tag: (!self.quirks.lists_parts_without_etags).then(|| wire_etag(&part.etag)),
            size: Some(part.content.len() as i64),
            last_modified: Some(timestamp(part.modified)),
            checksum_crc64nvme: self.told_crc64(&part.content),
            ..Default::default()
        }
    }

    /// The bytes of a source that a part copy names; S3 cuts only sources that could be uploaded in parts.
    fn copied_range(&self, text: &str, size: u64) -> S3Result<ByteRange> {
        let invalid = |why: String| S3Error::with_message(S3ErrorCode::InvalidArgument, why);
        let Ok(Range::Int { first, last: Some(last) }) = Range::parse(text) else {
            return Err(invalid("x-amz-copy-source-range has the form bytes=first-last.".to_owned()));
        };
        if last >= size {
            return Err(invalid(format!("The range does not fit the source, which has {size} bytes.")));
        }
        if size <= self.quirks.part_bytes_min {
            let why = "A source this small can only be copied as a whole.";
            return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, why));
        }
        Ok(ByteRange::new(first, last + 1))
    }

    fn check_new_part(&self, bucket: &str, key: &str, id: &str, number: u32) -> S3Result<()> {
        if !self.quirks.takes_a_part_once {
            return Ok(());
        }
        let parts = self.bucket(bucket)?.parts(key, id).map_err(refuse)?;
        let taken = parts.iter().any(|part| part.number == number);
        if taken { Err(refuse(Refusal::PartTaken)) } else { Ok(()) }
    }

    fn told_crc64(&self, content: &Content) -> Option<String> {
        (!self.quirks.knows_no_crc64nvme).then(|| to_base64(content.crc64()))
    }

    fn told_algorithm(&self) -> Option<ChecksumAlgorithm> {
        (!self.quirks.knows_no_crc64nvme)
            .then(|| ChecksumAlgorithm::from_static(ChecksumAlgorithm::CRC64NVME))
    }
}

fn part_number(number: i32) -> S3Result<u32> {
    if (1..=PART_NUMBER_MAX).contains(&number) {
        Ok(number.unsigned_abs())
    } else {
        Err(refuse(Refusal::PartNumber))
    }
}

/// The object that a completion makes of an upload, or why it makes none.
fn assemble(upload: &Upload, completion: &Completion<'_>, quirks: &Quirks) -> Result<Made, Refusal> {
    let mut parts: Vec<&Part> = Vec::new();
    for named in completion.parts {
        let number = named.part_number.map_or(0, i32::unsigned_abs);
        if parts.last().is_some_and(|before| before.number >= number) {
            return Err(Refusal::InvalidPartOrder);
        }
        let part = upload.parts.get(&number).ok_or(Refusal::InvalidPart(number))?;
        let same_etag = named.e_tag.as_ref().is_some_and(|etag| etag.value() == part.etag.as_str());
        let crc64 = named.checksum_crc64nvme.as_ref().filter(|_| !quirks.knows_no_crc64nvme);
        let same_crc64 = crc64.is_none_or(|claimed| *claimed == to_base64(part.content.crc64()));
        if !(same_etag || quirks.accepts_wrong_part_etags) || !same_crc64 {
            return Err(Refusal::InvalidPart(number));
        }
        parts.push(part);
    }
    let Some((_, all_but_last)) = parts.split_last() else { return Err(Refusal::NoParts) };
    if let Some(small) = all_but_last.iter().find(|part| part.content.len() < quirks.part_bytes_min) {
        return Err(Refusal::PartTooSmall { number: small.number, bytes: small.content.len() });
    }
    let content = Content::joined(parts.iter().map(|part| &part.content));
    if let Some(expected) = completion.size.filter(|expected| *expected != content.len()) {
        return Err(Refusal::WrongSize { expected, found: content.len() });
    }
    if completion.crc64.is_some_and(|claimed| *claimed != to_base64(content.crc64())) {
        return Err(Refusal::BadDigest);
    }
    Ok(Made { etag: multipart_etag(parts.iter().map(|part| &part.etag)), content })
}
