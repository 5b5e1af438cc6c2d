//! The life of a mount, and how long its end may take. Pure: time is passed in (tokio's, which tests can turn).

use std::time::Duration;

use tokio::time::Instant;

use crate::control::PhaseView;

/// What a mount is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Being put together.
    Starting,
    /// Mounted, while uploads of an earlier mount are being finished behind it.
    Recovering,
    /// Mounted.
    Serving,
    /// Asked to end; uploads are being finished.
    Draining {
        /// When it ends whatever is left; `None` when nothing can go on any more.
        deadline: Option<Instant>,
    },
    /// Nothing is done any more.
    Stopped,
}

impl Phase {
    /// Whether `next` may follow. A mount never goes back.
    pub fn may_become(self, next: Phase) -> bool {
        match (self, next) {
            (Phase::Starting, Phase::Recovering | Phase::Serving | Phase::Stopped) => true,
            (Phase::Recovering, Phase::Serving | Phase::Draining { .. }) => true,
            (Phase::Serving, Phase::Draining { .. }) => true,
            (Phase::Draining { .. }, Phase::Draining { .. } | Phase::Stopped) => true,
            (
                Phase::Starting
                | Phase::Recovering
                | Phase::Serving
                | Phase::Draining { .. }
                | Phase::Stopped,
                Phase::Starting
                | Phase::Recovering
                | Phase::Serving
                | Phase::Draining { .. }
                | Phase::Stopped,
            ) => false,
        }
    }

    /// As told to clients.
    pub fn view(self) -> PhaseView {
        match self {
            Phase::Starting => PhaseView::Starting,
            Phase::Recovering => PhaseView::Recovering,
            Phase::Serving => PhaseView::Serving,
            Phase::Draining { .. } => PhaseView::Draining,
            Phase::Stopped => PhaseView::Stopped,
        }
    }
}

/// Who ends a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// SIGTERM, SIGINT or SIGHUP.
    Signal,
    /// umount(8): the kernel has let go, nobody waits for us.
    KernelEnded,
    /// `tetherfs unmount`, which may have said how long it waits.
    Asked {
        /// Longest wait; `None` until nothing can go on.
        wait: Option<Duration>,
    },
}

/// When a mount ends whatever is left. Whoever is more impatient wins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Patience {
    drain_timeout: Duration,
    signals: u32,
    deadline: Option<Instant>,
}

impl Patience {
    /// With a mount that is ended by `cause`. A signal gives uploads `drain_timeout`.
    pub fn new(cause: Cause, drain_timeout: Duration, now: Instant) -> Patience {
        let mut patience = Patience { drain_timeout, signals: 0, deadline: None };
        match cause {
            Cause::Signal => patience.signal(now),
            Cause::KernelEnded => {}
            Cause::Asked { wait } => patience.asked(wait, now),
        }
        patience
    }

    /// A signal came: the first one sets the time limit, a second one ends the wait.
    pub fn signal(&mut self, now: Instant) {
        self.signals += 1;
        let wait = if self.signals > 1 { Duration::ZERO } else { self.drain_timeout };
        self.asked(Some(wait), now);
    }

    /// Somebody asked to wait no longer than this.
    pub fn asked(&mut self, wait: Option<Duration>, now: Instant) {
        // A wait beyond what the clock can count is one without end.
        let wanted = wait.and_then(|wait| now.checked_add(wait));
        self.deadline = match (self.deadline, wanted) {
            (Some(present), Some(wanted)) => Some(present.min(wanted)),
            (present, wanted) => present.or(wanted),
        };
    }

    /// When the wait ends.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_mount_never_goes_back() {
        let draining = Phase::Draining { deadline: None };
        let order = [Phase::Starting, Phase::Recovering, Phase::Serving, draining, Phase::Stopped];
        for (at, phase) in order.into_iter().enumerate() {
            for (before, earlier) in order.into_iter().enumerate() {
                let is_wait_changed = phase == draining && earlier == draining;
                assert!(
                    before > at || is_wait_changed || !phase.may_become(earlier),
                    "{phase:?} {earlier:?}"
                );
            }
        }
        assert!(Phase::Serving.may_become(draining) && draining.may_become(Phase::Stopped));
        assert!(!Phase::Serving.may_become(Phase::Stopped), "nothing stops without draining first");
    }

    #[test]
    fn the_first_signal_limits_the_wait_and_the_second_ends_it() {
        let now = Instant::now();
        let mut patience = Patience::new(Cause::Signal, MINUTE, now);
        assert_eq!(patience.deadline(), Some(now + MINUTE));
        patience.signal(now + MINUTE / 2);
        assert_eq!(patience.deadline(), Some(now + MINUTE / 2));
    }

    #[test]
    fn after_umount_nothing_limits_the_wait_but_a_signal_or_a_request() {
        let now = Instant::now();
        let mut patience = Patience::new(Cause::KernelEnded, MINUTE, now);
        assert_eq!(patience.deadline(), None);
        patience.asked(None, now);
        assert_eq!(patience.deadline(), None);
        patience.signal(now);
        assert_eq!(patience.deadline(), Some(now + MINUTE));
        patience.asked(Some(Duration::ZERO), now);
        assert_eq!(patience.deadline(), Some(now));
        patience.asked(Some(MINUTE), now);
        assert_eq!(patience.deadline(), Some(now), "the more impatient one wins");
    }

    #[test]
    fn endless_waits_are_endless() {
        let now = Instant::now();
        let cause = Cause::Asked { wait: Some(Duration::MAX) };
        assert_eq!(Patience::new(cause, MINUTE, now).deadline(), None);
        let cause = Cause::Asked { wait: Some(MINUTE) };
        assert_eq!(Patience::new(cause, Duration::ZERO, now).deadline(), Some(now + MINUTE));
    }
}
