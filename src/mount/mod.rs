//! Assembly in start order, signals, tear-down in reverse.
//!
//! Contract: lease, store, cache, reader, writer (with recovery), namespace, file operations, kernel session, control
//! socket, ready; and back. The mount serves as soon as it is there; recovery and uploads run behind it. However it ends,
//! what was acknowledged is in the bucket or in the state directory. The runtime is built here and nowhere else.

mod assembly;
mod daemon;
mod error;
mod life;
mod mountpoint;
mod notes;
mod operator;
mod phase;
mod rate;
mod signals;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::control::{Answer, Server};
use crate::fs::Status;
use crate::mount::assembly::{Assembly, assemble};
use crate::mount::life::Life;
use crate::mount::operator::Desk;
use crate::observe::task;

pub use assembly::make_private;
pub use daemon::{Report, Reporter, redirect_errors, start_behind};
pub use error::Error;
pub use mountpoint::{
    MountEntry, MountpointError, is_dead_mount_of_ours, mounted_at, mounts_of_ours,
    prepare as prepare_mountpoint, resolve as resolve_mountpoint,
};
pub use notes::VolumeNote;
pub use phase::Phase;
pub use signals::Signals;

/// Worker threads. Callbacks have threads of their own; these move bytes between sockets, memory and disk.
const WORKERS: (usize, usize) = (2, 8);
/// Longest wait for calls that block in the background when all is over.
const RUNTIME_WAIT_MAX: Duration = Duration::from_secs(2);
/// Wishes to end the mount that wait to be taken up; more than there are control connections.
const END_REQUESTS_MAX: usize = 32;

/// What a mount tells when it serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Uploads of an earlier mount that go on.
    pub recovered: usize,
    /// Whether the server answers.
    pub answers: bool,
}

/// Mounts and serves until it ends. `on_ready` is called when the mount can be used; if it fails, nobody wants the mount
/// any more and it is taken off again. Returns what was left at the end.
pub fn serve(config: Config, on_ready: impl FnOnce(Ready) -> io::Result<()>) -> Result<Status, Error> {
    raise_descriptor_limit();
    let runtime = runtime()?;
    let result = runtime.block_on(serve_on_runtime(config, on_ready));
    runtime.shutdown_timeout(RUNTIME_WAIT_MAX);
    result
}

/// Lets this process open as many files as it may. The usual soft limit of 1,024 is for programs that call select(2);
/// here each cached object that is open holds two descriptors, and each request and client one.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => log::debug!("Most open files: {maximum:?} instead of {current:?}"),
        Err(error) => log::warn!("At most {current:?} files can be open: {error}"),
    }
}

/// The runtime of this process.
pub fn runtime() -> io::Result<Runtime> {
    let (least, most) = WORKERS;
    let cores = std::thread::available_parallelism().map_or(least, |cores| cores.get());
    let workers = cores.clamp(least, most);
    Builder::new_multi_thread().worker_threads(workers).thread_name("tetherfs").enable_all().build()
}

async fn serve_on_runtime(
    config: Config,
    on_ready: impl FnOnce(Ready) -> io::Result<()>,
) -> Result<Status, Error> {
    let mut signals = Signals::catch()?;
    let assembly = tokio::select! {
        assembled = assemble(&config) => assembled?,
        name = signals.next() => return Err(Error::Interrupted(name)),
    };
    let Assembly { rooms, metrics, reach, recovered, lease } = assembly;
    let fs = Arc::clone(&rooms.fs);
    let (phase, phase_seen) = watch::channel(Phase::Starting);
    let (ends_sender, ends) = mpsc::channel(END_REQUESTS_MAX);
    let drain_timeout = config.drain_timeout;
    let control = config.control.clone();
    let ready = Ready { recovered, answers: reach.outage().is_none() };
    let desk = Desk::new(config, Arc::clone(&fs), metrics, reach, phase_seen, ends_sender);
    let life = Life { body: Arc::new(rooms), signals: signals.into_channel(), ends, phase, drain_timeout };

    let server = match Server::start(&control, Arc::clone(&desk) as Arc<dyn crate::control::Operator>) {
        Ok(server) => server,
        Err(error) => {
            life.cancel().await;
            return Err(error.into());
        }
    };
    if let Err(error) = on_ready(ready) {
        log::warn!("Nobody waits for the mount any more: {error}");
        server.close();
        life.cancel().await;
        return Err(Error::Interrupted("the loss of the command that asked for it"));
    }
    life.begin(recovered);
    let rates = task::spawn("rates", async move { desk.keep_rates().await });

    let waiting = life.run().await;
    rates.abort();
    let left = fs.status();
    drop(fs);
    drop(lease);
    // Only now: a successor may listen there, and take the lease, as soon as a client has its answer.
    server.close();
    for request in waiting {
        life::answer(request, Answer::Unmounted { left: left.clone() });
    }
    server.finished().await;
    Ok(left)
}

/// Whether a mount of ours without a living process is on `mountpoint`; if so it is taken off.
pub fn clear_dead_mount(mountpoint: &Path) -> io::Result<bool> {
    let is_dead = is_dead_mount_of_ours(mountpoint)?;
    if is_dead {
        mountpoint::detach(mountpoint)?;
    }
    Ok(is_dead)
}
