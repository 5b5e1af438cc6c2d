//! One checked configuration, from defaults, file, environment and flags.
//!
//! Contract, in two stages: [`Settings`] is what was typed or read, each value with its origin; [`Config`] is what is
//! meant, made of the rooms' own `Options`, checked once. Precedence: defaults < variables of other tools < file <
//! environment < `-o` < flags. No room sees `Config`, so no room can reach for a neighbour's setting. Every error names
//! the value, where it was written, why it cannot be, and what to do.

mod check;
mod env;
mod error;
mod file;
mod mount_options;
mod nearest;
mod places;
mod setting;
mod settings;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::store::Location;
use crate::store::wrap::MetadataReach;
use crate::types::UnixTime;
use crate::{cache, control, fs, fuse, namespace, observe, read, store, write};

pub use check::parse_time;
pub use env::Environment;
pub use error::ConfigError;
pub use mount_options::{MountOptions, parse as parse_mount_options};
pub use places::runtime_directories;
pub use setting::{Group, Setting, Spec, ValueKind};
pub use settings::{Given, Origin, Settings};

/// What a user asked for, as typed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Typed {
    /// The volume.
    pub url: String,
    /// The mountpoint; relative paths are meant from [`Surroundings::directory`].
    pub mountpoint: PathBuf,
    /// `-o` and flags.
    pub settings: Settings,
    /// `--config`: read instead of the usual files.
    pub config_file: Option<PathBuf>,
}

/// What the configuration depends on and the user did not type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Surroundings {
    /// The environment variables.
    pub environment: Environment,
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// This machine's name.
    pub host: String,
    /// The current directory.
    pub directory: PathBuf,
    /// The present time.
    pub now: UnixTime,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Surroundings {
        let system = rustix::system::uname();
        Surroundings {
            environment: Environment::of_process(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            host: system.nodename().to_string_lossy().into_owned(),
            // Without a current directory, relative paths are meant from the root.
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            now: std::time::SystemTime::now().into(),
        }
    }

    /// Directories where the control sockets of this user's mounts may be.
    pub fn runtime_directories(&self) -> Vec<PathBuf> {
        runtime_directories(&self.environment, self.uid)
    }
}

/// Everything a mount needs, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// The volume.
    pub location: Location,
    /// The volume as shown to users.
    pub url: String,
    /// What was written of how to reach it, by the names of the settings. Without secrets.
    pub reached_by: BTreeMap<String, String>,
    /// To be leased before anything else.
    pub state_directory: PathBuf,
    /// For `store`.
    pub store: store::Options,
    /// Of which objects in a listing modes, owners and times are known.
    pub metadata_reach: MetadataReach,
    /// For `cache`.
    pub cache: cache::Options,
    /// For `read`.
    pub read: read::Options,
    /// For `write`.
    pub write: write::Options,
    /// For `namespace`.
    pub namespace: namespace::Options,
    /// For `fs`.
    pub fs: fs::Options,
    /// For `fuse`.
    pub fuse: fuse::Options,
    /// For `control`.
    pub control: control::Options,
    /// How long a signal lets uploads go on.
    pub drain_timeout: Duration,
    /// Least severe line written to the log.
    pub log_level: log::LevelFilter,
    /// Where log lines go, when the user said.
    pub log_file: Option<PathBuf>,
}

/// What is to be known of a volume without mounting it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// The volume.
    pub location: Location,
    /// The volume as shown to users.
    pub url: String,
    /// Where its changes wait.
    pub state_directory: PathBuf,
    /// For `store`.
    pub store: store::Options,
    /// For `write`.
    pub write: write::Options,
}

impl Config {
    /// The same, with the mountpoint as the mount table will show it.
    pub fn mounted_on(mut self, mountpoint: PathBuf) -> Config {
        self.control.mountpoint = mountpoint.clone();
        self.fuse.mountpoint = mountpoint;
        self
    }

    /// The log's options for a mount in the foreground, which writes to the terminal unless a file was named.
    pub fn foreground_log(&self) -> observe::LogOptions {
        observe::LogOptions { level: self.log_level, file: self.log_file.clone() }
    }

