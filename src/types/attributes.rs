//! What a file has besides its bytes, as kept in object metadata.

use serde::{Deserialize, Serialize};

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

/// A file's attributes as its object's metadata carries them; what is `None` was never set.
///
/// Written in the convention that s3fs and rclone read: `mode` (decimal, with file type), `uid`, `gid`, `mtime`
/// (decimal seconds with up to nine decimals).
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
}
