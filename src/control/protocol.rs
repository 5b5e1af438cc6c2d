//! What is said over the control socket, for both ends.
//!
//! A request is `{"version":1,"command":"status"}`, an answer `{"answer":"status",...}`, each on one line. Fields may be
//! added to answers without a new version; a request that an older daemon would misunderstand needs one.

use serde::{Deserialize, Serialize};

use crate::control::{CacheAnswer, CacheCommand};
use crate::fs::{Resolution, Status};
use crate::types::{Key, SessionId, UnixTime};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// One line to the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the client.
    pub version: u32,
    /// What is wanted.
    #[serde(flatten)]
    pub command: Command,
}

/// What a client can want.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    /// Who are you? Answered with [`Answer::Hello`].
    Hello,
    /// Everything about the mount. Answered with [`Answer::Status`].
    Status,
    /// Answered with [`Answer::Drain`] when all is in the bucket (or cannot go on), at the latest after `wait_ms`.
    Drain {
        /// Milliseconds; the daemon shortens long waits.
        wait_ms: u64,
        /// Only what was sealed before this session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<SessionId>,
    },
    /// Take what every file holds now for upload, also of those that are open. Answered with [`Answer::Sealed`].
    Seal,
    /// Unmount, upload what is left, and end. Answered with [`Answer::Unmounted`], or with [`ErrorCode::Busy`] while
    /// programs have files open; in that case nothing has changed.
    Unmount {
        /// Longest wait for uploads in milliseconds; `None` waits until nothing can go on.
        wait_ms: Option<u64>,
    },
    /// Take what a file held when the daemon died for complete and upload it. Answered with [`Answer::Done`].
    Commit {
        /// Which; an interrupted one.
        session: SessionId,
    },
    /// Give up an upload and its data. Answered with [`Answer::Done`].
    Discard {
        /// Which.
        session: SessionId,
    },
    /// Try uploads at once instead of after their pauses. Answered with [`Answer::Retried`].
    Retry {
        /// Which; `None` means all.
        session: Option<SessionId>,
    },
    /// Settle a conflict that was left to the user. Answered with [`Answer::Resolved`].
    Resolve {
        /// Which; a conflicted one.
        session: SessionId,
        /// How.
        resolution: Resolution,
    },
    /// Ask the bucket anew about these names. Answered with [`Answer::Done`].
    Refresh {
        /// By their paths in the mount, without a slash at either end.
        paths: Vec<String>,
        /// Also about everything below them.
        below: bool,
    },
    /// Something about the cache. Answered with [`Answer::Cache`].
    Cache(CacheCommand),
}

/// One line from the daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Command::Hello`].
    Hello(Hello),
    /// To [`Command::Status`].
    Status(Box<MountStatus>),
    /// To [`Command::Drain`].
    Drain(Box<DrainProgress>),
    /// To [`Command::Seal`].
    Sealed {
        /// What is sealed has sessions below this one: to be asked for with [`Command::Drain`].
        before: SessionId,
        /// Files whose changes could not be sealed.
        unsealed: Vec<Unsealed>,
    },
    /// To [`Command::Retry`].
    Retried {
        /// How many uploads are tried.
        uploads: usize,
    },
    /// To [`Command::Resolve`].
    Resolved {
        /// Where the upload goes now.
        key: Key,
    },
    /// To [`Command::Unmount`]: the mount is gone and the state directory free.
    Unmounted {
        /// What was left at the end; its sessions go on at the next mount.
        left: Status,
    },
    /// To [`Command::Cache`].
    Cache(Box<CacheAnswer>),
    /// It is done.
    Done,
    /// It is not done.
    Error {
        /// What kind of failure.
        code: ErrorCode,
        /// Why, and what to do.
        message: String,
    },
}

/// Why a request was not done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// The line is no request.
    BadRequest,
    /// Client and daemon speak different versions.
    Version,
    /// Programs have files of the mount open.
    Busy,
    /// It was tried and failed.
    Failed,
}

/// Who a daemon is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the daemon.
    pub version: u32,
    /// The release it was built from.
    pub release: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// What is mounted.
    pub url: String,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: UnixTime,
    /// What it is doing.
    pub phase: PhaseView,
}

/// What a daemon is doing, as told to clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseView {
    /// Not mounted yet.
    Starting,
    /// Mounted; uploads of an earlier mount are being finished.
    Recovering,
    /// Mounted.
    Serving,
    /// Asked to end; uploads are being finished.
    Draining,
    /// Ending.
    Stopped,
}

