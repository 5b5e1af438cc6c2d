//! Finds out which parts of the protocol a server keeps, by trying them on objects of our own.
//!
//! Many servers accept conditional headers and ignore them, which cannot be seen from an answer to a real request before
//! it is too late. Each question is put so that an honest server refuses it. Two objects below the volume's prefix are
//! used, named `.tetherfs-probe-...`; both are removed, and the upload is given up, whatever the outcome.

use bytes::Bytes;
use http::{Method, StatusCode};

use crate::store::s3::S3Store;
use crate::store::s3::client::{Call, CallError};
use crate::store::s3::dialect::{Dialect, ListEncoding};
use crate::store::s3::objects::quoted;
use crate::store::s3::open::{ATTEMPTS_MAX, BACKOFF_FIRST};
use crate::store::{
    Completion, CopyOptions, DeleteOptions, Error, ErrorKind, ListOptions, MetadataDirective, Op,
    PartReceipt, PartSlot, Precondition, PutOptions, Result, Upload, UploadOptions, UploadStatus,
};
use crate::types::{Attributes, ByteRange, Crc64, ETag, Key, ObjectId, ObjectMeta, PartNumber};

/// Put into the probe's name to see how listings encode it.
const AWKWARD: &str = " +%41";
/// No object has this version.
const NO_ETAG: &str = "00000000000000000000000000000000";
const BODY: &[u8] = b"tetherfs probe";
const OTHER_BODY: &[u8] = b"tetherfs probe, sent again";
/// Most attempts of one question while the server refuses for now; the waits between them add up to four seconds.
const UNAVAILABLE_ATTEMPTS_MAX: u32 = 5;
/// Part of `BODY` that is copied into a part.
const COPIED: ByteRange = ByteRange { start: 0, end: 3 };

/// Tries out a server. `trusting` must send every precondition as if it were honoured.
pub async fn probe(trusting: &S3Store) -> Result<Dialect> {
    let random = fastrand::u64(..);
    let key = |tail: &str| {
        Key::new(&format!(".tetherfs-probe-{random:016x}{tail}")).expect("short, not empty, without NUL")
    };
    let objects_key = key(AWKWARD);
    let first = match first_put(trusting, &objects_key).await? {
        FirstPut::Stored { meta, takes_crc64, takes_conditions } => (meta, takes_crc64, takes_conditions),
        FirstPut::Denied(why) => {
            log::warn!(
                "These credentials cannot write, so the server's abilities are assumed to be the least: {why}"
            );
            return Ok(Dialect::cautious());
        }
    };
    let (meta, takes_crc64, takes_conditions) = first;
    let parts_key = key("-parts");
    let (objects, parts) = tokio::join!(
        probe_objects(trusting, meta, takes_conditions),
        probe_parts(trusting, &parts_key, takes_crc64)
    );
    for key in [&objects_key, &parts_key] {
        if let Err(left) = steady(|| trusting.delete_object(key, DeleteOptions::default())).await {
            log::warn!("The probe object {key} is left in the bucket: {left}");
        }
    }
    let (objects, parts) = (objects?, parts?);
    Ok(Dialect {
        complete_if_absent: parts.complete_if_absent,
        complete_if_match: parts.complete_if_match,
        copy_part: parts.copy_part,
        replace_part: parts.replace_part,
        takes_crc64: parts.takes_crc64,
        stores_crc64: parts.stores_crc64,
        etag_settles_late: parts.etag_settles_late,
        ..objects
    })
}

/// How the first change went.
enum FirstPut {
    Stored { meta: ObjectMeta, takes_crc64: bool, takes_conditions: bool },
    Denied(Error),
}

/// A PUT with all that we would like to send, and if that is refused, a plain one.
async fn first_put(store: &S3Store, key: &Key) -> Result<FirstPut> {
    let full = PutOptions {
        precondition: Precondition::Absent,
        crc64: Some(Crc64::of(BODY)),
        ..PutOptions::default()
    };
    // An ambiguous answer may have stored it, so the second attempt cannot ask for absence.
    let error = match store.put_object(key, Bytes::from_static(BODY), full).await {
        Ok(meta) => return Ok(FirstPut::Stored { meta, takes_crc64: true, takes_conditions: true }),
        Err(error) => error,
    };
    let was_absent = is_absent(&error) || error.kind == ErrorKind::Ambiguous;
    if error.kind == ErrorKind::Denied {
        return Ok(FirstPut::Denied(error));
    }
    match steady(|| store.put_object(key, Bytes::from_static(BODY), PutOptions::default())).await {
        // A failure in passing was no answer to what was asked; the later questions tell.
        Ok(meta) => Ok(FirstPut::Stored { meta, takes_crc64: was_absent, takes_conditions: was_absent }),
        Err(error) if is_absent(&error) => Err(error),
        Err(error) => Ok(FirstPut::Denied(error)),
    }
}

