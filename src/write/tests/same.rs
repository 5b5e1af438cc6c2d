//! What is written as it was is not sent.

use std::time::Duration;

use crate::observe::Counter;
use crate::types::{Attributes, UnixTime};
use crate::write::Error;
use crate::write::tests::{KIB, World, copies_of, pattern};

/// A body that was put and a foreign HEAD or GET are requests too; those of the comparison are not the room's.
const NO_BYTES: &str = "1 copy";

#[test]
fn a_small_file_written_anew_as_it_was_is_a_copy_with_its_new_attributes() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(1, 40 * KIB);
        let object = world.put("s", &content).await;
        let file = life.rewrite(&object);
        let time = Some(UnixTime::from_secs(77));
        file.set_attributes(Attributes { mtime: time, ..Attributes::default() });
        content.chunks(4096).enumerate().for_each(|(n, piece)| file.write(n as u64 * 4096, piece).unwrap());
        let committed = file.commit().await.unwrap();
        assert_eq!(world.requests(), NO_BYTES);
        assert_eq!(committed.attributes.unwrap().mtime, time);
        assert!(world.bytes("s").unwrap() == content);
        // The next change is one over that object.
        file.write(5, b"other").unwrap();
        file.commit().await.unwrap();
        assert_eq!(world.bytes("s").unwrap()[..12], [&content[..5], b"other", &content[10..12]].concat());
    });
}

#[test]
fn a_part_written_over_with_its_own_bytes_is_no_change() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(2, 40 * KIB);
        let object = world.put("o", &content).await;
        let file = life.change(&object);
        file.write(100, &content[100..9000]).unwrap();
        file.commit().await.unwrap();
        assert_eq!(world.requests(), NO_BYTES);
        file.write(100, &content[101..9000]).unwrap();
        file.commit().await.unwrap();
        assert_eq!(world.requests(), "1 put, 1 copy");
        let expected = [&content[..100], &content[101..9000], &content[8999..]].concat();
        assert!(world.bytes("o").unwrap() == expected);
    });
}

#[test]
fn whatever_differs_by_a_byte_or_in_length_is_sent() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(3, 10 * KIB);
        let mut last = content.clone();
        *last.last_mut().unwrap() ^= 1;
        let longer = [&content[..], b"x"].concat();
        for (name, new) in [("last", &last[..]), ("longer", &longer), ("shorter", &content[..9999])] {
            let object = world.put(name, &content).await;
            let file = life.rewrite(&object);
            file.write(0, new).unwrap();
            file.commit().await.unwrap();
            assert!(world.bytes(name).unwrap() == new, "{name}");
        }
        // Zeros that nobody wrote are zeros.
        let zeros = world.put("zeros", &[0; 8192]).await;
        let file = life.rewrite(&zeros);
        file.truncate(8192).unwrap();
        file.commit().await.unwrap();
        assert!(world.bytes("zeros").unwrap() == [0; 8192]);
        assert_eq!(world.requests(), "4 put");
    });
}

#[test]
fn of_a_large_file_written_anew_only_the_parts_that_differ_are_sent() {
    let world = World::new();
    world.live(async |life| {
        let mut content = pattern(4, 300 * KIB);
        let object = world.put("l", &content).await;
        content[(70 * KIB) as usize] ^= 0xff;
        let file = life.rewrite(&object);
        for (n, piece) in content.chunks(4096).enumerate() {
            file.write(n as u64 * 4096, piece).unwrap();
        }
        file.commit().await.unwrap();
        assert!(world.bytes("l").unwrap() == content);
        assert_eq!(world.requests(), "1 begin upload, 1 put part, 4 copy part, 1 complete upload");
        assert_eq!(life.count(Counter::PartsUnchanged), 4);
    });
}

#[test]
fn a_replaced_object_is_a_conflict_all_the_same_and_ours_is_sent() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(5, 20 * KIB);
        let object = world.put("c", &content).await;
        let file = life.rewrite(&object);
        file.write(0, &content).unwrap();
        world.put("c", b"theirs").await;
        assert!(matches!(file.commit().await, Err(Error::Conflict { .. })));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.bytes("c").unwrap(), b"theirs");
        let [copy] = &copies_of(&world, "c").await[..] else { panic!("one copy") };
        assert!(world.bytes(copy.as_str()).unwrap() == content);
    });
}
