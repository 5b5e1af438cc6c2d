//! From ready to stopped: waits for whoever ends the mount, drains, and takes it apart.
//!
//! The kernel side is taken off first where it can be, so that nothing new is written while the rest is uploaded. While
//! programs have files open a signal drains below them and detaches at its deadline; a client is told that it is busy.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::control::{Answer, ErrorCode};
use crate::fs::FileSystem;
use crate::fuse::Session;
use crate::mount::operator::EndRequest;
use crate::mount::phase::{Cause, Patience, Phase};
use crate::observe::task;

/// Longest that programs with open files keep a detached mount from ending.
const DETACHED_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is ended: the rooms below, or what stands for them in tests.
#[async_trait]
pub trait Body: Send + Sync + 'static {
    /// Takes the mount off its directory; with [`Detach::No`] it fails while files are open. May block.
    fn unmount(&self, detach: Detach) -> io::Result<()>;
    /// Waits until the kernel has ended the session.
    async fn ended(&self);
    /// Waits until all is in the bucket or cannot go on.
    async fn drained(&self);
    /// Stops; what is not in the bucket goes on at the next mount.
    async fn shutdown(&self);
}

/// Whether a mount is taken off while files are open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Detach {
    /// It is, and ends when they are closed.
    Yes,
    /// It is not.
    No,
}

/// The rooms of a mount.
#[derive(Debug)]
pub struct Rooms {
    /// The file operations.
    pub fs: Arc<FileSystem>,
    /// The kernel's side.
    pub session: Session,
}

#[async_trait]
impl Body for Rooms {
    fn unmount(&self, detach: Detach) -> io::Result<()> {
        self.session.unmount(detach == Detach::Yes)
    }

    async fn ended(&self) {
        self.session.ended().await;
    }

    async fn drained(&self) {
        self.fs.drained().await;
    }

    async fn shutdown(&self) {
        self.fs.shutdown().await;
    }
}

/// A mount that is being served.
pub struct Life {
    /// What is ended.
    pub body: Arc<dyn Body>,
    /// Names of signals that came.
    pub signals: mpsc::Receiver<&'static str>,
    /// Clients' wishes to end it.
    pub ends: mpsc::Receiver<EndRequest>,
    /// What it is doing, for all to see.
    pub phase: watch::Sender<Phase>,
    /// How long a signal lets uploads go on.
    pub drain_timeout: Duration,
}

/// What happens to a mount.
enum News {
    Signal(&'static str),
    EndWanted(EndRequest),
    KernelEnded,
    Drained,
    DeadlineReached,
}

impl Life {
    /// The mount can be used.
    pub fn begin(&self, recovered: usize) {
        self.enter(if recovered > 0 { Phase::Recovering } else { Phase::Serving });
    }

    /// Takes a mount apart that nobody has used yet.
    pub async fn cancel(self) {
        self.let_go().await;
        self.body.shutdown().await;
        self.enter(Phase::Stopped);
    }

    /// Serves until somebody ends it and everything is uploaded or parked. Returns the clients to be answered.
    pub async fn run(mut self) -> Vec<EndRequest> {
        let mut waiting = Vec::new();
        let cause = self.serve(&mut waiting).await;
        self.drain(cause, &mut waiting).await;
        self.body.shutdown().await;
        self.enter(Phase::Stopped);
        waiting
    }

    /// Serves until somebody ends it.
    async fn serve(&mut self, waiting: &mut Vec<EndRequest>) -> Cause {
        loop {
            let is_recovering = *self.phase.borrow() == Phase::Recovering;
            match self.next(is_recovering, None).await {
                News::Signal(name) => {
                    log::info!("{name}: ending; once more to end at once");
                    if let Err(error) = self.unmount(Detach::No).await {
                        log::info!("Still in use, uploading below it: {error}");
                    }
                    return Cause::Signal;
                }
                News::KernelEnded => {
                    log::info!("Unmounted from outside; uploading what is left");
                    return Cause::KernelEnded;
                }
                News::EndWanted(request) => match self.unmount(Detach::No).await {
                    Ok(()) => {
                        let cause = Cause::Asked { wait: request.wait };
                        waiting.push(request);
                        return cause;
                    }
                    Err(error) => answer(request, refusal(&error)),
                },
                News::Drained => self.enter(Phase::Serving),
                News::DeadlineReached => unreachable!("a serving mount has no deadline"),
            }
        }
    }

    /// Uploads what is left, for as long as the most impatient one waits, and lets the kernel go.
    async fn drain(&mut self, cause: Cause, waiting: &mut Vec<EndRequest>) {
        let mut patience = Patience::new(cause, self.drain_timeout, Instant::now());
        loop {
            self.enter(Phase::Draining { deadline: patience.deadline() });
            match self.next(true, patience.deadline()).await {
                News::Signal(name) => {
                    log::info!("{name}: ending sooner");
                    patience.signal(Instant::now());
                }
                News::EndWanted(request) => {
                    patience.asked(request.wait, Instant::now());
                    waiting.push(request);
                }
                News::KernelEnded => unreachable!("not waited for while draining"),
                News::Drained => break,
                News::DeadlineReached => {
                    log::warn!("The time for uploads is over; the rest goes on at the next mount");
                    break;
                }
            }
        }
        self.let_go().await;
    }

    /// The only place that waits. The end of the kernel's side is news while serving, what is drained when asked for.
    async fn next(&mut self, until_drained: bool, deadline: Option<Instant>) -> News {
        let is_serving = matches!(*self.phase.borrow(), Phase::Recovering | Phase::Serving);
        let patience = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(name) = self.signals.recv() => News::Signal(name),
            Some(request) = self.ends.recv() => News::EndWanted(request),
            () = self.body.ended(), if is_serving => News::KernelEnded,
            () = patience => News::DeadlineReached,
            () = self.body.drained(), if until_drained => News::Drained,
        }
    }

    /// Ends the kernel's side, whoever still has files open.
    async fn let_go(&self) {
        if timeout(Duration::ZERO, self.body.ended()).await.is_ok() {
            return;
        }
        if let Err(error) = self.unmount(Detach::Yes).await {
            log::debug!("Detaching: {error}");
        }
        if timeout(DETACHED_WAIT_MAX, self.body.ended()).await.is_err() {
            log::warn!("Programs still have files open; their next call fails");
        }
    }

    /// Takes the mount off and waits until the kernel has ended the session.
    async fn unmount(&self, detach: Detach) -> io::Result<()> {
        let body = Arc::clone(&self.body);
        let unmounting = task::spawn_blocking("unmount", move || body.unmount(detach));
        unmounting.await.map_err(io::Error::other)??;
        if timeout(DETACHED_WAIT_MAX, self.body.ended()).await.is_err() {
            log::debug!("The kernel has not ended the session yet");
        }
        Ok(())
    }

    fn enter(&self, next: Phase) {
        let before = self.phase.send_replace(next);
        debug_assert!(before.may_become(next), "{before:?} cannot become {next:?}");
        log::debug!("{before:?} becomes {next:?}");
    }
}

fn refusal(error: &io::Error) -> Answer {
    if error.kind() == io::ErrorKind::ResourceBusy {
        let message = "programs have files of it open".to_owned();
        return Answer::Error { code: ErrorCode::Busy, message };
    }
    Answer::Error { code: ErrorCode::Failed, message: format!("cannot unmount: {error}") }
}

/// Answers a client. One that has gone away needs no answer.
pub fn answer(request: EndRequest, answer: Answer) {
    if request.reply.send(answer).is_err() {
        log::debug!("The client that asked to unmount has gone");
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
