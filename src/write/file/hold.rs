//! Keeping a file's contents out of the bucket while its name changes there.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::types::ObjectMeta;
use crate::write::context::outcome::Settled;
use crate::write::context::{Command, Context};
use crate::write::file::state::{Standing, stopped};
use crate::write::upload::FileId;
use crate::write::{Error, WriteFile};

/// While this lives, no content of the file is committed and no data of it are let go.
#[derive(Debug)]
pub struct Hold {
    context: Arc<Context>,
    file: FileId,
}

impl Hold {
    pub(in crate::write) fn new(context: &Arc<Context>, file: FileId) -> Hold {
        Hold { context: Arc::clone(context), file }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.context.command(Command::Released(self.file));
    }
}

impl WriteFile {
    /// Waits until no commit is under way, and lets none begin before what is returned is dropped. `None` when there is
    /// nothing to be committed. Waits no longer than the close timeout for a commit whose answer is not known.
    pub async fn hold(&self) -> Result<Option<Hold>, Error> {
        let file = match &self.lock().standing {
            Standing::Live(id, _) => *id,
            Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => return Ok(None),
        };
        let waited = self.context.options.close_timeout;
        let (reply, held) = oneshot::channel();
        self.context.command(Command::Hold { file, reply });
        match tokio::time::timeout(waited, held).await {
            Ok(Ok(held)) => held.map(Some),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::Timeout { waited, reason: self.outcome.borrow().reason() }),
        }
    }

    /// What the last content that reached the bucket became there, under the file's own name.
    pub fn last_commit(&self) -> Option<ObjectMeta> {
        match &self.outcome.borrow().last {
            Some((_, Settled::Committed(object))) => Some(ObjectMeta::clone(object)),
            Some((_, Settled::Conflicted { .. } | Settled::Lost(_))) | None => None,
        }
    }
}
