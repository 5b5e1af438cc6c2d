//! Our types to the kernel's and back.

use std::time::SystemTime;

use fuser::{Errno, FileAttr, FileType, INodeNo, OpenAccMode, OpenFlags, Request, TimeOrNow};

use crate::fs::{Allocation, Attr, Caller, FileKind, Length, MtimeChange, OpenMode};
use crate::types::{Attributes, Ino, UnixTime};

/// What `stat` counts blocks in.
const STAT_BLOCK_BYTES: u64 = 512;
/// What programs are told to read and write in.
const IO_BYTES: u32 = 128 * 1024;

pub(crate) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(crate) fn caller(request: &Request) -> Caller {
    Caller { thread: request.pid(), uid: request.uid() }
}

pub(crate) fn errno(number: i32) -> Errno {
    Errno::from_i32(number)
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
    }
}

pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    let time = SystemTime::from(attr.mtime);
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(STAT_BLOCK_BYTES),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: match attr.kind {
            _ if attr.is_removed => 0,
            FileKind::File | FileKind::Symlink => 1,
            FileKind::Directory => 2,
        },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: IO_BYTES,
        flags: 0,
    }
}

/// What a mode of fallocate(2) asks for; `None` for what a file over an object cannot do.
pub(crate) fn allocation(mode: i32) -> Option<(Allocation, Length)> {
    const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    const ZERO_KEPT: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Some((Allocation::Space, Length::Grows)),
        libc::FALLOC_FL_KEEP_SIZE => Some((Allocation::Space, Length::Kept)),
        PUNCH | ZERO_KEPT => Some((Allocation::Zeros, Length::Kept)),
        libc::FALLOC_FL_ZERO_RANGE => Some((Allocation::Zeros, Length::Grows)),
        _ => None,
    }
}

pub(crate) fn open_mode(flags: OpenFlags) -> OpenMode {
    match flags.acc_mode() {
        // Linux empties a file also when it is opened for reading only, given the permission to write to it.
        _ if flags.0 & libc::O_TRUNC != 0 => OpenMode::Truncate,
        OpenAccMode::O_RDONLY if flags.0 & libc::O_DIRECT != 0 => OpenMode::ReadDirect,
        OpenAccMode::O_RDONLY => OpenMode::Read,
        OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => OpenMode::Write,
    }
}

pub(crate) fn mtime_change(time: TimeOrNow) -> MtimeChange {
    match time {
        TimeOrNow::SpecificTime(time) => MtimeChange::To(UnixTime::from(time)),
        TimeOrNow::Now => MtimeChange::Now,
    }
}

/// Attributes of what a program is about to make.
pub(crate) fn new_attributes(mode: u32, umask: u32, request: &fuser::Request) -> Attributes {
    Attributes {
        mode: Some(mode & !umask & 0o7777),
        uid: Some(request.uid()),
        gid: Some(request.gid()),
        ..Attributes::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_flags_become_a_mode() {
        assert_eq!(open_mode(OpenFlags(libc::O_RDONLY)), OpenMode::Read);
        assert_eq!(open_mode(OpenFlags(libc::O_RDONLY | libc::O_DIRECT)), OpenMode::ReadDirect);
        assert_eq!(open_mode(OpenFlags(libc::O_RDONLY | libc::O_TRUNC)), OpenMode::Truncate);
        assert_eq!(open_mode(OpenFlags(libc::O_RDWR | libc::O_APPEND)), OpenMode::Write);
        assert_eq!(open_mode(OpenFlags(libc::O_WRONLY | libc::O_TRUNC)), OpenMode::Truncate);
    }

    #[test]
    fn attributes_keep_size_time_and_permissions() {
        let mtime = UnixTime { secs: -2, nanos: 500 };
        let kind = FileKind::File;
        let attr =
            Attr { ino: Ino(9), kind, size: 1025, mtime, mode: 0o100_640, uid: 3, gid: 4, is_removed: false };
        let shown = file_attr(&attr);
        assert_eq!((shown.size, shown.blocks, shown.perm, shown.nlink), (1025, 3, 0o640, 1));
        assert_eq!(UnixTime::from(shown.mtime), mtime);
    }
}
