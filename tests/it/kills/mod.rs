//! The daemon is killed again and again while programs write, and what they were told is held against the bucket.
//!
//! A workload keeps, outside the mount, what it asked for and what was acknowledged ([`history::History`]). After each kill
//! the bucket may hold, under each name, what was acknowledged last or something asked for since, whole; after the next
//! mount has finished what was left, nothing else. A run in which no upload was under way at its kills proves nothing,
//! and fails.

mod history;
mod workload;

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tetherfs::bucket::{Action, Operation, Rule};

use crate::kills::history::{Content, History};
use crate::kills::workload::{Mode, Program};
use crate::support::{Rig, seed, sha256, wait_for};

/// Longest that a mount may take to finish what an earlier one left.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);
/// Bytes a part.
const PART: usize = 5 << 20;
/// Parts in flight, by default: what a kill may cost twice.
const PARTS_IN_FLIGHT: u64 = 8;
/// Programs that write at the same time, each in names of its own.
const PROGRAMS: usize = 3;

/// How one daemon's life ends.
enum End {
    /// After so many milliseconds of work.
    After(u64),
    /// Of itself, at a named point.
    At(String),
}

/// What a run has seen.
#[derive(Default)]
struct Seen {
    kills: usize,
    /// Kills that met an upload on its way.
    in_upload: usize,
    /// Uploads without a part at a kill. Those whose beginning was not written down yet are left behind.
    bare_uploads: usize,
}

struct Harness {
    rig: Rig,
    mode: Mode,
    random: fastrand::Rng,
    histories: Vec<History>,
    seen: Seen,
}

impl Harness {
    fn new(mode: Mode, seed: u64) -> Harness {
        let mut rig = Rig::new();
        rig.mount(&["--part-size=5M", mode.option(), "--close-timeout=20s"]);
        rig.unmount();
        for operation in [Operation::UploadPart, Operation::CompleteMultipartUpload, Operation::PutObject] {
            rig.bucket.faults().add(Rule::on(operation, Action::Delay { ms: 25 }));
        }
        rig.bucket.requests().reset();
        let random = fastrand::Rng::with_seed(seed);
        let histories = (0..PROGRAMS).map(|_| History::default()).collect();
        Harness { rig, mode, random, histories, seen: Seen::default() }
    }

