//! The journal's format, byte for byte, and the fold of its records with and without checkpoints.

use std::sync::Arc;

use crate::store::{PartLimits, PartReceipt, Precondition, Upload, UploadId};
use crate::types::{
    Attributes, ByteRange, Crc64, ETag, Key, ObjectId, ObjectMeta, PartNumber, RangeSet, SessionId, UnixTime,
    UploadToken,
};
use crate::write::extents::{Extent, Place};
use crate::write::upload::{
    Base, Change, CommitBy, Content, FileId, FileOpened, Found, Ledger, PartLayout, Record, RecordError,
    SessionEvent, State, Stored,
};

const FILE: FileId = FileId(3);

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn object(name: &str, etag: &str) -> ObjectMeta {
    ObjectMeta {
        id: ObjectId { key: key(name), etag: ETag::new(etag), size: 9 },
        modified: UnixTime::from_secs(7),
        attributes: None,
        token: None,
        crc64: None,
    }
}

fn content(session: u64, change: Option<Change>) -> Content {
    Content {
        session: SessionId(session),
        size: 20,
        extents: vec![
            Extent { range: ByteRange::new(0, 5), place: Place::Home, crc: Some(Crc64(u64::MAX)) },
            Extent { range: ByteRange::new(8, 9), place: Place::Spill(4096), crc: None },
        ],
        base: Some(Base { object: object("k", "e").id, valid: 6 }),
        dirty: RangeSet::from_iter([ByteRange::new(0, 5), ByteRange::new(8, 9)]),
        change,
        attributes: Attributes {
            mode: Some(0o644),
            mtime: Some(UnixTime { secs: -1, nanos: 5 }),
            ..Attributes::default()
        },
    }
}

fn opened() -> Record {
    Record::FileOpened(FileOpened {
        file: FILE,
        session: SessionId(4),
        key: key("k"),
        base: None,
        expected: Precondition::Matches(ETag::new("e")),
        attributes: Attributes::default(),
        since: UnixTime::from_secs(1),
    })
}

fn event(event: SessionEvent) -> Record {
    Record::Session { file: FILE, event }
}

fn begun(id: &str) -> SessionEvent {
    let limits = PartLimits { part_bytes_min: 1, part_bytes_max: 64, parts_max: 100 };
    SessionEvent::UploadBegun {
        upload: Upload { key: key("k"), id: UploadId(id.to_owned()) },
        token: UploadToken::from_text("t"),
        layout: PartLayout::new(8, limits, 1000),
        attributes: Attributes::default(),
    }
}

fn part(number: u32) -> SessionEvent {
    let range = ByteRange::at(u64::from(number) * 8, 8);
    let number = PartNumber::from_index(number);
    let receipt = PartReceipt { number, len: 8, etag: "p".to_owned(), crc64: Some(Crc64(1)) };
    SessionEvent::PartStored(Stored { range, receipt })
}

/// A life with every kind of event, of two files and a move.
fn life() -> Vec<Record> {
    let change =
        Change { session: SessionId(4), dirty: RangeSet::from_iter([ByteRange::new(1, 2)]), valid: 20 };
    let ours = SessionEvent::Committed(Box::new(object("k", "ours")));
    vec![
        Record::NextId(3),
        opened(),
        Record::Progress { file: FILE, content: Box::new(content(4, None)) },
        event(SessionEvent::Sealed(Arc::new(content(4, None)))),
        event(SessionEvent::Taken { session: SessionId(4), kept: None }),
        event(begun("u1")),
        event(part(0)),
        event(part(1)),
        event(SessionEvent::PartsFound(vec![PartReceipt {
            number: PartNumber::from_index(0),
            len: 8,
            etag: String::new(),
            crc64: Some(Crc64(1)),
        }])),
        event(SessionEvent::Sealed(Arc::new(content(5, Some(change.clone()))))),
        event(SessionEvent::Taken { session: SessionId(5), kept: Some(vec![PartNumber::from_index(0)]) }),
        event(SessionEvent::CommitIntended { token: UploadToken::from_text("t"), by: CommitBy::Parts }),
        event(SessionEvent::CommitUnknown),
        event(SessionEvent::LookedUp(Found::Other)),
        event(SessionEvent::ConflictKept(key("k.conflict"))),
        event(begun("u2")),
        event(SessionEvent::OffsetFound(3)),
        event(SessionEvent::UploadLost),
        event(SessionEvent::LookedUp(Found::Absent)),
        event(SessionEvent::SourceLost),
        event(SessionEvent::CommitIntended { token: UploadToken::from_text("t2"), by: CommitBy::Put }),
        event(SessionEvent::CommitWithdrawn),
        event(SessionEvent::CommitIntended { token: UploadToken::from_text("t3"), by: CommitBy::Copy }),
        event(SessionEvent::LookedUp(Found::Ours(Box::new(object("k.conflict", "kept"))))),
        event(SessionEvent::Aborted(UploadId("u1".to_owned()))),
        event(SessionEvent::Sealed(Arc::new(content(6, Some(Change { session: SessionId(5), ..change }))))),
        event(SessionEvent::Renamed { key: key("n"), expected: Precondition::Absent, over: None }),
        event(SessionEvent::Taken { session: SessionId(6), kept: None }),
        event(SessionEvent::CommitIntended { token: UploadToken::from_text("t4"), by: CommitBy::Put }),
        event(SessionEvent::Spoiled(Box::new(object("n", "bad")))),
        event(SessionEvent::CommitIntended { token: UploadToken::from_text("t5"), by: CommitBy::Put }),
        event(SessionEvent::LookedUp(Found::Other)),
        event(SessionEvent::ConflictOverruled),
        event(SessionEvent::CommitIntended { token: UploadToken::from_text("t6"), by: CommitBy::Put }),
        event(ours),
        event(SessionEvent::UploadLeft(Upload { key: key("n"), id: UploadId("u3".to_owned()) })),
        event(SessionEvent::Sealed(Arc::new(content(7, None)))),
        event(SessionEvent::Taken { session: SessionId(7), kept: None }),
        event(SessionEvent::CommitIntended { token: UploadToken::from_text("t7"), by: CommitBy::Put }),
        event(SessionEvent::LookedUp(Found::Expected)),
        event(SessionEvent::LookedUp(Found::Other)),
        event(SessionEvent::ConflictLeft),
        event(SessionEvent::Quarantined { why: "w".to_owned() }),
        event(SessionEvent::GivenUp),
        Record::MoveIntended {
            id: 9,
            source: object("a", "e").id,
            target: key("b"),
            replaces: Precondition::None,
            over: None,
        },
        Record::MoveCopied { id: 9, object: Box::new(object("b", "f")) },
        Record::MoveDone { id: 9 },
        Record::Closed { file: FILE },
    ]
}

