//! `tetherfs cache verify --cache-dir`: checks a cache directory whose volumes are not mounted.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::cache::{self, ChunkCache, Repair};
use crate::cli::cache::job::{Bar, Interrupts};
use crate::cli::cache::{Form, finish, texts};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::fs::upkeep::{Progress, Stage, VerifyReport};
use crate::observe::Metrics;
use crate::types::ByteSize;

/// What was found in the cache of one volume, for scripts.
#[derive(Debug, Serialize)]
struct OfVolume {
    volume: String,
    #[serde(flatten)]
    report: VerifyReport,
}

/// Checks all volumes below a cache directory. One that is mounted belongs to its mount, and is an error.
pub fn verify(directory: &Path, repair: Repair, form: Form) -> Result<Exit, Failure> {
    let shown = output::path(directory);
    let volumes = cache::volumes(directory).map_err(|error| {
        Failure::new(Exit::Usage, format!("cannot read the cache directory '{shown}': {error}"))
    })?;
    if volumes.is_empty() {
        return Err(Failure::new(Exit::Usage, format!("there is no cache in '{shown}'"))
            .hint("name a directory that mounts were given with --cache-dir"));
    }
    let mut interrupts = Interrupts::catch()?;
    let mut results = Vec::new();
    for volume in volumes {
        let report = verify_volume(directory, &volume, repair, &mut interrupts)?;
        if form == Form::Text {
            output::print(&texts::verified(&output::printable(&volume), &report));
        }
        results.push(OfVolume { volume, report });
    }
    let is_good = results.iter().all(|verified| texts::is_good(&verified.report));
    finish(form, &results, is_good)
}

fn verify_volume(
    directory: &Path,
    volume: &str,
    repair: Repair,
    interrupts: &mut Interrupts,
) -> Result<VerifyReport, Failure> {
    let failed = |why: String| Failure::new(Exit::Failure, format!("{}: {why}", output::printable(volume)));
    // Without a limit, so that opening it evicts nothing. How chunks are cut is told by each object's own map.
    let options = cache::Options {
        directory: directory.to_owned(),
        bytes_max: ByteSize(u64::MAX),
        free_bytes_min: ByteSize(0),
        chunk_bytes: ByteSize::mib(1),
    };
    let cache = ChunkCache::open(volume, options, Arc::new(Metrics::default()))
        .map_err(|error| failed(error.to_string()))?;
    if let Some(why) = cache.report().not_keeping {
        return Err(failed(why).hint("when it is mounted, name the mountpoint instead of --cache-dir"));
    }
    let mut bar = Bar::new("Checking");
    let mut is_stopped = false;
    let found = cache.verify(repair, &mut |so_far| {
        bar.show(&Progress {
            stage: Stage::Working,
            files: so_far.objects_done,
            files_total: so_far.objects,
            bytes: so_far.bytes_done,
            bytes_total: so_far.bytes_done,
        });
        is_stopped |= interrupts.has_come();
        if is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    bar.clear();
    if is_stopped {
        return Err(failed("it was stopped before it was done".to_owned()));
    }
    Ok(found.into())
}
