//! What the journal promises, over disks that tear, rot, fail and lose what was not synced.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::durable::{CrashDisk, RealDisk, SparseFile};
use crate::types::Crc64;

const DIRECTORY: &str = "state/journal";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn open(disk: &CrashDisk) -> Result<(Journal, Replay), JournalError> {
    Journal::open(Arc::new(disk.clone()), Path::new(DIRECTORY))
}

fn generation_file(generation: u64) -> PathBuf {
    generation_path(Path::new(DIRECTORY), generation)
}

fn samples() -> Vec<Vec<u8>> {
    vec![b"first".to_vec(), Vec::new(), vec![7; 60], b"last one".to_vec()]
}

/// A disk whose journal (generation 1) holds these records, and the bytes of its file.
fn disk_with(records: &[Vec<u8>]) -> (CrashDisk, Vec<u8>) {
    let disk = CrashDisk::default();
    let (journal, _) = open(&disk).unwrap();
    let last = records.iter().map(|record| journal.append(record).unwrap()).last();
    if let Some(position) = last {
        journal.sync(position).unwrap();
    }
    let bytes = disk.content(&generation_file(1)).unwrap();
    (disk, bytes)
}

#[test]
fn a_torn_tail_is_cut_and_the_journal_goes_on() {
    let records = samples();
    let (_, whole) = disk_with(&records);
    for cut in frame::FILE_HEADER_BYTES..=whole.len() {
        let disk = CrashDisk::default();
        disk.put(&generation_file(1), &whole[..cut]);
        let (journal, replay) = open(&disk).unwrap();
        let kept = replay.records.len();
        assert_eq!(replay.records, records[..kept]);
        assert_eq!(replay.damage, [], "cut at {cut}");
        assert_eq!(kept == records.len(), cut == whole.len());
        let position = journal.append(b"after").unwrap();
        journal.sync(position).unwrap();
        disk.crash(cut as u64);
        let (_, again) = open(&disk).unwrap();
        assert_eq!(again.records, [&records[..kept], &[b"after".to_vec()]].concat(), "cut at {cut}");
        assert_eq!(again.damage, []);
    }
}

#[test]
fn a_flipped_byte_is_set_aside_once_and_costs_one_record() {
    let records = samples();
    let (_, whole) = disk_with(&records);
    let last_begins = whole.len() - frame::RECORD_HEADER_BYTES - records[3].len();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        let disk = CrashDisk::default();
        disk.put(&generation_file(1), &flipped);
        let (journal, replay) = open(&disk).unwrap();
        let lost = records.len() - replay.records.len();
        assert_eq!(lost, usize::from(at >= frame::FILE_HEADER_BYTES), "flip at {at}");
        let mut rest = records.iter();
        assert!(replay.records.iter().all(|record| rest.any(|written| written == record)), "flip at {at}");
        assert_eq!(replay.damage.len(), usize::from(at < last_begins), "flip at {at}");
        for damage in &replay.damage {
            assert_eq!(damage.kept_as.parent(), Some(Path::new("state/recovered")));
            let kept = disk.content(&damage.kept_as).unwrap();
            assert!(flipped.windows(kept.len()).any(|window| window == kept) && kept.contains(&flipped[at]));
        }
        journal.append(b"after").unwrap();
        drop(journal);
        let (_, again) = open(&disk).unwrap();
        assert_eq!(again.damage, [], "damage is reported once");
        assert_eq!(again.records[..replay.records.len()], replay.records);
        assert_eq!(again.records.last().unwrap(), b"after");
    }
}

#[test]
fn reading_tells_what_opening_would_and_changes_nothing() {
    let read = |disk: &CrashDisk| Journal::read(disk, Path::new(DIRECTORY)).unwrap();
    assert!(read(&CrashDisk::default()).is_none());
    let (_, whole) = disk_with(&samples());
    let (mut damaged, mut torn) = (0, 0);
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        for bytes in [&flipped[..], &whole[..at]] {
            let disk = CrashDisk::default();
            disk.put(&generation_file(1), bytes);
            disk.put(&Path::new(DIRECTORY).join("journal-2.new"), b"unfinished");
            let seen = read(&disk).unwrap();
            let names = |disk: &CrashDisk| {
                let mut names = disk.list(Path::new(DIRECTORY)).unwrap();
                names.sort();
                names
            };
            assert_eq!(names(&disk), ["journal-1", "journal-2.new"]);
            assert_eq!(disk.content(&generation_file(1)).unwrap(), bytes);
            let (_, opened) = open(&disk).unwrap();
            assert_eq!((&seen.records, &seen.damage), (&opened.records, &opened.damage), "at {at}");
            assert_eq!(seen.torn_bytes, opened.torn_bytes, "at {at}");
            seen.damage.iter().for_each(|damage| assert!(disk.content(&damage.kept_as).is_some()));
            damaged += usize::from(!seen.damage.is_empty());
            torn += usize::from(seen.torn_bytes > 0);
            assert_eq!(read(&disk).unwrap().torn_bytes, 0, "cut by the opening");
        }
    }
    assert!(damaged > 100 && torn > 100, "{damaged} {torn}");
}

