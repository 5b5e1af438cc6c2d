//! One handle's reads: what is here is given at once, what is not is fetched or waited for, what comes next is asked
//! for ahead.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::cache::Resident;
use crate::observe::task;
use crate::read::fetch::Source;
use crate::read::flight::{Answer, Peek, Place, Table};
use crate::read::plan::Grid;
use crate::read::steering::{Engaged, Steering};
use crate::read::window::Limits;
use crate::read::{Error, Shared};
use crate::store::{self, ErrorKind, Op};
use crate::types::{ByteRange, ObjectId};

/// Times that one read starts over because a fetch it waited for was cut off without an answer.
const CUT_OFF_MAX: u32 = 3;
/// For this long after a read has spent its whole time-out, the stream's other reads that need the network fail at once:
/// the kernel asks again, page by page, for what it could not read ahead, and the program would wait twice.
const ECHO_MAX: Duration = Duration::from_millis(200);

/// One handle's view of one version of an object.
pub struct ReadStream {
    pub(super) source: Source,
    /// Most bytes that are waited for at once, and of one request.
    pub(super) piece_bytes: u64,
    /// Most bytes ahead of all streams together.
    pub(super) ahead_bytes: u64,
    pub(super) steering: Mutex<Steering>,
    timed_out: Mutex<Option<TimedOut>>,
}

/// A read that failed after its whole time-out.
struct TimedOut {
    at: Instant,
    error: Error,
}

/// Where some bytes of a read are.
enum Here {
    /// In memory.
    Held(Bytes, Range<usize>),
    /// Neither there nor on their way: in the disk cache, if anywhere.
    OnDisk(ByteRange),
}

/// How some bytes of a read will be had.
pub(super) enum Ticket {
    /// From memory.
    Held(Bytes, Range<usize>),
    /// From the disk cache.
    OnDisk(ByteRange),
    /// From a fetch, as part of a chunk.
    Coming(Place, oneshot::Receiver<Answer>, Range<usize>),
}

/// How far a set of tickets has brought a read.
enum Served {
    All,
    /// Up to here; a chunk of the cache was damaged or evicted.
    Missed(u64),
    /// Up to here; a fetch has ended without an answer.
    CutOff(u64),
}

impl ReadStream {
    pub(super) fn new(shared: Arc<Shared>, object: ObjectId) -> ReadStream {
        let grid = Grid { size: object.size, chunk_bytes: shared.chunk_bytes };
        let (number, id) = shared.table().open(&object);
        let cached = shared.cache.as_ref().map(|cache| cache.object(&id));
        let in_chunks = |bytes: u64| (bytes - bytes % grid.chunk_bytes).max(grid.chunk_bytes);
        let (demand_bytes, prefetch_bytes) = {
            let table = shared.table();
            (table.budget().demand_bytes(), table.budget().prefetch_bytes())
        };
        let request_bytes = in_chunks(shared.options.request_bytes.0).min(in_chunks(demand_bytes));
        // What is read moves out while what comes moves in: half of the room for the windows, half for the change.
        let ahead_bytes = prefetch_bytes / 2;
        let limits = Limits {
            size: object.size,
            chunk_bytes: grid.chunk_bytes,
            prefetch_bytes: shared.options.prefetch_bytes.0.min(ahead_bytes),
            request_bytes,
        };
        ReadStream {
            source: Source { shared, id, number, grid, cached },
            piece_bytes: request_bytes,
            ahead_bytes,
            steering: Mutex::new(Steering::new(limits)),
            timed_out: Mutex::default(),
        }
    }

    /// The version it reads.
    pub fn object(&self) -> &ObjectId {
        &self.source.id
    }

