//! One signed request to one bucket, sent once, and its refusals understood.
//!
//! Sent a second time only when the server has surely not acted and says why: our clock is wrong, or the session token
//! has expired.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use crate::store::http::client::{Answer, Effect, Failure, HttpClient, Request, Stage};
use crate::store::http::credentials::{CredentialSource, Credentials};
use crate::store::http::headers;
use crate::store::http::refusal::{Refusal, effect};
use crate::store::http::sigv4::{Signing, sign};
use crate::store::http::xml::Element;
use crate::store::s3::address::{Address, encode_query};
use crate::store::{Error, ErrorKind, Op, Result};
use crate::types::{Key, UnixTime};

/// Longest document that is read: a listing of 1,000 keys of 1,024 bytes, escaped, has about 6 MiB.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;
/// Least difference of clocks that is corrected. Servers accept 15 minutes.
const SKEW_SECS_MIN: i64 = 240;

/// Who asks.
#[derive(Debug)]
pub enum Login {
    /// Nobody: requests are not signed.
    Anonymous,
    /// The owner of these credentials.
    Signed(CredentialSource),
}

/// One request in terms of the bucket.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The operation it belongs to.
    pub op: Op,
    /// The object; the bucket itself when `None`.
    pub key: Option<&'a Key>,
    method: Method,
    query: Vec<(&'static str, String)>,
    headers: HeaderMap,
    body: Bytes,
}

impl<'a> Call<'a> {
    /// A request about an object, or about the bucket.
    pub fn new(op: Op, method: Method, key: Option<&'a Key>) -> Call<'a> {
        Call { op, key, method, query: Vec::new(), headers: HeaderMap::new(), body: Bytes::new() }
    }

    /// With a query parameter; an empty value names a sub-resource.
    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Call<'a> {
        self.query.push((name, value.into()));
        self
    }

    /// With a header of ours, whose text is known to fit.
    pub fn header(mut self, name: impl TryInto<HeaderName>, text: &str) -> Call<'a> {
        if let (Ok(name), Ok(value)) = (name.try_into(), HeaderValue::from_str(text)) {
            self.headers.insert(name, value);
        }
        self
    }

    /// With all of these headers.
    pub fn headers(mut self, headers: HeaderMap) -> Call<'a> {
        self.headers.extend(headers);
        self
    }

    /// With a body.
    pub fn body(mut self, body: Bytes) -> Call<'a> {
        self.body = body;
        self
    }

    /// An error about this call's object.
    pub fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error { op: self.op, kind, key: self.key.cloned(), detail: detail.into() }
    }

    fn encoded_query(&self) -> String {
        let mut pairs: Vec<(String, String)> =
            self.query.iter().map(|(name, value)| (encode_query(name), encode_query(value))).collect();
        pairs.sort();
        let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    }

    /// A text without this call's upload id: whoever knows that can write.
    fn without_secrets(&self, text: String) -> String {
        let id = self.query.iter().find(|(name, _)| *name == "uploadId").map(|(_, id)| id.as_str());
        match id.filter(|id| !id.is_empty()) {
            Some(id) => text.replace(id, "***"),
            None => text,
        }
    }
}

/// A call that did not succeed.
#[derive(Clone, Debug)]
pub enum CallError {
    /// There is nothing to sign with.
    NoCredentials(String),
    /// No answer came.
    Failed(Failure),
    /// The server says no.
    Refused {
        /// Its words.
        refusal: Refusal,
        /// Its clock.
        server_time: Option<UnixTime>,
    },
}

impl CallError {
    /// The error that callers of the store see.
    pub fn into_error(self, call: &Call<'_>) -> Error {
        let (kind, detail) = match self {
            CallError::NoCredentials(why) => (ErrorKind::Denied, why),
            CallError::Failed(failure) => (failure.kind(effect(call.op)), failure.detail),
            CallError::Refused { refusal, .. } => (refusal.kind(call.op), refusal.detail()),
        };
        call.error(kind, call.without_secrets(detail))
    }

    /// What the server said, if it did.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            CallError::Refused { refusal, .. } => Some(refusal),
            CallError::NoCredentials(_) | CallError::Failed(_) => None,
        }
    }
}

/// A bucket that can be asked.
#[derive(Debug)]
pub struct S3Client {
    http: HttpClient,
    /// Where it is.
    pub address: Address,
    region: String,
    login: Arc<Login>,
    /// The server's clock minus ours, in seconds.
    clock_offset_secs: AtomicI64,
}

impl S3Client {
    /// A client for one bucket in one region.
    pub fn new(http: HttpClient, address: Address, region: &str, login: Arc<Login>) -> S3Client {
        S3Client { http, address, region: region.to_owned(), login, clock_offset_secs: AtomicI64::new(0) }
    }

    /// The region that requests are signed for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Sends a call; an answer is a success, or "range not satisfiable" to a GET.
    pub async fn send(&self, call: &Call<'_>) -> Result<Answer> {
        self.attempt(call).await.map_err(|error| error.into_error(call))
    }

    /// Sends a call and reads the document it is answered with. A refusal inside a success is a refusal.
    pub async fn send_for_document(&self, call: &Call<'_>) -> Result<(HeaderMap, Element)> {
        let answer = self.send(call).await?;
        let status = answer.status;
        let headers = answer.headers.clone();
        let body = answer
            .into_bytes(DOCUMENT_BYTES_MAX)
            .await
            .map_err(|failure| CallError::Failed(failure).into_error(call))?;
        let root = Element::parse(&body).map_err(|error| {
            // The server has said "success" and we cannot read of what.
            let kind = match effect(call.op) {
                Effect::Once => ErrorKind::Ambiguous,
                Effect::Repeatable => ErrorKind::Protocol,
            };
            call.error(kind, error.to_string())
        })?;
        if root.name == "Error" {
            let refusal = Refusal::read(status, &body);
            return Err(CallError::Refused { refusal, server_time: None }.into_error(call));
        }
        Ok((headers, root))
    }

