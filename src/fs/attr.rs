//! setattr and statfs.

mod link;
mod xattr;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::fs::error::{Error, Result};
use crate::fs::file::{FileState, RemoteFile, revoked};
use crate::fs::io::Before;
use crate::fs::open::Below;
use crate::fs::{Attr, CommitMode, FileKind, FileSystem, OpenMode};
use crate::types::{Attributes, Fh, Ino, UnixTime};

pub use xattr::XattrMode;

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
    /// What becomes of setuid and setgid bits where `mode` does not say.
    pub rights: Rights,
}

/// Whether a file that is changed goes on lending the rights of its owner or group to whoever executes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rights {
    /// Root has written to it, who may lend them.
    #[default]
    Stay,
    /// Somebody else has, or it has another owner now.
    Revoked,
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
    /// Changes attributes. When it returns, new attributes are in the bucket, or journaled so that they get there also after
    /// a crash; a new length is what a `close` promises.
    pub async fn set_attr(self: Arc<Self>, ino: Ino, changes: AttrChanges) -> Result<Attr> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        let _turn = self.turn_beside(ino).await;
        match self.attr_of(ino).await?.kind {
            FileKind::Directory => self.set_directory_attr(ino, changes).await?,
            FileKind::File | FileKind::Symlink => {
                let state = self.files.open(ino);
                let result = self.set_file_attr(&state, changes).await;
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

    async fn set_directory_attr(&self, ino: Ino, changes: AttrChanges) -> Result<()> {
        if changes.size.is_some() {
            return Err(Error::IsDirectory);
        }
        let mut attributes = self.namespace.directory_attributes(ino, Instant::now()).await?;
        let known = self.namespace.attr_known(ino)?;
        let Some(wanted) = Wanted::of(&known, changes) else {
            return Ok(());
        };
        known.complete(&mut attributes);
        wanted.dress(&mut attributes);
        Ok(self.namespace.set_directory_attributes(ino, attributes).await?)
    }

    async fn set_file_attr(&self, state: &Arc<FileState>, changes: AttrChanges) -> Result<()> {
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
            let known = self.with_local(self.namespace.attr_known(state.ino)?);
            if let Some(wanted) = Wanted::of(&known, changes) {
                self.dress(state, |attributes| wanted.dress(attributes)).await?;
            }
            self.files.is_shared(state.ino)
        };
        let must_wait = changes.size.is_some() || self.options.commit == CommitMode::Remote;
        // Nobody will close a file that was changed by its path alone, so its commit is waited for here.
        if must_wait && !is_open { self.flush_state(state).await } else { Ok(()) }
    }

    /// Gives a file other attributes. They go along with what else is on its way; if nothing is, they wait a moment for more
    /// of their kind and are then one copy on the server. To be called under the file's gate, its metadata being known.
    pub(crate) async fn dress(&self, state: &FileState, change: impl FnOnce(&mut Attributes)) -> Result<()> {
        let backed = {
            let content = state.content();
            content.remote().filter(|_| content.kernel.is_passthrough()).cloned()
        };
        match backed {
            Some(object) => self.dress_now(state, object, change).await,
            None => self.dress_soon(state, change),
        }
    }

    /// What the kernel reads by itself stays an object: who opens it next is to read it so as well.
    async fn dress_now(
        &self,
        state: &FileState,
        object: RemoteFile,
        change: impl FnOnce(&mut Attributes),
    ) -> Result<()> {
        let mut attributes = object.attributes.unwrap_or_default();
        self.namespace.attr_known(state.ino)?.complete(&mut attributes);
        change(&mut attributes);
        let replaced = self.writer.replace_attributes(&object.id, attributes).await?;
        self.namespace.committed(state.ino, &replaced, Instant::now());
        self.pages.renamed(state.ino, &object.id, &replaced.id);
        state.content().set_remote(replaced.into());
        Ok(())
    }

    fn dress_soon(&self, state: &FileState, change: impl FnOnce(&mut Attributes)) -> Result<()> {
        let (file, key) = {
            let mut content = state.content();
            let was = Before::of(&mut content);
            let object = content.remote().map(|object| object.id.clone());
            let local = self.make_local(state, &mut content, Below::Object)?;
            local.only_dressed = object.or(local.only_dressed.take());
            change(&mut local.attributes);
            (local.attributes_are_new, local.is_untouched) = (true, false);
            let key = self.tell_tree(state, was, &mut content);
            let is_removed = content.is_removed;
            // What is being written is sealed by its close, and the attributes with it.
            let Some(local) = content.local().filter(|_| was != Before::Changed && !is_removed) else {
                return Ok(());
            };
            local.settle();
            (local.file.clone(), key)
        };
        if let Some(key) = key {
            self.files.watch_key(key, state.ino);
        }
        Ok(file.seal_soon()?)
    }

    fn can_write(&self, handle: Option<Fh>) -> bool {
        handle.is_some_and(|fh| self.handles.file(fh).is_ok_and(|handle| handle.is_writable))
    }
}

