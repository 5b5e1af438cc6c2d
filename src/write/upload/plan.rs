//! How a content becomes an object: one request, a server-side copy, or parts, each sent or copied from the base.
//!
//! Invariants: the parts of a plan cover the content in order without gap or overlap; every part but the last has at
//! least the store's smallest size; none has more than its largest; there are not more than it takes. The same content,
//! rules and layout always give the same plan, so that a plan need not be written down.

use serde::{Deserialize, Serialize};

use crate::store::{Capabilities, PartLimits, UploadKind};
use crate::types::{ByteRange, ByteSize, RangeSet};

/// Largest piece of a base object that one part copies: large enough that a copy costs few requests, small enough that
/// a server does several of them at once.
const COPY_PART_BYTES: u64 = 128 << 20;

/// Largest object that layouts are made for. Room for the 50 TB that S3 takes would need parts of gigabytes after the
/// first few hundred, in every file of some gigabytes; nobody stages such objects.
const LAID_OUT_BYTES_MAX: u64 = 5_000_000_000_000;

/// What plans keep to: the store's limits and the user's part size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The store's kind of upload.
    pub upload: UploadKind,
    /// Largest object that one `put` takes.
    pub put_bytes_max: u64,
    /// Largest object.
    pub object_bytes_max: u64,
    /// The first part size wished for.
    pub part_bytes: u64,
    /// The store copies parts on its side.
    pub copies_parts: bool,
    /// A stored part can be replaced.
    pub replaces_parts: bool,
}

impl Rules {
    /// The rules of a store.
    pub fn new(store: &Capabilities, part_bytes: ByteSize) -> Rules {
        Rules {
            upload: store.upload,
            put_bytes_max: store.put_bytes_max,
            object_bytes_max: store.object_bytes_max,
            part_bytes: part_bytes.0.max(1),
            copies_parts: store.copy_part,
            replaces_parts: store.replace_part,
        }
    }

    /// The layout of uploads begun now.
    pub fn layout(&self) -> PartLayout {
        match self.upload {
            UploadKind::Parts(limits) => {
                PartLayout::new(self.part_bytes, limits, self.object_bytes_max.min(LAID_OUT_BYTES_MAX))
            }
            UploadKind::Offset { align } => PartLayout::uniform(self.part_bytes, align.max(1)),
        }
    }

    /// Whether parts can be sent before the content is complete: only where a part that changes can be replaced.
    pub fn can_stream(&self) -> bool {
        match self.upload {
            UploadKind::Parts(_) => self.replaces_parts,
            UploadKind::Offset { .. } => false,
        }
    }
}

/// Where each part of an object lies, whatever the object's size turns out to be.
///
/// Parts have `first_bytes`, doubled after every `step` parts up to `part_bytes_max`. The step is the largest with which
/// `parts_max` parts hold the store's largest object, so parts grow as late as possible.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartLayout {
    /// Bytes of the first parts.
    pub first_bytes: u64,
    /// Parts of one size before the size doubles.
    pub step: u32,
    /// Smallest part but the last, in bytes.
    pub part_bytes_min: u64,
    /// Largest part, in bytes.
    pub part_bytes_max: u64,
    /// Most parts.
    pub parts_max: u32,
}

