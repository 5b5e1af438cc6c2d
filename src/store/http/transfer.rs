//! A request body that tells how it gets on, and the clock that notices when it does not.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

/// How much of a body is handed to the connection at a time.
const PIECE_BYTES: usize = 256 << 10;
/// Most bytes that wait in socket buffers after we believe them sent (Linux grows them to 4 MiB).
const SOCKET_BUFFER_BYTES: u64 = 4 << 20;
/// The slowest link, in bytes a second, on which those buffers must still get out before we give up.
const SLOWEST_LINK: u64 = 64 << 10;

/// When a request last got on. Clones watch the same request.
#[derive(Clone, Debug)]
pub struct Progress {
    last: Arc<Mutex<Instant>>,
    /// Time that bytes we cannot see any more may need to leave the machine.
    drain: Duration,
}

impl Progress {
    /// Starts the clock for a request with a body of this length.
    pub fn begin(body_bytes: u64) -> Progress {
        let drain = Duration::from_millis(body_bytes.min(SOCKET_BUFFER_BYTES) * 1000 / SLOWEST_LINK);
        Progress { last: Arc::new(Mutex::new(Instant::now())), drain }
    }

    /// Returns when there was no progress for `stall_timeout`.
    pub async fn stalled(&self, stall_timeout: Duration) {
        loop {
            let deadline = self.last() + stall_timeout + self.drain;
            tokio::time::sleep_until(deadline).await;
            if self.last() + stall_timeout + self.drain <= Instant::now() {
                return;
            }
        }
    }

    fn last(&self) -> Instant {
        *self.last.lock().expect("no code panics while it holds this lock")
    }

    fn mark(&self) {
        *self.last.lock().expect("no code panics while it holds this lock") = Instant::now();
    }
}

/// A body of known length that marks progress whenever the connection takes a piece.
#[derive(Debug)]
pub struct SentBody {
    rest: Bytes,
    progress: Progress,
}

impl SentBody {
    /// A body of these bytes.
    pub fn new(bytes: Bytes, progress: Progress) -> SentBody {
        SentBody { rest: bytes, progress }
    }
}

impl Body for SentBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        self.progress.mark();
        let piece_bytes = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece_bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Duration = Duration::from_millis(150);

    #[tokio::test]
    async fn silence_is_a_stall_and_progress_is_not() {
        let begun = Instant::now();
        Progress::begin(0).stalled(STALL).await;
        assert!((STALL..STALL * 3).contains(&begun.elapsed()), "{:?}", begun.elapsed());

        let begun = Instant::now();
        let progress = Progress::begin(0);
        let mut body = SentBody::new(Bytes::from(vec![0; PIECE_BYTES + 1]), progress.clone());
        let sending = async {
            for _ in 0..2 {
                tokio::time::sleep(STALL * 2 / 3).await;
                let piece = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
                assert!(piece.is_some());
            }
        };
        tokio::join!(progress.stalled(STALL), sending);
        assert!(begun.elapsed() >= STALL * 2, "{:?}", begun.elapsed());
    }

    #[test]
    fn large_bodies_get_time_to_leave_the_socket_buffers() {
        assert_eq!(Progress::begin(0).drain, Duration::ZERO);
        assert_eq!(Progress::begin(64 << 10).drain, Duration::from_secs(1));
        assert_eq!(Progress::begin(1 << 40).drain, Duration::from_secs(64));
    }
}
