//! Telling the kernel what has changed behind its back, from a thread of its own.
//!
//! A notification can wait for a request that is in flight, so it must not be sent from a callback, from a thread of the
//! runtime, or under a lock. Only attributes are invalidated: pages follow when size or time differ, and a page
//! invalidation would wait for reads that may be waiting for us.

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
    queue: SyncSender<Ino>,
}

impl NotifyQueue {
    /// Starts the thread. It ends when the queue is dropped.
    pub(crate) fn start(notifier: Notifier) -> io::Result<NotifyQueue> {
        let (queue, changed) = sync_channel::<Ino>(QUEUE_MAX);
        task::thread("fuse-notify", move || {
            for ino in changed {
                // A negative offset means attributes only.
                if let Err(error) = notifier.inval_inode(INodeNo(ino.0), -1, 0) {
                    log::debug!("Kernel was not told that inode {ino} has changed: {error}");
                }
            }
        })?;
        Ok(NotifyQueue { queue })
    }
}

impl Invalidator for NotifyQueue {
    fn attributes_changed(&self, ino: Ino) {
        match self.queue.try_send(ino) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => {
                log::debug!("Notification queue is full; inode {ino} waits for its TTL")
            }
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}
