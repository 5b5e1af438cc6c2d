//! What the journal holds: each record is `[version, record]` as compact JSON, one enum for all kinds.
//!
//! Version 1 is the only one yet. A record that this version cannot read is damage: it is set aside, never dropped.
//! Upload ids are secrets; the journal's file is readable by its owner alone.

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::store::Precondition;
use crate::types::{Attributes, Key, ObjectId, ObjectMeta, SessionId, UnixTime};
use crate::write::upload::{Base, Content, FileId, FileRecord, Move, Renewed, SessionEvent, TreeMove};

const VERSION: u32 = 1;

/// A fact worth keeping.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// All ids below this one have been given out.
    NextId(u64),
    /// All that is known of a file, in a checkpoint.
    File {
        /// The file.
        file: FileId,
        /// What is known.
        entry: Box<FileRecord>,
    },
    /// All that is known of a move, in a checkpoint.
    Move {
        /// The move.
        id: u64,
        /// What is known.
        entry: Box<Move>,
    },
    /// A file is under change.
    FileOpened(FileOpened),
    /// What an unsealed file holds, so that a crash leaves something to show.
    Progress {
        /// The file.
        file: FileId,
        /// What it holds.
        content: Box<Content>,
    },
    /// Something happened to a file's upload.
    Session {
        /// The file.
        file: FileId,
        /// What happened.
        event: SessionEvent,
    },
    /// The file's local data are gone and nothing is left to do.
    Closed {
        /// The file.
        file: FileId,
    },
    /// An object is to be moved.
    MoveIntended {
        /// The move.
        id: u64,
        /// The object.
        source: ObjectId,
        /// Its new key.
        target: Key,
        /// What must be under that key.
        replaces: Precondition,
        /// The file that has that key: what is on its way of it is not wanted any more once the copy is there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        over: Option<FileId>,
    },
    /// It has been copied; the source is to be removed.
    MoveCopied {
        /// The move.
        id: u64,
        /// The copy.
        object: Box<ObjectMeta>,
    },
    /// The move is finished or given up.
    MoveDone {
        /// The move.
        id: u64,
    },
    /// All that is known of a directory's move, in a checkpoint.
    Tree {
        /// The move.
        id: u64,
        /// What is known.
        entry: Box<TreeMove>,
    },
    /// A directory is to be moved.
    TreeIntended {
        /// The move.
        id: u64,
        /// Its prefix.
        source: String,
        /// Its new prefix.
        target: String,
        /// Whether an empty directory with a marker is there.
        onto_marker: bool,
    },
    /// Some of its objects have been copied.
    TreeCopied {
        /// The move.
        id: u64,
        /// All of them up to this one.
        through: Key,
        /// How many these were.
        objects: u64,
        /// Those whose copies have another etag, by the key's part behind the prefix.
        renewed: Vec<(String, Renewed)>,
    },
    /// All has been copied: the directory has its new name, and so has every file below it.
    TreeSwitched {
        /// The move.
        id: u64,
    },
    /// It cannot be moved: what was copied is to be removed.
    TreeGivenUp {
        /// The move.
        id: u64,
    },
    /// Nothing is left to do.
    TreeDone {
        /// The move.
        id: u64,
    },
}

/// How a file began.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FileOpened {
    /// The file, which is also its staging file's id.
    pub file: FileId,
    /// The session of its first content.
    pub session: SessionId,
    /// Where it is to be committed.
    pub key: Key,
    /// What shows through.
    pub base: Option<Base>,
    /// What must be under the key.
    pub expected: Precondition,
    /// Its attributes then.
    pub attributes: Attributes,
    /// When the program first wrote.
    pub since: UnixTime,
}

/// Why bytes are no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// Another version wrote it.
    #[error("record version {0} is not known to this tetherfs")]
    Version(u32),
    /// It does not parse.
    #[error("no record: {0}")]
    Syntax(String),
}

/// A record that does not fit what the records before it say.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record of {what} does not fit the state {state}")]
pub struct Misfit {
    /// The record.
    pub what: &'static str,
    /// What was there.
    pub state: &'static str,
}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(&(VERSION, self)).expect("records hold nothing that JSON cannot say")
    }

    /// Reads a record back.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let syntax = |error: serde_json::Error| RecordError::Syntax(error.to_string());
        let (version, _): (u32, IgnoredAny) = serde_json::from_slice(bytes).map_err(syntax)?;
        match version {
            VERSION => {
                let (_, record): (u32, Record) = serde_json::from_slice(bytes).map_err(syntax)?;
                Ok(record)
            }
            other => Err(RecordError::Version(other)),
        }
    }
}
