//! `tetherfs cache`: what is on the local disk, and having it fetched, kept, checked or taken off.

mod args;
pub mod job;
pub mod place;
mod stat;
mod texts;
mod unmounted;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cache::Repair;
use crate::cli::cache::job::{Desk, Interrupts};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, tell};
use crate::control::ClientError;
use crate::fs::upkeep::{EvictReport, Outcome, PurgeReport, Unpinned, VerifyReport, WarmReport, Work};
use crate::types::ByteSize;

pub use args::{CacheAction, CacheArguments, EXAMPLES};
pub use place::{Group, grouped, locate_all};

/// How a result is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Text,
    Json,
}

/// A result and the mount that it is of, for scripts.
#[derive(Debug, Serialize)]
struct OfMount<T> {
    mountpoint: String,
    #[serde(flatten)]
    result: T,
}

/// What came of `pin`.
#[derive(Debug, Serialize)]
struct Pinning {
    /// The pins noted.
    pins: Vec<String>,
    /// What was fetched, unless nothing was to be.
    warmed: Option<WarmReport>,
}

/// A pin, for scripts.
#[derive(Debug, Serialize)]
struct ListedPin {
    pin: String,
    path: PathBuf,
}

/// Runs the command.
pub fn run(action: &CacheAction) -> Result<Exit, Failure> {
    match action {
        CacheAction::Stat { paths, json } => stat::run(paths, form(*json)),
        CacheAction::Warm { paths, json } => warm(paths, form(*json)),
        CacheAction::Pin { paths, no_warm, json } => pin(paths, *no_warm, form(*json)),
        CacheAction::Unpin { paths, all, json } => {
            if *all {
                unpin_all(paths, form(*json))
            } else {
                unpin(paths, form(*json))
            }
        }
        CacheAction::Pins { mountpoint, json } => pins(mountpoint.as_deref(), form(*json)),
        CacheAction::Evict { paths, pinned, json } => evict(paths, *pinned, form(*json)),
        CacheAction::Verify { mountpoint, cache_dir, repair, json } => match cache_dir {
            Some(directory) => {
                let repair = if *repair { Repair::TakeOff } else { Repair::Nothing };
                unmounted::verify(directory, repair, form(*json))
            }
            None => verify(mountpoint.as_deref(), *repair, form(*json)),
        },
        CacheAction::Purge { mountpoint, yes, json } => purge(mountpoint.as_deref(), *yes, form(*json)),
    }
}

fn form(is_json: bool) -> Form {
    if is_json { Form::Json } else { Form::Text }
}

fn warm(paths: &[PathBuf], form: Form) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let mut results = Vec::new();
    for Group { mountpoint, paths } in grouped(locate_all(paths)?) {
        let report = warm_on(&mut Desk::of_mount(&mountpoint)?, paths, &mut interrupts)?;
        if form == Form::Text {
            texts::warmed(&mountpoint, &report).iter().for_each(|line| tell(line));
        }
        results.push(of_mount(&mountpoint, report));
    }
    let is_all = results.iter().all(|warmed| texts::is_all_here(&warmed.result));
    finish(form, &results, is_all)
}

fn warm_on(desk: &mut Desk, paths: Vec<String>, interrupts: &mut Interrupts) -> Result<WarmReport, Failure> {
    match desk.work(Work::Warm { paths }, interrupts)? {
        Outcome::Warmed(report) => Ok(report),
        Outcome::Looked { .. }
        | Outcome::Pinned { .. }
        | Outcome::Evicted(_)
        | Outcome::Verified(_)
        | Outcome::Purged(_) => Err(ClientError::Strange.into()),
    }
}

