//! The commands' end of the control socket. Blocking: a command does one thing at a time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::socket;
use crate::control::{Answer, Command, ErrorCode, Hello, Request, VERSION};

/// Longest wait for an answer that needs no work.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest answer, in bytes; a status has some hundred bytes an upload.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Why a daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens for this mountpoint.
    #[error("no tetherfs is mounted on {}", mountpoint.display())]
    NotRunning {
        /// Where one was looked for.
        mountpoint: PathBuf,
    },
    /// The daemon does not answer, or hung up.
    #[error("the mount does not answer: {0}")]
    Silent(#[from] io::Error),
    /// The daemon says something else than a client of this release understands.
    #[error("the mount answers something unknown; it was started by another release")]
    Strange,
    /// The daemon refuses.
    #[error("{message}")]
    Refused {
        /// What kind of refusal.
        code: ErrorCode,
        /// Why.
        message: String,
    },
}

/// A conversation with one daemon.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    hello: Hello,
}

impl Client {
    /// The daemon that serves `mountpoint` (an absolute path).
    pub fn connect(directories: &[PathBuf], mountpoint: &Path) -> Result<Client, ClientError> {
        match listening(directories, mountpoint) {
            Some(path) => Client::open(&path),
            None => Err(ClientError::NotRunning { mountpoint: mountpoint.to_owned() }),
        }
    }

    /// Whether a process of this user listens for `mountpoint`, which does not mean that it answers.
    pub fn is_listening(directories: &[PathBuf], mountpoint: &Path) -> bool {
        listening(directories, mountpoint).is_some()
    }

    /// Every daemon of this user that answers, by mountpoint.
    pub fn all(directories: &[PathBuf]) -> Vec<Client> {
        let sockets = socket::all(directories).into_iter().filter(|path| socket::is_alive(path));
        let mut clients: Vec<Client> = sockets.filter_map(|path| Client::open(&path).ok()).collect();
        clients.sort_by(|a, b| a.hello.mountpoint.cmp(&b.hello.mountpoint));
        clients
    }

    fn open(path: &Path) -> Result<Client, ClientError> {
        let mut reader = BufReader::new(UnixStream::connect(path)?);
        match ask(&mut reader, Command::Hello, ANSWER_WAIT_MAX)? {
            Answer::Hello(hello) => Ok(Client { reader, hello }),
            Answer::Error { code, message } => Err(ClientError::Refused { code, message }),
            Answer::Status(_)
            | Answer::Drain(_)
            | Answer::Sealed { .. }
            | Answer::Retried { .. }
            | Answer::Resolved { .. }
            | Answer::Unmounted { .. }
            | Answer::Cache(_)
            | Answer::Done => Err(ClientError::Strange),
        }
    }

    /// Who the daemon is, as it said when the conversation began.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Asks, and waits as long as the command itself may take and a little more. `None` waits without end.
    /// A refusal is an error.
    pub fn call(&mut self, command: Command, may_take: Option<Duration>) -> Result<Answer, ClientError> {
        let wait = may_take.map_or(Duration::MAX, |may_take| may_take.saturating_add(ANSWER_WAIT_MAX));
        match ask(&mut self.reader, command, wait)? {
            Answer::Error { code, message } => Err(ClientError::Refused { code, message }),
            answer @ (Answer::Hello(_)
            | Answer::Status(_)
            | Answer::Drain(_)
            | Answer::Sealed { .. }
            | Answer::Retried { .. }
            | Answer::Resolved { .. }
            | Answer::Unmounted { .. }
            | Answer::Cache(_)
            | Answer::Done) => Ok(answer),
        }
    }

    /// Waits until the daemon's process has ended, for `wait` at most.
    pub fn wait_for_end(self, wait: Duration) {
        let mut stream = self.reader.into_inner();
        let mut rest = [0; 64];
        let result = stream.set_read_timeout(Some(wait)).and_then(|()| stream.read(&mut rest));
        if let Err(error) = result {
            log::debug!("The daemon did not hang up: {error}");
        }
    }
}

/// A read that took too long fails as one that would block (socket(7)), which tells users nothing.
fn in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::Error::new(io::ErrorKind::TimedOut, "it took too long"),
        _ => error,
    }
}

/// The socket of the daemon of a mountpoint.
fn listening(directories: &[PathBuf], mountpoint: &Path) -> Option<PathBuf> {
    let name = socket::socket_name(mountpoint);
    let trusted = directories.iter().filter(|directory| socket::check_private(directory).is_ok());
    trusted.map(|directory| directory.join(&name)).find(|path| socket::is_alive(path))
}

fn ask(reader: &mut BufReader<UnixStream>, command: Command, wait: Duration) -> Result<Answer, ClientError> {
    let wait = (wait != Duration::MAX).then_some(wait);
    let mut stream = reader.get_ref();
    stream.set_read_timeout(wait)?;
    stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
    let mut line = serde_json::to_vec(&Request { version: VERSION, command }).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = Vec::new();
    reader.take(ANSWER_BYTES_MAX).read_until(b'\n', &mut answer).map_err(in_words)?;
    if answer.is_empty() {
        return Err(ClientError::Silent(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up")));
    }
    serde_json::from_slice(&answer).map_err(|_| ClientError::Strange)
}
