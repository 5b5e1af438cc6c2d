//! setattr and statfs.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::fs::error::{Error, Result};
use crate::fs::file::FileState;
use crate::fs::{Attr, FileKind, FileSystem, OpenMode};
use crate::types::{Attributes, Fh, Ino, UnixTime};

/// What a `setattr` wants changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AttrChanges {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Time of the last change of content.
    pub mtime: Option<MtimeChange>,
    /// The handle through which the length is changed (`ftruncate`), if it is.
    pub handle: Option<Fh>,
}

/// Which time is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MtimeChange {
    /// The present moment.
    Now,
    /// This one.
    To(UnixTime),
}

/// What `statfs` tells. A bucket has no end, so the numbers are large and constant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SpaceReport {
    /// Bytes a block.
    pub block_bytes: u32,
    /// Blocks, all of them free.
    pub blocks: u64,
    /// Inodes, all of them free.
    pub inodes: u64,
    /// Longest name in bytes.
    pub name_bytes_max: u32,
}

impl FileSystem {
    /// Changes attributes.
    pub async fn set_attr(self: Arc<Self>, ino: Ino, changes: AttrChanges) -> Result<Attr> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let _turn = self.turn_beside(ino).await;
        let known = self.attr_of(ino).await?;
        match known.kind {
            FileKind::Directory => self.set_directory_attr(&known, changes).await?,
            FileKind::File => {
                let state = self.files.open(ino);
                let result = self.set_file_attr(&state, &known, changes).await;
                self.close_state(&state);
                result?;
            }
        }
        self.attr_of(ino).await
    }

    /// Room in the volume.
    pub fn space(&self) -> SpaceReport {
        SpaceReport { block_bytes: 4096, blocks: 1 << 38, inodes: 1 << 40, name_bytes_max: 255 }
    }

    async fn set_directory_attr(&self, known: &Attr, changes: AttrChanges) -> Result<()> {
        if changes.size.is_some() {
            return Err(Error::IsDirectory);
        }
        let Some(wanted) = changed(known, changes) else {
            return Ok(());
        };
        let mut attributes = self.namespace.directory_attributes(known.ino, Instant::now()).await?;
        wanted.apply(&mut attributes);
        Ok(self.namespace.set_directory_attributes(known.ino, attributes).await?)
    }

    async fn set_file_attr(&self, state: &Arc<FileState>, known: &Attr, changes: AttrChanges) -> Result<()> {
        let is_open = {
            let _gate = state.gate.lock().await;
            if changes.size.is_some() {
                self.stand_aside(state, OpenMode::Write)?;
            }
            match self.settle_version(state, OpenMode::Write).await {
                // Whoever has it open for writing goes on with it, whatever has become of its name.
                Err(Error::Superseded) if self.can_write(changes.handle) => {}
                settled => settled?,
            }
            if let Some(size) = changes.size {
                self.truncate(state, size)?;
            }
            if let Some(wanted) = changed(known, changes) {
                self.set_file_attributes(state, wanted).await?;
            }
            self.files.is_shared(state.ino)
        };
        // Nobody will close a file that was changed by its path alone, so its commit is waited for here.
        if is_open { Ok(()) } else { self.flush_state(state).await }
    }

    async fn set_file_attributes(&self, state: &FileState, wanted: Wanted) -> Result<()> {
        let object = {
            let mut content = state.content();
            if let Some(local) = content.local() {
                wanted.apply(&mut local.attributes);
                local.attributes_are_new = true;
                local.is_untouched = false;
                return Ok(());
            }
            content.remote().cloned().ok_or(Error::BadHandle)?
        };
        let mut attributes = object.attributes.unwrap_or_default();
        wanted.apply(&mut attributes);
        let replaced = self.writer.replace_attributes(&object.id, attributes).await?;
        self.namespace.committed(state.ino, &replaced, Instant::now());
        self.pages.renamed(state.ino, &object.id, &replaced.id);
        state.content().set_remote(replaced.into());
        Ok(())
    }

    fn can_write(&self, handle: Option<Fh>) -> bool {
        handle.is_some_and(|fh| self.handles.file(fh).is_ok_and(|handle| handle.is_writable))
    }
}

/// Mode, owner and time as they will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: UnixTime,
}

impl Wanted {
    fn apply(self, attributes: &mut Attributes) {
        let Wanted { mode, uid, gid, mtime } = self;
        (attributes.mode, attributes.uid, attributes.gid) = (Some(mode), Some(uid), Some(gid));
        attributes.mtime = Some(mtime);
    }
}

/// All of them, or `None` when none differs.
fn changed(known: &Attr, changes: AttrChanges) -> Option<Wanted> {
    let mode = changes.mode.map_or(known.mode, |mode| mode & 0o7777);
    let uid = changes.uid.unwrap_or(known.uid);
    let gid = changes.gid.unwrap_or(known.gid);
    let mtime = match changes.mtime {
        None => known.mtime,
        Some(MtimeChange::Now) => UnixTime::from(SystemTime::now()),
        Some(MtimeChange::To(time)) => time,
    };
    if (mode, uid, gid, mtime) == (known.mode, known.uid, known.gid, known.mtime) {
        return None;
    }
    Some(Wanted { mode, uid, gid, mtime })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Attr {
        let mtime = UnixTime::from_secs(100);
        Attr { ino: Ino(5), kind: FileKind::File, size: 1, mtime, mode: 0o644, uid: 1, gid: 2 }
    }

    #[test]
    fn only_a_difference_is_a_change() {
        let same = AttrChanges { mode: Some(0o100_644), uid: Some(1), gid: None, ..AttrChanges::default() };
        assert_eq!(changed(&known(), same), None);
        let time = UnixTime { secs: -5, nanos: 7 };
        let moved = AttrChanges { mtime: Some(MtimeChange::To(time)), ..AttrChanges::default() };
        let wanted = changed(&known(), moved).expect("the time differs");
        assert_eq!((wanted.mtime, wanted.mode, wanted.uid), (time, 0o644, 1));
    }
}
