//! Jobs of a mount: how many, how far, how they ended.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::fs::upkeep::{Outcome, Progress, WorkError};
use crate::observe::task;

/// Most jobs at once.
const JOBS_MAX: usize = 4;
/// Most jobs that are remembered after their end.
const ENDED_MAX: usize = 16;
/// How long a job goes on that nobody asks about, and how long its end is remembered.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest that one question is held back.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// A job of one mount.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct JobId(pub u64);

/// A job as it is seen from outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case")]
pub enum JobView {
    /// It goes on.
    Running(Progress),
    /// It has ended.
    Done {
        /// What came of it.
        outcome: Outcome,
    },
    /// It could not be done.
    Failed {
        /// Why, and what to do.
        message: String,
    },
    /// It was cancelled, or nobody has asked about it for too long.
    Cancelled,
}

/// As many jobs run as may.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{JOBS_MAX} cache commands are at work on this mount already; wait for one of them to end")]
pub struct TooManyJobs;

/// All jobs of a mount.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    numbered: u64,
    jobs: BTreeMap<JobId, Arc<Job>>,
}

#[derive(Debug)]
struct Job {
    meter: Arc<Meter>,
    end: watch::Sender<Option<End>>,
    cancelled: Notify,
    asked: Mutex<Instant>,
}

#[derive(Clone, Debug)]
struct End {
    at: Instant,
    view: JobView,
}

/// How far a job is, and whether it is to stop.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    progress: Mutex<Progress>,
    is_stopped: AtomicBool,
}

/// Ends a job that is cut off by a panic or the runtime's end.
struct Ending(Arc<Job>);

impl Jobs {
    /// Starts what `work` makes, unless there are too many.
    pub(crate) fn start<F>(&self, work: impl FnOnce(Arc<Meter>) -> F) -> Result<JobId, TooManyJobs>
    where
        F: Future<Output = Result<Outcome, WorkError>> + Send + 'static,
    {
        let mut table = locked(&self.table);
        table.sweep(Instant::now());
        if table.jobs.values().filter(|job| !job.has_ended()).count() >= JOBS_MAX {
            return Err(TooManyJobs);
        }
        table.numbered += 1;
        let id = JobId(table.numbered);
        let job = Arc::new(Job {
            meter: Arc::default(),
            end: watch::Sender::new(None),
            cancelled: Notify::new(),
            asked: Mutex::new(Instant::now()),
        });
        table.jobs.insert(id, job.clone());
        task::spawn("cache-job", job.clone().run(work(job.meter.clone())));
        Ok(id)
    }

    /// How a job is doing: told at its end, or after `wait`. Its end is told once.
    pub(crate) async fn view(&self, id: JobId, wait: Duration) -> Option<JobView> {
        let job = locked(&self.table).jobs.get(&id).cloned()?;
        *locked(&job.asked) = Instant::now();
        let mut end = job.end.subscribe();
        // Whether it has ended is looked at below.
        let _ = timeout(wait.min(WAIT_MAX), end.wait_for(Option::is_some)).await;
        *locked(&job.asked) = Instant::now();
        let end = end.borrow().clone();
        match end {
            Some(end) => {
                locked(&self.table).jobs.remove(&id);
                Some(end.view)
            }
            None => Some(JobView::Running(job.meter.progress())),
        }
    }

    /// Cancels a job, if there is one.
    pub(crate) fn cancel(&self, id: JobId) {
        if let Some(job) = locked(&self.table).jobs.get(&id) {
            job.cancelled.notify_one();
        }
    }

    /// Cancels all jobs.
    pub(crate) fn cancel_all(&self) {
        locked(&self.table).jobs.values().for_each(|job| job.cancelled.notify_one());
    }
}

impl Table {
    /// Forgets jobs whose end nobody has asked about.
    fn sweep(&mut self, now: Instant) {
        self.jobs.retain(|_, job| {
            job.end.borrow().as_ref().is_none_or(|end| now.duration_since(end.at) < SILENCE_MAX)
        });
        while self.jobs.values().filter(|job| job.has_ended()).count() > ENDED_MAX {
            let oldest = self.jobs.iter().find(|(_, job)| job.has_ended()).map(|(&id, _)| id);
            oldest.and_then(|id| self.jobs.remove(&id));
        }
    }
}

