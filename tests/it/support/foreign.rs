//! Servers that others wrote, on loopback, with a bucket in them. They can be killed and started again.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::bucket::{ACCESS_KEY, BUCKET, SECRET_KEY};
use crate::support::client::{Account, Served};
use crate::support::{run_ok, wait_for};

/// Longest that a foreign server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A foreign server, ended with the test.
pub struct Foreign {
    account: Account,
    port: u16,
    /// Program and arguments that start it.
    program: Vec<String>,
    running: Running,
    home: TempDir,
}

/// A process, ended with its owner.
struct Running(Child);

impl Foreign {
    /// Garage, of one node.
    pub fn garage() -> Foreign {
        let home = tempfile::tempdir().unwrap();
        let (port, rpc) = (free_port(), free_port());
        let config = home.path().join("garage.toml");
        let path = home.path().display();
        let text = format!(
            "metadata_dir = \"{path}/meta\"\ndata_dir = \"{path}/data\"\ndb_engine = \"sqlite\"\n\
             replication_factor = 1\nrpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\n\
             rpc_secret = \"{}\"\n[s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{port}\"\n",
            "5e".repeat(32)
        );
        fs::write(&config, text).unwrap();
        let command = vec![installed("TETHERFS_TEST_GARAGE"), "-c".to_owned(), config.display().to_string()];
        let (access_key, secret_key) =
            (format!("GK{}", "0123456789ab".repeat(2)), "0123456789abcdef".repeat(4));
        let program = [command.clone(), vec!["server".to_owned()]].concat();
        let endpoint = format!("http://127.0.0.1:{port}");
        let account = Account { endpoint, region: "garage".to_owned(), access_key, secret_key };
        let server = Foreign::start(program, account, port, home);
        let ask = |arguments: &[&str]| run_ok(Command::new(&command[0]).args(&command[1..]).args(arguments));
        let node = ask(&["node", "id", "-q"]);
        let node = node.trim().split('@').next().unwrap().to_owned();
        ask(&["layout", "assign", "-z", "z1", "-c", "10G", &node]);
        ask(&["layout", "apply", "--version", "1"]);
        let Account { access_key, secret_key, .. } = &server.account;
        ask(&["key", "import", "--yes", "-n", "test", access_key, secret_key]);
        ask(&["bucket", "create", BUCKET]);
        ask(&["bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", access_key]);
        server
    }

    /// `rclone serve s3` over a directory.
    pub fn rclone() -> Foreign {
        let home = tempfile::tempdir().unwrap();
        let data = home.path().join("data");
        fs::create_dir_all(data.join(BUCKET)).unwrap();
        let port = free_port();
        let (address, keys) = (format!("127.0.0.1:{port}"), format!("{ACCESS_KEY},{SECRET_KEY}"));
        let rclone = installed("TETHERFS_TEST_RCLONE");
        let arguments = ["serve", "s3", "--addr", &address, "--auth-key", &keys, "--config", "/dev/null"];
        let program = std::iter::once(rclone.as_str()).chain(arguments).chain(data.to_str());
        let program = program.map(str::to_owned).collect();
        Foreign::start(program, Account::embedded(format!("http://{address}")), port, home)
    }

    fn start(program: Vec<String>, account: Account, port: u16, home: TempDir) -> Foreign {
        let running = Running::start(&program, &home, port);
        Foreign { account, port, program, running, home }
    }

    /// Kills it as a crash would, and starts it again over what it has on disk.
    pub fn restart(&mut self) {
        self.running.end();
        self.running = Running::start(&self.program, &self.home, self.port);
    }
}

impl Served for Foreign {
    fn account(&self) -> Account {
        self.account.clone()
    }
}

impl Running {
    fn start(program: &[String], home: &TempDir, port: u16) -> Running {
        let log = fs::OpenOptions::new().create(true).append(true).open(home.path().join("log")).unwrap();
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).env("RUST_LOG", "garage=warn");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {program:?}: {error}"));
        let running = Running(child);
        let answers = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_for("the foreign server answers", START_LIMIT, answers);
        running
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// A program that `scripts/test.sh` has installed. Without it the test fails: one that passes unasked proves nothing.
fn installed(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: scripts/test.sh installs the server and sets it"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
