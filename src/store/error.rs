//! What can go wrong between us and a store: a kind to branch on, and words for people.

use std::fmt;
use std::time::Duration;

use crate::types::Key;

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The operations of [`crate::store::ObjectStore`], for messages, counters and fault rules.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Op {
    /// `head`
    Head,
    /// `get`
    Get,
    /// `list`
    List,
    /// `put`
    Put,
    /// `copy`
    Copy,
    /// `delete`
    Delete,
    /// `delete_many`
    DeleteMany,
    /// `begin_upload`
    BeginUpload,
    /// `upload_status`
    UploadStatus,
    /// `put_part`
    PutPart,
    /// `copy_part`
    CopyPart,
    /// `complete_upload`
    CompleteUpload,
    /// `abort_upload`
    AbortUpload,
    /// Finding out what the server can do.
    Probe,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Head => "head",
            Op::Get => "get",
            Op::List => "list",
            Op::Put => "put",
            Op::Copy => "copy",
            Op::Delete => "delete",
            Op::DeleteMany => "delete many",
            Op::BeginUpload => "begin upload",
            Op::UploadStatus => "upload status",
            Op::PutPart => "put part",
            Op::CopyPart => "copy part",
            Op::CompleteUpload => "complete upload",
            Op::AbortUpload => "abort upload",
            Op::Probe => "probe",
        })
    }
}

/// What kind of failure it is, which decides what a caller may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// There is no such object.
    NotFound,
    /// There is no such bucket or directory.
    NoVolume,
    /// A precondition did not hold: another version is there, or there is one where none should be.
    Precondition,
    /// The store does not know the upload.
    UploadGone,
    /// Not now: refused connection, time-out, overload. Not applied, or safe to apply again.
    Unavailable {
        /// How long the server asks us to wait.
        retry_after: Option<Duration>,
    },
    /// The answer was lost; the change may have been applied.
    Ambiguous,
    /// Credentials are missing, wrong, expired or not allowed to do this.
    Denied,
    /// The store takes no object or part of this size.
    TooLarge,
    /// The store refuses the request as such.
    Refused,
    /// The answer breaks the protocol; its bytes must not be used.
    Protocol,
    /// Bytes arrived that do not have the checksum they should have.
    Integrity,
    /// This store cannot do it.
    Unsupported,
}

impl ErrorKind {
    /// Whether sending the same request again may help and can do no harm.
    pub fn is_retryable(self) -> bool {
        match self {
            ErrorKind::Unavailable { .. } | ErrorKind::Integrity => true,
            ErrorKind::NotFound
            | ErrorKind::NoVolume
            | ErrorKind::Precondition
            | ErrorKind::UploadGone
            | ErrorKind::Ambiguous
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Protocol
            | ErrorKind::Unsupported => false,
        }
    }
}

/// A failed store operation. Its text never holds a secret.
#[derive(Clone, Debug)]
pub struct Error {
    /// The operation.
    pub op: Op,
    /// What a caller may do about it.
    pub kind: ErrorKind,
    /// The object, where it is about one.
    pub key: Option<Key>,
    /// What happened, for people: the server's own code and message where it gave one.
    pub detail: String,
}

impl Error {
    /// An error about one object.
    pub fn on(op: Op, key: &Key, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error { op, kind, key: Some(key.clone()), detail: detail.into() }
    }

    /// An error about the volume.
    pub fn of(op: Op, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error { op, kind, key: None, detail: detail.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{} {key}: {}", self.op, self.detail),
            None => write!(f, "{}: {}", self.op, self.detail),
        }
    }
}

impl std::error::Error for Error {}
