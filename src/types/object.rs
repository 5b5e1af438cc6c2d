//! Remote objects: their keys, their versions, what is known of them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::types::{Attributes, Crc64, UnixTime, UploadToken};

/// Longest key any supported store takes, in bytes of UTF-8.
const KEY_BYTES_MAX: usize = 1024;

/// The name of an object within the mounted volume: not empty, at most 1,024 bytes of UTF-8, no NUL.
///
/// The volume's own prefix is not part of it: a back end adds the prefix on the way out and cuts it on the way in.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(Arc<str>);

impl Key {
    /// Checks and wraps a key.
    pub fn new(text: &str) -> Result<Key, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong { bytes: text.len() });
        }
        if text.contains('\0') {
            return Err(KeyError::Nul);
        }
        Ok(Key(Arc::from(text)))
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;

    fn try_from(text: String) -> Result<Key, KeyError> {
        Key::new(&text)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> String {
        key.0.to_string()
    }
}

/// Why a text is no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeyError {
    /// Keys have at least one byte.
    #[error("an object key cannot be empty")]
    Empty,
    /// Stores take at most 1,024 bytes.
    #[error("an object key has at most 1024 bytes, this one has {bytes}")]
    TooLong {
        /// The length found.
        bytes: usize,
    },
    /// No store takes NUL.
    #[error("an object key cannot contain a NUL byte")]
    Nul,
}

/// The store's name for one version of an object: opaque, compared byte for byte, without quotes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Wraps an etag as a server wrote it; surrounding quotes are cut.
    pub fn new(text: &str) -> ETag {
        let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        ETag(Arc::from(bare))
    }

    /// The etag without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Weak validators say "about the same", which no byte range may be pinned to.
    pub fn is_weak(&self) -> bool {
        self.0.starts_with("W/")
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which bytes: another version of an object is another id, so data kept under an id never needs invalidation.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ObjectId {
    /// The object's key.
    pub key: Key,
    /// The version of its content.
    pub etag: ETag,
    /// Its length in bytes.
    pub size: u64,
}

/// What a store tells of an object in a HEAD, a listing or the answer to a write.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectMeta {
    /// Which bytes.
    pub id: ObjectId,
    /// When the store last wrote it.
    pub modified: UnixTime,
    /// Mode, owner and times kept in the object's metadata. `None` where the answer does not carry metadata (listings).
    pub attributes: Option<Attributes>,
    /// The token of the upload that made it, where the answer carries metadata and the object is ours.
    pub token: Option<UploadToken>,
    /// CRC-64/NVME of the whole object, where the store has it.
    pub crc64: Option<Crc64>,
}
