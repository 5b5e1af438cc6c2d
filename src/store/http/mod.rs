//! What back ends that speak HTTP share; the only place that says `reqwest`.
//!
//! Contract: one [`client::Request`] is sent once. Redirects are answers, bodies are never decoded, and no request has
//! a total time-out: it is given up when it makes no progress for the stall time-out. A failure says whether the server
//! may have acted ([`client::Stage`]); what that means for an operation is decided in one place, [`client::Failure::kind`].

pub mod client;
pub mod credentials;
pub mod headers;
pub mod profile;
pub mod range;
pub mod refusal;
pub mod sigv4;
pub mod transfer;
pub mod xml;
