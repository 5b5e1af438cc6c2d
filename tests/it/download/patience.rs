//! Servers that are slow, that drip, and that say nothing at all: how long a read waits, and what it does not hold up.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tetherfs::bucket::{Action, Operation, Rule, Side};

use super::{KIB, MIB, expect_at, expect_file};
use crate::support::{Rig, expect_same, pattern, wait_for};

/// Longer than any test.
const FOR_EVER_MS: u64 = 600_000;
const READ_TIMEOUT: Duration = Duration::from_secs(3);
const OPTIONS: [&str; 3] = ["--read-timeout=3s", "--stall-timeout=1s", "--metadata-ttl=10m"];
/// The kernel asks twice, ahead of the program and for the page; and a machine may be busy.
const IN_TIME: Duration = Duration::from_secs(8);

/// Reads from a file whose server is `slow` while another is read, and from both when it is not slow any more.
fn fails_in_time_and_holds_up_nobody(slow: Action) {
    let rig = Rig::mounted(&OPTIONS);
    let (stuck, free) = (pattern(1, 2 * MIB), pattern(2, 6 * MIB));
    rig.bucket.put_quietly("stuck", &stuck);
    rig.bucket.put_quietly("free", &free);
    let file = File::open(rig.path("stuck")).unwrap();
    let other = File::open(rig.path("free")).unwrap();
    let fault = rig.bucket.faults().add(Rule::on(Operation::GetObject, slow).key("stuck"));
    // Not joined when it is late: the end of the mount ends it.
    let place = file.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let start = Instant::now();
        let error = place.read_at(&mut [0; 4096], MIB as u64 + 5).unwrap_err();
        (error, start.elapsed())
    });
    wait_for("the read is stuck", READ_TIMEOUT, || fault.struck() > 0);
    let start = Instant::now();
    expect_at("meanwhile", &other, 0, &free);
    assert_eq!(std::fs::metadata(rig.path("free")).unwrap().len(), free.len() as u64);
    assert!(start.elapsed() < Duration::from_secs(2), "held up for {:?}", start.elapsed());
    wait_for("the read has failed", IN_TIME, || reader.is_finished());
    let (error, took) = reader.join().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
    assert!(took > READ_TIMEOUT - Duration::from_millis(500) && took < IN_TIME, "{took:?}");
    rig.bucket.faults().clear();
    wait_for("it can be read again", IN_TIME, || file.read_at(&mut [0; 10], 0).is_ok());
    expect_at("again", &file, 0, &stuck);
}

#[test]
fn a_server_that_never_answers_fails_the_read_in_time() {
    fails_in_time_and_holds_up_nobody(Action::Delay { ms: FOR_EVER_MS });
}

#[test]
fn a_body_that_stands_still_fails_the_read_in_time() {
    fails_in_time_and_holds_up_nobody(Action::Stall { side: Side::Answer, after: 0, ms: FOR_EVER_MS });
}

#[test]
fn a_body_that_drips_fails_the_read_in_time() {
    // More often than a request may be silent, and far too slowly to get anywhere.
    fails_in_time_and_holds_up_nobody(Action::Bandwidth { bytes_per_s: 4 });
}

#[test]
fn a_server_that_resets_every_connection_fails_the_read_in_time() {
    fails_in_time_and_holds_up_nobody(Action::Reset);
}

#[test]
fn a_slow_server_that_goes_on_is_waited_for_however_long_it_takes() {
    let rig = Rig::mounted(&OPTIONS);
    let bytes = pattern(3, 900 * KIB);
    rig.bucket.put_quietly("slow", &bytes);
    rig.bucket.requests().reset();
    rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Bandwidth { bytes_per_s: 100 << 10 }));
    let start = Instant::now();
    expect_file(&rig, "slow", &bytes);
    assert!(start.elapsed() > 2 * READ_TIMEOUT, "{:?}: not slow", start.elapsed());
    let asked = rig.bucket.asked();
    assert_eq!((asked.gets, asked.sent), (1, bytes.len() as u64), "one request, never given up: {asked:?}");
}

#[test]
fn a_body_that_stalls_now_and_then_loses_no_byte() {
    let rig = Rig::mounted(&OPTIONS);
    let bytes = pattern(4, MIB);
    rig.bucket.put_quietly("stalls", &bytes);
    rig.bucket.requests().reset();
    let stall = Action::Stall { side: Side::Answer, after: 200_000, ms: FOR_EVER_MS };
    let fault = rig.bucket.faults().add(Rule::on(Operation::GetObject, stall));
    expect_file(&rig, "stalls", &bytes);
    let asked = rig.bucket.asked();
    assert_eq!(asked.sent, bytes.len() as u64, "what came before each stall is kept: {asked:?}");
    assert!(fault.struck() >= 5, "{}", fault.struck());
}

#[test]
fn a_program_stuck_in_a_read_can_be_killed() {
    let mut rig = Rig::mounted(&["--metadata-ttl=10m"]);
    let bytes = pattern(5, MIB);
    rig.bucket.put_quietly("stuck", &bytes);
    let fault =
        rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Delay { ms: FOR_EVER_MS }).times(1));
    let mut cat = Command::new("cat")
        .arg(rig.path("stuck"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("cat is stuck", IN_TIME, || fault.struck() > 0);
    cat.kill().unwrap();
    wait_for("cat is gone", Duration::from_secs(3), || cat.try_wait().unwrap().is_some());
    rig.bucket.faults().clear();
    rig.unmount();
}

#[test]
fn a_server_that_comes_back_within_the_time_is_not_noticed() {
    let rig = Rig::mounted(&["--read-timeout=20s", "--metadata-ttl=10m"]);
    let bytes = pattern(6, 3 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    let file = File::open(rig.path("f")).unwrap();
    let down = Action::Status { code: 500, error: None, retry_after_s: None };
    let fault = rig.bucket.faults().add(Rule::always(down));
    std::thread::scope(|threads| {
        let reader = threads.spawn(|| {
            let mut seen = vec![0; bytes.len()];
            file.read_exact_at(&mut seen, 0).map(|()| seen)
        });
        std::thread::sleep(READ_TIMEOUT);
        rig.bucket.faults().clear();
        let seen = reader.join().unwrap().unwrap();
        expect_same("after the outage", 0, &seen, &bytes);
    });
    // Waits between requests grow: an outage of three seconds is no storm.
    assert!((2..=20).contains(&fault.struck()), "{} requests", fault.struck());
}
