//! The S3 operations: from the wire's types to the disk's and back.

pub mod digests;
mod multipart;
mod reading;
mod writing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use http::HeaderMap;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, Bucket, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CopyObjectInput, CopyObjectOutput, CreateBucketInput, CreateBucketOutput,
    CreateMultipartUploadInput, CreateMultipartUploadOutput, DeleteBucketInput, DeleteBucketOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, ETag as WireETag,
    ETagCondition, GetBucketLocationInput, GetBucketLocationOutput, GetObjectInput, GetObjectOutput,
    HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListBucketsInput,
    ListBucketsOutput, ListMultipartUploadsInput, ListMultipartUploadsOutput, ListObjectsInput,
    ListObjectsOutput, ListObjectsV2Input, ListObjectsV2Output, ListPartsInput, ListPartsOutput, Metadata,
    PutObjectInput, PutObjectOutput, StorageClass, Timestamp, UploadPartCopyInput, UploadPartCopyOutput,
    UploadPartInput, UploadPartOutput,
};
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use crate::bucket::disk::{self, Condition, Refusal, Store};
use crate::bucket::quirks::Quirks;
use crate::types::{ETag, UnixTime};

/// Most bytes of user metadata, names and values, as on AWS.
const METADATA_BYTES_MAX: usize = 2048;

/// Put on a GET by a fault rule: it is taken for one without Range.
#[derive(Clone, Copy, Debug)]
pub struct IgnoresRange;

/// Answers S3 operations from a store.
pub struct Service {
    store: Arc<Store>,
    quirks: Quirks,
}

impl Service {
    /// A service over `store` with these deviations.
    pub fn new(store: Arc<Store>, quirks: Quirks) -> Service {
        Service { store, quirks }
    }

    fn bucket(&self, name: &str) -> S3Result<Arc<disk::Bucket>> {
        self.store.bucket(name).map_err(refuse)
    }
}

type Answered<T> = S3Result<S3Response<T>>;

