//! Scripted faults: which requests they meet, and what happens to those.
//!
//! Rules are plain data, the same in a test's code and as JSON at the admin door:
//!
//! ```json
//! [{"operation": "GetObject", "key": "big", "skip": 1, "times": 2,
//!   "action": {"kind": "cut", "side": "answer", "after": 1048576}}]
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

use crate::bucket::door::frozen::Frozen;
use crate::bucket::door::operation::{Operation, Target};

/// Which requests, and what happens to them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only requests of this operation; every one when `None`.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// Only requests whose key holds this text; every one when empty.
    #[serde(default)]
    pub key: String,
    /// Lets this many matching requests pass first.
    #[serde(default)]
    pub skip: u64,
    /// Meets at most this many; every further one when `None`.
    #[serde(default)]
    pub times: Option<u64>,
    /// What happens.
    pub action: Action,
}

impl Rule {
    /// A rule for every request of an operation.
    pub fn on(operation: Operation, action: Action) -> Rule {
        Rule { operation: Some(operation), key: String::new(), skip: 0, times: None, action }
    }

    /// A rule for every request.
    pub fn always(action: Action) -> Rule {
        Rule { operation: None, key: String::new(), skip: 0, times: None, action }
    }

    /// Only for keys that hold this text.
    pub fn key(self, text: &str) -> Rule {
        Rule { key: text.to_owned(), ..self }
    }

    /// Lets `count` matching requests pass first.
    pub fn skip(self, count: u64) -> Rule {
        Rule { skip: count, ..self }
    }

    /// Meets at most `count` requests.
    pub fn times(self, count: u64) -> Rule {
        Rule { times: Some(count), ..self }
    }
}

/// Which body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What the client sends.
    Request,
    /// What the server sends.
    Answer,
}

/// What happens to a request. Bytes count from the first of the body.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// The request is read and answered with an error; nothing is done.
    Status {
        /// The HTTP status, 400 to 599.
        code: u16,
        /// The S3 error code; when `None`, the one usual for the status.
        #[serde(default)]
        error: Option<String>,
        /// Seconds for a Retry-After header.
        #[serde(default)]
        retry_after_s: Option<u64>,
    },
    /// The request is read and answered with 200 and an `<Error>` body; nothing is done.
    ErrorIn200 {
        /// The S3 error code.
        error: String,
    },
    /// The connection is reset before the request is looked at.
    Reset,
    /// The request is done; then the connection is closed without an answer.
    LoseAnswer,
    /// The request is done twice, as when a proxy repeats it; the second answer goes out.
    Twice,
    /// The request is done and answered; a copy of it that was held up arrives after a while and is done as well.
    Echo {
        /// How long after the answer.
        ms: u64,
    },
    /// After this many bytes of a body the connection ends: reset when it is the request's, closed when the answer's.
    Cut {
        /// Of which body.
        side: Side,
        /// Bytes let through.
        after: u64,
    },
    /// After this many bytes of the answer's body the connection is reset; what was under way may be lost.
    Tear {
        /// Bytes let through.
        after: u64,
    },
    /// The answer's body ends in order after this many bytes, and Content-Length says so; Content-Range does not.
    Shorten {
        /// Bytes of body.
        to: u64,
    },
    /// A body stands still for a while after this many bytes.
    Stall {
        /// Which body.
        side: Side,
        /// Bytes let through before.
        after: u64,
        /// How long.
        ms: u64,
    },
    /// One byte of a body is inverted.
    Flip {
        /// Of which body.
        side: Side,
        /// Which byte.
        at: u64,
    },
    /// The request is looked at only after a while.
    Delay {
        /// How long.
        ms: u64,
    },
    /// Both bodies go at this speed. A slow one drips: four pieces a second, or one byte at a time.
    Bandwidth {
        /// Above 0.
        bytes_per_s: u64,
    },
    /// Before it is looked at, the object it names is replaced: by this text, or, when `None`, by as many bytes, each
    /// inverted. Objects that are not there stay away.
    Replace {
        /// The new content.
        #[serde(default)]
        text: Option<String>,
    },
    /// Before it is looked at, the object it names is deleted.
    Delete,
    /// Before it is looked at, the upload it names is aborted.
    ForgetUpload,
    /// After the part it sends is stored, one byte of that is inverted where it is stored. The checksum that the server
    /// tells of the part from then on is that of the damaged bytes; its etag is not.
    SpoilPart {
        /// Which byte.
        at: u64,
    },
    /// A GET of a range is answered as one of the whole object.
    IgnoreRange,
    /// A header of the answer is another, or is not there.
    Header {
        /// Its name.
        name: String,
        /// Its value; left out when `None`.
        #[serde(default)]
        value: Option<String>,
    },
    /// Each URL is answered as it was the first time that this rule met it: a listing that is out of date.
    Freeze,
}

/// The rules of one server. Cheap to clone; all clones are the same rules.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Vec<Arc<Armed>>>>);

/// A rule that was added; tells how often it has struck.
#[derive(Clone, Debug)]
pub struct FaultHandle(Arc<Armed>);

