//! The shape of the house as a test: who may import whom, how long a file may be, where a word may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may import. The order is bottom-up: no room may name one below it in this table.
const ROOMS: [(&str, &[&str]); 15] = [
    ("types", &[]),
    ("observe", &[]),
    ("durable", &["types", "observe"]),
    ("store", &["types", "observe"]),
    ("cache", &["types", "observe", "durable"]),
    ("namespace", &["types", "observe", "store"]),
    ("read", &["types", "observe", "store", "cache"]),
    ("write", &["types", "observe", "store", "durable"]),
    ("fs", &["types", "observe", "namespace", "read", "write"]),
    ("fuse", &["types", "observe", "fs"]),
    ("control", &["types", "observe", "fs"]),
    ("bucket", &["types", "observe"]),
    (
        "config",
        &[
            "types",
            "observe",
            "durable",
            "store",
            "cache",
            "namespace",
            "read",
            "write",
            "fs",
            "fuse",
            "control",
        ],
    ),
    (
        "mount",
        &[
            "types",
            "observe",
            "durable",
            "store",
            "cache",
            "namespace",
            "read",
            "write",
            "fs",
            "fuse",
            "control",
            "config",
        ],
    ),
    (
        "cli",
        &[
            "types",
            "observe",
            "durable",
            "store",
            "cache",
            "namespace",
            "read",
            "write",
            "fs",
            "fuse",
            "control",
            "bucket",
            "config",
            "mount",
        ],
    ),
];

/// Words and the only places under `src/` where they may stand.
const WORD_HOMES: [(&str, &[&str]); 6] = [
    ("fuser::", &["fuse/"]),
    ("reqwest::", &["store/http/"]),
    ("tokio::spawn", &["observe/task.rs"]),
    ("thread::spawn", &["observe/task.rs"]),
    ("env::var", &["config/", "store/http/"]),
    ("s3s::", &["bucket/"]),
];

const LINES_MAX: usize = 600;
const FILES_A_FOLDER_MAX: usize = 12;
const FORBIDDEN_NAMES: [&str; 5] = ["util", "utils", "common", "helpers", "misc"];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is part of the checkout") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn room_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).ok()?;
    let mut parts = inside.components();
    let first = parts.next()?.as_os_str().to_str()?.to_owned();
    parts.next().map(|_| first)
}

/// The rooms that a text names after `crate::`, alone or in braces.
fn imports(text: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut word = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => rooms.push(std::mem::take(&mut word)),
                    _ if depth == 0 => word.push(c),
                    _ => {}
                }
            }
            rooms.push(word);
        } else {
            rooms.push(rest.to_owned());
        }
    }
    let name = |text: &String| {
        text.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    rooms.iter().map(name).filter(|n| !n.is_empty()).collect()
}

fn import_faults(room: &str, text: &str) -> Vec<String> {
    let allowed = ROOMS.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed);
    let Some(allowed) = allowed else {
        return vec![format!("room {room} is not in the table")];
    };
    imports(text)
        .into_iter()
        .filter(|import| ROOMS.iter().any(|(name, _)| name == import))
        .filter(|import| import != room && !allowed.contains(&import.as_str()))
        .map(|import| format!("{room} may not import {import}"))
        .collect()
}

/// Code before its test module, with comments cut off.
fn shipped(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    code.lines().map(|line| line.split("//").next().unwrap_or("")).collect::<Vec<_>>().join("\n")
}

#[test]
fn rooms_import_only_downward() {
    let mut faults = Vec::new();
    for path in sources(&root().join("src")) {
        if let Some(room) = room_of(&path) {
            let text = shipped(&fs::read_to_string(&path).unwrap());
            faults.extend(
                import_faults(&room, &text).into_iter().map(|fault| format!("{}: {fault}", path.display())),
            );
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_table_itself_points_downward() {
    for (at, (room, allowed)) in ROOMS.iter().enumerate() {
        for import in *allowed {
            let below = ROOMS.iter().position(|(name, _)| name == import);
            assert!(below.is_some_and(|below| below < at), "{room} imports {import}, which is not below it");
        }
    }
}

#[test]
fn an_upward_import_is_caught() {
    assert_eq!(import_faults("read", "use crate::write::Writer;"), ["read may not import write"]);
    assert_eq!(import_faults("read", "use crate::{types::Key, fs};"), ["read may not import fs"]);
    assert_eq!(import_faults("store", "let x = crate::cache::open();"), ["store may not import cache"]);
    assert!(import_faults("fs", "use crate::write::{Writer, Event};\nuse crate::types;").is_empty());
}

#[test]
fn words_stay_at_home() {
    let mut faults = Vec::new();
    for path in sources(&root().join("src")) {
        let inside = path.strip_prefix(root().join("src")).unwrap().to_str().unwrap().to_owned();
        let text = shipped(&fs::read_to_string(&path).unwrap());
        for (word, homes) in WORD_HOMES {
            if text.contains(word) && !homes.iter().any(|home| inside.starts_with(home)) {
                faults.push(format!("{inside}: `{word}` belongs in {homes:?}"));
            }
        }
        for banned in ["use crate::*", "#[ignore", "todo!(", "unimplemented!("] {
            if text.contains(banned) {
                faults.push(format!("{inside}: `{banned}` has no place here"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_are_short_headed_and_named() {
    let mut faults = Vec::new();
    let all = sources(&root().join("src")).into_iter().chain(sources(&root().join("tests")));
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        if lines > LINES_MAX {
            faults.push(format!("{}: {lines} lines, {LINES_MAX} at most", path.display()));
        }
        if !text.starts_with("//!") {
            faults.push(format!("{}: no `//!` line that says what the file is for", path.display()));
        }
        if let Some(line) = text.lines().position(|line| !line.is_ascii()) {
            faults.push(format!("{}:{}: not ASCII", path.display(), line + 1));
        }
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if FORBIDDEN_NAMES.contains(&stem) {
            faults.push(format!("{}: name the subject", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn folders_are_small() {
    let mut folders: Vec<PathBuf> =
        sources(&root().join("src")).into_iter().filter_map(|p| p.parent().map(Path::to_path_buf)).collect();
    folders.sort();
    let largest = folders.chunk_by(|a, b| a == b).map(|files| (files.len(), files[0].clone())).max().unwrap();
    assert!(largest.0 <= FILES_A_FOLDER_MAX, "{} holds {} files", largest.1.display(), largest.0);
}

#[test]
fn the_top_level_is_bare() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "tests",
        "scripts",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "target",
    ];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let hidden = name.starts_with('.');
        assert!(hidden || allowed.contains(&name.as_str()), "{name} does not belong at the top level");
    }
}
