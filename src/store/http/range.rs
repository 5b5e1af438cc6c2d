//! Judges the answer to a ranged GET before a byte of it is believed, and holds its body to that judgement.
//!
//! RFC 9110 section 14, and what servers do instead: some answer 200 with a Content-Range, some ignore `Range` or
//! `If-Match`. Bytes are taken only where the answer proves which object version and which offset they are from.

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream};
use futures_util::{StreamExt, TryStreamExt};

use crate::store::ErrorKind;
use crate::store::http::client::{Failure, Stage};
use crate::types::{ByteRange, ETag};

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The bytes; all when `None`.
    pub range: Option<ByteRange>,
    /// The version; any when `None`.
    pub etag: Option<ETag>,
}

/// What the answer says of itself. The status is 200, 206 or 416.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// The status.
    pub status: u16,
    /// `Content-Range`.
    pub content_range: Option<&'a str>,
    /// `Content-Length`.
    pub content_length: Option<u64>,
    /// `ETag`.
    pub etag: Option<&'a str>,
}

/// An answer whose bytes may be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The version.
    pub etag: ETag,
    /// The bytes to take from the start of the body: what was asked for, cut at the object's end where that is known.
    pub range: ByteRange,
    /// The object's length, where the answer tells.
    pub size: Option<u64>,
}

/// An answer whose bytes must not be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected {
    /// What a caller may do.
    pub kind: ErrorKind,
    /// What is wrong.
    pub detail: String,
}

/// Decides whether an answer is what was asked for.
pub fn judge(asked: &Asked, told: Told<'_>) -> Result<Accepted, Rejected> {
    if told.status == 416 {
        return Err(unsatisfiable(asked, told));
    }
    let etag = told.etag.map(ETag::new).ok_or_else(|| protocol("the answer names no version (ETag)"))?;
    if let Some(wanted) = asked.etag.as_ref().filter(|wanted| **wanted != etag) {
        let detail = format!("the object is now version {etag}, not {wanted}");
        return Err(Rejected { kind: ErrorKind::Precondition, detail });
    }
    match told.content_range {
        Some(text) => {
            let part =
                ContentRange::parse(text).ok_or_else(|| protocol("its Content-Range is unreadable"))?;
            partial(asked, told, etag, part)
        }
        None if told.status == 206 => Err(protocol("a partial answer (206) without Content-Range")),
        None => whole(asked, told, etag),
    }
}

/// Yields exactly `bytes` bytes of a body: surplus is cut off, and a body that ends early ends in a failure.
pub fn exactly<S>(body: S, bytes: u64) -> BoxStream<'static, Result<Bytes, Failure>>
where
    S: Stream<Item = Result<Bytes, Failure>> + Send + Unpin + 'static,
{
    let step = |(mut body, missing): (S, u64)| async move {
        if missing == 0 {
            return Ok(None);
        }
        match body.try_next().await? {
            Some(mut piece) => {
                piece.truncate(usize::try_from(missing).unwrap_or(usize::MAX));
                let missing = missing - piece.len() as u64;
                Ok(Some((piece, (body, missing))))
            }
            None => {
                let detail = format!("the body ended {missing} bytes early");
                Err(Failure { stage: Stage::MaybeSent, detail })
            }
        }
    };
    stream::try_unfold((body, bytes), step).boxed()
}

/// An answer to a range, whatever its status.
fn partial(asked: &Asked, told: Told<'_>, etag: ETag, part: ContentRange) -> Result<Accepted, Rejected> {
    let ContentRange { range: sent, size } = part;
    let start = asked.range.map_or(0, |range| range.start);
    if sent.start != start {
        return Err(protocol(format!("it starts at byte {} instead of {start}", sent.start)));
    }
    if size.is_some_and(|size| sent.end > size) {
        return Err(protocol(format!("its Content-Range {sent:?} lies outside the object")));
    }
    // A shorter one is kept as far as it goes; the end that it comes to is then too early.
    if told.content_length.is_some_and(|length| length > sent.len()) {
        return Err(protocol("its Content-Length is more than its Content-Range"));
    }
    let wanted = match (asked.range, size) {
        (Some(range), Some(size)) => range.clip(size),
        // Without a total the server's own end is the best that is known.
        (Some(range), None) => ByteRange::new(start, sent.end.min(range.end)),
        (None, Some(size)) => ByteRange::new(0, size),
        (None, None) => return Err(protocol("the whole object was asked for and its length is not told")),
    };
    Ok(Accepted { etag, range: wanted, size })
}