#[derive(Debug)]
struct Armed {
    rule: Rule,
    matched: AtomicU64,
    /// What [`Action::Freeze`] answers.
    frozen: Arc<Frozen>,
}

/// What the rules together do to one request.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Waits first.
    pub delay: Duration,
    /// What becomes of the object or upload first.
    pub meddle: Vec<Meddle>,
    /// How it ends.
    pub fate: Fate,
    /// Whether it is done more than once.
    pub repeat: Repeat,
    /// The byte to invert of a part that it has stored.
    pub spoil: Option<u64>,
    /// The request's body on its way.
    pub request: Shape,
    /// The answer's body on its way.
    pub answer: Shape,
    /// Whether its Range counts.
    pub range: RangeHeard,
    /// Headers of the answer to set or, without a value, to leave out.
    pub headers: Vec<(HeaderName, Option<HeaderValue>)>,
    /// Answers given before, that are given again.
    pub frozen: Option<Arc<Frozen>>,
}

/// Whether a request is done more than once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Repeat {
    /// As it should be.
    #[default]
    Once,
    /// Twice, before it is answered.
    Before,
    /// Once more so long after it is answered.
    Behind(Duration),
}

/// Whether the Range of a request is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RangeHeard {
    /// As it should be.
    #[default]
    Heard,
    /// The request is taken for one without.
    Ignored,
}

/// What happens to what a request names, before it is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Meddle {
    /// Another object.
    Replace(Option<String>),
    /// No object.
    Delete,
    /// No upload.
    ForgetUpload,
}

/// How a request ends.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Fate {
    /// Done and answered.
    #[default]
    Answered,
    /// Done, not answered.
    Lost,
    /// Neither; the connection is reset.
    Reset,
    /// Not done, answered with an error.
    Refused {
        /// The status.
        status: StatusCode,
        /// The S3 error code.
        error: String,
        /// Seconds for a Retry-After header.
        retry_after_s: Option<u64>,
    },
}

/// What happens to a body on its way.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    /// Breaks off after so many bytes.
    pub cut: Option<u64>,
    /// How it breaks off.
    pub cut_by: CutBy,
    /// Ends in order after so many bytes.
    pub end: Option<u64>,
    /// Stands still after so many bytes for so long.
    pub stall: Option<(u64, Duration)>,
    /// This byte is inverted.
    pub flip: Option<u64>,
    /// Bytes per second.
    pub bandwidth: Option<u64>,
}

/// How a connection is broken off in the middle of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CutBy {
    /// Closed in order.
    #[default]
    Close,
    /// Reset.
    Reset,
}

impl Faults {
    /// Adds a rule. Several rules may meet one request; of two that end it, the first wins.
    pub fn add(&self, rule: Rule) -> FaultHandle {
        let armed = Arc::new(Armed { rule, matched: AtomicU64::new(0), frozen: Arc::default() });
        self.rules().push(armed.clone());
        FaultHandle(armed)
    }

    /// Takes every rule away.
    pub fn clear(&self) {
        self.rules().clear();
    }

    /// Every rule and how often it has struck.
    pub fn list(&self) -> Vec<(Rule, u64)> {
        self.rules().iter().map(|armed| (armed.rule.clone(), armed.struck())).collect()
    }

