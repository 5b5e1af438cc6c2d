//! What is told of a state directory that nobody has mounted is what the next process does with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::store::wrap::{Action, When};
use crate::store::{ErrorKind, ObjectStore, Op};
use crate::types::ByteSize;
use crate::write::tests::{KIB, Life, NOT_NOW, World, always, key, pattern};
use crate::write::{Examination, FileReport, OnConflict, Prospect, SessionPhase, StateReport};

/// Long enough for everything to get as far as it can.
const A_WHILE: Duration = Duration::from_secs(5);

fn files_below(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.path() {
            path if path.is_dir() => found.extend(files_below(&path)),
            path => drop(found.insert(path.clone(), fs::read(path).unwrap())),
        }
    }
    found
}

fn examination(world: &World) -> Examination {
    let directory = world.directory.path();
    let before = files_below(directory);
    let mut progress = Vec::new();
    let examined =
        Examination::of(directory, world.memory.capabilities(), ByteSize(64 * KIB), &mut |done, total| {
            assert!(done <= total);
            progress.push(done);
        });
    let examined = examined.unwrap();
    assert!(progress.is_sorted());
    assert!(files_below(directory) == before, "looking changes nothing");
    examined
}

fn on_runtime<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(work)
}

/// What is told without and with the server's word.
fn examined(world: &World) -> (StateReport, StateReport) {
    let mut examination = examination(world);
    let alone = examination.report();
    on_runtime(examination.ask(&*world.faults));
    (alone, examination.report())
}

fn the_file(report: &StateReport) -> &FileReport {
    let [file] = report.files.as_slice() else { panic!("{:?}", report.files) };
    file
}

/// Prospects of the only file, without and with the server's word.
fn prospects(world: &World) -> (Prospect, Prospect) {
    let (alone, asked) = examined(world);
    (the_file(&alone).prospect, the_file(&asked).prospect)
}

async fn seal(life: &Life, name: &str, content: &[u8]) {
    let file = life.create(name);
    file.write(0, content).unwrap();
    file.close().unwrap();
    tokio::time::sleep(A_WHILE).await;
}

/// The next process brings everything to its end, without sending more parts than that.
fn expect_committed(world: &World, name: &str, content: &[u8], parts: usize) {
    world.faults.clear();
    world.faults.forget_calls();
    world.live(async |life| {
        life.writer.drained().await;
        assert!(life.writer.sessions().is_empty());
    });
    assert!(world.bytes(name).unwrap() == content, "{name}");
    assert_eq!(world.faults.count(Op::PutPart), parts, "{}", world.requests());
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x40;
    fs::write(path, bytes).unwrap();
}

fn staging_files(world: &World) -> Vec<PathBuf> {
    files_below(&world.directory.path().join("staging")).into_keys().collect()
}

fn recovered(world: &World) -> BTreeMap<PathBuf, Vec<u8>> {
    files_below(&world.directory.path().join("recovered"))
}

#[test]
fn nothing_ever_staged_and_nothing_left() {
    let world = World::new();
    assert!(!Examination::is_possible(world.directory.path()));
    world.live(async |life| {
        seal(life, "done", b"content").await;
        life.writer.shutdown().await;
    });
    assert!(Examination::is_possible(world.directory.path()));
    let (alone, asked) = examined(&world);
    assert_eq!((alone.problems(), alone.files.len()), (0, 0));
    assert_eq!(alone, asked);
    assert_eq!(world.faults.count(Op::Head), 0, "there was nothing to ask");
}

#[test]
fn an_upload_goes_on_with_the_parts_that_are_there() {
    let world = World::new();
    let content = pattern(1, 640 * KIB);
    // The sixth part arrives and nobody knows; those after it, and the second attempt, do not.
    world.fail(Op::PutPart, When::Nth(6), Action::FailAfter(NOT_NOW));
    (7..=12).for_each(|nth| world.fail(Op::PutPart, When::Nth(nth), Action::Stall));
    world.live(async |life| seal(life, "p", &content).await);
    world.faults.clear();
    let (alone, asked) = examined(&world);
    assert_eq!((alone.problems(), asked.problems()), (0, 0));
    assert_eq!(the_file(&alone).prospect, Prospect::Resume { parts_there: 5, parts: 10 });
    assert_eq!(the_file(&asked).prospect, Prospect::Resume { parts_there: 6, parts: 10 });
    let file = the_file(&asked);
    assert_eq!((file.state, file.bytes), (Some(SessionPhase::Sending), content.len() as u64));
    assert!(file.staged_bytes >= file.bytes && file.key == key("p"));
    expect_committed(&world, "p", &content, 4);
}