    /// The log's options for a mount in the background, which has no terminal.
    pub fn background_log(&self) -> observe::LogOptions {
        let file = self.log_file.clone().unwrap_or_else(|| self.state_directory.join("tetherfs.log"));
        observe::LogOptions { level: self.log_level, file: Some(file) }
    }
}

/// Reads the files, puts all sources over each other and checks the result.
pub fn load(typed: &Typed, surroundings: &Surroundings) -> Result<Config, ConfigError> {
    let location: Location = typed.url.parse()?;
    let (flags, file) = (typed.settings.clone(), typed.config_file.clone());
    let settings = collect(flags, file, surroundings, &places::url_text(&location))?;
    check::check(&settings, location, &typed.mountpoint, surroundings)
}

/// The same for a volume that is not to be mounted.
pub fn load_volume(
    url: &str,
    settings: Settings,
    config_file: Option<PathBuf>,
    surroundings: &Surroundings,
) -> Result<Volume, ConfigError> {
    let location: Location = url.parse()?;
    let settings = collect(settings, config_file, surroundings, &places::url_text(&location))?;
    check::check_volume(&settings, location, surroundings)
}

/// All sources, weakest first, over each other. `typed` is the strongest.
fn collect(
    typed: Settings,
    config_file: Option<PathBuf>,
    surroundings: &Surroundings,
    url: &str,
) -> Result<Settings, ConfigError> {
    let environment = &surroundings.environment;
    let named = config_file.or_else(|| environment.get("TETHERFS_CONFIG").map(PathBuf::from));
    let (files, must_exist) = match named {
        Some(path) => (vec![surroundings.directory.join(path)], true),
        None => (places::config_files(environment), false),
    };
    let mut settings = Settings::defaults();
    settings.overlay(environment.ambient());
    for path in files {
        match std::fs::read_to_string(&path) {
            Ok(text) => settings.overlay(file::parse(&text, &path, url)?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => {}
            Err(source) => return Err(ConfigError::Unreadable { path, source }),
        }
    }
    settings.overlay(environment.settings()?);
    settings.overlay(typed);
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn surroundings(environment: Environment) -> Surroundings {
        Surroundings {
            environment,
            uid: 1000,
            gid: 100,
            host: "box".to_owned(),
            directory: "/work".into(),
            now: UnixTime::from_secs(5),
        }
    }

    #[test]
    fn each_source_is_stronger_than_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(
            &path,
            "requests = 2\nregion = \"file\"\nendpoint = \"http://file\"\nprofile = \"file\"",
        )
        .unwrap();
        let environment = Environment::from_pairs([
            ("AWS_ENDPOINT_URL", "http://ambient"),
            ("TETHERFS_REGION", "env"),
            ("TETHERFS_PROFILE", "env"),
            ("TETHERFS_CONFIG", path.to_str().unwrap()),
        ]);
        let mut flags = Settings::default();
        flags.set(Setting::Profile, "flag", Origin::Flag);
        let settings = collect(flags.clone(), None, &surroundings(environment.clone()), "s3://b").unwrap();
        let text = |setting| settings.get(setting).map(|given| given.text.as_str());
        assert_eq!(text(Setting::PartSize), Some("8MiB"), "default");
        assert_eq!(text(Setting::Requests), Some("2"), "file over default");
        assert_eq!(text(Setting::Endpoint), Some("http://file"), "file over other tools' variables");
        assert_eq!(text(Setting::Region), Some("env"), "environment over file");
        assert_eq!(text(Setting::Profile), Some("flag"), "flag over all");

        let absent = Some(folder.path().join("absent.toml"));
        let error = collect(flags, absent, &surroundings(environment), "s3://b").unwrap_err();
        assert!(error.to_string().contains("absent.toml"), "{error}");
        assert!(error.hint().contains("--config"), "{}", error.hint());
    }

    #[test]
    fn files_that_are_not_there_are_no_error() {
        let environment = Environment::from_pairs([("XDG_CONFIG_HOME", "/nowhere/at/all")]);
        let settings = collect(Settings::default(), None, &surroundings(environment), "s3://b").unwrap();
        assert_eq!(settings.get(Setting::CacheSize).map(|g| &g.origin), Some(&Origin::Default));
    }
}
