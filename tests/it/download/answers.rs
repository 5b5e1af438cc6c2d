//! Answers that are not what was asked for: looked at before they are believed, and never kept when they are wrong.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use tetherfs::bucket::{Action, Operation, Quirks, Rule, Side};

use super::{CHUNK, KIB, MIB, expect_at, expect_file, settle};
use crate::support::{Bucket, Rig, expect_same, forget_pages, pattern};

const SIZE: usize = 3 * MIB;
/// In the second chunk, so that the range asked for does not begin at 0.
const AT: usize = CHUNK + 70_000;
const READ_TIMEOUT: Duration = Duration::from_secs(2);

fn header(name: &str, value: Option<&str>) -> Action {
    Action::Header { name: name.to_owned(), value: value.map(str::to_owned) }
}

/// Answers of which a part or all may be used, if it is looked at what they are.
pub(super) fn lies() -> Vec<(&'static str, Action)> {
    vec![
        ("another start", header("content-range", Some(&format!("bytes 0-{}/{SIZE}", CHUNK - 1)))),
        ("a start a little off", {
            let text = format!("bytes {}-{}/{SIZE}", CHUNK + 1, 2 * CHUNK);
            header("content-range", Some(&text))
        }),
        ("a start behind the end", header("content-range", Some("bytes 9-5/3145728"))),
        ("another total", {
            let text = format!("bytes {CHUNK}-{}/{}", 2 * CHUNK - 1, SIZE + 1);
            header("content-range", Some(&text))
        }),
        ("a range of nothing", header("content-range", Some("bytes */3145728"))),
        ("no sense", header("content-range", Some("pages 1-2/3"))),
        ("206 without Content-Range", header("content-range", None)),
        ("another etag", header("etag", Some("\"00000000000000000000000000000000\""))),
        ("a weak etag", header("etag", Some("W/\"00000000000000000000000000000000\""))),
        ("the whole in place of a range", Action::IgnoreRange),
        ("an error as 200", Action::ErrorIn200 { error: "InternalError".to_owned() }),
    ]
}

fn mounted() -> Rig {
    Rig::mounted(&["--read-timeout=2s", "--stall-timeout=500ms", "--metadata-ttl=0", "--request-size=1MiB"])
}

/// Reads 100 KiB where the range that is asked for does not begin at 0. Whatever comes is right.
fn right_or_error(what: &str, file: &File, bytes: &[u8]) -> Result<(), std::io::Error> {
    let mut seen = vec![0; 100 * KIB];
    file.read_exact_at(&mut seen, AT as u64)?;
    expect_same(what, AT as u64, &seen, &bytes[AT..AT + seen.len()]);
    Ok(())
}

#[test]
fn an_answer_that_is_wrong_once_is_never_served_and_never_kept() {
    let rig = mounted();
    for (number, (what, lie)) in lies().into_iter().enumerate() {
        let (name, bytes) = (format!("once-{number}"), pattern(number as u64, SIZE));
        rig.bucket.put_quietly(&name, &bytes);
        let file = File::open(rig.path(&name)).unwrap();
        let fault = rig.bucket.faults().add(Rule::on(Operation::GetObject, lie).times(1));
        let outcome = right_or_error(what, &file, &bytes);
        assert_eq!(fault.struck(), 1, "{what}");
        eprintln!("{what}, once: {outcome:?}");
        rig.bucket.faults().clear();
        drop(file);
        expect_file(&rig, &name, &bytes);
        let file = File::open(rig.path(&name)).unwrap();
        forget_pages(&file);
        expect_at(what, &file, 0, &bytes);
    }
}

#[test]
fn answers_that_are_always_wrong_fail_the_read_in_time() {
    let rig = mounted();
    for (number, (what, lie)) in lies().into_iter().enumerate() {
        let (name, bytes) = (format!("always-{number}"), pattern(number as u64, SIZE));
        rig.bucket.put_quietly(&name, &bytes);
        let file = File::open(rig.path(&name)).unwrap();
        rig.bucket.faults().add(Rule::on(Operation::GetObject, lie));
        let start = Instant::now();
        let outcome = right_or_error(what, &file, &bytes);
        let took = start.elapsed();
        eprintln!("{what}, always: {outcome:?} after {took:?}");
        // The kernel asks twice: ahead of the program, and for the page.
        assert!(took < 2 * READ_TIMEOUT + Duration::from_secs(1), "{what}: {took:?}");
        rig.bucket.faults().clear();
        drop(file);
        expect_file(&rig, &name, &bytes);
    }
}

