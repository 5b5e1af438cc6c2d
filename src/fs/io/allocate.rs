//! `fallocate`: space taken ahead, and zeros without writing them one by one.

use std::time::SystemTime;

use crate::fs::error::{Error, Result};
use crate::fs::open::Below;
use crate::fs::{FileSystem, Rights};
use crate::types::{ByteRange, Fh, UnixTime};
use crate::write::WriteFile;

/// Zeros written at a time.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// What is to become of a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocation {
    /// Later writes to it find the space that they need.
    Space,
    /// It reads as zeros.
    Zeros,
}

/// What a range beyond the end does to the length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Length {
    /// Nothing.
    Kept,
    /// It grows to the end of the range.
    Grows,
}

impl FileSystem {
    /// Prepares a range of an open file. Local file calls only.
    pub fn allocate(
        &self,
        fh: Fh,
        range: ByteRange,
        what: Allocation,
        length: Length,
        rights: Rights,
    ) -> Result<()> {
        let handle = self.handles.file(fh)?;
        if !handle.is_writable {
            return Err(Error::BadHandle);
        }
        if range.is_empty() {
            return Err(Error::Invalid);
        }
        self.change(&handle.state, Below::Object, |local| {
            let size = local.file.size();
            match what {
                Allocation::Space => local.file.reserve(range)?,
                Allocation::Zeros => write_zeros(&local.file, range.clip(size))?,
            }
            let grows = length == Length::Grows && range.end > size;
            if grows {
                local.file.truncate(range.end)?;
            }
            if grows || what == Allocation::Zeros {
                local.touch(UnixTime::from(SystemTime::now()));
            }
            local.settle_rights(rights);
            Ok(())
        })
    }
}

fn write_zeros(file: &WriteFile, range: ByteRange) -> Result<()> {
    for piece in range.split(ZEROS.len() as u64) {
        file.write(piece.start, &ZEROS[..piece.len() as usize])?;
    }
    Ok(())
}