fn replay(records: &[Record]) -> Ledger {
    let mut ledger = Ledger::default();
    for record in records {
        let record = Record::decode(&record.encode()).unwrap();
        ledger.check(&record).unwrap();
        ledger.apply(&record).unwrap_or_else(|misfit| panic!("{record:?}: {misfit}"));
    }
    ledger
}

#[test]
fn a_checkpoint_at_any_moment_folds_to_the_same_ledger() {
    let life = life();
    for moment in 0..=life.len() {
        let ledger = replay(&life[..moment]);
        let mut shorter = ledger.checkpoint();
        assert_eq!(replay(&shorter), ledger, "after {moment} records");
        shorter.extend_from_slice(&life[moment..]);
        assert_eq!(replay(&shorter), replay(&life), "on from {moment}");
    }
    assert_eq!(replay(&life), Ledger { next_id: 10, ..Ledger::default() });
}

#[test]
fn records_that_do_not_fit_change_nothing() {
    let life = life();
    for moment in 0..life.len() {
        let ledger = replay(&life[..moment]);
        for record in &life {
            let mut other = ledger.clone();
            if ledger.check(record).is_err() {
                assert!(other.apply(record).is_err());
                assert_eq!(other, ledger, "{record:?} after {moment}");
            }
        }
    }
}

#[test]
fn a_later_file_of_the_same_name_expects_what_an_earlier_one_committed() {
    let mut ledger = replay(&[opened()]);
    let later = FileId(8);
    let Record::FileOpened(first) = opened() else { panic!() };
    ledger.apply(&Record::FileOpened(FileOpened { file: later, session: SessionId(9), ..first })).unwrap();
    for step in [
        SessionEvent::Sealed(Arc::new(content(4, None))),
        SessionEvent::Taken { session: SessionId(4), kept: None },
        SessionEvent::CommitIntended { token: UploadToken::from_text("t"), by: CommitBy::Put },
        SessionEvent::Committed(Box::new(object("k", "mine"))),
    ] {
        ledger.apply(&event(step)).unwrap();
    }
    assert_eq!(ledger.upload(later).unwrap().expected, Precondition::Matches(ETag::new("mine")));
    assert!(matches!(ledger.upload(FILE).unwrap().state, State::Committed { .. }));
}

/// Written by the first version with this format. These lines never change: a journal of that time must stay readable.
const FIXTURE: &str = include_str!("tests/journal-v1.txt");

const CHECKPOINT_FIXTURE: &str = include_str!("tests/checkpoints-v1.txt");

#[test]
fn the_first_versions_checkpoints_are_read_and_still_written_so() {
    let checkpoints = (0..=life().len()).flat_map(|moment| replay(&life()[..moment]).checkpoint());
    let written: Vec<String> =
        checkpoints.clone().map(|record| String::from_utf8(record.encode()).unwrap()).collect();
    assert_eq!(CHECKPOINT_FIXTURE.lines().collect::<Vec<_>>(), written);
    for (line, record) in CHECKPOINT_FIXTURE.lines().zip(checkpoints) {
        assert_eq!(Record::decode(line.as_bytes()).unwrap(), record);
    }
}

#[test]
fn the_first_versions_journal_is_read_and_still_written_so() {
    let lines: Vec<&str> = FIXTURE.lines().collect();
    let written: Vec<String> =
        life().iter().map(|record| String::from_utf8(record.encode()).unwrap()).collect();
    assert_eq!(lines, written);
    let read: Vec<Record> = lines.iter().map(|line| Record::decode(line.as_bytes()).unwrap()).collect();
    assert_eq!(read, life());
}

#[test]
fn what_is_no_record_or_of_another_version_says_so() {
    assert_eq!(Record::decode(br#"[2,{"new-kind":{}}]"#), Err(RecordError::Version(2)));
    for bytes in [&b""[..], b"[1", b"[1,{\"unheard-of\":3}]", b"{}", b"[1,{\"closed\":{}}]"] {
        assert!(matches!(Record::decode(bytes), Err(RecordError::Syntax(_))), "{bytes:?}");
    }
}

#[test]
fn upload_ids_do_not_show_in_debug_output() {
    let shown = format!("{:?}", event(begun("the-secret-id")));
    assert!(!shown.contains("the-secret-id"), "{shown}");
}
