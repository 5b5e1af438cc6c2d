//! Performs one effect against the store. Knows nothing of what comes before or after it.
//!
//! Commits are sent once: before one is sent again, there may be a newer content to commit instead.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::observe::{Counter, task};
use crate::store::wrap::without_retries;
use crate::store::{
    Completion, CopyOptions, ErrorKind, MetadataDirective, Op, PartReceipt, PartSlot, Precondition,
    PutOptions, Upload, UploadOptions, UploadStatus,
};
use crate::types::{Attributes, ByteRange, Crc64, Key, ObjectId, ObjectMeta, PartNumber, UploadToken};
use crate::write::context::Context;
use crate::write::context::killpoint::KillPoint;
use crate::write::file::local_error;
use crate::write::staging::{Snapshot, StagedPiece};
use crate::write::upload::{Base, Content, Effect, Reply, Session, State, Stored};
use crate::write::{BaseError, Error};

/// Most bytes of a base that are asked for at once.
const BASE_READ_BYTES: u64 = 4 << 20;
/// Staged bytes up to this many are read without leaving the task: they have just been written.
const INLINE_READ_BYTES: u64 = 128 << 10;

/// One effect and everything it needs.
#[derive(Debug)]
pub struct Work {
    /// What is to be done.
    pub effect: Effect,
    /// Where.
    pub key: Key,
    /// Its bytes, for effects that send any.
    pub snapshot: Option<Arc<Snapshot>>,
    /// The version of those bytes.
    pub version: u64,
    expected: Precondition,
    content: Option<Arc<Content>>,
    /// The attributes to send along.
    pub attributes: Attributes,
    upload: Option<Upload>,
    token: Option<UploadToken>,
    receipts: Vec<PartReceipt>,
    crc64: Option<Crc64>,
    object: Option<ObjectMeta>,
    /// The object that is being changed: its bytes may be the same.
    pub before: Option<ObjectId>,
    /// For a status query: parts that the server may have without our knowing.
    unknown: Vec<(PartNumber, ByteRange)>,
}

/// Why an effect failed.
#[derive(Debug)]
pub enum Failure {
    /// The store says so.
    Store(crate::store::Error),
    /// The base's bytes cannot be had any more.
    BaseGone,
    /// This machine says so.
    Local(Error),
}

impl Work {
    /// The work for an effect that `session` wants, still without its bytes.
    pub fn new(session: &Session, effect: Effect, context: &Context) -> Work {
        let content = session.content.clone();
        let attributes = content.as_ref().map(|content| content.attributes.clone()).unwrap_or_default();
        let transfer = session.transfer();
        let is = |id: &Effect| std::mem::discriminant(id) == std::mem::discriminant(&effect);
        let unknown =
            if is(&Effect::QueryStatus) { session.parts_unknown(&context.rules) } else { Vec::new() };
        let (receipts, crc64) = if is(&Effect::Complete) {
            (session.receipts(&context.rules), session.whole_crc(&context.rules))
        } else {
            (Vec::new(), None)
        };
        let (token, object) = match &session.state {
            State::Completing { token, .. } => (Some(token.clone()), None),
            State::Amending { object, .. } => (object.token.clone(), Some(object.clone())),
            State::Open
            | State::Sending(_)
            | State::Contested(_)
            | State::Committed { .. }
            | State::Conflicted
            | State::Quarantined { .. }
            | State::GivenUp => (None, None),
        };
        Work {
            unknown,
            effect,
            key: session.key.clone(),
            snapshot: None,
            version: 0,
            expected: session.expected.clone(),
            content,
            attributes,
            upload: transfer.map(|transfer| transfer.upload.clone()),
            token,
            receipts,
            crc64,
            object,
            before: None,
        }
    }

    /// Whether the result is about the upload that `session` has under way.
    pub fn is_about(&self, session: &Session) -> bool {
        self.upload.as_ref() == session.transfer().map(|transfer| &transfer.upload)
    }

