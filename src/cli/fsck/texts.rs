//! What `tetherfs fsck` found, for people.

use std::path::{Path, PathBuf};

use crate::cli::fsck::Asking;
use crate::cli::output::{self, age, count, printable, table};
use crate::cli::pending::phase_word;
use crate::types::{ByteSize, UnixTime};
use crate::write::{FileReport, JournalReport, Prospect, StateReport, StrayReport};

/// Everything that was found.
pub fn describe(directory: &Path, url: Option<&str>, report: &StateReport, now: UnixTime) -> String {
    let of = url.map(|url| format!(" of {}", printable(url))).unwrap_or_default();
    let mut lines = vec![format!("State directory {}{of}", output::path(directory))];
    lines.push(format!("  journal    {}", journal(&report.journal)));
    let staged = report.files.iter().map(|file| file.staged_bytes).sum();
    lines.push(format!("  staged     {}, {}", count(report.files.len(), "file"), ByteSize(staged)));
    if !report.recovered.is_empty() {
        lines.push(format!("  recovered  {} set aside before", files(&report.recovered)));
    }
    if !report.files.is_empty() {
        let rows: Vec<Vec<String>> = report.files.iter().map(|file| row(file, now)).collect();
        lines.push(format!("\n{}", table(&["ID", "STATE", "SIZE", "AGE", "NAME", "NEXT MOUNT"], &rows)));
    }
    for one in &report.moves {
        let (from, to) = (printable(one.from.as_str()), printable(one.to.as_str()));
        let how_far = if one.is_copied { "it is there, the old name is to be removed" } else { "it goes on" };
        lines.push(format!("Rename of '{from}' to '{to}': {how_far}"));
    }
    lines.join("\n")
}

/// Whether the server was asked, if not.
pub fn asking(asking: &Asking) -> Option<String> {
    match asking {
        Asking::Done => None,
        Asking::Left(why) => Some(format!("note: the server was not asked: {}", printable(why))),
        Asking::Failed(why) => Some(format!("note: the server could not be asked: {}", printable(why))),
    }
}

/// What is not as it should be, and where it has been put.
pub fn verdict(report: &StateReport, set_aside: Option<&[PathBuf]>) -> Vec<String> {
    if report.problems() == 0 {
        return vec!["No problems found.".to_owned()];
    }
    let mut lines = vec![format!("{} found:", count(report.problems(), "problem"))];
    lines.extend(report.journal.damaged.iter().map(|part| format!("  journal: {}", printable(&part.why))));
    for file in report.files.iter().filter(|file| file.is_problem()) {
        let why = file.damage.as_deref().unwrap_or_default();
        lines.push(format!("  '{}': {}", printable(file.key.as_str()), printable(why)));
    }
    lines
        .extend(report.strays.iter().map(|stray| format!("  {} is in no record", output::path(&stray.path))));
    match set_aside {
        Some([]) => {}
        Some(paths) => {
            lines.push("Set aside, for you to look at:".to_owned());
            lines.extend(paths.iter().map(|path| format!("  {}", output::path(path))));
        }
        None => lines.push("--repair sets it aside under recovered/; so does the next mount.".to_owned()),
    }
    let is_in_doubt = |file: &FileReport| file.is_problem() && file.prospect == Prospect::LookUp;
    if report.files.iter().any(is_in_doubt) {
        lines.push(
            "What may be in the bucket already is left to the next mount, which looks first.".to_owned(),
        );
    }
    lines
}

fn journal(journal: &JournalReport) -> String {
    let mut text = count(journal.records, "good record");
    if !journal.damaged.is_empty() {
        text.push_str(&format!(", {}", count(journal.damaged.len(), "damaged part")));
    }
    if journal.torn_bytes > 0 {
        text.push_str(&format!(", {} that a crash cut short", ByteSize(journal.torn_bytes as u64)));
    }
    text
}

fn files(files: &[StrayReport]) -> String {
    let bytes = files.iter().map(|file| file.bytes).sum();
    format!("{}, {}", count(files.len(), "file"), ByteSize(bytes))
}

fn row(file: &FileReport, now: UnixTime) -> Vec<String> {
    vec![
        file.session.to_string(),
        file.state.map_or("finished", phase_word).to_owned(),
        ByteSize(file.bytes).to_string(),
        age(file.since, now),
        printable(file.key.as_str()),
        next(file),
    ]
}

