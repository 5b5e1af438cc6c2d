//! One run of reads through an object, upwards or downwards.

use crate::read::window::{GROWTH, Limits, Scale};
use crate::types::ByteRange;

/// Most bytes between where a run's next read was expected and where one of the kernel's parallel requests begins.
const REORDER_BYTES: u64 = 2 << 20;
/// The same, in reads of the size that the run has seen: small reads far apart are no run.
const REORDER_READS: u64 = 4;
/// Reads that must follow each other downwards for a run.
const DOWN_READS: u32 = 3;
/// Times that a run must go on after reads elsewhere to count as one of several.
const ALTERNATIONS: u32 = 2;

/// How a read fits a run, the best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fit {
    /// It goes on where the run was.
    Onward,
    /// It is a little way off, as parallel requests are.
    Near,
    /// It skips part of the window, and no more than has been read.
    Skip,
}

/// A sequence of reads.
#[derive(Clone, Debug)]
pub(super) struct Run {
    course: Course,
    /// When it was read last, in reads of the handle.
    last_read: u64,
    /// Times that it went on after reads elsewhere.
    alternations: u32,
}

#[derive(Clone, Debug)]
enum Course {
    /// Too few reads to tell; `down` of them, one after the other, went downwards.
    Open { seen: ByteRange, down: u32 },
    /// It goes one way.
    Straight(Straight),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Up,
    Down,
}

/// All places are counted in the way's direction, from the object's start or from its end.
#[derive(Clone, Debug)]
struct Straight {
    way: Way,
    /// It began at the object's start.
    is_from_start: bool,
    /// Where the next read is expected.
    next: u64,
    /// Everything between `next` and here has been asked for.
    asked: u64,
    /// Bytes read since the run began or last lost its window.
    bytes: u64,
    /// Bytes before `next` that have not been read.
    holes: u64,
    /// Bytes of the longest read.
    longest: u64,
}

impl Way {
    /// From the object's places to the way's, and back.
    fn turn(self, range: ByteRange, size: u64) -> ByteRange {
        match self {
            Way::Up => range,
            Way::Down => ByteRange::new(size - range.end, size - range.start),
        }
    }
}

impl Run {
    /// A run that may follow from a read.
    pub(super) fn begin(range: ByteRange, now: u64) -> Run {
        let course = match range.start {
            0 => Course::Straight(Straight {
                way: Way::Up,
                is_from_start: true,
                next: range.end,
                asked: range.end,
                bytes: range.len(),
                holes: 0,
                longest: range.len(),
            }),
            _ => Course::Open { seen: range, down: 1 },
        };
        Run { course, last_read: now, alternations: 0 }
    }

    /// A run that jumps over a little at each read.
    pub(super) fn with_gaps(range: ByteRange, distance: i64, limits: &Limits, now: u64) -> Run {
        let way = if distance > 0 { Way::Up } else { Way::Down };
        let straight =
            Straight { longest: distance.unsigned_abs(), ..Straight::along(way, range, range.len(), limits) };
        Run { course: Course::Straight(straight), last_read: now, alternations: 0 }
    }

    pub(super) fn last_read(&self) -> u64 {
        self.last_read
    }

    /// Whether it has been seen to go on while other parts of the object were read.
    pub(super) fn is_one_of_several(&self) -> bool {
        self.alternations >= ALTERNATIONS
    }

    /// Whether it has a window.
    pub(super) fn is_alive(&self) -> bool {
        self.straight().is_some_and(|straight| straight.bytes > 0)
    }

    /// Bytes asked for ahead of the reader.
    pub(super) fn asked_bytes(&self) -> u64 {
        self.straight().map_or(0, |straight| straight.asked.saturating_sub(straight.next))
    }

    /// What has been asked for ahead of the reader.
    pub(super) fn ahead_of(&self, limits: &Limits) -> Option<ByteRange> {
        let Straight { way, next, asked, .. } = *self.straight()?;
        (next < asked).then(|| way.turn(ByteRange::new(next, asked), limits.size))
    }

    pub(super) fn fit(&self, range: ByteRange, limits: &Limits, scale: &Scale, room: u64) -> Option<Fit> {
        let straight = match &self.course {
            Course::Open { seen, .. } if range.start == seen.end || range.end == seen.start => {
                return Some(Fit::Onward);
            }
            Course::Open { seen, .. } => return seen.contains(range).then_some(Fit::Near),
            Course::Straight(straight) => straight,
        };
        let (start, next) = (straight.way.turn(range, limits.size).start, straight.next);
        let tolerance = (REORDER_READS * straight.longest.max(range.len())).min(REORDER_BYTES);
        if start == next {
            Some(Fit::Onward)
        } else if (next.saturating_sub(REORDER_BYTES)..=next + tolerance).contains(&start) {
            Some(Fit::Near)
        } else if start > next
            && start < straight.end(limits, scale, room).max(straight.asked)
            && start - next <= straight.bytes
        {
            Some(Fit::Skip)
        } else {
            None
        }
    }

    /// Takes note of a read that fits.
    pub(super) fn go_on(&mut self, range: ByteRange, fit: Fit, limits: &Limits, now: u64) {
        if self.last_read + 1 < now {
            self.alternations += 1;
        }
        self.last_read = now;
        match &mut self.course {
            Course::Open { seen, down } => {
                if range.start == seen.end {
                    let bytes = seen.len() + range.len();
                    self.course = Course::Straight(Straight::along(Way::Up, range, bytes, limits));
                } else if range.end == seen.start && *down + 1 < DOWN_READS {
                    *seen = ByteRange::new(range.start, seen.end);
                    *down += 1;
                } else if range.end == seen.start {
                    let bytes = seen.len() + range.len();
                    self.course = Course::Straight(Straight::along(Way::Down, range, bytes, limits));
                }
            }
            Course::Straight(straight) => straight.go_on(range, fit, limits),
        }
    }

