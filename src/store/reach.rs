//! Whether a server can be worked with, for those who look at a mount.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::store::{Error, ErrorKind};
use crate::types::UnixTime;

/// Whether a server can be worked with, by the last request that told. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    outage: Arc<Mutex<Option<Outage>>>,
}

/// A time in which a server does not answer, or only to put off.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outage {
    /// Since when.
    pub since: UnixTime,
    /// What came of the last request.
    pub why: String,
}

impl Reach {
    /// The present outage, if there is one.
    pub fn outage(&self) -> Option<Outage> {
        self.lock().clone()
    }

    /// Notes that a request was answered.
    pub(in crate::store) fn regained(&self) {
        *self.lock() = None;
    }

    /// Notes that a request was not answered, or put off.
    pub(in crate::store) fn lost(&self, why: String) {
        let mut outage = self.lock();
        let since = outage.take().map_or_else(|| SystemTime::now().into(), |before| before.since);
        *outage = Some(Outage { since, why });
    }

    /// Notes what a failed request tells.
    pub(in crate::store) fn failed(&self, error: &Error) {
        match error.kind {
            ErrorKind::Unavailable { .. } => self.lost(error.to_string()),
            // An answer that was lost tells nothing.
            ErrorKind::Ambiguous => {}
            ErrorKind::NotFound
            | ErrorKind::NoVolume
            | ErrorKind::Precondition
            | ErrorKind::UploadGone
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Protocol
            | ErrorKind::Integrity
            | ErrorKind::Unsupported => self.regained(),
        }
    }

    /// A panic elsewhere must not take this away from those who look.
    fn lock(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Op;

    #[test]
    fn an_outage_begins_with_the_first_failure_and_ends_with_the_first_answer() {
        let reach = Reach::default();
        let fail = |kind, what: &str| reach.failed(&Error::of(Op::List, kind, what));
        assert_eq!(reach.outage(), None);
        fail(ErrorKind::Unavailable { retry_after: None }, "refused");
        let first = reach.outage().unwrap();
        assert_eq!(first.why, "list: refused");
        fail(ErrorKind::Unavailable { retry_after: None }, "timed out");
        fail(ErrorKind::Ambiguous, "lost");
        assert_eq!(reach.outage(), Some(Outage { why: "list: timed out".to_owned(), ..first }));
        fail(ErrorKind::NotFound, "no such key");
        assert_eq!(reach.outage(), None, "a refusal is an answer");
    }
}
