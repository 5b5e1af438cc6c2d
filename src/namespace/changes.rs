//! Changes of names that need the store: create, unlink, mkdir, rmdir, and what keeps a directory alive.

use std::ffi::OsStr;
use std::time::Instant;

use bytes::Bytes;

use crate::namespace::fold::{Asked, MarkerNews, News};
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{Body, Evidence, Folder, Residence, Under};
use crate::namespace::names::{self, Name};
use crate::namespace::tree::{Answer, Survival};
use crate::namespace::{Attr, Error, FileKind, Namespace, present};
use crate::store::{self, DeleteOptions, ErrorKind, Precondition, PutOptions};
use crate::types::{Attributes, ETag, Ino, Key, ObjectId, ObjectMeta, UploadToken};

/// Most times that a change is sent because its answer was lost, where sending twice is sending once.
const SENDS_MAX: u32 = 3;

/// A directory without entries.
struct Empty {
    ino: Ino,
    marker: Key,
    has_marker: bool,
}

impl Namespace {
    /// Adds a file that exists only locally so far; counts as one lookup. `Exists` if a name is known to be there
    /// (asks the store when what is known is not fresh).
    pub async fn create(
        &self,
        parent: Ino,
        name: &OsStr,
        attributes: Attributes,
        now: Instant,
    ) -> Result<Attr, Error> {
        self.child_key(parent, name)?;
        let name = self.name(parent, name)?;
        let (mut tree, found) = self.resolve(parent, &name, now).await?;
        if found.is_some() {
            return Err(Error::Exists);
        }
        if name.is_beside_directory() {
            // It would be found under another name.
            return Err(Error::BadName);
        }
        let residence = Residence::Local { size: 0, attributes, under: Under::Nothing };
        let ino = tree.add(parent, &name, Body::File(residence))?;
        tree.names_changed(parent, present());
        tree.count(ino)?;
        Ok(tree.inode(ino)?.attr(&self.options))
    }

    /// Removes a file: the object under its key, if there is one, and the name. Returns the inode. Local changes and
    /// uploads on their way are the caller's to give up before. `NotFound`, `IsDirectory`.
    ///
    /// Each removal names the version it is meant for, so that one which was held up, or is sent again because its answer
    /// was lost, cannot meet what was put under the key later.
    pub async fn unlink(&self, parent: Ino, name: &OsStr, now: Instant) -> Result<Ino, Error> {
        let name = self.name(parent, name)?;
        let (ino, object) = {
            let (tree, ino) = self.locate(parent, &name, now).await?;
            tree.require_file(ino)?;
            let inode = tree.inode(ino)?;
            let key = inode.is_in_store().then(|| tree.key(ino)).transpose()?;
            (ino, key.map(|key| (key, inode.version().cloned())))
        };
        self.keep_directory_without(parent, &name, now).await?;
        if let Some((key, version)) = object {
            self.delete_object(&key, version).await?;
        }
        let mut tree = self.tree();
        if tree.last_known(parent, &name)? == Answer::Present(ino) {
            tree.remove(parent, &name, self.fresh_since(now))?;
            tree.names_changed(parent, present());
        }
        Ok(ino)
    }

    /// Makes a directory, by its marker object; counts as one lookup. `Exists`, `NameTooLong`.
    pub async fn mkdir(
        &self,
        parent: Ino,
        name: &OsStr,
        attributes: Attributes,
        now: Instant,
    ) -> Result<Attr, Error> {
        let name = self.name(parent, name)?;
        if name.is_beside_directory() {
            return Err(Error::BadName);
        }
        let key = names::marker_key(&names::prefix_below(&self.tree().prefix(parent)?, &name)?)?;
        if self.resolve(parent, &name, now).await?.1.is_some() {
            return Err(Error::Exists);
        }
        let made = self.put_marker(&key, attributes).await?;
        let fresh = self.fresh_since(now);
        let mut tree = self.tree();
        let Some(marker) = made else {
            let stamp = tree.tick();
            let asked = Asked { stamp, fresh: Freshness::Stale };
            tree.fold(parent, &name, asked, News::Directory(MarkerNews::Untold))?;
            return Err(Error::Exists);
        };
        let ino = match tree.last_known(parent, &name)? {
            // A listing saw the marker before we heard that it was made.
            Answer::Present(ino) if tree.kind(ino)? == FileKind::Directory => ino,
            Answer::Present(_) | Answer::Absent | Answer::Unknown => {
                let mut folder = Folder::new(Evidence::Store, fresh);
                // Nothing was below the name, or it would have been there.
                folder.listed = fresh;
                tree.add(parent, &name, Body::Directory(folder))?
            }
        };
        tree.set_marker(ino, marker);
        tree.names_changed(parent, present());
        tree.count(ino)?;
        Ok(tree.inode(ino)?.attr(&self.options))
    }

