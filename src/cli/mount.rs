//! `tetherfs mount`: in the foreground, or from the terminal into the background.

use std::ffi::OsString;
use std::process::Command;

use crate::cli::args::{BEHIND, MountArguments};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{count, tell};
use crate::cli::pending;
use crate::config::{Config, Settings, Surroundings, Typed, load, parse_mount_options};
use crate::fs::Status;
use crate::mount::{self, Ready, Report, Reporter};
use crate::observe;

/// Runs the command. `typed` is the whole command line, normalised.
pub fn run(arguments: &MountArguments, typed: &[OsString]) -> Result<Exit, Failure> {
    if arguments.behind {
        return behind(arguments);
    }
    let config = configure(arguments)?;
    if arguments.foreground { in_foreground(config) } else { into_background(&config, typed) }
}

/// What was typed and read, checked, with a mountpoint that can be mounted on.
fn configure(arguments: &MountArguments) -> Result<Config, Failure> {
    let surroundings = Surroundings::of_process();
    let mut settings = Settings::default();
    let mut config_file = None;
    for text in &arguments.mount_options {
        let options = parse_mount_options(text)?;
        settings.overlay(options.settings);
        config_file = options.config_file.or(config_file);
    }
    settings.overlay(arguments.flags.0.clone());
    let typed = Typed {
        url: arguments.url.clone(),
        mountpoint: arguments.directory.clone(),
        settings,
        config_file: arguments.config.clone().or(config_file),
    };
    let config = load(&typed, &surroundings)?;
    let mountpoint = mount::prepare_mountpoint(&config.fuse.mountpoint, &config.control.directories)?;
    Ok(config.mounted_on(mountpoint))
}

fn in_foreground(config: Config) -> Result<Exit, Failure> {
    observe::init_log(&config.foreground_log()).map_err(log_failure)?;
    let told = format!("{} is mounted on {}", config.url, config.fuse.mountpoint.display());
    let left = mount::serve(config, |ready| {
        tell(&format!("{told}{}; Ctrl-C unmounts", news(ready)));
        Ok(())
    })?;
    Ok(farewell(&left, tell))
}

fn into_background(config: &Config, typed: &[OsString]) -> Result<Exit, Failure> {
    let no_start = |error: &dyn std::fmt::Display| {
        let log = config.background_log().file.map(|log| format!("look into {}, or ", log.display()));
        Failure::new(Exit::Failure, format!("cannot go into the background: {error}"))
            .hint(format!("{}try --foreground", log.unwrap_or_default()))
    };
    let program = std::env::current_exe().map_err(|error| no_start(&error))?;
    let mut command = Command::new(program);
    // The first word is the program, the second is `mount`.
    command.arg("mount").arg(format!("--{BEHIND}")).args(&typed[2..]);
    match mount::start_behind(command).map_err(|error| no_start(&error))? {
        Ok(Report::Ready { pid, log, recovered, answers }) => {
            let log = log.map(|log| format!(", log in {log}")).unwrap_or_default();
            let (url, mountpoint) = (&config.url, config.fuse.mountpoint.display());
            tell(&format!(
                "{url} is mounted on {mountpoint} (process {pid}{log}){}",
                news(Ready { recovered, answers })
            ));
            Ok(Exit::Ok)
        }
        Ok(Report::Failed { exit, message, hint }) => {
            Err(Failure { exit: Exit::from_code(exit), message, hint })
        }
        Err(status) => Err(no_start(&format!("it ended without saying why ({status})"))),
    }
}

/// The process in the background. Whatever happens before the mount is ready is told to the one that waits.
fn behind(arguments: &MountArguments) -> Result<Exit, Failure> {
    let reporter = Reporter::leave_terminal()
        .map_err(|error| Failure::new(Exit::Failure, format!("cannot leave the terminal: {error}")))?;
    let mut reporter = Some(reporter);
    let failure = match configure(arguments).and_then(|config| serve_behind(config, &mut reporter)) {
        Ok(exit) => return Ok(exit),
        Err(failure) => failure,
    };
    log::error!("{}", failure.message);
    let Failure { exit, message, hint } = failure;
    let report = Report::Failed { exit: exit.code(), message, hint };
    if let Some(Err(error)) = reporter.map(|reporter| reporter.report(&report)) {
        log::error!("Nobody waits for this message: {error}");
    }
    Ok(exit)
}

fn serve_behind(config: Config, reporter: &mut Option<Reporter>) -> Result<Exit, Failure> {
    mount::make_private("state", &config.state_directory)?;
    let log = config.background_log();
    if let Some(file) = &log.file {
        mount::redirect_errors(file).map_err(|error| {
            Failure::new(Exit::Failure, format!("cannot write the log file {}: {error}", file.display()))
                .hint("choose another with --log-file")
        })?;
    }
    observe::init_log(&log).map_err(log_failure)?;
    // Whatever directory the user was in must not stay busy.
    std::env::set_current_dir("/").map_err(mount::Error::from)?;
    log::info!("Mounting {} on {}", config.url, config.fuse.mountpoint.display());
    let log_file = log.file.map(|file| file.display().to_string());
    let left = mount::serve(config, |Ready { recovered, answers }| {
        let reporter = reporter.take().expect("a mount becomes ready once");
        reporter.report(&Report::Ready { pid: std::process::id(), log: log_file, recovered, answers })
    });
    Ok(farewell(&left?, |text| log::warn!("Unmounted. {text}")))
}

/// Tells what is pending after the end.
fn farewell(left: &Status, tell: impl FnOnce(&str)) -> Exit {
    match pending::farewell(left) {
        None => {
            log::info!("Unmounted; everything is in the bucket");
            Exit::Ok
        }
        Some(text) => {
            tell(&text);
            Exit::UploadsPending
        }
    }
}

/// What else is to be said of a mount that is ready.
fn news(ready: Ready) -> String {
    let Ready { recovered, answers } = ready;
    let uploads = count(recovered, "upload");
    let go = if recovered == 1 { "goes" } else { "go" };
    match (answers, recovered) {
        (true, 0) => String::new(),
        (true, _) => format!("; {uploads} of an earlier mount {go} on"),
        (false, 0) => "; the bucket is not available yet".to_owned(),
        (false, _) => {
            format!("; the bucket is not available yet, {uploads} of an earlier mount {go} on when it is")
        }
    }
}

fn log_failure(error: observe::LogError) -> Failure {
    Failure::new(Exit::Failure, error.to_string())
}
