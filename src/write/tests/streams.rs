//! Parts that are sent while the file is still being written.

use std::time::Duration;

use crate::observe::Counter;
use crate::store::ObjectStore;
use crate::store::Op;
use crate::types::{Attributes, UnixTime};
use crate::write::tests::{KIB, World, key, pattern};

#[test]
fn full_parts_are_sent_before_the_seal_and_only_the_tail_after_it() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(1, 300 * KIB);
        let file = life.create("s");
        for (index, piece) in content.chunks(4096).enumerate() {
            file.write(index as u64 * 4096, piece).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.requests(), "1 begin upload, 4 put part");
        assert_eq!(world.bytes("s"), None);
        file.commit().await.unwrap();
        assert!(world.bytes("s").unwrap() == content);
        assert_eq!(world.requests(), "1 begin upload, 5 put part, 1 complete upload");
    });
}

#[test]
fn a_part_that_changed_after_it_was_sent_is_sent_again_and_no_other() {
    let world = World::new();
    world.live(async |life| {
        let mut content = pattern(2, 300 * KIB);
        let file = life.create("h");
        for (index, piece) in content.chunks(4096).enumerate() {
            file.write(index as u64 * 4096, piece).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        content[..8].copy_from_slice(b"the size");
        file.write(0, b"the size").unwrap();
        file.commit().await.unwrap();
        assert!(world.bytes("h").unwrap() == content);
        assert_eq!(world.requests(), "1 begin upload, 6 put part, 1 complete upload");
        assert_eq!(life.count(Counter::PartsResent), 1);
    });
}

#[test]
fn a_file_cut_short_after_parts_were_sent_is_what_it_was_cut_to() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(3, 300 * KIB);
        for size in [0, 10, 70 * KIB, 128 * KIB, 299 * KIB] {
            let name = format!("cut-{size}");
            let file = life.create(&name);
            for (index, piece) in content.chunks(4096).enumerate() {
                file.write(index as u64 * 4096, piece).unwrap();
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            file.truncate(size).unwrap();
            file.commit().await.unwrap();
            assert!(world.bytes(&name).unwrap() == content[..size as usize], "{size}");
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(world.memory.open_uploads(), 0);
    });
}

#[test]
fn attributes_set_after_the_upload_began_are_the_objects() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(4, 300 * KIB);
        let file = life.create("a");
        file.set_attributes(Attributes { mtime: Some(UnixTime::from_secs(100)), ..Attributes::default() });
        for (index, piece) in content.chunks(4096).enumerate() {
            file.write(index as u64 * 4096, piece).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let wanted =
            Attributes { mode: Some(0o600), mtime: Some(UnixTime::from_secs(50)), ..Attributes::default() };
        file.set_attributes(wanted.clone());
        let object = file.commit().await.unwrap();
        let there = world.memory.head(&key("a")).await.unwrap();
        assert_eq!((&there.attributes, &there.id), (&Some(wanted), &object.id));
        assert!(world.bytes("a").unwrap() == content);
        assert_eq!(world.faults.count(Op::Copy), 1);
    });
}

#[test]
fn a_time_that_merely_moved_on_costs_no_request() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("m");
        for (index, piece) in pattern(5, 300 * KIB).chunks(4096).enumerate() {
            let mtime = Some(UnixTime::from_secs(100 + index as i64));
            file.set_attributes(Attributes { mtime, ..Attributes::default() });
            file.write(index as u64 * 4096, piece).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        file.commit().await.unwrap();
        assert_eq!(world.requests(), "1 begin upload, 5 put part, 1 complete upload");
    });
}
