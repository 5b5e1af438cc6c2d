//! open, create, flush, fsync, release.

mod inherited;
mod sync;
mod version;

use std::ffi::{OsStr, OsString};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use crate::fs::error::{Error, Result};
use crate::fs::file::{Closed, FileState, LocalFile, Name, Source};
use crate::fs::handles::FileHandle;
use crate::fs::kernel::{BackingToken, Backings, Closing};
use crate::fs::{Attr, CommitMode, FileSystem};
use crate::types::{Attributes, Fh, Ino, UnixTime};
use crate::write::{self, Origin, Precondition, WriteFile};

pub use inherited::Caller;
pub(crate) use inherited::Process;
pub use sync::{Sealing, Unsealed};

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// For reading.
    Read,
    /// For reading past the kernel's page cache (`O_DIRECT`), in pieces that a local disk might not take.
    ReadDirect,
    /// For writing, perhaps for reading too.
    Write,
    /// For writing, emptied first.
    Truncate,
}

impl OpenMode {
    pub(crate) fn is_writable(self) -> bool {
        match self {
            OpenMode::Read | OpenMode::ReadDirect => false,
            OpenMode::Write | OpenMode::Truncate => true,
        }
    }
}

/// A file that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Opened {
    /// Its handle.
    pub fh: Fh,
    /// How the kernel is to read it.
    pub access: Access,
}

/// How the kernel is to read an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It asks us; the pages it has may be of another version and must go.
    Fresh,
    /// It asks us for what it does not have; the pages it has are of this version.
    Kept,
    /// It reads the file that was registered under this name.
    Passthrough(BackingToken),
}

impl FileSystem {
    /// Opens a file. `backings` is the kernel's door for files that it is to read by itself.
    pub async fn open(
        self: Arc<Self>,
        ino: Ino,
        mode: OpenMode,
        backings: Arc<dyn Backings>,
        caller: Caller,
    ) -> Result<Opened> {
        if mode.is_writable() && self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let state = self.files.open(ino);
        match self.prepare_open(&state, mode, &*backings, caller).await {
            Ok(access) => {
                let is_writable = mode.is_writable();
                let stream = match mode {
                    OpenMode::Read => self.look_ahead(&state).map(|stream| (state.content().epoch, stream)),
                    OpenMode::ReadDirect | OpenMode::Write | OpenMode::Truncate => None,
                };
                let stream = Mutex::new(stream);
                let writer = if is_writable { caller.process() } else { None };
                let fh = self.handles.add_file(FileHandle { state, is_writable, writer, stream });
                Ok(Opened { fh, access })
            }
            Err(error) => {
                self.close_state(&state);
                Err(error)
            }
        }
    }

