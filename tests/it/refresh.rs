//! `tetherfs refresh`: what another client did is seen before what is known would be asked for anew.

use std::fs;
use std::io::Write;
use std::time::Duration;

use crate::support::{Rig, wait_for};

const LIMIT: Duration = Duration::from_secs(30);
/// So that nothing is seen without the command.
const LONG: &str = "--metadata-ttl=1h";

fn refresh(rig: &Rig, arguments: &[&str], name: &str) {
    let path = rig.path(name);
    let arguments: Vec<&str> = ["refresh"].iter().chain(arguments).copied().chain(path.to_str()).collect();
    let ran = rig.tetherfs(&arguments);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""), "{}", ran.err);
}

#[test]
fn what_another_client_did_is_seen_after_a_refresh_and_not_before() {
    let mut rig = Rig::new();
    for key in ["changed", "removed", "dir/known", "dir/deep/known"] {
        rig.bucket.put_quietly(key, b"before");
    }
    rig.mount(&[LONG]);
    let names = |directory: &str| {
        let mut names: Vec<_> =
            fs::read_dir(rig.path(directory)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let read = |name: &str| fs::read(rig.path(name)).ok();
    // Everything is known, also what is not there.
    assert_eq!(
        (names("").len(), names("dir"), names("dir/deep")),
        (3, vec!["deep".into(), "known".into()], vec!["known".into()])
    );
    assert!(!rig.path("made").exists() && !rig.path("dir/deep/made").exists());
    let length = |name: &str| fs::metadata(rig.path(name)).ok().map(|known| known.len());
    assert_eq!((length("changed"), length("removed")), (Some(6), Some(6)));
    rig.bucket.put_quietly("changed", b"changed");
    rig.bucket.put_quietly("made", b"made");
    rig.bucket.put_quietly("dir/deep/made", b"made");
    rig.bucket.put_quietly("dir/known", b"changed");
    rig.bucket.delete("removed");
    assert_eq!((length("changed"), length("removed"), length("made")), (Some(6), Some(6), None));
    for name in ["changed", "removed", "made"] {
        refresh(&rig, &[], name);
    }
    wait_for("the names are seen as they are", LIMIT, || {
        (length("changed"), length("removed"), length("made")) == (Some(7), None, Some(4))
    });
    assert_eq!((read("changed").unwrap(), read("made").unwrap()), (b"changed".to_vec(), b"made".to_vec()));
    // Below only when that is wanted.
    refresh(&rig, &[], "dir");
    assert_eq!((length("dir/known"), length("dir/deep/made")), (Some(6), None));
    refresh(&rig, &["--recursive"], "dir");
    wait_for("what is below is seen", LIMIT, || {
        (length("dir/known"), length("dir/deep/made")) == (Some(7), Some(4))
    });
    assert_eq!(names("dir/deep").len(), 2);
    assert!(rig.tetherfs(&["refresh", "/"]).code != Some(0), "that is no mount");
    rig.unmount();
}

#[test]
fn a_refresh_leaves_local_changes_and_open_files_alone() {
    let mut rig = Rig::new();
    rig.bucket.put_quietly("dir/open", b"before");
    rig.mount(&[LONG]);
    let mut fresh = fs::File::create(rig.path("dir/fresh")).unwrap();
    let mut open = fs::File::options().append(true).open(rig.path("dir/open")).unwrap();
    fresh.write_all(b"one, ").unwrap();
    open.write_all(b", after").unwrap();
    refresh(&rig, &["-r"], "");
    fresh.write_all(b"two").unwrap();
    assert_eq!(fs::read(rig.path("dir/open")).unwrap(), b"before, after");
    assert_eq!(fs::read(rig.path("dir/fresh")).unwrap(), b"one, two");
    drop((fresh, open));
    rig.unmount();
    assert_eq!(
        (rig.bucket.read("dir/fresh"), rig.bucket.read("dir/open")),
        (b"one, two".to_vec(), b"before, after".to_vec())
    );
}
