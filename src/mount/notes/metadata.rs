//! What the volume's objects carry, noted in the state directory: mode, owner, time, and whether one is a link. It saves a
//! request an object at the next mount. Nothing that a mount promises depends on it, and where it cannot be read it is empty.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::durable::{Journal, RealDisk};
use crate::observe::task;
use crate::store::wrap::MetadataMemory;
use crate::types::{Attributes, ETag, Key, ObjectId, UnixTime};

/// Its directory in a state directory.
const DIRECTORY: &str = "metadata/journal";
/// Objects remembered, those looked at last.
const OBJECTS_MAX: NonZeroUsize = NonZeroUsize::new(100_000).expect("it is not zero");
/// Bytes appended before the note is written anew, shorter.
const REWRITE_BYTES: u64 = 16 << 20;
const VERSION: u32 = 1;

/// What is remembered of a volume's objects.
#[derive(Debug)]
pub struct MetadataNote {
    me: std::sync::Weak<MetadataNote>,
    objects: Mutex<LruCache<Key, Known>>,
    /// `None` where it cannot be written: then it is remembered for this mount only.
    journal: Option<Journal>,
    is_rewriting: AtomicBool,
}

/// One version of an object.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Known {
    etag: ETag,
    /// When the store wrote it, in seconds; `None` until a listing has said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    modified: Option<i64>,
    attributes: Attributes,
}

/// Version, key, and what it carries; `None` when it is gone.
#[derive(Serialize, Deserialize)]
struct Record(u32, Key, Option<Known>);

impl MetadataNote {
    /// Reads what earlier mounts have noted.
    pub fn open(state_directory: &Path) -> Arc<MetadataNote> {
        let mut objects = LruCache::new(OBJECTS_MAX);
        let journal = match Journal::open(Arc::new(RealDisk), &state_directory.join(DIRECTORY)) {
            Ok((journal, replay)) => {
                let records = replay.records.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok());
                for Record(_, key, known) in records.filter(|Record(version, ..)| *version == VERSION) {
                    match known {
                        Some(known) => drop(objects.put(key, known)),
                        None => drop(objects.pop(&key)),
                    }
                }
                Some(journal)
            }
            Err(error) => {
                log::warn!("Modes and owners of objects are not remembered beyond this mount: {error}");
                None
            }
        };
        Arc::new_cyclic(|me| MetadataNote {
            me: me.clone(),
            objects: Mutex::new(objects),
            journal,
            is_rewriting: AtomicBool::new(false),
        })
    }

    fn note(&self, record: &Record) {
        let Some(journal) = &self.journal else { return };
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        if let Err(error) = journal.append(&bytes) {
            log::debug!("What {} carries is not noted: {error}", record.1);
        }
        if journal.bytes_since_checkpoint() > REWRITE_BYTES
            && let Some(me) = self.me.upgrade()
            && !self.is_rewriting.swap(true, Ordering::AcqRel)
        {
            task::spawn_blocking("rewrite metadata", move || me.rewrite());
        }
    }

    /// What is noted between the copy of the table and the end of the old journal is lost, which costs a request later.
    fn rewrite(&self) {
        let records: Vec<Vec<u8>> = {
            let objects = self.objects.lock().expect("no holder of the lock panics");
            let oldest_first = objects.iter().rev();
            let record = |(key, known): (&Key, &Known)| Record(VERSION, key.clone(), Some(known.clone()));
            oldest_first.map(record).filter_map(|record| serde_json::to_vec(&record).ok()).collect()
        };
        if let Some(Err(error)) = self.journal.as_ref().map(|journal| journal.checkpoint(&records)) {
            log::warn!("Modes and owners of objects cannot be noted: {error}");
        }
        self.is_rewriting.store(false, Ordering::Release);
    }
}

