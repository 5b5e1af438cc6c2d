//! Commits without and with failures of the network and of the local disk.

use std::time::Duration;

use crate::observe::{Counter, Gauge};
use crate::store::wrap::{Action, When};
use crate::store::{ErrorKind, ObjectStore, Op, UploadKind};
use crate::types::{Attributes, ByteRange, ByteSize, UnixTime};
use crate::write::tests::{KIB, NOT_NOW, World, always, key, pattern};
use crate::write::{Error, Event, Piece, SessionPhase};

#[test]
fn a_small_file_is_one_put() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("a");
        file.write(0, b"hello ").unwrap();
        file.write(6, b"world").unwrap();
        let object = file.commit().await.unwrap();
        assert_eq!(object.id.size, 11);
        assert_eq!(world.bytes("a").unwrap(), b"hello world");
        assert_eq!(file.read(ByteRange::new(3, 8)).unwrap(), [Piece::Staged(b"lo wo".to_vec())]);
        let Ok(Event::Committed { session, is_current, .. }) = life.events.try_recv() else { panic!() };
        assert_eq!((session, is_current), (file.session(), true));
        file.commit().await.unwrap();
        file.sync().await.unwrap();
        file.close().unwrap();
        life.writer.drained().await;
        assert_eq!(world.requests(), "1 put", "nothing dirty, nothing to do");
        assert_eq!(life.metrics.level(Gauge::UploadsPending), 0);
        assert_eq!(life.metrics.level(Gauge::StagingBytes), 0, "closed and committed leaves nothing");
        assert!(life.writer.sessions().is_empty());
    });
}

#[test]
fn an_empty_file_is_put_and_an_untouched_one_is_not() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("empty");
        assert!(file.is_dirty());
        file.close().unwrap();
        life.writer.drained().await;
        assert_eq!(world.bytes("empty").unwrap(), b"");
        let there = world.put("b", b"content").await;
        let file = life.change(&there);
        assert_eq!((file.is_dirty(), file.size()), (false, 7));
        assert_eq!(file.commit().await.unwrap().id, there.id);
        file.close().unwrap();
        assert_eq!(world.requests(), "1 put");
    });
}

#[test]
fn a_large_file_is_begun_sent_and_completed_once() {
    let world = World::new();
    world.live(async |life| {
        let content = pattern(1, 300 * KIB);
        let file = life.create("large");
        file.write(0, &content).unwrap();
        file.commit().await.unwrap();
        assert!(world.bytes("large").unwrap() == content);
        assert_eq!(world.requests(), "1 begin upload, 5 put part, 1 complete upload");
        assert_eq!(life.count(Counter::PartsSent), 5);
        assert_eq!(world.memory.open_uploads(), 0);
    });
}

#[test]
fn a_volume_that_takes_bytes_in_order_gets_them_in_order() {
    let world = World::of(UploadKind::Offset { align: 4096 });
    world.fail(Op::PutPart, When::Nth(2), Action::FailAfter(ErrorKind::Ambiguous));
    world.live(async |life| {
        let content = pattern(2, 200 * KIB + 5);
        let file = life.create("ordered");
        file.write(0, &content).unwrap();
        file.commit().await.unwrap();
        assert!(world.bytes("ordered").unwrap() == content);
        assert_eq!(world.requests(), "1 begin upload, 1 upload status, 4 put part, 1 complete upload");
    });
}

#[test]
fn a_change_in_the_middle_sends_one_part_and_copies_the_rest() {
    let world = World::new();
    world.live(async |life| {
        let mut content = pattern(3, 500 * KIB);
        let file = life.change(&world.put("big", &content).await);
        content[300_000..300_100].fill(7);
        file.write(300_000, &[7; 100]).unwrap();
        file.write(content.len() as u64, b"tail").unwrap();
        content.extend(b"tail");
        file.commit().await.unwrap();
        assert!(world.bytes("big").unwrap() == content);
        assert_eq!(world.faults.bytes(Op::PutPart), 16 * KIB + 4, "one smallest part, and what was appended");
        assert_eq!(
            file.read(ByteRange::at(299_999, 2)).unwrap(),
            [
                Piece::Base { object: file.base().unwrap(), range: ByteRange::at(299_999, 1) },
                Piece::Staged(vec![7]),
            ]
        );
    });
}

#[test]
fn holes_and_cuts_read_as_zeros_here_and_there() {
    let world = World::new();
    world.live(async |life| {
        let file = life.change(&world.put("h", &[1; 100]).await);
        file.truncate(10).unwrap();
        file.truncate(20).unwrap();
        file.write(25, &[2]).unwrap();
        let mut content = vec![1; 10];
        content.resize(25, 0);
        content.push(2);
        assert_eq!(
            file.read(ByteRange::new(0, 1000)).unwrap(),
            [
                Piece::Base { object: file.base().unwrap(), range: ByteRange::new(0, 10) },
                Piece::Zeros(15),
                Piece::Staged(vec![2]),
            ]
        );
        file.commit().await.unwrap();
        assert_eq!(world.bytes("h").unwrap(), content);
        file.truncate(5).unwrap();
        file.truncate(6).unwrap();
        file.commit().await.unwrap();
        assert_eq!(world.bytes("h").unwrap(), [1, 1, 1, 1, 1, 0]);
    });
}