fn pin(paths: &[PathBuf], no_warm: bool, form: Form) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let mut results = Vec::new();
    for Group { mountpoint, paths } in grouped(locate_all(paths)?) {
        let mut desk = Desk::of_mount(&mountpoint)?;
        let pins = match desk.work(Work::Pin { paths: paths.clone() }, &mut interrupts)? {
            Outcome::Pinned { pins } => pins,
            Outcome::Looked { .. }
            | Outcome::Warmed(_)
            | Outcome::Evicted(_)
            | Outcome::Verified(_)
            | Outcome::Purged(_) => return Err(ClientError::Strange.into()),
        };
        if form == Form::Text {
            pins.iter().for_each(|pin| tell(&format!("{} is pinned", texts::place(&mountpoint, pin))));
        }
        let warmed = if no_warm { None } else { Some(warm_on(&mut desk, paths, &mut interrupts)?) };
        if form == Form::Text {
            let lines = warmed.iter().flat_map(|report| texts::warmed(&mountpoint, report));
            lines.for_each(|line| tell(&line));
        }
        results.push(of_mount(&mountpoint, Pinning { pins, warmed }));
    }
    let is_all = results.iter().filter_map(|pinned| pinned.result.warmed.as_ref()).all(texts::is_all_here);
    finish(form, &results, is_all)
}

fn unpin(paths: &[PathBuf], form: Form) -> Result<Exit, Failure> {
    let mut results = Vec::new();
    for Group { mountpoint, paths } in grouped(locate_all(paths)?) {
        let unpinned = Desk::of_mount(&mountpoint)?.unpin(paths)?;
        if form == Form::Text {
            texts::unpinned(&mountpoint, &unpinned).iter().for_each(|line| tell(line));
        }
        results.push(of_mount(&mountpoint, unpinned));
    }
    let is_done = |unpinned: &Unpinned| unpinned.held.is_empty() && unpinned.unknown.is_empty();
    let is_all = results.iter().all(|unpinned| is_done(&unpinned.result));
    finish(form, &results, is_all)
}

fn unpin_all(mountpoints: &[PathBuf], form: Form) -> Result<Exit, Failure> {
    let mut desks = Vec::new();
    if mountpoints.is_empty() {
        desks = Desk::all(None)?;
    }
    for mountpoint in mountpoints {
        desks.extend(Desk::all(Some(mountpoint))?);
    }
    let mut results = Vec::new();
    for mut desk in desks {
        // Everything is below the root. That it was not pinned itself is no news then.
        let unpinned = Unpinned { unknown: Vec::new(), ..desk.unpin(vec![String::new()])? };
        if form == Form::Text {
            texts::unpinned(&desk.mountpoint, &unpinned).iter().for_each(|line| tell(line));
        }
        results.push(of_mount(&desk.mountpoint, unpinned));
    }
    if form == Form::Text && results.iter().all(|unpinned| unpinned.result.removed.is_empty()) {
        tell("Nothing was pinned.");
    }
    finish(form, &results, true)
}

fn pins(mountpoint: Option<&Path>, form: Form) -> Result<Exit, Failure> {
    let mut results = Vec::new();
    for mut desk in Desk::all(mountpoint)? {
        for pin in desk.pins()? {
            let path = desk.mountpoint.join(pin.trim_start_matches('/'));
            results.push(of_mount(&desk.mountpoint, ListedPin { pin, path }));
        }
    }
    if form == Form::Text {
        let lines: Vec<String> = results.iter().map(|listed| output::path(&listed.result.path)).collect();
        let nothing = || "Nothing is pinned.".to_owned();
        output::print(&if lines.is_empty() { nothing() } else { lines.join("\n") });
    }
    finish(form, &results, true)
}