#[async_trait]
impl S3 for Service {
    async fn list_buckets(&self, _: S3Request<ListBucketsInput>) -> Answered<ListBucketsOutput> {
        let bucket = |(name, created)| Bucket {
            name: Some(name),
            creation_date: Some(timestamp(created)),
            ..Default::default()
        };
        let buckets = self.store.names().into_iter().map(bucket).collect();
        answer(ListBucketsOutput { buckets: Some(buckets), ..Default::default() })
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> Answered<CreateBucketOutput> {
        let name = request.input.bucket;
        self.store.create(&name).map_err(refuse)?;
        answer(CreateBucketOutput { location: Some(format!("/{name}")) })
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Answered<HeadBucketOutput> {
        self.bucket(&request.input.bucket)?;
        answer(HeadBucketOutput::default())
    }

    async fn delete_bucket(&self, request: S3Request<DeleteBucketInput>) -> Answered<DeleteBucketOutput> {
        self.store.remove(&request.input.bucket).map_err(refuse)?;
        answer(DeleteBucketOutput::default())
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> Answered<GetBucketLocationOutput> {
        self.bucket(&request.input.bucket)?;
        answer(GetBucketLocationOutput::default())
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answered<GetObjectOutput> {
        let mut input = request.input;
        if request.extensions.get::<IgnoresRange>().is_some() {
            input.range = None;
        }
        self.get(input)
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answered<HeadObjectOutput> {
        self.head(request.input)
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Answered<ListObjectsV2Output> {
        self.list(request.input)
    }

    async fn list_objects(&self, request: S3Request<ListObjectsInput>) -> Answered<ListObjectsOutput> {
        self.list_v1(request.input)
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> Answered<PutObjectOutput> {
        self.put(request).await
    }

    async fn copy_object(&self, request: S3Request<CopyObjectInput>) -> Answered<CopyObjectOutput> {
        self.copy(request)
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Answered<DeleteObjectOutput> {
        self.delete(request.input)
    }

    async fn delete_objects(&self, request: S3Request<DeleteObjectsInput>) -> Answered<DeleteObjectsOutput> {
        self.delete_many(request.input)
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> Answered<CreateMultipartUploadOutput> {
        self.create_upload(request.input)
    }

    async fn upload_part(&self, request: S3Request<UploadPartInput>) -> Answered<UploadPartOutput> {
        self.put_part(request).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> Answered<UploadPartCopyOutput> {
        self.copy_part(request.input).await
    }

    async fn list_parts(&self, request: S3Request<ListPartsInput>) -> Answered<ListPartsOutput> {
        self.parts(request.input)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answered<ListMultipartUploadsOutput> {
        self.uploads(request.input)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answered<CompleteMultipartUploadOutput> {
        self.complete(request.input)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answered<AbortMultipartUploadOutput> {
        let input = request.input;
        self.bucket(&input.bucket)?.abort(&input.key, &input.upload_id).map_err(refuse)?;
        answer(AbortMultipartUploadOutput::default())
    }
}

fn answer<T>(output: T) -> Answered<T> {
    Ok(S3Response::new(output))
}

/// The one place where a refusal becomes an S3 error.
fn refuse(refusal: Refusal) -> S3Error {
    let code = match &refusal {
        Refusal::NoSuchBucket => S3ErrorCode::NoSuchBucket,
        Refusal::BucketExists => S3ErrorCode::BucketAlreadyOwnedByYou,
        Refusal::BucketNotEmpty => S3ErrorCode::BucketNotEmpty,
        Refusal::NoSuchKey => S3ErrorCode::NoSuchKey,
        Refusal::NoSuchUpload => S3ErrorCode::NoSuchUpload,
        Refusal::PreconditionFailed => S3ErrorCode::PreconditionFailed,
        Refusal::NotModified => S3ErrorCode::NotModified,
        Refusal::NoParts => S3ErrorCode::MalformedXML,
        Refusal::InvalidPart(_) => S3ErrorCode::InvalidPart,
        Refusal::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
        Refusal::PartTooSmall { .. } => S3ErrorCode::EntityTooSmall,
        Refusal::PartNumber => S3ErrorCode::InvalidArgument,
        Refusal::WrongSize { .. } => S3ErrorCode::InvalidRequest,
        Refusal::BadDigest => S3ErrorCode::BadDigest,
        Refusal::PartTaken => S3ErrorCode::NotImplemented,
        Refusal::Disk(_) => S3ErrorCode::InternalError,
    };
    if let Refusal::Disk(error) = &refusal {
        log::error!("The disk failed: {error}");
    }
    S3Error::with_message(code, refusal.to_string())
}

fn off(quirk: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, quirk)
}

fn timestamp(time: UnixTime) -> Timestamp {
    Timestamp::from(SystemTime::from(time))
}

fn unix_time(timestamp: Timestamp) -> UnixTime {
    let moment = time::OffsetDateTime::from(timestamp);
    UnixTime::from_secs(moment.unix_timestamp())
}

fn wire_etag(etag: &ETag) -> WireETag {
    WireETag::Strong(etag.as_str().to_owned())
}

/// The condition of a write from its If-Match and If-None-Match, as the quirks leave it.
fn write_condition(
    is: Option<ETagCondition>,
    is_not: Option<ETagCondition>,
    ignored: &Ignored,
) -> S3Result<Condition> {
    let is = is.filter(|_| !ignored.is);
    let is_not = is_not.filter(|_| !ignored.is_not);
    match (is, is_not) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Is(ETag::new(etag.value()))),
        (None, Some(_)) => Err(off("If-None-Match of a write can only be *.")),
        (Some(_), Some(_)) => Err(off("If-Match and If-None-Match exclude each other.")),
    }
}

/// Which conditions the quirks ignore.
struct Ignored {
    is: bool,
    is_not: bool,
}

/// A condition that s3s does not read for this operation.
fn condition_header(headers: &HeaderMap, name: http::HeaderName) -> S3Result<Option<ETagCondition>> {
    let parse = |value: &http::HeaderValue| {
        ETagCondition::parse_http_header(value.as_bytes())
            .map_err(|_| S3Error::with_message(S3ErrorCode::InvalidArgument, "The condition is no etag."))
    };
    headers.get(name).map(parse).transpose()
}

/// User metadata, of which S3 takes so much and no more.
fn metadata_from(metadata: Option<Metadata>) -> S3Result<BTreeMap<String, String>> {
    let metadata: BTreeMap<String, String> = metadata.unwrap_or_default().into_iter().collect();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
    if bytes > METADATA_BYTES_MAX {
        return Err(S3Error::new(S3ErrorCode::MetadataTooLarge));
    }
    Ok(metadata)
}

/// The storage class that is kept: STANDARD is what an object has anyway.
fn class_from(class: Option<StorageClass>) -> Option<String> {
    class.map(|class| class.as_str().to_owned()).filter(|class| class != StorageClass::STANDARD)
}
