//! File operations: the only room that speaks both inodes and objects.
//!
//! Contract: every operation is a plain future or call over our own types; `fuse` decodes and answers, nothing more.
//! Errors are decided by meaning, here ([`Error`]), and become error numbers in one match.
//!
//! What content a file has is one enum, `file::Source`: an object, or local changes over one. A file becomes local at
//! its first change and goes back to being an object when the last handle is closed and all is in the bucket, so no
//! handle ever writes into a file that has been let go.
//!
//! ## One inode, one content
//!
//! What the kernel keeps (pages, length, a backing file) it keeps by inode. Therefore:
//!
//! * While an inode is open its content changes only by our own writes. When the bucket has another version, the *name*
//!   gets a new inode; handles of the old one go on with the version they opened, or fail with ESTALE where it is gone.
//! * While the kernel reads an inode's file by itself (passthrough) the content does not change at all. Who
//!   wants to write finds the name on a new inode.
//! * Whoever comes with the old inode is told ESTALE ([`Error::Superseded`]). The kernel then looks the path up again and
//!   repeats the call, once: open, stat, truncate, chmod and their like (`retry_estale`).
//!
//! ## Locks, in the order in which they may be taken
//!
//! 1. `FileSystem::turns` (async): whoever changes a name takes one turn for all the directories that it concerns.
//! 2. `FileState::gate` (async): exchanges a file's content as a whole. Held across awaits. Never two at once.
//! 3. `FileSystem::switching` (sync): read by whoever makes a file local or finds out which object it is, written while
//!    a directory gets its new name, so that nothing is begun under the old one after that.
//! 4. the table of `file::Files` (sync)
//! 5. `FileState::content` (sync): which content. Held over local file calls, never across an await.
//! 6. locks inside `namespace`, `read`, `write` and `kernel`, and the strays of `file::Files`, none of which calls back.
//!
//! Reads take only the fifth, writes the third and fifth. Nothing here waits on the network while a program writes.

mod ahead;
mod attr;
mod commit;
mod dir;
mod error;
mod file;
mod handles;
mod io;
mod kernel;
mod lookup;
mod open;
mod rename;
mod status;
pub mod upkeep;

use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::fs::ahead::Ahead;
use crate::fs::file::{Files, LocalFile};
use crate::fs::handles::Handles;
use crate::fs::kernel::{Pages, Passthrough};
use crate::fs::rename::Turns;
use crate::namespace::Namespace;
use crate::observe::{Metrics, task};
use crate::read::{self, Reader};
use crate::types::{ByteRange, Ino, Key, ObjectId, SessionId};
use crate::write::{BaseError, BaseSource, Event, Recovered, SessionStatus, WriteFile, Writer};

pub use crate::namespace::{Attr, DirEntry, FileKind};
pub use crate::write::Resolution;
pub use attr::{AttrChanges, MtimeChange, Rights, SpaceReport, XattrMode};
pub use error::{Error, Result};
pub use io::{Allocation, At, Length};
pub use kernel::{BackingToken, Backings, PassthroughStatus, Registration};
pub use open::{Access, Caller, OpenMode, Opened, Sealing, Unsealed};
pub use rename::RenameMode;
pub use status::{KernelStatus, Status};

/// What the file system promises and to whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// When `close` and `fsync` return.
    pub commit: CommitMode,
    /// Refuse every change.
    pub read_only: bool,
    /// Hand completely cached files to the kernel, where that can be done.
    pub passthrough: bool,
}

/// When `close` and `fsync` return success.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommitMode {
    /// `close`: the object is in the bucket. `fsync`: the data survive power loss locally.
    #[default]
    Close,
    /// Both: the data survive power loss locally; the upload goes on behind.
    Background,
    /// Both: the object is in the bucket.
    Remote,
}

/// Tells the kernel that what it remembers is no longer so. Calls return at once and may come from any thread.
pub trait Invalidator: std::fmt::Debug + Send + Sync + 'static {
    /// Attributes of an inode have changed.
    fn attributes_changed(&self, ino: Ino);

    /// A name may lead elsewhere, or nowhere, or somewhere at last.
    fn name_changed(&self, parent: Ino, name: &str);

    /// The content of an inode has changed, and its attributes: not one page of it holds any more.
    fn content_changed(&self, ino: Ino);
}

