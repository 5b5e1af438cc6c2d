//! Running programs with a time limit.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No program in these tests takes longer unless a mount is stuck.
const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Ran {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.as_mut().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let code = wait(child, PROGRAM_LIMIT)
        .unwrap_or_else(|| panic!("{command:?} did not end within {PROGRAM_LIMIT:?}"));
    Ran { code, out: out.join().unwrap(), err: err.join().unwrap() }
}

/// Runs a program that has to succeed; returns what it printed.
pub fn run_ok(command: &mut Command) -> String {
    let ran = run(command);
    assert_eq!(ran.code, Some(0), "{command:?}: {}{}", ran.out, ran.err);
    ran.out
}

/// Waits for a child with a limit. `None` when it still runs and was therefore killed.
pub fn wait(child: &mut Child, limit: Duration) -> Option<Option<i32>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status.code());
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn drain(stream: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stream.map(|mut stream| stream.read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    })
}
