//! Extended attributes: `user.*` in the object's metadata, and a few of our own that tell how a file stands.
//!
//! Those of our own are not listed, so that programs that copy attributes leave them behind.

use std::ffi::{OsStr, OsString};
use std::sync::Arc;
use std::time::Instant;

use crate::fs::error::{Error, Result};
use crate::fs::{Attr, CommitMode, FileKind, FileSystem, OpenMode};
use crate::observe::task;
use crate::types::{Attributes, Ino, ObjectId, Xattrs};
use crate::write::SessionPhase;

/// Longest value, in bytes: all the metadata that an object can have.
const VALUE_BYTES_MAX: usize = 2048;
/// The only name space that is kept.
const USER: &str = "user.";
/// The part of it that is ours.
const OURS: &str = "user.tetherfs.";
/// What stores that tell a storage class do not tell.
const USUAL_CLASS: &str = "STANDARD";

/// What `setxattr` does about a name that is there, or is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum XattrMode {
    /// Sets it.
    Any,
    /// Fails where it is there.
    Create,
    /// Fails where it is not.
    Replace,
}

/// A name that can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Name<'a> {
    /// One that programs set.
    User(&'a str),
    /// The version in the bucket.
    ETag,
    /// Where the store keeps the bytes.
    StorageClass,
    /// How much of the object is in the cache.
    CachedPercent,
    /// How far the changes are on their way.
    UploadState,
}

