//! A note in the state directory about the volume it belongs to, so that what waits there can be looked at without a mount.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::durable::write_atomic;
use crate::store::{Capabilities, Location};

/// The note's name in a state directory.
const NOTE: &str = "volume.json";
const VERSION: u32 = 1;

/// The volume that was mounted with a state directory last. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeNote {
    version: u32,
    /// The volume as users write it.
    pub url: String,
    /// Settings by which it was reached, by name.
    pub settings: BTreeMap<String, String>,
    /// What it was seen to be able to do.
    pub capabilities: Capabilities,
}

impl VolumeNote {
    /// The note about a mount.
    pub fn of(config: &Config, capabilities: &Capabilities) -> VolumeNote {
        VolumeNote {
            version: VERSION,
            url: config.url.clone(),
            settings: config.reached_by.clone(),
            capabilities: capabilities.clone(),
        }
    }

    /// Where it is.
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(NOTE)
    }

    /// Reads it. `None` when there is none, or none that this release understands.
    pub fn read(state_directory: &Path) -> io::Result<Option<VolumeNote>> {
        match fs::read(VolumeNote::path(state_directory)) {
            Ok(text) => {
                let note = serde_json::from_slice::<VolumeNote>(&text).ok();
                Ok(note.filter(|note| note.version == VERSION))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The volume that a state directory is of, where that is another one: what waits there must not go into this one.
    /// A server may have moved, so its address does not count.
    pub fn of_another(config: &Config) -> Option<String> {
        let note = VolumeNote::read(&config.state_directory).ok().flatten()?;
        let location = note.url.parse::<Location>();
        location.is_ok_and(|location| location != config.location).then_some(note.url)
    }

    /// Writes it, unless it is there. Nothing that a mount promises depends on it.
    pub fn keep(&self, state_directory: &Path) {
        if VolumeNote::read(state_directory).is_ok_and(|note| note.as_ref() == Some(self)) {
            return;
        }
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other);
        let written = text.and_then(|text| write_atomic(&VolumeNote::path(state_directory), &text));
        if let Err(error) = written {
            log::warn!("It cannot be noted which volume the state directory is of: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::supposed_capabilities;

    #[test]
    fn a_note_is_kept_and_replaced_and_what_is_no_note_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let read = || VolumeNote::read(directory.path()).unwrap();
        assert_eq!(read(), None);
        let note = |url: &str| VolumeNote {
            version: VERSION,
            url: url.to_owned(),
            settings: [("endpoint".to_owned(), "http://nas".to_owned())].into(),
            capabilities: supposed_capabilities(),
        };
        for url in ["s3://a", "s3://b"] {
            note(url).keep(directory.path());
            assert_eq!(read(), Some(note(url)));
        }
        VolumeNote { version: 2, ..note("s3://c") }.keep(directory.path());
        assert_eq!(read(), None, "a later release's");
        fs::write(VolumeNote::path(directory.path()), "{").unwrap();
        assert_eq!(read(), None);
    }
}
