//! Attributes, token and checksum as object metadata, and objects as headers describe them.
//!
//! The names are those of s3fs, which rclone reads too: `x-amz-meta-mode` (decimal, with the file type bits),
//! `-uid`, `-gid`, `-mtime` (decimal seconds with up to nine decimals), `-xattr` (JSON, percent-encoded, values in
//! base64). A symbolic link is an object with the link's type in its mode and the target as its content.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::store::http::headers;
use crate::types::{
    Attributes, Carried, Crc64, ETag, Key, ObjectId, ObjectMeta, UnixTime, UploadToken, Xattrs,
};

/// The whole object's CRC-64/NVME, in base64 of its big-endian bytes.
pub const CRC64: HeaderName = HeaderName::from_static("x-amz-checksum-crc64nvme");

const MODE: HeaderName = HeaderName::from_static("x-amz-meta-mode");
const UID: HeaderName = HeaderName::from_static("x-amz-meta-uid");
const GID: HeaderName = HeaderName::from_static("x-amz-meta-gid");
const MTIME: HeaderName = HeaderName::from_static("x-amz-meta-mtime");
const XATTR: HeaderName = HeaderName::from_static("x-amz-meta-xattr");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-meta-tetherfs-token");

/// Metadata of the user's own.
const USER_PREFIX: &str = "x-amz-meta-";
/// User metadata that is read and written here, or that s3fs keeps and a change here makes untrue.
const OWN: [&str; 8] = ["mode", "uid", "gid", "mtime", "xattr", "tetherfs-token", "atime", "ctime"];
/// What else a client says of an object, which a change of metadata would lose.
const CARRIED: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
    "x-amz-storage-class",
];

/// File type bits of a regular file (`S_IFREG`).
const REGULAR: u32 = 0o100_000;
/// File type bits of a directory (`S_IFDIR`).
const DIRECTORY: u32 = 0o040_000;
/// File type bits of a symbolic link (`S_IFLNK`).
const SYMLINK: u32 = 0o120_000;
/// All file type bits (`S_IFMT`).
const TYPES: u32 = 0o170_000;
/// Permission bits with setuid, setgid and sticky.
const PERMISSIONS: u32 = 0o7777;
/// Permission bits of a symbolic link.
const LINK_MODE: u32 = 0o777;
/// Largest mode with file type.
const MODE_MAX: u32 = 0o177_777;

/// Adds what an object of this key shall carry.
pub fn write(key: &Key, attributes: &Attributes, token: Option<&UploadToken>, headers: &mut HeaderMap) {
    let kind = match attributes.is_symlink {
        true => SYMLINK,
        false if key.as_str().ends_with('/') => DIRECTORY,
        false => REGULAR,
    };
    // A link without its type would be a file.
    let mode = attributes.mode.or(attributes.is_symlink.then_some(LINK_MODE));
    let mut add = |name: HeaderName, text: Option<String>| {
        // A content type that cannot stand in a header is none.
        if let Some(value) = text.and_then(|text| HeaderValue::from_str(&text).ok()) {
            headers.insert(name, value);
        }
    };
    add(MODE, mode.map(|mode| (kind | (mode & PERMISSIONS)).to_string()));
    add(UID, attributes.uid.map(|id| id.to_string()));
    add(GID, attributes.gid.map(|id| id.to_string()));
    add(MTIME, attributes.mtime.map(write_time));
    add(http::header::CONTENT_TYPE, attributes.content_type.clone());
    add(XATTR, Some(attributes.xattrs.encoded()).filter(|text| !text.is_empty()));
    add(TOKEN, token.map(|token| token.as_str().to_owned()));
    for (name, value) in attributes.carried.iter() {
        // It was read from a header.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.insert(name, value);
        }
    }
}

