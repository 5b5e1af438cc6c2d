//! What a user calls a volume: `s3://bucket/prefix`, `file:///dir`.

use std::fmt;
use std::path::PathBuf;

const SUPPORTED: &str = "supported are s3://BUCKET/PREFIX and file:///DIRECTORY";

/// A parsed volume URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// A bucket, or the part of it below a prefix (empty, or ending in `/`).
    S3 {
        /// The bucket's name.
        bucket: String,
        /// The prefix.
        prefix: String,
    },
    /// A local directory.
    Local {
        /// Its absolute path.
        directory: PathBuf,
    },
}

/// Why a text is no volume URL.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{url}' is no volume: {reason}")]
pub struct LocationError {
    url: String,
    reason: String,
}

/// The URL from which the same location is parsed. Names are written as they are, not percent-encoded.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            Location::Local { directory } => write!(f, "file://{}", directory.display()),
        }
    }
}

impl std::str::FromStr for Location {
    type Err = LocationError;

    fn from_str(url: &str) -> Result<Location, LocationError> {
        let parsed = match url.split_once("://") {
            Some(("s3", rest)) => s3(rest),
            Some(("file", rest)) => local(rest),
            Some((scheme, _)) => Err(format!("'{scheme}' is not supported; {SUPPORTED}")),
            None if url.starts_with('/') => Err(format!("a directory is written file://{url}")),
            None => Err(format!("it has no scheme; {SUPPORTED}")),
        };
        parsed.map_err(|reason| LocationError { url: url.to_owned(), reason })
    }
}

fn s3(rest: &str) -> Result<Location, String> {
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("it names no bucket; write s3://BUCKET or s3://BUCKET/PREFIX".to_owned());
    }
    // The name becomes part of a host name or a path.
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if !bucket.chars().all(fits) || bucket.starts_with('.') || bucket.contains("..") {
        return Err(format!("'{bucket}' cannot be a bucket: names have letters, digits, '-' and '.' only"));
    }
    let prefix = path.strip_suffix('/').unwrap_or(path);
    if prefix.is_empty() && path.len() <= 1 {
        return Ok(Location::S3 { bucket: bucket.to_owned(), prefix: String::new() });
    }
    if let Some(segment) = prefix.split('/').find(|segment| matches!(*segment, "" | "." | "..")) {
        return Err(match segment {
            "" => "its prefix has two slashes in a row".to_owned(),
            _ => format!("its prefix has a '{segment}' between slashes"),
        });
    }
    if prefix.contains('\0') {
        return Err("its prefix has a NUL byte".to_owned());
    }
    Ok(Location::S3 { bucket: bucket.to_owned(), prefix: format!("{prefix}/") })
}

fn local(rest: &str) -> Result<Location, String> {
    if !rest.starts_with('/') {
        return Err("the path is not absolute; write file:///DIRECTORY with three slashes".to_owned());
    }
    let path = rest.trim_end_matches('/');
    let directory = PathBuf::from(if path.is_empty() { "/" } else { path });
    Ok(Location::Local { directory })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3(bucket: &str, prefix: &str) -> Location {
        Location::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn parses_and_prints() {
        for (url, location, printed) in [
            ("s3://b", s3("b", ""), "s3://b/"),
            ("s3://b/", s3("b", ""), "s3://b/"),
            ("s3://my.b-1/a", s3("my.b-1", "a/"), "s3://my.b-1/a/"),
            ("s3://b/a b/c%20/", s3("b", "a b/c%20/"), "s3://b/a b/c%20/"),
            ("file:///srv/x/", Location::Local { directory: "/srv/x".into() }, "file:///srv/x"),
            ("file:///", Location::Local { directory: "/".into() }, "file:///"),
        ] {
            assert_eq!(url.parse(), Ok(location.clone()), "{url}");
            assert_eq!(location.to_string(), printed);
            assert_eq!(printed.parse(), Ok(location), "{printed}");
        }
    }

    #[test]
    fn mistakes_are_explained() {
        for (url, words) in [
            ("", "has no scheme; supported are s3://BUCKET/PREFIX and file:///DIRECTORY"),
            ("bucket", "has no scheme"),
            ("/srv/x", "a directory is written file:///srv/x"),
            ("gs://b", "'gs' is not supported; supported are s3://"),
            ("s3://", "names no bucket"),
            ("s3:///prefix", "names no bucket"),
            ("s3://user:pw@b", "cannot be a bucket"),
            ("s3://a..b", "cannot be a bucket"),
            ("s3://b//x", "two slashes"),
            ("s3://b/x//", "two slashes"),
            ("s3://b/x/../y", "'..' between slashes"),
            ("s3://b/.", "'.' between slashes"),
            ("file://srv", "not absolute"),
            ("file://", "not absolute"),
        ] {
            let error = url.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
