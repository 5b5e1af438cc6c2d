//! Listing the visible tree in byte order of keys.
//!
//! A directory sorts as its name with `/`, which puts everything below it in its place among the others. An empty one is
//! an object of its own (`dir/`); one with contents shows by them.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::OwnedFd;

use rustix::fs::FileType;
use rustix::io::Errno;

use crate::store::listing::PageBuilder;
use crate::store::local::place::{WORK_DIRECTORY, parts};
use crate::store::local::tree::{Tree, kind_of};
use crate::store::local::work::open_directory;
use crate::store::{Error, ListOptions, ListPage, Op, Result};
use crate::types::Key;

/// An entry of a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    /// Its key; ends in `/` for a directory.
    key: String,
    /// How much of `key` is the directory's.
    name_start: usize,
}

impl Entry {
    fn name(&self) -> &str {
        self.key[self.name_start..].trim_end_matches('/')
    }

    fn is_directory(&self) -> bool {
        self.key.ends_with('/')
    }
}

impl Tree {
    /// One page of a listing.
    pub fn list(&self, options: ListOptions) -> Result<ListPage> {
        let mut page = PageBuilder::new(options)?;
        // Nothing above the prefix's own directory can be on the page.
        let start =
            page.prefix().rfind('/').map_or(String::new(), |slash| page.prefix()[..=slash].to_owned());
        let Ok(names) = start.strip_suffix('/').map_or(Ok(Vec::new()), parts) else {
            return Ok(page.finish());
        };
        let walked = self.directory(&names).and_then(|directory| self.walk(&directory, &start, &mut page));
        match walked {
            Ok(_end_or_full) => Ok(page.finish()),
            Err(error) if !names.is_empty() && is_absent(&error) => Ok(page.finish()),
            Err(error) => {
                Err(Error::of(Op::List, kind_of(Op::List, &error), format!("cannot list: {error}")))
            }
        }
    }

    /// Adds what is below `directory`, whose keys begin with `above`. Breaks when the page is full.
    fn walk(&self, directory: &OwnedFd, above: &str, page: &mut PageBuilder) -> io::Result<ControlFlow<()>> {
        let entries = entries(directory, above, page)?;
        if entries.is_empty() && !above.is_empty() && page.wants(above) {
            let Ok(key) = Key::new(above) else {
                page.skip();
                return Ok(ControlFlow::Continue(()));
            };
            return Ok(page.push_object(self.found_in(directory, ".")?.listed(&key)));
        }
        for entry in entries {
            let step = match entry.is_directory() {
                true => self.walk_into(directory, &entry, page)?,
                false => self.push_file(directory, &entry, page)?,
            };
            if step.is_break() {
                return Ok(step);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn walk_into(
        &self,
        parent: &OwnedFd,
        entry: &Entry,
        page: &mut PageBuilder,
    ) -> io::Result<ControlFlow<()>> {
        if !page.may_want_below(&entry.key) {
            return Ok(ControlFlow::Continue(()));
        }
        if let Some(prefix) = page.folded(&entry.key) {
            return Ok(page.push_prefix(prefix));
        }
        match open_directory(parent, entry.name()) {
            Ok(directory) => self.walk(&directory, &entry.key, page),
            Err(error) if is_absent(&error) => Ok(ControlFlow::Continue(())),
            // One private directory does not hide all others.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                page.skip();
                Ok(ControlFlow::Continue(()))
            }
            Err(error) => Err(error),
        }
    }

    fn push_file(
        &self,
        parent: &OwnedFd,
        entry: &Entry,
        page: &mut PageBuilder,
    ) -> io::Result<ControlFlow<()>> {
        if !page.wants(&entry.key) {
            return Ok(ControlFlow::Continue(()));
        }
        let Ok(key) = Key::new(&entry.key) else {
            page.skip();
            return Ok(ControlFlow::Continue(()));
        };
        match self.found_in(parent, entry.name()) {
            Ok(found) if found.metadata.is_file() => Ok(page.push_object(found.listed(&key))),
            Ok(_replaced_meanwhile) => Ok(ControlFlow::Continue(())),
            Err(error) if is_absent(&error) => Ok(ControlFlow::Continue(())),
            Err(error) => Err(error),
        }
    }
}

/// The files and directories of a directory in byte order of their keys. Links, devices and names that are not UTF-8 are
/// no objects; they are counted, on the first page.
fn entries(directory: &OwnedFd, above: &str, page: &mut PageBuilder) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = match entry.file_name().to_str() {
            Ok("." | "..") => continue,
            Ok(WORK_DIRECTORY) if above.is_empty() => continue,
            Ok(name) => name,
            Err(_not_utf8) => {
                if page.is_first() {
                    page.skip();
                }
                continue;
            }
        };
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            let stat = match rustix::fs::statat(directory, name, flags) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            kind = FileType::from_raw_mode(stat.st_mode);
        }
        let closing = match kind {
            FileType::Directory => "/",
            FileType::RegularFile => "",
            _ => {
                if page.is_first() {
                    page.skip();
                }
                continue;
            }
        };
        entries.push(Entry { key: format!("{above}{name}{closing}"), name_start: above.len() });
    }
    entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

/// Not there, or no longer what it was.
fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO))
}
