//! What survives a crash: files replaced as a whole, the lease on a directory, the journal.
//!
//! Contract: what a call here reported as synced is found again after power loss, whole; what was only appended is
//! found again after the death of this process. Damage is recognised by checksum and reported, never passed on.
//! Records are opaque bytes: this room does not know what it keeps.

mod atomic;
mod crash_disk;
mod disk;
mod frame;
mod journal;
mod lease;

pub use atomic::write_atomic;
pub use crash_disk::CrashDisk;
pub use disk::{Disk, DiskFile, RealDisk, SparseFile};
pub use journal::{Damage, Journal, JournalError, Position, Replay};
pub use lease::{Lease, LeaseError};
