//! The client's side of work on a cache: begins it, shows how far it is, ends it when the user says so.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, LINE_INTERVAL, LOOK_INTERVAL, percent, printable, tell};
use crate::cli::status::clients;
use crate::control::{Answer, CacheAnswer, CacheCommand, Client, ClientError, Command, REQUEST_BYTES_MAX};
use crate::fs::upkeep::{CacheNumbers, JobId, JobView, Outcome, Progress, Stage, Unpinned, Work};
use crate::mount::{self, Signals};
use crate::types::ByteSize;

/// Longest that a question to the local disk of a mount may take.
const DISK_MAX: Duration = Duration::from_secs(30);
/// What a request has besides its paths, at most.
const REQUEST_REST_BYTES: u64 = 1 << 10;

/// A mount whose cache is worked on.
pub struct Desk {
    client: Client,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
}

/// Signals that end a command, and leave what it was doing in order.
pub struct Interrupts {
    signals: mpsc::Receiver<&'static str>,
    /// Hears the signals.
    _runtime: Runtime,
}

/// How far some work is, on a terminal as a bar, elsewhere as lines.
pub struct Bar {
    verb: &'static str,
    bar: ProgressBar,
    is_terminal: bool,
    told: Instant,
}

impl Desk {
    /// Those of some mounts.
    pub fn of_mount(mountpoint: &std::path::Path) -> Result<Desk, Failure> {
        let mut desks = Desk::all(Some(mountpoint))?;
        desks.pop().ok_or_else(|| ClientError::NotRunning { mountpoint: mountpoint.to_owned() }.into())
    }

    /// The one of a mount, or those of all mounts of this user.
    pub fn all(mountpoint: Option<&std::path::Path>) -> Result<Vec<Desk>, Failure> {
        let desk = |client: Client| Desk { mountpoint: client.hello().mountpoint.clone().into(), client };
        Ok(clients(mountpoint)?.into_iter().map(desk).collect())
    }

    /// To ask something else.
    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    /// The cache in numbers.
    pub fn numbers(&mut self) -> Result<CacheNumbers, Failure> {
        match self.ask(CacheCommand::Report, DISK_MAX)? {
            CacheAnswer::Report(numbers) => Ok(numbers),
            CacheAnswer::Pins { .. }
            | CacheAnswer::Unpinned(_)
            | CacheAnswer::Started { .. }
            | CacheAnswer::Job(_) => Err(ClientError::Strange.into()),
        }
    }

    /// What is pinned.
    pub fn pins(&mut self) -> Result<Vec<String>, Failure> {
        match self.ask(CacheCommand::Pins, DISK_MAX)? {
            CacheAnswer::Pins { pins } => Ok(pins),
            CacheAnswer::Report(_)
            | CacheAnswer::Unpinned(_)
            | CacheAnswer::Started { .. }
            | CacheAnswer::Job(_) => Err(ClientError::Strange.into()),
        }
    }

    /// Takes pins back.
    pub fn unpin(&mut self, paths: Vec<String>) -> Result<Unpinned, Failure> {
        check_length(&paths)?;
        match self.ask(CacheCommand::Unpin { paths }, DISK_MAX)? {
            CacheAnswer::Unpinned(unpinned) => Ok(unpinned),
            CacheAnswer::Report(_)
            | CacheAnswer::Pins { .. }
            | CacheAnswer::Started { .. }
            | CacheAnswer::Job(_) => Err(ClientError::Strange.into()),
        }
    }

    /// Has some work done, shows how far it is, and has it cancelled when the user interrupts it.
    pub fn work(&mut self, work: Work, interrupts: &mut Interrupts) -> Result<Outcome, Failure> {
        check_length(paths_of(&work))?;
        let mut bar = Bar::new(verb(&work));
        let result = self.watch(work, &mut bar, interrupts);
        bar.clear();
        result
    }

    fn watch(&mut self, work: Work, bar: &mut Bar, interrupts: &mut Interrupts) -> Result<Outcome, Failure> {
        let job = match self.ask(CacheCommand::Start { work }, DISK_MAX)? {
            CacheAnswer::Started { id } => id,
            CacheAnswer::Report(_)
            | CacheAnswer::Pins { .. }
            | CacheAnswer::Unpinned(_)
            | CacheAnswer::Job(_) => return Err(ClientError::Strange.into()),
        };
        let wait_ms = u64::try_from(LOOK_INTERVAL.as_millis()).expect("a fraction of a second");
        loop {
            let view = match self.ask(CacheCommand::Ask { job, wait_ms }, LOOK_INTERVAL)? {
                CacheAnswer::Job(view) => view,
                CacheAnswer::Report(_)
                | CacheAnswer::Pins { .. }
                | CacheAnswer::Unpinned(_)
                | CacheAnswer::Started { .. } => return Err(ClientError::Strange.into()),
            };
            match view {
                JobView::Running(progress) => bar.show(&progress),
                JobView::Done { outcome } => return Ok(outcome),
                JobView::Failed { message } => {
                    let mountpoint = output::path(&self.mountpoint);
                    return Err(Failure::new(
                        Exit::Failure,
                        format!("{mountpoint}: {}", printable(&message)),
                    ));
                }
                JobView::Cancelled => {
                    return Err(Failure::new(Exit::Failure, "it was stopped before it was done")
                        .hint("what was done stays; the same command goes on from there"));
                }
            }
            if interrupts.has_come() {
                self.cancel(job)?;
            }
        }
    }

