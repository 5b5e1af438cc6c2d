//! What a file has besides its bytes, as kept in object metadata.

use serde::{Deserialize, Serialize};

use crate::types::{Carried, Xattrs};

/// A moment in seconds and nanoseconds since 1970-01-01 UTC. `secs` may be negative, `nanos` is below 1,000,000,000.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub struct UnixTime {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// Nanoseconds within that second.
    pub nanos: u32,
}

impl UnixTime {
    /// A whole second.
    pub fn from_secs(secs: i64) -> UnixTime {
        UnixTime { secs, nanos: 0 }
    }
}

impl From<std::time::SystemTime> for UnixTime {
    fn from(time: std::time::SystemTime) -> UnixTime {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => UnixTime { secs: after.as_secs() as i64, nanos: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => UnixTime { secs: -(before.as_secs() as i64), nanos: 0 },
                    nanos => UnixTime { secs: -(before.as_secs() as i64) - 1, nanos: 1_000_000_000 - nanos },
                }
            }
        }
    }
}

impl From<UnixTime> for std::time::SystemTime {
    fn from(time: UnixTime) -> std::time::SystemTime {
        let whole = std::time::Duration::from_secs(time.secs.unsigned_abs());
        let base = if time.secs < 0 { std::time::UNIX_EPOCH - whole } else { std::time::UNIX_EPOCH + whole };
        base + std::time::Duration::from_nanos(u64::from(time.nanos))
    }
}

/// Most bytes of metadata that stores keep with an object, names included.
const METADATA_BYTES_MAX: usize = 2048;
/// Left of them for mode, owner, time and the upload's token, at their longest.
const OWN_BYTES: usize = 256;
/// Bytes of the name under which extended attributes are kept.
const XATTR_NAME_BYTES: usize = "x-amz-meta-xattr".len();

/// A file's attributes as its object's metadata carries them; what is `None` was never set.
///
/// Written in the convention that s3fs and rclone read: `mode` (decimal, with file type), `uid`, `gid`, `mtime`
/// (decimal seconds with up to nine decimals), `xattr`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Permission bits (the low twelve).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last change of the content as the program set or caused it.
    pub mtime: Option<UnixTime>,
    /// MIME type of the object. Guessed from the name when a program creates the file, kept when it is rewritten.
    pub content_type: Option<String>,
    /// Whether it is a symbolic link, whose target is the object's content.
    #[serde(default, skip_serializing_if = "is_false")]
    pub is_symlink: bool,
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "Xattrs::is_empty")]
    pub xattrs: Xattrs,
    /// What others have put there.
    #[serde(default, skip_serializing_if = "Carried::is_empty")]
    pub carried: Carried,
}

impl Attributes {
    /// Whether the store has room for them.
    pub fn fit(&self) -> bool {
        let xattrs = if self.xattrs.is_empty() { 0 } else { XATTR_NAME_BYTES + self.xattrs.encoded().len() };
        OWN_BYTES + xattrs + self.carried.metadata_bytes() <= METADATA_BYTES_MAX
    }

    /// Whether what a program can set is the same. Stores add a content type or a storage class of their own.
    pub fn agree_with(&self, other: &Attributes) -> bool {
        let own = |a: &Attributes| (a.mode, a.uid, a.gid, a.mtime, a.is_symlink);
        own(self) == own(other) && self.xattrs == other.xattrs
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_of_earlier_versions_are_read_and_new_ones_say_no_more_than_needed() {
        let old = r#"{"mode":420,"uid":null,"gid":null,"mtime":null,"content_type":null}"#;
        let attributes: Attributes = serde_json::from_str(old).unwrap();
        assert_eq!(attributes, Attributes { mode: Some(0o644), ..Attributes::default() });
        assert_eq!(serde_json::to_string(&attributes).unwrap(), old);
        let mut full = Attributes { is_symlink: true, ..attributes };
        full.xattrs.set("user.x", b"1");
        full.carried.set("cache-control", "no-store");
        let text = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<Attributes>(&text).unwrap(), full);
    }

    #[test]
    fn two_kibibytes_of_metadata_fit() {
        let mut attributes = Attributes::default();
        attributes.xattrs.set("user.x", &[0; 1200]);
        assert!(attributes.fit());
        attributes.xattrs.set("user.x", &[0; 1400]);
        assert!(!attributes.fit());
        let mut carried = Attributes::default();
        carried.carried.set("cache-control", &"x".repeat(3000));
        assert!(carried.fit(), "it is no metadata of the user's own");
        carried.carried.set("x-amz-meta-note", &"x".repeat(1800));
        assert!(!carried.fit());
    }
}