/// What becomes of a file.
fn next(file: &FileReport) -> String {
    let mut text = match file.prospect {
        Prospect::Send => "is sent".to_owned(),
        Prospect::Resume { parts_there, parts } if parts_there == parts => {
            format!("is completed: all {parts} parts are there")
        }
        Prospect::Resume { parts_there, parts } => {
            format!("goes on: {parts_there} of {} there", count(parts, "part"))
        }
        Prospect::ResumeAt { offset } => format!("goes on after {}", ByteSize(offset)),
        Prospect::LookUp => "is looked for in the bucket: its commit was not answered".to_owned(),
        Prospect::Done => "is in the bucket already".to_owned(),
        Prospect::Conflict => "meets another version: --on-conflict decides".to_owned(),
        Prospect::Decide => "waits for 'tetherfs uploads resolve', or another --on-conflict".to_owned(),
        Prospect::Interrupted => "waits for 'tetherfs uploads commit' or 'discard'".to_owned(),
        Prospect::SetAside => "is damaged: set aside under recovered/".to_owned(),
        Prospect::AsideAlready => "is set aside; 'tetherfs uploads discard' forgets it".to_owned(),
        Prospect::TooLarge => "is refused: larger than the store takes".to_owned(),
        Prospect::CleanUp => "is cleaned up".to_owned(),
    };
    if file.leftover_uploads > 0 {
        text.push_str(&format!(", {} given up", count(file.leftover_uploads, "upload")));
    }
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::types::{Key, SessionId};
    use crate::write::{MoveReport, SessionPhase, UnreadableReport};

    fn file(id: u64, prospect: Prospect) -> FileReport {
        FileReport {
            session: SessionId(id),
            key: Key::new(&format!("dir/{id}\u{7}")).unwrap(),
            state: Some(SessionPhase::Sending),
            bytes: 100 << 20,
            staged_bytes: 50 << 20,
            since: UnixTime::from_secs(1000),
            damage: None,
            prospect,
            unasked: None,
            leftover_uploads: 0,
        }
    }

    fn report(files: Vec<FileReport>) -> StateReport {
        let journal = JournalReport { records: 12, torn_bytes: 0, damaged: Vec::new() };
        StateReport { journal, files, moves: Vec::new(), strays: Vec::new(), recovered: Vec::new() }
    }

    fn stray(name: &str) -> StrayReport {
        StrayReport { path: name.into(), bytes: 2048 }
    }

    #[test]
    fn a_clean_directory() {
        let mut good = report(vec![FileReport {
            leftover_uploads: 2,
            ..file(10, Prospect::Resume { parts_there: 5, parts: 10 })
        }]);
        let (from, to) = (Key::new("a").unwrap(), Key::new("b").unwrap());
        good.moves.push(MoveReport { from, to, is_copied: false });
        let text = describe(Path::new("/s"), Some("s3://b"), &good, UnixTime::from_secs(1060));
        assert_eq!(
            text,
            "State directory /s of s3://b\n  journal    12 good records\n  staged     1 file, 50 MiB\n\n\
             ID                STATE    SIZE     AGE    NAME     NEXT MOUNT\n\
             000000000000000a  sending  100 MiB  1m 0s  dir/10?  goes on: 5 of 10 parts there, 2 uploads given up\n\
             Rename of 'a' to 'b': it goes on"
        );
        assert_eq!(verdict(&good, None), ["No problems found."]);
    }

    #[test]
    fn problems_are_named_and_where_they_went() {
        let damage = Some("1 places".to_owned());
        let mut bad = report(vec![
            FileReport { damage: damage.clone(), ..file(1, Prospect::SetAside) },
            // What is in the bucket already is not needed here.
            FileReport { damage, ..file(2, Prospect::Done) },
        ]);
        bad.journal.torn_bytes = 7;
        bad.journal.damaged.push(UnreadableReport { why: "record 3".to_owned(), kept_as: "/r".into() });
        bad.strays.push(stray("/s/staging/x"));
        bad.recovered.push(stray("/s/recovered/y"));
        let text = describe(Path::new("/s"), None, &bad, UnixTime::from_secs(1060));
        assert!(text.contains("12 good records, 1 damaged part, 7 B that a crash cut short"), "{text}");
        assert!(text.contains("recovered  1 file, 2 KiB set aside before"), "{text}");
        let lines = verdict(&bad, None).join("\n");
        assert_eq!(
            lines,
            "3 problems found:\n  journal: record 3\n  'dir/1?': 1 places\n  /s/staging/x is in no record\n\
             --repair sets it aside under recovered/; so does the next mount."
        );
        let lines = verdict(&bad, Some(&["/s/recovered/x".into()])).join("\n");
        assert!(lines.ends_with("Set aside, for you to look at:\n  /s/recovered/x"), "{lines}");
        let damage = Some("1 places".to_owned());
        let in_doubt = report(vec![FileReport { damage, ..file(1, Prospect::LookUp) }]);
        let lines = verdict(&in_doubt, Some(&[])).join("\n");
        assert!(!lines.contains("Set aside") && lines.ends_with("which looks first."), "{lines}");
    }

    const ALL: [Prospect; 13] = [
        Prospect::Send,
        Prospect::Resume { parts_there: 1, parts: 2 },
        Prospect::Resume { parts_there: 2, parts: 2 },
        Prospect::ResumeAt { offset: 5 },
        Prospect::LookUp,
        Prospect::Done,
        Prospect::Conflict,
        Prospect::Decide,
        Prospect::Interrupted,
        Prospect::SetAside,
        Prospect::AsideAlready,
        Prospect::TooLarge,
        Prospect::CleanUp,
    ];

    /// Something of everything that can be found.
    pub fn everything() -> StateReport {
        let (from, to) = (Key::new("a").unwrap(), Key::new("b").unwrap());
        let damaged = vec![UnreadableReport { why: "record 3".to_owned(), kept_as: "/r".into() }];
        StateReport {
            journal: JournalReport { records: 12, torn_bytes: 7, damaged },
            files: ALL.iter().map(|prospect| file(1, *prospect)).collect(),
            moves: vec![MoveReport { from, to, is_copied: true }],
            strays: vec![stray("/s/staging/x")],
            recovered: vec![stray("/s/recovered/y")],
        }
    }

    #[test]
    fn every_prospect_is_another_text() {
        let texts: std::collections::BTreeSet<String> =
            ALL.iter().map(|prospect| next(&file(1, *prospect))).collect();
        assert_eq!(texts.len(), ALL.len());
    }
}
