//! Objects moved to another key, and attributes replaced.

use crate::store::wrap::{Action, When};
use crate::store::{ErrorKind, Op, Precondition};
use crate::types::{Attributes, UnixTime};
use crate::write::tests::{NOT_NOW, World, copies_of, key};
use crate::write::{Error, Replaces};

#[test]
fn a_move_is_a_copy_and_a_delete() {
    let world = World::new();
    world.live(async |life| {
        let there = world.put("a", b"content").await;
        let moved = life.writer.rename(&there.id, &key("b"), Precondition::Absent).await.unwrap();
        assert_eq!((moved.id.key, moved.id.size), (key("b"), 7));
        assert_eq!((world.bytes("a"), world.bytes("b").unwrap()), (None, b"content".to_vec()));
        assert_eq!(world.requests(), "1 copy, 1 delete");
    });
}

#[test]
fn lost_answers_of_a_move_are_looked_up() {
    for op in [Op::Copy, Op::Delete] {
        for action in [
            Action::FailAfter(ErrorKind::Ambiguous),
            Action::FailBefore(ErrorKind::Ambiguous),
            Action::FailBefore(NOT_NOW),
        ] {
            let world = World::new();
            world.fail(op, When::Nth(1), action);
            world.live(async |life| {
                let there = world.put("a", b"content").await;
                life.writer.rename(&there.id, &key("b"), Precondition::Absent).await.unwrap();
                assert_eq!((world.bytes("a"), world.bytes("b").unwrap()), (None, b"content".to_vec()));
                let is_made_again = op == Op::Copy && action != Action::FailAfter(ErrorKind::Ambiguous);
                assert_eq!(world.faults.count(Op::Copy), 1 + usize::from(is_made_again), "{op} {action:?}");
            });
        }
    }
}

#[test]
fn a_move_onto_another_writers_version_is_a_conflict_and_changes_nothing() {
    let world = World::new();
    world.live(async |life| {
        let there = world.put("a", b"content").await;
        world.put("b", b"theirs").await;
        let error = life.writer.rename(&there.id, &key("b"), Precondition::Absent).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        assert_eq!(
            (world.bytes("a").unwrap(), world.bytes("b").unwrap()),
            (b"content".to_vec(), b"theirs".to_vec())
        );
    });
}

#[test]
fn a_source_that_another_writer_replaced_is_neither_moved_nor_removed() {
    let world = World::new();
    world.live(async |life| {
        let there = world.put("a", b"content").await;
        world.put("a", b"theirs").await;
        life.writer.rename(&there.id, &key("b"), Precondition::Absent).await.unwrap_err();
        assert_eq!((world.bytes("a").unwrap(), world.bytes("b")), (b"theirs".to_vec(), None));
    });
}

#[test]
fn a_move_that_cannot_reach_the_bucket_does_not_happen_later() {
    let world = World::new();
    world.fail(Op::Copy, When::Always, Action::FailBefore(NOT_NOW));
    world.live(async |life| {
        let there = world.put("a", b"content").await;
        let error = life.writer.rename(&there.id, &key("b"), Precondition::Absent).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        world.faults.clear();
        life.writer.drained().await;
        assert_eq!(world.bytes("b"), None);
    });
    world.live(async |life| {
        life.writer.drained().await;
        assert_eq!(world.bytes("b"), None);
    });
}

#[test]
fn a_move_that_was_copied_is_finished_by_the_next_process_and_any_other_is_given_up() {
    let stages = [
        (Op::Copy, Action::Stall, false),
        (Op::Copy, Action::FailAfter(ErrorKind::Ambiguous), true),
        (Op::Delete, Action::Stall, true),
        (Op::Delete, Action::FailAfter(ErrorKind::Ambiguous), true),
    ];
    for (op, action, is_copied) in stages {
        let world = World::new();
        world.fail(op, When::Always, action);
        world.fail(Op::Head, When::Always, Action::Stall);
        world.live(async |life| {
            let there = world.put("a", b"content").await;
            let target = key("b");
            let moving = life.writer.rename(&there.id, &target, Precondition::Absent);
            tokio::time::timeout(std::time::Duration::from_secs(2), moving).await.unwrap_err();
        });
        world.faults.clear();
        let content = Some(b"content".to_vec());
        let expected = if is_copied { (None, content) } else { (content, None) };
        world.live(async |life| {
            // Before a program can look at the names.
            life.recovered.wait_for_moves().await;
            assert_eq!((world.bytes("a"), world.bytes("b")), expected, "{op} {action:?}");
            life.writer.drained().await;
        });
        world.faults.forget_calls();
        world.live(async |life| life.writer.drained().await);
        assert_eq!(
            (world.requests(), (world.bytes("a"), world.bytes("b"))),
            (String::new(), expected),
            "it is done"
        );
    }
}

#[test]
fn attributes_are_replaced_once() {
    for action in [Action::FailAfter(ErrorKind::Ambiguous), Action::FailBefore(NOT_NOW)] {
        let world = World::new();
        world.fail(Op::Copy, When::Nth(1), action);
        world.live(async |life| {
            let there = world.put("a", b"content").await;
            let wanted = Attributes { mtime: Some(UnixTime::from_secs(1)), ..Attributes::default() };
            let amended = life.writer.replace_attributes(&there.id, wanted.clone()).await.unwrap();
            assert_eq!(amended.attributes, Some(wanted.clone()));
            world.put("a", b"theirs!").await;
            let error = life.writer.replace_attributes(&amended.id, wanted).await.unwrap_err();
            assert!(matches!(error, Error::Conflict { .. }), "{error}");
        });
    }
}

#[test]
fn what_a_rename_replaced_does_not_come_back_when_the_process_dies_right_after_it() {
    // Another file's changes get the name, or an object does.
    for is_object in [false, true] {
        let world = World::new();
        world.fail(Op::Put, When::Always, Action::FailBefore(NOT_NOW));
        world.live(async |life| {
            let old = life.create("name");
            old.write(0, b"replaced").unwrap();
            old.sync().await.unwrap();
            let replaces = Replaces::new(Precondition::Absent, Some(&*old));
            if is_object {
                let there = world.put("other", b"wanted").await;
                life.writer.rename(&there.id, &key("name"), replaces).await.unwrap();
            } else {
                let new = life.create("other");
                new.write(0, b"wanted").unwrap();
                new.sync().await.unwrap();
                new.rename(key("name"), replaces).await.unwrap();
            }
        });
        world.faults.clear();
        world.live(async |life| {
            let shown = life.recovered.pending.iter().filter(|file| file.key() == key("name")).count();
            assert_eq!(shown, usize::from(!is_object), "the replaced one is gone");
            life.writer.drained().await;
            assert_eq!(world.bytes("name").unwrap(), b"wanted");
            assert_eq!((world.bytes("other"), copies_of(&world, "name").await.len()), (None, 0));
        });
    }
}
