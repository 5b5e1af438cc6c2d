//! Files that lose their name while programs have them open: usable to the last close, and nothing is left of them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use tetherfs::bucket::{Action, Operation, Rule};

use crate::support::{Rig, pattern, sha256, wait_for};

const LIMIT: Duration = Duration::from_secs(10);

/// Waits until no upload is known and staging is empty.
fn nothing_is_left(rig: &Rig) {
    wait_for("nothing is left of the file", LIMIT, || {
        let status = rig.status();
        let text = status.to_string();
        text.contains("\"sessions\":[]") && text.contains("\"staging_bytes\":0")
    });
}

fn open(rig: &Rig, name: &str) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(rig.path(name)).unwrap()
}

#[test]
fn a_temporary_file_without_a_name_gives_its_staging_back() {
    let mut rig = Rig::mounted(&[]);
    for first in ["", "before"] {
        let file = open(&rig, "temporary");
        file.write_all_at(first.as_bytes(), 0).unwrap();
        fs::remove_file(rig.path("temporary")).unwrap();
        file.write_all_at(b"after", first.len() as u64).unwrap();
        let mut seen = vec![0; first.len() + 5];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, format!("{first}after").as_bytes());
        assert_eq!(file.metadata().unwrap().len(), seen.len() as u64);
        drop(file);
        nothing_is_left(&rig);
    }
    rig.unmount();
    assert_eq!(rig.bucket.keys(), [""; 0]);
}

#[test]
fn an_object_removed_while_it_is_open_does_not_come_back_when_it_is_empty_or_emptied() {
    for commit in ["--commit=close", "--commit=background"] {
        let mut rig = Rig::mounted(&[commit]);
        for (name, size, cut) in [("empty", 0, None), ("emptied", 100, Some(0)), ("cut", 100, Some(10))] {
            rig.bucket.put(name, &pattern(1, size));
            let file = open(&rig, name);
            fs::remove_file(rig.path(name)).unwrap();
            if let Some(len) = cut {
                file.set_len(len).unwrap();
            }
            file.sync_all().unwrap();
            file.write_all_at(b"for us alone", 0).unwrap();
            let mut seen = [0; 12];
            file.read_exact_at(&mut seen, 0).unwrap();
            assert_eq!(&seen, b"for us alone");
        }
        nothing_is_left(&rig);
        rig.unmount();
        assert_eq!(rig.bucket.keys(), [""; 0], "{commit}");
    }
}

#[test]
fn writing_to_an_object_removed_or_replaced_meanwhile_leaves_no_upload() {
    let mut rig = Rig::mounted(&[]);
    rig.bucket.put("removed", &[b'r'; 100]);
    rig.bucket.put("replaced", &[b'x'; 100]);
    let (removed, replaced) = (open(&rig, "removed"), open(&rig, "replaced"));
    fs::remove_file(rig.path("removed")).unwrap();
    fs::write(rig.path("new"), "new").unwrap();
    fs::rename(rig.path("new"), rig.path("replaced")).unwrap();
    for file in [removed, replaced] {
        file.write_all_at(b"late", 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
    }
    nothing_is_left(&rig);
    // A new file of the name is told of its own uploads.
    fs::write(rig.path("removed"), "again").unwrap();
    assert_eq!(rig.bucket.get("removed").unwrap(), b"again");
    assert_eq!(rig.bucket.get("replaced").unwrap(), b"new");
    rig.unmount();
    rig.mount_again();
    assert_eq!(fs::read(rig.path("removed")).unwrap(), b"again");
    nothing_is_left(&rig);
}

#[test]
fn a_reader_of_a_file_that_waits_for_its_upload_keeps_its_bytes_when_the_name_goes() {
    let mut rig = Rig::mounted(&["--commit=background", "--part-size=5M"]);
    for operation in [Operation::UploadPart, Operation::PutObject] {
        rig.bucket.faults().add(Rule::on(operation, Action::Delay { ms: 1500 }));
    }
    let bytes = pattern(1, 11 << 20);
    for name in ["removed", "replaced"] {
        fs::write(rig.path(name), &bytes).unwrap();
        let reader = File::open(rig.path(name)).unwrap();
        let mut seen = vec![0; bytes.len()];
        reader.read_exact_at(&mut seen[..1 << 20], 0).unwrap();
        if name == "removed" {
            fs::remove_file(rig.path(name)).unwrap();
        } else {
            fs::write(rig.path("other"), "other").unwrap();
            fs::rename(rig.path("other"), rig.path(name)).unwrap();
        }
        // Long enough for what nobody needs to go.
        std::thread::sleep(Duration::from_millis(300));
        reader.read_exact_at(&mut seen[1 << 20..], 1 << 20).unwrap();
        assert_eq!(sha256(&seen), sha256(&bytes), "{name}");
    }
    rig.bucket.faults().clear();
    nothing_is_left(&rig);
    rig.unmount();
    assert_eq!(rig.bucket.keys(), ["replaced"]);
    assert_eq!(rig.bucket.get("replaced").unwrap(), b"other");
}
