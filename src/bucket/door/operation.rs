//! Which S3 operation a request is, before anything is done about it. Pure.

use std::fmt;

use http::request::Parts;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

macro_rules! operations {
    ($($variant:ident),* $(,)?) => {
        /// The operations of S3 that the server knows, by their names in the S3 API reference.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
        #[allow(missing_docs, reason = "the names are the API's own")]
        pub enum Operation { $($variant),* }

        impl Operation {
            /// Every operation.
            pub const ALL: &'static [Operation] = &[$(Operation::$variant),*];

            /// Its name in the S3 API reference.
            pub fn name(self) -> &'static str {
                match self { $(Operation::$variant => stringify!($variant)),* }
            }
        }
    };
}

operations! {
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CopyObject,
    CreateBucket,
    CreateMultipartUpload,
    DeleteBucket,
    DeleteObject,
    DeleteObjects,
    GetObject,
    HeadBucket,
    HeadObject,
    ListBuckets,
    ListMultipartUploads,
    ListObjects,
    ListObjectsV2,
    ListParts,
    PutObject,
    UploadPart,
    UploadPartCopy,
    Other,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a request is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// What it wants done.
    pub operation: Operation,
    /// Its bucket; empty when there is none.
    pub bucket: String,
    /// Its key; empty when there is none.
    pub key: String,
    /// The upload it belongs to.
    pub upload: Option<String>,
    /// The part it is about.
    pub part: Option<u32>,
}

impl Target {
    /// Reads a request's path, query and headers.
    pub fn of(request: &Parts) -> Target {
        let path = percent_decode_str(request.uri.path()).decode_utf8_lossy().into_owned();
        let path = path.strip_prefix('/').unwrap_or(&path);
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = Params(request.uri.query().unwrap_or(""));
        let operation = match (bucket.is_empty(), key.is_empty()) {
            (true, _) if request.method == Method::GET => Operation::ListBuckets,
            (true, _) => Operation::Other,
            (false, true) => of_bucket(&request.method, &query),
            (false, false) => of_object(&request.method, &query, &request.headers),
        };
        Target {
            operation,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            upload: query.get("uploadId"),
            part: query.get("partNumber").and_then(|number| number.parse().ok()),
        }
    }
}

fn of_bucket(method: &Method, query: &Params<'_>) -> Operation {
    let plain = !query.has_subresource();
    match method.as_str() {
        "GET" if query.has("uploads") => Operation::ListMultipartUploads,
        "GET" if query.get("list-type").is_some_and(|kind| kind == "2") => Operation::ListObjectsV2,
        "GET" if plain => Operation::ListObjects,
        "PUT" if plain => Operation::CreateBucket,
        "DELETE" if plain => Operation::DeleteBucket,
        "HEAD" => Operation::HeadBucket,
        "POST" if query.has("delete") => Operation::DeleteObjects,
        _ => Operation::Other,
    }
}

fn of_object(method: &Method, query: &Params<'_>, headers: &HeaderMap) -> Operation {
    let plain = !query.has_subresource();
    let copy = headers.contains_key("x-amz-copy-source");
    match method.as_str() {
        "GET" if query.has("uploadId") => Operation::ListParts,
        "GET" if plain => Operation::GetObject,
        "HEAD" => Operation::HeadObject,
        "PUT" if query.has("uploadId") && copy => Operation::UploadPartCopy,
        "PUT" if query.has("uploadId") => Operation::UploadPart,
        "PUT" if plain && copy => Operation::CopyObject,
        "PUT" if plain => Operation::PutObject,
        "POST" if query.has("uploads") => Operation::CreateMultipartUpload,
        "POST" if query.has("uploadId") => Operation::CompleteMultipartUpload,
        "DELETE" if query.has("uploadId") => Operation::AbortMultipartUpload,
        "DELETE" if plain => Operation::DeleteObject,
        _ => Operation::Other,
    }
}

/// A query string as it was sent.
struct Params<'a>(&'a str);

impl Params<'_> {
    fn get(&self, name: &str) -> Option<String> {
        self.pairs()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    fn has(&self, name: &str) -> bool {
        self.pairs().any(|(found, _)| found == name)
    }

    /// Whether the request is about a property (acl, tagging, policy ...) and not the object or bucket itself.
    fn has_subresource(&self) -> bool {
        const SUBRESOURCES: [&str; 14] = [
            "acl",
            "attributes",
            "cors",
            "encryption",
            "legal-hold",
            "lifecycle",
            "location",
            "object-lock",
            "policy",
            "retention",
            "tagging",
            "versioning",
            "versions",
            "website",
        ];
        SUBRESOURCES.iter().any(|name| self.has(name))
    }

    fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        let table = [
            ("GET", "/", Operation::ListBuckets),
            ("PUT", "/b", Operation::CreateBucket),
            ("HEAD", "/b", Operation::HeadBucket),
            ("DELETE", "/b/", Operation::DeleteBucket),
            ("GET", "/b?list-type=2&prefix=a", Operation::ListObjectsV2),
            ("GET", "/b?prefix=a", Operation::ListObjects),
            ("GET", "/b?uploads&prefix=a", Operation::ListMultipartUploads),
            ("POST", "/b?delete", Operation::DeleteObjects),
            ("GET", "/b?location", Operation::Other),
            ("GET", "/b/k/x", Operation::GetObject),
            ("GET", "/b/k?x-id=GetObject", Operation::GetObject),
            ("GET", "/b/k?uploadId=u", Operation::ListParts),
            ("GET", "/b/k?tagging", Operation::Other),
            ("HEAD", "/b/k", Operation::HeadObject),
            ("PUT", "/b/k", Operation::PutObject),
            ("PUT", "/b/k?partNumber=3&uploadId=u", Operation::UploadPart),
            ("POST", "/b/k?uploads=", Operation::CreateMultipartUpload),
            ("POST", "/b/k?uploadId=u", Operation::CompleteMultipartUpload),
            ("DELETE", "/b/k?uploadId=u", Operation::AbortMultipartUpload),
            ("DELETE", "/b/k", Operation::DeleteObject),
        ];
        for (method, uri, operation) in table {
            let parts = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0;
            assert_eq!(Target::of(&parts).operation, operation, "{method} {uri}");
        }
    }

    #[test]
    fn targets_are_read() {
        let request = http::Request::put("/b/d%2Fx/%20y?partNumber=3&uploadId=a%2Bb")
            .header("x-amz-copy-source", "/b/other")
            .body(())
            .unwrap();
        let expected = Target {
            operation: Operation::UploadPartCopy,
            bucket: "b".to_owned(),
            key: "d/x/ y".to_owned(),
            upload: Some("a+b".to_owned()),
            part: Some(3),
        };
        assert_eq!(Target::of(&request.into_parts().0), expected);
    }
}
