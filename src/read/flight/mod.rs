//! Chunks on their way and chunks in memory: one fetch and many waiters, over all streams of a reader.
//!
//! ```text
//!            begin                 arrive                    evict, kept and read
//!   Absent ---------> Fetching{waiters} ---------> Present ----------------------> Absent
//!                          |  cancel, fail
//!                          `---------------> Absent
//! ```
//!
//! A chunk in memory is *fresh* until its bytes have been read, or until the stream that wanted it has gone elsewhere;
//! then it is *spent*. Spent chunks make room for others; fresh ones only when somebody waits, or when they are in the
//! disk cache as well (*kept*), from where they can be read. A spent chunk that is kept leaves memory at once. One that
//! is being written to the cache makes no room: its memory is in use until that is over.
//!
//! Nothing here waits. Waiters are answered by the caller, after the table's lock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use lru::LruCache;
use tokio::sync::{Notify, oneshot};

use crate::read::Error;
use crate::read::budget::{Budget, Load, Urgency};
use crate::read::plan::Grid;
use crate::types::{ByteRange, ObjectId, ObjectMeta, RangeSet};

/// What a waiter is told: its whole chunk, or why there is none.
pub(crate) type Answer = Result<Bytes, Error>;
/// Somebody who waits for a chunk.
pub(crate) type Waiter = oneshot::Sender<Answer>;

/// A chunk of an object, as the table numbers them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Place {
    /// The object's number.
    pub object: u64,
    /// The chunk's index.
    pub chunk: u64,
}

/// One fetch of neighbouring chunks, as those see it who are interested.
#[derive(Debug)]
pub(crate) struct Flight {
    /// What is fetched.
    pub range: ByteRange,
    /// What for.
    urgency: Urgency,
    /// Bytes that are still to come.
    left: AtomicU64,
    interested: AtomicUsize,
    is_over: AtomicBool,
    /// Told when nobody is interested any more.
    unwanted: Notify,
    told: OnceLock<ObjectMeta>,
}

/// A stream's interest in a flight. When the last one is dropped, and nobody waits for a chunk, the flight ends.
#[derive(Debug)]
pub(crate) struct Interest(Arc<Flight>);

/// All chunks on their way or in memory.
pub(crate) struct Table {
    budget: Budget,
    ids: HashMap<Arc<ObjectId>, u64>,
    objects: HashMap<u64, Object>,
    numbered: u64,
    chunks: BTreeMap<Place, Chunk>,
    /// Present chunks, each in one of the three but while it is being written, least recently touched last.
    fresh: LruCache<Place, ()>,
    kept: LruCache<Place, ()>,
    spent: LruCache<Place, ()>,
    load: Arc<Load>,
}

/// What the table knows of a chunk.
pub(crate) enum Peek<'a> {
    /// It is in memory.
    Held(&'a Bytes),
    /// It is on its way.
    Coming,
    /// Neither.
    Absent,
}

struct Object {
    id: Arc<ObjectId>,
    streams: usize,
    /// Chunks of it in the table.
    chunks: usize,
    /// Those fetched ahead that are on their way or unread.
    ahead: usize,
}

enum Chunk {
    Fetching { flight: Arc<Flight>, waiters: Vec<Waiter> },
    Present(Held),
}

struct Held {
    bytes: Bytes,
    /// Bytes that readers have taken, counted again when they are taken again.
    read_bytes: u64,
    is_spent: bool,
    home: Home,
    /// Fetched ahead and not spent.
    is_ahead: bool,
}

/// Where the bytes of a chunk are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Home {
    /// In memory alone.
    Memory,
    /// On their way to the disk cache.
    Writing,
    /// In the disk cache as well.
    Cache,
}

impl Flight {
    fn new(range: ByteRange, urgency: Urgency) -> Arc<Flight> {
        Arc::new(Flight {
            range,
            urgency,
            left: AtomicU64::new(range.len()),
            interested: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            unwanted: Notify::new(),
            told: OnceLock::new(),
        })
    }

    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// So many bytes are still to come.
    pub(crate) fn set_left(&self, bytes: u64) {
        self.left.store(bytes, Ordering::Relaxed);
    }

    /// Whether it is to bring no more than `bytes`, which are no more than half of it.
    pub(crate) fn is_nearly_over(&self, bytes: u64) -> bool {
        self.left.load(Ordering::Relaxed) <= bytes.min(self.range.len() / 2)
    }

    /// Waits until nobody is interested.
    pub(crate) async fn unwanted(&self) {
        self.unwanted.notified().await;
    }

