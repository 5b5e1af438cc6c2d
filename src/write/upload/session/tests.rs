//! The session machine against a store that forgets completed uploads, with a fault at every step, then at every two.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::store::{
    ErrorKind, PartLimits, PartReceipt, PartSlot, Precondition, Upload, UploadId, UploadKind, UploadStatus,
};
use crate::types::{
    Attributes, ByteRange, Crc64, ETag, Key, ObjectId, ObjectMeta, PartNumber, RangeSet, SessionId, UnixTime,
    UploadToken,
};
use crate::write::upload::session::{Effect, Found, Remedy, Reply, Session, SessionEvent, State, Stored};
use crate::write::upload::{Base, Change, Content, Rules};

const STEPS_MAX: usize = 200;
const UNAVAILABLE: ErrorKind = ErrorKind::Unavailable { retry_after: None };

/// What goes wrong at a step.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fault {
    CrashBefore,
    CrashAfterApplied,
    CrashAfterJournal,
    AnswerLost,
    NotNow,
    UploadsForgotten,
}

const FAULTS: [Fault; 6] = [
    Fault::CrashBefore,
    Fault::CrashAfterApplied,
    Fault::CrashAfterJournal,
    Fault::AnswerLost,
    Fault::NotNow,
    Fault::UploadsForgotten,
];

/// A driver with a mistake in it, to show that the checks would see it.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mistake {
    None,
    LostCommitsAreSentAgain,
    RestartsDoubtNothing,
}

struct Version {
    meta: ObjectMeta,
    bytes: Vec<u8>,
}

#[derive(Default)]
struct Server {
    versions: Vec<Version>,
    uploads: BTreeMap<String, Multipart>,
    begun: u64,
}

struct Multipart {
    token: UploadToken,
    parts: BTreeMap<PartNumber, Vec<u8>>,
}

#[derive(Clone, Copy)]
struct Scenario {
    kind: UploadKind,
    base: usize,
    size: usize,
    /// Parts are sent before the seal.
    streamed: bool,
    conditional: bool,
    /// When a second content is sealed.
    second_seal: Option<usize>,
}

const PARTS: UploadKind =
    UploadKind::Parts(PartLimits { part_bytes_min: 4, part_bytes_max: 64, parts_max: 1000 });

const PLAIN: Scenario =
    Scenario { kind: PARTS, base: 0, size: 30, streamed: false, conditional: true, second_seal: None };

fn scenarios() -> Vec<Scenario> {
    let firsts = [
        PLAIN,
        Scenario { size: 6, ..PLAIN },
        Scenario { size: 0, ..PLAIN },
        Scenario { base: 40, size: 48, ..PLAIN },
        Scenario { base: 30, size: 30, ..PLAIN },
        Scenario { streamed: true, ..PLAIN },
        Scenario { kind: UploadKind::Offset { align: 4 }, ..PLAIN },
        Scenario { conditional: false, ..PLAIN },
        Scenario { conditional: false, size: 6, ..PLAIN },
    ];
    let resealed = firsts.into_iter().filter(|s| s.conditional);
    let resealed =
        resealed.flat_map(|first| (0..8).map(move |at| Scenario { second_seal: Some(at), ..first }));
    firsts.into_iter().chain(resealed).collect()
}

struct World {
    scenario: Scenario,
    mistake: Mistake,
    rules: Rules,
    server: Server,
    session: Session,
    journal: Vec<SessionEvent>,
    contents: HashMap<SessionId, Vec<u8>>,
    /// Bytes of parts that this process has sent.
    sent: HashMap<PartNumber, Vec<u8>>,
    /// Uploads whose ids were never told to us.
    unknown_uploads: HashSet<String>,
    passed: u64,
}

fn key() -> Key {
    Key::new("k").unwrap()
}

fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add(seed)).collect()
}

impl World {
    fn new(scenario: Scenario, mistake: Mistake) -> World {
        let rules = Rules {
            upload: scenario.kind,
            put_bytes_max: 1000,
            object_bytes_max: 10_000,
            part_bytes: 8,
            copies_parts: true,
            replaces_parts: matches!(scenario.kind, UploadKind::Parts(_)),
        };
        let mut server = Server::default();
        let mut expected = if scenario.conditional { Precondition::Absent } else { Precondition::None };
        if scenario.base > 0 {
            let meta = server.store(pattern(1, scenario.base), None);
            expected = Precondition::Matches(meta.id.etag);
        }
        World {
            scenario,
            mistake,
            rules,
            server,
            session: Session::new(key(), expected),
            journal: Vec::new(),
            contents: HashMap::new(),
            sent: HashMap::new(),
            unknown_uploads: HashSet::new(),
            passed: if scenario.streamed { 16 } else { 0 },
        }
    }

