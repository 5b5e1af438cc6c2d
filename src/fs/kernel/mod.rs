//! What the kernel does with a file without asking us: the pages it keeps, and the local files that it reads by itself.
//!
//! Two rules of the kernel decide what is here. Pages, length and backing file belong to the inode and not to the handle,
//! so that what is kept of one inode must be of one version. And all handles of an inode are of one [`Mode`]: while one
//! reads a backing file, any other open of that inode but one with the same backing fails with EIO (`fs/fuse/iomode.c`).

mod mode;
mod pages;
mod passthrough;

pub(crate) use mode::{Backing, Closing, Mode};
pub(crate) use pages::Pages;
pub(crate) use passthrough::Passthrough;
pub use passthrough::{BackingToken, Backings, PassthroughStatus, Registration};
