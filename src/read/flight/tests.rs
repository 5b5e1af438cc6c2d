//! The table of chunks: who waits for what, what makes room for what, and that nothing is left behind.

use super::*;
use crate::types::{ETag, Key};

const GRID: Grid = Grid { size: 95, chunk_bytes: 10 };

fn id(key: &str) -> ObjectId {
    ObjectId { key: Key::new(key).unwrap(), etag: ETag::new("1"), size: GRID.size }
}

fn table(memory_bytes: u64) -> Table {
    Table::new(memory_bytes, Arc::default())
}

fn place(object: u64, chunk: u64) -> Place {
    Place { object, chunk }
}

fn fetch(table: &mut Table, number: u64, range: ByteRange) -> Arc<Flight> {
    assert!(table.reserve(range.len(), Urgency::Prefetch));
    table.begin(number, GRID, range, Urgency::Prefetch)
}

fn arrive(table: &mut Table, at: Place) -> usize {
    let bytes = Bytes::from(vec![at.chunk as u8; GRID.range_of(at.chunk).len() as usize]);
    table.arrive(at, bytes).len()
}

#[test]
fn many_wait_for_one_fetch() {
    let mut table = table(1000);
    let (number, _) = table.open(&id("a"));
    assert_eq!(table.open(&id("a")).0, number);
    fetch(&mut table, number, ByteRange::new(10, 30));
    assert!(table.join(place(number, 0)).is_none());
    let _first = table.join(place(number, 1)).unwrap();
    drop(table.join(place(number, 1)).unwrap());
    let _third = table.join(place(number, 1)).unwrap();
    let (present, coming) = table.state(number, GRID, ByteRange::new(0, 95));
    assert!(present.is_empty());
    assert_eq!(coming.iter().collect::<Vec<_>>(), [ByteRange::new(10, 30)]);
    assert_eq!(arrive(&mut table, place(number, 1)), 2, "who has gone away is not counted");
    assert_eq!(table.read(place(number, 1), 3).unwrap(), vec![1; 10]);
    assert_eq!(table.read(place(number, 2), 3), None);
}

#[test]
fn a_chunk_read_and_cached_leaves_memory_in_either_order() {
    let mut table = table(1000);
    let (number, _) = table.open(&id("a"));
    fetch(&mut table, number, ByteRange::new(0, 20));
    arrive(&mut table, place(number, 0));
    arrive(&mut table, place(number, 1));
    table.kept(place(number, 0));
    assert!(table.read(place(number, 0), 4).is_some());
    assert!(table.read(place(number, 0), 6).is_some());
    assert!(table.read(place(number, 0), 1).is_none());
    assert!(table.read(place(number, 1), 10).is_some());
    assert!(table.read(place(number, 1), 10).is_some(), "not cached: kept while there is room");
    table.kept(place(number, 1));
    assert!(table.read(place(number, 1), 10).is_none());
    assert_eq!(table.budget().used(), 0);
}

#[test]
fn spent_chunks_make_room_for_all_and_fresh_ones_for_who_waits() {
    let mut table = table(40);
    let (number, _) = table.open(&id("a"));
    fetch(&mut table, number, ByteRange::new(0, 30));
    (0..3).for_each(|chunk| {
        arrive(&mut table, place(number, chunk));
    });
    assert!(!table.reserve(10, Urgency::Prefetch), "the reserve is kept, unread chunks stay");
    table.read(place(number, 1), 10);
    assert!(table.reserve(10, Urgency::Prefetch));
    assert!(table.read(place(number, 1), 1).is_none());
    assert!(table.reserve(20, Urgency::Demand));
    assert!(table.read(place(number, 0), 1).is_none(), "the oldest unread one");
    assert!(table.read(place(number, 2), 1).is_some());
    assert!(!table.reserve(20, Urgency::Demand), "nothing left but what is on its way");
    assert_eq!(table.budget().used(), 30);
}

