//! What the user decides about uploads, and waiting for what was there at a moment.

use std::time::Duration;

use crate::store::wrap::{Action, When};
use crate::store::{ErrorKind, Op};
use crate::types::SessionId;
use crate::write::tests::{KIB, Life, World, copies_of, key, pattern};
use crate::write::{Error, OnConflict, Resolution, SessionPhase};

/// Much less than what is stuck waits for by itself.
const SOON: Duration = Duration::from_secs(60);

fn left_to_the_user() -> World {
    let mut world = World::new();
    world.on_conflict = OnConflict::Fail;
    world
}

fn errno(error: &Error) -> Option<i32> {
    match error {
        Error::Staging { errno, .. } => Some(*errno),
        Error::StagingFull { .. }
        | Error::Timeout { .. }
        | Error::Conflict { .. }
        | Error::Store(_)
        | Error::BaseGone { .. } => None,
    }
}

fn conflicted(life: &Life) -> SessionId {
    let sessions = life.writer.sessions();
    let [session] = sessions.as_slice() else { panic!("{sessions:?}") };
    assert_eq!(session.state, SessionPhase::Conflicted);
    session.session
}

async fn is_drained(life: &Life, mark: SessionId) -> bool {
    tokio::time::timeout(SOON, life.writer.drained_before(mark)).await.is_ok()
}

#[test]
fn a_conflict_that_was_left_is_settled_either_way_at_the_users_word() {
    for size in [10, 200 * KIB] {
        for resolution in [Resolution::KeepBoth, Resolution::Overwrite] {
            let world = left_to_the_user();
            let ours = pattern(1, size);
            world.live(async |life| {
                let file = life.create("c");
                file.write(0, &ours).unwrap();
                world.put("c", b"theirs").await;
                file.commit().await.unwrap_err();
                let session = conflicted(life);
                let goes_to = life.writer.resolve(session, resolution).await.unwrap();
                life.writer.drained().await;
                assert!(world.bytes(goes_to.as_str()).unwrap() == ours, "{resolution:?}");
                match resolution {
                    Resolution::KeepBoth => {
                        assert_eq!(copies_of(&world, "c").await, [goes_to]);
                        assert_eq!(world.bytes("c").unwrap(), b"theirs");
                    }
                    Resolution::Overwrite => {
                        assert_eq!(goes_to, key("c"));
                        assert!(copies_of(&world, "c").await.is_empty());
                    }
                }
                assert!(life.writer.sessions().is_empty());
                assert_eq!(world.memory.open_uploads(), 0);
                let error = life.writer.resolve(session, resolution).await.unwrap_err();
                assert!(matches!(errno(&error), Some(libc::ENOENT | libc::EINVAL)), "{error}");
            });
        }
    }
}

#[test]
fn the_users_word_survives_the_process_and_is_not_asked_for_twice() {
    let world = left_to_the_user();
    world.live(async |life| {
        let file = life.create("k");
        file.write(0, b"ours").unwrap();
        world.put("k", b"theirs").await;
        file.commit().await.unwrap_err();
    });
    let copy = world.live(async |life| {
        world.fail(Op::Put, When::Always, Action::Stall);
        let copy = life.writer.resolve(conflicted(life), Resolution::KeepBoth).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        copy
    });
    world.faults.clear();
    // The copy's name is taken by somebody else meanwhile: another is found, also on a mount that leaves conflicts.
    world.live(async |life| {
        world.put(copy.as_str(), b"somebody's").await;
        life.writer.drained().await;
        assert!(life.writer.sessions().is_empty());
    });
    assert_eq!(world.bytes("k").unwrap(), b"theirs");
    assert_eq!(world.bytes(copy.as_str()).unwrap(), b"somebody's");
    world.live(async |_| {
        let copies = copies_of(&world, "k").await;
        let other = copies.iter().find(|name| **name != copy).expect("a second copy");
        assert_eq!((copies.len(), world.bytes(other.as_str()).unwrap()), (2, b"ours".to_vec()));
    });
}

