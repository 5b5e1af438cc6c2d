//! Sends one HTTP request once and says, when that fails, whether the server may have acted.

use std::error::Error as _;
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::store::ErrorKind;
use crate::store::http::transfer::{Progress, SentBody};

/// Longest wait for a connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an unused connection is kept. Servers close theirs after 5 to 60 seconds; reusing one that is being closed
/// costs an ambiguous failure.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the kernel waits before it asks a silent peer for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Names a PEM file with certificates to trust besides the system's, as Amazon's own tools read it.
const CA_BUNDLE_VARIABLE: &str = "AWS_CA_BUNDLE";

/// One request, ready to be sent.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Scheme and authority, for example `https://host:9000`.
    pub origin: String,
    /// The path, percent-encoded, beginning with `/`.
    pub path: String,
    /// The query, percent-encoded, without `?`; may be empty.
    pub query: String,
    /// Headers, all but `Host` and `Content-Length`.
    pub headers: HeaderMap,
    /// The body; may be empty.
    pub body: Bytes,
}

/// How far a failed request had come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It cannot be expressed; sending it again will not help.
    Unsendable,
    /// The server has not seen it.
    NotSent,
    /// The server may have seen it and acted.
    MaybeSent,
}

/// Whether a request may be sent again when its answer is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Sending it twice is as good as once.
    Repeatable,
    /// Another writer may have come in between: only looking tells.
    Once,
}

/// A request without an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// How far it had come.
    pub stage: Stage,
    /// What happened, without the URL.
    pub detail: String,
}

impl Failure {
    /// What a caller may do about it.
    pub fn kind(&self, effect: Effect) -> ErrorKind {
        match (self.stage, effect) {
            (Stage::Unsendable, Effect::Repeatable | Effect::Once) => ErrorKind::Refused,
            (Stage::NotSent, Effect::Repeatable | Effect::Once) | (Stage::MaybeSent, Effect::Repeatable) => {
                ErrorKind::Unavailable { retry_after: None }
            }
            (Stage::MaybeSent, Effect::Once) => ErrorKind::Ambiguous,
        }
    }
}

/// An answer whose body is still to come.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    response: reqwest::Response,
    stall_timeout: Duration,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Answer {
    /// The body piece by piece; ends after the first failure.
    pub fn into_pieces(self) -> BoxStream<'static, Result<Bytes, Failure>> {
        let stall_timeout = self.stall_timeout;
        stream::try_unfold(self.response, move |mut response| async move {
            match tokio::time::timeout(stall_timeout, response.chunk()).await {
                Ok(Ok(piece)) => Ok(piece.map(|bytes| (bytes, response))),
                Ok(Err(error)) => Err(broken(error)),
                Err(_) => Err(stalled(stall_timeout)),
            }
        })
        .boxed()
    }

    /// The whole body, which must not be longer than `bytes_max`.
    pub async fn into_bytes(self, bytes_max: usize) -> Result<Bytes, Failure> {
        let mut pieces = self.into_pieces();
        let mut whole = BytesMut::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            if whole.len() + piece.len() > bytes_max {
                let detail = format!("the answer is longer than {bytes_max} bytes");
                return Err(Failure { stage: Stage::MaybeSent, detail });
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }
}

/// A pool of connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    inner: reqwest::Client,
    stall_timeout: Duration,
}

impl HttpClient {
    /// A client that gives a request up when it makes no progress for `stall_timeout` (above zero). The error says
    /// what is wrong with the certificates of this machine.
    pub fn new(stall_timeout: Duration) -> Result<HttpClient, String> {
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .http1_only()
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            .connect_timeout(CONNECT_TIMEOUT.min(stall_timeout))
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("tetherfs/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = std::env::var_os(CA_BUNDLE_VARIABLE).filter(|path| !path.is_empty()) {
            let path = std::path::PathBuf::from(path);
            builder = builder.tls_certs_merge(certificates(&path)?);
        }
        let inner = builder.build().map_err(|error| format!("cannot set up TLS: {}", words(&error)))?;
        Ok(HttpClient { inner, stall_timeout })
    }

    /// Sends a request and waits for the head of its answer.
    pub async fn send(&self, request: Request) -> Result<Answer, Failure> {
        let progress = Progress::begin(request.body.len() as u64);
        let outgoing = outgoing(request, &progress)?;
        let response = tokio::select! {
            answered = self.inner.execute(outgoing) => answered.map_err(broken)?,
            () = progress.stalled(self.stall_timeout) => return Err(stalled(self.stall_timeout)),
        };
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            response,
            stall_timeout: self.stall_timeout,
        })
    }
}

