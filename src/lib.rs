//! # tetherfs
//!
//! A FUSE filesystem over remote objects that never loses a byte it acknowledged and never transfers a byte twice.
//! One object is one file under its own name; there is no private format in the bucket.
//!
//! ## Bird's-eye view
//!
//! The kernel asks in *inodes*, the store answers in *objects*. [`fs`] is the only room that speaks both. It does so by
//! composing two pipelines that do not know each other: [`read`] (object and range to bytes, through the [`cache`]) and
//! [`write`](mod@write) (staging, plan, session, object, through the journal of [`durable`]).
//!
//! ```text
//!  kernel --- fuse --- fs --- namespace ------------------ store --- bucket server
//!                       |---- read ---- cache              store
//!                       `---- write --- durable            store
//! ```
//!
//! * `ObjectId` (key, etag, size) names *which bytes*. Another version is another id, so cached data never need
//!   invalidation and a reader never mixes versions.
//! * An upload is a fold over journaled events. Recovery is the run itself, replayed; there is no second code path.
//! * Calls go down with plain values. News comes up as return values, or as events on a channel the upper room owns.
//!
//! ## The rooms, in reading order
//!
//! Each room's `mod.rs` is its contract. A room imports only rooms on lower floors, and only those named;
//! `tests/tidy.rs` holds the table.
//!
//! | floor | room | purpose |
//! |---|---|---|
//! | 0 | [`types`], [`observe`] | words; counters, logs and tasks |
//! | 1 | [`durable`], [`store`] | what survives a crash; the object store and its back ends |
//! | 2 | [`cache`], [`namespace`] | chunks on disk; names, inodes, attributes |
//! | 3 | [`read`], [`write`](mod@write) | bytes out of the bucket; changes into it |
//! | 4 | [`fs`] | file operations |
//! | 5 | [`fuse`], [`control`], [`bucket`] | doors to the kernel and the operator; the embedded server |
//! | 6, 7, 8 | [`config`], [`mount`], [`cli`] | settings; assembly; commands |
//!
//! ## What is absent
//!
//! * `types` waits for nothing. Plans, windows, sessions, trees and framing have no await and no clock.
//! * `read` and `write` have never heard of an inode, nor of each other. `cache` has never heard of a store.
//! * `fuse` decides nothing; errno is decided in one match, in `fs::error`.
//! * No callback waits on the network. No lock is held across a reply or a notification, and none across an await on
//!   the network but two that say so in `fs`: the gate of one file, and the turns of those who change names. Reads and
//!   writes take neither.
//! * No byte is served from disk without its checksum having been checked since the file was last changed by anybody and
//!   the machine booted; no content of an open inode changes but by our own writes; no object is completed unconditionally
//!   where the server knows conditions, unless the user asked for it (`--on-conflict overwrite`).
//! * Nothing acknowledged is deleted but by the user's word.

pub mod bucket;
pub mod cache;
pub mod cli;
pub mod config;
pub mod control;
pub mod durable;
pub mod fs;
pub mod fuse;
pub mod mount;
pub mod namespace;
pub mod observe;
pub mod read;
pub mod store;
pub mod types;
pub mod write;
