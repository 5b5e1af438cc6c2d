//! Changes, from the call to what is in the volume afterwards.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::{World, key};
use crate::namespace::{Attr, Error, FileKind};
use crate::store::wrap::{Action, Rule, When};
use crate::store::{ErrorKind, Op};
use crate::types::{Attributes, Ino, UnixTime};

fn mtime(secs: i64) -> Attributes {
    Attributes { mode: Some(0o640), mtime: Some(UnixTime::from_secs(secs)), ..Attributes::default() }
}

#[tokio::test]
async fn a_file_is_local_until_it_is_committed_and_keeps_its_number_and_times() {
    let world = World::with(&[]).await;
    let new = world.create(Ino::ROOT, "f", 0).await.unwrap();
    world.names.set_local(new.ino, 1, &mtime(77));
    let local = world.names.attr(new.ino, world.at(50)).await.unwrap();
    assert_eq!((local.size, local.mode, local.mtime), (1, 0o640, UnixTime::from_secs(77)));
    assert_eq!(world.list(Ino::ROOT, 50).await[0].attr, local);

    let object = world.put_with("f", mtime(77)).await;
    world.requests();
    world.names.committed(new.ino, &object, world.at(50));
    assert_eq!(world.lookup(Ino::ROOT, "f", 59).await.unwrap(), local);
    assert_eq!(world.names.object(new.ino, world.at(59)).await.unwrap(), Some(object));
    assert_eq!(world.requests(), (0, 0, 0));
    assert_eq!(world.lookup(Ino::ROOT, "f", 60).await.unwrap(), local);
    assert_eq!(world.requests(), (1, 0, 0));
}

#[tokio::test]
async fn local_changes_hide_the_object_and_its_end() {
    let world = World::with(&["f"]).await;
    let f = world.lookup(Ino::ROOT, "f", 0).await.unwrap();
    let base = world.names.object(f.ino, world.at(0)).await.unwrap().unwrap();
    world.names.set_local(f.ino, 100, &mtime(5));
    assert_eq!(world.names.object(f.ino, world.at(0)).await.unwrap(), Some(base));
    world.delete("f").await;
    assert_eq!(world.lookup(Ino::ROOT, "f", 50).await.unwrap().size, 100);
    assert_eq!(world.list_names(Ino::ROOT, 50).await, ["f"]);
    assert_eq!(world.names.object(f.ino, world.at(50)).await.unwrap(), None);
    assert_eq!(world.names.attr(f.ino, world.at(50)).await.unwrap().size, 100);
    world.names.expire(f.ino);
    world.put("f").await;
    assert!(world.names.object(f.ino, world.at(50)).await.unwrap().is_some());
}

#[tokio::test]
async fn expire_makes_the_next_look_ask() {
    let world = World::with(&["f"]).await;
    let f = world.lookup(Ino::ROOT, "f", 0).await.unwrap();
    world.replace("f", 9).await;
    assert_eq!(world.names.attr(f.ino, world.at(0)).await.unwrap().size, 1);
    world.names.expire(f.ino);
    assert_eq!(world.names.attr(f.ino, world.at(0)).await.unwrap().size, 9);
}

#[tokio::test]
async fn unlink_removes_object_and_name_and_the_open_file_stays_addressable() {
    let world = World::with(&["f", "g"]).await;
    let f = world.lookup(Ino::ROOT, "f", 0).await.unwrap();
    world.names.hold(f.ino).unwrap();
    assert_eq!(world.unlink(Ino::ROOT, "f", 0).await.unwrap(), f.ino);
    assert_eq!(world.keys().await, ["g"]);
    assert!(matches!(world.lookup(Ino::ROOT, "f", 1).await, Err(Error::NotFound)));
    assert!(matches!(world.unlink(Ino::ROOT, "f", 1).await, Err(Error::NotFound)));
    world.names.forget(f.ino, 1);
    let removed = Attr { is_removed: true, ..f.clone() };
    assert_eq!(world.names.attr(f.ino, world.at(99)).await.unwrap(), removed);
    world.names.set_local(f.ino, 3, &mtime(9));
    assert_eq!(world.names.attr_known(f.ino).unwrap().size, 3);
    assert!(matches!(world.names.key(f.ino), Err(Error::NotFound)));

    // The number belongs to the open file; a new one of the same name gets another.
    let again = world.create(Ino::ROOT, "f", 1).await.unwrap();
    assert_ne!(again.ino, f.ino);
    world.names.release(f.ino);
    assert!(matches!(world.names.attr_known(f.ino), Err(Error::Stale)));
    assert_eq!(world.lookup(Ino::ROOT, "f", 1).await.unwrap().ino, again.ino);
}

