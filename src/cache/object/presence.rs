//! Which chunks of an object are here, and which of those are proven: pure, without any I/O.
//!
//! A chunk is *proven* when this process has written it, or has read and checked it, and nobody else has changed the
//! chunk file since. What "since" means is the witness: the look of the file after our own last change. When the file
//! looks otherwise, somebody else was there, and nothing is proven any more.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::cache::files::map::Header;
use crate::cache::files::seal::Judgement;
use crate::cache::files::witness::Witness;
use crate::types::{ByteRange, RangeSet};

/// Chunks that are evicted together. At most 16: a group's chunks are the bits of a `u16`.
pub(crate) const GROUP_CHUNKS: u64 = 16;

/// The chunks of an object whose map has been read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunks {
    /// Groups without any chunk are left out.
    groups: BTreeMap<u64, Bits>,
    /// INVARIANT: the number of `here` bits.
    here: u64,
    /// INVARIANT: the number of `proven` bits.
    proven: u64,
    /// How the chunk file must look for `proven` to hold.
    witness: Option<Witness>,
    /// What has been found of the whole object. Only while all chunks are here, and for just these.
    judgement: Option<Judgement>,
    seal: SealOnDisk,
}

/// What the seal on disk says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum SealOnDisk {
    /// There is none.
    #[default]
    None,
    /// What the store says, no more.
    Verdict,
    /// That all was proven in this boot, whether that still holds or not.
    Proof(Witness),
}

/// Bit n stands for the n-th chunk of a group. INVARIANT: what is proven is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Bits {
    here: u16,
    proven: u16,
}

