//! From the pattern of one handle's reads to what is fetched ahead of them. Pure.
//!
//! A handle's reads are told apart into *runs*, of which [`RUNS_MAX`] are kept, the one read longest ago replaced:
//! * **upwards**: a read where another ended. The beginning of an object counts as the beginning of such a run, and an
//!   object that fits in one request is fetched whole when it is read from there.
//! * **downwards**: three reads in a row, each ending where the one before began. (Two are how archives and tables are
//!   looked into from their end.)
//! * **strided**: three reads in a row at a constant distance; just the chunks of the next blocks are fetched. Where that
//!   would leave hardly a chunk out, it is a run upwards or downwards with gaps.
//! * Everything else is random, and gets just the chunks it asks for.
//!
//! The kernel reads ahead with several requests at a time, which arrive in any order: a read near to where the next one
//! was expected belongs to the run.
//!
//! A jump within a run's window halves the run. A read elsewhere drops the windows of all runs, but of those that were
//! seen to go on between reads elsewhere, as several readers on one handle do; they lose theirs when they do not go on
//! for [`IDLE_READS`]. Of a dropped run the place stays known.
//!
//! **Bound of waste.** After `k` bytes read in a run, at most `GROWTH * k` bytes beyond them have been asked for, or
//! [`Scale::first_bytes`] in a run that began at the object's start, but never more than the window's limit over all
//! runs; besides, the rest of the chunks that were read, and of an object of one request the whole. For a strided run
//! it is `GROWTH` blocks for each one read. That is also the most that a crash can have fetched in vain.

mod run;
mod stride;
#[cfg(test)]
mod tests;

use crate::read::window::run::{Fit, Run};
use crate::read::window::stride::Strides;
use crate::types::ByteRange;

/// Runs told apart on one handle.
const RUNS_MAX: usize = 8;
/// What is fetched ahead of a run is at most this many times what the run has read.
pub(crate) const GROWTH: u64 = 4;
/// A run among several loses its window when this many reads in a row go elsewhere.
const IDLE_READS: u64 = 64;

/// What bounds the windows of a handle, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Limits {
    /// Bytes of the object.
    pub size: u64,
    /// Bytes a chunk; windows are made of whole ones.
    pub chunk_bytes: u64,
    /// Most bytes asked for ahead, over all runs.
    pub prefetch_bytes: u64,
    /// Largest request, in bytes; a multiple of the chunk size.
    pub request_bytes: u64,
}

/// How to go about it now, by what the link is like and by who else wants memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Scale {
    /// Most bytes asked for ahead, over all runs; above the limits' it has no effect.
    pub window_bytes: u64,
    /// Window of a run that has just begun at the object's start.
    pub first_bytes: u64,
    /// A request of fewer bytes would wait longer than it carries.
    pub request_bytes_least: u64,
    /// A request of more bytes would keep others waiting for too long.
    pub request_bytes_most: u64,
    /// Requests that are worth having in flight, at least 1.
    pub requests: usize,
    /// A request with no more bytes than this to come is done before another one, sent now, begins to bring any.
    pub overlap_bytes: u64,
}

/// One handle's reads so far.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    limits: Limits,
    scale: Scale,
    /// At most [`RUNS_MAX`].
    runs: Vec<Run>,
    strides: Strides,
    /// Reads so far.
    clock: u64,
}

/// What a read changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Advice {
    /// The bytes worth having from the start of the read on, in the same request if they have to be fetched.
    pub target: ByteRange,
    /// What had been asked for ahead of the reader, and no longer is of use.
    pub abandoned: Vec<ByteRange>,
}

impl Limits {
    /// The size of request that fits a window, within what is worthwhile: so that a quarter of the requests there may be
    /// are made for it, two at least, and the others as it moves on and grows. Always the largest one, or that halved some times, so that
    /// requests of different sizes end at the same places.
    fn request_bytes(&self, ahead: u64, scale: &Scale) -> u64 {
        let least = scale.request_bytes_least;
        let made_for_it = (scale.requests / 4).max((scale.requests / 2).min(2));
        let wanted = (ahead / made_for_it.max(1) as u64).clamp(least, scale.request_bytes_most.max(least));
        let mut request_bytes = self.request_bytes;
        while request_bytes > wanted && request_bytes.is_multiple_of(2 * self.chunk_bytes) {
            request_bytes /= 2;
        }
        request_bytes
    }

    /// Whether an object is fetched with one request.
    fn is_small(&self) -> bool {
        self.size <= self.request_bytes
    }
}

impl Window {
    /// Without reads so far; reads nothing ahead until it is told the scale.
    pub(crate) fn new(limits: Limits) -> Window {
        let scale = Scale {
            window_bytes: 0,
            first_bytes: 0,
            request_bytes_least: 0,
            request_bytes_most: 0,
            requests: 1,
            overlap_bytes: 0,
        };
        Window { limits, scale, runs: Vec::new(), strides: Strides::default(), clock: 0 }
    }

