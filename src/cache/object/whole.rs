//! An object as a whole: proven, compared with the store, sealed, handed out as one file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::cache::Disk;
use crate::cache::files::map::Slot;
use crate::cache::files::seal::{Judgement, Proof, Seal, Verdict};
use crate::cache::files::witness::{BootId, Witness};
use crate::cache::files::{Pair, WholeSum};
use crate::cache::object::presence::{Chunks, SealOnDisk};
use crate::cache::object::{CachedObject, Files};
use crate::observe::Counter;
use crate::types::Crc64;

/// All bytes of one version of one object in one local file, every one of them checked, and the whole compared with the
/// store's checksum where the store has one. While it is held, nothing of the object is evicted. The file is open for
/// reading only; it must not be used after this value has been dropped.
#[derive(Debug)]
pub struct WholeFile {
    file: File,
    object: Arc<CachedObject>,
}

/// What has come of comparing a cached object with the store's checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judged {
    /// The store has the same.
    Same,
    /// The store has none to compare with.
    NotTold,
    /// The store has another: all chunks have been taken off.
    Different,
    /// Not all chunks are here.
    Incomplete,
}

impl CachedObject {
    /// All of the object as one file, if every chunk of it is here and proven and the whole has been compared with the
    /// store. Never waits for more than a look at the map. When only the proof is missing, it is made in the background,
    /// for the next time.
    pub fn whole(self: &Arc<Self>) -> Option<WholeFile> {
        let (disk, header) = (self.cache.disk()?, self.header.get()?);
        self.look();
        let files = self.read_files();
        let Files::Open(pair) = &*files else {
            return None;
        };
        let witness = pair.witness().ok()?;
        let (is_complete, is_proven, is_judged) = self.known(|chunks| {
            chunks.see(witness);
            let is_complete = header.size > 0 && chunks.is_complete(header.chunks());
            (is_complete, chunks.is_all_proven(), chunks.judgement().is_some())
        })?;
        if is_complete && !is_proven {
            disk.prover.want(&self.cache, self.name);
        }
        if !is_complete || !is_proven || !is_judged || witness.bytes != header.size {
            return None;
        }
        // Under the name there must be what we have open, and still as it was a moment ago.
        let file = File::open(self.name.data(&disk.directory)).ok()?;
        if Witness::of(&file).ok()? != witness {
            return None;
        }
        self.handed_out.fetch_add(1, Ordering::SeqCst);
        self.is_used.store(true, Ordering::Relaxed);
        Some(WholeFile { file, object: self.clone() })
    }

    /// The checksum of the whole object, if all of it is here: that of the bytes that were put.
    pub fn whole_crc(&self) -> Option<Crc64> {
        self.look();
        let files = self.read_files();
        match &*files {
            Files::Open(pair) if self.is_complete() => pair.whole_crc().ok().flatten(),
            Files::Open(_) | Files::Unopened | Files::Missing | Files::Unusable => None,
        }
    }

    /// Whether all of the object is here and nobody has compared it with the store or is about to. If so, the caller
    /// is: it must call [`CachedObject::judge`], or [`CachedObject::leave_unjudged`] if it cannot.
    pub fn begin_judging(&self) -> bool {
        self.is_unjudged() && !self.is_being_judged.swap(true, Ordering::SeqCst)
    }

    /// Whether all of the object is here and it has not been compared with the store.
    pub fn is_unjudged(&self) -> bool {
        self.look();
        let is_judged = self.known(|chunks| chunks.judgement().is_some()).unwrap_or(true);
        self.is_complete() && !is_judged
    }

    /// Ends what [`CachedObject::begin_judging`] began, without a result.
    pub fn leave_unjudged(&self) {
        self.is_being_judged.store(false, Ordering::SeqCst);
    }

    /// Compares the whole object with the store's checksum (`None`: the store has none). What is the same, or cannot be
    /// compared, is sealed; of what is different nothing is ever served again.
    pub fn judge(&self, store: Option<Crc64>) -> Judged {
        let judged = self.compare(store);
        self.leave_unjudged();
        judged
    }

    fn compare(&self, store: Option<Crc64>) -> Judged {
        self.look();
        let Some(disk) = self.cache.disk() else {
            return Judged::Incomplete;
        };
        let mut files = self.write_files();
        let Files::Open(pair) = &*files else {
            return Judged::Incomplete;
        };
        if let Some(judgement) = self.known(|chunks| chunks.judgement()).flatten() {
            return match judgement.verdict {
                Verdict::Same => Judged::Same,
                Verdict::NotTold => Judged::NotTold,
            };
        }
        let crc = match pair.whole_crc() {
            Ok(Some(crc)) if self.is_complete() => crc,
            Ok(_) => return Judged::Incomplete,
            Err(error) => {
                self.cache.note_failure(disk, &error);
                return Judged::Incomplete;
            }
        };
        let (verdict, judged) = match store {
            Some(store) if store == crc => (Verdict::Same, Judged::Same),
            None => (Verdict::NotTold, Judged::NotTold),
            Some(store) => {
                self.throw_out(disk, &mut files, &format!("its checksum is {crc}, the store says {store}"));
                return Judged::Different;
            }
        };
        self.known(|chunks| {
            chunks.judge(Judgement { crc, verdict });
            seal(pair, chunks);
        });
        judged
    }

