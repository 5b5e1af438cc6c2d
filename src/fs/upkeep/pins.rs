//! Pins: what is to stay in the cache, by name and across remounts.

use std::sync::Arc;

use crate::fs::FileSystem;
use crate::fs::error::Error;
use crate::fs::upkeep::paths::Found;
use crate::fs::upkeep::{NamedFile, Outcome, Unpinned, WorkError};
use crate::namespace::FileKind;
use crate::observe::task;
use crate::read::PinTarget;

impl FileSystem {
    /// Everything that is pinned, in order: files by their path, directories with a slash at the end. May block.
    pub fn pins(&self) -> Vec<String> {
        let mut pins: Vec<String> = self.reader.pins().iter().map(PinTarget::to_string).collect();
        pins.sort_unstable();
        pins
    }

    /// Takes back the pins of paths, which need not exist, and of everything below them. Blocks on the local disk.
    pub fn unpin(&self, paths: &[String]) -> Result<Unpinned, WorkError> {
        let mut unpinned = Unpinned::default();
        for path in paths {
            let pins = self.reader.pins();
            let (mine, above) = pins_of(&pins, path);
            for pin in &mine {
                let name = pin.to_string();
                match self.reader.unpin(pin) {
                    Ok(_) => unpinned.removed.push(name),
                    Err(error) => return Err(WorkError::Pin { pin: name, error }),
                }
            }
            match above {
                Some(above) => unpinned.held.push(NamedFile { path: path.clone(), why: above.to_string() }),
                None if mine.is_empty() => unpinned.unknown.push(path.clone()),
                None => {}
            }
        }
        Ok(unpinned)
    }

    pub(super) async fn pin(self: &Arc<Self>, paths: &[String]) -> Result<Outcome, WorkError> {
        self.cache_in_use().await?;
        let targets: Vec<PinTarget> =
            self.find_all(paths).await?.iter().map(target_of).collect::<Result<_, WorkError>>()?;
        let reader = self.reader.clone();
        let noting = task::spawn_blocking("cache-pin", move || {
            let mut pins = Vec::with_capacity(targets.len());
            for target in targets {
                let pin = target.to_string();
                match reader.pin(target) {
                    Ok(()) => pins.push(pin),
                    Err(error) => return Err(WorkError::Pin { pin, error }),
                }
            }
            Ok(pins)
        });
        Ok(Outcome::Pinned { pins: noting.await.map_err(|_| WorkError::CutOff)?? })
    }
}

fn target_of(found: &Found<'_>) -> Result<PinTarget, WorkError> {
    let text = match found.kind {
        FileKind::Directory => format!("{}/", found.path),
        FileKind::File | FileKind::Symlink => found.path.clone(),
    };
    let too_long = |_| WorkError::Path { path: found.path.clone(), error: Error::NameTooLong };
    PinTarget::parse(&text).map_err(too_long)
}

/// The pins of a path and of what is below it; and one of a directory above it.
fn pins_of<'a>(pins: &'a [PinTarget], path: &str) -> (Vec<PinTarget>, Option<&'a PinTarget>) {
    let is_in = |inner: &str, outer: &str| {
        outer.is_empty()
            || inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_mine = |pin: &&PinTarget| match pin {
        PinTarget::Object(key) | PinTarget::Directory(key) => is_in(key.as_str(), path),
        PinTarget::Volume => path.is_empty(),
    };
    let is_above = |pin: &&PinTarget| match pin {
        PinTarget::Object(_) => false,
        PinTarget::Directory(key) => key.as_str() != path && is_in(path, key.as_str()),
        PinTarget::Volume => !path.is_empty(),
    };
    (pins.iter().filter(is_mine).cloned().collect(), pins.iter().find(is_above))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_found_from_above_and_below() {
        let target = |text: &&str| PinTarget::parse(text).unwrap();
        let names = |pins: &[&str], path: &str| {
            let pins: Vec<PinTarget> = pins.iter().map(target).collect();
            let (mine, above) = pins_of(&pins, path);
            let mine: Vec<String> = mine.iter().map(PinTarget::to_string).collect();
            (mine.join(" "), above.map(PinTarget::to_string).unwrap_or_default())
        };
        let pins = ["a/b", "a/", "a/c/", "ab", "a/c/d"];
        for (path, mine, above) in [
            ("a", "a/b a/ a/c/ a/c/d", ""),
            ("a/b", "a/b", "a/"),
            ("a/c", "a/c/ a/c/d", "a/"),
            ("a/x", "", "a/"),
            ("ab", "ab", ""),
            ("b", "", ""),
            ("", "a/b a/ a/c/ ab a/c/d", ""),
        ] {
            assert_eq!(names(&pins, path), (mine.to_owned(), above.to_owned()), "{path}");
        }
        assert_eq!(names(&["/"], "a"), (String::new(), "/".to_owned()));
        assert_eq!(names(&["/", "a"], ""), ("/ a".to_owned(), String::new()));
    }
}
