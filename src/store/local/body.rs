//! The bytes of a file as a body.

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::observe::task;
use crate::store::local::record::Found;
use crate::store::local::tree::{check_unchanged, failure};
use crate::store::rules::About;
use crate::store::{Body, Error, ErrorKind, Op, Result};
use crate::types::{ByteRange, Key};

/// Bytes read at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// The bytes `range` of an open file, which all belong to the version found: an open file stays what it is when another
/// takes its name, and one that is edited in place is noticed.
pub(crate) fn body(found: Found, key: &Key, range: ByteRange) -> Body {
    let pieces: Vec<ByteRange> = range.split(PIECE_BYTES).collect();
    let source = Arc::new((found, key.clone()));
    let read_each = move |piece: ByteRange| {
        let source = source.clone();
        async move {
            let (_, key) = &*source;
            let key = key.clone();
            let read = task::spawn_blocking("local read", move || read(&source.0, &source.1, piece));
            read.await.unwrap_or_else(|lost| Err(interrupted(Op::Get, &key, &lost.to_string())))
        }
    };
    // Ends with the first error, as the body of a connection does.
    let mut failed = false;
    stream::iter(pieces)
        .then(read_each)
        .take_while(move |piece| {
            let keep = !failed;
            failed = piece.is_err();
            std::future::ready(keep)
        })
        .boxed()
}

/// The runtime ended, or a defect of ours, before the call did. A change may have been made.
pub(crate) fn interrupted(op: Op, key: &Key, reason: &str) -> Error {
    let kind = match op {
        Op::Head | Op::Get | Op::List | Op::UploadStatus | Op::Probe => {
            ErrorKind::Unavailable { retry_after: None }
        }
        Op::Put
        | Op::Copy
        | Op::Delete
        | Op::DeleteMany
        | Op::BeginUpload
        | Op::PutPart
        | Op::CopyPart
        | Op::CompleteUpload
        | Op::AbortUpload => ErrorKind::Ambiguous,
    };
    Error::on(op, key, kind, format!("interrupted: {reason}"))
}

fn read(found: &Found, key: &Key, piece: ByteRange) -> Result<Bytes> {
    let about = About { op: Op::Get, key };
    let mut bytes = vec![0; piece.len() as usize];
    let read = found.file.read_exact_at(&mut bytes, piece.start);
    check_unchanged(about, found)?;
    read.map_err(|error| failure(about, "cannot read", error))?;
    Ok(Bytes::from(bytes))
}
