//! Random operations through a mount, and changes of a second client behind it, against the same in memory: files by handle
//! and by path, directories, links, modes and times. Each answer is compared, now and then everything there is, and the
//! mount ends in between, in order and by a kill.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use fastrand::Rng;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use crate::support::{Rig, expect_same, seed, wait_for};

const STEPS: usize = 1200;
/// Names a directory has at most, so that they meet again and again.
const NAMES: usize = 8;
const DIRECTORIES_MAX: usize = 8;
const HANDLES_MAX: usize = 4;
const BYTES_MAX: usize = 200_000;
/// A file that is sent in parts, now and then.
const LARGE_BYTES: usize = 6 << 20;
const FILE_MODE: u32 = 0o644;
const DIRECTORY_MODE: u32 = 0o755;
const LIMIT: Duration = Duration::from_secs(60);

/// What a name leads to.
#[derive(Clone)]
enum Node {
    /// The file of this number.
    File(usize),
    /// With its mode.
    Directory(u32),
    /// With its target.
    Link(String),
}

/// A file, also one that has lost its name.
#[derive(Clone)]
struct Content {
    bytes: Vec<u8>,
    mode: u32,
    /// Seconds, if they have been set since the last change of the bytes.
    mtime: Option<i64>,
    /// Made by opening it, and nothing else: its close is not waited for.
    is_untouched: bool,
}

struct Handle {
    file: File,
    content: usize,
}

struct Model {
    rig: Rig,
    random: Rng,
    nodes: BTreeMap<String, Node>,
    contents: Vec<Content>,
    handles: Vec<Handle>,
    /// The last steps, to be told when something is not as it should be.
    told: Vec<String>,
}

impl Drop for Model {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.told.len().saturating_sub(40);
            eprintln!("the last of {} steps:\n{}", self.told.len(), self.told[from..].join("\n"));
        }
    }
}

impl Model {
    fn new(commit: &str, seed: u64) -> Model {
        let rig = Rig::mounted(&[commit, "--metadata-ttl=0", "--part-size=5MiB"]);
        let random = Rng::with_seed(seed);
        Model {
            rig,
            random,
            nodes: BTreeMap::new(),
            contents: Vec::new(),
            handles: Vec::new(),
            told: Vec::new(),
        }
    }

    fn run(mut self) {
        for _ in 0..STEPS {
            self.step();
        }
        self.remount();
        self.compare();
        self.rig.unmount();
        let bucket = self.rig.bucket.all_keys();
        for key in bucket.iter().filter(|key| !key.ends_with('/')) {
            match self.nodes.get(key) {
                Some(Node::File(number)) => {
                    expect_same(key, 0, &self.rig.bucket.read(key), &self.contents[*number].bytes);
                }
                Some(Node::Link(_)) => {}
                Some(Node::Directory(_)) | None => panic!("{key} is in the bucket alone"),
            }
        }
        assert_eq!(self.rig.bucket.pending_uploads(), 0);
    }

    fn step(&mut self) {
        match self.random.u8(0..100) {
            0..15 => self.write_anew(),
            15..25 => self.open(),
            25..39 => self.write_through(),
            39..43 => self.cut_through(),
            43..50 => self.append(),
            50..56 => self.read_through(),
            56..60 => self.sync(),
            60..67 => self.close_one(),
            67..73 => self.rename(),
            73..75 => self.rename_directory(),
            75..80 => self.remove(),
            80..84 => self.make_directory(),
            84..86 => self.remove_directory(),
            86..88 => self.link(),
            88..91 => self.set_mode(),
            91..93 => self.set_time(),
            93..95 => self.put_by_others(),
            95 => self.delete_by_others(),
            96 => self.remount(),
            97 => self.kill(),
            _ => self.compare(),
        }
    }

    fn tell(&mut self, text: String) {
        self.told.push(text);
    }

    fn path(&self, key: &str) -> PathBuf {
        self.rig.path(key)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = match self.random.u8(..) {
            0 => LARGE_BYTES + self.random.usize(..1000),
            1..16 => 0,
            _ => self.random.usize(..BYTES_MAX),
        };
        let first = self.random.u8(..);
        (0..len).map(|at| first.wrapping_add((at / 7) as u8)).collect()
    }

    /// A name, taken or not, in a directory that is there.
    fn any_key(&mut self) -> String {
        let directories: Vec<&String> = self
            .nodes
            .iter()
            .filter_map(|(key, node)| matches!(node, Node::Directory(_)).then_some(key))
            .collect();
        let at = self.random.usize(0..=directories.len());
        let name = self.random.usize(..NAMES);
        directories.get(at).map_or(format!("n{name}"), |directory| format!("{directory}/n{name}"))
    }

