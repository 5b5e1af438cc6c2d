//! What can be typed behind `tetherfs cache`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `tetherfs cache`
#[derive(Debug, Args)]
pub struct CacheArguments {
    /// What about it.
    #[command(subcommand)]
    pub action: CacheAction,
}

/// Shown below the help of `tetherfs cache`.
pub const EXAMPLES: &str = "Examples:
  tetherfs cache stat                        the caches of all mounts of this user
  tetherfs cache warm ~/photos/2024          fetch ahead what is missing
  tetherfs cache pin ~/photos/best           fetch it and keep it here, also after a remount
  tetherfs cache verify --repair             check every chunk, drop damaged ones

Files are named by their paths in a mount; a directory stands for all files below it. The versions
that the bucket has now are meant. Files with changes that are not there yet are left alone.
With --json the result is printed as JSON, while progress and errors go to standard error. Sizes
are in bytes. Fields may be added in later releases.";

const STAT_EXAMPLES: &str = r#"Examples:
  tetherfs cache stat                        in numbers, of each mount of this user
  tetherfs cache stat ~/photos               of the mount on ~/photos
  tetherfs cache stat ~/photos/2024/*        how much of each of these is here

With --json:
  {"caches": [{"mountpoint", "url", "is_keeping", "not_keeping", "directory", "bytes",
    "bytes_max", "free_bytes_min", "free_bytes", "objects", "pins", "pinned_objects",
    "pinned_bytes", "hits", "misses", "hit_rate", "damaged", "bypassed", "evicted_bytes",
    "failures", "is_scanned"}],
   "paths": [{"path", "mountpoint", "is_directory", "files", "bytes", "cached_bytes",
    "whole_files", "pinned_files", "changed_files", "is_whole", "is_pinned"}]}"#;

const WARM_EXAMPLES: &str = r#"Examples:
  tetherfs cache warm ~/photos/2024
  tetherfs cache warm --json FILE

Only what is missing is fetched, of those files that fit as a whole. After Ctrl-C, or a crash, the
same command goes on where it was.
The exit code is 0 when all of it is in the cache, 1 when it does not fit or something failed.

With --json:
  [{"mountpoint", "files", "whole_files", "bytes", "kept_bytes", "fetched_bytes",
    "cache_bytes_max", "not_keeping", "changed": {"count", "named": [{"path", "why"}]},
    "no_room", "failed": as "changed"}]"#;

const PIN_EXAMPLES: &str = r#"Examples:
  tetherfs cache pin ~/photos/best           all below it, new files and versions too
  tetherfs cache pin --no-warm ~/photos/best keep what is read of it, fetch nothing now

What is pinned is never evicted to make room for other files. Pins go by name, and last until
'unpin'. The exit code is that of 'warm'.

With --json:
  [{"mountpoint", "pins", "warmed": what 'warm' has, or null}]"#;

const UNPIN_EXAMPLES: &str = r#"Examples:
  tetherfs cache unpin ~/photos/best         also what is pinned below it
  tetherfs cache unpin --all                 on all mounts of this user

The files stay in the cache until others need the room. The exit code is 1 when something was not
pinned, or stays so because a directory above it is.

With --json:
  [{"mountpoint", "removed", "held": [{"path", "why"}], "unknown"}]"#;

const PINS_EXAMPLES: &str = r#"With --json:
  [{"mountpoint", "pin", "path"}]"#;

const EVICT_EXAMPLES: &str = r#"Examples:
  tetherfs cache evict ~/photos/2019

Nothing is lost: it is fetched again when it is read. The exit code is 1 when something had to stay.

With --json:
  [{"mountpoint", "files", "bytes", "in_use": {"count", "named": [{"path", "why"}]},
    "pinned", "changed", "failed": as "in_use"}]"#;

const VERIFY_EXAMPLES: &str = r#"Examples:
  tetherfs cache verify
  tetherfs cache verify ~/photos --repair
  tetherfs cache verify --cache-dir /var/cache/tetherfs     while nothing is mounted

Nobody is ever served a damaged chunk; this finds those that nobody has asked for. The exit code is
0 when all are good or damaged ones were taken off the disk, 1 when damaged ones are left.

With --json:
  [{"mountpoint" (or "volume"), "objects", "chunks", "bytes", "damaged_objects",
    "damaged_chunks", "removed_objects", "removed_chunks", "is_complete"}]"#;

const PURGE_EXAMPLES: &str = r#"Examples:
  tetherfs cache purge ~/photos

Nothing is lost: what is read is fetched again. What programs have open, and what is pinned, stays.

With --json:
  [{"mountpoint", "objects", "bytes", "in_use_objects", "in_use_bytes", "pinned_objects",
    "pinned_bytes", "failed_objects", "failure"}]"#;

/// The commands below `tetherfs cache`.
#[derive(Debug, Subcommand)]
pub enum CacheAction {
    /// Tell how full the cache is, or how much of files is in it
    #[command(after_help = STAT_EXAMPLES)]
    Stat {
        /// Mountpoints, or files and directories in a mount; without any, all mounts of this user
        #[arg(value_name = "PATH")]
        paths: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Fetch what is missing of files, so that they can be read without the network
    #[command(after_help = WARM_EXAMPLES)]
    Warm {
        /// Files and directories in a mount
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Keep files in the cache, whatever else needs the room, and fetch what is missing of them
    #[command(after_help = PIN_EXAMPLES)]
    Pin {
        /// Files and directories in a mount
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// Fetch nothing now
        #[arg(long)]
        no_warm: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let pinned files make room for others again
    #[command(after_help = UNPIN_EXAMPLES)]
    Unpin {
        /// Files and directories in a mount; they need not exist any more. With --all, mountpoints
        #[arg(value_name = "PATH", required_unless_present = "all")]
        paths: Vec<PathBuf>,
        /// Everything that is pinned
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List what is pinned
    #[command(after_help = PINS_EXAMPLES)]
    Pins {
        /// Only on this mount
        #[arg(value_name = "MOUNTPOINT")]
        mountpoint: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Take files off the local disk
    #[command(after_help = EVICT_EXAMPLES)]
    Evict {
        /// Files and directories in a mount
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// Also those that are pinned; their pins stay
        #[arg(long)]
        pinned: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check every chunk in the cache against its checksum
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify {
        /// Only of this mount; without it, of all mounts of this user
        #[arg(value_name = "MOUNTPOINT")]
        mountpoint: Option<PathBuf>,
        /// Of what is kept in this cache directory, by whatever volume; none of them may be mounted
        #[arg(long, value_name = "DIR", conflicts_with = "mountpoint")]
        cache_dir: Option<PathBuf>,
        /// Take damaged chunks off the disk; they are fetched again when they are wanted
        #[arg(long)]
        repair: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Empty the cache
    #[command(after_help = PURGE_EXAMPLES)]
    Purge {
        /// Only of this mount; without it, of all mounts of this user
        #[arg(value_name = "MOUNTPOINT")]
        mountpoint: Option<PathBuf>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::fs::upkeep::{CacheNumbers, EvictReport, PurgeReport, Unpinned, VerifyReport, WarmReport};

    #[test]
    fn the_help_names_every_field_of_the_json() {
        let json = |value: serde_json::Result<Value>| value.unwrap();
        for (help, value) in [
            (STAT_EXAMPLES, json(serde_json::to_value(CacheNumbers::default()))),
            (WARM_EXAMPLES, json(serde_json::to_value(WarmReport::default()))),
            (UNPIN_EXAMPLES, json(serde_json::to_value(Unpinned::default()))),
            (EVICT_EXAMPLES, json(serde_json::to_value(EvictReport::default()))),
            (VERIFY_EXAMPLES, json(serde_json::to_value(VerifyReport::default()))),
            (PURGE_EXAMPLES, json(serde_json::to_value(PurgeReport::default()))),
        ] {
            let fields = value.as_object().unwrap();
            assert!(fields.len() > 2);
            for field in fields.keys() {
                assert!(help.contains(&format!("\"{field}\"")), "{field} is not in\n{help}");
            }
        }
    }
}
