//! What the operator sees and asks: a daemon that is stopped, one that is being unmounted twice, one that belongs to
//! another user, and one whose server is in trouble.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use tetherfs::bucket::{Action, Operation, Rule};

use crate::support::{Rig, run, run_ok, wait_for};

fn refuse(code: u16) -> Action {
    Action::Status { code, error: None, retry_after_s: None }
}

fn signal(pid: &str, name: &str) {
    run_ok(Command::new("kill").args(["-s", name, pid]));
}

#[test]
fn a_daemon_that_does_not_answer_is_shown_and_keeps_nobody_waiting() {
    let rig = Rig::mounted(&[]);
    let pid = rig.status()["pid"].to_string();
    signal(&pid, "STOP");
    let start = Instant::now();
    let ran = rig.tetherfs(&["status"]);
    let took = start.elapsed();
    signal(&pid, "CONT");
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains(rig.mountpoint().to_str().unwrap()), "{}", ran.out);
    assert!(ran.out.contains("does not answer"), "{}", ran.out);
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn two_who_unmount_at_once_are_both_told_what_happened() {
    let rig = Rig::mounted(&["--commit=background"]);
    rig.bucket.faults().add(Rule::on(Operation::PutObject, Action::Delay { ms: 1500 }));
    fs::write(rig.path("slow"), "data").unwrap();
    let mountpoint = rig.mountpoint().to_str().unwrap().to_owned();
    let (one, other) = std::thread::scope(|scope| {
        let unmount = || rig.tetherfs(&["unmount", &mountpoint]);
        let (one, other) = (scope.spawn(unmount), scope.spawn(unmount));
        (one.join().unwrap(), other.join().unwrap())
    });
    for ran in [&one, &other] {
        let is_told = ran.code == Some(0) && ran.err.contains("everything is in the bucket")
            || ran.code == Some(4)
                && (ran.err.contains("meanwhile") || ran.err.contains("no tetherfs is mounted"));
        assert!(is_told, "{:?} {}{}", ran.code, ran.out, ran.err);
    }
    assert!(one.code == Some(0) || other.code == Some(0), "{one:?} {other:?}");
    assert_eq!(rig.bucket.get("slow").as_deref(), Some(&b"data"[..]));
    assert!(!rig.is_mounted());
}

#[test]
fn a_mount_of_another_user_is_not_called_absent() {
    let rig = Rig::mounted(&[]);
    let mountpoint = rig.mountpoint();
    // Strangers must reach the mountpoint and the program.
    fs::set_permissions(rig.home(), fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    command.arg(env!("CARGO_BIN_EXE_tetherfs")).arg("status").arg(&mountpoint);
    let ran = run(command.env("HOME", "/nonexistent").env("XDG_RUNTIME_DIR", "/nonexistent"));
    assert_eq!(ran.code, Some(4), "{}{}", ran.out, ran.err);
    assert!(ran.err.contains("does not answer to this user"), "{}", ran.err);
}

#[test]
fn a_server_that_refuses_each_question_a_few_times_can_be_mounted_with_all_its_abilities() {
    let rig_of = |rules: &[Rule]| {
        let rig = Rig::new();
        rules.iter().for_each(|rule| drop(rig.bucket.faults().add(rule.clone())));
        rig
    };
    let dialect = |rig: &Rig| {
        let log = rig.log();
        let line = log.lines().find(|line| line.contains("Dialect {")).expect("the dialect is logged");
        line[line.find("Dialect {").unwrap()..].to_owned()
    };
    let mut healthy = rig_of(&[]);
    healthy.mount(&[]);
    let four = |operation| Rule::on(operation, refuse(503)).times(4);
    let operations = [
        Operation::PutObject,
        Operation::CompleteMultipartUpload,
        Operation::UploadPartCopy,
        Operation::GetObject,
    ];
    let mut shaky = rig_of(&operations.map(four));
    shaky.mount(&[]);
    assert_eq!(dialect(&shaky), dialect(&healthy));
}

#[test]
fn as_many_files_can_be_open_as_the_system_allows() {
    let rig = Rig::new();
    let tetherfs = rig.command();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -S -n 256; exec \"$@\"", "sh"]).arg(tetherfs.get_program()).arg("mount");
    limited.args(rig.mount_arguments()).env_clear();
    limited.envs(tetherfs.get_envs().filter_map(|(name, value)| Some((name, value?))));
    run_ok(&mut limited);
    let limits = fs::read_to_string(format!("/proc/{}/limits", rig.status()["pid"])).unwrap();
    run_ok(rig.command().arg("unmount").arg(rig.mountpoint()));
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_ne!(numbers[0], "256", "{line}");
    assert_eq!(numbers[0], numbers[1], "{line}");
}

#[test]
fn while_the_server_refuses_the_status_tells_the_last_error() {
    let rig = Rig::mounted(&["--commit=background"]);
    rig.bucket.faults().add(Rule::on(Operation::PutObject, refuse(503)));
    fs::write(rig.path("file"), "data").unwrap();
    // Well before the attempts of one request are used up.
    wait_for("the error is shown", Duration::from_secs(2), || {
        rig.status()["sessions"][0]["last_error"].as_str().is_some_and(|error| error.contains("503"))
    });
    rig.bucket.faults().clear();
    wait_for("it is uploaded", Duration::from_secs(60), || rig.bucket.get("file").is_some());
}
