//! A foreign client (curl) that looks at a bucket from outside, whatever serves it.

use std::process::Command;

use crate::support::bucket::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::support::{run, run_ok};

/// Where a bucket is and who may use it.
#[derive(Clone, Debug)]
pub struct Account {
    /// The server's URL.
    pub endpoint: String,
    /// What requests are signed for.
    pub region: String,
    /// The key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl Account {
    /// That of a server which was told the usual keys.
    pub fn embedded(endpoint: String) -> Account {
        let (access_key, secret_key) = (ACCESS_KEY.to_owned(), SECRET_KEY.to_owned());
        Account { endpoint, region: "us-east-1".to_owned(), access_key, secret_key }
    }
}

/// Something that serves the bucket [`BUCKET`].
pub trait Served {
    /// Where, and to whom.
    fn account(&self) -> Account;
}

/// A client that has never heard of this project.
pub struct Client(Account);

impl Client {
    /// One for what is served there.
    pub fn of(served: &impl Served) -> Client {
        Client(served.account())
    }

    /// The bytes of an object.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        let ran = run(self.curl(key).arg("--fail").arg("--output").arg(file.path()));
        (ran.code == Some(0)).then(|| std::fs::read(file.path()).unwrap())
    }

    /// The headers of an object in lower case.
    pub fn head(&self, key: &str) -> String {
        run_ok(self.curl(key).arg("--fail").arg("--head")).to_ascii_lowercase()
    }

    /// Stores an object.
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        run_ok(self.curl(key).arg("--fail").arg("--upload-file").arg(file.path()));
    }

    /// Stores an object with these headers (`name: value`), as a foreign client does.
    pub fn put_with(&self, key: &str, bytes: &[u8], headers: &[&str]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut command = self.curl(key);
        for header in headers {
            command.args(["--header", header]);
        }
        run_ok(command.arg("--fail").arg("--upload-file").arg(file.path()));
    }

    /// One header of an object, as a foreign client gets it.
    pub fn header(&self, key: &str, name: &str) -> Option<String> {
        let head = run_ok(self.curl(key).arg("--fail").arg("--head"));
        let found = head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        found.map(|line| line[name.len() + 1..].trim().to_owned())
    }

    /// Removes an object.
    pub fn delete(&self, key: &str) {
        run_ok(self.curl(key).arg("--fail").args(["--request", "DELETE"]));
    }

    /// All keys (up to 1,000).
    pub fn keys(&self) -> Vec<String> {
        let listing = run_ok(self.curl("?list-type=2").arg("--fail"));
        listing
            .split("<Key>")
            .skip(1)
            .filter_map(|rest| rest.split("</Key>").next())
            .map(str::to_owned)
            .collect()
    }

    fn curl(&self, path: &str) -> Command {
        let Account { endpoint, region, access_key, secret_key } = &self.0;
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--max-time", "60", "--path-as-is"]);
        command.args(["--header", "x-amz-content-sha256: UNSIGNED-PAYLOAD"]);
        command.arg("--aws-sigv4").arg(format!("aws:amz:{region}:s3"));
        command.arg("--user").arg(format!("{access_key}:{secret_key}"));
        // Keys in tests have nothing else that a URL has not.
        let path = path.replace(' ', "%20");
        command.arg(format!("{endpoint}/{BUCKET}/{path}").replace("/?", "?"));
        command
    }
}
