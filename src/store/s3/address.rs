//! Where a bucket and its objects are: server, path, and the encodings of names.

use std::fmt::Write;

use crate::store::s3::{AddressingStyle, S3Options};
use crate::types::Key;

/// Where requests about one bucket go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// Scheme and authority as requests name them, for example `https://b.s3.eu-west-1.amazonaws.com`.
    pub origin: String,
    /// The authority alone, as the `Host` header has it.
    pub host: String,
    /// Path of the bucket, without a closing slash; empty in virtual-host style.
    bucket_path: String,
    /// The bucket's name.
    pub bucket: String,
    /// Put before every key; empty or ending in `/`.
    pub prefix: String,
}

impl Address {
    /// The address of a bucket's part in a region. The error says which option is wrong.
    pub fn new(bucket: &str, prefix: &str, options: &S3Options, region: &str) -> Result<Address, String> {
        let server = match &options.endpoint {
            Some(endpoint) => Server::parse(endpoint)?,
            None => Server::amazon(region),
        };
        // A name with dots does not match the certificate for `*.s3.amazonaws.com`.
        let virtual_host = match options.addressing {
            AddressingStyle::Auto => options.endpoint.is_none() && !bucket.contains('.'),
            AddressingStyle::Path => false,
            AddressingStyle::VirtualHost => true,
        };
        let (host, bucket_path) = if virtual_host {
            (format!("{bucket}.{}", server.authority), server.base_path)
        } else {
            (server.authority, format!("{}/{}", server.base_path, encode_query(bucket)))
        };
        Ok(Address {
            origin: format!("{}://{host}", server.scheme),
            host,
            bucket_path,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    /// The encoded path of an object, or of the bucket itself.
    pub fn path(&self, key: Option<&Key>) -> String {
        match key {
            Some(key) => format!("{}/{}", self.bucket_path, encode_path(&self.full_key(key))),
            None if self.bucket_path.is_empty() => "/".to_owned(),
            None => self.bucket_path.clone(),
        }
    }

    /// The value of `x-amz-copy-source`.
    pub fn copy_source(&self, key: &Key) -> String {
        format!("/{}/{}", encode_query(&self.bucket), encode_path(&self.full_key(key)))
    }

    /// Whether no URL can name a key: those who read URLs take `.` and `..` between slashes for steps.
    pub fn is_beyond_urls(&self, key: &Key) -> bool {
        self.full_key(key).split('/').any(|part| part == "." || part == "..")
    }

    /// A key as the bucket has it.
    pub fn full_key(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }
}

/// A server without a bucket.
struct Server {
    scheme: String,
    /// Host, and port unless it is the scheme's own.
    authority: String,
    /// Empty, or a path without a closing slash.
    base_path: String,
}

impl Server {
    fn amazon(region: &str) -> Server {
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        Server {
            scheme: "https".to_owned(),
            authority: format!("s3.{region}.{domain}"),
            base_path: String::new(),
        }
    }

    fn parse(endpoint: &str) -> Result<Server, String> {
        // What the text holds is not repeated: it may be a password.
        let wrong = |why: &str| format!("the endpoint {why}; write it as http://HOST:PORT or https://HOST");
        let uri: http::Uri = endpoint.parse().map_err(|_| wrong("is no URL"))?;
        let scheme = match uri.scheme_str() {
            Some(scheme @ ("http" | "https")) => scheme,
            Some(_) | None => return Err(wrong("does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("holds a user name or password, which belong into the credentials"));
        }
        if uri.query().is_some() {
            return Err(wrong("has a query"));
        }
        let own_port = if scheme == "http" { 80 } else { 443 };
        let host = authority.host().to_ascii_lowercase();
        let authority = match authority.port_u16() {
            Some(port) if port != own_port => format!("{host}:{port}"),
            Some(_) | None => host,
        };
        Ok(Server {
            scheme: scheme.to_owned(),
            authority,
            base_path: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

/// Percent-encodes all but `A-Za-z0-9-._~/`.
pub fn encode_path(text: &str) -> String {
    encode(text, b"-._~/")
}

/// Percent-encodes all but `A-Za-z0-9-._~`, for names and values of queries.
pub fn encode_query(text: &str) -> String {
    encode(text, b"-._~")
}

/// Undoes the `encoding-type=url` of listings: `%XX`, and `+` for a space. Every server that encodes writes a plus
/// sign as `%2B`, whichever way it writes a space. `None` when the result is no UTF-8.
pub fn decode_listed(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(|text| text.into_owned())
}

fn encode(text: &str, kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(endpoint: Option<&str>, addressing: AddressingStyle) -> S3Options {
        S3Options { endpoint: endpoint.map(str::to_owned), addressing, ..S3Options::default() }
    }

    fn url(bucket: &str, options: &S3Options) -> String {
        let address = Address::new(bucket, "p/", options, "eu-west-1").unwrap();
        format!("{}{}", address.origin, address.path(Some(&Key::new("a b").unwrap())))
    }

    #[test]
    fn buckets_are_in_the_host_or_in_the_path() {
        let auto = AddressingStyle::Auto;
        let amazon = at(None, auto);
        assert_eq!(url("bkt", &amazon), "https://bkt.s3.eu-west-1.amazonaws.com/p/a%20b");
        assert_eq!(url("b.kt", &amazon), "https://s3.eu-west-1.amazonaws.com/b.kt/p/a%20b");
        assert_eq!(url("bkt", &at(Some("http://h:9000/"), auto)), "http://h:9000/bkt/p/a%20b");
        assert_eq!(url("bkt", &at(Some("https://h:443"), auto)), "https://h/bkt/p/a%20b");
        assert_eq!(url("bkt", &at(Some("http://[::1]:80"), auto)), "http://[::1]/bkt/p/a%20b");
        assert_eq!(url("bkt", &at(Some("https://h/s3/v1"), auto)), "https://h/s3/v1/bkt/p/a%20b");
        let in_host = AddressingStyle::VirtualHost;
        assert_eq!(url("bkt", &at(Some("http://h:9000"), in_host)), "http://bkt.h:9000/p/a%20b");
        assert_eq!(
            url("bkt", &at(None, AddressingStyle::Path)),
            "https://s3.eu-west-1.amazonaws.com/bkt/p/a%20b"
        );
    }

    #[test]
    fn the_bucket_itself_has_a_path() {
        let path = |options| Address::new("bkt", "", &options, "cn-north-1").unwrap().path(None);
        assert_eq!(path(at(None, AddressingStyle::Auto)), "/");
        assert_eq!(path(at(Some("http://h"), AddressingStyle::Auto)), "/bkt");
        let china = Address::new("bkt", "", &at(None, AddressingStyle::Auto), "cn-north-1").unwrap();
        assert_eq!(china.host, "bkt.s3.cn-north-1.amazonaws.com.cn");
    }

    #[test]
    fn wrong_endpoints_are_explained_without_repeating_them() {
        for endpoint in
            ["", "host:9000", "ftp://host", "http://", "http://user:pw@host", "http://h/?x=1", "http://a b"]
        {
            let options = at(Some(endpoint), AddressingStyle::Auto);
            let why = Address::new("bkt", "", &options, "r").unwrap_err();
            assert!(why.contains("http://HOST:PORT") && !why.contains("pw"), "{why}");
        }
    }

    #[test]
    fn names_are_encoded_byte_by_byte() {
        assert_eq!(encode_path("a/b c+d%e\u{e9}~\n"), "a/b%20c%2Bd%25e%C3%A9~%0A");
        assert_eq!(encode_query("a/b=&"), "a%2Fb%3D%26");
        assert_eq!(decode_listed("a%2Fb+c%2Bd%25%C3%A9").as_deref(), Some("a/b c+d%\u{e9}"));
        assert_eq!(decode_listed("%ff"), None);
    }

    proptest! {
        #[test]
        fn listed_names_come_back(text in "\\PC*") {
            prop_assert_eq!(decode_listed(&encode_path(&text)), Some(text.clone()));
            prop_assert_eq!(decode_listed(&encode_path(&text).replace("%20", "+")), Some(text));
        }
    }
}
