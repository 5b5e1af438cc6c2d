//! Windows against examples and against naive models.

use proptest::prelude::*;

use super::*;
use crate::types::RangeSet;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const CHUNK: u64 = 256 * KIB;
const LIMITS: Limits =
    Limits { size: GIB, chunk_bytes: CHUNK, prefetch_bytes: 96 * MIB, request_bytes: 8 * MIB };
/// For readers that are never to meet.
const FAR: Limits = Limits { size: 16 * GIB, ..LIMITS };
const SCALE: Scale = Scale {
    window_bytes: u64::MAX,
    first_bytes: MIB,
    request_bytes_least: MIB,
    request_bytes_most: u64::MAX,
    requests: 8,
    overlap_bytes: 0,
};

/// A window, and what has been asked for by it.
struct Bench {
    window: Window,
    limits: Limits,
    /// Everything asked for, by reads and ahead of them, in whole chunks, but for what was given up unread.
    asked: RangeSet,
    /// What reads needed of that.
    demanded: RangeSet,
    /// The requests ahead, in order.
    ahead: Vec<ByteRange>,
    abandoned: Vec<ByteRange>,
}

impl Bench {
    fn new(limits: Limits) -> Bench {
        let mut window = Window::new(limits);
        window.tune(SCALE);
        Bench {
            window,
            limits,
            asked: RangeSet::default(),
            demanded: RangeSet::default(),
            ahead: Vec::new(),
            abandoned: Vec::new(),
        }
    }

    /// A read, by which the chunks that it needs are asked for, and all that is due then.
    fn read(&mut self, start: u64, len: u64) -> ByteRange {
        let range = ByteRange::at(start, len).clip(self.limits.size);
        let advice = self.window.on_read(range);
        assert!(advice.target.contains(range) && advice.target.end <= self.limits.size);
        let demanded = range.widen(self.limits.chunk_bytes).clip(self.limits.size);
        self.demanded.insert(demanded);
        for &abandoned in &advice.abandoned {
            let unread = self.demanded.gaps(abandoned);
            unread.into_iter().for_each(|range| self.asked.remove(range));
        }
        self.abandoned = advice.abandoned;
        for gap in self.asked.gaps(demanded) {
            self.asked.insert(gap);
            self.window.asked(gap);
        }
        loop {
            let due = self.window.due();
            for &request in &due {
                assert!(!request.is_empty() && request.end <= self.limits.size, "{request:?}");
                assert!(request.len() <= self.limits.request_bytes, "{request:?}");
                assert_eq!(request, request.widen(CHUNK.min(self.limits.chunk_bytes)).clip(self.limits.size));
                assert!(!self.asked.overlaps(request), "{request:?} twice");
                self.window.asked(request);
                self.asked.insert(request);
                self.ahead.push(request);
            }
            if due.is_empty() {
                return advice.target;
            }
        }
    }

    fn ahead_bytes(&self) -> u64 {
        self.ahead.iter().map(|request| request.len()).sum()
    }

    /// Bytes asked for that have not been read.
    fn vain_bytes(&self, read: &RangeSet) -> u64 {
        self.asked.iter().map(|range| read.gaps(range).into_iter().map(ByteRange::len).sum::<u64>()).sum()
    }
}

#[test]
fn a_reader_from_the_start_has_a_window_at_once_and_the_whole_of_it_soon() {
    let mut bench = Bench::new(LIMITS);
    assert_eq!(bench.read(0, CHUNK / 2), ByteRange::new(0, CHUNK / 2 + MIB));
    let mut reads = 1;
    while bench.asked.iter().next().unwrap().end < 48 * MIB {
        bench.read(reads * CHUNK / 2, CHUNK / 2);
        reads += 1;
    }
    assert!(reads <= 80, "after a tenth of what it has asked for: {reads}");
    for next in reads..4096 {
        bench.read(next * CHUNK / 2, CHUNK / 2);
        let ahead = bench.asked.bytes() - (next + 1) * CHUNK / 2;
        assert!(ahead <= 96 * MIB && (next < 500 || ahead >= 80 * MIB), "{ahead} at {next}");
    }
}

