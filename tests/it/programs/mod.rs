//! Real programs, unmodified, on a real mount: each does the same there and in a directory of the local disk, and both must
//! be the same afterwards, at once and after a remount, and in the bucket, which has nothing else. Over the embedded bucket
//! and over a server that others wrote.

mod databases;
mod editing;
mod garage;
mod trees;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::{Bucket, Client, Foreign, Rig, Served, wait_for};

/// Longest that one script may take.
const SCRIPT_LIMIT: &str = "120";
const COMMIT_LIMIT: Duration = Duration::from_secs(60);

/// A mount and a local directory in which the same is done.
pub struct Twins<B: Served = Bucket> {
    pub rig: Rig<B>,
    local: TempDir,
}

/// What a server has, seen from outside the mount.
pub trait Contents: Served {
    fn keys(&self) -> Vec<String>;
    fn object(&self, key: &str) -> Option<Vec<u8>>;
}

impl Contents for Bucket {
    fn keys(&self) -> Vec<String> {
        self.all_keys()
    }

    fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.find(key)
    }
}

impl Contents for Foreign {
    fn keys(&self) -> Vec<String> {
        Client::of(self).keys()
    }

    fn object(&self, key: &str) -> Option<Vec<u8>> {
        Client::of(self).get(key)
    }
}

impl Twins {
    /// Over the embedded bucket.
    pub fn new(options: &[&str]) -> Twins {
        Twins::over(Bucket::start(), options)
    }
}

impl<B: Contents> Twins<B> {
    pub fn over(bucket: B, options: &[&str]) -> Twins<B> {
        let mut rig = Rig::over(bucket);
        rig.mount(options);
        Twins { rig, local: tempfile::tempdir().unwrap() }
    }

    /// Runs a script in both, on the local disk first; what it prints must be the same.
    pub fn run(&self, script: &str) {
        let there = self.local(script);
        let here = self.mounted(script);
        let text = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(text(&here), text(&there), "{script}");
    }

    /// Runs a script in the mount alone.
    pub fn mounted(&self, script: &str) -> Output {
        run_in(&self.rig.mountpoint(), script)
    }

    /// Runs a script in the local directory alone.
    pub fn local(&self, script: &str) -> Output {
        run_in(self.local.path(), script)
    }

    /// Compares both, then again after a remount, and what the bucket has.
    pub fn compare(&mut self) {
        let expected = tree(self.local.path());
        assert_eq!(tree(&self.rig.mountpoint()), expected);
        wait_for("all is in the bucket", COMMIT_LIMIT, || {
            self.rig.status()["sessions"].as_array().is_some_and(Vec::is_empty)
        });
        self.rig.unmount();
        for (path, node) in &expected {
            if let Node::File(bytes, _) = node {
                let found = self.rig.bucket.object(path);
                assert!(found.as_ref() == Some(bytes), "{path} in the bucket");
            }
        }
        let keys = self.rig.bucket.keys();
        let strange = keys.iter().find(|key| !expected.contains_key(key.trim_end_matches('/')));
        assert_eq!(strange, None, "in the bucket alone");
        self.rig.mount_again();
        assert_eq!(tree(&self.rig.mountpoint()), expected, "after a remount");
    }
}

fn run_in(directory: &Path, script: &str) -> Output {
    let output = Command::new("timeout")
        .args([SCRIPT_LIMIT, "bash", "-euc", script])
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_AUTHOR_NAME", "Author")
        .env("GIT_AUTHOR_EMAIL", "author@example.org")
        .env("GIT_COMMITTER_NAME", "Author")
        .env("GIT_COMMITTER_EMAIL", "author@example.org")
        .env("GIT_AUTHOR_DATE", "2026-01-01T00:00:00Z")
        .env("GIT_COMMITTER_DATE", "2026-01-01T00:00:00Z")
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} of {script}\nin {}\n{errors}", output.status, directory.display());
    output
}

/// What a directory has under a name.
#[derive(PartialEq, Eq)]
enum Node {
    /// With its mode.
    Directory(u32),
    /// With its mode.
    File(Vec<u8>, u32),
    Link(PathBuf),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Node::Directory(mode) => write!(f, "directory {mode:o}"),
            Node::File(bytes, mode) => {
                write!(f, "{} bytes {:.8} {mode:o}", bytes.len(), crate::support::sha256(bytes))
            }
            Node::Link(target) => write!(f, "-> {}", target.display()),
        }
    }
}

fn tree(root: &Path) -> BTreeMap<String, Node> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            let (kind, mode) = (meta.file_type(), meta.mode() & 0o7777);
            let node = if kind.is_dir() {
                left.push(path);
                Node::Directory(mode)
            } else if kind.is_symlink() {
                Node::Link(fs::read_link(&path).unwrap())
            } else {
                Node::File(fs::read(&path).unwrap(), mode)
            };
            found.insert(name, node);
        }
    }
    found
}