    /// Makes an empty file and opens it. No request is made for it now.
    pub async fn create(
        self: Arc<Self>,
        parent: Ino,
        name: OsString,
        attributes: Attributes,
        caller: Caller,
    ) -> Result<(Attr, Fh)> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let mtime = Some(UnixTime::from(SystemTime::now()));
        let content_type = Some(content_type_of(&name));
        let attributes = Attributes { mtime, content_type, ..attributes };
        let attr = self.namespace.create(parent, &name, attributes.clone(), Instant::now()).await?;
        let _name_stays = self.switching.read().unwrap_or_else(PoisonError::into_inner);
        let key = self.namespace.key(attr.ino)?;
        let file = match self.writer.create(key.clone(), Origin::New, Precondition::Absent, attributes) {
            Ok(file) => file,
            Err(error) => {
                self.namespace.remove(parent, &name, Instant::now());
                self.namespace.forget(attr.ino, 1);
                return Err(error.into());
            }
        };
        let pin = self.namespace.pin(attr.ino)?;
        let state = self.files.open(attr.ino);
        {
            let mut content = state.content();
            content.set_local(LocalFile { is_untouched: true, ..LocalFile::new(file) });
            content.pin = Some(pin);
            content.kernel.open_cached();
        }
        self.files.watch_key(key, attr.ino);
        let (writer, stream) = (caller.process(), Mutex::default());
        let fh = self.handles.add_file(FileHandle { state, is_writable: true, writer, stream });
        Ok((self.with_local(attr), fh))
    }

    /// A descriptor of the file is being closed. Comes once for each, also for copies of a descriptor and before the
    /// first write; with nothing changed it is free. What it returns is what `close` returns. That of an inherited copy is
    /// free, too, while whoever opened the file goes on with it.
    pub async fn flush(self: Arc<Self>, fh: Fh, caller: Caller) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.is_writable || self.is_of_a_copy(&handle, caller) {
            return Ok(());
        }
        self.flush_state(&handle.state).await
    }

    fn is_of_a_copy(&self, handle: &FileHandle, caller: Caller) -> bool {
        let has_changed = handle.state.content().local().is_some_and(|local| local.needs_commit());
        let Some(writer) = handle.writer.filter(|_| has_changed) else {
            return false;
        };
        caller.process().is_some_and(|closing| closing != writer) && writer.is_writing(handle.state.ino)
    }

    /// `fsync` of a file.
    pub async fn fsync(self: Arc<Self>, fh: Fh) -> Result<()> {
        let handle = self.handles.file(fh)?;
        let state = &handle.state;
        let Some(file) = self.settled(state, Settle::EvenUntouched) else {
            return Ok(());
        };
        match self.options.commit {
            CommitMode::Close | CommitMode::Background => Ok(file.sync().await?),
            CommitMode::Remote => self.commit(state, &file).await,
        }
    }

    /// The last reference to a handle is gone. Nobody waits for this, so it cannot be where an error is told first.
    pub fn release(&self, fh: Fh) {
        if let Ok(handle) = self.handles.file(fh) {
            let closing = handle.state.content().kernel.close();
            match closing {
                Closing::Cached => handle.state.content().are_pages_ours = true,
                Closing::Passthrough(backing) => drop(backing),
                Closing::Nothing => log::error!("Handle {fh:?} was closed and had not been opened"),
            }
            self.note_pages(&handle.state);
            self.close_state(&handle.state);
            // Last, so that who sees no handle open sees all of what a close does.
            self.handles.remove_file(fh);
        }
    }

    /// What a `close` of the file has to wait for.
    pub(crate) async fn flush_state(&self, state: &FileState) -> Result<()> {
        let Some(file) = self.settled(state, Settle::OnlyTouched) else {
            return Ok(());
        };
        match self.options.commit {
            CommitMode::Close | CommitMode::Remote => self.commit(state, &file).await,
            CommitMode::Background => Ok(file.sync().await?),
        }
    }

    /// Waits until the file as it is now is in the bucket, whatever a `close` promises.
    pub(crate) async fn commit_state(&self, state: &FileState) -> Result<()> {
        match self.settled(state, Settle::OnlyTouched) {
            Some(file) => self.commit(state, &file).await,
            None => Ok(()),
        }
    }

    /// Brings the file into the bucket, and the tree up to date with it.
    pub(crate) async fn commit(&self, state: &FileState, file: &Arc<WriteFile>) -> Result<()> {
        let session = file.session();
        match file.commit().await {
            Ok(object) => {
                self.committed(state, &object);
                Ok(())
            }
            Err(error) => {
                if let write::Error::Conflict { key, .. } = &error {
                    // Further news of it would be taken for news of the file that has the name from now on.
                    self.files.note_stray(session, Some(state.ino));
                    self.give_up_local(state, key);
                }
                Err(error.into())
            }
        }
    }

    /// The file under change if there is anything to seal or to wait for, with its attributes handed on.
    fn settled(&self, state: &FileState, which: Settle) -> Option<Arc<WriteFile>> {
        let mut content = state.content();
        if content.is_removed {
            return None;
        }
        let local = content.local()?;
        let wanted = match which {
            Settle::OnlyTouched => local.needs_commit(),
            Settle::EvenUntouched => local.needs_commit() || local.is_untouched,
        };
        if !wanted {
            return None;
        }
        local.is_untouched = false;
        local.settle();
        let file = local.file.clone();
        self.note_if_stray(state, &file);
        Some(file)
    }

    /// Before a content is sealed: if another file has the name by now, its news are not that one's.
    fn note_if_stray(&self, state: &FileState, file: &WriteFile) {
        match self.name_of(state) {
            Name::Kept => {}
            Name::Lost => self.files.note_stray(file.session(), Some(state.ino)),
        }
    }

    async fn prepare_open(
        &self,
        state: &Arc<FileState>,
        mode: OpenMode,
        backings: &dyn Backings,
        caller: Caller,
    ) -> Result<Access> {
        let _gate = state.gate.lock().await;
        if let Some(file) = state.local() {
            file.open_again();
        }
        self.stand_aside(state, mode)?;
        self.settle_version(state, mode).await?;
        match mode {
            OpenMode::Read | OpenMode::ReadDirect | OpenMode::Write => {}
            OpenMode::Truncate => {
                self.truncate(state, 0)?;
                self.change(state, Below::Nothing, |local| {
                    local.settle_rights(caller.rights());
                    Ok(())
                })?;
            }
        }
        Ok(self.enter_kernel(state, mode, backings))
    }

    /// One handle of the file less; after the last one, what is changed goes on its way without anybody waiting.
    pub(crate) fn close_state(&self, state: &Arc<FileState>) {
        {
            // While the handle still counts, so that no commit can let the file go in between.
            let mut content = state.content();
            let is_removed = content.is_removed;
            if let Some(local) = content.local().filter(|local| !is_removed && !local.is_clean()) {
                self.namespace.set_local(state.ino, local.file.size(), &local.attributes);
            }
        }
        match self.files.close(state.ino) {
            Closed::StillOpen => return,
            Closed::Last => {}
        }
        let left = {
            let mut content = state.content();
            let is_removed = content.is_removed;
            content.local().map(|local| {
                local.is_untouched = false;
                if !is_removed {
                    local.settle();
                    self.note_if_stray(state, &local.file);
                }
                local.file.clone()
            })
        };
        if let Some(file) = left {
            // Also when the name is gone: its data are given back only now that no handle needs them.
            if let Err(error) = file.close() {
                log::error!("Changes to {} could not be queued for upload: {error}", file.key());
            }
            // Somebody may have opened it since it was counted, and needs its data.
            if self.files.is_open(state.ino) {
                file.open_again();
            }
            // The news of a commit may come when the file has been let go of, and would find nobody.
            if let Some(object) = file.last_commit() {
                self.committed(state, &object);
            }
        }
        self.let_go(state);
    }

    /// Makes the file local, if it is not yet: no request, no waiting.
    pub(crate) fn make_local<'a>(
        &self,
        state: &FileState,
        content: &'a mut crate::fs::file::Content,
        below: Below,
    ) -> Result<&'a mut LocalFile> {
        if content.local().is_none() {
            let Source::Remote(object) = &content.source else {
                return Err(Error::BadHandle);
            };
            let object = object.clone();
            let known = self.namespace.attr_known(state.ino)?;
            let attributes = Attributes {
                mode: Some(known.mode),
                uid: Some(known.uid),
                gid: Some(known.gid),
                mtime: Some(known.mtime),
                ..object.attributes.unwrap_or_default()
            };
            let key = object.id.key.clone();
            let expected = Precondition::Matches(object.id.etag.clone());
            let origin = match below {
                Below::Object => Origin::Over(object.id),
                Below::Nothing => Origin::Emptied(object.id),
            };
            let file = match content.is_removed {
                true => self.writer.create_nameless(key, origin, attributes)?,
                false => self.writer.create(key, origin, expected, attributes)?,
            };
            content.set_local(LocalFile::new(file));
        }
        content.local().ok_or(Error::BadHandle)
    }
}

/// What shows through local changes where nothing is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Below {
    /// The object as it was.
    Object,
    /// Nothing: the file has been emptied first.
    Nothing,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Settle {
    /// Not what was only created.
    OnlyTouched,
    /// Also what was only created: an `fsync` wants the name kept.
    EvenUntouched,
}

/// The MIME type that a name suggests.
fn content_type_of(name: &OsStr) -> String {
    mime_guess::from_path(name).first_or_octet_stream().essence_str().to_owned()
}
