//! A disk that fails when it is told to: a file system of our own over a directory that does not.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};
use rustix::fs::{FallocateFlags, SeekFrom};

/// Nothing is remembered by the kernel.
const TTL: Duration = Duration::ZERO;

/// What a disk can fail to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// `write`
    Write,
    /// `fsync`, of directories too.
    Sync,
    /// Making, moving and removing files.
    Name,
    /// `read`
    Read,
}

/// A failure: of which call on which files, with which number.
#[derive(Clone, Copy, Debug)]
struct Ailment {
    call: Call,
    part_of_path: &'static str,
    errno: i32,
}

#[derive(Debug, Default)]
struct Health {
    ailments: Mutex<Vec<Ailment>>,
    failed: AtomicU64,
}

/// A mounted disk, taken down with its owner.
pub struct AilingDisk {
    mountpoint: PathBuf,
    health: Arc<Health>,
    session: Option<BackgroundSession>,
}

impl AilingDisk {
    /// Mounts one at a new directory; its files are in another beside it.
    pub fn new(mountpoint: &Path) -> AilingDisk {
        let below = mountpoint.with_extension("below");
        fs::create_dir(mountpoint).unwrap();
        fs::create_dir(&below).unwrap();
        let health = Arc::new(Health::default());
        let disk = Passing {
            health: health.clone(),
            paths: Mutex::new(HashMap::from([(INodeNo::ROOT.0, below)])),
            files: Mutex::default(),
            handles: AtomicU64::new(1),
        };
        let mut config = Config::default();
        config.n_threads = Some(2);
        let session = fuser::spawn_mount(disk, mountpoint, &config).unwrap();
        AilingDisk { mountpoint: mountpoint.to_owned(), health, session: Some(session) }
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// From now on this call fails on files whose path has this text in it.
    pub fn fail(&self, call: Call, part_of_path: &'static str, errno: i32) {
        self.health.ailments.lock().unwrap().push(Ailment { call, part_of_path, errno });
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        self.health.ailments.lock().unwrap().clear();
    }

    /// How many calls have failed.
    pub fn failed(&self) -> u64 {
        self.health.failed.load(Ordering::Relaxed)
    }
}

impl Drop for AilingDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.mountpoint).status();
        drop(self.session.take());
    }
}

/// Passes calls through, each of them: the kernel keeps no pages. Inode numbers are those of the directory below.
#[derive(Debug)]
struct Passing {
    health: Arc<Health>,
    paths: Mutex<HashMap<u64, PathBuf>>,
    files: Mutex<HashMap<u64, (Arc<File>, PathBuf)>>,
    handles: AtomicU64,
}

type Answer<T> = Result<T, Errno>;

impl Passing {
    fn check(&self, call: Call, path: &Path) -> Answer<()> {
        let ailments = self.health.ailments.lock().unwrap();
        let is_hit = |a: &&Ailment| a.call == call && path.to_str().unwrap().contains(a.part_of_path);
        match ailments.iter().find(is_hit) {
            Some(ailment) => {
                self.health.failed.fetch_add(1, Ordering::Relaxed);
                Err(Errno::from_i32(ailment.errno))
            }
            None => Ok(()),
        }
    }

    fn path(&self, number: INodeNo) -> Answer<PathBuf> {
        self.paths.lock().unwrap().get(&number.0).cloned().ok_or(Errno::ENOENT)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Answer<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }

