//! The admin door: fault rules and the request log of a server in another process, over HTTP on the same port.
//!
//! Unsigned, so it is only open where the options say so. `-` is no bucket name, so no S3 request is hidden.
//!
//! | request | does |
//! |---|---|
//! | `POST /-/faults` | adds the rules in the body, a JSON list (see [`crate::bucket::Rule`]) |
//! | `GET /-/faults` | tells `[{"rule": ..., "struck": n}]` |
//! | `DELETE /-/faults` | takes every rule away |
//! | `GET /-/requests` | tells counts and the last requests (see [`crate::bucket::RequestsSnapshot`]) |
//! | `POST /-/requests/reset` | starts the log from zero |

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use s3s::Body;
use serde::Serialize;

use crate::bucket::door::faults::{Faults, Rule};
use crate::bucket::door::requests::Requests;

/// Where it stands.
pub const PREFIX: &str = "/-/";

/// Largest list of rules taken.
const RULES_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize)]
struct Struck {
    rule: Rule,
    struck: u64,
}

/// Answers one request.
pub async fn answer(request: Request<Incoming>, faults: &Faults, requests: &Requests) -> Response<Body> {
    let (head, body) = request.into_parts();
    match (head.method.as_str(), head.uri.path()) {
        ("POST", "/-/faults") => match read_rules(body).await {
            Ok(rules) => {
                rules.into_iter().for_each(|rule| drop(faults.add(rule)));
                plain(StatusCode::NO_CONTENT, String::new())
            }
            Err(why) => plain(StatusCode::BAD_REQUEST, format!("{why}\n")),
        },
        ("GET", "/-/faults") => {
            let list: Vec<_> =
                faults.list().into_iter().map(|(rule, struck)| Struck { rule, struck }).collect();
            json(&list)
        }
        ("DELETE", "/-/faults") => {
            faults.clear();
            plain(StatusCode::NO_CONTENT, String::new())
        }
        ("GET", "/-/requests") => json(&requests.snapshot()),
        ("POST", "/-/requests/reset") => {
            requests.reset();
            plain(StatusCode::NO_CONTENT, String::new())
        }
        _ => plain(
            StatusCode::NOT_FOUND,
            "There is /-/faults, /-/requests and /-/requests/reset.\n".to_owned(),
        ),
    }
}

async fn read_rules(body: Incoming) -> Result<Vec<Rule>, String> {
    let text = Limited::new(body, RULES_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&text.to_bytes()).map_err(|error| format!("the body is no list of rules: {error}"))
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => typed(StatusCode::OK, "application/json", text),
        Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    typed(status, "text/plain", text.into_bytes())
}

fn typed(status: StatusCode, kind: &'static str, text: Vec<u8>) -> Response<Body> {
    let mut answer = Response::new(Body::from(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
