//! Waiting until uploads are done, and showing how far they are.

use std::time::{Duration, Instant};

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, LOOK_INTERVAL, UploadBar};
use crate::cli::pending::Totals;
use crate::control::{Answer, Client, ClientError, Command, DrainProgress, Rates};
use crate::types::SessionId;

/// A mount whose uploads are waited for.
pub struct Watched<'a> {
    /// To ask it.
    pub client: &'a mut Client,
    /// Only what was sealed before this session.
    pub before: Option<SessionId>,
}

/// When a wait is over that begins now. One beyond what the clock can count is without end.
pub fn deadline(wait: Option<Duration>) -> Option<Instant> {
    wait.and_then(|wait| Instant::now().checked_add(wait))
}

/// Shows the uploads until they are done, cannot go on, or the time is over, and tells how they are then, in the order of
/// the mounts. The mounts can be used meanwhile, and whoever interrupts this leaves them as they were.
pub fn watch(watched: &mut [Watched<'_>], deadline: Option<Instant>) -> Result<Vec<DrainProgress>, Failure> {
    let mut bar = UploadBar::new();
    let result = watch_with(watched, deadline, &mut bar);
    bar.clear();
    result
}

fn watch_with(
    watched: &mut [Watched<'_>],
    deadline: Option<Instant>,
    bar: &mut UploadBar,
) -> Result<Vec<DrainProgress>, Failure> {
    let share = LOOK_INTERVAL / u32::try_from(watched.len().max(1)).unwrap_or(u32::MAX);
    loop {
        let left = deadline.map_or(share, |deadline| deadline.saturating_duration_since(Instant::now()));
        let mut seen = Vec::with_capacity(watched.len());
        for one in watched.iter_mut() {
            seen.push(look(one, share.min(left))?);
        }
        let is_over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        if is_over || seen.iter().all(|progress| progress.is_settled) {
            return Ok(seen);
        }
        let (totals, rates) = together(&seen);
        bar.show(totals.files, totals.left(), rates);
    }
}

fn look(watched: &mut Watched<'_>, wait: Duration) -> Result<DrainProgress, Failure> {
    let wait_ms = u64::try_from(wait.as_millis()).expect("a fraction of a second");
    let command = Command::Drain { wait_ms, before: watched.before };
    match watched.client.call(command, Some(wait)) {
        Ok(Answer::Drain(progress)) => Ok(*progress),
        Ok(
            Answer::Hello(_)
            | Answer::Status(_)
            | Answer::Sealed { .. }
            | Answer::Retried { .. }
            | Answer::Resolved { .. }
            | Answer::Unmounted { .. }
            | Answer::Cache(_)
            | Answer::Done
            | Answer::Error { .. },
        ) => Err(ClientError::Strange.into()),
        Err(ClientError::Silent(error)) => {
            let mountpoint = output::printable(&watched.client.hello().mountpoint);
            Err(Failure::new(Exit::Mountpoint, format!("the mount on {mountpoint} has gone: {error}"))
                .hint("what was not in the bucket goes on at its next mount"))
        }
        Err(error) => Err(error.into()),
    }
}

/// All mounts as one.
fn together(seen: &[DrainProgress]) -> (Totals, Rates) {
    let mut all = (Totals::default(), Rates::default());
    for progress in seen {
        let Totals { files, bytes, sent_bytes, interrupted } = Totals::of(&progress.inside);
        let (totals, rates) = &mut all;
        totals.files += files;
        totals.bytes += bytes;
        totals.sent_bytes += sent_bytes;
        totals.interrupted += interrupted;
        rates.sent += progress.rates.sent;
        rates.fetched += progress.rates.fetched;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pending::tests::{inside, session};
    use crate::write::SessionPhase;

    #[test]
    fn mounts_are_shown_as_one() {
        let of = |id, sent| DrainProgress {
            is_settled: false,
            rates: Rates { sent: 5, fetched: 1 },
            inside: inside(vec![session(id, SessionPhase::Sending, 100, sent)]),
        };
        let (totals, rates) = together(&[of(1, 30), of(2, 70)]);
        assert_eq!((totals.files, totals.left(), rates.sent), (2, 100, 10));
    }

    #[test]
    fn endless_waits_have_no_end() {
        assert_eq!((deadline(None), deadline(Some(Duration::MAX))), (None, None));
        assert!(deadline(Some(Duration::ZERO)).is_some_and(|end| end <= Instant::now()));
    }
}
