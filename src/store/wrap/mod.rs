//! Stores around a store, one duty each.
//!
//! From the outside in: [`RememberStore`] (which a mount adds), [`RetryStore`] (so that a wait holds no permit), [`LimitStore`], [`MeterStore`] (so that every
//! request sent is counted), and in tests [`FaultStore`] next to the back end.

mod fault;
mod limit;
mod meter;
mod remember;
mod retry;

#[cfg(test)]
mod tests;

pub use fault::{Action, Call, FaultStore, KeyPattern, Rule, When};
pub use limit::{LimitStore, Limits};
pub use meter::MeterStore;
pub use remember::{MetadataMemory, MetadataReach, RememberStore};
pub use retry::{RetryListener, RetryOptions, RetryStore, listening_to_retries, without_retries};
