//! The conformance suite over real servers: the embedded bucket with and without deviations, and foreign ones.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tetherfs::bucket::Quirks;
use tetherfs::observe::Metrics;
use tetherfs::store::{self, Identity, KeyPair, Location, Options, S3Options, conformance};
use tetherfs::types::ByteSize;

use crate::support::{ACCESS_KEY, BUCKET, Bucket, SECRET_KEY, run_ok, wait_for};

/// Longest that a foreign server may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Runs every check through the S3 back end.
fn conforms(endpoint: &str, region: &str, access_key: &str, secret_key: &str) {
    conforms_but_for(&[], endpoint, region, (access_key, secret_key));
}

/// Runs every check but the named ones, which a server is known not to pass whatever a client does.
fn conforms_but_for(
    known: &[(&str, &str)],
    endpoint: &str,
    region: &str,
    (access_key, secret_key): (&str, &str),
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let keys = KeyPair { access_key: access_key.to_owned(), secret_key: secret_key.to_owned() };
    let options = Options {
        s3: S3Options {
            endpoint: Some(endpoint.to_owned()),
            region: Some(region.to_owned()),
            identity: Identity::Keys(keys),
            ..S3Options::default()
        },
        requests_max: 16,
        sending_bytes_max: ByteSize::mib(64),
        stall_timeout: Duration::from_secs(20),
        attempts_max: 3,
        backoff_max: Duration::from_secs(1),
    };
    let location: Location = format!("s3://{BUCKET}/some/prefix").parse().unwrap();
    runtime.block_on(async {
        let store = store::open(&location, &options, Arc::new(Metrics::default())).await.unwrap();
        for (name, check) in conformance::CHECKS {
            match known.iter().find(|(check, _)| *check == name) {
                Some((_, why)) => eprintln!("{endpoint} is not asked for {name}: {why}"),
                None => check(store.clone()).await,
            }
        }
    });
}

#[test]
fn the_embedded_bucket_conforms() {
    let bucket = Bucket::start();
    conforms(&bucket.endpoint(), "anywhere", ACCESS_KEY, SECRET_KEY);
}

#[test]
fn the_back_end_makes_up_for_a_server_that_ignores_conditions() {
    let bucket = Bucket::with(Quirks {
        ignores_put_if_none_match: true,
        ignores_put_if_match: true,
        ignores_complete_conditions: true,
        ignores_get_if_match: true,
        ignores_delete_if_match: true,
        ignores_copy_source_if_match: true,
        answers_range_with_200: true,
        changes_etag_after_complete: true,
        ..Quirks::default()
    });
    conforms(&bucket.endpoint(), "anywhere", ACCESS_KEY, SECRET_KEY);
}

#[test]
fn the_back_end_copes_with_a_server_that_does_less() {
    let bucket = Bucket::with(Quirks {
        lists_no_uploads: true,
        answers_failed_complete_with_200: true,
        knows_no_crc64nvme: true,
        copies_no_parts: true,
        lists_space_as_plus: true,
        hides_md5: true,
        ..Quirks::default()
    });
    conforms(&bucket.endpoint(), "anywhere", ACCESS_KEY, SECRET_KEY);
}

/// A program that `scripts/test.sh` has installed. Without it the test fails: one that passes unasked proves nothing.
fn installed(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set: scripts/test.sh installs the server and sets it"))
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A foreign server, ended with the test.
struct Foreign {
    child: Child,
}

impl Foreign {
    fn start(command: &mut Command, port: u16, log: &Path) -> Foreign {
        let log = std::fs::File::create(log).unwrap();
        let child =
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Foreign { child };
        wait_for("the foreign server answers", START_LIMIT, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn garage_conforms() {
    let garage = installed("TETHERFS_TEST_GARAGE");
    let home = tempfile::tempdir().unwrap();
    let (s3, rpc) = (free_port(), free_port());
    let config = home.path().join("garage.toml");
    let path = home.path().display();
    std::fs::write(
        &config,
        format!(
            "metadata_dir = \"{path}/meta\"\ndata_dir = \"{path}/data\"\ndb_engine = \"sqlite\"\nreplication_factor = 1\n\
             rpc_bind_addr = \"127.0.0.1:{rpc}\"\nrpc_public_addr = \"127.0.0.1:{rpc}\"\nrpc_secret = \"{}\"\n\
             [s3_api]\ns3_region = \"garage\"\napi_bind_addr = \"127.0.0.1:{s3}\"\n",
            "5e".repeat(32)
        ),
    )
    .unwrap();
    let command = || {
        let mut command = Command::new(&garage);
        command.arg("-c").arg(&config).env("RUST_LOG", "garage=warn");
        command
    };
    let _server = Foreign::start(command().arg("server"), s3, &home.path().join("log"));
    let node = run_ok(command().args(["node", "id", "-q"]));
    let node = node.trim().split('@').next().unwrap().to_owned();
    run_ok(command().args(["layout", "assign", "-z", "z1", "-c", "10G", &node]));
    run_ok(command().args(["layout", "apply", "--version", "1"]));
    let (access, secret) = (format!("GK{}", "0123456789ab".repeat(2)), "0123456789abcdef".repeat(4));
    run_ok(command().args(["key", "import", "--yes", "-n", "test", &access, &secret]));
    run_ok(command().args(["bucket", "create", BUCKET]));
    run_ok(command().args(["bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key", &access]));
    conforms(&format!("http://127.0.0.1:{s3}"), "garage", &access, &secret);
}

#[test]
fn rclone_serve_s3_conforms_as_far_as_files_can() {
    let rclone = installed("TETHERFS_TEST_RCLONE");
    let home: TempDir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("data").join(BUCKET)).unwrap();
    let port = free_port();
    let mut command = Command::new(rclone);
    command.args(["serve", "s3", "--addr", &format!("127.0.0.1:{port}")]);
    command.args(["--auth-key", &format!("{ACCESS_KEY},{SECRET_KEY}"), "--config", "/dev/null"]);
    command.arg(home.path().join("data"));
    let _server = Foreign::start(&mut command, port, &home.path().join("log"));
    let known = [
        (
            "listing_pages_and_directories",
            "it keeps objects as files, so that a marker `dir/` is listed as `dir`",
        ),
        ("parts_replaced_and_listed", "a part can be sent once only"),
    ];
    conforms_but_for(&known, &format!("http://127.0.0.1:{port}"), "us-east-1", (ACCESS_KEY, SECRET_KEY));
}
