//! Every fault in the direction of writing that a server, a line or a proxy was seen to have, on every request that a
//! change is made of: no program is told of any, and each content becomes an object once.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::Duration;

use fastrand::Rng;
use tetherfs::bucket::{Action, Operation, Quirks, Rule, Side};

use super::{LIMIT, MIB, close, expect_object, open, settle, write};
use crate::support::{Bucket, Rig, expect_same, pattern, seed, wait_for};

const KIB: usize = 1 << 10;
/// Most bytes of a change that meets silence.
const BYTES_IN_SILENCE: usize = 10 * KIB;
const FOR_EVER_MS: u64 = 600_000;
/// Longest that an echo is held up.
const ECHO_MS_MAX: u64 = 400;
/// What a change may be of, beside the content.
const CONTENT: [Operation; 2] = [Operation::PutObject, Operation::CompleteMultipartUpload];
/// Files that come and go.
const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// The file that is large enough for its unchanged parts to be copied.
const LARGE: &str = "large";

/// A kind of fault: its name and how it is made.
type Kind = (&'static str, fn(&mut Rng) -> Action);

/// A fault and the request that it meets.
struct Fault {
    name: &'static str,
    on: Operation,
    action: fn(&mut Rng) -> Action,
}

impl Fault {
    /// Whether it is only found out by waiting, for longer where more bytes may be on their way.
    fn is_silence(&self) -> bool {
        ["no answer", "stalled while receiving"].contains(&self.name)
    }

    /// Whether the request is done and the client does not hear of it, or hears of something else.
    fn is_unheard(&self) -> bool {
        ["twice", "echo", "lost answer"].contains(&self.name)
    }

    /// Something that a program does and that makes the request.
    fn step(&self, random: &mut Rng) -> Step {
        let steps: &[Step] = match self.on {
            Operation::PutObject => &[Step::Small],
            Operation::CopyObject => &[Step::Rename, Step::Chmod],
            Operation::DeleteObject => &[Step::Rename, Step::Remove],
            Operation::UploadPartCopy => &[Step::Append, Step::Overwrite],
            Operation::AbortMultipartUpload => &[Step::Abandon],
            Operation::HeadObject => &[Step::Append],
            _ if self.is_silence() => &[Step::Append],
            _ => &[Step::Parts, Step::Append, Step::Overwrite],
        };
        *random.choice(steps).unwrap()
    }
}

fn status(code: u16, retry_after_s: Option<u64>) -> Action {
    Action::Status { code, error: None, retry_after_s }
}

/// A place in a body, with a liking for its beginning.
fn place(random: &mut Rng) -> u64 {
    *random.choice(&[0, 1, random.clone().u64(2..40_000)]).unwrap()
}

fn faults() -> Vec<Fault> {
    use Operation::{
        AbortMultipartUpload, CompleteMultipartUpload, CopyObject, CreateMultipartUpload, DeleteObject,
        HeadObject, PutObject, UploadPart, UploadPartCopy,
    };
    let changes = [
        PutObject,
        CreateMultipartUpload,
        UploadPart,
        UploadPartCopy,
        CompleteMultipartUpload,
        CopyObject,
        DeleteObject,
    ];
    let everywhere: [Kind; 8] = [
        ("500", |_| status(500, None)),
        ("503", |_| status(503, None)),
        ("reset", |_| Action::Reset),
        ("no answer", |_| Action::Delay { ms: FOR_EVER_MS }),
        ("late answer", |_| Action::Delay { ms: 150 }),
        ("lost answer", |_| Action::LoseAnswer),
        ("twice", |_| Action::Twice),
        ("echo", |random| Action::Echo { ms: random.u64(1..ECHO_MS_MAX) }),
    ];
    let bodies: [Kind; 5] = [
        ("cut while receiving", |random| Action::Cut { side: Side::Request, after: place(random) }),
        ("stalled while receiving", |random| Action::Stall {
            side: Side::Request,
            after: place(random),
            ms: FOR_EVER_MS,
        }),
        ("a short stall", |random| Action::Stall { side: Side::Request, after: place(random), ms: 100 }),
        ("a flipped byte", |random| Action::Flip { side: Side::Request, at: place(random) }),
        ("a slow line", |_| Action::Bandwidth { bytes_per_s: 4 << 20 }),
    ];
    let mut faults = Vec::new();
    let mut add = |on, kinds: &[Kind]| {
        faults.extend(kinds.iter().map(|&(name, action)| Fault { name, on, action }));
    };
    changes.into_iter().for_each(|on| add(on, &everywhere));
    [PutObject, UploadPart].into_iter().for_each(|on| add(on, &bodies));
    add(PutObject, &[("503 with Retry-After", |_| status(503, Some(1)))]);
    add(
        UploadPart,
        &[
            ("429 with Retry-After", |_| status(429, Some(1))),
            ("forgotten upload", |_| Action::ForgetUpload),
            ("a spoilt part", |random| Action::SpoilPart { at: random.u64(..10) }),
        ],
    );
    for on in [CompleteMultipartUpload, CopyObject] {
        add(on, &[("an error in a success", |_| Action::ErrorIn200 { error: "InternalError".to_owned() })]);
    }
    add(CompleteMultipartUpload, &[("forgotten upload", |_| Action::ForgetUpload)]);
    add(UploadPartCopy, &[("forgotten upload", |_| Action::ForgetUpload)]);
    add(HeadObject, &[("504", |_| status(504, None)), ("lost answer", |_| Action::LoseAnswer)]);
    add(AbortMultipartUpload, &[("lost answer", |_| Action::LoseAnswer), ("twice", |_| Action::Twice)]);
    faults
}

/// What a program does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Writes a small file anew.
    Small,
    /// Writes a file of several parts anew.
    Parts,
    /// Appends to the large file.
    Append,
    /// Changes bytes in the large file.
    Overwrite,
    /// Moves a small file over another name.
    Rename,
    /// Removes a small file.
    Remove,
    /// Changes the mode of a file.
    Chmod,
    /// Removes a file whose upload has begun, while it is being written.
    Abandon,
}

