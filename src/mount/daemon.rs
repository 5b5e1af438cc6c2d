//! Going into the background, and telling whoever waits how it went.
//!
//! The command starts itself again with a pipe as standard output and waits for one line on it: ready, or the error with
//! its exit code. There is no fork() without exec, because threads do not survive it. The child leaves the terminal's
//! session; when its line cannot be delivered, the user has given up, and so does the mount.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

/// Longest line taken from the child, in bytes.
const REPORT_BYTES_MAX: u64 = 64 << 10;
/// A log file larger than this is put aside when a mount starts.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// What the process in the background tells the one that waits.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
pub enum Report {
    /// The mount is being served.
    Ready {
        /// The daemon.
        pid: u32,
        /// Where log lines go.
        log: Option<String>,
        /// Uploads of an earlier mount that go on.
        recovered: usize,
        /// Whether the server answers.
        answers: bool,
    },
    /// It did not come to that.
    Failed {
        /// The exit code to end with.
        exit: u8,
        /// What and why.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
}

/// Runs `command`, whose standard output must be a [`Reporter`]'s, and waits for its report.
/// `None` when it ended without one; the text says how.
pub fn start_behind(mut command: Command) -> io::Result<Result<Report, String>> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let pipe = child.stdout.take().expect("standard output was asked to be a pipe");
    let mut line = Vec::new();
    BufReader::new(pipe.take(REPORT_BYTES_MAX)).read_until(b'\n', &mut line)?;
    if let Ok(report) = serde_json::from_slice(&line) {
        return Ok(Ok(report));
    }
    if !line.is_empty() {
        // Not one of ours: it may go on for ever.
        child.kill()?;
    }
    let status = child.wait()?;
    Ok(Err(status.to_string()))
}

/// The child's end of the pipe.
#[derive(Debug)]
pub struct Reporter {
    pipe: File,
}

impl Reporter {
    /// Leaves the terminal: own session, standard output freed for nobody, the pipe kept for the report.
    pub fn leave_terminal() -> io::Result<Reporter> {
        rustix::process::setsid()?;
        let pipe = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
        rustix::stdio::dup2_stdout(&nowhere)?;
        Ok(Reporter { pipe })
    }

    /// A reporter over any file.
    pub fn over(pipe: File) -> Reporter {
        Reporter { pipe }
    }

    /// Sends the report. Fails when nobody waits for it any more.
    pub fn report(mut self, report: &Report) -> io::Result<()> {
        let mut line = serde_json::to_vec(report).map_err(io::Error::other)?;
        line.push(b'\n');
        self.pipe.write_all(&line)
    }
}

/// Sends standard error, where panics go, to the log file. One that has grown too large becomes `NAME.old` first.
pub fn redirect_errors(log: &Path) -> io::Result<()> {
    if fs::metadata(log).is_ok_and(|found| found.is_file() && found.len() > LOG_BYTES_MAX) {
        let mut aside = log.as_os_str().to_owned();
        aside.push(".old");
        fs::rename(log, aside)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    Ok(rustix::stdio::dup2_stderr(&file)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn the_report_arrives_while_the_child_lives_on() {
        let folder = tempfile::tempdir().unwrap();
        let ended = folder.path().join("ended");
        let report = Report::Ready { pid: 7, log: Some("/l".to_owned()), recovered: 2, answers: true };
        let line = serde_json::to_string(&report).unwrap();
        let script = format!("echo '{line}'; exec >/dev/null; sleep 0.5; : > {}", ended.display());
        assert_eq!(start_behind(shell(&script)).unwrap(), Ok(report));
        assert!(!ended.exists(), "the parent does not wait for the child's end");
    }

    #[test]
    fn a_child_that_dies_silently_or_talks_nonsense_is_told_of() {
        assert_eq!(start_behind(shell("exit 3")).unwrap(), Err("exit status: 3".to_owned()));
        assert!(start_behind(shell("kill -9 $$")).unwrap().unwrap_err().contains("signal: 9"));
        assert!(start_behind(shell("echo nonsense; exec sleep 60")).unwrap().is_err());
        assert!(start_behind(shell("exec cat /dev/zero")).unwrap().is_err());
        assert!(start_behind(Command::new("/no/such/program")).is_err());
    }

    #[test]
    fn an_error_keeps_its_words_and_its_exit_code() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let report = Report::Failed { exit: 4, message: "a \"b\"\nc".to_owned(), hint: Some("d".to_owned()) };
        Reporter::over(File::create(&path).unwrap()).report(&report).unwrap();
        assert_eq!(start_behind(shell(&format!("cat {}", path.display()))).unwrap(), Ok(report));
    }

    #[test]
    fn a_report_that_nobody_reads_fails() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let report = Report::Ready { pid: 1, log: None, recovered: 0, answers: true };
        assert_eq!(Reporter::over(file).report(&report).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
