//! Whole objects: looked at, read, stored, removed.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method};
use md5::{Digest, Md5};

use crate::observe::task;
use crate::store::http::headers;
use crate::store::http::range::{Asked, Told, exactly, judge};
use crate::store::http::refusal::Refusal;
use crate::store::http::xml::{can_carry, push_text};
use crate::store::s3::S3Store;
use crate::store::s3::client::{Call, CallError, body_error};
use crate::store::s3::dialect::{OBJECT_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::store::s3::metadata;
use crate::store::{
    DeleteOptions, Error, ErrorKind, Fetched, GetOptions, ListOptions, Op, Precondition, PutOptions, Result,
};
use crate::types::{Crc64, ETag, Key, ObjectId, ObjectMeta};

/// Most keys of one DeleteObjects request.
const DELETE_KEYS_MAX: usize = 1000;

const CONTENT_MD5: &str = "content-md5";
/// Most bytes whose MD5 is taken without leaving the task: a tenth of a millisecond.
const INLINE_MD5_BYTES: usize = 64 << 10;

impl S3Store {
    pub(super) async fn head_object(&self, key: &Key) -> Result<ObjectMeta> {
        if self.client.address.is_beyond_urls(key) {
            return Box::pin(self.head_by_listing(key)).await;
        }
        let call = Call::new(Op::Head, Method::HEAD, Some(key)).header("x-amz-checksum-mode", "ENABLED");
        let answer = self.client.send(&call).await?;
        let broken = |what: &str| call.error(ErrorKind::Protocol, format!("the answer has no {what}"));
        let etag = headers::text(&answer.headers, http::header::ETAG).ok_or_else(|| broken("ETag"))?;
        let size = headers::number(&answer.headers, http::header::CONTENT_LENGTH)
            .ok_or_else(|| broken("Content-Length"))?;
        Ok(self.described(metadata::object(key, ETag::new(etag), size, &answer.headers)))
    }

    /// What a listing tells of an object that no URL can name. It does not tell metadata.
    async fn head_by_listing(&self, key: &Key) -> Result<ObjectMeta> {
        let options = ListOptions { prefix: key.to_string(), entries_max: Some(1), ..ListOptions::default() };
        let page = self.list_objects(options).await?;
        let found = page.objects.into_iter().find(|object| object.id.key == *key);
        found.ok_or_else(|| Error::on(Op::Head, key, ErrorKind::NotFound, "it is in no listing"))
    }

    pub(super) async fn get_object(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        let mut call = Call::new(Op::Get, Method::GET, Some(key)).header("x-amz-checksum-mode", "ENABLED");
        if let Some(range) = options.range {
            if range.is_empty() {
                return Err(call.error(ErrorKind::Refused, "an empty range was asked for"));
            }
            // Servers that count in signed numbers fail on an end far beyond any object's.
            let last = if range.end > OBJECT_BYTES_MAX { String::new() } else { (range.end - 1).to_string() };
            call = call.header(http::header::RANGE, &format!("bytes={}-{last}", range.start));
        }
        // A weak validator never matches, by RFC 9110; the comparison of the answer's etag has to do.
        if let Some(etag) = options.if_match.as_ref().filter(|etag| !etag.is_weak()) {
            call = call.header(http::header::IF_MATCH, &quoted(etag));
        }
        let answer = self.client.send(&call).await?;
        let asked = Asked { range: options.range, etag: options.if_match };
        let told = Told {
            status: answer.status.as_u16(),
            content_range: headers::text(&answer.headers, http::header::CONTENT_RANGE),
            content_length: headers::number(&answer.headers, http::header::CONTENT_LENGTH),
            etag: headers::text(&answer.headers, http::header::ETAG),
        };
        let accepted = judge(&asked, told).map_err(|rejected| call.error(rejected.kind, rejected.detail))?;
        let meta = match accepted.size {
            Some(size) => self.described(metadata::object(key, accepted.etag, size, &answer.headers)),
            None => self.same_version(key, accepted.etag).await?,
        };
        let wanted_end = options.range.map_or(meta.id.size, |range| range.end.min(meta.id.size));
        let range = crate::types::ByteRange::new(accepted.range.start, wanted_end);
        let owner = key.clone();
        let body = exactly(answer.into_pieces(), range.len())
            .map(move |piece| piece.map_err(|failure| body_error(Op::Get, &owner, failure)))
            .boxed();
        Ok(Fetched { meta, range, body })
    }

    pub(super) async fn put_object(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        let size = body.len() as u64;
        if size > REQUEST_BYTES_MAX {
            let detail = format!("{size} bytes are more than one PUT takes");
            return Err(Error::on(Op::Put, key, ErrorKind::TooLarge, detail));
        }
        let honoured = match options.precondition {
            Precondition::None => true,
            Precondition::Absent => self.dialect.put_if_absent,
            Precondition::Matches(_) => self.dialect.put_if_match,
        };
        let mut headers = self.conditions(Op::Put, key, &options.precondition, honoured).await?;
        metadata::write(key, &options.attributes, options.token.as_ref(), &mut headers);
        let call = Call::new(Op::Put, Method::PUT, Some(key)).headers(headers);
        let call = self.guarded(call, body, options.crc64).await;
        let answer = self
            .client
            .send(&call)
            .await
            .map_err(|error| missing_is_changed(error, &options.precondition))?;
        let Some(etag) = headers::text(&answer.headers, http::header::ETAG) else {
            return self.changed(Op::Put, key).await;
        };
        Ok(self.described(ObjectMeta {
            id: ObjectId { key: key.clone(), etag: ETag::new(etag), size },
            modified: headers::date(&answer.headers, http::header::DATE).unwrap_or_default(),
            attributes: Some(options.attributes),
            token: options.token,
            crc64: options.crc64,
        }))
    }

    pub(super) async fn delete_object(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        let precondition = options.if_match.map_or(Precondition::None, Precondition::Matches);
        if self.client.address.is_beyond_urls(key) {
            self.look(Op::Delete, key, &precondition).await?;
            let refusals = self.delete_listed(&[key]).await?;
            return refusals.values().next().map_or(Ok(()), |refusal| Err(refused(key, refusal)));
        }
        let honoured = self.dialect.delete_if_match;
        let conditions = self.conditions(Op::Delete, key, &precondition, honoured).await?;
        let call = Call::new(Op::Delete, Method::DELETE, Some(key)).headers(conditions);
        let outcome = self.client.send(&call).await;
        match (outcome.map_err(|error| missing_is_changed(error, &precondition)), precondition) {
            (Ok(_), _) => Ok(()),
            (Err(error), Precondition::None) if error.kind == ErrorKind::NotFound => Ok(()),
            (Err(error), _) => Err(error),
        }
    }

    pub(super) async fn delete_objects(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let mut results: Vec<Result<()>> = Vec::with_capacity(keys.len());
        for batch in keys.chunks(DELETE_KEYS_MAX) {
            match self.delete_batch(batch).await {
                Ok(batch_results) => results.extend(batch_results),
                // Nothing is removed yet, so the caller may simply send all of it again.
                Err(error) if results.is_empty() => return Err(error),
                Err(error) => results
                    .extend(batch.iter().map(|key| Err(Error { key: Some(key.clone()), ..error.clone() }))),
            }
        }
        Ok(results)
    }

    /// Removes up to a thousand objects. Names that XML cannot carry go one by one.
    async fn delete_batch(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        let carried: Vec<&Key> = keys.iter().filter(|key| can_carry(key.as_str())).collect();
        let mut failed = BTreeMap::new();
        if !carried.is_empty() {
            failed = self.delete_listed(&carried).await?;
        }
        let mut results = Vec::with_capacity(keys.len());
        for key in keys {
            results.push(match failed.get(&self.client.address.full_key(key)) {
                Some(refusal) => Err(refused(key, refusal)),
                None if can_carry(key.as_str()) => Ok(()),
                None => self.delete_object(key, DeleteOptions::default()).await,
            });
        }
        Ok(results)
    }

    /// One DeleteObjects request; the refusals by full key. The server answers about the failed ones only ("quiet").
    async fn delete_listed(&self, keys: &[&Key]) -> Result<BTreeMap<String, Refusal>> {
        let mut document = "<Delete><Quiet>true</Quiet>".to_owned();
        for key in keys {
            document.push_str("<Object>");
            push_text(&mut document, "Key", &self.client.address.full_key(key));
            document.push_str("</Object>");
        }
        document.push_str("</Delete>");
        // This one request is refused without a checksum of its body.
        let document = Bytes::from(document);
        let digest = md5_text(document.clone()).await;
        let call = Call::new(Op::DeleteMany, Method::POST, None)
            .query("delete", "")
            .header(CONTENT_MD5, &digest)
            .header(http::header::CONTENT_TYPE, "application/xml")
            .body(document);
        let (_, root) = self.client.send_for_document(&call).await?;
        let failures = root.all("Error").filter_map(|error| {
            let name = error.text_of("Key")?.to_owned();
            let refusal = Refusal {
                status: http::StatusCode::OK,
                code: error.text_of("Code").map(str::to_owned),
                message: error.text_of("Message").unwrap_or_default().to_owned(),
                region: None,
                request_id: None,
                retry_after: None,
            };
            Some((name, refusal)).filter(|(_, refusal)| !refusal.is("NoSuchKey"))
        });
        Ok(failures.collect())
    }

    /// A call with a body, and a checksum by which the server finds out whether the body has arrived as it was sent.
    pub(super) async fn guarded<'a>(
        &self,
        mut call: Call<'a>,
        body: Bytes,
        crc64: Option<Crc64>,
    ) -> Call<'a> {
        if let Some(crc64) = crc64.filter(|_| self.dialect.takes_crc64) {
            call = call.header(metadata::CRC64, &metadata::write_crc64(crc64));
        }
        // Who does not tell it of an object has most likely not looked at it either.
        let is_looked_at = crc64.is_some() && self.dialect.takes_crc64 && self.dialect.stores_crc64;
        if !is_looked_at && !body.is_empty() {
            call = call.header(CONTENT_MD5, &md5_text(body.clone()).await);
        }
        call.body(body)
    }

    /// The headers that make a change conditional. Where the server ignores them, the object is looked at instead,
    /// which leaves a gap between look and change.
    pub(super) async fn conditions(
        &self,
        op: Op,
        key: &Key,
        precondition: &Precondition,
        honoured: bool,
    ) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        match precondition {
            Precondition::None => {}
            Precondition::Absent if honoured => {
                headers.insert(http::header::IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
            Precondition::Matches(etag) if honoured => {
                let value = HeaderValue::from_str(&quoted(etag)).map_err(|_| {
                    Error::on(op, key, ErrorKind::Precondition, "the version's name is unprintable")
                })?;
                headers.insert(http::header::IF_MATCH, value);
            }
            Precondition::Absent | Precondition::Matches(_) => self.look(op, key, precondition).await?,
        }
        Ok(headers)
    }

    /// Checks a precondition with a HEAD.
    pub(super) async fn look(&self, op: Op, key: &Key, precondition: &Precondition) -> Result<()> {
        let found = match self.head_object(key).await {
            Ok(meta) => Some(meta.id.etag),
            Err(error) if error.kind == ErrorKind::NotFound => None,
            Err(error) => return Err(Error { op, ..error }),
        };
        let detail = match (precondition, found) {
            (Precondition::None, _) | (Precondition::Absent, None) => return Ok(()),
            (Precondition::Matches(wanted), Some(found)) if *wanted == found => return Ok(()),
            (Precondition::Absent, Some(_)) => "the object is already there".to_owned(),
            (Precondition::Matches(wanted), Some(found)) => {
                format!("the object is now version {found}, not {wanted}")
            }
            (Precondition::Matches(_), None) => "the object is gone".to_owned(),
        };
        Err(Error::on(op, key, ErrorKind::Precondition, detail))
    }

    /// What is told of an object, without the checksum where the server's is not to be trusted.
    pub(super) fn described(&self, meta: ObjectMeta) -> ObjectMeta {
        ObjectMeta { crc64: meta.crc64.filter(|_| self.dialect.stores_crc64), ..meta }
    }

    /// The object just changed, where the answer did not describe it. The change is done: that the look fails must not
    /// read as "not applied".
    pub(super) async fn changed(&self, op: Op, key: &Key) -> Result<ObjectMeta> {
        let looked = self.head_object(key).await;
        looked.map_err(|error| Error { op, kind: ErrorKind::Ambiguous, ..error })
    }

    /// A HEAD that must find this version.
    async fn same_version(&self, key: &Key, etag: ETag) -> Result<ObjectMeta> {
        let meta = self.head_object(key).await?;
        if meta.id.etag == etag {
            return Ok(meta);
        }
        let detail = format!("the object is now version {}, not {etag}", meta.id.etag);
        Err(Error::on(Op::Get, key, ErrorKind::Precondition, detail))
    }
}

