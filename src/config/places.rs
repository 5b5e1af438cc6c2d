//! Where files are when nobody says: by the XDG base directory rules for users, by the FHS for root.
//!
//! Root gets `/var/lib` and `/var/cache`, unless told otherwise by an XDG variable or a `HOME` that is not root's own: a
//! mount from fstab, which has no `HOME`, and one from a root shell are to find the same pending uploads.

use std::path::{Path, PathBuf};

use crate::config::Environment;
use crate::store::Location;
use crate::types::Sha256;

const SYSTEM_CONFIG: &str = "/etc/tetherfs.toml";
const ROOT_HOMES: [&str; 2] = ["/root", "/"];
/// Hex digits of a volume's hash in a directory name: 64 bits, for the handful of volumes a user has.
const HASH_DIGITS: usize = 16;

/// The configuration files read when none is named, weakest first. They need not exist.
pub fn config_files(environment: &Environment) -> Vec<PathBuf> {
    let home = home_directory(environment, "XDG_CONFIG_HOME", ".config");
    let user = home.map(|config| config.join("tetherfs/config.toml"));
    [Some(PathBuf::from(SYSTEM_CONFIG)), user].into_iter().flatten().collect()
}

/// The state directory of a volume; `None` without a home directory.
pub fn state_directory(environment: &Environment, uid: u32, volume: &str) -> Option<PathBuf> {
    let base = base_directory(environment, uid, ("XDG_STATE_HOME", ".local/state", "/var/lib"))?;
    let hash = Sha256::of(volume.as_bytes()).to_string();
    Some(base.join("tetherfs").join(&hash[..HASH_DIGITS]))
}

/// The cache directory; `None` without a home directory.
pub fn cache_directory(environment: &Environment, uid: u32) -> Option<PathBuf> {
    Some(base_directory(environment, uid, ("XDG_CACHE_HOME", ".cache", "/var/cache"))?.join("tetherfs"))
}

/// Directories where control sockets may be: a mount uses the first that it can, a command looks in all of them,
/// because one may have been started by cron and the other from a desktop.
pub fn runtime_directories(environment: &Environment, uid: u32) -> Vec<PathBuf> {
    if let Some(given) = environment.path("TETHERFS_RUNTIME_DIR") {
        return vec![given];
    }
    let mut directories = Vec::new();
    let given = environment.path("XDG_RUNTIME_DIR");
    if uid == 0 {
        // That of a login session goes away with the session; a mount of root's must not lose its door with it.
        let lasting = given.filter(|base| !base.starts_with("/run/user"));
        directories.extend(lasting.map(|base| base.join("tetherfs")));
        directories.push(PathBuf::from("/run/tetherfs"));
    } else {
        directories.extend(given.map(|base| base.join("tetherfs")));
        directories.push(PathBuf::from(format!("/run/user/{uid}/tetherfs")));
    }
    directories.push(PathBuf::from(format!("/tmp/tetherfs-{uid}")));
    directories.dedup();
    directories
}

/// A text for the volume that is the same however its URL was written, and that holds no secret.
pub fn volume_text(location: &Location, endpoint: Option<&str>) -> String {
    let url = url_text(location);
    match (location, endpoint) {
        (Location::S3 { .. }, Some(endpoint)) => {
            format!("{url} at {}", endpoint.trim_end_matches('/').to_ascii_lowercase())
        }
        (Location::S3 { .. }, None) | (Location::Local { .. }, _) => url,
    }
}

/// The volume's URL without secrets, as shown to users.
pub fn url_text(location: &Location) -> String {
    match location {
        Location::S3 { bucket, prefix } if prefix.is_empty() => format!("s3://{bucket}"),
        Location::S3 { bucket, prefix } => format!("s3://{bucket}/{}", prefix.trim_end_matches('/')),
        Location::Local { directory } => format!("file://{}", directory.display()),
    }
}

/// Whether one of two absolute paths is the other or lies below it.
pub fn overlap(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// The directory of an XDG variable, else the one below `HOME`, else, for root, the system's.
fn base_directory(environment: &Environment, uid: u32, names: (&str, &str, &str)) -> Option<PathBuf> {
    let (variable, below_home, system) = names;
    let is_own_home = |home: &PathBuf| ROOT_HOMES.iter().any(|own| home == Path::new(own));
    if uid == 0 && environment.path("HOME").as_ref().is_none_or(is_own_home) {
        return Some(environment.path(variable).unwrap_or_else(|| PathBuf::from(system)));
    }
    home_directory(environment, variable, below_home)
}

fn home_directory(environment: &Environment, variable: &str, below_home: &str) -> Option<PathBuf> {
    environment.path(variable).or_else(|| Some(environment.path("HOME")?.join(below_home)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(prefix: &str) -> Location {
        Location::S3 { bucket: "b".to_owned(), prefix: prefix.to_owned() }
    }

    #[test]
    fn users_and_root() {
        let home = Environment::from_pairs([("HOME", "/home/u")]);
        let state = state_directory(&home, 1000, "v").unwrap();
        assert!(state.starts_with("/home/u/.local/state/tetherfs"), "{}", state.display());
        assert_eq!(state.file_name().unwrap().len(), HASH_DIGITS);
        assert_ne!(state, state_directory(&home, 1000, "w").unwrap());
        assert_eq!(cache_directory(&home, 1000).unwrap(), Path::new("/home/u/.cache/tetherfs"));
        assert_eq!(state_directory(&home, 0, "v").unwrap(), state, "whoever sets HOME means it");
        for own in [Environment::default(), Environment::from_pairs([("HOME", "/root")])] {
            assert!(state_directory(&own, 0, "v").unwrap().starts_with("/var/lib/tetherfs"));
            assert_eq!(cache_directory(&own, 0).unwrap(), Path::new("/var/cache/tetherfs"));
        }
        let xdg = Environment::from_pairs([("XDG_STATE_HOME", "/s"), ("XDG_CACHE_HOME", "relative")]);
        assert!(state_directory(&xdg, 0, "v").unwrap().starts_with("/s/tetherfs"));
        assert_eq!(cache_directory(&xdg, 1000), None);
        assert_eq!(cache_directory(&xdg, 0).unwrap(), Path::new("/var/cache/tetherfs"));
    }

    #[test]
    fn sockets_are_looked_for_in_every_place() {
        let desktop = Environment::from_pairs([("XDG_RUNTIME_DIR", "/run/user/7")]);
        let expected = [Path::new("/run/user/7/tetherfs"), Path::new("/tmp/tetherfs-7")];
        assert_eq!(runtime_directories(&desktop, 7), expected);
        assert_eq!(runtime_directories(&Environment::default(), 7), expected);
        let system = [Path::new("/run/tetherfs"), Path::new("/tmp/tetherfs-0")];
        assert_eq!(runtime_directories(&desktop, 0), system, "root's mounts outlive root's logins");
        let given = Environment::from_pairs([("TETHERFS_RUNTIME_DIR", "/x")]);
        assert_eq!(runtime_directories(&given, 0), [Path::new("/x")]);
    }

    #[test]
    fn the_same_volume_has_one_text() {
        assert_eq!(volume_text(&bucket("p/"), Some("HTTP://h:1/")), "s3://b/p at http://h:1");
        assert_eq!(volume_text(&bucket(""), None), "s3://b");
        let local = Location::Local { directory: "/d".into() };
        assert_eq!(volume_text(&local, Some("http://h")), "file:///d");
    }
}
