//! The door to the kernel; the only room that says `fuser`. It decodes, starts and answers, and decides nothing.
//!
//! Contract: no callback waits on the network. What is in memory or on the local disk is answered on the kernel's own
//! thread; anything else moves, with its reply, into a task that has a deadline. A panic costs one request, never the
//! mount. Notifications leave from one thread, without locks.
//!
//! The mount itself is made and taken off by `device`, because the crate's own unmount can hit a mount that is not ours.

mod adapter;
mod answers;
mod backing;
mod convert;
mod device;
mod notify;
mod reply;
mod session;

use std::path::PathBuf;

pub use session::Session;

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