    fn live(&self) -> Vec<u8> {
        pattern(7, self.scenario.size)
    }

    fn first_content(&mut self) -> Content {
        let Scenario { base, size, .. } = self.scenario;
        let mut bytes = pattern(1, base);
        let mut dirty = RangeSet::default();
        if base == 0 {
            bytes = self.live();
            dirty.insert(ByteRange::new(0, size as u64));
        } else if base != size {
            bytes.resize(size, 9);
            dirty.insert(ByteRange::new(base as u64, size as u64));
        }
        self.contents.insert(SessionId(1), bytes);
        let object = self.server.versions.first().map(|version| version.meta.id.clone());
        let mtime = Some(UnixTime::from_secs(5));
        Content {
            session: SessionId(1),
            size: size as u64,
            extents: Vec::new(),
            base: object.map(Base::whole),
            dirty,
            change: None,
            attributes: Attributes { mtime, ..Attributes::default() },
        }
    }

    /// The first content with its bytes 2..5 changed and two more at the end.
    fn second_content(&mut self) -> Content {
        let first = self.first_content();
        let mut bytes = self.contents[&SessionId(1)].clone();
        let end = bytes.len() as u64;
        bytes.extend([200, 201]);
        let mut change = RangeSet::from_iter([ByteRange::new(end, end + 2)]);
        if end > 5 {
            bytes[2..5].fill(77);
            change.insert(ByteRange::new(2, 5));
        }
        self.contents.insert(SessionId(2), bytes);
        Content {
            session: SessionId(2),
            size: end + 2,
            dirty: first.dirty.iter().chain(change.iter()).collect(),
            change: Some(Change { session: SessionId(1), dirty: change, valid: end }),
            ..first
        }
    }

    fn record(&mut self, event: SessionEvent) {
        // An answer to what is no longer wanted is dropped, as the scheduler does.
        if self.session.apply(&event).is_ok() {
            self.journal.push(event);
        }
    }

    fn crash(&mut self) {
        let mut replayed = Session::new(key(), World::new(self.scenario, self.mistake).session.expected);
        for event in &self.journal {
            replayed.apply(event).unwrap();
        }
        let mut run = self.session.clone();
        run.restart();
        let as_replayed = replayed.clone();
        replayed.restart();
        assert_eq!(replayed, run, "the replay is the run");
        self.session = if self.mistake == Mistake::RestartsDoubtNothing { as_replayed } else { replayed };
        self.sent.clear();
        self.passed = 0;
    }

    fn run(mut self, faults: &[(usize, Fault)]) -> World {
        let seal_at = if self.scenario.streamed { 4 } else { 0 };
        for step in 0..STEPS_MAX {
            if step == seal_at {
                let content = self.first_content();
                self.record(SessionEvent::Sealed(Arc::new(content)));
            }
            if self.scenario.second_seal.is_some_and(|second| step == seal_at + second) {
                let content = self.second_content();
                self.record(SessionEvent::Sealed(Arc::new(content)));
            }
            let fault = faults.iter().find(|(at, _)| *at == step).map(|(_, fault)| *fault);
            let sealed = step >= seal_at + self.scenario.second_seal.unwrap_or(0);
            match self.session.effects(&self.rules, self.passed, 10).first().cloned() {
                Some(effect) => self.step(&effect, fault),
                None if sealed => return self,
                None => {}
            }
        }
        // The verdict will see that it is not committed.
        self
    }

