//! From the pattern of one stream's reads to how far ahead of it is fetched. Pure.
//!
//! A read where the last one ended makes a run. The window is twice what the run has read, so that it doubles as the
//! reader goes on, up to a limit. A jump within the window halves the run, any other jump ends it; a stream without a
//! run gets just the chunks it asks for. The beginning of an object counts as the beginning of a run, and an object that
//! fits in one request is fetched whole when it is read from there.

use crate::types::ByteRange;

/// Window of a run that has just begun, in bytes.
const INITIAL_BYTES: u64 = 1 << 20;
/// The kernel reads ahead with several requests at a time, which arrive in any order. Reads this near to where the next
/// one was expected belong to the run, in bytes.
const REORDER_BYTES: u64 = 2 << 20;
/// The window is this many times what the run has read.
const GROWTH: u64 = 2;

/// What bounds the windows of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Bytes of the object.
    pub size: u64,
    /// Largest window, in bytes.
    pub prefetch_bytes: u64,
    /// Largest request, in bytes.
    pub request_bytes: u64,
}

/// How a read fits the reads before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// It goes on.
    Onward,
    /// It is a little way off, as parallel requests are.
    Reordered,
    /// It skips part of the window.
    Skip,
    /// It is elsewhere.
    Jump,
}

/// One stream's reads so far.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    limits: Limits,
    /// Where the next read of the run is expected.
    next: u64,
    /// Bytes read in the run; 0 when there is none.
    run: u64,
    /// Everything between `next` and here has been asked for.
    asked_to: u64,
}

/// What a read changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Advice {
    /// The bytes of the object worth having, from the start of the read to the end of the window.
    pub target: ByteRange,
    /// What had been asked for ahead of the reader, and no longer is of use.
    pub abandoned: Option<ByteRange>,
}

impl Window {
    pub(crate) fn new(limits: Limits) -> Window {
        Window { limits, next: 0, run: 0, asked_to: 0 }
    }

    /// Takes note of a read (not empty, within the object).
    pub(crate) fn on_read(&mut self, range: ByteRange) -> Advice {
        let mut abandoned = None;
        match self.step(range) {
            Step::Onward | Step::Reordered => {
                self.run += range.end.saturating_sub(self.next);
                self.next = self.next.max(range.end);
            }
            Step::Skip => {
                self.run /= 2;
                self.next = range.end;
            }
            Step::Jump => {
                // With the last byte read, for the chunk that it is in.
                let last = self.next.saturating_sub(1);
                abandoned = (last < self.asked_to).then(|| ByteRange::new(last, self.asked_to));
                self.run = if range.start == 0 { range.len() } else { 0 };
                self.next = range.end;
                self.asked_to = range.end;
            }
        }
        Advice { target: ByteRange::new(range.start, self.end().max(range.end)), abandoned }
    }

    /// The part of the window that should be asked for now: none as long as it is too little for a good request.
    pub(crate) fn due(&self) -> Option<ByteRange> {
        let (from, end) = (self.asked_to.max(self.next), self.end());
        let worthwhile = (self.ahead() / 2).min(self.limits.request_bytes);
        if from >= end || (end - from < worthwhile && end < self.limits.size) {
            return None;
        }
        // Requests end at multiples of their size, so that in a long run each of them is a whole one.
        let even = end - end % self.limits.request_bytes;
        Some(ByteRange::new(from, if end < self.limits.size && even > from { even } else { end }))
    }

    /// Everything up to here has been asked for, or is here.
    pub(crate) fn asked(&mut self, to: u64) {
        self.asked_to = self.asked_to.max(to);
    }

    fn step(&self, range: ByteRange) -> Step {
        if range.start == self.next {
            return Step::Onward;
        }
        if self.run == 0 {
            return Step::Jump;
        }
        let reorder = self.next.saturating_sub(REORDER_BYTES)..=self.next + REORDER_BYTES;
        if reorder.contains(&range.start) {
            return Step::Reordered;
        }
        if range.start > self.next && range.start < self.end().max(self.asked_to) {
            Step::Skip
        } else {
            Step::Jump
        }
    }

    /// Bytes to have ahead of the reader.
    fn ahead(&self) -> u64 {
        if self.run == 0 {
            0
        } else {
            self.run.saturating_mul(GROWTH).max(INITIAL_BYTES).min(self.limits.prefetch_bytes)
        }
    }