#[test]
fn in_a_long_run_requests_are_whole_ones() {
    let mut bench = Bench::new(LIMITS);
    for next in 0..8192 {
        bench.read(next * MIB / 8, MIB / 8);
    }
    assert_eq!(bench.asked.bytes(), GIB);
    let lens: Vec<u64> = bench.ahead.iter().map(|request| request.len()).collect();
    assert_eq!(lens.iter().sum::<u64>(), GIB - CHUNK, "each byte once");
    assert!(lens.len() < 128 + 30, "{lens:?}");
    assert!(lens[40..].iter().all(|&bytes| bytes == 8 * MIB), "{lens:?}");
}

#[test]
fn a_small_object_is_wanted_whole_when_read_from_its_start() {
    let limits = Limits { size: 8 * MIB, ..LIMITS };
    assert_eq!(Bench::new(limits).read(0, 4096), ByteRange::new(0, 8 * MIB));
    assert_eq!(Bench::new(limits).read(4 * MIB, 4096), ByteRange::at(4 * MIB, 4096));
    let mut bench = Bench::new(Limits { size: 8 * MIB + 1, ..LIMITS });
    assert_eq!(bench.read(0, 4096), ByteRange::new(0, MIB + 4096));
}

#[test]
fn a_look_at_the_start_of_a_large_object_costs_little() {
    let mut bench = Bench::new(LIMITS);
    bench.read(0, CHUNK / 2);
    assert!(bench.asked.bytes() <= MIB + CHUNK, "{}", bench.asked.bytes());
}

#[test]
fn elsewhere_a_window_begins_with_what_was_read() {
    let mut bench = Bench::new(LIMITS);
    bench.read(500 * MIB, 4 * KIB);
    bench.read(500 * MIB + 4 * KIB, 4 * KIB);
    assert_eq!(bench.ahead_bytes(), 0, "not even one chunk");
    bench.read(500 * MIB + 8 * KIB, MIB - 8 * KIB);
    assert_eq!(bench.ahead_bytes(), 4 * MIB - MIB, "four times one, to an even place");
}

#[test]
fn parallel_requests_of_the_kernel_are_one_run() {
    for order in [[0, 2, 1, 3, 5, 4, 6], [0, 3, 2, 1, 4, 6, 5]] {
        let mut bench = Bench::new(LIMITS);
        for start in order {
            bench.read(start * MIB / 2, MIB / 2);
            assert!(bench.abandoned.is_empty());
        }
        assert_eq!(bench.window.runs.len(), 1);
        let target = bench.read(7 * MIB / 2, MIB / 2);
        assert_eq!(target.end, 4 * MIB + 16 * MIB, "all of it counts as read");
    }
}

#[test]
fn a_skip_halves_and_a_jump_drops() {
    let mut bench = Bench::new(LIMITS);
    for next in 0..20 {
        bench.read(next * MIB, MIB);
    }
    assert_eq!(bench.read(30 * MIB, MIB).end, (31 + 40) * MIB);
    assert_eq!(bench.abandoned, []);
    let asked_to = bench.asked.iter().next().unwrap().end;
    bench.read(500 * MIB, MIB);
    assert_eq!(bench.abandoned, [ByteRange::new(31 * MIB - 1, asked_to)]);
    assert!(!bench.window.wants(ByteRange::new(0, GIB)));
    assert_eq!(bench.read(31 * MIB, MIB).end, (32 + 4) * MIB, "the place is still known");
}

#[test]
fn readers_that_take_turns_keep_their_windows_beside_a_jump() {
    let mut bench = Bench::new(LIMITS);
    for next in 0..8 {
        bench.read(next * MIB, MIB);
        bench.read(500 * MIB + next * MIB, MIB);
    }
    bench.read(900 * MIB, 4096);
    assert_eq!(bench.abandoned, []);
    assert_eq!(bench.read(8 * MIB, MIB).end, (9 + 32) * MIB, "but for what was read before the first turn");
    for next in 8..8 + IDLE_READS {
        bench.read(500 * MIB + next * MIB, MIB);
        assert_eq!(bench.abandoned, []);
    }
    bench.read(500 * MIB + (8 + IDLE_READS) * MIB, MIB);
    assert_eq!(bench.abandoned.len(), 1, "the one that does not go on loses its window");
    assert!(bench.abandoned[0].start < 9 * MIB);
}

