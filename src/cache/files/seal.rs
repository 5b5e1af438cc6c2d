//! The seal of a map: what has been found of a completely cached object, and for which state of its chunk file.
//!
//! Format 2, behind the slots (see `map.rs`). Integers are little-endian.
//!
//! ```text
//!   0   8  CRC-64/NVME of the whole object
//!   8   4  marker "SEAL"
//!  12   4  verdict: 1 the store has this checksum for it as well, 2 the store has none
//!  16  16  boot in which all chunks were proven, or zeros: they were not
//!  32   8  device ... of the chunk file at that moment
//!  40   8  inode
//!  48   8  time of status change, nanoseconds since 1970
//!  56   8  CRC-64/NVME of the header's checksum (8 bytes) and the bytes before
//! ```
//!
//! It says two things with two lives. The verdict is about a checksum: it holds as long as the slots combine to it. The
//! proof is about a file: it holds in one boot, as long as the file looks as it did. Zeros are no seal, and so is
//! anything that does not check. Like a slot it is written without a sync and lies within one sector.

use crate::cache::files::map::{u32_at, u64_at};
use crate::cache::files::witness::{BootId, Witness};
use crate::types::Crc64;

/// Bytes of a seal, which begins at a multiple of as many.
pub(crate) const SEAL_BYTES: u64 = 64;

const MARKER: [u8; 4] = *b"SEAL";
const BODY_BYTES: usize = 56;
const SAME: u32 = 1;
const NOT_TOLD: u32 = 2;

/// What a comparison with the store has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// The store has the same checksum.
    Same,
    /// The store has no checksum to compare with.
    NotTold,
}

/// What has been found of a whole object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Judgement {
    /// The checksum of all its bytes.
    pub crc: Crc64,
    /// What the store says of that.
    pub verdict: Verdict,
}

/// All chunks were proven then, and this was the chunk file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Proof {
    pub boot: BootId,
    pub witness: Witness,
}

/// A seal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Seal {
    pub judgement: Judgement,
    pub proof: Option<Proof>,
}

impl Seal {
    /// The seal as it stands in the map with this header checksum.
    pub(crate) fn encode(&self, header: Crc64) -> [u8; SEAL_BYTES as usize] {
        let mut bytes = [0; SEAL_BYTES as usize];
        bytes[..8].copy_from_slice(&self.judgement.crc.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&MARKER);
        let verdict = match self.judgement.verdict {
            Verdict::Same => SAME,
            Verdict::NotTold => NOT_TOLD,
        };
        bytes[12..16].copy_from_slice(&verdict.to_le_bytes());
        if let Some(Proof { boot, witness }) = self.proof {
            bytes[16..32].copy_from_slice(&boot.0);
            bytes[32..40].copy_from_slice(&witness.device.to_le_bytes());
            bytes[40..48].copy_from_slice(&witness.inode.to_le_bytes());
            bytes[48..56].copy_from_slice(&witness.changed_ns.to_le_bytes());
        }
        let check = check(header, &bytes[..BODY_BYTES]);
        bytes[BODY_BYTES..].copy_from_slice(&check.0.to_le_bytes());
        bytes
    }

    /// Reads a seal of the map with this header checksum, whose object has `size` bytes.
    pub(crate) fn decode(header: Crc64, size: u64, bytes: &[u8]) -> Option<Seal> {
        let body = bytes.get(..BODY_BYTES)?;
        if body[8..12] != MARKER || u64_at(bytes, BODY_BYTES)? != check(header, body).0 {
            return None;
        }
        let verdict = match u32_at(body, 12)? {
            SAME => Verdict::Same,
            NOT_TOLD => Verdict::NotTold,
            _ => return None,
        };
        let boot: [u8; 16] = body[16..32].try_into().expect("sixteen bytes were taken");
        let witness = Witness {
            device: u64_at(body, 32)?,
            inode: u64_at(body, 40)?,
            changed_ns: u64_at(body, 48)?.cast_signed(),
            bytes: size,
        };
        let proof = (boot != [0; 16]).then_some(Proof { boot: BootId(boot), witness });
        Some(Seal { judgement: Judgement { crc: Crc64(u64_at(body, 0)?), verdict }, proof })
    }
}

fn check(header: Crc64, body: &[u8]) -> Crc64 {
    Crc64::of(&header.0.to_le_bytes()).then(Crc64::of(body), body.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Crc64 = Crc64(0x1122_3344_5566_7788);

    fn sample() -> Seal {
        let witness = Witness { device: 65024, inode: 77, changed_ns: 1_700_000_000_123_456_789, bytes: 9 };
        let proof = Proof { boot: BootId([7; 16]), witness };
        Seal {
            judgement: Judgement { crc: Crc64::of(b"123456789"), verdict: Verdict::Same },
            proof: Some(proof),
        }
    }

    #[test]
    fn format_2_stays_what_it_is() {
        let text: String = sample().encode(HEADER).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "8898790a86148bae5345414c01000000\
             07070707070707070707070707070707\
             00fe0000000000004d00000000000000\
             15cd853dfe9c9717a1c56f81fc054774"
        );
        assert_eq!(Seal::decode(HEADER, 9, &sample().encode(HEADER)), Some(sample()));
        let unproven =
            Seal { judgement: Judgement { verdict: Verdict::NotTold, ..sample().judgement }, proof: None };
        assert_eq!(Seal::decode(HEADER, 9, &unproven.encode(HEADER)), Some(unproven));
    }

    #[test]
    fn damaged_cut_and_foreign_seals_are_none() {
        let bytes = sample().encode(HEADER);
        for at in 0..bytes.len() * 8 {
            let mut bent = bytes;
            bent[at / 8] ^= 1 << (at % 8);
            assert_eq!(Seal::decode(HEADER, 9, &bent), None, "bit {at}");
        }
        for torn in 0..bytes.len() {
            let mut half = [0; SEAL_BYTES as usize];
            half[..torn].copy_from_slice(&bytes[..torn]);
            assert_eq!(Seal::decode(HEADER, 9, &half), None, "torn at {torn}");
            assert_eq!(Seal::decode(HEADER, 9, &bytes[..torn]), None, "cut at {torn}");
        }
        assert_eq!(Seal::decode(Crc64(1), 9, &bytes), None);
        assert_eq!(Seal::decode(HEADER, 9, &[0; SEAL_BYTES as usize]), None);
    }
}
