//! Staging on a real disk, against a model in memory.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::durable::{Disk, RealDisk};
use crate::observe::{Counter, Gauge, Metrics};

const PAGE: usize = 4096;
const SPACE: u64 = 40_000;

/// An area in a directory of its own.
struct Place {
    directory: TempDir,
    metrics: Arc<Metrics>,
    area: Arc<StagingArea>,
}

fn place(pages_max: usize) -> Place {
    let directory = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::default());
    let area = open_area(directory.path(), pages_max, &metrics);
    Place { directory, metrics, area }
}

fn open_area(directory: &Path, pages_max: usize, metrics: &Arc<Metrics>) -> Arc<StagingArea> {
    let limit = ByteSize((pages_max * PAGE) as u64);
    StagingArea::open(Arc::new(RealDisk), &directory.join("staging"), limit, Arc::clone(metrics)).unwrap()
}

impl Place {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("staging").join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn used_pages(&self) -> usize {
        assert_eq!(self.area.used().0, self.metrics.level(Gauge::StagingBytes));
        assert!(self.area.used().0.is_multiple_of(PAGE as u64));
        self.area.used().0 as usize / PAGE
    }
}

const WHOLE: ByteRange = ByteRange { start: 0, end: u64::MAX };

fn flat(pieces: Vec<StagedPiece>) -> Vec<Option<u8>> {
    let mut at = pieces.first().map_or(0, |piece| piece.range.start);
    let mut all = Vec::new();
    for piece in pieces {
        assert_eq!(piece.range.start, at, "pieces follow each other");
        at = piece.range.end;
        let len = piece.range.len() as usize;
        match piece.bytes {
            Some(bytes) => {
                assert_eq!(bytes.len(), len);
                all.extend(bytes.into_iter().map(Some));
            }
            None => all.extend(vec![None; len]),
        }
    }
    all
}

#[derive(Clone, Debug)]
enum Step {
    Write { at: u64, len: usize },
    Truncate { size: u64 },
    Freeze,
    FreezeRange { at: u64, len: u64 },
    Drop { which: prop::sample::Index },
    Read { at: u64, len: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let page = SPACE / PAGE as u64;
    let step = prop_oneof![
        4 => (0..SPACE, 1usize..9000).prop_map(|(at, len)| Step::Write { at, len }),
        3 => (0..page).prop_map(|page| Step::Write { at: page * PAGE as u64, len: PAGE }),
        1 => (0..SPACE).prop_map(|size| Step::Truncate { size }),
        2 => Just(Step::Freeze),
        1 => (0..SPACE, 0..SPACE).prop_map(|(at, len)| Step::FreezeRange { at, len }),
        2 => any::<prop::sample::Index>().prop_map(|which| Step::Drop { which }),
        2 => (0..SPACE, 0..SPACE).prop_map(|(at, len)| Step::Read { at, len }),
    ];
    proptest::collection::vec(step, 1..50)
}

fn slice(model: &[Option<u8>], range: ByteRange) -> &[Option<u8>] {
    let range = range.clip(model.len() as u64);
    &model[range.start as usize..range.end as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn behaves_like_bytes_in_memory_with_snapshots(steps in steps()) {
        let place = place(1000);
        let staging = place.area.create(1);
        let mut model: Vec<Option<u8>> = Vec::new();
        let mut snapshots: Vec<(Snapshot, Vec<Option<u8>>)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Write { at, len } => {
                    let bytes: Vec<u8> = (0..len).map(|i| (i * 7 + number * 31) as u8).collect();
                    staging.write(at, &bytes).unwrap();
                    let (at, end) = (at as usize, at as usize + len);
                    model.resize(model.len().max(end), None);
                    model[at..end].copy_from_slice(&bytes.into_iter().map(Some).collect::<Vec<_>>());
                }
                Step::Truncate { size } => {
                    staging.truncate(size);
                    model.resize(size as usize, None);
                }
                Step::Freeze => {
                    let snapshot = staging.freeze().unwrap();
                    prop_assert!(snapshot.extents().iter().all(|extent| extent.crc.is_some()));
                    prop_assert_eq!(snapshot.verify(), vec![]);
                    snapshots.push((snapshot, model.clone()));
                }
                Step::FreezeRange { at, len } => {
                    let range = ByteRange::at(at, len);
                    let mut content = vec![None; model.len()];
                    let part = range.clip(model.len() as u64);
                    content[part.start as usize..part.end as usize].copy_from_slice(slice(&model, range));
                    snapshots.push((staging.freeze_range(range), content));
                }
                Step::Drop { which } if !snapshots.is_empty() => {
                    snapshots.swap_remove(which.index(snapshots.len()));
                }
                Step::Drop { .. } => {}
                Step::Read { at, len } => {
                    let range = ByteRange::at(at, len);
                    prop_assert_eq!(flat(staging.read(range).unwrap()), slice(&model, range));
                    for (snapshot, content) in &snapshots {
                        let part = slice(content, range);
                        prop_assert_eq!(flat(snapshot.read(range).unwrap()), part);
                        let whole: Option<Vec<u8>> = part.iter().copied().collect();
                        prop_assert_eq!(snapshot.read_whole(range).unwrap(), whole);
                    }
                }
            }
            prop_assert_eq!(staging.size(), model.len() as u64);
        }
        for (snapshot, content) in &snapshots {
            prop_assert_eq!(&flat(snapshot.read(WHOLE).unwrap()), content);
            prop_assert_eq!(snapshot.size(), content.len() as u64);
            prop_assert_eq!(snapshot.verify(), vec![]);
        }
        snapshots.clear();
        prop_assert_eq!(&flat(staging.read(WHOLE).unwrap()), &model);
        let staged: RangeSet =
            (0..).zip(&model).filter(|(_, byte)| byte.is_some()).map(|(at, _)| ByteRange::at(at, 1)).collect();
        prop_assert_eq!(staging.staged(), staged);
        staging.truncate(0);
        prop_assert_eq!(place.used_pages(), 0, "nothing is needed any more");
    }
}

