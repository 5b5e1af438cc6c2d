//! Answers that several of the kernel's requests have in common.

use std::time::Duration;

use fuser::{Errno, Generation, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};

use crate::fs::{Attr, FileKind};
use crate::fuse::convert::{errno, file_attr};
use crate::types::{Ino, UnixTime};

/// Inode numbers are not used twice within a mount, so one generation is enough.
pub(crate) const GENERATION: Generation = Generation(0);

pub(crate) fn answer_empty(reply: ReplyEmpty, result: Result<(), i32>) {
    match result {
        Ok(()) => reply.ok(),
        Err(number) => reply.error(errno(number)),
    }
}

pub(crate) fn answer_attr(reply: ReplyAttr, ttl: Duration, result: Result<Attr, i32>) {
    match result {
        Ok(attr) => reply.attr(&ttl, &file_attr(&attr)),
        Err(number) => reply.error(errno(number)),
    }
}

pub(crate) fn answer_entry(reply: ReplyEntry, ttl: Duration, result: Result<Attr, i32>) {
    match result {
        Ok(attr) => reply.entry(&ttl, &file_attr(&attr), GENERATION),
        Err(number) => reply.error(errno(number)),
    }
}

/// As an entry; the kernel remembers also that there is none.
pub(crate) fn answer_lookup(reply: ReplyEntry, ttl: Duration, result: Result<Attr, i32>) {
    match result {
        Err(libc::ENOENT) => reply.entry(&ttl, &missing(), GENERATION),
        Ok(_) | Err(_) => answer_entry(reply, ttl, result),
    }
}

/// Bytes for whoever has room for `size` of them, or their number for whoever asks with 0.
pub(crate) fn answer_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, i32>) {
    match result {
        Ok(bytes) if size == 0 => reply.size(u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(number) => reply.error(errno(number)),
    }
}

/// `.` and `..` as far as they stand behind `offset`: inode, offset behind it, name. Both show the directory itself; the
/// kernel finds the parent by its own tree.
pub(crate) fn dot_entries(directory: Ino, offset: u64) -> impl Iterator<Item = (Ino, u64, &'static str)> {
    [(directory, 1, "."), (directory, 2, "..")].into_iter().filter(move |(_, next, _)| *next > offset)
}

/// Inode 0: "there is no such name", which the kernel remembers for the TTL.
fn missing() -> fuser::FileAttr {
    let nothing = Attr {
        ino: Ino(0),
        kind: FileKind::File,
        size: 0,
        mtime: UnixTime::default(),
        mode: 0,
        uid: 0,
        gid: 0,
        is_removed: false,
    };
    file_attr(&nothing)
}