    fn any(&mut self, is_wanted: impl Fn(&Node) -> bool) -> Option<(String, Node)> {
        let all: Vec<_> = self.nodes.iter().filter(|(_, node)| is_wanted(node)).collect();
        let (key, node) = self.random.choice(all)?;
        Some((key.clone(), node.clone()))
    }

    fn any_file(&mut self) -> Option<(String, usize)> {
        match self.any(|node| matches!(node, Node::File(_)))? {
            (key, Node::File(number)) => Some((key, number)),
            (_, Node::Directory(_) | Node::Link(_)) => None,
        }
    }

    fn any_handle(&mut self) -> Option<usize> {
        (!self.handles.is_empty()).then(|| self.random.usize(..self.handles.len()))
    }

    fn new_file(&mut self, key: &str, bytes: Vec<u8>) -> usize {
        self.contents.push(Content { bytes, mode: FILE_MODE, mtime: None, is_untouched: false });
        let number = self.contents.len() - 1;
        self.nodes.insert(key.to_owned(), Node::File(number));
        number
    }

    fn changed(&mut self, number: usize) -> &mut Vec<u8> {
        self.contents[number].mtime = None;
        self.contents[number].is_untouched = false;
        &mut self.contents[number].bytes
    }

    fn write_anew(&mut self) {
        let (key, bytes) = (self.any_key(), self.bytes());
        self.tell(format!("write {key} anew, {} bytes", bytes.len()));
        match self.nodes.get(&key).cloned() {
            None => {
                fs::write(self.path(&key), &bytes).unwrap();
                if bytes.is_empty() {
                    // Made, and nothing else: its close is not waited for.
                    self.wait_until_settled();
                }
                self.new_file(&key, bytes);
            }
            Some(Node::File(number)) => {
                fs::write(self.path(&key), &bytes).unwrap();
                *self.changed(number) = bytes;
            }
            Some(Node::Directory(_)) => {
                let error = fs::write(self.path(&key), &bytes).unwrap_err();
                assert_eq!(error.raw_os_error(), Some(libc::EISDIR));
            }
            Some(Node::Link(_)) => {}
        }
    }

