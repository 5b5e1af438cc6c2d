//! Trying uploads again, and deciding about them.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, count, printable, tell};
use crate::cli::pending::phase_word;
use crate::cli::status::{clients, status};
use crate::cli::uploads::args::How;
use crate::cli::uploads::{Form, Listed};
use crate::control::{Answer, Client, ClientError, Command};
use crate::fs::Resolution;
use crate::types::{ByteSize, Key, SessionId};
use crate::write::SessionStatus;

/// Deciding about an upload takes a request to the store and some disk.
const DECISION_MAX: Duration = Duration::from_secs(60);

/// Whether the user is to be asked before data are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Consent {
    /// He has said so.
    Given,
    /// He is.
    Asked,
}

/// With `--yes` nobody is asked.
pub fn consent(yes: bool) -> Consent {
    if yes { Consent::Given } else { Consent::Asked }
}

/// An upload that somebody named.
#[derive(Clone, PartialEq, Debug)]
struct Named {
    mountpoint: String,
    upload: SessionStatus,
}

impl Named {
    fn title(&self) -> String {
        format!("'{}' ({})", printable(self.upload.key.as_str()), ByteSize(self.upload.bytes))
    }

    fn listed(&self) -> Listed<'_> {
        Listed::new(&self.mountpoint, &self.upload)
    }

    /// Has its mount do something. What was found may be some time ago, and a daemon hangs up on silent clients.
    fn call(&self, command: Command) -> Result<Answer, Failure> {
        let mut client = of_mount(&self.mountpoint)?;
        Ok(client.call(command, Some(DECISION_MAX))?)
    }
}

/// How many uploads of a mount are tried, for scripts.
#[derive(Debug, Serialize)]
struct Tried<'a> {
    mountpoint: &'a str,
    uploads: usize,
}

/// What became of a conflict, for scripts.
#[derive(Debug, Serialize)]
struct Resolved<'a> {
    id: String,
    mountpoint: &'a str,
    /// Where it goes; `None` when it was discarded.
    key: Option<Key>,
}

/// Tries some uploads now.
pub fn retry(sessions: &[SessionId], directory: Option<&Path>, form: Form) -> Result<Exit, Failure> {
    let named = find(sessions, directory)?;
    let mut tried: Vec<Tried<'_>> = Vec::new();
    for one in &named {
        let uploads = tried_of(one.call(Command::Retry { session: Some(one.upload.session) })?)?;
        match tried.iter_mut().find(|tried| tried.mountpoint == one.mountpoint) {
            Some(of_mount) => of_mount.uploads += uploads,
            None => tried.push(Tried { mountpoint: &one.mountpoint, uploads }),
        }
        if form == Form::Text {
            tell(&format!("{} is tried now", one.title()));
        }
    }
    if form == Form::Json {
        output::print_json(&tried)?;
    }
    Ok(Exit::Ok)
}

/// Tries all pending uploads of a mount, or of all mounts of this user, now.
pub fn retry_all(directory: Option<&Path>, form: Form) -> Result<Exit, Failure> {
    let mut clients = clients(directory)?;
    let mut counted = Vec::new();
    for client in &mut clients {
        counted.push(tried_of(client.call(Command::Retry { session: None }, Some(DECISION_MAX))?)?);
    }
    let mountpoints = clients.iter().map(|client| client.hello().mountpoint.as_str());
    let tried: Vec<Tried<'_>> =
        mountpoints.zip(counted).map(|(mountpoint, uploads)| Tried { mountpoint, uploads }).collect();
    match form {
        Form::Json => output::print_json(&tried)?,
        Form::Text if tried.is_empty() => tell("Nothing is mounted."),
        Form::Text => {
            for Tried { mountpoint, uploads } in &tried {
                let place = printable(mountpoint);
                tell(&match uploads {
                    0 => format!("{place}: nothing is pending"),
                    1 => format!("{place}: 1 upload is tried now"),
                    _ => format!("{place}: {} are tried now", count(*uploads, "upload")),
                });
            }
        }
    }
    Ok(Exit::Ok)
}