impl Job {
    async fn run(self: Arc<Self>, work: impl Future<Output = Result<Outcome, WorkError>>) {
        let ending = Ending(self);
        let job = &ending.0;
        let view = tokio::select! {
            done = work => match done {
                Ok(outcome) => JobView::Done { outcome },
                Err(error) => JobView::Failed { message: error.to_string() },
            },
            () = job.cancelled.notified() => JobView::Cancelled,
            () = job.forgotten() => JobView::Cancelled,
        };
        job.end(view);
    }

    /// Waits until nobody has asked about the job for too long.
    async fn forgotten(&self) {
        loop {
            let until = *locked(&self.asked) + SILENCE_MAX;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }

    fn end(&self, view: JobView) {
        self.meter.is_stopped.store(true, Ordering::Relaxed);
        self.end.send_if_modified(|end| {
            let is_first = end.is_none();
            end.get_or_insert(End { at: Instant::now(), view });
            is_first
        });
    }

    fn has_ended(&self) -> bool {
        self.end.borrow().is_some()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(JobView::Failed { message: WorkError::CutOff.to_string() });
    }
}

impl Meter {
    /// Changes what is shown.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut locked(&self.progress));
    }

    /// What is shown.
    pub(crate) fn progress(&self) -> Progress {
        *locked(&self.progress)
    }

    /// Whether work that cannot be dropped is to end.
    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }
}

/// Values here are changed in single steps, so one that a panic has left behind is whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::upkeep::PurgeReport;

    const NOTHING: Duration = Duration::ZERO;

    fn outcome() -> Outcome {
        Outcome::Purged(PurgeReport::default())
    }

    fn endless(jobs: &Jobs) -> Result<JobId, TooManyJobs> {
        jobs.start(|meter| async move {
            meter.update(|progress| progress.files = 3);
            std::future::pending().await
        })
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_told_once() {
        let jobs = Jobs::default();
        let done = jobs.start(|_| async { Ok(outcome()) }).unwrap();
        assert_eq!(jobs.view(done, WAIT_MAX).await, Some(JobView::Done { outcome: outcome() }));
        assert_eq!(jobs.view(done, WAIT_MAX).await, None);
        let failed = jobs.start(|_| async { Err(WorkError::TooManyFiles) }).unwrap();
        let Some(JobView::Failed { message }) = jobs.view(failed, WAIT_MAX).await else {
            panic!("it has failed");
        };
        assert!(message.contains("250000 files"), "{message}");
        let broken = jobs.start(|_| async { panic!("a defect") }).unwrap();
        assert!(matches!(jobs.view(broken, WAIT_MAX).await, Some(JobView::Failed { .. })));
        let late = jobs.start(|_| async { Ok(outcome()) }).unwrap();
        tokio::time::sleep(SILENCE_MAX).await;
        endless(&jobs).unwrap();
        assert_eq!(jobs.view(late, NOTHING).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_run_at_once_and_each_can_be_cancelled() {
        let jobs = Jobs::default();
        let running: Vec<JobId> = (0..JOBS_MAX).map(|_| endless(&jobs).unwrap()).collect();
        assert_eq!(endless(&jobs), Err(TooManyJobs));
        let begun = Instant::now();
        let Some(JobView::Running(progress)) = jobs.view(running[0], Duration::MAX).await else {
            panic!("it runs");
        };
        assert_eq!((progress.files, begun.elapsed()), (3, WAIT_MAX), "long questions are cut short");
        jobs.cancel(running[0]);
        assert_eq!(jobs.view(running[0], WAIT_MAX).await, Some(JobView::Cancelled));
        endless(&jobs).unwrap();
        jobs.cancel_all();
        assert_eq!(jobs.view(running[3], WAIT_MAX).await, Some(JobView::Cancelled));
        jobs.cancel(JobId(99));
        assert_eq!(jobs.view(JobId(99), WAIT_MAX).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_nobody_asks_about_is_cancelled() {
        let jobs = Jobs::default();
        let (forgotten, asked) = (endless(&jobs).unwrap(), endless(&jobs).unwrap());
        for _ in 0..SILENCE_MAX.as_secs() - 5 {
            assert!(matches!(jobs.view(asked, WAIT_MAX).await, Some(JobView::Running(_))));
        }
        let meter = locked(&jobs.table).jobs[&forgotten].meter.clone();
        assert!(!meter.is_stopped());
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(meter.is_stopped(), "also for what runs on a thread of its own");
        assert_eq!(jobs.view(forgotten, NOTHING).await, Some(JobView::Cancelled));
        assert!(matches!(jobs.view(asked, NOTHING).await, Some(JobView::Running(_))));
    }
}