/// What the headers of an object carry. A value that makes no sense is as good as none.
pub fn read(headers: &HeaderMap) -> (Attributes, Option<UploadToken>) {
    let text = |name: HeaderName| headers::text(headers, name);
    let mode = text(MODE).and_then(read_mode);
    let mut attributes = Attributes {
        mode: mode.map(|mode| mode & PERMISSIONS),
        uid: text(UID).and_then(|id| id.parse().ok()),
        gid: text(GID).and_then(|id| id.parse().ok()),
        mtime: text(MTIME).and_then(read_time),
        content_type: text(http::header::CONTENT_TYPE).map(str::to_owned),
        is_symlink: mode.is_some_and(|mode| mode & TYPES == SYMLINK),
        xattrs: text(XATTR).map(Xattrs::decode).unwrap_or_default(),
        carried: Carried::default(),
    };
    for name in headers.keys().filter(|name| is_carried(name)) {
        let Some(value) = text(name.clone()) else { continue };
        let mut more = attributes.clone();
        more.carried.set(name.as_str(), value);
        // Ours must have room: an object whose metadata the server refuses could not be written at all.
        if more.fit() {
            attributes = more;
        }
    }
    (attributes, text(TOKEN).map(UploadToken::from_text))
}

fn is_carried(name: &HeaderName) -> bool {
    match name.as_str().strip_prefix(USER_PREFIX) {
        Some(own) => !OWN.contains(&own),
        None => CARRIED.contains(&name.as_str()),
    }
}

/// An object as the headers of a GET or HEAD describe it.
pub fn object(key: &Key, etag: ETag, size: u64, headers: &HeaderMap) -> ObjectMeta {
    let (attributes, token) = read(headers);
    ObjectMeta {
        id: ObjectId { key: key.clone(), etag, size },
        modified: headers::date(headers, http::header::LAST_MODIFIED).unwrap_or_default(),
        attributes: Some(attributes),
        token,
        crc64: headers::text(headers, CRC64).and_then(read_crc64),
    }
}

/// A checksum as S3 writes it.
pub fn write_crc64(crc64: Crc64) -> String {
    STANDARD.encode(crc64.0.to_be_bytes())
}

/// A checksum as S3 writes it.
pub fn read_crc64(text: &str) -> Option<Crc64> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    Some(Crc64(u64::from_be_bytes(bytes.try_into().ok()?)))
}

/// s3fs writes the mode in decimal, rclone in octal. No decimal mode is above 65535, and every octal one with a file
/// type is, when read as decimal.
fn read_mode(text: &str) -> Option<u32> {
    match text.parse::<u32>().ok()? {
        decimal if decimal <= MODE_MAX => Some(decimal),
        _ => u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= MODE_MAX),
    }
}

fn write_time(time: UnixTime) -> String {
    // -1.5 s is kept as -2 s and 500,000,000 ns.
    let (sign, secs, nanos) = match (time.secs < 0, time.nanos) {
        (false, nanos) => ("", time.secs.unsigned_abs(), nanos),
        (true, 0) => ("-", time.secs.unsigned_abs(), 0),
        (true, nanos) => ("-", time.secs.unsigned_abs() - 1, 1_000_000_000 - nanos),
    };
    if nanos == 0 { format!("{sign}{secs}") } else { format!("{sign}{secs}.{nanos:09}") }
}

