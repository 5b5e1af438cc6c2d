//! The news about uploads, folded into the tree.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::fs::FileSystem;
use crate::fs::file::{FileState, Name};
use crate::types::{Key, ObjectMeta, SessionId};
use crate::write::Event;

impl FileSystem {
    pub(crate) async fn follow(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Committed { session, object, .. } if self.files.is_stray(session) => {
                    self.files.forget_stray(session);
                    self.namespace.expire_key(&object.id.key);
                }
                Event::Committed { object, is_current, .. } => {
                    if let Some(state) = self.files.by_key(&object.id.key) {
                        if is_current {
                            self.committed(&state, &object);
                        } else {
                            self.namespace.committed_earlier(state.ino, &object, Instant::now());
                        }
                    }
                }
                Event::Conflicted { session, key, kept_as } => {
                    self.conflicted(session, &key, kept_as.as_ref());
                }
                Event::Yielded { session, .. } if self.files.stray(session).is_some() => {
                    self.files.forget_stray(session);
                }
                Event::Yielded { key, .. } => {
                    if let Some(state) = self.files.by_key(&key) {
                        self.give_up_local(&state, &key);
                    }
                }
                Event::Replaced { key, file } => {
                    let state = self.files.by_key(&key);
                    let is_it = |state: &Arc<FileState>| {
                        state.local().is_some_and(|local| Arc::ptr_eq(&local, &file))
                    };
                    if let Some(state) = state.filter(is_it) {
                        self.give_up_local(&state, &key);
                    }
                }
                Event::Stuck { key, reason, .. } => log::error!("Upload of {key} is stuck: {reason}"),
            }
        }
    }

    /// The file's content is in the bucket as `object`.
    pub(crate) fn committed(&self, state: &FileState, object: &ObjectMeta) {
        let dressed = {
            // Locked until the tree knows, so that a change that comes meanwhile is told to it later.
            let mut content = state.content();
            let is_removed = content.is_removed;
            let Some(local) = content.local().filter(|local| local.is_clean()) else {
                return;
            };
            local.told = Some(local.file.session());
            // The metadata of a large object was sent before its last bytes were written. What programs have seen stays.
            let object = ObjectMeta { attributes: Some(local.attributes.clone()), ..object.clone() };
            let dressed = local.only_dressed.take().map(|before| (before, local.file.clone()));
            match self.name_of(state) {
                Name::Kept => self.namespace.committed(state.ino, &object, Instant::now()),
                Name::Lost if is_removed => {}
                // Another inode has the name, and what it knows of the bucket is no longer so.
                Name::Lost => self.namespace.expire_key(&object.id.key),
            }
            if let Some((before, _)) = &dressed {
                // Handles that are open have seen no other bytes: it is an object again, as those that come will find it.
                self.pages.renamed(state.ino, before, &object.id);
                content.set_remote(object.into());
            }
            dressed
        };
        if let Some((_, file)) = dressed {
            self.files.unwatch_key(&file.key(), state.ino);
            if let Err(error) = file.close() {
                log::warn!("Attributes of {} are set, and their record stays: {error}", file.key());
            }
        }
        self.note_pages(state);
        self.let_go(state);
    }

    /// Forgets a file that nobody has open and that has nothing to upload.
    pub(crate) fn let_go(&self, state: &FileState) {
        self.files.retire(state.ino, self.name_of(state));
    }

    /// The name has no local changes any more: it shows what the bucket has. Handles that are open keep what they have,
    /// on an inode without a name.
    pub(crate) fn give_up_local(&self, state: &FileState, key: &Key) {
        self.files.unwatch_key(key, state.ino);
        self.namespace.give_up_local(state.ino);
        if let Err(why) = self.namespace.renew(state.ino) {
            log::debug!("Inode {} has no name to give away: {why}", state.ino);
        }
        // An inode that the kernel has not met may have been given the same number again: it is not this file.
        self.files.retire(state.ino, Name::Lost);
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.attributes_changed(state.ino);
        }
    }

    fn conflicted(&self, session: SessionId, key: &Key, kept_as: Option<&ObjectMeta>) {
        match kept_as {
            Some(copy) => {
                log::warn!("{key} was changed by another writer; our version is now {}", copy.id.key)
            }
            None => log::warn!(
                "{key} was changed by another writer; our version is kept in staging, see `tetherfs uploads`"
            ),
        }
        if self.files.is_stray(session) {
            // One that is staged can still be decided about.
            if kept_as.is_some() {
                self.files.forget_stray(session);
            }
        } else if let Some(state) = self.files.by_key(key) {
            if kept_as.is_none() {
                // Another file may have the name by the time that something is decided.
                self.files.note_stray(session, Some(state.ino));
            }
            self.give_up_local(&state, key);
        }
    }
}