impl Chunks {
    /// Those of a chunk file that looks like this.
    pub(crate) fn new(witness: Option<Witness>) -> Chunks {
        Chunks { witness, ..Chunks::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn has(&self, chunk: u64) -> bool {
        self.bits(chunk).here & bit(chunk) != 0
    }

    pub(crate) fn has_all(&self, mut chunks: RangeInclusive<u64>) -> bool {
        chunks.all(|chunk| self.has(chunk))
    }

    pub(crate) fn is_proven(&self, chunk: u64) -> bool {
        self.bits(chunk).proven & bit(chunk) != 0
    }

    /// Whether all of an object with so many chunks is here.
    pub(crate) fn is_complete(&self, chunks: u64) -> bool {
        self.here == chunks
    }

    /// Whether everything here is proven.
    pub(crate) fn is_all_proven(&self) -> bool {
        self.proven == self.here
    }

    /// The first chunk from `from` on that is here and not proven.
    pub(crate) fn next_unproven(&self, from: u64) -> Option<u64> {
        self.groups
            .range(from / GROUP_CHUNKS..)
            .flat_map(|(&group, bits)| chunks_of(group, bits.here & !bits.proven))
            .find(|&chunk| chunk >= from)
    }

    /// The groups that have chunks here, with the bits of those.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (u64, u16)> + '_ {
        self.groups.iter().map(|(&group, bits)| (group, bits.here))
    }

    /// The bits of one group.
    pub(crate) fn group(&self, group: u64) -> u16 {
        self.groups.get(&group).map_or(0, |bits| bits.here)
    }

    /// The bytes of all chunks here.
    pub(crate) fn bytes(&self, header: &Header) -> u64 {
        let has_last = header.chunks().checked_sub(1).is_some_and(|last| self.has(last));
        let missing = header.chunks() * header.chunk_bytes - header.size;
        self.here * header.chunk_bytes - if has_last { missing } else { 0 }
    }

    /// The bytes of the chunks here that overlap `range`.
    pub(crate) fn within(&self, header: &Header, range: ByteRange) -> RangeSet {
        let mut present = RangeSet::default();
        let range = range.clip(header.size);
        if range.is_empty() {
            return present;
        }
        let (first, last) = (range.start / header.chunk_bytes, (range.end - 1) / header.chunk_bytes);
        let window = ByteRange::new(header.chunk_range(first).start, header.chunk_range(last).end);
        let group_bytes = GROUP_CHUNKS * header.chunk_bytes;
        for (&group, bits) in self.groups.range(first / GROUP_CHUNKS..=last / GROUP_CHUNKS) {
            let insert =
                |piece: ByteRange| window.intersect(piece).into_iter().for_each(|p| present.insert(p));
            if bits.here == u16::MAX {
                [ByteRange::at(group * group_bytes, group_bytes).clip(header.size)]
                    .into_iter()
                    .for_each(insert);
            } else {
                chunks_of(group, bits.here).map(|chunk| header.chunk_range(chunk)).for_each(insert);
            }
        }
        present
    }

    /// How the chunk file must look for what is proven to hold.
    pub(crate) fn witness(&self) -> Option<Witness> {
        self.witness
    }

    /// Takes in how the chunk file looks. False when somebody else has changed it: then nothing is proven any more.
    pub(crate) fn see(&mut self, now: Witness) -> bool {
        let is_as_left = self.witness == Some(now);
        if !is_as_left {
            self.void();
            self.witness = Some(now);
        }
        is_as_left
    }

    /// Takes in how the chunk file looks after a change of our own. Without knowing, nothing is proven.
    pub(crate) fn renew(&mut self, now: Option<Witness>) {
        self.witness = now;
        if now.is_none() {
            self.void();
        }
    }

    /// A chunk has come, as it was found in the map.
    pub(crate) fn insert(&mut self, chunk: u64) {
        let bits = self.groups.entry(chunk / GROUP_CHUNKS).or_default();
        self.here += u64::from(bits.here & bit(chunk) == 0);
        bits.here |= bit(chunk);
    }

    /// A chunk here has been written, or checked, while the chunk file looked like `witness`.
    pub(crate) fn prove(&mut self, chunk: u64, witness: Option<Witness>) {
        if witness.is_none() || self.witness != witness {
            return;
        }
        if let Some(bits) = self.groups.get_mut(&(chunk / GROUP_CHUNKS)) {
            let new = bits.here & bit(chunk) & !bits.proven;
            self.proven += u64::from(new != 0);
            bits.proven |= new;
        }
    }

    /// All chunks here are proven.
    pub(crate) fn prove_all(&mut self) {
        self.groups.values_mut().for_each(|bits| bits.proven = bits.here);
        self.proven = self.here;
    }

    /// A chunk is no longer here.
    pub(crate) fn remove(&mut self, chunk: u64) {
        self.take(chunk / GROUP_CHUNKS, bit(chunk));
    }

    /// A group of chunks is no longer here.
    pub(crate) fn remove_group(&mut self, group: u64) {
        self.take(group, u16::MAX);
    }

    /// What has been found of the whole object.
    pub(crate) fn judgement(&self) -> Option<Judgement> {
        self.judgement
    }

    /// The whole object, as it is here, has been judged.
    pub(crate) fn judge(&mut self, judgement: Judgement) {
        self.judgement = Some(judgement);
    }

    /// Forgets the judgement and the seal, because the object is going to change. True when there was a seal.
    pub(crate) fn unseal(&mut self) -> bool {
        self.judgement = None;
        std::mem::take(&mut self.seal) != SealOnDisk::None
    }

    /// The seal on disk says this.
    pub(crate) fn seal(&mut self, seal: SealOnDisk) {
        self.seal = seal;
    }

    /// Whether the seal on disk says less than this.
    pub(crate) fn lacks(&self, wanted: SealOnDisk) -> bool {
        match (wanted, self.seal) {
            (SealOnDisk::None, _) | (SealOnDisk::Verdict, SealOnDisk::Verdict | SealOnDisk::Proof(_)) => {
                false
            }
            (SealOnDisk::Verdict, SealOnDisk::None) => true,
            (SealOnDisk::Proof(_), before) => before != wanted,
        }
    }

    /// Whether the seal on disk says that the chunk file, as it looks, is proven.
    pub(crate) fn is_sealed(&self) -> bool {
        match self.seal {
            SealOnDisk::None | SealOnDisk::Verdict => false,
            SealOnDisk::Proof(witness) => self.witness == Some(witness) && self.judgement.is_some(),
        }
    }

    fn bits(&self, chunk: u64) -> Bits {
        self.groups.get(&(chunk / GROUP_CHUNKS)).copied().unwrap_or_default()
    }

    fn void(&mut self) {
        self.groups.values_mut().for_each(|bits| bits.proven = 0);
        self.proven = 0;
    }

    fn take(&mut self, group: u64, off: u16) {
        let Some(bits) = self.groups.get_mut(&group) else {
            return;
        };
        self.here -= u64::from((bits.here & off).count_ones());
        self.proven -= u64::from((bits.proven & off).count_ones());
        bits.here &= !off;
        bits.proven &= !off;
        if bits.here == 0 {
            self.groups.remove(&group);
        }
    }
}

/// The chunks of a group that these bits stand for.
pub(crate) fn chunks_of(group: u64, bits: u16) -> impl Iterator<Item = u64> {
    (group * GROUP_CHUNKS..(group + 1) * GROUP_CHUNKS).filter(move |&chunk| bits & bit(chunk) != 0)
}

fn bit(chunk: u64) -> u16 {
    1 << (chunk % GROUP_CHUNKS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::cache::files::seal::Verdict;
    use crate::types::Crc64;

    fn look(changed_ns: i64) -> Witness {
        Witness { device: 1, inode: 2, changed_ns, bytes: 3 }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        /// Prove a chunk by what was read when the file looked so.
        Prove(u64, i64),
        Remove(u64),
        RemoveGroup(u64),
        /// The file looks so.
        See(i64),
        /// We changed it, it looks so now.
        Renew(i64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..40u64).prop_map(Step::Insert),
            4 => (0..40u64, 0..3i64).prop_map(|(chunk, at)| Step::Prove(chunk, at)),
            1 => (0..40u64).prop_map(Step::Remove),
            1 => (0..3u64).prop_map(Step::RemoveGroup),
            1 => (0..3i64).prop_map(Step::See),
            1 => (0..3i64).prop_map(Step::Renew),
        ]
    }

    proptest! {
        /// Against two sets of chunk numbers.
        #[test]
        fn behaves_like_sets(steps in proptest::collection::vec(step(), 1..80)) {
            let header = Header {
                volume: String::new(), key: String::new(), etag: String::new(), size: 39 * 4096 + 5, chunk_bytes: 4096,
            };
            let mut chunks = Chunks::new(Some(look(0)));
            let (mut here, mut proven, mut now) = (BTreeSet::new(), BTreeSet::new(), 0);
            for step in steps {
                match step {
                    Step::Insert(chunk) => {
                        chunks.insert(chunk);
                        here.insert(chunk);
                    }
                    Step::Prove(chunk, at) => {
                        chunks.prove(chunk, Some(look(at)));
                        if at == now && here.contains(&chunk) {
                            proven.insert(chunk);
                        }
                    }
                    Step::Remove(chunk) => {
                        chunks.remove(chunk);
                        here.remove(&chunk);
                        proven.remove(&chunk);
                    }
                    Step::RemoveGroup(group) => {
                        chunks.remove_group(group);
                        here.retain(|chunk| chunk / GROUP_CHUNKS != group);
                        proven.retain(|chunk| chunk / GROUP_CHUNKS != group);
                    }
                    Step::See(at) => {
                        prop_assert_eq!(chunks.see(look(at)), at == now);
                        if at != now {
                            proven.clear();
                        }
                        now = at;
                    }
                    Step::Renew(at) => {
                        chunks.renew(Some(look(at)));
                        now = at;
                    }
                }
                prop_assert_eq!((0..40).filter(|&n| chunks.has(n)).collect::<BTreeSet<_>>(), here.clone());
                prop_assert_eq!((0..40).filter(|&n| chunks.is_proven(n)).collect::<BTreeSet<_>>(), proven.clone());
                prop_assert_eq!(chunks.is_all_proven(), here == proven);
                prop_assert_eq!(chunks.is_complete(40), here.len() == 40);
                prop_assert_eq!(chunks.next_unproven(7), here.difference(&proven).copied().find(|&n| n >= 7));
                let bytes: u64 = here.iter().map(|&n| header.chunk_range(n).len()).sum();
                prop_assert_eq!(chunks.bytes(&header), bytes);
                prop_assert_eq!(chunks.within(&header, ByteRange::new(0, u64::MAX)).bytes(), bytes);
                prop_assert_eq!(chunks.groups().map(|(_, bits)| bits.count_ones() as usize).sum::<usize>(), here.len());
            }
        }
    }

    #[test]
    fn a_seal_holds_while_the_file_looks_as_it_did() {
        let mut chunks = Chunks::new(Some(look(1)));
        chunks.insert(0);
        chunks.judge(Judgement { crc: Crc64(1), verdict: Verdict::Same });
        chunks.seal(SealOnDisk::Proof(look(1)));
        assert!(chunks.is_sealed());
        assert!(!chunks.see(look(2)));
        assert!(!chunks.is_sealed() && chunks.judgement().is_some(), "the verdict is about the checksum");
        assert!(chunks.unseal() && chunks.judgement().is_none());
        chunks.renew(None);
        chunks.prove(0, None);
        assert!(!chunks.is_proven(0));
    }
}
