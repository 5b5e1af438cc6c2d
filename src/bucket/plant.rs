//! Objects put and read behind the server's back: by tests, and by fault rules that replace what a client reads.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use crate::bucket::disk::{About, Bucket, Condition, Content, Object, ObjectFacts, Part, Refusal};
use crate::bucket::service::digests::Digests;
use crate::types::{ByteRange, Crc64, ETag, UnixTime};

/// Puts an object.
pub fn put(bucket: &Bucket, key: &str, bytes: &[u8]) -> Result<Arc<Object>, Refusal> {
    let mut digests = Digests::default();
    digests.update(bytes);
    let content = written(bucket, key, bytes)?;
    let facts = ObjectFacts {
        key: key.to_owned(),
        etag: digests.etag(),
        modified: UnixTime::from(SystemTime::now()),
        about: About::default(),
        upload: None,
    };
    bucket.put(Object { facts, content }, &Condition::None)
}

fn written(bucket: &Bucket, key: &str, bytes: &[u8]) -> Result<Content, Refusal> {
    if bytes.is_empty() {
        return Ok(Content::default());
    }
    let mut writer = bucket.writer(key)?;
    writer.write(bytes)?;
    Ok(writer.finish(Crc64::of(bytes)))
}

/// Inverts one byte of a part that an upload has. The part keeps its etag. Nothing happens beyond its end.
pub fn spoil_part(bucket: &Bucket, key: &str, upload: &str, number: u32, at: u64) -> Result<(), Refusal> {
    let parts = bucket.parts(key, upload)?;
    let part = parts.into_iter().find(|part| part.number == number).ok_or(Refusal::InvalidPart(number))?;
    let mut bytes = all(&part.content)?;
    if let Some(byte) = bytes.get_mut(at as usize) {
        *byte = !*byte;
    }
    bucket.put_part(key, upload, Part { content: written(bucket, key, &bytes)?, ..part })
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
    all(&bucket.object(key)?.content)
}

fn all(content: &Content) -> Result<Vec<u8>, Refusal> {
    let mut reader = content.reader(ByteRange::new(0, content.len()));
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
