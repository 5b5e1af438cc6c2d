//! The layout against two arrays of bytes: snapshots keep their content, and pages are taken exactly while needed.

use proptest::prelude::*;

use super::*;

const SPACE: u64 = 6 * PAGE_BYTES;

/// The two local files in memory.
#[derive(Default)]
struct Disk {
    home: Vec<u8>,
    spill: Vec<u8>,
}

impl Disk {
    fn bytes(&mut self, file: LocalFile, range: ByteRange) -> &mut [u8] {
        let content = match file {
            LocalFile::Home => &mut self.home,
            LocalFile::Spill => &mut self.spill,
        };
        if content.len() < range.end as usize {
            content.resize(range.end as usize, 0);
        }
        &mut content[range.start as usize..range.end as usize]
    }

    fn content(&mut self, extents: &[Extent]) -> Vec<Option<u8>> {
        let mut content = vec![None; SPACE as usize];
        for extent in extents {
            let (file, local) = extent.local();
            let bytes = self.bytes(file, local);
            assert!(extent.crc.is_none_or(|crc| crc == Crc64::of(bytes)), "{extent:?}");
            for (at, byte) in (extent.range.start..).zip(bytes.iter()) {
                content[at as usize] = Some(*byte);
            }
        }
        content
    }
}

fn write(layout: &mut Layout, disk: &mut Disk, range: ByteRange, byte: u8) {
    let pieces = layout.plan(range);
    let before = layout.bytes_taken();
    let to_take = layout.bytes_to_take(&pieces);
    layout.occupy(&pieces);
    assert_eq!(layout.bytes_taken(), before + to_take);
    assert_eq!(pieces.iter().map(|piece| piece.range.len()).sum::<u64>(), range.len());
    for piece in pieces {
        let (file, local) = piece.local();
        let bytes = disk.bytes(file, local);
        bytes.fill(byte);
        layout.place(Extent { crc: Some(Crc64::of(bytes)), ..piece });
    }
}

/// What a sweep gives up is overwritten, as punching would: nobody may miss it.
fn sweep(layout: &mut Layout, disk: &mut Disk) {
    for (file, pages) in layout.sweep() {
        disk.bytes(file, pages).fill(0xEE);
    }
}

fn check_map(map: &ExtentMap) {
    let extents: Vec<_> = map.iter().collect();
    for pair in extents.windows(2) {
        assert!(pair[0].range.end <= pair[1].range.start && pair[0].join(pair[1]).is_none(), "{pair:?}");
    }
    for extent in extents {
        assert!(!extent.range.is_empty());
        assert_eq!(extent.range.start / EXTENT_BYTES_MAX, (extent.range.end - 1) / EXTENT_BYTES_MAX);
    }
}

/// Bytes of all pages in which anybody needs a byte.
fn bytes_needed<'a>(extents: impl Iterator<Item = &'a Extent>) -> u64 {
    let mut pages = [RangeSet::default(), RangeSet::default()];
    for (file, range) in extents.map(Extent::local) {
        pages[file as usize].insert(range.widen(PAGE_BYTES));
    }
    pages.iter().map(RangeSet::bytes).sum()
}

