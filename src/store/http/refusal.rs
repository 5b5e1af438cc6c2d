//! What a refusal means: from status and S3 error code to a kind a caller can branch on.
//!
//! Codes are those of the Amazon S3 API reference, "List of error codes"; servers that send none are judged by status.

use std::time::Duration;

use http::StatusCode;

use crate::store::http::client::Effect;
use crate::store::http::xml::Element;
use crate::store::{ErrorKind, Op};

/// Longest message of a server that is passed on, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// A refusal as the server put it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The status. 200 when the error came in the body of a success.
    pub status: StatusCode,
    /// The S3 error code, where there is a readable body.
    pub code: Option<String>,
    /// The server's words.
    pub message: String,
    /// The region the server wants requests signed for, where it says so.
    pub region: Option<String>,
    /// The server's request id, for its operators.
    pub request_id: Option<String>,
    /// How long it asks us to wait.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// What the body of a refusal says; a body that is no XML says nothing.
    pub fn read(status: StatusCode, body: &[u8]) -> Refusal {
        let root = Element::parse(body).ok().filter(|root| root.name == "Error").unwrap_or_default();
        let text = |name| root.text_of(name).map(|text| text.trim().to_owned()).filter(|t| !t.is_empty());
        Refusal {
            status,
            code: text("Code"),
            message: text("Message")
                .map(|text| text.trim_end_matches('.').chars().take(MESSAGE_CHARS_MAX).collect())
                .unwrap_or_default(),
            region: text("Region"),
            request_id: text("RequestId"),
            retry_after: None,
        }
    }

    /// Whether the code is this one.
    pub fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// What a caller of `op` may do about it.
    pub fn kind(&self, op: Op) -> ErrorKind {
        match self.code.as_deref() {
            Some(code) => self.kind_of_code(op, code),
            None => self.kind_of_status(op),
        }
    }

    /// For people.
    pub fn detail(&self) -> String {
        let mut text = format!("the server answered {}", self.status.as_u16());
        if let Some(code) = &self.code {
            text.push(' ');
            text.push_str(code);
        }
        if !self.message.is_empty() {
            text.push_str(": ");
            text.push_str(&self.message);
        }
        if let Some(id) = &self.request_id {
            text.push_str(&format!(" (request {id})"));
        }
        text
    }

    fn kind_of_code(&self, op: Op, code: &str) -> ErrorKind {
        match code {
            "NoSuchKey" => ErrorKind::NotFound,
            "NoSuchBucket" => ErrorKind::NoVolume,
            "NoSuchUpload" => ErrorKind::UploadGone,
            "PreconditionFailed" | "ConditionalRequestConflict" => ErrorKind::Precondition,
            "EntityTooLarge" => ErrorKind::TooLarge,
            "AccessDenied"
            | "AllAccessDisabled"
            | "ExpiredToken"
            | "InvalidAccessKeyId"
            | "InvalidToken"
            | "AuthorizationHeaderMalformed"
            | "RequestTimeTooSkewed"
            | "SignatureDoesNotMatch"
            | "TokenRefreshRequired" => ErrorKind::Denied,
            // No bytes were sent with it: the parts are not what we take them for.
            "BadDigest" | "XAmzContentChecksumMismatch" if op == Op::CompleteUpload => ErrorKind::Refused,
            "BadDigest" | "InvalidDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch" => {
                ErrorKind::Integrity
            }
            // Refused at the door, before anything was done.
            "SlowDown"
            | "RequestTimeout"
            | "ServiceUnavailable"
            | "Throttling"
            | "ThrottlingException"
            | "TooManyRequests"
            | "OperationAborted"
            | "BandwidthLimitExceeded" => ErrorKind::Unavailable { retry_after: self.retry_after },
            "InternalError" => self.broken_inside(op),
            "NotImplemented" | "MethodNotAllowed" | "UnsupportedOperation" => ErrorKind::Unsupported,
            _ => self.kind_of_status(op),
        }
    }

    fn kind_of_status(&self, op: Op) -> ErrorKind {
        match self.status.as_u16() {
            // Without a code the answer of a proxy to a commit proves nothing: only an object can be missing.
            404 if self.code.is_none() && matches!(op, Op::Head | Op::Get | Op::Delete) => {
                ErrorKind::NotFound
            }
            409 | 412 => ErrorKind::Precondition,
            401 | 403 => ErrorKind::Denied,
            413 => ErrorKind::TooLarge,
            408 | 429 | 503 => ErrorKind::Unavailable { retry_after: self.retry_after },
            405 | 501 => ErrorKind::Unsupported,
            500 | 502 | 504..=599 => self.broken_inside(op),
            _ => ErrorKind::Refused,
        }
    }

    /// The server failed while it worked on the request.
    fn broken_inside(&self, op: Op) -> ErrorKind {
        match effect(op) {
            Effect::Once => ErrorKind::Ambiguous,
            Effect::Repeatable => ErrorKind::Unavailable { retry_after: self.retry_after },
        }
    }
}

