//! What is computed over a body on its way to disk, and what the client claims it to be.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use http::{HeaderMap, HeaderName};
use md5::{Digest, Md5};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Sha1, Sha256};

use crate::bucket::disk::Refusal;
use crate::bucket::quirks::Quirks;
use crate::types::{Crc64, ETag};

const CRC64NVME: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");
const CRC32: HeaderName = HeaderName::from_static("x-amz-checksum-crc32");
const CRC32C: HeaderName = HeaderName::from_static("x-amz-checksum-crc32c");
const SHA1: HeaderName = HeaderName::from_static("x-amz-checksum-sha1");
const SHA256: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");
const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");
const TRAILER: HeaderName = HeaderName::from_static("x-amz-trailer");

/// Digests of the bytes so far.
pub struct Digests {
    md5: Option<Md5>,
    crc64: crc_fast::Digest,
    len: u64,
    others: ChecksumHasher,
}

impl Default for Digests {
    fn default() -> Digests {
        Digests {
            md5: Some(Md5::new()),
            crc64: crc_fast::Digest::new(CrcAlgorithm::Crc64Nvme),
            len: 0,
            others: ChecksumHasher::default(),
        }
    }
}

impl Digests {
    /// Those that a request needs.
    pub fn wanted(headers: &HeaderMap, quirks: &Quirks) -> Digests {
        let wants = |name: &HeaderName| {
            let trailer = headers.get(TRAILER).and_then(|names| names.to_str().ok()).unwrap_or_default();
            headers.contains_key(name) || trailer.split(',').any(|found| found.trim() == name.as_str())
        };
        let mut digests = Digests::default();
        digests.others.crc32 = wants(&CRC32).then(Crc32::new);
        digests.others.crc32c = wants(&CRC32C).then(Crc32c::new);
        digests.others.sha1 = wants(&SHA1).then(Sha1::new);
        digests.others.sha256 = wants(&SHA256).then(Sha256::new);
        if quirks.hides_md5 && !headers.contains_key(CONTENT_MD5) {
            digests.md5 = None;
        }
        digests
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        self.crc64.update(bytes);
        self.others.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// CRC-64/NVME of the bytes.
    pub fn crc64(&self) -> Crc64 {
        Crc64(self.crc64.finalize())
    }

    /// The etag of an object or part with these bytes: their MD5, or with [`Quirks::hides_md5`] another name for them.
    pub fn etag(&self) -> ETag {
        match &self.md5 {
            Some(md5) => ETag::new(&hex(&md5.clone().finalize())),
            None => ETag::new(&format!("{:016x}{:016x}", self.crc64().0, self.len)),
        }
    }

    /// Compares with what the request claims in its headers, or in trailers sent behind the body.
    pub fn check(self, headers: &HeaderMap, trailers: &HeaderMap, quirks: &Quirks) -> Result<(), Refusal> {
        let crc64 = to_base64(self.crc64());
        let md5 = self.md5.map(|md5| STANDARD.encode(md5.finalize()));
        let others = self.others.finalize();
        let computed = [
            (CONTENT_MD5, md5),
            (CRC64NVME, (!quirks.knows_no_crc64nvme).then_some(crc64)),
            (CRC32, others.checksum_crc32),
            (CRC32C, others.checksum_crc32c),
            (SHA1, others.checksum_sha1),
            (SHA256, others.checksum_sha256),
        ];
        for (name, value) in computed {
            let claimed = headers.get(&name).or_else(|| trailers.get(&name));
            if let (Some(claimed), Some(value)) = (claimed, value)
                && claimed.as_bytes() != value.as_bytes()
            {
                return Err(Refusal::BadDigest);
            }
        }
        Ok(())
    }
}

/// The etag of a completed upload: MD5 over the MD5s of its parts, and their number, as S3 computes it.
pub fn multipart_etag<'a>(parts: impl ExactSizeIterator<Item = &'a ETag>) -> ETag {
    let count = parts.len();
    let mut md5 = Md5::new();
    for etag in parts {
        match from_hex(etag.as_str()) {
            Some(raw) => md5.update(raw),
            None => md5.update(etag.as_str()),
        }
    }
    ETag::new(&format!("{}-{count}", hex(&md5.finalize())))
}

/// The etag of a part that was copied. Names its bytes by where they come from: to hash them all would make a copy as
/// slow as an upload, and clients may not take etags for hashes.
pub fn copied_etag(source: &ETag, from: &crate::types::ByteRange) -> ETag {
    ETag::new(&hex(&Md5::digest(format!("{source} {}-{}", from.start, from.end))))
}

/// As S3 writes a CRC-64: base64 of its eight bytes, most significant first.
pub fn to_base64(crc64: Crc64) -> String {
    STANDARD.encode(crc64.0.to_be_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digests_of(bytes: &[u8]) -> Digests {
        let mut digests = Digests::default();
        digests.update(bytes);
        digests
    }

    #[test]
    fn etags_are_those_of_s3() {
        let part = digests_of(b"hello world").etag();
        assert_eq!(part.as_str(), "5eb63bbbe01eeed093cb22bb8f5acdc3");
        // md5(raw md5("hello world") twice).
        let whole = multipart_etag([part.clone(), part].iter());
        assert_eq!(whole.as_str(), "f057f37734d5fb132a69d44a61780026-2");
    }

    #[test]
    fn claims_are_compared() {
        let mut headers = HeaderMap::new();
        headers.insert(CRC64NVME, to_base64(Crc64::of(b"abc")).parse().unwrap());
        headers.insert(CRC32, "NSRBwg==".parse().unwrap());
        let check = |bytes: &[u8], quirks: &Quirks| {
            let mut digests = Digests::wanted(&headers, quirks);
            digests.update(bytes);
            digests.check(&headers, &HeaderMap::new(), quirks).is_ok()
        };
        assert!(check(b"abc", &Quirks::default()));
        assert!(!check(b"abd", &Quirks::default()));
        headers.remove(CRC32);
        let check = |bytes: &[u8], quirks: &Quirks| {
            let digests = digests_of(bytes);
            digests.check(&headers, &HeaderMap::new(), quirks).is_ok()
        };
        assert!(!check(b"abd", &Quirks::default()));
        assert!(check(b"abd", &Quirks { knows_no_crc64nvme: true, ..Quirks::default() }));
    }
}
