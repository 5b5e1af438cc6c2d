//! Signs requests with AWS Signature Version 4, in headers (Amazon S3 API reference, "Authenticating requests").
//!
//! Pure: the time is passed in, because it must follow the server's clock where ours is wrong.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqsign_core::hash::{hex_hmac_sha256, hmac_sha256};
use time::OffsetDateTime;
use time::macros::format_description;

use crate::store::http::credentials::Credentials;
use crate::types::Sha256;

/// SHA-256 of no bytes.
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Bodies are checked by their CRC-64 and, where there is one, by TLS; hashing them again would halve the speed.
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

/// What a signature covers. Every header present is signed.
pub struct Signing<'a> {
    /// The method.
    pub method: &'a Method,
    /// The value that `Host` will have.
    pub host: &'a str,
    /// The encoded path.
    pub path: &'a str,
    /// The encoded query, sorted by name.
    pub query: &'a str,
    /// Whether a body follows.
    pub has_body: bool,
    /// The region.
    pub region: &'a str,
    /// The server's time now, in seconds since 1970.
    pub now_secs: i64,
}

/// Adds the signature to `headers`.
pub fn sign(signing: &Signing<'_>, credentials: &Credentials, headers: &mut HeaderMap) {
    let (date, moment) = stamps(signing.now_secs);
    let payload = if signing.has_body { UNSIGNED } else { EMPTY_SHA256 };
    let value = |text: &str| HeaderValue::from_str(text).expect("dates, digests and keys are plain ASCII");
    headers.insert("x-amz-date", value(&moment));
    headers.insert("x-amz-content-sha256", value(payload));
    if let Some(token) = credentials.session_token.as_deref().and_then(|t| HeaderValue::from_str(t).ok()) {
        headers.insert("x-amz-security-token", sensitive(token));
    }
    let (names, lines) = canonical_headers(signing.host, headers);
    let request =
        format!("{}\n{}\n{}\n{lines}\n{names}\n{payload}", signing.method, signing.path, signing.query);
    let scope = format!("{date}/{}/s3/aws4_request", signing.region);
    let text = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", Sha256::of(request.as_bytes()));
    let mut key = format!("AWS4{}", credentials.secret_access_key).into_bytes();
    for step in [date.as_str(), signing.region, "s3", "aws4_request"] {
        key = hmac_sha256(&key, step.as_bytes());
    }
    let authorization = format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={}",
        credentials.access_key_id,
        hex_hmac_sha256(&key, text.as_bytes())
    );
    // An access key with control characters in it can only be refused by the server.
    if let Ok(authorization) = HeaderValue::from_str(&authorization) {
        headers.insert(http::header::AUTHORIZATION, sensitive(authorization));
    }
}

fn sensitive(mut value: HeaderValue) -> HeaderValue {
    value.set_sensitive(true);
    value
}

/// `20130524` and `20130524T000000Z`.
fn stamps(secs: i64) -> (String, String) {
    let moment = OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let text = moment
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .expect("a moment has all these components");
    (text[..8].to_owned(), text)
}

/// The sorted header names joined by `;`, and the lines `name:value`.
fn canonical_headers(host: &str, headers: &HeaderMap) -> (String, String) {
    let mut all: Vec<(&str, String)> = vec![("host", host.to_owned())];
    let names: Vec<&HeaderName> = headers.keys().collect();
    all.extend(names.into_iter().map(|name| (name.as_str(), canonical_value(headers, name))));
    all.sort();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let lines = all.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    (names.join(";"), lines)
}

/// The values of a header, white space reduced, joined by commas.
fn canonical_value(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter().map(|value| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        text.split_ascii_whitespace().collect::<Vec<_>>().join(" ")
    });
    values.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the API reference: all at 2013-05-24 00:00 UTC in us-east-1.
    fn signature(path: &str, query: &str, headers: &[(&'static str, &str)]) -> String {
        let credentials = Credentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned(),
            ..Credentials::default()
        };
        let signing = Signing {
            method: &Method::GET,
            host: "examplebucket.s3.amazonaws.com",
            path,
            query,
            has_body: false,
            region: "us-east-1",
            now_secs: 1_369_353_600,
        };
        let mut map: HeaderMap =
            headers.iter().map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap())).collect();
        sign(&signing, &credentials, &mut map);
        let line = map[http::header::AUTHORIZATION].to_str().unwrap().to_owned();
        assert!(map[http::header::AUTHORIZATION].is_sensitive());
        line.split_once("SignedHeaders=").unwrap().1.to_owned()
    }

    #[test]
    fn signatures_are_those_of_the_reference() {
        assert_eq!(
            signature("/test.txt", "", &[("range", "bytes=0-9")]),
            "host;range;x-amz-content-sha256;x-amz-date, \
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        assert_eq!(
            signature("/", "lifecycle=", &[]),
            "host;x-amz-content-sha256;x-amz-date, \
             Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            signature("/", "max-keys=2&prefix=J", &[]),
            "host;x-amz-content-sha256;x-amz-date, \
             Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn white_space_in_values_does_not_count() {
        assert_eq!(
            signature("/", "", &[("x-amz-meta-a", "b  c ")]),
            signature("/", "", &[("x-amz-meta-a", " b c")])
        );
    }
}
