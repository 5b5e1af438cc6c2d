//! What can be wrong with what a user wrote: what, why, what to do.

use std::path::PathBuf;

use crate::config::{Origin, Setting};
use crate::store::LocationError;
use crate::write::KillAtError;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A name that is no setting.
    #[error("unknown setting '{name}' in {place}")]
    Unknown {
        /// As it was written.
        name: String,
        /// Where it was written.
        place: String,
        /// The known name that looks most like it.
        nearest: Option<&'static str>,
    },
    /// A value that cannot be.
    #[error("{} = '{text}': {reason} ({origin})", setting.name())]
    Value {
        /// The setting.
        setting: Setting,
        /// The value as written.
        text: String,
        /// Where it was written.
        origin: Origin,
        /// Why not.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// A configuration file that is no TOML, or holds something else than settings.
    #[error("cannot use the configuration file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A configuration file that cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The volume's URL is none.
    #[error(transparent)]
    Location(#[from] LocationError),
    /// The point of a crash test is none.
    #[error("TETHERFS_KILL_AT: {0}")]
    KillAt(KillAtError),
    /// Places that must not lie in each other.
    #[error("{reason}")]
    Places {
        /// Which, and why not.
        reason: String,
        /// What to do.
        advice: String,
    },
}

impl ConfigError {
    /// What the user can do about it.
    pub fn hint(&self) -> String {
        match self {
            ConfigError::Unknown { nearest: Some(nearest), .. } => format!("did you mean '{nearest}'?"),
            ConfigError::Unknown { nearest: None, .. } => {
                "'tetherfs mount --help' lists all settings".to_owned()
            }
            ConfigError::Value { advice, .. } | ConfigError::Places { advice, .. } => advice.clone(),
            ConfigError::File { .. } => {
                "lines look like: cache-size = \"20GiB\", per volume under [mount.\"s3://bucket\"]".to_owned()
            }
            ConfigError::Unreadable { .. } => {
                "check the path, which --config, -o config or TETHERFS_CONFIG can name, and its permissions"
                    .to_owned()
            }
            ConfigError::KillAt(_) => "leave the variable away: it is for crash tests".to_owned(),
            ConfigError::Location(_) => {
                "a volume is s3://BUCKET, s3://BUCKET/PREFIX or file:///DIR".to_owned()
            }
        }
    }
}
