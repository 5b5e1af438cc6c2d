//! A program that changes files in every way there is, and writes down what it was told.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::kills::PART;
use crate::kills::history::{Content, History, Promise};
use crate::support::pattern;

/// Names that a program uses.
const NAMES: usize = 4;

/// When `close` and `fsync` return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Close,
    Background,
    Remote,
}

impl Mode {
    pub fn option(self) -> &'static str {
        match self {
            Mode::Close => "--commit=close",
            Mode::Background => "--commit=background",
            Mode::Remote => "--commit=remote",
        }
    }

    fn promise_of_close(self) -> Promise {
        match self {
            Mode::Close | Mode::Remote => Promise::Visible,
            Mode::Background => Promise::Safe,
        }
    }

    fn promise_of_sync(self) -> Promise {
        match self {
            Mode::Remote => Promise::Visible,
            Mode::Close | Mode::Background => Promise::Safe,
        }
    }
}

/// One program.
pub struct Program {
    pub directory: PathBuf,
    pub number: usize,
    pub mode: Mode,
    pub history: History,
    pub random: fastrand::Rng,
    pub is_over: Arc<AtomicBool>,
    /// Programs that have begun to work, or cannot.
    pub begun: Arc<AtomicUsize>,
    /// Programs that wait for what they have written to be safe.
    pub in_upload: Arc<AtomicUsize>,
}

/// The key of a program's name.
pub fn key(number: usize, name: &str) -> String {
    format!("p{number}-{name}")
}

impl Program {
    /// Works until the mount is gone; returns what it knows.
    pub fn run(mut self) -> History {
        let has_learnt = self.learn();
        self.begun.fetch_add(1, Ordering::SeqCst);
        if has_learnt.is_err() {
            return self.history;
        }
        while !self.is_over.load(Ordering::SeqCst) {
            // The first error is the end of the mount; what was asked for with it may have happened or not.
            if self.step().is_err() {
                break;
            }
        }
        self.history
    }

    /// Looks at what has become of what the last mount was asked for and did not answer.
    fn learn(&mut self) -> io::Result<()> {
        for name in self.history.in_doubt() {
            match fs::read(self.path(&name)) {
                Ok(bytes) => self.history.learn(&name, Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.history.learn(&name, None),
                Err(error) => return Err(error),
            }
        }
        self.history.learnt();
        Ok(())
    }

    fn step(&mut self) -> io::Result<()> {
        let name = format!("f{}", self.random.usize(0..NAMES));
        match self.random.u32(0..16) {
            0..=3 => self.write_anew(&name, 1..200_000),
            4..=5 => self.write_anew(&name, 2 * PART..3 * PART + 100_000),
            6..=7 => self.append(&name),
            8..=9 => self.patch(&name),
            10 => self.cut(&name),
            11 => self.rename(&name),
            12..=13 => self.write_aside_and_rename(&name),
            14 => self.remove(&name),
            _ => self.sync_in_the_middle(&name),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(key(self.number, name))
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        pattern(self.random.u64(..), len)
    }

    fn write_anew(&mut self, name: &str, len: std::ops::Range<usize>) -> io::Result<()> {
        let len = self.random.usize(len);
        let bytes = self.bytes(len);
        let file = File::create(self.path(name))?;
        // Emptied and not yet written: should it be closed so, by a kill, it is the old content that stays.
        for (number, piece) in bytes.chunks(1 << 20).enumerate() {
            file.write_all_at(piece, (number << 20) as u64)?;
        }
        self.close(file, name, bytes)
    }

    fn append(&mut self, name: &str) -> io::Result<()> {
        let mut bytes = self.present(name);
        let len = self.random.usize(1..100_000);
        let more = self.bytes(len);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(self.path(name))?;
        file.write_all_at(&more, bytes.len() as u64)?;
        bytes.extend(more);
        self.close(file, name, bytes)
    }

    fn patch(&mut self, name: &str) -> io::Result<()> {
        let mut bytes = self.present(name);
        if bytes.is_empty() {
            return Ok(());
        }
        let at = self.random.usize(0..bytes.len());
        let len = self.random.usize(1..50_000).min(bytes.len() - at);
        let patch = self.bytes(len);
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        file.write_all_at(&patch, at as u64)?;
        bytes[at..at + len].copy_from_slice(&patch);
        self.close(file, name, bytes)
    }

    fn cut(&mut self, name: &str) -> io::Result<()> {
        let mut bytes = self.present(name);
        if bytes.is_empty() {
            return Ok(());
        }
        let len = self.random.usize(1..bytes.len() + 10_000);
        bytes.resize(len, 0);
        let file = OpenOptions::new().write(true).open(self.path(name))?;
        file.set_len(len as u64)?;
        self.close(file, name, bytes)
    }

    fn rename(&mut self, name: &str) -> io::Result<()> {
        let other = format!("f{}", self.random.usize(0..NAMES));
        if self.history.current(name).is_none() || other == name {
            return Ok(());
        }
        self.move_onto(name, &other)
    }

    fn write_aside_and_rename(&mut self, name: &str) -> io::Result<()> {
        self.write_anew("aside", 1..50_000)?;
        self.move_onto("aside", name)
    }

    fn move_onto(&mut self, name: &str, other: &str) -> io::Result<()> {
        self.history.ask_to_move(name, other);
        fs::rename(self.path(name), self.path(other))?;
        self.history.acknowledge(name, Promise::Safe);
        self.history.acknowledge(other, Promise::Safe);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        if self.history.current(name).is_none() {
            return Ok(());
        }
        self.history.ask(name, None);
        fs::remove_file(self.path(name))?;
        self.history.acknowledge(name, Promise::Safe);
        Ok(())
    }

    /// Synced, then written on, then closed: each a content of its own.
    fn sync_in_the_middle(&mut self, name: &str) -> io::Result<()> {
        let len = self.random.usize(1..100_000);
        let mut bytes = self.bytes(len);
        let file = File::create(self.path(name))?;
        file.write_all_at(&bytes, 0)?;
        self.history.ask(name, Some(Arc::new(bytes.clone())));
        self.waiting(|| file.sync_all())?;
        self.history.acknowledge(name, self.mode.promise_of_sync());
        let more = self.bytes(len);
        file.write_all_at(&more, len as u64)?;
        bytes.extend(more);
        self.close(file, name, bytes)
    }

    fn present(&self, name: &str) -> Vec<u8> {
        let content: Content = self.history.current(name);
        content.map(|bytes| bytes.to_vec()).unwrap_or_default()
    }

    fn close(&mut self, file: File, name: &str, bytes: Vec<u8>) -> io::Result<()> {
        self.history.ask(name, Some(Arc::new(bytes)));
        let descriptor = file.into_raw_fd();
        self.waiting(|| {
            // SAFETY: the descriptor was just taken out of its file, and nobody else has it.
            if unsafe { libc::close(descriptor) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        })?;
        self.history.acknowledge(name, self.mode.promise_of_close());
        Ok(())
    }

    fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.in_upload.fetch_add(1, Ordering::SeqCst);
        let result = wait();
        self.in_upload.fetch_sub(1, Ordering::SeqCst);
        result
    }
}
