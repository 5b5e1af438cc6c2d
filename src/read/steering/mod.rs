//! Where a stream is going: what a read demands is fetched at once, what comes next is asked for ahead.

mod ahead;

use std::sync::{Arc, MutexGuard, PoisonError};

use crate::observe::Counter;
use crate::read::Shared;
use crate::read::budget::{Slot, Urgency};
use crate::read::fetch::{self, Source};
use crate::read::flight::{Flight, Interest, Place, Table};
use crate::read::plan::{Span, plan};
use crate::read::stream::{ReadStream, Ticket};
use crate::read::window::{Limits, Scale, Window};
use crate::types::ByteRange;

pub use ahead::FetchedAhead;

/// Where the stream is going.
pub(super) struct Steering {
    window: Window,
    /// Flights that bring what this stream wants, some of them over.
    flights: Vec<Interest>,
}

/// A flight that has just begun, with its slot if it fetches ahead.
struct Begun(Arc<Flight>, Option<Slot>);

/// What engaging for a read has led to.
pub(super) enum Engaged {
    /// Tickets for all of it, in order.
    Tickets(Vec<Ticket>),
    /// There is no memory to fetch into yet.
    NoRoom,
}

impl Steering {
    pub(super) fn new(limits: Limits) -> Steering {
        Steering { window: Window::new(limits), flights: Vec::new() }
    }
}

impl ReadStream {
    /// Gets tickets for a range, and starts the fetches that it needs. They bring what follows as well, as far as it
    /// is in `target` and fits in the same request.
    pub(super) fn engage(&self, range: ByteRange, target: ByteRange) -> Engaged {
        let Source { shared, number, grid, .. } = &self.source;
        self.look_once();
        let mut begun = Vec::new();
        let mut has_room = true;
        let mut table = shared.table();
        for span in self.plan(&table, range) {
            let Span::Fetch(needed) = span else {
                continue;
            };
            let request = self.with_what_follows(&table, needed, target);
            let request = if table.reserve(request.len(), Urgency::Prefetch) {
                request
            } else if table.reserve(needed.len(), Urgency::Demand) {
                needed
            } else {
                has_room = false;
                break;
            };
            begun.push(Begun(table.begin(*number, *grid, request, Urgency::Demand), None));
        }
        let engaged = match has_room {
            true => Engaged::Tickets(self.tickets(&mut table, range)),
            false => Engaged::NoRoom,
        };
        drop(table);
        if !begun.is_empty() {
            let mut steering = self.steering();
            let Steering { window, flights } = &mut *steering;
            flights.retain(|interest| !interest.flight().is_over());
            for Begun(flight, _) in &begun {
                window.asked(flight.range);
                flights.push(Interest::new(flight.clone()));
            }
        }
        self.launch(begun);
        engaged
    }

    /// Extends what must be fetched, up to the end of the target, of the request or of what is absent.
    fn with_what_follows(&self, table: &Table, needed: ByteRange, target: ByteRange) -> ByteRange {
        let Source { number, grid, cached, .. } = &self.source;
        let request_end = needed.end.next_multiple_of(self.piece_bytes);
        let end = grid.cover(target).end.min(request_end);
        if end <= needed.end {
            return needed;
        }
        let absent_to = table.absent_to(*number, *grid, ByteRange::new(needed.end, end));
        let follows = ByteRange::new(needed.end, absent_to);
        let present = cached.as_ref().and_then(|cached| cached.present_within(follows).iter().next());
        ByteRange::new(needed.start, present.map_or(absent_to, |present| present.start))
    }

