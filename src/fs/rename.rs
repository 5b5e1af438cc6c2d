//! rename and unlink of files.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Instant;

use crate::fs::error::{Error, Result};
use crate::fs::file::FileState;
use crate::fs::{Attr, FileKind, FileSystem};
use crate::types::{Ino, Key, ObjectMeta};
use crate::write::Precondition;

/// What a rename does about a name that is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Replaces it.
    Replace,
    /// Fails.
    KeepTarget,
}

/// A directory and a name in it.
#[derive(Clone, Debug)]
struct Place {
    parent: Ino,
    name: OsString,
}

impl FileSystem {
    /// Removes a file's name. Open handles go on with what they have.
    pub async fn unlink(self: Arc<Self>, parent: Ino, name: OsString) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let _turn = self.renaming.lock().await;
        let attr = self.look(&Place { parent, name: name.clone() }).await?;
        if attr.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        if let Some(state) = self.files.get(attr.ino) {
            self.take_back(&state).await?;
        }
        let ino = self.namespace.unlink(parent, &name, Instant::now()).await?;
        self.let_go(ino);
        Ok(())
    }

    /// Moves a file to another name, replacing what is there unless told otherwise.
    pub async fn rename(
        self: Arc<Self>,
        from: (Ino, OsString),
        to: (Ino, OsString),
        mode: RenameMode,
    ) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let from = Place { parent: from.0, name: from.1 };
        let to = Place { parent: to.0, name: to.1 };
        let _turn = self.renaming.lock().await;
        let source = self.look(&from).await?;
        if source.kind == FileKind::Directory {
            // Programs answer this by copying and removing, file by file.
            return Err(Error::CrossDevice);
        }
        let target = match self.look(&to).await {
            Ok(attr) => Some(attr),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        match (&target, mode) {
            (Some(_), RenameMode::KeepTarget) => return Err(Error::Exists),
            (Some(attr), RenameMode::Replace) if attr.kind == FileKind::Directory => {
                return Err(Error::IsDirectory);
            }
            (Some(attr), RenameMode::Replace) if attr.ino == source.ino => return Ok(()),
            (Some(_), RenameMode::Replace) | (None, RenameMode::Replace | RenameMode::KeepTarget) => {}
        }
        let key = self.namespace.child_key(to.parent, &to.name)?;
        self.namespace.keep_directory(from.parent, &from.name, Instant::now()).await?;
        let moved = self.move_content(source.ino, target.map(|attr| attr.ino), key).await?;
        self.namespace.rename(from.parent, &from.name, to.parent, &to.name, Instant::now())?;
        if let Some(object) = moved {
            self.namespace.committed(source.ino, &object, Instant::now());
        }
        Ok(())
    }

    /// Brings the content of `source` under `key`: the object it is there, or `None` while it is still on its way.
    async fn move_content(&self, source: Ino, target: Option<Ino>, key: Key) -> Result<Option<ObjectMeta>> {
        let state = self.files.open(source);
        let result = {
            let _gate = state.gate.lock().await;
            self.move_held(&state, target, key).await
        };
        self.close_state(&state);
        result
    }

    async fn move_held(
        &self,
        state: &Arc<FileState>,
        target: Option<Ino>,
        key: Key,
    ) -> Result<Option<ObjectMeta>> {
        let replaces = match target {
            Some(target) => self.replaced_by_rename(target).await?,
            None => Precondition::Absent,
        };
        let local = state.local();
        let in_bucket = self.namespace.object(state.ino, Instant::now()).await?;
        match (local, in_bucket) {
            (Some(file), None) => {
                let old_key = file.key();
                file.rename(key.clone(), replaces).await?;
                self.files.unwatch_key(&old_key, state.ino);
                self.files.watch_key(key, state.ino);
                Ok(None)
            }
            (Some(file), Some(_)) => {
                // Changes over an object: they are finished under the old name first, then the object moves.
                {
                    let mut content = state.content();
                    if let Some(local) = content.local() {
                        local.settle();
                    }
                }
                let object = file.commit().await?;
                self.namespace.committed(state.ino, &object, Instant::now());
                let moved = self.writer.rename(&object.id, &key, replaces).await?;
                file.moved(&moved.id);
                file.rename(key, Precondition::Matches(moved.id.etag.clone())).await?;
                self.files.unwatch_key(&object.id.key, state.ino);
                self.files.watch_key(moved.id.key.clone(), state.ino);
                Ok(Some(moved))
            }
            (None, Some(object)) => {
                let moved = self.writer.rename(&object.id, &key, replaces).await?;
                state.content().set_remote(moved.clone().into());
                Ok(Some(moved))
            }
            (None, None) => Err(Error::NotFound),
        }
    }

    /// What is on its way under a name that a rename replaces is taken back; returns what must be in the bucket there.
    async fn replaced_by_rename(&self, target: Ino) -> Result<Precondition> {
        if let Some(state) = self.files.get(target) {
            self.take_back(&state).await?;
        }
        Ok(self.version_of(target).await?.map_or(Precondition::Absent, Precondition::Matches))
    }

    /// The file's name goes away: nothing of it is to reach the bucket any more.
    async fn take_back(&self, state: &FileState) -> Result<()> {
        let local = {
            let mut content = state.content();
            content.is_removed = true;
            content.local().map(|local| local.file.clone())
        };
        if let Some(file) = local {
            self.files.unwatch_key(&file.key(), state.ino);
            file.discard().await?;
        }
        Ok(())
    }

    /// Looks a name up without keeping the kernel's count.
    async fn look(&self, place: &Place) -> Result<Attr> {
        let attr = self.namespace.lookup(place.parent, &place.name, Instant::now()).await?;
        self.namespace.forget(attr.ino, 1);
        Ok(attr)
    }
}