    fn step(&mut self, effect: &Effect, fault: Option<Fault>) {
        if fault == Some(Fault::UploadsForgotten) {
            self.server.uploads.clear();
        }
        if fault == Some(Fault::CrashBefore) {
            return self.crash();
        }
        if self.local(effect) {
            if fault == Some(Fault::CrashAfterJournal) {
                self.crash();
            }
            return;
        }
        let result = if fault == Some(Fault::NotNow) { Err(UNAVAILABLE) } else { self.perform(effect) };
        if let (Ok(Reply::Begun { upload, .. }), Some(Fault::CrashAfterApplied | Fault::AnswerLost)) =
            (&result, fault)
        {
            self.unknown_uploads.insert(upload.id.0.clone());
        }
        if fault == Some(Fault::CrashAfterApplied) {
            return self.crash();
        }
        let result = if fault == Some(Fault::AnswerLost) { Err(ErrorKind::Ambiguous) } else { result };
        match result {
            Ok(reply) => self.session.replied(reply).into_iter().for_each(|event| self.record(event)),
            Err(kind) => self.fail(effect, kind),
        }
        if fault == Some(Fault::CrashAfterJournal) {
            self.crash();
        }
    }

    fn fail(&mut self, effect: &Effect, kind: ErrorKind) {
        match self.session.failed(effect, kind, &self.rules) {
            Remedy::Retry => {}
            Remedy::RetryAsking => self.session.doubt_parts(),
            Remedy::Record(events) => {
                for event in events {
                    match (self.mistake, &event) {
                        (Mistake::LostCommitsAreSentAgain, SessionEvent::CommitUnknown) => {}
                        (
                            Mistake::None | Mistake::LostCommitsAreSentAgain | Mistake::RestartsDoubtNothing,
                            _,
                        ) => {
                            self.record(event);
                        }
                    }
                }
            }
            other => panic!("{effect:?} {kind:?}: {other:?}"),
        }
    }

    fn local(&mut self, effect: &Effect) -> bool {
        match effect {
            Effect::Take => {
                let next = self.session.next.clone().unwrap();
                let bytes = &self.contents[&next.session];
                let kept = self.session.parts_kept(&next, &self.rules, |number, range| {
                    self.sent
                        .get(&number)
                        .is_none_or(|sent| *sent != bytes[range.start as usize..range.end as usize])
                });
                self.record(SessionEvent::Taken { session: next.session, kept });
            }
            Effect::Intend(by) => {
                let token = self.session.transfer().map(|t| t.token.clone());
                let token = token.unwrap_or_else(|| UploadToken::from_bits(self.journal.len() as u128));
                self.record(SessionEvent::CommitIntended { token, by: *by });
            }
            Effect::Withdraw => self.record(SessionEvent::CommitWithdrawn),
            Effect::Discontinue => self.record(SessionEvent::UploadDropped),
            Effect::Resolve => panic!("nobody else writes here"),
            Effect::Begin
            | Effect::QueryStatus
            | Effect::SendPart(_)
            | Effect::CopyPart(_)
            | Effect::Put
            | Effect::Copy
            | Effect::Complete
            | Effect::Look
            | Effect::Amend
            | Effect::Refuse
            | Effect::Abort(_) => return false,
        }
        true
    }

    fn bytes(&self) -> Vec<u8> {
        self.session
            .content
            .as_ref()
            .map_or_else(|| self.live(), |content| self.contents[&content.session].clone())
    }

