//! What is not in the bucket yet, counted and told.

use crate::cli::output::{count, percent, printable};
use crate::fs::Status;
use crate::types::ByteSize;
use crate::write::{SessionPhase, SessionStatus};

/// Names listed before the rest is only counted.
const NAMES_MAX: usize = 10;

/// A phase as users read it.
pub fn phase_word(phase: SessionPhase) -> &'static str {
    match phase {
        SessionPhase::Writing => "writing",
        SessionPhase::Queued => "queued",
        SessionPhase::Sending => "sending",
        SessionPhase::Completing => "completing",
        SessionPhase::Stuck => "stuck",
        SessionPhase::Interrupted => "interrupted",
        SessionPhase::Conflicted => "conflicted",
    }
}

/// Whether the bucket still lacks something that a program was told is safe. Interrupted files were neither flushed nor
/// synced: nobody was told.
pub fn is_owed(session: &SessionStatus) -> bool {
    match session.state {
        SessionPhase::Writing
        | SessionPhase::Queued
        | SessionPhase::Sending
        | SessionPhase::Completing
        | SessionPhase::Stuck
        | SessionPhase::Conflicted => true,
        SessionPhase::Interrupted => false,
    }
}

/// Uploads in numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Uploads that are owed.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// How many of those the store has.
    pub sent_bytes: u64,
    /// Files that were neither flushed nor synced when a daemon died.
    pub interrupted: usize,
}

impl Totals {
    /// Those of a mount.
    pub fn of(inside: &Status) -> Totals {
        let mut totals = Totals::default();
        for session in &inside.sessions {
            if is_owed(session) {
                totals.files += 1;
                totals.bytes += session.bytes;
                totals.sent_bytes += session.sent_bytes.min(session.bytes);
            } else {
                totals.interrupted += 1;
            }
        }
        totals
    }

    /// Bytes still to be sent.
    pub fn left(&self) -> u64 {
        self.bytes - self.sent_bytes
    }
}

/// What a user must know who has just unmounted; `None` when everything is in the bucket.
pub fn farewell(left: &Status) -> Option<String> {
    let mut lines = listing(left)?;
    let conflicts = number_of(left, SessionPhase::Conflicted);
    if conflicts < Totals::of(left).files {
        lines.push("Mount again and they go on where they stopped.".to_owned());
    }
    if conflicts > 0 {
        lines.push(
            "What is conflicted waits for a mount with --on-conflict keep-both or overwrite, \
             or for 'tetherfs uploads resolve' on a mount."
                .to_owned(),
        );
    }
    Some(lines.join("\n"))
}

/// Leaves out what programs are still writing: nobody was told yet that it is safe.
pub fn without_writing(inside: Status) -> Status {
    let sessions = inside.sessions.into_iter().filter(|session| session.state != SessionPhase::Writing);
    Status { sessions: sessions.collect(), ..inside }
}

/// What a user must know who has waited for a mount; `None` when everything is in the bucket.
pub fn remainder(left: &Status) -> Option<String> {
    let mut lines = listing(left)?;
    let (stuck, conflicts) =
        (number_of(left, SessionPhase::Stuck), number_of(left, SessionPhase::Conflicted));
    if stuck > 0 {
        lines.push(
            "What is stuck is tried again now and then, and at once with 'tetherfs uploads retry'."
                .to_owned(),
        );
    }
    if conflicts > 0 {
        lines.push("What is conflicted waits for 'tetherfs uploads resolve'.".to_owned());
    }
    if stuck + conflicts < Totals::of(left).files {
        lines.push("The rest goes on by itself.".to_owned());
    }
    Some(lines.join("\n"))
}

fn number_of(left: &Status, state: SessionPhase) -> usize {
    left.sessions.iter().filter(|session| session.state == state).count()
}

fn listing(left: &Status) -> Option<Vec<String>> {
    let totals = Totals::of(left);
    if totals.files == 0 {
        return None;
    }
    let what = count(totals.files, "upload");
    let are = if totals.files == 1 { "is" } else { "are" };
    let size = ByteSize(totals.left());
    let mut lines = vec![format!("{what} {are} not in the bucket yet ({size} to send):")];
    let owed = left.sessions.iter().filter(|session| is_owed(session));
    lines.extend(owed.take(NAMES_MAX).map(line));
    if totals.files > NAMES_MAX {
        lines.push(format!("  and {} more", totals.files - NAMES_MAX));
    }
    Some(lines)
}

