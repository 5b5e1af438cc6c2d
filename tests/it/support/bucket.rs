//! The embedded bucket in this process.

use tempfile::TempDir;
use tetherfs::bucket::{Faults, Operation, Options, Quirks, Recorded, Requests, Server};
use tokio::runtime::Runtime;

use crate::support::client::{Account, Client, Served};

/// The bucket's name.
pub const BUCKET: &str = "test-bucket";
/// Credentials of the embedded server.
pub const ACCESS_KEY: &str = "test-access";
pub const SECRET_KEY: &str = "test-secret";

/// What a mount asked of the bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// GETs of objects.
    pub gets: u64,
    /// HEADs of objects.
    pub heads: u64,
    /// Pages of listings.
    pub lists: u64,
    /// Requests of every kind.
    pub all: u64,
    /// Bytes of objects sent.
    pub sent: u64,
}

/// A running embedded server with one bucket.
pub struct Bucket {
    server: Option<Server>,
    endpoint: String,
    options: Options,
    runtime: Runtime,
    _directory: TempDir,
}

impl Bucket {
    /// Starts one without deviations.
    pub fn start() -> Bucket {
        Bucket::with(Quirks::default())
    }

    /// Starts one with deviations.
    pub fn with(quirks: Quirks) -> Bucket {
        let directory = tempfile::tempdir().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut options = Options::new(directory.path());
        options.access_key = ACCESS_KEY.to_owned();
        options.secret_key = SECRET_KEY.to_owned();
        options.buckets = vec![BUCKET.to_owned()];
        options.quirks = quirks;
        let server = runtime.block_on(Server::start(options.clone())).unwrap();
        let endpoint = server.endpoint();
        options.listen = endpoint.strip_prefix("http://").unwrap().parse().unwrap();
        Bucket { server: Some(server), endpoint, options, runtime, _directory: directory }
    }

    /// Ends the server: nobody listens there any more. What it has stays.
    pub fn stop(&mut self) {
        let server = self.server.take().expect("it serves");
        self.runtime.block_on(server.stop());
    }

    /// Starts it again where it was, without fault rules and with an empty request log.
    pub fn start_again(&mut self) {
        assert!(self.server.is_none(), "it serves");
        self.server = Some(self.runtime.block_on(Server::start(self.options.clone())).unwrap());
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn client(&self) -> Client {
        Client::of(self)
    }

    /// The server's URL.
    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    /// Its fault rules.
    pub fn faults(&self) -> &Faults {
        self.server().faults()
    }

    /// What was asked of it.
    pub fn requests(&self) -> &Requests {
        self.server().requests()
    }

    /// How often an operation was asked for.
    pub fn count(&self, operation: Operation) -> u64 {
        self.requests().count(operation).requests
    }

    /// How often an operation on one key was asked for and answered well.
    pub fn done(&self, operation: Operation, key: &str) -> u64 {
        let is_it = |r: &&Recorded| r.operation == operation && r.key == key && r.status == Some(200);
        self.requests().recent().iter().filter(is_it).count() as u64
    }

    /// How often an object of this key was made by one of these operations, answered or not.
    pub fn made(&self, key: &str, by: &[Operation]) -> u64 {
        let recent = self.requests().recent();
        recent.iter().filter(|r| r.key == key && by.contains(&r.operation)).map(|r| r.done).sum()
    }

    /// Uploads begun and neither completed nor aborted.
    pub fn pending_uploads(&self) -> usize {
        self.server().pending_uploads(BUCKET).unwrap().len()
    }

    /// The bytes of an object, as a foreign client gets them.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.client().get(key)
    }

    /// The headers of an object in lower case, as a foreign client gets them.
    pub fn head(&self, key: &str) -> String {
        self.client().head(key)
    }

    /// Stores an object, as a foreign client does.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        self.client().put(key, bytes);
    }

    /// Stores an object with these headers (`name: value`), as a foreign client does.
    pub fn put_with(&self, key: &str, bytes: &[u8], headers: &[&str]) {
        self.client().put_with(key, bytes, headers);
    }

    /// One header of an object, as a foreign client gets it.
    pub fn header(&self, key: &str, name: &str) -> Option<String> {
        self.client().header(key, name)
    }

    /// Stores an object behind everybody's back, without a process: one that is started closes the files it inherits, and
    /// that is a `flush` of whatever this test has open in the mount.
    pub fn put_quietly(&self, key: &str, bytes: &[u8]) {
        self.server().put(BUCKET, key, bytes).unwrap();
    }

    /// Stores an object of `size` zeros with some bytes in between.
    pub fn put_sparse(&self, key: &str, size: u64, islands: &[(u64, &[u8])]) {
        self.server().put_sparse(BUCKET, key, size, islands).unwrap();
    }

    /// The bytes of an object, without a request.
    pub fn read(&self, key: &str) -> Vec<u8> {
        self.server().read(BUCKET, key).unwrap().unwrap()
    }

    /// Requests that were made since the log was last emptied, by what they asked for.
    pub fn asked(&self) -> Asked {
        let sent = self.requests().count(Operation::GetObject).sent;
        let lists = self.count(Operation::ListObjectsV2) + self.count(Operation::ListObjects);
        let (gets, heads) = (self.count(Operation::GetObject), self.count(Operation::HeadObject));
        Asked { gets, heads, lists, all: self.requests().total().requests, sent }
    }

    /// The bytes of an object if there is one, without a request.
    pub fn find(&self, key: &str) -> Option<Vec<u8>> {
        self.server().read(BUCKET, key).unwrap()
    }

    /// Every key in order, without a request.
    pub fn all_keys(&self) -> Vec<String> {
        self.server().keys(BUCKET).unwrap()
    }

    /// Those of them that have no part yet.
    pub fn uploads_without_parts(&self) -> usize {
        self.server().uploads_without_parts(BUCKET).unwrap()
    }

    /// Removes an object, as a foreign client does.
    pub fn delete(&self, key: &str) {
        self.client().delete(key);
    }

    /// All keys (up to 1,000), as a foreign client lists them.
    pub fn keys(&self) -> Vec<String> {
        self.client().keys()
    }
}

impl Served for Bucket {
    fn account(&self) -> Account {
        Account::embedded(self.endpoint())
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            self.runtime.block_on(server.stop());
        }
    }
}
