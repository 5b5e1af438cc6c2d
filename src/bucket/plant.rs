//! Objects put and read behind the server's back: by tests, and by fault rules that replace what a client reads.

use std::sync::Arc;
use std::time::SystemTime;

use crate::bucket::disk::{About, Bucket, Condition, Content, Object, ObjectFacts, Refusal};
use crate::bucket::service::digests::Digests;
use crate::types::{ByteRange, UnixTime};

/// Puts an object.
pub fn put(bucket: &Bucket, key: &str, bytes: &[u8]) -> Result<Arc<Object>, Refusal> {
    let mut digests = Digests::default();
    digests.update(bytes);
    let content = if bytes.is_empty() {
        Content::default()
    } else {
        let mut writer = bucket.writer(key)?;
        writer.write(bytes)?;
        writer.finish(digests.crc64())
    };
    let facts = ObjectFacts {
        key: key.to_owned(),
        etag: digests.etag(),
        modified: UnixTime::from(SystemTime::now()),
        about: About::default(),
        upload: None,
    };
    bucket.put(Object { facts, content }, &Condition::None)
}

/// Reads an object.
pub fn read(bucket: &Bucket, key: &str) -> Result<Vec<u8>, Refusal> {
    let object = bucket.object(key)?;
    let mut reader = object.content.reader(ByteRange::new(0, object.content.len()));
    let mut bytes = Vec::new();
    while let Some(piece) = reader.read()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}
