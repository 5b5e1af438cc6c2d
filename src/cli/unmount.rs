//! `tetherfs unmount`: waits for uploads, unmounts, and says whether everything is in the bucket.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::args::UnmountArguments;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, count, tell};
use crate::cli::pending;
use crate::cli::status::{connect, mountpoint, nobody_listens, status};
use crate::cli::watch::{Watched, deadline, watch};
use crate::config::Surroundings;
use crate::control::{Answer, Client, ClientError, Command, ErrorCode, MountStatus};
use crate::fs::Status;
use crate::mount;
use crate::observe::Gauge;

/// What taking a mount apart may take on top of the uploads.
const TEAR_DOWN_MAX: Duration = Duration::from_secs(20);
/// Longest wait for the daemon's process after its last answer.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

/// Runs the command.
pub fn run(arguments: &UnmountArguments) -> Result<Exit, Failure> {
    let mountpoint = mountpoint(&arguments.directory)?;
    let directories = Surroundings::of_process().runtime_directories();
    let mut client = match connect(&directories, &mountpoint) {
        Ok(client) => client,
        Err(error @ ClientError::NotRunning { .. }) => return without_daemon(&mountpoint, error),
        Err(error @ (ClientError::Silent(_) | ClientError::Strange | ClientError::Refused { .. })) => {
            return Err(error.into());
        }
    };
    let wait = if arguments.no_wait { Some(Duration::ZERO) } else { arguments.timeout };
    let deadline = deadline(wait);
    let left = drain_and_end(&mut client, deadline, &mountpoint)
        .map_err(|failure| ended_meanwhile(failure, &mountpoint))?;
    client.wait_for_end(END_WAIT_MAX);
    Ok(match pending::farewell(&left) {
        None => {
            tell(&format!("{} is unmounted; everything is in the bucket", output::path(&mountpoint)));
            Exit::Ok
        }
        Some(text) => {
            tell(&format!("{} is unmounted. {text}", output::path(&mountpoint)));
            Exit::UploadsPending
        }
    })
}

fn drain_and_end(
    client: &mut Client,
    deadline: Option<Instant>,
    mountpoint: &Path,
) -> Result<Status, Failure> {
    if let Some(note) = open_files_note(&status(client)?) {
        tell(&note);
    }
    watch(&mut [Watched { client, before: None }], deadline)?;
    end(client, deadline, mountpoint)
}

fn end(client: &mut Client, deadline: Option<Instant>, mountpoint: &Path) -> Result<Status, Failure> {
    let wait = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let wait_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
    let may_take = wait.map(|wait| wait.saturating_add(TEAR_DOWN_MAX));
    match client.call(Command::Unmount { wait_ms }, may_take) {
        Ok(Answer::Unmounted { left }) => Ok(left),
        Ok(
            Answer::Hello(_)
            | Answer::Status(_)
            | Answer::Drain(_)
            | Answer::Sealed { .. }
            | Answer::Retried { .. }
            | Answer::Resolved { .. }
            | Answer::Cache(_)
            | Answer::Done
            | Answer::Error { .. },
        ) => Err(ClientError::Strange.into()),
        Err(ClientError::Refused { code: ErrorCode::Busy, message }) => {
            let path = output::path(mountpoint);
            Err(Failure::new(Exit::Mountpoint, format!("cannot unmount {path}: {message}")).hint(format!(
                "'fuser -vm {path}' shows which; close them (a shell standing in it counts too) and try again"
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// Nobody listens: takes a dead mount of ours off, and explains anything else.
fn without_daemon(mountpoint: &Path, error: ClientError) -> Result<Exit, Failure> {
    let path = output::path(mountpoint);
    let failed = |reason: std::io::Error| {
        Failure::new(Exit::Mountpoint, format!("cannot take the dead mount off {path}: {reason}"))
    };
    if mount::clear_dead_mount(mountpoint).map_err(failed)? {
        tell(&format!(
            "{path} is unmounted. Its process was dead; uploads that it had not finished go on at the next mount"
        ));
        return Ok(Exit::UploadsPending);
    }
    let hint = format!("unmount it as the user who mounted it, or with: umount {path}");
    Err(nobody_listens(mountpoint, error, hint))
}

/// Why the daemon could not be asked further: when the mount is gone, somebody else has ended it.
fn ended_meanwhile(failure: Failure, mountpoint: &Path) -> Failure {
    match mount::mounted_at(mountpoint) {
        Ok(None) => {
            let path = output::path(mountpoint);
            Failure::new(Exit::Mountpoint, format!("{path} was unmounted by somebody else meanwhile"))
                .hint("whoever did it was told whether everything is in the bucket; so is the log")
        }
        Ok(Some(_)) | Err(_) => failure,
    }
}

/// Tells how many files programs have open, for those who are about to wait in vain.
fn open_files_note(status: &MountStatus) -> Option<String> {
    let open = status.inside.metrics.0.get(Gauge::OpenHandles.name()).copied().unwrap_or(0);
    let open = usize::try_from(open).unwrap_or(usize::MAX);
    (open > 0)
        .then(|| format!("note: programs have {} open; unmounting needs them closed", count(open, "file")))
}
