//! Every setting of a mount, once: its name, how it is written, its default, its help.
//!
//! Flags, `-o`, environment variables and the configuration file all take their names from this table.

use std::fmt;

/// How the value of a setting is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueKind {
    /// On when named; `true` or `false` where a value is written.
    Switch,
    /// Free text, checked later; holds what the help calls it.
    Text(&'static str),
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// The heading a setting is listed under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Where the data are.
    Store,
    /// Where local files go and how large they may be.
    Disk,
    /// When what is promised.
    Behaviour,
    /// Who may do what.
    Access,
    /// Speed against memory.
    Tuning,
    /// What is written down.
    Log,
}

impl Group {
    /// The heading in the help.
    pub fn heading(self) -> &'static str {
        match self {
            Group::Store => "Store",
            Group::Disk => "Local disk",
            Group::Behaviour => "Behaviour",
            Group::Access => "Access",
            Group::Tuning => "Tuning",
            Group::Log => "Log",
        }
    }
}

/// What is to be known of a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spec {
    /// Its name in kebab case: `cache-size` is `--cache-size`, `-o cache_size`, `TETHERFS_CACHE_SIZE`.
    pub name: &'static str,
    /// Where the help lists it.
    pub group: Group,
    /// How its value is written.
    pub value: ValueKind,
    /// The value when nobody says anything, written as a user would.
    pub default: Option<&'static str>,
    /// One or two lines for the help.
    pub help: &'static str,
}

macro_rules! settings {
    ($($variant:ident = $name:literal, $group:ident, $value:expr, $default:expr, $help:literal;)*) => {
        /// A setting of a mount.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Setting {
            $(#[doc = $help] $variant,)*
        }

        impl Setting {
            /// All of them, in the order of the help.
            pub const ALL: &'static [Setting] = &[$(Setting::$variant,)*];

            /// What is to be known of it.
            pub fn spec(self) -> Spec {
                match self {
                    $(Setting::$variant => Spec {
                        name: $name, group: Group::$group, value: $value, default: $default, help: $help,
                    },)*
                }
            }
        }
    };
}

use ValueKind::{Choice, Switch, Text};

