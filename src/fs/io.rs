//! read and write.

use std::sync::{Arc, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;

use crate::fs::FileSystem;
use crate::fs::error::{Error, Result};
use crate::fs::file::{FileState, Name, Source};
use crate::fs::handles::FileHandle;
use crate::fs::open::Below;
use crate::read::ReadStream;
use crate::types::{ByteRange, Fh, ObjectId, UnixTime};
use crate::write::{Piece, WriteFile};

/// Where a read gets its bytes.
enum View {
    Remote(Arc<ReadStream>),
    Local(Arc<WriteFile>),
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
    pub fn write(&self, fh: Fh, offset: u64, bytes: &[u8]) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.is_writable {
            return Err(Error::BadHandle);
        }
        // Under the content lock, so that the file cannot be let go between the look and the write.
        let mut content = handle.state.content();
        let was_local = content.local().is_some();
        let local = self.make_local(&handle.state, &mut content, Below::Object)?;
        local.file.write(offset, bytes)?;
        local.touch(UnixTime::from(SystemTime::now()));
        let key = Some(local.file.key()).filter(|_| !was_local && !content.is_removed);
        drop(content);
        self.announce_local(&handle.state, key);
        Ok(())
    }

    /// After a file has become local: the tree and the news must know. `key` is `None` when it was local before,
    /// or has no name: news about that name are another file's.
    pub(crate) fn announce_local(&self, state: &FileState, key: Option<crate::types::Key>) {
        if let Some(key) = key {
            if let Some(file) = state.local() {
                self.namespace.set_local(state.ino, file.size(), &file.attributes());
            }
            match self.name_of(state) {
                Name::Kept => self.files.watch_key(key, state.ino),
                Name::Lost => {}
            }
        }
    }

    /// Cuts or extends a file that is open or held by its gate.
    pub(crate) fn truncate(&self, state: &FileState, size: u64) -> Result<()> {
        let mut content = state.content();
        let was_local = content.local().is_some();
        // Emptying an empty file is still a change: it is how programs renew a time stamp.
        if !was_local && size > 0 && content.remote().is_some_and(|object| object.id.size == size) {
            return Ok(());
        }
        let below = if size == 0 { Below::Nothing } else { Below::Object };
        let local = self.make_local(state, &mut content, below)?;
        local.file.truncate(size)?;
        local.touch(UnixTime::from(SystemTime::now()));
        let key = Some(local.file.key()).filter(|_| !was_local && !content.is_removed);
        drop(content);
        self.announce_local(state, key);
        Ok(())
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

    async fn read_local(&self, state: &FileState, file: &Arc<WriteFile>, range: ByteRange) -> Result<Bytes> {
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
    let mut out = Vec::new();
    if stream.read_now(range, &mut out) {
        return Ok(Bytes::from(out));
    }
    Ok(stream.read(range).await?)
}
