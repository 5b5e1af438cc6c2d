//! Tasks and threads with names; the only place that starts any.

use std::future::Future;
use std::io;
use std::thread;

use tokio::task::JoinHandle;

/// Starts a task on the current runtime. A panic in it is logged with the task's name; the handle reports it too.
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(watched(name, future))
}

/// Starts a task on a given runtime, for callers that are not on one.
pub fn spawn_on<F>(runtime: &tokio::runtime::Handle, name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    runtime.spawn(watched(name, future))
}

/// Runs a call that blocks (disk) on the runtime's blocking threads.
pub fn spawn_blocking<F, T>(name: &'static str, call: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    tokio::task::spawn_blocking(move || {
        let _alarm = Alarm { name };
        call()
    })
}

/// Starts an operating system thread.
pub fn thread<F>(name: &'static str, body: F) -> io::Result<thread::JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _alarm = Alarm { name };
        body();
    })
}

async fn watched<F: Future>(name: &'static str, future: F) -> F::Output {
    let _alarm = Alarm { name };
    future.await
}

/// Speaks up when it is dropped by a panic.
struct Alarm {
    name: &'static str,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            log::error!("Task {} panicked; this is a defect in tetherfs, please report it", self.name);
        }
    }
}
