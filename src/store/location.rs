//! What a user calls a volume: `s3://bucket/prefix`, `file:///dir`.

use std::path::PathBuf;

/// A parsed volume URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A bucket, or the part of it below a prefix (empty, or ending in `/`).
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
    /// A local directory.
    Local {
        /// Its absolute path.
        directory: PathBuf,
    },
}

/// Why a text is no volume URL.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{url}' is no volume: {reason}")]
pub struct LocationError {
    url: String,
    reason: String,
}

impl std::str::FromStr for Location {
    type Err = LocationError;

    fn from_str(_url: &str) -> Result<Location, LocationError> {
        unimplemented!()
    }
}
