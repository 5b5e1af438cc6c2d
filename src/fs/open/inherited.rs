//! Who closes a descriptor: the program that opened the file, or one that has only inherited a copy of it.
//!
//! Each program that a shell starts with its output in a file closes a copy when it ends, and the kernel tells us of each
//! such `close`. Were it taken for the end of the writing, `make > log` would upload the log once for each compiler it
//! runs. As long as the program that opened the file still has it open for writing, its own `close` is yet to come, and is
//! what the promise is about. Where that is not certain, the file is committed.

use std::fs;

use crate::fs::Rights;
use crate::types::Ino;

/// Descriptors of a process that are looked at. Who has more is taken to have closed the file.
const DESCRIPTORS_MAX: usize = 1024;

/// Who a request of the kernel came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// The thread; 0 when it is not known.
    pub thread: u32,
    /// The user.
    pub uid: u32,
}

/// A process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Process(u32);

impl Caller {
    /// What becomes of the rights that a file lends which it changes.
    pub fn rights(self) -> Rights {
        if self.uid == 0 { Rights::Stay } else { Rights::Revoked }
    }

    /// The process that the thread belongs to.
    pub(crate) fn process(self) -> Option<Process> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.thread)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        line.trim().parse().ok().map(Process)
    }
}

impl Process {
    /// Whether it has a descriptor of this inode for writing. Asks nothing of the file itself, which would come back to us.
    pub(crate) fn is_writing(self, ino: Ino) -> bool {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{}/fdinfo", self.0)) else {
            return false;
        };
        let infos = descriptors.take(DESCRIPTORS_MAX).flatten().map(|entry| fs::read_to_string(entry.path()));
        infos.flatten().any(|info| is_of(&info, ino))
    }
}

/// Whether a text of `/proc/PID/fdinfo` (see proc_pid_fdinfo(5)) is about a descriptor of the inode for writing.
fn is_of(info: &str, ino: Ino) -> bool {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let number = field("ino:").and_then(|text| text.parse().ok());
    let flags = field("flags:").and_then(|text| i32::from_str_radix(text, 8).ok());
    number == Some(ino.0) && flags.is_some_and(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_process_is_known_by_its_descriptors() {
        let own = Caller { thread: std::process::id(), uid: 0 }.process().expect("this process is in /proc");
        assert_eq!(own, Process(std::process::id()));
        assert_eq!(Caller { thread: 0, uid: 0 }.process(), None);
        let file = tempfile::NamedTempFile::new().unwrap();
        let ino = Ino(file.as_file().metadata().unwrap().ino());
        assert!(own.is_writing(ino));
        let reader = fs::File::open(file.path()).unwrap();
        drop(file);
        assert!(!own.is_writing(ino), "open for reading only");
        drop(reader);
    }

    #[test]
    fn descriptors_are_told_by_inode_and_mode() {
        let info = "pos:\t0\nflags:\t0100001\nmnt_id:\t29\nino:\t123\n";
        assert!(is_of(info, Ino(123)) && !is_of(info, Ino(12)));
        assert!(!is_of("pos:\t0\nflags:\t0100000\nino:\t123\n", Ino(123)));
        assert!(!is_of("flags:\t02\n", Ino(123)) && !is_of("", Ino(0)));
    }
}