    /// Appends the bytes of `range` (cut at the object's end) to `out` and returns true, if that needs no waiting on
    /// the network. Otherwise leaves `out` as it was. Never blocks on more than a local file.
    pub fn read_now(&self, range: ByteRange, out: &mut Vec<u8>) -> bool {
        let range = range.clip(self.source.grid.size);
        if range.is_empty() {
            return true;
        }
        let Some(here) = self.here_now(range) else {
            return false;
        };
        let before = out.len();
        out.reserve(range.len() as usize);
        let is_in_pieces = here.len() > 1;
        let is_all_held = here.iter().all(|piece| matches!(piece, Here::Held(..)));
        for piece in here {
            let served = match piece {
                Here::Held(bytes, part) => {
                    out.extend_from_slice(&bytes[part]);
                    true
                }
                Here::OnDisk(range) => {
                    let cached = self.source.cached.as_ref();
                    cached.is_some_and(|cached| cached.read_resident(range, out) == Resident::Yes)
                }
            };
            if !served {
                out.truncate(before);
                return false;
            }
        }
        if is_in_pieces && !is_all_held {
            self.count_as_read(&mut self.source.shared.table(), range);
        }
        self.steer(range);
        self.prefetch();
        true
    }

    /// The bytes of `range`, cut at the object's end.
    pub async fn read(&self, range: ByteRange) -> Result<Bytes, Error> {
        let range = range.clip(self.source.grid.size);
        self.timed_out_just_now()?;
        let mut pieces = Vec::new();
        for piece in range.split(self.piece_bytes) {
            let begun = Instant::now();
            let target = self.steer(piece);
            let read = self.read_piece(piece, target, &mut pieces).await;
            read.inspect_err(|error| self.note_time_out(begun, error))?;
        }
        Ok(joined(pieces, range.len()))
    }

