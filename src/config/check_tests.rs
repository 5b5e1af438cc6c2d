//! What is meant by what was written, and what cannot be meant.

use super::*;
use crate::config::Environment;
use crate::types::UnixTime;

fn surroundings() -> Surroundings {
    Surroundings {
        environment: Environment::from_pairs([("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")]),
        uid: 1000,
        gid: 100,
        host: "box".to_owned(),
        directory: "/work".into(),
        now: UnixTime::from_secs(5),
    }
}

fn bucket() -> Location {
    Location::S3 { bucket: "photos".to_owned(), prefix: "2024/".to_owned() }
}

fn with(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    at(bucket(), "/mnt/p", pairs)
}

fn at(location: Location, mountpoint: &str, pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut settings = Settings::defaults();
    for (name, text) in pairs {
        settings.set(Setting::from_name(name).expect("the test names settings"), *text, Origin::Flag);
    }
    check(&settings, location, Path::new(mountpoint), &surroundings())
}

#[test]
fn defaults_make_a_configuration() {
    let config = with(&[]).unwrap();
    assert_eq!(config.url, "s3://photos/2024");
    assert!(config.state_directory.starts_with("/home/u/.local/state/tetherfs"));
    assert_eq!(config.cache.directory, Path::new("/home/u/.cache/tetherfs"));
    assert_eq!(config.cache.bytes_max, "10GiB".parse().unwrap());
    assert_eq!(config.cache.chunk_bytes, ByteSize(256 << 10));
    assert_eq!(config.cache.free_bytes_min, ByteSize::mib(1024));
    assert_eq!(config.read.memory_bytes, ByteSize::mib(256));
    assert_eq!(config.read.prefetch_bytes, ByteSize::mib(128));
    assert_eq!((config.read.requests_max, config.write.requests_max), (8, 8));
    assert_eq!(config.write.directory, config.state_directory);
    assert_eq!(config.write.close_timeout, Duration::from_secs(300));
    assert_eq!(config.fs, fs::Options { commit: CommitMode::Close, read_only: false, passthrough: true });
    assert_eq!((config.namespace.file_mode, config.namespace.directory_mode), (0o644, 0o755));
    assert_eq!((config.namespace.uid, config.namespace.gid), (1000, 100));
    assert_eq!(config.namespace.ttl, Duration::from_secs(1));
    assert_eq!(config.drain_timeout, Duration::from_secs(60));
    assert_eq!(config.log_level, log::LevelFilter::Info);
    assert_eq!(config.background_log().file, Some(config.state_directory.join("tetherfs.log")));
}

#[test]
fn a_volume_has_the_state_directory_of_its_mount() {
    let pairs = [("endpoint", "http://nas:9000"), ("part-size", "16MiB")];
    let config = with(&pairs).unwrap();
    assert_eq!(config.reached_by, [("endpoint".to_owned(), "http://nas:9000".to_owned())].into());
    let mut settings = Settings::defaults();
    for (name, text) in pairs {
        settings.set(Setting::from_name(name).unwrap(), text, Origin::Flag);
    }
    let volume = check_volume(&settings, bucket(), &surroundings()).unwrap();
    assert_eq!((&volume.url, &volume.state_directory), (&config.url, &config.state_directory));
    assert_eq!((volume.store, volume.write), (config.store, config.write));
}

#[test]
fn values_arrive_where_they_are_meant() {
    let config = with(&[
        ("endpoint", "http://h:9000"),
        ("path-style", "false"),
        ("cache-size", "0"),
        ("cache-free", "5M"),
        ("memory", "64MiB"),
        ("commit", "background"),
        ("on-conflict", "overwrite"),
        ("umask", "077"),
        ("dir-mode", "750"),
        ("uid", "7"),
        ("read-only", ""),
        ("passthrough", "false"),
        ("state-dir", "here"),
        ("metadata-ttl", "0"),
        ("chunk-size", "16MiB"),
    ])
    .unwrap();
    assert_eq!(config.store.s3.endpoint.as_deref(), Some("http://h:9000"));
    assert_eq!(config.store.s3.addressing, AddressingStyle::VirtualHost);
    assert_eq!(config.cache.bytes_max, ByteSize(0));
    assert_eq!(config.cache.free_bytes_min, ByteSize::mib(5));
    assert_eq!(config.read.prefetch_bytes, ByteSize::mib(16));
    assert_eq!(config.read.request_bytes, ByteSize::mib(16), "the default grows with the chunk");
    assert_eq!(config.write.on_conflict, OnConflict::Overwrite);
    assert_eq!(
        config.fs,
        fs::Options { commit: CommitMode::Background, read_only: true, passthrough: false }
    );
    assert!(config.fuse.read_only);
    assert_eq!((config.namespace.file_mode, config.namespace.directory_mode), (0o600, 0o750));
    assert_eq!(config.namespace.uid, 7);
    assert_eq!(config.state_directory, Path::new("/work/here"));
    assert_eq!(config.namespace.ttl, Duration::ZERO);
}

