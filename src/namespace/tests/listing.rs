//! Reading directories while they change, and names that cannot be shown.

use std::collections::HashSet;

use super::World;
use crate::namespace::tests::key;
use crate::namespace::{DirEntry, Error, FileKind};
use crate::types::{Attributes, Ino, Key, ObjectId};

async fn many(count: usize) -> World {
    let keys: Vec<String> = (0..count).map(|n| format!("{n:04}")).collect();
    World::with(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await
}

#[tokio::test]
async fn entries_that_come_and_go_are_shown_once_and_none_is_lost() {
    let world = many(2_500).await;
    let directory = world.names.open_directory(Ino::ROOT).unwrap();
    let mut shown: Vec<DirEntry> = Vec::new();
    for step in 0.. {
        let offset = shown.last().map_or(0, |entry| entry.next_offset);
        let page = world.names.read_directory(&directory, offset, world.at(0)).await.unwrap();
        if page.is_empty() {
            break;
        }
        // The kernel's buffer takes part of a page.
        shown.extend(page.iter().take(300).cloned());
        if step == 0 {
            for name in ["0001", "0999", "2400"] {
                world.unlink(Ino::ROOT, name, 0).await.unwrap();
            }
            world.create(Ino::ROOT, "0001", 0).await.unwrap();
            world.create(Ino::ROOT, "0000-new", 0).await.unwrap();
            world.create(Ino::ROOT, "zzz", 0).await.unwrap();
            world.mkdir(Ino::ROOT, "made", 0).await.unwrap();
            world.create(Ino::ROOT, "brief", 0).await.unwrap();
            world.unlink(Ino::ROOT, "brief", 0).await.unwrap();
            world.rename((Ino::ROOT, "zzz"), (Ino::ROOT, "yyy"), 0).unwrap();
        }
    }
    let names: Vec<&str> = shown.iter().map(|entry| entry.name.as_str()).collect();
    let unique: HashSet<&str> = names.iter().copied().collect();
    assert_eq!(unique.len(), names.len(), "each once");
    for n in (0..2_500).filter(|n| ![1, 999, 2_400].contains(n)) {
        assert!(unique.contains(format!("{n:04}").as_str()), "{n:04} is lost");
    }
    for name in ["0000-new", "yyy", "made"] {
        assert!(unique.contains(name), "{name} is lost");
    }
    for name in ["2400", "zzz", "brief"] {
        assert!(!unique.contains(name), "{name} is gone");
    }
    world.names.tree().check_invariants();
}

#[tokio::test]
async fn removing_while_listing_leaves_nothing() {
    let world = many(1_500).await;
    let directory = world.names.open_directory(Ino::ROOT).unwrap();
    let mut offset = 0;
    loop {
        let page = world.names.read_directory(&directory, offset, world.at(0)).await.unwrap();
        for entry in page.iter().take(200) {
            world.unlink(Ino::ROOT, &entry.name, 0).await.unwrap();
            offset = entry.next_offset;
        }
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(world.keys().await, Vec::<String>::new());
    let anew = world.names.read_directory(&directory, 0, world.at(0)).await.unwrap();
    assert!(anew.is_empty());
}

#[tokio::test]
async fn an_offset_names_the_same_entry_as_long_as_the_directory_is_open() {
    let world = many(1_200).await;
    let directory = world.names.open_directory(Ino::ROOT).unwrap();
    let first = world.names.read_directory(&directory, 0, world.at(0)).await.unwrap();
    let fifth = first[4].clone();
    world.names.read_directory(&directory, first[999].next_offset, world.at(0)).await.unwrap();
    for name in ["0000", "0001", "0004"] {
        world.unlink(Ino::ROOT, name, 0).await.unwrap();
    }
    let behind = world.names.read_directory(&directory, fifth.next_offset, world.at(30)).await.unwrap();
    assert_eq!(behind[0].name, "0005");
    let anew = world.names.read_directory(&directory, 0, world.at(30)).await.unwrap();
    assert_eq!(anew[0].name, "0002");
}

#[tokio::test]
async fn going_back_far_finds_the_entries_that_are_left_under_their_offsets() {
    let world = many(5_500).await;
    let directory = world.names.open_directory(Ino::ROOT).unwrap();
    let mut offset = 0;
    loop {
        let page = world.names.read_directory(&directory, offset, world.at(0)).await.unwrap();
        let Some(last) = page.last() else { break };
        offset = last.next_offset;
    }
    assert_eq!(offset, 5_500);
    for n in (0..1_000).chain(1_500..2_000) {
        world.unlink(Ino::ROOT, &format!("{n:04}"), 0).await.unwrap();
    }
    world.delete("4321").await;
    world.put("0000-new").await;
    world.put("1700-new").await;
    for (behind, next) in
        [(1, 1_000), (999, 1_000), (1_234, 1_234), (1_499, 1_499), (1_500, 2_000), (5_499, 5_499)]
    {
        let page = world.names.read_directory(&directory, behind, world.at(30)).await.unwrap();
        assert_eq!((page[0].name.as_str(), page[0].next_offset), (format!("{next:04}").as_str(), next + 1));
    }
    assert!(world.names.read_directory(&directory, 5_500, world.at(30)).await.unwrap().is_empty());
    world.names.tree().check_invariants();
}

#[tokio::test]
async fn a_directory_that_is_moved_while_it_is_read_is_read_to_its_end() {
    let keys: Vec<String> = (0..2_500).map(|n| format!("old/{n:04}")).collect();
    let world = World::with(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let old = world.lookup(Ino::ROOT, "old", 0).await.unwrap();
    let directory = world.names.open_directory(old.ino).unwrap();
    let mut shown = Vec::new();
    for step in 0.. {
        let page = world.names.read_directory(&directory, shown.len() as u64, world.at(0)).await.unwrap();
        if page.is_empty() {
            break;
        }
        shown.extend(page.iter().map(|entry| entry.name.clone()));
        if step == 0 {
            for key in &keys {
                world.put(&key.replace("old", "new")).await;
                world.delete(key).await;
            }
            let renaming = |object: &ObjectId| {
                let key = Key::new(&object.key.as_str().replace("old/", "new/")).ok()?;
                Some(ObjectId { key, ..object.clone() })
            };
            world.names.rename_directory("old/", "new/", &renaming, world.at(0)).unwrap();
            world.names.tree().check_invariants();
        }
    }
    let unique: HashSet<&String> = shown.iter().collect();
    assert_eq!((shown.len(), unique.len()), (2_500, 2_500));
    assert_eq!(world.lookup(Ino::ROOT, "new", 0).await.unwrap().ino, old.ino);
    assert!(world.lookup(Ino::ROOT, "old", 0).await.is_err());
}

#[tokio::test]
async fn a_listing_shows_what_another_client_did() {
    let world = World::with(&["a", "b", "d/x"]).await;
    assert_eq!(world.list_names(Ino::ROOT, 0).await, ["a", "b", "d"]);
    let a = world.lookup(Ino::ROOT, "a", 0).await.unwrap();
    world.delete("a").await;
    world.delete("d/x").await;
    world.put("c").await;
    assert_eq!(world.list_names(Ino::ROOT, 9).await, ["a", "b", "d"]);
    assert_eq!(world.list_names(Ino::ROOT, 10).await, ["b", "c"]);
    assert!(world.names.attr(a.ino, world.at(10)).await.is_err());
}

#[tokio::test]
async fn a_file_beside_a_directory_of_its_name_has_one_that_says_so() {
    let world = World::with(&["n", "n-2", "n/x"]).await;
    let directory = world.lookup(Ino::ROOT, "n", 0).await.unwrap();
    let file = world.lookup(Ino::ROOT, "%~file~n", 0).await.unwrap();
    assert_eq!((directory.kind, file.kind), (FileKind::Directory, FileKind::File));
    assert_eq!(world.names.key(file.ino).unwrap(), key("n"));
    for secs in [0, 20] {
        let entries = world.list(Ino::ROOT, secs).await;
        let shown: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.attr.ino)).collect();
        let n2 = world.lookup(Ino::ROOT, "n-2", secs).await.unwrap();
        assert_eq!(shown, [("%~file~n", file.ino), ("n-2", n2.ino), ("n", directory.ino)]);
        assert_eq!(world.lookup(Ino::ROOT, "%~file~n", secs).await.unwrap().ino, file.ino);
    }
    // Where there is no such directory, no file has such a name.
    assert!(matches!(world.lookup(Ino::ROOT, "%~file~n-2", 20).await, Err(Error::NotFound)));
    assert!(matches!(world.create(Ino::ROOT, "%~file~n-2", 20).await, Err(Error::BadName)));
    // The object can be removed by it, and when the directory goes it has its own name.
    world.put("m").await;
    world.mkdir(Ino::ROOT, "empty", 20).await.unwrap();
    world.put("empty").await;
    assert_eq!(world.list_names(Ino::ROOT, 40).await, ["%~file~empty", "%~file~n", "empty", "m", "n", "n-2"]);
    world.rmdir(Ino::ROOT, "empty", 40).await.unwrap();
    world.unlink(Ino::ROOT, "%~file~n", 40).await.unwrap();
    assert_eq!(world.lookup(Ino::ROOT, "empty", 40).await.unwrap().kind, FileKind::File);
    assert_eq!(world.list_names(Ino::ROOT, 40).await, ["empty", "m", "n", "n-2"]);
    assert_eq!(world.keys().await, ["empty", "m", "n-2", "n/x"]);
}

#[tokio::test]
async fn a_directory_far_behind_a_file_of_its_name_stays_what_it_is() {
    // More than a page of keys sorts between `n` and `n/`.
    let mut keys: Vec<String> = (0..1_500).map(|n| format!("n-{n:04}")).collect();
    keys.extend(["n".to_owned(), "n/x".to_owned()]);
    let world = World::with(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let entries = world.list(Ino::ROOT, 0).await;
    assert_eq!(entries.iter().filter(|entry| entry.name == "n").count(), 1);
    let n = world.lookup(Ino::ROOT, "n", 0).await.unwrap();
    assert_eq!(n.kind, FileKind::Directory);
    let x = world.lookup(n.ino, "x", 0).await.unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.name == "%~file~n").count(), 1);
    for secs in [20, 40] {
        let entries = world.list(Ino::ROOT, secs).await;
        assert_eq!(entries.iter().filter(|entry| entry.name == "%~file~n").count(), 1);
        let shown: Vec<_> = entries.iter().filter(|entry| entry.name == "n").collect();
        assert_eq!(shown.len(), 1);
        assert_eq!((shown[0].attr.ino, shown[0].attr.kind), (n.ino, FileKind::Directory));
        assert_eq!(world.names.attr_known(x.ino).unwrap(), x);
    }
    assert_eq!(world.lookup(Ino::ROOT, "%~file~n", 40).await.unwrap().kind, FileKind::File);
    // When the directory goes, the file comes to light.
    world.delete("n/x").await;
    let entries = world.list(Ino::ROOT, 60).await;
    let shown: Vec<_> = entries.iter().filter(|entry| entry.name == "n").collect();
    assert_eq!(shown.iter().map(|entry| entry.attr.kind).collect::<Vec<_>>(), [FileKind::File]);
    assert!(entries.iter().all(|entry| entry.name != "%~file~n"));
}