/// The MD5 of a body as headers carry it.
async fn md5_text(body: Bytes) -> String {
    let text = |body: &Bytes| STANDARD.encode(Md5::digest(body));
    if body.len() <= INLINE_MD5_BYTES {
        return text(&body);
    }
    let moved = body.clone();
    // It is not done only while the process ends.
    task::spawn_blocking("md5", move || text(&moved)).await.unwrap_or_else(|_| text(&body))
}

/// An etag as headers carry it.
pub(super) fn quoted(etag: &ETag) -> String {
    if etag.is_weak() { etag.to_string() } else { format!("\"{etag}\"") }
}

/// `If-Match` on an object that is gone: Amazon says "no such key", others "precondition failed".
pub(super) fn missing_is_changed(error: Error, precondition: &Precondition) -> Error {
    match precondition {
        Precondition::Matches(_) if error.kind == ErrorKind::NotFound => {
            Error { kind: ErrorKind::Precondition, ..error }
        }
        Precondition::None | Precondition::Absent | Precondition::Matches(_) => error,
    }
}

fn refused(key: &Key, refusal: &Refusal) -> Error {
    let call = Call::new(Op::DeleteMany, Method::POST, Some(key));
    CallError::Refused { refusal: refusal.clone(), server_time: None }.into_error(&call)
}