#[test]
fn every_choice_of_the_help_is_understood() {
    for setting in [Setting::Commit, Setting::OnConflict, Setting::PosixMetadata, Setting::LogLevel] {
        let crate::config::ValueKind::Choice(words) = setting.spec().value else {
            panic!("{setting} is a choice");
        };
        for word in words {
            with(&[(setting.name(), word)]).unwrap();
        }
        assert!(with(&[(setting.name(), "other")]).is_err());
    }
}

#[test]
fn what_cannot_be_is_refused_with_reason_and_advice() {
    for (name, text, reason, advice) in [
        ("part-size", "4MiB", "parts from 5 MiB to 5 GiB", "8MiB"),
        ("part-size", "6GiB", "parts from 5 MiB to 5 GiB", "8MiB"),
        (
            "part-size",
            "1GiB",
            "1 GiB do not fit into the half of --memory, 256 MiB",
            "raise --memory to 2 GiB",
        ),
        ("chunk-size", "3MiB", "a power of two", "256KiB"),
        ("chunk-size", "2KiB", "from 4 KiB to 16 MiB", "256KiB"),
        ("chunk-size", "32MiB", "from 4 KiB to 16 MiB", "256KiB"),
        ("cache-size", "1k", "not even one chunk", "0 to keep nothing"),
        ("cache-size", "many", "is not a size", "a size is a number"),
        ("staging-size", "1MiB", "not even one part", "largest file"),
        ("memory", "63MiB", "at least 64 MiB", "512MiB"),
        ("prefetch", "1GiB", "do not fit", "raise --memory to 2 GiB"),
        ("request-size", "300KiB", "multiple of --chunk-size, which is 256 KiB", "8MiB"),
        ("request-size", "0", "multiple of --chunk-size", "8MiB"),
        ("requests", "0", "too few", "from 1 to 1024"),
        ("requests", "x", "invalid digit", "takes one N"),
        ("commit", "never", "no such choice", "close, background, remote"),
        ("close-timeout", "0", "above 0", "30s"),
        ("close-timeout", "5 parsecs", "is no time", "a time is a number"),
        ("umask", "999", "octal", "022"),
        ("umask", "1000", "octal", "022"),
        ("file-mode", "rw", "octal", "022"),
        ("dir-mode", "4755", "octal", "022"),
        ("read-only", "maybe", "neither true nor false", "read-only=true"),
        ("endpoint", "h:9000", "begin with http://", "http://HOST:PORT"),
        ("endpoint", "http:///x", "no host", "http://HOST:PORT"),
        ("state-dir", "/mnt/p/state", "lies in the mountpoint /mnt/p", "--state-dir"),
        ("cache-dir", "/mnt/p", "lies in the mountpoint /mnt/p", "--cache-dir"),
        ("log-file", "/mnt/p/log", "lies in the mountpoint /mnt/p", "--log-file"),
        ("cache-dir", "/home/u/.local", "lie in each other", "its own directory"),
    ] {
        let error = with(&[(name, text)]).expect_err(name);
        assert!(error.to_string().contains(reason), "{name}={text}: {error}");
        assert!(error.hint().contains(advice), "{name}={text}: {}", error.hint());
    }
}

#[test]
fn credentials_in_the_endpoint_are_refused_and_not_repeated() {
    let error = with(&[("endpoint", "http://key:hunter2@h")]).unwrap_err();
    assert!(!format!("{error} {error:?} {}", error.hint()).contains("hunter2"), "{error}");
}

#[test]
fn a_local_volume_has_no_server_and_does_not_hold_its_mountpoint() {
    let local = || Location::Local { directory: "/data".into() };
    assert!(at(local(), "/mnt/p", &[]).is_ok());
    assert!(at(local(), "/mnt/p", &[("region", "x")]).unwrap_err().to_string().contains("no server"));
    for mountpoint in ["/data/x", "/data", "/"] {
        assert!(
            at(local(), mountpoint, &[("state-dir", "/s"), ("cache-dir", "/c")]).is_err(),
            "{mountpoint}"
        );
    }
}

#[test]
fn relative_paths_are_only_for_the_command_line() {
    let mut settings = Settings::defaults();
    settings.set(Setting::CacheDir, "c", Origin::File("/etc/tetherfs.toml".into()));
    let error = check(&settings, bucket(), Path::new("m"), &surroundings()).unwrap_err();
    assert!(error.to_string().contains("not absolute") && error.to_string().contains("/etc/tetherfs.toml"));
    assert_eq!(at(bucket(), "m", &[]).unwrap().fuse.mountpoint, Path::new("/work/m"));
}

#[test]
fn without_a_home_the_user_must_say() {
    let mut nowhere = surroundings();
    nowhere.environment = Environment::default();
    let error = check(&Settings::defaults(), bucket(), Path::new("/m"), &nowhere).unwrap_err();
    assert!(error.hint().contains("--state-dir"), "{error}");
}

#[test]
fn times() {
    for (text, ms) in [("500ms", 500), ("30s", 30_000), ("2", 2000), ("5m", 300_000), ("1.5h", 5_400_000)] {
        assert_eq!(parse_time(text), Ok(Duration::from_millis(ms)), "{text}");
    }
    for text in ["", "s", "-1s", "1y", "1e9d", "99999999999999999999999d"] {
        assert!(parse_time(text).is_err(), "{text}");
    }
}