/// The file operations of one mount.
#[derive(Debug)]
pub struct FileSystem {
    namespace: Arc<Namespace>,
    reader: Arc<Reader>,
    writer: Arc<Writer>,
    options: Options,
    metrics: Arc<Metrics>,
    files: Files,
    handles: Handles,
    turns: Arc<Turns>,
    switching: RwLock<()>,
    invalidator: OnceLock<Arc<dyn Invalidator>>,
    passthrough: Passthrough,
    pages: Pages,
    ahead: Ahead,
    read_ahead_kib: OnceLock<u32>,
    jobs: upkeep::Jobs,
}

impl FileSystem {
    /// Puts the rooms together and takes in what the time before this mount left. Must be called on the runtime.
    pub fn new(
        namespace: Arc<Namespace>,
        reader: Arc<Reader>,
        writer: Arc<Writer>,
        options: Options,
        metrics: Arc<Metrics>,
    ) -> Arc<FileSystem> {
        let passthrough = Passthrough::default();
        if !options.passthrough {
            passthrough.switch_off("--passthrough=false");
        }
        let ahead = Ahead::new(reader.request_bytes_max(), reader.ahead_bytes_max());
        Arc::new(FileSystem {
            namespace,
            reader,
            writer,
            options,
            handles: Handles::new(metrics.clone()),
            metrics,
            files: Files::default(),
            turns: Arc::default(),
            switching: RwLock::default(),
            invalidator: OnceLock::new(),
            passthrough,
            pages: Pages::default(),
            ahead,
            read_ahead_kib: OnceLock::new(),
            jobs: upkeep::Jobs::default(),
        })
    }

    /// Shows what recovery found under its names, and folds the news about uploads in from now on.
    pub fn start(self: &Arc<Self>, recovered: Recovered, events: mpsc::UnboundedReceiver<Event>) {
        // One may have lost its name since, to a rename that was finished.
        let shown = recovered.pending.into_iter().filter(|file| !file.is_nameless());
        shown.for_each(|file| self.show_pending(file));
        for tree in recovered.trees {
            task::spawn("move-directory", self.clone().resume_move(tree));
        }
        task::spawn("fs-events", self.clone().follow(events));
    }

    /// Shows a file on its way under its name, unless a program has that name open, which goes on with what it has.
    fn show_pending(&self, file: Arc<WriteFile>) {
        let (key, size, attributes) = (file.key(), file.size(), file.attributes());
        match self.namespace.adopt(&key, size, &attributes, std::time::Instant::now()) {
            Ok(ino) => self.files.adopt(ino, key, LocalFile::new(file)),
            Err(error) => log::error!("Pending upload of {key} cannot be shown in the tree: {error}"),
        }
    }

    /// Whom to tell of changes that did not come through the kernel. Set once, when the mount is up.
    pub fn set_invalidator(&self, invalidator: Arc<dyn Invalidator>) {
        // Err means that one is set already, which only a mount that is set up twice could do.
        let _ = self.invalidator.set(invalidator);
    }

    /// Whether to prepare for handing files to the kernel.
    pub fn wants_passthrough(&self) -> bool {
        self.passthrough.is_on()
    }

    /// Files cannot be handed to the kernel, for this reason, as long as this mount lives.
    pub fn give_up_passthrough(&self, reason: &str) {
        self.passthrough.switch_off(reason);
    }

    /// How far the kernel reads ahead, for `status`. Set once, when the mount is up.
    pub fn note_read_ahead(&self, kib: u32) {
        // As with the invalidator.
        let _ = self.read_ahead_kib.set(kib);
    }

    /// The counters of this mount.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// How long the kernel may believe names and attributes.
    pub fn ttl(&self) -> Duration {
        self.namespace.ttl()
    }