    /// A directory's attributes as its marker object carries them, which is asked for them if it was not yet. `Stale`,
    /// `NotDirectory`.
    pub async fn directory_attributes(&self, ino: Ino, now: Instant) -> Result<Attributes, Error> {
        if !self.tree().inode(ino)?.is_metadata_known() {
            self.ask_about(ino, now).await?;
        }
        let tree = self.tree();
        let marker = tree.folder(ino)?.marker.as_ref();
        Ok(marker.and_then(|marker| marker.attributes.clone()).unwrap_or_default())
    }

    /// Changes a directory's attributes, which its marker object carries; it is made where there is none. The root has no
    /// marker: its attributes last as long as the mount. `Stale`, `NotDirectory`.
    pub async fn set_directory_attributes(&self, ino: Ino, attributes: Attributes) -> Result<(), Error> {
        let prefix = self.tree().prefix(ino)?;
        let marker = if prefix.is_empty() {
            let key = Key::new(".").expect("a dot is a key");
            let id = ObjectId { key, etag: ETag::new(""), size: 0 };
            ObjectMeta { id, modified: self.options.mounted_at, attributes: None, token: None, crc64: None }
        } else {
            self.replace_marker(&names::marker_key(&prefix)?, &attributes).await?
        };
        let mut tree = self.tree();
        tree.set_marker(ino, ObjectMeta { attributes: Some(attributes), ..marker });
        tree.time_is_set(ino);
        Ok(())
    }

    /// Removes an empty directory. `NotEmpty` also when it holds keys that are not shown. `NotFound`, `NotDirectory`.
    pub async fn rmdir(&self, parent: Ino, name: &OsStr, now: Instant) -> Result<(), Error> {
        let name = self.name(parent, name)?;
        let Empty { ino, marker, has_marker } = self.require_empty_directory(parent, &name, now).await?;
        self.keep_directory_without(parent, &name, now).await?;
        if has_marker {
            self.delete_marker(&marker).await?;
        }
        let mut tree = self.tree();
        if tree.holds_local(ino) {
            // The commit of that file brings the directory back.
            return Err(Error::NotEmpty);
        }
        if tree.last_known(parent, &name)? == Answer::Present(ino) {
            tree.remove(parent, &name, self.fresh_since(now))?;
            tree.uncover(parent, &name);
            tree.names_changed(parent, present());
        }
        Ok(())
    }

    /// Whether an empty directory has a marker. `NotEmpty` also when it holds keys that are not shown. `NotFound`,
    /// `NotDirectory`.
    pub async fn require_empty(&self, parent: Ino, name: &OsStr, now: Instant) -> Result<bool, Error> {
        let name = self.name(parent, name)?;
        Ok(self.require_empty_directory(parent, &name, now).await?.has_marker)
    }

    async fn require_empty_directory(&self, parent: Ino, name: &Name, now: Instant) -> Result<Empty, Error> {
        let (ino, prefix) = {
            let (tree, ino) = self.locate(parent, name, now).await?;
            let prefix = tree.prefix(ino)?;
            let is_there = |child: Ino| {
                tree.holds_local(child) || tree.inode(child).is_ok_and(|child| child.is_believed(now))
            };
            if tree.folder(ino)?.children().any(|(_, child)| is_there(child)) {
                return Err(Error::NotEmpty);
            }
            (ino, prefix)
        };
        let marker = names::marker_key(&prefix)?;
        let glimpse = self.glimpse(&prefix, 2).await?;
        if glimpse.skipped > 0 || glimpse.objects.iter().any(|object| object.id.key != marker) {
            self.tree().expire(ino);
            return Err(Error::NotEmpty);
        }
        Ok(Empty { ino, marker, has_marker: !glimpse.objects.is_empty() })
    }

    /// Makes sure that a directory outlives the loss of one of its names: to be called before an object is moved out of
    /// it. Costs nothing when the directory has a marker or another entry is known in it, else a LIST of two entries
    /// (none after a fresh listing) and a PUT of the marker if the name is the last.
    pub async fn keep_directory(&self, directory: Ino, leaving: &OsStr, now: Instant) -> Result<(), Error> {
        self.keep_directory_without(directory, &self.name(directory, leaving)?, now).await
    }

