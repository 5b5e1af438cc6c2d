//! Keys that are no paths: each has a name, by which it is listed, read, rewritten, given another name and removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::{Rig, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// The files below a directory, by their paths in it.
fn files(root: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut unread = vec![root.to_owned()];
    while let Some(directory) = unread.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                unread.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found
}

fn settled(rig: &Rig) {
    wait_for("nothing is pending", LIMIT, || rig.status()["sessions"].as_array().is_some_and(Vec::is_empty));
}

#[test]
fn keys_that_are_no_paths_are_listed_read_rewritten_renamed_and_removed() {
    let long = "l".repeat(300);
    let kinds = [
        ("a//b", "a/%~empty/b"),
        ("/lead", "%~empty/lead"),
        ("trail//", "trail/%~empty"),
        ("both", "%~file~both"),
        ("%~x", "%~name~%~x"),
        ("line\nand\u{1}bell", "line\nand\u{1}bell"),
        ("sp ace+&=?#%25\\", "sp ace+&=?#%25\\"),
        (long.as_str(), ""),
    ];
    let mut rig = Rig::new();
    for (key, _) in kinds {
        rig.bucket.put_quietly(key, if key.ends_with('/') { b"" } else { key.as_bytes() });
    }
    rig.bucket.put_quietly("both/inner", b"inner");
    rig.mount(&[]);
    let root = rig.mountpoint();
    let listed = files(&root);
    let long_name = listed.iter().find(|name| name.starts_with("%~long~")).unwrap().clone();
    assert!(fs::metadata(root.join("trail/%~empty")).unwrap().is_dir());
    for (number, (key, name)) in kinds.into_iter().enumerate() {
        if key.ends_with('/') {
            continue;
        }
        let name = if name.is_empty() { long_name.as_str() } else { name };
        assert!(listed.contains(name), "{name:?} is not in {listed:?}");
        assert_eq!(fs::read(root.join(name)).unwrap(), key.as_bytes(), "{name:?}");
        fs::write(root.join(name), b"rewritten").unwrap();
        assert_eq!(rig.bucket.read(key), b"rewritten", "{name:?}");
        let moved = format!("moved-{number}");
        fs::rename(root.join(name), root.join(&moved)).unwrap();
        assert!(!rig.bucket.all_keys().contains(&key.to_owned()), "{name:?}");
        assert_eq!(rig.bucket.read(&moved), b"rewritten", "{name:?}");
        // And back, where a program may make such a name.
        if !name.starts_with("%~long~") && !name.starts_with("%~file~") {
            fs::rename(root.join(&moved), root.join(name)).unwrap();
            assert_eq!(rig.bucket.read(key), b"rewritten", "{name:?}");
            fs::remove_file(root.join(name)).unwrap();
        }
    }
    settled(&rig);
    let keys = rig.bucket.all_keys();
    let left: Vec<&str> = keys.iter().map(String::as_str).filter(|key| !key.ends_with('/')).collect();
    assert_eq!(left, ["both/inner", "moved-3", "moved-7"]);
    // Directories of such names can be removed and moved as well.
    fs::remove_dir(root.join("trail/%~empty")).unwrap();
    fs::write(root.join("a/%~empty/c"), b"c").unwrap();
    fs::rename(root.join("a/%~empty"), root.join("a/named")).unwrap();
    assert_eq!(rig.bucket.read("a/named/c"), b"c");
    fs::rename(root.join("a"), root.join("%~empty/a")).unwrap();
    assert_eq!(rig.bucket.read("/a/named/c"), b"c");
    rig.unmount();
}

#[test]
fn keys_with_dots_between_slashes_are_shown_can_be_renamed_and_removed_and_lead_nowhere_else() {
    let mut rig = Rig::new();
    rig.bucket.put_quietly("plain", b"plain");
    let odd = [
        ("a/../plain", "a/%~dotdot/plain"),
        // As long as the directory is there.
        ("a/.", "a/%~file~."),
        ("a/./b", "a/%~dot/b"),
        ("..", "%~dotdot"),
    ];
    for (key, _) in odd {
        rig.bucket.put_quietly(key, key.as_bytes());
    }
    rig.mount(&[]);
    let root = rig.mountpoint();
    let names = odd.iter().map(|(_, name)| *name).chain(["plain"]).map(str::to_owned);
    assert_eq!(files(&root), names.collect());
    assert_eq!(fs::metadata(root.join("%~dotdot")).unwrap().len(), 2);
    // No URL names such an object: it cannot be read before it has another name.
    assert_eq!(fs::read(root.join("%~dotdot")).unwrap_err().raw_os_error(), Some(libc::EIO));
    for (number, (key, name)) in odd.into_iter().enumerate() {
        let moved = root.join(format!("moved-{number}"));
        fs::rename(root.join(name), &moved).unwrap();
        assert_eq!(fs::read(&moved).unwrap(), key.as_bytes(), "{name}");
    }
    assert_eq!(rig.bucket.read("plain"), b"plain");
    rig.bucket.put_quietly("x/..", b"removed");
    wait_for("it is seen", LIMIT, || root.join("x/%~dotdot").exists());
    fs::remove_file(root.join("x/%~dotdot")).unwrap();
    let keys = rig.bucket.all_keys();
    assert!(
        keys.iter().all(|key| key.ends_with('/') || key == "plain" || key.starts_with("moved-")),
        "{keys:?}"
    );
    rig.unmount();
}
