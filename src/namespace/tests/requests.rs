//! How many requests an operation costs.

use std::ffi::OsStr;

use super::{World, key};
use crate::namespace::{Error, FileKind};
use crate::store::wrap::{Action, KeyPattern, Rule};
use crate::store::{ErrorKind, Op};
use crate::types::{Attributes, Ino, UnixTime};

#[tokio::test]
async fn a_name_costs_one_head_and_one_list_and_then_nothing() {
    let world = World::with(&["a", "a-2", "a.txt", "d/x"]).await;
    let a = world.lookup(Ino::ROOT, "a", 0).await.unwrap();
    assert_eq!((a.kind, a.size), (FileKind::File, 1));
    assert_eq!(world.requests(), (1, 1, 0));
    assert_eq!(world.lookup(Ino::ROOT, "a", 9).await.unwrap(), a);
    assert_eq!(world.names.attr(a.ino, world.at(9)).await.unwrap(), a);
    assert_eq!(world.requests(), (0, 0, 0));

    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    assert_eq!((d.kind, d.mode, d.mtime), (FileKind::Directory, 0o755, UnixTime::from_secs(1_000)));
    assert_eq!(world.requests(), (1, 1, 0));

    for secs in [0, 9] {
        assert!(matches!(world.lookup(Ino::ROOT, "none", secs).await, Err(Error::NotFound)));
    }
    assert_eq!(world.requests(), (1, 1, 0));
    assert!(matches!(world.lookup(Ino::ROOT, "none", 10).await, Err(Error::NotFound)));
    assert_eq!(world.requests(), (1, 1, 0));
}

#[tokio::test]
async fn a_known_kind_is_confirmed_by_one_request() {
    let world = World::with(&["a", "d/x"]).await;
    let a = world.lookup(Ino::ROOT, "a", 0).await.unwrap();
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    world.requests();
    assert_eq!(world.lookup(Ino::ROOT, "a", 10).await.unwrap(), a);
    assert_eq!(world.requests(), (1, 0, 0));
    assert_eq!(world.names.attr(a.ino, world.at(20)).await.unwrap(), a);
    assert_eq!(world.requests(), (1, 0, 0));
    assert_eq!(world.lookup(Ino::ROOT, "d", 10).await.unwrap(), d);
    assert_eq!(world.names.attr(d.ino, world.at(20)).await.unwrap(), d);
    assert_eq!(world.requests(), (0, 2, 0));
    assert_eq!(world.names.attr(Ino::ROOT, world.at(99)).await.unwrap().kind, FileKind::Directory);
    assert_eq!(world.requests(), (0, 0, 0));
}

#[tokio::test]
async fn a_kind_that_changed_is_found_out() {
    let world = World::with(&["a", "d/x"]).await;
    let a = world.lookup(Ino::ROOT, "a", 0).await.unwrap();
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    world.delete("a").await;
    world.delete("d/x").await;
    world.put("a/x").await;
    world.put("d").await;
    world.requests();
    let new_a = world.lookup(Ino::ROOT, "a", 10).await.unwrap();
    let new_d = world.lookup(Ino::ROOT, "d", 10).await.unwrap();
    assert_eq!(world.requests(), (2, 2, 0));
    assert_eq!((new_a.kind, new_d.kind), (FileKind::Directory, FileKind::File));
    assert!(new_a.ino != a.ino && new_d.ino != d.ino);
    // The kernel still has the old numbers: they are told apart from the new ones, and kept until forgotten.
    assert!(matches!(world.names.attr(a.ino, world.at(10)).await, Err(Error::Stale)));
    assert_eq!(world.names.attr_known(a.ino).unwrap(), a);
    world.names.forget(a.ino, 1);
    assert!(matches!(world.names.attr_known(a.ino), Err(Error::Stale)));
}