#[tokio::test]
async fn keys_that_are_no_paths_are_shown_and_found_under_names_that_say_so() {
    let long = "l".repeat(256);
    let deep_long = format!("{long}/x");
    let keys = ["/top", "a//b", "a/../c", "a/./d", "a/ok", &long, &deep_long, "..", "ok", "%~x"];
    let world = World::with(&keys).await;
    let names = world.list_names(Ino::ROOT, 0).await;
    let (long_file, long_directory) = (&names[2], &names[3]);
    let expected = ["%~dotdot", "%~empty", "%~longfile", "%~long", "%~name~%~x", "a", "ok"];
    assert!(long_directory.starts_with("%~long~lll") && long_file.starts_with("%~longfile~lll"), "{names:?}");
    assert_eq!(names.len(), expected.len());
    let paths = [
        ("%~empty/top", "/top"),
        ("a/%~empty/b", "a//b"),
        ("a/%~dotdot/c", "a/../c"),
        ("a/%~dot/d", "a/./d"),
        ("%~dotdot", ".."),
        ("%~name~%~x", "%~x"),
        (long_file, &long),
        (&format!("{long_directory}/x"), &deep_long),
    ];
    // Also by who has never seen a listing.
    for names in [&world, &World::with(&keys).await] {
        for (path, text) in &paths {
            let found = names.walk(path, 100).await.unwrap();
            assert_eq!(names.names.key(found.ino).unwrap(), key(text), "{path}");
        }
        assert!(matches!(names.walk(&long_file.replace('0', "1"), 100).await, Err(Error::NotFound)));
    }
}

