//! Reading through a real mount from servers and disks that misbehave.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use tetherfs::bucket::{Action, Operation, Rule, Side};

use crate::support::{Rig, pattern, run_ok, sha256};

const MIB: usize = 1 << 20;

#[test]
fn a_read_under_a_dead_server_fails_after_one_time_out_and_works_again_after_it() {
    let rig = Rig::mounted(&["--read-timeout=3s"]);
    let bytes = pattern(20, 3 * MIB);
    rig.bucket.put("data", &bytes);
    let file = fs::File::open(rig.path("data")).unwrap();
    rig.bucket
        .faults()
        .add(Rule::on(Operation::GetObject, Action::Status { code: 503, error: None, retry_after_s: None }));
    let start = Instant::now();
    let error = file.read_at(&mut [0; 4096], 0).unwrap_err();
    let took = start.elapsed();
    assert_eq!(error.raw_os_error(), Some(110), "ETIMEDOUT: {error}");
    // The kernel asks twice: ahead of the program, and again for the page when that has failed.
    assert!((Duration::from_secs(3)..Duration::from_secs(5)).contains(&took), "{took:?}");
    rig.bucket.faults().clear();
    std::thread::sleep(Duration::from_millis(300));
    let mut seen = vec![0; bytes.len()];
    file.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(sha256(&seen), sha256(&bytes));
}

#[test]
fn a_full_disk_under_the_cache_stops_neither_the_mount_nor_reads() {
    let mut rig = Rig::new();
    let disk = rig.home().join("disk");
    fs::create_dir(&disk).unwrap();
    run_ok(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&disk));
    let _ = fs::write(disk.join("filler"), vec![1; MIB]);
    let bytes = pattern(21, 5 * MIB);
    rig.bucket.put("data", &bytes);
    let cache = format!("--cache-dir={}", disk.join("cache").display());
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        rig.mount(&[&cache]);
        assert_eq!(sha256(&fs::read(rig.path("data")).unwrap()), sha256(&bytes));
        assert!(rig.log().contains("Nothing is cached"), "{}", rig.log());
        rig.unmount();
    }));
    run_ok(Command::new("umount").arg("--lazy").arg(&disk));
    outcome.unwrap();
}

#[test]
fn an_object_replaced_between_two_ranges_is_stale_and_never_mixed() {
    let rig = Rig::mounted(&["--request-size=1MiB", "--prefetch=1MiB", "--cache-size=0"]);
    let bytes = pattern(22, 24 * MIB);
    rig.bucket.put("data", &bytes);
    let file = fs::File::open(rig.path("data")).unwrap();
    rig.bucket.faults().add(Rule::on(Operation::GetObject, Action::Replace { text: None }).skip(2).times(1));
    rig.bucket.faults().add(
        Rule::on(Operation::GetObject, Action::Cut { side: Side::Answer, after: 300_000 }).skip(1).times(2),
    );
    let mut at = 0;
    let failed = loop {
        let mut piece = vec![0; 100_000];
        match file.read_at(&mut piece, at as u64) {
            Ok(0) => panic!("read to the end of an object that was replaced"),
            Ok(read) => {
                assert!(piece[..read] == bytes[at..at + read], "other bytes at {at}");
                at += read;
            }
            Err(error) => break error,
        }
    };
    assert_eq!(failed.raw_os_error(), Some(116), "ESTALE: {failed}");
    let inverted: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
    std::thread::sleep(Duration::from_millis(1100));
    assert_eq!(
        sha256(&fs::read(rig.path("data")).unwrap()),
        sha256(&inverted),
        "the new one at the next open"
    );
}
