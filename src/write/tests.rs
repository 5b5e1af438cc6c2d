//! The room as a whole, over a volume in memory with faults: what arrives, by how many requests, after what.

mod commits;
mod conflicts;
mod crashes;
mod decisions;
mod dressing;
mod examine;
mod model;
mod moves;
mod power_loss;
mod same;
mod streams;
mod trees;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::observe::{Counter, Metrics};
use crate::store::wrap::{Action, FaultStore, KeyPattern, Rule, When};
use crate::store::{
    ErrorKind, GetOptions, MemoryStore, ObjectStore, Op, PartLimits, Precondition, UploadKind,
};
use crate::types::{Attributes, ByteRange, ByteSize, Key, ObjectId, ObjectMeta};
use crate::write::{BaseError, BaseSource, Event, OnConflict, Options, Origin, Recovered, WriteFile, Writer};

const KIB: u64 = 1 << 10;
const NOT_NOW: ErrorKind = ErrorKind::Unavailable { retry_after: None };
/// Parts of 64 KiB, so that a file of a few hundred is a large one.
const PARTS: UploadKind =
    UploadKind::Parts(PartLimits { part_bytes_min: 16 << 10, part_bytes_max: 1 << 20, parts_max: 1000 });

/// A bucket and a state directory that outlive the processes which work on them.
struct World {
    directory: TempDir,
    memory: Arc<MemoryStore>,
    faults: Arc<FaultStore>,
    on_conflict: OnConflict,
    staging_bytes_max: ByteSize,
}

/// One process' life: dies without a word when it is dropped.
struct Life {
    writer: Arc<Writer>,
    recovered: Recovered,
    events: mpsc::UnboundedReceiver<Event>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct FromMemory(Arc<MemoryStore>);

#[async_trait]
impl BaseSource for FromMemory {
    async fn base(&self, object: &ObjectId, range: ByteRange) -> Result<Bytes, BaseError> {
        let options = GetOptions { range: Some(range), if_match: Some(object.etag.clone()) };
        let body = match self.0.get(&object.key, options).await {
            Ok(fetched) => fetched.body,
            Err(error) if matches!(error.kind, ErrorKind::Precondition | ErrorKind::NotFound) => {
                return Err(BaseError::Gone);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(body.try_collect::<BytesMut>().await?.freeze())
    }

    async fn base_here(&self, object: &ObjectId, range: ByteRange) -> Option<Bytes> {
        self.base(object, range).await.ok()
    }
}

impl World {
    fn new() -> World {
        World::of(PARTS)
    }

    fn of(kind: UploadKind) -> World {
        let memory = Arc::new(MemoryStore::new("memory:test", kind));
        let faults = Arc::new(FaultStore::new(Arc::clone(&memory) as Arc<dyn ObjectStore>));
        World {
            directory: TempDir::new().unwrap(),
            memory,
            faults,
            on_conflict: OnConflict::KeepBoth,
            staging_bytes_max: ByteSize::mib(64),
        }
    }

    fn options(&self, directory: &Path) -> Options {
        Options {
            directory: directory.to_owned(),
            staging_bytes_max: self.staging_bytes_max,
            part_bytes: ByteSize(64 * KIB),
            memory_bytes: ByteSize::mib(1),
            requests_max: 4,
            close_timeout: Duration::from_secs(60),
            on_conflict: self.on_conflict,
            host: "host".to_owned(),
            kill_at: None,
        }
    }

    fn open_in(&self, directory: &Path) -> Life {
        let store = Arc::clone(&self.faults) as Arc<dyn ObjectStore>;
        let base = Arc::new(FromMemory(Arc::clone(&self.memory)));
        let metrics = Arc::new(Metrics::default());
        let (writer, recovered, events) =
            Writer::open(store, base, self.options(directory), Arc::clone(&metrics)).unwrap();
        Life { writer, recovered, events, metrics }
    }

    /// Opens the room and runs `act` in it; when it returns, the process dies with everything under way.
    fn live<T>(&self, act: impl AsyncFnOnce(&mut Life) -> T) -> T {
        self.live_in(self.directory.path(), act)
    }

    fn live_in<T>(&self, directory: &Path, act: impl AsyncFnOnce(&mut Life) -> T) -> T {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let result = runtime.block_on(async {
            let mut life = self.open_in(directory);
            act(&mut life).await
        });
        runtime.shutdown_background();
        result
    }

    fn fail(&self, op: Op, when: When, action: Action) {
        self.faults.add(Rule::on(op, action).when(when));
    }

    fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.memory.object_bytes(&key(name))
    }

    /// Requests so far, by operation, without those that did not happen.
    fn requests(&self) -> String {
        let ops = [Op::Head, Op::Get, Op::Put, Op::Copy, Op::Delete, Op::BeginUpload, Op::UploadStatus];
        let more = [Op::PutPart, Op::CopyPart, Op::CompleteUpload, Op::AbortUpload];
        let counts = ops.into_iter().chain(more).map(|op| (op, self.faults.count(op)));
        let happened = counts.filter(|(_, count)| *count > 0);
        happened.map(|(op, count)| format!("{count} {op}")).collect::<Vec<_>>().join(", ")
    }

    /// An object that another writer put there.
    async fn put(&self, name: &str, bytes: &[u8]) -> ObjectMeta {
        let body = Bytes::copy_from_slice(bytes);
        self.memory.put(&key(name), body, crate::store::PutOptions::default()).await.unwrap()
    }
}

impl Life {
    fn create(&self, name: &str) -> Arc<WriteFile> {
        self.writer.create(key(name), Origin::New, Precondition::Absent, Attributes::default()).unwrap()
    }

    fn change(&self, object: &ObjectMeta) -> Arc<WriteFile> {
        let expected = Precondition::Matches(object.id.etag.clone());
        let origin = Origin::Over(object.id.clone());
        self.writer.create(object.id.key.clone(), origin, expected, Attributes::default()).unwrap()
    }

    fn rewrite(&self, object: &ObjectMeta) -> Arc<WriteFile> {
        let expected = Precondition::Matches(object.id.etag.clone());
        let origin = Origin::Emptied(object.id.clone());
        self.writer.create(object.id.key.clone(), origin, expected, Attributes::default()).unwrap()
    }

    fn count(&self, counter: Counter) -> u64 {
        self.metrics.count(counter)
    }
}

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Bytes that repeat only after a long while.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(len as usize).collect()
}

/// The conflict copies of a name.
async fn copies_of(world: &World, name: &str) -> Vec<Key> {
    let prefix = format!("{name}.conflict-host-");
    let options = crate::store::ListOptions { prefix, ..Default::default() };
    world.memory.list(options).await.unwrap().objects.into_iter().map(|object| object.id.key).collect()
}

fn always(op: Op, action: Action, name: &str) -> Rule {
    Rule::on(op, action).key(KeyPattern::Is(name.to_owned()))
}
