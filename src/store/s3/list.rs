//! Pages of names: ListObjectsV2.

use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::store::http::xml::Element;
use crate::store::s3::S3Store;
use crate::store::s3::address::decode_listed;
use crate::store::s3::client::Call;
use crate::store::s3::dialect::ListEncoding;
use crate::store::{Error, ErrorKind, ListOptions, ListPage, Op, Result};
use crate::types::{ETag, Key, ObjectId, ObjectMeta, UnixTime};

/// Objects of one page looked at at the same time.
const LOOKS_AT_ONCE: usize = 16;

impl S3Store {
    pub(super) async fn list_objects(&self, options: ListOptions) -> Result<ListPage> {
        let volume_prefix = &self.client.address.prefix;
        let mut call = Call::new(Op::List, Method::GET, None)
            .query("list-type", "2")
            .query("prefix", format!("{volume_prefix}{}", options.prefix));
        if options.by_directory {
            call = call.query("delimiter", "/");
        }
        call = match (options.continuation, options.start_after) {
            (Some(token), _) => call.query("continuation-token", token),
            (None, Some(after)) => call.query("start-after", format!("{volume_prefix}{after}")),
            (None, None) => call,
        };
        if let Some(most) = options.entries_max {
            call = call.query("max-keys", most.to_string());
        }
        call = match self.dialect.list_encoding {
            ListEncoding::Url => call.query("encoding-type", "url"),
            ListEncoding::Plain => call,
        };
        let (_, root) = self.client.send_for_document(&call).await?;
        let page = page(&root, volume_prefix, self.dialect.list_encoding)
            .map_err(|detail| call.error(ErrorKind::Protocol, detail))?;
        self.with_versions(page).await
    }

