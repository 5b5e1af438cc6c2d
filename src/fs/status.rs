//! A plain picture of a running mount.

use serde::{Deserialize, Serialize};

use crate::fs::kernel::PassthroughStatus;
use crate::observe::MetricsSnapshot;
use crate::write::{SessionStatus, TreeStatus};

/// What `tetherfs status` shows of the inside.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Everything that is not in the bucket yet.
    pub sessions: Vec<SessionStatus>,
    /// Every directory that is being moved.
    #[serde(default)]
    pub moves: Vec<TreeStatus>,
    /// All counters and gauges.
    pub metrics: MetricsSnapshot,
    /// What the kernel does for this mount.
    #[serde(default)]
    pub kernel: KernelStatus,
}

/// What the kernel does for a mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelStatus {
    /// Whether completely cached files are handed to the kernel.
    pub passthrough: PassthroughStatus,
    /// The most it reads ahead, in KiB; `None` where that cannot be found out.
    pub read_ahead_kib: Option<u32>,
}

impl Default for KernelStatus {
    /// What is known of a daemon that does not tell.
    fn default() -> KernelStatus {
        let reason = "the daemon does not tell".to_owned();
        KernelStatus { passthrough: PassthroughStatus::Off { reason }, read_ahead_kib: None }
    }
}
