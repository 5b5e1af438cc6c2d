//! From a path as it was typed to a mount and a path in it.
//!
//! The mount itself is not asked: what is behind a mountpoint is read from the path alone, so that nothing is fetched
//! for it, nothing hangs, and names need not exist. A mount has no symbolic links; those above it are followed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::mount;

/// Symbolic links on one path before it is taken for a circle; as many as the kernel follows.
const LINKS_MAX: u32 = 40;
/// Mountpoints named in advice.
const MOUNTS_TOLD_MAX: usize = 5;

/// A path in a mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// The mount.
    pub mountpoint: PathBuf,
    /// The path in it, without a slash at either end; empty for the mountpoint.
    pub inside: String,
}

/// Places of one mount.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// The mount.
    pub mountpoint: PathBuf,
    /// As [`Place::inside`].
    pub paths: Vec<String>,
}

/// Finds the mount of each path; in the order of the paths.
pub fn locate_all(typed: &[PathBuf]) -> Result<Vec<Place>, Failure> {
    let mounts = mount::mounts_of_ours().map_err(mount::Error::from)?;
    let mountpoints: Vec<PathBuf> = mounts.into_iter().map(|entry| entry.mountpoint).collect();
    typed.iter().map(|path| locate(path, &mountpoints)).collect()
}

/// The same places by mount, in the order in which the mounts appear.
pub fn grouped(places: Vec<Place>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for Place { mountpoint, inside } in places {
        match groups.iter_mut().find(|group| group.mountpoint == mountpoint) {
            Some(group) => group.paths.push(inside),
            None => groups.push(Group { mountpoint, paths: vec![inside] }),
        }
    }
    groups
}

fn locate(typed: &Path, mountpoints: &[PathBuf]) -> Result<Place, Failure> {
    let shown = output::path(typed);
    let unusable =
        |error: io::Error| Failure::new(Exit::Usage, format!("cannot use the path '{shown}': {error}"));
    let absolute = std::path::absolute(typed).map_err(unusable)?;
    let path = without_links(&absolute, mountpoints).map_err(unusable)?;
    let Some(mountpoint) = mount_of(&path, mountpoints) else {
        let outside = Failure::new(Exit::Mountpoint, format!("'{shown}' is not in a tetherfs mount"));
        return Err(outside.hint(advice(mountpoints)));
    };
    let inside = path.strip_prefix(mountpoint).expect("the mountpoint was found as a prefix");
    match inside.to_str() {
        Some(inside) => Ok(Place { mountpoint: mountpoint.to_owned(), inside: inside.to_owned() }),
        None => Err(Failure::new(Exit::Usage, format!("the name '{shown}' is not UTF-8"))
            .hint("names in a bucket are, so there is no such file")),
    }
}

fn advice(mountpoints: &[PathBuf]) -> String {
    if mountpoints.is_empty() {
        return "nothing is mounted; 'tetherfs mount --help' says how".to_owned();
    }
    let told: Vec<String> = mountpoints.iter().take(MOUNTS_TOLD_MAX).map(|path| output::path(path)).collect();
    let more = if mountpoints.len() > MOUNTS_TOLD_MAX { ", ..." } else { "" };
    format!("name a file below {}{more}", told.join(" or "))
}

/// The mount that a path (absolute, without links) is in; the innermost.
fn mount_of<'a>(path: &Path, mountpoints: &'a [PathBuf]) -> Option<&'a Path> {
    let holding = mountpoints.iter().filter(|mountpoint| path.starts_with(mountpoint));
    holding.max_by_key(|mountpoint| mountpoint.components().count()).map(PathBuf::as_path)
}

/// An absolute path without `.`, `..` and symbolic links. In a mount nothing is looked at.
fn without_links(absolute: &Path, mountpoints: &[PathBuf]) -> io::Result<PathBuf> {
    let mut plain = PathBuf::from("/");
    let mut ahead = parts(absolute);
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == OsStr::new("..") {
            plain.pop();
            continue;
        }
        let next = plain.join(&part);
        if mount_of(&next, mountpoints).is_some() {
            plain = next;
            continue;
        }
        match std::fs::read_link(&next) {
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(io::Error::other("too many symbolic links"));
                }
                if target.is_absolute() {
                    plain = PathBuf::from("/");
                }
                ahead.extend(parts(&target));
            }
            // No link, or nothing there at all: then it is in no mount either, which is told later.
            Err(_) => plain = next,
        }
    }
    Ok(plain)
}

/// The names of a path and its `..`, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    #[test]
    fn paths_lead_into_mounts_through_links_and_back_out() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (outer, inner) = (root.join("mnt"), root.join("mnt/a/inner"));
        std::fs::create_dir(&outer).unwrap();
        std::fs::create_dir(root.join("other")).unwrap();
        symlink(&outer, root.join("link")).unwrap();
        symlink("../link", root.join("other/up")).unwrap();
        symlink("circle", root.join("circle")).unwrap();
        let mountpoints = [outer.clone(), inner.clone()];
        let place =
            |path: &str| locate(&root.join(path), &mountpoints).map(|place| (place.mountpoint, place.inside));
        for (path, mountpoint, inside) in [
            ("mnt", &outer, ""),
            ("mnt/", &outer, ""),
            ("mnt/x/./y//z", &outer, "x/y/z"),
            ("mnt/x/../y", &outer, "y"),
            ("other/up/x", &outer, "x"),
            ("mnt/../link/x", &outer, "x"),
            ("mnt/a/inner/b", &inner, "b"),
            ("mnt/a/inner/../b", &outer, "a/b"),
        ] {
            assert_eq!(place(path).unwrap(), (mountpoint.clone(), inside.to_owned()), "{path}");
        }
        for outside in ["", "other/x", "mnt/../other", "mntx", "absent/x"] {
            let failure = place(outside).unwrap_err();
            assert_eq!(failure.exit, Exit::Mountpoint, "{outside}");
            assert!(failure.message.ends_with("is not in a tetherfs mount"), "{}", failure.message);
            assert!(failure.hint.unwrap().contains(outer.to_str().unwrap()));
        }
        assert!(place("circle/x").unwrap_err().message.contains("too many symbolic links"));
        let odd = locate(&outer.join(OsStr::from_bytes(b"\xff")), &mountpoints).unwrap_err();
        assert!(odd.message.contains("not UTF-8"), "{}", odd.message);
    }

    #[test]
    fn places_of_one_mount_go_together() {
        let place = |mountpoint: &str, inside: &str| Place {
            mountpoint: mountpoint.into(),
            inside: inside.to_owned(),
        };
        let groups = grouped(vec![place("/a", "1"), place("/b", "2"), place("/a", "3")]);
        let expected = [("/a", vec!["1", "3"]), ("/b", vec!["2"])];
        let seen: Vec<(&str, Vec<&str>)> = groups
            .iter()
            .map(|group| {
                (group.mountpoint.to_str().unwrap(), group.paths.iter().map(String::as_str).collect())
            })
            .collect();
        assert_eq!(seen, expected);
    }
}
