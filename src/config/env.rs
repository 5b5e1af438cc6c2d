//! The environment variables of this process, read once; the only place that reads any.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use crate::config::nearest::nearest;
use crate::config::{ConfigError, Origin, Setting, Settings};

/// What starts with this is ours.
const PREFIX: &str = "TETHERFS_";
/// Where a daemon is to kill itself, for crash tests.
pub const KILL_AT: &str = "TETHERFS_KILL_AT";
/// Variables of ours that are no setting of a mount.
const OTHERS: [&str; 3] = ["TETHERFS_CONFIG", "TETHERFS_RUNTIME_DIR", KILL_AT];
/// Left alone, for those who test tetherfs.
const TEST_PREFIX: &str = "TETHERFS_TEST_";
/// Variables of the AWS tools for the endpoint, strongest first. What they know of credentials is the store's affair.
const ENDPOINT_VARIABLES: [&str; 2] = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];

/// A picture of the environment variables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Environment {
        Environment(std::env::vars_os().collect())
    }

    /// Made up, for tests.
    pub fn from_pairs<const N: usize>(pairs: [(&str, &str); N]) -> Environment {
        Environment(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }

    /// The value of a variable; empty counts as absent.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The absolute path in a variable. The XDG rules say that relative ones are to be ignored.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// What variables of other tools say; weaker than a configuration file.
    pub fn ambient(&self) -> Settings {
        let mut settings = Settings::default();
        let found = ENDPOINT_VARIABLES.iter().find_map(|name| Some((*name, self.get(name)?.to_str()?)));
        if let Some((name, url)) = found {
            settings.set(Setting::Endpoint, url, Origin::Ambient(name));
        }
        settings
    }

    /// What our own variables say. A variable of ours that nobody knows is an error: it is a mistyped one.
    pub fn settings(&self) -> Result<Settings, ConfigError> {
        let mut settings = Settings::default();
        for (name, value) in &self.0 {
            let Some(name) = name.to_str().filter(|n| n.starts_with(PREFIX) && !n.starts_with(TEST_PREFIX))
            else {
                continue;
            };
            if OTHERS.contains(&name) || value.is_empty() {
                continue;
            }
            let bare = &name[PREFIX.len()..];
            let setting =
                Setting::from_name(&bare.to_ascii_lowercase()).ok_or_else(|| ConfigError::Unknown {
                    name: name.to_owned(),
                    place: "the environment".to_owned(),
                    nearest: nearest(bare, Setting::ALL.iter().map(|s| s.name())),
                })?;
            settings.set(setting, value.to_string_lossy(), Origin::Environment(name.to_owned()));
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_variables_are_settings() {
        let environment = Environment::from_pairs([
            ("TETHERFS_CACHE_SIZE", "1G"),
            ("TETHERFS_REGION", ""),
            ("TETHERFS_TEST_ANY", "x"),
            ("TETHERFS_CONFIG", "/x"),
            ("PATH", "/bin"),
        ]);
        let settings = environment.settings().unwrap();
        assert_eq!(settings.get(Setting::CacheSize).map(|g| g.text.as_str()), Some("1G"));
        assert_eq!(settings.get(Setting::Region), None);
    }

    #[test]
    fn a_mistyped_variable_is_an_error_that_names_it() {
        let error = Environment::from_pairs([("TETHERFS_CACHESIZE", "1G")]).settings().unwrap_err();
        assert_eq!(error.to_string(), "unknown setting 'TETHERFS_CACHESIZE' in the environment");
        assert_eq!(error.hint(), "did you mean 'cache-size'?");
    }

    #[test]
    fn the_more_specific_endpoint_variable_wins() {
        let both =
            Environment::from_pairs([("AWS_ENDPOINT_URL", "http://a"), ("AWS_ENDPOINT_URL_S3", "http://b")]);
        assert_eq!(both.ambient().get(Setting::Endpoint).map(|g| g.text.as_str()), Some("http://b"));
    }
}
