//! The rooms of one mount, put together in start order and taken apart in reverse.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::Handle;

use crate::cache::ChunkCache;
use crate::config::Config;
use crate::durable::Lease;
use crate::fs::{self, FileSystem};
use crate::fuse::Session;
use crate::mount::Error;
use crate::mount::life::Rooms;
use crate::mount::notes::{MetadataNote, ServerNote, VolumeNote};
use crate::namespace::Namespace;
use crate::observe::{Metrics, task};
use crate::read::Reader;
use crate::store::wrap::RememberStore;
use crate::store::{self, ObjectStore, Opened, Reach};
use crate::write::Writer;

/// Everything that a mount consists of, the control socket excepted.
#[derive(Debug)]
pub struct Assembly {
    /// The file operations, which hold everything below them, and the kernel's side.
    pub rooms: Rooms,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Whether the server answers.
    pub reach: Reach,
    /// Uploads of an earlier mount that go on.
    pub recovered: usize,
    /// Dropped last, when nothing writes into the state directory any more.
    pub lease: Lease,
}

/// Starts room after room. What was started is stopped again when a later one fails.
pub async fn assemble(config: &Config) -> Result<Assembly, Error> {
    make_private("state", &config.state_directory)?;
    let lease = Lease::acquire(&config.state_directory)?;
    if let Some(url) = VolumeNote::of_another(config) {
        return Err(Error::OtherVolume { path: config.state_directory.clone(), url });
    }
    let metrics = Arc::new(Metrics::default());
    let note = ServerNote::of(&config.state_directory);
    let visit = note.visit(&config.write.directory);
    let Opened { store, reach, facts } =
        store::open(&config.location, &config.store, visit, Arc::clone(&metrics)).await?;
    note.keep(facts);
    VolumeNote::of(config, store.capabilities()).keep(&config.state_directory);
    let metadata = MetadataNote::open(&config.state_directory);
    let store: Arc<dyn ObjectStore> = Arc::new(RememberStore::new(store, metadata, config.metadata_reach));
    let cache = open_cache(config, store.volume(), &metrics)?;
    let reader = Reader::new(Arc::clone(&store), cache, config.read.clone(), Arc::clone(&metrics));
    let base = fs::base_source(Arc::clone(&reader));
    let (writer, mut recovered, events) =
        Writer::open(Arc::clone(&store), base, config.write.clone(), Arc::clone(&metrics))?;
    let recovered_count = recovered.pending.len();
    recovered.wait_for_moves().await;
    let namespace = Namespace::new(store, config.namespace.clone(), Arc::clone(&metrics));
    let fs = FileSystem::new(namespace, reader, writer, config.fs.clone(), Arc::clone(&metrics));
    fs.start(recovered, events);
    match mount(&fs, config).await {
        Ok(session) => {
            Ok(Assembly { rooms: Rooms { fs, session }, metrics, reach, recovered: recovered_count, lease })
        }
        Err(error) => {
            fs.shutdown().await;
            Err(error)
        }
    }
}

fn open_cache(
    config: &Config,
    volume: &str,
    metrics: &Arc<Metrics>,
) -> Result<Option<Arc<ChunkCache>>, Error> {
    if config.cache.bytes_max.0 == 0 {
        return Ok(None);
    }
    make_private("cache", &config.cache.directory)?;
    Ok(Some(ChunkCache::open(volume, config.cache.clone(), Arc::clone(metrics))?))
}

/// mount(2) may wait for others; the runtime's workers must not.
async fn mount(fs: &Arc<FileSystem>, config: &Config) -> Result<Session, Error> {
    let (fs, options, runtime) = (Arc::clone(fs), config.fuse.clone(), Handle::current());
    let mounted = task::spawn_blocking("fuse-mount", move || Session::mount(fs, runtime, &options)).await;
    Ok(mounted.map_err(std::io::Error::other)??)
}

/// Makes a directory and those above it, for this user's eyes only.
pub fn make_private(what: &'static str, path: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Directory { what, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn local_directories_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        make_private("state", &path).unwrap();
        make_private("state", &path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        std::fs::write(folder.path().join("file"), "").unwrap();
        let error = make_private("cache", &folder.path().join("file/x")).unwrap_err();
        assert!(error.to_string().starts_with("cannot make the cache directory"), "{error}");
        assert_eq!(error.hint().as_deref(), Some("choose another with --cache-dir"));
    }
}
