//! The kernel's requests, one method each: decode, start, answer.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::fs::{At, AttrChanges, DirEntry, FileKind, RenameMode, Rights, XattrMode};
use crate::fuse::answers::{
    GENERATION, answer_attr, answer_empty, answer_entry, answer_lookup, answer_xattr, dot_entries,
};
use crate::fuse::backing::{BackingTable, OpenDoor};
use crate::fuse::convert::{
    allocation, caller, errno, file_attr, file_type, ino, mtime_change, new_attributes, open_mode,
};
use crate::fuse::reply::{Deadline, Runner};
use crate::observe::Counter;
use crate::types::{ByteRange, Fh};

/// Largest write request; the kernel's own limit.
const WRITE_BYTES_MAX: u32 = 1 << 20;
/// Readahead requests the kernel may have in flight.
const BACKGROUND_MAX: u16 = 64;
/// Backing files are on a file system of its own. Deeper, and no overlay could be put over this mount.
const PASSTHROUGH_STACK_DEPTH: u32 = 1;
/// Links have all permission bits, and nobody asks for them.
const LINK_MODE: u32 = 0o777;
/// Attributes of this name space are never kept.
const SECURITY: &[u8] = b"security.";
/// Directory offsets 1 and 2 stand behind `.` and `..`; an entry's own offset comes above them.
const DOT_ENTRIES: u64 = 2;

/// Serves one kernel session.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) runner: Runner,
    pub(crate) backings: Arc<BackingTable>,
}

impl Adapter {
    /// Asks for what handing files to the kernel needs, or says why it cannot be done.
    fn prepare_passthrough(&self, config: &mut KernelConfig) {
        let fs = &self.runner.fs;
        if !fs.wants_passthrough() {
            return;
        }
        if !rustix::process::geteuid().is_root() {
            return fs.give_up_passthrough("only root may hand files to the kernel");
        }
        let is_offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
        if !is_offered || config.set_max_stack_depth(PASSTHROUGH_STACK_DEPTH).is_err() {
            fs.give_up_passthrough("this kernel cannot do it; Linux 6.9 and later can");
        }
    }

