//! A file mapped into memory for reading.

use std::fs::File;
use std::os::fd::AsRawFd;

/// How a mapping shares its pages.
#[derive(Clone, Copy, Debug)]
pub enum Sharing {
    /// `MAP_PRIVATE`
    Private,
    /// `MAP_SHARED`
    Shared,
}

/// A mapping of the beginning of a file.
pub struct Mapping {
    at: *mut libc::c_void,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes.
    pub fn of(file: &File, len: usize, sharing: Sharing) -> Mapping {
        let flags = match sharing {
            Sharing::Private => libc::MAP_PRIVATE,
            Sharing::Shared => libc::MAP_SHARED,
        };
        // SAFETY: the kernel chooses a free place.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, flags, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "{sharing:?}: {}", std::io::Error::last_os_error());
        Mapping { at, len }
    }

    /// A copy of what is mapped.
    pub fn bytes(&self) -> Vec<u8> {
        // SAFETY: `len` bytes are mapped for reading until the drop.
        unsafe { std::slice::from_raw_parts(self.at.cast::<u8>(), self.len) }.to_vec()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to the mapping any more.
        unsafe { libc::munmap(self.at, self.len) };
    }
}