    fn open(&mut self) {
        if self.handles.len() == HANDLES_MAX {
            return;
        }
        let key = self.any_key();
        self.tell(format!("open {key}"));
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        let content = match self.nodes.get(&key).cloned() {
            None => {
                options.create_new(true);
                let number = self.new_file(&key, Vec::new());
                self.contents[number].is_untouched = true;
                number
            }
            Some(Node::File(number)) => {
                let again = OpenOptions::new().write(true).create_new(true).open(self.path(&key));
                assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EEXIST));
                number
            }
            Some(Node::Directory(_) | Node::Link(_)) => return,
        };
        self.tell(format!("it is file {content}"));
        let file = options.open(self.path(&key)).unwrap();
        self.handles.push(Handle { file, content });
    }

    fn write_through(&mut self) {
        let Some(at) = self.any_handle() else { return };
        let number = self.handles[at].content;
        let mut bytes = self.bytes();
        bytes.truncate(self.random.usize(1..20_000));
        let offset = self.random.usize(..=self.contents[number].bytes.len() + 5000);
        self.tell(format!("write {} bytes into file {number} at {offset}", bytes.len()));
        self.handles[at].file.write_all_at(&bytes, offset as u64).unwrap();
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        let content = self.changed(number);
        content.resize(content.len().max(end), 0);
        content[offset..end].copy_from_slice(&bytes);
    }

    fn cut_through(&mut self) {
        let Some(at) = self.any_handle() else { return };
        let number = self.handles[at].content;
        let len = self.random.usize(..=self.contents[number].bytes.len() + 5000);
        self.tell(format!("cut file {number} to {len}"));
        self.handles[at].file.set_len(len as u64).unwrap();
        self.changed(number).resize(len, 0);
    }

    fn append(&mut self) {
        let Some((key, number)) = self.any_file() else { return };
        let mut bytes = self.bytes();
        bytes.truncate(10_000);
        self.tell(format!("append {} bytes to {key}, file {number}", bytes.len()));
        OpenOptions::new().append(true).open(self.path(&key)).unwrap().write_all(&bytes).unwrap();
        if !bytes.is_empty() {
            self.changed(number).extend(bytes);
        }
    }

    fn read_through(&mut self) {
        let Some(at) = self.any_handle() else { return };
        let Handle { file, content } = &self.handles[at];
        let bytes = &self.contents[*content].bytes;
        let from = self.random.usize(..=bytes.len());
        let mut seen = vec![0; (bytes.len() - from).min(50_000)];
        let read = file.read_exact_at(&mut seen, from as u64);
        let is_named =
            self.nodes.values().any(|node| matches!(node, Node::File(number) if number == content));
        if !is_named && read.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ESTALE)) {
            // Of an object that is gone there is what was cached and what was written.
            return;
        }
        read.unwrap();
        expect_same(&format!("file {content}"), from as u64, &seen, &bytes[from..from + seen.len()]);
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64, "file {content}");
    }

    fn sync(&mut self) {
        let Some(at) = self.any_handle() else { return };
        self.tell(format!("sync file {}", self.handles[at].content));
        self.handles[at].file.sync_all().unwrap();
    }

    fn close_one(&mut self) {
        let Some(at) = self.any_handle() else { return };
        let Handle { file, content } = self.handles.swap_remove(at);
        self.tell(format!("close file {content}"));
        // SAFETY: the descriptor was just taken out of its file, and nobody else has it.
        assert_eq!(unsafe { libc::close(file.into_raw_fd()) }, 0, "{}", std::io::Error::last_os_error());
        if std::mem::take(&mut self.contents[content].is_untouched) {
            self.wait_until_settled();
        }
    }

    fn close_all(&mut self) {
        while !self.handles.is_empty() {
            self.close_one();
        }
    }

    fn rename(&mut self) {
        let Some((from, node)) = self.any(|node| !matches!(node, Node::Directory(_))) else { return };
        let to = self.any_key();
        if from.starts_with(&format!("{to}/")) {
            return;
        }
        self.tell(format!("rename {from} to {to}"));
        let renamed = fs::rename(self.path(&from), self.path(&to));
        if let Some(Node::Directory(_)) = self.nodes.get(&to) {
            assert_eq!(renamed.unwrap_err().raw_os_error(), Some(libc::EISDIR));
            return;
        }
        renamed.unwrap();
        if let Node::File(number) = node {
            self.contents[number].is_untouched = false;
        }
        self.nodes.remove(&from);
        self.nodes.insert(to, node);
    }

    fn rename_directory(&mut self) {
        let Some((from, _)) = self.any(|node| matches!(node, Node::Directory(_))) else { return };
        let to = self.any_key();
        if self.nodes.contains_key(&to) || to.starts_with(&format!("{from}/")) {
            return;
        }
        self.tell(format!("rename directory {from} to {to}"));
        fs::rename(self.path(&from), self.path(&to)).unwrap();
        let below = format!("{from}/");
        let is_moved = |key: &str| key == from || key.starts_with(&below);
        let moved: Vec<String> = self.nodes.keys().filter(|key| is_moved(key)).cloned().collect();
        for key in moved {
            let node = self.nodes.remove(&key).unwrap();
            self.nodes.insert(format!("{to}{}", &key[from.len()..]), node);
        }
    }

    fn remove(&mut self) {
        let Some((key, node)) = self.any(|node| !matches!(node, Node::Directory(_))) else { return };
        match node {
            Node::File(number) => self.tell(format!("remove {key}, file {number}")),
            Node::Link(_) | Node::Directory(_) => self.tell(format!("remove {key}")),
        }
        fs::remove_file(self.path(&key)).unwrap();
        self.nodes.remove(&key);
        let again = fs::remove_file(self.path(&key)).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::ENOENT));
    }

    fn make_directory(&mut self) {
        let key = self.any_key();
        let are_many = self.nodes.values().filter(|node| matches!(node, Node::Directory(_))).count();
        if are_many >= DIRECTORIES_MAX || key.len() > 12 {
            return;
        }
        self.tell(format!("make directory {key}"));
        let made = fs::create_dir(self.path(&key));
        if self.nodes.contains_key(&key) {
            assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::EEXIST));
            return;
        }
        made.unwrap();
        self.nodes.insert(key, Node::Directory(DIRECTORY_MODE));
    }

    fn remove_directory(&mut self) {
        let Some((key, _)) = self.any(|node| matches!(node, Node::Directory(_))) else { return };
        self.tell(format!("remove directory {key}"));
        let removed = fs::remove_dir(self.path(&key));
        let below = format!("{key}/");
        if self.nodes.keys().any(|other| other.starts_with(&below)) {
            assert_eq!(removed.unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
            return;
        }
        removed.unwrap();
        self.nodes.remove(&key);
    }

    fn link(&mut self) {
        let (key, target) = (self.any_key(), format!("to/{}", self.random.u8(..)));
        self.tell(format!("link {key}"));
        let made = symlink(&target, self.path(&key));
        if self.nodes.contains_key(&key) {
            assert_eq!(made.unwrap_err().raw_os_error(), Some(libc::EEXIST));
            return;
        }
        made.unwrap();
        self.nodes.insert(key, Node::Link(target));
    }

    fn set_mode(&mut self) {
        let Some((key, node)) = self.any(|node| !matches!(node, Node::Link(_))) else { return };
        let mode = 0o600 | self.random.u32(..0o200);
        self.tell(format!("set mode {mode:o} of {key}"));
        fs::set_permissions(self.path(&key), fs::Permissions::from_mode(mode)).unwrap();
        match node {
            Node::File(number) => self.contents[number].mode = mode,
            Node::Directory(_) => drop(self.nodes.insert(key, Node::Directory(mode))),
            Node::Link(_) => {}
        }
    }

    fn set_time(&mut self) {
        let Some((key, number)) = self.any_file() else { return };
        // What is still to be written through a handle takes the time of its writing.
        if self.handles.iter().any(|handle| handle.content == number) {
            return;
        }
        let secs = self.random.i64(1..2_000_000_000);
        self.tell(format!("set time {secs} of {key}"));
        let time = Timespec { tv_sec: secs, tv_nsec: 5 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, self.path(&key), &times, AtFlags::empty()).unwrap();
        self.contents[number].mtime = Some(secs);
    }

    /// Ends what is on its way, so that there is no conflict.
    fn settle(&mut self) {
        self.close_all();
        self.wait_until_settled();
    }

    /// But for what is open to be written.
    fn wait_until_settled(&self) {
        wait_for("nothing is pending", LIMIT, || {
            let status = self.rig.status();
            status["sessions"].as_array().unwrap().iter().all(|session| session["state"] == "writing")
        });
    }

    fn put_by_others(&mut self) {
        self.settle();
        let (key, mut bytes) = (self.any_key(), self.bytes());
        if let Some(Node::Directory(_)) = self.nodes.get(&key) {
            return;
        }
        // Never what we had there: of the same bytes in the same second nobody could tell whose they are.
        bytes.extend(format!("theirs, after {} steps", self.told.len()).bytes());
        self.tell(format!("another client puts {key}, {} bytes", bytes.len()));
        self.rig.bucket.put_quietly(&key, &bytes);
        self.new_file(&key, bytes);
    }

    fn delete_by_others(&mut self) {
        self.settle();
        let Some((key, _)) = self.any_file() else { return };
        self.tell(format!("another client deletes {key}"));
        self.rig.bucket.delete(&key);
        self.nodes.remove(&key);
    }

    fn remount(&mut self) {
        self.close_all();
        self.tell("remount".to_owned());
        self.rig.unmount();
        self.rig.mount_again();
    }

    /// What was closed or synced is there afterwards.
    fn kill(&mut self) {
        while let Some(at) = self.any_handle() {
            if self.random.bool() {
                self.close_one();
            } else {
                let Handle { file, content } = self.handles.swap_remove(at);
                self.tell(format!("sync file {content}, to be killed while it is open"));
                file.sync_all().unwrap();
                // Closed by the kill, for its close reaches nobody.
                std::mem::forget(file);
            }
        }
        self.tell("kill".to_owned());
        self.rig.kill();
        self.rig.mount_again();
    }

    /// Everything there is.
    fn compare(&mut self) {
        self.tell("compare".to_owned());
        let mut left = vec![(String::new(), self.rig.mountpoint())];
        let mut missing: std::collections::BTreeSet<String> = self.nodes.keys().cloned().collect();
        while let Some((prefix, directory)) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let key = format!("{prefix}{}", path.file_name().unwrap().to_str().unwrap());
                let meta = fs::symlink_metadata(&path).unwrap();
                let kind = meta.file_type();
                missing.remove(&key);
                match self.nodes.get(&key) {
                    Some(Node::File(number)) => {
                        let content = &self.contents[*number];
                        assert!(kind.is_file(), "{key}");
                        expect_same(&key, 0, &fs::read(&path).unwrap(), &content.bytes);
                        let mtime = content.mtime.unwrap_or(meta.mtime());
                        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (content.mode, mtime), "{key}");
                    }
                    Some(Node::Directory(mode)) => {
                        assert!(kind.is_dir() && meta.mode() & 0o7777 == *mode, "{key}: {:o}", meta.mode());
                        left.push((format!("{key}/"), path));
                    }
                    Some(Node::Link(target)) => {
                        assert_eq!(fs::read_link(&path).unwrap().to_str(), Some(&**target))
                    }
                    None => panic!("{key} is not to be there"),
                }
            }
        }
        assert!(missing.is_empty(), "{missing:?} are gone");
    }
}

#[test]
fn with_commit_close() {
    Model::new("--commit=close", seed()).run();
}

#[test]
fn with_commit_background() {
    Model::new("--commit=background", seed()).run();
}

#[test]
fn with_commit_remote() {
    Model::new("--commit=remote", seed()).run();
}
