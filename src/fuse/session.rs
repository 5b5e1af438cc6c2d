//! One mount from its beginning to its end.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use fuser::{Config, SessionACL};
use tokio::sync::watch;

use crate::fs::FileSystem;
use crate::fuse::adapter::Adapter;
use crate::fuse::notify::NotifyQueue;
use crate::fuse::reply::Runner;
use crate::fuse::{MountError, Options, device};
use crate::observe::task;

/// Threads that read requests. Answers that need waiting move to the runtime, so a few are enough.
const THREADS_MIN: usize = 2;
const THREADS_MAX: usize = 8;

/// A mount that is being served.
#[derive(Debug)]
pub struct Session {
    mountpoint: PathBuf,
    ended: watch::Receiver<bool>,
}

impl Session {
    /// Mounts and starts to serve. Callbacks run on threads of their own, their waiting on `runtime`.
    pub fn mount(
        fs: Arc<FileSystem>,
        runtime: tokio::runtime::Handle,
        options: &Options,
    ) -> Result<Session, MountError> {
        let refused = |reason: String| MountError::Refused { mountpoint: options.mountpoint.clone(), reason };
        let fd = device::mount(options).map_err(|error| refused(explain(&error)))?;
        let acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(threads());
        let adapter = Adapter { runner: Runner { fs: fs.clone(), runtime }, backings: Arc::default() };
        let started = fuser::Session::from_fd(adapter, fd, acl, config).and_then(|session| {
            let notifier = NotifyQueue::start(session.notifier())?;
            fs.set_invalidator(Arc::new(notifier));
            let (done, ended) = watch::channel(false);
            task::thread("fuse-session", move || {
                if let Err(error) = session.run() {
                    log::warn!("The kernel session ended with an error: {error}");
                }
                // Nobody waiting is fine: then nobody needs to know.
                let _ = done.send(true);
            })?;
            Ok(ended)
        });
        match started {
            Ok(ended) => {
                if let Some(kib) = device::widen_readahead(&options.mountpoint) {
                    fs.note_read_ahead(kib);
                }
                Ok(Session { mountpoint: options.mountpoint.clone(), ended })
            }
            Err(error) => {
                if let Err(left) = device::unmount(&options.mountpoint, true) {
                    log::warn!("{} stays mounted: {left}", options.mountpoint.display());
                }
                Err(refused(format!("the kernel does not answer: {error}")))
            }
        }
    }

    /// Takes the mount off its directory. Without `detach` it fails with EBUSY while files are open.
    pub fn unmount(&self, detach: bool) -> io::Result<()> {
        device::unmount(&self.mountpoint, detach)
    }

    /// Waits until the kernel has ended the session (by us or by `umount`) and every callback has returned.
    pub async fn ended(&self) {
        let mut ended = self.ended.clone();
        // Err: the serving thread is gone, which is an end too.
        let _ = ended.wait_for(|ended| *ended).await;
    }
}

fn threads() -> usize {
    std::thread::available_parallelism()
        .map_or(THREADS_MIN, |cores| cores.get().clamp(THREADS_MIN, THREADS_MAX))
}

/// What to do about a mount that was refused.
fn explain(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "FUSE is not available: load the kernel module (`modprobe fuse`) and, unless you are root, install the package fuse3"
        }
        io::ErrorKind::PermissionDenied => {
            "mounting is not permitted: run as root, or install fuse3 and make /dev/fuse accessible"
        }
        _ if error.to_string().contains("user_allow_other") => {
            "--allow-other needs the line `user_allow_other` in /etc/fuse.conf, unless you are root"
        }
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}
