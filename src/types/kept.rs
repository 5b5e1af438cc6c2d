//! What an object carries besides bytes, mode, owner and time: extended attributes, and what other tools put there.
//!
//! Most objects have neither, so an empty collection takes no memory of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// What s3fs leaves as it is when it writes a header.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'.').remove(b'-').remove(b'_').remove(b'~');

/// Base64 as s3fs writes it, read with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The name of the header that tells where a store keeps an object's bytes.
const STORAGE_CLASS: &str = "x-amz-storage-class";
/// Prefix of headers with metadata of the user's own.
const USER_PREFIX: &str = "x-amz-meta-";
/// What names of metadata have in them that tells of the bytes: checksums, and the block of s3cmd that has one.
const ABOUT_BYTES: [&str; 9] =
    ["md5", "sha1", "sha256", "sha512", "crc32", "crc64", "chksum", "checksum", "s3cmd-attrs"];

/// The extended attributes of an object by their full names, also those that are not shown.
///
/// Written as s3fs does: a percent-encoded JSON object with the values in base64.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Xattrs(Option<Arc<BTreeMap<String, Vec<u8>>>>);

impl Xattrs {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The value of one.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.as_ref()?.get(name).map(Vec::as_slice)
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|all| all.keys().map(String::as_str))
    }

    /// Sets one.
    pub fn set(&mut self, name: &str, value: &[u8]) {
        Arc::make_mut(self.0.get_or_insert_default()).insert(name.to_owned(), value.to_vec());
    }

    /// Takes one away. Says whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(all) = &mut self.0 else { return false };
        let was_there = Arc::make_mut(all).remove(name).is_some();
        self.0.take_if(|all| all.is_empty());
        was_there
    }

    /// As s3fs writes it; empty where there are none.
    pub fn encoded(&self) -> String {
        let Some(all) = &self.0 else { return String::new() };
        let values: BTreeMap<&str, String> =
            all.iter().map(|(name, value)| (name.as_str(), BASE64.encode(value))).collect();
        let json = serde_json::to_string(&values).expect("names and values are text");
        utf8_percent_encode(&json, ENCODED).to_string()
    }

    /// Reads what s3fs wrote. What makes no sense is as good as none.
    pub fn decode(text: &str) -> Xattrs {
        let json = percent_decode_str(text).decode_utf8_lossy();
        let values: BTreeMap<String, String> = serde_json::from_str(&json).unwrap_or_default();
        let decoded = |(name, value): (String, String)| Some((name, BASE64.decode(value).ok()?));
        let all: BTreeMap<String, Vec<u8>> = values.into_iter().filter_map(decoded).collect();
        Xattrs((!all.is_empty()).then(|| Arc::new(all)))
    }
}

impl From<Xattrs> for String {
    fn from(xattrs: Xattrs) -> String {
        xattrs.encoded()
    }
}

impl From<String> for Xattrs {
    fn from(text: String) -> Xattrs {
        Xattrs::decode(&text)
    }
}

/// Headers that others have given an object and that mean nothing here, by name in lower case. They go along whenever
/// the object is replaced or copied.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Carried(Option<Arc<BTreeMap<String, String>>>);

impl Carried {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Names and values, in order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|all| all.iter().map(|(name, value)| (name.as_str(), value.as_str())))
    }

    /// Adds one.
    pub fn set(&mut self, name: &str, value: &str) {
        Arc::make_mut(self.0.get_or_insert_default()).insert(name.to_owned(), value.to_owned());
    }

    /// Where the store keeps the bytes, if it told.
    pub fn storage_class(&self) -> Option<&str> {
        self.0.as_ref()?.get(STORAGE_CLASS).map(String::as_str)
    }

    /// Bytes of names and values that count as the user's own metadata.
    pub fn metadata_bytes(&self) -> usize {
        let own = self.iter().filter(|(name, _)| name.starts_with(USER_PREFIX));
        own.map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The bytes are going to be other ones: drops what tells of those that were, or tools that compare checksums would
    /// call the new ones damaged.
    pub fn forget_bytes(&mut self) {
        let is_about_bytes = |name: &str| {
            name.strip_prefix(USER_PREFIX)
                .is_some_and(|own| ABOUT_BYTES.iter().any(|word| own.contains(word)))
        };
        if let Some(all) = self.0.as_mut().filter(|all| all.keys().any(|name| is_about_bytes(name))) {
            Arc::make_mut(all).retain(|name, _| !is_about_bytes(name));
        }
        self.0.take_if(|all| all.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn extended_attributes_are_written_as_s3fs_does() {
        let mut xattrs = Xattrs::default();
        assert_eq!(xattrs.encoded(), "");
        xattrs.set("user.b", b"\x00\xff~");
        xattrs.set("user.a", b"");
        let text = "%7B%22user.a%22%3A%22%22%2C%22user.b%22%3A%22AP9%2B%22%7D";
        assert_eq!(xattrs.encoded(), text);
        assert_eq!(Xattrs::decode(text), xattrs);
        assert_eq!(xattrs.names().collect::<Vec<_>>(), ["user.a", "user.b"]);
        assert!(xattrs.remove("user.a") && !xattrs.remove("user.a") && xattrs.remove("user.b"));
        assert!(xattrs.is_empty(), "the last one leaves nothing");
        assert_eq!(xattrs, Xattrs::default());
    }

    #[test]
    fn what_others_wrote_is_read_or_none() {
        assert!(Xattrs::decode("%7B%7D").is_empty());
        assert!(Xattrs::decode("not json").is_empty() && Xattrs::decode("%FF").is_empty());
        let loose = Xattrs::decode(r#"{"user.a":"AP9+", "system.posix_acl_access": "AgA","bad":"*"}"#);
        assert_eq!(loose.get("user.a"), Some(&b"\x00\xff~"[..]));
        assert_eq!(loose.get("system.posix_acl_access"), Some(&b"\x02\x00"[..]));
        assert_eq!(loose.get("bad"), None);
    }

    #[test]
    fn other_bytes_have_other_checksums() {
        let mut carried = Carried::default();
        carried.set("cache-control", "max-age=60");
        carried.set("x-amz-meta-md5chksum", "1B2M2Y8AsgTpgAmY7PhCfg==");
        carried.set("x-amz-meta-project", "x");
        carried.set(STORAGE_CLASS, "STANDARD_IA");
        assert_eq!(carried.metadata_bytes(), 20 + 24 + 18 + 1);
        carried.forget_bytes();
        let left: Vec<_> = carried.iter().map(|(name, _)| name).collect();
        assert_eq!(left, ["cache-control", "x-amz-meta-project", STORAGE_CLASS]);
        assert_eq!(carried.storage_class(), Some("STANDARD_IA"));
        let mut only = Carried::default();
        only.set("x-amz-meta-s3cmd-attrs", "md5:0");
        only.forget_bytes();
        assert!(only.is_empty());
    }

    proptest! {
        #[test]
        fn extended_attributes_come_back(
            given in proptest::collection::btree_map("user\\.\\PC{1,20}", proptest::collection::vec(any::<u8>(), 0..40), 0..4)
        ) {
            let mut xattrs = Xattrs::default();
            given.iter().for_each(|(name, value)| xattrs.set(name, value));
            let text = xattrs.encoded();
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(Xattrs::decode(&text), xattrs);
        }
    }
}
