//! What came of work on a cache, in words.

use std::path::Path;

use crate::cli::cache::job::files;
use crate::cli::output::{self, count, printable};
use crate::fs::upkeep::{EvictReport, LeftOut, PurgeReport, Unpinned, VerifyReport, WarmReport};
use crate::types::ByteSize;

/// Files told one by one; scripts are told more.
const NAMES_MAX: usize = 10;

/// A path in a mount, as users see it.
pub fn place(mountpoint: &Path, inside: &str) -> String {
    let inside = inside.trim_start_matches('/');
    if inside.is_empty() { output::path(mountpoint) } else { output::path(&mountpoint.join(inside)) }
}

/// Whether everything that was asked for is in the cache.
pub fn is_all_here(report: &WarmReport) -> bool {
    report.whole_files == report.files && report.failed.is_empty()
}

/// What `warm` has brought.
pub fn warmed(mountpoint: &Path, report: &WarmReport) -> Vec<String> {
    let (kept, bytes, fetched) =
        (ByteSize(report.kept_bytes), ByteSize(report.bytes), ByteSize(report.fetched_bytes));
    let mut lines = left_out(mountpoint, &report.changed, "left out");
    lines.extend(left_out(mountpoint, &report.no_room, "left out"));
    lines.extend(left_out(mountpoint, &report.failed, "not fetched"));
    if is_all_here(report) {
        let files = count(files(report.files), "file");
        lines.push(format!("{files}, {bytes}, all in the cache; {fetched} fetched for it"));
        return lines;
    }
    let (whole, all) = (report.whole_files, count(files(report.files), "file"));
    lines.push(format!("{kept} of {bytes} kept, {whole} of {all} as a whole; {fetched} fetched for it"));
    lines.push(match &report.not_keeping {
        Some(why) => format!("hint: the cache keeps nothing new at this moment: {}", printable(why)),
        None if !report.failed.is_empty() => "hint: the same command goes on from there".to_owned(),
        None => format!(
            "hint: the cache is limited to {}; mount with a larger --cache-size, or unpin or leave out something",
            ByteSize(report.cache_bytes_max)
        ),
    });
    lines
}

/// What `unpin` has taken back.
pub fn unpinned(mountpoint: &Path, unpinned: &Unpinned) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    lines
        .extend(unpinned.removed.iter().map(|pin| format!("{} is no longer pinned", place(mountpoint, pin))));
    lines.extend(unpinned.held.iter().map(|held| {
        let (path, above) = (place(mountpoint, &held.path), place(mountpoint, &held.why));
        format!("{path} stays pinned, because {above} is; unpin that")
    }));
    lines.extend(unpinned.unknown.iter().map(|path| format!("{} was not pinned", place(mountpoint, path))));
    lines
}

/// What `evict` has taken.
pub fn evicted(mountpoint: &Path, report: &EvictReport) -> Vec<String> {
    let mut lines = left_out(mountpoint, &report.in_use, "kept");
    lines.extend(left_out(mountpoint, &report.pinned, "kept"));
    lines.extend(left_out(mountpoint, &report.changed, "kept"));
    lines.extend(left_out(mountpoint, &report.failed, "kept"));
    let (files, bytes) = (count(files(report.files), "file"), ByteSize(report.bytes));
    lines.push(format!("{files} taken off the disk, {bytes}"));
    if !report.pinned.is_empty() {
        lines.push("hint: add --pinned to take off pinned files too".to_owned());
    }
    lines
}

/// Whether everything could be checked and nothing damaged is left.
pub fn is_good(report: &VerifyReport) -> bool {
    report.is_complete
        && report.removed_chunks == report.damaged_chunks
        && report.removed_objects == report.damaged_objects
}

/// What `verify` has found in a mount's or a volume's cache.
pub fn verified(whose: &str, report: &VerifyReport) -> String {
    let mut text = format!(
        "{whose}: {} checked, {} in {}; ",
        ByteSize(report.bytes),
        count(files(report.chunks), "chunk"),
        count(files(report.objects), "object"),
    );
    let parts = |chunks: u64, objects: u64| {
        let chunks = (chunks > 0).then(|| count(files(chunks), "chunk"));
        let objects = (objects > 0).then(|| count(files(objects), "whole object"));
        chunks.into_iter().chain(objects).collect::<Vec<_>>().join(" and ")
    };
    let damaged = parts(report.damaged_chunks, report.damaged_objects);
    let removed = parts(report.removed_chunks, report.removed_objects);
    text.push_str(&match (damaged.is_empty(), removed.is_empty()) {
        (true, _) => "all good".to_owned(),
        (false, true) => format!("damaged: {damaged}. They are not served; --repair takes them off the disk"),
        (false, false) if damaged == removed => {
            format!("damaged: {damaged}, taken off the disk, to be fetched again when wanted")
        }
        (false, false) => format!("damaged: {damaged}; taken off the disk: {removed}"),
    });
    if !report.is_complete {
        text.push_str("; not everything could be read, see the log");
    }
    text
}

