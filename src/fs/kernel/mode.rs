//! How the kernel has an inode open.
//!
//! Counts may lag behind the kernel's, which lets go of a handle before it tells us. Both ways are harmless: an inode
//! believed open gets handles of the kind it had, which the kernel takes for an idle one too.

use std::fmt;
use std::sync::Arc;

use crate::fs::kernel::{BackingToken, Registration};
use crate::read::WholeFile;

/// How the kernel has an inode open. All its handles are of one kind.
#[derive(Debug, Default)]
pub(crate) enum Mode {
    /// Not at all.
    #[default]
    Idle,
    /// Through its page cache, which asks us for what it does not have.
    Cached {
        /// Handles.
        opens: u64,
    },
    /// It reads a local file of ours by itself. The content does not change in this mode.
    Passthrough {
        /// The file.
        backing: Backing,
        /// Handles.
        opens: u64,
    },
}

/// A local file that the kernel reads by itself. Given back to it when dropped; nothing of it is evicted before.
pub(crate) struct Backing {
    /// First, so that the kernel lets go of the file before we do.
    registration: Arc<dyn Registration>,
    /// Holds the object against eviction.
    _file: WholeFile,
}

/// What was closed.
#[derive(Debug)]
pub(crate) enum Closing {
    /// A handle that went through the page cache.
    Cached,
    /// One that did not; with the backing if it was the last.
    Passthrough(Option<Backing>),
    /// Nothing was open.
    Nothing,
}

impl Backing {
    pub(crate) fn new(registration: Arc<dyn Registration>, file: WholeFile) -> Backing {
        Backing { registration, _file: file }
    }
}

impl Mode {
    /// One handle more through the page cache. Never while files are passed through, which the caller has looked at.
    pub(crate) fn open_cached(&mut self) {
        match self {
            Mode::Idle => *self = Mode::Cached { opens: 1 },
            Mode::Cached { opens } => *opens += 1,
            Mode::Passthrough { .. } => unreachable!("the kernel refuses to mix the two"),
        }
    }

    /// The first handle that reads `backing`.
    pub(crate) fn open_backed(&mut self, backing: Backing) -> BackingToken {
        debug_assert!(self.is_idle(), "only an idle inode can begin to be passed through");
        let token = backing.registration.token();
        *self = Mode::Passthrough { backing, opens: 1 };
        token
    }

    /// One handle more that reads what the others read, if they read a backing file.
    pub(crate) fn join(&mut self) -> Option<BackingToken> {
        match self {
            Mode::Idle | Mode::Cached { .. } => None,
            Mode::Passthrough { backing, opens } => {
                *opens += 1;
                Some(backing.registration.token())
            }
        }
    }

    /// One handle less.
    pub(crate) fn close(&mut self) -> Closing {
        match self {
            Mode::Idle => return Closing::Nothing,
            Mode::Cached { opens } if *opens > 1 => {
                *opens -= 1;
                return Closing::Cached;
            }
            Mode::Passthrough { opens, .. } if *opens > 1 => {
                *opens -= 1;
                return Closing::Passthrough(None);
            }
            Mode::Cached { .. } | Mode::Passthrough { .. } => {}
        }
        match std::mem::take(self) {
            Mode::Idle => Closing::Nothing,
            Mode::Cached { .. } => Closing::Cached,
            Mode::Passthrough { backing, .. } => Closing::Passthrough(Some(backing)),
        }
    }

    /// Whether no handle is open.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Mode::Idle => true,
            Mode::Cached { .. } | Mode::Passthrough { .. } => false,
        }
    }

    /// Whether the kernel reads by itself.
    pub(crate) fn is_passthrough(&self) -> bool {
        match self {
            Mode::Passthrough { .. } => true,
            Mode::Idle | Mode::Cached { .. } => false,
        }
    }
}

impl fmt::Debug for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backing").field("registration", &self.registration).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_is_left_with_the_last_handle() {
        let mut mode = Mode::default();
        assert!(matches!(mode.close(), Closing::Nothing));
        mode.open_cached();
        mode.open_cached();
        assert!(mode.join().is_none(), "what is cached is not passed through");
        assert!(matches!(mode.close(), Closing::Cached) && !mode.is_idle());
        assert!(matches!(mode.close(), Closing::Cached) && mode.is_idle());
    }
}
