//! New attributes over the same bytes: when they are uploaded, with what, and what becomes of them beside another writer.

use std::time::Duration;

use crate::store::wrap::{Action, When};
use crate::store::{DeleteOptions, ErrorKind, ObjectStore, Op};
use crate::types::Attributes;
use crate::write::tests::{KIB, World, copies_of, key, pattern};
use crate::write::{Error, Event, OnConflict, SessionPhase};

const MOMENT: Duration = Duration::from_millis(10);

fn mode(mode: u32) -> Attributes {
    Attributes { mode: Some(mode), ..Attributes::default() }
}

async fn mode_of(world: &World, name: &str) -> Option<u32> {
    world.memory.head(&key(name)).await.unwrap().attributes.unwrap().mode
}

#[test]
fn attributes_set_one_after_the_other_are_one_copy() {
    for size in [10, 300 * KIB] {
        let world = World::new();
        world.live(async |life| {
            let object = world.put("k", &pattern(1, size)).await;
            let file = life.change(&object);
            for bits in [0o600, 0o640, 0o644] {
                file.set_attributes(mode(bits));
                file.seal_soon().unwrap();
                file.close().unwrap();
                tokio::time::sleep(Duration::from_millis(300)).await;
                assert_eq!(world.requests(), "", "more may come");
                assert_eq!(life.writer.sessions()[0].state, SessionPhase::Queued);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(world.requests(), "1 copy");
            assert_eq!(mode_of(&world, "k").await, Some(0o644));
            assert!(life.writer.sessions().is_empty());
        });
    }
}

#[test]
fn whoever_waits_or_unmounts_is_not_kept_waiting() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("a", b"x").await);
        file.set_attributes(mode(0o600));
        file.seal_soon().unwrap();
        let start = tokio::time::Instant::now();
        file.commit().await.unwrap();
        let other = life.change(&world.put("b", b"x").await);
        other.set_attributes(mode(0o600));
        other.seal_soon().unwrap();
        other.close().unwrap();
        life.writer.drained().await;
        assert!(start.elapsed() < MOMENT);
        assert_eq!((mode_of(&world, "a").await, mode_of(&world, "b").await), (Some(0o600), Some(0o600)));
    });
}

#[test]
fn attributes_go_along_with_the_bytes_that_are_on_their_way() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("k");
        file.write(0, b"bytes").unwrap();
        file.sync().await.unwrap();
        file.set_attributes(mode(0o640));
        file.seal_soon().unwrap();
        file.close().unwrap();
        life.writer.drained().await;
        assert_eq!(world.requests(), "1 put");
        assert_eq!(mode_of(&world, "k").await, Some(0o640));
    });
}

#[test]
fn set_again_and_again_they_hold_up_no_upload() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("k");
        file.write(0, &pattern(2, 700 * KIB)).unwrap();
        file.seal().unwrap();
        for bits in 0..40 {
            file.set_attributes(mode(bits));
            file.seal_soon().unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(world.bytes("k").is_some(), "the bytes are there after 4 s");
        file.close().unwrap();
        life.writer.drained().await;
        assert_eq!(mode_of(&world, "k").await, Some(39));
    });
}

#[test]
fn a_crash_before_the_copy_does_not_lose_them() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("k", &pattern(3, 90 * KIB)).await);
        file.set_attributes(mode(0o751));
        file.seal_soon().unwrap();
        file.close().unwrap();
    });
    world.live(async |life| {
        assert_eq!(life.recovered.pending.len(), 1);
        life.writer.drained().await;
        assert_eq!(world.requests(), "1 copy");
    });
    world.live(async |life| {
        assert!(life.recovered.pending.is_empty());
        assert_eq!(mode_of(&world, "k").await, Some(0o751));
        assert!(world.bytes("k").unwrap() == pattern(3, 90 * KIB));
    });
}

#[test]
fn they_yield_to_another_writers_version_whatever_the_user_wants_of_conflicts() {
    for on_conflict in [OnConflict::KeepBoth, OnConflict::Fail, OnConflict::Overwrite] {
        for is_removed in [false, true] {
            let mut world = World::new();
            world.on_conflict = on_conflict;
            world.live(async |life| {
                let file = life.change(&world.put("k", b"bytes").await);
                file.set_attributes(mode(0o600));
                file.seal_soon().unwrap();
                if is_removed {
                    world.memory.delete(&key("k"), DeleteOptions::default()).await.unwrap();
                } else {
                    world.put("k", b"theirs").await;
                }
                let error = file.commit().await.unwrap_err();
                assert!(matches!(error, Error::Conflict { kept_as: None, .. }), "{error}");
                assert!(matches!(life.events.try_recv(), Ok(Event::Yielded { .. })));
                let theirs = (!is_removed).then(|| b"theirs".to_vec());
                assert_eq!(world.bytes("k"), theirs, "{on_conflict:?}");
                assert!(copies_of(&world, "k").await.is_empty());
                file.close().unwrap();
                life.writer.drained().await;
                assert!(life.writer.sessions().is_empty(), "{:?}", life.writer.sessions());
            });
            world.live(async |life| assert!(life.recovered.pending.is_empty(), "nothing is left of them"));
        }
    }
}

#[test]
fn bytes_written_after_them_are_kept_beside_another_writers_version() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("k", b"bytes").await);
        file.set_attributes(mode(0o600));
        file.seal_soon().unwrap();
        file.write(0, b"BYTES").unwrap();
        world.put("k", b"theirs").await;
        let error = file.commit().await.unwrap_err();
        assert!(matches!(error, Error::Conflict { kept_as: Some(_), .. }), "{error}");
        let copies = copies_of(&world, "k").await;
        assert_eq!(world.bytes(copies[0].as_str()).unwrap(), b"BYTES");
    });
}

#[test]
fn a_lost_answer_is_recognised_by_its_mark() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("k", b"bytes").await);
        world.fail(Op::Copy, When::First(1), Action::FailAfter(ErrorKind::Ambiguous));
        file.set_attributes(mode(0o600));
        let committed = file.commit().await.unwrap();
        assert_eq!(world.requests(), "1 head, 1 copy");
        assert_eq!(committed.attributes.unwrap().mode, Some(0o600));
    });
}