#[tokio::test]
async fn a_listing_of_2500_entries_is_three_requests_and_answers_for_all_names() {
    let keys: Vec<String> = (0..2_500).map(|n| format!("d/{n:04}")).collect();
    let world = World::with(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    world.requests();
    let entries = world.list(d.ino, 0).await;
    assert_eq!(entries.iter().map(|entry| format!("d/{}", entry.name)).collect::<Vec<_>>(), keys);
    assert_eq!(world.requests(), (0, 3, 0));

    for entry in &entries {
        assert_eq!(world.lookup(d.ino, &entry.name, 9).await.unwrap(), entry.attr);
        assert_eq!(world.names.attr(entry.attr.ino, world.at(9)).await.unwrap(), entry.attr);
        let version = world.names.version(entry.attr.ino, world.at(9)).await.unwrap().unwrap();
        assert_eq!((version.key.as_str(), version.size), (format!("d/{}", entry.name).as_str(), 6));
    }
    assert!(matches!(world.lookup(d.ino, "none", 9).await, Err(Error::NotFound)));
    assert_eq!(world.list(d.ino, 9).await, entries);
    assert_eq!(world.requests(), (0, 0, 0));

    assert!(matches!(world.lookup(d.ino, "none", 10).await, Err(Error::NotFound)));
    assert_eq!(world.requests(), (1, 1, 0));
    assert_eq!(world.list(d.ino, 10).await, entries);
    assert_eq!(world.requests(), (0, 3, 0));
}

#[tokio::test]
async fn pages_are_fetched_when_asked_for() {
    let keys: Vec<String> = (0..2_001).map(|n| format!("{n:04}")).collect();
    let world = World::with(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let directory = world.names.open_directory(Ino::ROOT).unwrap();
    assert_eq!(world.requests(), (0, 0, 0));
    let first = world.names.read_directory(&directory, 0, world.at(0)).await.unwrap();
    assert_eq!((first.len(), world.requests()), (1_000, (0, 1, 0)));
    let rest = world.names.read_directory(&directory, 990, world.at(0)).await.unwrap();
    assert_eq!(rest[..], first[990..]);
    assert_eq!(world.requests(), (0, 0, 0));
}

#[tokio::test]
async fn metadata_is_asked_for_only_where_it_is_needed_and_then_kept() {
    let world = World::with(&[]).await;
    let attributes = Attributes {
        mode: Some(0o100_751),
        uid: Some(1),
        gid: Some(2),
        mtime: Some(UnixTime { secs: 5, nanos: 6 }),
        ..Attributes::default()
    };
    let meta = world.put_with("a", attributes.clone()).await;
    let listed = world.list(Ino::ROOT, 0).await.remove(0).attr;
    let modified = UnixTime::from_secs(meta.modified.secs);
    assert_eq!((listed.mode, listed.uid, listed.gid, listed.mtime), (0o644, 7, 8, modified));
    world.names.remember(listed.ino);
    assert_eq!(world.requests(), (0, 1, 0));
    assert_eq!(world.names.version(listed.ino, world.at(0)).await.unwrap(), Some(meta.id.clone()));
    assert_eq!(world.requests(), (0, 0, 0));
    let object = world.names.object(listed.ino, world.at(0)).await.unwrap().unwrap();
    assert_eq!((object.id, object.attributes), (meta.id.clone(), Some(attributes)));
    assert_eq!(world.requests(), (1, 0, 0));
    world.names.object(listed.ino, world.at(0)).await.unwrap();
    assert_eq!(world.requests(), (0, 0, 0));

    let known = world.names.attr(listed.ino, world.at(0)).await.unwrap();
    assert_eq!((known.mode, known.uid, known.gid), (0o751, 1, 2));
    assert_eq!(known.mtime, UnixTime { secs: 5, nanos: 6 });
    // A later listing shows no metadata of the same version: what is known stays.
    assert_eq!(world.list(Ino::ROOT, 10).await[0].attr, known);
    assert_eq!(world.requests(), (0, 1, 0));
    world.put("a").await;
    let replaced = world.list(Ino::ROOT, 20).await.remove(0).attr;
    assert_eq!((replaced.ino, replaced.mode), (listed.ino, 0o644));
}

#[tokio::test]
async fn what_turns_out_to_be_a_link_is_another_inode_and_so_is_its_next_version() {
    let world = World::with(&[]).await;
    let link = Attributes { is_symlink: true, ..Attributes::default() };
    world.put_with("l", link.clone()).await;
    let listed = world.list(Ino::ROOT, 0).await.remove(0).attr;
    assert_eq!(listed.kind, FileKind::File, "a listing does not tell");
    world.names.remember(listed.ino);
    assert!(matches!(world.names.object(listed.ino, world.at(0)).await, Err(Error::Stale)));
    let found = world.lookup(Ino::ROOT, "l", 0).await.unwrap();
    assert_eq!((found.kind, found.mode, found.size), (FileKind::Symlink, 0o777, 1));
    assert_ne!(found.ino, listed.ino);
    assert_eq!(world.list(Ino::ROOT, 0).await.remove(0).attr, found, "what is known is shown");
    assert_eq!(world.lookup(Ino::ROOT, "l", 20).await.unwrap(), found, "it is the same version");
    world.put_with("l", link).await;
    let next = world.lookup(Ino::ROOT, "l", 40).await.unwrap();
    assert_eq!(next.kind, FileKind::Symlink);
    assert_ne!(next.ino, found.ino, "the kernel keeps a target for as long as it has the inode");
    assert!(matches!(world.names.attr(found.ino, world.at(40)).await, Err(Error::Stale)));
}

#[tokio::test]
async fn a_marker_gives_a_directory_its_attributes_for_one_request() {
    let world = World::with(&[]).await;
    let attributes =
        |mode| Attributes { mode: Some(mode), mtime: Some(UnixTime::from_secs(5)), ..Attributes::default() };
    world.put_with("d/", attributes(0o700)).await;
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    assert_eq!((d.kind, d.mode, d.mtime), (FileKind::Directory, 0o700, UnixTime::from_secs(5)));
    assert_eq!(world.requests(), (2, 1, 0));
    assert_eq!(world.lookup(Ino::ROOT, "d", 10).await.unwrap(), d);
    assert_eq!(world.requests(), (0, 1, 0));
    assert_eq!(world.list(Ino::ROOT, 20).await[0].attr, d);
    assert_eq!(world.list_names(d.ino, 20).await, Vec::<String>::new());
    assert_eq!(world.names.attr(d.ino, world.at(21)).await.unwrap(), d);
    assert_eq!(world.requests(), (0, 2, 0));
    world.put_with("d/", attributes(0o711)).await;
    assert_eq!(world.names.attr(d.ino, world.at(40)).await.unwrap().mode, 0o711);
    assert_eq!(world.requests(), (1, 1, 0));
}

#[tokio::test]
async fn creating_costs_nothing_where_the_name_was_just_looked_up() {
    let world = World::with(&["a"]).await;
    assert!(matches!(world.lookup(Ino::ROOT, "new", 0).await, Err(Error::NotFound)));
    world.requests();
    let new = world.create(Ino::ROOT, "new", 1).await.unwrap();
    world.names.set_local(new.ino, 5, &Attributes::default());
    let looked_up = world.lookup(Ino::ROOT, "new", 99).await.unwrap();
    assert_eq!((looked_up.ino, looked_up.size), (new.ino, 5));
    assert_eq!(world.names.attr(new.ino, world.at(99)).await.unwrap().size, 5);
    assert_eq!(world.names.object(new.ino, world.at(99)).await.unwrap(), None);
    world.unlink(Ino::ROOT, "new", 99).await.unwrap();
    assert!(matches!(world.lookup(Ino::ROOT, "new", 99).await, Err(Error::NotFound)));
    assert_eq!(world.requests(), (0, 0, 0));

    assert!(matches!(world.create(Ino::ROOT, "a", 0).await, Err(Error::Exists)));
    assert_eq!(world.requests(), (1, 1, 0));
    world.create(Ino::ROOT, "other", 0).await.unwrap();
    assert_eq!(world.requests(), (1, 1, 0));
}

#[tokio::test]
async fn a_new_directory_is_known_to_be_empty() {
    let world = World::with(&[]).await;
    let d = world.mkdir(Ino::ROOT, "d", 0).await.unwrap();
    assert_eq!(world.requests(), (1, 1, 1));
    world.create(d.ino, "x", 1).await.unwrap();
    assert_eq!(world.list_names(d.ino, 1).await, ["x"]);
    assert!(matches!(world.lookup(d.ino, "y", 1).await, Err(Error::NotFound)));
    assert_eq!(world.requests(), (0, 0, 0));
}

#[tokio::test]
async fn filling_a_directory_lists_it_once_in_a_while_and_asks_for_no_name() {
    let world = World::with(&[]).await;
    let d = world.mkdir(Ino::ROOT, "d", 0).await.unwrap();
    world.requests();
    for secs in 0..40 {
        let name = format!("{secs:02}");
        assert!(matches!(world.lookup(d.ino, &name, secs).await, Err(Error::NotFound)));
        world.create(d.ino, &name, secs).await.unwrap();
    }
    assert_eq!(world.requests(), (0, 3, 0), "once when the answer before is 10 s old");
    // What others made meanwhile is there all the same, with its metadata.
    world.put_with("d/theirs", Attributes { mode: Some(0o600), ..Attributes::default() }).await;
    assert_eq!(world.lookup(d.ino, "theirs", 45).await.unwrap().mode, 0o600);
    assert_eq!(world.requests(), (1, 1, 0));
}

#[tokio::test]
async fn a_directory_of_more_than_a_page_is_not_listed_for_a_name() {
    let world = World::with(&[]).await;
    let d = world.mkdir(Ino::ROOT, "d", 0).await.unwrap();
    for number in 0..1100 {
        world.put(&format!("d/{number:04}")).await;
    }
    world.requests();
    assert!(matches!(world.lookup(d.ino, "x", 10).await, Err(Error::NotFound)));
    assert_eq!(world.requests(), (1, 2, 0), "its first page, as it was short before");
    for (name, secs) in [("x", 20), ("y", 20), ("z", 30)] {
        assert!(matches!(world.lookup(d.ino, name, secs).await, Err(Error::NotFound)));
        assert_eq!(world.requests(), (1, 1, 0));
    }
}

#[tokio::test]
async fn removing_all_of_a_directory_asks_once_whether_it_stays() {
    let world = World::with(&["d/a", "d/b", "d/c"]).await;
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    for entry in world.list(d.ino, 0).await {
        world.names.remember(entry.attr.ino);
    }
    world.requests();
    world.unlink(d.ino, "a", 20).await.unwrap();
    world.unlink(d.ino, "b", 20).await.unwrap();
    assert_eq!(world.requests(), (0, 0, 2));
    world.unlink(d.ino, "c", 20).await.unwrap();
    assert_eq!(world.requests(), (0, 1, 2));
    assert_eq!(world.keys().await, ["d/"]);
    world.rmdir(Ino::ROOT, "d", 20).await.unwrap();
    assert_eq!(world.requests(), (0, 1, 1));
    assert_eq!(world.keys().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_cannot_be_asked_is_an_error_and_what_is_known_stays() {
    let world = World::with(&["a"]).await;
    let a = world.lookup(Ino::ROOT, "a", 0).await.unwrap();
    let down = ErrorKind::Unavailable { retry_after: None };
    world.store.add(Rule::on(Op::Head, Action::FailBefore(down)).key(KeyPattern::Any));
    assert!(matches!(world.lookup(Ino::ROOT, "a", 20).await, Err(Error::Store(_))));
    assert!(matches!(world.lookup(Ino::ROOT, "b", 20).await, Err(Error::Store(_))));
    assert_eq!(world.names.attr_known(a.ino).unwrap(), a);
    world.store.clear();
    assert_eq!(world.lookup(Ino::ROOT, "a", 20).await.unwrap(), a);
    assert_eq!(world.names.key(a.ino).unwrap(), key("a"));
}

#[tokio::test]
async fn long_names_are_refused_before_anything_is_asked() {
    let world = World::with(&[]).await;
    let long = "n".repeat(256);
    assert!(matches!(world.lookup(Ino::ROOT, &long, 0).await, Err(Error::NameTooLong)));
    assert!(matches!(world.lookup(Ino::ROOT, "a/b", 0).await, Err(Error::BadName)));
    let part = "p".repeat(250);
    let deep = format!("{part}/{part}/{part}/{part}/x");
    world.put(&deep).await;
    world.requests();
    let directory = world.walk(&deep[..1003], 0).await.unwrap().ino;
    world.requests();
    assert!(matches!(world.lookup(directory, &"y".repeat(21), 0).await, Err(Error::NameTooLong)));
    assert!(matches!(world.create(directory, &"y".repeat(21), 0).await, Err(Error::NameTooLong)));
    let child = world.names.child_key(directory, OsStr::new(&"y".repeat(20))).unwrap();
    assert_eq!(child.as_str().len(), 1_024);
    assert_eq!(world.requests(), (0, 0, 0));
    // A name whose key has 1,024 bytes can be a file, but no directory.
    assert!(matches!(world.mkdir(directory, &"y".repeat(20), 0).await, Err(Error::NameTooLong)));
    assert!(matches!(world.lookup(directory, &"y".repeat(20), 0).await, Err(Error::NotFound)));
    assert_eq!(world.requests(), (1, 0, 0));
}