    /// What is going on.
    pub fn status(&self) -> Status {
        let kernel = KernelStatus {
            passthrough: self.passthrough.status(),
            read_ahead_kib: self.read_ahead_kib.get().copied(),
        };
        Status {
            sessions: self.writer.sessions(),
            moves: self.writer.trees(),
            metrics: self.metrics.snapshot(),
            kernel,
        }
    }

    /// Waits until everything acknowledged is in the bucket, or nothing of it can go on.
    pub async fn drained(&self) {
        self.writer.drained().await;
    }

    /// The same for what was sealed before a session.
    pub async fn drained_before(&self, session: SessionId) {
        self.writer.drained_before(session).await;
    }

    /// What is not in the bucket yet of what was sealed before a session.
    pub fn sessions_before(&self, session: SessionId) -> Vec<SessionStatus> {
        self.writer.sessions_before(session)
    }

    /// Takes what an interrupted file held for complete, at the user's word: it is uploaded, and shown until it is there.
    pub fn commit_interrupted(&self, session: SessionId) -> Result<()> {
        let file = self.writer.commit_interrupted(session)?;
        self.show_pending(file);
        Ok(())
    }

    /// Tries a pending upload at once, or all of them, at the user's word. Says how many.
    pub fn retry(&self, session: Option<SessionId>) -> Result<usize> {
        Ok(self.writer.retry(session)?)
    }

    /// Settles a conflict that was left to the user, at his word. The name goes on showing what the bucket has until the
    /// upload, which goes to the key that is returned, is there.
    pub async fn resolve(&self, session: SessionId, resolution: Resolution) -> Result<Key> {
        let is_new = !self.files.is_stray(session);
        if is_new {
            // Before the upload goes on: its news must not be taken for those of a file that has the name by now.
            self.files.note_stray(session, None);
        }
        let resolved = self.writer.resolve(session, resolution).await;
        if resolved.is_err() && is_new {
            self.files.forget_stray(session);
        }
        Ok(resolved?)
    }

    /// Gives an interrupted or stuck upload and its data up, at the user's word.
    pub async fn discard(&self, session: SessionId) -> Result<()> {
        // By the file, for the upload may have had another key by now: that of a conflict copy.
        let file = self.writer.file(session);
        let is_it = |state: &Arc<file::FileState>| {
            file.as_ref().is_some_and(|file| state.local().is_some_and(|local| Arc::ptr_eq(&local, file)))
        };
        let shown = self.files.all().into_iter().find(is_it);
        self.writer.discard(session).await?;
        let state = if self.files.is_stray(session) {
            let ino = self.files.stray(session);
            self.files.forget_stray(session);
            ino.and_then(|ino| self.files.get(ino))
        } else {
            shown.inspect(|state| {
                if let Ok(key) = self.namespace.key(state.ino) {
                    self.give_up_local(state, &key);
                }
            })
        };
        if let Some(state) = state {
            // Handles that are open go on with what the file was before.
            self.pages.forget(state.ino);
            if let Some(invalidator) = self.invalidator.get() {
                invalidator.content_changed(state.ino);
            }
        }
        Ok(())
    }

    /// Stops: what is not in the bucket goes on at the next mount.
    pub async fn shutdown(&self) {
        self.jobs.cancel_all();
        self.writer.shutdown().await;
    }
}

/// Lets uploads read the objects that changes are based on.
pub fn base_source(reader: Arc<Reader>) -> Arc<dyn BaseSource> {
    Arc::new(ReaderBase { reader })
}

struct ReaderBase {
    reader: Arc<Reader>,
}

#[async_trait]
impl BaseSource for ReaderBase {
    async fn base(&self, object: &ObjectId, range: ByteRange) -> Result<Bytes, BaseError> {
        match self.reader.open(object.clone()).read(range).await {
            Ok(bytes) => Ok(bytes),
            Err(read::Error::Gone(_)) => Err(BaseError::Gone),
            Err(read::Error::Store(error)) => Err(BaseError::Store(error)),
        }
    }

    async fn base_here(&self, object: &ObjectId, range: ByteRange) -> Option<Bytes> {
        self.reader.cached(object, range).await
    }
}
