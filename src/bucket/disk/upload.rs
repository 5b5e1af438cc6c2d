//! Uploads not yet completed: created, filled part by part, then completed or aborted. All of it survives a restart.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use crate::bucket::disk::record::{self, PartRecord, UploadRecord};
use crate::bucket::disk::{
    About, BlobsByName, Bucket, Condition, Content, Item, Object, ObjectFacts, Refusal,
};
use crate::types::{ETag, UnixTime};

/// The record of the upload itself in its folder.
pub const RECORD: &str = "upload.json";

/// One upload.
#[derive(Debug)]
pub struct Upload {
    /// What was said at its creation.
    pub record: UploadRecord,
    /// Its parts by number.
    pub parts: BTreeMap<u32, Part>,
}

/// One part. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Part {
    /// From 1.
    pub number: u32,
    /// Its etag.
    pub etag: ETag,
    /// When it arrived.
    pub modified: UnixTime,
    /// Its bytes.
    pub content: Content,
}

/// What completion makes of an upload.
#[derive(Debug)]
pub struct Made {
    /// The object's etag.
    pub etag: ETag,
    /// Its bytes.
    pub content: Content,
}

/// Which uploads to list; the fields are those of a listing of objects.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UploadQuery {
    /// Only keys that start so.
    pub prefix: String,
    /// Keys that hold it after the prefix are rolled up.
    pub delimiter: String,
    /// Go on behind this key ...
    pub after_key: String,
    /// ... or, when not empty, behind this upload of that key.
    pub after_id: String,
    /// At most this many entries.
    pub limit: usize,
}

/// A page of uploads: what was rolled up, the uploads, and whether there is more.
#[derive(Debug, Default)]
pub struct UploadPage {
    /// Keys rolled up by the delimiter.
    pub prefixes: Vec<String>,
    /// Uploads by key, then age.
    pub uploads: Vec<UploadRecord>,
    /// The last entry, when there is more: its key or prefix, and its id.
    pub next: Option<(String, String)>,
}

impl Bucket {
    /// Starts an upload and returns its id.
    pub fn create_upload(&self, key: &str, about: About) -> Result<String, Refusal> {
        let mut state = self.open_state()?;
        let initiated = UnixTime::from(SystemTime::now());
        // Starts with the time, so that ids sort by age.
        let id = format!("{:010x}{:05x}{:016x}", initiated.secs, initiated.nanos / 1000, fastrand::u64(..));
        let record = UploadRecord { id: id.clone(), key: key.to_owned(), initiated, about };
        fs::create_dir(self.upload_folder(&id))?;
        self.write_record(&record, &self.upload_folder(&id).join(RECORD))?;
        state.uploads.insert((key.to_owned(), id.clone()), Upload { record, parts: BTreeMap::new() });
        Ok(id)
    }

    /// Whether there is this upload; asked before its bytes are read.
    pub fn check_upload(&self, key: &str, id: &str) -> Result<(), Refusal> {
        let known = self.state().uploads.contains_key(&(key.to_owned(), id.to_owned()));
        if known { Ok(()) } else { Err(Refusal::NoSuchUpload) }
    }

    /// Stores a part, in place of an earlier one of that number.
    pub fn put_part(&self, key: &str, id: &str, part: Part) -> Result<(), Refusal> {
        let mut state = self.open_state()?;
        let upload = state.uploads.get_mut(&(key.to_owned(), id.to_owned())).ok_or(Refusal::NoSuchUpload)?;
        let text = PartRecord {
            number: part.number,
            etag: part.etag.clone(),
            modified: part.modified,
            slices: part.content.to_record(),
        };
        self.write_record(&text, &self.upload_folder(id).join(format!("{:05}.json", part.number)))?;
        part.content.hold();
        if let Some(before) = upload.parts.insert(part.number, part) {
            before.content.release();
        }
        Ok(())
    }

    /// The parts of an upload, by number.
    pub fn parts(&self, key: &str, id: &str) -> Result<Vec<Part>, Refusal> {
        let state = self.state();
        let upload = state.uploads.get(&(key.to_owned(), id.to_owned())).ok_or(Refusal::NoSuchUpload)?;
        Ok(upload.parts.values().cloned().collect())
    }