/// What PUT, GET, DELETE, CopyObject and listings do with an object that is there.
async fn probe_objects(store: &S3Store, mut meta: ObjectMeta, takes_conditions: bool) -> Result<Dialect> {
    let key = meta.id.key.clone();
    let wrong = ETag::new(NO_ETAG);
    let mut found = Dialect::cautious();
    if takes_conditions {
        found.put_if_absent = refuses(&mut meta, || put_under(store, &key, Precondition::Absent)).await?;
        found.put_if_match =
            refuses(&mut meta, || put_under(store, &key, Precondition::Matches(wrong.clone()))).await?;
    }
    found.get_if_match = get_refuses(store, &key).await?;
    found.list_encoding = list_encoding(store, &key).await;
    let stranger = ObjectId { etag: wrong.clone(), ..meta.id.clone() };
    found.copy_pinned = refuses(&mut meta, || copy_under(store, &stranger, Precondition::None)).await?;
    let source = meta.id.clone();
    found.copy_conditional = refuses(&mut meta, || copy_under(store, &source, Precondition::Absent)).await?;
    let options = DeleteOptions { if_match: Some(wrong) };
    found.delete_if_match = match steady(|| store.delete_object(&key, options.clone())).await {
        Err(error) if error.kind == ErrorKind::Precondition => true,
        Err(error) if is_absent(&error) => return Err(error),
        Ok(()) | Err(_) => false,
    };
    Ok(found)
}

async fn put_under(store: &S3Store, key: &Key, precondition: Precondition) -> Result<ObjectMeta> {
    let options = PutOptions { precondition, ..PutOptions::default() };
    store.put_object(key, Bytes::from_static(BODY), options).await
}

/// Copies the object onto itself, which servers allow when the metadata change.
async fn copy_under(store: &S3Store, source: &ObjectId, precondition: Precondition) -> Result<ObjectMeta> {
    let metadata = MetadataDirective::Replace(Attributes { mode: Some(0o600), ..Attributes::default() });
    store.copy_object(source, &source.key, CopyOptions { precondition, metadata, token: None }).await
}

/// Whether a change that must not happen is refused. Where it happens, `meta` is what it left.
async fn refuses<F>(meta: &mut ObjectMeta, change: impl Fn() -> F) -> Result<bool>
where
    F: Future<Output = Result<ObjectMeta>>,
{
    match steady(change).await {
        Ok(left) => {
            *meta = left;
            Ok(false)
        }
        Err(error) if error.kind == ErrorKind::Precondition => Ok(true),
        Err(error) if is_absent(&error) => Err(error),
        Err(error) => {
            log::debug!("Not supported: {error}");
            Ok(false)
        }
    }
}

/// Asked without the store, which compares versions itself.
async fn get_refuses(store: &S3Store, key: &Key) -> Result<bool> {
    let call = Call::new(Op::Get, Method::GET, Some(key))
        .header(http::header::IF_MATCH, &quoted(&ETag::new(NO_ETAG)));
    steady(|| async {
        match store.client.attempt(&call).await {
            Ok(_) => Ok(false),
            Err(CallError::Refused { refusal, .. }) if refusal.status == StatusCode::PRECONDITION_FAILED => {
                Ok(true)
            }
            Err(error) => Err(error.into_error(&call)),
        }
    })
    .await
}

/// Lists the awkward name encoded; whether it comes back as it is.
async fn list_encoding(store: &S3Store, key: &Key) -> ListEncoding {
    let options = ListOptions { prefix: key.as_str().to_owned(), ..ListOptions::default() };
    match steady(|| store.list_objects(options.clone())).await {
        Ok(page) if page.objects.iter().any(|object| object.id.key == *key) => ListEncoding::Url,
        Ok(_) | Err(_) => ListEncoding::Plain,
    }
}

/// What multipart uploads do, under a key where there is an object already.
///
/// One upload after the other: Garage forgets uploads of a key when the key gets a newer object.
async fn probe_parts(store: &S3Store, key: &Key, takes_crc64: bool) -> Result<Dialect> {
    let source = steady(|| put_under(store, key, Precondition::None)).await?.id;
    let mut found = Dialect { takes_crc64, ..Dialect::cautious() };
    let copied = in_upload(store, key, async |upload| copy_is_exact(store, upload, &source).await).await;
    found.copy_part = copied.unwrap_or(false);
    let joined = in_upload(store, key, async |upload| fill_and_join(store, upload, &mut found).await).await;
    if joined.is_none() {
        // The volume still works for what fits one PUT; and plain uploads may do.
        found.takes_crc64 = false;
    }
    Ok(found)
}

