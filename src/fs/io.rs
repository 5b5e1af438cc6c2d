//! read and write.

mod allocate;
mod copy;

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use crate::fs::error::{Error, Result};
use crate::fs::file::{Content, FileState, LocalFile, Name, Source};
use crate::fs::handles::FileHandle;
use crate::fs::open::Below;
use crate::fs::{FileSystem, Rights};
use crate::read::ReadStream;
use crate::types::{ByteRange, Fh, Key, ObjectId, UnixTime};
use crate::write::{Piece, WriteFile};

pub use allocate::{Allocation, Length};
pub use copy::At;

/// Where a read gets its bytes.
enum View {
    Remote(Arc<ReadStream>),
    Local(Arc<WriteFile>),
}

/// What a file was before a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Before {
    /// An object.
    Object,
    /// Local, with nothing that was not sealed: the tree may know of no local changes.
    Sealed,
    /// Local, with changes.
    Changed,
}

impl Before {
    pub(crate) fn of(content: &mut Content) -> Before {
        match content.local() {
            None => Before::Object,
            Some(local) if local.file.is_dirty() => Before::Changed,
            Some(_) => Before::Sealed,
        }
    }
}

impl FileSystem {
    /// Bytes of an open file, fewer than asked for only at its end. Ready at once when they are in memory or on disk.
    pub async fn read(self: Arc<Self>, fh: Fh, range: ByteRange) -> Result<Bytes> {
        let handle = self.handles.file(fh)?;
        match self.view(&handle)? {
            View::Remote(stream) => read_stream(&stream, range).await,
            View::Local(file) => self.read_local(&handle.state, &file, range).await,
        }
    }

    /// Takes bytes into staging. Local file calls only.
    pub fn write(&self, fh: Fh, offset: u64, bytes: &[u8], rights: Rights) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.is_writable {
            return Err(Error::BadHandle);
        }
        self.change(&handle.state, Below::Object, |local| {
            local.file.write(offset, bytes)?;
            local.touch(UnixTime::from(SystemTime::now()));
            local.settle_rights(rights);
            Ok(())
        })
    }

    /// Changes a file, which becomes local by that, and tells the tree.
    pub(crate) fn change(
        &self,
        state: &FileState,
        below: Below,
        change: impl FnOnce(&mut LocalFile) -> Result<()>,
    ) -> Result<()> {
        let _name_stays = self.switching.read().unwrap_or_else(PoisonError::into_inner);
        // Under the content lock, so that the file cannot be let go between the look and the change.
        let mut content = state.content();
        let was = Before::of(&mut content);
        let local = self.make_local(state, &mut content, below)?;
        change(local)?;
        let key = self.tell_tree(state, was, &mut content);
        drop(content);
        if let Some(key) = key {
            self.files.watch_key(key, state.ino);
        }
        Ok(())
    }

    /// After a change, with the content still locked: the tree hears of the first one, also of the first after a commit.
    /// Returns the name under which the news of its upload will come, if it has one.
    pub(crate) fn tell_tree(&self, state: &FileState, was: Before, content: &mut Content) -> Option<Key> {
        if was == Before::Changed || content.is_removed {
            return None;
        }
        let local = content.local()?;
        self.namespace.set_local(state.ino, local.file.size(), &local.attributes);
        match self.name_of(state) {
            Name::Kept => Some(local.file.key()),
            Name::Lost => None,
        }
    }

    /// Cuts or extends a file that is open or held by its gate.
    pub(crate) fn truncate(&self, state: &FileState, size: u64) -> Result<()> {
        // Emptying an empty file is still a change: it is how programs renew a time stamp.
        if size > 0 && state.content().remote().is_some_and(|object| object.id.size == size) {
            return Ok(());
        }
        let below = if size == 0 { Below::Nothing } else { Below::Object };
        self.change(state, below, |local| {
            local.file.truncate(size)?;
            local.touch(UnixTime::from(SystemTime::now()));
            Ok(())
        })
    }

    fn view(&self, handle: &FileHandle) -> Result<View> {
        let (epoch, object) = {
            let content = handle.state.content();
            match &content.source {
                Source::Local(local) => return Ok(View::Local(local.file.clone())),
                Source::Remote(object) => (content.epoch, object.id.clone()),
                Source::Unknown => return Err(Error::BadHandle),
            }
        };
        let mut stream = handle.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stream {
            Some((opened_at, stream)) if *opened_at == epoch => Ok(View::Remote(stream.clone())),
            Some(_) | None => {
                let opened = Arc::new(self.reader.open(object));
                *stream = Some((epoch, opened.clone()));
                Ok(View::Remote(opened))
            }
        }
    }

    pub(crate) async fn read_local(
        &self,
        state: &FileState,
        file: &Arc<WriteFile>,
        range: ByteRange,
    ) -> Result<Bytes> {
        let mut pieces = file.read(range)?;
        if pieces.len() == 1
            && let Some(Piece::Staged(bytes)) = pieces.pop_if(|piece| matches!(piece, Piece::Staged(_)))
        {
            return Ok(Bytes::from(bytes));
        }
        let mut out = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Staged(bytes) => out.extend_from_slice(&bytes),
                Piece::Zeros(len) => out.resize(out.len() + len as usize, 0),
                Piece::Base { object, range } => {
                    let stream = self.base_stream(state, object);
                    out.extend_from_slice(&read_stream(&stream, range).await?);
                }
            }
        }
        Ok(Bytes::from(out))
    }

    fn base_stream(&self, state: &FileState, object: ObjectId) -> Arc<ReadStream> {
        let mut content = state.content();
        let Some(local) = content.local() else {
            return Arc::new(self.reader.open(object));
        };
        match &local.base {
            Some(stream) if *stream.object() == object => stream.clone(),
            Some(_) | None => {
                let stream = Arc::new(self.reader.open(object));
                local.base = Some(stream.clone());
                stream
            }
        }
    }
}

async fn read_stream(stream: &ReadStream, range: ByteRange) -> Result<Bytes> {
    let mut out = Vec::with_capacity(range.clip(stream.object().size).len() as usize);
    if stream.read_now(range, &mut out) {
        return Ok(Bytes::from(out));
    }
    Ok(stream.read(range).await?)
}