#[test]
fn sync_and_rewrite_stays_within_bounded_space() {
    let place = place(16);
    let staging = place.area.create(1);
    let mut sealed = None;
    for round in 0..1000u32 {
        staging.write(8192, &[round as u8; PAGE]).unwrap();
        let snapshot = staging.freeze().unwrap();
        assert_eq!(flat(snapshot.read(ByteRange::at(8192, 1)).unwrap()), [Some(round as u8)]);
        sealed = Some(snapshot);
        assert!(place.used_pages() <= 2, "round {round}: {} pages", place.used_pages());
    }
    let taken = |name: &String| RealDisk.bytes_taken(&place.path(name)).unwrap();
    let on_disk: u64 = place.names().iter().map(taken).sum();
    assert!(on_disk <= 4 * PAGE as u64, "{on_disk} bytes on disk");
    drop(sealed);
    assert_eq!(place.used_pages(), 1);
}

#[test]
fn the_limit_is_hard_and_exact_to_the_page() {
    let place = place(4);
    let (one, two) = (place.area.create(1), place.area.create(2));
    one.write(0, &[1; 3 * PAGE]).unwrap();
    two.write(100, &[2; PAGE - 100]).unwrap();
    assert_eq!(place.used_pages(), 4);
    let full = StagingError::Full { limit: ByteSize(4 * PAGE as u64) };
    assert_eq!(two.write(PAGE as u64, b"x"), Err(full.clone()));
    assert_eq!(one.write(2 * PAGE as u64 + 1, &[3; PAGE]), Err(full.clone()));
    assert_eq!((one.size(), two.size()), (3 * PAGE as u64, PAGE as u64));
    assert_eq!(flat(one.read(WHOLE).unwrap()), vec![Some(1); 3 * PAGE], "nothing was changed");
    two.write(0, &[2; PAGE]).unwrap();
    // A snapshot makes a rewrite need space; dropping it gives the space back.
    let snapshot = two.freeze().unwrap();
    assert_eq!(two.write(0, b"y"), Err(full));
    drop(snapshot);
    two.write(0, b"y").unwrap();
    one.truncate(PAGE as u64 + 1);
    assert_eq!(place.used_pages(), 3);
    one.remove().unwrap();
    drop(one);
    assert_eq!(place.used_pages(), 1);
    assert_eq!(place.names(), ["0000000000000002.home"]);
}

#[test]
fn a_file_of_a_tebibyte_takes_the_pages_written() {
    let place = place(8);
    let staging = place.area.create(1);
    staging.write(1 << 40, b"far").unwrap();
    staging.write(0, b"near").unwrap();
    assert_eq!(staging.size(), (1 << 40) + 3);
    assert_eq!(place.used_pages(), 2);
    let pieces = staging.read(ByteRange::at((1 << 40) - 1, 100)).unwrap();
    assert_eq!(flat(pieces), [None, Some(b'f'), Some(b'a'), Some(b'r')]);
    staging.truncate(1 << 62);
    assert_eq!(staging.freeze().unwrap().verify(), []);
    let error = staging.write(u64::MAX - 5, b"beyond").unwrap_err();
    assert!(matches!(error, StagingError::Io { errno: libc::EFBIG, .. }), "{error}");
}

