//! Uploads on disk: they survive restarts and power loss, and become the object by one rename.
//!
//! An upload is a directory with the file `upload` (JSON: key, attributes, token) and one file a part, named by its number.
//! A part file holds the part's bytes followed by their CRC-64/NVME (8 bytes, big-endian), so that content and checksum
//! cannot come apart. Files are synced and renamed into the directory whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::store::local::place::{Place, PlaceKind};
use crate::store::local::record::Description;
use crate::store::local::tree::{Commit, Tree, check_unchanged, failure};
use crate::store::local::work::{Placement, names, open_directory};
use crate::store::rules::About;
use crate::store::{
    Completion, ErrorKind, PartLimits, PartReceipt, PartSlot, Result, Upload, UploadId, UploadOptions,
    UploadStatus,
};
use crate::types::{Attributes, ByteRange, Crc64, Key, ObjectId, ObjectMeta, PartNumber, UploadToken};

/// A directory takes parts of any size; their number is bounded so that listing them is.
pub(crate) const LIMITS: PartLimits =
    PartLimits { part_bytes_min: 1, part_bytes_max: 5 << 30, parts_max: 10_000 };

const UPLOAD_FILE: &str = "upload";
/// Format of [`UploadFile`] and of part files; an upload of another format is not known.
const FORMAT: u32 = 1;
/// Length of the checksum behind a part.
const TRAILER_BYTES: u64 = 8;
/// Bytes copied from an object to a part at a time.
const COPY_BYTES: u64 = 1 << 20;

/// What is known of an upload besides its parts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct UploadFile {
    format: u32,
    key: Key,
    attributes: Attributes,
    token: Option<UploadToken>,
}

#[derive(Debug)]
struct OpenUpload {
    directory: OwnedFd,
    file: UploadFile,
}