#[test]
fn a_file_cut_within_its_header_is_damage() {
    let (_, whole) = disk_with(&[]);
    for cut in 0..frame::FILE_HEADER_BYTES {
        let disk = CrashDisk::default();
        disk.put(&generation_file(1), &whole[..cut]);
        let (journal, replay) = open(&disk).unwrap();
        assert_eq!((replay.records.len(), replay.damage.len()), (0, 1));
        journal.append(b"x").unwrap();
        assert_eq!(open(&disk).unwrap().1.records, [b"x"]);
    }
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let disk = CrashDisk::default();
    let mut header = frame::file_header(3);
    header[8] = 2;
    let crc = Crc64::of(&header[..24]).0.to_le_bytes();
    header[24..].copy_from_slice(&crc);
    disk.put(&generation_file(3), &header);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 2, known: 1, .. }), "{error}");
    assert_eq!(disk.content(&generation_file(3)).unwrap(), header);
}

#[test]
fn a_record_has_a_bound() {
    let (disk, _) = disk_with(&[]);
    let (journal, _) = open(&disk).unwrap();
    let long = vec![0; frame::RECORD_BYTES_MAX + 1];
    assert!(journal.append(&long).is_err());
    assert!(journal.checkpoint(&[long]).is_err());
    journal.append(b"short").unwrap();
    assert_eq!(open(&disk).unwrap().1.records, [b"short"]);
}

/// The journal before a checkpoint, its records, and what the checkpoint replaces them by.
fn before_checkpoint() -> (CrashDisk, Journal, Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let old = samples();
    let (disk, _) = disk_with(&old);
    let (journal, _) = open(&disk).unwrap();
    (disk, journal, old, vec![b"compact".to_vec(), vec![1; 300]])
}

/// Numbers of the disk calls that a checkpoint makes.
fn calls_of_checkpoint() -> std::ops::Range<u64> {
    let (disk, journal, _, new) = before_checkpoint();
    let first = disk.calls();
    journal.checkpoint(&new).unwrap();
    assert_eq!(journal.bytes_since_checkpoint(), 0);
    first..disk.calls()
}

#[test]
fn a_checkpoint_cut_off_anywhere_leaves_the_old_or_the_new_records() {
    let mut seen = [0, 0];
    for stop in calls_of_checkpoint() {
        for seed in 0..30 {
            let (disk, journal, old, new) = before_checkpoint();
            disk.stop_at(stop);
            let done = journal.checkpoint(&new);
            drop(journal);
            // Seed 0: the process dies, the machine does not.
            if seed == 0 {
                disk.stop_at(u64::MAX)
            } else {
                disk.crash(seed)
            }
            let (_, replay) = open(&disk).unwrap();
            assert!(replay.records == new || replay.records == old, "stop {stop} seed {seed}");
            assert!(done.is_err() || replay.records == new, "stop {stop} seed {seed}");
            assert_eq!(replay.damage, []);
            seen[usize::from(replay.records == new)] += 1;
            let left = disk.list(Path::new(DIRECTORY)).unwrap();
            assert_eq!(left.len(), 1, "one generation is left: {left:?}");
        }
    }
    assert!(seen[0] > 30 && seen[1] > 30, "both outcomes occur: {seen:?}");
}

