//! Operations on whole objects that change something: put, copy, delete.

use std::pin::pin;
use std::time::SystemTime;

use futures_util::StreamExt;
use http::{HeaderMap, header};
use s3s::dto::{
    CopyObjectInput, CopyObjectOutput, CopyObjectResult, CopySource, DeleteObjectInput, DeleteObjectOutput,
    DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, ETagCondition, Error as WireError,
    MetadataDirective, PutObjectInput, PutObjectOutput, StreamingBlob, Timestamp,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, StdError, TrailingHeaders};

use crate::bucket::disk::{About, Bucket, Condition, Content, Object, ObjectFacts, ReadCondition};
use crate::bucket::service::digests::{Digests, to_base64};
use crate::bucket::service::reading::full_object;
use crate::bucket::service::{
    Answered, Ignored, Service, answer, class_from, condition_header, metadata_from, off, refuse, timestamp,
    unix_time, wire_etag, write_condition,
};
use crate::types::{ETag, UnixTime};

/// Largest body of one request, as on AWS.
const BODY_BYTES_MAX: u64 = 5 << 30;

/// A body that is on disk and is what its checksums say.
pub struct Received {
    /// Its bytes.
    pub content: Content,
    /// Their etag.
    pub etag: ETag,
}

/// A request's body and what is claimed of it.
pub struct Arriving {
    /// The bytes.
    pub body: Option<StreamingBlob>,
    /// The request's headers.
    pub headers: HeaderMap,
    /// Headers that follow the body.
    pub trailers: Option<TrailingHeaders>,
}

/// The source of a copy and what is asked of it.
pub struct CopyFrom {
    /// Bucket and key.
    pub source: CopySource,
    /// x-amz-copy-source-if-match.
    pub is: Option<ETagCondition>,
    /// x-amz-copy-source-if-none-match.
    pub is_not: Option<ETagCondition>,
    /// x-amz-copy-source-if-modified-since.
    pub since: Option<Timestamp>,
    /// x-amz-copy-source-if-unmodified-since.
    pub not_since: Option<Timestamp>,
}

impl Service {
    pub(super) async fn put(&self, request: S3Request<PutObjectInput>) -> Answered<PutObjectOutput> {
        let input = request.input;
        if input.write_offset_bytes.is_some() {
            return Err(off("Appending is not supported."));
        }
        let bucket = self.bucket(&input.bucket)?;
        let condition = write_condition(input.if_match, input.if_none_match, &self.ignored_at_put())?;
        let arriving =
            Arriving { body: input.body, headers: request.headers, trailers: request.trailing_headers };
        let received = self.receive(&bucket, &input.key, arriving).await?;
        let about = About {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_language: input.content_language,
            content_disposition: input.content_disposition,
            cache_control: input.cache_control,
            storage_class: class_from(input.storage_class),
            metadata: metadata_from(input.metadata)?,
        };
        let facts = facts(input.key, received.etag, about);
        let object = bucket.put(Object { facts, content: received.content }, &condition).map_err(refuse)?;
        let crc64 = (!self.quirks.knows_no_crc64nvme).then(|| to_base64(object.content.crc64()));
        answer(PutObjectOutput {
            e_tag: Some(wire_etag(&object.facts.etag)),
            checksum_type: crc64.as_ref().map(|_| full_object()),
            checksum_crc64nvme: crc64,
            ..Default::default()
        })
    }

