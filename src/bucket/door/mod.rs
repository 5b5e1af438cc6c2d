//! The HTTP side: every request is named, logged, met by the fault rules, and then handed to the S3 service.

mod admin;
pub mod faults;
mod frozen;
pub mod operation;
pub mod requests;
mod shape;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, EXPECT, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use s3s::service::S3Service;
use s3s::{Body, S3Error, S3ErrorCode};

use crate::bucket::disk::{Refusal, Store};
use crate::bucket::door::faults::{CutBy, Fate, Faults, Meddle, Plan, RangeHeard, Repeat};
use crate::bucket::door::operation::{Operation, Target};
use crate::bucket::door::requests::{Entry, Requests};
use crate::bucket::door::shape::{Pace, Shaped, Shared};
use crate::bucket::plant;
use crate::bucket::quirks::Quirks;
use crate::bucket::service::IgnoresRange;
use crate::observe::task;

/// Bytes of a request read on after the answer is known, so that the client sees the answer and not a reset.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
/// How long such reading waits for the client.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// An answer on its way out.
pub type Answer = Response<Shaped<Body>>;

/// Ends a connection without an answer, on purpose or because the service failed.
#[derive(Debug, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub struct Hangup;

/// One client's connection.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Wraps another handle on a connection's socket. It is closed with the connection.
    pub fn new(socket: OwnedFd) -> Link {
        Link(socket)
    }

    /// From now on closing the connection resets it.
    fn arm_reset(&self) {
        if let Err(error) = rustix::net::sockopt::set_socket_linger(&self.0, Some(Duration::ZERO)) {
            log::warn!("Cannot make the connection reset on close: {error}");
        }
    }
}

/// What all connections share.
pub struct Door {
    /// Speaks S3.
    pub s3: S3Service,
    /// For faults that change what is stored.
    pub store: Arc<Store>,
    /// Deviations of the wire format.
    pub quirks: Quirks,
    /// The fault rules.
    pub faults: Faults,
    /// The log.
    pub requests: Requests,
    /// Waited before each request.
    pub latency: Duration,
    /// Speed of all requests together, one limit a direction.
    pub pace: Option<(Arc<Pace>, Arc<Pace>)>,
    /// Whether `/-/` is open.
    pub admin: bool,
}

impl Door {
    /// The shared speed limits for `bytes_per_s` in each direction.
    pub fn paces(bytes_per_s: u64) -> (Arc<Pace>, Arc<Pace>) {
        (Pace::new(bytes_per_s), Pace::new(bytes_per_s))
    }

    /// Answers one request.
    pub async fn answer(&self, request: Request<Incoming>, link: &Arc<Link>) -> Result<Answer, Hangup> {
        if self.admin && request.uri().path().starts_with(admin::PREFIX) {
            let answer = admin::answer(request, &self.faults, &self.requests).await;
            return Ok(answer.map(|body| Shaped::new(body, Default::default(), Vec::new(), Box::new(|_| ()))));
        }
        let (head, body) = request.into_parts();
        let target = Target::of(&head);
        let entry = self.requests.begin(&target, &head);
        let plan = self.faults.plan(&target);
        let wait = self.latency + plan.delay;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        if plan.fate == Fate::Reset {
            link.arm_reset();
            return Err(Hangup);
        }
        for meddle in &plan.meddle {
            if let Err(error) = self.meddle(meddle, &target) {
                log::warn!("A fault rule could not change {}: {error}", target.key);
            }
        }
        let waits_for_continue = head.headers.contains_key(EXPECT);
        let (body, rest) = Shared::pair(self.shape_request(body, &plan, &entry, link));
        let mut answered = match &plan.fate {
            Fate::Refused { status, error, retry_after_s } => refuse(*status, error, *retry_after_s),
            Fate::Answered | Fate::Lost | Fate::Reset => {
                let url = head.uri.to_string();
                let request = Request::from_parts(head, Body::http_body_unsync(body));
                let answered = self.perform(request, &plan, &entry).await?;
                if let (Some(at), true) = (plan.spoil, answered.status().is_success())
                    && let Err(error) = self.spoil(&target, at)
                {
                    log::warn!("A fault rule could not damage a part of {}: {error}", target.key);
                }
                match &plan.frozen {
                    Some(frozen) => frozen.answer(url, answered).await.map_err(|_| Hangup)?,
                    None => answered,
                }
            }
        };
        if !(waits_for_continue && entry.has_received_nothing()) {
            drain(rest).await?;
        }
        if plan.fate == Fate::Lost {
            return Err(Hangup);
        }
        let mut status = answered.status();
        let ranged_head = target.operation == Operation::HeadObject && status == StatusCode::OK;
        if ranged_head && answered.headers().contains_key(CONTENT_RANGE) {
            // s3s writes 200 here; S3 answers a ranged HEAD as it answers the GET.
            status = StatusCode::PARTIAL_CONTENT;
        }
        *answered.status_mut() = self.quirks.disguise(target.operation, status);
        entry.answered(answered.status());
        change_headers(answered.headers_mut(), &plan);
        Ok(answered.map(|body| self.shape_answer(body, &plan, entry, link)))
    }

