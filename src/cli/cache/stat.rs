//! `tetherfs cache stat`: caches in numbers, and how much of files is in them.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::cache::Form;
use crate::cli::cache::job::{Desk, Interrupts, files};
use crate::cli::cache::place::{Group, grouped, locate_all};
use crate::cli::exit::{Exit, Failure};
use crate::cli::output::{self, count, percent, printable};
use crate::control::ClientError;
use crate::fs::upkeep::{CacheNumbers, Outcome, PathReport, Work};
use crate::types::ByteSize;

/// Everything that was asked for, for scripts.
#[derive(Debug, Serialize)]
struct Stat {
    caches: Vec<CacheStat>,
    paths: Vec<PathStat>,
}

/// A cache, for scripts.
#[derive(Debug, Serialize)]
struct CacheStat {
    mountpoint: String,
    url: String,
    #[serde(flatten)]
    numbers: CacheNumbers,
    /// Of 1; `None` before anything was read.
    hit_rate: Option<f64>,
}

/// A path, for scripts.
#[derive(Debug, Serialize)]
struct PathStat {
    path: PathBuf,
    mountpoint: PathBuf,
    is_whole: bool,
    is_pinned: bool,
    #[serde(flatten)]
    numbers: PathNumbers,
}

/// The numbers of a path without its text.
#[derive(Debug, Serialize)]
struct PathNumbers {
    is_directory: bool,
    files: u64,
    bytes: u64,
    cached_bytes: u64,
    whole_files: u64,
    pinned_files: u64,
    changed_files: u64,
}

/// Runs the command.
pub fn run(paths: &[PathBuf], form: Form) -> Result<Exit, Failure> {
    let stat = look(paths)?;
    match form {
        Form::Json => output::print_json(&stat)?,
        Form::Text => output::print(&text(&stat)),
    }
    Ok(Exit::Ok)
}

fn look(paths: &[PathBuf]) -> Result<Stat, Failure> {
    let mut stat = Stat { caches: Vec::new(), paths: Vec::new() };
    if paths.is_empty() {
        for mut desk in Desk::all(None)? {
            stat.caches.push(cache_stat(&mut desk)?);
        }
        return Ok(stat);
    }
    let mut interrupts = Interrupts::catch()?;
    for Group { mountpoint, mut paths } in grouped(locate_all(paths)?) {
        let mut desk = Desk::of_mount(&mountpoint)?;
        if paths.iter().any(String::is_empty) {
            stat.caches.push(cache_stat(&mut desk)?);
            paths.retain(|path| !path.is_empty());
        }
        if paths.is_empty() {
            continue;
        }
        match desk.work(Work::Stat { paths }, &mut interrupts)? {
            Outcome::Looked { paths } => {
                stat.paths.extend(paths.into_iter().map(|report| path_stat(&mountpoint, report)));
            }
            Outcome::Pinned { .. }
            | Outcome::Warmed(_)
            | Outcome::Evicted(_)
            | Outcome::Verified(_)
            | Outcome::Purged(_) => return Err(ClientError::Strange.into()),
        }
    }
    Ok(stat)
}

fn cache_stat(desk: &mut Desk) -> Result<CacheStat, Failure> {
    let numbers = desk.numbers()?;
    let hello = desk.client().hello();
    let asked = numbers.hits + numbers.misses;
    Ok(CacheStat {
        mountpoint: hello.mountpoint.clone(),
        url: hello.url.clone(),
        hit_rate: (asked > 0).then(|| numbers.hits as f64 / asked as f64),
        numbers,
    })
}

fn path_stat(mountpoint: &Path, report: PathReport) -> PathStat {
    let PathReport {
        path,
        is_directory,
        files,
        bytes,
        cached_bytes,
        whole_files,
        pinned_files,
        changed_files,
    } = report;
    PathStat {
        path: mountpoint.join(path),
        mountpoint: mountpoint.to_owned(),
        is_whole: whole_files == files,
        is_pinned: pinned_files == files && files > 0,
        numbers: PathNumbers {
            is_directory,
            files,
            bytes,
            cached_bytes,
            whole_files,
            pinned_files,
            changed_files,
        },
    }
}

fn text(stat: &Stat) -> String {
    let mut parts: Vec<String> = stat.caches.iter().map(cache_text).collect();
    if !stat.paths.is_empty() {
        let rows: Vec<Vec<String>> = stat.paths.iter().map(row).collect();
        parts.push(output::table(&["SIZE", "CACHED", "", "STATE", "PATH"], &rows));
    }
    if parts.is_empty() {
        parts.push("Nothing is mounted.".to_owned());
    }
    parts.join("\n\n")
}

