//! What becomes of a file's name: another one, or none.

use crate::types::{Key, ObjectId};
use crate::write::context::{Command, GiveUpBy};
use crate::write::file::state::Standing;
use crate::write::{Error, Replaces, WriteFile};

impl WriteFile {
    /// The file has another name from now on; what is on its way under the old one is taken back or, if already
    /// committed, was committed by an [`crate::write::Event::Committed`] before this returns. Waits no longer than
    /// the close timeout for a commit whose answer is not known; then nothing has changed.
    pub async fn rename(&self, key: Key, replaces: impl Into<Replaces>) -> Result<(), Error> {
        let Replaces { expected, over } = replaces.into();
        let id = {
            let mut state = self.lock();
            match &state.standing {
                Standing::Live(id, _) => *id,
                Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => {
                    (state.key, state.expected) = (key, expected);
                    return Ok(());
                }
            }
        };
        self.ask(|reply| Command::Rename { file: id, key, expected, over, reply }).await
    }

    /// The object that shows through was moved to another key (by [`crate::write::Writer::rename`]); its bytes are the
    /// same. What is already sealed keeps the object's former name.
    pub fn moved(&self, object: &ObjectId) {
        let mut state = self.lock();
        let state = &mut *state;
        let Some(base) = state.base.as_mut().filter(|base| base.object.size == object.size) else {
            return;
        };
        base.object = object.clone();
        if state.sealed.is_none() {
            // The next content must not go on from the commit under the former name: it stands over this base, alone.
            if state.since.take().is_some_and(|since| since.session == state.session) {
                state.session = self.context.book.next_session();
            }
        }
    }

    /// The file was removed: its data and its upload are given up, its handles can still read and write.
    /// Waits no longer than the close timeout for a commit whose answer is not known; then nothing has changed.
    pub async fn discard(&self) -> Result<(), Error> {
        let id = {
            let mut state = self.lock();
            match &state.standing {
                Standing::Live(id, _) => *id,
                Standing::Clean | Standing::Damaged(_) => {
                    state.standing = Standing::Removed(None);
                    return Ok(());
                }
                Standing::Removed(_) => return Ok(()),
            }
        };
        self.ask(|reply| Command::GiveUp { file: id, by: GiveUpBy::Removal, reply }).await
    }

    /// Whether the file was removed, or another one has its name.
    pub fn is_nameless(&self) -> bool {
        matches!(self.lock().standing, Standing::Removed(_))
    }
}