/// An answer with the object from its first byte.
fn whole(asked: &Asked, told: Told<'_>, etag: ETag) -> Result<Accepted, Rejected> {
    let size = told.content_length.ok_or_else(|| protocol("it does not tell the object's length"))?;
    match asked.range {
        None => Ok(Accepted { etag, range: ByteRange::new(0, size), size: Some(size) }),
        Some(range) if range.start == 0 => Ok(Accepted { etag, range: range.clip(size), size: Some(size) }),
        Some(range) => Err(protocol(format!(
            "the server ignored the range and sent the object from its start instead of byte {}",
            range.start
        ))),
    }
}

/// A range that begins at or after the object's end.
fn unsatisfiable(asked: &Asked, told: Told<'_>) -> Rejected {
    let size = told.content_range.and_then(|text| text.trim().strip_prefix("bytes */")).unwrap_or("fewer");
    let detail = format!("the object has {size} bytes, the range asked for begins behind them");
    // Who names a version knows its length: the server has another one (or ignores If-Match).
    let kind = if asked.etag.is_some() { ErrorKind::Precondition } else { ErrorKind::Refused };
    Rejected { kind, detail }
}

fn protocol(detail: impl Into<String>) -> Rejected {
    Rejected { kind: ErrorKind::Protocol, detail: detail.into() }
}

/// `Content-Range: bytes A-B/T`; `T` may be `*` or, on some servers, missing.
struct ContentRange {
    range: ByteRange,
    size: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<ContentRange> {
        let span = text.trim().strip_prefix("bytes ")?;
        let (ends, size) = span.split_once('/').unwrap_or((span, "*"));
        let (first, last) = ends.split_once('-')?;
        let first: u64 = first.trim().parse().ok()?;
        let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
        if end <= first {
            return None;
        }
        let size = match size.trim() {
            "*" => None,
            digits => Some(digits.parse().ok()?),
        };
        Some(ContentRange { range: ByteRange::new(first, end), size })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(range: Option<(u64, u64)>) -> Asked {
        Asked { range: range.map(|(start, end)| ByteRange::new(start, end)), etag: Some(ETag::new("e")) }
    }

    fn told(status: u16, content_range: Option<&str>, content_length: Option<u64>) -> Told<'_> {
        Told { status, content_range, content_length, etag: Some("\"e\"") }
    }

    fn accepted(start: u64, end: u64, size: Option<u64>) -> Result<Accepted, ErrorKind> {
        Ok(Accepted { etag: ETag::new("e"), range: ByteRange::new(start, end), size })
    }

    fn verdict(range: Option<(u64, u64)>, told: Told<'_>) -> Result<Accepted, ErrorKind> {
        judge(&asked(range), told).map_err(|rejected| rejected.kind)
    }

    #[test]
    fn ranges_are_accepted_with_either_status() {
        for status in [206, 200] {
            let answer = told(status, Some("bytes 10-19/100"), Some(10));
            assert_eq!(verdict(Some((10, 20)), answer), accepted(10, 20, Some(100)));
            let at_the_end = told(status, Some("bytes 10-14/15"), Some(5));
            assert_eq!(verdict(Some((10, 20)), at_the_end), accepted(10, 15, Some(15)));
            let no_total = told(status, Some("bytes 10-19"), None);
            assert_eq!(verdict(Some((10, 20)), no_total), accepted(10, 20, None));
            let unknown_total = told(status, Some("bytes 10-14/*"), None);
            assert_eq!(verdict(Some((10, 20)), unknown_total), accepted(10, 15, None));
        }
    }

    #[test]
    fn a_longer_answer_is_cut_and_a_shorter_one_is_missed() {
        let longer = told(206, Some("bytes 10-49/100"), Some(40));
        assert_eq!(verdict(Some((10, 20)), longer), accepted(10, 20, Some(100)));
        let shorter = told(206, Some("bytes 10-14/100"), Some(5));
        assert_eq!(verdict(Some((10, 20)), shorter), accepted(10, 20, Some(100)));
    }