#[test]
fn a_checkpoint_that_fails_anywhere_can_be_repeated_and_loses_nothing() {
    for call in calls_of_checkpoint() {
        for seed in 0..20 {
            let (disk, journal, old, new) = before_checkpoint();
            disk.fail_call(call, ENOSPC);
            let done = journal.checkpoint(&new);
            let appended = journal.append(b"after").and_then(|position| journal.sync(position));
            if seed == 0 {
                // What was refused is taken again after the next checkpoint.
                journal.checkpoint(&new).unwrap();
                let position = journal.append(b"after").unwrap();
                journal.sync(position).unwrap();
            }
            disk.crash(seed);
            let mut found = open(&disk).unwrap().1.records;
            if appended.is_ok() || seed == 0 {
                assert_eq!(found.pop().unwrap(), b"after", "call {call} seed {seed}");
            } else {
                found.retain(|record| record != b"after");
            }
            let must_be_new = done.is_ok() || seed == 0;
            assert!(found == new || (!must_be_new && found == old), "call {call} seed {seed}");
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_called_synced_before_a_checkpoint() {
    let (disk, _) = disk_with(&samples());
    let (journal, _) = open(&disk).unwrap();
    let position = journal.append(b"doubtful").unwrap();
    disk.fail_call(disk.calls(), EIO);
    let error = journal.sync(position).unwrap_err();
    assert!(matches!(&error, JournalError::Io { source, .. } if source.raw_os_error() == Some(EIO)));
    assert!(journal.sync(position).is_err(), "the disk says yes now, and lies");
    let refused = journal.append(b"more").unwrap_err().to_string();
    assert!(refused.contains("a sync failed") && refused.contains("checkpoint"), "{refused}");
    journal.checkpoint(&[b"doubtful".to_vec()]).unwrap();
    journal.sync(position).unwrap();
    let position = journal.append(b"more").unwrap();
    journal.sync(position).unwrap();
    disk.crash(1);
    assert_eq!(open(&disk).unwrap().1.records, [b"doubtful".to_vec(), b"more".to_vec()]);
}

#[test]
fn what_is_synced_already_costs_no_sync() {
    let (disk, _) = disk_with(&[]);
    let (journal, _) = open(&disk).unwrap();
    let first = journal.append(b"first").unwrap();
    let second = journal.append(b"second").unwrap();
    let before = disk.file_syncs();
    journal.sync(second).unwrap();
    journal.sync(first).unwrap();
    journal.sync(second).unwrap();
    assert_eq!(disk.file_syncs() - before, 1);
}

#[test]
fn an_append_without_space_leaves_a_usable_journal() {
    let (disk, _) = disk_with(&[]);
    let (journal, _) = open(&disk).unwrap();
    disk.fail_call(disk.calls(), ENOSPC);
    let error = journal.append(b"does not fit").unwrap_err();
    assert!(matches!(&error, JournalError::Io { source, .. } if source.raw_os_error() == Some(ENOSPC)));
    journal.append(b"fits").unwrap();
    assert_eq!(open(&disk).unwrap().1.records, [b"fits"]);
    // A torn record that cannot be taken back stops the journal until a checkpoint.
    disk.fail_call(disk.calls(), ENOSPC);
    disk.fail_call(disk.calls() + 1, EIO);
    assert!(journal.append(b"torn").is_err());
    assert!(journal.append(b"behind a torn one").is_err());
    journal.checkpoint(&[b"fits".to_vec()]).unwrap();
    journal.append(b"again").unwrap();
    let (_, replay) = open(&disk).unwrap();
    assert_eq!((replay.records, replay.damage), (vec![b"fits".to_vec(), b"again".to_vec()], vec![]));
}

/// A disk whose syncs wait to be let through, once `gate` is set.
#[derive(Debug)]
struct GatedDisk {
    disk: CrashDisk,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    began: mpsc::SyncSender<()>,
    go: Mutex<mpsc::Receiver<()>>,
    syncs: AtomicU64,
}

#[derive(Debug)]
struct GatedFile {
    file: Box<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for GatedDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(GatedFile { file: self.disk.open(path)?, gate: Arc::clone(&self.gate) }))
    }
    fn open_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>> {
        self.disk.open_sparse(path)
    }
    fn create_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>> {
        self.disk.create_sparse(path)
    }
    fn bytes_taken(&self, path: &Path) -> io::Result<u64> {
        self.disk.bytes_taken(path)
    }
    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename_new(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }
    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }
    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.create_directory(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }
}

impl DiskFile for GatedFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)
    }
    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.file.read_all()
    }
    fn reserve(&self, bytes: u64) -> io::Result<()> {
        self.file.reserve(bytes)
    }
    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.gate.syncs.fetch_add(1, Ordering::SeqCst);
        self.gate.began.send(()).unwrap();
        self.gate.go.lock().unwrap().recv().unwrap();
        self.file.sync()
    }
}

