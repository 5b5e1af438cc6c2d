//! A bucket, a daemon and a mount for each test, and what is needed to look at them from outside.

mod ailing;
mod bucket;
mod client;
mod daemon;
mod files;
mod foreign;
mod mapping;
mod process;

pub use ailing::{AilingDisk, Call};
pub use bucket::{Asked, BUCKET, Bucket};
pub use client::{Account, Client, Served};
pub use daemon::Rig;
pub use files::{Disk, expect_same, forget_pages, pattern, seed, sha256, wait_for};
pub use foreign::Foreign;
pub use mapping::{Mapping, Sharing};
pub use process::{Ran, run, run_ok};