    /// Whether it was sent for the content that `session` has on its way.
    pub fn is_for_content_of(&self, session: &Session) -> bool {
        self.content.as_ref().map(|content| content.session)
            == session.content.as_ref().map(|content| content.session)
    }

    /// Whether it is for a sealed content.
    pub fn has_content(&self) -> bool {
        self.content.is_some()
    }

    /// Bytes it holds in memory while it runs.
    pub fn bytes(&self) -> u64 {
        match &self.effect {
            Effect::SendPart(slot) => slot.range.len(),
            Effect::Put => self.content.as_ref().map_or(0, |content| content.size),
            Effect::Take
            | Effect::Begin
            | Effect::QueryStatus
            | Effect::CopyPart(_)
            | Effect::Intend(_)
            | Effect::Withdraw
            | Effect::Discontinue
            | Effect::Copy
            | Effect::Complete
            | Effect::Look
            | Effect::Resolve
            | Effect::Amend
            | Effect::Refuse
            | Effect::Abort(_) => 0,
        }
    }

    /// Does it.
    pub async fn perform(&self, context: &Context) -> Result<Reply, Failure> {
        match &self.effect {
            Effect::Begin => self.begin(context).await,
            Effect::QueryStatus => self.query(context).await,
            Effect::SendPart(slot) => self.send_part(context, *slot).await,
            Effect::CopyPart(slot) => self.copy_part(context, *slot).await,
            Effect::Put => self.put(context).await,
            Effect::Copy => self.copy(context).await,
            Effect::Complete => self.complete(context).await,
            Effect::Look => match context.store.head(&self.key).await {
                Ok(object) => Ok(Reply::Looked(Some(object))),
                Err(error) if error.kind == ErrorKind::NotFound => Ok(Reply::Looked(None)),
                Err(error) => Err(error.into()),
            },
            Effect::Amend => self.amend(context).await,
            Effect::Abort(upload) => {
                context.store.abort_upload(upload).await?;
                Ok(Reply::Aborted(upload.clone()))
            }
            Effect::Refuse => Err(Failure::Store(crate::store::Error::on(
                Op::Put,
                &self.key,
                ErrorKind::TooLarge,
                format!("this store takes objects of up to {} bytes", context.rules.object_bytes_max),
            ))),
            Effect::Take | Effect::Intend(_) | Effect::Withdraw | Effect::Discontinue | Effect::Resolve => {
                unreachable!("local effects are not sent: {:?}", self.effect)
            }
        }
    }

    async fn begin(&self, context: &Context) -> Result<Reply, Failure> {
        context.kill.pass(KillPoint::BeforeBegin);
        let token = new_token();
        let options = UploadOptions {
            attributes: self.attributes.clone(),
            token: Some(token.clone()),
            size: self.content.as_ref().map(|content| content.size),
        };
        let upload = context.store.begin_upload(&self.key, options).await?;
        context.kill.pass(KillPoint::AfterBeginBeforeJournal);
        let (layout, attributes) = (context.rules.layout(), self.attributes.clone());
        Ok(Reply::Begun { upload, token, layout, attributes })
    }

    async fn query(&self, context: &Context) -> Result<Reply, Failure> {
        let status = context.store.upload_status(self.upload()?).await?;
        let mut verified = Vec::new();
        if let UploadStatus::Parts(found) = &status {
            for (number, range) in &self.unknown {
                let part = found.iter().find(|part| part.number == *number && part.len == range.len());
                // A part whose receipt did not reach the journal is ours if it has our checksum.
                if let Some(receipt) = part.filter(|part| part.crc64.is_some())
                    && receipt.crc64 == Some(self.body(context, *range).await?.1)
                {
                    verified.push(Stored { range: *range, receipt: receipt.clone() });
                }
            }
        }
        Ok(Reply::Status(status, verified))
    }

