//! Conditions of requests against the version that is there.

use crate::bucket::disk::Refusal;
use crate::types::{ETag, UnixTime};

/// What a write or delete asks of the present version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// Nothing.
    None,
    /// `If-None-Match: *`: there is none.
    Absent,
    /// `If-Match: *`: there is one.
    Present,
    /// `If-Match: "etag"`: it is this one.
    Is(ETag),
}

impl Condition {
    /// Whether a write may go on. With If-Match a missing object is "no such key", as S3 has it.
    pub fn check_write(&self, present: Option<&ETag>) -> Result<(), Refusal> {
        match (self, present) {
            (Condition::None, _) | (Condition::Absent, None) | (Condition::Present, Some(_)) => Ok(()),
            (Condition::Absent, Some(_)) => Err(Refusal::PreconditionFailed),
            (Condition::Present | Condition::Is(_), None) => Err(Refusal::NoSuchKey),
            (Condition::Is(wanted), Some(found)) if wanted == found => Ok(()),
            (Condition::Is(_), Some(_)) => Err(Refusal::PreconditionFailed),
        }
    }

    /// Whether a delete may go on. Deleting what is not there always succeeds.
    pub fn check_delete(&self, present: Option<&ETag>) -> Result<(), Refusal> {
        if present.is_none() { Ok(()) } else { self.check_write(present) }
    }
}

/// What a read asks of the version it would get, in the order of RFC 9110 section 13.2.2.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadCondition {
    /// If-Match: this etag, or any when `Some(None)`.
    pub is: Option<Option<ETag>>,
    /// If-None-Match: not this etag, or none at all when `Some(None)`.
    pub is_not: Option<Option<ETag>>,
    /// If-Modified-Since, whole seconds.
    pub since: Option<UnixTime>,
    /// If-Unmodified-Since, whole seconds.
    pub not_since: Option<UnixTime>,
}

impl ReadCondition {
    /// Whether the read may go on.
    pub fn check(&self, etag: &ETag, modified: UnixTime) -> Result<(), Refusal> {
        let same = |wanted: &Option<ETag>| wanted.as_ref().is_none_or(|wanted| wanted == etag);
        match (&self.is, self.not_since) {
            (Some(wanted), _) if !same(wanted) => return Err(Refusal::PreconditionFailed),
            (None, Some(limit)) if modified.secs > limit.secs => return Err(Refusal::PreconditionFailed),
            (Some(_), _) | (None, _) => {}
        }
        match (&self.is_not, self.since) {
            (Some(unwanted), _) if same(unwanted) => Err(Refusal::NotModified),
            (None, Some(limit)) if modified.secs <= limit.secs => Err(Refusal::NotModified),
            (Some(_), _) | (None, _) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(result: Result<(), Refusal>) -> &'static str {
        match result {
            Ok(()) => "ok",
            Err(Refusal::PreconditionFailed) => "412",
            Err(Refusal::NoSuchKey) => "404",
            Err(Refusal::NotModified) => "304",
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn writes() {
        let (a, b) = (ETag::new("a"), ETag::new("b"));
        let table = [
            (Condition::None, "ok", "ok"),
            (Condition::Absent, "ok", "412"),
            (Condition::Present, "404", "ok"),
            (Condition::Is(a.clone()), "404", "ok"),
            (Condition::Is(b), "404", "412"),
        ];
        for (condition, missing, found) in table {
            assert_eq!(outcome(condition.check_write(None)), missing, "{condition:?}");
            assert_eq!(outcome(condition.check_write(Some(&a))), found, "{condition:?}");
            assert_eq!(outcome(condition.check_delete(None)), "ok", "{condition:?}");
        }
    }

    #[test]
    fn reads() {
        let (a, b) = (ETag::new("a"), ETag::new("b"));
        let (old, new) = (UnixTime::from_secs(10), UnixTime::from_secs(20));
        let none = ReadCondition::default;
        let table = [
            (none(), "ok"),
            (ReadCondition { is: Some(Some(a.clone())), ..none() }, "ok"),
            (ReadCondition { is: Some(Some(b.clone())), ..none() }, "412"),
            (ReadCondition { is: Some(None), ..none() }, "ok"),
            (ReadCondition { is: Some(Some(a.clone())), not_since: Some(old), ..none() }, "ok"),
            (ReadCondition { not_since: Some(old), ..none() }, "412"),
            (ReadCondition { is_not: Some(Some(a.clone())), ..none() }, "304"),
            (ReadCondition { is_not: Some(None), ..none() }, "304"),
            (ReadCondition { is_not: Some(Some(b.clone())), since: Some(new), ..none() }, "ok"),
            (ReadCondition { since: Some(new), ..none() }, "304"),
            (ReadCondition { since: Some(old), ..none() }, "ok"),
            (ReadCondition { is: Some(Some(b)), is_not: Some(Some(a.clone())), ..none() }, "412"),
        ];
        for (condition, expected) in table {
            assert_eq!(outcome(condition.check(&a, new)), expected, "{condition:?}");
        }
    }
}
