//! Reads the headers that every HTTP store answers with.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName};

use crate::types::UnixTime;

/// Longest wait that a server may ask for; a longer one is a mistake or an attack.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// A header as text, if it is there once and printable.
pub fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// A header that is a number.
pub fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    text(headers, name).and_then(|value| value.parse().ok())
}

/// A header that is an HTTP date (RFC 9110 section 5.6.7).
pub fn date(headers: &HeaderMap, name: HeaderName) -> Option<UnixTime> {
    text(headers, name).and_then(|value| httpdate::parse_http_date(value).ok()).map(UnixTime::from)
}

/// `Retry-After`, in seconds or as a date (RFC 9110 section 10.2.3), at most five minutes.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = text(headers, http::header::RETRY_AFTER)?;
    let wait = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default(),
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Fri, 20 Nov 2026 07:00:00 GMT").unwrap();
        for (value, wait) in [
            ("7", Some(7)),
            ("0", Some(0)),
            ("99999999", Some(300)),
            ("Fri, 20 Nov 2026 07:00:09 GMT", Some(9)),
            ("Fri, 20 Nov 2026 06:00:00 GMT", Some(0)),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(http::header::RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), wait.map(Duration::from_secs), "{value}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