/// Takes an interrupted upload for complete.
pub fn commit(session: SessionId, directory: Option<&Path>, form: Form) -> Result<Exit, Failure> {
    let named = find(&[session], directory)?;
    for one in &named {
        done(one.call(Command::Commit { session })?)?;
        if form == Form::Text {
            tell(&format!("{} is on its way", one.title()));
        }
    }
    print_listed(&named, form)
}

/// Gives uploads up.
pub fn discard(
    sessions: &[SessionId],
    directory: Option<&Path>,
    consent: Consent,
    form: Form,
) -> Result<Exit, Failure> {
    let named = find(sessions, directory)?;
    ask_for(&named, consent)?;
    for one in &named {
        done(one.call(Command::Discard { session: one.upload.session })?)?;
        if form == Form::Text {
            tell(&format!("{} is given up", one.title()));
        }
    }
    print_listed(&named, form)
}

/// Settles a conflict.
pub fn resolve(
    session: SessionId,
    how: &How,
    directory: Option<&Path>,
    consent: Consent,
    form: Form,
) -> Result<Exit, Failure> {
    let named = find(&[session], directory)?;
    let [one] = named.as_slice() else {
        return Err(unknown(session));
    };
    let resolution = match how {
        How { keep_both: true, .. } => Resolution::KeepBoth,
        How { overwrite: true, .. } => Resolution::Overwrite,
        How { .. } => {
            ask_for(&named, consent)?;
            done(one.call(Command::Discard { session })?)?;
            return print_resolved(one, None, form);
        }
    };
    let key = goes_to(one.call(Command::Resolve { session, resolution })?)?;
    print_resolved(one, Some(key), form)
}

fn print_resolved(one: &Named, key: Option<Key>, form: Form) -> Result<Exit, Failure> {
    match (form, &key) {
        (Form::Json, _) => {
            let id = one.upload.session.to_string();
            output::print_json(&Resolved { id, mountpoint: &one.mountpoint, key })?;
        }
        (Form::Text, None) => tell(&format!("{} is given up", one.title())),
        (Form::Text, Some(key)) if *key == one.upload.key => {
            tell(&format!("{} is on its way, and replaces what is there", one.title()));
        }
        (Form::Text, Some(key)) => {
            tell(&format!("{} is on its way as '{}'", one.title(), printable(key.as_str())));
        }
    }
    Ok(Exit::Ok)
}

fn print_listed(named: &[Named], form: Form) -> Result<Exit, Failure> {
    if form == Form::Json {
        output::print_json(&named.iter().map(Named::listed).collect::<Vec<_>>())?;
    }
    Ok(Exit::Ok)
}

fn ask_for(named: &[Named], consent: Consent) -> Result<(), Failure> {
    match consent {
        Consent::Given => Ok(()),
        Consent::Asked => {
            output::confirm(&loss(named), "Delete their data for good?", "to delete their data for good")
        }
    }
}

/// What would be lost.
fn loss(named: &[Named]) -> String {
    let told = |one: &Named| {
        let (name, size) = (printable(one.upload.key.as_str()), ByteSize(one.upload.bytes));
        format!("'{name}' ({size}, {})", phase_word(one.upload.state))
    };
    let are = if named.len() == 1 { "is" } else { "are" };
    format!("{} {are} not in the bucket", named.iter().map(told).collect::<Vec<_>>().join(", "))
}

/// The uploads of these numbers, each once, in their order.
fn find(sessions: &[SessionId], directory: Option<&Path>) -> Result<Vec<Named>, Failure> {
    let mut all = Vec::new();
    for mut client in clients(directory)? {
        let status = status(&mut client)?;
        let mountpoint = status.hello.mountpoint;
        all.extend(
            status.inside.sessions.into_iter().map(|upload| Named { mountpoint: mountpoint.clone(), upload }),
        );
    }
    pick(sessions, &all)
}

