//! One file that was left, looked at: whether its data are what was written, and what becomes of it.

use std::path::Path;
use std::sync::Arc;

use crate::store::{self, ErrorKind, ObjectStore, Upload, UploadStatus};
use crate::types::{ByteRange, Crc64};
use crate::write::SessionPhase;
use crate::write::recovery::outlook::{Outlook, Question, outlook};
use crate::write::recovery::{
    Fate, FileReport, Prospect, damage_in, damage_text, fate, salvage, sealed_data,
};
use crate::write::staging::{Snapshot, StagingArea};
use crate::write::status::phase_of;
use crate::write::upload::{Content, FileId, FileRecord, Reply, Rules, Session, SessionEvent, Stored};

/// What an upload has, whether its commit was applied, and both once more when it was given up meanwhile.
const QUESTIONS_MAX: usize = 4;
/// What a hole is read as, some of it at a time.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file that was left.
pub struct LeftFile {
    /// Which.
    pub file: FileId,
    /// Why the server was not asked, or did not answer.
    pub unasked: Option<String>,
    entry: FileRecord,
    content: Option<Content>,
    state: Option<SessionPhase>,
    damage: Option<String>,
    /// How the mount's session goes on, as far as it can be told.
    session: Session,
    outlook: Outlook,
}

impl LeftFile {
    /// Reads the file's data.
    pub fn look_at(area: &Arc<StagingArea>, rules: &Rules, file: FileId, entry: &FileRecord) -> LeftFile {
        let mut session = entry.upload.clone();
        let (content, state, damage, outlook) = match fate(entry) {
            Fate::Pending(content) => {
                let damage = damage_of(area, file, &content);
                (
                    Some(Content::clone(&content)),
                    phase_of(&session, false),
                    damage,
                    outlook(&mut session, rules),
                )
            }
            Fate::Conflicted(content) => {
                let damage = damage_of(area, file, &content);
                let known = Outlook::Known(Prospect::Decide);
                (Some(Content::clone(&content)), Some(SessionPhase::Conflicted), damage, known)
            }
            Fate::Interrupted(content) => {
                // What was noted of it has been overwritten since, so its checksums mean nothing.
                let damage = area.reopen(file.0, &content.extents, content.size).err();
                let known = Outlook::Known(Prospect::Interrupted);
                (
                    Some(*content),
                    Some(SessionPhase::Interrupted),
                    damage.map(|error| error.to_string()),
                    known,
                )
            }
            Fate::Unnoted => {
                let content = salvage(area, file, entry);
                let is_unknown = content.is_none() && area.leftovers().contains(&file.0);
                let damage = is_unknown.then(|| "no record says which of its bytes are here".to_owned());
                if content.is_some() || is_unknown {
                    let known = Outlook::Known(Prospect::Interrupted);
                    (content, Some(SessionPhase::Interrupted), damage, known)
                } else {
                    (None, None, None, Outlook::Known(Prospect::CleanUp))
                }
            }
            Fate::Quarantined => {
                (None, Some(SessionPhase::Stuck), None, Outlook::Known(Prospect::AsideAlready))
            }
            Fate::Finished => (None, None, None, Outlook::Known(Prospect::CleanUp)),
        };
        LeftFile { file, unasked: None, entry: entry.clone(), content, state, damage, session, outlook }
    }

    /// Whether the server could tell what becomes of it. Damaged data are not sent, whatever the server has of them; but
    /// they may not be needed.
    pub fn has_question(&self) -> bool {
        match &self.outlook {
            Outlook::Asks(Question::Look(_)) => true,
            Outlook::Asks(Question::Status(_)) => self.damage.is_none(),
            Outlook::Known(_) => false,
        }
    }

    /// Asks the server.
    pub async fn ask(
        &mut self,
        store: &dyn ObjectStore,
        area: &Arc<StagingArea>,
        rules: &Rules,
    ) -> store::Result<()> {
        for _ in 0..QUESTIONS_MAX {
            if !self.has_question() {
                break;
            }
            let reply = match &self.outlook {
                Outlook::Asks(Question::Look(key)) => match store.head(key).await {
                    Ok(object) => Reply::Looked(Some(object)),
                    Err(error) if error.kind == ErrorKind::NotFound => Reply::Looked(None),
                    Err(error) => return Err(error),
                },
                Outlook::Asks(Question::Status(upload)) => self.status(store, upload, area, rules).await?,
                Outlook::Known(_) => break,
            };
            for event in self.session.replied(reply) {
                if let Err(misfit) = self.session.apply(&event) {
                    log::debug!("Ignored for file {}: {misfit}", self.file.0);
                }
            }
            self.outlook = outlook(&mut self.session, rules);
        }
        Ok(())
    }