/// A picture of a mount.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MountStatus {
    /// Who and where.
    #[serde(flatten)]
    pub hello: Hello,
    /// `close`, `background` or `remote`.
    pub commit: crate::fs::CommitMode,
    /// Whether changes are refused.
    pub read_only: bool,
    /// Most bytes the cache may take.
    pub cache_bytes_max: u64,
    /// Most bytes staging files may take.
    pub staging_bytes_max: u64,
    /// How fast bytes move at present.
    pub rates: Rates,
    /// The server's present outage, if there is one.
    #[serde(default)]
    pub outage: Option<Outage>,
    /// The inside: uploads (`sessions`) and counters (`metrics`).
    #[serde(flatten)]
    pub inside: Status,
}

/// A time in which the server does not answer, or only to put off.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outage {
    /// Since when.
    pub since: UnixTime,
    /// What came of the last request.
    pub why: String,
}

/// Bytes a second, over the last few seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Rates {
    /// To the store.
    pub sent: u64,
    /// From the store.
    pub fetched: u64,
}

/// A file whose changes could not be taken for upload.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Unsealed {
    /// Its name.
    pub key: Key,
    /// Why.
    pub error: String,
}

/// How far a drain is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct DrainProgress {
    /// Whether nothing is left that can go on.
    pub is_settled: bool,
    /// Bytes a second at present.
    pub rates: Rates,
    /// What is not in the bucket.
    pub inside: Status,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_what_the_header_says() {
        let request = Request { version: 1, command: Command::Status };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"version":1,"command":"status"}"#);
        for (line, command) in [
            (r#"{"version":1,"command":"hello"}"#, Command::Hello),
            (r#"{"command":"drain","wait_ms":5,"version":1}"#, Command::Drain { wait_ms: 5, before: None }),
            (
                r#"{"command":"drain","wait_ms":5,"before":9,"version":1}"#,
                Command::Drain { wait_ms: 5, before: Some(SessionId(9)) },
            ),
            (r#"{"version":1,"command":"seal"}"#, Command::Seal),
            (r#"{"version":1,"command":"retry"}"#, Command::Retry { session: None }),
            (
                r#"{"version":1,"command":"resolve","session":7,"resolution":"keep-both"}"#,
                Command::Resolve { session: SessionId(7), resolution: Resolution::KeepBoth },
            ),
            (r#"{"version":1,"command":"unmount"}"#, Command::Unmount { wait_ms: None }),
            (r#"{"version":1,"command":"unmount","wait_ms":0}"#, Command::Unmount { wait_ms: Some(0) }),
            (r#"{"version":1,"command":"commit","session":7}"#, Command::Commit { session: SessionId(7) }),
            (
                r#"{"version":1,"command":"discard","session":18446744073709551615}"#,
                Command::Discard { session: SessionId(u64::MAX) },
            ),
            (
                r#"{"version":1,"command":"refresh","paths":["a/b"],"below":true}"#,
                Command::Refresh { paths: vec!["a/b".to_owned()], below: true },
            ),
        ] {
            assert_eq!(
                serde_json::from_str::<Request>(line).unwrap(),
                Request { version: 1, command },
                "{line}"
            );
        }
        let key = Key::new("a/b").unwrap();
        for (line, answer) in [
            (
                r#"{"answer":"sealed","before":9,"unsealed":[{"key":"a/b","error":"e"}]}"#,
                Answer::Sealed {
                    before: SessionId(9),
                    unsealed: vec![Unsealed { key: key.clone(), error: "e".to_owned() }],
                },
            ),
            (r#"{"answer":"retried","uploads":2}"#, Answer::Retried { uploads: 2 }),
            (r#"{"answer":"resolved","key":"a/b"}"#, Answer::Resolved { key }),
        ] {
            assert_eq!(serde_json::to_string(&answer).unwrap(), line);
            assert_eq!(serde_json::from_str::<Answer>(line).unwrap(), answer);
        }
        let answer = Answer::Error { code: ErrorCode::BadRequest, message: "m".to_owned() };
        let line = serde_json::to_string(&answer).unwrap();
        assert_eq!(line, r#"{"answer":"error","code":"bad-request","message":"m"}"#);
        assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
    }
}