    async fn send_part(&self, context: &Context, slot: PartSlot) -> Result<Reply, Failure> {
        let (body, crc) = self.body(context, slot.range).await?;
        let mut receipt = match self.copy_same(context, slot, &body).await? {
            Some(receipt) => receipt,
            None => context.store.put_part(self.upload()?, slot, body).await?,
        };
        if receipt.crc64.is_some_and(|stored| stored != crc) {
            let detail = "the server stored a part with another checksum than it was sent with";
            return Err(crate::store::Error::on(Op::PutPart, &self.key, ErrorKind::Integrity, detail).into());
        }
        receipt.crc64 = Some(crc);
        context.kill.pass(KillPoint::AfterPartBeforeJournal);
        Ok(Reply::Part(Stored { range: slot.range, receipt }))
    }

    /// Copies the part instead, where the object before has just these bytes in just this place.
    async fn copy_same(
        &self,
        context: &Context,
        slot: PartSlot,
        body: &Bytes,
    ) -> Result<Option<PartReceipt>, Failure> {
        let is_possible = |before: &&ObjectId| context.rules.copies_parts && slot.range.end <= before.size;
        let Some(before) = self.before.as_ref().filter(is_possible) else {
            return Ok(None);
        };
        for piece in slot.range.split(BASE_READ_BYTES) {
            let at = (piece.start - slot.range.start) as usize;
            let ours = &body[at..at + piece.len() as usize];
            if context.base.base_here(before, piece).await.is_none_or(|theirs| theirs != ours) {
                return Ok(None);
            }
        }
        match context.store.copy_part(self.upload()?, slot, before, slot.range).await {
            Ok(receipt) => {
                context.metrics.add(Counter::PartsUnchanged, 1);
                Ok(Some(receipt))
            }
            Err(error) => {
                log::debug!("Part {:?} of {} is sent, not copied: {error}", slot.range, self.key);
                Ok(None)
            }
        }
    }

    async fn copy_part(&self, context: &Context, slot: PartSlot) -> Result<Reply, Failure> {
        let source = &self.base()?.object;
        let receipt = context.store.copy_part(self.upload()?, slot, source, slot.range).await?;
        context.kill.pass(KillPoint::AfterPartBeforeJournal);
        Ok(Reply::Part(Stored { range: slot.range, receipt }))
    }

    async fn put(&self, context: &Context) -> Result<Reply, Failure> {
        let (body, crc) = self.body(context, ByteRange::new(0, self.content()?.size)).await?;
        let options = PutOptions {
            precondition: self.expected.clone(),
            attributes: self.attributes.clone(),
            token: self.token.clone(),
            crc64: Some(crc),
        };
        context.kill.pass(KillPoint::BeforeComplete);
        let object = without_retries(context.store.put(&self.key, body, options)).await?;
        context.kill.pass(KillPoint::AfterCompleteBeforeJournal);
        Ok(Reply::Object(object))
    }

    async fn copy(&self, context: &Context) -> Result<Reply, Failure> {
        let options = CopyOptions {
            precondition: self.expected.clone(),
            metadata: MetadataDirective::Replace(self.attributes.clone()),
            token: self.token.clone(),
        };
        context.kill.pass(KillPoint::BeforeComplete);
        let object = without_retries(context.store.copy(&self.base()?.object, &self.key, options)).await?;
        context.kill.pass(KillPoint::AfterCompleteBeforeJournal);
        Ok(Reply::Object(object))
    }

    async fn complete(&self, context: &Context) -> Result<Reply, Failure> {
        let completion = Completion {
            precondition: self.expected.clone(),
            size: self.content()?.size,
            crc64: self.crc64,
            attributes: self.attributes.clone(),
            token: self.token.clone(),
        };
        context.kill.pass(KillPoint::BeforeComplete);
        let completed = context.store.complete_upload(self.upload()?, &self.receipts, completion);
        let object = without_retries(completed).await?;
        context.kill.pass(KillPoint::AfterCompleteBeforeJournal);
        Ok(Reply::Object(object))
    }