impl PartLayout {
    /// The layout for parts of about `part_bytes` within `limits`, for objects of up to `object_bytes_max`.
    pub fn new(part_bytes: u64, limits: PartLimits, object_bytes_max: u64) -> PartLayout {
        let part_bytes_min = limits.part_bytes_min.max(1);
        let part_bytes_max = limits.part_bytes_max.max(part_bytes_min);
        let parts_max = limits.parts_max.max(1);
        let with =
            |first_bytes, step| PartLayout { first_bytes, step, part_bytes_min, part_bytes_max, parts_max };
        let reachable = u64::from(parts_max).saturating_mul(part_bytes_max);
        // A maximum that the store's own parts cannot reach is none; close to what they reach is large enough.
        let object_bytes_max =
            if object_bytes_max > reachable { reachable - reachable / 16 } else { object_bytes_max };
        let mut first_bytes = part_bytes.clamp(part_bytes_min, part_bytes_max);
        // Where not even the fastest growth reaches the store's maximum, the first parts are larger, but no larger than
        // that needs: everyday files begin with them.
        while with(first_bytes, 1).capacity() < object_bytes_max && first_bytes < part_bytes_max {
            first_bytes = first_bytes.saturating_mul(2).min(part_bytes_max);
        }
        let (mut low, mut high) = (1, parts_max);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            if with(first_bytes, middle).capacity() >= object_bytes_max {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        with(first_bytes, low)
    }

    /// Pieces of one size, a multiple of `align`.
    fn uniform(part_bytes: u64, align: u64) -> PartLayout {
        let piece = part_bytes.next_multiple_of(align);
        PartLayout {
            first_bytes: piece,
            step: u32::MAX,
            part_bytes_min: align,
            part_bytes_max: piece,
            parts_max: u32::MAX,
        }
    }

    /// The bytes of the part with this index, or `None` beyond the last.
    pub fn part(self, index: u32) -> Option<ByteRange> {
        self.groups().find(|group| index - group.first < group.parts).map(|group| {
            ByteRange::at(group.start + u64::from(index - group.first) * group.bytes, group.bytes)
        })
    }

    /// Start of the part that holds `offset`, which is where a writer that is there has passed everything before.
    pub fn boundary_before(self, offset: u64) -> u64 {
        self.groups()
            .find(|group| offset < group.end())
            .map_or(self.capacity(), |group| offset - (offset - group.start) % group.bytes)
    }

    /// Bytes that all parts together hold.
    pub fn capacity(self) -> u64 {
        self.groups().last().map_or(0, Group::end)
    }

    /// The runs of parts of one size, in order.
    fn groups(self) -> impl Iterator<Item = Group> {
        let mut next = Group { first: 0, start: 0, bytes: self.first_bytes, parts: 0 };
        std::iter::from_fn(move || {
            let left = self.parts_max - next.first;
            if left == 0 {
                return None;
            }
            // Sizes stop growing at the largest: what is left is one run.
            let parts = if next.bytes == self.part_bytes_max { left } else { self.step.min(left) };
            let group = Group { parts, ..next };
            next = Group {
                first: next.first + parts,
                start: group.end(),
                bytes: next.bytes.saturating_mul(2).min(self.part_bytes_max),
                parts: 0,
            };
            Some(group)
        })
    }
}

/// A run of parts of one size.
#[derive(Clone, Copy)]
struct Group {
    first: u32,
    start: u64,
    bytes: u64,
    parts: u32,
}

impl Group {
    fn end(self) -> u64 {
        self.start.saturating_add(u64::from(self.parts).saturating_mul(self.bytes))
    }
}

/// What a plan needs to know of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape<'a> {
    /// Length in bytes.
    pub size: u64,
    /// Bytes from the start that show the base object where they are not in `dirty`; 0 without a base.
    pub base_valid: u64,
    /// Length of the base object.
    pub base_bytes: u64,
    /// What differs from the base.
    pub dirty: &'a RangeSet,
    /// Whether the base may be copied on the server.
    pub copies: bool,
}

/// Where a part's bytes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// From here.
    Send,
    /// From the base object, on the server.
    Copy,
}

/// One part of a plan. Its index is its place in the plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedPart {
    /// The bytes of the object that it holds.
    pub range: ByteRange,
    /// Where they come from.
    pub source: Source,
}

/// How a content becomes an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// One request with all bytes.
    Put,
    /// One request without any: the bytes are those of the base, only attributes or the name differ.
    Copy,
    /// An upload of these parts, in any order.
    Parts(Vec<PlannedPart>),
    /// An upload of bytes in order, in pieces of this many bytes.
    Pieces(u64),
    /// Larger than the store takes.
    TooLarge,
}

impl Plan {
    /// The plan for a content. `layout` is that of the upload where one has begun.
    pub fn new(shape: Shape<'_>, rules: &Rules, layout: PartLayout) -> Plan {
        let Shape { size, base_valid, base_bytes, dirty, copies } = shape;
        if size > rules.object_bytes_max || size > layout.capacity() {
            return Plan::TooLarge;
        }
        if copies && size > 0 && base_valid == size && base_bytes == size && dirty.is_empty() {
            return Plan::Copy;
        }
        if size <= layout.first_bytes.min(rules.put_bytes_max) {
            return Plan::Put;
        }
        match rules.upload {
            UploadKind::Offset { .. } => Plan::Pieces(layout.first_bytes),
            UploadKind::Parts(_) if copies && rules.copies_parts && base_valid > 0 => {
                Plan::Parts(parts_over_base(shape, layout))
            }
            UploadKind::Parts(_) => Plan::Parts(parts_by_layout(size, layout)),
        }
    }
}

fn parts_by_layout(size: u64, layout: PartLayout) -> Vec<PlannedPart> {
    (0..)
        .map_while(|index| layout.part(index))
        .take_while(|range| range.start < size)
        .map(|range| PlannedPart { range: range.clip(size), source: Source::Send })
        .collect()
}