    /// What the server has of the upload. Parts whose receipts did not reach the journal count when they have our checksum.
    async fn status(
        &self,
        store: &dyn ObjectStore,
        upload: &Upload,
        area: &Arc<StagingArea>,
        rules: &Rules,
    ) -> store::Result<Reply> {
        let status = store.upload_status(upload).await?;
        let mut verified = Vec::new();
        if let (UploadStatus::Parts(found), Some(content)) = (&status, &self.content)
            && let Ok((_staging, snapshot)) = sealed_data(area, self.file, content)
        {
            for (number, range) in self.session.parts_unknown(rules) {
                let part = found.iter().find(|part| part.number == number && part.len == range.len());
                if let Some(receipt) = part.filter(|part| part.crc64.is_some())
                    && receipt.crc64 == checksum(&snapshot, content, range)
                {
                    verified.push(Stored { range, receipt: receipt.clone() });
                }
            }
        }
        Ok(Reply::Status(status, verified))
    }

    /// What the next mount does with it. Where the server was not asked, it is taken to have what the journal says.
    pub fn prospect(&self, rules: &Rules) -> Prospect {
        let prospect = match &self.outlook {
            Outlook::Known(prospect) => *prospect,
            Outlook::Asks(Question::Look(_)) => return Prospect::LookUp,
            Outlook::Asks(Question::Status(_)) => as_journaled(&self.session, rules),
        };
        match prospect {
            Prospect::Done | Prospect::AsideAlready | Prospect::CleanUp => prospect,
            Prospect::Send
            | Prospect::Resume { .. }
            | Prospect::ResumeAt { .. }
            | Prospect::LookUp
            | Prospect::Conflict
            | Prospect::Decide
            | Prospect::Interrupted
            | Prospect::SetAside
            | Prospect::TooLarge => match self.damage {
                Some(_) => Prospect::SetAside,
                None => prospect,
            },
        }
    }

    /// How its session ends when its data are set aside, as a mount would write it down.
    pub fn end_of_damaged(&self, recovered: &Path) -> Option<SessionEvent> {
        let why = self.damage.as_ref()?;
        Some(match fate(&self.entry) {
            Fate::Pending(_) | Fate::Conflicted(_) => {
                SessionEvent::Quarantined { why: damage_text(why, recovered) }
            }
            Fate::Interrupted(_) | Fate::Unnoted | Fate::Quarantined | Fate::Finished => {
                SessionEvent::GivenUp
            }
        })
    }

    /// For people and scripts.
    pub fn report(&self, area: &StagingArea, rules: &Rules) -> FileReport {
        FileReport {
            session: self.content.as_ref().map_or(self.entry.session, |content| content.session),
            key: self.entry.upload.key.clone(),
            state: self.state,
            bytes: self.content.as_ref().map_or(0, |content| content.size),
            staged_bytes: area.bytes_of(self.file.0).unwrap_or(0),
            since: self.entry.since,
            damage: self.damage.clone(),
            prospect: self.prospect(rules),
            unasked: self.unasked.clone(),
            leftover_uploads: self.session.leftovers.len(),
        }
    }
}

fn damage_of(area: &Arc<StagingArea>, file: FileId, content: &Content) -> Option<String> {
    match sealed_data(area, file, content) {
        Ok((_staging, snapshot)) => damage_in(&snapshot),
        Err(why) => Some(why),
    }
}

/// What becomes of an upload of which the server has just what the journal says.
fn as_journaled(session: &Session, rules: &Rules) -> Prospect {
    let mut session = session.clone();
    let event = session.transfer().map(|transfer| {
        let receipts = transfer.parts.values().map(|stored| stored.receipt.clone());
        match rules.upload {
            store::UploadKind::Parts(_) => SessionEvent::PartsFound(receipts.collect()),
            store::UploadKind::Offset { .. } => SessionEvent::OffsetFound(transfer.offset),
        }
    });
    match event.map(|event| session.apply(&event)) {
        Some(Ok(())) => match outlook(&mut session, rules) {
            Outlook::Known(prospect) => prospect,
            Outlook::Asks(_) => Prospect::LookUp,
        },
        Some(Err(_)) | None => Prospect::Send,
    }
}

/// The checksum of a part's bytes, where all of them are here or are zeros.
fn checksum(snapshot: &Snapshot, content: &Content, range: ByteRange) -> Option<Crc64> {
    let valid = content.base.as_ref().map_or(0, |base| base.valid);
    let mut crc = Crc64::EMPTY;
    for piece in snapshot.read(range).ok()? {
        match &piece.bytes {
            Some(bytes) => crc = crc.then(Crc64::of(bytes), piece.range.len()),
            None if piece.range.start < valid => return None,
            None => {
                for zeros in piece.range.split(ZEROS.len() as u64) {
                    crc = crc.then(Crc64::of(&ZEROS[..zeros.len() as usize]), zeros.len());
                }
            }
        }
    }
    Some(crc)
}