#[test]
fn what_is_in_the_cache_as_well_makes_room_for_prefetch_unread() {
    let mut table = table(40);
    let (number, _) = table.open(&id("a"));
    fetch(&mut table, number, ByteRange::new(0, 30));
    assert_eq!(table.load.objects(), 1);
    (0..3).for_each(|chunk| {
        arrive(&mut table, place(number, chunk));
    });
    table.kept(place(number, 1));
    assert!(matches!(table.peek(place(number, 1)), Peek::Held(_)));
    assert!(table.reserve(10, Urgency::Prefetch));
    assert!(matches!(table.peek(place(number, 1)), Peek::Absent));
    assert!(!table.reserve(10, Urgency::Prefetch));
    assert_eq!(table.absent_to(number, GRID, ByteRange::new(10, 95)), 20);
    assert_eq!(table.absent_to(number, GRID, ByteRange::new(30, 77)), 77);
    assert_eq!(table.load.objects(), 1);
    table.abandon(number, 0..2);
    table.read(place(number, 2), 10);
    assert_eq!(table.load.objects(), 0, "nothing is ahead of a reader any more");
}

#[test]
fn what_is_being_written_makes_no_room_until_that_is_over() {
    let mut table = table(20);
    let (number, _) = table.open(&id("a"));
    assert!(table.reserve(20, Urgency::Demand));
    table.begin(number, GRID, ByteRange::new(0, 20), Urgency::Demand);
    (0..2).for_each(|chunk| {
        arrive(&mut table, place(number, chunk));
        table.writing(place(number, chunk));
        table.read(place(number, chunk), 10);
    });
    assert!(!table.reserve(10, Urgency::Demand), "both are in use");
    table.not_kept(place(number, 0));
    assert!(table.reserve(10, Urgency::Demand), "what is not kept makes room once it is read");
    assert!(!table.reserve(10, Urgency::Demand));
    assert!(matches!(table.peek(place(number, 1)), Peek::Held(_)));
    table.kept(place(number, 1));
    assert!(matches!(table.peek(place(number, 1)), Peek::Absent), "read and kept");
    assert_eq!(table.budget().used(), 10);
}

#[test]
fn a_flight_is_cancelled_only_when_nobody_cares() {
    let mut table = table(1000);
    let (number, _) = table.open(&id("a"));
    let flight = fetch(&mut table, number, ByteRange::new(0, 30));
    let interest = Interest::new(flight.clone());
    assert!(!table.cancel(number, GRID, &flight, flight.range));
    drop(interest);
    let waiting = table.join(place(number, 2)).unwrap();
    assert!(!table.cancel(number, GRID, &flight, flight.range));
    assert!(table.cancel(number, GRID, &flight, ByteRange::new(0, 10)), "the waiter waits for another chunk");
    drop(waiting);
    table.open(&id("a"));
    assert!(!table.cancel(number, GRID, &flight, flight.range), "another reader may come to it");
    table.close(number);
    assert!(table.cancel(number, GRID, &flight, flight.range));
    assert_eq!(table.budget().used(), 0);
    let next = fetch(&mut table, number, flight.range);
    assert!(table.fail(number, GRID, &flight, flight.range).is_empty());
    assert_eq!(table.budget().used(), 30, "the end of a flight is not that of the next one");
    table.fail(number, GRID, &next, next.range);
    assert_eq!(table.state(number, GRID, ByteRange::new(0, 95)), Default::default());
}

#[test]
fn nothing_is_left_of_an_object_that_nobody_has_open() {
    let mut table = table(1000);
    let (number, _) = table.open(&id("a"));
    fetch(&mut table, number, ByteRange::new(0, 20));
    arrive(&mut table, place(number, 0));
    table.close(number);
    arrive(&mut table, place(number, 1));
    assert_eq!(table.open(&id("a")).0, number, "chunks that are in memory alone are found again");
    assert!(table.read(place(number, 1), 10).is_some());
    table.close(number);
    table.kept(place(number, 0));
    table.kept(place(number, 1));
    assert!(table.objects.is_empty() && table.ids.is_empty() && table.chunks.is_empty());
    assert!(table.fresh.is_empty() && table.kept.is_empty() && table.spent.is_empty());
    assert_eq!(table.budget().used(), 0);
    assert_eq!(table.load.objects(), 0);
}