impl MetadataMemory for MetadataNote {
    fn recall(&self, object: &ObjectId, modified: Option<UnixTime>) -> Option<Attributes> {
        let mut objects = self.objects.lock().expect("no holder of the lock panics");
        let known = objects.get_mut(&object.key).filter(|known| known.etag == object.etag)?;
        let modified = modified.map(|time| time.secs);
        match (known.modified, modified) {
            (Some(then), Some(now)) if then != now => return None,
            (None, Some(_)) => known.modified = modified,
            (Some(_), Some(_)) | (_, None) => return Some(known.attributes.clone()),
        }
        let known = known.clone();
        drop(objects);
        self.note(&Record(VERSION, object.key.clone(), Some(known.clone())));
        Some(known.attributes)
    }

    fn learn(&self, object: &ObjectId, modified: Option<UnixTime>, attributes: &Attributes) {
        let modified = modified.map(|time| time.secs);
        let known = Known { etag: object.etag.clone(), modified, attributes: attributes.clone() };
        let mut objects = self.objects.lock().expect("no holder of the lock panics");
        if objects.get(&object.key) != Some(&known) {
            objects.put(object.key.clone(), known.clone());
            drop(objects);
            self.note(&Record(VERSION, object.key.clone(), Some(known)));
        }
    }

    fn forget(&self, key: &Key) {
        if self.objects.lock().expect("no holder of the lock panics").pop(key).is_some() {
            self.note(&Record(VERSION, key.clone(), None));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(etag: &str) -> ObjectId {
        ObjectId { key: Key::new("k").unwrap(), etag: ETag::new(etag), size: 3 }
    }

    fn mode(mode: u32) -> Attributes {
        Attributes { mode: Some(mode), ..Attributes::default() }
    }

    const NOON: Option<UnixTime> = Some(UnixTime { secs: 43_200, nanos: 0 });
    const LATER: Option<UnixTime> = Some(UnixTime { secs: 43_201, nanos: 0 });

    #[test]
    fn one_version_is_remembered_beyond_the_mount_and_no_other_is_believed() {
        let directory = tempfile::tempdir().unwrap();
        let note = MetadataNote::open(directory.path());
        note.learn(&object("a"), None, &mode(0o755));
        assert_eq!(note.recall(&object("b"), NOON), None, "another version");
        assert_eq!(note.recall(&object("a"), NOON), Some(mode(0o755)), "the first listing sets the time");
        drop(note);
        let note = MetadataNote::open(directory.path());
        assert_eq!(note.recall(&object("a"), NOON), Some(mode(0o755)));
        assert_eq!(note.recall(&object("a"), LATER), None, "others have replaced the metadata alone");
        note.learn(&object("a"), LATER, &mode(0o600));
        drop(note);
        let note = MetadataNote::open(directory.path());
        assert_eq!(note.recall(&object("a"), LATER), Some(mode(0o600)));
        note.forget(&object("a").key);
        drop(note);
        assert_eq!(MetadataNote::open(directory.path()).recall(&object("a"), LATER), None);
    }

    #[test]
    fn the_first_versions_records_are_read_and_still_written_so() {
        let text = r#"[1,"k",{"etag":"a","modified":43200,"attributes":{"mode":493,"uid":null,"gid":null,"mtime":null,"content_type":null}}]"#;
        let record: Record = serde_json::from_str(text).unwrap();
        assert_eq!(record.2.as_ref().map(|known| known.attributes.clone()), Some(mode(0o755)));
        assert_eq!(serde_json::to_string(&record).unwrap(), text);
    }

    #[test]
    fn a_damaged_note_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        MetadataNote::open(directory.path()).learn(&object("a"), NOON, &mode(0o755));
        let journal = directory.path().join(DIRECTORY).join("journal-1");
        let mut bytes = std::fs::read(&journal).unwrap();
        let at = bytes.windows(3).position(|window| window == b"493").unwrap();
        bytes[at] ^= 1;
        std::fs::write(&journal, bytes).unwrap();
        assert_eq!(MetadataNote::open(directory.path()).recall(&object("a"), NOON), None);
    }
}