#[test]
fn a_run_downwards_takes_three_reads_and_is_fetched_downwards() {
    let mut bench = Bench::new(LIMITS);
    for nth in 1..=2 {
        bench.read(500 * MIB - nth * MIB, MIB);
        assert_eq!(bench.ahead, []);
    }
    assert_eq!(bench.read(497 * MIB, MIB), ByteRange::at(497 * MIB, MIB));
    assert_eq!(bench.ahead_bytes(), 12 * MIB - 3 * MIB, "four times three, from an even place");
    assert!(bench.ahead.windows(2).all(|pair| pair[1].end == pair[0].start), "{:?}", bench.ahead);
    for nth in 4..=500 {
        bench.read(500 * MIB - nth * MIB, MIB);
    }
    assert_eq!(bench.asked.iter().collect::<Vec<_>>(), [ByteRange::new(0, 500 * MIB)]);
    assert_eq!(bench.ahead_bytes(), 497 * MIB, "each byte once");
}

#[test]
fn strides_are_fetched_and_nothing_between_them() {
    for (first, distance) in [(7 * MIB, 10 * MIB as i64), (900 * MIB, -10 * (MIB as i64))] {
        let mut bench = Bench::new(LIMITS);
        let mut wanted = RangeSet::default();
        let mut block = first;
        for nth in 0..60 {
            // In two reads, as the kernel splits them.
            bench.read(block, 300 * KIB);
            bench.read(block + 300 * KIB, 200 * KIB);
            assert!(nth < 4 || !bench.ahead.is_empty());
            block = block.wrapping_add_signed(distance);
        }
        // The blocks to come that it may have asked for.
        for nth in -1..100_i64 {
            if let Some(start) = first.checked_add_signed(nth * distance) {
                wanted.insert(ByteRange::at(start, 500 * KIB).widen(CHUNK));
            }
        }
        let vain = wanted.gaps(ByteRange::new(0, GIB)).into_iter().filter(|&gap| bench.asked.overlaps(gap));
        assert!(vain.count() <= 3, "but what a run of two reads may have had: {:?}", bench.asked);
        assert!(bench.ahead.len() >= 57, "{}", bench.ahead.len());
    }
}

#[test]
fn strides_of_any_length_are_seen_in_whole_pages() {
    let mut bench = Bench::new(LIMITS);
    let pages = |nth: u64| ByteRange::at(5 * MIB + nth * 3_000_001, 10_000).widen(4096);
    let mut expected = 0;
    for nth in 0..60 {
        let range = pages(nth);
        expected += u64::from(bench.asked.contains(range));
        bench.read(range.start, range.len());
    }
    assert!(expected >= 54, "{expected} of 60 were asked for before");
    assert!(bench.asked.bytes() <= 100 * 2 * CHUNK, "{}", bench.asked.bytes());
}

#[test]
fn long_blocks_at_a_constant_distance_are_runs() {
    let mut bench = Bench::new(LIMITS);
    let mut expected = 0;
    for nth in 0..20 * 32 {
        let range = ByteRange::at((nth / 32) * 50 * MIB + (nth % 32) * MIB / 4, MIB / 4);
        expected += u64::from(bench.asked.contains(range));
        bench.read(range.start, range.len());
    }
    assert!(expected >= 20 * 30, "{expected} of 640 were asked for before");
}

#[test]
fn strides_that_touch_every_chunk_are_a_run() {
    let mut bench = Bench::new(LIMITS);
    for nth in 0..2000 {
        bench.read(100 * MIB + nth * 64 * KIB, 16 * KIB);
    }
    assert!(!bench.window.strides.is_established());
    assert_eq!(bench.asked.iter().count(), 1);
    assert!(bench.ahead_bytes() > 120 * MIB);
}

