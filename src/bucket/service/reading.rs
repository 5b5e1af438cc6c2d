//! Operations that change nothing: get, head and the listings of objects.

use http::{HeaderMap, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{
    ChecksumMode, ChecksumType, CommonPrefix, ETagCondition, EncodingType, GetObjectInput, GetObjectOutput,
    HeadObjectInput, HeadObjectOutput, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object as WireObject, ObjectStorageClass, Range, StorageClass, StreamingBlob,
    Timestamp,
};
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::bucket::disk::{Item, Object, Page, Query, ReadCondition};
use crate::bucket::service::digests::to_base64;
use crate::bucket::service::{Answered, Service, answer, off, refuse, timestamp, unix_time, wire_etag};
use crate::types::{ByteRange, ETag};

/// Entries on one page of a listing.
pub const PAGE_ITEMS_MAX: i32 = 1000;

/// What a listing with `encoding-type=url` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// The conditions of a GET or HEAD as they were sent.
struct Conditions {
    is: Option<ETagCondition>,
    is_not: Option<ETagCondition>,
    since: Option<Timestamp>,
    not_since: Option<Timestamp>,
}

/// What a GET or HEAD is answered with.
struct Found {
    object: std::sync::Arc<Object>,
    /// The bytes asked for; `None` for all of them.
    range: Option<ByteRange>,
    /// CRC64NVME, where it was asked for.
    crc64: Option<String>,
}

impl Service {
    pub(super) fn get(&self, input: GetObjectInput) -> Answered<GetObjectOutput> {
        if input.part_number.is_some() {
            return Err(off("Single parts of an object cannot be read."));
        }
        let conditions = Conditions {
            is: input.if_match,
            is_not: input.if_none_match,
            since: input.if_modified_since,
            not_since: input.if_unmodified_since,
        };
        let found = self.find((&input.bucket, &input.key), conditions, input.range, input.checksum_mode)?;
        let facts = &found.object.facts;
        let whole = ByteRange::new(0, found.object.content.len());
        let range = found.range.unwrap_or(whole);
        let about = facts.about.clone();
        answer(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            body: Some(StreamingBlob::new(found.object.content.reader(range))),
            checksum_type: found.crc64.as_ref().map(|_| full_object()),
            checksum_crc64nvme: found.crc64,
            content_length: Some(range.len() as i64),
            content_range: found.range.map(|range| content_range(range, whole.len())),
            e_tag: Some(wire_etag(&facts.etag)),
            last_modified: Some(timestamp(facts.modified)),
            cache_control: about.cache_control,
            content_disposition: about.content_disposition,
            content_encoding: about.content_encoding,
            content_language: about.content_language,
            content_type: about.content_type,
            storage_class: about.storage_class.map(StorageClass::from),
            metadata: Some(about.metadata.into_iter().collect()),
            ..Default::default()
        })
    }

    pub(super) fn head(&self, input: HeadObjectInput) -> Answered<HeadObjectOutput> {
        let conditions = Conditions {
            is: input.if_match,
            is_not: input.if_none_match,
            since: input.if_modified_since,
            not_since: input.if_unmodified_since,
        };
        let found = self.find((&input.bucket, &input.key), conditions, input.range, input.checksum_mode)?;
        let facts = &found.object.facts;
        let whole = ByteRange::new(0, found.object.content.len());
        let about = facts.about.clone();
        answer(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            checksum_type: found.crc64.as_ref().map(|_| full_object()),
            checksum_crc64nvme: found.crc64,
            content_length: Some(found.range.unwrap_or(whole).len() as i64),
            content_range: found.range.map(|range| content_range(range, whole.len())),
            e_tag: Some(wire_etag(&facts.etag)),
            last_modified: Some(timestamp(facts.modified)),
            cache_control: about.cache_control,
            content_disposition: about.content_disposition,
            content_encoding: about.content_encoding,
            content_language: about.content_language,
            content_type: about.content_type,
            storage_class: about.storage_class.map(StorageClass::from),
            metadata: Some(about.metadata.into_iter().collect()),
            ..Default::default()
        })
    }

    pub(super) fn list(&self, input: ListObjectsV2Input) -> Answered<ListObjectsV2Output> {
        let max_keys = input.max_keys.unwrap_or(PAGE_ITEMS_MAX).clamp(0, PAGE_ITEMS_MAX);
        let after = match &input.continuation_token {
            Some(token) => Some(item_of(token)?),
            None => input.start_after.clone().map(Item::Key),
        };
        let query = Query {
            prefix: input.prefix.clone().unwrap_or_default(),
            delimiter: input.delimiter.clone().unwrap_or_default(),
            after,
            limit: max_keys as usize,
        };
        let (page, objects) = self.bucket(&input.bucket)?.list(&query);
        let encode = |text: &str| self.encode(text, input.encoding_type.as_ref());
        let next = page.items.last().filter(|_| page.truncated).map(token_of);
        answer(ListObjectsV2Output {
            name: Some(input.bucket),
            key_count: Some(page.items.len() as i32),
            max_keys: Some(max_keys),
            is_truncated: Some(page.truncated),
            contents: Some(objects.iter().map(|object| listed(object, &encode)).collect()),
            common_prefixes: Some(prefixes(&page, &encode)),
            next_continuation_token: next,
            continuation_token: input.continuation_token,
            prefix: Some(encode(&query.prefix)),
            delimiter: input.delimiter.as_deref().map(encode),
            start_after: input.start_after.as_deref().map(encode),
            encoding_type: input.encoding_type.clone(),
            ..Default::default()
        })
    }

    pub(super) fn list_v1(&self, input: ListObjectsInput) -> Answered<ListObjectsOutput> {
        let max_keys = input.max_keys.unwrap_or(PAGE_ITEMS_MAX).clamp(0, PAGE_ITEMS_MAX);
        let delimiter = input.delimiter.clone().unwrap_or_default();
        // The marker of this older listing is a plain key or prefix; what ends like a prefix was one.
        let after = input.marker.clone().filter(|marker| !marker.is_empty()).map(|marker| {
            let is_prefix = !delimiter.is_empty() && marker.ends_with(&delimiter);
            if is_prefix { Item::Prefix(marker) } else { Item::Key(marker) }
        });
        let prefix = input.prefix.clone().unwrap_or_default();
        let query = Query { prefix, delimiter, after, limit: max_keys as usize };
        let (page, objects) = self.bucket(&input.bucket)?.list(&query);
        let encode = |text: &str| self.encode(text, input.encoding_type.as_ref());
        let next = page.items.last().filter(|_| page.truncated).map(|item| encode(item.text()));
        answer(ListObjectsOutput {
            name: Some(input.bucket),
            max_keys: Some(max_keys),
            is_truncated: Some(page.truncated),
            contents: Some(objects.iter().map(|object| listed(object, &encode)).collect()),
            common_prefixes: Some(prefixes(&page, &encode)),
            next_marker: next,
            marker: Some(encode(&input.marker.unwrap_or_default())),
            prefix: Some(encode(&query.prefix)),
            delimiter: input.delimiter.as_deref().map(encode),
            encoding_type: input.encoding_type.clone(),
            ..Default::default()
        })
    }

    /// A key as a listing writes it.
    pub(super) fn encode(&self, text: &str, encoding: Option<&EncodingType>) -> String {
        if encoding.is_none_or(|encoding| encoding.as_str() != EncodingType::URL) {
            return text.to_owned();
        }
        let encoded = utf8_percent_encode(text, PLAIN).to_string();
        if self.quirks.lists_space_as_plus { encoded.replace("%20", "+") } else { encoded }
    }

    fn find(
        &self,
        (bucket, key): (&str, &str),
        conditions: Conditions,
        range: Option<Range>,
        checksum: Option<ChecksumMode>,
    ) -> S3Result<Found> {
        let object = self.bucket(bucket)?.object(key).map_err(refuse)?;
        let etag_of = |condition: ETagCondition| condition.into_etag().map(|etag| ETag::new(etag.value()));
        let condition = ReadCondition {
            is: conditions.is.filter(|_| !self.quirks.ignores_get_if_match).map(etag_of),
            is_not: conditions.is_not.map(etag_of),
            since: conditions.since.map(unix_time),
            not_since: conditions.not_since.map(unix_time),
        };
        condition.check(&object.facts.etag, object.facts.modified).map_err(refuse)?;
        let size = object.content.len();
        let range = range.map(|range| resolve(range, size)).transpose()?;
        let wants_crc64 = checksum.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED);
        let tells_crc64 = wants_crc64 && range.is_none() && !self.quirks.knows_no_crc64nvme;
        let crc64 = tells_crc64.then(|| to_base64(object.content.crc64()));
        Ok(Found { object, range, crc64 })
    }
}