#[tokio::test]
async fn a_lost_answer_to_unlink_or_mkdir_does_not_matter() {
    let world = World::with(&["f"]).await;
    let lost = Action::FailAfter(ErrorKind::Ambiguous);
    world.store.add(Rule::on(Op::Delete, lost).when(When::First(2)));
    world.store.add(Rule::on(Op::Put, lost));
    world.unlink(Ino::ROOT, "f", 0).await.unwrap();
    let d = world.mkdir(Ino::ROOT, "d", 0).await.unwrap();
    assert_eq!(d.mode, 0o700);
    assert_eq!(world.keys().await, ["d/"]);

    world.store.clear();
    world.store.add(Rule::on(Op::Put, Action::FailBefore(ErrorKind::Ambiguous)));
    assert!(matches!(world.mkdir(Ino::ROOT, "e", 0).await, Err(Error::Store(_))));
    world.store.clear();
    world.store.add(Rule::on(Op::Delete, Action::FailBefore(ErrorKind::Ambiguous)));
    assert!(matches!(world.rmdir(Ino::ROOT, "d", 0).await, Err(Error::Store(_))));
    assert_eq!(world.lookup(Ino::ROOT, "d", 0).await.unwrap().ino, d.ino);
    assert_eq!(world.keys().await, ["d/"]);
}

#[tokio::test]
async fn a_removal_is_of_one_version() {
    let world = World::with(&["f"]).await;
    world.lookup(Ino::ROOT, "f", 0).await.unwrap();
    world.replace("f", 9).await;
    world.requests();
    world.unlink(Ino::ROOT, "f", 0).await.unwrap();
    assert_eq!((world.keys().await, world.requests()), (vec![], (1, 0, 2)), "whatever is there");

    world.put("f").await;
    world.lookup(Ino::ROOT, "f", 50).await.unwrap();
    world.store.add(Rule::on(Op::Delete, Action::FailAfter(ErrorKind::Ambiguous)));
    world.store.add(Rule::on(Op::Head, Action::Delay(Duration::from_millis(100))));
    let (removed, ()) = tokio::join!(world.unlink(Ino::ROOT, "f", 50), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        world.replace("f", 3).await;
    });
    removed.unwrap();
    assert_eq!(world.keys().await, ["f"], "what came after the removal stays");
}

#[tokio::test]
async fn mkdir_has_one_winner() {
    let world = World::with(&["f", "x/y"]).await;
    for name in ["f", "x"] {
        assert!(matches!(world.mkdir(Ino::ROOT, name, 0).await, Err(Error::Exists)));
    }
    assert!(matches!(world.lookup(Ino::ROOT, "d", 0).await, Err(Error::NotFound)));
    world.put("d/").await;
    assert!(matches!(world.mkdir(Ino::ROOT, "d", 0).await, Err(Error::Exists)));
    assert_eq!(world.lookup(Ino::ROOT, "d", 0).await.unwrap().kind, FileKind::Directory);
    assert_eq!(world.keys().await, ["d/", "f", "x/y"]);
}

#[tokio::test]
async fn rmdir_wants_an_empty_directory() {
    let world = World::with(&["d/x", "f", "odd//y"]).await;
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    assert!(matches!(world.rmdir(Ino::ROOT, "d", 0).await, Err(Error::NotEmpty)));
    assert!(matches!(world.rmdir(Ino::ROOT, "f", 0).await, Err(Error::NotDirectory)));
    assert!(matches!(world.rmdir(Ino::ROOT, "no", 0).await, Err(Error::NotFound)));
    assert!(matches!(world.rmdir(Ino::ROOT, "odd", 0).await, Err(Error::NotEmpty)));
    assert!(matches!(world.unlink(Ino::ROOT, "d", 0).await, Err(Error::IsDirectory)));
    world.create(d.ino, "local", 0).await.unwrap();
    world.delete("d/x").await;
    assert!(matches!(world.rmdir(Ino::ROOT, "d", 50).await, Err(Error::NotEmpty)));
    world.unlink(d.ino, "local", 50).await.unwrap();
    world.rmdir(Ino::ROOT, "d", 50).await.unwrap();
    assert!(matches!(world.lookup(Ino::ROOT, "d", 50).await, Err(Error::NotFound)));
    assert!(matches!(world.lookup(d.ino, "x", 50).await, Err(Error::NotFound)));
    assert_eq!(world.keys().await, ["f", "odd//y"]);
}

