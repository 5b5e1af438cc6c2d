//! Names whose chunks are never evicted: the user's own choice, kept across restarts.
//!
//! The file `pins` in the volume's folder, format 1, is JSON, replaced as a whole:
//! `{"format":1,"pins":["a/film.mkv","photos/2024/","/"]}`. A name with a `/` at its end is all below it, `/` alone is
//! the whole volume, any other is one object.
//!
//! Pins follow the name. Of one name the version that was asked for last is held; those before it are evicted as if
//! there were no pin. As long as no version has been asked for since the start, all of them are held.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use lru::LruCache;
use serde::{Deserialize, Serialize};

use crate::cache::layout::{Name, PINS_FILE};
use crate::durable::write_atomic;
use crate::types::{Key, KeyError};

const FORMAT: u32 = 1;
/// Most pins of one volume.
const PINS_MAX: usize = 10_000;
/// Most pinned names whose version in use is remembered. Of others all versions are held.
const VERSIONS_MAX: NonZeroUsize = NonZeroUsize::new(100_000).expect("it is not zero");

/// What a pin holds.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PinTarget {
    /// One object.
    Object(Key),
    /// Everything whose key begins with this one and a `/`, which is not part of it.
    Directory(Key),
    /// The whole volume.
    Volume,
}

/// The pins of a volume.
#[derive(Debug)]
pub(crate) struct Pins {
    path: PathBuf,
    targets: BTreeSet<PinTarget>,
    /// The version in use of pinned names.
    versions: LruCache<String, Name>,
}

#[derive(Serialize, Deserialize)]
struct PinsFile {
    format: u32,
    pins: Vec<String>,
}

impl PinTarget {
    /// Reads a target: `/` is the volume, a `/` at the end a directory, anything else an object. Keys are relative to
    /// the mounted volume and begin without a `/`. An error for what cannot be a key.
    pub fn parse(text: &str) -> Result<PinTarget, KeyError> {
        match text.strip_suffix('/') {
            Some("") => Ok(PinTarget::Volume),
            Some(directory) => Key::new(directory).map(PinTarget::Directory),
            None => Key::new(text).map(PinTarget::Object),
        }
    }
}

impl fmt::Display for PinTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PinTarget::Object(key) => f.write_str(key.as_str()),
            PinTarget::Directory(key) => write!(f, "{key}/"),
            PinTarget::Volume => f.write_str("/"),
        }
    }
}