struct Run {
    rig: Rig,
    random: Rng,
    /// What must be in the bucket.
    model: BTreeMap<String, Vec<u8>>,
    what: String,
    /// Most bytes of a small change.
    bytes_max: usize,
}

#[test]
fn every_fault_on_every_request() {
    let random = Rng::with_seed(seed());
    let rig = Rig::mounted(&["--stall-timeout=300ms", "--part-size=5MiB", "--metadata-ttl=0"]);
    let mut run = Run { rig, random, model: BTreeMap::new(), what: String::new(), bytes_max: 0 };
    run.what = "before any fault".to_owned();
    run.write(LARGE, 11 * MIB);
    let mut faults = faults();
    run.random.shuffle(&mut faults);
    let mut begun_unheard = 0;
    for fault in &faults {
        let step = fault.step(&mut run.random);
        run.bytes_max = if fault.is_silence() { BYTES_IN_SILENCE } else { 100 * KIB };
        run.prepare(step);
        run.what = format!("{} on {}, {step:?}", fault.name, fault.on);
        let skip =
            if fault.on == Operation::UploadPart && step == Step::Parts { run.random.u64(0..2) } else { 0 };
        let times = if fault.is_unheard() { 1 } else { run.random.u64(1..=2) };
        let rule = Rule::on(fault.on, (fault.action)(&mut run.random)).skip(skip).times(times);
        let armed = run.rig.bucket.faults().add(rule);
        run.step(step);
        settle(&run.rig);
        assert!(armed.struck() > 0, "{}: has not happened", run.what);
        run.rig.bucket.faults().clear();
        run.compare();
        // Nobody has heard of such an upload: it cannot be given up.
        let is_begin = fault.on == Operation::CreateMultipartUpload;
        begun_unheard += usize::from(is_begin && fault.is_unheard());
    }
    std::thread::sleep(Duration::from_millis(2 * ECHO_MS_MAX));
    run.what = "at the end".to_owned();
    run.compare();
    assert!(run.rig.bucket.pending_uploads() <= begun_unheard, "uploads are left behind");
    run.rig.unmount();
}

#[test]
fn what_is_damaged_on_its_way_to_a_server_without_crc_64_is_sent_again() {
    let bucket = Bucket::with(Quirks { knows_no_crc64nvme: true, ..Quirks::default() });
    let mut rig = Rig::over(bucket);
    rig.mount(&["--part-size=5MiB"]);
    for (on, bytes) in [(Operation::PutObject, 100_000), (Operation::UploadPart, 11 * MIB)] {
        let flip = Rule::on(on, Action::Flip { side: Side::Request, at: 50_000 }).times(2);
        let flip = rig.bucket.faults().add(flip);
        let content = pattern(1, bytes);
        write(&rig, "f", &content).unwrap();
        assert_eq!(flip.struck(), 2, "{on}");
        expect_object(&rig, "f", &content);
    }
    rig.unmount();
}

impl Run {
    /// Without faults, so that the step has something to work on.
    fn prepare(&mut self, step: Step) {
        let small: Vec<String> = self.model.keys().filter(|name| *name != LARGE).cloned().collect();
        if [Step::Rename, Step::Remove, Step::Chmod].contains(&step) && small.len() < 2 {
            self.what = format!("before {step:?}");
            for name in ["a", "b", "c"] {
                self.write(name, 1000);
            }
        }
    }

