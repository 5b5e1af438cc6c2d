//! A directory on its way to another name: how far it is, and how what this room knows of its files follows it (pure).
//!
//! All keys below one prefix are copied below another, page by page. Then the move is *switched*, by one record: from
//! there on every file below has its new name, its upload and the object it is based on too. Then the old keys go. A move
//! that cannot be finished is *given up* before it is switched: then the copies go, and nothing has happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::store::Precondition;
use crate::types::{ETag, Key, ObjectId};
use crate::write::upload::{Base, Content, FileRecord};

/// All keys below a prefix on their way to another one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TreeMove {
    /// The prefix they have, with its closing `/`.
    pub source: String,
    /// The prefix they get, with its closing `/`.
    pub target: String,
    /// Whether an empty directory was there, by its marker. It stays when the move is given up.
    pub onto_marker: bool,
    /// How far it is.
    pub phase: TreePhase,
    /// Everything up to this key has been copied.
    pub through: Option<Key>,
    /// Objects copied so far.
    pub objects: u64,
    /// Copies that have another etag than what they are copies of, by the key's part behind the prefix. Servers do so
    /// with objects that were uploaded in parts.
    pub renewed: BTreeMap<String, Renewed>,
}

/// How far a directory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TreePhase {
    /// Its objects are being copied.
    Copying,
    /// It has its new name; what is left under the old one is being removed.
    Removing,
    /// It keeps its old name; what has been copied is being removed.
    Undoing,
}

/// An object whose copy has another etag.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Renewed {
    /// The object's.
    pub from: ETag,
    /// The copy's.
    pub to: ETag,
}

impl TreeMove {
    /// A move of which nothing has happened yet.
    pub fn new(source: &str, target: &str, onto_marker: bool) -> TreeMove {
        TreeMove {
            source: source.to_owned(),
            target: target.to_owned(),
            onto_marker,
            phase: TreePhase::Copying,
            through: None,
            objects: 0,
            renewed: BTreeMap::new(),
        }
    }

    /// The new name of a key that is to be moved. `None` for others, and where it would be longer than a key can be.
    pub fn key(&self, key: &Key) -> Option<Key> {
        let rest = key.as_str().strip_prefix(&self.source)?;
        Key::new(&format!("{}{rest}", self.target)).ok()
    }

    /// The copy of an object that is to be moved.
    pub fn object(&self, object: &ObjectId) -> Option<ObjectId> {
        let key = self.key(&object.key)?;
        Some(ObjectId { key, etag: self.etag(&object.key, &object.etag), size: object.size })
    }

    /// What must be under the new name of `key`, where this must be under the old one.
    pub fn expected(&self, key: &Key, expected: &Precondition) -> Precondition {
        match expected {
            Precondition::None | Precondition::Absent => expected.clone(),
            Precondition::Matches(etag) => Precondition::Matches(self.etag(key, etag)),
        }
    }

    /// Whether one object is the copy of another, which is to be moved.
    pub fn is_copy(&self, copy: &ObjectId, object: &ObjectId) -> bool {
        self.object(object).as_ref() == Some(copy)
    }

    /// A file's record after the switch.
    pub fn carry(&self, entry: &mut FileRecord) {
        if let Some(base) = &mut entry.base {
            self.carry_base(base);
        }
        if let Some(base) = entry.progress.as_mut().and_then(|content| content.base.as_mut()) {
            self.carry_base(base);
        }
        entry.upload.carried(self);
    }

    /// A content after the switch.
    pub fn carry_content(&self, content: &mut Arc<Content>) {
        if content.base.as_ref().is_some_and(|base| self.key(&base.object.key).is_some())
            && let Some(base) = &mut Arc::make_mut(content).base
        {
            self.carry_base(base);
        }
    }

    /// What shows through, after the switch.
    pub fn carry_base(&self, base: &mut Base) {
        if let Some(object) = self.object(&base.object) {
            base.object = object;
        }
    }

    fn etag(&self, key: &Key, etag: &ETag) -> ETag {
        let rest = key.as_str().strip_prefix(&self.source).unwrap_or_default();
        match self.renewed.get(rest) {
            Some(renewed) if renewed.from == *etag => renewed.to.clone(),
            Some(_) | None => etag.clone(),
        }
    }
}
