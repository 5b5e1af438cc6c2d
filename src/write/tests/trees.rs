//! Everything below a prefix moved to another one: whatever answers are lost and whoever else changes it.

use crate::store::wrap::{Action, When};
use crate::store::{ErrorKind, ObjectStore, Op, UploadKind};
use crate::write::tests::{Life, NOT_NOW, World, key, pattern};
use crate::write::{Error, TreePhase};

async fn fill(world: &World, count: usize) {
    for n in 0..count {
        world.put(&format!("old/{n}"), format!("{n}").as_bytes()).await;
    }
}

/// Moves everything below `old/` to below `new/`.
async fn move_all(life: &Life) -> Result<(), Error> {
    let tree = life.writer.move_tree("old/", "new/", false).await?;
    let copied = tree.copy().await;
    if copied.is_ok() {
        tree.switch()?;
    }
    tree.finish().await;
    copied
}

async fn keys(world: &World) -> Vec<String> {
    let page = world.memory.list(crate::store::ListOptions::default()).await.unwrap();
    page.objects.iter().map(|object| object.id.key.to_string()).collect()
}

#[test]
fn lost_answers_are_looked_up_and_requests_that_fail_for_now_are_repeated() {
    let not_applied = Action::FailBefore(ErrorKind::Ambiguous);
    let applied = Action::FailAfter(ErrorKind::Ambiguous);
    for op in [Op::Copy, Op::List, Op::DeleteMany, Op::Head] {
        for action in [applied, not_applied, Action::FailBefore(NOT_NOW)] {
            for nth in 1..4 {
                let world = World::new();
                // So that there is something to look up when it is a look that fails.
                world.fail(Op::Copy, When::Nth(2), applied);
                world.fail(op, When::Nth(nth), action);
                world.live(async |life| {
                    fill(&world, 5).await;
                    move_all(life).await.unwrap();
                    assert!(life.writer.trees().is_empty());
                    let expected = ["new/0", "new/1", "new/2", "new/3", "new/4"];
                    assert_eq!(keys(&world).await, expected, "{op} {action:?} {nth}");
                    assert_eq!(world.bytes("new/3").unwrap(), b"3");
                });
            }
        }
    }
}

#[test]
fn what_another_client_puts_in_the_way_is_kept_and_nothing_is_moved() {
    let world = World::new();
    world.live(async |life| {
        fill(&world, 5).await;
        world.put("new/3", b"theirs").await;
        let error = move_all(life).await.unwrap_err();
        assert!(matches!(error, Error::Conflict { .. }), "{error}");
        assert_eq!(keys(&world).await, ["new/3", "old/0", "old/1", "old/2", "old/3", "old/4"]);
        assert_eq!(world.bytes("new/3").unwrap(), b"theirs");
    });
}

#[test]
fn what_another_client_changes_before_the_removal_keeps_its_name() {
    let world = World::new();
    world.live(async |life| {
        fill(&world, 3).await;
        let tree = life.writer.move_tree("old/", "new/", false).await.unwrap();
        tree.copy().await.unwrap();
        world.put("old/1", b"theirs").await;
        world.put("old/9", b"theirs, too").await;
        tree.switch().unwrap();
        tree.finish().await;
        assert_eq!(keys(&world).await, ["new/0", "new/1", "new/2", "old/1", "old/9"]);
        assert_eq!(
            (world.bytes("new/1").unwrap(), world.bytes("old/1").unwrap()),
            (b"1".to_vec(), b"theirs".to_vec())
        );
    });
}

#[test]
fn uploads_below_wait_and_go_to_the_new_name_also_after_a_crash() {
    let kind = UploadKind::Parts(crate::store::PartLimits {
        part_bytes_min: 1,
        part_bytes_max: 1 << 20,
        parts_max: 99,
    });
    for dies_after in [TreePhase::Copying, TreePhase::Removing, TreePhase::Undoing] {
        let world = World::of(kind);
        let base = pattern(1, 300 << 10);
        let mut changed = base.clone();
        changed[100] ^= 1;
        world.live(async |life| {
            let object = world.put("old/large", &base).await;
            let (large, fresh) = (life.change(&object), life.create("old/fresh"));
            let tree = life.writer.move_tree("old/", "new/", false).await.unwrap();
            large.write(100, &changed[100..101]).unwrap();
            fresh.write(0, b"fresh").unwrap();
            large.sync().await.unwrap();
            fresh.sync().await.unwrap();
            tree.copy().await.unwrap();
            assert_eq!(keys(&world).await, ["new/large", "old/large"], "nothing is committed meanwhile");
            if dies_after == TreePhase::Copying {
                return std::mem::forget(tree);
            }
            tree.switch().unwrap();
            assert_eq!((large.key(), fresh.key()), (key("new/large"), key("new/fresh")));
            if dies_after == TreePhase::Removing {
                return std::mem::forget(tree);
            }
            tree.finish().await;
            drop(tree);
            large.commit().await.unwrap();
            fresh.commit().await.unwrap();
        });
        world.live(async |life| {
            for tree in std::mem::take(&mut life.recovered.trees) {
                if tree.plan().phase == TreePhase::Copying {
                    tree.copy().await.unwrap();
                    tree.switch().unwrap();
                }
                tree.finish().await;
            }
            life.writer.drained().await;
        });
        world.live(async |_| assert_eq!(keys(&world).await, ["new/fresh", "new/large"], "{dies_after:?}"));
        assert_eq!(world.bytes("new/fresh").unwrap(), b"fresh", "{dies_after:?}");
        assert!(world.bytes("new/large").unwrap() == changed, "{dies_after:?}");
    }
}