    /// What the store told of the object with the first answer that was accepted.
    pub(crate) fn told(&self) -> Option<&ObjectMeta> {
        self.told.get()
    }

    pub(crate) fn tell(&self, object: ObjectMeta) {
        self.told.get_or_init(|| object);
    }

    /// Whether a stream is interested.
    pub(crate) fn is_wanted(&self) -> bool {
        self.interested.load(Ordering::Acquire) > 0
    }
}

impl Interest {
    pub(crate) fn new(flight: Arc<Flight>) -> Interest {
        flight.interested.fetch_add(1, Ordering::AcqRel);
        Interest(flight)
    }

    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.0
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if self.0.interested.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.unwanted.notify_one();
        }
    }
}

impl Table {
    pub(crate) fn new(memory_bytes: u64, load: Arc<Load>) -> Table {
        Table {
            budget: Budget::new(memory_bytes),
            ids: HashMap::new(),
            objects: HashMap::new(),
            numbered: 0,
            chunks: BTreeMap::new(),
            fresh: LruCache::unbounded(),
            kept: LruCache::unbounded(),
            spent: LruCache::unbounded(),
            load,
        }
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// A stream on an object begins. The number stands for the object as long as any stream or chunk of it is left.
    pub(crate) fn open(&mut self, id: &ObjectId) -> (u64, Arc<ObjectId>) {
        if let Some(&number) = self.ids.get(id) {
            let object = self.objects.get_mut(&number).expect("ids and objects are entered together");
            object.streams += 1;
            return (number, object.id.clone());
        }
        self.numbered += 1;
        let id = Arc::new(id.clone());
        self.ids.insert(id.clone(), self.numbered);
        self.objects.insert(self.numbered, Object { id: id.clone(), streams: 1, chunks: 0, ahead: 0 });
        (self.numbered, id)
    }

    /// A stream ends. With the last one, chunks that nobody has read are no longer worth more than others.
    pub(crate) fn close(&mut self, number: u64) {
        let object = self.objects.get_mut(&number).expect("an open stream keeps its object entered");
        object.streams -= 1;
        if object.streams == 0 {
            self.spend(number, 0..u64::MAX);
        }
        self.strike_if_unused(number);
    }

    /// Which bytes within `range` are in memory, and which on their way.
    pub(crate) fn state(&self, number: u64, grid: Grid, range: ByteRange) -> (RangeSet, RangeSet) {
        let (mut present, mut coming) = (RangeSet::default(), RangeSet::default());
        for (place, chunk) in self.chunks.range(places(number, grid.chunks(range))) {
            match chunk {
                Chunk::Fetching { .. } => coming.insert(grid.range_of(place.chunk)),
                Chunk::Present(_) => present.insert(grid.range_of(place.chunk)),
            }
        }
        (present, coming)
    }

    /// The first byte from `from` on, and before `end`, that is in memory or on its way; `end` if there is none.
    pub(crate) fn absent_to(&self, number: u64, grid: Grid, absent: ByteRange) -> u64 {
        let first = self.chunks.range(places(number, grid.chunks(absent))).next();
        first.map_or(absent.end, |(place, _)| grid.range_of(place.chunk).start)
    }

    /// What is known of a chunk, without touching it.
    pub(crate) fn peek(&self, place: Place) -> Peek<'_> {
        match self.chunks.get(&place) {
            Some(Chunk::Fetching { .. }) => Peek::Coming,
            Some(Chunk::Present(held)) => Peek::Held(&held.bytes),
            None => Peek::Absent,
        }
    }

    /// The bytes of a chunk that is in memory, of which the reader is going to take `read_bytes`.
    pub(crate) fn read(&mut self, place: Place, read_bytes: u64) -> Option<Bytes> {
        let Some(Chunk::Present(held)) = self.chunks.get_mut(&place) else {
            return None;
        };
        held.read_bytes += read_bytes;
        let bytes = held.bytes.clone();
        if held.read_bytes >= bytes.len() as u64 {
            self.spend_one(place);
        }
        Some(bytes)
    }

    /// Waits for a chunk that is on its way.
    pub(crate) fn join(&mut self, place: Place) -> Option<oneshot::Receiver<Answer>> {
        let Some(Chunk::Fetching { waiters, .. }) = self.chunks.get_mut(&place) else {
            return None;
        };
        // Waiters that have gone away leave their place to new ones.
        waiters.retain(|waiter| !waiter.is_closed());
        let (waiter, answer) = oneshot::channel();
        waiters.push(waiter);
        Some(answer)
    }