settings! {
    Endpoint = "endpoint", Store, Text("URL"), None,
        "Server of an S3-compatible store, such as http://127.0.0.1:9000; without it, Amazon S3";
    Region = "region", Store, Text("NAME"), None, "Region to sign requests for; found out when not given";
    Profile = "profile", Store, Text("NAME"), None, "Profile of ~/.aws/credentials and ~/.aws/config";
    Anonymous = "anonymous", Store, Switch, None, "Do not sign requests: for public buckets";
    PathStyle = "path-style", Store, Switch, None,
        "Name the bucket in the path of requests; =false: in the host name. Without it: path for an --endpoint";
    CacheDir = "cache-dir", Disk, Text("DIR"), None, "Where downloaded chunks are kept";
    CacheSize = "cache-size", Disk, Text("SIZE"), Some("10GiB"), "Most bytes of downloaded chunks; 0 keeps none";
    CacheFree = "cache-free", Disk, Text("SIZE"), Some("1GiB"),
        "Bytes that the cache leaves free on its disk for others; what is cached longest goes when less is free";
    StateDir = "state-dir", Disk, Text("DIR"), None,
        "Where changes wait until they are in the bucket; must be on a disk that survives a reboot";
    StagingSize = "staging-size", Disk, Text("SIZE"), Some("50GiB"),
        "Most bytes of changes that wait; beyond it, writing fails with 'no space left'";
    Commit = "commit", Behaviour, Choice(&["close", "background", "remote"]), Some("close"),
        "close: close() returns when the file is in the bucket, fsync() when it is safe on the local disk. \
         background: both when it is safe on the local disk. remote: both when it is in the bucket";
    OnConflict = "on-conflict", Behaviour, Choice(&["keep-both", "fail", "overwrite"]), Some("keep-both"),
        "When somebody else changed the file meanwhile. keep-both: ours becomes NAME.conflict-HOST-TIME. \
         fail: ours stays staged. overwrite: ours replaces theirs";
    MetadataTtl = "metadata-ttl", Behaviour, Text("TIME"), Some("1s"),
        "How long names, sizes and times are believed before the store is asked again";
    PosixMetadata = "posix-metadata", Behaviour, Choice(&["known", "all"]), Some("known"),
        "Modes, owners, times and links in listings, which do not tell them. known: of objects that were written or \
         looked at here. all: each other object is asked about, once";
    CloseTimeout = "close-timeout", Behaviour, Text("TIME"), Some("5m"),
        "How long close() waits without progress before it fails; the upload goes on behind";
    ReadTimeout = "read-timeout", Behaviour, Text("TIME"), Some("1m"),
        "How long read() keeps trying without progress before it fails";
    StallTimeout = "stall-timeout", Behaviour, Text("TIME"), Some("30s"),
        "How long a request may be silent before it counts as broken and is taken up again";
    DrainTimeout = "drain-timeout", Behaviour, Text("TIME"), Some("60s"),
        "How long SIGTERM and Ctrl-C wait for uploads; what is left goes on at the next mount";
    ReadOnly = "read-only", Access, Switch, None, "Refuse every change";
    AllowOther = "allow-other", Access, Switch, None,
        "Let other users in (who is not root needs user_allow_other in /etc/fuse.conf)";
    Uid = "uid", Access, Text("ID"), None, "Owner of files that carry none; the mounting user when not given";
    Gid = "gid", Access, Text("ID"), None, "Group of files that carry none; the mounting user's when not given";
    Umask = "umask", Access, Text("OCTAL"), Some("022"), "Permission bits taken from files that carry none";
    FileMode = "file-mode", Access, Text("OCTAL"), None,
        "Permission bits of files that carry none, such as 640; what --umask leaves of 666 when not given";
    DirMode = "dir-mode", Access, Text("OCTAL"), None,
        "Permission bits of directories that carry none; what --umask leaves of 777 when not given";
    Passthrough = "passthrough", Tuning, Switch, Some("true"),
        "Let the kernel read completely cached files by itself, where it can and this is root; =false: never";
    Memory = "memory", Tuning, Text("SIZE"), Some("512MiB"), "Most memory for data being read and written";
    Prefetch = "prefetch", Tuning, Text("SIZE"), None,
        "Farthest that a sequential read is fetched ahead; a quarter of --memory, at most 128MiB, when not given";
    Requests = "requests", Tuning, Text("N"), Some("32"), "Most requests in flight";
    RequestSize = "request-size", Tuning, Text("SIZE"), Some("8MiB"), "Bytes a request when reading sequentially";
    PartSize = "part-size", Tuning, Text("SIZE"), Some("8MiB"),
        "Bytes of the first parts of an upload; they grow with the file";
    ChunkSize = "chunk-size", Tuning, Text("SIZE"), Some("256KiB"), "Bytes a chunk of the cache, a power of two";
    LogLevel = "log-level", Log, Choice(&["off", "error", "warn", "info", "debug", "trace"]), Some("info"),
        "Least severe lines written";
    LogFile = "log-file", Log, Text("FILE"), None,
        "Where log lines go; otherwise to the terminal with --foreground, to tetherfs.log in the state directory without";
}

impl Setting {
    /// Its name in kebab case.
    pub fn name(self) -> &'static str {
        self.spec().name
    }

    /// The setting of this name; `-` and `_` are one.
    pub fn from_name(name: &str) -> Option<Setting> {
        let kebab = name.replace('_', "-");
        Setting::ALL.iter().copied().find(|setting| setting.name() == kebab)
    }

    /// The environment variable that sets it.
    pub fn variable(self) -> String {
        format!("TETHERFS_{}", self.name().replace('-', "_").to_uppercase())
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_in_both_spellings() {
        for &setting in Setting::ALL {
            assert_eq!(Setting::from_name(setting.name()), Some(setting));
            assert_eq!(Setting::from_name(&setting.name().replace('-', "_")), Some(setting));
        }
        assert_eq!(Setting::from_name("cache"), None);
        assert_eq!(Setting::CacheSize.variable(), "TETHERFS_CACHE_SIZE");
    }

    #[test]
    fn defaults_of_choices_are_among_them() {
        for spec in Setting::ALL.iter().map(|s| s.spec()) {
            if let (Choice(words), Some(default)) = (spec.value, spec.default) {
                assert!(words.contains(&default), "{}", spec.name);
            }
        }
    }
}