/// The bytes a Range header means; 416 with the size when there are none, and always for an empty object.
fn resolve(range: Range, size: u64) -> S3Result<ByteRange> {
    match range.check(size) {
        Ok(found) if found.start < found.end => Ok(ByteRange::new(found.start, found.end)),
        Ok(_) | Err(_) => {
            let mut error = S3Error::with_message(S3ErrorCode::InvalidRange, "The range is not satisfiable.");
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
                headers.insert(header::CONTENT_RANGE, value);
            }
            error.set_headers(headers);
            Err(error)
        }
    }
}

fn content_range(range: ByteRange, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

pub(super) fn full_object() -> ChecksumType {
    ChecksumType::from_static(ChecksumType::FULL_OBJECT)
}

fn listed(object: &std::sync::Arc<Object>, encode: &impl Fn(&str) -> String) -> WireObject {
    WireObject {
        key: Some(encode(&object.facts.key)),
        e_tag: Some(wire_etag(&object.facts.etag)),
        last_modified: Some(timestamp(object.facts.modified)),
        size: Some(object.content.len() as i64),
        storage_class: Some(match &object.facts.about.storage_class {
            Some(class) => ObjectStorageClass::from(class.clone()),
            None => ObjectStorageClass::from_static(ObjectStorageClass::STANDARD),
        }),
        ..Default::default()
    }
}

fn prefixes(page: &Page, encode: &impl Fn(&str) -> String) -> Vec<CommonPrefix> {
    let prefix = |item: &Item| match item {
        Item::Key(_) => None,
        Item::Prefix(prefix) => Some(CommonPrefix { prefix: Some(encode(prefix)) }),
    };
    page.items.iter().filter_map(prefix).collect()
}

/// Continuation tokens are the hex of the last entry, with a letter for its kind: opaque, and safe in any query.
fn token_of(item: &Item) -> String {
    let kind = match item {
        Item::Key(_) => 'k',
        Item::Prefix(_) => 'p',
    };
    item.text().bytes().fold(String::from(kind), |token, byte| token + &format!("{byte:02x}"))
}

fn item_of(token: &str) -> S3Result<Item> {
    let wrong =
        || S3Error::with_message(S3ErrorCode::InvalidArgument, "The continuation token is not one of ours.");
    let (kind, hex) = token.split_at_checked(1).filter(|_| token.is_ascii()).ok_or_else(wrong)?;
    let pairs = hex.as_bytes().chunks(2);
    let bytes =
        pairs.map(|pair| str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok()));
    let text = String::from_utf8(bytes.collect::<Option<_>>().ok_or_else(wrong)?).map_err(|_| wrong())?;
    match kind {
        "k" => Ok(Item::Key(text)),
        "p" => Ok(Item::Prefix(text)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_lead_back() {
        for item in
            [Item::Key("a/\u{e9}".to_owned()), Item::Prefix("a/".to_owned()), Item::Key(String::new())]
        {
            assert_eq!(item_of(&token_of(&item)).unwrap(), item);
        }
        for wrong in ["", "x61", "k6", "kzz", "k\u{e9}", "kff"] {
            assert!(wrong == "k6" || item_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ranges_resolve_or_are_refused() {
        let resolved = |text: &str, size| resolve(Range::parse(text).unwrap(), size).ok();
        assert_eq!(resolved("bytes=0-4", 10), Some(ByteRange::new(0, 5)));
        assert_eq!(resolved("bytes=8-100", 10), Some(ByteRange::new(8, 10)));
        assert_eq!(resolved("bytes=-3", 10), Some(ByteRange::new(7, 10)));
        assert_eq!(resolved("bytes=10-", 10), None);
        assert_eq!(resolved("bytes=0-", 0), None);
        assert_eq!(resolved("bytes=-1", 0), None);
    }
}
