//! What can be typed behind `tetherfs fsck`.

use std::path::PathBuf;

use clap::Args;

use crate::cli::args::VolumeFlags;

/// Shown below the help of `tetherfs fsck`.
pub const EXAMPLES: &str = r#"Examples:
  tetherfs fsck s3://photos --endpoint http://nas:9000
  tetherfs fsck ~/.local/state/tetherfs/0123456789abcdef
  tetherfs fsck s3://photos --offline --json
  tetherfs fsck s3://photos --repair

Reads the journal and all that is staged, compares both with their checksums, asks the server what
it has of unfinished uploads, and tells what the next mount does with each file. Without --repair
nothing is changed. With it, what is damaged or unknown is moved to recovered/ in the state
directory, where nothing ever deletes it, and the journal is rewritten without what could not be
read. Damaged data whose upload may have been completed are left to the next mount, which looks.
The exit code is 0 when all is well, 1 when problems were found (also when they were repaired),
3 when the server could not be asked, 5 when the volume is mounted.

With --json:
  {"directory", "url", "is_asked", "not_asked": why, "problems",
   "journal": {"records", "torn_bytes", "damaged": [{"why", "kept_as"}]},
   "files": [{"id", "session", "key", "state", "bytes", "staged_bytes", "since", "damage",
     "next": "send", "resume" (with "parts_there", "parts"), "resume-at" ("offset"), "look-up",
       "done", "conflict", "decide", "interrupted", "set-aside", "aside-already", "too-large" or
       "clean-up",
     "unasked": why, "leftover_uploads"}],
   "moves": [{"from", "to", "is_copied"}], "strays": [{"path", "bytes"}],
   "recovered": as "strays", what was set aside before, "set_aside": what --repair moved}"#;

/// `tetherfs fsck`
#[derive(Debug, Args)]
pub struct FsckArguments {
    /// A state directory, or the volume it is of
    #[arg(value_name = "DIR or URL")]
    pub target: String,
    /// Set aside what is damaged
    #[arg(long)]
    pub repair: bool,
    /// Do not ask the server
    #[arg(long)]
    pub offline: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Read this configuration file instead of the usual ones
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which volume, where it is not noted in the directory.
    #[command(flatten)]
    pub flags: VolumeFlags,
}
