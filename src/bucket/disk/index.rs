//! One bucket: its objects and uploads in memory, each change on disk before it is seen.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bucket::disk::blob::Blob;
use crate::bucket::disk::record::{self, ObjectRecord};
use crate::bucket::disk::upload::{self, Upload};
use crate::bucket::disk::{
    BlobsByName, Condition, Content, Item, ObjectFacts, Page, Query, Refusal, Writer, listing,
};
use crate::types::UnixTime;

const OBJECTS: &str = "objects";
const DATA: &str = "data";
const UPLOADS: &str = "uploads";
const TMP: &str = "tmp";

/// One version of an object. Never changed; another version is another one.
#[derive(Debug)]
pub struct Object {
    /// Everything but its bytes.
    pub facts: ObjectFacts,
    /// Its bytes.
    pub content: Content,
}

/// One bucket.
#[derive(Debug)]
pub struct Bucket {
    root: PathBuf,
    /// Held while a record is written, so a condition and the write it guards are one step. Never across an await.
    state: Mutex<State>,
}

/// INVARIANT: says what the records on disk say.
#[derive(Debug, Default)]
pub struct State {
    objects: BTreeMap<String, Arc<Object>>,
    /// By key, then id; ids rise with time.
    pub(super) uploads: BTreeMap<(String, String), Upload>,
    closed: bool,
}

impl Bucket {
    /// Whether a directory is a bucket or can become one: empty, or laid out by us.
    pub fn is_one(path: &Path) -> io::Result<bool> {
        Ok(path.join(OBJECTS).is_dir() || record::entries(path)?.is_empty())
    }

    /// Opens a bucket's directory, reads its records and removes what none of them names.
    pub fn open(root: PathBuf) -> io::Result<Bucket> {
        for folder in [OBJECTS, DATA, UPLOADS, TMP] {
            fs::create_dir_all(root.join(folder))?;
        }
        for draft in record::entries(&root.join(TMP))? {
            if draft.is_dir() { fs::remove_dir_all(draft)? } else { fs::remove_file(draft)? }
        }
        let mut blobs = BlobsByName::new();
        for path in record::entries(&root.join(DATA))? {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            blobs.insert(name, Blob::found(path));
        }
        let mut state = State::default();
        let mut damaged = 0;
        let mut completed = HashSet::new();
        for path in record::entries(&root.join(OBJECTS))? {
            match load_object(&path, &blobs) {
                Ok(object) => {
                    object.content.hold();
                    completed.extend(object.facts.upload.clone());
                    state.objects.insert(object.facts.key.clone(), Arc::new(object));
                }
                Err(error) => {
                    damaged += 1;
                    log::error!("Record {} cannot be used and is left alone: {error}", path.display());
                }
            }
        }
        for path in record::entries(&root.join(UPLOADS))? {
            match upload::load(&path, &blobs) {
                Ok(upload) if completed.contains(&upload.record.id) => fs::remove_dir_all(&path)?,
                Ok(upload) => {
                    upload.parts.values().for_each(|part| part.content.hold());
                    state.uploads.insert((upload.record.key.clone(), upload.record.id.clone()), upload);
                }
                // A crash between making the folder and writing into it; nobody was told the id.
                Err(_) if !path.join(upload::RECORD).exists() => fs::remove_dir_all(&path)?,
                Err(error) => {
                    damaged += 1;
                    log::error!("Upload {} cannot be used and is left alone: {error}", path.display());
                }
            }
        }
        if damaged > 0 {
            // A record we cannot read may name any of these files.
            blobs.values().for_each(|blob| blob.keep());
        }
        Ok(Bucket { root, state: Mutex::new(state) })
    }

    /// When the bucket was made.
    pub fn created(&self) -> UnixTime {
        let made = fs::metadata(&self.root).and_then(|found| found.created().or_else(|_| found.modified()));
        made.map(UnixTime::from).unwrap_or_default()
    }

    /// Refuses every later change, provided that there is no object.
    pub fn close(&self) -> Result<(), Refusal> {
        let mut state = self.state();
        if !state.objects.is_empty() {
            return Err(Refusal::BucketNotEmpty);
        }
        state.closed = true;
        Ok(())
    }

    /// Starts a data file for an object or part of this key.
    pub fn writer(&self, key: &str) -> io::Result<Writer> {
        Writer::create(&self.root.join(DATA), key)
    }

    /// The present version of an object.
    pub fn object(&self, key: &str) -> Result<Arc<Object>, Refusal> {
        self.state().objects.get(key).cloned().ok_or(Refusal::NoSuchKey)
    }

    /// Makes an object the present version of its key, if the condition holds.
    pub fn put(&self, object: Object, condition: &Condition) -> Result<Arc<Object>, Refusal> {
        let mut state = self.open_state()?;
        self.put_locked(&mut state, object, condition)
    }

    /// Deletes an object, if it is there and the condition holds.
    pub fn delete(&self, key: &str, condition: &Condition) -> Result<(), Refusal> {
        let mut state = self.open_state()?;
        let present = state.objects.get(key);
        condition.check_delete(present.map(|object| &object.facts.etag))?;
        if let Some(object) = present {
            fs::remove_file(self.object_path(key))?;
            object.content.release();
            state.objects.remove(key);
        }
        Ok(())
    }

    /// One page of keys, each key with its object.
    pub fn list(&self, query: &Query) -> (Page, Vec<Arc<Object>>) {
        let state = self.state();
        let page = listing::page(&state.objects, query);
        let object = |item: &Item| match item {
            Item::Key(key) => state.objects.get(key).cloned(),
            Item::Prefix(_) => None,
        };
        let objects = page.items.iter().filter_map(object).collect();
        (page, objects)
    }

    pub(super) fn put_locked(
        &self,
        state: &mut MutexGuard<'_, State>,
        object: Object,
        condition: &Condition,
    ) -> Result<Arc<Object>, Refusal> {
        let present = state.objects.get(&object.facts.key);
        condition.check_write(present.map(|object| &object.facts.etag))?;
        let text = ObjectRecord { facts: object.facts.clone(), slices: object.content.to_record() };
        self.write_record(&text, &self.object_path(&object.facts.key))?;
        object.content.hold();
        let object = Arc::new(object);
        if let Some(before) = state.objects.insert(object.facts.key.clone(), object.clone()) {
            before.content.release();
        }
        Ok(object)
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // A change is made in memory after its record is in place, so a panic in between costs at most that change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open_state(&self) -> Result<MutexGuard<'_, State>, Refusal> {
        let state = self.state();
        if state.closed { Err(Refusal::NoSuchBucket) } else { Ok(state) }
    }

    pub(super) fn write_record<T: serde::Serialize>(&self, record: &T, target: &Path) -> io::Result<()> {
        record::write(record, &self.root.join(TMP), target)
    }

    pub(super) fn upload_folder(&self, id: &str) -> PathBuf {
        self.root.join(UPLOADS).join(id)
    }

    pub(super) fn tmp_path(&self, name: &str) -> PathBuf {
        self.root.join(TMP).join(name)
    }

    fn object_path(&self, key: &str) -> PathBuf {
        self.root.join(OBJECTS).join(record::object_file(key))
    }
}

fn load_object(path: &Path, blobs: &BlobsByName) -> io::Result<Object> {
    let found: ObjectRecord = record::read(path)?;
    Ok(Object { content: Content::from_record(&found.slices, blobs)?, facts: found.facts })
}
