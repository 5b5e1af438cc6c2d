//! An upload in memory: what it takes, what it says it has, what it becomes.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use crate::store::rules::About;
use crate::store::{
    Capabilities, Completion, ErrorKind, PartLimits, PartReceipt, PartSlot, Result, UploadKind,
    UploadOptions, UploadStatus,
};
use crate::types::{Crc64, Key, PartNumber};

/// An upload that is neither completed nor given up.
#[derive(Debug)]
pub(crate) struct Session {
    pub key: Key,
    pub options: UploadOptions,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Parts {
        limits: PartLimits,
        parts: BTreeMap<PartNumber, Bytes>,
    },
    Offset {
        align: u64,
        bytes: BytesMut,
        /// The last piece has come; no more may follow.
        has_last: bool,
    },
}

impl Session {
    /// An upload without content.
    pub fn new(key: &Key, options: UploadOptions, kind: UploadKind) -> Session {
        let content = match kind {
            UploadKind::Parts(limits) => Content::Parts { limits, parts: BTreeMap::new() },
            UploadKind::Offset { align } => {
                Content::Offset { align, bytes: BytesMut::new(), has_last: false }
            }
        };
        Session { key: key.clone(), options, content }
    }

    /// What has been stored.
    pub fn status(&self) -> UploadStatus {
        match &self.content {
            Content::Parts { parts, .. } => UploadStatus::Parts(receipts(parts)),
            Content::Offset { bytes, .. } => UploadStatus::Offset(bytes.len() as u64),
        }
    }

    /// Stores a part or the next piece.
    pub fn put(
        &mut self,
        about: About<'_>,
        capabilities: &Capabilities,
        slot: PartSlot,
        body: Bytes,
    ) -> Result<PartReceipt> {
        if slot.range.len() != body.len() as u64 {
            return Err(about.refused("the part's length is not its slot's"));
        }
        match &mut self.content {
            Content::Parts { limits, parts } => {
                if slot.number.get() > limits.parts_max {
                    return Err(about.refused(format!("an upload has at most {} parts", limits.parts_max)));
                }
                if body.len() as u64 > limits.part_bytes_max {
                    return Err(about.error(ErrorKind::TooLarge, "the part is too large"));
                }
                if !capabilities.replace_part && parts.contains_key(&slot.number) {
                    return Err(about.refused("the part is there already"));
                }
                let receipt = receipt_of(slot.number, &body);
                parts.insert(slot.number, body);
                Ok(receipt)
            }
            Content::Offset { align, bytes, has_last } => {
                let offset = bytes.len() as u64;
                if *has_last {
                    return Err(about.refused("the last piece has been sent already"));
                }
                if slot.range.start != offset {
                    let start = slot.range.start;
                    return Err(about.refused(format!("bytes from {start} were sent, {offset} is next")));
                }
                if !slot.is_last && !slot.range.len().is_multiple_of(*align) {
                    return Err(
                        about.refused(format!("every piece but the last is a multiple of {align} bytes"))
                    );
                }
                bytes.extend_from_slice(&body);
                *has_last = slot.is_last;
                Ok(PartReceipt { etag: String::new(), ..receipt_of(slot.number, &body) })
            }
        }
    }

    /// The object that the listed parts make, and its checksum.
    pub fn join(
        &self,
        about: About<'_>,
        listed: &[PartReceipt],
        completion: &Completion,
    ) -> Result<(Bytes, Crc64)> {
        let bytes = match &self.content {
            Content::Parts { limits, parts } => {
                about.check_parts(limits, &receipts(parts), listed, completion)?;
                let mut whole = BytesMut::with_capacity(completion.size as usize);
                for receipt in listed {
                    whole.extend_from_slice(&parts[&receipt.number]);
                }
                whole.freeze()
            }
            Content::Offset { bytes, .. } => {
                about.check_size(completion, bytes.len() as u64)?;
                bytes.clone().freeze()
            }
        };
        let crc64 = Crc64::of(&bytes);
        about.check_crc64(completion.crc64, crc64)?;
        Ok((bytes, crc64))
    }
}

fn receipts(parts: &BTreeMap<PartNumber, Bytes>) -> Vec<PartReceipt> {
    parts.iter().map(|(&number, bytes)| receipt_of(number, bytes)).collect()
}

/// The etag is the content's, as an MD5 would be: the same part sent again has the same.
fn receipt_of(number: PartNumber, bytes: &Bytes) -> PartReceipt {
    let crc64 = Crc64::of(bytes);
    PartReceipt { number, len: bytes.len() as u64, etag: crc64.to_string(), crc64: Some(crc64) }
}
