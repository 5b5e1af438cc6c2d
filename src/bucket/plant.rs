//! Objects put and read behind the server's back: by tests, and by fault rules that replace what a client reads.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use crate::bucket::disk::{About, Bucket, Condition, Content, Object, ObjectFacts, Refusal};
use crate::bucket::service::digests::Digests;
use crate::types::{ByteRange, Crc64, ETag, UnixTime};

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

/// Puts an object of `size` zeros with some bytes in between, each at its offset, in ascending order. The zeros take no
/// space. Fails when islands overlap or reach beyond the end.
pub fn put_sparse(
    bucket: &Bucket,
    key: &str,
    size: u64,
    islands: &[(u64, &[u8])],
) -> Result<Arc<Object>, Refusal> {
    let mut writer = bucket.writer(key)?;
    let (mut crc64, mut at) = (Crc64::EMPTY, 0);
    for &(start, bytes) in islands.iter().chain([&(size, [].as_slice())]) {
        let Some(gap) = start.checked_sub(at).filter(|_| start + bytes.len() as u64 <= size) else {
            return Err(Refusal::Disk(io::ErrorKind::InvalidInput.into()));
        };
        writer.skip(gap)?;
        writer.write(bytes)?;
        crc64 = crc64.then(zeros(gap), gap).then(Crc64::of(bytes), bytes.len() as u64);
        at = start + bytes.len() as u64;
    }
    let facts = ObjectFacts {
        key: key.to_owned(),
        etag: ETag::new(&format!("{:016x}{size:016x}", crc64.0)),
        modified: UnixTime::from(SystemTime::now()),
        about: About::default(),
        upload: None,
    };
    bucket.put(Object { facts, content: writer.finish(crc64) }, &Condition::None)
}

/// The checksum of `len` zeros.
fn zeros(len: u64) -> Crc64 {
    // As many as each bit of the length stands for: twice as many a bit.
    let mut doubled = Crc64::of(&[0]);
    let mut sum = Crc64::EMPTY;
    for bit in 0..u64::BITS - len.leading_zeros() {
        if len >> bit & 1 == 1 {
            sum = sum.then(doubled, 1 << bit);
        }
        doubled = doubled.then(doubled, 1 << bit);
    }
    sum
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_have_the_checksum_of_zeros() {
        for len in [0, 1, 2, 3, 255, 256, 100_003] {
            assert_eq!(zeros(len), Crc64::of(&vec![0; len as usize]), "{len}");
        }
    }
}
