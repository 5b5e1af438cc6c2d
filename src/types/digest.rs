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
        // Bytes that follow multiply what came before by x^(8 * next_len), modulo the polynomial.
        let bits = (0..64).filter(|bit| next_len >> bit & 1 == 1);
        let shifted = bits.fold(self.0, |crc, bit| multiply(CRC64_BYTE_POWERS[bit], crc));
        Crc64(shifted ^ next.0)
    }
}

/// The polynomial of [`Crc64`], reflected: the highest bit is the coefficient of x^0.
const CRC64_POLYNOMIAL: u64 = 0x9a6c_9329_ac4b_c9b5;

/// `x^(8 * 2^n)` modulo the polynomial, for each n.
const CRC64_BYTE_POWERS: [u64; 64] = {
    let mut powers = [1 << (63 - 8); 64];
    let mut n = 1;
    while n < 64 {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// The product of two reflected polynomials, modulo the polynomial.
const fn multiply(a: u64, mut b: u64) -> u64 {
    let mut product = 0;
    let mut bit = 64;
    while bit > 0 {
        bit -= 1;
        product ^= b & 0u64.wrapping_sub(a >> bit & 1);
        b = (b >> 1) ^ (CRC64_POLYNOMIAL & 0u64.wrapping_sub(b & 1));
    }
    product
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
    fn crc64_combines_as_the_library_does() {
        for (a, b, len) in
            [(0, 0, 0), (1, 2, 1), (u64::MAX, 7, 4096), (0x1234_5678_9abc_def0, 3, (1 << 40) + 12_345)]
        {
            let expected = crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, a, b, len);
            assert_eq!(Crc64(a).then(Crc64(b), len), Crc64(expected), "{len} bytes");
        }
    }

    #[test]
    fn sha256_prints_lower_case_hex() {
        let digest = Sha256::of(b"abc").to_string();
        assert_eq!(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
