//! Bodies on their way through the door: counted, slowed, stalled, damaged or cut.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use s3s::StdError;
use tokio::time::{Instant, Sleep};

use crate::bucket::door::faults::Shape;

/// Bytes let through at a time when the speed is limited: small enough that the limit is smooth.
const PACED_BYTES_MAX: usize = 64 << 10;
/// Pieces a second, at least, when the speed is so low that they are smaller than that.
const PACED_PIECES_PER_S: u64 = 4;

/// Wait before a cut, so that what was let through has left for the client.
const CUT_GRACE: Duration = Duration::from_millis(20);

/// A speed limit, shared by all who go through it.
#[derive(Debug)]
pub struct Pace {
    bytes_per_s: u64,
    /// When what was let through so far has passed.
    busy_until: Mutex<Instant>,
}

impl Pace {
    /// A limit of `bytes_per_s`, at least 1.
    pub fn new(bytes_per_s: u64) -> Arc<Pace> {
        Arc::new(Pace { bytes_per_s: bytes_per_s.max(1), busy_until: Mutex::new(Instant::now()) })
    }

    /// Bytes that go through together.
    fn piece(&self) -> usize {
        let piece = usize::try_from(self.bytes_per_s / PACED_PIECES_PER_S).unwrap_or(usize::MAX);
        piece.clamp(1, PACED_BYTES_MAX)
    }

    /// When these bytes will have passed.
    fn reserve(&self, bytes: usize) -> Instant {
        let mut busy_until = self.busy_until.lock().unwrap_or_else(PoisonError::into_inner);
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        *busy_until = (*busy_until).max(Instant::now()) + takes;
        *busy_until
    }
}

/// Where the bytes are counted.
pub type Meter = Box<dyn Fn(u64) + Send + Sync>;

/// The error of a body that a rule has cut.
#[derive(Debug, thiserror::Error)]
#[error("cut by a fault rule")]
pub struct Cut;

/// A body with a shape.
pub struct Shaped<B> {
    inner: B,
    shape: Shape,
    paces: Vec<Arc<Pace>>,
    meter: Meter,
    /// Called when the body is cut.
    on_cut: Option<Box<dyn FnOnce() + Send + Sync>>,
    grace_given: bool,
    passed: u64,
    /// Of the last frame, not yet let through.
    rest: Bytes,
    /// Let through when the wait is over.
    held: Option<Bytes>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl<B> Shaped<B> {
    /// Wraps a body; `paces` slow it together with others, the shape's own limit slows it alone.
    pub fn new(inner: B, shape: Shape, mut paces: Vec<Arc<Pace>>, meter: Meter) -> Shaped<B> {
        paces.extend(shape.bandwidth.map(Pace::new));
        Shaped {
            inner,
            shape,
            paces,
            meter,
            on_cut: None,
            grace_given: false,
            passed: 0,
            rest: Bytes::new(),
            held: None,
            wait: None,
        }
    }

    /// Calls this when the body is cut.
    pub fn on_cut(mut self, act: impl FnOnce() + Send + Sync + 'static) -> Shaped<B> {
        self.on_cut = Some(Box::new(act));
        self
    }

    /// Bytes that may pass in one go from here: up to the next place where something happens.
    fn step(&self) -> usize {
        let mut step = self.paces.iter().map(|pace| pace.piece()).min().unwrap_or(usize::MAX);
        for at in [self.shape.cut, self.shape.end, self.shape.stall.map(|(at, _)| at)].into_iter().flatten() {
            if at > self.passed {
                step = step.min(usize::try_from(at - self.passed).unwrap_or(usize::MAX));
            }
        }
        step
    }

    /// Takes the next bytes out of `rest` and flips one if it is the one.
    fn take(&mut self) -> Bytes {
        let bytes = self.rest.split_to(self.step().min(self.rest.len()));
        match self.shape.flip.and_then(|at| at.checked_sub(self.passed)) {
            Some(at) if at < bytes.len() as u64 => {
                let mut damaged = bytes.to_vec();
                damaged[at as usize] ^= 0xff;
                damaged.into()
            }
            Some(_) | None => bytes,
        }
    }

    /// Whether it ends here, though there would be more.
    fn has_ended(&self) -> bool {
        self.shape.end.is_some_and(|end| self.passed >= end)
    }

    fn pass(&mut self, bytes: Bytes) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        self.passed += bytes.len() as u64;
        (self.meter)(bytes.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}

impl<B> Body for Shaped<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(context));
                this.wait = None;
            }
            if let Some(bytes) = this.held.take() {
                return this.pass(bytes);
            }
            if let Some((at, pause)) = this.shape.stall
                && this.passed >= at
            {
                this.shape.stall = None;
                this.wait = Some(Box::pin(tokio::time::sleep(pause)));
                continue;
            }
            if this.shape.cut.is_some_and(|at| this.passed >= at) {
                if !std::mem::replace(&mut this.grace_given, true) {
                    this.wait = Some(Box::pin(tokio::time::sleep(CUT_GRACE)));
                    continue;
                }
                if let Some(act) = this.on_cut.take() {
                    act();
                }
                return Poll::Ready(Some(Err(Box::new(Cut))));
            }
            if this.has_ended() {
                return Poll::Ready(None);
            }
            if this.rest.is_empty() {
                match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                    None => return Poll::Ready(None),
                    Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => this.rest = bytes,
                        Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                    },
                }
                continue;
            }
            let bytes = this.take();
            let until = this.paces.iter().map(|pace| pace.reserve(bytes.len())).max();
            match until {
                None => return this.pass(bytes),
                Some(until) => {
                    this.held = Some(bytes);
                    this.wait = Some(Box::pin(tokio::time::sleep_until(until)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let inner_ended = self.inner.is_end_stream() && self.rest.is_empty();
        (inner_ended || self.has_ended()) && self.held.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        // Exact where it matters: hyper and s3s ask before the first frame.
        if let (Some(end), Some(exact)) = (self.shape.end, self.inner.size_hint().exact())
            && self.passed == 0
        {
            SizeHint::with_exact(end.min(exact))
        } else if self.passed == 0 && self.rest.is_empty() && self.held.is_none() {
            self.inner.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

/// A request's body that the door can finish reading when the service has had enough of it.
pub struct Shared<B>(Arc<Mutex<B>>);

impl<B> Shared<B> {
    /// Two ends of one body.
    pub fn pair(body: B) -> (Shared<B>, Shared<B>) {
        let body = Arc::new(Mutex::new(body));
        (Shared(body.clone()), Shared(body))
    }
}

impl<B> Body for Shared<B>
where
    B: Body + Unpin,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}
