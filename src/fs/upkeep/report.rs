//! What is wanted of the cache and what came of it: plain values, as the control socket sends them.
//!
//! Paths are those of the mount, from its root on, without a slash at either end; the root is the empty text. Pins are
//! told in the same way, a directory's with a slash at its end, the root's as `/`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::read;

/// Most files named of those that something went wrong with; the rest are counted.
const NAMES_MAX: usize = 100;

/// Work on the cache that may take long.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "work", rename_all = "kebab-case")]
pub enum Work {
    /// Tell what is cached of files, and of all files below directories. Ends with [`Outcome::Looked`].
    Stat {
        /// Which.
        paths: Vec<String>,
    },
    /// Note that files, and what is or will be below directories, are to stay. Ends with [`Outcome::Pinned`].
    Pin {
        /// Which.
        paths: Vec<String>,
    },
    /// Fetch what is not here. Ends with [`Outcome::Warmed`].
    Warm {
        /// Which.
        paths: Vec<String>,
    },
    /// Take files off the disk. Ends with [`Outcome::Evicted`].
    Evict {
        /// Which.
        paths: Vec<String>,
        /// Also those that are pinned.
        pinned_too: bool,
    },
    /// Check every chunk. Ends with [`Outcome::Verified`].
    Verify {
        /// Take damaged ones off the disk, so that they are fetched again when they are wanted.
        repair: bool,
    },
    /// Take everything off the disk that is neither in use nor pinned. Ends with [`Outcome::Purged`].
    Purge,
}

/// How far some work is. Totals grow while files are still being listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Progress {
    /// What is being done.
    pub stage: Stage,
    /// Files done.
    pub files: u64,
    /// Files in all, as far as is known.
    pub files_total: u64,
    /// Bytes done.
    pub bytes: u64,
    /// Bytes in all, as far as is known.
    pub bytes_total: u64,
}

/// What is being done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Finding out which files are meant.
    #[default]
    Listing,
    /// What was asked for.
    Working,
}

/// What came of some work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Of [`Work::Stat`]: in the order of the paths.
    Looked {
        /// One for each path.
        paths: Vec<PathReport>,
    },
    /// Of [`Work::Pin`].
    Pinned {
        /// The pins noted.
        pins: Vec<String>,
    },
    /// Of [`Work::Warm`].
    Warmed(WarmReport),
    /// Of [`Work::Evict`].
    Evicted(EvictReport),
    /// Of [`Work::Verify`].
    Verified(VerifyReport),
    /// Of [`Work::Purge`].
    Purged(PurgeReport),
}

/// A cache in numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct CacheNumbers {
    /// Whether new chunks are kept at this moment.
    pub is_keeping: bool,
    /// Why not.
    pub not_keeping: Option<String>,
    /// The volume's own folder; the cache directory where nothing is kept; empty without a cache.
    pub directory: PathBuf,
    /// Bytes on disk, at most.
    pub bytes: u64,
    /// Most bytes that may be.
    pub bytes_max: u64,
    /// Bytes that are to stay free on the disk.
    pub free_bytes_min: u64,
    /// Bytes that are free there.
    pub free_bytes: Option<u64>,
    /// Objects of which anything is here.
    pub objects: u64,
    /// Pins.
    pub pins: u64,
    /// Objects that a pin holds.
    pub pinned_objects: u64,
    /// Bytes of those.
    pub pinned_bytes: u64,
    /// Chunks served since the mount.
    pub hits: u64,
    /// Chunks that had to be fetched.
    pub misses: u64,
    /// Chunks that were damaged.
    pub damaged: u64,
    /// Chunks that were not kept.
    pub bypassed: u64,
    /// Bytes that made room for others.
    pub evicted_bytes: u64,
    /// Errors of the disk.
    pub failures: u64,
    /// Whether all that is on disk has been found yet.
    pub is_scanned: bool,
}

/// What is cached of a path.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PathReport {
    /// The path.
    pub path: String,
    /// Whether it is a directory; the numbers are sums over what is below it then.
    pub is_directory: bool,
    /// Files; 1 for a file.
    pub files: u64,
    /// Their bytes in the bucket.
    pub bytes: u64,
    /// How many of those are cached.
    pub cached_bytes: u64,
    /// Files that are cached as a whole; empty ones are.
    pub whole_files: u64,
    /// Files that are pinned.
    pub pinned_files: u64,
    /// Files with changes that are not in the bucket yet. Only `files` counts them too.
    pub changed_files: u64,
}