    /// Sends a call, telling refusals apart.
    pub async fn attempt(&self, call: &Call<'_>) -> Result<Answer, CallError> {
        let credentials = self.credentials().await?;
        let outcome = self.once(call, credentials.as_deref()).await;
        let amended = match &outcome {
            Err(error) => self.amend(error, credentials.as_ref()),
            Ok(_) => false,
        };
        if !amended {
            return outcome;
        }
        let credentials = self.credentials().await?;
        self.once(call, credentials.as_deref()).await
    }

    async fn credentials(&self) -> Result<Option<Arc<Credentials>>, CallError> {
        match self.login.as_ref() {
            Login::Anonymous => Ok(None),
            Login::Signed(source) => source.current().await.map(Some).map_err(CallError::NoCredentials),
        }
    }

    async fn once(&self, call: &Call<'_>, credentials: Option<&Credentials>) -> Result<Answer, CallError> {
        let request = self.request(call, credentials);
        let answer = self.http.send(request).await.map_err(CallError::Failed)?;
        let past_the_end = call.op == Op::Get && answer.status == StatusCode::RANGE_NOT_SATISFIABLE;
        if answer.status.is_success() || past_the_end {
            return Ok(answer);
        }
        let status = answer.status;
        let headers = answer.headers.clone();
        // A refusal whose body is lost is still a refusal.
        let body = answer.into_bytes(DOCUMENT_BYTES_MAX).await.unwrap_or_default();
        let mut refusal = Refusal::read(status, &body);
        refusal.retry_after = headers::retry_after(&headers, SystemTime::now());
        let region_header = headers::text(&headers, "x-amz-bucket-region").map(str::to_owned);
        refusal.region = refusal.region.or(region_header);
        let server_time = headers::date(&headers, http::header::DATE);
        Err(CallError::Refused { refusal, server_time })
    }

    fn request(&self, call: &Call<'_>, credentials: Option<&Credentials>) -> Request {
        let path = self.address.path(call.key);
        let query = call.encoded_query();
        let mut headers = call.headers.clone();
        if let Some(credentials) = credentials {
            let signing = Signing {
                method: &call.method,
                host: &self.address.host,
                path: &path,
                query: &query,
                has_body: !call.body.is_empty(),
                region: &self.region,
                now_secs: self.server_now_secs(),
            };
            sign(&signing, credentials, &mut headers);
        }
        Request {
            method: call.method.clone(),
            origin: self.address.origin.clone(),
            path,
            query,
            headers,
            body: call.body.clone(),
        }
    }

    /// Corrects what made the server refuse, if that is something we can correct.
    fn amend(&self, error: &CallError, credentials: Option<&Arc<Credentials>>) -> bool {
        let (CallError::Refused { refusal, server_time }, Login::Signed(source), Some(used)) =
            (error, self.login.as_ref(), credentials)
        else {
            return false;
        };
        if refusal.is("ExpiredToken") {
            source.reject(used);
            return true;
        }
        // Servers have many words for a wrong clock, and none in the answer to a HEAD: the clocks themselves tell.
        matches!(refusal.status.as_u16(), 400 | 401 | 403)
            && server_time.is_some_and(|server| self.correct_clock(server))
    }

    fn correct_clock(&self, server: UnixTime) -> bool {
        if (server.secs - self.server_now_secs()).abs() < SKEW_SECS_MIN {
            return false;
        }
        let offset_secs = server.secs - UnixTime::from(SystemTime::now()).secs;
        log::warn!(
            "The clock of this machine is {} s away from the server's: signing by the server's",
            -offset_secs
        );
        self.clock_offset_secs.store(offset_secs, Ordering::Relaxed);
        true
    }

    fn server_now_secs(&self) -> i64 {
        UnixTime::from(SystemTime::now()).secs + self.clock_offset_secs.load(Ordering::Relaxed)
    }
}

/// A failure of a body that was already accepted.
pub fn body_error(op: Op, key: &Key, failure: Failure) -> Error {
    let kind = match failure.stage {
        Stage::Unsendable => ErrorKind::Refused,
        Stage::NotSent | Stage::MaybeSent => ErrorKind::Unavailable { retry_after: None },
    };
    Error::on(op, key, kind, failure.detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_sorted_and_encoded() {
        let call = Call::new(Op::List, Method::GET, None)
            .query("prefix", "a b/")
            .query("list-type", "2")
            .query("uploads", "");
        assert_eq!(call.encoded_query(), "list-type=2&prefix=a%20b%2F&uploads=");
    }

    #[test]
    fn upload_ids_do_not_reach_messages() {
        let key = Key::new("k").unwrap();
        let call = Call::new(Op::PutPart, Method::PUT, Some(&key)).query("uploadId", "S3CR3T");
        let body = b"<Error><Code>NoSuchUpload</Code><Message>no upload S3CR3T here</Message></Error>";
        let refusal = Refusal::read(StatusCode::NOT_FOUND, body);
        let error = CallError::Refused { refusal, server_time: None }.into_error(&call);
        assert_eq!(error.kind, ErrorKind::UploadGone);
        assert_eq!(error.to_string(), "put part k: the server answered 404 NoSuchUpload: no upload *** here");
    }
}
