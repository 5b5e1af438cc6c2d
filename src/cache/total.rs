//! How much is on disk at most, in a file of its own: so that a new process need not wait for the scan to know.
//!
//! The file `total` in the volume's folder, format 1, 48 bytes, integers little-endian:
//!
//! ```text
//!   0   8  magic "tethsum\n"
//!   8   4  format version, 1
//!  12   4  1: the cache is open, or its process has died   2: it was closed in order
//!  16  16  boot in which this was written
//!  32   8  bytes that both files of all objects take, at most; all ones: not known
//!  40   8  CRC-64/NVME of all bytes before it
//! ```
//!
//! It is raised before the files grow. An open cache's number holds in its own boot, whatever becomes of the process,
//! because the kernel has both the number and the files. A closed one's holds after a reboot too, so the word that it is
//! open again has to be on stable storage before anything is added.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use crate::cache::files::map::{u32_at, u64_at};
use crate::cache::files::witness::BootId;
use crate::cache::layout::TOTAL_FILE;
use crate::cache::locked;
use crate::types::Crc64;

const MAGIC: [u8; 8] = *b"tethsum\n";
const FORMAT: u32 = 1;
const BYTES: usize = 48;
const UNKNOWN: u64 = u64::MAX;
/// The number is raised by this much more than is needed, so that it is seldom written.
const HEADROOM_BYTES: u64 = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    Closed,
}

/// The number on disk.
#[derive(Debug)]
pub(crate) struct Total {
    file: File,
    /// What the file says.
    written: Mutex<u64>,
}

impl Total {
    /// Opens the file of a volume, or makes it. Returns what is on disk at most, where that can be trusted.
    pub(crate) fn open(volume_directory: &Path) -> io::Result<(Total, Option<u64>)> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(volume_directory.join(TOTAL_FILE))?;
        let mut found = [0; BYTES];
        let bytes = match file.read_exact_at(&mut found, 0) {
            Ok(()) => trusted(&found, BootId::current()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        let total = Total { file, written: Mutex::new(bytes.unwrap_or(UNKNOWN)) };
        total.write(Phase::Open, bytes.unwrap_or(UNKNOWN))?;
        Ok((total, bytes))
    }

    /// Puts the word that the cache is open on stable storage. Before this nothing may be added to it.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The files are going to take this much.
    pub(crate) fn cover(&self, bytes: u64) -> io::Result<()> {
        let mut written = locked(&self.written);
        if *written == UNKNOWN || bytes > *written {
            let raised = bytes.saturating_add(HEADROOM_BYTES);
            self.write(Phase::Open, raised)?;
            *written = raised;
        }
        Ok(())
    }

    /// The cache ends in order, with this much on disk.
    pub(crate) fn close(&self, bytes: u64) -> io::Result<()> {
        self.write(Phase::Closed, bytes)
    }

    fn write(&self, phase: Phase, bytes: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(phase, BootId::current(), bytes), 0)
    }
}

fn encode(phase: Phase, boot: Option<BootId>, bytes: u64) -> [u8; BYTES] {
    let mut out = [0; BYTES];
    out[..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    let phase: u32 = match phase {
        Phase::Open => 1,
        Phase::Closed => 2,
    };
    out[12..16].copy_from_slice(&phase.to_le_bytes());
    out[16..32].copy_from_slice(&boot.map_or([0; 16], |boot| boot.0));
    out[32..40].copy_from_slice(&bytes.to_le_bytes());
    let check = Crc64::of(&out[..40]);
    out[40..].copy_from_slice(&check.0.to_le_bytes());
    out
}

fn trusted(found: &[u8; BYTES], now: Option<BootId>) -> Option<u64> {
    let is_ours = found[..8] == MAGIC && u32_at(found, 8)? == FORMAT;
    if !is_ours || u64_at(found, 40)? != Crc64::of(&found[..40]).0 {
        return None;
    }
    let is_of_this_boot = now.is_some_and(|boot| found[16..32] == boot.0);
    let holds = match u32_at(found, 12)? {
        1 => is_of_this_boot,
        2 => true,
        _ => false,
    };
    u64_at(found, 32).filter(|&bytes| holds && bytes != UNKNOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: BootId = BootId([9; 16]);

    #[test]
    fn format_1_stays_what_it_is() {
        let text: String =
            encode(Phase::Closed, Some(BOOT), 4096).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            text,
            "7465746873756d0a0100000002000000\
             09090909090909090909090909090909\
             001000000000000004db452187165670"
        );
    }

    #[test]
    fn an_open_number_holds_in_its_boot_and_a_closed_one_always() {
        let open = encode(Phase::Open, Some(BOOT), 77);
        assert_eq!(trusted(&open, Some(BOOT)), Some(77));
        assert_eq!(trusted(&open, Some(BootId([1; 16]))), None);
        assert_eq!(trusted(&encode(Phase::Open, None, 77), None), None);
        assert_eq!(trusted(&encode(Phase::Closed, None, 77), None), Some(77));
        assert_eq!(trusted(&encode(Phase::Open, Some(BOOT), UNKNOWN), Some(BOOT)), None);
        for at in 0..open.len() * 8 {
            let mut bent = open;
            bent[at / 8] ^= 1 << (at % 8);
            assert_eq!(trusted(&bent, Some(BOOT)), None, "bit {at}");
        }
    }

    #[test]
    fn the_number_is_never_below_what_was_covered() {
        let home = tempfile::tempdir().unwrap();
        let reopened = || Total::open(home.path()).unwrap();
        let (total, found) = reopened();
        assert_eq!(found, None);
        assert_eq!(reopened().1, None, "not known yet");
        total.cover(1000).unwrap();
        let (total, found) = reopened();
        assert_eq!(found, Some(1000 + HEADROOM_BYTES));
        total.cover(HEADROOM_BYTES).unwrap();
        assert_eq!(reopened().1, Some(1000 + HEADROOM_BYTES));
        total.cover(HEADROOM_BYTES * 3).unwrap();
        assert_eq!(reopened().1, Some(HEADROOM_BYTES * 4));
        total.close(5).unwrap();
        assert_eq!(reopened().1, Some(5));
        std::fs::write(home.path().join(TOTAL_FILE), b"short").unwrap();
        assert_eq!(reopened().1, None);
    }
}
