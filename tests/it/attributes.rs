//! Mode, owner, time, links and extended attributes: in the bucket as s3fs keeps them, and in as few requests as can be.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::Rig;

#[test]
fn what_other_tools_keep_with_an_object_outlives_our_changes() {
    let mut rig = Rig::mounted(&[]);
    let theirs = [
        "cache-control: max-age=60",
        "x-amz-storage-class: STANDARD_IA",
        "x-amz-meta-project: apollo",
        "x-amz-meta-xattr: %7B%22user.a%22%3A%22MQ%3D%3D%22%7D",
    ];
    let headers = [&theirs[..], &["x-amz-meta-md5chksum: 1B2M2Y8AsgTpgAmY7PhCfg=="]].concat();
    rig.bucket.put_with("f", b"content", &headers);
    let is_kept = |rig: &Rig, step: &str| {
        for header in theirs {
            let (name, value) = header.split_once(": ").unwrap();
            assert_eq!(rig.bucket.header("f", name).as_deref(), Some(value), "{name} after {step}");
        }
    };
    fs::set_permissions(rig.path("f"), fs::Permissions::from_mode(0o640)).unwrap();
    rig.unmount();
    is_kept(&rig, "chmod");
    assert_eq!(rig.bucket.header("f", "x-amz-meta-mode").as_deref(), Some("33184"));
    assert!(rig.bucket.header("f", "x-amz-meta-md5chksum").is_some(), "the bytes are the same");
    rig.mount_again();
    let mut file = OpenOptions::new().append(true).open(rig.path("f")).unwrap();
    file.write_all(b" and more").unwrap();
    drop(file);
    is_kept(&rig, "an append");
    assert_eq!(rig.bucket.header("f", "x-amz-meta-md5chksum"), None, "the bytes are other ones");
    assert_eq!(fs::metadata(rig.path("f")).unwrap().mode() & 0o7777, 0o640);
}