#[test]
fn a_later_process_finds_what_was_sealed() {
    let place = place(1000);
    let staging = place.area.create(7);
    staging.write(0, &[1; 10_000]).unwrap();
    let first = staging.freeze().unwrap();
    staging.write(4000, &[2; 5000]).unwrap();
    let sealed = staging.freeze().unwrap();
    sealed.sync().unwrap();
    let (record, size) = (serde_json::to_string(sealed.extents()).unwrap(), sealed.size());
    let content = flat(sealed.read(WHOLE).unwrap());
    staging.write(3000, &[3; 20_000]).unwrap();
    let mode = |name| std::fs::metadata(place.path(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode(""), mode("0000000000000007.home"), mode("0000000000000007.spill")),
        (0o700, 0o600, 0o600)
    );
    // The process dies: nothing is dropped in order. (Snapshots are forgotten, so nothing is freed.)
    std::mem::forget((first, sealed, staging));
    let metrics = Arc::new(Metrics::default());
    let area = open_area(place.directory.path(), 1000, &metrics);
    assert_eq!(area.leftovers(), [7]);
    assert!(area.used().0 >= 20_000, "leftovers count at once");
    let extents: Vec<Extent> = serde_json::from_str(&record).unwrap();
    let staging = area.reopen(7, &extents, size).unwrap();
    assert!(area.leftovers().is_empty());
    assert_eq!(flat(staging.read(WHOLE).unwrap()), content);
    let sealed = staging.freeze().unwrap();
    assert_eq!(sealed.verify(), []);
    staging.write(0, &[4; 15_000]).unwrap();
    assert_eq!(flat(sealed.read(WHOLE).unwrap()), content);
    drop((sealed, staging));
    assert_eq!(area.leftovers(), [7], "dropped without removal, it is there for the next time");
    let staging = area.reopen(7, &[], 0).unwrap();
    staging.remove().unwrap();
    drop(staging);
    assert_eq!((area.used(), area.leftovers()), (ByteSize(0), vec![]));
}

#[test]
fn extents_that_cannot_be_true_are_refused() {
    let place = place(1000);
    let staging = place.area.create(7);
    staging.write(0, &[1; 10_000]).unwrap();
    let extents = staging.freeze().unwrap().extents().to_vec();
    drop(staging);
    let lower = extents[0].cut(ByteRange::new(0, 100)).unwrap();
    assert!(matches!(place.area.reopen(7, &extents, 9_999), Err(ReopenError::Extents { at: 0 })));
    assert!(matches!(place.area.reopen(7, &[extents[0], lower], 10_000), Err(ReopenError::Extents { .. })));
    let missing = Extent { place: crate::write::extents::Place::Spill(0), ..lower };
    let error = place.area.reopen(7, &[missing], 10_000).unwrap_err();
    assert!(matches!(error, ReopenError::Short { len: 0, needed: 100, .. }), "{error}");
    std::fs::File::options()
        .write(true)
        .open(place.path("0000000000000007.home"))
        .unwrap()
        .set_len(9000)
        .unwrap();
    let error = place.area.reopen(7, &extents, 10_000).unwrap_err();
    assert!(matches!(error, ReopenError::Short { len: 9000, needed: 10_000, .. }), "{error}");
    assert_eq!(place.area.leftovers(), [7], "refused files stay where they are");
}

