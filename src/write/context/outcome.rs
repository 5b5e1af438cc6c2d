//! What those who wait for a file's commit are told.

use crate::types::{Key, ObjectMeta, SessionId};
use crate::write::Error;

/// How a file's upload stands. Watched by whoever waits for it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The last content that reached its end, and which.
    pub last: Option<(SessionId, Settled)>,
    /// The last failure since then or since the last progress.
    pub trouble: Option<Trouble>,
    /// Grows with every failure.
    pub failures: u64,
    /// Grows with everything the store has taken.
    pub progress: u64,
}

/// A content's end.
#[derive(Clone, Debug)]
pub enum Settled {
    /// It is in the bucket under its name.
    Committed(Box<ObjectMeta>),
    /// Another writer's version is.
    Conflicted {
        /// The key both wanted.
        key: Key,
        /// The conflict copy.
        kept_as: Option<Key>,
    },
    /// Its data were not wanted any more, or were damaged.
    Lost(Error),
}

/// A failure.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// What happened.
    pub error: Error,
    /// Whether it will not pass by itself.
    pub is_stuck: bool,
}

impl Outcome {
    /// What a commit of `session` returns, when that is known. An older failure than the `failures`th is not an answer.
    pub fn settled(&self, session: SessionId, failures: u64) -> Option<Result<ObjectMeta, Error>> {
        if let Some((last, settled)) = &self.last
            && *last >= session
        {
            return Some(match settled {
                Settled::Committed(object) => Ok(ObjectMeta::clone(object)),
                Settled::Conflicted { key, kept_as } => {
                    Err(Error::Conflict { key: key.clone(), kept_as: kept_as.clone() })
                }
                Settled::Lost(error) => Err(error.clone()),
            });
        }
        let trouble = self.trouble.as_ref().filter(|trouble| trouble.is_stuck && self.failures > failures)?;
        Some(Err(trouble.error.clone()))
    }

    /// The last failure, for people.
    pub fn reason(&self) -> String {
        match &self.trouble {
            Some(trouble) => trouble.error.to_string(),
            None => "the store is slow".to_owned(),
        }
    }
}
