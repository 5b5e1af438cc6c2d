//! From the paths that an operator names to the files that are meant.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::time::Instant;

use crate::fs::FileSystem;
use crate::fs::error::{Error, Result};
use crate::fs::upkeep::jobs::Meter;
use crate::fs::upkeep::{FILES_MAX, WorkError};
use crate::namespace::{FileKind, Namespace};
use crate::types::{Ino, Key, ObjectId};

/// A file that is meant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Subject {
    /// As it is in the bucket.
    Object(ObjectId),
    /// With changes that are not there yet.
    Changed(Key),
}

/// A path that was found. Its inode stays known as long as this lives.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    pub(crate) path: String,
    pub(crate) kind: FileKind,
    ino: Ino,
    _lookup: Option<Lookup<'a>>,
}

/// A lookup to be given back.
#[derive(Debug)]
struct Lookup<'a> {
    namespace: &'a Namespace,
    ino: Ino,
}

/// The files of one job, each once.
#[derive(Debug, Default)]
struct Subjects {
    all: Vec<Subject>,
    keys: HashSet<Key>,
}

impl Subject {
    pub(crate) fn key(&self) -> &Key {
        match self {
            Subject::Object(object) => &object.key,
            Subject::Changed(key) => key,
        }
    }
}

impl FileSystem {
    /// The files at and below these paths, each once. Either all of the paths are there, or none is looked into.
    pub(crate) async fn subjects(&self, paths: &[String], meter: &Meter) -> Result<Vec<Subject>, WorkError> {
        let mut subjects = Subjects::default();
        for found in self.find_all(paths).await? {
            self.gather(&found, &mut subjects, meter).await?;
        }
        Ok(subjects.all)
    }

    /// The files at and below one path.
    pub(crate) async fn subjects_of(
        &self,
        found: &Found<'_>,
        meter: &Meter,
    ) -> Result<Vec<Subject>, WorkError> {
        let mut subjects = Subjects::default();
        self.gather(found, &mut subjects, meter).await?;
        Ok(subjects.all)
    }

    /// Finds all of these paths.
    pub(crate) async fn find_all(&self, paths: &[String]) -> Result<Vec<Found<'_>>, WorkError> {
        let mut all = Vec::with_capacity(paths.len());
        for path in paths {
            let found = self.find(path).await;
            all.push(found.map_err(|error| WorkError::Path { path: path.clone(), error })?);
        }
        Ok(all)
    }

    async fn find(&self, path: &str) -> Result<Found<'_>> {
        let mut found =
            Found { path: path.to_owned(), kind: FileKind::Directory, ino: Ino::ROOT, _lookup: None };
        for name in path.split('/').filter(|_| !path.is_empty()) {
            let attr = self.namespace.lookup(found.ino, OsStr::new(name), Instant::now()).await?;
            let lookup = Lookup { namespace: &self.namespace, ino: attr.ino };
            found = Found { kind: attr.kind, ino: attr.ino, _lookup: Some(lookup), ..found };
        }
        Ok(found)
    }

    async fn gather(&self, found: &Found<'_>, into: &mut Subjects, meter: &Meter) -> Result<(), WorkError> {
        let failed = |error: Error| WorkError::Path { path: found.path.clone(), error };
        match found.kind {
            FileKind::File | FileKind::Symlink => {
                let subject = self.subject(found.ino, Instant::now()).await.map_err(failed)?;
                into.add(subject, meter)
            }
            FileKind::Directory => self.gather_below(found.ino, into, meter, failed).await,
        }
    }

    async fn gather_below(
        &self,
        ino: Ino,
        into: &mut Subjects,
        meter: &Meter,
        failed: impl Fn(Error) -> WorkError,
    ) -> Result<(), WorkError> {
        let mut unread = vec![self.namespace.open_directory(ino).map_err(|error| failed(error.into()))?];
        while let Some(directory) = unread.pop() {
            let mut offset = 0;
            loop {
                // The versions are those of the listing: asked for with its time, they cost no request.
                let now = Instant::now();
                let entries = self.namespace.read_directory(&directory, offset, now).await;
                let entries = entries.map_err(|error| failed(error.into()))?;
                let Some(last) = entries.last() else {
                    break;
                };
                offset = last.next_offset;
                for entry in entries.iter() {
                    let taken = match entry.attr.kind {
                        FileKind::File | FileKind::Symlink => match self.subject(entry.attr.ino, now).await {
                            Ok(subject) => {
                                into.add(subject, meter)?;
                                Ok(())
                            }
                            Err(error) => Err(error),
                        },
                        FileKind::Directory => {
                            let opened = self.namespace.open_directory(entry.attr.ino);
                            opened.map(|directory| unread.push(directory)).map_err(Error::from)
                        }
                    };
                    match taken {
                        // Somebody has removed it meanwhile.
                        Ok(()) | Err(Error::NotFound | Error::Stale(_)) => {}
                        Err(error) => return Err(failed(error)),
                    }
                }
            }
        }
        Ok(())
    }

    /// What a file is.
    async fn subject(&self, ino: Ino, now: Instant) -> Result<Subject> {
        let is_changed = self
            .files
            .get(ino)
            .is_some_and(|state| state.content().local().is_some_and(|file| !file.is_clean()));
        if !is_changed && let Some(object) = self.namespace.version(ino, now).await? {
            return Ok(Subject::Object(object));
        }
        Ok(Subject::Changed(self.namespace.key(ino)?))
    }
}

impl Subjects {
    fn add(&mut self, subject: Subject, meter: &Meter) -> Result<(), WorkError> {
        if !self.keys.insert(subject.key().clone()) {
            return Ok(());
        }
        if self.all.len() == FILES_MAX {
            return Err(WorkError::TooManyFiles);
        }
        meter.update(|progress| {
            progress.files_total += 1;
            progress.bytes_total += match &subject {
                Subject::Object(object) => object.size,
                Subject::Changed(_) => 0,
            };
        });
        self.all.push(subject);
        Ok(())
    }
}

impl Drop for Lookup<'_> {
    fn drop(&mut self) {
        self.namespace.forget(self.ino, 1);
    }
}