    /// Turns an upload into an object. When anything refuses, the upload stays as it is.
    pub fn complete(
        &self,
        key: &str,
        id: &str,
        condition: &Condition,
        make: impl FnOnce(&Upload) -> Result<Made, Refusal>,
    ) -> Result<Arc<Object>, Refusal> {
        let mut state = self.open_state()?;
        let name = (key.to_owned(), id.to_owned());
        let upload = state.uploads.get(&name).ok_or(Refusal::NoSuchUpload)?;
        let Made { etag, content } = make(upload)?;
        let facts = ObjectFacts {
            key: key.to_owned(),
            etag,
            modified: UnixTime::from(SystemTime::now()),
            about: upload.record.about.clone(),
            upload: Some(id.to_owned()),
        };
        let object = self.put_locked(&mut state, Object { facts, content }, condition)?;
        // The object names the upload it came from, so after a crash here the upload counts as done.
        if let Some(upload) = state.uploads.remove(&name) {
            self.discard(&upload)?;
        }
        Ok(object)
    }

    /// Forgets an upload and its parts.
    pub fn abort(&self, key: &str, id: &str) -> Result<(), Refusal> {
        let mut state = self.open_state()?;
        let upload = state.uploads.remove(&(key.to_owned(), id.to_owned())).ok_or(Refusal::NoSuchUpload)?;
        self.discard(&upload)?;
        Ok(())
    }

    /// One page of the uploads under way.
    pub fn uploads(&self, query: &UploadQuery) -> UploadPage {
        let state = self.state();
        let mut page = UploadPage::default();
        let mut last = None;
        for ((key, id), upload) in &state.uploads {
            let Some(rest) = key.strip_prefix(&query.prefix) else { continue };
            let entry = match rest.find(&query.delimiter) {
                Some(at) if !query.delimiter.is_empty() => {
                    Item::Prefix(key[..query.prefix.len() + at + query.delimiter.len()].to_owned())
                }
                Some(_) | None => Item::Key(key.clone()),
            };
            let seen = match entry.text().cmp(&query.after_key) {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal if query.after_key.is_empty() => false,
                std::cmp::Ordering::Equal => query.after_id.is_empty() || *id <= query.after_id,
                std::cmp::Ordering::Greater => false,
            };
            if seen || page.prefixes.last().is_some_and(|prefix| entry == Item::Prefix(prefix.clone())) {
                continue;
            }
            if page.prefixes.len() + page.uploads.len() >= query.limit {
                page.next = last;
                break;
            }
            last = Some((entry.text().to_owned(), id.clone()));
            match entry {
                Item::Key(_) => page.uploads.push(upload.record.clone()),
                Item::Prefix(prefix) => {
                    last = Some((prefix.clone(), String::new()));
                    page.prefixes.push(prefix);
                }
            }
        }
        page
    }

    fn discard(&self, upload: &Upload) -> io::Result<()> {
        // Out of sight in one step, so that a crash does not leave an upload with some of its parts.
        let away = self.tmp_path(&upload.record.id);
        fs::rename(self.upload_folder(&upload.record.id), &away)?;
        fs::remove_dir_all(away)?;
        upload.parts.values().for_each(|part| part.content.release());
        Ok(())
    }
}

/// Reads the folder of an upload.
pub fn load(folder: &Path, blobs: &BlobsByName) -> io::Result<Upload> {
    let found: UploadRecord = record::read(&folder.join(RECORD))?;
    let mut parts = BTreeMap::new();
    for path in record::entries(folder)? {
        if path.file_name().is_some_and(|name| name == RECORD) {
            continue;
        }
        let part: PartRecord = record::read(&path)?;
        let content = Content::from_record(&part.slices, blobs)?;
        parts.insert(
            part.number,
            Part { number: part.number, etag: part.etag, modified: part.modified, content },
        );
    }
    Ok(Upload { record: found, parts })
}