    /// From now on things are different.
    pub(crate) fn tune(&mut self, scale: Scale) {
        self.scale = scale;
    }

    /// How things are.
    pub(crate) fn scale(&self) -> &Scale {
        &self.scale
    }

    /// Takes note of a read (not empty, within the object).
    pub(crate) fn on_read(&mut self, range: ByteRange) -> Advice {
        self.clock += 1;
        let mut abandoned = Vec::new();
        let target = if self.strides.go_on(range) { range } else { self.run_on(range, &mut abandoned) };
        let clock = self.clock;
        for run in self.runs.iter_mut().filter(|run| clock - run.last_read() > IDLE_READS) {
            abandoned.extend(run.drop_window(&self.limits));
        }
        Advice { target, abandoned }
    }

    /// The requests that should be made now, the nearest first. None as long as there is too little for a good one.
    pub(crate) fn due(&self) -> Vec<ByteRange> {
        let due = |at: usize| self.runs[at].due(&self.limits, &self.scale, self.room_of(at));
        let runs = (0..self.runs.len()).map(|at| (self.runs[at].last_read(), due(at)));
        let last = runs.filter(|(_, due)| !due.is_empty()).max_by_key(|&(last_read, _)| last_read);
        last.map(|(_, due)| due).unwrap_or_else(|| {
            let others = self.runs.iter().map(Run::asked_bytes).sum();
            self.strides.due(&self.limits, &self.scale, self.window_bytes().saturating_sub(others))
        })
    }

    /// Everything in this range has been asked for, or is here.
    pub(crate) fn asked(&mut self, range: ByteRange) {
        self.runs.iter_mut().for_each(|run| run.asked(range, &self.limits));
        self.strides.asked(range, &self.limits);
    }

    /// Whether any of these bytes have been asked for ahead of a reader, who still is to come.
    pub(crate) fn wants(&self, range: ByteRange) -> bool {
        let ahead = self.runs.iter().filter_map(|run| run.ahead_of(&self.limits));
        ahead.chain(self.strides.ahead(&self.limits)).any(|ahead| ahead.intersect(range).is_some())
    }

    /// A read that is not a stride: part of a run or the beginning of one. Returns the target.
    fn run_on(&mut self, range: ByteRange, abandoned: &mut Vec<ByteRange>) -> ByteRange {
        let best = (0..self.runs.len())
            .filter_map(|at| Some((self.fit(at, range)?, u64::MAX - self.runs[at].last_read(), at)))
            .min();
        let at = match best {
            Some((fit @ (Fit::Onward | Fit::Near), _, at)) => {
                self.strides.widen(range);
                self.runs[at].go_on(range, fit, &self.limits, self.clock);
                at
            }
            Some((Fit::Skip, _, _)) | None => {
                abandoned.extend(self.strides.jump(range, &self.limits));
                match best {
                    Some((fit, _, at)) if !self.strides.is_established() => {
                        self.runs[at].go_on(range, fit, &self.limits, self.clock);
                        at
                    }
                    Some(_) | None => {
                        for run in self.runs.iter_mut().filter(|run| !run.is_one_of_several()) {
                            abandoned.extend(run.drop_window(&self.limits));
                        }
                        self.begin(range, abandoned)
                    }
                }
            }
        };
        self.runs[at].target(range, &self.limits, &self.scale, self.room_of(at))
    }

    /// A new run takes the place of the one read longest ago. Returns where it is.
    fn begin(&mut self, range: ByteRange, abandoned: &mut Vec<ByteRange>) -> usize {
        let begun = match self.strides.dense_distance() {
            Some(distance) => {
                self.strides = Strides::default();
                Run::with_gaps(range, distance, &self.limits, self.clock)
            }
            None => Run::begin(range, self.clock),
        };
        if self.runs.len() < RUNS_MAX {
            self.runs.push(begun);
            return self.runs.len() - 1;
        }
        let oldest = (0..RUNS_MAX).min_by_key(|&at| self.runs[at].last_read());
        let at = oldest.expect("there is room for at least one run");
        abandoned.extend(self.runs[at].drop_window(&self.limits));
        self.runs[at] = begun;
        at
    }

    fn fit(&self, at: usize, range: ByteRange) -> Option<Fit> {
        self.runs[at].fit(range, &self.limits, &self.scale, self.room_of(at))
    }

    fn window_bytes(&self) -> u64 {
        self.limits.prefetch_bytes.min(self.scale.window_bytes)
    }

    /// Most bytes that one run may have asked for ahead: its share, and what the others have left.
    fn room_of(&self, at: usize) -> u64 {
        let window_bytes = self.window_bytes();
        let mut alive = u64::from(self.strides.is_established());
        let mut others = self.strides.asked_bytes(&self.limits);
        for (other, run) in self.runs.iter().enumerate() {
            alive += u64::from(run.is_alive());
            others += if other == at { 0 } else { run.asked_bytes() };
        }
        (window_bytes / alive.max(1)).min(window_bytes.saturating_sub(others))
    }
}
