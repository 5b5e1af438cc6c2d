//! How one can tell that a file is still as it was left.
//!
//! Whoever changes a file changes its time of status change, also by writing through another name or a mapping, and no
//! call can set that time back. Since Linux 6.13 it is exact once it has been asked for; before, two changes within one
//! clock tick (at most 10 ms) look like one. It tells of changes made through the file system, not of a disk that
//! forgets, and means nothing after a reboot: what had not been written out then is lost without a trace.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

/// Where the kernel tells which boot this is.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";
const NANOSECONDS: i64 = 1_000_000_000;

/// The look of a file at one moment. Two equal ones of one boot mean that nobody has changed it in between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Witness {
    /// Device it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// Time of status change, in nanoseconds since 1970.
    pub changed_ns: i64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Names one run of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BootId(pub [u8; 16]);

impl Witness {
    pub(crate) fn of(file: &File) -> io::Result<Witness> {
        let metadata = file.metadata()?;
        Ok(Witness {
            device: metadata.dev(),
            inode: metadata.ino(),
            changed_ns: metadata.ctime().saturating_mul(NANOSECONDS).saturating_add(metadata.ctime_nsec()),
            bytes: metadata.len(),
        })
    }
}

impl BootId {
    /// That of the running kernel; `None` where it does not say.
    pub(crate) fn current() -> Option<BootId> {
        static CURRENT: OnceLock<Option<BootId>> = OnceLock::new();
        *CURRENT.get_or_init(|| BootId::parse(&fs::read_to_string(BOOT_ID_FILE).ok()?))
    }

    fn parse(text: &str) -> Option<BootId> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let is_id = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_id.then(|| u128::from_str_radix(&digits, 16).ok())?.map(|id| BootId(id.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn every_kind_of_change_shows_and_reading_does_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a");
        fs::write(&path, b"content").unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let mut last = Witness::of(&file).unwrap();
        fs::read(&path).unwrap();
        assert_eq!(Witness::of(&file).unwrap(), last);
        let changes: [&dyn Fn(); 3] =
            [&|| file.write_all_at(b"C", 0).unwrap(), &|| file.set_len(3).unwrap(), &|| {
                fs::hard_link(&path, home.path().join("b")).unwrap()
            }];
        for (at, change) in changes.iter().enumerate() {
            change();
            let now = Witness::of(&file).unwrap();
            assert_ne!(now, last, "change {at}");
            last = now;
        }
        fs::write(home.path().join("other"), b"con").unwrap();
        fs::rename(home.path().join("other"), &path).unwrap();
        assert_ne!(Witness::of(&file).unwrap(), last, "it has lost its name");
        assert_ne!(Witness::of(&File::open(&path).unwrap()).unwrap(), last, "another file has it");
    }

    #[test]
    fn boots_have_names() {
        assert_eq!(
            BootId::parse("00112233-4455-6677-8899-aabbccddeeff\n").unwrap().0[..4],
            [0, 0x11, 0x22, 0x33]
        );
        for text in ["", "0011", "zz112233-4455-6677-8899-aabbccddeeff"] {
            assert_eq!(BootId::parse(text), None);
        }
        assert!(BootId::current().is_some());
    }
}
