//! A disk in memory that fails on command and, in a crash, loses what was not synced. For tests of every room.
//!
//! It keeps two images: the live one, which a process sees, and the durable one, which a crash goes back to. On the way
//! back a crash keeps what a real one might: of each file's unsynced changes any prefix, the last append torn and
//! unsynced bytes partly turned to zeros; of each directory's unsynced changes any prefix. Files that are written anywhere
//! are in `sparse`.

mod sparse;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::durable::crash_disk::sparse::SparseImage;
use crate::durable::disk::{Disk, DiskFile, SparseFile, parent_of};
use crate::types::{ByteRange, RangeSet};

/// Longest stretch of unsynced bytes that a crash turns to zeros: a sector.
const TORN_BYTES_MAX: usize = 512;
const EIO: i32 = 5;
/// Shares of the unsynced sectors of sparse files that crashes keep.
const SHARES_KEPT: [f64; 5] = [0.0, 0.1, 0.5, 0.9, 1.0];

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk {
    image: Arc<Mutex<Image>>,
}

impl CrashDisk {
    /// Power loss and restart: the live image becomes what was durable, and of the rest what chance keeps.
    /// Open files are dead after this, planned failures forgotten.
    pub fn crash(&self, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let image = &mut *self.lock();
        let keeps = random.choice(SHARES_KEPT).expect("there are some");
        for file in &mut image.files {
            match file {
                Node::Log(file) => file.crash(&mut random),
                Node::Sparse(file) => file.crash(&mut random, keeps),
            }
        }
        let mut kept: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for directory in image.pending.iter().map(NameChange::directory) {
            *kept.entry(directory).or_default() += 1;
        }
        kept.values_mut().for_each(|count| *count = random.usize(0..=*count));
        for change in std::mem::take(&mut image.pending) {
            let left = kept.entry(change.directory()).or_default();
            if *left > 0 {
                *left -= 1;
                change.apply(&mut image.durable);
            }
        }
        image.live = image.durable.clone();
        image.boot += 1;
        image.failures.clear();
        image.stop_at = None;
    }

    /// Calls made so far: of [`Disk`] and of its files.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// How many of them were [`DiskFile::sync`].
    pub fn file_syncs(&self) -> u64 {
        self.lock().file_syncs
    }

    /// Makes the call with this number (the first call ever is 0) fail with a system error number. A failing append
    /// leaves half its bytes; a failing sync loses what was unsynced for good, though the live image still shows it
    /// and later syncs succeed, as kernels do.
    pub fn fail_call(&self, number: u64, errno: i32) {
        self.lock().failures.insert(number, errno);
    }

    /// Makes this call and all after it fail without effect, as if the process had died before it.
    pub fn stop_at(&self, number: u64) {
        self.lock().stop_at = Some(number);
    }

    /// A file's live content.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let image = self.lock();
        image.live.get(path).map(|&file| match &image.files[file] {
            Node::Log(file) => file.live.clone(),
            Node::Sparse(file) => file.bytes().to_vec(),
        })
    }

    /// Puts content under a path, durable at once: what rots or is written by others.
    pub fn put(&self, path: &Path, content: &[u8]) {
        let image = &mut *self.lock();
        let file = image.files.len();
        image.files.push(Node::Log(FileImage {
            live: content.to_vec(),
            durable: content.to_vec(),
            ..FileImage::default()
        }));
        image.live.insert(path.to_owned(), file);
        image.durable.insert(path.to_owned(), file);
    }

    fn lock(&self) -> MutexGuard<'_, Image> {
        self.image.lock().expect("no call on the image panics")
    }
}

impl Disk for CrashDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let image = &mut *self.lock();
        image.enter()?;
        let file = match image.live.get(path) {
            Some(&file) => file,
            None => {
                let file = image.files.len();
                image.files.push(Node::Log(FileImage::default()));
                image.change(NameChange::Create(path.to_owned(), file));
                file
            }
        };
        Ok(Box::new(CrashFile { disk: self.clone(), file, boot: image.boot }))
    }

    fn open_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>> {
        let mut image = self.lock();
        image.enter()?;
        let file = image.find(path)?;
        Ok(Arc::new(CrashFile { disk: self.clone(), file, boot: image.boot }))
    }

    fn create_sparse(&self, path: &Path) -> io::Result<Arc<dyn SparseFile>> {
        let image = &mut *self.lock();
        image.enter()?;
        if image.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = image.files.len();
        image.files.push(Node::Sparse(SparseImage::default()));
        image.change(NameChange::Create(path.to_owned(), file));
        Ok(Arc::new(CrashFile { disk: self.clone(), file, boot: image.boot }))
    }

    fn bytes_taken(&self, path: &Path) -> io::Result<u64> {
        let mut image = self.lock();
        image.enter()?;
        let file = image.find(path)?;
        Ok(match &image.files[file] {
            Node::Log(file) => file.live.len() as u64,
            Node::Sparse(file) => file.bytes_taken(),
        })
    }

    fn rename_new(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut image = self.lock();
        image.enter()?;
        image.find(from)?;
        if image.live.contains_key(to) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        image.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut image = self.lock();
        image.enter()?;
        image.find(from)?;
        image.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut image = self.lock();
        image.enter()?;
        image.find(path)?;
        image.change(NameChange::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let image = &mut *self.lock();
        image.enter()?;
        let (here, elsewhere) =
            std::mem::take(&mut image.pending).into_iter().partition(|change| change.directory() == path);
        image.pending = elsewhere;
        Vec::into_iter(here).for_each(|change: NameChange| change.apply(&mut image.durable));
        Ok(())
    }

    fn create_directory(&self, _path: &Path) -> io::Result<()> {
        // Directories are not modelled: every path has its own.
        self.lock().enter()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut image = self.lock();
        image.enter()?;
        let inside = image.live.keys().filter(|file| parent_of(file) == path);
        Ok(inside.filter_map(|file| file.file_name()?.to_str().map(str::to_owned)).collect())
    }
}

