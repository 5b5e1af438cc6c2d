//! A bucket, a daemon and a mount for each test, and what is needed to look at them from outside.

mod bucket;
mod daemon;
mod files;
mod mapping;
mod process;

pub use bucket::{ACCESS_KEY, BUCKET, Bucket, SECRET_KEY};
pub use daemon::Rig;
pub use files::{pattern, sha256, wait_for};
pub use mapping::{Mapping, Sharing};
pub use process::{Ran, run, run_ok};
