//! Tests of the room as a whole: a store in memory that records its calls, and a clock of our own.

mod flows;
mod late;
mod listing;
mod requests;
mod tree;

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::namespace::{Attr, DirEntry, Error, Namespace, Options};
use crate::store::wrap::FaultStore;
use crate::store::{MemoryStore, ObjectStore, Op, PartLimits, PutOptions, UploadKind};
use crate::types::{Attributes, Ino, Key, ObjectMeta, UnixTime};

/// How long answers are believed in these tests.
const TTL: Duration = Duration::from_secs(10);

/// A namespace over a recorded store.
struct World {
    memory: Arc<MemoryStore>,
    store: Arc<FaultStore>,
    names: Arc<Namespace>,
    start: Instant,
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn options() -> Options {
    Options {
        ttl: TTL,
        uid: 7,
        gid: 8,
        file_mode: 0o644,
        directory_mode: 0o755,
        mounted_at: UnixTime::from_secs(1_000),
    }
}

impl World {
    /// A volume with these objects; their content is their key.
    async fn with(keys: &[&str]) -> World {
        let limits = PartLimits { part_bytes_min: 1, part_bytes_max: 1 << 20, parts_max: 10 };
        let memory = Arc::new(MemoryStore::new("memory:names", UploadKind::Parts(limits)));
        let store = Arc::new(FaultStore::new(memory.clone()));
        let names = Namespace::new(store.clone(), options(), Arc::default());
        let world = World { memory, store, names, start: Instant::now() };
        for key in keys {
            world.put(key).await;
        }
        world
    }

    /// This many seconds after the beginning.
    fn at(&self, secs: u64) -> Instant {
        self.start + Duration::from_secs(secs)
    }

    /// Another client writes an object; not recorded.
    async fn put(&self, text: &str) -> ObjectMeta {
        self.put_with(text, Attributes::default()).await
    }

    async fn put_with(&self, text: &str, attributes: Attributes) -> ObjectMeta {
        let options = PutOptions { attributes, ..PutOptions::default() };
        self.memory.put(&key(text), Bytes::copy_from_slice(text.as_bytes()), options).await.unwrap()
    }

    /// Another client replaces an object by one of this length; not recorded.
    async fn replace(&self, text: &str, bytes: usize) -> ObjectMeta {
        self.memory.put(&key(text), Bytes::from(vec![0; bytes]), PutOptions::default()).await.unwrap()
    }

    /// Another client removes an object; not recorded.
    async fn delete(&self, text: &str) {
        self.memory.delete(&key(text), Default::default()).await.unwrap();
    }

    /// Every key in the volume.
    async fn keys(&self) -> Vec<String> {
        let page = self.memory.list(Default::default()).await.unwrap();
        page.objects.into_iter().map(|object| object.id.key.as_str().to_owned()).collect()
    }

    /// The requests since the last call, as HEADs, LISTs and all others.
    fn requests(&self) -> (usize, usize, usize) {
        let (heads, lists) = (self.store.count(Op::Head), self.store.count(Op::List));
        let others = self.store.calls().len() - heads - lists;
        self.store.forget_calls();
        (heads, lists, others)
    }

    async fn lookup(&self, parent: Ino, name: &str, secs: u64) -> Result<Attr, Error> {
        self.names.lookup(parent, OsStr::new(name), self.at(secs)).await
    }

    /// The inode at a path below the root.
    async fn walk(&self, path: &str, secs: u64) -> Result<Attr, Error> {
        let mut attr = self.names.attr_known(Ino::ROOT)?;
        for part in path.split('/') {
            attr = self.lookup(attr.ino, part, secs).await?;
        }
        Ok(attr)
    }

    /// The whole of a directory.
    async fn list(&self, ino: Ino, secs: u64) -> Vec<DirEntry> {
        let directory = self.names.open_directory(ino).unwrap();
        let mut entries: Vec<DirEntry> = Vec::new();
        loop {
            let offset = entries.last().map_or(0, |entry| entry.next_offset);
            let more = self.names.read_directory(&directory, offset, self.at(secs)).await.unwrap();
            if more.is_empty() {
                self.names.tree().check_invariants();
                return entries;
            }
            entries.extend(more.iter().cloned());
        }
    }

    async fn list_names(&self, ino: Ino, secs: u64) -> Vec<String> {
        let mut names: Vec<String> = self.list(ino, secs).await.into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    }

    async fn unlink(&self, parent: Ino, name: &str, secs: u64) -> Result<Ino, Error> {
        self.names.unlink(parent, OsStr::new(name), self.at(secs)).await
    }

    async fn mkdir(&self, parent: Ino, name: &str, secs: u64) -> Result<Attr, Error> {
        let attributes = Attributes { mode: Some(0o700), ..Attributes::default() };
        self.names.mkdir(parent, OsStr::new(name), attributes, self.at(secs)).await
    }

    async fn rmdir(&self, parent: Ino, name: &str, secs: u64) -> Result<(), Error> {
        self.names.rmdir(parent, OsStr::new(name), self.at(secs)).await
    }

    async fn create(&self, parent: Ino, name: &str, secs: u64) -> Result<Attr, Error> {
        self.names.create(parent, OsStr::new(name), Attributes::default(), self.at(secs)).await
    }

    fn rename(&self, from: (Ino, &str), to: (Ino, &str), secs: u64) -> Result<Option<Ino>, Error> {
        let (name, new_name) = (OsStr::new(from.1), OsStr::new(to.1));
        self.names.rename(from.0, name, to.0, new_name, self.at(secs))
    }
}
