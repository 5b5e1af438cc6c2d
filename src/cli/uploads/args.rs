//! What can be typed behind `tetherfs uploads`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::config::parse_time;
use crate::types::SessionId;

/// `tetherfs uploads`
#[derive(Debug, Args)]
pub struct UploadsArguments {
    /// What about them.
    #[command(subcommand)]
    pub action: UploadsAction,
}

/// Shown below the help of `tetherfs uploads`.
pub const EXAMPLES: &str = "Examples:
  tetherfs uploads list
  tetherfs uploads wait ~/photos             until everything is in the bucket
  tetherfs uploads retry --all               after an outage: try now, not after a pause
  tetherfs uploads resolve 2a --keep-both    settle a conflict of --on-conflict fail
  tetherfs uploads commit 2a                 take an interrupted one for complete
  tetherfs uploads discard 2a 2b             give some up; their data are lost

The numbers are those of 'uploads list'. With --json the result is printed as JSON, while progress
and errors go to standard error. Sizes are in bytes. Fields may be added in later releases.";

const LIST_EXAMPLES: &str = r#"With --json:
  [{"id", "mountpoint", "session", "key", "state", "bytes", "sent_bytes", "since", "last_error"}]"#;

const WAIT_EXAMPLES: &str = r#"Examples:
  tetherfs uploads wait                      for all mounts of this user
  tetherfs uploads wait ~/photos --timeout 10m

Waits for what programs were told is safe, until it is in the bucket or cannot go on by itself
(stuck, or a conflict to be settled). Files that are still being written are not waited for:
'tetherfs sync' does that. Ctrl-C ends the wait and nothing else.
The exit code is 0 when everything is in the bucket, 6 when uploads are pending.

With --json:
  [{"mountpoint", "is_done", "uploads": as of 'list', those that are pending}]"#;

const RETRY_EXAMPLES: &str = r#"Examples:
  tetherfs uploads retry 2a
  tetherfs uploads retry --all

Uploads that fail are tried again by themselves, for ever, after pauses of up to 30 seconds, or five
minutes where the server refuses. This ends the pause; 'wait' waits for the outcome.

With --json:
  [{"mountpoint", "uploads"}]: how many are tried on each mount"#;

const COMMIT_EXAMPLES: &str = r#"Examples:
  tetherfs uploads commit 2a

With --json: as of 'list'"#;

const DISCARD_EXAMPLES: &str = r#"Examples:
  tetherfs uploads discard 2a 2b
  tetherfs uploads discard --yes 2a          without being asked

The file shows again what the bucket has.

With --json: as of 'list', what was given up"#;

const RESOLVE_EXAMPLES: &str = r#"Examples:
  tetherfs uploads resolve 2a --keep-both    ours goes to NAME.conflict-HOST-TIME
  tetherfs uploads resolve 2a --overwrite    ours replaces what is there, whatever it is by then
  tetherfs uploads resolve 2a --discard      theirs stays, ours is deleted

For what 'uploads list' calls conflicted: on a mount with --on-conflict fail, somebody else's
version is in the bucket and ours waits. It goes on at once; 'uploads wait' waits for it.

With --json:
  {"id", "mountpoint", "key": where it goes, or null when it was discarded}"#;

/// The commands below `tetherfs uploads`.
#[derive(Debug, Subcommand)]
pub enum UploadsAction {
    /// List what is not in the bucket yet
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Only of the mount on this directory
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Wait until everything that programs were told is safe is in the bucket
    #[command(after_help = WAIT_EXAMPLES)]
    Wait {
        /// Only for the mount on this directory
        #[arg(value_name = "DIR")]
        directory: Option<PathBuf>,
        /// Longest wait, such as 30s or 5m; without it, as long as anything goes on
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        timeout: Option<Duration>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Try pending and stuck uploads now
    #[command(after_help = RETRY_EXAMPLES)]
    Retry {
        /// The numbers that 'uploads list' shows
        #[arg(value_name = "ID", value_parser = parse_session, required_unless_present = "all")]
        sessions: Vec<SessionId>,
        /// All that are pending
        #[arg(long, conflicts_with = "sessions")]
        all: bool,
        /// The mount they belong to, when several have this number
        #[arg(long, value_name = "DIR")]
        mount: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Upload what a file held when the daemon died in the middle of writing it
    #[command(after_help = COMMIT_EXAMPLES)]
    Commit {
        /// The number that 'uploads list' shows for an interrupted file
        #[arg(value_name = "ID", value_parser = parse_session)]
        session: SessionId,
        /// The mount it belongs to, when several have this number
        #[arg(long, value_name = "DIR")]
        mount: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give uploads up and delete their data
    #[command(after_help = DISCARD_EXAMPLES)]
    Discard {
        /// The numbers that 'uploads list' shows
        #[arg(value_name = "ID", value_parser = parse_session, required = true)]
        sessions: Vec<SessionId>,
        /// The mount they belong to, when several have this number
        #[arg(long, value_name = "DIR")]
        mount: Option<PathBuf>,
        /// Do not ask
        #[arg(long)]
        yes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Decide about a conflict that was left to you
    #[command(after_help = RESOLVE_EXAMPLES)]
    Resolve {
        /// The number that 'uploads list' shows for a conflicted upload
        #[arg(value_name = "ID", value_parser = parse_session)]
        session: SessionId,
        /// How.
        #[command(flatten)]
        how: How,
        /// The mount it belongs to, when several have this number
        #[arg(long, value_name = "DIR")]
        mount: Option<PathBuf>,
        /// Do not ask before discarding
        #[arg(long)]
        yes: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// How a conflict is settled.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct How {
    /// Upload ours beside theirs, as NAME.conflict-HOST-TIME
    #[arg(long)]
    pub keep_both: bool,
    /// Replace theirs by ours
    #[arg(long)]
    pub overwrite: bool,
    /// Delete ours
    #[arg(long)]
    pub discard: bool,
}

fn parse_session(text: &str) -> Result<SessionId, String> {
    u64::from_str_radix(text, 16).map(SessionId).map_err(|_| {
        "an upload's number has hexadecimal digits, as 'tetherfs uploads list' shows it".to_owned()
    })
}
