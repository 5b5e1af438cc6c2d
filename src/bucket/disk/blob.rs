//! Bytes in files that never change, and content as slices of them.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use s3s::StdError;
use s3s::stream::{ByteStream, RemainingLength};

use crate::bucket::disk::record::SliceRecord;
use crate::bucket::disk::{BlobsByName, record};
use crate::types::{ByteRange, Crc64};

/// Read at a time when an object is sent: large enough to make system calls rare, small enough for a fair share of memory.
const PIECE_BYTES: u64 = 256 << 10;

/// One file of bytes. Never changed once its writer is done.
#[derive(Debug)]
pub struct Blob {
    path: PathBuf,
    /// Records on disk that name this file. INVARIANT: at zero when the last owner goes, the file goes too.
    uses: AtomicUsize,
}

impl Blob {
    /// A file found on disk.
    pub fn found(path: PathBuf) -> Arc<Blob> {
        Arc::new(Blob { path, uses: AtomicUsize::new(0) })
    }

    /// Keeps the file whatever becomes of its owners.
    pub fn keep(&self) {
        self.uses.fetch_add(1, Ordering::Relaxed);
    }

    fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if *self.uses.get_mut() == 0
            && let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!("Cannot remove {}: {error}", self.path.display());
        }
    }
}

/// Writes one data file. Dropped without `finish`, the file is removed.
#[derive(Debug)]
pub struct Writer {
    blob: Arc<Blob>,
    file: File,
    len: u64,
}

impl Writer {
    /// Starts a file in `folder`; `key` gives its readable end.
    pub fn create(folder: &Path, key: &str) -> io::Result<Writer> {
        let name = format!("{:016x}-{}", fastrand::u64(..), record::hint(key));
        let path = folder.join(name);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Writer { blob: Blob::found(path), file, len: 0 })
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Adds `len` zeros, as a hole that takes no space.
    pub fn skip(&mut self, len: u64) -> io::Result<()> {
        self.len += len;
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len)).map(drop)
    }

    /// The content written, whose checksum the caller computed on the way.
    pub fn finish(self, crc64: Crc64) -> Content {
        Content::new(vec![Slice { blob: self.blob, start: 0, len: self.len, crc64 }])
    }
}

/// `len` bytes of a file. INVARIANT: `len` is above 0 and `crc64` is the checksum of just these bytes.
#[derive(Clone, Debug)]
struct Slice {
    blob: Arc<Blob>,
    start: u64,
    len: u64,
    crc64: Crc64,
}

/// The bytes of an object or part: slices of data files, one after the other. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Content {
    slices: Arc<[Slice]>,
    len: u64,
}

impl Content {
    fn new(mut slices: Vec<Slice>) -> Content {
        slices.retain(|slice| slice.len > 0);
        let len = slices.iter().map(|slice| slice.len).sum();
        Content { slices: slices.into(), len }
    }

    /// One content after the other.
    pub fn joined<'a>(parts: impl Iterator<Item = &'a Content>) -> Content {
        Content::new(parts.flat_map(|part| part.slices.iter().cloned()).collect())
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Checksum of all bytes, from those of the slices.
    pub fn crc64(&self) -> Crc64 {
        self.slices.iter().fold(Crc64::EMPTY, |crc64, slice| crc64.then(slice.crc64, slice.len))
    }

    /// The bytes in `range`, which lies within the content. Reads the slices that are cut, for their checksums.
    pub fn cut(&self, range: ByteRange) -> io::Result<Content> {
        let mut slices = Vec::new();
        for (slice, piece) in self.within(range) {
            let crc64 = if piece.len() == slice.len {
                slice.crc64
            } else {
                let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Nvme);
                let file = File::open(&slice.blob.path)?;
                for step in piece.split(PIECE_BYTES) {
                    digest.update(&read_at(&file, step)?);
                }
                Crc64(digest.finalize())
            };
            slices.push(Slice { blob: slice.blob.clone(), start: piece.start, len: piece.len(), crc64 });
        }
        Ok(Content::new(slices))
    }

    /// The bytes in `range`, which lies within the content, as a stream. They stay readable while the stream lives,
    /// whatever happens to the object meanwhile.
    pub fn reader(&self, range: ByteRange) -> Reader {
        let mut pieces: Vec<_> =
            self.within(range).map(|(slice, piece)| (slice.blob.clone(), piece)).collect();
        pieces.reverse();
        Reader { pieces, file: None, left: range.len() }
    }

    /// Counts one record on disk that names this content.
    pub fn hold(&self) {
        for slice in self.slices.iter() {
            slice.blob.uses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// One record less names this content.
    pub fn release(&self) {
        for slice in self.slices.iter() {
            slice.blob.uses.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// As it stands in a record.
    pub fn to_record(&self) -> Vec<SliceRecord> {
        let slice = |slice: &Slice| SliceRecord {
            file: slice.blob.name(),
            start: slice.start,
            len: slice.len,
            crc64: slice.crc64,
        };
        self.slices.iter().map(slice).collect()
    }

    /// From a record; fails when a file it names is not there.
    pub fn from_record(records: &[SliceRecord], blobs: &BlobsByName) -> io::Result<Content> {
        let slice = |record: &SliceRecord| {
            let blob = blobs.get(&record.file).cloned().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("data file {} is missing", record.file))
            })?;
            Ok(Slice { blob, start: record.start, len: record.len, crc64: record.crc64 })
        };
        Ok(Content::new(records.iter().map(slice).collect::<io::Result<_>>()?))
    }

    /// The slices that `range` touches, each with the bytes of its file that it takes.
    fn within(&self, range: ByteRange) -> impl Iterator<Item = (&Slice, ByteRange)> {
        let mut at = 0;
        self.slices.iter().filter_map(move |slice| {
            let here = ByteRange::at(at, slice.len);
            at = here.end;
            let piece = here.intersect(range)?;
            let in_file = slice.start + (piece.start - here.start);
            Some((slice, ByteRange::at(in_file, piece.len())))
        })
    }
}

/// A stream of content in pieces of at most 256 KiB, read as they are asked for.
///
/// Reads on the caller's thread: what is served was written a moment ago and is in the page cache, where a read costs
/// less than a change of threads.
#[derive(Debug)]
pub struct Reader {
    /// What is left to read, in reverse.
    pieces: Vec<(Arc<Blob>, ByteRange)>,
    file: Option<File>,
    left: u64,
}

impl Reader {
    /// The next bytes, or `None` at the end.
    pub fn read(&mut self) -> io::Result<Option<Bytes>> {
        let Some((blob, range)) = self.pieces.last_mut() else { return Ok(None) };
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&blob.path)?,
        };
        let step = ByteRange::at(range.start, range.len().min(PIECE_BYTES));
        let bytes = read_at(&file, step)?;
        range.start = step.end;
        if range.is_empty() {
            self.pieces.pop();
        } else {
            self.file = Some(file);
        }
        self.left -= step.len();
        Ok(Some(bytes.into()))
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.read().map_err(StdError::from).transpose())
    }
}

impl ByteStream for Reader {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.left).unwrap_or(usize::MAX))
    }
}

/// Exactly `range` of a file.
fn read_at(file: &File, range: ByteRange) -> io::Result<Vec<u8>> {
    let len = usize::try_from(range.len()).expect("pieces are small");
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let at = range.start + bytes.len() as u64;
        if rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}
