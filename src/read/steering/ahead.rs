//! Whole objects fetched for readers who are expected.

use crate::read::budget::Urgency;
use crate::read::flight::Interest;
use crate::read::plan::Span;
use crate::read::steering::Begun;
use crate::read::stream::ReadStream;
use crate::read::{Error, Reader};
use crate::types::{ByteRange, ObjectMeta};

/// What has become of the wish to have an object fetched ahead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FetchedAhead {
    /// It was here, or is being fetched for somebody else.
    Here,
    /// It has been fetched, and this is what the store told of it when it was asked for bytes.
    Now(ObjectMeta),
    /// Others need the memory.
    NoRoom,
}

impl Reader {
    /// Largest object that one request brings, in bytes.
    pub fn request_bytes_max(&self) -> u64 {
        self.shared.options.request_bytes.0
    }

    /// Most bytes that one program should have fetched ahead.
    pub fn ahead_bytes_max(&self) -> u64 {
        let room = self.shared.table().budget().prefetch_bytes();
        self.shared.options.prefetch_bytes.0.min(room / 2)
    }
}

impl ReadStream {
    /// Has all of the object fetched, as far as those who read now leave memory, and waits until it is there. What it brings
    /// stays in memory for as long as the stream is open and nobody else needs the room. The caller bounds how many are
    /// fetched at a time.
    pub async fn fetch_whole(&self) -> Result<FetchedAhead, Error> {
        let Some(begun) = self.begin_whole() else {
            return Ok(FetchedAhead::NoRoom);
        };
        let flights: Vec<_> = begun.iter().map(|Begun(flight, _)| flight.clone()).collect();
        let ends: Vec<_> = {
            let mut table = self.source.shared.table();
            let last = |range: ByteRange| self.place(self.source.grid.chunk_of(range.end - 1));
            flights.iter().filter_map(|flight| table.join(last(flight.range))).collect()
        };
        self.launch(begun);
        for end in ends {
            end.await.map_err(|_| self.error("the fetch was cut off"))??;
        }
        let told = flights.iter().find_map(|flight| flight.told());
        Ok(told.map_or(FetchedAhead::Here, |object| FetchedAhead::Now(object.clone())))
    }

    /// Begins to fetch what is neither here nor on its way, as far as there is room. `None` when there is none.
    fn begin_whole(&self) -> Option<Vec<Begun>> {
        let shared = &self.source.shared;
        self.look_once();
        let mut begun = Vec::new();
        let mut steering = self.steering();
        let mut table = shared.table();
        for span in self.plan(&table, ByteRange::new(0, self.source.grid.size)) {
            match span {
                Span::Hit(_) | Span::Join(_) => {}
                Span::Fetch(range) => {
                    if !table.reserve(range.len(), Urgency::Prefetch) {
                        return (!begun.is_empty()).then_some(begun);
                    }
                    let flight = table.begin(self.source.number, self.source.grid, range, Urgency::Prefetch);
                    steering.flights.push(Interest::new(flight.clone()));
                    begun.push(Begun(flight, None));
                }
            }
        }
        Some(begun)
    }
}
