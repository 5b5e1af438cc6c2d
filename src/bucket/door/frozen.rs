//! Answers that are given again and again, however the bucket has changed since.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use s3s::{Body, StdError};

/// The first answer to each URL.
#[derive(Debug, Default)]
pub struct Frozen(Mutex<HashMap<String, First>>);

#[derive(Clone, Debug)]
struct First {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Frozen {
    /// The first answer that was given to `url`; that is `fresh` when there was none yet. Fails when the body of
    /// `fresh` cannot be read.
    pub async fn answer(&self, url: String, fresh: Response<Body>) -> Result<Response<Body>, StdError> {
        let (head, body) = fresh.into_parts();
        let body = body.collect().await?.to_bytes();
        let fresh = First { status: head.status, headers: head.headers, body };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = known.entry(url).or_insert(fresh).clone();
        let mut answer = Response::new(Body::from(first.body));
        *answer.status_mut() = first.status;
        *answer.headers_mut() = first.headers;
        Ok(answer)
    }
}