fn pick(sessions: &[SessionId], all: &[Named]) -> Result<Vec<Named>, Failure> {
    let mut named: Vec<Named> = Vec::new();
    for &session in sessions {
        let found: Vec<&Named> = all.iter().filter(|one| one.upload.session == session).collect();
        match found.as_slice() {
            [] => return Err(unknown(session)),
            [only] if named.contains(only) => {}
            [only] => named.push(Named::clone(only)),
            several => {
                let message = format!("{} mounts have an upload {session}", several.len());
                return Err(Failure::new(Exit::Usage, message).hint("say which with --mount DIR"));
            }
        }
    }
    Ok(named)
}

fn unknown(session: SessionId) -> Failure {
    Failure::new(Exit::Failure, format!("no mount has an upload {session}"))
        .hint("'tetherfs uploads list' shows them; it may have been finished meanwhile")
}

fn of_mount(mountpoint: &str) -> Result<Client, Failure> {
    let gone = || Failure::from(ClientError::NotRunning { mountpoint: mountpoint.into() });
    clients(Some(Path::new(mountpoint)))?.pop().ok_or_else(gone)
}

fn done(answer: Answer) -> Result<(), Failure> {
    match answer {
        Answer::Done => Ok(()),
        Answer::Hello(_)
        | Answer::Status(_)
        | Answer::Drain(_)
        | Answer::Sealed { .. }
        | Answer::Retried { .. }
        | Answer::Resolved { .. }
        | Answer::Unmounted { .. }
        | Answer::Cache(_)
        | Answer::Error { .. } => Err(ClientError::Strange.into()),
    }
}

fn tried_of(answer: Answer) -> Result<usize, Failure> {
    match answer {
        Answer::Retried { uploads } => Ok(uploads),
        Answer::Hello(_)
        | Answer::Status(_)
        | Answer::Drain(_)
        | Answer::Sealed { .. }
        | Answer::Resolved { .. }
        | Answer::Unmounted { .. }
        | Answer::Cache(_)
        | Answer::Done
        | Answer::Error { .. } => Err(ClientError::Strange.into()),
    }
}

fn goes_to(answer: Answer) -> Result<Key, Failure> {
    match answer {
        Answer::Resolved { key } => Ok(key),
        Answer::Hello(_)
        | Answer::Status(_)
        | Answer::Drain(_)
        | Answer::Sealed { .. }
        | Answer::Retried { .. }
        | Answer::Unmounted { .. }
        | Answer::Cache(_)
        | Answer::Done
        | Answer::Error { .. } => Err(ClientError::Strange.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pending::tests::session;
    use crate::write::SessionPhase;

    fn named(mountpoint: &str, id: u64) -> Named {
        Named { mountpoint: mountpoint.to_owned(), upload: session(id, SessionPhase::Conflicted, 5, 0) }
    }

    #[test]
    fn each_number_is_one_upload() {
        let all = [named("/a", 1), named("/a", 2), named("/b", 2), named("/b", 3)];
        let picked = pick(&[SessionId(3), SessionId(1), SessionId(3)], &all).unwrap();
        assert_eq!(picked, [named("/b", 3), named("/a", 1)]);
        let failure = pick(&[SessionId(1), SessionId(9)], &all).unwrap_err();
        assert_eq!(failure.message, "no mount has an upload 0000000000000009");
        let failure = pick(&[SessionId(2)], &all).unwrap_err();
        assert_eq!(
            (failure.exit, failure.hint.as_deref()),
            (Exit::Usage, Some("say which with --mount DIR"))
        );
    }

    #[test]
    fn what_would_be_lost_is_named() {
        let one = loss(&[named("/a", 1)]);
        assert_eq!(one, "'dir/1.bin' (5 B, conflicted) is not in the bucket");
        let two = loss(&[named("/a", 1), named("/a", 2)]);
        assert_eq!(two, "'dir/1.bin' (5 B, conflicted), 'dir/2.bin' (5 B, conflicted) are not in the bucket");
    }
}
