//! Processes that die, and what the next one makes of what they left.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::observe::{Counter, Gauge};
use crate::store::wrap::{Action, When};
use crate::store::{ErrorKind, Op, UploadKind};
use crate::types::ByteRange;
use crate::write::tests::{KIB, NOT_NOW, World, copies_of, key, pattern};
use crate::write::{Piece, SessionPhase};

#[test]
fn a_sealed_file_is_committed_by_the_next_process_and_readable_at_once() {
    for size in [0, 10, 200 * KIB] {
        let world = World::new();
        let content = pattern(1, size);
        world.fail(Op::Put, When::Always, Action::Stall);
        world.fail(Op::BeginUpload, When::Always, Action::Stall);
        world.live(async |life| {
            let file = life.create("a");
            file.write(0, &content).unwrap();
            file.seal().unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        world.faults.clear();
        world.live(async |life| {
            let [file] = life.recovered.pending.as_slice() else { panic!() };
            assert_eq!((file.key(), file.size(), file.is_pending()), (key("a"), size, true));
            if size > 0 {
                assert_eq!(file.read(ByteRange::new(0, size)).unwrap(), [Piece::Staged(content.clone())]);
            }
            file.commit().await.unwrap();
            assert!(world.bytes("a").unwrap() == content);
            life.writer.drained().await;
            assert_eq!(life.metrics.level(Gauge::StagingBytes), 0);
            assert_eq!(life.count(Counter::UploadsRecovered), 1);
        });
        world.faults.forget_calls();
        world.live(async |life| {
            assert!(life.recovered.pending.is_empty() && life.writer.sessions().is_empty());
            life.writer.drained().await;
        });
        assert_eq!(world.requests(), "");
    }
}

#[test]
fn parts_that_the_server_has_are_not_sent_again() {
    let world = World::new();
    let content = pattern(2, 640 * KIB);
    world.fail(Op::PutPart, When::Nth(6), Action::Stall);
    world.fail(Op::PutPart, When::Nth(7), Action::Stall);
    world.fail(Op::PutPart, When::Nth(8), Action::Stall);
    world.fail(Op::PutPart, When::Nth(9), Action::Stall);
    world.live(async |life| {
        let file = life.create("p");
        file.write(0, &content).unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    world.faults.clear();
    world.faults.forget_calls();
    world.live(async |life| {
        life.writer.drained().await;
        assert!(world.bytes("p").unwrap() == content);
        assert_eq!(world.requests(), "1 upload status, 5 put part, 1 complete upload");
        assert_eq!((life.count(Counter::PartsKept), life.count(Counter::PartsSent)), (5, 5));
    });
}

#[test]
fn an_upload_in_order_goes_on_where_the_server_is() {
    let world = World::of(UploadKind::Offset { align: 4096 });
    let content = pattern(3, 300 * KIB);
    world.fail(Op::PutPart, When::Nth(3), Action::FailAfter(ErrorKind::Ambiguous));
    world.fail(Op::UploadStatus, When::Always, Action::Stall);
    world.live(async |life| {
        let file = life.create("o");
        file.write(0, &content).unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
    });
    world.faults.clear();
    world.faults.forget_calls();
    world.live(async |life| {
        life.writer.drained().await;
        assert!(world.bytes("o").unwrap() == content);
        assert_eq!(world.requests(), "1 upload status, 2 put part, 1 complete upload");
    });
}

#[test]
fn a_commit_in_doubt_is_looked_up_before_anything_is_sent() {
    for (op, size) in [(Op::Put, 10), (Op::CompleteUpload, 200 * KIB)] {
        let world = World::new();
        let content = pattern(4, size);
        world.fail(op, When::Always, Action::FailAfter(ErrorKind::Ambiguous));
        world.fail(Op::Head, When::Always, Action::Stall);
        world.live(async |life| {
            let file = life.create("d");
            file.write(0, &content).unwrap();
            file.seal().unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        });
        world.faults.clear();
        world.faults.forget_calls();
        world.live(async |life| {
            life.writer.drained().await;
            assert!(world.bytes("d").unwrap() == content);
            assert_eq!(world.requests(), "1 head");
            assert_eq!(life.count(Counter::CommitsLookedUp), 1);
        });
    }
}

#[test]
fn a_file_that_was_neither_flushed_nor_synced_is_interrupted_and_replaced_by_the_next() {
    let world = World::new();
    let write_and_die = |seed| {
        world.live(async |life| {
            let file = life.create("i");
            for (index, piece) in pattern(seed, 200 * KIB).chunks(4096).enumerate() {
                file.write(index as u64 * 4096, piece).unwrap();
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        });
    };
    write_and_die(5);
    assert_eq!(world.memory.open_uploads(), 1);
    world.live(async |life| {
        let [status] = life.recovered.interrupted.as_slice() else { panic!() };
        assert_eq!((status.state, status.bytes), (SessionPhase::Interrupted, 200 * KIB));
        assert!(life.recovered.pending.is_empty());
        life.writer.drained().await;
        assert_eq!(world.bytes("i"), None, "it never appears under its name");
        let file = life.create("i");
        file.write(0, b"complete").unwrap();
        file.commit().await.unwrap();
        life.writer.drained().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(life.writer.sessions().is_empty());
        assert_eq!(world.memory.open_uploads(), 0, "its upload is aborted");
    });
    write_and_die(6);
    world.live(async |life| {
        let session = life.recovered.interrupted[0].session;
        life.writer.discard(session).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!((life.writer.sessions().len(), world.memory.open_uploads()), (0, 0));
        assert_eq!(life.metrics.level(Gauge::StagingBytes), 0);
    });
    assert_eq!(world.bytes("i").unwrap(), b"complete");
}

#[test]
fn an_interrupted_file_can_be_taken_for_complete() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("i");
        file.write(0, b"as far as it came").unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    world.live(async |life| {
        let session = life.recovered.interrupted[0].session;
        let file = life.writer.commit_interrupted(session).unwrap();
        file.commit().await.unwrap();
        assert_eq!(world.bytes("i").unwrap(), b"as far as it came");
        assert!(life.writer.sessions().is_empty());
        assert!(life.writer.commit_interrupted(session).is_err());
    });
}

#[test]
fn what_was_synced_is_committed_as_of_then() {
    let world = World::new();
    world.fail(Op::Put, When::Always, Action::FailBefore(NOT_NOW));
    world.live(async |life| {
        let file = life.create("s");
        file.write(0, b"synced").unwrap();
        file.sync().await.unwrap();
        file.write(0, b"UNSYNCED").unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    world.faults.clear();
    world.live(async |life| {
        life.writer.drained().await;
        assert_eq!(world.bytes("s").unwrap(), b"synced");
    });
}

#[test]
fn a_conflict_copy_survives_a_crash() {
    let world = World::new();
    world.faults.add(
        crate::store::wrap::Rule::on(Op::Put, Action::Stall)
            .key(crate::store::wrap::KeyPattern::StartsWith("c.conflict".to_owned())),
    );
    world.live(async |life| {
        world.put("c", b"theirs").await;
        let file = life.create("c");
        file.write(0, b"ours").unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    world.faults.clear();
    world.live(async |life| {
        life.writer.drained().await;
        let copies = copies_of(&world, "c").await;
        assert_eq!(copies.len(), 1);
        assert_eq!(world.bytes(copies[0].as_str()).unwrap(), b"ours");
        assert_eq!(world.bytes("c").unwrap(), b"theirs");
    });
}

#[test]
fn damaged_staging_is_set_aside_and_the_rest_goes_on() {
    let world = World::new();
    world.fail(Op::Put, When::Always, Action::Stall);
    world.live(async |life| {
        for name in ["bad", "good"] {
            let file = life.create(name);
            file.write(0, name.as_bytes()).unwrap();
            file.seal().unwrap();
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    });
    let staging = world.directory.path().join("staging");
    let is_bad = |path: &Path| fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"bad"));
    let bad = files_below(&staging).into_iter().find(|path| is_bad(path)).unwrap();
    fs::write(&bad, b"BAD").unwrap();
    world.faults.clear();
    // Both puts were in doubt.
    world.live(async |life| {
        life.writer.drained().await;
        assert_eq!((world.bytes("bad"), world.bytes("good").unwrap()), (None, b"good".to_vec()));
        let sessions = life.writer.sessions();
        let [status] = sessions.as_slice() else { panic!("{sessions:?}") };
        assert_eq!((status.state, &status.key), (SessionPhase::Stuck, &key("bad")));
        assert!(status.last_error.as_ref().unwrap().contains("recovered"), "{status:?}");
        assert_eq!(life.count(Counter::Quarantined), 1);
    });
    let kept = files_below(&world.directory.path().join("recovered"));
    assert!(kept.iter().any(|path| fs::read(path).unwrap() == b"BAD"), "{kept:?}");
    world.live(async |life| {
        let session = life.writer.sessions()[0].session;
        life.writer.discard(session).await.unwrap();
        assert!(life.writer.sessions().is_empty());
    });
}

#[test]
fn staging_files_that_no_record_names_are_kept_for_the_user() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("x");
        file.write(0, b"precious").unwrap();
    });
    fs::remove_dir_all(world.directory.path().join("journal")).unwrap();
    world.live(async |life| {
        assert_eq!(life.count(Counter::Quarantined), 1);
        assert_eq!(life.metrics.level(Gauge::StagingBytes), 0);
    });
    let kept = files_below(&world.directory.path().join("recovered"));
    assert!(kept.iter().any(|path| fs::read(path).unwrap().starts_with(b"precious")), "{kept:?}");
}

#[test]
fn a_record_that_cannot_be_read_is_set_aside_and_the_rest_goes_on() {
    let world = World::new();
    world.fail(Op::Put, When::Always, Action::Stall);
    world.live(async |life| {
        let file = life.create("r");
        file.write(0, b"rest").unwrap();
        file.seal().unwrap();
    });
    append(&world, br#"[1,{"from-the-future":{}}]"#);
    append(&world, br#"[1,{"closed":{"file":4711}}]"#);
    world.faults.clear();
    world.live(async |life| {
        life.writer.drained().await;
        assert_eq!(world.bytes("r").unwrap(), b"rest");
        assert_eq!(life.count(Counter::Quarantined), 2);
    });
    let kept = files_below(&world.directory.path().join("recovered"));
    assert!(kept.iter().any(|path| fs::read(path).unwrap().ends_with(b"from-the-future\":{}}]")), "{kept:?}");
}

#[test]
fn a_newer_versions_journal_is_refused_and_left_alone() {
    let world = World::new();
    world.live(async |_| {});
    append(&world, br#"[2,{"closed":{"file":4711}}]"#);
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.live(async |_| {})));
    assert!(refused.is_err());
    assert!(!world.directory.path().join("recovered").exists());
}

/// Appends a record as another version or a mistake would have.
fn append(world: &World, record: &[u8]) {
    let disk = std::sync::Arc::new(crate::durable::RealDisk);
    let (journal, _) = crate::durable::Journal::open(disk, &world.directory.path().join("journal")).unwrap();
    journal.append(record).unwrap();
}

#[test]
fn a_state_directory_copied_at_any_moment_is_one_to_go_on_from() {
    let world = World::new();
    let content = pattern(7, 400 * KIB);
    for op in [Op::BeginUpload, Op::PutPart, Op::CompleteUpload] {
        world.fail(op, When::Always, Action::Delay(Duration::from_secs(1)));
    }
    let copies: Vec<_> = world.live(async |life| {
        let mut copies = Vec::new();
        let file = life.create("m");
        file.write(0, &content).unwrap();
        file.seal().unwrap();
        for _ in 0..200 {
            let copy = tempfile::TempDir::new().unwrap();
            copy_all(world.directory.path(), copy.path());
            copies.push(copy);
            if world.bytes("m").is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        copies
    });
    assert!(copies.len() > 10, "{} moments", copies.len());
    for copy in copies {
        world.live_in(copy.path(), async |life| {
            life.writer.drained().await;
            assert!(life.writer.sessions().is_empty());
        });
        assert!(world.bytes("m").unwrap() == content);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert!(
        runtime.block_on(copies_of(&world, "m")).len() <= 200,
        "those that had not begun met the first one's object"
    );
}

#[test]
fn what_was_sealed_is_kept_over_an_orderly_end_after_it_was_overwritten_and_cut() {
    let world = World::new();
    let sealed = pattern(8, 200 * KIB);
    world.fail(Op::BeginUpload, When::Always, Action::FailBefore(NOT_NOW));
    world.live(async |life| {
        let file = life.create("kept");
        file.write(0, &sealed).unwrap();
        file.seal().unwrap();
        file.write(0, &[0; 64 << 10]).unwrap();
        file.truncate(100 * KIB).unwrap();
        life.writer.shutdown().await;
    });
    world.faults.clear();
    world.live(async |life| {
        life.writer.drained().await;
        assert!(world.bytes("kept").unwrap() == sealed);
    });
}

#[test]
fn a_shut_down_room_goes_on_at_the_next_opening() {
    let world = World::new();
    world.fail(Op::Put, When::Always, Action::FailBefore(NOT_NOW));
    world.live(async |life| {
        let file = life.create("z");
        file.write(0, b"later").unwrap();
        file.close().unwrap();
        life.writer.shutdown().await;
        assert!(file.commit().await.is_err());
        life.writer.drained().await;
    });
    world.faults.clear();
    world.live(async |life| {
        life.writer.drained().await;
        assert_eq!(world.bytes("z").unwrap(), b"later");
    });
}

fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn copy_all(from: &Path, to: &Path) {
    for path in files_below(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(&path, &target).unwrap();
    }
}