    fn cancel(&mut self, job: JobId) -> Result<(), Failure> {
        self.client
            .call(Command::Cache(CacheCommand::Cancel { job }), Some(Duration::ZERO))
            .map_err(failure)?;
        Ok(())
    }

    fn ask(&mut self, command: CacheCommand, may_take: Duration) -> Result<CacheAnswer, Failure> {
        match self.client.call(Command::Cache(command), Some(may_take)).map_err(failure)? {
            Answer::Cache(answer) => Ok(*answer),
            Answer::Hello(_)
            | Answer::Status(_)
            | Answer::Drain(_)
            | Answer::Sealed { .. }
            | Answer::Retried { .. }
            | Answer::Resolved { .. }
            | Answer::Unmounted { .. }
            | Answer::Done
            | Answer::Error { .. } => Err(ClientError::Strange.into()),
        }
    }
}

impl Interrupts {
    /// Begins to hear them.
    pub fn catch() -> Result<Interrupts, Failure> {
        let runtime = mount::runtime().map_err(mount::Error::from)?;
        let on_runtime = runtime.enter();
        let signals = Signals::catch().map_err(mount::Error::from)?.into_channel();
        drop(on_runtime);
        Ok(Interrupts { signals, _runtime: runtime })
    }

    /// Whether one has come since it was asked last.
    pub fn has_come(&mut self) -> bool {
        self.signals.try_recv().is_ok()
    }
}

impl Bar {
    /// One that says what is being done.
    pub fn new(verb: &'static str) -> Bar {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{msg}  {wide_bar}  {bytes} of {total_bytes}");
        bar.set_style(style.expect("the template is a constant"));
        Bar { verb, bar, is_terminal, told: Instant::now() }
    }

    /// Shows how far it is.
    pub fn show(&mut self, progress: &Progress) {
        if self.is_terminal {
            self.bar.set_length(progress.bytes_total.max(progress.bytes));
            self.bar.set_position(progress.bytes);
            self.bar.set_message(files_text(self.verb, progress));
        } else if self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            tell(&line(self.verb, progress));
        }
    }

    /// Takes it away, so that other lines can be written.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn files_text(verb: &str, progress: &Progress) -> String {
    match progress.stage {
        Stage::Listing => format!("Listing, {} so far", output::count(files(progress.files_total), "file")),
        Stage::Working if progress.files_total == 0 => verb.to_owned(),
        Stage::Working => {
            format!("{verb} {} of {}", progress.files, output::count(files(progress.files_total), "file"))
        }
    }
}

fn line(verb: &str, progress: &Progress) -> String {
    let text = files_text(verb, progress);
    match progress.stage {
        Stage::Listing => text,
        Stage::Working => format!(
            "{text}, {} of {} ({} %)",
            ByteSize(progress.bytes),
            ByteSize(progress.bytes_total),
            percent(progress.bytes, progress.bytes_total)
        ),
    }
}

/// A number of files for [`output::count`].
pub fn files(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn verb(work: &Work) -> &'static str {
    match work {
        Work::Stat { .. } => "Looking at",
        Work::Pin { .. } => "Pinning",
        Work::Warm { .. } => "Fetching",
        Work::Evict { .. } => "Evicting",
        Work::Verify { .. } => "Checking",
        Work::Purge => "Emptying",
    }
}

fn paths_of(work: &Work) -> &[String] {
    match work {
        Work::Stat { paths } | Work::Pin { paths } | Work::Warm { paths } | Work::Evict { paths, .. } => {
            paths
        }
        Work::Verify { .. } | Work::Purge => &[],
    }
}

/// Longer requests are hung up on.
fn check_length(paths: &[String]) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(paths).map_or(u64::MAX, |text| text.len() as u64);
    if bytes <= REQUEST_BYTES_MAX - REQUEST_REST_BYTES {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, "these are too many paths for one command")
        .hint("name the directories that they are in, or use xargs(1)"))
}

fn failure(error: ClientError) -> Failure {
    match error {
        ClientError::Silent(error) => Failure::new(Exit::Mountpoint, format!("the mount has gone: {error}"))
            .hint("mount it again and repeat the command: what was done stays"),
        ClientError::NotRunning { .. } | ClientError::Strange | ClientError::Refused { .. } => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_in_words() {
        let listing = Progress { files_total: 3, bytes_total: 10, ..Progress::default() };
        assert_eq!(line("Fetching", &listing), "Listing, 3 files so far");
        let working = Progress {
            stage: Stage::Working,
            files: 1,
            files_total: 1,
            bytes: 1 << 20,
            bytes_total: 2 << 20,
        };
        assert_eq!(line("Fetching", &working), "Fetching 1 of 1 file, 1 MiB of 2 MiB (50 %)");
        let purging = Progress { stage: Stage::Working, ..Progress::default() };
        assert_eq!(files_text("Emptying", &purging), "Emptying");
    }

    #[test]
    fn what_a_daemon_would_hang_up_on_is_not_sent() {
        assert!(check_length(&vec!["a".repeat(1000); 2000]).is_ok());
        let failure = check_length(&vec!["a".repeat(1000); 2200]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }
}