/// Sends what differs from the base and copies the rest. Where that makes too many parts, with coarser sizes.
fn parts_over_base(shape: Shape<'_>, layout: PartLayout) -> Vec<PlannedPart> {
    let mut sizes = Sizes {
        min: layout.part_bytes_min,
        send: layout.first_bytes,
        copy: COPY_PART_BYTES.max(layout.first_bytes).min(layout.part_bytes_max),
        max: layout.part_bytes_max,
    };
    loop {
        let parts = sizes.parts(shape);
        if parts.len() <= layout.parts_max as usize {
            return parts;
        }
        if sizes.min.saturating_mul(4) > layout.part_bytes_max {
            return parts_by_layout(shape.size, layout);
        }
        sizes = Sizes {
            min: sizes.min * 2,
            send: sizes.send.saturating_mul(2).min(sizes.max),
            copy: sizes.copy.saturating_mul(2).min(sizes.max),
            max: sizes.max,
        };
    }
}

/// Part sizes of a plan over a base. Stores take parts of at least twice their minimum.
#[derive(Clone, Copy)]
struct Sizes {
    min: u64,
    send: u64,
    copy: u64,
    max: u64,
}

impl Sizes {
    fn parts(self, shape: Shape<'_>) -> Vec<PlannedPart> {
        let mut changed = shape.dirty.clone();
        changed.insert(ByteRange::new(shape.base_valid.min(shape.size), shape.size));
        let mut parts = Vec::new();
        let mut at = 0;
        let mut ranges = changed.within(ByteRange::new(0, shape.size)).peekable();
        while let Some(range) = ranges.next() {
            if range.end <= at {
                continue;
            }
            // An unchanged run too short for a part of its own is sent along.
            let start = if range.start.saturating_sub(at) >= self.min { range.start } else { at };
            self.cut(ByteRange::new(at, start), Source::Copy, &mut parts);
            let mut end = range.end.max(start.saturating_add(self.min)).min(shape.size);
            while let Some(next) = ranges.next_if(|next| next.start < end.saturating_add(self.min)) {
                end = end.max(next.end);
            }
            self.cut(ByteRange::new(start, end), Source::Send, &mut parts);
            at = end;
        }
        self.cut(ByteRange::new(at, shape.size), Source::Copy, &mut parts);
        parts
    }