    /// Has the service do a request, as often as the plan says; the last answer before it goes out.
    async fn perform(
        &self,
        request: Request<Body>,
        plan: &Plan,
        entry: &Arc<Entry>,
    ) -> Result<Response<Body>, Hangup> {
        if plan.repeat == Repeat::Once {
            return call(&self.s3, request, plan.range, entry).await;
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Hangup)?.to_bytes();
        let copy = || Request::from_parts(head.clone(), Body::from(body.clone()));
        let answered = call(&self.s3, copy(), plan.range, entry).await?;
        match plan.repeat {
            Repeat::Once => Ok(answered),
            Repeat::Before => call(&self.s3, copy(), plan.range, entry).await,
            Repeat::Behind(after) => {
                let (s3, range, entry, late) = (self.s3.clone(), plan.range, entry.clone(), copy());
                task::spawn("bucket-echo", async move {
                    tokio::time::sleep(after).await;
                    // Nobody is left to be told.
                    call(&s3, late, range, &entry).await.ok();
                });
                Ok(answered)
            }
        }
    }

    fn spoil(&self, target: &Target, at: u64) -> Result<(), Refusal> {
        let bucket = self.store.bucket(&target.bucket)?;
        let upload = target.upload.as_deref().unwrap_or_default();
        plant::spoil_part(&bucket, &target.key, upload, target.part.unwrap_or_default(), at)
    }

    fn shape_request(
        &self,
        body: Incoming,
        plan: &Plan,
        entry: &Arc<Entry>,
        link: &Arc<Link>,
    ) -> Shaped<Incoming> {
        let (entry, link) = (entry.clone(), link.clone());
        let paces = self.pace.iter().map(|(inward, _)| inward.clone()).collect();
        Shaped::new(body, plan.request.clone(), paces, Box::new(move |bytes| entry.received(bytes)))
            .on_cut(move || link.arm_reset())
    }

    fn shape_answer(&self, body: Body, plan: &Plan, entry: Arc<Entry>, link: &Arc<Link>) -> Shaped<Body> {
        let link = link.clone();
        let paces = self.pace.iter().map(|(_, outward)| outward.clone()).collect();
        let shaped = Shaped::new(body, plan.answer.clone(), paces, Box::new(move |bytes| entry.sent(bytes)));
        match plan.answer.cut_by {
            CutBy::Close => shaped,
            CutBy::Reset => shaped.on_cut(move || link.arm_reset()),
        }
    }

    fn meddle(&self, meddle: &Meddle, target: &Target) -> Result<(), Refusal> {
        let bucket = self.store.bucket(&target.bucket)?;
        match meddle {
            Meddle::Replace(Some(text)) => plant::put(&bucket, &target.key, text.as_bytes()).map(drop),
            Meddle::Replace(None) => {
                let inverted: Vec<u8> = plant::read(&bucket, &target.key)?.iter().map(|byte| !byte).collect();
                plant::put(&bucket, &target.key, &inverted).map(drop)
            }
            Meddle::Delete => bucket.delete(&target.key, &crate::bucket::disk::Condition::None),
            Meddle::ForgetUpload => bucket.abort(&target.key, target.upload.as_deref().unwrap_or_default()),
        }
    }
}

/// Has the service do a request once.
async fn call(
    s3: &S3Service,
    mut request: Request<Body>,
    range: RangeHeard,
    entry: &Entry,
) -> Result<Response<Body>, Hangup> {
    if range == RangeHeard::Ignored {
        request.extensions_mut().insert(IgnoresRange);
    }
    let answered = s3.call(request).await.map_err(|error| {
        log::error!("The service failed: {:?}", s3s::StdError::from(error));
        Hangup
    })?;
    if answered.status().is_success() {
        entry.done();
    }
    Ok(answered)
}

/// Makes the headers of an answer what the rules say they are.
fn change_headers(headers: &mut HeaderMap, plan: &Plan) {
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let (Some(end), Some(length)) = (plan.answer.end, length) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(end.min(length)));
    }
    for (name, value) in &plan.headers {
        match value {
            Some(value) => drop(headers.insert(name, value.clone())),
            None => drop(headers.remove(name)),
        }
    }
}

/// Reads what the service left of a request. A body that was cut ends the connection.
async fn drain(mut rest: Shared<Shaped<Incoming>>) -> Result<(), Hangup> {
    let read_on = async {
        let mut bytes = 0;
        while !rest.is_end_stream() && bytes < DRAIN_BYTES_MAX {
            match rest.frame().await {
                None => break,
                Some(Err(_)) => return Err(Hangup),
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            }
        }
        Ok(())
    };
    tokio::time::timeout(DRAIN_DEADLINE, read_on).await.unwrap_or(Ok(()))
}

fn refuse(status: StatusCode, error: &str, retry_after_s: Option<u64>) -> Response<Body> {
    let code = S3ErrorCode::from_bytes(error.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, "Refused by a fault rule.");
    error.set_status_code(status);
    let mut answer = error.to_http_response().unwrap_or_default();
    if let Some(seconds) = retry_after_s {
        answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}