    fn perform(&mut self, effect: &Effect) -> Result<Reply, ErrorKind> {
        match effect {
            Effect::Begin => {
                let token = UploadToken::from_bits(1000 + u128::from(self.server.begun));
                let upload = self.server.begin(token.clone());
                let attributes =
                    self.session.content.as_ref().map(|c| c.attributes.clone()).unwrap_or_default();
                Ok(Reply::Begun { upload, token, layout: self.rules.layout(), attributes })
            }
            Effect::SendPart(slot) | Effect::CopyPart(slot) => self.send(*slot).map(Reply::Part),
            Effect::QueryStatus => {
                let id = &self.session.transfer().unwrap().upload.id.0;
                Ok(Reply::Status(self.server.status(id, self.scenario.kind), Vec::new()))
            }
            Effect::Put | Effect::Copy => self.commit(self.bytes()),
            Effect::Complete => {
                let id = self.session.transfer().unwrap().upload.id.0.clone();
                let upload = self.server.uploads.get(&id).ok_or(ErrorKind::UploadGone)?;
                let receipts = self.session.receipts(&self.rules);
                let bytes = match self.scenario.kind {
                    UploadKind::Parts(_) => {
                        receipts.iter().flat_map(|part| upload.parts[&part.number].clone()).collect()
                    }
                    UploadKind::Offset { .. } => upload.parts.values().flatten().copied().collect(),
                };
                let reply = self.commit(bytes)?;
                self.server.uploads.remove(&id);
                Ok(reply)
            }
            Effect::Look => {
                Ok(Reply::Looked(self.server.versions.last().map(|version| version.meta.clone())))
            }
            Effect::Abort(upload) => {
                self.server.uploads.remove(&upload.id.0);
                Ok(Reply::Aborted(upload.clone()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn send(&mut self, slot: PartSlot) -> Result<Stored, ErrorKind> {
        let bytes = self.bytes()[slot.range.start as usize..slot.range.end as usize].to_vec();
        let id = &self.session.transfer().unwrap().upload.id.0;
        let upload = self.server.uploads.get_mut(id).ok_or(ErrorKind::UploadGone)?;
        if let UploadKind::Offset { .. } = self.scenario.kind {
            assert_eq!(upload.parts.values().map(Vec::len).sum::<usize>() as u64, slot.range.start);
        }
        assert!(!bytes.is_empty());
        upload.parts.insert(slot.number, bytes.clone());
        self.sent.insert(slot.number, bytes.clone());
        Ok(Stored { range: slot.range, receipt: receipt(slot.number, &bytes) })
    }

    fn commit(&mut self, bytes: Vec<u8>) -> Result<Reply, ErrorKind> {
        let there = self.server.versions.last().map(|version| version.meta.id.etag.clone());
        let holds = match &self.session.expected {
            Precondition::None => true,
            Precondition::Absent => there.is_none(),
            Precondition::Matches(etag) => there.as_ref() == Some(etag),
        };
        if !holds {
            return Err(ErrorKind::Precondition);
        }
        let State::Completing { token, .. } = &self.session.state else { panic!("{:?}", self.session.state) };
        let attributes = self.session.content.as_ref().unwrap().attributes.clone();
        let mut meta = self.server.store(bytes, Some(token.clone()));
        meta.attributes = Some(attributes);
        self.server.versions.last_mut().unwrap().meta = meta.clone();
        Ok(Reply::Object(meta))
    }

    /// What must be true at the end, or what is wrong.
    fn verdict(&self) -> Result<(), String> {
        let latest = if self.scenario.second_seal.is_some() { SessionId(2) } else { SessionId(1) };
        let State::Committed { session, object } = &self.session.state else {
            return Err(format!("not committed but {:?}", self.session.state));
        };
        let last = self.server.versions.last().unwrap();
        if *session != latest || last.bytes != self.contents[&latest] || last.meta.id != object.id {
            return Err("the object is not the latest content".into());
        }
        let ours = &self.server.versions[usize::from(self.scenario.base > 0)..];
        for version in ours {
            if !self.contents.values().any(|content| *content == version.bytes) {
                return Err("a version is of no sealed content".into());
            }
        }
        let commits_max = if self.scenario.second_seal.is_some() { 2 } else { 1 };
        if ours.len() > commits_max {
            return Err(format!("{} commits", ours.len()));
        }
        let left: Vec<_> =
            self.server.uploads.keys().filter(|id| !self.unknown_uploads.contains(*id)).collect();
        if !left.is_empty() || !self.session.leftovers.is_empty() {
            return Err(format!("uploads left: {left:?}"));
        }
        Ok(())
    }
}

fn receipt(number: PartNumber, bytes: &[u8]) -> PartReceipt {
    let crc = Crc64::of(bytes);
    PartReceipt { number, len: bytes.len() as u64, etag: crc.to_string(), crc64: Some(crc) }
}

impl Server {
    fn begin(&mut self, token: UploadToken) -> Upload {
        self.begun += 1;
        let id = format!("u{}", self.begun);
        self.uploads.insert(id.clone(), Multipart { token, parts: BTreeMap::new() });
        Upload { key: key(), id: UploadId(id) }
    }

    fn status(&self, id: &str, kind: UploadKind) -> UploadStatus {
        let Some(upload) = self.uploads.get(id) else { return UploadStatus::Gone };
        assert!(!upload.token.as_str().is_empty());
        match kind {
            UploadKind::Parts(_) => UploadStatus::Parts(
                upload.parts.iter().map(|(number, bytes)| receipt(*number, bytes)).collect(),
            ),
            UploadKind::Offset { .. } => {
                UploadStatus::Offset(upload.parts.values().map(|bytes| bytes.len() as u64).sum())
            }
        }
    }

    fn store(&mut self, bytes: Vec<u8>, token: Option<UploadToken>) -> ObjectMeta {
        let etag = ETag::new(&format!("v{}", self.versions.len() + 1));
        let meta = ObjectMeta {
            id: ObjectId { key: key(), etag, size: bytes.len() as u64 },
            modified: UnixTime::from_secs(0),
            attributes: Some(Attributes::default()),
            token,
            crc64: None,
        };
        self.versions.push(Version { meta: meta.clone(), bytes });
        meta
    }
}

fn steps_of(scenario: Scenario) -> usize {
    let world = World::new(scenario, Mistake::None).run(&[]);
    world.verdict().unwrap();
    world.journal.len() + 6
}

#[test]
fn a_fault_at_any_step_changes_nothing_in_the_end() {
    for (index, scenario) in scenarios().into_iter().enumerate() {
        for step in 0..steps_of(scenario) {
            for fault in FAULTS {
                let world = World::new(scenario, Mistake::None).run(&[(step, fault)]);
                let verdict = world.verdict();
                assert_eq!(verdict, Ok(()), "scenario {index}, {fault:?} at {step}: {:#?}", world.journal);
            }
        }
    }
}

#[test]
fn two_faults_at_any_two_steps_change_nothing_in_the_end() {
    let some = scenarios().into_iter().filter(|s| matches!(s.second_seal, None | Some(1 | 4)));
    for (index, scenario) in some.enumerate() {
        let steps = steps_of(scenario);
        for first in 0..steps {
            for second in first + 1..steps {
                for pair in
                    FAULTS.iter().flat_map(|a| FAULTS.iter().map(move |b| [(first, *a), (second, *b)]))
                {
                    let verdict = World::new(scenario, Mistake::None).run(&pair).verdict();
                    assert_eq!(verdict, Ok(()), "scenario {index}, {pair:?}");
                }
            }
        }
    }
}

#[test]
fn the_checks_see_a_driver_that_does_not_look() {
    for (mistake, fault) in [
        (Mistake::LostCommitsAreSentAgain, Fault::AnswerLost),
        (Mistake::RestartsDoubtNothing, Fault::CrashAfterApplied),
    ] {
        // Out of order pieces are refused by the server of the test at once, before there is a verdict.
        let in_parts = scenarios().into_iter().filter(|s| matches!(s.kind, UploadKind::Parts(_)));
        let caught = in_parts.into_iter().any(|scenario| {
            (0..steps_of(scenario))
                .any(|step| World::new(scenario, mistake).run(&[(step, fault)]).verdict().is_err())
        });
        assert!(caught, "{mistake:?}");
    }
}

#[test]
fn streamed_parts_are_kept_unless_they_changed() {
    let mut world = World::new(Scenario { streamed: true, second_seal: Some(0), ..PLAIN }, Mistake::None);
    world = world.run(&[]);
    world.verdict().unwrap();
    let stored = world.journal.iter().filter(|event| matches!(event, SessionEvent::PartStored(_))).count();
    // Two parts of 8 bytes before the seals, of which the first changed; then it again and the two of the tail.
    assert_eq!(stored, 2 + 1 + 2, "{:#?}", world.journal);
}

#[test]
fn a_look_tells_ours_from_theirs() {
    let mut world = World::new(PLAIN, Mistake::None);
    let content = world.first_content();
    world.record(SessionEvent::Sealed(Arc::new(content)));
    world.local(&Effect::Take);
    let token = UploadToken::from_text("mine");
    world.session.apply(&SessionEvent::UploadDropped).unwrap_err();
    let by = crate::write::upload::CommitBy::Put;
    world.record(SessionEvent::CommitIntended { token: token.clone(), by });
    assert_eq!(world.session.judge(None), Found::Expected);
    let theirs = world.server.store(vec![0; 30], Some(UploadToken::from_text("theirs")));
    assert_eq!(world.session.judge(Some(&theirs)), Found::Other);
    let ours = ObjectMeta { token: Some(token), ..theirs.clone() };
    assert_eq!(world.session.judge(Some(&ours)), Found::Ours(Box::new(ours.clone())));
    world.session.expected = Precondition::Matches(theirs.id.etag.clone());
    assert_eq!(world.session.judge(Some(&theirs)), Found::Expected);
    assert_eq!(world.session.judge(None), Found::Absent);
}
