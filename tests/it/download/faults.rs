//! A thousand reads at random from a server that fails in every way there is, each compared byte by byte.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use fastrand::Rng;
use tetherfs::bucket::{Action, FaultHandle, Operation, Rule, Side};

use super::{KIB, MIB, answers};
use crate::support::{Rig, expect_same, forget_pages, pattern, seed};

const READS: usize = 1000;
/// Reads under the same faults and over the same objects.
const BATCH: usize = 25;
const READ_BYTES_MAX: usize = 300 * KIB;
/// Kinds of faults that a batch meets.
const FAULTS_A_BATCH: usize = 3;
/// Batches between two mounts with an empty cache.
const BATCHES_A_MOUNT: usize = 10;
/// Where bodies are hurt. Below a chunk, so that every request is long enough.
const HURT_BYTES_MAX: u64 = 200_000;
/// Objects of which every request is long enough to be hurt have this in their name.
const LONG: &str = "long";
/// Objects that are compared with the store's checksum before a byte of them is handed on have this in their name.
const SHORT: &str = "exact";

const OBJECTS: [(&str, usize); 10] = [
    ("empty", 0),
    ("one", 1),
    ("page", 4095),
    ("exact", 256 * KIB),
    ("chunk-and-one", 256 * KIB + 1),
    ("long-1", MIB + 17),
    ("long-5", 5 * MIB),
    ("long-8", 8 * MIB - 1),
    ("long-12", 12 * MIB + 4711),
    ("long-30", 30 * MIB),
];

/// A way to fail.
struct Kind {
    name: &'static str,
    rule: Box<dyn Fn(&mut Rng) -> Rule>,
    claim: Claim,
    struck: u64,
}

/// What an answer says of the version it is of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// Nothing, or the truth.
    Same,
    /// That it is another one, so that the handle may be told that its own is gone.
    Another,
}

fn get(action: Action) -> Rule {
    Rule::on(Operation::GetObject, action)
}

fn hurt(random: &mut Rng, action: impl FnOnce(u64) -> Action) -> Rule {
    let at = *random.choice(&[0, 1, HURT_BYTES_MAX]).unwrap();
    get(action(if at > 1 { random.u64(2..HURT_BYTES_MAX) } else { at })).key(LONG)
}

fn refused(code: u16, retry_after_s: Option<u64>) -> Action {
    Action::Status { code, error: None, retry_after_s }
}

/// Every fault in the direction of reading that a server, a line or a proxy was seen to have.
fn kinds() -> Vec<Kind> {
    let kind = |name, rule: fn(&mut Rng) -> Rule| {
        let claim = if name == "replaced" { Claim::Another } else { Claim::Same };
        Kind { name, rule: Box::new(rule), claim, struck: 0 }
    };
    let mut kinds = vec![
        kind("reset before the headers", |_| get(Action::Reset)),
        kind("closed before the headers", |_| get(Action::LoseAnswer)),
        kind("closed behind the headers", |_| get(Action::Cut { side: Side::Answer, after: 0 })),
        kind("closed in the body", |r| hurt(r, |after| Action::Cut { side: Side::Answer, after })),
        kind("reset in the body", |r| hurt(r, |after| Action::Tear { after })),
        kind("a body too short", |r| hurt(r, |to| Action::Shorten { to })),
        kind("a stall for ever", |r| {
            hurt(r, |after| Action::Stall { side: Side::Answer, after, ms: 600_000 })
        }),
        kind("a short stall", |r| hurt(r, |after| Action::Stall { side: Side::Answer, after, ms: 100 })),
        kind("a late answer", |_| get(Action::Delay { ms: 150 })),
        kind("no answer", |_| get(Action::Delay { ms: 600_000 })),
        kind("a slow body", |_| get(Action::Bandwidth { bytes_per_s: 2 << 20 })),
        kind("500", |_| get(refused(500, None))),
        kind("502", |_| get(refused(502, None))),
        kind("503", |_| get(refused(503, None))),
        kind("503 with Retry-After", |_| get(refused(503, Some(1)))),
        kind("429 with Retry-After", |_| get(refused(429, Some(1)))),
        kind("429", |_| get(refused(429, None))),
        kind("504 for a HEAD", |_| Rule::on(Operation::HeadObject, refused(504, None))),
        kind("HEAD without an answer", |_| Rule::on(Operation::HeadObject, Action::LoseAnswer)),
        kind("replaced", |_| get(Action::Replace { text: None }).key(REPLACED).times(1)),
        kind("a listing out of date", |_| Rule::on(Operation::ListObjectsV2, Action::Freeze).times(1000)),
        // Of larger ones, what is damaged on the way can be found out too late.
        kind("a flipped byte", |r| {
            let at = *r.choice(&[0, 1, HURT_BYTES_MAX]).unwrap();
            get(Action::Flip { side: Side::Answer, at }).key(SHORT)
        }),
    ];
    kinds.extend(answers::lies().into_iter().map(|(name, lie)| {
        let claim = if name.ends_with("etag") { Claim::Another } else { Claim::Same };
        let rule = Box::new(move |_: &mut Rng| get(lie.clone()).times(1));
        Kind { name, rule, claim, struck: 0 }
    }));
    kinds
}