/// Whether an operation may be sent again when its answer is lost. A second `begin_upload` leaks an upload, which is
/// harmless; a second removal could meet an object that another writer has put there since.
pub fn effect(op: Op) -> Effect {
    match op {
        Op::Put | Op::Copy | Op::Delete | Op::DeleteMany | Op::CompleteUpload => Effect::Once,
        Op::Head
        | Op::Get
        | Op::List
        | Op::BeginUpload
        | Op::UploadStatus
        | Op::PutPart
        | Op::CopyPart
        | Op::AbortUpload
        | Op::Probe => Effect::Repeatable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(op: Op, status: u16, code: &str) -> ErrorKind {
        let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        let body = if code.is_empty() { "" } else { &body };
        Refusal::read(StatusCode::from_u16(status).unwrap(), body.as_bytes()).kind(op)
    }

    #[test]
    fn codes_come_before_statuses() {
        let later = ErrorKind::Unavailable { retry_after: None };
        for (op, status, code, expected) in [
            (Op::Get, 404, "NoSuchKey", ErrorKind::NotFound),
            (Op::Get, 404, "NoSuchBucket", ErrorKind::NoVolume),
            (Op::PutPart, 404, "NoSuchUpload", ErrorKind::UploadGone),
            (Op::CompleteUpload, 409, "ConditionalRequestConflict", ErrorKind::Precondition),
            (Op::Put, 412, "PreconditionFailed", ErrorKind::Precondition),
            (Op::Put, 400, "EntityTooLarge", ErrorKind::TooLarge),
            (Op::Put, 400, "BadDigest", ErrorKind::Integrity),
            (Op::Put, 400, "ExpiredToken", ErrorKind::Denied),
            (Op::Put, 400, "InvalidArgument", ErrorKind::Refused),
            (Op::PutPart, 501, "NotImplemented", ErrorKind::Unsupported),
            (Op::Put, 400, "RequestTimeout", later),
            (Op::Put, 503, "SlowDown", later),
            (Op::Put, 503, "", later),
            (Op::Put, 429, "", later),
            (Op::Put, 500, "InternalError", ErrorKind::Ambiguous),
            (Op::CompleteUpload, 200, "InternalError", ErrorKind::Ambiguous),
            (Op::PutPart, 500, "InternalError", later),
            (Op::Copy, 502, "", ErrorKind::Ambiguous),
            (Op::Delete, 504, "", ErrorKind::Ambiguous),
            (Op::List, 500, "", later),
            (Op::BeginUpload, 500, "", later),
            (Op::Head, 404, "", ErrorKind::NotFound),
            (Op::Head, 403, "", ErrorKind::Denied),
            (Op::CompleteUpload, 404, "", ErrorKind::Refused),
            (Op::CompleteUpload, 400, "InvalidPart", ErrorKind::Refused),
            (Op::CompleteUpload, 400, "BadDigest", ErrorKind::Refused),
            (Op::UploadStatus, 404, "", ErrorKind::Refused),
            (Op::Get, 304, "", ErrorKind::Refused),
        ] {
            assert_eq!(kind(op, status, code), expected, "{op} {status} {code}");
        }
    }

    #[test]
    fn people_read_what_the_server_said() {
        let body = b"<Error><Code>AccessDenied</Code><Message>no.</Message><RequestId>7</RequestId>\
                     <Region>garage</Region></Error>";
        let refusal = Refusal::read(StatusCode::FORBIDDEN, body);
        assert_eq!(refusal.detail(), "the server answered 403 AccessDenied: no (request 7)");
        assert_eq!(refusal.region.as_deref(), Some("garage"));
        let silent = Refusal::read(StatusCode::BAD_GATEWAY, b"<html>oops</html>");
        assert_eq!(silent.detail(), "the server answered 502");
    }
}
