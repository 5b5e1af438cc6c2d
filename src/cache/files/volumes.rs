//! Which volumes a cache directory has anything of.

use std::fs;
use std::io;
use std::path::Path;

use crate::cache::files::map::Header;
use crate::cache::layout::{shards, volume_directory};
use crate::cache::scan;

/// The names of the volumes whose chunks are kept below a cache directory, in order. A folder without any readable map
/// has no name, and nothing that could be served.
pub fn volumes(directory: &Path) -> io::Result<Vec<String>> {
    let mut volumes = Vec::new();
    for entry in fs::read_dir(directory)? {
        let folder = entry?.path();
        volumes.extend(volume_of(&folder).filter(|volume| volume_directory(directory, volume) == folder));
    }
    volumes.sort_unstable();
    Ok(volumes)
}

/// The volume that the first readable map of a folder names.
fn volume_of(folder: &Path) -> Option<String> {
    let names = shards().flat_map(|shard| scan::names(folder, &shard).unwrap_or_default());
    names.filter_map(|name| Header::read(&name.map(folder))).map(|header| header.volume).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::files::Pair;

    #[test]
    fn volumes_are_told_by_their_maps() {
        let home = tempfile::tempdir().unwrap();
        for volume in ["s3://b", "file:///a"] {
            let header = Header {
                volume: volume.to_owned(),
                key: "k".to_owned(),
                etag: "1".to_owned(),
                size: 10,
                chunk_bytes: 4096,
            };
            let folder = volume_directory(home.path(), volume);
            fs::create_dir(&folder).unwrap();
            Pair::create(&folder, &header).unwrap();
        }
        fs::create_dir(volume_directory(home.path(), "empty")).unwrap();
        fs::create_dir(home.path().join("other")).unwrap();
        fs::write(home.path().join("file"), "x").unwrap();
        let moved = home.path().join("0123456789abcdef0123456789abcdef");
        fs::rename(volume_directory(home.path(), "s3://b"), &moved).unwrap();
        assert_eq!(volumes(home.path()).unwrap(), ["file:///a"], "a folder under another name is nobody's");
        fs::rename(&moved, volume_directory(home.path(), "s3://b")).unwrap();
        assert_eq!(volumes(home.path()).unwrap(), ["file:///a", "s3://b"]);
        assert!(volumes(&home.path().join("absent")).is_err());
    }
}