    /// End of the window.
    fn end(&self) -> u64 {
        if self.run > 0 && self.limits.size <= self.limits.request_bytes {
            return self.limits.size;
        }
        self.next.saturating_add(self.ahead()).min(self.limits.size)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const LIMITS: Limits = Limits { size: 1 << 30, prefetch_bytes: 64 * MIB, request_bytes: 8 * MIB };

    fn read(window: &mut Window, start: u64, len: u64) -> Advice {
        window.on_read(ByteRange::at(start, len))
    }

    #[test]
    fn a_sequential_reader_gets_a_growing_window() {
        let mut window = Window::new(LIMITS);
        assert_eq!(read(&mut window, 0, MIB / 8).target, ByteRange::new(0, MIB / 8 + MIB));
        let mut before = 0;
        for step in 1..800 {
            let ahead = read(&mut window, step * MIB / 8, MIB / 8).target.len() - MIB / 8;
            assert!(ahead >= before && ahead <= 64 * MIB);
            before = ahead;
        }
        assert_eq!(before, 64 * MIB);
    }

    #[test]
    fn a_random_reader_gets_what_it_asks_for() {
        let mut window = Window::new(LIMITS);
        for start in [500 * MIB, 3 * MIB, 700 * MIB, 700 * MIB - 8192, 100] {
            assert_eq!(read(&mut window, start, 4096).target, ByteRange::at(start, 4096));
            assert_eq!(window.due(), None);
        }
    }

    #[test]
    fn a_second_read_in_a_row_makes_a_run_anywhere() {
        let mut window = Window::new(LIMITS);
        read(&mut window, 500 * MIB, 4096);
        assert_eq!(read(&mut window, 500 * MIB + 4096, 4096).target.end, 500 * MIB + 8192 + MIB);
    }

    #[test]
    fn parallel_requests_of_the_kernel_are_one_run() {
        let mut window = Window::new(LIMITS);
        for start in [0, 2, 1, 3, 5, 4, 6] {
            assert_eq!(read(&mut window, start * MIB / 4, MIB / 4).abandoned, None);
        }
        assert_eq!(window.run, 7 * MIB / 4);
    }

    #[test]
    fn a_skip_halves_and_a_jump_drops() {
        let mut window = Window::new(LIMITS);
        for step in 0..20 {
            read(&mut window, step * MIB, MIB);
            if let Some(due) = window.due() {
                window.asked(due.end);
            }
        }
        assert_eq!(window.run, 20 * MIB);
        assert_eq!(read(&mut window, 30 * MIB, MIB).abandoned, None);
        assert_eq!(window.run, 10 * MIB);
        let asked_to = window.asked_to;
        assert_eq!(read(&mut window, 500 * MIB, MIB).abandoned, Some(ByteRange::new(31 * MIB - 1, asked_to)));
        assert_eq!(window.due(), None);
    }

    #[test]
    fn a_small_object_read_from_its_start_is_wanted_whole() {
        let mut window = Window::new(Limits { size: 8 * MIB, ..LIMITS });
        assert_eq!(read(&mut window, 0, 4096).target, ByteRange::new(0, 8 * MIB));
        let mut window = Window::new(Limits { size: 8 * MIB, ..LIMITS });
        assert_eq!(read(&mut window, 4 * MIB, 4096).target, ByteRange::at(4 * MIB, 4096));
    }

    #[test]
    fn what_is_due_comes_in_good_requests() {
        let mut window = Window::new(LIMITS);
        let mut requests = Vec::new();
        for step in 0..8192 {
            read(&mut window, step * MIB / 8, MIB / 8);
            if let Some(due) = window.due() {
                requests.push(due.len());
                window.asked(due.end);
            }
        }
        assert_eq!(requests.iter().sum::<u64>(), (1 << 30) - MIB / 8);
        assert!(requests.len() < 128 + 16, "{requests:?}");
        assert!(requests[20..].iter().all(|&bytes| bytes == 8 * MIB), "{requests:?}");
    }

    proptest! {
        #[test]
        fn windows_stay_within_limits(
            size in 1..200 * MIB,
            prefetch_bytes in 0..64 * MIB,
            reads in proptest::collection::vec((0..200 * MIB, 1..MIB, any::<bool>()), 1..60),
        ) {
            let limits = Limits { size, prefetch_bytes, request_bytes: 8 * MIB };
            let mut window = Window::new(limits);
            let mut last_end = 0;
            for (start, len, goes_on) in reads {
                let start = if goes_on && last_end < size { last_end } else { start % size };
                let range = ByteRange::at(start, len).clip(size);
                let target = window.on_read(range).target;
                prop_assert!(target.contains(range) && target.end <= size);
                prop_assert!(target.end <= window.next + prefetch_bytes.max(8 * MIB));
                if let Some(due) = window.due() {
                    prop_assert!(due.start >= window.next && due.end <= size && !due.is_empty());
                    window.asked(due.end);
                    prop_assert!(window.due().is_none_or(|next| next.start >= due.end), "nothing is asked for twice");
                }
                last_end = range.end;
            }
        }
    }
}