    fn step(&mut self, step: Step) {
        self.rig.bucket.requests().reset();
        match step {
            Step::Small => {
                let (name, bytes) = (self.any_name(), self.random.usize(0..self.bytes_max));
                self.write(&name, bytes);
            }
            Step::Parts => {
                let (name, bytes) = (self.any_name(), self.random.usize(10 * MIB..12 * MIB));
                self.write(&name, bytes);
            }
            Step::Append => {
                let bytes = self.random.usize(1..self.bytes_max);
                let at = self.model[LARGE].len();
                self.change(at, bytes);
            }
            Step::Overwrite => {
                let at = self.random.usize(0..self.model[LARGE].len());
                self.change(at, 10_000);
            }
            Step::Rename => {
                let from = self.small();
                let others: Vec<&str> = NAMES.into_iter().filter(|name| *name != from).collect();
                let to = (*self.random.choice(&others).unwrap()).to_owned();
                fs::rename(self.rig.path(&from), self.rig.path(&to)).unwrap_or_else(|e| self.failed(&e));
                let moved = self.model.remove(&from).unwrap();
                self.model.insert(to.clone(), moved);
                self.made_once(&to, &[Operation::CopyObject]);
            }
            Step::Remove => {
                let name = self.small();
                fs::remove_file(self.rig.path(&name)).unwrap_or_else(|e| self.failed(&e));
                self.model.remove(&name);
            }
            Step::Chmod => {
                let name = self.small();
                let now = fs::metadata(self.rig.path(&name)).unwrap().permissions().mode() & 0o777;
                let mode = if now == 0o600 { 0o644 } else { 0o600 };
                let changed = fs::set_permissions(self.rig.path(&name), Permissions::from_mode(mode));
                changed.unwrap_or_else(|e| self.failed(&e));
                let line = format!("x-amz-meta-mode: {}", 0o100_000 | mode);
                wait_for(&self.what, LIMIT, || self.rig.bucket.head(&name).contains(&line));
            }
            Step::Abandon => {
                let file = File::create(self.rig.path("abandoned")).unwrap();
                file.write_all_at(&pattern(self.random.u64(..), 12 * MIB), 0).unwrap();
                let begun = || self.rig.bucket.done(Operation::UploadPart, "abandoned") > 0;
                wait_for("its upload has begun", LIMIT, begun);
                fs::remove_file(self.rig.path("abandoned")).unwrap_or_else(|e| self.failed(&e));
            }
        }
    }

    /// Any small file's name, taken or not.
    fn any_name(&mut self) -> String {
        self.random.choice(NAMES).unwrap().to_owned()
    }

    /// A small file that is there.
    fn small(&mut self) -> String {
        let names: Vec<&String> = self.model.keys().filter(|name| *name != LARGE).collect();
        (*self.random.choice(&names).unwrap()).clone()
    }

    fn write(&mut self, name: &str, bytes: usize) {
        let content = pattern(self.random.u64(..), bytes);
        self.rig.bucket.requests().reset();
        write(&self.rig, name, &content).unwrap_or_else(|error| self.failed(&error));
        self.model.insert(name.to_owned(), content);
        self.made_once(name, &CONTENT);
    }

    fn change(&mut self, at: usize, bytes: usize) {
        let new = pattern(self.random.u64(..), bytes);
        let file = open(&self.rig, LARGE);
        file.write_all_at(&new, at as u64).unwrap_or_else(|error| self.failed(&error));
        close(file).unwrap_or_else(|error| self.failed(&error));
        let content = self.model.get_mut(LARGE).unwrap();
        content.resize(content.len().max(at + bytes), 0);
        content[at..at + bytes].copy_from_slice(&new);
        self.made_once(LARGE, &CONTENT);
    }

    /// In this mode the object is there when the call returns.
    fn made_once(&self, name: &str, by: &[Operation]) {
        expect_object(&self.rig, name, &self.model[name]);
        assert_eq!(self.rig.bucket.made(name, by), 1, "{}: {name} was to be made once", self.what);
    }

    fn failed<T>(&self, error: &std::io::Error) -> T {
        panic!("{}: {error}", self.what)
    }

    fn compare(&self) {
        let keys: Vec<&String> = self.model.keys().collect();
        assert_eq!(self.rig.bucket.all_keys().iter().collect::<Vec<_>>(), keys, "{}", self.what);
        for (name, content) in &self.model {
            expect_object(&self.rig, name, content);
            let (len, seen) = (content.len().min(100), File::open(self.rig.path(name)).unwrap());
            let mut end = vec![0; len];
            let at = (content.len() - len) as u64;
            seen.read_exact_at(&mut end, at).unwrap_or_else(|error| self.failed(&error));
            expect_same(&self.what, at, &end, &content[at as usize..]);
        }
    }
}
