//! A version of another length than the one that the kernel knows: it is read to its own end.

use std::fs::{self, File};
use std::io::{IsTerminal, Read};
use std::thread::sleep;
use std::time::Duration;

use crate::support::{Rig, pattern};

#[test]
fn a_new_version_is_read_to_its_own_end_while_the_kernel_believes_the_old_length() {
    let rig = Rig::mounted(&["--metadata-ttl=2s"]);
    for (name, old, new) in [("grows", 5_000, 70_000), ("shrinks", 70_000, 5_000), ("empty", 0, 70_000)] {
        let path = rig.path(name);
        rig.bucket.put(name, &pattern(70, old));
        // What is known of the object runs out before what the kernel is told of it, which begins later.
        rig.tetherfs(&["cache", "stat", path.to_str().unwrap()]);
        sleep(Duration::from_millis(1400));
        assert_eq!(fs::metadata(&path).unwrap().len() as usize, old);
        rig.bucket.put_quietly(name, &pattern(71, new));
        sleep(Duration::from_millis(800));
        let mut file = File::open(&path).unwrap();
        let mut seen = Vec::new();
        file.read_to_end(&mut seen).unwrap();
        assert!(seen == pattern(71, new), "{name}: {} bytes of {new}", seen.len());
        assert_eq!(file.metadata().unwrap().len() as usize, new, "{name}");
    }
}

#[test]
fn asking_whether_a_file_is_a_terminal_leaves_no_line_in_the_log() {
    let rig = Rig::mounted(&[]);
    rig.bucket.put("data", b"bytes");
    assert!(!File::open(rig.path("data")).unwrap().is_terminal());
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOTTY));
    assert!(!rig.log().contains("ioctl"), "{}", rig.log());
}