#[derive(Debug)]
struct CrashFile {
    disk: CrashDisk,
    file: usize,
    boot: u64,
}

impl CrashFile {
    /// Runs a call on the file, or the failure planned for it: `broken` says what that leaves behind.
    fn call<T>(&self, run: impl FnOnce(&mut Node) -> T, broken: impl FnOnce(&mut Node)) -> io::Result<T> {
        let image = &mut *self.disk.lock();
        let boot = image.boot;
        let stopped = image.stop_at.is_some_and(|stop| image.calls >= stop);
        match image.enter() {
            Ok(()) if boot == self.boot => Ok(run(&mut image.files[self.file])),
            Ok(()) => Err(io::Error::other("this file was open before the crash")),
            Err(error) => {
                if !stopped {
                    broken(&mut image.files[self.file]);
                }
                Err(error)
            }
        }
    }
}

impl DiskFile for CrashFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.call(|file| file.log().append(bytes), |file| file.log().append(&bytes[..bytes.len() / 2]))
    }

    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.call(|file| file.log().live.clone(), |_| {})
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.call(|file| file.log().truncate(len), |_| {})
    }

    fn reserve(&self, _bytes: u64) -> io::Result<()> {
        // Its failures are those of calls that may fail; there is always room.
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.lock().file_syncs += 1;
        self.call(|file| file.log().sync(), |file| file.log().lose_unsynced())
    }
}

impl SparseFile for CrashFile {
    fn length(&self) -> io::Result<u64> {
        self.call(|file| file.sparse().bytes().len() as u64, |_| {})
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        let half = &bytes[..bytes.len() / 2];
        self.call(|file| file.sparse().write(offset, bytes), |file| file.sparse().write(offset, half))?;
        Ok(bytes.len())
    }

    fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.call(|file| file.sparse().read(offset, bytes), |_| {})?
    }

    fn reserve(&self, range: ByteRange) -> io::Result<()> {
        self.call(|file| file.sparse().reserve(range), |_| {})
    }

    fn punch(&self, range: ByteRange) -> io::Result<()> {
        self.call(|file| file.sparse().punch(range), |_| {})
    }

    fn written(&self) -> io::Result<RangeSet> {
        self.call(|file| file.sparse().written(), |_| {})
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.lock().file_syncs += 1;
        self.call(|file| file.sparse().sync(), |file| file.sparse().lose_unsynced())
    }
}

#[derive(Debug, Default)]
struct Image {
    /// Every file ever made; names point into it.
    files: Vec<Node>,
    live: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Changes that are in `live` and not in `durable`, in order.
    pending: Vec<NameChange>,
    calls: u64,
    file_syncs: u64,
    /// Call numbers that fail, with their error.
    failures: BTreeMap<u64, i32>,
    stop_at: Option<u64>,
    /// Counts crashes; files opened before the last one are dead.
    boot: u64,
}