    /// Asks for what is due of the window, as far as requests and memory allow.
    pub(super) fn prefetch(&self) {
        let mut steering = self.steering();
        let due = steering.window.due();
        if due.is_empty() {
            return;
        }
        let Source { shared, number, grid, .. } = &self.source;
        let Steering { window, flights } = &mut *steering;
        flights.retain(|interest| !interest.flight().is_over());
        self.look_once();
        let mut begun = Vec::new();
        let mut table = shared.table();
        'due: for request in due {
            for span in self.plan(&table, request) {
                match span {
                    Span::Hit(_) => {}
                    Span::Join(range) => {
                        take_interest(&table, grid.chunks(range).map(|chunk| self.place(chunk)), flights)
                    }
                    Span::Fetch(range) => {
                        let overlap_bytes = window.scale().overlap_bytes;
                        let carrying =
                            |interest: &&Interest| !interest.flight().is_nearly_over(overlap_bytes);
                        if flights.iter().filter(carrying).count() >= window.scale().requests {
                            break 'due;
                        }
                        let Some(slot) = shared.load.slot(shared.options.requests_max) else {
                            break 'due;
                        };
                        if !table.reserve(range.len(), Urgency::Prefetch) {
                            break 'due;
                        }
                        let flight = table.begin(*number, *grid, range, Urgency::Prefetch);
                        flights.push(Interest::new(flight.clone()));
                        begun.push(Begun(flight, Some(slot)));
                    }
                }
            }
            window.asked(request);
        }
        drop(table);
        drop(steering);
        self.launch(begun);
    }

    /// Takes note of a read; returns what is worth having from its start on.
    pub(super) fn steer(&self, range: ByteRange) -> ByteRange {
        let scale = self.scale();
        let mut steering = self.steering();
        let Steering { window, flights } = &mut *steering;
        window.tune(scale);
        let advice = window.on_read(range);
        if !advice.abandoned.is_empty() {
            flights.retain(|interest| {
                let fetched = interest.flight().range;
                let is_abandoned = advice.abandoned.iter().any(|range| range.intersect(fetched).is_some());
                !is_abandoned || fetched.intersect(advice.target).is_some() || window.wants(fetched)
            });
            let Source { shared, number, grid, .. } = &self.source;
            let mut table = shared.table();
            advice.abandoned.iter().for_each(|range| table.abandon(*number, grid.chunks(*range)));
        }
        advice.target
    }

    /// How to read ahead now, on this link and beside the other streams.
    fn scale(&self) -> Scale {
        let Shared { load, options, .. } = &*self.source.shared;
        let requests = load.requests(options.requests_max);
        self.source.shared.pace().scale(load.share(self.ahead_bytes), requests, self.piece_bytes)
    }

    /// Reads the map of the cache file, which must not be done for the first time under the table's lock.
    fn look_once(&self) {
        if let Some(cached) = &self.source.cached {
            cached.present_within(ByteRange::new(0, 0));
        }
    }

    /// Plans a range. What is on disk is looked at while the table is locked: a chunk that has come into the cache
    /// leaves the table only then, and so is always seen in one of them.
    fn plan(&self, table: &Table, range: ByteRange) -> Vec<Span> {
        let Source { number, grid, cached, .. } = &self.source;
        let (held, coming) = table.state(*number, *grid, range);
        let mut present = cached.as_ref().map(|cached| cached.present_within(range)).unwrap_or_default();
        held.iter().for_each(|range| present.insert(range));
        plan(range, *grid, &present, &coming)
    }

    fn launch(&self, begun: Vec<Begun>) {
        for Begun(flight, slot) in begun {
            if self.source.cached.is_some() {
                let chunks = self.source.grid.chunks(flight.range);
                self.source.shared.metrics.add(Counter::CacheMisses, chunks.end - chunks.start);
            }
            fetch::start(self.source.clone(), flight, slot);
        }
    }

    /// Flights that the stream keeps going, or has kept until they were over.
    #[cfg(test)]
    pub(super) fn interests(&self) -> usize {
        self.steering().flights.len()
    }

    fn steering(&self) -> MutexGuard<'_, Steering> {
        self.steering.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the flights that bring these chunks go on for this stream as well.
fn take_interest(table: &Table, places: impl Iterator<Item = Place>, flights: &mut Vec<Interest>) {
    for flight in places.filter_map(|place| table.flight(place)) {
        if !flights.iter().any(|interest| Arc::ptr_eq(interest.flight(), &flight)) {
            flights.push(Interest::new(flight));
        }
    }
}