#[test]
fn a_flipped_byte_is_found() {
    let place = place(4000);
    let staging = place.area.create(7);
    let bytes = vec![5; 5 << 20];
    staging.write(0, &bytes).unwrap();
    let first = staging.freeze().unwrap();
    staging.write(100, b"spilled").unwrap();
    let second = staging.freeze().unwrap();
    assert_eq!((first.verify(), second.verify()), (vec![], vec![]));
    let flip = |name, at: u64| {
        let file = std::fs::File::options().read(true).write(true).open(place.path(name)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    };
    flip("0000000000000007.spill", 3);
    assert_eq!((first.verify(), second.verify()), (vec![], vec![ByteRange::at(100, 7)]));
    flip("0000000000000007.home", 4 << 20);
    assert_eq!(first.verify(), [ByteRange::new(4 << 20, 5 << 20)]);
}

#[test]
fn leftovers_are_moved_aside_whole() {
    let place = place(100);
    let staging = place.area.create(0xAB);
    staging.write(0, b"home").unwrap();
    let snapshot = staging.freeze().unwrap();
    staging.write(2, b"over").unwrap();
    drop((staging, snapshot));
    let to = place.directory.path().join("recovered");
    let moved = place.area.quarantine(0xAB, &to).unwrap();
    assert_eq!(moved, [to.join("00000000000000ab.home"), to.join("00000000000000ab.spill")]);
    let content = |path| std::fs::read(path).unwrap();
    assert_eq!((&content(&moved[0])[..2], &content(&moved[1])[..2]), (&b"ho"[..], &b"ov"[..]));
    assert_eq!(content(&moved[0])[4..], *b"er", "what was not needed by the snapshot went home");
    assert_eq!((place.used_pages(), place.area.leftovers(), place.names().len()), (0, vec![], 0));
    assert_eq!(place.metrics.count(Counter::Quarantined), 1);
}

#[test]
fn removed_files_stay_readable_for_living_snapshots() {
    let place = place(100);
    let staging = place.area.create(1);
    staging.write(0, b"content").unwrap();
    let snapshot = staging.freeze().unwrap();
    staging.remove().unwrap();
    staging.write(0, b"changed").unwrap();
    drop(staging);
    assert_eq!(snapshot.read(WHOLE).unwrap()[0].bytes.as_deref(), Some(&b"content"[..]));
    assert!(place.used_pages() > 0);
    drop(snapshot);
    assert_eq!((place.used_pages(), place.names().len(), place.area.leftovers().len()), (0, 0, 0));
}

#[test]
fn versions_tell_what_changed() {
    let place = place(100);
    let staging = place.area.create(1);
    staging.write(0, &[1; 1000]).unwrap();
    let part = staging.freeze_range(ByteRange::new(0, 500));
    assert_eq!(part.version(), staging.version());
    staging.write(500, b"behind it").unwrap();
    staging.truncate(2000);
    assert!(staging.version() > part.version());
    assert!(!staging.changed_since(part.version(), ByteRange::new(0, 500)));
    assert!(staging.changed_since(part.version(), ByteRange::new(1999, 2000)));
    staging.write(499, b"!").unwrap();
    assert!(staging.changed_since(part.version(), ByteRange::new(0, 500)));
    assert!(!staging.changed_since(staging.version(), WHOLE));
}

#[test]
fn snapshots_hold_while_others_write() {
    let place = place(1000);
    let staging = place.area.create(1);
    staging.write(0, &[0; 8 * PAGE]).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3u64 {
            let staging = &staging;
            scope.spawn(move || {
                for round in 0..200u64 {
                    let at = (thread * 5003 + round * 7919) % (7 * PAGE as u64);
                    staging.write(at, &[round as u8; PAGE]).unwrap();
                }
            });
        }
        for _ in 0..60 {
            let snapshot = staging.freeze().unwrap();
            let content = flat(snapshot.read(WHOLE).unwrap());
            assert_eq!(snapshot.verify(), []);
            assert_eq!(flat(snapshot.read(WHOLE).unwrap()), content);
        }
    });
    assert!(place.used_pages() >= 8);
    staging.truncate(0);
    assert_eq!(place.used_pages(), 0);
}

/// A file system of its own, unmounted at the end.
struct Tmpfs(TempDir);

impl Tmpfs {
    fn mount(pages: usize) -> Option<Tmpfs> {
        let directory = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(format!("size={}", pages * PAGE)).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        match rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, Some(options.as_c_str())) {
            Ok(()) => Some(Tmpfs(directory)),
            Err(error) => {
                eprintln!("SKIPPED: cannot mount a tmpfs here: {error}");
                None
            }
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_with_its_errno_and_harms_nothing() {
    let Some(disk) = Tmpfs::mount(8) else {
        return;
    };
    let metrics = Arc::new(Metrics::default());
    let area = open_area(disk.0.path(), 1000, &metrics);
    let staging = area.create(1);
    staging.write(0, &[1; 3 * PAGE]).unwrap();
    let sealed = staging.freeze().unwrap();
    let error = staging.write(PAGE as u64, &[2; 12 * PAGE]).unwrap_err();
    assert!(matches!(&error, StagingError::Io { errno: libc::ENOSPC, .. }), "{error}");
    assert_eq!(staging.size(), 3 * PAGE as u64, "a failed write does not grow the file");
    assert_eq!(flat(sealed.read(WHOLE).unwrap()), vec![Some(1); 3 * PAGE]);
    let now = flat(staging.read(WHOLE).unwrap());
    assert_eq!(now[..PAGE], vec![Some(1); PAGE]);
    assert!(now[PAGE..].iter().all(|byte| matches!(byte, Some(1 | 2))));
    assert_eq!(staging.freeze().unwrap().verify(), []);
    assert!(area.used().0 <= 8 * PAGE as u64, "what was not written is not counted");
    drop(sealed);
    staging.truncate(0);
    assert_eq!(area.used().0, 0);
    staging.write(0, &[3; 7 * PAGE]).unwrap();
    assert_eq!(flat(staging.read(WHOLE).unwrap()), vec![Some(3); 7 * PAGE]);
}