/// The object that others replace while it is read. Each batch has one of its own: the server may be at it still when the
/// batch is over.
const REPLACED: &str = "long-8";

/// An open file and the content of its object when it was opened.
struct Handle {
    name: String,
    file: File,
    content: Vec<u8>,
    at: usize,
}

struct Run {
    rig: Rig,
    random: Rng,
    kinds: Vec<Kind>,
    armed: Vec<(usize, FaultHandle)>,
    handles: Vec<Handle>,
    batch: usize,
}

#[test]
fn a_thousand_reads_under_every_fault() {
    let seed = seed();
    let random = Rng::with_seed(seed);
    let mut rig = Rig::new();
    rig.mount(&[
        "--stall-timeout=300ms",
        "--read-timeout=20s",
        "--request-size=1MiB",
        "--prefetch=4MiB",
        "--metadata-ttl=0",
    ]);
    let mut run = Run { rig, random, kinds: kinds(), armed: Vec::new(), handles: Vec::new(), batch: 0 };
    while run.batch * BATCH < READS {
        run.batch();
    }
    let silent: Vec<&str> = run.kinds.iter().filter(|kind| kind.struck == 0).map(|kind| kind.name).collect();
    for kind in &run.kinds {
        eprintln!("{:>5} x {}", kind.struck, kind.name);
    }
    assert!(silent.is_empty(), "never happened: {silent:?}");
    run.rig.unmount();
}

impl Run {
    fn batch(&mut self) {
        self.batch += 1;
        if self.batch.is_multiple_of(BATCHES_A_MOUNT) {
            self.rig.unmount();
            self.rig.cache_files().iter().for_each(|file| fs::remove_file(file).unwrap());
            self.rig.mount_again();
        }
        for (name, size) in OBJECTS {
            let bytes = pattern(self.random.u64(..), size);
            let (name, handles) = match name {
                REPLACED => (format!("{REPLACED}-of-{}", self.batch), 1),
                _ => (name.to_owned(), 2),
            };
            self.rig.bucket.put_quietly(&name, &bytes);
            for _ in 0..handles {
                let file = File::open(self.rig.path(&name)).unwrap();
                self.handles.push(Handle { name: name.clone(), file, content: bytes.clone(), at: 0 });
            }
        }
        self.arm();
        for _ in 0..BATCH {
            let number = self.random.usize(0..self.handles.len());
            self.read(number);
        }
        self.rig.bucket.faults().clear();
        for (kind, fault) in self.armed.drain(..) {
            self.kinds[kind].struck += fault.struck();
        }
        self.handles.clear();
    }

    /// Arms the faults that have struck least.
    fn arm(&mut self) {
        let mut order: Vec<usize> = (0..self.kinds.len()).collect();
        self.random.shuffle(&mut order);
        order.sort_by_key(|&kind| self.kinds[kind].struck);
        for kind in order.into_iter().take(FAULTS_A_BATCH) {
            let rule = (self.kinds[kind].rule)(&mut self.random);
            let times = rule.times.unwrap_or_else(|| self.random.u64(1..=2));
            let rule = rule.skip(self.random.u64(0..4)).times(times);
            let fault = self.rig.bucket.faults().add(rule);
            self.armed.push((kind, fault));
        }
    }

    fn what(&self, name: &str) -> String {
        let armed: Vec<&str> = self.armed.iter().map(|&(kind, _)| self.kinds[kind].name).collect();
        format!("{name} in batch {} under {armed:?}", self.batch)
    }

    fn read(&mut self, number: usize) {
        let what = self.what(&self.handles[number].name);
        let (random, handle) = (&mut self.random, &mut self.handles[number]);
        let size = handle.content.len();
        if random.bool() {
            handle.at = random.usize(0..=size);
        }
        if random.u8(..) < 30 {
            forget_pages(&handle.file);
        }
        if random.u8(..) < 20 {
            let listed =
                fs::read_dir(self.rig.mountpoint()).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(listed.count() >= OBJECTS.len(), "{what}: names are missing");
        }
        let wanted = random.usize(1..=READ_BYTES_MAX);
        let end = (handle.at + wanted).min(size);
        let mut seen = vec![0; wanted];
        let mut filled = 0;
        while filled < wanted {
            match handle.file.read_at(&mut seen[filled..], (handle.at + filled) as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return self.open_anew(number),
                Err(error) => panic!("{what}: {wanted} bytes at {}: {error}", handle.at),
            }
        }
        expect_same(&what, handle.at as u64, &seen[..filled], &handle.content[handle.at..end]);
        handle.at = end;
    }

    /// The version that a handle had is gone, or was said to be: the next open must have the one that is there.
    fn open_anew(&mut self, number: usize) {
        let struck = |(kind, fault): &(usize, FaultHandle)| {
            self.kinds[*kind].claim == Claim::Another && fault.struck() > 0
        };
        let what = self.what(&self.handles[number].name);
        assert!(self.armed.iter().any(struck), "{what}: stale, but never replaced");
        let handle = &mut self.handles[number];
        handle.file = File::open(self.rig.path(&handle.name)).unwrap();
        handle.content = self.rig.bucket.read(&handle.name);
        handle.at = 0;
    }
}
