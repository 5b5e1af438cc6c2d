//! What every back end that decides for itself must check: preconditions, checksums, the list of parts of a completion.
//!
//! Pure: the back end looks, these rules judge.

use crate::store::{Completion, Error, ErrorKind, Op, PartLimits, PartReceipt, Precondition, Result};
use crate::types::{ByteRange, Crc64, ETag, Key};

/// The operation and the object that errors are about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub op: Op,
    pub key: &'a Key,
}

impl About<'_> {
    /// An error about this object.
    pub fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error::on(self.op, self.key, kind, detail)
    }

    /// The store will not do this, whoever asks.
    pub fn refused(&self, detail: impl Into<String>) -> Error {
        self.error(ErrorKind::Refused, detail)
    }

    /// Whether `current` (what is under the key now) is what `precondition` asks for.
    pub fn check_precondition(&self, precondition: &Precondition, current: Option<&ETag>) -> Result<()> {
        let detail = match (precondition, current) {
            (Precondition::None, _) | (Precondition::Absent, None) => return Ok(()),
            (Precondition::Matches(wanted), Some(found)) if wanted == found => return Ok(()),
            (Precondition::Absent, Some(_)) => "there is an object already",
            (Precondition::Matches(_), Some(_)) => "another version is there",
            (Precondition::Matches(_), None) => "the object is not there any more",
        };
        Err(self.error(ErrorKind::Precondition, detail))
    }

    /// Whether bytes that have arrived are the ones that were sent.
    pub fn check_crc64(&self, sent: Option<Crc64>, found: Crc64) -> Result<()> {
        match sent {
            Some(sent) if sent != found => Err(self.error(
                ErrorKind::Integrity,
                format!("the bytes have checksum {found} and should have {sent}"),
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// The bytes that a `get` of `wanted` yields from an object of `size` bytes.
    pub fn check_range(&self, wanted: Option<ByteRange>, size: u64) -> Result<ByteRange> {
        match wanted {
            None => Ok(ByteRange::new(0, size)),
            Some(range) if !range.is_empty() && range.start < size => Ok(range.clip(size)),
            Some(range) => {
                Err(self.refused(format!("there are no bytes {range:?} in an object of {size} bytes")))
            }
        }
    }

    /// Whether `listed` may become the object, given the parts that are `stored`. Both are sorted by number where they are
    /// right. Answers with the checksum of the whole, where every part's is known.
    pub fn check_parts(
        &self,
        limits: &PartLimits,
        stored: &[PartReceipt],
        listed: &[PartReceipt],
        completion: &Completion,
    ) -> Result<Option<Crc64>> {
        let Some(last) = listed.last() else {
            return Err(self.refused("a completion needs at least one part"));
        };
        if !listed.is_sorted_by(|a, b| a.number < b.number) {
            return Err(self.refused("parts must be listed in ascending order"));
        }
        let mut size = 0;
        let mut crc64 = Some(Crc64::EMPTY);
        for part in listed {
            let number = part.number.get();
            let found = stored
                .binary_search_by_key(&part.number, |stored| stored.number)
                .ok()
                .map(|index| &stored[index])
                .filter(|found| found.etag == part.etag && found.len == part.len)
                .ok_or_else(|| self.refused(format!("part {number} is not there, or another one is")))?;
            if found.len < limits.part_bytes_min && part.number != last.number {
                let min = limits.part_bytes_min;
                return Err(self.refused(format!("part {number} is smaller than {min} bytes")));
            }
            size += found.len;
            crc64 = crc64.zip(found.crc64).map(|(before, next)| before.then(next, found.len));
        }
        self.check_size(completion, size)?;
        if let Some(crc64) = crc64 {
            self.check_crc64(completion.crc64, crc64)?;
        }
        Ok(crc64)
    }

    /// Whether an upload holds as many bytes as its completion says.
    pub fn check_size(&self, completion: &Completion, size: u64) -> Result<()> {
        if completion.size == size {
            return Ok(());
        }
        Err(self.refused(format!("the parts have {size} bytes and should have {}", completion.size)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PartNumber;

    const LIMITS: PartLimits = PartLimits { part_bytes_min: 4, part_bytes_max: 100, parts_max: 10 };

    fn part(index: u32, bytes: &[u8]) -> PartReceipt {
        let crc64 = Crc64::of(bytes);
        let number = PartNumber::from_index(index);
        PartReceipt { number, len: bytes.len() as u64, etag: crc64.to_string(), crc64: Some(crc64) }
    }

    fn judged(listed: &[PartReceipt], completion: Completion) -> Result<Option<Crc64>> {
        let key = Key::new("k").unwrap();
        let stored = [part(0, b"aaaa"), part(3, b"bbbb"), part(5, b"c")];
        About { op: Op::CompleteUpload, key: &key }.check_parts(&LIMITS, &stored, listed, &completion)
    }

    #[test]
    fn parts_may_have_gaps_and_a_short_end() {
        let sized = |size| Completion { size, ..Completion::default() };
        let whole = judged(&[part(0, b"aaaa"), part(3, b"bbbb"), part(5, b"c")], sized(9));
        assert_eq!(whole.unwrap(), Some(Crc64::of(b"aaaabbbbc")));
        assert_eq!(judged(&[part(3, b"bbbb")], sized(4)).unwrap(), Some(Crc64::of(b"bbbb")));
        for (listed, size, why) in [
            (vec![], 0, "no parts"),
            (vec![part(3, b"bbbb"), part(0, b"aaaa")], 8, "descending"),
            (vec![part(0, b"aaaa"), part(0, b"aaaa")], 8, "twice"),
            (vec![part(0, b"aaab")], 4, "another etag"),
            (vec![part(1, b"aaaa")], 4, "unknown"),
            (vec![part(0, b"aaaa"), part(3, b"bbbb")], 9, "another size"),
        ] {
            assert_eq!(judged(&listed, sized(size)).unwrap_err().kind, ErrorKind::Refused, "{why}");
        }
        let wrong = Completion { size: 4, crc64: Some(Crc64(1)), ..Completion::default() };
        assert_eq!(judged(&[part(0, b"aaaa")], wrong).unwrap_err().kind, ErrorKind::Integrity);
    }

    #[test]
    fn only_the_last_part_may_be_short() {
        let key = Key::new("k").unwrap();
        let stored = [part(0, b"a"), part(1, b"bbbb")];
        let about = About { op: Op::CompleteUpload, key: &key };
        let completion = Completion { size: 5, ..Completion::default() };
        let refused = about.check_parts(&LIMITS, &stored, &stored, &completion).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Refused);
        assert!(refused.detail.contains("part 1 is smaller"), "{refused}");
    }

    #[test]
    fn preconditions() {
        let key = Key::new("k").unwrap();
        let about = About { op: Op::Put, key: &key };
        let (one, two) = (ETag::new("1"), ETag::new("2"));
        let holds = |p: Precondition, current: Option<&ETag>| about.check_precondition(&p, current).is_ok();
        assert!(holds(Precondition::None, None) && holds(Precondition::None, Some(&one)));
        assert!(holds(Precondition::Absent, None) && !holds(Precondition::Absent, Some(&one)));
        assert!(holds(Precondition::Matches(one.clone()), Some(&one)));
        assert!(!holds(Precondition::Matches(one.clone()), Some(&two)));
        assert!(!holds(Precondition::Matches(one), None));
    }
}