    /// The flight that brings a chunk.
    pub(crate) fn flight(&self, place: Place) -> Option<Arc<Flight>> {
        match self.chunks.get(&place)? {
            Chunk::Fetching { flight, .. } => Some(flight.clone()),
            Chunk::Present(_) => None,
        }
    }

    /// Takes memory for a fetch, making room as far as the urgency allows.
    pub(crate) fn reserve(&mut self, bytes: u64, urgency: Urgency) -> bool {
        while self.budget.shortage(bytes, urgency) > 0 {
            let cheapest = self.spent.peek_lru().or_else(|| self.kept.peek_lru());
            let evicted = match urgency {
                Urgency::Prefetch => cheapest,
                Urgency::Demand => cheapest.or_else(|| self.fresh.peek_lru()),
            };
            match evicted {
                Some((&place, ())) => self.remove(place),
                None => return false,
            }
        }
        self.budget.take(bytes);
        true
    }

    /// A fetch of absent chunks begins, for which memory has been reserved.
    pub(crate) fn begin(
        &mut self,
        number: u64,
        grid: Grid,
        range: ByteRange,
        urgency: Urgency,
    ) -> Arc<Flight> {
        let flight = Flight::new(range, urgency);
        let object = self.objects.get_mut(&number).expect("an open stream keeps its object entered");
        for chunk in grid.chunks(range) {
            let fetching = Chunk::Fetching { flight: flight.clone(), waiters: Vec::new() };
            let before = self.chunks.insert(Place { object: number, chunk }, fetching);
            debug_assert!(before.is_none(), "a chunk is fetched by one flight");
            object.chunks += 1;
            if urgency == Urgency::Prefetch {
                object.ahead += 1;
                if object.ahead == 1 {
                    self.load.enter();
                }
            }
        }
        flight
    }

    /// A chunk has come. Those returned must be answered.
    pub(crate) fn arrive(&mut self, place: Place, bytes: Bytes) -> Vec<Waiter> {
        let is_ahead = match self.chunks.get(&place) {
            Some(Chunk::Fetching { flight, .. }) => flight.urgency == Urgency::Prefetch,
            Some(Chunk::Present(_)) | None => false,
        };
        let (is_spent, home) = (false, Home::Memory);
        let held = Chunk::Present(Held { bytes, read_bytes: 0, is_spent, home, is_ahead });
        let before = self.chunks.insert(place, held);
        self.fresh.push(place, ());
        if self.objects.get(&place.object).is_some_and(|object| object.streams == 0) {
            self.spend_one(place);
        }
        match before {
            Some(Chunk::Fetching { waiters, .. }) => waiters,
            Some(Chunk::Present(_)) | None => {
                debug_assert!(false, "only what is being fetched arrives");
                Vec::new()
            }
        }
    }

    /// A chunk that has arrived is being written to the disk cache.
    pub(crate) fn writing(&mut self, place: Place) {
        if let Some(Chunk::Present(held)) = self.chunks.get_mut(&place)
            && held.home == Home::Memory
        {
            held.home = Home::Writing;
            self.fresh.pop(&place);
            self.spent.pop(&place);
        }
    }

    /// It is in the disk cache now.
    pub(crate) fn kept(&mut self, place: Place) {
        if let Some(Chunk::Present(held)) = self.chunks.get_mut(&place) {
            held.home = Home::Cache;
            if held.is_spent {
                self.remove(place);
            } else {
                self.fresh.pop(&place);
                self.kept.push(place, ());
            }
        }
    }

    /// It could not be written to the disk cache.
    pub(crate) fn not_kept(&mut self, place: Place) {
        if let Some(Chunk::Present(held)) = self.chunks.get_mut(&place)
            && held.home == Home::Writing
        {
            held.home = Home::Memory;
            let list = if held.is_spent { &mut self.spent } else { &mut self.fresh };
            list.push(place, ());
        }
    }

    /// What is in memory of an object is not what it should be.
    pub(crate) fn discard(&mut self, id: &ObjectId) {
        let Some(&number) = self.ids.get(id) else {
            return;
        };
        let chunks = self.chunks.range(places(number, 0..u64::MAX));
        let present: Vec<Place> =
            chunks.filter(|(_, chunk)| matches!(chunk, Chunk::Present(_))).map(|(&place, _)| place).collect();
        present.into_iter().for_each(|place| self.remove(place));
    }

    /// The reader that wanted these chunks ahead has gone elsewhere.
    pub(crate) fn abandon(&mut self, number: u64, chunks: Range<u64>) {
        self.spend(number, chunks);
    }

