//! The news about uploads, folded into the tree.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::fs::FileSystem;
use crate::fs::file::FileState;
use crate::types::{Ino, ObjectMeta};
use crate::write::Event;

impl FileSystem {
    pub(crate) async fn follow(self: Arc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Committed { object, is_current, .. } => {
                    if let Some(state) = self.files.by_key(&object.id.key) {
                        if is_current {
                            self.committed(&state, &object);
                        } else {
                            self.namespace.committed_earlier(state.ino, &object, Instant::now());
                        }
                    }
                }
                Event::Conflicted { key, kept_as, .. } => self.conflicted(&key, kept_as.as_ref()),
                Event::Stuck { key, reason, .. } => log::error!("Upload of {key} is stuck: {reason}"),
            }
        }
    }

    /// The file's content is in the bucket as `object`.
    pub(crate) fn committed(&self, state: &FileState, object: &ObjectMeta) {
        let shown =
            state.content().local().filter(|local| local.is_clean()).map(|local| local.attributes.clone());
        if let Some(shown) = shown {
            // The metadata of a large object was sent before its last bytes were written. What programs have seen stays.
            let object = ObjectMeta { attributes: Some(shown), ..object.clone() };
            self.namespace.committed(state.ino, &object, Instant::now());
            self.let_go(state.ino);
        }
    }

    /// Forgets a file that nobody has open and that has nothing to upload.
    pub(crate) fn let_go(&self, ino: Ino) {
        self.files.retire(ino);
    }

    fn conflicted(&self, key: &crate::types::Key, kept_as: Option<&ObjectMeta>) {
        match kept_as {
            Some(copy) => {
                log::warn!("{key} was changed by another writer; our version is now {}", copy.id.key)
            }
            None => log::warn!(
                "{key} was changed by another writer; our version is kept in staging, see `tetherfs uploads`"
            ),
        }
        let Some(state) = self.files.by_key(key) else {
            return;
        };
        if kept_as.is_some() {
            self.let_go(state.ino);
        }
        self.namespace.expire(state.ino);
        if let Some(invalidator) = self.invalidator.get() {
            invalidator.attributes_changed(state.ino);
        }
    }
}
