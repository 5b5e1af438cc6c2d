//! Digests as values.

use std::fmt;

use crc_fast::CrcAlgorithm;
use serde::{Deserialize, Serialize};

/// CRC-64/NVME (reflected polynomial 9A6C9329AC4BC9B5, init and xorout all ones), the checksum S3 calls CRC64NVME.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Crc64(pub u64);

impl Crc64 {
    /// The checksum of no bytes.
    pub const EMPTY: Crc64 = Crc64(0);

    /// The checksum of these bytes.
    pub fn of(bytes: &[u8]) -> Crc64 {
        Crc64(crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes))
    }

    /// The checksum of the bytes of `self` followed by `next_len` bytes whose checksum is `next`.
    pub fn then(self, next: Crc64, next_len: u64) -> Crc64 {
        Crc64(crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, self.0, next.0, next_len))
    }
}

impl fmt::Display for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A SHA-256 value, printed as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Sha256 {
        use sha2::Digest;
        Sha256(sha2::Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc64_is_the_published_one_and_combines() {
        assert_eq!(Crc64::of(b"123456789"), Crc64(0xae8b_1486_0a79_9888));
        assert_eq!(Crc64::of(b"12345").then(Crc64::of(b"6789"), 4), Crc64::of(b"123456789"));
        assert_eq!(Crc64::EMPTY.then(Crc64::of(b"6789"), 4), Crc64::of(b"6789"));
        assert_eq!(Crc64::of(b""), Crc64::EMPTY);
    }

    #[test]
    fn sha256_prints_lower_case_hex() {
        let digest = Sha256::of(b"abc").to_string();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
