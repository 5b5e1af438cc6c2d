//! Whether files are handed to the kernel to be read without us, and through which door.

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

/// Names a file that was registered with the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BackingToken(pub u64);

/// Hands open files to the kernel, to be read through inodes of ours without asking us.
pub trait Backings: Debug + Send + Sync + 'static {
    /// Registers a file. The kernel needs the registration for as long as a handle that was opened with it lives.
    fn register(&self, file: BorrowedFd<'_>) -> io::Result<Arc<dyn Registration>>;
}

/// A file that is registered. Taken back from the kernel when dropped.
pub trait Registration: Debug + Send + Sync + 'static {
    /// Its name.
    fn token(&self) -> BackingToken;
}

/// Whether completely cached files are handed to the kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum PassthroughStatus {
    /// They are.
    On,
    /// They are read the ordinary way.
    Off {
        /// Why.
        reason: String,
    },
}

/// The switch of one mount. On until somebody has a reason against it, which then holds to the end.
#[derive(Debug, Default)]
pub(crate) struct Passthrough {
    off: OnceLock<String>,
}

impl Passthrough {
    pub(crate) fn is_on(&self) -> bool {
        self.off.get().is_none()
    }

    pub(crate) fn status(&self) -> PassthroughStatus {
        match self.off.get() {
            None => PassthroughStatus::On,
            Some(reason) => PassthroughStatus::Off { reason: reason.clone() },
        }
    }

    /// Switches it off for this mount. Said once, with the first reason.
    pub(crate) fn switch_off(&self, reason: &str) {
        if self.off.set(reason.to_owned()).is_ok() {
            log::info!("Passthrough is off, cached files are read the ordinary way: {reason}");
        }
    }

    /// The kernel has refused a file: for good, unless it is only short of something.
    pub(crate) fn refused(&self, error: &io::Error) {
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EINTR) => {
                log::debug!("A file is read the ordinary way: {error}");
            }
            Some(number) => self.switch_off(&explain(number, error)),
            None => log::debug!("A file is read the ordinary way: {error}"),
        }
    }
}

/// What a refusal means for whoever mounts.
fn explain(number: i32, error: &io::Error) -> String {
    match number {
        libc::EPERM => "the kernel lets only root (CAP_SYS_ADMIN) hand files over".to_owned(),
        libc::ELOOP => {
            "the cache directory is on a stacked file system (overlayfs, for instance); choose another with --cache-dir"
                .to_owned()
        }
        libc::ENOTTY | libc::EOPNOTSUPP | libc::ENOSYS => "this kernel cannot do it".to_owned(),
        _ => format!("the kernel refuses files of the cache directory: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lasting_reason_is_kept() {
        let switch = Passthrough::default();
        switch.refused(&io::Error::from_raw_os_error(libc::EMFILE));
        switch.refused(&io::Error::from(io::ErrorKind::NotConnected));
        assert_eq!(switch.status(), PassthroughStatus::On);
        switch.refused(&io::Error::from_raw_os_error(libc::ELOOP));
        switch.switch_off("another");
        let PassthroughStatus::Off { reason } = switch.status() else { panic!("it is on") };
        assert!(reason.contains("--cache-dir") && !switch.is_on(), "{reason}");
    }

    #[test]
    fn the_status_is_plain_json() {
        assert_eq!(serde_json::to_string(&PassthroughStatus::On).unwrap(), r#"{"state":"on"}"#);
        let off = PassthroughStatus::Off { reason: "r".to_owned() };
        assert_eq!(serde_json::to_string(&off).unwrap(), r#"{"state":"off","reason":"r"}"#);
    }
}
