//! Mounting and unmounting by our own hand: mount(2) for root, fusermount3 for everybody else.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

use crate::fuse::Options;

const DEVICE: &str = "/dev/fuse";
/// The helper reads the number of the socket that it is to send the device through from this variable.
const HELPER_SOCKET_VARIABLE: &str = "_FUSE_COMMFD";
const HELPER: &str = "fusermount3";
/// Largest read request the kernel may send.
const READ_BYTES_MAX: u32 = 1 << 20;
/// Readahead window, in KiB, that gives read requests of the largest size.
const READ_AHEAD_KIB: u32 = 1024;

/// Mounts and returns the open device, on which the kernel now talks.
pub(crate) fn mount(options: &Options) -> io::Result<OwnedFd> {
    if rustix::process::geteuid().is_root() { mount_directly(options) } else { mount_by_helper(options) }
}

/// Takes the mount off. `detach` does it also while files are open.
pub(crate) fn unmount(mountpoint: &Path, detach: bool) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        let flags = if detach { UnmountFlags::DETACH } else { UnmountFlags::NOFOLLOW };
        return Ok(rustix::mount::unmount(mountpoint, flags)?);
    }
    let flags = if detach { "-uqz" } else { "-uq" };
    let output = Command::new(HELPER).arg(flags).arg("--").arg(mountpoint).output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if text.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, text))
}

/// Lets the kernel ask for as much at once as it may. Needs root; without it reads come in smaller pieces. Returns how
/// far it reads ahead now, in KiB, if that can be found out.
pub(crate) fn widen_readahead(mountpoint: &Path) -> Option<u32> {
    // Of the kernel alone: a question to the mount would be one to ourselves, and a process that is killed in it never
    // ends, with everybody else who uses the mount.
    let flags = AtFlags::STATX_DONT_SYNC;
    let stat = rustix::fs::statx(rustix::fs::CWD, mountpoint, flags, StatxFlags::empty()).ok()?;
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", stat.stx_dev_major, stat.stx_dev_minor);
    if let Err(error) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        log::debug!("Readahead stays as it is: {setting}: {error}");
    }
    std::fs::read_to_string(&setting).ok()?.trim().parse().ok()
}

fn mount_directly(options: &Options) -> io::Result<OwnedFd> {
    let device: File = OpenOptions::new().read(true).write(true).open(DEVICE)?;
    let mut text = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions,max_read={READ_BYTES_MAX}",
        device.as_raw_fd(),
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw(),
    );
    if options.allow_other {
        text.push_str(",allow_other");
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME;
    if options.read_only {
        flags |= MountFlags::RDONLY;
    }
    let data = std::ffi::CString::new(text).map_err(io::Error::other)?;
    rustix::mount::mount(
        options.source.as_str(),
        &options.mountpoint,
        "fuse.tetherfs",
        flags,
        Some(data.as_c_str()),
    )?;
    Ok(OwnedFd::from(device))
}

fn mount_by_helper(options: &Options) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())?;
    // The helper splits options at commas.
    let source = options.source.replace(',', "_");
    let mut text = format!(
        "nosuid,nodev,noatime,default_permissions,max_read={READ_BYTES_MAX},fsname={source},subtype=tetherfs"
    );
    if options.allow_other {
        text.push_str(",allow_other");
    }
    if options.read_only {
        text.push_str(",ro");
    }
    let output = Command::new(HELPER)
        .arg("-o")
        .arg(text)
        .arg("--")
        .arg(std::ffi::OsStr::from_bytes(options.mountpoint.as_os_str().as_bytes()))
        .env(HELPER_SOCKET_VARIABLE, theirs.as_raw_fd().to_string())
        .output()?;
    drop(theirs);
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    receive_device(&ours)
}

fn receive_device(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    control
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        })
        .ok_or_else(|| io::Error::other(format!("{HELPER} mounted but did not hand the device over")))
}