/// What `purge` has taken.
pub fn purged(mountpoint: &Path, report: &PurgeReport) -> Vec<String> {
    let objects = count(files(report.objects), "object");
    let mut line =
        format!("{}: {objects} taken off the disk, {}", output::path(mountpoint), ByteSize(report.bytes));
    for (number, bytes, why) in [
        (report.in_use_objects, report.in_use_bytes, "in use"),
        (report.pinned_objects, report.pinned_bytes, "pinned"),
    ] {
        if number > 0 {
            line.push_str(&format!(
                "; {} ({}) kept, because {why}",
                count(files(number), "object"),
                ByteSize(bytes)
            ));
        }
    }
    let failed = report.failure.as_ref().map(|failure| {
        let objects = count(files(report.failed_objects), "object");
        format!("{objects} could not be removed: {}", printable(failure))
    });
    std::iter::once(line).chain(failed).collect()
}

fn left_out(mountpoint: &Path, files: &LeftOut, what: &str) -> Vec<String> {
    let mut lines: Vec<String> = files
        .named
        .iter()
        .take(NAMES_MAX)
        .map(|file| format!("{} is {what}: {}", place(mountpoint, &file.path), printable(&file.why)))
        .collect();
    let unnamed = files.count - lines.len() as u64;
    if unnamed > 0 {
        lines.push(format!("{unnamed} more are {what}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::upkeep::NamedFile;

    fn mountpoint() -> &'static Path {
        Path::new("/m")
    }

    fn one(path: &str, why: &str) -> LeftOut {
        LeftOut { count: 3, named: vec![NamedFile { path: path.to_owned(), why: why.to_owned() }] }
    }

    #[test]
    fn a_warming_that_brought_all_and_ones_that_did_not() {
        let all =
            WarmReport { files: 2, whole_files: 2, bytes: 2048, kept_bytes: 2048, ..WarmReport::default() };
        assert_eq!(warmed(mountpoint(), &all), ["2 files, 2 KiB, all in the cache; 0 B fetched for it"]);
        let part = WarmReport {
            whole_files: 1,
            kept_bytes: 1024,
            fetched_bytes: 512,
            cache_bytes_max: 1024,
            ..all.clone()
        };
        let lines = warmed(mountpoint(), &part);
        assert_eq!(lines[0], "1 KiB of 2 KiB kept, 1 of 2 files as a whole; 512 B fetched for it");
        assert!(lines[1].contains("limited to 1 KiB"), "{lines:?}");
        let failed = WarmReport { failed: one("a\n", "denied"), changed: one("c", "new"), ..part };
        let lines = warmed(mountpoint(), &failed);
        assert_eq!(
            lines[..4],
            [
                "/m/c is left out: new",
                "2 more are left out",
                "/m/a? is not fetched: denied",
                "2 more are not fetched"
            ]
        );
        assert!(lines[5].contains("goes on"), "{lines:?}");
    }

    #[test]
    fn what_had_to_stay_is_named() {
        let report =
            EvictReport { files: 1, bytes: 1024, pinned: one("p", "it is pinned"), ..EvictReport::default() };
        let lines = evicted(mountpoint(), &report);
        assert_eq!(lines[0], "/m/p is kept: it is pinned");
        assert_eq!(lines[2], "1 file taken off the disk, 1 KiB");
        assert!(lines[3].contains("--pinned"));
        let report = PurgeReport {
            objects: 3,
            in_use_objects: 1,
            in_use_bytes: 5,
            failed_objects: 2,
            failure: Some("no".to_owned()),
            ..PurgeReport::default()
        };
        assert_eq!(
            purged(mountpoint(), &report),
            [
                "/m: 3 objects taken off the disk, 0 B; 1 object (5 B) kept, because in use",
                "2 objects could not be removed: no"
            ]
        );
        let held = vec![NamedFile { path: "a/b".to_owned(), why: "/".to_owned() }];
        let unpinned_report =
            Unpinned { removed: vec!["a/".to_owned()], held, unknown: vec!["x".to_owned()] };
        assert_eq!(
            unpinned(mountpoint(), &unpinned_report),
            [
                "/m/a/ is no longer pinned",
                "/m/a/b stays pinned, because /m is; unpin that",
                "/m/x was not pinned"
            ]
        );
    }

    #[test]
    fn damage_is_told_and_what_became_of_it() {
        let good =
            VerifyReport { objects: 1, chunks: 2, bytes: 2048, is_complete: true, ..VerifyReport::default() };
        assert_eq!(verified("/m", &good), "/m: 2 KiB checked, 2 chunks in 1 object; all good");
        let bad = VerifyReport { damaged_chunks: 1, damaged_objects: 2, ..good };
        assert!(verified("/m", &bad).contains("damaged: 1 chunk and 2 whole objects. They are not served"));
        let mended = VerifyReport { removed_chunks: 1, removed_objects: 2, ..bad };
        assert!(verified("/m", &mended).contains("whole objects, taken off the disk"));
        let half = VerifyReport { removed_objects: 1, ..mended };
        assert!(verified("/m", &half).contains("taken off the disk: 1 chunk and 1 whole object"));
        let unread = VerifyReport { is_complete: false, ..good };
        assert!(verified("/m", &unread).contains("see the log"));
        let is_good_of = [good, bad, mended, half, unread].map(|report| is_good(&report));
        assert_eq!(is_good_of, [true, false, true, false, false]);
    }
}
