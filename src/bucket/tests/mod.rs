//! The server driven over real HTTP, one signed request a connection.

mod faults;
mod listings;
mod objects;
mod quirks;
mod restarts;
mod uploads;

use std::io;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};
use reqsign_aws_v4::{Credential, RequestSigner};
use reqsign_core::{Context, SignRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bucket::{Options, Quirks, Server};

/// A server on a directory of its own, with a bucket `box`.
struct Bench {
    server: Server,
    client: Client,
    directory: tempfile::TempDir,
}

impl Bench {
    async fn start(quirks: Quirks) -> Bench {
        Bench::start_with(|options| options.quirks = quirks).await
    }

    async fn start_with(change: impl FnOnce(&mut Options)) -> Bench {
        let directory = tempfile::tempdir().unwrap();
        let mut options = options_for(&directory);
        change(&mut options);
        let server = Server::start(options).await.unwrap();
        Bench { client: Client::of(&server), server, directory }
    }

    /// Breaks the server off and starts another on the same directory.
    async fn crash(self) -> Bench {
        self.server.kill().await;
        let server = Server::start(options_for(&self.directory)).await.unwrap();
        Bench { client: Client::of(&server), server, directory: self.directory }
    }

    fn read(&self, key: &str) -> Option<Vec<u8>> {
        self.server.read("box", key).unwrap()
    }
}

fn options_for(directory: &tempfile::TempDir) -> Options {
    let mut options = Options::new(directory.path());
    options.buckets = vec!["box".to_owned()];
    options
}

/// Signs and sends.
struct Client {
    address: String,
    secret: String,
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    /// How the connection ended, when it was not orderly.
    broken: Option<io::ErrorKind>,
}

impl Client {
    fn of(server: &Server) -> Client {
        let address = server.endpoint().strip_prefix("http://").unwrap().to_owned();
        Client { address, secret: "tetherfs-secret".to_owned() }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"").await.unwrap()
    }

    async fn put(&self, path: &str, body: &[u8]) -> Reply {
        self.send("PUT", path, &[], body).await.unwrap()
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        self.send("POST", path, &[], body.as_bytes()).await.unwrap()
    }

    /// Sends one request and reads until the server closes. An error means that no answer came.
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Reply> {
        let head = self.signed_head(method, path, headers, body.len()).await;
        self.exchange(head, body).await
    }

    async fn signed_head(&self, method: &str, path: &str, headers: &[(&str, &str)], length: usize) -> String {
        let uri = format!("http://{}{path}", self.address);
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut parts = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            parts.headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        let key = Credential {
            access_key_id: "tetherfs".to_owned(),
            secret_access_key: self.secret.clone(),
            session_token: None,
            expires_in: None,
        };
        let signer = RequestSigner::new("s3", "anywhere");
        signer.sign_request(&Context::new(), &mut parts, Some(&key), None).await.unwrap();
        parts.headers.remove("host");
        let target = parts.uri.path_and_query().unwrap();
        let mut head = format!("{} {target} HTTP/1.1\r\nhost: {}\r\n", parts.method, self.address);
        for (name, value) in &parts.headers {
            head += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        head + &format!("connection: close\r\ncontent-length: {length}\r\n\r\n")
    }

    /// Sends bytes as they are.
    async fn exchange(&self, head: String, body: &[u8]) -> io::Result<Reply> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(head.as_bytes()).await?;
        // A server that refuses may close before it has read everything.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let broken = loop {
            match stream.read_buf(&mut answer).await {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        };
        parse(&answer, broken)
    }
}

impl Reply {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// The texts of all elements of this name, in order.
    fn all(&self, element: &str) -> Vec<String> {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let pieces = self.text().split(&open).skip(1);
        pieces.map(|piece| piece.split(&close).next().unwrap().replace("&quot;", "\"")).collect()
    }

    fn one(&self, element: &str) -> String {
        let all = self.all(element);
        assert_eq!(all.len(), 1, "{element} in {}", self.text());
        all[0].clone()
    }

    /// Status and S3 error code.
    fn error(&self) -> (u16, String) {
        (self.status, self.one("Code"))
    }
}

fn parse(answer: &[u8], broken: Option<io::ErrorKind>) -> io::Result<Reply> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Err(broken.unwrap_or(io::ErrorKind::UnexpectedEof).into());
    };
    let head = str::from_utf8(&answer[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':').unwrap();
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        headers.append(name, HeaderValue::from_str(value.trim()).unwrap());
    }
    Ok(Reply { status, headers, body: answer[end + 4..].to_vec(), broken })
}

/// Bytes that differ everywhere.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}
