//! Everything a user can get wrong gets a clear answer, a non-zero exit, and loses nothing.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::{Ran, Rig, pattern, wait_for};

/// Tries to mount in the background with these arguments; must fail and leave nothing mounted.
fn refused(rig: &Rig, arguments: &[&str]) -> Ran {
    let mut all = vec!["mount"];
    all.extend(arguments);
    let ran = rig.tetherfs(&all);
    assert_ne!(ran.code, Some(0), "{arguments:?} was accepted");
    assert!(ran.code.is_some(), "died of a signal");
    assert!(!rig.is_mounted(), "{arguments:?} left a mount");
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    ran
}

fn says(ran: &Ran, words: &[&str]) {
    let text = ran.err.to_lowercase();
    for word in words {
        assert!(text.contains(&word.to_lowercase()), "'{word}' is not in: {}", ran.err);
    }
}

#[test]
fn urls_options_and_mountpoints() {
    let rig = Rig::new();
    let mountpoint = rig.mountpoint().to_str().unwrap().to_owned();
    let endpoint = format!("--endpoint={}", rig.bucket.endpoint());
    says(&refused(&rig, &["ftp://x/y", &mountpoint]), &["ftp", "s3://"]);
    says(&refused(&rig, &["s3://", &mountpoint]), &["bucket"]);
    says(&refused(&rig, &["s3://test-bucket", &mountpoint, "--cache-size=lots"]), &["lots"]);
    says(&refused(&rig, &["s3://test-bucket", &mountpoint, "--part-size=1K"]), &["part"]);
    says(&refused(&rig, &["s3://test-bucket", &mountpoint, "--frobnicate"]), &["frobnicate"]);
    says(&refused(&rig, &["s3://test-bucket", &mountpoint, "-o", "frobnicate=1"]), &["frobnicate"]);
    let nowhere = rig.home().join("nowhere");
    says(&refused(&rig, &["s3://test-bucket", nowhere.to_str().unwrap(), &endpoint]), &["nowhere"]);
    let file = rig.home().join("file");
    fs::write(&file, "x").unwrap();
    says(&refused(&rig, &["s3://test-bucket", file.to_str().unwrap(), &endpoint]), &["not a directory"]);
    fs::write(rig.mountpoint().join("something"), "x").unwrap();
    says(&refused(&rig, &["s3://test-bucket", &mountpoint, &endpoint]), &["empty"]);
}

#[test]
fn servers_buckets_and_credentials() {
    let rig = Rig::new();
    let mountpoint = rig.mountpoint().to_str().unwrap().to_owned();
    let endpoint = format!("--endpoint={}", rig.bucket.endpoint());
    says(&refused(&rig, &["s3://no-such-bucket", &mountpoint, &endpoint]), &["no-such-bucket"]);
    says(
        &refused(&rig, &["s3://test-bucket", &mountpoint, "--endpoint=http://127.0.0.1:1"]),
        &["127.0.0.1:1"],
    );
    let mut command = rig.command();
    command.env("AWS_SECRET_ACCESS_KEY", "wrong-secret-value").args([
        "mount",
        "s3://test-bucket",
        &mountpoint,
        &endpoint,
    ]);
    let ran = crate::support::run(&mut command);
    assert_ne!(ran.code, Some(0));
    says(&ran, &["secret access key"]);
    assert!(!ran.err.contains("wrong-secret-value"), "the secret is printed: {}", ran.err);
    let mut command = rig.command();
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.env("AWS_EC2_METADATA_DISABLED", "true").args([
        "mount",
        "s3://test-bucket",
        &mountpoint,
        &endpoint,
    ]);
    let ran = crate::support::run(&mut command);
    assert_ne!(ran.code, Some(0));
    says(&ran, &["credentials", "AWS_ACCESS_KEY_ID"]);
}

#[test]
fn config_files_name_what_is_wrong() {
    let rig = Rig::new();
    let mountpoint = rig.mountpoint().to_str().unwrap().to_owned();
    let config = rig.home().join("config.toml");
    let option = format!("--config={}", config.display());
    fs::write(&config, "cache-sise = \"1G\"\n").unwrap();
    says(
        &refused(&rig, &["s3://test-bucket", &mountpoint, &option]),
        &["cache-sise", "cache-size", "config.toml"],
    );
    fs::write(&config, "cache-size = [broken\n").unwrap();
    says(&refused(&rig, &["s3://test-bucket", &mountpoint, &option]), &["config.toml"]);
}

