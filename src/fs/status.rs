//! A plain picture of a running mount.

use serde::{Deserialize, Serialize};

use crate::observe::MetricsSnapshot;
use crate::write::SessionStatus;

/// What `tetherfs status` shows of the inside.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Everything that is not in the bucket yet.
    pub sessions: Vec<SessionStatus>,
    /// All counters and gauges.
    pub metrics: MetricsSnapshot,
}