    pub(super) fn copy(&self, request: S3Request<CopyObjectInput>) -> Answered<CopyObjectOutput> {
        // These two are newer than the model s3s was made from.
        let is = condition_header(&request.headers, header::IF_MATCH)?;
        let is_not = condition_header(&request.headers, header::IF_NONE_MATCH)?;
        let condition = write_condition(is, is_not, &self.ignored_at_put())?;
        let input = request.input;
        let bucket = self.bucket(&input.bucket)?;
        let replaces =
            input.metadata_directive.as_ref().is_some_and(|word| word.as_str() == MetadataDirective::REPLACE);
        if !replaces && is_same(&input.copy_source, &input.bucket, &input.key) {
            let why = "Copying an object onto itself needs x-amz-metadata-directive: REPLACE.";
            return Err(S3Error::with_message(S3ErrorCode::InvalidRequest, why));
        }
        let source = self.source(CopyFrom {
            source: input.copy_source,
            is: input.copy_source_if_match,
            is_not: input.copy_source_if_none_match,
            since: input.copy_source_if_modified_since,
            not_since: input.copy_source_if_unmodified_since,
        })?;
        let about = if replaces {
            About {
                content_type: input.content_type,
                content_encoding: input.content_encoding,
                content_language: input.content_language,
                content_disposition: input.content_disposition,
                cache_control: input.cache_control,
                storage_class: class_from(input.storage_class),
                metadata: metadata_from(input.metadata)?,
            }
        } else {
            // The class is no metadata: what does not name one gets STANDARD.
            About { storage_class: class_from(input.storage_class), ..source.facts.about.clone() }
        };
        let facts = facts(input.key, source.facts.etag.clone(), about);
        let object = Object { facts, content: source.content.clone() };
        let object = bucket.put(object, &condition).map_err(refuse)?;
        let crc64 = (!self.quirks.knows_no_crc64nvme).then(|| to_base64(object.content.crc64()));
        let result = CopyObjectResult {
            e_tag: Some(wire_etag(&object.facts.etag)),
            last_modified: Some(timestamp(object.facts.modified)),
            checksum_type: crc64.as_ref().map(|_| full_object()),
            checksum_crc64nvme: crc64,
            ..Default::default()
        };
        answer(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    pub(super) fn delete(&self, input: DeleteObjectInput) -> Answered<DeleteObjectOutput> {
        let ignored = Ignored { is: self.quirks.ignores_delete_if_match, is_not: false };
        let condition = write_condition(input.if_match, None, &ignored)?;
        self.bucket(&input.bucket)?.delete(&input.key, &condition).map_err(refuse)?;
        answer(DeleteObjectOutput::default())
    }

    pub(super) fn delete_many(&self, input: DeleteObjectsInput) -> Answered<DeleteObjectsOutput> {
        let bucket = self.bucket(&input.bucket)?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for object in input.delete.objects {
            let condition = match object.e_tag {
                Some(etag) if !self.quirks.ignores_delete_if_match => Condition::Is(ETag::new(etag.value())),
                Some(_) | None => Condition::None,
            };
            match bucket.delete(&object.key, &condition).map_err(refuse) {
                Ok(()) => deleted.push(DeletedObject { key: Some(object.key), ..Default::default() }),
                Err(error) => errors.push(WireError {
                    code: Some(error.code().as_str().to_owned()),
                    message: error.message().map(str::to_owned),
                    key: Some(object.key),
                    ..Default::default()
                }),
            }
        }
        let quiet = input.delete.quiet.unwrap_or(false);
        let deleted = (!quiet).then_some(deleted);
        answer(DeleteObjectsOutput { deleted, errors: Some(errors), ..Default::default() })
    }

    /// Writes a body to disk, hashing it on the way. On any error nothing of it stays.
    pub(super) async fn receive(&self, bucket: &Bucket, key: &str, arriving: Arriving) -> S3Result<Received> {
        let mut digests = Digests::wanted(&arriving.headers, &self.quirks);
        let mut writer = None;
        let mut len = 0;
        if let Some(body) = arriving.body {
            let mut body = pin!(body);
            while let Some(bytes) = body.next().await {
                let bytes = bytes.map_err(broken_off)?;
                len += bytes.len() as u64;
                if len > BODY_BYTES_MAX {
                    return Err(S3Error::new(S3ErrorCode::EntityTooLarge));
                }
                digests.update(&bytes);
                let writer = match &mut writer {
                    Some(writer) => writer,
                    none @ None => none.insert(bucket.writer(key).map_err(|error| refuse(error.into()))?),
                };
                writer.write(&bytes).map_err(|error| refuse(error.into()))?;
            }
        }
        let trailers = arriving.trailers.and_then(|trailers| trailers.take()).unwrap_or_default();
        let (crc64, etag) = (digests.crc64(), digests.etag());
        digests.check(&arriving.headers, &trailers, &self.quirks).map_err(refuse)?;
        Ok(Received { content: writer.map_or_else(Content::default, |writer| writer.finish(crc64)), etag })
    }

    /// The object a copy is made from.
    pub(super) fn source(&self, from: CopyFrom) -> S3Result<std::sync::Arc<Object>> {
        let CopySource::Bucket { bucket, key, version_id: None } = &from.source else {
            return Err(off("Only a bucket and a key can be copied from."));
        };
        let object = self.bucket(bucket)?.object(key).map_err(refuse)?;
        let etag_of = |condition: ETagCondition| condition.into_etag().map(|etag| ETag::new(etag.value()));
        let condition = ReadCondition {
            is: from.is.filter(|_| !self.quirks.ignores_copy_source_if_match).map(etag_of),
            is_not: from.is_not.map(etag_of),
            since: from.since.map(unix_time),
            not_since: from.not_since.map(unix_time),
        };
        // A copy is never "not modified": every condition that fails is a failed precondition.
        let checked = condition.check(&object.facts.etag, object.facts.modified);
        checked.map_err(|_| S3Error::new(S3ErrorCode::PreconditionFailed))?;
        Ok(object)
    }

    fn ignored_at_put(&self) -> Ignored {
        Ignored { is: self.quirks.ignores_put_if_match, is_not: self.quirks.ignores_put_if_none_match }
    }
}

fn facts(key: String, etag: ETag, about: About) -> ObjectFacts {
    ObjectFacts { key, etag, modified: UnixTime::from(SystemTime::now()), about, upload: None }
}

fn is_same(source: &CopySource, target_bucket: &str, target_key: &str) -> bool {
    match source {
        CopySource::Bucket { bucket, key, .. } => **bucket == *target_bucket && **key == *target_key,
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => false,
    }
}

/// A body that ended early or is not what its signed SHA-256 says.
fn broken_off(error: StdError) -> S3Error {
    // The stream's error type is private to s3s; its text is all there is to tell the cases apart.
    if error.to_string().contains("Sha256Mismatch") {
        S3Error::with_message(S3ErrorCode::BadDigest, "The body's SHA-256 differs from x-amz-content-sha256.")
    } else {
        S3Error::with_source(S3ErrorCode::IncompleteBody, error)
    }
}
