//! Which version an open gets, whether its inode can be opened so, and how the kernel reads it from then on.
//!
//! Everything here is done under the file's gate: only a holder of the gate makes a file open, or local without a handle.

use std::os::fd::AsFd;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::fs::FileSystem;
use crate::fs::error::{Error, Result};
use crate::fs::file::{FileState, Name, RemoteFile, Source, Standing};
use crate::fs::kernel::{Backing, Backings};
use crate::fs::open::{Access, OpenMode};
use crate::namespace;
use crate::observe::Counter;

/// How long somebody who was sent to look a name up again may take to come back. Who comes back to the same inode has no
/// path to look up (`/proc/self/fd/N`) and means this very file.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(1);

impl FileSystem {
    /// Makes sure that the file is the version that is under its name, and pins it. `Superseded` when the name has
    /// another inode, or gets one now because the bucket has another version than the one that is open.
    pub(crate) async fn settle_version(&self, state: &FileState, mode: OpenMode) -> Result<()> {
        let now = Instant::now();
        let standing = state.content().standing();
        let asked = match standing {
            Standing::Unknown => return self.pin_version(state, mode, now).await,
            Standing::Remote if mode.is_writable() => match self.namespace.object(state.ino, now).await {
                Ok(object) => {
                    state.content().learn(object.ok_or(Error::NotFound)?);
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Standing::Remote => self.namespace.version(state.ino, now).await.map(drop),
            Standing::Committed => {
                self.pin_local(state)?;
                self.namespace.version(state.ino, now).await.map(drop)
            }
            Standing::Changed => return self.pin_local(state),
        };
        match asked {
            Err(namespace::Error::Stale) => self.superseded(state, mode, now),
            Err(error) => Err(error.into()),
            Ok(()) => Ok(()),
        }
    }

    /// Sees to it that the file can be opened or changed in this way. `Superseded` when the kernel reads it by itself: then
    /// its content stays for those who have it open, and the name is given to another inode.
    pub(crate) fn stand_aside(&self, state: &FileState, mode: OpenMode) -> Result<()> {
        if mode == OpenMode::Read || !state.content().kernel.is_passthrough() {
            return Ok(());
        }
        if let Err(why) = self.namespace.renew(state.ino) {
            log::debug!("Inode {} has no name to give away: {why}", state.ino);
        }
        Err(self.sent_on(state, mode, Instant::now()))
    }

    /// Somebody is sent to look the name up again. The kernel does that once for each open: what the name has by then must
    /// not be unfit as well, because a reader came first.
    fn sent_on(&self, state: &FileState, mode: OpenMode, now: Instant) -> Error {
        let key = match &state.content().source {
            Source::Remote(object) => Some(object.id.key.clone()),
            Source::Local(local) => Some(local.file.key()),
            Source::Unknown => self.namespace.key(state.ino).ok(),
        };
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadDirect | OpenMode::Write | OpenMode::Truncate => {
                key.into_iter().for_each(|key| self.files.reserve(key, now));
            }
        }
        Error::Superseded
    }

    /// Counts a handle of the kernel and says how it reads.
    pub(crate) fn enter_kernel(&self, state: &FileState, mode: OpenMode, backings: &dyn Backings) -> Access {
        let backed = match mode {
            OpenMode::Read => {
                let joined = state.content().kernel.join();
                let begin = |backing| state.content().kernel.open_backed(backing);
                joined.or_else(|| self.back(state, backings).map(begin))
            }
            // Never: the kernel would write into the cache.
            OpenMode::ReadDirect | OpenMode::Write | OpenMode::Truncate => None,
        };
        if let Some(token) = backed {
            self.metrics.add(Counter::PassthroughOpens, 1);
            return Access::Passthrough(token);
        }
        let mut content = state.content();
        content.kernel.open_cached();
        match &content.source {
            Source::Remote(object) if self.pages.are_of(state.ino, &object.id) => Access::Kept,
            Source::Remote(_) | Source::Local(_) | Source::Unknown => Access::Fresh,
        }
    }

    /// Notes of which version the kernel's pages are, after a handle was closed or a commit has made a version of them.
    pub(crate) fn note_pages(&self, state: &FileState) {
        let content = state.content();
        if !content.are_pages_ours {
            return;
        }
        match content.version() {
            Some(version) => self.pages.note(state.ino, version),
            None => self.pages.forget(state.ino),
        }
    }

    /// Whether the file still has a name.
    pub(crate) fn name_of(&self, state: &FileState) -> Name {
        match self.namespace.key(state.ino) {
            Ok(_) => Name::Kept,
            Err(_) => Name::Lost,
        }
    }

    /// Finds out which object the file is. Reading needs no more than its version, which a listing tells too. A version
    /// of which the kernel may believe a wrong length goes to a new inode: `Superseded`.
    async fn pin_version(&self, state: &FileState, mode: OpenMode, now: Instant) -> Result<()> {
        let (object, pin) = if mode.is_writable() {
            let (object, pin) = self.namespace.pin_object(state.ino, now).await?;
            (RemoteFile::from(object), pin)
        } else {
            let (id, pin) = self.namespace.pin_version(state.ino, now).await?;
            (RemoteFile { id, attributes: None }, pin)
        };
        // Who empties it has the kernel forget the length.
        let keeps_length = mode != OpenMode::Truncate;
        if keeps_length && self.namespace.is_resized(state.ino)? && self.namespace.renew(state.ino).is_ok() {
            return Err(self.sent_on(state, mode, now));
        }
        let _name_stays = self.switching.read().unwrap_or_else(PoisonError::into_inner);
        // Pinned it is of one version, whose name may have changed since it was told.
        let id = self.namespace.version_known(state.ino)?.unwrap_or(object.id);
        let mut content = state.content();
        content.set_remote(RemoteFile { id, ..object });
        let before = content.pin.replace(pin);
        drop(content);
        drop(before);
        Ok(())
    }

    fn pin_local(&self, state: &FileState) -> Result<()> {
        if state.content().pin.is_none() {
            let pin = self.namespace.pin(state.ino)?;
            state.content().pin = Some(pin);
        }
        Ok(())
    }

    /// Sends whoever comes to look the name up again, once. Who wants to read and comes back gets what is open here.
    fn superseded(&self, state: &FileState, mode: OpenMode, now: Instant) -> Result<()> {
        let mut content = state.content();
        let comes_back =
            content.refused_at.is_some_and(|refused| now.duration_since(refused) < COMES_BACK_WITHIN);
        match mode {
            OpenMode::Read | OpenMode::ReadDirect if comes_back => Ok(()),
            OpenMode::Read | OpenMode::ReadDirect | OpenMode::Write | OpenMode::Truncate => {
                content.refused_at = Some(now);
                drop(content);
                Err(self.sent_on(state, mode, now))
            }
        }
    }

    /// Hands the object to the kernel as one file, if all of it is here, nobody reads it otherwise, and it can be done.
    fn back(&self, state: &FileState, backings: &dyn Backings) -> Option<Backing> {
        let object = {
            let content = state.content();
            content.remote().filter(|_| content.kernel.is_idle()).map(|object| object.id.clone())?
        };
        let is_reserved = |key| self.files.is_reserved(&key, Instant::now());
        if !self.passthrough.is_on() || self.namespace.key(state.ino).is_ok_and(is_reserved) {
            return None;
        }
        let file = self.reader.whole(&object)?;
        match backings.register(file.as_fd()) {
            Ok(registration) => Some(Backing::new(registration, file)),
            Err(error) => {
                self.passthrough.refused(&error);
                None
            }
        }
    }
}