#[derive(Clone, Debug)]
enum Step {
    Write(ByteRange),
    Forget(ByteRange),
    Pin(ByteRange),
    Unpin(prop::sample::Index),
    Abandon(ByteRange),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let range = || {
        // Both odd ranges and whole pages, as databases write them.
        let odd = (0..SPACE, 0..SPACE).prop_map(|(a, b)| ByteRange::new(a.min(b), a.max(b)));
        let page = (0..SPACE / PAGE_BYTES).prop_map(|page| ByteRange::at(page * PAGE_BYTES, PAGE_BYTES));
        prop_oneof![odd, page]
    };
    let step = prop_oneof![
        6 => range().prop_map(Step::Write),
        1 => range().prop_map(Step::Forget),
        2 => range().prop_map(Step::Pin),
        2 => any::<prop::sample::Index>().prop_map(Step::Unpin),
        1 => range().prop_map(Step::Abandon),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn snapshots_are_never_altered_and_pages_are_taken_while_needed(steps in steps()) {
        let (mut layout, mut disk) = (Layout::default(), Disk::default());
        let mut model = vec![None; SPACE as usize];
        let mut pins: Vec<(PinId, Vec<Extent>, Vec<Option<u8>>)> = Vec::new();
        for (number, step) in steps.into_iter().enumerate() {
            let byte = number as u8;
            match step {
                Step::Write(range) => {
                    write(&mut layout, &mut disk, range, byte);
                    model[range.start as usize..range.end as usize].fill(Some(byte));
                }
                Step::Forget(range) => {
                    layout.forget(range);
                    model[range.start as usize..range.end as usize].fill(None);
                }
                Step::Pin(range) => {
                    let (id, extents) = layout.pin(range);
                    let content = disk.content(&extents);
                    let inside = |at: usize| ByteRange::at(at as u64, 1).intersect(range).is_some();
                    for (at, byte) in content.iter().enumerate() {
                        prop_assert_eq!(*byte, model[at].filter(|_| inside(at)));
                    }
                    pins.push((id, extents, content));
                }
                Step::Unpin(which) if !pins.is_empty() => {
                    let (id, ..) = pins.swap_remove(which.index(pins.len()));
                    layout.unpin(id);
                }
                Step::Unpin(_) => {}
                Step::Abandon(range) => {
                    let pieces = layout.plan(range);
                    layout.occupy(&pieces);
                    pieces.into_iter().for_each(|piece| layout.abandon(piece));
                }
            }
            sweep(&mut layout, &mut disk);
            check_map(layout.map());
            let live: Vec<Extent> = layout.map().iter().copied().collect();
            prop_assert_eq!(disk.content(&live), model.clone());
            for (_, extents, content) in &pins {
                prop_assert_eq!(&disk.content(extents), content);
            }
            let all = live.iter().chain(pins.iter().flat_map(|(_, extents, _)| extents));
            prop_assert_eq!(layout.bytes_taken(), bytes_needed(all));
        }
    }
}

#[test]
fn sequential_writes_stay_one_extent_with_its_checksum() {
    let (mut layout, mut disk) = (Layout::default(), Disk::default());
    let mut all = Vec::new();
    for number in 0..100u64 {
        write(&mut layout, &mut disk, ByteRange::at(number * 100, 100), number as u8);
        all.extend([number as u8; 100]);
    }
    let whole = Extent { range: ByteRange::new(0, 10_000), place: Place::Home, crc: Some(Crc64::of(&all)) };
    assert_eq!(layout.map().iter().collect::<Vec<_>>(), [&whole]);
}

#[test]
fn extents_end_at_bounds_so_that_little_is_read_back() {
    let mut layout = Layout::default();
    let range = ByteRange::new(EXTENT_BYTES_MAX - 10, 2 * EXTENT_BYTES_MAX + 10);
    let pieces = layout.plan(range);
    assert_eq!(pieces.iter().map(|piece| piece.range.len()).collect::<Vec<_>>(), [10, EXTENT_BYTES_MAX, 10]);
    layout.occupy(&pieces);
    pieces.into_iter().for_each(|piece| layout.place(Extent { crc: Some(Crc64(1)), ..piece }));
    layout.place(Extent {
        range: ByteRange::at(EXTENT_BYTES_MAX, 1),
        place: Place::Home,
        crc: Some(Crc64(2)),
    });
    let known: Vec<bool> = layout.map().iter().map(|extent| extent.crc.is_some()).collect();
    assert_eq!(known, [true, false, true], "only the unit written into has to be read back");
}

#[test]
fn rewriting_goes_back_and_forth_between_two_places() {
    let (mut layout, mut disk) = (Layout::default(), Disk::default());
    let range = ByteRange::at(8192, PAGE_BYTES);
    let mut last = None;
    let mut places = Vec::new();
    for round in 0..6 {
        write(&mut layout, &mut disk, range, round);
        let (id, extents) = layout.pin(range);
        places.push(extents[0].place);
        if let Some(last) = last.replace(id) {
            layout.unpin(last);
        }
        sweep(&mut layout, &mut disk);
        assert!(layout.bytes_taken() <= 2 * PAGE_BYTES);
    }
    assert_eq!(places[..4], [Place::Home, Place::Spill(0), Place::Home, Place::Spill(0)]);
    // Without a new snapshot between them, writes go over their own bytes.
    for round in 0..10 {
        write(&mut layout, &mut disk, range, round);
        sweep(&mut layout, &mut disk);
        assert!(layout.bytes_taken() <= 2 * PAGE_BYTES);
    }
}

#[test]
fn what_may_be_half_overwritten_has_no_checksum_any_more() {
    let (mut layout, mut disk) = (Layout::default(), Disk::default());
    write(&mut layout, &mut disk, ByteRange::new(0, 100), 1);
    write(&mut layout, &mut disk, ByteRange::new(200, 300), 1);
    let pieces = layout.plan(ByteRange::new(50, 60));
    pieces.into_iter().for_each(|piece| layout.abandon(piece));
    assert_eq!(layout.map().iter().map(|extent| extent.crc.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn extents_are_written_short() {
    let home = Extent { range: ByteRange::at(5, 10), place: Place::Home, crc: Some(Crc64(u64::MAX)) };
    let spill = Extent { range: ByteRange::at(15, 1), place: Place::Spill(4096), crc: None };
    let text = serde_json::to_string(&[home, spill]).unwrap();
    assert_eq!(text, "[[5,10,null,18446744073709551615],[15,1,4096,null]]");
    assert_eq!(serde_json::from_str::<Vec<Extent>>(&text).unwrap(), [home, spill]);
}
