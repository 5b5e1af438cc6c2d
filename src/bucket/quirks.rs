//! Deviations of real servers that can be switched on, each on its own. All off is what the protocol says.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::bucket::door::operation::Operation;

/// Parts other than the last have at least this many bytes, as on AWS.
pub const PART_BYTES_MIN: u64 = 5 << 20;

/// Which deviations are on. The servers named are those seen doing so.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quirks {
    /// PutObject and CopyObject overwrite in spite of `If-None-Match: *` (Garage, rclone).
    pub ignores_put_if_none_match: bool,
    /// PutObject and CopyObject overwrite in spite of `If-Match` (Garage, rclone).
    pub ignores_put_if_match: bool,
    /// CompleteMultipartUpload overwrites in spite of both (Garage, rclone).
    pub ignores_complete_conditions: bool,
    /// GetObject and HeadObject serve any version in spite of `If-Match` (s3s-fs, rclone).
    pub ignores_get_if_match: bool,
    /// DeleteObject deletes in spite of `If-Match` (Garage, s3s-fs, rclone).
    pub ignores_delete_if_match: bool,
    /// Copies are made in spite of `x-amz-copy-source-if-match` (moto, rclone).
    pub ignores_copy_source_if_match: bool,
    /// A ranged GET answers 200 with Content-Range, not 206 (rclone).
    pub answers_range_with_200: bool,
    /// ListParts tells no etags (s3s-fs 0.14).
    pub lists_parts_without_etags: bool,
    /// ListMultipartUploads answers 501 (s3s-fs).
    pub lists_no_uploads: bool,
    /// Sending a part number again answers 501 (rclone).
    pub takes_a_part_once: bool,
    /// CompleteMultipartUpload does not look at the etags it is given (s3s-fs).
    pub accepts_wrong_part_etags: bool,
    /// CompleteMultipartUpload tells an etag with `-N`, every later answer one without (rclone).
    pub changes_etag_after_complete: bool,
    /// A CompleteMultipartUpload that fails answers 200 with an `<Error>` body (AWS, when it fails late).
    pub answers_failed_complete_with_200: bool,
    /// CRC64NVME is neither checked, stored nor told (moto, rclone).
    pub knows_no_crc64nvme: bool,
    /// UploadPartCopy answers 501 (rclone).
    pub copies_no_parts: bool,
    /// With `encoding-type=url` a space in a key is listed as `+` (rclone).
    pub lists_space_as_plus: bool,
    /// Etags are not the MD5 of the content (AWS with KMS keys). Also spares the server the MD5.
    pub hides_md5: bool,
    /// Parts other than the last have at least this many bytes; 0 switches the rule off (Garage, rclone).
    pub part_bytes_min: u64,
}

impl Default for Quirks {
    fn default() -> Quirks {
        Quirks {
            ignores_put_if_none_match: false,
            ignores_put_if_match: false,
            ignores_complete_conditions: false,
            ignores_get_if_match: false,
            ignores_delete_if_match: false,
            ignores_copy_source_if_match: false,
            answers_range_with_200: false,
            lists_parts_without_etags: false,
            lists_no_uploads: false,
            takes_a_part_once: false,
            accepts_wrong_part_etags: false,
            changes_etag_after_complete: false,
            answers_failed_complete_with_200: false,
            knows_no_crc64nvme: false,
            copies_no_parts: false,
            lists_space_as_plus: false,
            hides_md5: false,
            part_bytes_min: PART_BYTES_MIN,
        }
    }
}

impl Quirks {
    /// The status to send in place of the right one.
    pub(crate) fn disguise(&self, operation: Operation, status: StatusCode) -> StatusCode {
        let range = operation == Operation::GetObject && status == StatusCode::PARTIAL_CONTENT;
        let complete = operation == Operation::CompleteMultipartUpload
            && (status.is_client_error() || status.is_server_error());
        if (self.answers_range_with_200 && range) || (self.answers_failed_complete_with_200 && complete) {
            StatusCode::OK
        } else {
            status
        }
    }
}