impl Image {
    /// Counts a call and lets it fail when that is planned.
    fn enter(&mut self) -> io::Result<()> {
        let number = self.calls;
        self.calls += 1;
        if self.stop_at.is_some_and(|stop| number >= stop) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        match self.failures.remove(&number) {
            Some(errno) => Err(io::Error::from_raw_os_error(errno)),
            None => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<usize> {
        self.live.get(path).copied().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn change(&mut self, change: NameChange) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }
}

/// A file of either kind. Each is opened as the kind it was made as.
#[derive(Debug)]
enum Node {
    Log(FileImage),
    Sparse(SparseImage),
}

impl Node {
    fn log(&mut self) -> &mut FileImage {
        match self {
            Node::Log(file) => file,
            Node::Sparse(_) => panic!("this file was made to be written anywhere"),
        }
    }

    fn sparse(&mut self) -> &mut SparseImage {
        match self {
            Node::Sparse(file) => file,
            Node::Log(_) => panic!("this file was made to be appended to"),
        }
    }
}

#[derive(Debug, Default)]
struct FileImage {
    live: Vec<u8>,
    durable: Vec<u8>,
    /// Changes that are in `live` and not in `durable`, in order.
    pending: Vec<Change>,
    /// Bytes that a failed sync lost: in `live` until a crash, zeros afterwards.
    lost: Vec<Range<usize>>,
}

#[derive(Debug)]
enum Change {
    Append(Vec<u8>),
    Truncate(usize),
}

impl FileImage {
    fn append(&mut self, bytes: &[u8]) {
        self.live.extend(bytes);
        self.pending.push(Change::Append(bytes.to_vec()));
    }

    fn truncate(&mut self, len: usize) {
        self.live.truncate(len);
        self.pending.push(Change::Truncate(len));
        self.lost.retain(|range| range.start < len);
        self.lost.iter_mut().for_each(|range| range.end = range.end.min(len));
    }

    fn sync(&mut self) {
        self.durable = self.live.clone();
        self.pending.clear();
    }

    fn lose_unsynced(&mut self) {
        let cuts = self.pending.iter().filter_map(|change| match change {
            Change::Append(_) => None,
            Change::Truncate(len) => Some(*len),
        });
        let synced = cuts.fold(self.durable.len(), usize::min);
        if synced < self.live.len() {
            self.lost.push(synced..self.live.len());
        }
    }

    fn crash(&mut self, random: &mut fastrand::Rng) {
        let synced = self.durable.len();
        let kept = random.usize(0..=self.pending.len());
        for (number, change) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            match change {
                Change::Append(bytes) if number < kept => self.durable.extend(bytes),
                Change::Append(bytes) if number == kept => {
                    self.durable.extend(&bytes[..random.usize(0..=bytes.len())]);
                }
                Change::Truncate(len) if number < kept => self.durable.truncate(len),
                Change::Append(_) | Change::Truncate(_) => break,
            }
        }
        if self.durable.len() > synced && random.u8(0..4) == 0 {
            let start = random.usize(synced..self.durable.len());
            let end = self.durable.len().min(start + random.usize(1..=TORN_BYTES_MAX));
            self.durable[start..end].fill(0);
        }
        for range in std::mem::take(&mut self.lost) {
            let end = range.end.min(self.durable.len());
            self.durable[range.start.min(end)..end].fill(0);
        }
        self.live = self.durable.clone();
    }
}

#[derive(Debug)]
enum NameChange {
    Create(PathBuf, usize),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn directory(&self) -> PathBuf {
        match self {
            NameChange::Create(path, _) | NameChange::Rename(_, path) | NameChange::Remove(path) => {
                parent_of(path).to_owned()
            }
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            NameChange::Create(path, file) => {
                names.insert(path.clone(), *file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            NameChange::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENOSPC: i32 = 28;

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_part_of_the_rest() {
        let path = Path::new("d/x");
        let mut lengths = std::collections::BTreeSet::new();
        let mut vanished = 0;
        for seed in 0..200 {
            let disk = CrashDisk::default();
            let mut file = disk.open(path).unwrap();
            file.append(b"synced").unwrap();
            file.sync().unwrap();
            if seed % 2 == 0 {
                disk.sync_directory(Path::new("d")).unwrap();
            }
            file.append(b"loose").unwrap();
            disk.crash(seed);
            assert!(file.sync().is_err(), "files opened before a crash are dead");
            match disk.content(path) {
                Some(content) => {
                    assert_eq!(&content[..6], b"synced");
                    lengths.insert(content.len());
                }
                None => {
                    assert!(seed % 2 == 1, "a synced name is kept");
                    vanished += 1;
                }
            }
        }
        assert_eq!(lengths, (6..=11).collect());
        assert!(vanished > 0);
    }

    #[test]
    fn names_change_in_order() {
        for seed in 0..50 {
            let disk = CrashDisk::default();
            disk.put(Path::new("a"), b"old");
            disk.put(Path::new("b"), b"new");
            disk.rename(Path::new("b"), Path::new("c")).unwrap();
            disk.remove(Path::new("a")).unwrap();
            disk.crash(seed);
            let names = disk.list(Path::new(".")).unwrap();
            assert!([vec!["a", "b"], vec!["a", "c"], vec!["c"]].iter().any(|n| *n == names), "{names:?}");
        }
    }

    #[test]
    fn failures_come_when_planned() {
        let disk = CrashDisk::default();
        let path = Path::new("x");
        let mut file = disk.open(path).unwrap();
        disk.sync_directory(Path::new(".")).unwrap();
        disk.fail_call(disk.calls(), ENOSPC);
        assert_eq!(file.append(b"12345678").unwrap_err().raw_os_error(), Some(ENOSPC));
        assert_eq!(disk.content(path).unwrap(), b"1234");
        disk.fail_call(disk.calls(), EIO);
        assert!(file.sync().is_err());
        file.append(b"56").unwrap();
        file.sync().unwrap();
        disk.stop_at(disk.calls());
        assert!(file.append(b"x").is_err() && disk.open(path).is_err());
        assert_eq!(disk.content(path).unwrap(), b"123456");
        disk.crash(0);
        assert_eq!(disk.content(path).unwrap(), b"\0\0\0\x0056", "what a failed sync lost stays lost");
    }
}