    fn file(&self, handle: FileHandle) -> Answer<(Arc<File>, PathBuf)> {
        self.files.lock().unwrap().get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn known(&self, path: &Path) -> Answer<FileAttr> {
        let attr = attr_of(&fs::symlink_metadata(path).map_err(number)?);
        let is_root = self.path(INodeNo::ROOT)? == path;
        if !is_root {
            self.paths.lock().unwrap().insert(attr.ino.0, path.to_owned());
        }
        Ok(FileAttr { ino: if is_root { INodeNo::ROOT } else { attr.ino }, ..attr })
    }

    fn opened(&self, path: &Path, options: &OpenOptions) -> Answer<FileHandle> {
        let file = Arc::new(options.open(path).map_err(number)?);
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        self.files.lock().unwrap().insert(handle, (file, path.to_owned()));
        Ok(FileHandle(handle))
    }
}

fn number(error: io::Error) -> Errno {
    Errno::from_i32(error.raw_os_error().unwrap_or(libc::EIO))
}

fn attr_of(found: &Metadata) -> FileAttr {
    let time = found.modified().unwrap();
    FileAttr {
        ino: INodeNo(found.ino()),
        size: found.len(),
        blocks: found.blocks(),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: if found.is_dir() { FileType::Directory } else { FileType::RegularFile },
        perm: (found.mode() & 0o7777) as u16,
        nlink: found.nlink() as u32,
        uid: found.uid(),
        gid: found.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn done(reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, answer: Answer<FileAttr>) {
    match answer {
        Ok(attr) => reply.entry(&TTL, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Passing {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        entry(reply, self.child(parent, name).and_then(|path| self.known(&path)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        // A file that was removed is known by its handle alone.
        let by_handle = fh.and_then(|fh| self.file(fh).ok()).map(|(file, _)| file.metadata().map_err(number));
        let found = match by_handle {
            Some(found) => found.map(|found| attr_of(&found)),
            None => self.path(ino).and_then(|path| self.known(&path)),
        };
        match found {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changed = self.path(ino).and_then(|path| {
            self.check(Call::Write, &path)?;
            if let Some(size) = size {
                let file = OpenOptions::new().write(true).open(&path).map_err(number)?;
                file.set_len(size).map_err(number)?;
            }
            self.known(&path)
        });
        match changed {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let made = self.child(parent, name).and_then(|path| {
            self.check(Call::Name, &path)?;
            fs::create_dir(&path).map_err(number)?;
            self.known(&path)
        });
        entry(reply, made);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.child(parent, name).and_then(|path| {
            self.check(Call::Name, &path)?;
            fs::remove_file(&path).map_err(number)
        });
        done(reply, removed);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let moved = self.child(parent, name).and_then(|from| {
            let to = self.child(new_parent, new_name)?;
            self.check(Call::Name, &to)?;
            if flags == RenameFlags::RENAME_NOREPLACE && to.exists() {
                return Err(Errno::EEXIST);
            }
            fs::rename(&from, &to).map_err(number)?;
            self.known(&to).map(drop)
        });
        done(reply, moved);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let mut options = OpenOptions::new();
        options.read(true).write(flags.0 & libc::O_ACCMODE != libc::O_RDONLY);
        options.truncate(flags.0 & libc::O_TRUNC != 0);
        match self.path(ino).and_then(|path| self.opened(&path, &options)) {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(mode).custom_flags(flags & libc::O_EXCL).create(true);
        let created = self.child(parent, name).and_then(|path| {
            self.check(Call::Name, &path)?;
            let handle = self.opened(&path, &options)?;
            Ok((handle, self.known(&path)?))
        });
        match created {
            Ok((handle, attr)) => {
                reply.created(&TTL, &attr, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO)
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut bytes = vec![0; size as usize];
        let read = self.file(fh).and_then(|(file, path)| {
            self.check(Call::Read, &path)?;
            file.read_at(&mut bytes, offset).map_err(number)
        });
        match read {
            Ok(count) => reply.data(&bytes[..count]),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.file(fh).and_then(|(file, path)| {
            self.check(Call::Write, &path)?;
            file.write_all_at(data, offset).map_err(number)
        });
        match written {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.files.lock().unwrap().remove(&fh.0);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let synced = self.file(fh).and_then(|(file, path)| {
            self.check(Call::Sync, &path)?;
            file.sync_all().map_err(number)
        });
        done(reply, synced);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        done(reply, self.path(ino).and_then(|path| self.check(Call::Sync, &path)));
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let names = self.path(ino).and_then(|path| {
            let entries = fs::read_dir(path).map_err(number)?;
            Ok(entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>())
        });
        match names {
            Ok(mut names) => {
                names.sort();
                for (index, name) in names.iter().enumerate().skip(offset as usize) {
                    let Ok(attr) = self.child(ino, name).and_then(|path| self.known(&path)) else { continue };
                    if reply.add(attr.ino, index as u64 + 1, attr.kind, name) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn statfs(&self, _: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 30, 1 << 30, 1 << 20, 1 << 20, 4096, 255, 4096);
    }

    fn fallocate(
        &self,
        _: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let done_so = self.file(fh).and_then(|(file, _)| {
            let flags = FallocateFlags::from_bits_truncate(mode as u32);
            rustix::fs::fallocate(&*file, flags, offset, length).map_err(|error| number(error.into()))
        });
        done(reply, done_so);
    }

    fn lseek(&self, _: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let place = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset as u64),
            _ => SeekFrom::Hole(offset as u64),
        };
        let found = self
            .file(fh)
            .and_then(|(file, _)| rustix::fs::seek(&*file, place).map_err(|error| number(error.into())));
        match found {
            Ok(at) => reply.offset(at as i64),
            Err(error) => reply.error(error),
        }
    }
}
