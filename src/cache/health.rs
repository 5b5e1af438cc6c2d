//! Whether the cache's disk takes chunks: after a failure it is left alone for a while.
//!
//! ```text
//!            failed                    worked
//!   Sound ----------> Failing{until} ---------> Sound
//!                        |    ^ failed again
//!                        `----'
//! ```

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cache::locked;

/// For this long nothing is tried after a disk has failed.
pub(crate) const FAILURE_PAUSE: Duration = Duration::from_secs(10);
/// For this long nothing is tried after a disk was full and nothing could be evicted.
pub(crate) const FULL_PAUSE: Duration = Duration::from_secs(1);

/// How the disk is doing.
#[derive(Debug, Default)]
pub(crate) struct Health {
    state: Mutex<State>,
    /// Whether `state` is `Failing`, to be looked at without the lock.
    is_failing: AtomicBool,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Sound,
    Failing {
        until: Instant,
        reason: String,
    },
}

impl Health {
    /// Whether the disk is to be left alone.
    pub(crate) fn is_paused(&self, now: Instant) -> bool {
        self.is_failing.load(Ordering::Relaxed)
            && match &*locked(&self.state) {
                State::Sound => false,
                State::Failing { until, .. } => now < *until,
            }
    }

    /// Why it is left alone; `None` when it is not.
    pub(crate) fn reason(&self, now: Instant) -> Option<String> {
        match &*locked(&self.state) {
            State::Failing { until, reason } if now < *until => Some(reason.clone()),
            State::Failing { .. } | State::Sound => None,
        }
    }

    /// The disk has failed. The first of several failures in a row is logged.
    pub(crate) fn failed(&self, error: &io::Error, directory: &Path, now: Instant) {
        let pause = if is_full(error) { FULL_PAUSE } else { FAILURE_PAUSE };
        let mut state = locked(&self.state);
        match &*state {
            State::Failing { .. } => {}
            State::Sound => log::warn!(
                "The cache in {} fails, reading goes on without it where it does: {error}",
                directory.display()
            ),
        }
        *state = State::Failing { until: now + pause, reason: error.to_string() };
        self.is_failing.store(true, Ordering::Relaxed);
    }

    /// Has it tried again now.
    #[cfg(test)]
    pub(crate) fn end_pause(&self) {
        if let State::Failing { until, .. } = &mut *locked(&self.state) {
            *until = Instant::now();
        }
    }

    /// The disk has taken a chunk.
    pub(crate) fn worked(&self, directory: &Path) {
        if !self.is_failing.load(Ordering::Relaxed) {
            return;
        }
        let before = std::mem::take(&mut *locked(&self.state));
        self.is_failing.store(false, Ordering::Relaxed);
        match before {
            State::Sound => {}
            State::Failing { .. } => log::info!("The cache in {} works again", directory.display()),
        }
    }
}

/// Whether an error says that there is no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether an error is that of a disk that fails or takes no changes, for which nobody but the disk is to blame.
pub(crate) fn is_disk_failing(error: &io::Error) -> bool {
    is_full(error) || error.kind() == io::ErrorKind::ReadOnlyFilesystem || is_unreadable(error)
}

/// Whether an error is that of a place on the disk that cannot be read.
pub(crate) fn is_unreadable(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_disk_is_left_alone_for_a_while() {
        let (health, start) = (Health::default(), Instant::now());
        assert!(!health.is_paused(start));
        health.failed(&io::ErrorKind::ReadOnlyFilesystem.into(), Path::new("/c"), start);
        assert!(health.is_paused(start + FAILURE_PAUSE / 2));
        assert!(health.reason(start).unwrap().contains("read-only"));
        assert!(!health.is_paused(start + FAILURE_PAUSE));
        health.failed(&io::ErrorKind::StorageFull.into(), Path::new("/c"), start);
        assert!(health.is_paused(start) && !health.is_paused(start + FULL_PAUSE));
        health.worked(Path::new("/c"));
        assert!(!health.is_paused(start) && health.reason(start).is_none());
    }

    #[test]
    fn a_failing_disk_is_told_from_a_wrong_directory() {
        for errno in [rustix::io::Errno::IO, rustix::io::Errno::ROFS, rustix::io::Errno::NOSPC] {
            assert!(is_disk_failing(&errno.into()), "{errno}");
        }
        assert!(!is_disk_failing(&rustix::io::Errno::ACCESS.into()));
    }
}
