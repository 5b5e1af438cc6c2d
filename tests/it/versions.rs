//! Readers, writers and another client at work on the same names at once. Each content that is read is compared with what
//! may be read: one version as a whole, and none older than the last that was finished before the open.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::Rig;

const RUN_FOR: Duration = Duration::from_secs(10);
/// A content consists of blocks that name their version and their place.
const BLOCK: usize = 512;
/// Longest content in blocks: less than one write request, more than one page and one readahead.
const BLOCKS_MAX: u64 = 700;

/// How a file gets its versions. Each file has one source, so that nothing is a conflict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    /// Another client replaces the object.
    Bucket,
    /// A new file is renamed over it.
    Rename,
    /// It is emptied and written anew.
    Truncate,
    /// In turn: another client replaces the object, and it is emptied and written here.
    Turns,
    /// It is written over in place, all of it at once; its length never changes.
    InPlace,
}

/// A file under test.
#[derive(Debug)]
struct Subject {
    source: Source,
    path: PathBuf,
    /// The last version whose writing has begun.
    begun: AtomicU64,
    /// The last version whose writing has ended: whoever opens the file after that reads it or a later one.
    ended: AtomicU64,
    reads: AtomicU64,
    stale_reads: AtomicU64,
    stale_opens: AtomicU64,
}

impl Subject {
    fn blocks(&self, version: u64) -> u64 {
        match self.source {
            Source::InPlace => BLOCKS_MAX,
            // Anything up to the longest, empty included.
            Source::Bucket | Source::Rename | Source::Truncate | Source::Turns => {
                (version.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % (BLOCKS_MAX + 1)
            }
        }
    }

    fn content(&self, version: u64) -> Vec<u8> {
        (0..self.blocks(version)).flat_map(|place| block(version, place)).collect()
    }

    /// What may be read of a file that was opened when `oldest` was the last finished version.
    fn check(&self, seen: &Seen, oldest: u64) -> Result<(), String> {
        let newest = self.begun.load(Ordering::SeqCst);
        match (self.source, seen.is_quiet) {
            (Source::Bucket | Source::Rename, _)
            | (Source::Truncate | Source::Turns | Source::InPlace, true) => {
                match (oldest..=newest).find(|version| seen.bytes == self.content(*version)) {
                    Some(_) => Ok(()),
                    None => {
                        Err(format!("none of {oldest} to {newest} as a whole: {}", describe(&seen.bytes)))
                    }
                }
            }
            // Readers see what is written in place as it is written, byte by byte.
            (Source::Truncate | Source::Turns | Source::InPlace, false) => {
                for (place, found) in seen.bytes.chunks(BLOCK).enumerate() {
                    let blocks: Vec<_> =
                        (oldest..=newest).map(|version| block(version, place as u64)).collect();
                    let is_legal = |(at, byte): (usize, &u8)| blocks.iter().any(|block| block[at] == *byte);
                    if !found.iter().enumerate().all(is_legal) {
                        return Err(format!("not of {oldest} to {newest}: {}", describe(&seen.bytes)));
                    }
                }
                Ok(())
            }
        }
    }
}

/// What was read of a file.
struct Seen {
    bytes: Vec<u8>,
    /// No version was begun or finished meanwhile.
    is_quiet: bool,
}

/// Length and versions of what was read.
fn describe(bytes: &[u8]) -> String {
    let mut versions: Vec<(usize, u64)> = Vec::new();
    for (place, found) in bytes.chunks_exact(BLOCK).enumerate() {
        let version = u64::from_le_bytes(found[..8].try_into().unwrap());
        if versions.last().is_none_or(|(_, last)| *last != version) {
            versions.push((place, version));
        }
    }
    format!("{} bytes, versions from block on: {versions:?}", bytes.len())
}

fn block(version: u64, place: u64) -> Vec<u8> {
    let mut bytes = vec![version as u8 ^ place as u8; BLOCK];
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes[8..16].copy_from_slice(&place.to_le_bytes());
    bytes
}

/// What the threads have in common.
struct Field {
    rig: Rig,
    subjects: Vec<Subject>,
    is_over: AtomicBool,
    faults: Mutex<Vec<String>>,
}

impl Field {
    fn fault(&self, text: String) {
        self.is_over.store(true, Ordering::SeqCst);
        self.faults.lock().unwrap().push(text);
    }

    fn goes_on(&self, until: Instant) -> bool {
        Instant::now() < until && !self.is_over.load(Ordering::SeqCst)
    }

    /// Makes one version after another.
    fn write(&self, subject: &Subject, random: &mut fastrand::Rng, until: Instant) {
        while self.goes_on(until) {
            let version = subject.begun.fetch_add(1, Ordering::SeqCst) + 1;
            if let Err(error) = self.write_one(subject, version) {
                self.fault(format!("{subject:?}: writing version {version}: {error}"));
                return;
            }
            subject.ended.store(version, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(random.u64(0..300)));
        }
    }

    fn write_one(&self, subject: &Subject, version: u64) -> io::Result<()> {
        let bytes = subject.content(version);
        match subject.source {
            Source::Turns if version.is_multiple_of(2) => File::create(&subject.path)?.write_all(&bytes),
            Source::Bucket | Source::Turns => {
                let key = subject.path.file_name().unwrap().to_str().unwrap();
                self.rig.bucket.put_quietly(key, &bytes);
                Ok(())
            }
            Source::Rename => {
                let new = subject.path.with_extension("new");
                fs::write(&new, &bytes)?;
                fs::rename(new, &subject.path)
            }
            Source::Truncate => File::create(&subject.path)?.write_all(&bytes),
            Source::InPlace => OpenOptions::new().write(true).open(&subject.path)?.write_all_at(&bytes, 0),
        }
    }

