//! Tests from outside: the real binary, real mounts, real servers, real crashes.
//!
//! They need root (or a usable `/dev/fuse`) and what `scripts/test.sh` installs. Each test has a bucket, a state directory
//! and a mountpoint of its own, and takes everything down again, also when it fails.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

mod ahead;
mod attributes;
mod cache_commands;
mod coherence;
mod conflict;
mod conformance;
mod crash;
mod directories;
mod download;
mod errors;
mod fsck;
mod inherited;
mod kills;
mod lengths;
mod links;
mod listings;
mod model;
mod mount;
mod names;
mod names_odd;
mod operator;
mod passthrough;
mod programs;
mod ranges;
mod reading;
mod recovery;
mod refresh;
mod unchanged;
mod unlinked;
mod uploads_commands;
mod users;
mod versions;
mod writing;
mod xattrs;
