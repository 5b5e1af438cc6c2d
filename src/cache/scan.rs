//! What is on disk when a cache is opened, told by names, sizes and times alone.
//!
//! Folder by folder, so that what has been found can be made use of at once.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use crate::cache::files::map::HEADER_BYTES_MIN;
use crate::cache::files::{self, STAT_BLOCK_BYTES};
use crate::cache::layout::{DATA_SUFFIX, MAP_SUFFIX, Name};

/// One object on disk.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub name: Name,
    /// What its files take on disk.
    pub bytes: u64,
    /// When it was last used.
    pub used: SystemTime,
}

/// The two files of one name, as far as they have been seen.
#[derive(Default)]
struct Halves {
    data: Option<Metadata>,
    map: Option<Metadata>,
}

/// Lists the objects of one folder, most recently used first, and removes what cannot be one: files with foreign names,
/// chunk files without a map, maps without a whole header. A folder that is not there holds none.
///
/// Must not run while files are being made in the folder: a new chunk file has no map for a moment.
pub(crate) fn scan_shard(volume_directory: &Path, shard: &str) -> Vec<Found> {
    match list_shard(volume_directory, shard) {
        Ok(mut found) => {
            found.sort_by_key(|object| Reverse(object.used));
            found
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            log::warn!("Cannot list cache folder {shard} of {}: {error}", volume_directory.display());
            Vec::new()
        }
    }
}

/// The names that have a map in one folder. Changes nothing.
pub(crate) fn names(volume_directory: &Path, shard: &str) -> io::Result<Vec<Name>> {
    let entries = match fs::read_dir(volume_directory.join(shard)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let file = entry?.file_name().into_string().unwrap_or_default();
        names.extend(file.strip_suffix(MAP_SUFFIX).and_then(|stem| Name::parse(shard, stem)));
    }
    Ok(names)
}

fn list_shard(volume_directory: &Path, shard: &str) -> io::Result<Vec<Found>> {
    let mut halves: HashMap<Name, Halves> = HashMap::new();
    for entry in fs::read_dir(volume_directory.join(shard))? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // It was evicted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let file = entry.file_name().into_string().unwrap_or_default();
        let as_data = file.strip_suffix(DATA_SUFFIX).and_then(|stem| Name::parse(shard, stem));
        let as_map = file.strip_suffix(MAP_SUFFIX).and_then(|stem| Name::parse(shard, stem));
        match (as_data, as_map) {
            (Some(name), None) => halves.entry(name).or_default().data = Some(metadata),
            (None, Some(name)) => halves.entry(name).or_default().map = Some(metadata),
            (Some(_), Some(_)) | (None, None) => remove_foreign(&entry, &metadata),
        }
    }
    let mut objects = Vec::with_capacity(halves.len());
    for (name, halves) in halves {
        match (halves.data, halves.map) {
            (Some(data), Some(map)) if map.len() >= HEADER_BYTES_MIN => objects.push(Found {
                name,
                bytes: (data.blocks() + map.blocks()) * STAT_BLOCK_BYTES,
                used: map.modified()?,
            }),
            (Some(_) | None, Some(_) | None) => remove_useless(volume_directory, name),
        }
    }
    Ok(objects)
}

fn remove_useless(volume_directory: &Path, name: Name) {
    if let Err(error) = files::remove(volume_directory, name) {
        log::debug!("Cannot remove what is left of cache file {name}: {error}");
    }
}

/// Removes a file that is not ours. Folders are left alone.
fn remove_foreign(entry: &DirEntry, metadata: &Metadata) {
    if metadata.is_dir() {
        return;
    }
    let path = entry.path();
    match fs::remove_file(&path) {
        Ok(()) => log::info!("Removed a foreign file from the cache: {}", path.display()),
        Err(error) => log::warn!("Cannot remove foreign file {}: {error}", path.display()),
    }
}