    /// Opens and reads again and again, some handles for longer than a version lasts.
    fn read(&self, random: &mut fastrand::Rng, until: Instant) {
        while self.goes_on(until) {
            let subject = &self.subjects[random.usize(..self.subjects.len())];
            let oldest = subject.ended.load(Ordering::SeqCst);
            let file = match File::open(&subject.path) {
                Ok(file) => file,
                // Replaced twice within one open: only another client can be so fast.
                Err(error)
                    if error.raw_os_error() == Some(libc::ESTALE)
                        && matches!(subject.source, Source::Bucket | Source::Turns) =>
                {
                    subject.stale_opens.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                Err(error) => return self.fault(format!("{subject:?}: open: {error}")),
            };
            for _ in 0..random.usize(1..3) {
                match self.read_one(subject, &file, random) {
                    Ok(Some(seen)) => {
                        subject.reads.fetch_add(1, Ordering::SeqCst);
                        if let Err(fault) = subject.check(&seen, oldest) {
                            return self.fault(format!("{subject:?}: opened after {oldest}: {fault}"));
                        }
                    }
                    Ok(None) => {
                        subject.stale_reads.fetch_add(1, Ordering::SeqCst);
                        break;
                    }
                    Err(error) => return self.fault(format!("{subject:?}: read: {error}")),
                }
                std::thread::sleep(Duration::from_millis(random.u64(0..20)));
            }
        }
    }

    /// The whole of an open file, in pieces; `None` where its version is gone.
    fn read_one(
        &self,
        subject: &Subject,
        file: &File,
        random: &mut fastrand::Rng,
    ) -> io::Result<Option<Seen>> {
        let begun = subject.begun.load(Ordering::SeqCst);
        let was_quiet = subject.ended.load(Ordering::SeqCst) == begun;
        let len = file.metadata()?.len();
        let mut bytes = Vec::new();
        loop {
            let mut piece = vec![0; random.usize(1..100_000)];
            match file.read_at(&mut piece, bytes.len() as u64) {
                Ok(0) => break,
                Ok(read) => bytes.extend_from_slice(&piece[..read]),
                // The version went before all of it was fetched.
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(None),
                Err(error) => return Err(error),
            }
            if random.u8(..4) == 0 {
                std::thread::sleep(Duration::from_millis(random.u64(0..3)));
            }
        }
        let is_one_version = matches!(subject.source, Source::Bucket | Source::Rename);
        if is_one_version && bytes.len() as u64 != len {
            let ino = file.metadata()?.ino();
            return Err(io::Error::other(format!("{} bytes of a file of {len}, inode {ino}", bytes.len())));
        }
        let is_quiet = was_quiet && subject.begun.load(Ordering::SeqCst) == begun;
        Ok(Some(Seen { bytes, is_quiet }))
    }
}

/// Returns how many files were passed through, and how many reads were not.
fn play(options: &[&str]) -> (u64, u64) {
    let seed = std::env::var("TETHERFS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("TETHERFS_TEST_SEED={seed} with {options:?}");
    let rig = Rig::mounted(options);
    let subject = |source: Source| Subject {
        source,
        path: rig.path(&format!("{source:?}")),
        begun: AtomicU64::new(0),
        ended: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        stale_reads: AtomicU64::new(0),
        stale_opens: AtomicU64::new(0),
    };
    let sources = [Source::Bucket, Source::Rename, Source::Truncate, Source::Turns, Source::InPlace];
    let subjects: Vec<Subject> = sources.into_iter().map(subject).collect();
    for subject in &subjects {
        rig.bucket.put_quietly(&format!("{:?}", subject.source), &subject.content(0));
    }
    let field = Arc::new(Field { rig, subjects, is_over: AtomicBool::new(false), faults: Mutex::default() });
    let until = Instant::now() + RUN_FOR;
    std::thread::scope(|scope| {
        for (index, subject) in field.subjects.iter().enumerate() {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(index as u64));
            let field = &field;
            scope.spawn(move || field.write(subject, &mut random, until));
        }
        for index in 0..3 {
            let mut random = fastrand::Rng::with_seed(seed.wrapping_add(100 + index));
            let field = &field;
            scope.spawn(move || field.read(&mut random, until));
        }
    });
    let faults = field.faults.lock().unwrap().clone();
    assert!(faults.is_empty(), "seed {seed}: {faults:#?}");
    for subject in &field.subjects {
        eprintln!("{subject:?}");
        assert!(subject.reads.load(Ordering::SeqCst) > 0, "{subject:?}");
        let last = subject.ended.load(Ordering::SeqCst);
        assert!(fs::read(&subject.path).unwrap() == subject.content(last), "the last version of {subject:?}");
        let key = subject.path.file_name().unwrap().to_str().unwrap();
        assert!(field.rig.bucket.get(key).unwrap() == subject.content(last), "{subject:?} in the bucket");
    }
    let mut keys = field.rig.bucket.keys();
    keys.sort();
    assert_eq!(keys, ["Bucket", "InPlace", "Rename", "Truncate", "Turns"], "nothing was a conflict");
    (field.rig.metric("passthrough_opens"), field.rig.metric("fuse_reads"))
}

#[test]
fn versions_are_never_mixed_while_files_are_passed_through() {
    let (passed_through, reads) = play(&["--metadata-ttl=0"]);
    assert!(passed_through > 10 && reads > 10, "{passed_through} and {reads}");
}

#[test]
fn versions_are_never_mixed_in_the_page_cache() {
    let (passed_through, reads) = play(&["--metadata-ttl=0", "--passthrough=false"]);
    assert!(passed_through == 0 && reads > 10, "{passed_through} and {reads}");
}