    /// The bytes worth having from the start of a read of this run on. A request brings its bytes upwards: downwards
    /// nothing can follow in the same one.
    pub(super) fn target(&self, range: ByteRange, limits: &Limits, scale: &Scale, room: u64) -> ByteRange {
        match self.straight() {
            Some(straight) if straight.way == Way::Up => {
                ByteRange::new(range.start, straight.end(limits, scale, room).max(range.end))
            }
            Some(_) | None => range,
        }
    }

    /// The requests that should be made now, the nearest first.
    pub(super) fn due(&self, limits: &Limits, scale: &Scale, room: u64) -> Vec<ByteRange> {
        self.straight().map(|straight| straight.due(limits, scale, room)).unwrap_or_default()
    }

    /// Everything in this range has been asked for.
    pub(super) fn asked(&mut self, range: ByteRange, limits: &Limits) {
        let Course::Straight(straight) = &mut self.course else {
            return;
        };
        let range = straight.way.turn(range, limits.size);
        // The chunk that the last read ends in was asked for by that read.
        if range.start < straight.asked.max(straight.next) + limits.chunk_bytes {
            straight.asked = straight.asked.max(range.end);
        }
    }

    /// Gives up the window, but not the place. Returns what had been asked for in vain, with the chunk that the last
    /// read ended in.
    pub(super) fn drop_window(&mut self, limits: &Limits) -> Option<ByteRange> {
        let Course::Straight(straight) = &mut self.course else {
            return None;
        };
        let vain = ByteRange::new(straight.next.saturating_sub(1), straight.asked.max(straight.next));
        let had_asked = straight.asked > straight.next;
        straight.bytes = 0;
        straight.holes = 0;
        straight.asked = straight.next;
        self.alternations = 0;
        had_asked.then(|| straight.way.turn(vain, limits.size))
    }

    fn straight(&self) -> Option<&Straight> {
        match &self.course {
            Course::Open { .. } => None,
            Course::Straight(straight) => Some(straight),
        }
    }
}

impl Straight {
    /// A run that has just become one with a read.
    fn along(way: Way, range: ByteRange, bytes: u64, limits: &Limits) -> Straight {
        let next = way.turn(range, limits.size).end;
        Straight { way, is_from_start: false, next, asked: next, bytes, holes: 0, longest: range.len() }
    }

    fn go_on(&mut self, range: ByteRange, fit: Fit, limits: &Limits) {
        let range = self.way.turn(range, limits.size);
        self.longest = self.longest.max(range.len());
        if fit == Fit::Skip {
            self.bytes /= 2;
            self.holes = 0;
            self.next = range.end;
            return;
        }
        let late = range.intersect(ByteRange::new(0, self.next)).map_or(0, ByteRange::len).min(self.holes);
        self.holes = self.holes - late + range.start.saturating_sub(self.next);
        self.bytes += late + range.end.saturating_sub(self.next.max(range.start));
        self.next = self.next.max(range.end);
    }

    /// Bytes to have ahead of the reader.
    fn ahead(&self, limits: &Limits, scale: &Scale, room: u64) -> u64 {
        match self.bytes {
            0 => 0,
            _ if self.way == Way::Up && limits.is_small() => limits.size,
            bytes => {
                let first_bytes = if self.is_from_start { scale.first_bytes } else { 0 };
                bytes.saturating_mul(GROWTH).max(first_bytes).min(room)
            }
        }
    }

    /// End of the window.
    fn end(&self, limits: &Limits, scale: &Scale, room: u64) -> u64 {
        self.next.saturating_add(self.ahead(limits, scale, room)).min(limits.size)
    }

    fn due(&self, limits: &Limits, scale: &Scale, room: u64) -> Vec<ByteRange> {
        let (from, end) = (self.asked.max(self.next), self.end(limits, scale, room));
        let ahead = self.ahead(limits, scale, room);
        let request_bytes = limits.request_bytes(ahead, scale);
        let is_last = end == limits.size;
        if from >= end || (end - from < (ahead / 2).min(request_bytes) && !is_last) {
            return Vec::new();
        }
        // The chunk that the last read ends in was asked for by that read. Requests end at multiples of their size, so
        // that in a long run each of them is a whole one; a window too small for one ends with a chunk.
        let Limits { chunk_bytes, .. } = *limits;
        let due = self.way.turn(ByteRange::new(from, end), limits.size);
        let (start, end) = match self.way {
            Way::Up => {
                let start = due.start.next_multiple_of(chunk_bytes);
                let even = due.end - due.end % request_bytes;
                let whole = due.end - due.end % chunk_bytes;
                (
                    start,
                    if is_last {
                        due.end
                    } else if even > start {
                        even
                    } else {
                        whole
                    },
                )
            }
            Way::Down => {
                let end = due.end - due.end % chunk_bytes;
                let even = due.start.next_multiple_of(request_bytes);
                (if even < end { even } else { due.start.next_multiple_of(chunk_bytes) }, end)
            }
        };
        if start >= end {
            return Vec::new();
        }
        let mut requests: Vec<ByteRange> = ByteRange::new(start, end).split(request_bytes).collect();
        if self.way == Way::Down {
            requests.reverse();
        }
        requests
    }
}