#[test]
fn attributes_alone_are_a_copy_on_the_server() {
    let world = World::new();
    world.live(async |life| {
        let there = world.put("c", &pattern(4, 200 * KIB)).await;
        let file = life.change(&there);
        let attributes =
            Attributes { mode: Some(0o640), mtime: Some(UnixTime::from_secs(9)), ..Attributes::default() };
        file.set_attributes(attributes.clone());
        file.commit().await.unwrap();
        assert_eq!(world.requests(), "1 copy");
        assert_eq!(world.memory.head(&key("c")).await.unwrap().attributes, Some(attributes));
        assert!(world.bytes("c").unwrap() == pattern(4, 200 * KIB));
    });
}

#[test]
fn a_file_goes_on_after_its_commit_from_the_object_it_became() {
    let world = World::new();
    world.live(async |life| {
        let mut content = pattern(5, 200 * KIB);
        let file = life.create("on");
        file.write(0, &content).unwrap();
        let first = file.commit().await.unwrap();
        assert_eq!(file.base().unwrap(), first.id);
        let session = file.session();
        world.faults.forget_calls();
        content[0] ^= 1;
        file.write(0, &content[..1]).unwrap();
        assert!(file.is_dirty() && file.session() != session);
        file.commit().await.unwrap();
        assert!(world.bytes("on").unwrap() == content);
        assert_eq!(world.faults.bytes(Op::PutPart), 16 * KIB);
    });
}

#[test]
fn what_is_written_during_the_upload_makes_another_version_and_never_a_mixture() {
    let world = World::new();
    world.fail(Op::PutPart, When::Always, Action::Delay(Duration::from_secs(1)));
    world.live(async |life| {
        let first = pattern(6, 500 * KIB);
        let second = pattern(7, 500 * KIB);
        let file = life.create("w");
        file.write(0, &first).unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        file.write(0, &second).unwrap();
        life.writer.drained().await;
        assert!(world.bytes("w").unwrap() == first, "as it was when it was sealed");
        let Ok(Event::Committed { is_current, .. }) = life.events.try_recv() else { panic!() };
        assert!(!is_current && file.is_dirty());
        file.commit().await.unwrap();
        assert!(world.bytes("w").unwrap() == second);
        assert_eq!(life.count(Counter::Commits), 2);
    });
}

#[test]
fn the_newest_sealed_content_wins_and_keeps_the_parts_that_did_not_change() {
    let world = World::new();
    world.fail(Op::PutPart, When::First(6), Action::Delay(Duration::from_secs(1)));
    world.live(async |life| {
        let mut content = pattern(8, 640 * KIB);
        let file = life.create("n");
        file.write(0, &content).unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        content[100..200].fill(0);
        file.write(100, &[0; 100]).unwrap();
        file.commit().await.unwrap();
        assert!(world.bytes("n").unwrap() == content);
        assert_eq!(life.count(Counter::Commits), 1, "the older one is dropped");
        assert_eq!(world.requests(), "1 begin upload, 11 put part, 1 complete upload", "part 1 twice");
        assert_eq!(life.count(Counter::PartsResent), 1);
    });
}

#[test]
fn contents_sealed_by_many_syncs_are_one_upload() {
    let world = World::new();
    world.live(async |life| {
        let file = life.create("db");
        for at in 0..20 {
            file.write(at, &[at as u8]).unwrap();
            file.sync().await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(world.requests(), "");
        file.commit().await.unwrap();
        assert_eq!(world.requests(), "1 put");
        file.write(0, b"x").unwrap();
        file.sync().await.unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.requests(), "2 put", "a pause is enough");
        assert_eq!(world.bytes("db").unwrap()[0], b'x');
    });
}

#[test]
fn an_unreachable_bucket_is_tried_until_it_is_back() {
    let world = World::new();
    world.fail(Op::Put, When::First(5), Action::FailBefore(NOT_NOW));
    world.live(async |life| {
        let file = life.create("r");
        file.write(0, b"x").unwrap();
        file.commit().await.unwrap();
        assert_eq!(world.requests(), "6 put");
    });
}