    /// The error of a read that has spent its time-out a moment ago.
    fn timed_out_just_now(&self) -> Result<(), Error> {
        match &*self.timed_out.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(last) if last.at.elapsed() < ECHO_MAX => Err(last.error.clone()),
            Some(_) | None => Ok(()),
        }
    }

    fn note_time_out(&self, begun: Instant, error: &Error) {
        if begun.elapsed() >= self.source.shared.options.read_timeout {
            let timed_out = TimedOut { at: Instant::now(), error: error.clone() };
            *self.timed_out.lock().unwrap_or_else(PoisonError::into_inner) = Some(timed_out);
        }
    }

    async fn read_piece(
        &self,
        piece: ByteRange,
        target: ByteRange,
        pieces: &mut Vec<Bytes>,
    ) -> Result<(), Error> {
        let mut at = piece.start;
        let mut cut_off = 0;
        while at < piece.end {
            let tickets = self.engage_when_room(ByteRange::new(at, piece.end), target).await?;
            // Before waiting, so that what comes next is on its way meanwhile.
            self.prefetch();
            match self.serve(at, tickets, pieces).await? {
                Served::All => at = piece.end,
                Served::Missed(to) => at = to,
                Served::CutOff(to) => {
                    at = to;
                    cut_off += 1;
                    if cut_off == CUT_OFF_MAX {
                        return Err(self.error("the fetch was cut off"));
                    }
                }
            }
        }
        Ok(())
    }

    /// Redeems tickets, as far as they are good.
    async fn serve(
        &self,
        mut at: u64,
        tickets: Vec<Ticket>,
        pieces: &mut Vec<Bytes>,
    ) -> Result<Served, Error> {
        for ticket in tickets {
            let bytes = match ticket {
                Ticket::Held(bytes, part) => bytes.slice(part),
                Ticket::OnDisk(range) => match self.read_disk(range).await {
                    Some(bytes) => bytes,
                    None => return Ok(Served::Missed(at)),
                },
                Ticket::Coming(place, answer, part) => match answer.await {
                    Ok(answer) => {
                        let bytes = answer?.slice(part);
                        self.source.shared.table().read(place, bytes.len() as u64);
                        bytes
                    }
                    Err(oneshot::error::RecvError { .. }) => return Ok(Served::CutOff(at)),
                },
            };
            at += bytes.len() as u64;
            pieces.push(bytes);
        }
        Ok(Served::All)
    }

    /// The bytes of a range, if all of them are in the disk cache. Without effect on what is fetched ahead.
    pub(super) async fn read_disk(&self, range: ByteRange) -> Option<Bytes> {
        let cached = self.source.cached.clone()?;
        let read = task::spawn_blocking("cache-read", move || {
            let mut out = Vec::with_capacity(range.len() as usize);
            cached.read(range, &mut out).then(|| Bytes::from(out))
        });
        read.await.ok().flatten()
    }

    async fn engage_when_room(&self, range: ByteRange, target: ByteRange) -> Result<Vec<Ticket>, Error> {
        let engage = async {
            loop {
                // Listened for before looking, so that no news in between is missed.
                let freed = self.source.shared.freed.notified();
                tokio::pin!(freed);
                freed.as_mut().enable();
                match self.engage(range, target) {
                    Engaged::Tickets(tickets) => return tickets,
                    Engaged::NoRoom => freed.await,
                }
            }
        };
        let longest = self.source.shared.options.read_timeout;
        timeout(longest, engage).await.map_err(|_| self.error("no memory for reading became free"))
    }

    /// Where a range is, unless some of it is on its way. What is held counts as read at once if all
    /// of it is.
    fn here_now(&self, range: ByteRange) -> Option<Vec<Here>> {
        let mut table = self.source.shared.table();
        let mut here: Vec<Here> = Vec::new();
        let mut is_all_held = true;
        for (place, bytes, part) in self.parts(range) {
            match table.peek(place) {
                Peek::Held(held) => here.push(Here::Held(held.clone(), part)),
                Peek::Coming => return None,
                Peek::Absent => {
                    is_all_held = false;
                    match here.last_mut() {
                        Some(Here::OnDisk(before)) => before.end = bytes.end,
                        Some(Here::Held(..)) | None => here.push(Here::OnDisk(bytes)),
                    }
                }
            }
        }
        if is_all_held {
            self.count_as_read(&mut table, range);
        }
        Some(here)
    }

    fn count_as_read(&self, table: &mut Table, range: ByteRange) {
        for (place, bytes, _) in self.parts(range) {
            table.read(place, bytes.len());
        }
    }

    /// Tickets for a range. What is neither in memory nor on its way is taken to be on disk.
    pub(super) fn tickets(&self, table: &mut Table, range: ByteRange) -> Vec<Ticket> {
        let mut tickets: Vec<Ticket> = Vec::new();
        for (place, bytes, part) in self.parts(range) {
            if let Some(held) = table.read(place, part.len() as u64) {
                tickets.push(Ticket::Held(held, part));
            } else if let Some(answer) = table.join(place) {
                tickets.push(Ticket::Coming(place, answer, part));
            } else if let Some(Ticket::OnDisk(before)) = tickets.last_mut() {
                before.end = bytes.end;
            } else {
                tickets.push(Ticket::OnDisk(bytes));
            }
        }
        tickets
    }

    /// The chunks of a range, with the bytes of it that they hold and where in the chunk these are.
    fn parts(&self, range: ByteRange) -> impl Iterator<Item = (Place, ByteRange, Range<usize>)> + '_ {
        let Source { grid, .. } = &self.source;
        grid.chunks(range).map(move |chunk| {
            let whole = grid.range_of(chunk);
            let bytes = whole.intersect(range).expect("the chunks were taken from the range");
            let part = (bytes.start - whole.start) as usize..(bytes.end - whole.start) as usize;
            (self.place(chunk), bytes, part)
        })
    }

    pub(super) fn place(&self, chunk: u64) -> Place {
        Place { object: self.source.number, chunk }
    }

    pub(super) fn error(&self, detail: &str) -> Error {
        let kind = ErrorKind::Unavailable { retry_after: None };
        Error::Store(store::Error::on(Op::Get, &self.source.id.key, kind, detail))
    }
}

impl Drop for ReadStream {
    fn drop(&mut self) {
        self.source.shared.table().close(self.source.number);
        self.source.shared.freed.notify_waiters();
    }
}

impl fmt::Debug for ReadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadStream").field("object", &self.source.id).finish_non_exhaustive()
    }
}

fn joined(mut pieces: Vec<Bytes>, len: u64) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(len as usize);
    // Each is let go once it is copied: the books of the memory may have it no more.
    pieces.into_iter().for_each(|piece| whole.extend_from_slice(&piece));
    whole.freeze()
}