    fn ttl(&self) -> Duration {
        self.runner.fs.ttl()
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Never the writeback cache: it reports a failed write once, to whoever happens to ask first.
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            // Without it the kernel asks for `security.capability` before each write.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            // Pages go when an open says so, and not because a time has changed: our own writes change it, too.
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_MAX_PAGES,
            // A link's inode has one target for as long as it lives.
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        for capability in wanted {
            if config.add_capabilities(capability).is_err() {
                log::debug!("The kernel does not offer {capability:?}");
            }
        }
        self.prepare_passthrough(config);
        // An Err names the nearest value that is accepted, and leaves the default, which works too.
        let _ = config.set_max_write(WRITE_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let ttl = self.ttl();
        let operation = self.runner.fs.clone().lookup(ino(parent), name.to_owned());
        self.runner
            .run("lookup", Deadline::Request, operation, move |result| answer_lookup(reply, ttl, result));
    }

    fn forget(&self, _request: &Request, number: INodeNo, count: u64) {
        self.runner.call("forget", || self.runner.fs.forget(ino(number), count));
    }

    fn getattr(&self, _request: &Request, number: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let ttl = self.ttl();
        let operation = self.runner.fs.clone().attr(ino(number));
        self.runner
            .run("getattr", Deadline::Request, operation, move |result| answer_attr(reply, ttl, result));
    }

    fn setattr(
        &self,
        request: &Request,
        number: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let ttl = self.ttl();
        let (mtime, handle) = (mtime.map(mtime_change), fh.map(|fh| Fh(fh.0)));
        let rights = match size {
            _ if uid.is_some() || gid.is_some() => Rights::Revoked,
            Some(_) => caller(request).rights(),
            None => Rights::Stay,
        };
        let changes = AttrChanges { mode, uid, gid, size, mtime, handle, rights };
        let operation = self.runner.fs.clone().set_attr(ino(number), changes);
        self.runner.run("setattr", Deadline::Own, operation, move |result| answer_attr(reply, ttl, result));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        if mode & libc::S_IFMT != libc::S_IFREG {
            return reply.error(Errno::EPERM);
        }
        let ttl = self.ttl();
        let fs = self.runner.fs.clone();
        let (parent, name, attributes) = (ino(parent), name.to_owned(), new_attributes(mode, umask, request));
        let caller = caller(request);
        let operation = async move {
            let (attr, fh) = fs.clone().create(parent, name, attributes, caller).await?;
            fs.release(fh);
            Ok(attr)
        };
        self.runner
            .run("mknod", Deadline::Request, operation, move |result| answer_entry(reply, ttl, result));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let ttl = self.ttl();
        let attributes = new_attributes(mode, umask, request);
        let operation = self.runner.fs.clone().mkdir(ino(parent), name.to_owned(), attributes);
        self.runner
            .run("mkdir", Deadline::Request, operation, move |result| answer_entry(reply, ttl, result));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let operation = self.runner.fs.clone().unlink(ino(parent), name.to_owned());
        self.runner.run("unlink", Deadline::Request, operation, |result| answer_empty(reply, result));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let operation = self.runner.fs.clone().rmdir(ino(parent), name.to_owned());
        self.runner.run("rmdir", Deadline::Request, operation, |result| answer_empty(reply, result));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let ttl = self.ttl();
        let attributes = new_attributes(LINK_MODE, 0, request);
        let target = target.as_os_str().as_bytes().to_vec();
        let operation = self.runner.fs.clone().symlink(ino(parent), name.to_owned(), target, attributes);
        self.runner.run("symlink", Deadline::Own, operation, move |result| answer_entry(reply, ttl, result));
    }

    fn readlink(&self, _request: &Request, number: INodeNo, reply: ReplyData) {
        let operation = self.runner.fs.clone().read_link(ino(number));
        self.runner.run("readlink", Deadline::Own, operation, |result| match result {
            Ok(target) => reply.data(&target),
            Err(number) => reply.error(errno(number)),
        });
    }

    fn link(&self, _request: &Request, _ino: INodeNo, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mode = if flags.is_empty() {
            RenameMode::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            RenameMode::KeepTarget
        } else {
            return reply.error(Errno::EINVAL);
        };
        let from = (ino(parent), name.to_owned());
        let to = (ino(new_parent), new_name.to_owned());
        let operation = self.runner.fs.clone().rename(from, to, mode);
        self.runner.run("rename", Deadline::Own, operation, |result| answer_empty(reply, result));
    }

    fn open(&self, request: &Request, number: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let door = OpenDoor::new(reply, self.backings.clone());
        let operation =
            self.runner.fs.clone().open(ino(number), open_mode(flags), door.clone(), caller(request));
        self.runner.run("open", Deadline::Request, operation, move |result| door.answer(result));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let ttl = self.ttl();
        let attributes = new_attributes(mode, umask, request);
        let operation =
            self.runner.fs.clone().create(ino(parent), name.to_owned(), attributes, caller(request));
        self.runner.run("create", Deadline::Request, operation, move |result| match result {
            Ok((attr, fh)) => {
                reply.created(&ttl, &file_attr(&attr), GENERATION, FileHandle(fh.0), FopenFlags::empty());
            }
            Err(number) => reply.error(errno(number)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.runner.fs.metrics().add(Counter::FuseReads, 1);
        let operation = self.runner.fs.clone().read(Fh(fh.0), ByteRange::at(offset, u64::from(size)));
        self.runner.run("read", Deadline::Own, operation, |result| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(number) => reply.error(errno(number)),
        });
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let is_revoked = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let rights = if is_revoked { Rights::Revoked } else { Rights::Stay };
        let result = self.runner.call("write", || self.runner.fs.write(Fh(fh.0), offset, data, rights));
        match result {
            // The kernel never sends more than it was told is the most, which fits.
            Some(Ok(())) => reply.written(data.len() as u32),
            Some(Err(error)) => {
                log::warn!("write: {error}");
                reply.error(errno(error.errno()));
            }
            None => reply.error(Errno::EIO),
        }
    }

    fn flush(&self, request: &Request, _ino: INodeNo, fh: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let operation = self.runner.fs.clone().flush(Fh(fh.0), caller(request));
        self.runner.run("flush", Deadline::Own, operation, |result| answer_empty(reply, result));
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.runner.call("release", || self.runner.fs.release(Fh(fh.0)));
        reply.ok();
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let operation = self.runner.fs.clone().fsync(Fh(fh.0));
        self.runner.run("fsync", Deadline::Own, operation, |result| answer_empty(reply, result));
    }

    fn opendir(&self, _request: &Request, number: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let operation = self.runner.fs.clone().open_directory(ino(number));
        self.runner.run("opendir", Deadline::Request, operation, |result| match result {
            Ok(fh) => reply.opened(FileHandle(fh.0), FopenFlags::empty()),
            Err(number) => reply.error(errno(number)),
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let directory = ino(number);
        let operation = self.runner.fs.clone().read_directory(Fh(fh.0), offset.saturating_sub(DOT_ENTRIES));
        self.runner.run("readdir", Deadline::Request, operation, move |result| {
            let entries = match result {
                Ok(entries) => entries,
                Err(number) => return reply.error(errno(number)),
            };
            let dots = dot_entries(directory, offset)
                .map(|(ino, next, name)| (ino, next, FileKind::Directory, name));
            for (ino, next, kind, name) in dots {
                if reply.add(INodeNo(ino.0), next, file_type(kind), name) {
                    return reply.ok();
                }
            }
            for DirEntry { name, next_offset, attr } in &entries {
                if reply.add(INodeNo(attr.ino.0), next_offset + DOT_ENTRIES, file_type(attr.kind), name) {
                    break;
                }
            }
            reply.ok();
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        number: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let (ttl, directory, fs) = (self.ttl(), ino(number), self.runner.fs.clone());
        let operation = async move {
            let entries = fs.clone().read_directory(Fh(fh.0), offset.saturating_sub(DOT_ENTRIES)).await?;
            let own = fs.clone().attr(directory).await?;
            Ok((entries, own))
        };
        let fs = self.runner.fs.clone();
        self.runner.run("readdirplus", Deadline::Request, operation, move |result| {
            let (entries, own) = match result {
                Ok(found) => found,
                Err(number) => return reply.error(errno(number)),
            };
            for (ino, next, name) in dot_entries(directory, offset) {
                if reply.add(INodeNo(ino.0), next, name, &ttl, &file_attr(&own), GENERATION) {
                    return reply.ok();
                }
            }
            for DirEntry { name, next_offset, attr } in &entries {
                // The kernel counts a lookup for every entry it is sent, so it is counted before it is sent.
                fs.remember(attr.ino);
                let next = next_offset + DOT_ENTRIES;
                if reply.add(INodeNo(attr.ino.0), next, name, &ttl, &file_attr(attr), GENERATION) {
                    fs.unremember(attr.ino);
                    break;
                }
            }
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.runner.call("releasedir", || self.runner.fs.release_directory(Fh(fh.0)));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let operation = self.runner.fs.clone().sync_directory();
        self.runner.run("fsyncdir", Deadline::Own, operation, |result| answer_empty(reply, result));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.runner.fs.space();
        reply.statfs(
            space.blocks,
            space.blocks,
            space.blocks,
            space.inodes,
            space.inodes,
            space.block_bytes,
            space.name_bytes_max,
            space.block_bytes,
        );
    }

    fn getxattr(&self, _request: &Request, number: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if name.as_bytes().starts_with(SECURITY) {
            // The kernel asks before every write whether the file has capabilities. It has none, and never will.
            return reply.error(Errno::ENODATA);
        }
        let operation = self.runner.fs.clone().get_xattr(ino(number), name.to_owned());
        self.runner
            .run("getxattr", Deadline::Request, operation, move |result| answer_xattr(reply, size, result));
    }

    fn listxattr(&self, _request: &Request, number: INodeNo, size: u32, reply: ReplyXattr) {
        let operation = self.runner.fs.clone().list_xattrs(ino(number));
        self.runner
            .run("listxattr", Deadline::Request, operation, move |result| answer_xattr(reply, size, result));
    }

    fn setxattr(
        &self,
        _request: &Request,
        number: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        let operation = self.runner.fs.clone().set_xattr(ino(number), name.to_owned(), value.to_vec(), mode);
        self.runner.run("setxattr", Deadline::Own, operation, |result| answer_empty(reply, result));
    }

    fn removexattr(&self, _request: &Request, number: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let operation = self.runner.fs.clone().remove_xattr(ino(number), name.to_owned());
        self.runner.run("removexattr", Deadline::Own, operation, |result| answer_empty(reply, result));
    }

    fn fallocate(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some((what, grows)) = allocation(mode) else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        let fs = self.runner.fs.clone();
        let (range, rights) = (ByteRange::at(offset, length), caller(request).rights());
        let operation = async move { fs.allocate(Fh(fh.0), range, what, grows, rights) };
        self.runner.run("fallocate", Deadline::Own, operation, |result| answer_empty(reply, result));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) =
            (At { fh: Fh(fh_in.0), offset: offset_in }, At { fh: Fh(fh_out.0), offset: offset_out });
        let operation = self.runner.fs.clone().copy_range(from, to, len);
        self.runner.run("copy_file_range", Deadline::Own, operation, move |result| match result {
            // The kernel asks for less than this at a time.
            Ok(copied) => reply.written(u32::try_from(copied).unwrap_or(u32::MAX)),
            Err(number) => reply.error(errno(number)),
        });
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _in_data: &[u8],
        _out_bytes: u32,
        reply: ReplyIoctl,
    ) {
        // Not worth a line in the log: many programs ask every file that they open whether it is a terminal.
        reply.error(Errno::ENOTTY);
    }
}