    pub(crate) fn plan(&self, target: &Target) -> Plan {
        let mut plan = Plan::default();
        for armed in self.rules().iter() {
            if armed.strikes(target) {
                plan.add(armed);
            }
        }
        plan
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Armed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FaultHandle {
    /// How many requests it has met.
    pub fn struck(&self) -> u64 {
        self.0.struck()
    }
}

impl Armed {
    fn strikes(&self, target: &Target) -> bool {
        let rule = &self.rule;
        if rule.operation.is_some_and(|operation| operation != target.operation)
            || !target.key.contains(&rule.key)
        {
            return false;
        }
        let before = self.matched.fetch_add(1, Ordering::Relaxed);
        before >= rule.skip && rule.times.is_none_or(|times| before - rule.skip < times)
    }

    fn struck(&self) -> u64 {
        let behind_skip = self.matched.load(Ordering::Relaxed).saturating_sub(self.rule.skip);
        self.rule.times.map_or(behind_skip, |times| behind_skip.min(times))
    }
}

impl Plan {
    fn add(&mut self, armed: &Armed) {
        match &armed.rule.action {
            Action::Status { code, error, retry_after_s } => {
                let status = StatusCode::from_u16(*code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let error = error.clone().unwrap_or_else(|| usual_error(*code).to_owned());
                self.end(Fate::Refused { status, error, retry_after_s: *retry_after_s });
            }
            Action::ErrorIn200 { error } => {
                self.end(Fate::Refused { status: StatusCode::OK, error: error.clone(), retry_after_s: None });
            }
            Action::Reset => self.end(Fate::Reset),
            Action::LoseAnswer => self.end(Fate::Lost),
            Action::Twice => self.repeat = Repeat::Before,
            Action::Echo { ms } => self.repeat = Repeat::Behind(Duration::from_millis(*ms)),
            Action::Cut { side, after } => self.shape(*side).cut = Some(*after),
            Action::Tear { after } => {
                self.answer.cut = Some(*after);
                self.answer.cut_by = CutBy::Reset;
            }
            Action::Shorten { to } => self.answer.end = Some(*to),
            Action::Stall { side, after, ms } => {
                self.shape(*side).stall = Some((*after, Duration::from_millis(*ms)));
            }
            Action::Flip { side, at } => self.shape(*side).flip = Some(*at),
            Action::Delay { ms } => self.delay += Duration::from_millis(*ms),
            Action::Bandwidth { bytes_per_s } => {
                self.request.bandwidth = Some(*bytes_per_s);
                self.answer.bandwidth = Some(*bytes_per_s);
            }
            Action::Replace { text } => self.meddle.push(Meddle::Replace(text.clone())),
            Action::Delete => self.meddle.push(Meddle::Delete),
            Action::ForgetUpload => self.meddle.push(Meddle::ForgetUpload),
            Action::SpoilPart { at } => self.spoil = Some(*at),
            Action::IgnoreRange => self.range = RangeHeard::Ignored,
            Action::Header { name, value } => {
                let value = value.as_ref().map(HeaderValue::try_from);
                match (HeaderName::try_from(name), value.transpose()) {
                    (Ok(name), Ok(value)) => self.headers.push((name, value)),
                    (_, _) => log::warn!("A fault rule names a header that cannot be: {name}"),
                }
            }
            Action::Freeze => self.frozen = Some(armed.frozen.clone()),
        }
    }

    fn end(&mut self, fate: Fate) {
        if self.fate == Fate::Answered {
            self.fate = fate;
        }
    }

    fn shape(&mut self, side: Side) -> &mut Shape {
        match side {
            Side::Request => &mut self.request,
            Side::Answer => &mut self.answer,
        }
    }
}

/// The S3 error code usual for a status.
fn usual_error(status: u16) -> &'static str {
    match status {
        400 => "InvalidRequest",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        408 => "RequestTimeout",
        409 => "ConditionalRequestConflict",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        429 => "TooManyRequests",
        501 => "NotImplemented",
        503 => "SlowDown",
        _ => "InternalError",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(operation: Operation, key: &str) -> Target {
        Target { operation, bucket: "b".to_owned(), key: key.to_owned(), upload: None, part: None }
    }

    #[test]
    fn rules_skip_then_strike_then_rest() {
        let faults = Faults::default();
        let rule = Rule::on(Operation::GetObject, Action::Reset).key("big").skip(1).times(2);
        let handle = faults.add(rule.clone());
        let fate = |operation, key| faults.plan(&target(operation, key)).fate;
        assert_eq!(fate(Operation::PutObject, "big"), Fate::Answered);
        assert_eq!(fate(Operation::GetObject, "small"), Fate::Answered);
        let fates: Vec<_> = (0..5).map(|_| fate(Operation::GetObject, "a/big.bin")).collect();
        assert_eq!(fates, [Fate::Answered, Fate::Reset, Fate::Reset, Fate::Answered, Fate::Answered]);
        assert_eq!(handle.struck(), 2);
        assert_eq!(faults.list(), [(rule, 2)]);
        faults.clear();
        assert_eq!(faults.list(), []);
    }

    #[test]
    fn rules_add_up_and_the_first_end_wins() {
        let faults = Faults::default();
        faults.add(Rule::always(Action::LoseAnswer));
        faults.add(Rule::always(Action::Status { code: 503, error: None, retry_after_s: Some(1) }));
        faults.add(Rule::always(Action::Cut { side: Side::Answer, after: 7 }));
        faults.add(Rule::always(Action::Flip { side: Side::Request, at: 3 }));
        faults.add(Rule::always(Action::Delay { ms: 5 }));
        let plan = faults.plan(&target(Operation::GetObject, "k"));
        assert_eq!(plan.fate, Fate::Lost);
        assert_eq!((plan.answer.cut, plan.request.flip), (Some(7), Some(3)));
        assert_eq!(plan.delay, Duration::from_millis(5));
    }

    #[test]
    fn rules_are_written_as_json() {
        let text = r#"[{"operation":"PutObject","times":1,"action":{"kind":"status","code":503,"retry_after_s":2}},
            {"action":{"kind":"stall","side":"request","after":10,"ms":20}}, {"action":{"kind":"replace"}}]"#;
        let rules: Vec<Rule> = serde_json::from_str(text).unwrap();
        let refused = Action::Status { code: 503, error: None, retry_after_s: Some(2) };
        assert_eq!(rules[0], Rule::on(Operation::PutObject, refused).times(1));
        assert_eq!(rules[1], Rule::always(Action::Stall { side: Side::Request, after: 10, ms: 20 }));
        assert_eq!(rules[2], Rule::always(Action::Replace { text: None }));
        assert!(serde_json::from_str::<Vec<Rule>>(r#"[{"acton":{"kind":"reset"}}]"#).is_err());
    }
}
