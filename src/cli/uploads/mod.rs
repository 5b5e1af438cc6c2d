//! `tetherfs uploads`: what is not in the bucket yet, waiting for it, and deciding about it.

mod args;
mod decide;
mod wait;

use std::path::Path;

use serde::Serialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, age, percent, printable};
use crate::cli::pending::phase_word;
use crate::cli::status::ask;
use crate::control::MountStatus;
use crate::types::{ByteSize, UnixTime};
use crate::write::SessionStatus;

pub use args::{EXAMPLES, UploadsAction, UploadsArguments};
pub use wait::wait_for;

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

/// An upload and where it belongs, for scripts.
#[derive(Debug, Serialize)]
pub struct Listed<'a> {
    /// As `discard` takes it.
    id: String,
    mountpoint: &'a str,
    #[serde(flatten)]
    upload: &'a SessionStatus,
}

impl Listed<'_> {
    /// An upload of a mount.
    pub fn new<'a>(mountpoint: &'a str, upload: &'a SessionStatus) -> Listed<'a> {
        Listed { id: upload.session.to_string(), mountpoint, upload }
    }
}

/// Runs the command.
pub fn run(action: &UploadsAction) -> Result<Exit, Failure> {
    match action {
        UploadsAction::List { directory, json } => list(directory.as_deref(), form(*json)),
        UploadsAction::Wait { directory, timeout, json } => {
            wait::wait(directory.as_deref(), *timeout, form(*json))
        }
        UploadsAction::Retry { sessions, all, mount, json } => match all {
            true => decide::retry_all(mount.as_deref(), form(*json)),
            false => decide::retry(sessions, mount.as_deref(), form(*json)),
        },
        UploadsAction::Commit { session, mount, json } => {
            decide::commit(*session, mount.as_deref(), form(*json))
        }
        UploadsAction::Discard { sessions, mount, yes, json } => {
            decide::discard(sessions, mount.as_deref(), decide::consent(*yes), form(*json))
        }
        UploadsAction::Resolve { session, how, mount, yes, json } => {
            decide::resolve(*session, how, mount.as_deref(), decide::consent(*yes), form(*json))
        }
    }
}

fn form(is_json: bool) -> Form {
    if is_json { Form::Json } else { Form::Text }
}

fn list(directory: Option<&Path>, form: Form) -> Result<Exit, Failure> {
    let mounts = ask(directory)?;
    match form {
        Form::Json => output::print_json(&listed(&mounts))?,
        Form::Text => output::print(&rows(&mounts, output::now())),
    }
    Ok(Exit::Ok)
}

fn listed(mounts: &[MountStatus]) -> Vec<Listed<'_>> {
    let of_mount = |mount: &MountStatus| mount.inside.sessions.len();
    let mut all = Vec::with_capacity(mounts.iter().map(of_mount).sum());
    for mount in mounts {
        let listed = |upload| Listed::new(&mount.hello.mountpoint, upload);
        all.extend(mount.inside.sessions.iter().map(listed));
    }
    all
}

fn rows(mounts: &[MountStatus], now: UnixTime) -> String {
    let rows: Vec<Vec<String>> = listed(mounts)
        .iter()
        .map(|Listed { id, mountpoint, upload }| {
            vec![
                id.clone(),
                phase_word(upload.state).to_owned(),
                ByteSize(upload.bytes).to_string(),
                format!("{} %", percent(upload.sent_bytes, upload.bytes)),
                age(upload.since, now),
                printable(mountpoint),
                printable(upload.key.as_str()),
                upload.last_error.as_deref().map(printable).unwrap_or_default(),
            ]
        })
        .collect();
    if rows.is_empty() {
        let what = if mounts.is_empty() { "Nothing is mounted." } else { "Everything is in the bucket." };
        return format!(
            "{what} Uploads of volumes that are not mounted go on, and are shown, when they are."
        );
    }
    output::table(&["ID", "STATE", "SIZE", "SENT", "AGE", "MOUNT", "NAME", "ERROR"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pending::tests::{inside, session};
    use crate::control::{Hello, PhaseView, Rates, VERSION};
    use crate::write::SessionPhase;

    fn mounted(mountpoint: &str, sessions: Vec<SessionStatus>) -> MountStatus {
        MountStatus {
            hello: Hello {
                version: VERSION,
                release: "0.1.0".to_owned(),
                mountpoint: mountpoint.to_owned(),
                url: "s3://b".to_owned(),
                pid: 1,
                started: UnixTime::from_secs(0),
                phase: PhaseView::Serving,
            },
            commit: crate::fs::CommitMode::Close,
            read_only: false,
            cache_bytes_max: 1,
            staging_bytes_max: 1,
            rates: Rates::default(),
            outage: None,
            inside: inside(sessions),
        }
    }

    #[test]
    fn uploads_of_all_mounts_in_one_table() {
        let mounts = [
            mounted("/a", vec![session(10, SessionPhase::Sending, 1 << 20, 1 << 19)]),
            mounted("/b", vec![session(11, SessionPhase::Interrupted, 0, 0)]),
        ];
        let text = rows(&mounts, UnixTime::from_secs(1060));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[1],
            ["000000000000000a", "sending", "1", "MiB", "50", "%", "1m", "0s", "/a", "dir/10.bin"]
        );
        assert_eq!(lines[2][0], "000000000000000b");
        let json = serde_json::to_value(listed(&mounts)).unwrap();
        assert_eq!(json[0]["id"], "000000000000000a");
        assert_eq!(json[0]["mountpoint"], "/a");
        assert_eq!(json[0]["sent_bytes"], 1 << 19);
        assert_eq!(json[1]["state"], "interrupted");
    }

    #[test]
    fn nothing_to_show_is_said() {
        assert!(rows(&[], UnixTime::default()).starts_with("Nothing is mounted."));
        assert!(
            rows(&[mounted("/a", vec![])], UnixTime::default()).starts_with("Everything is in the bucket.")
        );
    }
}