#[tokio::test]
async fn entries_given_out_stay_known_until_the_kernel_was_told() {
    let world = World::with(&["a", "b"]).await;
    let directory = world.names.open_directory(Ino::ROOT).unwrap();
    let entries = world.names.read_directory(&directory, 0, world.at(0)).await.unwrap();
    // Long after, other requests sweep what is stale.
    let _ = world.lookup(Ino::ROOT, "zzz", 99).await;
    world.names.remember(entries[0].attr.ino);
    drop(directory);
    let _ = world.lookup(Ino::ROOT, "yyy", 199).await;
    assert!(world.names.attr_known(entries[0].attr.ino).is_ok());
    assert!(world.names.attr_known(entries[1].attr.ino).is_err(), "nobody refers to it and it is stale");
    world.names.tree().check_invariants();
}

#[tokio::test]
async fn local_files_are_listed_with_their_local_size() {
    let world = World::with(&["d/a", "d/b"]).await;
    let d = world.lookup(Ino::ROOT, "d", 0).await.unwrap();
    let a = world.lookup(d.ino, "a", 0).await.unwrap();
    world.names.set_local(a.ino, 123, &Attributes::default());
    world.create(d.ino, "c", 0).await.unwrap();
    for secs in [0, 50] {
        let entries = world.list(d.ino, secs).await;
        let sizes: Vec<_> = entries.iter().map(|entry| (entry.name.as_str(), entry.attr.size)).collect();
        assert_eq!(sizes, [("a", 123), ("b", 3), ("c", 0)]);
    }
}