    async fn amend(&self, context: &Context) -> Result<Reply, Failure> {
        let object = &self.object.as_ref().ok_or_else(incomplete)?.id;
        let options = CopyOptions {
            precondition: Precondition::Matches(object.etag.clone()),
            metadata: MetadataDirective::Replace(self.attributes.clone()),
            token: self.token.clone(),
        };
        Ok(Reply::Object(without_retries(context.store.copy(object, &self.key, options)).await?))
    }

    /// The bytes of a range and their checksum.
    async fn body(&self, context: &Context, range: ByteRange) -> Result<(Bytes, Crc64), Failure> {
        let snapshot = Arc::clone(self.snapshot.as_ref().ok_or_else(incomplete)?);
        let read = move || {
            Pieces::read(&snapshot, range)
                .map_err(|error| Failure::Local(local_error("reading staged bytes", &error)))
        };
        let pieces = if range.len() <= INLINE_READ_BYTES {
            read()?
        } else {
            task::spawn_blocking("read staged", read).await.map_err(|_| incomplete())??
        };
        let pieces = match pieces {
            Pieces::Whole(body, crc) => return Ok((body, crc)),
            Pieces::Several(pieces) => pieces,
        };
        let mut body = BytesMut::with_capacity(range.len() as usize);
        for piece in pieces {
            match piece.bytes {
                Some(bytes) => body.extend_from_slice(&bytes),
                None => self.show_through(context, piece.range, &mut body).await?,
            }
        }
        let body = body.freeze();
        let crc = Crc64::of(&body);
        Ok((body, crc))
    }

    /// Bytes that are not staged: the base's where it reaches, zeros beyond.
    async fn show_through(
        &self,
        context: &Context,
        range: ByteRange,
        body: &mut BytesMut,
    ) -> Result<(), Failure> {
        let base = self.content.as_ref().and_then(|content| content.base.as_ref());
        let end = body.len() as u64 + range.len();
        if let Some(base) = base {
            for piece in range.clip(base.valid).split(BASE_READ_BYTES) {
                let bytes = context.base.base(&base.object, piece).await.map_err(|error| match error {
                    BaseError::Gone => Failure::BaseGone,
                    BaseError::Store(error) => Failure::Store(error),
                })?;
                if bytes.len() as u64 != piece.len() {
                    let detail = format!("{} bytes came where {} were asked for", bytes.len(), piece.len());
                    return Err(
                        crate::store::Error::on(Op::Get, &self.key, ErrorKind::Protocol, detail).into()
                    );
                }
                body.extend_from_slice(&bytes);
            }
        }
        body.resize(end as usize, 0);
        Ok(())
    }

    fn upload(&self) -> Result<&Upload, Failure> {
        self.upload.as_ref().ok_or_else(incomplete)
    }

    fn content(&self) -> Result<&Content, Failure> {
        self.content.as_deref().ok_or_else(incomplete)
    }

    fn base(&self) -> Result<&Base, Failure> {
        self.content()?.base.as_ref().ok_or_else(incomplete)
    }
}

/// Staged bytes of a range.
enum Pieces {
    Whole(Bytes, Crc64),
    Several(Vec<StagedPiece>),
}

impl Pieces {
    fn read(snapshot: &Snapshot, range: ByteRange) -> io::Result<Pieces> {
        Ok(match snapshot.read_whole(range)? {
            Some(bytes) => {
                let crc = Crc64::of(&bytes);
                Pieces::Whole(Bytes::from(bytes), crc)
            }
            None => Pieces::Several(snapshot.read(range)?),
        })
    }
}

impl From<crate::store::Error> for Failure {
    fn from(error: crate::store::Error) -> Failure {
        Failure::Store(error)
    }
}

/// The mark of a new upload or put.
pub fn new_token() -> UploadToken {
    UploadToken::from_bits(fastrand::u128(..))
}

/// An effect without what it works on is a mistake in the machine; it must not take the mount down.
fn incomplete() -> Failure {
    Failure::Local(Error::Staging {
        errno: libc::EIO,
        detail: "an upload lacks what it works on; this is a defect in tetherfs, please report it".to_owned(),
    })
}
