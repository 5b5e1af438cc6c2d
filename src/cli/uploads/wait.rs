//! Waiting for all uploads of mounts, and telling what is left.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, count, printable, tell};
use crate::cli::pending;
use crate::cli::status::clients;
use crate::cli::uploads::{Form, Listed};
use crate::cli::watch::{Watched, deadline, watch};
use crate::control::{Client, DrainProgress};
use crate::fs::Status;
use crate::types::SessionId;
use crate::write::SessionPhase;

/// How the uploads of a mount are after a wait, for scripts.
#[derive(Debug, Serialize)]
struct Waited<'a> {
    mountpoint: &'a str,
    /// Whether everything that was waited for is in the bucket.
    is_done: bool,
    /// What is not.
    uploads: Vec<Listed<'a>>,
}

/// Waits for one mount, or for all of this user.
pub fn wait(directory: Option<&Path>, timeout: Option<Duration>, form: Form) -> Result<Exit, Failure> {
    let mut clients: Vec<(Client, Option<SessionId>)> =
        clients(directory)?.into_iter().map(|client| (client, None)).collect();
    if clients.is_empty() && form == Form::Text {
        tell("Nothing is mounted. Uploads of volumes that are not mounted go on when they are.");
    }
    wait_for(&mut clients, timeout, form)
}

/// Waits for what these mounts have sealed, of each before a session, and prints what is left.
pub fn wait_for(
    clients: &mut [(Client, Option<SessionId>)],
    timeout: Option<Duration>,
    form: Form,
) -> Result<Exit, Failure> {
    let mountpoints: Vec<String> =
        clients.iter().map(|(client, _)| client.hello().mountpoint.clone()).collect();
    let mut watched: Vec<Watched<'_>> =
        clients.iter_mut().map(|(client, before)| Watched { client, before: *before }).collect();
    let seen = watch(&mut watched, deadline(timeout))?;
    let left: Vec<(String, Status)> = mountpoints.into_iter().zip(seen.into_iter().map(left)).collect();
    match form {
        Form::Json => output::print_json(&left.iter().map(waited).collect::<Vec<_>>())?,
        Form::Text => left.iter().for_each(|(mountpoint, status)| tell(&text(mountpoint, status))),
    }
    let is_done = left.iter().all(|(_, status)| pending::remainder(status).is_none());
    Ok(if is_done { Exit::Ok } else { Exit::UploadsPending })
}

fn left(progress: DrainProgress) -> Status {
    pending::without_writing(progress.inside)
}

fn waited((mountpoint, status): &(String, Status)) -> Waited<'_> {
    let owed = status.sessions.iter().filter(|session| pending::is_owed(session));
    let uploads: Vec<Listed<'_>> = owed.map(|upload| Listed::new(mountpoint, upload)).collect();
    Waited { mountpoint, is_done: uploads.is_empty(), uploads }
}

fn text(mountpoint: &str, status: &Status) -> String {
    let place = printable(mountpoint);
    let mut text = match pending::remainder(status) {
        None => format!("{place}: everything is in the bucket"),
        Some(text) => format!("{place}: {text}"),
    };
    let interrupted =
        status.sessions.iter().filter(|session| session.state == SessionPhase::Interrupted).count();
    if interrupted > 0 {
        let files = count(interrupted, "interrupted file");
        text.push_str(&format!("\n{files} kept, see 'tetherfs uploads list'"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pending::tests::{inside, session};

    #[test]
    fn what_is_left_is_told_for_people_and_for_scripts() {
        let progress = DrainProgress {
            is_settled: true,
            rates: crate::control::Rates::default(),
            inside: inside(vec![
                session(10, SessionPhase::Stuck, 100, 50),
                session(11, SessionPhase::Writing, 5, 0),
                session(12, SessionPhase::Interrupted, 5, 0),
            ]),
        };
        let of_mount = ("/mnt/p".to_owned(), left(progress));
        let told = text(&of_mount.0, &of_mount.1);
        assert!(told.starts_with("/mnt/p: 1 upload is not in the bucket yet (50 B to send):"), "{told}");
        assert!(told.ends_with("\n1 interrupted file kept, see 'tetherfs uploads list'"), "{told}");
        let json = serde_json::to_value(waited(&of_mount)).unwrap();
        assert_eq!((&json["is_done"], &json["mountpoint"]), (&false.into(), &"/mnt/p".into()));
        assert_eq!(json["uploads"].as_array().unwrap().len(), 1);
        assert_eq!(json["uploads"][0]["id"], "000000000000000a");
    }

    #[test]
    fn what_nobody_was_told_is_safe_is_not_waited_for() {
        let status = inside(vec![session(12, SessionPhase::Interrupted, 5, 0)]);
        assert!(text("/m", &status).starts_with("/m: everything is in the bucket"));
        assert!(waited(&("/m".to_owned(), status)).is_done);
    }
}
