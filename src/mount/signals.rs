//! The signals that end a mount.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::observe::task;

/// Signals that wait to be taken up; the third one already has nothing left to hurry.
const SIGNALS_MAX: usize = 4;

/// SIGTERM, SIGINT and SIGHUP, caught from the moment this is made.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to catch. Must be called on a runtime.
    pub fn catch() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one and tells its name.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }

    /// Signals as messages, from now on.
    pub fn into_channel(mut self) -> mpsc::Receiver<&'static str> {
        let (sender, receiver) = mpsc::channel(SIGNALS_MAX);
        task::spawn("signals", async move { while sender.send(self.next().await).await.is_ok() {} });
        receiver
    }
}
