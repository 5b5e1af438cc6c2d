//! Random programs on a machine whose power fails: journal and staging on one disk that loses, reorders and tears what was
//! not synced. What was synced or committed is in the bucket in the end, or something that was sealed after it: whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use crate::durable::{CrashDisk, Disk};
use crate::observe::{Counter, Metrics};
use crate::store::wrap::{Action, Rule, When};
use crate::store::{ErrorKind, ObjectStore, Op, Precondition};
use crate::types::Attributes;
use crate::write::tests::{FromMemory, KIB, Life, NOT_NOW, World, key};
use crate::write::{Origin, SessionPhase, WriteFile, Writer};

const PROGRAMS: u64 = 150;
const LIVES: usize = 4;
const STEPS: usize = 14;
const NAMES: usize = 3;
const SIZE_MAX: u64 = 200 * KIB;

/// What a name was given, oldest first.
#[derive(Default)]
struct Line {
    /// Each as it was sealed; the first is what it was before.
    contents: Vec<Option<Vec<u8>>>,
    /// The last of them that survives power loss.
    safe: usize,
}

/// A file that a program has open.
struct Open {
    file: Arc<WriteFile>,
    present: Vec<u8>,
}

struct Machine {
    world: World,
    disk: CrashDisk,
}

impl Machine {
    /// One process, from its start to its death.
    fn live(&self, act: impl AsyncFnOnce(&mut Life)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let store = Arc::clone(&self.world.faults) as Arc<dyn ObjectStore>;
            let base = Arc::new(FromMemory(Arc::clone(&self.world.memory)));
            let metrics = Arc::new(Metrics::default());
            let disk = Arc::new(self.disk.clone()) as Arc<dyn Disk>;
            let options = self.world.options(Path::new("/state"));
            let (writer, recovered, events) =
                Writer::open_on(disk, store, base, options, Arc::clone(&metrics)).unwrap();
            act(&mut Life { writer, recovered, events, metrics }).await;
        });
        // Nothing of it may touch the disk when the next one has it.
        runtime.shutdown_timeout(Duration::from_secs(10));
    }

    fn disturb(&self, random: &mut Rng) {
        self.world.faults.clear();
        for op in [Op::Put, Op::PutPart, Op::CompleteUpload, Op::Copy, Op::CopyPart, Op::Delete] {
            let seed = random.u64(..);
            let slow = Action::Delay(Duration::from_millis(random.u64(0..500)));
            self.world.faults.add(Rule::on(op, slow));
            for action in [Action::FailBefore(NOT_NOW), Action::FailAfter(ErrorKind::Ambiguous)] {
                self.world.faults.add(Rule::on(op, action).when(When::Chance { percent: 8, seed }));
            }
        }
    }

    /// Waits until what was left is in the bucket. A content that was committed, but whose record was lost, may by then have
    /// got a copy of one that was sealed before it beside it.
    async fn finish(&self, life: &Life) {
        life.writer.drained().await;
        let is_left = |state| matches!(state, SessionPhase::Interrupted | SessionPhase::Stuck);
        let sessions = life.writer.sessions();
        assert!(sessions.iter().all(|session| is_left(session.state)), "{sessions:?}");
    }

    async fn open(&self, life: &Life, name: &str) -> Open {
        let present = self.world.bytes(name).unwrap_or_default();
        let there = self.world.memory.head(&key(name)).await.ok();
        let expected = there
            .as_ref()
            .map_or(Precondition::Absent, |object| Precondition::Matches(object.id.etag.clone()));
        let origin = there.map_or(Origin::New, |object| Origin::Over(object.id));
        let file = life.writer.create(key(name), origin, expected, Attributes::default()).unwrap();
        Open { file, present }
    }
}

/// What writes, outliving the processes that it writes through.
struct Programs {
    lines: BTreeMap<String, Line>,
    random: Rng,
}

