//! The options of mount(8): `-o ro,allow_other,cache_size=20GiB`.
//!
//! Names are those of the settings, with `_` or `-`. What mount(8), fstab and systemd add for themselves is ignored.
//! A comma in a value is written `\,`.

use std::path::PathBuf;

use crate::config::nearest::nearest;
use crate::config::{ConfigError, Origin, Setting, Settings, ValueKind};

/// Words that are for mount(8) or the kernel, or that say what holds anyway.
const IGNORED: [&str; 41] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "sync",
    "async",
    "dirsync",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "silent",
    "loud",
    "comment",
    "default_permissions",
    "fsname",
    "subtype",
    "helper",
];

/// What `-o` said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MountOptions {
    /// Settings.
    pub settings: Settings,
    /// `config=FILE`
    pub config_file: Option<PathBuf>,
}

/// Understands the argument of one `-o`.
pub fn parse(text: &str) -> Result<MountOptions, ConfigError> {
    let mut options = MountOptions::default();
    for item in split(text) {
        let (name, value) = match item.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (item.as_str(), None),
        };
        if name == "config" {
            options.config_file = value.map(PathBuf::from);
        } else if name == "ro" {
            options.settings.set(Setting::ReadOnly, "true", Origin::MountOption);
        } else if let Some(setting) = Setting::from_name(name) {
            take(&mut options.settings, setting, value)?;
        } else if !is_ignored(name) {
            return Err(ConfigError::Unknown {
                name: name.to_owned(),
                place: "-o".to_owned(),
                nearest: nearest(name, Setting::ALL.iter().map(|s| s.name())),
            });
        }
    }
    Ok(options)
}

fn take(settings: &mut Settings, setting: Setting, value: Option<&str>) -> Result<(), ConfigError> {
    settings.set(setting, value.unwrap_or_default(), Origin::MountOption);
    let is_switch = match setting.spec().value {
        ValueKind::Switch => true,
        ValueKind::Text(_) | ValueKind::Choice(_) => false,
    };
    if value.is_none() && !is_switch {
        let underscored = setting.name().replace('-', "_");
        return Err(settings.refuse(setting, "a value is missing", format!("write -o {underscored}=VALUE")));
    }
    Ok(())
}

fn is_ignored(name: &str) -> bool {
    name.is_empty() || name.starts_with("x-") || name.starts_with("X-") || IGNORED.contains(&name)
}

/// The items between commas, `\,` being a comma and `\\` a backslash.
fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let item = items.last_mut().expect("there is always an item");
        match c {
            '\\' if matches!(chars.peek(), Some(',' | '\\')) => item.extend(chars.next()),
            ',' => items.push(String::new()),
            _ => item.push(c),
        }
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(options: &MountOptions, setting: Setting) -> Option<&str> {
        options.settings.get(setting).map(|given| given.text.as_str())
    }

    #[test]
    fn what_fstab_says() {
        let options = parse(
            "rw,_netdev,noauto,x-systemd.automount,user,nofail,dev,suid,ro,allow_other,endpoint=http://h:9000/?a=b,\
             cache_size=20GiB,read-only=false,config=/etc/t.toml,",
        )
        .unwrap();
        assert_eq!(text(&options, Setting::AllowOther), Some(""));
        assert_eq!(text(&options, Setting::Endpoint), Some("http://h:9000/?a=b"));
        assert_eq!(text(&options, Setting::CacheSize), Some("20GiB"));
        assert_eq!(text(&options, Setting::ReadOnly), Some("false"));
        assert_eq!(options.config_file, Some(PathBuf::from("/etc/t.toml")));
    }

    #[test]
    fn commas_in_values() {
        let options = parse(r"cache_dir=/a\,b,log-file=/c\\d").unwrap();
        assert_eq!(text(&options, Setting::CacheDir), Some("/a,b"));
        assert_eq!(text(&options, Setting::LogFile), Some(r"/c\d"));
    }

    #[test]
    fn strangers_and_missing_values_are_errors() {
        let error = parse("ro,cach_size=1").unwrap_err();
        assert_eq!(error.to_string(), "unknown setting 'cach_size' in -o");
        assert_eq!(error.hint(), "did you mean 'cache-size'?");
        assert_eq!(parse("remount").unwrap_err().to_string(), "unknown setting 'remount' in -o");
        let error = parse("endpoint").unwrap_err();
        assert_eq!(error.hint(), "write -o endpoint=VALUE");
    }

    #[test]
    fn ignored_words_are_no_settings() {
        assert!(IGNORED.iter().all(|word| Setting::from_name(word).is_none()));
    }
}
