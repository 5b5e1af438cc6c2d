//! What was typed or read, setting by setting, and where; not yet checked.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::config::{ConfigError, Group, Setting, ValueKind};

/// Where a value was written. The order is that of precedence, weakest first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Built in.
    Default,
    /// A variable that other tools use too, such as `AWS_ENDPOINT_URL`.
    Ambient(&'static str),
    /// A configuration file.
    File(PathBuf),
    /// A variable of ours.
    Environment(String),
    /// `-o`
    MountOption,
    /// A flag on the command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("the default"),
            Origin::Ambient(name) => write!(f, "from the environment variable {name}"),
            Origin::File(path) => write!(f, "from {}", path.display()),
            Origin::Environment(name) => write!(f, "from the environment variable {name}"),
            Origin::MountOption => f.write_str("from -o"),
            Origin::Flag => f.write_str("from the command line"),
        }
    }
}

/// A value as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Given {
    /// Its text.
    pub text: String,
    /// Where it was written.
    pub origin: Origin,
}

/// Values as they were written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings(BTreeMap<Setting, Given>);

impl Settings {
    /// The built-in values.
    pub fn defaults() -> Settings {
        let mut settings = Settings::default();
        for &setting in Setting::ALL {
            if let Some(text) = setting.spec().default {
                settings.set(setting, text, Origin::Default);
            }
        }
        settings
    }

    /// Notes a value, over what was there.
    pub fn set(&mut self, setting: Setting, text: impl Into<String>, origin: Origin) {
        self.0.insert(setting, Given { text: text.into(), origin });
    }

    /// Puts the values of a stronger source over these.
    pub fn overlay(&mut self, stronger: Settings) {
        self.0.extend(stronger.0);
    }

    /// Those of one group that somebody wrote.
    pub fn written_of(&self, group: Group) -> Settings {
        let written = |(setting, given): &(&Setting, &Given)| {
            setting.spec().group == group && given.origin != Origin::Default
        };
        Settings(self.0.iter().filter(written).map(|(setting, given)| (*setting, given.clone())).collect())
    }

    /// All that were written, by name.
    pub fn texts(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(setting, given)| (setting.name().to_owned(), given.text.clone())).collect()
    }

    /// What was written for a setting.
    pub fn get(&self, setting: Setting) -> Option<&Given> {
        self.0.get(&setting)
    }

    /// The value of a setting as `parse` understands it, `None` when nobody wrote one.
    pub fn parsed<T, E: fmt::Display>(
        &self,
        setting: Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(given) = self.get(setting) else {
            return Ok(None);
        };
        match parse(given.text.trim()) {
            Ok(value) => Ok(Some(value)),
            Err(reason) => Err(self.refuse(setting, reason.to_string(), expectation(setting))),
        }
    }

    /// Whether a switch is on; `None` when nobody said.
    pub fn switch(&self, setting: Setting) -> Result<Option<bool>, ConfigError> {
        self.parsed(setting, |text| match text {
            "true" | "yes" | "on" | "1" | "" => Ok(true),
            "false" | "no" | "off" | "0" => Ok(false),
            _ => Err("neither true nor false"),
        })
    }

    /// The error that the value of `setting` cannot be.
    pub fn refuse(
        &self,
        setting: Setting,
        reason: impl Into<String>,
        advice: impl Into<String>,
    ) -> ConfigError {
        let given = self.get(setting).cloned();
        let Given { text, origin } = given.unwrap_or(Given { text: String::new(), origin: Origin::Default });
        ConfigError::Value { setting, text, origin, reason: reason.into(), advice: advice.into() }
    }
}

/// What a value of this setting looks like.
fn expectation(setting: Setting) -> String {
    match setting.spec().value {
        ValueKind::Switch => format!("write {setting} alone, or {setting}=true or {setting}=false"),
        ValueKind::Choice(words) => format!("one of: {}", words.join(", ")),
        ValueKind::Text("SIZE") => "a size is a number with K, M, G or T: 512K, 8MiB, 1.5GiB".to_owned(),
        ValueKind::Text("TIME") => "a time is a number with ms, s, m or h: 500ms, 30s, 5m".to_owned(),
        ValueKind::Text("OCTAL") => "an octal number from 000 to 777, such as 022".to_owned(),
        ValueKind::Text(what) => format!("{setting} takes one {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stronger_source_wins_and_is_named_in_errors() {
        let mut settings = Settings::defaults();
        let mut stronger = Settings::default();
        stronger.set(Setting::CacheSize, "lots", Origin::Environment("TETHERFS_CACHE_SIZE".to_owned()));
        settings.overlay(stronger);
        let error = settings
            .parsed(Setting::CacheSize, |text| text.parse::<crate::types::ByteSize>())
            .expect_err("'lots' is no size");
        let text = error.to_string();
        assert!(text.contains("cache-size = 'lots'") && text.contains("TETHERFS_CACHE_SIZE"), "{text}");
        assert_eq!(settings.get(Setting::PartSize).map(|g| g.text.as_str()), Some("8MiB"));
    }

    #[test]
    fn what_was_written_of_a_group_is_told_by_name() {
        let mut settings = Settings::defaults();
        settings.set(Setting::Endpoint, "http://nas", Origin::Flag);
        settings.set(Setting::PathStyle, "true", Origin::MountOption);
        settings.set(Setting::CacheSize, "1G", Origin::Flag);
        let texts = settings.written_of(Group::Store).texts();
        let expected = [("endpoint", "http://nas"), ("path-style", "true")];
        assert_eq!(texts, expected.map(|(name, text)| (name.to_owned(), text.to_owned())).into());
    }

    #[test]
    fn switches() {
        for (text, value) in [("", true), ("true", true), ("on", true), ("false", false), ("0", false)] {
            let mut settings = Settings::default();
            settings.set(Setting::ReadOnly, text, Origin::Flag);
            assert_eq!(settings.switch(Setting::ReadOnly).unwrap(), Some(value), "{text}");
        }
        assert_eq!(Settings::defaults().switch(Setting::ReadOnly).unwrap(), None);
    }
}
