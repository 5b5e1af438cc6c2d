//! Answers that arrive after something newer is known.

use std::time::Duration;

use super::World;
use crate::namespace::{Attr, Error};
use crate::store::Op;
use crate::store::wrap::{Action, KeyPattern, Rule};
use crate::types::{Attributes, Ino};

/// Looks `f` up. Its HEAD is answered at once and the LIST that belongs to it much later, so that the HEAD's answer is
/// old news when it is taken in. Meanwhile the root is listed and `change` made.
async fn looked_up_meanwhile(world: &World, change: impl Future<Output = ()>) -> Result<Attr, Error> {
    let late = Action::Delay(Duration::from_millis(150));
    world.store.add(Rule::on(Op::List, late).key(KeyPattern::Is("f/".to_owned())));
    let (looked_up, ()) = tokio::join!(world.lookup(Ino::ROOT, "f", 0), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.list(Ino::ROOT, 0).await;
        change.await;
    });
    world.names.tree().check_invariants();
    looked_up
}

#[tokio::test]
async fn a_file_removed_meanwhile_does_not_come_back() {
    let world = World::with(&["f"]).await;
    let looked_up = looked_up_meanwhile(&world, async {
        world.unlink(Ino::ROOT, "f", 0).await.unwrap();
    });
    assert!(matches!(looked_up.await, Err(Error::NotFound)));
    assert!(matches!(world.lookup(Ino::ROOT, "f", 5).await, Err(Error::NotFound)));
    // The lookup asked for both, the listing for one page, and the removal was one request.
    assert_eq!(world.requests(), (1, 2, 1));
}

#[tokio::test]
async fn a_file_created_meanwhile_is_not_denied() {
    let world = World::with(&[]).await;
    let looked_up = looked_up_meanwhile(&world, async {
        let created = world.create(Ino::ROOT, "f", 0).await.unwrap();
        world.names.set_local(created.ino, 9, &Attributes::default());
    });
    assert_eq!(looked_up.await.unwrap().size, 9);
    assert_eq!(world.requests(), (1, 2, 0));
}

#[tokio::test]
async fn a_commit_is_not_undone() {
    let world = World::with(&["f"]).await;
    let looked_up = looked_up_meanwhile(&world, async {
        let ino = world.list(Ino::ROOT, 0).await[0].attr.ino;
        world.names.set_local(ino, 9, &Attributes::default());
        let object = world.replace("f", 9).await;
        world.names.committed(ino, &object, world.at(0));
    });
    assert_eq!(looked_up.await.unwrap().size, 9);
    assert_eq!(world.lookup(Ino::ROOT, "f", 5).await.unwrap().size, 9);
}

#[tokio::test]
async fn a_file_renamed_meanwhile_is_not_found_under_its_old_name() {
    let world = World::with(&["f"]).await;
    let looked_up = looked_up_meanwhile(&world, async {
        let ino = world.list(Ino::ROOT, 0).await[0].attr.ino;
        let moved = world.put("g").await;
        world.delete("f").await;
        world.rename((Ino::ROOT, "f"), (Ino::ROOT, "g"), 0).unwrap();
        world.names.committed(ino, &moved, world.at(0));
    });
    assert!(matches!(looked_up.await, Err(Error::NotFound)));
    assert_eq!(world.list_names(Ino::ROOT, 0).await, ["g"]);
}
