//! What an operator sees of a running mount: counters, logs, named tasks.
//!
//! No room keeps a number of its own for others to read, prints, or spawns by other means.

mod log;
mod metrics;
pub mod task;

pub use log::{LogError, LogOptions, init as init_log};
pub use metrics::{Counter, Gauge, Metrics, MetricsSnapshot};