fn line(session: &SessionStatus) -> String {
    let sent = percent(session.sent_bytes, session.bytes);
    let why = session.last_error.as_ref().map(|error| format!(" ({})", printable(error))).unwrap_or_default();
    let key = printable(session.key.as_str());
    format!("  {key}  {}, {sent} % of {}{why}", phase_word(session.state), ByteSize(session.bytes))
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::fs::{KernelStatus, PassthroughStatus};
    use crate::observe::Metrics;
    use crate::types::{Key, SessionId, UnixTime};

    /// A session for tests of output.
    pub fn session(id: u64, state: SessionPhase, bytes: u64, sent_bytes: u64) -> SessionStatus {
        SessionStatus {
            session: SessionId(id),
            key: Key::new(&format!("dir/{id}.bin")).unwrap(),
            state,
            bytes,
            sent_bytes,
            since: UnixTime::from_secs(1000),
            last_error: None,
        }
    }

    /// The inside of a mount with these sessions.
    pub fn inside(sessions: Vec<SessionStatus>) -> Status {
        let kernel = KernelStatus { passthrough: PassthroughStatus::On, read_ahead_kib: Some(1024) };
        Status { sessions, moves: Vec::new(), metrics: Metrics::default().snapshot(), kernel }
    }

    #[test]
    fn what_nobody_was_promised_is_not_owed() {
        let interrupted = session(1, SessionPhase::Interrupted, 10, 0);
        assert_eq!(farewell(&inside(vec![interrupted.clone()])), None);
        let mut stuck = session(2, SessionPhase::Stuck, 100, 50);
        stuck.last_error = Some("denied\u{7}".to_owned());
        let left = inside(vec![interrupted, stuck]);
        assert_eq!(Totals::of(&left), Totals { files: 1, bytes: 100, sent_bytes: 50, interrupted: 1 });
        let text = farewell(&left).unwrap();
        assert_eq!(
            text,
            "1 upload is not in the bucket yet (50 B to send):\n  dir/2.bin  stuck, 50 % of 100 B (denied?)\n\
             Mount again and they go on where they stopped."
        );
    }

    #[test]
    fn a_conflict_does_not_go_on_by_itself() {
        let conflicted = session(1, SessionPhase::Conflicted, 10, 0);
        let text = farewell(&inside(vec![conflicted.clone()])).unwrap();
        assert!(text.contains("--on-conflict") && !text.contains("go on"), "{text}");
        let text = farewell(&inside(vec![conflicted, session(2, SessionPhase::Queued, 1, 0)])).unwrap();
        assert!(text.contains("--on-conflict") && text.contains("go on"), "{text}");
    }

    #[test]
    fn who_waited_for_a_mount_is_told_what_helps() {
        let of = |states: &[SessionPhase]| {
            let sessions = (0..).zip(states).map(|(id, &state)| session(id, state, 10, 0)).collect();
            remainder(&without_writing(inside(sessions)))
        };
        assert_eq!(of(&[SessionPhase::Writing, SessionPhase::Interrupted]), None);
        let text = of(&[SessionPhase::Stuck, SessionPhase::Conflicted]).unwrap();
        assert!(text.contains("uploads retry") && text.contains("uploads resolve"), "{text}");
        assert!(!text.contains("The rest"), "{text}");
        let text = of(&[SessionPhase::Queued, SessionPhase::Stuck]).unwrap();
        assert!(text.contains("The rest goes on") && !text.contains("resolve"), "{text}");
    }

    #[test]
    fn long_lists_are_cut() {
        let many = (0..25).map(|id| session(id, SessionPhase::Queued, 1, 0)).collect();
        let text = farewell(&inside(many)).unwrap();
        assert!(text.contains("and 15 more") && text.lines().count() == NAMES_MAX + 3, "{text}");
    }
}