impl<'a> Name<'a> {
    /// `Unsupported` for other name spaces.
    fn of(name: &'a OsStr) -> Result<Name<'a>> {
        let name = name.to_str().ok_or(Error::Unsupported("names of attributes are UTF-8"))?;
        let Some(ours) = name.strip_prefix(OURS) else {
            return match name.strip_prefix(USER) {
                Some("") => Err(Error::Invalid),
                Some(_) => Ok(Name::User(name)),
                None => Err(Error::Unsupported("only user.* attributes are kept")),
            };
        };
        match ours {
            "etag" => Ok(Name::ETag),
            "storage-class" => Ok(Name::StorageClass),
            "cached-percent" => Ok(Name::CachedPercent),
            "upload-state" => Ok(Name::UploadState),
            _ => Err(Error::NoAttribute),
        }
    }

    /// A name that programs may set. Also what is not one of ours now is not theirs.
    fn settable(name: &'a OsStr) -> Result<&'a str> {
        match Name::of(name) {
            Ok(Name::User(name)) => Ok(name),
            Ok(Name::ETag | Name::StorageClass | Name::CachedPercent | Name::UploadState)
            | Err(Error::NoAttribute) => Err(Error::NotPermitted("attributes of tetherfs are read only")),
            Err(error) => Err(error),
        }
    }
}

impl FileSystem {
    /// The value of an extended attribute. The object is asked for its metadata if it was not yet.
    pub async fn get_xattr(self: Arc<Self>, ino: Ino, name: OsString) -> Result<Vec<u8>> {
        let value = match Name::of(&name)? {
            Name::User(name) => self.attributes_of(ino).await?.xattrs.get(name).map(<[u8]>::to_vec),
            Name::ETag => self.object_of(ino).await?.map(|object| object.etag.as_str().as_bytes().to_vec()),
            Name::StorageClass => match self.object_of(ino).await? {
                Some(_) => {
                    let attributes = self.attributes_of(ino).await?;
                    Some(attributes.carried.storage_class().unwrap_or(USUAL_CLASS).as_bytes().to_vec())
                }
                None => None,
            },
            Name::CachedPercent => match self.object_of(ino).await? {
                Some(object) => Some(self.cached_percent(object).await?.to_string().into_bytes()),
                None => None,
            },
            Name::UploadState => Some(self.upload_state(ino)?.as_bytes().to_vec()),
        };
        value.ok_or(Error::NoAttribute)
    }

    /// The names of a file's extended attributes, each with a closing NUL. As a `stat` does, this asks no object that a
    /// listing has just shown.
    pub async fn list_xattrs(self: Arc<Self>, ino: Ino) -> Result<Vec<u8>> {
        let known = self.attr_of(ino).await?;
        let attributes = self.attributes_known(&known)?;
        let is_shown = |name: &&str| name.starts_with(USER) && !name.starts_with(OURS);
        let names = attributes.xattrs.names().filter(is_shown);
        Ok(names.flat_map(|name| name.bytes().chain([0])).collect())
    }

    /// Sets an extended attribute, with the promise of [`FileSystem::set_attr`].
    pub async fn set_xattr(
        self: Arc<Self>,
        ino: Ino,
        name: OsString,
        value: Vec<u8>,
        mode: XattrMode,
    ) -> Result<()> {
        let name = Name::settable(&name)?;
        if value.len() > VALUE_BYTES_MAX {
            return Err(Error::AttributeTooLong);
        }
        self.change_xattrs(ino, |xattrs| {
            match (mode, xattrs.get(name)) {
                (XattrMode::Create, Some(_)) => return Err(Error::Exists),
                (XattrMode::Replace, None) => return Err(Error::NoAttribute),
                (XattrMode::Any | XattrMode::Replace, Some(_))
                | (XattrMode::Any | XattrMode::Create, None) => {}
            }
            xattrs.set(name, &value);
            Ok(())
        })
        .await
    }

    /// Takes an extended attribute away, with the promise of [`FileSystem::set_attr`].
    pub async fn remove_xattr(self: Arc<Self>, ino: Ino, name: OsString) -> Result<()> {
        let name = Name::settable(&name)?;
        let remove = |xattrs: &mut Xattrs| if xattrs.remove(name) { Ok(()) } else { Err(Error::NoAttribute) };
        self.change_xattrs(ino, remove).await
    }

    async fn change_xattrs(&self, ino: Ino, change: impl FnOnce(&mut Xattrs) -> Result<()>) -> Result<()> {
        if self.options.read_only {
            return Err(Error::ReadOnly);
        }
        match self.attr_of(ino).await?.kind {
            FileKind::Directory => {
                let mut attributes = self.namespace.directory_attributes(ino, Instant::now()).await?;
                if changes(&mut attributes, change)? {
                    self.namespace.attr_known(ino)?.complete(&mut attributes);
                    self.namespace.set_directory_attributes(ino, attributes).await?;
                }
                Ok(())
            }
            FileKind::File | FileKind::Symlink => {
                let state = self.files.open(ino);
                let result = self.change_file_xattrs(&state, change).await;
                self.close_state(&state);
                result
            }
        }
    }

    async fn change_file_xattrs(
        &self,
        state: &Arc<crate::fs::file::FileState>,
        change: impl FnOnce(&mut Xattrs) -> Result<()>,
    ) -> Result<()> {
        let is_open = {
            let _gate = state.gate.lock().await;
            self.settle_version(state, OpenMode::Write).await?;
            let known = self.with_local(self.namespace.attr_known(state.ino)?);
            let mut attributes = self.attributes_known(&known)?;
            if changes(&mut attributes, change)? {
                self.dress(state, |dressed| dressed.xattrs = attributes.xattrs).await?;
            }
            self.files.is_shared(state.ino)
        };
        match self.options.commit {
            CommitMode::Remote if !is_open => self.flush_state(state).await,
            CommitMode::Remote | CommitMode::Close | CommitMode::Background => Ok(()),
        }
    }

    /// A file's or directory's attributes, asked for if they are not known.
    async fn attributes_of(&self, ino: Ino) -> Result<Attributes> {
        let known = self.attr_of(ino).await?;
        match known.kind {
            FileKind::Directory => Ok(self.namespace.directory_attributes(ino, Instant::now()).await?),
            FileKind::File | FileKind::Symlink => {
                let is_known =
                    self.files.get(ino).is_some_and(|state| state.content().attributes().is_some());
                if !is_known {
                    self.namespace.object(ino, Instant::now()).await?;
                }
                self.attributes_known(&known)
            }
        }
    }

    /// What is known of them, without a request.
    fn attributes_known(&self, attr: &Attr) -> Result<Attributes> {
        let here = self.files.get(attr.ino).and_then(|state| state.content().attributes());
        match here {
            Some(attributes) => Ok(attributes),
            None => Ok(self.namespace.attributes_known(attr.ino)?),
        }
    }

    /// The object that is under a file's key; `None` when there is none, or it is a directory.
    async fn object_of(&self, ino: Ino) -> Result<Option<ObjectId>> {
        match self.attr_of(ino).await?.kind {
            FileKind::Directory => Ok(None),
            FileKind::File | FileKind::Symlink => Ok(self.namespace.version(ino, Instant::now()).await?),
        }
    }

    async fn cached_percent(&self, object: ObjectId) -> Result<u64> {
        let reader = self.reader.clone();
        let looking = task::spawn_blocking("cached", move || reader.object_report(&object));
        let report = looking.await.map_err(|_| Error::Io("interrupted".to_owned()))?;
        let percent = u128::from(report.bytes_present) * 100 / u128::from(report.size.max(1));
        Ok(if report.is_whole { 100 } else { percent.min(99) as u64 })
    }

    /// As `uploads list` says it; `stored` when nothing is on its way.
    fn upload_state(&self, ino: Ino) -> Result<&'static str> {
        let key = match self.namespace.key(ino) {
            Ok(key) => key,
            Err(crate::namespace::Error::IsDirectory) => return Err(Error::NoAttribute),
            Err(error) => return Err(error.into()),
        };
        let session = self.writer.sessions().into_iter().find(|session| session.key == key);
        Ok(match session.map(|session| session.state) {
            None => "stored",
            Some(SessionPhase::Writing) => "writing",
            Some(SessionPhase::Queued) => "queued",
            Some(SessionPhase::Sending) => "sending",
            Some(SessionPhase::Completing) => "completing",
            Some(SessionPhase::Stuck) => "stuck",
            Some(SessionPhase::Interrupted) => "interrupted",
            Some(SessionPhase::Conflicted) => "conflicted",
        })
    }
}

/// Changes extended attributes and says whether they are other ones now. `AttributesFull`.
fn changes(attributes: &mut Attributes, change: impl FnOnce(&mut Xattrs) -> Result<()>) -> Result<bool> {
    let (before, had_room) = (attributes.xattrs.clone(), attributes.fit());
    change(&mut attributes.xattrs)?;
    let shrinks = attributes.xattrs.encoded().len() < before.encoded().len();
    if attributes.fit() || !had_room && shrinks {
        return Ok(attributes.xattrs != before);
    }
    Err(Error::AttributesFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_users_are_theirs_to_set() {
        let settable = |name: &str| Name::settable(OsStr::new(name)).map(str::to_owned);
        assert_eq!(settable("user.x").ok().as_deref(), Some("user.x"));
        assert!(matches!(settable("user.tetherfs.etag"), Err(Error::NotPermitted(_))));
        assert!(matches!(settable("user.tetherfs.later"), Err(Error::NotPermitted(_))));
        for other in ["trusted.x", "security.capability", "system.posix_acl_access", "x"] {
            assert!(matches!(settable(other), Err(Error::Unsupported(_))), "{other}");
        }
        assert!(matches!(Name::of(OsStr::new("user.tetherfs.later")), Err(Error::NoAttribute)));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_can_be_made_smaller() {
        let set = |name: &'static str| {
            move |xattrs: &mut Xattrs| {
                xattrs.set(name, &[0; 1000]);
                Ok(())
            }
        };
        let mut attributes = Attributes::default();
        assert!(changes(&mut attributes, set("user.a")).unwrap());
        assert!(!changes(&mut attributes, set("user.a")).unwrap(), "it is so already");
        let more = changes(&mut attributes.clone(), set("user.b"));
        assert!(matches!(more, Err(Error::AttributesFull)));
        attributes.xattrs.set("system.large", &[0; 2000]);
        let remove =
            |xattrs: &mut Xattrs| if xattrs.remove("user.a") { Ok(()) } else { Err(Error::NoAttribute) };
        assert!(
            changes(&mut attributes, remove).unwrap(),
            "what another tool has put there can be made smaller"
        );
    }
}