fn cache_text(cache: &CacheStat) -> String {
    let mut lines = vec![format!("{}  {}", printable(&cache.mountpoint), printable(&cache.url))];
    let numbers = &cache.numbers;
    if let Some(reason) = &numbers.not_keeping {
        lines.push(format!("  keeps nothing new: {}", printable(reason)));
    }
    if numbers.directory.as_os_str().is_empty() {
        return lines.join("\n");
    }
    lines.push(format!("  folder     {}", output::path(&numbers.directory)));
    let so_far = if numbers.is_scanned { "" } else { ", still counting" };
    lines.push(format!(
        "  used       {} of {} ({} %), {}{so_far}",
        ByteSize(numbers.bytes),
        ByteSize(numbers.bytes_max),
        percent(numbers.bytes, numbers.bytes_max),
        count(files(numbers.objects), "object"),
    ));
    lines.push(match numbers.pins {
        0 => "  pinned     nothing".to_owned(),
        pins => format!(
            "  pinned     {} in {} of {}",
            ByteSize(numbers.pinned_bytes),
            count(files(numbers.pinned_objects), "object"),
            count(files(pins), "pin"),
        ),
    });
    lines.push(match numbers.hits + numbers.misses {
        0 => "  served     nothing yet".to_owned(),
        asked => format!(
            "  served     {} % of the chunks read ({} of {asked})",
            percent(numbers.hits, asked),
            numbers.hits
        ),
    });
    let trouble: Vec<String> = [
        (numbers.damaged, "damaged chunk"),
        (numbers.bypassed, "chunk not kept"),
        (numbers.failures, "error of the disk"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{number} x {what}"))
    .collect();
    if !trouble.is_empty() {
        lines.push(format!("  trouble    {}", trouble.join(", ")));
    }
    lines.join("\n")
}

fn row(stat: &PathStat) -> Vec<String> {
    let numbers = &stat.numbers;
    vec![
        ByteSize(numbers.bytes).to_string(),
        ByteSize(numbers.cached_bytes).to_string(),
        format!("{} %", percent(numbers.cached_bytes, numbers.bytes)),
        state(stat),
        output::path(&stat.path),
    ]
}

fn state(stat: &PathStat) -> String {
    let numbers = &stat.numbers;
    let mut words = Vec::new();
    if numbers.is_directory {
        words.push(format!("{} of {} whole", numbers.whole_files, count(files(numbers.files), "file")));
        if numbers.pinned_files > 0 {
            words.push(format!("{} pinned", numbers.pinned_files));
        }
        if numbers.changed_files > 0 {
            words.push(format!("{} changed", numbers.changed_files));
        }
        return words.join(", ");
    }
    words.push(match (numbers.changed_files, stat.is_whole, numbers.cached_bytes) {
        (0, true, _) => "whole".to_owned(),
        (0, false, 0) => "none".to_owned(),
        (0, false, _) => "part".to_owned(),
        (_, _, _) => "changed".to_owned(),
    });
    if stat.is_pinned {
        words.push("pinned".to_owned());
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(path: &str) -> PathReport {
        PathReport { path: path.to_owned(), files: 1, bytes: 2048, ..PathReport::default() }
    }

    #[test]
    fn a_cache_in_a_few_lines() {
        let numbers = CacheNumbers {
            is_keeping: true,
            directory: "/c/ab".into(),
            bytes: 1 << 20,
            bytes_max: 4 << 20,
            objects: 2,
            pins: 1,
            pinned_objects: 1,
            pinned_bytes: 512,
            hits: 3,
            misses: 1,
            bypassed: 2,
            is_scanned: true,
            ..CacheNumbers::default()
        };
        let mut cache = CacheStat {
            mountpoint: "/m".to_owned(),
            url: "s3://b".to_owned(),
            numbers,
            hit_rate: Some(0.75),
        };
        assert_eq!(
            cache_text(&cache),
            "/m  s3://b\n  folder     /c/ab\n  used       1 MiB of 4 MiB (25 %), 2 objects\n  \
             pinned     512 B in 1 object of 1 pin\n  served     75 % of the chunks read (3 of 4)\n  \
             trouble    2 x chunk not kept"
        );
        let json = serde_json::to_value(&cache).unwrap();
        assert_eq!((json["mountpoint"].as_str(), json["bytes"].as_u64()), (Some("/m"), Some(1 << 20)));
        assert_eq!(json["hit_rate"].as_f64(), Some(0.75));
        cache.numbers = CacheNumbers { not_keeping: Some("why".to_owned()), ..CacheNumbers::default() };
        assert_eq!(cache_text(&cache), "/m  s3://b\n  keeps nothing new: why");
    }

    #[test]
    fn files_in_a_table() {
        let whole = PathReport { cached_bytes: 2048, whole_files: 1, pinned_files: 1, ..report("a") };
        let part = PathReport { cached_bytes: 1024, ..report("b") };
        let changed = PathReport { bytes: 0, changed_files: 1, ..report("c") };
        let directory = PathReport { is_directory: true, files: 3, whole_files: 2, ..report("d") };
        let paths = [whole, part, changed, report("e"), directory];
        let stat = Stat {
            caches: Vec::new(),
            paths: paths.into_iter().map(|path| path_stat(Path::new("/m"), path)).collect(),
        };
        let text = text(&stat);
        let lines: Vec<&str> = text.lines().collect();
        let has = |line: usize, words: &str| assert!(lines[line].contains(words), "{}", lines[line]);
        has(1, "100 %");
        has(1, "whole, pinned");
        has(2, "part");
        has(3, "changed");
        has(4, "none");
        has(5, "2 of 3 files whole");
        let json = serde_json::to_value(&stat).unwrap();
        assert_eq!(
            (&json["paths"][0]["is_whole"], &json["paths"][0]["path"]),
            (&true.into(), &"/m/a".into())
        );
    }
}
