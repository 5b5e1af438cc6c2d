//! rename and unlink.

mod directory;
mod turns;

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Instant;

use crate::fs::error::{Error, Result};
use crate::fs::file::FileState;
use crate::fs::rename::turns::Claim;
use crate::fs::{Attr, FileKind, FileSystem};
use crate::types::{Ino, Key, ObjectMeta};
use crate::write::{Hold, OnConflict, Precondition, Replaces};

pub(crate) use turns::{Turn, Turns};

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
        let _turn = self.turn(&[parent]).await?;
        let attr = self.look(&Place { parent, name: name.clone() }).await?;
        if attr.kind == FileKind::Directory {
            return Err(Error::IsDirectory);
        }
        let state = self.files.open(attr.ino);
        let result = self.unlink_held(&state, parent, &name).await;
        self.close_state(&state);
        result
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
        let kind = self.look(&from).await?.kind;
        let turn = match kind {
            FileKind::File | FileKind::Symlink => self.turn(&[from.parent, to.parent]).await?,
            FileKind::Directory => self.turn_to_move(&from, &to).await?,
        };
        let source = self.look(&from).await?;
        if source.kind != kind {
            return Err(Error::Stale("it was replaced while its rename waited".to_owned()));
        }
        let target = match self.look(&to).await {
            Ok(attr) => Some(attr),
            Err(Error::NotFound) => None,
            Err(error) => return Err(error),
        };
        match (&target, mode) {
            (Some(_), RenameMode::KeepTarget) => return Err(Error::Exists),
            (Some(attr), RenameMode::Replace) if attr.ino == source.ino => return Ok(()),
            (Some(attr), RenameMode::Replace) => match (kind, attr.kind) {
                (FileKind::File | FileKind::Symlink, FileKind::Directory) => return Err(Error::IsDirectory),
                (FileKind::Directory, FileKind::File | FileKind::Symlink) => return Err(Error::NotDirectory),
                (FileKind::File | FileKind::Symlink, FileKind::File | FileKind::Symlink)
                | (FileKind::Directory, FileKind::Directory) => {}
            },
            (None, RenameMode::Replace | RenameMode::KeepTarget) => {}
        }
        if kind == FileKind::Directory {
            return self.rename_directory(&from, &to, target.is_some(), turn).await;
        }
        let key = self.namespace.child_key(to.parent, &to.name)?;
        self.namespace.keep_directory(from.parent, &from.name, Instant::now()).await?;
        let state = self.files.open(source.ino);
        let target = target.map(|target| self.files.open(target.ino));
        let result = {
            // Until the tree knows, nobody may open the file, or it would be taken for the object under the old key.
            let _gate = state.gate.lock().await;
            self.rename_held(&from, &to, (&state, target.as_deref()), key, mode).await
        };
        if let Some(target) = &target {
            self.close_state(target);
        }
        self.close_state(&state);
        result
    }

    async fn rename_held(
        &self,
        from: &Place,
        to: &Place,
        (source, target): (&FileState, Option<&FileState>),
        key: Key,
        mode: RenameMode,
    ) -> Result<()> {
        let moved = self.move_onto(source, target, key, mode).await?;
        self.namespace.rename(from.parent, &from.name, to.parent, &to.name, Instant::now())?;
        if let Some(object) = moved {
            self.namespace.committed(source.ino, &object, Instant::now());
        }
        Ok(())
    }

    async fn unlink_held(&self, state: &FileState, parent: Ino, name: &OsStr) -> Result<()> {
        let _hold = self.hold(state).await?;
        state.content().is_removed = true;
        match self.namespace.unlink(parent, name, Instant::now()).await {
            Ok(_) => self.take_back(state).await,
            Err(error) => {
                state.content().is_removed = false;
                Err(error.into())
            }
        }
    }

    /// Brings the content of `state` under `key`: the object it is there, or `None` while it is still on its way. What is
    /// on its way under a name that is replaced is kept back, and given up once it is replaced.
    async fn move_onto(
        &self,
        state: &FileState,
        target: Option<&FileState>,
        key: Key,
        mode: RenameMode,
    ) -> Result<Option<ObjectMeta>> {
        let Some(target) = target else {
            return self.move_held(state, Precondition::Absent.into(), key, mode).await;
        };
        let _hold = self.hold(target).await?;
        let replaced = self.namespace.version(target.ino, Instant::now()).await?;
        let replaces = replaced.map_or(Precondition::Absent, |object| Precondition::Matches(object.etag));
        let replaces = Replaces::new(replaces, target.local().as_deref());
        target.content().is_removed = true;
        let moved = self.move_held(state, replaces, key, mode).await;
        match &moved {
            Ok(_) => self.take_back(target).await?,
            Err(_) => target.content().is_removed = false,
        }
        moved
    }

    async fn move_held(
        &self,
        state: &FileState,
        replaces: Replaces,
        key: Key,
        mode: RenameMode,
    ) -> Result<Option<ObjectMeta>> {
        let local = state.local();
        let hold = self.hold(state).await?;
        let in_bucket = self.namespace.version(state.ino, Instant::now()).await?;
        match (local, in_bucket) {
            (Some(file), None) => {
                let old_key = file.key();
                file.rename(key.clone(), replaces).await?;
                // Its close is to be waited for like others: what it has replaced must not come back after a crash.
                if let Some(local) = state.content().local() {
                    local.is_untouched = false;
                }
                self.files.unwatch_key(&old_key, state.ino);
                self.files.watch_key(key, state.ino);
                Ok(None)
            }
            (Some(file), Some(_)) => {
                // Changes over an object: they are finished under the old name first, then the object moves.
                drop(hold);
                {
                    let mut content = state.content();
                    if let Some(local) = content.local() {
                        local.settle();
                    }
                }
                let object = file.commit().await?;
                let _hold = file.hold().await?;
                self.namespace.committed(state.ino, &object, Instant::now());
                let moved = self.writer.rename(&object.id, &key, self.overruling(replaces, mode)).await?;
                file.moved(&moved.id);
                file.rename(key, Precondition::Matches(moved.id.etag.clone())).await?;
                self.files.unwatch_key(&object.id.key, state.ino);
                self.files.watch_key(moved.id.key.clone(), state.ino);
                Ok(Some(moved))
            }
            (None, Some(object)) => {
                let moved = self.writer.rename(&object, &key, self.overruling(replaces, mode)).await?;
                self.pages.renamed(state.ino, &object, &moved.id);
                let mut content = state.content();
                if content.remote().is_some() {
                    content.set_remote(moved.clone().into());
                }
                drop(content);
                Ok(Some(moved))
            }
            (None, None) => Err(Error::NotFound),
        }
    }

    /// What an object may replace that is moved: also another writer's version, where the user wants it so. What is still
    /// to be uploaded meets that version then.
    fn overruling(&self, replaces: Replaces, mode: RenameMode) -> Replaces {
        match (self.writer.on_conflict(), mode) {
            (OnConflict::Overwrite, RenameMode::Replace) => replaces.whatever_is_there(),
            (OnConflict::Overwrite, RenameMode::KeepTarget)
            | (OnConflict::KeepBoth | OnConflict::Fail, RenameMode::Replace | RenameMode::KeepTarget) => {
                replaces
            }
        }
    }

    /// Keeps what is on its way back until the answer is dropped, and tells the tree what has arrived: the news of it
    /// may not have come yet.
    async fn hold(&self, state: &FileState) -> Result<Option<Hold>> {
        let Some(file) = state.local() else {
            return Ok(None);
        };
        let hold = file.hold().await?;
        if let Some(object) = file.last_commit() {
            let is_clean = state.content().local().is_some_and(|local| local.is_clean());
            if is_clean {
                self.namespace.committed(state.ino, &object, Instant::now());
            } else {
                self.namespace.committed_earlier(state.ino, &object, Instant::now());
            }
        }
        Ok(hold)
    }

    /// The file's name is gone: nothing of it is to reach the bucket any more.
    async fn take_back(&self, state: &FileState) -> Result<()> {
        if let Some(file) = state.local() {
            self.files.unwatch_key(&file.key(), state.ino);
            file.discard().await?;
        }
        Ok(())
    }

    /// Waits until nobody else changes names in these directories, or moves one of them.
    pub(crate) async fn turn(&self, directories: &[Ino]) -> Result<Turn> {
        let prefixes = || directories.iter().map(|ino| self.namespace.prefix(*ino)).collect::<Result<_, _>>();
        loop {
            let claim = Claim::on(prefixes()?);
            let turn = self.turns.take(claim.clone()).await;
            // Who came before may have moved one of them.
            if claim == Claim::on(prefixes()?) {
                return Ok(turn);
            }
        }
    }

    /// Waits until nobody moves the directory that a file is in, or this directory.
    pub(crate) async fn turn_beside(&self, ino: Ino) -> Option<Turn> {
        loop {
            let prefix = self.namespace.prefix_around(ino)?;
            let turn = self.turns.take(Claim::within(prefix.clone())).await;
            if self.namespace.prefix_around(ino).as_ref() == Some(&prefix) {
                return Some(turn);
            }
        }
    }

    /// Waits until nobody changes anything in or below a directory and the name that it is to get.
    async fn turn_to_move(&self, from: &Place, to: &Place) -> Result<Turn> {
        let claim = || {
            let parents = [from.parent, to.parent].map(|ino| self.namespace.prefix(ino));
            let parents = parents.into_iter().collect::<Result<_, _>>()?;
            let trees = vec![self.directory_prefix(from)?, self.directory_prefix(to)?];
            Ok::<_, Error>(Claim { trees, ..Claim::on(parents) })
        };
        loop {
            let wanted = claim()?;
            let turn = self.turns.take(wanted.clone()).await;
            if claim()? == wanted {
                return Ok(turn);
            }
        }
    }

    /// Looks a name up without keeping the kernel's count.
    async fn look(&self, place: &Place) -> Result<Attr> {
        let attr = self.namespace.lookup(place.parent, &place.name, Instant::now()).await?;
        self.namespace.forget(attr.ino, 1);
        Ok(attr)
    }
}