fn read_time(text: &str) -> Option<UnixTime> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) || !whole.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let secs: i64 = whole.parse().ok()?;
    let nanos: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
    Some(match (negative, nanos) {
        (false, nanos) => UnixTime { secs, nanos },
        (true, 0) => UnixTime { secs: -secs, nanos: 0 },
        (true, nanos) => UnixTime { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> Key {
        Key::new(text).unwrap()
    }

    #[test]
    fn attributes_are_written_as_s3fs_does() {
        let attributes = Attributes {
            mode: Some(0o644),
            uid: Some(1000),
            gid: Some(0),
            mtime: Some(UnixTime { secs: 1_700_000_000, nanos: 5_000_000 }),
            content_type: Some("text/plain".to_owned()),
            ..Attributes::default()
        };
        let token = UploadToken::from_bits(7);
        let mut headers = HeaderMap::new();
        write(&key("a"), &attributes, Some(&token), &mut headers);
        assert_eq!(headers["x-amz-meta-mode"], "33188");
        assert_eq!(headers["x-amz-meta-uid"], "1000");
        assert_eq!(headers["x-amz-meta-gid"], "0");
        assert_eq!(headers["x-amz-meta-mtime"], "1700000000.005000000");
        assert_eq!(headers["content-type"], "text/plain");
        assert_eq!(read(&headers), (attributes, Some(token)));

        let mut headers = HeaderMap::new();
        let directory = Attributes { mode: Some(0o755), ..Attributes::default() };
        write(&key("d/"), &directory, None, &mut headers);
        assert_eq!(headers["x-amz-meta-mode"], "16877");
        assert_eq!(headers.len(), 1, "what is not set is not written");
    }

    #[test]
    fn attributes_of_others_are_understood() {
        for (text, mode) in [
            ("33188", Some(0o100_644)),
            ("420", Some(0o644)),
            ("100644", Some(0o100_644)),
            ("100755", Some(0o100_755)),
            ("41471", Some(0o120_777)),
            ("120777", Some(0o120_777)),
            ("999999", None),
            ("-1", None),
            ("rw", None),
        ] {
            assert_eq!(read_mode(text), mode, "{text}");
        }
        for (text, time) in [
            ("1700000000", Some((1_700_000_000, 0))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1700000000.1234567891", Some((1_700_000_000, 123_456_789))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-3", Some((-3, 0))),
            ("1e9", None),
            ("", None),
            ("--1", None),
            ("1.-5", None),
        ] {
            let time = time.map(|(secs, nanos)| UnixTime { secs, nanos });
            assert_eq!(read_time(text), time, "{text}");
        }
    }

    #[test]
    fn links_are_objects_of_the_type_that_s3fs_gives_them() {
        let link = Attributes { mode: Some(0o777), is_symlink: true, ..Attributes::default() };
        let mut headers = HeaderMap::new();
        write(&key("a"), &link, None, &mut headers);
        assert_eq!(headers["x-amz-meta-mode"], "41471");
        assert_eq!(read(&headers).0, link);
        let mut headers = HeaderMap::new();
        write(&key("a"), &Attributes { mode: None, ..link.clone() }, None, &mut headers);
        assert_eq!(read(&headers).0, link, "a link is never without its type");
    }

    #[test]
    fn what_others_keep_with_an_object_is_written_again() {
        let given = [
            ("cache-control", "max-age=60"),
            ("content-encoding", "gzip"),
            ("x-amz-storage-class", "STANDARD_IA"),
            ("x-amz-meta-project", "apollo"),
            ("x-amz-meta-xattr", "%7B%22user.a%22%3A%22MQ%3D%3D%22%7D"),
            ("x-amz-meta-ctime", "1"),
            ("x-amz-request-id", "7"),
            ("content-length", "3"),
        ];
        let headers: HeaderMap = given
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let (attributes, _) = read(&headers);
        assert_eq!(attributes.xattrs.get("user.a"), Some(&b"1"[..]));
        let mut again = HeaderMap::new();
        write(&key("a"), &attributes, None, &mut again);
        let mut names: Vec<&str> = again.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let mut kept: Vec<&str> = given[..5].iter().map(|(name, _)| *name).collect();
        kept.sort_unstable();
        assert_eq!(names, kept);
        assert!(given[..5].iter().all(|(name, value)| again[*name] == *value));
    }

    #[test]
    fn metadata_that_leave_no_room_for_ours_stay_behind() {
        let long = "x".repeat(1_900);
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-meta-a", HeaderValue::from_str(&long).unwrap());
        headers.insert("x-amz-meta-b", HeaderValue::from_static("1"));
        assert_eq!(read(&headers).0.carried.iter().collect::<Vec<_>>(), [("x-amz-meta-b", "1")]);
    }

    #[test]
    fn strange_content_types_are_dropped() {
        let attributes = Attributes { content_type: Some("a\nb".to_owned()), ..Attributes::default() };
        let mut headers = HeaderMap::new();
        write(&key("a"), &attributes, None, &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn checksums_are_big_endian_base64() {
        let crc64 = Crc64::of(b"123456789");
        assert_eq!(write_crc64(crc64), "rosUhgp5mIg=");
        assert_eq!(read_crc64("rosUhgp5mIg="), Some(crc64));
        assert_eq!(read_crc64("rosUhg=="), None);
    }

    proptest! {
        #[test]
        fn times_come_back(secs in -4_000_000_000i64..8_000_000_000, nanos in 0u32..1_000_000_000) {
            let time = UnixTime { secs, nanos };
            prop_assert_eq!(read_time(&write_time(time)), Some(time));
        }
    }
}
