//! The daemon's end of the control socket.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::control::socket::{self, ControlError};
use crate::control::{Answer, Command, ErrorCode, Options, Request, VERSION};
use crate::observe::task;

/// Connections at once; a further one waits in the listener's queue.
const CONNECTIONS_MAX: usize = 16;
/// Longest request line, in bytes: room for as many paths as fit on a command line.
pub const REQUEST_BYTES_MAX: u64 = 2 << 20;
/// Longest silence before a connection is closed.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// Longest a client may take to read an answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest that [`Server::finished`] waits for answers on their way.
const FINISH_WAIT_MAX: Duration = Duration::from_secs(2);
/// What a socket's name ends in while nobody is to find it; no longer than what it ends in later.
const UNSEEN_SUFFIX: &str = "new";
/// Wait after a failed accept (no descriptors left), so that it does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Does what clients want.
#[async_trait]
pub trait Operator: Send + Sync + 'static {
    /// Does one command. The connection waits for it, others do not.
    async fn answer(&self, command: Command) -> Answer;
}

/// A listening control socket.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// `None` once closed: the path may be a successor's from then on.
    accepting: Mutex<Option<JoinHandle<()>>>,
    /// One permit for each answer being made or sent.
    answering: Arc<Semaphore>,
}

impl Server {
    /// Listens. Must be called on the runtime that is to answer.
    pub fn start(options: &Options, operator: Arc<dyn Operator>) -> Result<Server, ControlError> {
        let path = socket::place(&options.directories, &socket::socket_name(&options.mountpoint))?;
        if socket::is_alive(&path) {
            return Err(ControlError::InUse { path });
        }
        let listener = listen(&path)
            .map_err(|error| ControlError::NoDirectory { reasons: format!("{}: {error}", path.display()) })?;
        let answering = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let accepting = task::spawn("control-accept", accept(listener, operator, Arc::clone(&answering)));
        Ok(Server { path, accepting: Mutex::new(Some(accepting)), answering })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes no more connections and removes the socket, so that a successor can listen there. Answers under way go on.
    pub fn close(&self) {
        let accepting = self.accepting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(accepting) = accepting else {
            return;
        };
        accepting.abort();
        if let Err(error) = fs::remove_file(&self.path) {
            log::debug!("Cannot remove the control socket {}: {error}", self.path.display());
        }
    }

    /// Waits until every answer under way has been sent, for two seconds at most.
    pub async fn finished(&self) {
        let all = u32::try_from(CONNECTIONS_MAX).expect("the limit is small");
        if timeout(FINISH_WAIT_MAX, self.answering.acquire_many(all)).await.is_err() {
            log::debug!("A control client did not take its answer in time");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

/// Listens under another name first: whoever finds a socket that nobody listens on takes its daemon for dead and
/// removes it, and between bind(2) and listen(2) that would be ours.
fn listen(path: &Path) -> io::Result<UnixListener> {
    let unseen = path.with_extension(UNSEEN_SUFFIX);
    match fs::remove_file(&unseen) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(&unseen)?;
    fs::set_permissions(&unseen, fs::Permissions::from_mode(0o600))?;
    fs::rename(&unseen, path)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, operator: Arc<dyn Operator>, answering: Arc<Semaphore>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let permit = Arc::clone(&connections).acquire_owned().await.expect("nobody closes this semaphore");
        match listener.accept().await {
            Ok((stream, _)) => {
                let (operator, answering) = (Arc::clone(&operator), Arc::clone(&answering));
                task::spawn("control-connection", async move {
                    if let Err(error) = converse(stream, &*operator, &answering).await {
                        log::debug!("Control connection ended: {error}");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                log::warn!("Cannot accept a control connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers line after line until the client goes away, is silent for too long or sends no lines.
async fn converse(stream: UnixStream, operator: &dyn Operator, answering: &Semaphore) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != rustix::process::geteuid().as_raw() && peer != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("user {peer} is a stranger")));
    }
    let (read_half, mut write_half) = stream.into_split();
    let mut reader = BufReader::new(read_half);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(REQUEST_BYTES_MAX);
        if timeout(SILENCE_MAX, limited.read_until(b'\n', &mut line)).await?? == 0 {
            return Ok(());
        }
        let is_whole = line.ends_with(b"\n");
        let _permit = answering.acquire().await.expect("nobody closes this semaphore");
        let answer = match understand(&line) {
            Ok(command) if is_whole => operator.answer(command).await,
            Ok(_) => bad_request("the line has no end"),
            Err(answer) => answer,
        };
        let mut text = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        text.push(b'\n');
        timeout(ANSWER_WAIT_MAX, write_half.write_all(&text)).await??;
        if !is_whole {
            return Ok(());
        }
    }
}

fn understand(line: &[u8]) -> Result<Command, Answer> {
    /// What a request of any version has.
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    let versioned: Versioned = serde_json::from_slice(line).map_err(|e| bad_request(&e.to_string()))?;
    if versioned.version != VERSION {
        let message = format!(
            "this mount was started by another release (control protocol {VERSION}, asked for {}); \
             use that release's command, or umount(8)",
            versioned.version
        );
        return Err(Answer::Error { code: ErrorCode::Version, message });
    }
    let request: Request = serde_json::from_slice(line).map_err(|e| bad_request(&e.to_string()))?;
    Ok(request.command)
}

fn bad_request(why: &str) -> Answer {
    Answer::Error { code: ErrorCode::BadRequest, message: format!("this is no request: {why}") }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
