//! The room that the cache leaves free on its disk, for others.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::cache::locked;

/// For this long the disk is not asked again, unless much is admitted meanwhile.
const SAMPLE_AGE_MAX: Duration = Duration::from_secs(1);
/// After so many bytes admitted the disk is asked again.
const SAMPLE_BYTES_MAX: u64 = 64 << 20;

/// Watches the free space of the cache's file system.
#[derive(Debug)]
pub(crate) struct Space {
    directory: PathBuf,
    /// Bytes that stay free.
    free_bytes_min: u64,
    sample: Mutex<Option<Sample>>,
}

/// What the disk said, and what has been admitted since.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Instant,
    free_bytes: u64,
    admitted_bytes: u64,
}

impl Space {
    pub(crate) fn new(directory: PathBuf, free_bytes_min: u64) -> Space {
        Space { directory, free_bytes_min, sample: Mutex::new(None) }
    }

    /// Whether this many bytes can be written and enough stays free. If so, they count as written.
    pub(crate) fn admit(&self, bytes: u64, now: Instant) -> io::Result<bool> {
        if self.free_bytes_min == 0 {
            return Ok(true);
        }
        let mut sample = locked(&self.sample);
        let last = sample.filter(|last| {
            now.saturating_duration_since(last.at) < SAMPLE_AGE_MAX && last.admitted_bytes < SAMPLE_BYTES_MAX
        });
        let fits = |sample: &Sample| sample.free_bytes >= self.free_bytes_min + sample.admitted_bytes + bytes;
        // A sample that says no may be one from before something was freed.
        let mut known = match last.filter(fits) {
            Some(last) => last,
            None => Sample { at: now, free_bytes: self.free_bytes()?, admitted_bytes: 0 },
        };
        let has_room = fits(&known);
        if has_room {
            known.admitted_bytes += bytes;
        }
        *sample = Some(known);
        Ok(has_room)
    }

    /// Bytes that stay free.
    pub(crate) fn free_bytes_min(&self) -> u64 {
        self.free_bytes_min
    }

    /// Bytes that are free for us. A file system that keeps no such account has any number.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let told = rustix::fs::statvfs(&self.directory)?;
        Ok(if told.f_blocks == 0 { u64::MAX } else { told.f_bavail.saturating_mul(told.f_frsize) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_admitted_counts_until_the_disk_is_asked_again() {
        let home = tempfile::tempdir().unwrap();
        let space = Space::new(home.path().to_owned(), 1000);
        let start = Instant::now();
        *locked(&space.sample) = Some(Sample { at: start, free_bytes: 2000, admitted_bytes: 0 });
        assert!(space.admit(600, start).unwrap());
        assert_eq!(locked(&space.sample).unwrap().admitted_bytes, 600);
        // Not by the sample, but the real disk has more.
        assert!(space.admit(600, start).unwrap());
        assert!(locked(&space.sample).unwrap().free_bytes > 2000);
        *locked(&space.sample) = Some(Sample { at: start, free_bytes: 9000, admitted_bytes: 0 });
        assert!(space.admit(1, start + SAMPLE_AGE_MAX).unwrap());
        assert_ne!(locked(&space.sample).unwrap().free_bytes, 9000, "asked after a second");
        let greedy = Space::new(home.path().to_owned(), u64::MAX / 2);
        assert!(!greedy.admit(1, start).unwrap());
        assert!(Space::new(home.path().join("gone"), 1).admit(1, start).is_err());
        assert!(Space::new(home.path().join("gone"), 0).admit(1, start).unwrap());
    }
}
