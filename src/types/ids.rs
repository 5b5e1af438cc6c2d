//! Identities that are numbers or short random strings.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A file or directory as the kernel names it. Never 0; the root is 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Ino(pub u64);

impl Ino {
    /// The root of the mount.
    pub const ROOT: Ino = Ino(1);
}

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// An open file or directory as the kernel names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Fh(pub u64);

/// One upload of one content of one file, across restarts. Unique within a state directory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The 1-based number of a part of an upload. Its 0-based counterpart is its index.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PartNumber(u32);

impl PartNumber {
    /// The number of the part with this 0-based index.
    pub fn from_index(index: u32) -> PartNumber {
        PartNumber(index.checked_add(1).expect("part indices stay far below u32::MAX"))
    }

    /// The 0-based index.
    pub fn index(self) -> u32 {
        self.0 - 1
    }

    /// The 1-based number, as protocols write it.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A random mark put into an object's metadata, by which a lost answer to a commit is resolved:
/// an object that carries our token is the one we sent.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct UploadToken(String);

impl UploadToken {
    /// A token from 128 bits that no other upload has.
    pub fn from_bits(bits: u128) -> UploadToken {
        UploadToken(format!("{bits:032x}"))
    }

    /// A token read back from metadata or from the journal.
    pub fn from_text(text: &str) -> UploadToken {
        UploadToken(text.to_owned())
    }

    /// The token's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
