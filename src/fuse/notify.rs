//! Telling the kernel what has changed behind its back, from a thread of its own.
//!
//! A notification can wait for a request that is in flight, so it must not be sent from a callback, from a thread of the
//! runtime, or under a lock. One about attributes does not wait. One about pages waits for reads of them that are in
//! flight, and those behind it with it; it is needed only where the user takes back what an open file has shown already.

use std::ffi::OsString;
use std::io;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use fuser::{INodeNo, Notifier};

use crate::fs::Invalidator;
use crate::observe::task;
use crate::types::Ino;

/// Notifications waiting. Beyond it they are dropped, and the kernel finds out when its TTL ends.
const QUEUE_MAX: usize = 4096;

/// The sending end.
#[derive(Debug)]
pub(crate) struct NotifyQueue {
    queue: SyncSender<Change>,
}

/// What the kernel must not believe any more.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Change {
    /// Attributes.
    Attributes(Ino),
    /// Attributes and every page.
    Content(Ino),
    /// Where a name leads.
    Name(Ino, OsString),
}

impl Change {
    fn tell(&self, notifier: &Notifier) -> io::Result<()> {
        // A negative offset stands for attributes only; length 0 means up to the end.
        match self {
            Change::Attributes(ino) => notifier.inval_inode(INodeNo(ino.0), -1, 0),
            Change::Content(ino) => notifier.inval_inode(INodeNo(ino.0), 0, 0),
            Change::Name(parent, name) => notifier.inval_entry(INodeNo(parent.0), name),
        }
    }
}

impl NotifyQueue {
    /// Starts the thread. It ends when the queue is dropped.
    pub(crate) fn start(notifier: Notifier) -> io::Result<NotifyQueue> {
        let (queue, changed) = sync_channel::<Change>(QUEUE_MAX);
        task::thread("fuse-notify", move || {
            for change in changed {
                if let Err(error) = change.tell(&notifier) {
                    log::debug!("Kernel was not told of {change:?}: {error}");
                }
            }
        })?;
        Ok(NotifyQueue { queue })
    }

    fn send(&self, change: Change) {
        match self.queue.try_send(change) {
            Ok(()) => {}
            Err(TrySendError::Full(change)) => {
                log::debug!("Notification queue is full; {change:?} waits for its TTL or the next open")
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

impl Invalidator for NotifyQueue {
    fn attributes_changed(&self, ino: Ino) {
        self.send(Change::Attributes(ino));
    }

    fn name_changed(&self, parent: Ino, name: &str) {
        self.send(Change::Name(parent, name.into()));
    }

    fn content_changed(&self, ino: Ino) {
        self.send(Change::Content(ino));
    }
}