#[test]
fn damaged_data_of_a_conflict_are_set_aside_and_not_sent() {
    let world = left_to_the_user();
    world.live(async |life| {
        let file = life.create("d");
        file.write(0, &pattern(3, 10_000)).unwrap();
        world.put("d", b"theirs").await;
        file.commit().await.unwrap_err();
    });
    let staging = world.directory.path().join("staging");
    let home = std::fs::read_dir(&staging).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&home).unwrap();
    bytes[5000] ^= 1;
    std::fs::write(&home, &bytes).unwrap();
    world.live(async |life| {
        life.writer.resolve(conflicted(life), Resolution::Overwrite).await.unwrap();
        life.writer.drained().await;
        assert_eq!(world.bytes("d").unwrap(), b"theirs");
        let [status] = life.writer.sessions().try_into().unwrap();
        assert_eq!(status.state, SessionPhase::Stuck);
        let kept = world.directory.path().join("recovered").join(home.file_name().unwrap());
        assert!(std::fs::read(kept).unwrap() == bytes);
    });
}

#[test]
fn what_has_no_conflict_cannot_be_resolved() {
    let world = World::new();
    world.fail(Op::Put, When::Always, Action::Stall);
    world.live(async |life| {
        let file = life.create("q");
        file.seal().unwrap();
        let error = life.writer.resolve(file.session(), Resolution::Overwrite).await.unwrap_err();
        assert_eq!(errno(&error), Some(libc::EINVAL));
        let error = life.writer.resolve(SessionId(99), Resolution::Overwrite).await.unwrap_err();
        assert_eq!(errno(&error), Some(libc::ENOENT));
    });
}

#[test]
fn what_is_stuck_is_tried_at_once_when_the_user_says_so() {
    for is_all in [true, false] {
        let world = World::new();
        world.fail(Op::Put, When::Always, Action::FailBefore(ErrorKind::Denied));
        world.live(async |life| {
            let file = life.create("s");
            file.write(0, b"data").unwrap();
            file.close().unwrap();
            life.writer.drained().await;
            assert_eq!(life.writer.sessions()[0].state, SessionPhase::Stuck);
            world.faults.clear();
            let session = (!is_all).then(|| file.session());
            assert_eq!(life.writer.retry(session).unwrap(), 1);
            assert!(is_drained(life, SessionId(u64::MAX)).await, "it waits for what is tried");
            assert_eq!(world.bytes("s").unwrap(), b"data");
            assert_eq!(life.writer.retry(None).unwrap(), 0);
            assert_eq!(errno(&life.writer.retry(Some(file.session())).unwrap_err()), Some(libc::ENOENT));
        });
    }
}

#[test]
fn what_does_not_wait_for_the_store_is_not_tried() {
    let world = left_to_the_user();
    world.live(async |life| {
        let file = life.create("f");
        file.write(0, b"ours").unwrap();
        world.put("f", b"theirs").await;
        file.commit().await.unwrap_err();
        let error = life.writer.retry(Some(conflicted(life))).unwrap_err();
        assert_eq!(errno(&error), Some(libc::EINVAL));
        assert_eq!(life.writer.retry(None).unwrap(), 0);
    });
}

#[test]
fn what_is_sealed_later_is_not_waited_for() {
    let world = World::new();
    world.live(async |life| {
        let before = life.create("before");
        before.seal().unwrap();
        let mark = life.writer.mark();
        assert!(life.writer.sessions_before(mark).iter().all(|status| status.key == key("before")));
        world.faults.add(crate::write::tests::always(Op::Put, Action::Stall, "later"));
        let later = life.create("later");
        later.seal().unwrap();
        assert!(is_drained(life, mark).await);
        assert!(world.bytes("before").is_some() && world.bytes("later").is_none());
        assert!(life.writer.sessions_before(mark).is_empty());
        assert_eq!(life.writer.sessions().len(), 1);
        assert!(!is_drained(life, SessionId(u64::MAX)).await);
    });
}

#[test]
fn a_file_that_is_rewritten_all_the_time_does_not_keep_anybody_waiting() {
    let world = World::new();
    // Before one content is committed the next is sealed, so that the file is pending at every moment.
    world.fail(Op::Put, When::Always, Action::Delay(Duration::from_secs(1)));
    world.live(async |life| {
        let file = life.create("busy");
        let rewrite_for = async |seconds: u64| {
            for round in 0..seconds * 10 {
                file.write(0, &round.to_le_bytes()).unwrap();
                file.seal().unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        rewrite_for(5).await;
        let mark = life.writer.mark();
        let waiting = async { (is_drained(life, mark).await, life.writer.sessions_before(mark).len()) };
        let rewriting = rewrite_for(2 * SOON.as_secs());
        tokio::select! {
            seen = waiting => assert_eq!(seen, (true, 0)),
            () = rewriting => panic!("it waits for what is sealed later"),
        }
        assert!(file.is_pending());
    });
}
