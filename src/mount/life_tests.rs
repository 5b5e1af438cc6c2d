//! How a mount ends: who waits for what, for how long, and in which order things are taken apart.

use std::sync::Mutex;

use tokio::sync::oneshot;

use super::*;
use crate::fs::{KernelStatus, Status};
use crate::observe::Metrics;

const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// Stands for the rooms: remembers what was done, and is told what to be like.
#[derive(Default)]
struct Stage {
    acts: Mutex<Vec<&'static str>>,
    /// Programs have files open.
    is_busy: watch::Sender<bool>,
    has_ended: watch::Sender<bool>,
    is_drained: watch::Sender<bool>,
}

impl Stage {
    fn note(&self, act: &'static str) {
        self.acts.lock().unwrap().push(act);
    }

    fn acts(&self) -> Vec<&'static str> {
        self.acts.lock().unwrap().clone()
    }
}

#[async_trait]
impl Body for Stage {
    fn unmount(&self, detach: Detach) -> io::Result<()> {
        if *self.is_busy.borrow() && detach == Detach::No {
            self.note("busy");
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        self.note(if detach == Detach::Yes { "detach" } else { "unmount" });
        self.has_ended.send_replace(true);
        Ok(())
    }

    async fn ended(&self) {
        self.has_ended.subscribe().wait_for(|yes| *yes).await.unwrap();
    }

    async fn drained(&self) {
        self.is_drained.subscribe().wait_for(|yes| *yes).await.unwrap();
    }

    async fn shutdown(&self) {
        self.note("shutdown");
    }
}

/// A life on a stage, and the strings that move it.
struct Play {
    stage: Arc<Stage>,
    signals: mpsc::Sender<&'static str>,
    ends: mpsc::Sender<EndRequest>,
    phase: watch::Receiver<Phase>,
    life: tokio::task::JoinHandle<usize>,
    start: Instant,
}

fn play(recovered: usize) -> Play {
    let stage = Arc::new(Stage::default());
    let (signals, signals_seen) = mpsc::channel(4);
    let (ends, ends_seen) = mpsc::channel(4);
    let (phase, phase_seen) = watch::channel(Phase::Starting);
    let life = Life {
        body: Arc::clone(&stage) as Arc<dyn Body>,
        signals: signals_seen,
        ends: ends_seen,
        phase,
        drain_timeout: DRAIN_TIMEOUT,
    };
    life.begin(recovered);
    let running = task::spawn("life", async move {
        let waiting = life.run().await;
        let clients = waiting.len();
        for request in waiting {
            let metrics = Metrics::default().snapshot();
            let left =
                Status { sessions: Vec::new(), moves: Vec::new(), metrics, kernel: KernelStatus::default() };
            answer(request, Answer::Unmounted { left });
        }
        clients
    });
    Play { stage, signals, ends, phase: phase_seen, life: running, start: Instant::now() }
}

impl Play {
    async fn ask(&self, wait: Option<Duration>) -> oneshot::Receiver<Answer> {
        let (reply, answer) = oneshot::channel();
        self.ends.send(EndRequest { wait, reply }).await.unwrap();
        answer
    }

    /// Waits for the end; returns after how long it came, what was done, and how many clients are answered.
    async fn end(self) -> (Duration, Vec<&'static str>, usize) {
        let clients = self.life.await.unwrap();
        assert_eq!(*self.phase.borrow(), Phase::Stopped);
        (self.start.elapsed(), self.stage.acts(), clients)
    }
}

/// Time passes only when nothing else can happen; a little more than a time limit is the limit.
fn about(elapsed: Duration, expected: Duration) -> bool {
    elapsed >= expected && elapsed < expected + Duration::from_secs(1)
}

#[tokio::test(start_paused = true)]
async fn a_client_gets_its_answer_after_the_uploads() {
    let play = play(0);
    let answer = play.ask(None).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(*play.phase.borrow(), Phase::Draining { deadline: None });
    assert_eq!(play.stage.acts(), ["unmount"]);
    play.stage.is_drained.send_replace(true);
    let (elapsed, acts, clients) = play.end().await;
    assert!(about(elapsed, Duration::from_secs(3600)), "{elapsed:?}");
    assert_eq!((acts, clients), (vec!["unmount", "shutdown"], 1));
    assert!(matches!(answer.await, Ok(Answer::Unmounted { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_no_longer_than_it_said() {
    let play = play(0);
    let answer = play.ask(Some(Duration::from_secs(7))).await;
    let (elapsed, acts, _) = play.end().await;
    assert!(about(elapsed, Duration::from_secs(7)), "{elapsed:?}");
    assert_eq!(acts, ["unmount", "shutdown"]);
    assert!(answer.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_busy_mount_refuses_a_client_and_serves_on() {
    let play = play(0);
    play.stage.is_busy.send_replace(true);
    let refused = play.ask(None).await.await.unwrap();
    assert!(matches!(refused, Answer::Error { code: ErrorCode::Busy, .. }), "{refused:?}");
    assert_eq!(*play.phase.borrow(), Phase::Serving);
    play.stage.is_busy.send_replace(false);
    play.stage.is_drained.send_replace(true);
    let answer = play.ask(None).await;
    let (_, acts, _) = play.end().await;
    assert_eq!(acts, ["busy", "unmount", "shutdown"]);
    assert!(matches!(answer.await, Ok(Answer::Unmounted { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_signal_drains_below_open_files_and_detaches_at_its_limit() {
    let play = play(0);
    play.stage.is_busy.send_replace(true);
    play.signals.send("SIGTERM").await.unwrap();
    let (elapsed, acts, clients) = play.end().await;
    assert!(about(elapsed, DRAIN_TIMEOUT), "{elapsed:?}");
    assert_eq!((acts, clients), (vec!["busy", "detach", "shutdown"], 0));
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_ends_at_once() {
    let play = play(0);
    play.signals.send("SIGINT").await.unwrap();
    play.signals.send("SIGINT").await.unwrap();
    let (elapsed, acts, _) = play.end().await;
    assert!(about(elapsed, Duration::ZERO), "{elapsed:?}");
    assert_eq!(acts, ["unmount", "shutdown"]);
}

#[tokio::test(start_paused = true)]
async fn after_umount_uploads_go_on_until_a_successor_takes_over() {
    let play = play(0);
    play.stage.has_ended.send_replace(true);
    tokio::time::sleep(Duration::from_secs(7200)).await;
    assert_eq!(*play.phase.borrow(), Phase::Draining { deadline: None });
    let answer = play.ask(Some(Duration::ZERO)).await;
    let (_, acts, clients) = play.end().await;
    assert_eq!((acts, clients), (vec!["shutdown"], 1), "there is nothing to unmount");
    assert!(answer.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_mount_that_recovers_serves_when_that_is_done() {
    let play = play(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*play.phase.borrow(), Phase::Recovering);
    play.stage.is_drained.send_replace(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*play.phase.borrow(), Phase::Serving);
    play.signals.send("SIGTERM").await.unwrap();
    assert_eq!(play.end().await.1, ["unmount", "shutdown"]);
}
