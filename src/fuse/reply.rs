//! Running an operation for a kernel request: inline while it does not wait, in a task once it does.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::fs::{Error, FileSystem, Result};
use crate::observe::{Counter, task};

/// Longest that a request which has no deadline of its own may wait. The caller cannot be interrupted meanwhile.
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);

/// Where operations run and what they are counted by.
#[derive(Clone, Debug)]
pub(crate) struct Runner {
    pub(crate) fs: Arc<FileSystem>,
    pub(crate) runtime: tokio::runtime::Handle,
}

/// How long an operation may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Deadline {
    /// The general one.
    Request,
    /// The operation ends by itself: reads and commits stop when there is no progress.
    Own,
}

impl Runner {
    /// Starts `operation` on this thread and gives its result to `answer` if it is ready at once; otherwise it goes on
    /// in a task. An answer that is dropped, by a panic for instance, tells the caller EIO.
    pub(crate) fn run<T, F, A>(&self, name: &'static str, deadline: Deadline, operation: F, answer: A)
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
        A: FnOnce(Result<T, i32>) + Send + 'static,
    {
        let metrics = self.fs.metrics().clone();
        metrics.add(Counter::FuseRequests, 1);
        let finish = move |result: Result<T>| {
            let result = result.map_err(|error| {
                if error.is_unexpected() {
                    metrics.add(Counter::FuseErrors, 1);
                    log::warn!("{name}: {error}");
                } else {
                    log::debug!("{name}: {error}");
                }
                error.errno()
            });
            answer(result);
        };
        let _on_runtime = self.runtime.enter();
        let mut operation = Box::pin(operation);
        let first = catch_unwind(AssertUnwindSafe(|| {
            operation.as_mut().poll(&mut Context::from_waker(Waker::noop()))
        }));
        match first {
            Ok(Poll::Ready(result)) => finish(result),
            Ok(Poll::Pending) => {
                task::spawn_on(&self.runtime, name, async move {
                    let result = match deadline {
                        Deadline::Own => operation.await,
                        Deadline::Request => match tokio::time::timeout(REQUEST_DEADLINE, operation).await {
                            Ok(result) => result,
                            Err(_) => Err(Error::TimedOut(format!("no answer within {REQUEST_DEADLINE:?}"))),
                        },
                    };
                    finish(result);
                });
            }
            Err(_) => self.panicked(name),
        }
    }

    /// Runs a call that does not wait, for a request without an operation to await. `None` after a panic.
    pub(crate) fn call<T>(&self, name: &'static str, call: impl FnOnce() -> T) -> Option<T> {
        self.fs.metrics().add(Counter::FuseRequests, 1);
        let _on_runtime = self.runtime.enter();
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(value) => Some(value),
            Err(_) => {
                self.panicked(name);
                None
            }
        }
    }

    fn panicked(&self, name: &'static str) {
        self.fs.metrics().add(Counter::TaskPanics, 1);
        log::error!("{name} panicked; this is a defect in tetherfs, please report it");
    }
}
