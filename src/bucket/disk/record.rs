//! The JSON records beside the data, the names of their files, and how one replaces another.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Crc64, ETag, Sha256, UnixTime};

/// Longest escaped key that still fits a file name with its suffix.
const NAME_BYTES_MAX: usize = 200;
/// Kept of a longer one, before its SHA-256.
const NAME_BYTES_KEPT: usize = 120;
/// Longest readable end of a data file's name.
const HINT_BYTES_MAX: usize = 48;

/// What a client says of an object besides its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct About {
    /// Content-Type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// Content-Encoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_encoding: Option<String>,
    /// Content-Language.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_language: Option<String>,
    /// Content-Disposition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_disposition: Option<String>,
    /// Cache-Control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// Storage class; `None` is STANDARD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// User metadata, without the `x-amz-meta-` of its headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

/// What is known of an object besides its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ObjectFacts {
    /// Its key.
    pub key: String,
    /// The version of its content.
    pub etag: ETag,
    /// When it was written.
    pub modified: UnixTime,
    /// What the client said of it.
    pub about: About,
    /// The upload it was completed from. After a crash between completion and clean-up the upload is known as done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
}

/// Some bytes of a data file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SliceRecord {
    /// The file's name in `data/`.
    pub file: String,
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
    /// CRC-64/NVME of these bytes.
    pub crc64: Crc64,
}

/// `objects/<name>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Everything but the bytes.
    pub facts: ObjectFacts,
    /// The bytes.
    pub slices: Vec<SliceRecord>,
}

/// `uploads/<id>/upload.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UploadRecord {
    /// The upload's id.
    pub id: String,
    /// The key it will have.
    pub key: String,
    /// When it was created.
    pub initiated: UnixTime,
    /// What the client said of the object.
    pub about: About,
}

/// `uploads/<id>/<part number>.json`.
#[derive(Debug, Serialize, Deserialize)]
pub struct PartRecord {
    /// Its number.
    pub number: u32,
    /// Its etag.
    pub etag: ETag,
    /// When it arrived.
    pub modified: UnixTime,
    /// The bytes.
    pub slices: Vec<SliceRecord>,
}

/// The file that holds the record of this key. Different keys have different names.
pub fn object_file(key: &str) -> String {
    let mut name = String::new();
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_' => name.push(char::from(byte)),
            _ => name.push_str(&format!("%{byte:02X}")),
        }
    }
    if name.len() > NAME_BYTES_MAX {
        name.truncate(NAME_BYTES_KEPT);
        // The tilde is escaped in names that are whole, so no such name can equal this one.
        name.push('~');
        name.push_str(&Sha256::of(key.as_bytes()).to_string());
    }
    name + ".json"
}

/// The last letters of a key that are harmless in a file name, so that a person finds a file's bytes.
pub fn hint(key: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let last = key.rsplit('/').find(|part| !part.is_empty()).unwrap_or("object");
    let mut hint: String =
        last.chars().rev().take(HINT_BYTES_MAX).map(|c| if harmless(c) { c } else { '_' }).collect();
    hint = hint.chars().rev().collect();
    hint
}

/// Writes a record so that a reader, also one after a crash, finds the old or the new one.
pub fn write<T: Serialize>(record: &T, tmp: &Path, target: &Path) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let draft = tmp.join(format!("{:016x}", fastrand::u64(..)));
    fs::write(&draft, text)?;
    fs::rename(&draft, target)
}

/// Reads a record.
pub fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The entries of a folder, in no order.
pub fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_key_has_a_file_name_of_its_own() {
        let long = "x".repeat(1024);
        let longer_tail = "x".repeat(1023) + "y";
        let spaces = " ".repeat(1024);
        let keys = [
            "d",
            "d/",
            "d/x",
            "d%2Fx",
            "..",
            ".",
            "a//b",
            "a/../b",
            "A",
            "a",
            "~",
            &long,
            &longer_tail,
            &spaces,
        ];
        let names: HashSet<String> = keys.iter().map(|key| object_file(key)).collect();
        assert_eq!(names.len(), keys.len());
        for name in names {
            assert!(name.len() <= 255 && !name.contains('/') && name != ".." && name != ".", "{name}");
        }
        assert_eq!(object_file("photos/a b.jpg"), "photos%2Fa%20b.jpg.json");
    }

    #[test]
    fn hints_are_harmless() {
        assert_eq!(hint("photos/2024/a b.jpg"), "a_b.jpg");
        assert_eq!(hint("dir/"), "dir");
        assert_eq!(hint("/"), "object");
        assert_eq!(hint(&"\u{e9}".repeat(400)), "_".repeat(HINT_BYTES_MAX));
    }
}
