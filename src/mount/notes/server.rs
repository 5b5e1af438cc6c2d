//! What was found out about a volume's server, noted in the state directory, so that a mount comes up without it.
//!
//! The file `server`, format 1, is one line, replaced as a whole: `1 CRC FACTS`, with CRC the 16 hex digits of the
//! CRC-64/NVME of FACTS, which is JSON. A note that is damaged or of another format is none: a server of which nothing
//! is known is asked, and until it answers, is thought to do the least.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::durable::write_atomic;
use crate::observe::task;
use crate::store::{ServerFacts, Visit};
use crate::types::Crc64;
use crate::write;

const NOTE: &str = "server";
const FORMAT: &str = "1";

/// The note of one state directory.
#[derive(Clone, Debug)]
pub struct ServerNote {
    path: PathBuf,
}

impl ServerNote {
    /// The note in a state directory, written or not.
    pub fn of(state_directory: &Path) -> ServerNote {
        ServerNote { path: state_directory.join(NOTE) }
    }

    /// What is known of the volume whose changes are journaled in `directory`.
    pub fn visit(&self, directory: &Path) -> Visit {
        if write::is_begun(directory) { Visit::Again(self.read()) } else { Visit::First }
    }

    /// Writes down what is found out, as soon as it is. Nothing that a mount promises depends on it.
    pub fn keep(self, facts: oneshot::Receiver<ServerFacts>) {
        task::spawn("server-note", async move {
            // Without a sender there is nothing to be found out.
            let Ok(facts) = facts.await else { return };
            let path = self.path.clone();
            let written = task::spawn_blocking("server-note", move || self.write(&facts)).await;
            if let Err(error) = written.map_err(io::Error::other).flatten() {
                log::warn!("What the server can do cannot be noted in {}: {error}", path.display());
            }
        });
    }

    fn read(&self) -> Option<ServerFacts> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                log::warn!("The note about the server, {}, cannot be read: {error}", self.path.display());
                return None;
            }
        };
        let facts = decode(&text);
        if facts.is_none() {
            log::warn!(
                "The note about the server, {}, is damaged or of another release",
                self.path.display()
            );
        }
        facts
    }

    fn write(&self, facts: &ServerFacts) -> io::Result<()> {
        let text = encode(facts)?;
        if std::fs::read_to_string(&self.path).is_ok_and(|present| present == text) {
            return Ok(());
        }
        write_atomic(&self.path, text.as_bytes())
    }
}

fn encode(facts: &ServerFacts) -> io::Result<String> {
    let json = serde_json::to_string(facts).map_err(io::Error::other)?;
    Ok(format!("{FORMAT} {} {json}\n", Crc64::of(json.as_bytes())))
}

fn decode(text: &str) -> Option<ServerFacts> {
    let mut words = text.trim_end().splitn(3, ' ');
    let (format, crc, json) = (words.next()?, words.next()?, words.next()?);
    let is_sound = format == FORMAT && crc == Crc64::of(json.as_bytes()).to_string();
    is_sound.then(|| serde_json::from_str(json).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Written by the first release with this format; must stay readable.
    const FIRST: &str = include_str!("server-note-v1.txt");

    #[test]
    fn format_1_stays_what_it_is() {
        let facts = decode(FIRST).unwrap();
        assert_eq!(encode(&facts).unwrap(), FIRST);
    }

    #[test]
    fn a_note_is_kept_and_a_flipped_byte_anywhere_makes_it_none() {
        let folder = tempfile::tempdir().unwrap();
        let note = ServerNote::of(folder.path());
        assert_eq!(note.read(), None);
        let facts = decode(FIRST).unwrap();
        note.write(&facts).unwrap();
        assert_eq!(note.read(), Some(facts));
        let text = FIRST.trim_end();
        for at in 0..text.len() {
            let mut bytes = text.as_bytes().to_vec();
            bytes[at] ^= 1;
            std::fs::write(&note.path, bytes).unwrap();
            assert_eq!(note.read(), None, "byte {at}");
        }
    }

    #[test]
    fn only_a_directory_with_a_journal_has_been_visited() {
        let folder = tempfile::tempdir().unwrap();
        let note = ServerNote::of(folder.path());
        let facts = decode(FIRST).unwrap();
        note.write(&facts).unwrap();
        assert_eq!(note.visit(folder.path()), Visit::First);
        let disk = std::sync::Arc::new(crate::durable::RealDisk);
        crate::durable::Journal::open(disk, &folder.path().join("journal")).unwrap();
        assert_eq!(note.visit(folder.path()), Visit::Again(Some(facts)));
        std::fs::remove_file(&note.path).unwrap();
        assert_eq!(note.visit(folder.path()), Visit::Again(None));
    }
}