    /// Ends a flight's remaining chunks, unless somebody is interested or waits for one of them, or may be soon: what one
    /// reader of an object skips, for it has it from the kernel's pages, another behind it still reads.
    pub(crate) fn cancel(&mut self, number: u64, grid: Grid, flight: &Flight, rest: ByteRange) -> bool {
        let chunks = || self.chunks.range(places(number, grid.chunks(rest)));
        let is_awaited = chunks().any(|(_, chunk)| match chunk {
            Chunk::Fetching { waiters, .. } => waiters.iter().any(|waiter| !waiter.is_closed()),
            Chunk::Present(_) => false,
        });
        let has_other_readers = self.objects.get(&number).is_some_and(|object| object.streams > 1);
        if flight.is_wanted() || is_awaited || has_other_readers {
            return false;
        }
        self.fail(number, grid, flight, rest);
        true
    }

    /// Ends a flight's remaining chunks, as far as they are its own: it may have ended before, and another may have
    /// begun. Those returned must be answered.
    pub(crate) fn fail(&mut self, number: u64, grid: Grid, flight: &Flight, rest: ByteRange) -> Vec<Waiter> {
        let mut all = Vec::new();
        for chunk in grid.chunks(rest) {
            let place = Place { object: number, chunk };
            let is_own = match self.chunks.get(&place) {
                Some(Chunk::Fetching { flight: other, .. }) => std::ptr::eq(&**other, flight),
                Some(Chunk::Present(_)) | None => false,
            };
            if is_own && let Some(Chunk::Fetching { waiters, .. }) = self.chunks.remove(&place) {
                all.extend(waiters);
                self.budget.give_back(grid.range_of(chunk).len());
                if flight.urgency == Urgency::Prefetch {
                    self.is_not_ahead(number);
                }
                self.leave(number);
            }
        }
        all
    }

    fn spend(&mut self, number: u64, chunks: Range<u64>) {
        let range = self.chunks.range(places(number, chunks));
        let present: Vec<Place> =
            range.filter(|(_, chunk)| matches!(chunk, Chunk::Present(_))).map(|(&place, _)| place).collect();
        present.into_iter().for_each(|place| self.spend_one(place));
    }

    fn spend_one(&mut self, place: Place) {
        match self.chunks.get_mut(&place) {
            Some(Chunk::Present(held)) if held.home == Home::Cache => self.remove(place),
            Some(Chunk::Present(held)) => {
                let was_ahead = std::mem::take(&mut held.is_ahead);
                held.is_spent = true;
                if held.home == Home::Memory {
                    self.fresh.pop(&place);
                    self.spent.push(place, ());
                }
                if was_ahead {
                    self.is_not_ahead(place.object);
                }
            }
            Some(Chunk::Fetching { .. }) | None => {}
        }
    }

    /// Takes a present chunk out of memory.
    fn remove(&mut self, place: Place) {
        self.fresh.pop(&place);
        self.kept.pop(&place);
        self.spent.pop(&place);
        if let Some(Chunk::Present(held)) = self.chunks.remove(&place) {
            self.budget.give_back(held.bytes.len() as u64);
            if held.is_ahead {
                self.is_not_ahead(place.object);
            }
            self.leave(place.object);
        }
    }

    /// One of an object's chunks that were fetched ahead has been read or is no longer wanted.
    fn is_not_ahead(&mut self, number: u64) {
        let object = self.objects.get_mut(&number).expect("a chunk keeps its object entered");
        object.ahead -= 1;
        if object.ahead == 0 {
            self.load.leave();
        }
    }

    /// An object has one chunk less.
    fn leave(&mut self, number: u64) {
        self.objects.get_mut(&number).expect("a chunk keeps its object entered").chunks -= 1;
        self.strike_if_unused(number);
    }

    fn strike_if_unused(&mut self, number: u64) {
        if self.objects.get(&number).is_some_and(|object| object.streams == 0 && object.chunks == 0)
            && let Some(object) = self.objects.remove(&number)
        {
            self.ids.remove(&object.id);
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("budget", &self.budget)
            .field("objects", &self.objects.len())
            .field("fresh", &self.fresh.len())
            .field("kept", &self.kept.len())
            .field("spent", &self.spent.len())
            .finish_non_exhaustive()
    }
}

fn places(object: u64, chunks: Range<u64>) -> Range<Place> {
    Place { object, chunk: chunks.start }..Place { object, chunk: chunks.end }
}

#[cfg(test)]
mod tests;