#[test]
fn memory_and_the_link_bound_windows_and_requests() {
    let mut bench = Bench::new(LIMITS);
    bench.window.tune(Scale { window_bytes: 4 * MIB, requests: 4, ..SCALE });
    for next in 0..64 {
        bench.read(next * MIB, MIB);
        assert!(bench.asked.bytes() - (next + 1) * MIB <= 4 * MIB);
    }
    assert!(bench.ahead.iter().all(|request| request.len() <= 2 * MIB), "{:?}", bench.ahead);
    let mut bench = Bench::new(LIMITS);
    bench.window.tune(Scale { request_bytes_most: 2 * MIB, ..SCALE });
    (0..64).for_each(|next| {
        bench.read(next * MIB, MIB);
    });
    assert_eq!(bench.ahead.last().unwrap().len(), 2 * MIB);
    let mut bench = Bench::new(LIMITS);
    bench.window.tune(Scale { request_bytes_least: 8 * MIB, ..SCALE });
    (0..64).for_each(|next| {
        bench.read(next * MIB, MIB);
    });
    assert!(bench.ahead.len() < 24 && bench.ahead_bytes() > 100 * MIB);
}

/// A reader of one object, of the naive model.
#[derive(Clone, Debug)]
struct Reader {
    start: u64,
    lens: Vec<u64>,
}

fn readers(number: usize) -> impl Strategy<Value = Vec<Reader>> {
    let lens = proptest::collection::vec(1..2 * MIB, 20..60);
    let apart = FAR.size / RUNS_MAX as u64;
    proptest::collection::vec(lens, number).prop_map(move |all| {
        // At distances that are never the same, or they would be strides.
        let at = |nth: usize| nth as u64 * apart + (nth * nth) as u64 * 8 * MIB;
        all.into_iter().enumerate().map(|(nth, lens)| Reader { start: at(nth), lens }).collect()
    })
}