    #[test]
    fn wrong_or_missing_positions_break_the_protocol() {
        for answer in [
            told(206, None, Some(10)),
            told(206, Some("bytes 0-9/100"), Some(10)),
            told(200, Some("bytes 11-20/100"), Some(10)),
            told(206, Some("bytes 10-19/15"), Some(10)),
            told(206, Some("bytes 10-19/100"), Some(100)),
            told(206, Some("bytes 10-9/100"), None),
            told(206, Some("bytes x-y/100"), None),
            told(206, Some("bytes 10-19/x"), None),
            told(206, Some("bytes 10-18446744073709551615/*"), None),
            told(206, Some("pages 10-19/100"), None),
            told(200, None, Some(100)),
        ] {
            assert_eq!(verdict(Some((10, 20)), answer), Err(ErrorKind::Protocol), "{answer:?}");
        }
    }

    #[test]
    fn an_ignored_range_is_usable_only_from_the_start() {
        assert_eq!(verdict(Some((0, 20)), told(200, None, Some(100))), accepted(0, 20, Some(100)));
        assert_eq!(verdict(Some((0, 20)), told(200, None, Some(7))), accepted(0, 7, Some(7)));
        assert_eq!(verdict(Some((1, 20)), told(200, None, Some(100))), Err(ErrorKind::Protocol));
        assert_eq!(verdict(Some((0, 20)), told(200, None, None)), Err(ErrorKind::Protocol));
    }

    #[test]
    fn the_whole_object_is_as_long_as_its_answer() {
        assert_eq!(verdict(None, told(200, None, Some(100))), accepted(0, 100, Some(100)));
        assert_eq!(verdict(None, told(200, None, Some(0))), accepted(0, 0, Some(0)));
        assert_eq!(verdict(None, told(200, None, None)), Err(ErrorKind::Protocol));
        assert_eq!(verdict(None, told(206, Some("bytes 0-99/100"), None)), accepted(0, 100, Some(100)));
    }

    #[test]
    fn another_version_is_never_read() {
        let mut answer = told(206, Some("bytes 10-19/100"), Some(10));
        answer.etag = Some("\"other\"");
        assert_eq!(verdict(Some((10, 20)), answer), Err(ErrorKind::Precondition));
        answer.etag = None;
        assert_eq!(verdict(Some((10, 20)), answer), Err(ErrorKind::Protocol));
        answer.etag = Some("e");
        assert_eq!(verdict(Some((10, 20)), answer), accepted(10, 20, Some(100)), "quotes do not count");
        answer.etag = Some("other");
        let any = Asked { range: Some(ByteRange::new(10, 20)), etag: None };
        assert_eq!(judge(&any, answer).unwrap().etag, ETag::new("other"));
    }

    #[test]
    fn a_range_behind_the_end_tells_of_another_version() {
        let answer = told(416, Some("bytes */5"), None);
        assert_eq!(verdict(Some((10, 20)), answer), Err(ErrorKind::Precondition));
        let any = Asked { range: Some(ByteRange::new(10, 20)), etag: None };
        let rejected = judge(&any, answer).unwrap_err();
        assert_eq!(rejected.kind, ErrorKind::Refused);
        assert!(rejected.detail.contains("has 5 bytes"), "{}", rejected.detail);
    }

    async fn taken(pieces: &[&'static str], bytes: u64) -> (String, Option<String>) {
        let items: Vec<Result<Bytes, Failure>> =
            pieces.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect();
        let mut body = exactly(stream::iter(items), bytes);
        let mut text = String::new();
        while let Some(item) = body.next().await {
            match item {
                Ok(piece) => text.push_str(std::str::from_utf8(&piece).unwrap()),
                Err(failure) => {
                    assert!(body.next().await.is_none(), "nothing follows a failure");
                    return (text, Some(failure.detail));
                }
            }
        }
        (text, None)
    }

    #[tokio::test]
    async fn bodies_are_neither_longer_nor_silently_shorter() {
        assert_eq!(taken(&["abc", "def"], 6).await, ("abcdef".into(), None));
        assert_eq!(taken(&["abc", "def"], 4).await, ("abcd".into(), None));
        assert_eq!(taken(&["abc", "def"], 3).await, ("abc".into(), None));
        assert_eq!(taken(&["abc"], 0).await, ("".into(), None));
        let (text, failure) = taken(&["abc", "de"], 9).await;
        assert_eq!((text.as_str(), failure.as_deref()), ("abcde", Some("the body ended 4 bytes early")));
    }
}
