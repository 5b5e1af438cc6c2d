//! `copy_file_range`: all of an object into an empty file is one copy on the server.

use std::sync::Arc;
use std::time::SystemTime;

use crate::fs::FileSystem;
use crate::fs::error::{Error, Result};
use crate::fs::file::FileState;
use crate::fs::open::Below;
use crate::types::{Fh, ObjectId, UnixTime};

/// What programs do then, which is right for everything that is not all of an object.
const READ_AND_WRITE: Error = Error::Unsupported("bytes are copied by reading and writing them");

/// A place in an open file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At {
    /// The handle.
    pub fh: Fh,
    /// The offset in bytes.
    pub offset: u64,
}

impl FileSystem {
    /// Copies up to `len` bytes between open files and says how many, if that can be done without their coming here. What
    /// it says is copied is in the bucket, so that it outlives whatever becomes of its source.
    pub async fn copy_range(self: Arc<Self>, from: At, to: At, len: u64) -> Result<u64> {
        let (source, target) = (self.handles.file(from.fh)?, self.handles.file(to.fh)?);
        if !target.is_writable {
            return Err(Error::BadHandle);
        }
        let object = source.state.content().remote().map(|object| object.id.clone());
        let is_whole = |object: &ObjectId| object.size > 0 && object.size <= len;
        let Some(object) = object.filter(is_whole).filter(|_| (from.offset, to.offset) == (0, 0)) else {
            return Err(READ_AND_WRITE);
        };
        let _gate = target.state.gate.lock().await;
        self.take_after(&target.state, &object)?;
        let Some(file) = target.state.local() else {
            return Err(Error::BadHandle);
        };
        match self.commit_state(&target.state).await {
            Ok(()) => Ok(object.size),
            Err(error @ (Error::Stale(_) | Error::TimedOut(_))) => Err(error),
            Err(error) => {
                // The program reads and writes now, and begins with an empty file.
                log::debug!("{} cannot be copied to {} on the server: {error}", object.key, file.key());
                self.truncate(&target.state, 0)?;
                Err(READ_AND_WRITE)
            }
        }
    }

    fn take_after(&self, target: &FileState, object: &ObjectId) -> Result<()> {
        if target.content().is_removed {
            return Err(READ_AND_WRITE);
        }
        self.change(target, Below::Object, |local| {
            if !local.file.take_after(object)? {
                return Err(READ_AND_WRITE);
            }
            local.touch(UnixTime::from(SystemTime::now()));
            Ok(())
        })
    }
}
