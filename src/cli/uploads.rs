//! `tetherfs uploads`: what is not in the bucket yet, and deciding about it.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::args::UploadsCommand;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, age, percent, printable, tell};
use crate::cli::pending::phase_word;
use crate::cli::status::{ask, clients, status};
use crate::control::{Client, Command, MountStatus};
use crate::types::{ByteSize, SessionId, UnixTime};
use crate::write::SessionStatus;

/// Deciding about an upload takes a request to the store and some disk.
const DECISION_MAX: Duration = Duration::from_secs(60);

/// Runs the command.
pub fn run(command: &UploadsCommand) -> Result<Exit, Failure> {
    match command {
        UploadsCommand::List { directory, json } => {
            list(directory.as_deref(), if *json { Form::Json } else { Form::Table })
        }
        UploadsCommand::Commit { session, mount } => commit(*session, mount.as_deref()),
        UploadsCommand::Discard { session, mount, yes } => {
            discard(*session, mount.as_deref(), if *yes { Consent::Given } else { Consent::Asked })
        }
    }
}

enum Form {
    Table,
    Json,
}

enum Consent {
    Given,
    Asked,
}

/// An upload and where it belongs, for scripts.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    /// As `discard` takes it.
    id: String,
    mountpoint: &'a str,
    #[serde(flatten)]
    upload: &'a SessionStatus,
}

fn list(directory: Option<&Path>, form: Form) -> Result<Exit, Failure> {
    let mounts = ask(directory)?;
    match form {
        Form::Json => output::print_json(&listed(&mounts))?,
        Form::Table => output::print(&rows(&mounts, output::now())),
    }
    Ok(Exit::Ok)
}

fn listed(mounts: &[MountStatus]) -> Vec<Listed<'_>> {
    let of_mount = |mount: &MountStatus| mount.inside.sessions.len();
    let mut all = Vec::with_capacity(mounts.iter().map(of_mount).sum());
    for mount in mounts {
        all.extend(mount.inside.sessions.iter().map(|upload| Listed {
            id: upload.session.to_string(),
            mountpoint: &mount.hello.mountpoint,
            upload,
        }));
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

fn commit(session: SessionId, directory: Option<&Path>) -> Result<Exit, Failure> {
    let (mut client, upload) = find(session, directory)?;
    client.call(Command::Commit { session }, Some(DECISION_MAX))?;
    tell(&format!("'{}' ({}) is on its way", printable(upload.key.as_str()), ByteSize(upload.bytes)));
    Ok(Exit::Ok)
}

fn find(session: SessionId, directory: Option<&Path>) -> Result<(Client, SessionStatus), Failure> {
    let mut found = Vec::new();
    for mut client in clients(directory)? {
        let status = status(&mut client)?;
        let upload = status.inside.sessions.into_iter().find(|upload| upload.session == session);
        found.extend(upload.map(|upload| (client, upload)));
    }
    the_only(found, session)
}

fn discard(session: SessionId, directory: Option<&Path>, consent: Consent) -> Result<Exit, Failure> {
    let (mut client, upload) = find(session, directory)?;
    let name = printable(upload.key.as_str());
    let size = ByteSize(upload.bytes);
    if let Consent::Asked = consent {
        let what = format!("'{name}' ({size}, {}) is not in the bucket", phase_word(upload.state));
        output::confirm(&what, "Delete its data for good?", "to delete its data for good")?;
    }
    client.call(Command::Discard { session }, Some(DECISION_MAX))?;
    tell(&format!("'{name}' ({size}) is given up"));
    Ok(Exit::Ok)
}

fn the_only(
    mut found: Vec<(Client, SessionStatus)>,
    session: SessionId,
) -> Result<(Client, SessionStatus), Failure> {
    match (found.pop(), found.len()) {
        (None, _) => Err(Failure::new(Exit::Failure, format!("no mount has an upload {session}"))
            .hint("'tetherfs uploads list' shows them; it may have been finished meanwhile")),
        (Some(only), 0) => Ok(only),
        (Some(_), others) => {
            Err(Failure::new(Exit::Usage, format!("{} mounts have an upload {session}", others + 1))
                .hint("say which with --mount DIR"))
        }
    }
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

    #[test]
    fn an_unknown_number_is_an_error() {
        let failure = the_only(Vec::new(), SessionId(1)).unwrap_err();
        assert_eq!(failure.message, "no mount has an upload 0000000000000001");
    }
}
