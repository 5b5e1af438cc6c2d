//! `tetherfs status`: what is mounted, what is being uploaded, how full the disk is, what went wrong.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::cli::args::StatusArguments;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, age, count, percent, printable, rate};
use crate::cli::pending::{Totals, phase_word};
use crate::config::Surroundings;
use crate::control::{Answer, Client, ClientError, Command, MountStatus, PhaseView};
use crate::fs::{CommitMode, KernelStatus, PassthroughStatus};
use crate::mount::{self, MountpointError};
use crate::observe::{Counter, Gauge, MetricsSnapshot};
use crate::types::{ByteSize, UnixTime};
use crate::write::{TreePhase, TreeStatus};

/// Uploads shown one by one; `tetherfs uploads list` shows all.
const UPLOADS_SHOWN_MAX: usize = 10;
/// Longest between a mount's appearance and its control socket's.
const SOCKET_WAIT_MAX: Duration = Duration::from_secs(2);
const SOCKET_PAUSE: Duration = Duration::from_millis(20);

/// Runs the command.
pub fn run(arguments: &StatusArguments) -> Result<Exit, Failure> {
    let statuses = ask(arguments.directory.as_deref())?;
    if arguments.json {
        match (&arguments.directory, statuses.as_slice()) {
            (Some(_), [only]) => output::print_json(only)?,
            (None | Some(_), all) => output::print_json(&all)?,
        }
        return Ok(Exit::Ok);
    }
    let now = output::now();
    let mut parts: Vec<String> = statuses.iter().map(|status| describe(status, now)).collect();
    if arguments.directory.is_none() {
        let answering: Vec<&str> = statuses.iter().map(|status| status.hello.mountpoint.as_str()).collect();
        parts.extend(silent_mounts(&answering));
    }
    if parts.is_empty() {
        parts.push("Nothing is mounted.".to_owned());
    }
    output::print(&parts.join("\n\n"));
    Ok(Exit::Ok)
}

/// The status of one mount, or of all mounts of this user.
pub fn ask(directory: Option<&Path>) -> Result<Vec<MountStatus>, Failure> {
    clients(directory)?.iter_mut().map(status).collect()
}