#[test]
fn what_was_not_begun_is_sent() {
    let world = World::new();
    world.fail(Op::Put, When::Always, Action::FailBefore(ErrorKind::Denied));
    world.fail(Op::BeginUpload, When::Always, Action::Stall);
    world.live(async |life| {
        seal(life, "large", &pattern(2, 200 * KIB)).await;
    });
    assert_eq!(prospects(&world), (Prospect::Send, Prospect::Send));
    assert_eq!(world.faults.count(Op::Head) + world.faults.count(Op::UploadStatus), 0);
}

#[test]
fn a_commit_in_doubt_is_looked_up() {
    for (op, size, parts) in [(Op::Put, 10, 0), (Op::CompleteUpload, 200 * KIB, 4)] {
        let content = pattern(3, size);
        let left_in_doubt = |action: Action| {
            let world = World::new();
            world.fail(op, When::Always, action);
            world.fail(Op::Head, When::Always, Action::Stall);
            world.live(async |life| seal(life, "d", &content).await);
            world.faults.clear();
            world
        };
        let applied = left_in_doubt(Action::FailAfter(ErrorKind::Ambiguous));
        assert_eq!(prospects(&applied), (Prospect::LookUp, Prospect::Done));
        expect_committed(&applied, "d", &content, 0);

        let not_applied = left_in_doubt(Action::FailBefore(ErrorKind::Ambiguous));
        let ready = if parts == 0 { Prospect::Send } else { Prospect::Resume { parts_there: parts, parts } };
        assert_eq!(prospects(&not_applied), (Prospect::LookUp, ready));
        expect_committed(&not_applied, "d", &content, 0);

        let overtaken = left_in_doubt(Action::FailBefore(ErrorKind::Ambiguous));
        on_runtime(overtaken.put("d", b"theirs"));
        assert_eq!(prospects(&overtaken), (Prospect::LookUp, Prospect::Conflict));
    }
}

#[test]
fn an_upload_that_the_server_forgot_is_sent_anew() {
    let mut world = World::new();
    let content = pattern(4, 400 * KIB);
    (4..=9).for_each(|nth| world.fail(Op::PutPart, When::Nth(nth), Action::Stall));
    world.live(async |life| seal(life, "f", &content).await);
    let forgetful = World::new();
    (world.memory, world.faults) = (forgetful.memory, forgetful.faults);
    let (alone, asked) = prospects(&world);
    assert_eq!((alone, asked), (Prospect::Resume { parts_there: 3, parts: 7 }, Prospect::Send));
    expect_committed(&world, "f", &content, 7);
}

#[test]
fn what_waits_for_the_user_is_told_so() {
    let mut world = World::new();
    world.on_conflict = OnConflict::Fail;
    world.live(async |life| {
        let file = life.create("conflicted");
        file.write(0, b"ours").unwrap();
        world.put("conflicted", b"theirs").await;
        file.commit().await.unwrap_err();
        life.create("interrupted").write(0, &pattern(5, 20 * KIB)).unwrap();
        tokio::time::sleep(A_WHILE).await;
        // Noted by nobody yet, and nobody's bytes but its own.
        life.create("fresh").write(0, &pattern(6, 8 * KIB)).unwrap();
    });
    let (alone, asked) = examined(&world);
    assert_eq!(alone, asked);
    assert_eq!(alone.problems(), 0);
    let told: Vec<_> =
        alone.files.iter().map(|file| (file.key.as_str(), file.prospect, file.state, file.bytes)).collect();
    let interrupted = (Prospect::Interrupted, Some(SessionPhase::Interrupted));
    assert_eq!(
        told,
        [
            ("conflicted", Prospect::Decide, Some(SessionPhase::Conflicted), 4),
            ("interrupted", interrupted.0, interrupted.1, 20 * KIB),
            ("fresh", interrupted.0, interrupted.1, 8 * KIB),
        ]
    );
}

