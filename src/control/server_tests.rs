//! The protocol over a real socket, with clients of good and of bad will.

use std::io::{BufRead, BufReader as StdReader, Read, Write};
use std::os::unix::net::UnixStream as StdStream;

use super::*;
use crate::control::{Client, ClientError, Hello, PhaseView};
use crate::types::{SessionId, UnixTime};

struct Parrot;

#[async_trait]
impl Operator for Parrot {
    async fn answer(&self, command: Command) -> Answer {
        match command {
            Command::Hello => Answer::Hello(Hello {
                version: VERSION,
                release: "1".to_owned(),
                mountpoint: "/m".to_owned(),
                url: "s3://b".to_owned(),
                pid: 7,
                started: UnixTime::from_secs(1),
                phase: PhaseView::Serving,
            }),
            Command::Drain { wait_ms, .. } => {
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                Answer::Done
            }
            Command::Commit { session } | Command::Discard { session } => {
                Answer::Error { code: ErrorCode::Failed, message: format!("no upload {session}") }
            }
            Command::Unmount { .. } => panic!("an operator's defect"),
            Command::Status
            | Command::Seal
            | Command::Retry { .. }
            | Command::Resolve { .. }
            | Command::Refresh { .. }
            | Command::Cache(_) => Answer::Done,
        }
    }
}

struct House {
    folder: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    server: Server,
}

fn house() -> House {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let options = Options { directories: vec![folder.path().to_owned()], mountpoint: "/m".into() };
    let _on = runtime.enter();
    let server = Server::start(&options, Arc::new(Parrot)).unwrap();
    drop(_on);
    House { folder, runtime, server }
}

impl House {
    fn directories(&self) -> Vec<PathBuf> {
        vec![self.folder.path().to_owned()]
    }

    fn client(&self) -> Client {
        Client::connect(&self.directories(), Path::new("/m")).unwrap()
    }

    fn raw(&self) -> StdStream {
        let stream = StdStream::connect(self.server.path()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }
}

#[test]
fn requests_are_answered_in_order_on_one_connection() {
    let house = house();
    let mut client = house.client();
    assert_eq!(client.hello().url, "s3://b");
    assert_eq!(client.call(Command::Status, Some(Duration::ZERO)).unwrap(), Answer::Done);
    let refused = client.call(Command::Discard { session: SessionId(5) }, Some(Duration::ZERO)).unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { code: ErrorCode::Failed, message } if message.contains("05"))
    );
    assert_eq!(client.call(Command::Status, None).unwrap(), Answer::Done);
}

#[test]
fn bad_lines_are_answered_and_good_ones_after_them_too() {
    let house = house();
    let mut stream = house.raw();
    let mut reader = StdReader::new(stream.try_clone().unwrap());
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    let lines: [(&[u8], &str); 9] = [
        (b"", "bad-request"),
        (b"hello", "bad-request"),
        (b"{}", "bad-request"),
        (b"\xff\xfe\x00", "bad-request"),
        (b"{\"version\":1}", "bad-request"),
        (b"{\"version\":1,\"command\":\"format-disk\"}", "bad-request"),
        (b"{\"version\":1,\"command\":\"discard\",\"session\":-1}", "bad-request"),
        (b"{\"version\":2,\"command\":\"anything\"}", "\"version\""),
        (deep.as_bytes(), "bad-request"),
    ];
    for (line, expected) in lines {
        stream.write_all(line).unwrap();
        stream.write_all(b"\n").unwrap();
        let mut answer = String::new();
        reader.read_line(&mut answer).unwrap();
        assert!(answer.contains(expected), "{:?}: {answer}", String::from_utf8_lossy(line));
    }
    stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n").unwrap();
    let mut answer = String::new();
    reader.read_line(&mut answer).unwrap();
    assert_eq!(answer, "{\"answer\":\"done\"}\n");
}

#[test]
fn an_endless_line_ends_the_connection_only() {
    let house = house();
    let mut stream = house.raw();
    // The server may hang up while we are still writing.
    let _ = stream.write_all(&vec![b'x'; 4 * REQUEST_BYTES_MAX as usize]);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < 1024);
    assert_eq!(house.client().call(Command::Status, None).unwrap(), Answer::Done);
}

#[test]
fn a_half_line_and_a_hang_up_harm_nobody() {
    let house = house();
    house.raw().write_all(b"{\"version\":1").unwrap();
    drop(house.raw());
    let mut stream = house.raw();
    stream.write_all(b"{\"version\":1,\"command\":\"unmount\"}\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty(), "an operator that panics closes its connection");
    assert_eq!(house.client().call(Command::Status, None).unwrap(), Answer::Done);
}

#[test]
fn more_connections_than_allowed_wait_their_turn() {
    let house = house();
    let idle: Vec<StdStream> = (0..CONNECTIONS_MAX + 3).map(|_| house.raw()).collect();
    let mut late = house.raw();
    late.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    late.write_all(b"{\"version\":1,\"command\":\"status\"}\n").unwrap();
    let mut byte = [0; 1];
    assert!(late.read(&mut byte).is_err(), "all places are taken");
    drop(idle);
    late.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(late.read(&mut byte).unwrap(), 1);
}

#[test]
fn a_second_daemon_for_the_mountpoint_is_refused_and_a_dead_one_replaced() {
    let house = house();
    let options = Options { directories: house.directories(), mountpoint: "/m".into() };
    let _on = house.runtime.enter();
    assert!(matches!(Server::start(&options, Arc::new(Parrot)), Err(ControlError::InUse { .. })));
    house.server.close();
    assert!(!house.server.path().exists());
    drop(std::os::unix::net::UnixListener::bind(house.server.path()).unwrap());
    let second = Server::start(&options, Arc::new(Parrot)).unwrap();
    assert_eq!(Client::all(&house.directories()).len(), 1);
    drop(second);
    assert!(Client::all(&house.directories()).is_empty());
    let error = Client::connect(&house.directories(), Path::new("/m")).unwrap_err();
    assert_eq!(error.to_string(), "no tetherfs is mounted on /m");
}

#[test]
fn whoever_looks_while_a_daemon_starts_does_not_take_its_socket_for_a_dead_ones() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _on = runtime.enter();
    let directories = vec![folder.path().to_owned()];
    let options = Options { directories: directories.clone(), mountpoint: "/m".into() };
    let path = folder.path().join(socket::socket_name(Path::new("/m")));
    // Looks for as long as the other end of the channel is there, however this test ends.
    let (look, is_over) = std::sync::mpsc::channel::<()>();
    let looked_at = path.clone();
    let looking = task::thread("look", move || {
        while is_over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            socket::is_alive(&looked_at);
        }
    });
    for start in 0..200 {
        let server = Server::start(&options, Arc::new(Parrot));
        let server = server.unwrap_or_else(|error| panic!("start {start}: {error}"));
        assert!(path.exists(), "start {start}: the socket was removed");
        drop(server);
    }
    drop(look);
    looking.unwrap().join().unwrap();
}

#[test]
fn an_answer_under_way_is_still_sent_after_close() {
    let house = house();
    let mut stream = house.raw();
    stream.write_all(b"{\"version\":1,\"command\":\"drain\",\"wait_ms\":300}\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    house.server.close();
    house.runtime.block_on(house.server.finished());
    drop(house.runtime);
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "{\"answer\":\"done\"}\n");
}