#[test]
fn one_mount_a_state_directory() {
    let mut rig = Rig::mounted(&[]);
    let second = rig.home().join("second");
    fs::create_dir(&second).unwrap();
    let endpoint = format!("--endpoint={}", rig.bucket.endpoint());
    let ran = rig.tetherfs(&["mount", "s3://test-bucket", second.to_str().unwrap(), &endpoint]);
    assert_ne!(ran.code, Some(0));
    says(&ran, &["in use", "state-dir"]);
    fs::write(rig.path("f"), "still serving").unwrap();
    assert_eq!(rig.bucket.get("f").unwrap(), b"still serving");
    rig.unmount();
}

#[test]
fn what_waits_for_one_volume_does_not_go_into_another() {
    use tetherfs::bucket::{Action, Operation, Rule};
    let mut rig = Rig::new();
    let state = format!("--state-dir={}", rig.home().join("state-of-one").display());
    rig.mount(&["--commit=background", &state]);
    let unavailable = Action::Status { code: 503, error: None, retry_after_s: None };
    rig.bucket.faults().add(Rule::on(Operation::PutObject, unavailable));
    fs::write(rig.path("waits"), "for the bucket").unwrap();
    rig.kill();
    rig.bucket.faults().clear();
    let mountpoint = rig.mountpoint().to_str().unwrap().to_owned();
    let endpoint = format!("--endpoint={}", rig.bucket.endpoint());
    for other in ["s3://test-bucket/below", "s3://another"] {
        let ran = refused(&rig, &[other, &mountpoint, &endpoint, &state]);
        says(&ran, &["is of s3://test-bucket", "--state-dir", "tetherfs fsck"]);
    }
    assert_eq!(rig.bucket.all_keys(), [""; 0]);
    rig.mount_again();
    wait_for("it is in its bucket", Duration::from_secs(10), || rig.bucket.find("waits").is_some());
    rig.unmount();
}

#[test]
fn damaged_journal_and_cache_lose_nothing() {
    let mut rig = Rig::mounted(&["--commit=background", "--part-size=5M"]);
    rig.bucket.put("kept", &pattern(1, 3 << 20));
    assert_eq!(fs::read(rig.path("kept")).unwrap(), pattern(1, 3 << 20));
    use tetherfs::bucket::{Action, Operation, Rule};
    rig.bucket
        .faults()
        .add(Rule::on(Operation::PutObject, Action::Status { code: 503, error: None, retry_after_s: None }));
    for number in 0..10 {
        fs::write(rig.path(&format!("f{number}")), pattern(number, 20_000)).unwrap();
    }
    rig.kill();
    rig.bucket.faults().clear();
    let journals = files_below(rig.home(), &|name| name.starts_with("journal-"));
    assert!(!journals.is_empty());
    for journal in &journals {
        flip_in_the_middle(journal);
    }
    for map in files_below(rig.home(), &|name| name.ends_with(".map")) {
        flip_in_the_middle(&map);
    }
    rig.mount_again();
    assert_eq!(fs::read(rig.path("kept")).unwrap(), pattern(1, 3 << 20), "a damaged map is a miss");
    // One record is damaged: at most one file is set aside, none is half in the bucket, all bytes are still somewhere.
    crate::support::wait_for("the undamaged uploads are done", std::time::Duration::from_secs(60), || {
        rig.bucket.keys().len() >= 10
    });
    let mut missing = 0;
    for number in 0..10 {
        match rig.bucket.get(&format!("f{number}")) {
            Some(bytes) => assert!(bytes == pattern(number, 20_000), "f{number}"),
            None => missing += 1,
        }
    }
    assert!(missing <= 1, "{missing} files missing");
    let kept_aside =
        files_below(rig.home(), &|_| true).iter().any(|path| path.to_str().unwrap().contains("recovered"));
    assert!(kept_aside, "the damaged record was set aside");
    rig.unmount();
}

fn files_below(directory: &std::path::Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if entry.file_name() == "mnt" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            found.extend(files_below(&path, wanted));
        } else if wanted(entry.file_name().to_str().unwrap()) {
            found.push(path);
        }
    }
    found
}

fn flip_in_the_middle(path: &std::path::Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let at = file.metadata().unwrap().len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[!byte[0]], at).unwrap();
}