    /// One life of a daemon: it is mounted, finishes what was left, is written through, and is killed.
    fn live(&mut self, end: &End) {
        match end {
            End::After(_) => self.rig.mount_again(),
            End::At(point) => self.rig.mount_killed_at(Some(point)),
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let (begun, in_upload) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        // Recovery may have met the point before there was a mount, and nobody writes into the directory below it.
        let has_mount = self.rig.is_mounted();
        let programs: Vec<_> = std::mem::take(&mut self.histories)
            .into_iter()
            .enumerate()
            .map(|(number, history)| {
                let program = Program {
                    directory: self.rig.mountpoint(),
                    number,
                    mode: self.mode,
                    history,
                    random: self.random.fork(),
                    is_over: Arc::clone(&is_over),
                    begun: Arc::clone(&begun),
                    in_upload: Arc::clone(&in_upload),
                };
                std::thread::spawn(move || if has_mount { program.run() } else { program.history })
            })
            .collect();
        match end {
            End::After(millis) => {
                let all = || begun.load(Ordering::SeqCst) == PROGRAMS;
                wait_for("all programs have begun", RECOVERY_LIMIT, all);
                std::thread::sleep(Duration::from_millis(*millis));
                // Looked at before, for a moment later nobody waits any more.
                let is_sending =
                    in_upload.load(Ordering::SeqCst) > 0 || self.rig.bucket.pending_uploads() > 0;
                self.rig.kill_leaving_mount();
                self.seen.in_upload += usize::from(is_sending);
            }
            End::At(_) => {
                self.rig.wait_for_death_leaving_mount();
                self.seen.in_upload += 1;
            }
        }
        is_over.store(true, Ordering::SeqCst);
        self.histories = programs.into_iter().map(|program| program.join().unwrap()).collect();
        self.seen.bare_uploads += self.rig.bucket.uploads_without_parts();
        // Only now, or they would go on in the directory below it.
        self.rig.clear_mount();
        self.seen.kills += 1;
        if self.mode != Mode::Background {
            self.compare("right after the kill", Moment::Killed);
        }
    }

    /// Mounts, waits until what was left is finished, and takes what the bucket has for the beginning of what follows.
    fn settle(&mut self) {
        self.rig.mount_again();
        self.wait_until_settled();
        self.compare("after recovery", Moment::Recovered);
        for (number, history) in self.histories.iter_mut().enumerate() {
            for (name, content) in history.restart(|name| self.rig.bucket.find(&workload::key(number, name)))
            {
                let shown = fs::read(self.rig.path(&workload::key(number, &name))).ok();
                assert!(
                    shown.as_ref() == content.as_deref(),
                    "{name} of {number}: the mount shows the bucket's"
                );
            }
        }
        self.rig.kill();
    }

    fn wait_until_settled(&self) {
        wait_for("what was left is in the bucket", RECOVERY_LIMIT, || {
            let status = self.rig.status();
            let sessions = status["sessions"].as_array();
            sessions.is_some_and(|sessions| sessions.iter().all(|session| session["state"] == "interrupted"))
        });
    }

    fn compare(&self, when: &str, moment: Moment) {
        for (number, history) in self.histories.iter().enumerate() {
            let look = |name: &str| self.rig.bucket.find(&workload::key(number, name));
            let wrong = match moment {
                Moment::Killed => history.wrong_after_kill(look),
                Moment::Recovered => history.wrong_after_recovery(look),
            };
            assert_eq!(wrong, Vec::<String>::new(), "{when}, program {number}\n{}", history.describe());
        }
    }

    /// What holds of the whole run, in the end.
    fn finish(mut self, least_in_upload: usize) {
        self.settle();
        // Through a cache that has seen nothing.
        fs::remove_dir_all(self.rig.home().join(".cache")).unwrap();
        self.rig.mount_again();
        for (number, history) in self.histories.iter().enumerate() {
            for (name, content) in history.names_and_contents() {
                let shown = fs::read(self.rig.path(&workload::key(number, name))).ok();
                assert_eq!(shown.map(|bytes| sha256(&bytes)), content.map(|bytes| sha256(bytes)), "{name}");
            }
        }
        self.discard_interrupted();
        self.rig.unmount();
        let keys = self.rig.bucket.keys();
        assert!(!keys.iter().any(|key| key.contains(".conflict-")), "nobody else wrote: {keys:?}");
        let Seen { kills, in_upload, bare_uploads } = self.seen;
        println!("{kills} kills, {in_upload} with an upload on its way");
        assert!(in_upload >= least_in_upload, "only {in_upload} of {kills} kills met an upload");
        // An upload that nobody's journal knows has no part: none is sent before the beginning is written down.
        let left = self.rig.bucket.pending_uploads();
        assert_eq!(self.rig.bucket.uploads_without_parts(), left, "parts are left behind");
        assert!(
            left <= bare_uploads,
            "{left} uploads are left behind, of {bare_uploads} that had just begun"
        );
        println!("{left} uploads are left behind, of {bare_uploads} that had just begun at a kill");
        let parts = self.rig.bucket.requests().count(Operation::UploadPart).requests;
        let needed: u64 = self.histories.iter().map(History::parts_asked_for).sum();
        let most = needed + kills as u64 * PARTS_IN_FLIGHT;
        assert!(parts <= most, "{parts} parts sent where {needed} were needed");
    }

    fn discard_interrupted(&self) {
        for session in self.rig.status()["sessions"].as_array().unwrap() {
            let id = format!("{:016x}", session["session"].as_u64().unwrap());
            assert_eq!(self.rig.tetherfs(&["uploads", "discard", "--yes", &id]).code, Some(0));
        }
    }
}

/// What is asked of the bucket's contents.
#[derive(Clone, Copy)]
enum Moment {
    Killed,
    Recovered,
}

/// Kills at random times, looking at what recovery has made of it after every few.
fn killed_at_random(mode: Mode, kills: usize) {
    let seed = seed();
    let mut harness = Harness::new(mode, seed);
    for number in 0..kills {
        let after = harness.random.u64(20..350);
        harness.live(&End::After(after));
        if number % 5 == 4 {
            harness.settle();
        }
    }
    harness.finish(kills / 4);
}

#[test]
fn at_random_times_with_commit_close() {
    killed_at_random(Mode::Close, 50);
}

#[test]
fn at_random_times_with_commit_background() {
    killed_at_random(Mode::Background, 50);
}

#[test]
fn at_random_times_with_commit_remote() {
    killed_at_random(Mode::Remote, 35);
}

#[test]
fn at_every_named_point_many_times() {
    let seed = seed();
    let points = [
        "after-seal",
        "before-begin",
        "after-begin-before-journal",
        "after-begin",
        "after-part-before-journal",
        "after-part",
        "before-complete",
        "after-complete-before-journal",
        "after-complete",
        "after-rename-intent",
        "after-rename-copy-before-journal",
        "after-rename-copy",
        "after-rename-delete",
    ];
    let mut harness = Harness::new(Mode::Close, seed);
    for round in 0..5 {
        for point in points {
            let passage = harness.random.u32(1..4);
            harness.live(&End::At(format!("{point}:{passage}")));
        }
        harness.settle();
        println!("round {round} of {}", points.len());
    }
    harness.finish(5 * points.len());
}

/// The bytes that a name has, for messages.
fn short(content: &Content) -> String {
    match content {
        None => "nothing".to_owned(),
        Some(bytes) => format!("{} bytes {:.8}", bytes.len(), sha256(bytes)),
    }
}
