//! What an upload is, without doing it: content, plan, session, records, and the ledger they are folded into.
//!
//! Pure: no I/O, no clock, no async. The scheduler drives it, recovery replays it, by the same calls.

mod content;
mod ledger;
mod plan;
mod record;
mod session;
mod tree;

pub use content::{Base, Change, Content, union};
pub use ledger::{FileId, FileRecord, Ledger, Move, MoveState};
pub use plan::{PartLayout, Plan, PlannedPart, Rules, Source};
pub use record::{FileOpened, Misfit, Record, RecordError};
pub use session::{
    Answer, CommitBy, Effect, EffectId, Found, Remedy, Reply, Session, SessionEvent, State, Stored,
};
pub use tree::{Renewed, TreeMove, TreePhase};

#[cfg(test)]
mod tests;