#[test]
fn callers_that_wait_together_share_one_sync() {
    const CALLERS: u64 = 8;
    let (began, begins) = mpsc::sync_channel(64);
    let (go, goes) = mpsc::channel();
    let gate = Arc::new(Gate { began, go: Mutex::new(goes), syncs: AtomicU64::new(0) });
    let disk = CrashDisk::default();
    go.send(()).unwrap();
    let gated = GatedDisk { disk: disk.clone(), gate: Arc::clone(&gate) };
    let (journal, _) = Journal::open(Arc::new(gated), Path::new(DIRECTORY)).unwrap();
    begins.recv().unwrap();
    let (before, done) = (gate.syncs.load(Ordering::SeqCst), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let first = journal.append(b"leader").unwrap();
        let leader = &journal;
        scope.spawn(move || leader.sync(first).unwrap());
        begins.recv_timeout(Duration::from_secs(10)).unwrap();
        // The leader is in the middle of its sync: what is appended now must wait for the next one, together.
        for number in 0..CALLERS {
            let position = journal.append(&number.to_le_bytes()).unwrap();
            let (journal, done) = (&journal, &done);
            scope.spawn(move || {
                journal.sync(position).unwrap();
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        go.send(()).unwrap();
        begins.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(done.load(Ordering::SeqCst), 0, "nobody is told before the sync that covers him ended");
        go.send(()).unwrap();
    });
    assert_eq!(gate.syncs.load(Ordering::SeqCst) - before, 2);
    disk.crash(3);
    assert_eq!(open(&disk).unwrap().1.records.len() as u64, CALLERS + 1);
}

/// One life of a journal: what was appended, and how much of it is known to be synced.
#[derive(Default)]
struct Model {
    appended: Vec<Vec<u8>>,
    synced: usize,
}

impl Model {
    /// All synced records first, then some of the others in their order.
    fn check(&self, found: &[Vec<u8>]) {
        assert!(found.len() >= self.synced, "synced records are gone");
        assert_eq!(found[..self.synced], self.appended[..self.synced]);
        let mut rest = self.appended[self.synced..].iter();
        assert!(found[self.synced..].iter().all(|record| rest.any(|r| r == record)), "invented or reordered");
    }
}

fn run_random_life(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let disk = CrashDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    let mut model = Model::default();
    let mut last = Position(0);
    for step in 0u64..120 {
        if random.u8(0..12) == 0 {
            let errno = if random.bool() { EIO } else { ENOSPC };
            disk.fail_call(disk.calls() + random.u64(0..8), errno);
        }
        match random.u8(0..20) {
            0..10 => {
                let mut record = step.to_le_bytes().to_vec();
                record.resize(8 + random.usize(0..1200), 0xA5);
                if let Ok(position) = journal.append(&record) {
                    last = position;
                    model.appended.push(record);
                }
            }
            10..15 => {
                if journal.sync(last).is_ok() {
                    model.synced = model.appended.len();
                }
            }
            15..18 => {
                if journal.checkpoint(&model.appended).is_ok() {
                    model.synced = model.appended.len();
                }
            }
            _ => {
                // The machine dies, or only the process, which loses nothing.
                if random.bool() {
                    disk.crash(random.u64(..))
                } else {
                    model.synced = model.appended.len()
                }
                let (next, replay) = match open(&disk) {
                    Ok(opened) => opened,
                    // A planned failure hit the opening; the next one finds everything.
                    Err(_) => open_after_failures(&disk),
                };
                model.check(&replay.records);
                (journal, last) = (next, Position(0));
                model = Model { synced: replay.records.len(), appended: replay.records };
            }
        }
    }
}

fn open_after_failures(disk: &CrashDisk) -> (Journal, Replay) {
    (0..16).find_map(|_| open(disk).ok()).expect("planned failures come to an end")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn everything_synced_is_found_in_order_whatever_happens(seed in any::<u64>()) {
        run_random_life(seed);
    }
}

#[test]
fn on_a_real_disk_records_outlive_the_process_at_once() {
    use std::os::unix::fs::PermissionsExt;
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path().join("journal");
    let (journal, replay) = Journal::open(Arc::new(RealDisk), &directory).unwrap();
    assert_eq!(replay.records.len(), 0);
    journal.append(b"one").unwrap();
    // Nothing is dropped or synced yet, as in a kill: the file has it already.
    let bytes = std::fs::read(directory.join("journal-1")).unwrap();
    let found = frame::scan(&bytes, 1).unwrap().records;
    assert_eq!(found.iter().map(|range| &bytes[range.clone()]).collect::<Vec<_>>(), [b"one"]);
    journal.checkpoint(&[b"compact".to_vec()]).unwrap();
    let position = journal.append(b"two").unwrap();
    journal.sync(position).unwrap();
    assert_eq!(journal.bytes_since_checkpoint(), (frame::RECORD_HEADER_BYTES + 3) as u64);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&directory), mode(&directory.join("journal-2"))), (0o700, 0o600));
    assert_eq!(RealDisk.list(&directory).unwrap(), ["journal-2"]);
    let (_, replay) = Journal::open(Arc::new(RealDisk), &directory).unwrap();
    assert_eq!(replay.records, [b"compact".to_vec(), b"two".to_vec()]);
}