#[test]
fn damaged_data_are_set_aside_and_the_rest_goes_on() {
    let world = World::new();
    let contents: Vec<Vec<u8>> = (0..3).map(|seed| pattern(seed, 200 * KIB)).collect();
    world.fail(Op::BeginUpload, When::Always, Action::Stall);
    world.live(async |life| {
        for (number, content) in contents.iter().enumerate() {
            seal(life, &format!("f{number}"), content).await;
        }
    });
    world.faults.clear();
    let homes = staging_files(&world);
    flip(&homes[1], 100_000);
    let damaged = fs::read(&homes[1]).unwrap();
    let stray = world.directory.path().join("staging/00000000000000ff.home");
    fs::write(&stray, b"whose?").unwrap();

    let (alone, _) = examined(&world);
    assert_eq!(alone.problems(), 2);
    let file = &alone.files[1];
    assert_eq!(file.prospect, Prospect::SetAside);
    assert!(file.damage.as_ref().unwrap().contains("1 places"), "{file:?}");
    assert_eq!(alone.strays[0].path, stray);
    assert!(
        alone.files.iter().filter(|file| file.damage.is_none()).all(|file| file.prospect == Prospect::Send)
    );

    let kept = examination(&world).repair().unwrap();
    assert_eq!(kept.iter().collect::<Vec<_>>(), recovered(&world).keys().collect::<Vec<_>>());
    let mut bytes: Vec<Vec<u8>> = recovered(&world).into_values().collect();
    bytes.sort_by_key(Vec::len);
    assert!(bytes == [b"whose?".to_vec(), damaged]);
    let (again, _) = examined(&world);
    assert_eq!((again.problems(), again.recovered.len()), (0, 2));
    assert_eq!(again.files[1].prospect, Prospect::AsideAlready);

    world.live(async |life| {
        life.writer.drained().await;
        let [status] = life.writer.sessions().try_into().unwrap();
        assert_eq!((status.key, status.state), (key("f1"), SessionPhase::Stuck));
        assert!(status.last_error.unwrap().contains("recovered"));
    });
    assert!(world.bytes("f0").unwrap() == contents[0] && world.bytes("f2").unwrap() == contents[2]);
    assert_eq!(world.bytes("f1"), None);
}

#[test]
fn damaged_data_that_may_be_in_the_bucket_are_looked_up_first() {
    let world = World::new();
    let content = pattern(7, 10_000);
    world.fail(Op::Put, When::Always, Action::FailAfter(ErrorKind::Ambiguous));
    world.fail(Op::Head, When::Always, Action::Stall);
    world.live(async |life| seal(life, "d", &content).await);
    world.faults.clear();
    flip(&staging_files(&world)[0], 1);
    let (alone, asked) = examined(&world);
    assert_eq!((the_file(&alone).prospect, alone.problems()), (Prospect::LookUp, 1));
    assert_eq!((the_file(&asked).prospect, asked.problems()), (Prospect::Done, 0));
    assert!(examination(&world).repair().unwrap().is_empty(), "it is left to the mount");
    expect_committed(&world, "d", &content, 0);
}

#[test]
fn a_damaged_record_costs_what_it_says_and_no_more() {
    let mut set_aside = 0;
    for place in [10, 30, 50, 70, 90] {
        let world = World::new();
        world.fail(Op::Put, When::Always, Action::Stall);
        world.live(async |life| {
            for number in 0..4 {
                seal(life, &format!("f{number}"), &pattern(number, 5000)).await;
            }
        });
        world.faults.clear();
        let journal = files_below(&world.directory.path().join("journal")).into_keys().next().unwrap();
        let len = fs::metadata(&journal).unwrap().len() as usize;
        flip(&journal, len * place / 100);
        let (alone, _) = examined(&world);
        assert!(alone.problems() > 0, "{alone:?}");
        set_aside += examination(&world).repair().unwrap().len();
        let (again, _) = examined(&world);
        assert_eq!((again.problems(), again.journal.torn_bytes), (0, 0), "{again:?}");
        world.live(async |life| life.writer.drained().await);
        // Each file is in the bucket, or its bytes are under recovered/, or it waits for the user.
        let kept: Vec<Vec<u8>> = recovered(&world).into_values().collect();
        let waiting = world.live(async |life| life.writer.sessions());
        let mut in_bucket = 0;
        for number in 0..4 {
            let (name, content) = (format!("f{number}"), pattern(number, 5000));
            let is_in_bucket = world.bytes(&name).is_some_and(|bytes| bytes == content);
            let is_waiting = waiting.iter().any(|status| status.key == key(&name));
            in_bucket += usize::from(is_in_bucket);
            assert!(is_in_bucket || is_waiting || kept.contains(&content), "{name} at {place} %");
        }
        assert!(in_bucket >= 3, "one record is about one file");
    }
    assert!(set_aside >= 5, "{set_aside}");
}

#[test]
fn a_server_that_cannot_be_reached_is_asked_once() {
    let world = World::new();
    (4..=40).for_each(|nth| world.fail(Op::PutPart, When::Nth(nth), Action::Stall));
    world.live(async |life| {
        seal(life, "a", &pattern(8, 200 * KIB)).await;
        seal(life, "b", &pattern(9, 200 * KIB)).await;
    });
    world.faults.clear();
    world.faults.forget_calls();
    world.faults.add(always(Op::UploadStatus, Action::FailBefore(NOT_NOW), "a"));
    let (_, asked) = examined(&world);
    assert_eq!(world.faults.count(Op::UploadStatus), 1);
    assert!(asked.files.iter().all(|file| file.unasked.is_some()), "{asked:?}");
    assert!(matches!(asked.files[0].prospect, Prospect::Resume { parts: 4, .. }));
}
