//! The `tetherfs` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    tetherfs::cli::run(std::env::args_os().collect()).into()
}
