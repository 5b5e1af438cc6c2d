//! Where things are: names of the files of one volume's cache.
//!
//! ```text
//! <cache directory>/<first 32 hex digits of sha256(volume)>/lease     one process a volume
//!                                                      .../pins      what is never evicted (`pins.rs`)
//!                                                      .../total     how much there is at most (`total.rs`)
//!                                                      .../ab/cd..ef.data    bytes of an object at their own offsets
//!                                                      .../ab/cd..ef.map     which of them are here (`map.rs`)
//! ```
//!
//! `abcd..ef` is the SHA-256, in hex, of: each text (volume, key, etag) behind its length, the object's size, the chunk
//! size; numbers as 8 bytes little-endian. Two digits as a folder keep folders at some hundreds of files for 100,000
//! objects.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::cache::files::map::Header;
use crate::types::Sha256;

/// Suffix of chunk files.
pub(crate) const DATA_SUFFIX: &str = ".data";
/// Suffix of maps.
pub(crate) const MAP_SUFFIX: &str = ".map";

/// Name of the file that holds the pins.
pub(crate) const PINS_FILE: &str = "pins";
/// Name of the file that tells how much is on disk.
pub(crate) const TOTAL_FILE: &str = "total";

const VOLUME_DIGITS: usize = 32;
const SHARD_DIGITS: usize = 2;

/// The name under which one version of one object, cut in chunks of one size, is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Name([u8; 32]);

impl Name {
    pub(crate) fn of(header: &Header) -> Name {
        let mut bytes = Vec::with_capacity(header.encoded_bytes());
        for text in [&header.volume, &header.key, &header.etag] {
            bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        bytes.extend_from_slice(&header.size.to_le_bytes());
        bytes.extend_from_slice(&header.chunk_bytes.to_le_bytes());
        Name(Sha256::of(&bytes).0)
    }

    /// Reads back the name of a file without its suffix, from its folder's and its own name.
    pub(crate) fn parse(shard: &str, stem: &str) -> Option<Name> {
        let text = format!("{shard}{stem}");
        let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if shard.len() != SHARD_DIGITS || text.len() != 64 || !is_hex {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Name(bytes))
    }

    /// The folder it is in.
    pub(crate) fn shard(&self, volume_directory: &Path) -> PathBuf {
        volume_directory.join(&self.to_string()[..SHARD_DIGITS])
    }

    /// Its chunk file.
    pub(crate) fn data(&self, volume_directory: &Path) -> PathBuf {
        self.file(volume_directory, DATA_SUFFIX)
    }

    /// Its map.
    pub(crate) fn map(&self, volume_directory: &Path) -> PathBuf {
        self.file(volume_directory, MAP_SUFFIX)
    }

    fn file(&self, volume_directory: &Path, suffix: &str) -> PathBuf {
        let text = self.to_string();
        self.shard(volume_directory).join(format!("{}{suffix}", &text[SHARD_DIGITS..]))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Sha256(self.0), f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The folder of a volume.
pub(crate) fn volume_directory(directory: &Path, volume: &str) -> PathBuf {
    directory.join(&Sha256::of(volume.as_bytes()).to_string()[..VOLUME_DIGITS])
}

/// The names of all folders that chunk files are in.
pub(crate) fn shards() -> impl Iterator<Item = String> {
    (0..=u8::MAX).map(|shard| format!("{shard:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fixed_and_come_back() {
        let header = Header {
            volume: "memory".into(),
            key: "a".into(),
            etag: "1".into(),
            size: 10,
            chunk_bytes: 262_144,
        };
        let name = Name::of(&header);
        assert_eq!(name.to_string(), "d69b8a638bd585683fc0eb578ab155377d67bfbbaa476f62195d105811c8351c");
        let text = name.to_string();
        assert_eq!(Name::parse(&text[..2], &text[2..]), Some(name));
        assert_eq!(Name::parse(&text[..2], &text[3..]), None);
        assert_eq!(Name::parse("AB", &text[2..]), None);
        assert_eq!(
            name.data(Path::new("/c")).to_str(),
            Some(format!("/c/{}/{}.data", &text[..2], &text[2..]).as_str())
        );
        for other in [
            Header { key: "b".into(), ..header.clone() },
            Header { etag: "2".into(), ..header.clone() },
            Header { volume: "memor".into(), key: "ya".into(), ..header.clone() },
            Header { size: 11, ..header.clone() },
            Header { chunk_bytes: 4096, ..header.clone() },
        ] {
            assert_ne!(Name::of(&other), name);
        }
        assert_eq!(shards().count(), 256);
    }
}