#[test]
fn a_commit_gives_up_waiting_without_progress_and_the_upload_does_not() {
    let world = World::new();
    world.fail(Op::Put, When::Always, Action::FailBefore(NOT_NOW));
    world.live(async |life| {
        let file = life.create("t");
        file.write(0, b"x").unwrap();
        let begun = tokio::time::Instant::now();
        let error = file.commit().await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 60);
        let status = &life.writer.sessions()[0];
        assert!(status.last_error.is_some() && status.key == key("t"));
        world.faults.clear();
        life.writer.drained().await;
        assert_eq!(world.bytes("t").unwrap(), b"x");
        file.commit().await.unwrap();
    });
}

#[test]
fn parts_that_arrive_renew_the_deadline() {
    let world = World::new();
    world.fail(Op::PutPart, When::Always, Action::Delay(Duration::from_secs(50)));
    world.live(async |life| {
        let file = life.create("slow");
        file.write(0, &pattern(9, 640 * KIB)).unwrap();
        file.commit().await.unwrap();
    });
}

#[test]
fn a_refusal_is_told_each_time_and_the_data_are_kept() {
    let world = World::new();
    world.faults.add(always(Op::Put, Action::FailBefore(ErrorKind::Denied), "d"));
    world.live(async |life| {
        let file = life.create("d");
        file.write(0, b"mine").unwrap();
        for _ in 0..3 {
            let error = file.commit().await.unwrap_err();
            assert!(matches!(&error, Error::Store(error) if error.kind == ErrorKind::Denied), "{error}");
        }
        assert_eq!(world.requests(), "3 put", "each commit tries at once");
        assert_eq!(life.writer.sessions()[0].state, SessionPhase::Stuck);
        let Ok(Event::Stuck { .. }) = life.events.try_recv() else { panic!() };
        assert!(life.events.try_recv().is_err(), "told once");
        life.writer.drained().await;
        world.faults.clear();
        file.commit().await.unwrap();
        assert_eq!(world.bytes("d").unwrap(), b"mine");
    });
}

#[test]
fn lost_answers_are_looked_up_and_commit_once() {
    for (op, size) in [(Op::Put, 10), (Op::CompleteUpload, 200 * KIB)] {
        for action in [Action::FailAfter(ErrorKind::Ambiguous), Action::FailBefore(ErrorKind::Ambiguous)] {
            let world = World::new();
            world.fail(op, When::Nth(1), action);
            world.live(async |life| {
                let content = pattern(10, size);
                let file = life.create("l");
                file.write(0, &content).unwrap();
                let object = file.commit().await.unwrap();
                assert!(world.bytes("l").unwrap() == content);
                assert_eq!(world.memory.head(&key("l")).await.unwrap().id, object.id);
                let is_applied = action == Action::FailAfter(ErrorKind::Ambiguous);
                assert_eq!(life.count(Counter::CommitsLookedUp), u64::from(is_applied));
                assert_eq!(world.faults.count(op), if is_applied { 1 } else { 2 }, "{op} {action:?}");
                assert_eq!(world.faults.count(Op::Head), 1);
                assert_eq!(world.memory.open_uploads(), 0);
            });
        }
    }
}

#[test]
fn every_request_may_fail_a_few_times() {
    let world = World::new();
    for op in [Op::BeginUpload, Op::PutPart, Op::CopyPart, Op::CompleteUpload, Op::Put, Op::AbortUpload] {
        world.fail(op, When::First(3), Action::FailBefore(NOT_NOW));
    }
    world.fail(Op::PutPart, When::Nth(6), Action::FlipByte { at: 5 });
    world.live(async |life| {
        let content = pattern(11, 400 * KIB);
        let file = life.create("f");
        file.write(0, &content).unwrap();
        file.commit().await.unwrap();
        assert!(world.bytes("f").unwrap() == content);
    });
}

#[test]
fn an_upload_that_the_server_has_forgotten_is_sent_again() {
    let world = World::new();
    world.fail(Op::CompleteUpload, When::Nth(1), Action::FailBefore(ErrorKind::UploadGone));
    world.live(async |life| {
        let content = pattern(12, 200 * KIB);
        let file = life.create("g");
        file.write(0, &content).unwrap();
        file.commit().await.unwrap();
        assert!(world.bytes("g").unwrap() == content);
        assert_eq!(world.requests(), "1 head, 2 begin upload, 8 put part, 2 complete upload");
    });
}

