//! Random programs on a bad network, dying now and then, against a model of two byte strings.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::observe::Counter;
use crate::store::wrap::{Action, Rule, When};
use crate::store::{ErrorKind, ObjectStore, Op, Precondition, UploadKind};
use crate::types::{Attributes, ByteRange, ObjectMeta};
use crate::write::tests::{KIB, Life, NOT_NOW, PARTS, World, key};
use crate::write::{Origin, Piece, SessionPhase, WriteFile};

const PROGRAMS: u64 = 60;
const LIVES: usize = 4;
const STEPS: usize = 12;
const SIZE_MAX: u64 = 400 * KIB;

/// What must be true of the file: its content as written, and as sealed last.
#[derive(Clone, Default)]
struct Model {
    present: Vec<u8>,
    sealed: Option<Vec<u8>>,
}

fn disturb(world: &World, seed: u64) {
    let ops = [
        Op::Put,
        Op::Copy,
        Op::PutPart,
        Op::CopyPart,
        Op::CompleteUpload,
        Op::UploadStatus,
        Op::AbortUpload,
        Op::Head,
        Op::BeginUpload,
    ];
    let actions = [
        Action::FailBefore(NOT_NOW),
        Action::FailAfter(ErrorKind::Ambiguous),
        Action::FailBefore(ErrorKind::Ambiguous),
    ];
    world.faults.clear();
    for (index, op) in ops.into_iter().enumerate() {
        for (kind, action) in actions.into_iter().enumerate() {
            let seed = seed * 100 + index as u64 * 10 + kind as u64;
            world.faults.add(Rule::on(op, action).when(When::Chance { percent: 12, seed }));
        }
        world.faults.add(Rule::on(op, Action::Delay(Duration::from_millis(seed % 300))));
    }
    world.faults.add(
        Rule::on(Op::CompleteUpload, Action::FailBefore(ErrorKind::UploadGone))
            .when(When::Chance { percent: 10, seed }),
    );
}

/// The file's bytes, or `None` when it shows a version that is not in the bucket any more: a commit in doubt has
/// replaced it, and nobody has looked yet.
async fn content(world: &World, file: &WriteFile) -> Option<Vec<u8>> {
    let there = world.memory.head(&key("m")).await.ok().map(|object| object.id);
    let mut bytes = Vec::new();
    for piece in file.read(ByteRange::new(0, u64::MAX)).unwrap() {
        match piece {
            Piece::Staged(staged) => bytes.extend(staged),
            Piece::Base { object, .. } if Some(&object) != there.as_ref() => return None,
            Piece::Base { range, .. } => {
                bytes.extend(&world.bytes("m").unwrap()[range.start as usize..range.end as usize]);
            }
            Piece::Zeros(count) => bytes.resize(bytes.len() + count as usize, 0),
        }
    }
    Some(bytes)
}

async fn step(world: &World, file: &WriteFile, model: &mut Model, random: &mut Rng) {
    match random.u8(0..10) {
        0..=4 => {
            let offset = random.u64(0..SIZE_MAX);
            let offset = if random.bool() { offset.min(model.present.len() as u64) } else { offset };
            let len_max = if random.bool() { 100 } else { 150 * KIB };
            let len = random.u64(1..=len_max);
            let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len as usize).collect();
            file.write(offset, &bytes).unwrap();
            let end = (offset + len) as usize;
            model.present.resize(model.present.len().max(end), 0);
            model.present[offset as usize..end].copy_from_slice(&bytes);
        }
        5 => {
            let size = random.u64(0..SIZE_MAX);
            file.truncate(size).unwrap();
            model.present.resize(size as usize, 0);
        }
        6 => {
            file.seal().unwrap();
            model.sealed = Some(model.present.clone());
        }
        7 => {
            file.sync().await.unwrap();
            model.sealed = Some(model.present.clone());
        }
        8 => {
            model.sealed = Some(model.present.clone());
            file.commit().await.unwrap();
            assert!(world.bytes("m").unwrap() == model.present, "what commit acknowledged is in the bucket");
        }
        _ => tokio::time::sleep(Duration::from_millis(random.u64(0..1500))).await,
    }
    if let Some(shown) = content(world, file).await {
        assert!(shown == model.present, "what was written is read");
    }
}

async fn open(world: &World, life: &Life, there: Option<ObjectMeta>) -> Arc<WriteFile> {
    if let Some(file) = life.recovered.pending.first() {
        return Arc::clone(file);
    }
    let expected =
        there.as_ref().map_or(Precondition::Absent, |object| Precondition::Matches(object.id.etag.clone()));
    assert_eq!(world.bytes("m").is_some(), there.is_some());
    let origin = there.map_or(Origin::New, |object| Origin::Over(object.id));
    life.writer.create(key("m"), origin, expected, Attributes::default()).unwrap()
}

fn run(kind: UploadKind, seed: u64) {
    let world = World::of(kind);
    let mut random = Rng::with_seed(seed);
    let mut model = Model::default();
    for life_number in 0..LIVES {
        disturb(&world, seed * 10 + life_number as u64);
        world.live(async |life| {
            let there = world.memory.head(&key("m")).await.ok();
            let file = open(&world, life, there).await;
            if let Some(sealed) = &model.sealed {
                model.present = sealed.clone();
                if let Some(shown) = content(&world, &file).await {
                    assert!(shown == *sealed, "as it was sealed");
                }
            } else {
                model.present = Vec::new();
            }
            for _ in 0..STEPS {
                step(&world, &file, &mut model, &mut random).await;
            }
            assert_eq!(life.count(Counter::Conflicts), 0, "nobody else writes");
        });
    }
    world.faults.clear();
    world.live(async |life| {
        life.writer.drained().await;
        if let Some(sealed) = &model.sealed {
            assert!(world.bytes("m").unwrap() == *sealed, "what was sealed last is in the bucket");
        } else {
            assert_eq!(world.bytes("m"), None, "what was never sealed is not");
        }
        assert_eq!((life.count(Counter::Conflicts), life.count(Counter::Quarantined)), (0, 0));
        let sessions = life.writer.sessions();
        assert!(sessions.iter().all(|s| s.state == SessionPhase::Interrupted), "{sessions:?}");
    });
}

#[test]
fn what_was_sealed_last_is_what_the_bucket_has_in_the_end() {
    for seed in 0..PROGRAMS {
        let kind = if seed % 4 == 0 { UploadKind::Offset { align: 4096 } } else { PARTS };
        let result = std::panic::catch_unwind(|| run(kind, seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