impl Pins {
    /// Reads the pins of a volume. A file that cannot be understood is set aside, loudly.
    pub(crate) fn open(volume_directory: &Path) -> io::Result<Pins> {
        let path = volume_directory.join(PINS_FILE);
        let targets = match fs::read(&path) {
            Ok(bytes) => match decode(&bytes) {
                Some(targets) => targets,
                None => {
                    set_aside(&path);
                    BTreeSet::new()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeSet::new(),
            Err(error) => return Err(error),
        };
        Ok(Pins { path, targets, versions: LruCache::new(VERSIONS_MAX) })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    pub(crate) fn targets(&self) -> impl Iterator<Item = &PinTarget> {
        self.targets.iter()
    }

    /// Pins something; when it returns, that survives a crash.
    pub(crate) fn add(&mut self, target: PinTarget) -> io::Result<()> {
        let mut targets = self.targets.clone();
        targets.insert(target);
        if targets.len() > PINS_MAX {
            let detail = format!("there are {PINS_MAX} pins already; pin a directory instead of its files");
            return Err(io::Error::other(detail));
        }
        self.replace(targets)
    }

    /// Takes a pin off. False when there is none.
    pub(crate) fn remove(&mut self, target: &PinTarget) -> io::Result<bool> {
        let mut targets = self.targets.clone();
        let was_there = targets.remove(target);
        if was_there {
            self.replace(targets)?;
        }
        Ok(was_there)
    }

    /// Whether a version of a name is held.
    pub(crate) fn holds(&self, key: &str, version: Name) -> bool {
        self.covers(key) && self.versions.peek(key).is_none_or(|&in_use| in_use == version)
    }

    /// Notes that a version is in use. Returns the one before, if it was another and was held.
    pub(crate) fn use_version(&mut self, key: &str, version: Name) -> Option<Name> {
        if !self.covers(key) {
            return None;
        }
        self.versions.put(key.to_owned(), version).filter(|&before| before != version)
    }

    /// Whether a pin is on the name or on what it lies in.
    pub(crate) fn covers(&self, key: &str) -> bool {
        let has = |target| self.targets.contains(&target);
        let as_key = |text: &str| Key::new(text).ok();
        !self.targets.is_empty()
            && (has(PinTarget::Volume)
                || as_key(key).is_some_and(|key| has(PinTarget::Object(key)))
                || key.match_indices('/').any(|(at, _)| {
                    as_key(&key[..at]).is_some_and(|directory| has(PinTarget::Directory(directory)))
                }))
    }

    fn replace(&mut self, targets: BTreeSet<PinTarget>) -> io::Result<()> {
        write_atomic(&self.path, &encode(&targets))?;
        self.targets = targets;
        Ok(())
    }
}

fn encode(targets: &BTreeSet<PinTarget>) -> Vec<u8> {
    let file = PinsFile { format: FORMAT, pins: targets.iter().map(PinTarget::to_string).collect() };
    serde_json::to_vec(&file).expect("numbers and texts can be written as JSON")
}

fn decode(bytes: &[u8]) -> Option<BTreeSet<PinTarget>> {
    let file: PinsFile = serde_json::from_slice(bytes).ok()?;
    let targets = file.pins.iter().map(|text| PinTarget::parse(text).ok());
    targets.collect::<Option<_>>().filter(|_| file.format == FORMAT)
}

fn set_aside(path: &Path) {
    let aside = path.with_extension("damaged");
    let moved = fs::rename(path, &aside);
    log::error!(
        "Nothing is pinned: {} cannot be understood{}; pin again what shall stay in the cache",
        path.display(),
        if moved.is_ok() { format!(" and is now {}", aside.display()) } else { String::new() }
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Sha256;

    fn target(text: &str) -> PinTarget {
        PinTarget::parse(text).unwrap()
    }

    fn name(text: &str) -> Name {
        let digest = Sha256::of(text.as_bytes()).to_string();
        Name::parse(&digest[..2], &digest[2..]).unwrap()
    }

    #[test]
    fn format_1_stays_what_it_is() {
        let home = tempfile::tempdir().unwrap();
        let text = r#"{"format":1,"pins":["a \"b\"","dir/sub/","/"]}"#;
        fs::write(home.path().join(PINS_FILE), text).unwrap();
        let pins = Pins::open(home.path()).unwrap();
        let expected = BTreeSet::from([target("a \"b\""), target("dir/sub/"), target("/")]);
        assert_eq!(pins.targets, expected);
        assert_eq!(encode(&expected), text.as_bytes());
    }

    #[test]
    fn pins_are_kept_and_a_file_that_is_none_is_set_aside() {
        let home = tempfile::tempdir().unwrap();
        let mut pins = Pins::open(home.path()).unwrap();
        pins.add(target("a")).unwrap();
        pins.add(target("b/")).unwrap();
        assert!(pins.remove(&target("a")).unwrap() && !pins.remove(&target("a")).unwrap());
        let pins = Pins::open(home.path()).unwrap();
        assert_eq!(pins.targets().cloned().collect::<Vec<_>>(), [target("b/")]);
        for bad in ["", "{", r#"{"format":2,"pins":[]}"#, r#"{"format":1,"pins":[""]}"#] {
            fs::write(home.path().join(PINS_FILE), bad).unwrap();
            assert!(Pins::open(home.path()).unwrap().is_empty());
            assert_eq!(fs::read_to_string(home.path().join("pins.damaged")).unwrap(), bad);
        }
    }

    #[test]
    fn names_and_what_is_below_them() {
        let home = tempfile::tempdir().unwrap();
        let mut pins = Pins::open(home.path()).unwrap();
        for text in ["a", "dir/sub/"] {
            pins.add(target(text)).unwrap();
        }
        for (key, is_covered) in [
            ("a", true),
            ("ab", false),
            ("a/b", false),
            ("dir/sub", false),
            ("dir/sub/x/y", true),
            ("dir/x", false),
        ] {
            assert_eq!(pins.covers(key), is_covered, "{key}");
        }
        pins.add(PinTarget::Volume).unwrap();
        assert!(pins.covers("dir/x"));
        assert_eq!(PinTarget::parse(""), Err(KeyError::Empty));
    }

    #[test]
    fn of_one_name_the_version_in_use_is_held() {
        let home = tempfile::tempdir().unwrap();
        let mut pins = Pins::open(home.path()).unwrap();
        pins.add(target("a")).unwrap();
        assert!(pins.holds("a", name("1")) && pins.holds("a", name("2")));
        assert_eq!(pins.use_version("a", name("1")), None);
        assert_eq!(pins.use_version("a", name("1")), None);
        assert_eq!(pins.use_version("a", name("2")), Some(name("1")));
        assert!(!pins.holds("a", name("1")) && pins.holds("a", name("2")));
        assert_eq!(pins.use_version("b", name("1")), None);
        assert!(!pins.holds("b", name("1")));
    }
}