fn evict(paths: &[PathBuf], pinned_too: bool, form: Form) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let mut results = Vec::new();
    for Group { mountpoint, paths } in grouped(locate_all(paths)?) {
        let work = Work::Evict { paths, pinned_too };
        let report = match Desk::of_mount(&mountpoint)?.work(work, &mut interrupts)? {
            Outcome::Evicted(report) => report,
            Outcome::Looked { .. }
            | Outcome::Pinned { .. }
            | Outcome::Warmed(_)
            | Outcome::Verified(_)
            | Outcome::Purged(_) => return Err(ClientError::Strange.into()),
        };
        if form == Form::Text {
            texts::evicted(&mountpoint, &report).iter().for_each(|line| tell(line));
        }
        results.push(of_mount(&mountpoint, report));
    }
    let is_done = |report: &EvictReport| {
        [&report.in_use, &report.pinned, &report.changed, &report.failed].iter().all(|files| files.is_empty())
    };
    let is_all = results.iter().all(|evicted| is_done(&evicted.result));
    finish(form, &results, is_all)
}

fn verify(mountpoint: Option<&Path>, repair: bool, form: Form) -> Result<Exit, Failure> {
    let mut interrupts = Interrupts::catch()?;
    let mut results: Vec<OfMount<VerifyReport>> = Vec::new();
    for mut desk in some(Desk::all(mountpoint)?)? {
        let report = match desk.work(Work::Verify { repair }, &mut interrupts)? {
            Outcome::Verified(report) => report,
            Outcome::Looked { .. }
            | Outcome::Pinned { .. }
            | Outcome::Warmed(_)
            | Outcome::Evicted(_)
            | Outcome::Purged(_) => return Err(ClientError::Strange.into()),
        };
        if form == Form::Text {
            output::print(&texts::verified(&output::path(&desk.mountpoint), &report));
        }
        results.push(of_mount(&desk.mountpoint, report));
    }
    let is_good = results.iter().all(|verified| texts::is_good(&verified.result));
    finish(form, &results, is_good)
}

fn purge(mountpoint: Option<&Path>, is_agreed: bool, form: Form) -> Result<Exit, Failure> {
    let mut desks = some(Desk::all(mountpoint)?)?;
    if !is_agreed {
        let mut bytes = 0;
        for desk in &mut desks {
            bytes += desk.numbers()?.bytes;
        }
        let mounts: Vec<String> = desks.iter().map(|desk| output::path(&desk.mountpoint)).collect();
        let what = format!("The cache of {} has {}", mounts.join(" and of "), ByteSize(bytes));
        output::confirm(&what, "Take it off the disk?", "to empty it")?;
    }
    let mut interrupts = Interrupts::catch()?;
    let mut results: Vec<OfMount<PurgeReport>> = Vec::new();
    for mut desk in desks {
        let report = match desk.work(Work::Purge, &mut interrupts)? {
            Outcome::Purged(report) => report,
            Outcome::Looked { .. }
            | Outcome::Pinned { .. }
            | Outcome::Warmed(_)
            | Outcome::Evicted(_)
            | Outcome::Verified(_) => return Err(ClientError::Strange.into()),
        };
        if form == Form::Text {
            texts::purged(&desk.mountpoint, &report).iter().for_each(|line| tell(line));
        }
        results.push(of_mount(&desk.mountpoint, report));
    }
    let is_done = results.iter().all(|purged| purged.result.failed_objects == 0);
    finish(form, &results, is_done)
}

/// Mounts, at least one.
fn some(desks: Vec<Desk>) -> Result<Vec<Desk>, Failure> {
    if desks.is_empty() {
        return Err(Failure::new(Exit::Mountpoint, "nothing is mounted")
            .hint("mount the bucket whose cache is meant, with the same --cache-dir"));
    }
    Ok(desks)
}

fn of_mount<T>(mountpoint: &Path, result: T) -> OfMount<T> {
    OfMount { mountpoint: mountpoint.to_string_lossy().into_owned(), result }
}

fn finish<T: Serialize>(form: Form, results: &[T], is_all_well: bool) -> Result<Exit, Failure> {
    if form == Form::Json {
        output::print_json(&results)?;
    }
    Ok(if is_all_well { Exit::Ok } else { Exit::Failure })
}