impl Programs {
    fn new(seed: u64) -> Programs {
        let before = || Line { contents: vec![None], safe: 0 };
        let lines = (0..NAMES).map(|number| (format!("f{number}"), before())).collect();
        Programs { lines, random: Rng::with_seed(seed) }
    }

    /// Holds what is shown against what may be.
    fn look(&self, shown: impl Fn(&str) -> Option<Vec<u8>>) {
        for (name, line) in &self.lines {
            let shown = shown(name);
            if !line.contents[line.safe..].contains(&shown) {
                let lens: Vec<_> =
                    line.contents.iter().map(|content| content.as_ref().map(Vec::len)).collect();
                let which = line.contents.iter().position(|content| *content == shown);
                let len = shown.map(|bytes| bytes.len());
                panic!("{name} has {len:?} bytes, number {which:?} of {lens:?}, {} is safe", line.safe);
            }
        }
    }

    /// Goes on from what there is.
    fn restart(&mut self, there: impl Fn(&str) -> Option<Vec<u8>>) {
        for (name, line) in &mut self.lines {
            *line = Line { contents: vec![there(name)], safe: 0 };
        }
    }

    async fn step(&mut self, machine: &Machine, life: &Life, open: &mut BTreeMap<String, Open>) {
        let name = format!("f{}", self.random.usize(0..NAMES));
        if !open.contains_key(&name) {
            open.insert(name.clone(), machine.open(life, &name).await);
        }
        let Open { file, present } = open.get_mut(&name).expect("it was just opened");
        let line = self.lines.get_mut(&name).expect("all names have a line");
        let random = &mut self.random;
        match random.u8(0..12) {
            0..=5 => {
                let offset = random.u64(0..SIZE_MAX).min(present.len() as u64);
                let len = if random.bool() { random.u64(1..100) } else { random.u64(1..100 * KIB) };
                let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(1..)).take(len as usize).collect();
                file.write(offset, &bytes).unwrap();
                let end = (offset + len) as usize;
                present.resize(present.len().max(end), 0);
                present[offset as usize..end].copy_from_slice(&bytes);
            }
            6 => {
                let size = random.u64(0..SIZE_MAX);
                file.truncate(size).unwrap();
                present.resize(size as usize, 0);
            }
            7..=8 => {
                line.contents.push(Some(present.clone()));
                file.sync().await.unwrap();
                line.safe = line.contents.len() - 1;
            }
            9 => {
                line.contents.push(Some(present.clone()));
                file.seal().unwrap();
            }
            10 => {
                line.contents.push(Some(present.clone()));
                file.commit().await.unwrap();
                line.safe = line.contents.len() - 1;
                assert!(machine.world.bytes(&name).as_ref() == Some(present), "committed");
            }
            _ => tokio::time::sleep(Duration::from_millis(random.u64(0..1500))).await,
        }
    }
}

fn run(seed: u64) {
    let machine = Machine { world: World::new(), disk: CrashDisk::default() };
    let mut programs = Programs::new(seed);
    for _ in 0..LIVES {
        machine.world.faults.clear();
        machine.live(async |life| {
            machine.finish(life).await;
            programs.look(|name| machine.world.bytes(name));
            programs.restart(|name| machine.world.bytes(name));
            machine.disturb(&mut programs.random);
            let (conflicts, mut open) = (life.count(Counter::Conflicts), BTreeMap::new());
            for _ in 0..STEPS {
                programs.step(&machine, life, &mut open).await;
            }
            assert_eq!(life.count(Counter::Conflicts), conflicts, "nobody else writes");
        });
        // A process may also die alone.
        if programs.random.u8(0..4) > 0 {
            machine.disk.crash(programs.random.u64(..));
        }
    }
    machine.world.faults.clear();
    machine.live(async |life| machine.finish(life).await);
    programs.look(|name| machine.world.bytes(name));
}

#[test]
fn what_was_synced_or_committed_is_in_the_bucket_after_power_was_lost() {
    for seed in 0..PROGRAMS {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed}");
    }
}
