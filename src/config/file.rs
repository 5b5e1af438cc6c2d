//! The configuration file: TOML with the settings' names, for all volumes at the top, for some below.
//!
//! ```toml
//! cache-size = "20GiB"
//! commit = "background"
//!
//! [mount."s3://photos"]          # s3://photos and everything below it
//! endpoint = "http://nas:9000"
//! profile = "nas"
//!
//! [mount."s3://photos/archive"]  # the longest match is the strongest
//! read-only = true
//! ```

use std::path::Path;

use toml::{Table, Value};

use crate::config::nearest::nearest;
use crate::config::{ConfigError, Origin, Setting, Settings};

/// The table of tables for single volumes.
const VOLUMES: &str = "mount";

/// What the file at `path` with this `text` says for the volume `url`. The whole file is checked, whatever the volume.
pub fn parse(text: &str, path: &Path, url: &str) -> Result<Settings, ConfigError> {
    let file_error = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let mut table: Table = text.parse().map_err(|e: toml::de::Error| file_error(e.to_string()))?;
    let volumes = match table.remove(VOLUMES) {
        None => Table::new(),
        Some(Value::Table(volumes)) => volumes,
        Some(_) => return Err(file_error(format!("'{VOLUMES}' must be tables: [mount.\"s3://bucket\"]"))),
    };
    let mut settings = table_settings(&table, path, "")?;
    let mut matches = Vec::new();
    for (name, value) in &volumes {
        let Value::Table(table) = value else {
            return Err(file_error(format!("[mount.\"{name}\"] must be a table")));
        };
        let found = table_settings(table, path, name)?;
        if covers(name, url) {
            matches.push((name.len(), found));
        }
    }
    matches.sort_by_key(|(len, _)| *len);
    matches.into_iter().for_each(|(_, found)| settings.overlay(found));
    Ok(settings)
}

/// Whether the volume `name` is `url` or lies above it.
fn covers(name: &str, url: &str) -> bool {
    let name = name.trim_end_matches('/');
    let url = url.trim_end_matches('/');
    url.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn table_settings(table: &Table, path: &Path, volume: &str) -> Result<Settings, ConfigError> {
    let mut settings = Settings::default();
    for (name, value) in table {
        let Some(setting) = Setting::from_name(name) else {
            let section =
                if volume.is_empty() { String::new() } else { format!(" under [mount.\"{volume}\"]") };
            return Err(ConfigError::Unknown {
                name: name.clone(),
                place: format!("{}{section}", path.display()),
                nearest: nearest(name, Setting::ALL.iter().map(|s| s.name())),
            });
        };
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(on) => on.to_string(),
            Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                let reason = format!("'{name}' must be a text, a number, true or false");
                return Err(ConfigError::File { path: path.to_owned(), reason });
            }
        };
        settings.set(setting, text, Origin::File(path.to_owned()));
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        cache-size = "20GiB"
        requests = 8
        read_only = true
        [mount."s3://photos"]
        cache-size = "1GiB"
        endpoint = "http://nas:9000"
        [mount."s3://photos/archive/"]
        cache-size = "2GiB"
    "#;

    fn cache_size(url: &str) -> String {
        let settings = parse(TEXT, Path::new("/c.toml"), url).unwrap();
        settings.get(Setting::CacheSize).unwrap().text.clone()
    }

    #[test]
    fn the_longest_matching_volume_is_the_strongest() {
        for (url, expected) in [
            ("s3://other", "20GiB"),
            ("s3://photos2", "20GiB"),
            ("s3://photos", "1GiB"),
            ("s3://photos/", "1GiB"),
            ("s3://photos/2024", "1GiB"),
            ("s3://photos/archive", "2GiB"),
            ("s3://photos/archive/old", "2GiB"),
        ] {
            assert_eq!(cache_size(url), expected, "{url}");
        }
        let settings = parse(TEXT, Path::new("/c.toml"), "s3://x").unwrap();
        assert_eq!(settings.get(Setting::Requests).unwrap().text, "8");
        assert_eq!(settings.switch(Setting::ReadOnly).unwrap(), Some(true));
        assert_eq!(settings.get(Setting::Endpoint), None);
    }

    #[test]
    fn faults_name_the_key_and_the_file() {
        for (text, what, hint) in [
            ("cachesize = 1", "unknown setting 'cachesize' in /c.toml", "did you mean 'cache-size'?"),
            (
                "[mount.\"s3://b\"]\nregoin = \"x\"",
                "unknown setting 'regoin' in /c.toml under [mount.\"s3://b\"]",
                "did you mean 'region'?",
            ),
            (
                "endpoint = [1]",
                "cannot use the configuration file /c.toml: 'endpoint' must be a text",
                "lines look like",
            ),
            (
                "mount = 1",
                "cannot use the configuration file /c.toml: 'mount' must be tables",
                "lines look like",
            ),
            ("a = = b", "cannot use the configuration file /c.toml", "lines look like"),
        ] {
            let error = parse(text, Path::new("/c.toml"), "s3://elsewhere").unwrap_err();
            assert!(error.to_string().starts_with(what), "{error}");
            assert!(error.hint().starts_with(hint), "{}", error.hint());
        }
    }
}
