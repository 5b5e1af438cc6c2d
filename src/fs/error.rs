//! Failures by meaning, and the one place where they become error numbers.

use crate::write::{StoreError, StoreErrorKind};
use crate::{namespace, read, write};

/// The result of a file operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a file operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// No such name.
    #[error("no such file or directory")]
    NotFound,
    /// The name is taken.
    #[error("the name is taken")]
    Exists,
    /// A file where a directory is needed.
    #[error("not a directory")]
    NotDirectory,
    /// A directory where a file is needed.
    #[error("is a directory")]
    IsDirectory,
    /// The directory has entries.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The name, or the key it makes, is too long.
    #[error("the name is too long")]
    NameTooLong,
    /// The name cannot be part of an object key.
    #[error("the name cannot be part of an object key")]
    BadName,
    /// The version of an object that a handle reads is gone, or another writer's version is in the way.
    #[error("stale: {0}")]
    Stale(String),
    /// The inode is not the one that its name leads to: looking the name up again leads to the right one, which is what
    /// the kernel does by itself where a path was given.
    #[error("the name leads to another inode by now")]
    Superseded,
    /// A handle that is not open, or not open for this.
    #[error("bad file handle")]
    BadHandle,
    /// The arguments make no sense.
    #[error("invalid argument")]
    Invalid,
    /// The mount takes no changes.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The volume cannot do this at all.
    #[error("not supported: {0}")]
    NotPermitted(&'static str),
    /// Not in this way: programs know another one.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// No such extended attribute.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The value of an extended attribute is larger than any can be.
    #[error("the value of an extended attribute is too long")]
    AttributeTooLong,
    /// The object has no room for more metadata.
    #[error("an object has room for two KiB of metadata")]
    AttributesFull,
    /// The staging limit is reached.
    #[error("{0}")]
    NoSpace(String),
    /// The local disk refuses, with this error number.
    #[error("{detail}")]
    Disk {
        /// The system's number.
        errno: i32,
        /// What was tried.
        detail: String,
    },
    /// The store denies it.
    #[error("denied: {0}")]
    Denied(String),
    /// The object is larger than the store takes.
    #[error("too large: {0}")]
    TooLarge(String),
    /// It did not happen in time; what was written is kept and goes on.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// Anything else that went wrong out there.
    #[error("{0}")]
    Io(String),
}

impl Error {
    /// The error number a program gets, and the only place that knows it.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotFound => libc::ENOENT,
            Error::Exists => libc::EEXIST,
            Error::NotDirectory => libc::ENOTDIR,
            Error::IsDirectory => libc::EISDIR,
            Error::NotEmpty => libc::ENOTEMPTY,
            Error::NameTooLong => libc::ENAMETOOLONG,
            Error::BadName => libc::EILSEQ,
            Error::Stale(_) | Error::Superseded => libc::ESTALE,
            Error::BadHandle => libc::EBADF,
            Error::Invalid => libc::EINVAL,
            Error::ReadOnly => libc::EROFS,
            Error::NotPermitted(_) => libc::EPERM,
            Error::Unsupported(_) => libc::EOPNOTSUPP,
            Error::NoAttribute => libc::ENODATA,
            Error::AttributeTooLong => libc::E2BIG,
            Error::AttributesFull => libc::ENOSPC,
            Error::NoSpace(_) => libc::ENOSPC,
            Error::Disk { errno, .. } => *errno,
            Error::Denied(_) => libc::EACCES,
            Error::TooLarge(_) => libc::EFBIG,
            Error::TimedOut(_) => libc::ETIMEDOUT,
            Error::Io(_) => libc::EIO,
        }
    }

    /// Whether an operator should hear of it. The rest are answers that programs ask for every day.
    pub fn is_unexpected(&self) -> bool {
        match self {
            Error::Stale(_)
            | Error::NoSpace(_)
            | Error::Disk { .. }
            | Error::Denied(_)
            | Error::TooLarge(_)
            | Error::TimedOut(_)
            | Error::Io(_) => true,
            Error::NotFound
            | Error::Exists
            | Error::NotDirectory
            | Error::IsDirectory
            | Error::NotEmpty
            | Error::NameTooLong
            | Error::BadName
            | Error::Superseded
            | Error::BadHandle
            | Error::Invalid
            | Error::ReadOnly
            | Error::NotPermitted(_)
            | Error::Unsupported(_)
            | Error::NoAttribute
            | Error::AttributeTooLong
            | Error::AttributesFull => false,
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        let text = error.to_string();
        match error.kind {
            StoreErrorKind::NotFound => Error::NotFound,
            StoreErrorKind::Denied => Error::Denied(text),
            StoreErrorKind::TooLarge => Error::TooLarge(text),
            StoreErrorKind::Unavailable { .. } => Error::TimedOut(text),
            StoreErrorKind::Precondition => Error::Stale(text),
            StoreErrorKind::Unsupported => Error::NotPermitted("the store cannot do it"),
            StoreErrorKind::NoVolume
            | StoreErrorKind::UploadGone
            | StoreErrorKind::Ambiguous
            | StoreErrorKind::Refused
            | StoreErrorKind::Protocol
            | StoreErrorKind::Integrity => Error::Io(text),
        }
    }
}

impl From<namespace::Error> for Error {
    fn from(error: namespace::Error) -> Error {
        match error {
            namespace::Error::NotFound => Error::NotFound,
            namespace::Error::Exists => Error::Exists,
            namespace::Error::NotDirectory => Error::NotDirectory,
            namespace::Error::IsDirectory => Error::IsDirectory,
            namespace::Error::NotEmpty => Error::NotEmpty,
            namespace::Error::NameTooLong => Error::NameTooLong,
            namespace::Error::BadName => Error::BadName,
            namespace::Error::Stale => Error::Superseded,
            namespace::Error::Store(error) => error.into(),
        }
    }
}

impl From<read::Error> for Error {
    fn from(error: read::Error) -> Error {
        match error {
            read::Error::Gone(object) => {
                Error::Stale(format!("{} was replaced or removed in the bucket", object.key))
            }
            read::Error::Store(error) => error.into(),
        }
    }
}

impl From<write::Error> for Error {
    fn from(error: write::Error) -> Error {
        let text = error.to_string();
        match error {
            write::Error::StagingFull { .. } => Error::NoSpace(text),
            write::Error::Staging { errno, detail } => Error::Disk { errno, detail },
            write::Error::Timeout { .. } => Error::TimedOut(text),
            write::Error::Conflict { .. } | write::Error::BaseGone { .. } => Error::Stale(text),
            write::Error::Store(error) => error.into(),
        }
    }
}