/// What a warming brought.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WarmReport {
    /// Files that were meant, those with local changes left aside.
    pub files: u64,
    /// Those that are cached as a whole now.
    pub whole_files: u64,
    /// Bytes of `files`.
    pub bytes: u64,
    /// How many of those are cached now.
    pub kept_bytes: u64,
    /// Bytes that were asked for because they were not here.
    pub fetched_bytes: u64,
    /// Most bytes that the cache takes.
    pub cache_bytes_max: u64,
    /// Why the cache keeps nothing new at this moment, when it does not.
    pub not_keeping: Option<String>,
    /// Files with changes that are not in the bucket yet.
    pub changed: LeftOut,
    /// Files that there is no room for. A file is fetched as a whole or not at all, unless the room is lost meanwhile.
    pub no_room: LeftOut,
    /// Files that could not be fetched.
    pub failed: LeftOut,
}

/// What an eviction took.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct EvictReport {
    /// Files of which something was taken off the disk.
    pub files: u64,
    /// Bytes of theirs that are no longer there.
    pub bytes: u64,
    /// Files that stay because they are in use.
    pub in_use: LeftOut,
    /// Files that stay because they are pinned.
    pub pinned: LeftOut,
    /// Files that stay because local changes need them.
    pub changed: LeftOut,
    /// Files that the disk does not let go.
    pub failed: LeftOut,
}

/// What a check found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Objects read.
    pub objects: u64,
    /// Chunks read.
    pub chunks: u64,
    /// Bytes of those.
    pub bytes: u64,
    /// Objects whose files are of no use as a whole.
    pub damaged_objects: u64,
    /// Chunks that do not check.
    pub damaged_chunks: u64,
    /// Objects taken off the disk.
    pub removed_objects: u64,
    /// Chunks taken off the disk.
    pub removed_chunks: u64,
    /// Whether everything could be read.
    pub is_complete: bool,
}

/// What a purge took.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PurgeReport {
    /// Objects taken off the disk.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that stay because they are in use.
    pub in_use_objects: u64,
    /// Their bytes.
    pub in_use_bytes: u64,
    /// Objects that stay because they are pinned.
    pub pinned_objects: u64,
    /// Their bytes.
    pub pinned_bytes: u64,
    /// Objects that the disk does not let go.
    pub failed_objects: u64,
    /// What the disk said to the first of those.
    pub failure: Option<String>,
}

/// What became of a wish to unpin.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Unpinned {
    /// The pins taken back: of the paths and of what is below them.
    pub removed: Vec<String>,
    /// Paths that stay pinned, each with the directory above it whose pin holds it.
    pub held: Vec<NamedFile>,
    /// Paths that were not pinned.
    pub unknown: Vec<String>,
}

/// Files that were left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LeftOut {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub named: Vec<NamedFile>,
}

/// A file that there is something to say about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamedFile {
    /// Its path.
    pub path: String,
    /// What there is to say.
    pub why: String,
}

impl From<read::VerifyReport> for VerifyReport {
    fn from(found: read::VerifyReport) -> VerifyReport {
        VerifyReport {
            objects: found.objects,
            chunks: found.chunks,
            bytes: found.bytes,
            damaged_objects: found.damaged_objects,
            damaged_chunks: found.damaged_chunks,
            removed_objects: found.removed_objects,
            removed_chunks: found.removed_chunks,
            is_complete: found.is_complete,
        }
    }
}

impl LeftOut {
    /// Adds a file.
    pub fn add(&mut self, path: &str, why: impl Into<String>) {
        self.count += 1;
        if self.named.len() < NAMES_MAX {
            self.named.push(NamedFile { path: path.to_owned(), why: why.into() });
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_over_the_socket_comes_back() {
        for (work, line) in [
            (Work::Purge, r#"{"work":"purge"}"#),
            (Work::Warm { paths: vec!["a/b".to_owned()] }, r#"{"work":"warm","paths":["a/b"]}"#),
            (
                Work::Evict { paths: vec![], pinned_too: true },
                r#"{"work":"evict","paths":[],"pinned_too":true}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&work).unwrap(), line);
            assert_eq!(serde_json::from_str::<Work>(line).unwrap(), work);
        }
        let outcome = Outcome::Purged(PurgeReport { objects: 1, ..PurgeReport::default() });
        let line = serde_json::to_string(&outcome).unwrap();
        assert_eq!(
            line,
            r#"{"outcome":"purged","objects":1,"bytes":0,"in_use_objects":0,"in_use_bytes":0,"pinned_objects":0,"pinned_bytes":0,"failed_objects":0,"failure":null}"#
        );
        assert_eq!(serde_json::from_str::<Outcome>(&line).unwrap(), outcome);
    }

    #[test]
    fn only_the_first_of_many_are_named() {
        let mut left_out = LeftOut::default();
        assert!(left_out.is_empty());
        for number in 0..NAMES_MAX + 5 {
            left_out.add(&number.to_string(), "w");
        }
        assert_eq!((left_out.count, left_out.named.len()), (NAMES_MAX as u64 + 5, NAMES_MAX));
        assert_eq!(left_out.named[1], NamedFile { path: "1".to_owned(), why: "w".to_owned() });
    }
}
