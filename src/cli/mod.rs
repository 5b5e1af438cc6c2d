//! Commands, output, exit codes.
//!
//! Contract: results go to standard output, everything else to standard error. An error is one line, `tetherfs: what:
//! why`, and one line of advice; never Rust's debug output, never a secret. Exit codes are those of [`Exit`] and stay.

mod args;
mod cache;
mod exit;
mod fsck;
mod mount;
mod output;
mod pending;
mod refresh;
mod serve;
mod status;
mod sync;
mod unmount;
mod uploads;
mod watch;

use std::ffi::OsString;

use clap::Parser;

use crate::cli::args::{Arguments, Command};

pub use exit::{Exit, Failure};

/// Runs the command line `arguments` (the program's name first) and tells how it went.
pub fn run(arguments: Vec<OsString>) -> Exit {
    let arguments = args::normalise(arguments);
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return output::print_usage(&error),
    };
    let result = match parsed.command {
        Command::Mount(mount) => mount::run(&mount, &arguments),
        Command::Unmount(unmount) => unmount::run(&unmount),
        Command::Status(status) => status::run(&status),
        Command::Serve(serve) => serve::run(serve),
        Command::Uploads(uploads) => uploads::run(&uploads.action),
        Command::Sync(sync) => sync::run(&sync),
        Command::Fsck(fsck) => fsck::run(&fsck),
        Command::Refresh(refresh) => refresh::run(&refresh),
        Command::Cache(cache) => cache::run(&cache.action),
    };
    result.unwrap_or_else(|failure| {
        output::print_failure(&failure);
        failure.exit
    })
}