/// Tries something with an upload of its own, which is given up afterwards. `None` when the server refuses a step.
async fn in_upload<T>(
    store: &S3Store,
    key: &Key,
    trial: impl AsyncFnOnce(&Upload) -> Result<T>,
) -> Option<T> {
    let outcome = match steady(|| store.create_upload(key, UploadOptions::default())).await {
        Ok(upload) => {
            let outcome = trial(&upload).await;
            // Given up also when it was joined: then the server says that it is gone.
            if let Err(left) = store.drop_upload(&upload).await {
                log::debug!("The probe's upload could not be given up: {left}");
            }
            outcome
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(learnt) => Some(learnt),
        Err(error) => {
            log::warn!("The server's multipart uploads are incomplete: {error}");
            None
        }
    }
}

/// Whether ranges are copied into parts, and only from the version named.
async fn copy_is_exact(store: &S3Store, upload: &Upload, source: &ObjectId) -> Result<bool> {
    let stranger = ObjectId { etag: ETag::new(NO_ETAG), ..source.clone() };
    let copy =
        async |from: &ObjectId| store.upload_part_copy(upload, only_slot(COPIED.len()), from, COPIED).await;
    match steady(|| copy(&stranger)).await {
        Err(error) if error.kind == ErrorKind::Precondition => {}
        Ok(_) | Err(_) => return Ok(false),
    }
    match steady(|| copy(source)).await {
        // Some servers copy the whole source whatever the range.
        Ok(_) => match steady(|| store.list_parts(upload)).await? {
            UploadStatus::Parts(parts) => Ok(parts.iter().map(|part| part.len).eq([COPIED.len()])),
            UploadStatus::Offset(_) | UploadStatus::Gone => Ok(false),
        },
        // By the API reference the source must have 5 MiB; a server that says so knows the operation.
        Err(error) => Ok(error.kind == ErrorKind::Refused),
    }
}

async fn fill_and_join(store: &S3Store, upload: &Upload, found: &mut Dialect) -> Result<()> {
    let put = async |body: &'static [u8]| {
        store.upload_part(upload, only_slot(body.len() as u64), Bytes::from_static(body)).await
    };
    let first = steady(|| put(BODY)).await?;
    let (part, body) = match steady(|| put(OTHER_BODY)).await {
        Ok(part) => (part, OTHER_BODY),
        // Some servers take no number twice.
        Err(_) => (first, BODY),
    };
    let meta = join(store, upload, &part, body, found).await?;
    let seen = steady(|| store.head_object(&meta.id.key)).await?;
    found.replace_part = body == OTHER_BODY && seen.id.size == OTHER_BODY.len() as u64;
    found.etag_settles_late = seen.id.etag != meta.id.etag;
    found.stores_crc64 = seen.crc64 == Some(Crc64::of(body));
    Ok(())
}

fn only_slot(bytes: u64) -> PartSlot {
    PartSlot { number: PartNumber::from_index(0), range: ByteRange::new(0, bytes), is_last: true }
}

/// Joins the upload, first under two preconditions that do not hold.
async fn join(
    store: &S3Store,
    upload: &Upload,
    part: &PartReceipt,
    body: &'static [u8],
    found: &mut Dialect,
) -> Result<ObjectMeta> {
    let under = |precondition: Precondition| {
        let completion = Completion {
            precondition,
            size: body.len() as u64,
            crc64: Some(Crc64::of(body)),
            ..Completion::default()
        };
        store.join_parts(upload, std::slice::from_ref(part), completion)
    };
    match steady(|| under(Precondition::Absent)).await {
        Ok(meta) => return Ok(meta),
        Err(error) if error.kind == ErrorKind::Precondition => found.complete_if_absent = true,
        Err(error) if is_absent(&error) => return Err(error),
        Err(error) => log::debug!("Not supported: {error}"),
    }
    match steady(|| under(Precondition::Matches(ETag::new(NO_ETAG)))).await {
        Ok(meta) => return Ok(meta),
        Err(error) if error.kind == ErrorKind::Precondition => found.complete_if_match = true,
        Err(error) if is_absent(&error) => return Err(error),
        Err(error) => log::debug!("Not supported: {error}"),
    }
    steady(|| under(Precondition::None)).await
}

/// Whether the server was not there to answer, so that nothing is learnt. One that breaks over a question every time
/// has answered it.
fn is_absent(error: &Error) -> bool {
    match error.kind {
        ErrorKind::Unavailable { .. } | ErrorKind::NoVolume => true,
        ErrorKind::NotFound
        | ErrorKind::Precondition
        | ErrorKind::UploadGone
        | ErrorKind::Ambiguous
        | ErrorKind::Denied
        | ErrorKind::TooLarge
        | ErrorKind::Refused
        | ErrorKind::Protocol
        | ErrorKind::Integrity
        | ErrorKind::Unsupported => false,
    }
}

/// Asks again while the server is not up to answering. All questions bear to be asked twice. A server that is there
/// and breaks over a question may do so every time, and is asked less often than one that refuses for now.
async fn steady<T, F>(ask: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut wait = BACKOFF_FIRST;
    let mut attempt = 1;
    loop {
        let outcome = ask().await;
        let attempts_max = match &outcome {
            Err(error) if error.kind == ErrorKind::Ambiguous => ATTEMPTS_MAX,
            Err(error) if error.kind.is_retryable() => UNAVAILABLE_ATTEMPTS_MAX,
            Ok(_) | Err(_) => return outcome,
        };
        if attempt >= attempts_max {
            return outcome;
        }
        tokio::time::sleep(wait).await;
        wait *= 2;
        attempt += 1;
    }
}
