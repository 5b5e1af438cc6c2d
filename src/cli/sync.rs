//! `tetherfs sync`: what sync(2) would do, if the kernel handed it on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use crate::cli::cache::place::locate_all;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{printable, tell};
use crate::cli::status::clients;
use crate::cli::uploads::{Form, wait_for};
use crate::config::parse_time;
use crate::control::{Answer, Client, ClientError, Command, Unsealed};
use crate::types::SessionId;

/// Sealing reads back what was overwritten in places: some disk, no network.
const SEAL_MAX: Duration = Duration::from_secs(300);

/// Shown below the help of `tetherfs sync`.
pub const EXAMPLES: &str = r#"Examples:
  tetherfs sync                              all mounts of this user
  tetherfs sync ~/photos                     the mount that ~/photos is or is in
  tetherfs sync ~/photos --timeout 10m

Waits until every change made before it was called is in the bucket. Files that are open and
changed are uploaded as they are now, as fsync does with --commit remote; programs can go on
writing. sync(1), sync(2) and syncfs(2) do not do this: the kernel does not hand them on to this
file system (FUSE as spoken by fuser 0.18 has no syncfs), so they return at once.
The exit code is 0 when everything is in the bucket, 6 when uploads are pending because the time
is over or they cannot go on by themselves, 1 when changes of an open file could not be taken.

With --json: as 'tetherfs uploads wait'"#;

/// `tetherfs sync`
#[derive(Debug, Args)]
pub struct SyncArguments {
    /// A mountpoint, or something in a mount; without it, all mounts of this user
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Longest wait, such as 30s or 5m; without it, as long as anything goes on
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
pub fn run(arguments: &SyncArguments) -> Result<Exit, Failure> {
    let form = if arguments.json { Form::Json } else { Form::Text };
    let mountpoint = arguments.directory.as_deref().map(mount_of).transpose()?;
    let mut sealed = Vec::new();
    let mut is_all_sealed = true;
    for mut client in clients(mountpoint.as_deref())? {
        let (before, unsealed) = seal(&mut client)?;
        for file in &unsealed {
            tell(&format!("{} cannot be taken: {}", printable(file.key.as_str()), printable(&file.error)));
        }
        is_all_sealed &= unsealed.is_empty();
        sealed.push((client, Some(before)));
    }
    if sealed.is_empty() && form == Form::Text {
        tell("Nothing is mounted.");
    }
    let waited = wait_for(&mut sealed, arguments.timeout, form)?;
    Ok(if is_all_sealed { waited } else { Exit::Failure })
}

fn mount_of(directory: &Path) -> Result<PathBuf, Failure> {
    let places = locate_all(&[directory.to_owned()])?;
    Ok(places.into_iter().next().expect("one place for each path").mountpoint)
}

fn seal(client: &mut Client) -> Result<(SessionId, Vec<Unsealed>), Failure> {
    match client.call(Command::Seal, Some(SEAL_MAX))? {
        Answer::Sealed { before, unsealed } => Ok((before, unsealed)),
        Answer::Hello(_)
        | Answer::Status(_)
        | Answer::Drain(_)
        | Answer::Retried { .. }
        | Answer::Resolved { .. }
        | Answer::Unmounted { .. }
        | Answer::Cache(_)
        | Answer::Done
        | Answer::Error { .. } => Err(ClientError::Strange.into()),
    }
}
