//! Bytes written anew as they were: what is in the bucket already need not be sent.
//!
//! Only what is on this machine is compared, byte for byte: a checksum alone is no proof, and fetching would cost more than
//! sending. Small files are looked at here, before they are sealed; of large ones each part, before it is sent.

use crate::types::{ByteRange, ObjectId, RangeSet};
use crate::write::file::state::{FileState, Standing};
use crate::write::staging::Snapshot;
use crate::write::upload::Base;
use crate::write::{Error, WriteFile};

/// Bytes compared at a time.
const COMPARED_BYTES: u64 = 1 << 20;

/// A file that may be what it was.
struct Doubt {
    object: ObjectId,
    /// What has been written.
    written: RangeSet,
    snapshot: Snapshot,
}

impl WriteFile {
    /// Where the file turns out to be what it was, only its attributes are to be committed. Does nothing for files that
    /// are sent in parts.
    pub(super) async fn recognise(&self) {
        let Some(Doubt { object, written, snapshot }) = self.doubt() else { return };
        for range in written.iter().flat_map(|range| range.split(COMPARED_BYTES)) {
            let Some(before) = self.context.base.base_here(&object, range).await else { return };
            if !is_staged(&snapshot, range, &before) {
                return;
            }
        }
        let mut state = self.lock();
        let is_unchanged = match &state.standing {
            Standing::Live(_, staging) => {
                staging.size() == object.size
                    && !staging.changed_since(snapshot.version(), ByteRange::new(0, object.size))
            }
            Standing::Clean | Standing::Removed(_) | Standing::Damaged(_) => false,
        };
        if is_unchanged && state.base.as_ref().is_some_and(|base| base.object == object) {
            log::debug!("{} is what it was before it was written", state.key);
            state.base = Some(Base::whole(object));
            state.dirty = RangeSet::default();
        }
    }

    /// A new file that is still empty takes an object's bytes for its own, whatever that one's name: its commit has the
    /// server copy them. Says no where the file is more than that.
    pub fn take_after(&self, object: &ObjectId) -> Result<bool, Error> {
        let mut state = self.lock();
        if state.size() > 0 || state.since.is_some() {
            return Ok(false);
        }
        let session = self.stage_for_change(&mut state)?;
        state.staging()?.truncate(object.size);
        state.base = Some(Base::whole(object.clone()));
        state.dirty = RangeSet::default();
        self.changed(&mut state, session, ByteRange::new(0, 0));
        Ok(true)
    }

    fn doubt(&self) -> Option<Doubt> {
        let state = self.lock();
        let FileState { standing: Standing::Live(_, staging), base: Some(base), is_dirty: true, .. } =
            &*state
        else {
            return None;
        };
        let size = base.object.size;
        let is_put = size <= self.context.layout.first_bytes.min(self.context.rules.put_bytes_max);
        if size == 0 || !is_put || staging.size() != size {
            return None;
        }
        let mut written = state.dirty.clone();
        written.insert(ByteRange::new(base.valid, size));
        let snapshot = staging.freeze_range(ByteRange::new(0, size));
        (!written.is_empty()).then(|| Doubt { object: base.object.clone(), written, snapshot })
    }
}

/// Whether these bytes are staged there.
fn is_staged(snapshot: &Snapshot, range: ByteRange, bytes: &[u8]) -> bool {
    let is_same = |piece: &crate::write::staging::StagedPiece| {
        let at = (piece.range.start - range.start) as usize;
        piece.bytes.as_ref().is_some_and(|staged| bytes.get(at..at + staged.len()) == Some(staged.as_slice()))
    };
    snapshot.read(range).is_ok_and(|pieces| pieces.iter().all(is_same))
}