#[test]
fn an_answer_that_ends_early_in_order_is_not_the_end() {
    let rig = mounted();
    let bytes = pattern(1, 900 * KIB);
    for (number, to) in [1, 4096, 99_999].into_iter().enumerate() {
        let name = format!("short-{number}");
        rig.bucket.put_quietly(&name, &bytes);
        rig.bucket.requests().reset();
        let fault = rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Shorten { to }).times(2));
        expect_file(&rig, &name, &bytes);
        assert_eq!(fault.struck(), 2);
        rig.bucket.faults().clear();
        settle();
        let asked = rig.bucket.asked();
        assert_eq!(asked.gets, 3, "ended at {to}: {asked:?}");
        assert!(asked.sent <= bytes.len() as u64 + 2 * to, "ended at {to}: {asked:?}");
    }
}

#[test]
fn what_an_answer_brought_before_it_ended_early_in_order_is_kept() {
    let rig = mounted();
    let bytes = pattern(5, 900 * KIB);
    rig.bucket.put_quietly("short", &bytes);
    let fault = rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Shorten { to: 200_000 }));
    rig.bucket.requests().reset();
    expect_file(&rig, "short", &bytes);
    settle();
    let asked = rig.bucket.asked();
    assert_eq!((fault.struck(), asked.sent), (5, bytes.len() as u64), "{asked:?}");
}

#[test]
fn every_request_broken_off_goes_on_from_its_last_good_byte() {
    let rig = mounted();
    let bytes = pattern(2, 4 * MIB + 5);
    rig.bucket.put_quietly("f", &bytes);
    let after = 100_000;
    let fault =
        rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Cut { side: Side::Answer, after }));
    rig.bucket.requests().reset();
    expect_file(&rig, "f", &bytes);
    settle();
    let asked = rig.bucket.asked();
    assert_eq!(asked.sent, bytes.len() as u64, "no byte twice: {asked:?}");
    // At least one request for each 100,000 bytes, and one more for each that ended of itself.
    assert!(fault.struck() >= 42 && asked.gets <= 42 + 16, "{asked:?}");
    let pinned = rig.bucket.requests().recent();
    assert!(pinned.iter().filter(|r| r.operation == Operation::GetObject).all(|r| r.range.is_some()));
}

#[test]
fn ranges_answered_with_200_are_as_good_as_206() {
    let quirks = Quirks { answers_range_with_200: true, ..Quirks::default() };
    let rig = {
        let mut rig = Rig::over(Bucket::with(quirks));
        rig.mount(&["--request-size=1MiB"]);
        rig
    };
    let bytes = pattern(3, 20 * MIB);
    rig.bucket.put_quietly("f", &bytes);
    rig.bucket.requests().reset();
    let file = File::open(rig.path("f")).unwrap();
    expect_at("middle", &file, 9 * MIB, &bytes[9 * MIB..10 * MIB]);
    rig.bucket.faults().add(
        Rule::on(Operation::GetObject, Action::Cut { side: Side::Answer, after: 300_000 }).skip(2).times(2),
    );
    expect_at("all", &file, 0, &bytes);
    settle();
    assert_eq!(rig.bucket.asked().sent, bytes.len() as u64);
}

#[test]
fn refusals_are_waited_out_for_as_long_as_the_server_asks() {
    let rig = Rig::mounted(&["--read-timeout=20s"]);
    let bytes = pattern(4, 200 * KIB);
    for (name, code) in [("slow-down", 503), ("too-many", 429)] {
        rig.bucket.put_quietly(name, &bytes);
        let file = File::open(rig.path(name)).unwrap();
        let refused = Action::Status { code, error: None, retry_after_s: Some(2) };
        rig.bucket.faults().add(Rule::on(Operation::GetObject, refused).times(1));
        rig.bucket.requests().reset();
        let start = Instant::now();
        expect_at(name, &file, 0, &bytes);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1900) && took < Duration::from_secs(4), "{code}: {took:?}");
        assert_eq!(rig.bucket.asked().gets, 2, "{code}: one refused, one answered");
        rig.bucket.faults().clear();
    }
}