/// What of mode, owner and time is to become other than it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Wanted {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<UnixTime>,
}

impl Wanted {
    /// `None` when nothing differs.
    fn of(known: &Attr, changes: AttrChanges) -> Option<Wanted> {
        let mtime = changes.mtime.map(|mtime| match mtime {
            MtimeChange::Now => UnixTime::from(SystemTime::now()),
            MtimeChange::To(time) => time,
        });
        let mode = match (changes.mode, changes.rights) {
            (Some(mode), Rights::Stay | Rights::Revoked) => Some(mode & 0o7777),
            (None, Rights::Revoked) if known.kind == FileKind::File => Some(revoked(known.mode)),
            (None, Rights::Stay | Rights::Revoked) => None,
        };
        let wanted = Wanted {
            mode: mode.filter(|mode| *mode != known.mode),
            uid: changes.uid.filter(|uid| *uid != known.uid),
            gid: changes.gid.filter(|gid| *gid != known.gid),
            mtime: mtime.filter(|mtime| *mtime != known.mtime),
        };
        (wanted != Wanted { mode: None, uid: None, gid: None, mtime: None }).then_some(wanted)
    }

    fn dress(self, attributes: &mut Attributes) {
        attributes.mode = self.mode.or(attributes.mode);
        attributes.uid = self.uid.or(attributes.uid);
        attributes.gid = self.gid.or(attributes.gid);
        attributes.mtime = self.mtime.or(attributes.mtime);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Attr {
        let mtime = UnixTime::from_secs(100);
        Attr {
            ino: Ino(5),
            kind: FileKind::File,
            size: 1,
            mtime,
            mode: 0o644,
            uid: 1,
            gid: 2,
            is_removed: false,
        }
    }

    #[test]
    fn only_a_difference_is_a_change() {
        let same = AttrChanges { mode: Some(0o100_644), uid: Some(1), gid: None, ..AttrChanges::default() };
        assert_eq!(Wanted::of(&known(), same), None);
        let time = UnixTime { secs: -5, nanos: 7 };
        let moved = AttrChanges { mtime: Some(MtimeChange::To(time)), ..same };
        let wanted = Wanted::of(&known(), moved).expect("the time differs");
        let mut attributes = Attributes { uid: Some(9), ..Attributes::default() };
        known().complete(&mut attributes);
        wanted.dress(&mut attributes);
        assert_eq!((attributes.mtime, attributes.mode, attributes.gid), (Some(time), Some(0o644), Some(2)));
        assert_eq!(attributes.uid, Some(9), "what nobody wants changed stays");
    }

    #[test]
    fn a_file_that_changes_hands_lends_no_rights_any_more() {
        let changes = AttrChanges { rights: Rights::Revoked, ..AttrChanges::default() };
        let mode_of = |known: Attr, changes| Wanted::of(&known, changes).and_then(|wanted| wanted.mode);
        assert_eq!(mode_of(Attr { mode: 0o6755, ..known() }, changes), Some(0o755));
        assert_eq!(mode_of(Attr { mode: 0o2745, ..known() }, changes), None, "a lock, not a right");
        assert_eq!(mode_of(Attr { mode: 0o6755, kind: FileKind::Directory, ..known() }, changes), None);
        let told = AttrChanges { mode: Some(0o104_711), ..changes };
        assert_eq!(mode_of(known(), told), Some(0o4711), "who says so wants it");
    }
}