/// The daemon of one mount, or those of all mounts of this user.
pub fn clients(directory: Option<&Path>) -> Result<Vec<Client>, Failure> {
    let directories = Surroundings::of_process().runtime_directories();
    let Some(directory) = directory else {
        return Ok(Client::all(&directories));
    };
    let mountpoint = mountpoint(directory)?;
    match connect(&directories, &mountpoint) {
        Ok(client) => Ok(vec![client]),
        Err(ClientError::NotRunning { .. }) if is_dead(&mountpoint) => {
            let path = output::path(&mountpoint);
            Err(Failure::new(Exit::Mountpoint, format!("the process of the mount on {path} is dead"))
                .hint("mount it again: its uploads go on where they were"))
        }
        Err(error @ ClientError::NotRunning { .. }) => {
            Err(nobody_listens(&mountpoint, error, "ask as the user who mounted it".to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// Nobody of this user listens; tells of another user's mount, with what can be done about that.
pub fn nobody_listens(mountpoint: &Path, error: ClientError, hint: String) -> Failure {
    match mount::mounted_at(mountpoint) {
        Ok(Some(entry)) if entry.is_ours() => {
            let path = output::path(mountpoint);
            Failure::new(Exit::Mountpoint, format!("the mount on {path} does not answer to this user"))
                .hint(hint)
        }
        Ok(Some(_) | None) | Err(_) => error.into(),
    }
}

/// The daemon of a mountpoint. One that has just mounted gets a moment to open its control socket.
pub fn connect(directories: &[PathBuf], mountpoint: &Path) -> Result<Client, ClientError> {
    let start = Instant::now();
    loop {
        let result = Client::connect(directories, mountpoint);
        let is_mounted =
            || mount::mounted_at(mountpoint).is_ok_and(|entry| entry.is_some_and(|e| e.is_ours()));
        let is_patient = || start.elapsed() < SOCKET_WAIT_MAX && is_mounted() && !is_dead(mountpoint);
        match result {
            Err(ClientError::NotRunning { .. }) if is_patient() => std::thread::sleep(SOCKET_PAUSE),
            Ok(_) | Err(_) => return result,
        }
    }
}

fn is_dead(mountpoint: &Path) -> bool {
    mount::is_dead_mount_of_ours(mountpoint).unwrap_or(false)
}

/// The mountpoint that a user means. A directory that does not exist is not mounted on.
pub fn mountpoint(directory: &Path) -> Result<PathBuf, Failure> {
    match mount::resolve_mountpoint(directory) {
        Ok(path) => Ok(path),
        Err(MountpointError::Absent(mountpoint)) => Err(ClientError::NotRunning { mountpoint }.into()),
        Err(error) => Err(error.into()),
    }
}

/// The status of the mount behind a client.
pub fn status(client: &mut Client) -> Result<MountStatus, Failure> {
    match client.call(Command::Status, Some(Duration::ZERO))? {
        Answer::Status(status) => Ok(*status),
        Answer::Hello(_)
        | Answer::Drain(_)
        | Answer::Sealed { .. }
        | Answer::Retried { .. }
        | Answer::Resolved { .. }
        | Answer::Unmounted { .. }
        | Answer::Cache(_)
        | Answer::Done
        | Answer::Error { .. } => Err(ClientError::Strange.into()),
    }
}

/// Mounts of this user whose process is dead or does not answer.
fn silent_mounts(answering: &[&str]) -> Vec<String> {
    let directories = Surroundings::of_process().runtime_directories();
    let entries = mount::mounts_of_ours().unwrap_or_default();
    let silent = entries.iter().filter(|entry| !answering.contains(&&*entry.mountpoint.to_string_lossy()));
    let told = silent.filter_map(|entry| {
        let what = if Client::is_listening(&directories, &entry.mountpoint) {
            "silent: its process does not answer; look into its log, or end it with kill"
        } else if is_dead(&entry.mountpoint) {
            "dead: its process was killed; mount it again and its uploads go on"
        } else {
            return None;
        };
        Some(format!("{}  {}\n  {what}", output::path(&entry.mountpoint), printable(&entry.source)))
    });
    told.collect()
}

/// A mount in a few lines.
fn describe(status: &MountStatus, now: UnixTime) -> String {
    let hello = &status.hello;
    let mut lines = vec![format!("{}  {}", printable(&hello.mountpoint), printable(&hello.url))];
    let mode = if status.read_only {
        "read-only".to_owned()
    } else {
        format!("commit {}", commit_word(status.commit))
    };
    let phase = match hello.phase {
        PhaseView::Starting => "starting",
        PhaseView::Recovering => "serving, finishing uploads of an earlier mount",
        PhaseView::Serving => "serving",
        PhaseView::Draining => "ending, uploading what is left",
        PhaseView::Stopped => "stopped",
    };
    lines.push(format!("  {phase} for {}, process {}, {mode}", age(hello.started, now), hello.pid));
    lines.extend(status.outage.as_ref().map(|outage| {
        let (why, lasts) = (printable(&outage.why), age(outage.since, now));
        format!("  bucket     not available for {lasts}, uploads wait: {why}")
    }));
    lines.extend(uploads(status, now));
    lines.extend(status.inside.moves.iter().map(moving));
    let number = |name: &str| status.inside.metrics.0.get(name).copied().unwrap_or(0);
    let cache = number(Gauge::CacheBytes.name());
    let (hits, misses) = (number(Counter::CacheHits.name()), number(Counter::CacheMisses.name()));
    let served = match hits + misses {
        0 => "not used yet".to_owned(),
        all => format!("{} % of reads from it", percent(hits, all)),
    };
    lines.push(format!("  cache      {} of {}, {served}", ByteSize(cache), ByteSize(status.cache_bytes_max)));
    let staging = number(Gauge::StagingBytes.name());
    lines.push(format!("  staging    {} of {}", ByteSize(staging), ByteSize(status.staging_bytes_max)));
    lines.push(format!(
        "  traffic    {} received ({}), {} sent ({})",
        ByteSize(number(Counter::FetchedBytes.name())),
        rate(status.rates.fetched),
        ByteSize(number(Counter::SentBytes.name())),
        rate(status.rates.sent),
    ));
    lines.push(format!("  kernel     {}", kernel(&status.inside.kernel)));
    lines.push(format!("  trouble    {}", trouble(&status.inside.metrics)));
    lines.join("\n")
}

fn uploads(status: &MountStatus, now: UnixTime) -> Vec<String> {
    let totals = Totals::of(&status.inside);
    let mut lines = Vec::new();
    if totals.files == 0 {
        lines.push("  uploads    none pending, everything is in the bucket".to_owned());
    } else {
        lines.push(format!(
            "  uploads    {} pending, {} of {} sent ({} %), {}",
            totals.files,
            ByteSize(totals.sent_bytes),
            ByteSize(totals.bytes),
            percent(totals.sent_bytes, totals.bytes),
            rate(status.rates.sent),
        ));
    }
    if totals.interrupted > 0 {
        let files = count(totals.interrupted, "interrupted file");
        lines.push(format!("             {files} kept, see 'tetherfs uploads list'"));
    }
    for session in status.inside.sessions.iter().take(UPLOADS_SHOWN_MAX) {
        let key = printable(session.key.as_str());
        lines.push(format!(
            "    {key}  {}, {} % of {}, for {}",
            phase_word(session.state),
            percent(session.sent_bytes, session.bytes),
            ByteSize(session.bytes),
            age(session.since, now),
        ));
        lines.extend(session.last_error.as_ref().map(|error| format!("      {}", printable(error))));
    }
    let hidden = status.inside.sessions.len().saturating_sub(UPLOADS_SHOWN_MAX);
    if hidden > 0 {
        lines.push(format!("    and {hidden} more, see 'tetherfs uploads list'"));
    }
    lines
}

/// A directory on its way to another name.
fn moving(tree: &TreeStatus) -> String {
    let (source, target) = (printable(&tree.source), printable(&tree.target));
    let objects = count(usize::try_from(tree.objects).unwrap_or(usize::MAX), "object");
    let what = match tree.phase {
        TreePhase::Copying => format!("{objects} copied so far"),
        TreePhase::Removing => format!("{objects} copied, the old names are being removed"),
        TreePhase::Undoing => "given up, the copies are being removed".to_owned(),
    };
    format!("  moving     {source} to {target}, {what}")
}

/// What the kernel does for the mount.
fn kernel(status: &KernelStatus) -> String {
    let passthrough = match &status.passthrough {
        PassthroughStatus::On => "passthrough on".to_owned(),
        PassthroughStatus::Off { reason } => format!("passthrough off ({})", printable(reason)),
    };
    match status.read_ahead_kib {
        Some(kib) => format!("{passthrough}, reads {} ahead", ByteSize(u64::from(kib) << 10)),
        None => passthrough,
    }
}

fn commit_word(commit: CommitMode) -> &'static str {
    match commit {
        CommitMode::Close => "close",
        CommitMode::Background => "background",
        CommitMode::Remote => "remote",
    }
}

/// Counters that should be 0, those that are not.
fn trouble(metrics: &MetricsSnapshot) -> String {
    let watched = [
        (Counter::StoreErrors, "failed request"),
        (Counter::StoreRetries, "repeated request"),
        (Counter::FuseErrors, "failed call"),
        (Counter::Conflicts, "conflict"),
        (Counter::CacheDamaged, "damaged chunk"),
        (Counter::Quarantined, "quarantined file"),
        (Counter::TaskPanics, "panic"),
    ];
    let found: Vec<String> = watched
        .iter()
        .filter_map(|(counter, what)| {
            let number = metrics.0.get(counter.name()).copied().filter(|number| *number > 0)?;
            Some(count(usize::try_from(number).unwrap_or(usize::MAX), what))
        })
        .collect();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pending::tests::{inside, session};
    use crate::control::{Hello, Outage, Rates, VERSION};
    use crate::write::SessionPhase;

    fn mounted(sessions: Vec<crate::write::SessionStatus>) -> MountStatus {
        let hello = Hello {
            version: VERSION,
            release: "0.1.0".to_owned(),
            mountpoint: "/mnt/p".to_owned(),
            url: "s3://photos".to_owned(),
            pid: 42,
            started: UnixTime::from_secs(1000),
            phase: PhaseView::Serving,
        };
        MountStatus {
            hello,
            commit: CommitMode::Close,
            read_only: false,
            cache_bytes_max: 1 << 30,
            staging_bytes_max: 2 << 30,
            rates: Rates { sent: 2 << 20, fetched: 0 },
            outage: None,
            inside: inside(sessions),
        }
    }

    #[test]
    fn a_quiet_mount() {
        assert_eq!(
            describe(&mounted(vec![]), UnixTime::from_secs(1065)),
            "/mnt/p  s3://photos\n  \
             serving for 1m 5s, process 42, commit close\n  \
             uploads    none pending, everything is in the bucket\n  \
             cache      0 B of 1 GiB, not used yet\n  \
             staging    0 B of 2 GiB\n  \
             traffic    0 B received (0 B/s), 0 B sent (2 MiB/s)\n  \
             kernel     passthrough on, reads 1 MiB ahead\n  \
             trouble    none"
        );
    }

    #[test]
    fn a_busy_mount() {
        let mut stuck = session(2, SessionPhase::Stuck, 100, 0);
        stuck.last_error = Some("denied".to_owned());
        let mut status = mounted(vec![
            session(1, SessionPhase::Sending, 300, 100),
            stuck,
            session(3, SessionPhase::Interrupted, 5, 0),
        ]);
        status.outage = Some(Outage { since: UnixTime::from_secs(1053), why: "put off".to_owned() });
        status.inside.metrics.0.insert("store_errors".to_owned(), 2);
        let reason = "no\u{7} root".to_owned();
        status.inside.kernel =
            KernelStatus { passthrough: PassthroughStatus::Off { reason }, read_ahead_kib: None };
        status.inside.metrics.0.insert("cache_hits".to_owned(), 3);
        status.inside.metrics.0.insert("cache_misses".to_owned(), 1);
        let text = describe(&status, UnixTime::from_secs(1065));
        for part in [
            "bucket     not available for 12s, uploads wait: put off",
            "uploads    2 pending, 100 B of 400 B sent (25 %), 2 MiB/s",
            "1 interrupted file kept",
            "dir/1.bin  sending, 33 % of 300 B, for 1m 5s",
            "dir/2.bin  stuck, 0 % of 100 B, for 1m 5s\n      denied",
            "75 % of reads from it",
            "kernel     passthrough off (no",
            "trouble    2 failed requests",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