impl Tree {
    /// Begins an upload, durably.
    pub fn begin_upload(&self, about: About<'_>, options: UploadOptions) -> Result<Upload> {
        if Place::of(about)?.kind == PlaceKind::Directory {
            return Err(about.refused("a name that ends in '/' is a directory and has no content"));
        }
        let UploadOptions { attributes, token, size: _ } = options;
        let file = UploadFile { format: FORMAT, key: about.key.clone(), attributes, token };
        let work = self.work(about)?;
        let begin = || -> io::Result<String> {
            let (name, directory) = work.stage_directory()?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&directory, UPLOAD_FILE, flags, Mode::RUSR | Mode::WUSR)?;
            let mut opened = File::from(opened);
            opened.write_all(&serde_json::to_vec(&file).expect("an upload is plain data"))?;
            opened.sync_all()?;
            rustix::fs::fsync(&directory)?;
            work.place_upload(&name)?;
            Ok(name)
        };
        let id = begin().map_err(|error| failure(about, "cannot begin", error))?;
        Ok(Upload { key: about.key.clone(), id: UploadId(id) })
    }

    /// The parts on disk.
    pub fn upload_status(&self, about: About<'_>, upload: &Upload) -> Result<UploadStatus> {
        Ok(match self.open_upload(about, upload)? {
            Some(open) => UploadStatus::Parts(open.parts(about)?),
            None => UploadStatus::Gone,
        })
    }

    /// Writes a part.
    pub fn put_part(
        &self,
        about: About<'_>,
        upload: &Upload,
        slot: PartSlot,
        body: &Bytes,
    ) -> Result<PartReceipt> {
        if slot.range.len() != body.len() as u64 {
            return Err(about.refused("the part's length is not its slot's"));
        }
        self.store_part(about, upload, slot, |file| {
            file.write_all(body).map_err(|error| failure(about, "cannot write", error))?;
            Ok(Crc64::of(body))
        })
    }

    /// Fills a part from an object.
    pub fn copy_part(
        &self,
        about: About<'_>,
        upload: &Upload,
        slot: PartSlot,
        source: (&ObjectId, ByteRange),
    ) -> Result<PartReceipt> {
        let (id, range) = source;
        let found = self.find_version(about, id)?;
        if range.is_empty() || range.end > found.size() || range.len() != slot.range.len() {
            return Err(about.refused("the range is not within the source, or not the slot's length"));
        }
        self.store_part(about, upload, slot, |file| {
            let failed = |error| failure(about, "cannot copy", error);
            let mut crc64 = Crc64::EMPTY;
            for piece in range.split(COPY_BYTES) {
                let mut bytes = vec![0; piece.len() as usize];
                found.file.read_exact_at(&mut bytes, piece.start).map_err(failed)?;
                file.write_all(&bytes).map_err(failed)?;
                crc64 = crc64.then(Crc64::of(&bytes), piece.len());
            }
            check_unchanged(About { key: &id.key, ..about }, &found)?;
            Ok(crc64)
        })
    }

    /// Joins the listed parts to the object.
    pub fn complete_upload(
        &self,
        about: About<'_>,
        upload: &Upload,
        listed: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        let failed = |error| failure(about, "cannot join the parts", error);
        let open = self.known_upload(about, upload)?;
        let crc64 = about.check_parts(&LIMITS, &open.parts(about)?, listed, &completion)?;
        self.check(about, &Place::of(about)?, &completion.precondition)?;
        let staged = self.work(about)?.stage().map_err(failed)?;
        for part in listed {
            let file = open.part(part.number).map_err(failed)?;
            // In the kernel, and shared between both files where the file system can.
            let copied = io::copy(&mut (&file).take(part.len), &mut &staged.file).map_err(failed)?;
            if copied != part.len {
                let number = part.number.get();
                return Err(about.refused(format!("part {number} was replaced while it was joined")));
            }
        }
        let UploadFile { attributes, token, .. } = open.file;
        let description = Description { attributes, token, crc64 };
        let precondition = completion.precondition;
        self.commit(about, Commit { staged, description, precondition, upload: Some(&upload.id.0) })
    }

    /// Removes an upload and its parts.
    pub fn abort_upload(&self, about: About<'_>, upload: &Upload) -> Result<()> {
        if self.open_upload(about, upload)?.is_none() {
            return Ok(());
        }
        let work = self.work(about)?;
        let retired = {
            let _guard = work.lock().map_err(|error| failure(about, "cannot give up", error))?;
            work.retire_upload(&upload.id.0).map_err(|error| failure(about, "cannot give up", error))?
        };
        if let Some(name) = retired {
            work.discard(&name);
        }
        Ok(())
    }

    fn store_part(
        &self,
        about: About<'_>,
        upload: &Upload,
        slot: PartSlot,
        fill: impl FnOnce(&mut &File) -> Result<Crc64>,
    ) -> Result<PartReceipt> {
        let failed = |error| failure(about, "cannot keep the part", error);
        let len = slot.range.len();
        if slot.number.get() > LIMITS.parts_max {
            return Err(about.refused(format!("an upload has at most {} parts", LIMITS.parts_max)));
        }
        if len > LIMITS.part_bytes_max {
            return Err(about.error(ErrorKind::TooLarge, "the part is too large"));
        }
        let open = self.known_upload(about, upload)?;
        let staged = self.work(about)?.stage().map_err(failed)?;
        let crc64 = fill(&mut &staged.file)?;
        (&staged.file).write_all(&crc64.0.to_be_bytes()).map_err(failed)?;
        staged.file.sync_all().map_err(failed)?;
        match staged.place(&open.directory, &part_name(slot.number), Placement::Replace) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(gone(about)),
            placed => placed.map_err(failed)?,
        }
        rustix::fs::fsync(&open.directory).map_err(|error| failed(error.into()))?;
        Ok(receipt(slot.number, len, crc64))
    }

    fn known_upload(&self, about: About<'_>, upload: &Upload) -> Result<OpenUpload> {
        self.open_upload(about, upload)?.ok_or_else(|| gone(about))
    }

    /// The upload, when there is one of this id for this key.
    fn open_upload(&self, about: About<'_>, upload: &Upload) -> Result<Option<OpenUpload>> {
        // Ids come back from journals and tests; as file names they must be what we gave out.
        if upload.id.0.len() != 32 || !upload.id.0.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let work = self.work(about)?;
        let open = || -> io::Result<(OwnedFd, Vec<u8>)> {
            let directory = open_directory(&work.uploads, &upload.id.0)?;
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut text = Vec::new();
            let file = rustix::fs::openat(&directory, UPLOAD_FILE, flags, Mode::empty())?;
            File::from(file).read_to_end(&mut text)?;
            Ok((directory, text))
        };
        let (directory, text) = match open() {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failure(about, "cannot open the upload", error)),
        };
        Ok(serde_json::from_slice::<UploadFile>(&text)
            .ok()
            .filter(|file| file.format == FORMAT && file.key == upload.key)
            .map(|file| OpenUpload { directory, file }))
    }
}

impl OpenUpload {
    fn part(&self, number: PartNumber) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.directory, part_name(number), flags, Mode::empty())?.into())
    }

    /// All parts, sorted by number.
    fn parts(&self, about: About<'_>) -> Result<Vec<PartReceipt>> {
        let failed = |error| failure(about, "cannot list the parts", error);
        let mut parts = Vec::new();
        for name in names(&self.directory).map_err(failed)? {
            let number = name.to_str().ok().and_then(|name| name.parse::<u32>().ok());
            let Some(index) = number.and_then(|number| number.checked_sub(1)) else {
                continue;
            };
            let number = PartNumber::from_index(index);
            match self.receipt(number) {
                Ok(receipt) => parts.push(receipt),
                // Given up or completed while we look.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        parts.sort_unstable_by_key(|part| part.number);
        Ok(parts)
    }

    fn receipt(&self, number: PartNumber) -> io::Result<PartReceipt> {
        let file = self.part(number)?;
        let len = file.metadata()?.len().checked_sub(TRAILER_BYTES).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut trailer = [0; TRAILER_BYTES as usize];
        file.read_exact_at(&mut trailer, len)?;
        Ok(receipt(number, len, Crc64(u64::from_be_bytes(trailer))))
    }
}

fn part_name(number: PartNumber) -> String {
    format!("{:05}", number.get())
}

/// The etag is the content's: the same part sent again has the same.
fn receipt(number: PartNumber, len: u64, crc64: Crc64) -> PartReceipt {
    PartReceipt { number, len, etag: crc64.to_string(), crc64: Some(crc64) }
}

fn gone(about: About<'_>) -> crate::store::Error {
    about.error(ErrorKind::UploadGone, "the upload is not known")
}
