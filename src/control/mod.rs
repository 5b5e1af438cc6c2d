//! The door to the operator: a Unix socket that speaks JSON lines.
//!
//! Contract: one request a line, one answer a line, in order, on any number of lines a connection. Whatever a client
//! sends is answered or the connection is closed; nothing it sends stops the daemon. Connections, line lengths and
//! waits are bounded. Only the user who mounted, and root, get in: the directory and the peer's credentials are checked.
//! What a command does is decided above, by the [`Operator`].

mod cache;
mod client;
mod protocol;
mod server;
mod socket;

use std::path::PathBuf;

pub use cache::{CacheAnswer, CacheCommand};
pub use client::{Client, ClientError};
pub use protocol::{
    Answer, Command, DrainProgress, ErrorCode, Hello, MountStatus, Outage, PhaseView, Rates, Request,
    Unsealed, VERSION,
};
pub use server::{Operator, REQUEST_BYTES_MAX, Server};
pub use socket::{ControlError, socket_name};

/// Where the socket goes and whose it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Directories to put the socket in; the first that can be used is.
    pub directories: Vec<PathBuf>,
    /// The mount that it controls, as an absolute path.
    pub mountpoint: PathBuf,
}
