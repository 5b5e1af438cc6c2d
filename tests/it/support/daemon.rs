//! The tetherfs binary as a daemon that can be mounted, killed and mounted again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::bucket::BUCKET;
use crate::support::client::{Account, Served};
use crate::support::process::wait;
use crate::support::{Bucket, Ran, run, wait_for};

/// Longest that a mount may take to appear and to go away.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);

/// A bucket and a daemon with directories of its own.
pub struct Rig<B: Served = Bucket> {
    /// The bucket.
    pub bucket: B,
    home: TempDir,
    options: Vec<String>,
    daemon: Option<Child>,
}

impl Rig {
    /// A fresh bucket, not mounted.
    pub fn new() -> Rig {
        Rig::over(Bucket::start())
    }

    /// A fresh bucket, mounted with these extra options.
    pub fn mounted(options: &[&str]) -> Rig {
        let mut rig = Rig::new();
        rig.mount(options);
        rig
    }
}

impl<B: Served> Rig<B> {
    /// Over a given bucket, not mounted.
    pub fn over(bucket: B) -> Rig<B> {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("mnt")).unwrap();
        Rig { bucket, home, options: Vec::new(), daemon: None }
    }

    /// Mounts with these extra options, and serves before this returns.
    pub fn mount(&mut self, options: &[&str]) {
        self.options = options.iter().map(|&option| option.to_owned()).collect();
        self.mount_again();
    }

    /// Mounts as the last time.
    pub fn mount_again(&mut self) {
        self.mount_killed_at(None);
    }

    /// Mounts as the last time, to die at a named point.
    pub fn mount_killed_at(&mut self, point: Option<&str>) {
        assert!(self.daemon.is_none(), "mounted already");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = self.command();
        command.args(["mount", "--foreground"]).args(self.mount_arguments());
        if let Some(point) = point {
            command.env("TETHERFS_KILL_AT", point);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut daemon = command.spawn().unwrap();
        let start = std::time::Instant::now();
        while !self.is_serving() {
            if let Some(status) = daemon.try_wait().unwrap() {
                if point.is_some() {
                    break;
                }
                panic!("the daemon ended with {status}: {}", self.log());
            }
            assert!(start.elapsed() < MOUNT_LIMIT, "not mounted after {MOUNT_LIMIT:?}: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.daemon = Some(daemon);
    }

    /// What `tetherfs mount` is called with.
    pub fn mount_arguments(&self) -> Vec<String> {
        let Account { endpoint, region, .. } = self.bucket.account();
        let mut arguments = vec![
            format!("s3://{BUCKET}"),
            self.mountpoint().to_str().unwrap().to_owned(),
            format!("--endpoint={endpoint}"),
            format!("--region={region}"),
            "--log-level=debug".to_owned(),
        ];
        arguments.extend(self.options.iter().cloned());
        arguments
    }

    /// A tetherfs command that lives in this rig's directories.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tetherfs"));
        command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", self.home.path());
        command.env("XDG_RUNTIME_DIR", self.home.path());
        let Account { access_key, secret_key, .. } = self.bucket.account();
        command.env("AWS_ACCESS_KEY_ID", access_key).env("AWS_SECRET_ACCESS_KEY", secret_key);
        command
    }

    /// Runs a tetherfs command to its end.
    pub fn tetherfs(&self, arguments: &[&str]) -> Ran {
        run(self.command().args(arguments))
    }

    /// Kills the daemon as a crash would and clears its dead mount away.
    pub fn kill(&mut self) {
        self.kill_leaving_mount();
        self.clear_mount();
    }

    /// Kills the daemon as a crash would; its dead mount stays.
    pub fn kill_leaving_mount(&mut self) {
        let mut daemon = self.daemon.take().expect("mounted");
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Waits until the daemon has died of itself, at a named point.
    pub fn wait_for_death(&mut self) {
        self.wait_for_death_leaving_mount();
        self.clear_mount();
    }

    /// Waits until the daemon has died of itself, at a named point; its dead mount stays.
    pub fn wait_for_death_leaving_mount(&mut self) {
        let mut daemon = self.daemon.take().expect("mounted");
        let died = wait(&mut daemon, Duration::from_secs(60));
        assert_eq!(died, Some(None), "the daemon was to die of a signal: {}", self.log());
    }

    /// Unmounts as a user does, which waits for every upload.
    pub fn unmount(&mut self) {
        let ran = self.tetherfs(&["unmount", self.mountpoint().to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "unmount: {}{}\n{}", ran.out, ran.err, self.log());
        self.wait_for_end(0);
    }

    /// Waits until the daemon has ended in order, because it was told to, with this exit code.
    pub fn wait_for_end(&mut self, expected: i32) {
        let mut daemon = self.daemon.take().expect("mounted");
        let code = wait(&mut daemon, MOUNT_LIMIT);
        assert_eq!(code, Some(Some(expected)), "the daemon's end: {}", self.log());
        assert!(!self.is_mounted());
    }

    /// A figure in KiB of the daemon's memory: `VmRSS` now, `VmHWM` at most so far.
    pub fn memory_kib(&self, figure: &str) -> u64 {
        let pid = self.daemon.as_ref().expect("mounted").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Where the daemon keeps what it downloaded, unless it was told another place.
    pub fn cache_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        files_below(&self.home.path().join(".cache"), &mut found);
        found
    }

    /// Where it is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    /// A path in the mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint().join(name)
    }

    /// A directory that is not in the mount.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The daemon's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// `tetherfs status --json` of this mount.
    pub fn status(&self) -> serde_json::Value {
        let ran = self.tetherfs(&["status", "--json", self.mountpoint().to_str().unwrap()]);
        assert_eq!(ran.code, Some(0), "status: {}{}", ran.out, ran.err);
        serde_json::from_str(&ran.out).unwrap()
    }

    /// One counter or gauge of this mount.
    pub fn metric(&self, name: &str) -> u64 {
        self.status()["metrics"][name].as_u64().unwrap_or_else(|| panic!("there is no number {name}"))
    }

    /// Whether the kernel has a mount here.
    pub fn is_mounted(&self) -> bool {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let place = self.mountpoint().to_str().unwrap().to_owned();
        mounts.lines().any(|line| line.split(' ').nth(4) == Some(&place))
    }

    /// Whether a living daemon answers here.
    fn is_serving(&self) -> bool {
        self.is_mounted() && fs::metadata(self.mountpoint()).is_ok()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("daemon.log")
    }

    /// Takes a dead mount off.
    pub fn clear_mount(&self) {
        if self.is_mounted() {
            run(Command::new("umount").arg("--lazy").arg(self.mountpoint()));
            wait_for("the dead mount is gone", MOUNT_LIMIT, || !self.is_mounted());
        }
    }
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files_below(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

impl<B: Served> Drop for Rig<B> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log, last lines ---");
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| eprintln!("{line}"));
        }
        // The daemon's death ends the kernel's connection, and with it whatever still waits in the mount.
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        if self.is_mounted() {
            let _ = Command::new("umount").arg("--lazy").arg(self.mountpoint()).status();
        }
    }
}