#[tokio::test]
async fn a_directory_goes_away_only_by_rmdir() {
    let world = World::with(&["a/b/only"]).await;
    let a = world.lookup(Ino::ROOT, "a", 0).await.unwrap();
    let b = world.lookup(a.ino, "b", 0).await.unwrap();
    world.unlink(b.ino, "only", 0).await.unwrap();
    assert_eq!(world.keys().await, ["a/b/"]);
    assert_eq!(world.walk("a/b", 50).await.unwrap().ino, b.ino);
    world.rmdir(a.ino, "b", 50).await.unwrap();
    assert_eq!(world.keys().await, ["a/"]);
    assert_eq!(world.lookup(Ino::ROOT, "a", 99).await.unwrap().ino, a.ino);
    assert_eq!(world.list_names(Ino::ROOT, 99).await, ["a"]);
    world.rmdir(Ino::ROOT, "a", 99).await.unwrap();
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn moving_the_last_file_away_keeps_the_directory_too() {
    let world = World::with(&["d/f"]).await;
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    let f = world.lookup(d.ino, "f", 0).await.unwrap();
    assert!(matches!(world.lookup(Ino::ROOT, "g", 0).await, Err(Error::NotFound)));
    world.names.keep_directory(d.ino, OsStr::new("f"), world.at(0)).await.unwrap();
    let moved = world.put("g").await;
    world.delete("d/f").await;
    assert_eq!(world.rename((d.ino, "f"), (Ino::ROOT, "g"), 0).unwrap(), None);
    world.names.committed(f.ino, &moved, world.at(0));
    world.requests();
    assert_eq!(world.lookup(Ino::ROOT, "g", 9).await.unwrap().ino, f.ino);
    assert_eq!(world.names.key(f.ino).unwrap(), key("g"));
    assert!(matches!(world.lookup(d.ino, "f", 9).await, Err(Error::NotFound)));
    assert_eq!(world.requests(), (0, 0, 0));
    assert_eq!(world.keys().await, ["d/", "g"]);
}

#[tokio::test]
async fn rename_replaces_a_file_and_refuses_directories() {
    let world = World::with(&["d/x", "new", "old"]).await;
    let old = world.lookup(Ino::ROOT, "old", 0).await.unwrap();
    let new = world.lookup(Ino::ROOT, "new", 0).await.unwrap();
    world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    let root = Ino::ROOT;
    assert!(matches!(world.rename((root, "d"), (root, "e"), 0), Err(Error::IsDirectory)));
    assert!(matches!(world.rename((root, "new"), (root, "d"), 0), Err(Error::IsDirectory)));
    assert!(matches!(world.rename((root, "no"), (root, "e"), 0), Err(Error::NotFound)));
    assert!(matches!(world.rename((root, "new"), (new.ino, "e"), 0), Err(Error::NotDirectory)));
    assert_eq!(world.rename((root, "new"), (root, "new"), 0).unwrap(), None);

    world.names.set_local(new.ino, 50, &mtime(1));
    assert_eq!(world.rename((root, "new"), (root, "old"), 0).unwrap(), Some(old.ino));
    let renamed = world.lookup(root, "old", 0).await.unwrap();
    assert_eq!((renamed.ino, renamed.size), (new.ino, 50));
    assert_eq!(world.names.attr_known(old.ino).unwrap(), Attr { is_removed: true, ..old });
    // Under the new name there is still the replaced object; removing the file must take it along.
    world.delete("new").await;
    world.unlink(root, "old", 0).await.unwrap();
    assert_eq!(world.keys().await, ["d/x"]);
}

#[tokio::test]
async fn a_commit_of_a_former_name_changes_nothing() {
    let world = World::with(&[]).await;
    let f = world.create(Ino::ROOT, "f", 0).await.unwrap();
    world.names.set_local(f.ino, 1, &mtime(1));
    let object = world.put("f").await;
    world.rename((Ino::ROOT, "f"), (Ino::ROOT, "g"), 0).unwrap();
    world.names.committed(f.ino, &object, world.at(0));
    assert_eq!(world.names.attr_known(f.ino).unwrap().mtime, UnixTime::from_secs(1));
    assert_eq!(world.names.key(f.ino).unwrap(), key("g"));
}

#[tokio::test]
async fn an_earlier_content_in_the_store_is_removed_with_the_file() {
    let world = World::with(&[]).await;
    let f = world.create(Ino::ROOT, "f", 0).await.unwrap();
    world.names.set_local(f.ino, 9, &mtime(1));
    let earlier = world.put_with("f", mtime(1)).await;
    world.names.committed_earlier(f.ino, &earlier, world.at(0));
    assert_eq!(world.names.attr_known(f.ino).unwrap().size, 9);
    world.requests();
    assert_eq!(world.names.object(f.ino, world.at(0)).await.unwrap(), Some(earlier));
    world.unlink(Ino::ROOT, "f", 0).await.unwrap();
    assert_eq!(world.requests(), (0, 0, 1));
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn recovered_files_are_there_with_the_directories_above_them() {
    let world = World::with(&["a/file"]).await;
    let ino = world.names.adopt(&key("a/b/c"), 7, &mtime(3), world.at(0)).unwrap();
    assert_eq!(world.requests(), (0, 0, 0));
    let c = world.walk("a/b/c", 0).await.unwrap();
    assert_eq!((c.ino, c.size, c.mtime), (ino, 7, UnixTime::from_secs(3)));
    let a = world.walk("a", 50).await.unwrap();
    assert_eq!(world.list_names(a.ino, 50).await, ["b", "file"]);
    assert_eq!(world.list_names(Ino::ROOT, 50).await, ["a"]);
    let b = world.walk("a/b", 99).await.unwrap();
    assert_eq!(world.list_names(b.ino, 99).await, ["c"]);
    assert_eq!(world.names.adopt(&key("a/b/c"), 8, &mtime(3), world.at(0)).unwrap(), ino);
    let adopted = world.names.adopt(&key("dir/"), 1, &mtime(1), world.at(0));
    assert!(matches!(adopted, Err(Error::BadName)));
    // Nobody looked whether an object is there, so removing the file removes it; the directory stays.
    world.put("a/b/c").await;
    world.unlink(b.ino, "c", 99).await.unwrap();
    assert_eq!(world.keys().await, ["a/b/", "a/file"]);
}

#[tokio::test]
async fn numbers_are_the_same_after_a_remount() {
    let keys = ["a", "d/x", "d/y/z"];
    let (one, two) = (World::with(&keys).await, World::with(&keys).await);
    one.list(Ino::ROOT, 0).await;
    for path in ["d/y/z", "a", "d", "d/x", "d/y"] {
        let ino = one.walk(path, 0).await.unwrap().ino;
        assert_eq!(two.walk(path, 0).await.unwrap().ino, ino, "{path}");
        assert!(ino.0 > 1);
    }
}

#[tokio::test]
async fn names_that_are_no_text_are_refused() {
    let world = World::with(&[]).await;
    let name = OsStr::from_bytes(b"\xff");
    assert!(matches!(world.names.lookup(Ino::ROOT, name, world.at(0)).await, Err(Error::BadName)));
    let created = world.names.create(Ino::ROOT, name, Attributes::default(), world.at(0)).await;
    assert!(matches!(created, Err(Error::BadName)));
}

#[tokio::test]
async fn an_open_file_keeps_its_version_and_the_name_gets_another_inode() {
    let world = World::with(&["f"]).await;
    let f = world.lookup(Ino::ROOT, "f", 0).await.unwrap();
    let (version, pin) = world.names.pin_version(f.ino, world.at(0)).await.unwrap();
    world.replace("f", 9).await;
    assert_eq!(world.names.version(f.ino, world.at(1)).await.unwrap().as_ref(), Some(&version), "fresh");
    assert!(matches!(world.names.version(f.ino, world.at(20)).await, Err(Error::Stale)));
    let new = world.lookup(Ino::ROOT, "f", 20).await.unwrap();
    assert_eq!((new.size, world.list(Ino::ROOT, 20).await[0].attr.ino), (9, new.ino));
    assert_ne!(new.ino, f.ino);
    assert_eq!(world.names.attr_known(f.ino).unwrap(), f, "it is what it was");
    assert!(matches!(world.names.key(f.ino), Err(Error::NotFound)));
    world.names.forget(f.ino, 1);
    assert_eq!(world.names.attr_known(f.ino).unwrap(), f, "also when the kernel has forgotten it");
    drop(pin);
    assert!(matches!(world.names.attr_known(f.ino), Err(Error::Stale)));
    // A file that nobody has open becomes the new version under its own number.
    world.replace("f", 11).await;
    assert_eq!(world.names.attr(new.ino, world.at(40)).await.unwrap().size, 11);
    world.names.tree().check_invariants();
}

#[tokio::test]
async fn our_own_commit_moves_a_pinned_file_on() {
    let world = World::with(&[]).await;
    let f = world.create(Ino::ROOT, "f", 0).await.unwrap();
    let _pin = world.names.pin(f.ino).unwrap();
    for bytes in [3, 5] {
        world.names.set_local(f.ino, bytes, &mtime(1));
        let object = world.replace("f", bytes as usize).await;
        world.names.committed(f.ino, &object, world.at(0));
        assert_eq!(world.lookup(Ino::ROOT, "f", 50).await.unwrap().ino, f.ino);
        assert_eq!(world.names.version(f.ino, world.at(99)).await.unwrap(), Some(object.id));
    }
    let theirs = world.replace("f", 7).await;
    let new = world.lookup(Ino::ROOT, "f", 200).await.unwrap();
    assert!(new.ino != f.ino && new.size == 7);
    assert_eq!(world.names.attr_known(f.ino).unwrap().size, 5);
    assert_eq!(world.names.version(new.ino, world.at(200)).await.unwrap(), Some(theirs.id));
}

#[tokio::test]
async fn a_pin_is_to_the_version_that_is_told_with_it() {
    let world = World::with(&["f"]).await;
    let f = world.lookup(Ino::ROOT, "f", 0).await.unwrap();
    let replaced = world.replace("f", 9).await;
    let (object, pin) = world.names.pin_object(f.ino, world.at(20)).await.unwrap();
    assert_eq!(object.id, replaced.id, "asked anew, in place: nobody had it open");
    world.delete("f").await;
    assert!(matches!(world.lookup(Ino::ROOT, "f", 40).await, Err(Error::NotFound)));
    assert_eq!(world.names.attr_known(f.ino).unwrap().size, 9);
    drop(pin);
    let new = world.create(Ino::ROOT, "g", 40).await.unwrap();
    let pinned = world.names.pin_version(new.ino, world.at(40)).await;
    assert!(matches!(pinned, Err(Error::NotFound)), "there is no object yet");
}

#[tokio::test]
async fn a_renewed_name_costs_no_request_and_keeps_what_is_known() {
    let world = World::with(&[]).await;
    world.put_with("f", mtime(5)).await;
    let f = world.lookup(Ino::ROOT, "f", 0).await.unwrap();
    let (object, _pin) = world.names.pin_object(f.ino, world.at(0)).await.unwrap();
    world.requests();
    let renewed = world.names.renew(f.ino).unwrap();
    let again = world.lookup(Ino::ROOT, "f", 1).await.unwrap();
    assert_eq!(again, Attr { ino: renewed, ..f.clone() });
    assert_eq!(world.names.object(renewed, world.at(1)).await.unwrap(), Some(object));
    assert_eq!(world.names.attr_known(f.ino).unwrap(), f);
    assert!(matches!(world.names.renew(f.ino), Err(Error::NotFound)), "it has no name to give away");
    assert_eq!(world.requests(), (0, 0, 0));
    world.names.expire_key(&key("f"));
    world.names.expire_key(&key("no/such/file"));
    world.lookup(Ino::ROOT, "f", 1).await.unwrap();
    assert_eq!(world.requests(), (1, 0, 0));
}
