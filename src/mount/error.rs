//! Why a mount does not come about: each step's own error, and what to do.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::mount::MountpointError;

/// Why a mount did not come about, by the step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory to mount on.
    #[error(transparent)]
    Mountpoint(#[from] MountpointError),
    /// A local directory that is needed.
    #[error("cannot make the {what} directory {}: {source}", path.display())]
    Directory {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The state directory is in use, or cannot be used.
    #[error(transparent)]
    Lease(#[from] crate::durable::LeaseError),
    /// The state directory belongs to another volume.
    #[error("the state directory {} is of {url}, and what waits there must go nowhere else", path.display())]
    OtherVolume {
        /// Where it is.
        path: PathBuf,
        /// That volume.
        url: String,
    },
    /// The volume.
    #[error(transparent)]
    Store(#[from] crate::store::OpenError),
    /// The cache.
    #[error(transparent)]
    Cache(#[from] crate::cache::CacheError),
    /// What waits to be uploaded.
    #[error("cannot open what waits to be uploaded: {0}")]
    Write(#[from] crate::write::Error),
    /// The kernel.
    #[error(transparent)]
    Fuse(#[from] crate::fuse::MountError),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
    /// This process.
    #[error("cannot start: {0}")]
    Process(#[from] io::Error),
    /// A signal came, or nobody waits any more, before it was mounted.
    #[error("stopped by {0} before it was mounted")]
    Interrupted(&'static str),
}

impl Error {
    /// What the user can do about it, where the message does not say.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Mountpoint(error) => Some(error.hint()),
            Error::Directory { what, .. } => Some(format!("choose another with --{what}-dir")),
            Error::Write(crate::write::Error::Staging { errno, .. }) if is_full(*errno) => {
                Some("make room on the disk of the state directory; nothing was changed".to_owned())
            }
            Error::OtherVolume { path, .. } => Some(format!(
                "choose another with --state-dir; or see with `tetherfs fsck {}` that nothing waits there, and remove it",
                path.display()
            )),
            Error::Write(_) => {
                Some("nothing was changed; the log says more with --log-level debug".to_owned())
            }
            Error::Store(_)
            | Error::Lease(_)
            | Error::Cache(_)
            | Error::Fuse(_)
            | Error::Control(_)
            | Error::Process(_)
            | Error::Interrupted(_) => None,
        }
    }
}

fn is_full(errno: i32) -> bool {
    [Errno::NOSPC, Errno::DQUOT].iter().any(|full| full.raw_os_error() == errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_the_advice_when_it_is_the_cause() {
        let staging = |errno: Errno| {
            let errno = errno.raw_os_error();
            Error::Write(crate::write::Error::Staging { errno, detail: "journal".to_owned() })
        };
        assert!(staging(Errno::NOSPC).hint().unwrap().starts_with("make room"));
        assert!(staging(Errno::DQUOT).hint().unwrap().starts_with("make room"));
        assert!(!staging(Errno::IO).hint().unwrap().contains("room"));
    }
}