    async fn keep_directory_without(
        &self,
        directory: Ino,
        leaving: &Name,
        now: Instant,
    ) -> Result<(), Error> {
        let (survival, prefix, kind) = {
            let tree = self.tree();
            let kind = match tree.last_known(directory, leaving)? {
                Answer::Present(ino) => tree.kind(ino)?,
                Answer::Absent | Answer::Unknown => FileKind::File,
            };
            (tree.survival(directory, leaving, now)?, tree.prefix(directory)?, kind)
        };
        if !names::can_be_made(&prefix) {
            return Ok(());
        }
        match survival {
            Survival::Certain => return Ok(()),
            Survival::Lost => {}
            Survival::Unknown => {
                let slash = match kind {
                    FileKind::File | FileKind::Symlink => "",
                    FileKind::Directory => "/",
                };
                let leaving = format!("{prefix}{}{slash}", leaving.part().unwrap_or_default());
                let glimpse = self.glimpse(&prefix, 2).await?;
                if glimpse.skipped > 0 || glimpse.objects.iter().any(|o| o.id.key.as_str() != leaving) {
                    return Ok(());
                }
            }
        }
        let key = names::marker_key(&prefix)?;
        if let Some(marker) = self.put_marker(&key, Attributes::default()).await? {
            self.tree().set_marker(directory, marker);
        }
        Ok(())
    }

    /// Puts a marker where none is. `None` when there is one already.
    async fn put_marker(
        &self,
        key: &Key,
        attributes: Attributes,
    ) -> Result<Option<ObjectMeta>, store::Error> {
        let token = UploadToken::from_bits(fastrand::u128(..));
        let options = PutOptions {
            precondition: Precondition::Absent,
            attributes: attributes.clone(),
            token: Some(token.clone()),
            crc64: None,
        };
        let mut marker = match self.store.put(key, Bytes::new(), options).await {
            Ok(marker) => marker,
            Err(error) if error.kind == ErrorKind::Precondition => return Ok(None),
            Err(error) if error.kind == ErrorKind::Ambiguous => match self.head(key).await? {
                Some(found) if found.token.as_ref() == Some(&token) => found,
                Some(_) => return Ok(None),
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        marker.attributes.get_or_insert(attributes);
        Ok(Some(marker))
    }

    /// Puts a marker, whatever is there: markers have no content that could be lost. Putting twice is putting once.
    async fn replace_marker(&self, key: &Key, attributes: &Attributes) -> Result<ObjectMeta, store::Error> {
        let mut sent = 1;
        loop {
            let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
            match self.store.put(key, Bytes::new(), options).await {
                Err(error) if error.kind == ErrorKind::Ambiguous && sent < SENDS_MAX => sent += 1,
                result => return result,
            }
        }
    }

    /// Removes the object under a key: the version known, or where that is not the one, the one that is there.
    async fn delete_object(&self, key: &Key, known: Option<ETag>) -> Result<(), store::Error> {
        let look = async || Ok(self.head(key).await?.map(|object| object.id.etag));
        let mut next = match known {
            Some(version) => Some(version),
            None => look().await?,
        };
        let mut sent = 0;
        while let Some(version) = next {
            sent += 1;
            let options = DeleteOptions { if_match: Some(version.clone()) };
            let Err(error) = self.store.delete(key, options).await else { return Ok(()) };
            match error.kind {
                ErrorKind::NotFound => return Ok(()),
                ErrorKind::Precondition if sent < SENDS_MAX => next = look().await?,
                // What was to be removed is gone, even if another version is there by now.
                ErrorKind::Ambiguous if sent < SENDS_MAX => {
                    next = look().await?.filter(|now| *now == version)
                }
                ErrorKind::Ambiguous
                | ErrorKind::Precondition
                | ErrorKind::NoVolume
                | ErrorKind::UploadGone
                | ErrorKind::Unavailable { .. }
                | ErrorKind::Denied
                | ErrorKind::TooLarge
                | ErrorKind::Refused
                | ErrorKind::Protocol
                | ErrorKind::Integrity
                | ErrorKind::Unsupported => return Err(error),
            }
        }
        Ok(())
    }

    /// Removes a marker. Removing twice is removing once, so a lost answer is asked for again.
    async fn delete_marker(&self, key: &Key) -> Result<(), store::Error> {
        let mut sent = 1;
        loop {
            match self.store.delete(key, DeleteOptions::default()).await {
                Ok(()) => return Ok(()),
                Err(error) => match error.kind {
                    ErrorKind::NotFound => return Ok(()),
                    ErrorKind::Ambiguous if sent < SENDS_MAX => sent += 1,
                    ErrorKind::Ambiguous
                    | ErrorKind::NoVolume
                    | ErrorKind::Precondition
                    | ErrorKind::UploadGone
                    | ErrorKind::Unavailable { .. }
                    | ErrorKind::Denied
                    | ErrorKind::TooLarge
                    | ErrorKind::Refused
                    | ErrorKind::Protocol
                    | ErrorKind::Integrity
                    | ErrorKind::Unsupported => return Err(error),
                },
            }
        }
    }
}