    /// Cuts a run into parts; a rest below the minimum joins the part before it.
    fn cut(self, run: ByteRange, source: Source, parts: &mut Vec<PlannedPart>) {
        let bytes = match source {
            Source::Send => self.send,
            Source::Copy => self.copy,
        };
        let mut at = run.start;
        while at < run.end {
            let left = run.end - at;
            let take = if left <= bytes {
                left
            } else if left - bytes >= self.min {
                bytes
            } else if left <= self.max {
                left
            } else {
                left - self.min
            };
            parts.push(PlannedPart { range: ByteRange::at(at, take), source });
            at += take;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const S3: PartLimits = PartLimits { part_bytes_min: 5 * MIB, part_bytes_max: 5 << 30, parts_max: 10_000 };
    const S3_OBJECT_MAX: u64 = 50_000_000_000_000;

    fn rules(part_bytes: u64, limits: PartLimits, object_bytes_max: u64) -> Rules {
        Rules {
            upload: UploadKind::Parts(limits),
            put_bytes_max: 5 << 30,
            object_bytes_max,
            part_bytes,
            copies_parts: true,
            replaces_parts: true,
        }
    }

    fn over_base(base: u64, size: u64, dirty: &[ByteRange]) -> Vec<PlannedPart> {
        let dirty = dirty.iter().copied().collect();
        let rules = rules(8 * MIB, S3, S3_OBJECT_MAX);
        let shape = Shape { size, base_valid: base.min(size), base_bytes: base, dirty: &dirty, copies: true };
        match Plan::new(shape, &rules, rules.layout()) {
            Plan::Parts(parts) => parts,
            other => panic!("{other:?}"),
        }
    }

    fn sent(parts: &[PlannedPart]) -> u64 {
        parts.iter().filter(|p| p.source == Source::Send).map(|p| p.range.len()).sum()
    }

    #[test]
    fn the_largest_s3_object_fits() {
        for part_bytes in [5 * MIB, 8 * MIB, 64 * MIB, 5 << 30] {
            let layout = PartLayout::new(part_bytes, S3, S3_OBJECT_MAX);
            assert!(layout.capacity() >= S3_OBJECT_MAX, "{layout:?}");
            assert_eq!(layout.part(0), Some(ByteRange::new(0, part_bytes)));
            assert!(parts_by_layout(S3_OBJECT_MAX, layout).len() <= 10_000);
        }
        let boundless = PartLayout::new(8 * MIB, S3, u64::MAX);
        assert_eq!(boundless.part(0), Some(ByteRange::new(0, 8 * MIB)));
        let small = PartLayout::new(8 * MIB, S3, 1 << 30);
        assert_eq!(small.step, 10_000, "parts grow only where they must");
    }

    #[test]
    fn a_small_change_costs_one_part_and_an_append_its_own_bytes() {
        let gib = 1 << 30;
        let middle = over_base(gib, gib, &[ByteRange::at(600 * MIB + 7, 4096)]);
        assert_eq!(sent(&middle), 5 * MIB);
        let first = over_base(gib, gib, &[ByteRange::at(0, 4096)]);
        assert_eq!(sent(&first), 5 * MIB);
        let last = over_base(gib, gib, &[ByteRange::new(gib - 4096, gib)]);
        assert_eq!(sent(&last), 4096);
        let append = over_base(gib, gib + MIB, &[ByteRange::new(gib, gib + MIB)]);
        assert_eq!(sent(&append), MIB);
        let cut = over_base(gib, 100 * MIB, &[]);
        assert_eq!(cut, [PlannedPart { range: ByteRange::new(0, 100 * MIB), source: Source::Copy }]);
    }

    #[test]
    fn small_and_unchanged_contents_take_one_request() {
        let rules = rules(8 * MIB, S3, S3_OBJECT_MAX);
        let none = RangeSet::default();
        let shape = Shape { size: 0, base_valid: 0, base_bytes: 0, dirty: &none, copies: true };
        assert_eq!(Plan::new(shape, &rules, rules.layout()), Plan::Put);
        assert_eq!(Plan::new(Shape { size: 8 * MIB, ..shape }, &rules, rules.layout()), Plan::Put);
        let same = Shape { size: 1 << 30, base_valid: 1 << 30, base_bytes: 1 << 30, ..shape };
        assert_eq!(Plan::new(same, &rules, rules.layout()), Plan::Copy);
        let large = Shape { size: S3_OBJECT_MAX + 1, ..shape };
        assert_eq!(Plan::new(large, &rules, rules.layout()), Plan::TooLarge);
    }

    proptest! {
        #[test]
        fn layouts_are_gapless_within_limits_and_large_enough(
            part_bytes in 1u64..200, min in 1u64..50, spread in 2u64..40, parts_max in 1u32..60, fill in 1u64..100,
        ) {
            let limits = PartLimits { part_bytes_min: min, part_bytes_max: min * spread, parts_max };
            let object_max = (u64::from(parts_max) * limits.part_bytes_max * fill / 100).max(1);
            let layout = PartLayout::new(part_bytes, limits, object_max);
            prop_assert!(layout.capacity() >= object_max);
            let parts = parts_by_layout(object_max, layout);
            let mut at = 0;
            for (index, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.range.start, at);
                at = part.range.end;
                prop_assert!(part.range.len() <= limits.part_bytes_max);
                prop_assert!(index + 1 == parts.len() || part.range.len() >= min);
                prop_assert_eq!(layout.boundary_before(part.range.start), part.range.start);
                prop_assert_eq!(layout.boundary_before(part.range.end - 1), part.range.start);
            }
            prop_assert_eq!(at, object_max);
            prop_assert!(parts.len() <= parts_max as usize);
        }

        #[test]
        fn plans_over_a_base_keep_the_limits_and_copy_only_what_is_unchanged(
            base in 1u64..2000, size in 1u64..2500, min in 1u64..20, spread in 2u64..30, part_bytes in 1u64..100,
            parts_max in 60u32..400,
            dirty in proptest::collection::vec((0u64..2500, 1u64..60), 0..12),
        ) {
            let limits = PartLimits { part_bytes_min: min, part_bytes_max: min * spread, parts_max };
            prop_assume!(u64::from(parts_max) * limits.part_bytes_max >= 2500);
            let rules = rules(part_bytes, limits, 2500);
            let dirty: RangeSet =
                dirty.into_iter().map(|(at, len)| ByteRange::at(at, len).clip(size)).collect();
            let base_valid = base.min(size);
            let shape = Shape { size, base_valid, base_bytes: base, dirty: &dirty, copies: true };
            let Plan::Parts(parts) = Plan::new(shape, &rules, rules.layout()) else { return Ok(()) };
            let mut at = 0;
            for (index, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.range.start, at);
                at = part.range.end;
                prop_assert!(part.range.len() <= limits.part_bytes_max, "{:?}", parts);
                prop_assert!(index + 1 == parts.len() || part.range.len() >= min, "{:?}", parts);
                if part.source == Source::Copy {
                    prop_assert!(part.range.end <= base_valid && !dirty.overlaps(part.range));
                }
            }
            prop_assert_eq!(at, size);
            prop_assert!(parts.len() <= parts_max as usize);
        }
    }
}
