//! Local files registered with the kernel, to be read through our inodes without asking us.
//!
//! A file can only be registered over the connection of a request that waits for its answer, so each open is a door of
//! its own ([`OpenDoor`]); the registrations of all of them are in one table, where the answers find them.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{BackingId, Errno, FileHandle, FopenFlags, ReplyOpen};

use crate::fs::{Access, BackingToken, Backings, Opened, Registration};

/// What is registered.
#[derive(Debug, Default)]
pub(crate) struct BackingTable {
    ids: Mutex<HashMap<BackingToken, Arc<BackingId>>>,
    next: AtomicU64,
}

/// An open that waits for its answer.
#[derive(Debug)]
pub(crate) struct OpenDoor {
    /// Taken by the answer.
    reply: Mutex<Option<ReplyOpen>>,
    table: Arc<BackingTable>,
}

/// A place in the table, given back when dropped.
#[derive(Debug)]
struct Registered {
    token: BackingToken,
    table: Arc<BackingTable>,
}

impl BackingTable {
    fn insert(self: &Arc<Self>, id: BackingId) -> Registered {
        let token = BackingToken(self.next.fetch_add(1, Ordering::Relaxed));
        self.lock().insert(token, Arc::new(id));
        Registered { token, table: self.clone() }
    }

    fn get(&self, token: BackingToken) -> Option<Arc<BackingId>> {
        self.lock().get(&token).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BackingToken, Arc<BackingId>>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenDoor {
    pub(crate) fn new(reply: ReplyOpen, table: Arc<BackingTable>) -> Arc<OpenDoor> {
        Arc::new(OpenDoor { reply: Mutex::new(Some(reply)), table })
    }

    /// Answers the open. Later calls do nothing.
    pub(crate) fn answer(&self, result: Result<Opened, i32>) {
        let Some(reply) = self.reply().take() else {
            return;
        };
        let Opened { fh, access } = match result {
            Ok(opened) => opened,
            Err(number) => return reply.error(Errno::from_i32(number)),
        };
        let fh = FileHandle(fh.0);
        match access {
            Access::Fresh => reply.opened(fh, FopenFlags::empty()),
            Access::Kept => reply.opened(fh, FopenFlags::FOPEN_KEEP_CACHE),
            Access::Passthrough(token) => match self.table.get(token) {
                Some(id) => reply.opened_passthrough(fh, FopenFlags::empty(), &id),
                None => {
                    log::error!("The backing file of {fh:?} is not registered; this is a defect in tetherfs");
                    reply.error(Errno::EIO);
                }
            },
        }
    }

    fn reply(&self) -> MutexGuard<'_, Option<ReplyOpen>> {
        self.reply.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backings for OpenDoor {
    fn register(&self, file: BorrowedFd<'_>) -> io::Result<Arc<dyn Registration>> {
        match &*self.reply() {
            Some(reply) => Ok(Arc::new(self.table.insert(reply.open_backing(file)?))),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Registration for Registered {
    fn token(&self) -> BackingToken {
        self.token
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // The last owner of the id closes it, which is this one or an answer on its way.
        self.table.lock().remove(&self.token);
    }
}