#[test]
fn parts_that_the_server_refuses_are_looked_at_then_sent_anew_then_left_to_time() {
    for (refusals, requests) in [
        (1, "1 begin upload, 1 upload status, 4 put part, 2 complete upload"),
        (2, "2 begin upload, 1 upload status, 8 put part, 3 complete upload, 1 abort upload"),
    ] {
        let world = World::new();
        world.fail(Op::CompleteUpload, When::First(refusals), Action::FailBefore(ErrorKind::Refused));
        world.live(async |life| {
            let content = pattern(18, 200 * KIB);
            let file = life.create("p");
            file.write(0, &content).unwrap();
            file.commit().await.unwrap();
            assert!(world.bytes("p").unwrap() == content);
            life.writer.drained().await;
            assert_eq!(world.requests(), requests);
        });
    }
    let world = World::new();
    world.fail(Op::CompleteUpload, When::Always, Action::FailBefore(ErrorKind::Refused));
    world.live(async |life| {
        let file = life.create("p");
        file.write(0, &pattern(18, 200 * KIB)).unwrap();
        let error = file.commit().await.unwrap_err();
        assert!(matches!(&error, Error::Store(error) if error.kind == ErrorKind::Refused), "{error}");
        assert_eq!((world.faults.count(Op::CompleteUpload), world.faults.count(Op::PutPart)), (3, 8));
        assert_eq!(life.writer.sessions()[0].state, SessionPhase::Stuck);
    });
}

#[test]
fn a_full_staging_area_refuses_the_write_and_keeps_what_it_has() {
    let mut world = World::new();
    world.staging_bytes_max = ByteSize(64 * KIB);
    world.live(async |life| {
        let file = life.create("s");
        file.write(0, &pattern(13, 60 * KIB)).unwrap();
        let error = file.write(60 * KIB, &pattern(14, 60 * KIB)).unwrap_err();
        assert!(matches!(error, Error::StagingFull { .. }), "{error}");
        assert_eq!(file.size(), 60 * KIB);
        file.commit().await.unwrap();
        file.close().unwrap();
        life.writer.drained().await;
        assert!(world.bytes("s").unwrap() == pattern(13, 60 * KIB));
        let file = life.create("s2");
        file.write(0, &pattern(14, 60 * KIB)).unwrap();
    });
}

#[test]
fn files_of_one_name_are_committed_in_the_order_of_their_opening() {
    let world = World::new();
    world.fail(Op::PutPart, When::First(3), Action::Delay(Duration::from_secs(5)));
    world.live(async |life| {
        let older = life.create("o");
        older.write(0, &pattern(15, 200 * KIB)).unwrap();
        older.close().unwrap();
        let newer = life.create("o");
        newer.write(0, b"newer").unwrap();
        newer.close().unwrap();
        life.writer.drained().await;
        assert_eq!(world.bytes("o").unwrap(), b"newer");
        assert_eq!((life.count(Counter::Commits), life.count(Counter::Conflicts)), (2, 0));
    });
}

#[test]
fn a_removed_file_is_usable_and_never_committed() {
    let world = World::new();
    world.fail(Op::PutPart, When::Always, Action::Delay(Duration::from_secs(5)));
    world.live(async |life| {
        let file = life.create("x");
        file.write(0, &pattern(16, 200 * KIB)).unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        file.discard().await.unwrap();
        file.write(1, b"abc").unwrap();
        assert_eq!(file.read(ByteRange::new(1, 4)).unwrap(), [Piece::Staged(b"abc".to_vec())]);
        assert!(!file.is_dirty() && !file.is_pending());
        file.close().unwrap();
        life.writer.drained().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(world.bytes("x"), None);
        assert_eq!(world.memory.open_uploads(), 0, "its upload was aborted");
        assert_eq!(life.metrics.level(Gauge::StagingBytes), 0);
    });
}

#[test]
fn a_renamed_file_is_committed_under_its_new_name_only() {
    let world = World::new();
    world.fail(Op::PutPart, When::First(4), Action::Delay(Duration::from_secs(5)));
    world.live(async |life| {
        let content = pattern(17, 200 * KIB);
        let file = life.create("old");
        file.write(0, &content).unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        file.rename(key("new"), crate::store::Precondition::Absent).await.unwrap();
        assert_eq!(file.key(), key("new"));
        file.commit().await.unwrap();
        life.writer.drained().await;
        assert_eq!(world.bytes("old"), None);
        assert!(world.bytes("new").unwrap() == content);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(world.memory.open_uploads(), 0);
    });
}

#[test]
fn a_rename_waits_for_a_commit_that_is_under_way() {
    let world = World::new();
    world.fail(Op::Put, When::Nth(1), Action::Delay(Duration::from_secs(5)));
    world.live(async |life| {
        let file = life.create("old");
        file.write(0, b"x").unwrap();
        file.seal().unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        file.rename(key("new"), crate::store::Precondition::Absent).await.unwrap();
        let Ok(Event::Committed { object, .. }) = life.events.try_recv() else { panic!() };
        assert_eq!((object.id.key, file.key()), (key("old"), key("new")));
        let moved =
            life.writer.rename(&file.base().unwrap(), &key("new"), crate::store::Precondition::Absent).await;
        file.moved(&moved.unwrap().id);
        assert_eq!(file.base().unwrap().key, key("new"));
        assert_eq!((world.bytes("old"), world.bytes("new").unwrap()), (None, b"x".to_vec()));
    });
}