fn outgoing(request: Request, progress: &Progress) -> Result<reqwest::Request, Failure> {
    let unsendable = |detail: String| Failure { stage: Stage::Unsendable, detail };
    let url = reqwest::Url::parse(&format!("{}{}", request.origin, request.path))
        .map_err(|error| unsendable(format!("the request has no valid URL: {error}")))?;
    // URL parsers resolve `.` and `..`, even percent-encoded: that would be another object.
    if url.path() != request.path {
        return Err(unsendable(
            "a name with a '.' or '..' between slashes cannot be put into a URL".to_owned(),
        ));
    }
    let takes_body = request.method == Method::PUT || request.method == Method::POST;
    let mut outgoing = reqwest::Request::new(request.method, url);
    if !request.query.is_empty() {
        outgoing.url_mut().set_query(Some(&request.query));
    }
    *outgoing.headers_mut() = request.headers;
    // Partial content counts bytes of the object, not of an encoding of it.
    outgoing.headers_mut().insert(http::header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if takes_body {
        // Without it the body would go out chunked, which S3 refuses.
        outgoing.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(request.body.len()));
    }
    if !request.body.is_empty() {
        *outgoing.body_mut() = Some(reqwest::Body::wrap(SentBody::new(request.body, progress.clone())));
    }
    Ok(outgoing)
}

fn broken(error: reqwest::Error) -> Failure {
    let stage = if error.is_builder() {
        Stage::Unsendable
    } else if error.is_connect() {
        Stage::NotSent
    } else {
        Stage::MaybeSent
    };
    Failure { stage, detail: words(&error.without_url()) }
}

fn stalled(stall_timeout: Duration) -> Failure {
    let detail = format!("no progress for {} s", stall_timeout.as_secs_f64());
    Failure { stage: Stage::MaybeSent, detail }
}

/// An error with its causes, outermost first; a cause that the line before already quotes is left out.
fn words(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}

fn certificates(path: &std::path::Path) -> Result<Vec<reqwest::Certificate>, String> {
    let wrong = |why: String| format!("cannot use {CA_BUNDLE_VARIABLE}={}: {why}", path.display());
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong(words(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn request(origin: String, path: &str) -> Request {
        Request {
            method: Method::PUT,
            origin,
            path: path.to_owned(),
            query: "uploadId=secret".to_owned(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"0123456789"),
        }
    }

    /// A server that reads the request, then answers as told and hangs up.
    async fn server(answer: &'static str, linger: Duration) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        crate::observe::task::spawn("test-server", async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = vec![0; 4096];
                let mut seen = 0;
                while !head[..seen].ends_with(b"0123456789") {
                    seen += socket.read(&mut head[seen..]).await.unwrap();
                }
                socket.write_all(answer.as_bytes()).await.unwrap();
                tokio::time::sleep(linger).await;
            }
        });
        origin
    }

    async fn failure(origin: String) -> Failure {
        let client = HttpClient::new(Duration::from_millis(300)).unwrap();
        match client.send(request(origin, "/b/k")).await {
            Ok(answer) => answer.into_bytes(1 << 20).await.unwrap_err(),
            Err(failure) => failure,
        }
    }

    #[tokio::test]
    async fn a_refused_connection_was_not_sent() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let failure = failure(origin).await;
        assert_eq!(failure.stage, Stage::NotSent, "{}", failure.detail);
        assert_eq!(failure.kind(Effect::Once), ErrorKind::Unavailable { retry_after: None });
    }

    #[tokio::test]
    async fn a_lost_answer_may_have_been_applied() {
        for (answer, linger) in [
            ("", Duration::ZERO),
            ("", Duration::from_secs(5)),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", Duration::ZERO),
            ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort", Duration::from_secs(5)),
        ] {
            let failure = failure(server(answer, linger).await).await;
            assert_eq!(failure.stage, Stage::MaybeSent, "{answer} {linger:?}");
            assert_eq!(failure.kind(Effect::Once), ErrorKind::Ambiguous);
            assert_eq!(failure.kind(Effect::Repeatable), ErrorKind::Unavailable { retry_after: None });
            assert!(!failure.detail.contains("secret"), "{}", failure.detail);
        }
    }

    #[tokio::test]
    async fn names_that_a_url_would_change_are_refused() {
        let client = HttpClient::new(Duration::from_millis(300)).unwrap();
        for path in ["/b/../k", "/b/./k", "/b/%2e%2E/k", "/b/.."] {
            let failure = client.send(request("http://127.0.0.1:9".to_owned(), path)).await.unwrap_err();
            assert_eq!(failure.stage, Stage::Unsendable, "{path}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_given_up() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n0123456789ab";
        let origin = server(answer, Duration::ZERO).await;
        let client = HttpClient::new(Duration::from_secs(1)).unwrap();
        let answer = client.send(request(origin, "/b/k")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.into_bytes(11).await.unwrap_err().detail.contains("longer than 11"));
    }
}