    /// Takes off what is here, because the object has been found not to have the store's checksum before all of it was.
    pub fn distrust(&self) {
        if let Some(disk) = self.cache.disk() {
            self.throw_out(
                disk,
                &mut self.write_files(),
                "it does not have the checksum that the store tells",
            );
        }
    }

    /// Has nothing of the object served again, and says why. The caller holds `files` for writing.
    fn throw_out(&self, disk: &Disk, files: &mut Files, why: &str) {
        self.cache.metrics.add(Counter::CacheWholeMismatch, 1);
        if let Some(header) = self.header.get() {
            log::error!(
                "What was read of {} (version {}) is not what is in the bucket and leaves the cache: {why}. \
                 If that comes back, check the object itself",
                header.key,
                header.etag
            );
        }
        if let Err(error) = self.remove_files(disk, files) {
            self.cache.note_failure(disk, &error);
            // The slots on disk are good, the bytes are not: at least this process serves none of them.
            self.known(|chunks| *chunks = Chunks::default());
        }
    }

    /// Whether all chunks are here.
    pub(in crate::cache) fn is_complete(&self) -> bool {
        self.header.get().is_some_and(|header| {
            header.size > 0 && self.known(|chunks| chunks.is_complete(header.chunks())).unwrap_or(false)
        })
    }

    /// Renews the seal, where there is reason. True when all is here and proven.
    pub(super) fn seal_if_proven(&self) -> bool {
        let files = self.write_files();
        let Files::Open(pair) = &*files else {
            return false;
        };
        let Ok(now) = pair.witness() else {
            return false;
        };
        self.known(|chunks| {
            chunks.see(now);
            seal(pair, chunks);
            chunks.is_complete(pair.header().chunks()) && chunks.is_all_proven()
        })
        .unwrap_or(false)
    }

    /// Whether the cache lives only through this object.
    pub(super) fn is_last_user(&self) -> bool {
        Arc::strong_count(&self.cache) == 1
    }

    /// A whole file has been given back.
    fn take_back(&self) {
        if self.handed_out.fetch_sub(1, Ordering::SeqCst) > 1 {
            return;
        }
        let Some(disk) = self.cache.disk() else {
            return;
        };
        self.cache.bring_back(disk, self.name);
        // What was read through it was not seen here.
        let groups: Vec<u64> =
            self.known(|chunks| chunks.groups().map(|(group, _)| group).collect()).unwrap_or_default();
        self.cache.books(disk, |ledger| groups.iter().for_each(|&group| ledger.touch(self.unit(group))));
    }
}

impl AsFd for WholeFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for WholeFile {
    fn drop(&mut self) {
        self.object.take_back();
    }
}

/// Reads which chunks are here, and what the seal is worth: a judgement holds if the chunks combine to its checksum, a
/// proof if the chunk file is as it was, in the same boot.
pub(super) fn read_map(pair: &Pair) -> io::Result<Chunks> {
    let header = pair.header();
    let mut chunks = Chunks::new(pair.witness().ok());
    let (mut sum, mut damaged) = (WholeSum::default(), Vec::new());
    pair.visit_slots(&mut |chunk, slot| match slot {
        Slot::Here(_) => {
            chunks.insert(chunk);
            sum.add(chunk, slot, header.chunk_range(chunk));
        }
        Slot::Damaged => damaged.push(chunk),
        Slot::Absent => {}
    })?;
    for chunk in damaged {
        if let Err(error) = pair.clear_slots(chunk..chunk + 1) {
            log::debug!("Cannot clear a damaged slot: {error}");
        }
    }
    let seal = pair.read_seal()?;
    let holds = |seal: &Seal| sum.of_chunks(header.chunks()) == Some(seal.judgement.crc);
    match seal.filter(holds) {
        Some(seal) => {
            chunks.judge(seal.judgement);
            let proof = seal.proof.filter(|proof| Some(proof.boot) == BootId::current());
            chunks.seal(proof.map_or(SealOnDisk::Verdict, |proof| SealOnDisk::Proof(proof.witness)));
            if chunks.is_sealed() {
                chunks.prove_all();
            }
        }
        None => {
            if let Err(error) = pair.clear_seal() {
                log::debug!("Cannot clear a useless seal: {error}");
            }
        }
    }
    Ok(chunks)
}

/// Writes the seal that a judged object deserves, unless it is there. Without it the work is done again, no more.
pub(super) fn seal(pair: &Pair, chunks: &mut Chunks) {
    let Some(judgement) = chunks.judgement() else {
        return;
    };
    let witness = chunks.witness().filter(|_| chunks.is_all_proven());
    // What was proven is so only as long as the file looks as it did.
    let witness = witness.filter(|&witness| pair.witness().is_ok_and(|now| now == witness));
    let proof = BootId::current().zip(witness).map(|(boot, witness)| Proof { boot, witness });
    let wanted = proof.map_or(SealOnDisk::Verdict, |proof| SealOnDisk::Proof(proof.witness));
    if !chunks.lacks(wanted) {
        return;
    }
    match pair.write_seal(&Seal { judgement, proof }) {
        Ok(()) => chunks.seal(wanted),
        Err(error) => log::debug!("Cannot seal a cached object: {error}"),
    }
}
