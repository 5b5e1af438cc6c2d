//! The door to the kernel; the only room that says `fuser`. It decodes, starts and answers, and decides nothing.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fs::FileSystem;

/// How to mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// An empty directory.
    pub mountpoint: PathBuf,
    /// What `mount` and `df` show as the device.
    pub source: String,
    /// Let other users in.
    pub allow_other: bool,
    /// Mount read-only.
    pub read_only: bool,
}

/// Why it cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mountpoint, FUSE or permissions are not as they must be; the text says what to do.
    #[error("cannot mount on {}: {reason}", mountpoint.display())]
    Refused {
        /// Where.
        mountpoint: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

/// A mount that is being served.
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// Mounts and starts to serve. Callbacks run on threads of their own, their waiting on `runtime`.
    pub fn mount(
        _fs: Arc<FileSystem>,
        _runtime: tokio::runtime::Handle,
        _options: &Options,
    ) -> Result<Session, MountError> {
        unimplemented!()
    }

    /// Takes the mount off its directory. Without `detach` it fails with EBUSY while files are open.
    pub fn unmount(&self, _detach: bool) -> std::io::Result<()> {
        unimplemented!()
    }

    /// Waits until the kernel has ended the session (by us or by `umount`) and every callback has returned.
    pub async fn ended(&self) {
        unimplemented!()
    }
}