proptest! {
    /// Whatever is read: within the object, within the limits, nothing twice.
    #[test]
    fn any_reads_keep_windows_within_limits(
        size in 1..200 * MIB,
        prefetch_bytes in 0..64 * MIB,
        window_bytes in 0..64 * MIB,
        request_shift in 0..6_u32,
        reads in proptest::collection::vec((0..200 * MIB, 1..MIB, 0..4_u8), 1..120),
    ) {
        let request_bytes = CHUNK << request_shift;
        let limits = Limits { size, prefetch_bytes, request_bytes, ..LIMITS };
        let mut window = Window::new(limits);
        window.tune(Scale { window_bytes, ..SCALE });
        let mut last = ByteRange::new(0, 0);
        for (start, len, how) in reads {
            let start = match how {
                0 if last.end < size => last.end,
                1 if last.start > 0 => last.start.saturating_sub(len),
                2 if last.end + 5 * MIB < size => last.start + 5 * MIB,
                _ => start % size,
            };
            let range = ByteRange::at(start, len).clip(size);
            let advice = window.on_read(range);
            prop_assert!(advice.target.contains(range) && advice.target.end <= size);
            prop_assert!(advice.abandoned.iter().all(|range| range.end <= size));
            window.asked(range.widen(CHUNK).clip(size));
            let due = window.due();
            // Runs that have come near to each other may be about the same bytes; of one of them they are new.
            let of_run = |window: &Window, at: usize| window.runs[at].due(&limits, &window.scale, window.room_of(at));
            let run = (0..window.runs.len()).find(|&at| !due.is_empty() && of_run(&window, at) == due);
            for &request in &due {
                prop_assert!(request.end <= size && !request.is_empty() && request.len() <= request_bytes);
                window.asked(request);
            }
            prop_assert!(due.iter().all(|&request| window.wants(request)));
            let next: RangeSet = match run {
                Some(at) => of_run(&window, at).into_iter().collect(),
                None => window.strides.due(&limits, &window.scale, u64::MAX).into_iter().collect(),
            };
            prop_assert!(due.iter().all(|&request| !next.overlaps(request)), "twice");
            // Runs that have come near to each other may count the same bytes.
            let ahead: RangeSet = window.runs.iter().filter_map(|run| run.ahead_of(&limits)).collect();
            let asked = ahead.bytes() + window.strides.asked_bytes(&limits);
            // Besides there may be, at the place of each run, a read that is not one of the run.
            let most = prefetch_bytes.min(window_bytes) + (RUNS_MAX as u64 + 1) * (MIB + CHUNK);
            prop_assert!(asked <= if limits.is_small() { RUNS_MAX as u64 * size } else { most }, "{asked}");
            last = range;
        }
    }

    /// Readers that go upwards, in turns of any length: each has its run, each byte is asked for once, and never
    /// more than the bound of waste.
    #[test]
    fn each_of_several_readers_has_a_run(
        readers in (1..=RUNS_MAX).prop_flat_map(readers),
        turns in proptest::collection::vec(0..RUNS_MAX, 0..600),
    ) {
        let mut bench = Bench::new(FAR);
        let mut at: Vec<(u64, usize)> = readers.iter().map(|reader| (reader.start, 0)).collect();
        let mut read = RangeSet::default();
        let in_turn = (0..60 * readers.len()).map(|turn| turn % readers.len());
        let turns = turns.into_iter().map(|turn| turn % readers.len()).chain(in_turn);
        for turn in turns {
            let (start, done) = at[turn];
            let Some(&len) = readers[turn].lens.get(done) else {
                continue;
            };
            let range = ByteRange::at(start, len);
            bench.read(range.start, range.len());
            let run = bench.window.runs.iter().max_by_key(|run| run.last_read()).unwrap();
            prop_assert!(run.is_alive() || done == 0);
            read.insert(range);
            at[turn] = (range.end, done + 1);
            let vain = bench.vain_bytes(&read);
            let most = GROWTH * read.bytes() + MIB + (readers.len() as u64 + 1) * 2 * CHUNK;
            prop_assert!(vain <= most, "{vain} of {most}");
        }
        prop_assert_eq!(bench.window.runs.len(), readers.len());
        for (reader, &(end, _)) in readers.iter().zip(&at) {
            prop_assert!(bench.asked.contains(ByteRange::new(reader.start, end)));
        }
    }

    /// One reader that goes all the way in reads of any length, upwards or downwards: each byte is asked for once,
    /// in requests of whole chunks that end at multiples of their size.
    #[test]
    fn a_whole_object_is_asked_for_once(
        lens in proptest::collection::vec(1..2 * MIB, 1..200),
        size in 9 * MIB..200 * MIB,
        is_downwards in any::<bool>(),
    ) {
        let mut bench = Bench::new(Limits { size, ..LIMITS });
        let mut rest = ByteRange::new(0, size);
        for len in lens.into_iter().cycle() {
            let len = len.min(rest.len());
            let start = if is_downwards { rest.end - len } else { rest.start };
            bench.read(start, len);
            rest = if is_downwards {
                ByteRange::new(0, start)
            } else {
                ByteRange::new(start + len, size)
            };
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(bench.asked.iter().collect::<Vec<_>>(), [ByteRange::new(0, size)]);
        let mut once = RangeSet::default();
        for &request in &bench.ahead {
            prop_assert!(!once.overlaps(request), "{:?} twice", request);
            once.insert(request);
        }
    }

    /// Random reads: nothing is asked for but the chunks that they need.
    #[test]
    fn a_random_reader_asks_for_nothing_ahead(starts in proptest::collection::hash_set(1..16_000_u64, 1..200)) {
        let mut bench = Bench::new(Limits { size: 16_001 * MIB, ..LIMITS });
        let mut previous: Vec<u64> = Vec::new();
        for start in starts {
            // By chance they may be at equal distances; then they are not random.
            let distances: Vec<_> = previous.iter().rev().take(3).collect();
            if let [&last, &before, ..] = distances[..] && start.wrapping_sub(last) == last.wrapping_sub(before) {
                continue;
            }
            previous.push(start);
            prop_assert_eq!(bench.read(start * MIB, 4096), ByteRange::at(start * MIB, 4096));
        }
        prop_assert_eq!(&bench.ahead, &[]);
    }
}
