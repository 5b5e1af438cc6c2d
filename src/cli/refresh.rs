//! `tetherfs refresh`: what another client has just done is seen at once.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::cli::cache::{Group, grouped, locate_all};
use crate::cli::exit::{Exit, Failure};
use crate::cli::status::{connect, nobody_listens};
use crate::config::Surroundings;
use crate::control::{Answer, ClientError, Command};

/// Shown by `--help`.
pub const EXAMPLES: &str = "Examples:
  tetherfs refresh ~/photos/2024             this name is asked for anew
  tetherfs refresh --recursive ~/photos      everything is

Local changes stay. The names need not exist.";

/// `tetherfs refresh`
#[derive(Debug, Args)]
pub struct RefreshArguments {
    /// Files and directories in mounts
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Also everything below them
    #[arg(long, short)]
    pub recursive: bool,
}

/// Runs the command.
pub fn run(arguments: &RefreshArguments) -> Result<Exit, Failure> {
    let directories = Surroundings::of_process().runtime_directories();
    for Group { mountpoint, paths } in grouped(locate_all(&arguments.paths)?) {
        let mut client = match connect(&directories, &mountpoint) {
            Ok(client) => client,
            Err(error @ ClientError::NotRunning { .. }) => {
                return Err(nobody_listens(&mountpoint, error, "ask its owner".to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let command = Command::Refresh { paths, below: arguments.recursive };
        match client.call(command, Some(Duration::ZERO))? {
            Answer::Done => {}
            Answer::Hello(_)
            | Answer::Status(_)
            | Answer::Drain(_)
            | Answer::Sealed { .. }
            | Answer::Retried { .. }
            | Answer::Resolved { .. }
            | Answer::Unmounted { .. }
            | Answer::Cache(_)
            | Answer::Error { .. } => return Err(ClientError::Strange.into()),
        }
    }
    Ok(Exit::Ok)
}