    /// Looks up the versions that the listing does not tell (s3s-fs 0.14); what is gone meanwhile is left out.
    async fn with_versions(&self, page: ListPage) -> Result<ListPage> {
        if page.objects.iter().all(|object| !object.id.etag.as_str().is_empty()) {
            return Ok(page);
        }
        let looked: Vec<Option<ObjectMeta>> = stream::iter(page.objects)
            .map(|object| async move {
                if !object.id.etag.as_str().is_empty() {
                    return Ok(Some(object));
                }
                match self.head_object(&object.id.key).await {
                    Ok(meta) => Ok(Some(meta)),
                    Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(Error { op: Op::List, ..error }),
                }
            })
            .buffered(LOOKS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(ListPage { objects: looked.into_iter().flatten().collect(), ..page })
    }
}

/// A page as the answer describes it.
fn page(root: &Element, volume_prefix: &str, asked: ListEncoding) -> Result<ListPage, String> {
    if root.name != "ListBucketResult" {
        return Err(format!("the answer is no listing but <{}>", root.name));
    }
    // A server that does not know the parameter says nothing of it and sends names as they are.
    let is_encoded = asked == ListEncoding::Url && root.text_of("EncodingType") == Some("url");
    let name = |text: &str| if is_encoded { decode_listed(text) } else { Some(text.to_owned()) };
    let mut page = ListPage::default();
    for entry in root.all("Contents") {
        let full = entry.text_of("Key").and_then(name);
        let relative = full.as_deref().and_then(|full| full.strip_prefix(volume_prefix));
        match relative {
            // The marker of the volume's own directory is not an object in it.
            Some("") if !volume_prefix.is_empty() => {}
            Some(relative) => match Key::new(relative) {
                Ok(key) => page.objects.push(object(key, entry)?),
                Err(_) => page.skipped += 1,
            },
            None => page.skipped += 1,
        }
    }
    for folded in root.all("CommonPrefixes") {
        let full = folded.text_of("Prefix").and_then(name);
        match full.as_deref().and_then(|full| full.strip_prefix(volume_prefix)) {
            Some(relative) => page.prefixes.push(relative.to_owned()),
            None => page.skipped += 1,
        }
    }
    if root.text_of("IsTruncated").is_some_and(|text| text.trim() == "true") {
        let next = root.text_of("NextContinuationToken").filter(|token| !token.is_empty());
        page.next =
            Some(next.ok_or("there is more, but the answer does not say where it goes on")?.to_owned());
    }
    Ok(page)
}

fn object(key: Key, entry: &Element) -> Result<ObjectMeta, String> {
    let etag = entry.text_of("ETag").unwrap_or_default();
    let size = entry.number_of("Size").ok_or_else(|| format!("{key} is listed without a size"))?;
    Ok(ObjectMeta {
        id: ObjectId { key, etag: ETag::new(etag.trim()), size },
        modified: entry.text_of("LastModified").and_then(read_moment).unwrap_or_default(),
        attributes: None,
        token: None,
        crc64: None,
    })
}

/// A moment as XML answers write it.
pub(super) fn read_moment(text: &str) -> Option<UnixTime> {
    let moment = OffsetDateTime::parse(text.trim(), &Rfc3339).ok()?;
    Some(UnixTime { secs: moment.unix_timestamp(), nanos: moment.nanosecond() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str =
        "<LastModified>2026-11-20T07:29:01.250Z</LastModified><ETag>&quot;e&quot;</ETag><Size>3</Size>";

    fn listing(body: &str) -> Element {
        Element::parse(format!("<ListBucketResult>{body}</ListBucketResult>").as_bytes()).unwrap()
    }

    fn keys(page: &ListPage) -> Vec<&str> {
        page.objects.iter().map(|object| object.id.key.as_str()).collect()
    }

    #[test]
    fn objects_and_prefixes_lose_the_volumes_prefix() {
        let root = listing(&format!(
            "<CommonPrefixes><Prefix>v/d/</Prefix></CommonPrefixes><Contents><Key>v/</Key>{ENTRY}</Contents>\
             <Contents><Key>v/a+b%20</Key>{ENTRY}</Contents><Contents><Key>other</Key>{ENTRY}</Contents>\
             <IsTruncated>true</IsTruncated><NextContinuationToken>t/=</NextContinuationToken>"
        ));
        let page = page(&root, "v/", ListEncoding::Plain).unwrap();
        assert_eq!(keys(&page), ["a+b%20"]);
        assert_eq!(page.prefixes, ["d/"]);
        assert_eq!((page.skipped, page.next.as_deref()), (1, Some("t/=")));
        let object = &page.objects[0];
        assert_eq!((object.id.etag.as_str(), object.id.size), ("e", 3));
        assert_eq!(object.modified, UnixTime { secs: 1_795_159_741, nanos: 250_000_000 });
    }

    #[test]
    fn names_are_decoded_only_where_the_answer_says_so() {
        let entry = format!("<Contents><Key>a+b%2B%01</Key>{ENTRY}</Contents>");
        let silent = listing(&entry);
        assert_eq!(keys(&page(&silent, "", ListEncoding::Url).unwrap()), ["a+b%2B%01"]);
        let encoded = listing(&format!("<EncodingType>url</EncodingType>{entry}"));
        assert_eq!(keys(&page(&encoded, "", ListEncoding::Url).unwrap()), ["a b+\u{1}"]);
        assert_eq!(keys(&page(&encoded, "", ListEncoding::Plain).unwrap()), ["a+b%2B%01"]);
    }

    #[test]
    fn names_that_are_no_keys_are_counted() {
        let long = "k".repeat(1025);
        let root = listing(&format!(
            "<EncodingType>url</EncodingType><Contents><Key>{long}</Key>{ENTRY}</Contents>\
             <Contents><Key>%FF</Key>{ENTRY}</Contents><Contents><Key>d/</Key>{ENTRY}</Contents>"
        ));
        let page = page(&root, "", ListEncoding::Url).unwrap();
        assert_eq!((keys(&page), page.skipped), (vec!["d/"], 2));
    }

    #[test]
    fn half_an_answer_is_no_listing() {
        assert!(page(&listing("<IsTruncated>true</IsTruncated>"), "", ListEncoding::Plain).is_err());
        assert!(page(&listing("<Contents><Key>a</Key></Contents>"), "", ListEncoding::Plain).is_err());
        let other = Element::parse(b"<html/>").unwrap();
        assert!(page(&other, "", ListEncoding::Plain).unwrap_err().contains("<html>"));
    }
}
