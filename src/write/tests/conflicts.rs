//! Other writers.

use crate::observe::Counter;
use crate::store::wrap::{Action, When};
use crate::store::{DeleteOptions, ErrorKind, ObjectStore, Op};
use crate::write::tests::{KIB, World, copies_of, key, pattern};
use crate::write::{Error, Event, OnConflict, SessionPhase};

#[test]
fn both_versions_are_kept() {
    for size in [10, 200 * KIB] {
        let world = World::new();
        world.live(async |life| {
            let ours = pattern(1, size);
            let file = life.create("k");
            file.write(0, &ours).unwrap();
            world.put("k", b"theirs").await;
            let error = file.commit().await.unwrap_err();
            let copies = copies_of(&world, "k").await;
            let [copy] = copies.as_slice() else { panic!("{copies:?}") };
            assert!(matches!(&error, Error::Conflict { kept_as: Some(kept), .. } if kept == copy), "{error}");
            assert_eq!(world.bytes("k").unwrap(), b"theirs");
            assert!(world.bytes(copy.as_str()).unwrap() == ours);
            let Ok(Event::Conflicted { key: wanted, kept_as: Some(kept), .. }) = life.events.try_recv()
            else {
                panic!()
            };
            assert_eq!((wanted, &kept.id.key), (key("k"), copy));
            assert_eq!(life.count(Counter::Conflicts), 1);
            file.commit().await.unwrap_err();
            file.write(0, b"more").unwrap();
            assert_eq!(file.commit().await.unwrap().id.key, *copy, "it goes on as the copy");
            assert_eq!(&world.bytes(copy.as_str()).unwrap()[..4], b"more");
            assert_eq!(world.memory.open_uploads(), 0);
        });
    }
}

#[test]
fn a_changed_base_is_a_conflict_and_its_bytes_are_told_to_be_gone() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("b", &pattern(2, 400 * KIB)).await);
        file.write(0, b"ours").unwrap();
        world.put("b", b"theirs").await;
        let error = file.commit().await.unwrap_err();
        assert!(matches!(error, Error::BaseGone { .. }), "{error}");
        assert_eq!(life.writer.sessions()[0].state, SessionPhase::Stuck);
        assert_eq!(world.bytes("b").unwrap(), b"theirs");
    });
}

#[test]
fn a_small_change_over_a_changed_base_whose_bytes_are_at_hand_is_kept() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("b", b"0123456789").await);
        file.write(0, b"abcdefghij").unwrap();
        world.put("b", b"theirs").await;
        file.commit().await.unwrap_err();
        let copies = copies_of(&world, "b").await;
        assert_eq!(world.bytes(copies[0].as_str()).unwrap(), b"abcdefghij");
    });
}

#[test]
fn a_removed_object_is_made_again() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("r", b"0123456789").await);
        file.write(0, b"abcdefghij").unwrap();
        world.memory.delete(&key("r"), DeleteOptions::default()).await.unwrap();
        file.commit().await.unwrap();
        assert_eq!(world.bytes("r").unwrap(), b"abcdefghij");
        assert_eq!(life.count(Counter::Conflicts), 0);
    });
}

#[test]
fn ours_stays_here_when_the_user_wants_to_decide_and_goes_on_when_he_changes_his_mind() {
    let mut world = World::new();
    world.on_conflict = OnConflict::Fail;
    world.live(async |life| {
        let file = life.create("f");
        file.write(0, b"ours").unwrap();
        world.put("f", b"theirs").await;
        for _ in 0..2 {
            let error = file.commit().await.unwrap_err();
            assert!(matches!(error, Error::Conflict { kept_as: None, .. }), "{error}");
        }
        assert_eq!(life.writer.sessions()[0].state, SessionPhase::Conflicted);
        assert_eq!(world.bytes("f").unwrap(), b"theirs");
        file.write(0, b"OURS").unwrap();
        file.commit().await.unwrap_err();
        life.writer.drained().await;
    });
    world.live(async |life| {
        assert!(life.recovered.pending.is_empty(), "it is not shown under its name");
        assert_eq!(life.writer.sessions()[0].state, SessionPhase::Conflicted);
    });
    world.on_conflict = OnConflict::KeepBoth;
    world.live(async |life| {
        life.writer.drained().await;
        let copies = copies_of(&world, "f").await;
        assert_eq!(world.bytes(copies[0].as_str()).unwrap(), b"OURS");
        assert_eq!(world.bytes("f").unwrap(), b"theirs");
        assert!(life.writer.sessions().is_empty());
    });
}

#[test]
fn a_conflict_can_be_discarded() {
    let mut world = World::new();
    world.on_conflict = OnConflict::Fail;
    world.live(async |life| {
        let file = life.create("f");
        file.write(0, b"ours").unwrap();
        world.put("f", b"theirs").await;
        file.commit().await.unwrap_err();
        life.writer.discard(file.session()).await.unwrap();
        assert!(life.writer.sessions().is_empty());
        assert!(life.writer.discard(file.session()).await.is_err());
    });
    world.live(async |life| assert!(life.writer.sessions().is_empty()));
}

#[test]
fn theirs_is_replaced_when_the_user_says_so() {
    for size in [10, 200 * KIB] {
        let mut world = World::new();
        world.on_conflict = OnConflict::Overwrite;
        world.live(async |life| {
            let ours = pattern(3, size);
            let file = life.create("o");
            file.write(0, &ours).unwrap();
            world.put("o", b"theirs").await;
            file.commit().await.unwrap();
            assert!(world.bytes("o").unwrap() == ours);
        });
    }
}

#[test]
fn a_lost_answer_and_then_another_writer_is_a_conflict() {
    let world = World::new();
    world.fail(Op::Put, When::Nth(1), Action::FailBefore(ErrorKind::Ambiguous));
    world.live(async |life| {
        let file = life.create("l");
        file.write(0, b"ours").unwrap();
        world.put("l", b"theirs").await;
        file.commit().await.unwrap_err();
        assert_eq!(world.bytes("l").unwrap(), b"theirs");
        assert_eq!(world.bytes(copies_of(&world, "l").await[0].as_str()).unwrap(), b"ours");
    });
}
