//! Programs that inherit a descriptor and end: the file is uploaded when the one that opened it closes it, not before.

use std::fs;
use std::process::{Command, Stdio};

use tetherfs::bucket::Operation;

use crate::support::{Rig, run_ok};

#[test]
fn a_shell_with_its_output_in_a_file_uploads_it_once() {
    let rig = Rig::mounted(&[]);
    // Mounting has tried what the server can do.
    rig.bucket.requests().reset();
    let script =
        r#"{ echo one; ls / > /dev/null; /bin/echo two; sh -c 'echo three'; /bin/true; } > "$1/log""#;
    run_ok(Command::new("bash").args(["-c", script, "bash"]).arg(rig.mountpoint()));
    assert_eq!(rig.bucket.get("log").unwrap(), b"one\ntwo\nthree\n");
    assert_eq!(rig.bucket.count(Operation::PutObject), 1);
    // Opened by `exec`, it stays open between the commands, and is appended to.
    rig.bucket.requests().reset();
    let script =
        r#"exec 3>> "$1/log"; /bin/true; /bin/echo four >&3; /bin/true; /bin/echo five >&3; exec 3>&-"#;
    run_ok(Command::new("bash").args(["-c", script, "bash"]).arg(rig.mountpoint()));
    assert_eq!(rig.bucket.get("log").unwrap(), b"one\ntwo\nthree\nfour\nfive\n");
    assert_eq!(rig.bucket.count(Operation::PutObject), 1);
}

#[test]
fn a_child_that_outlives_who_opened_the_file_commits_what_it_wrote() {
    let rig = Rig::mounted(&[]);
    // What is passed on and closed here is the child's alone.
    let file = fs::File::create(rig.path("out")).unwrap();
    let mut child = Command::new("sh")
        .args(["-c", "sleep 0.3; echo from the child"])
        .stdin(Stdio::null())
        .stdout(Stdio::from(file))
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(rig.bucket.get("out").unwrap(), b"from the child\n", "its end waited for the upload");
    // Opened by a shell that is gone before its child has written.
    let script = r#"{ sleep 0.3; /bin/echo late; } > "$1/late" & exit"#;
    run_ok(Command::new("bash").args(["-c", script, "bash"]).arg(rig.mountpoint()));
    crate::support::wait_for("the late line", std::time::Duration::from_secs(20), || {
        rig.bucket.get("late").is_some_and(|bytes| bytes == b"late\n")
    });
}

#[test]
fn an_early_close_of_a_copy_loses_nothing_when_the_opener_is_killed() {
    let rig = Rig::mounted(&[]);
    let script = r#"exec 3> "$1/kept"; /bin/echo before >&3; kill -9 $$"#;
    let mut shell = Command::new("bash").args(["-c", script, "bash"]).arg(rig.mountpoint()).spawn().unwrap();
    shell.wait().unwrap();
    assert_eq!(rig.bucket.get("kept").unwrap(), b"before\n");
}
