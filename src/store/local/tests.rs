//! The suite over a real directory, and what only a directory has: other programs, crashes, links, bits.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{TryStreamExt, future};
use tempfile::TempDir;

use crate::store::local::LocalStore;
use crate::store::local::tree::Tree;
use crate::store::{
    Completion, CopyOptions, DeleteOptions, ErrorKind, GetOptions, ListOptions, ListPage, MetadataDirective,
    ObjectStore, PartSlot, Precondition, PutOptions, Result, UploadOptions, UploadStatus, conformance,
};
use crate::types::{Attributes, ByteRange, Key, ObjectMeta, PartNumber, UnixTime};

fn volume() -> (TempDir, LocalStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = LocalStore::open(directory.path()).unwrap();
    (directory, store)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

async fn put(store: &LocalStore, name: &str, text: &str) -> Result<ObjectMeta> {
    store.put(&key(name), Bytes::from(text.to_owned()), PutOptions::default()).await
}

async fn read(store: &LocalStore, name: &str) -> Result<Vec<u8>> {
    let body = store.get(&key(name), GetOptions::default()).await?.body;
    Ok(body.try_collect::<Vec<_>>().await?.concat())
}

async fn list(store: &LocalStore, prefix: &str) -> ListPage {
    store.list(ListOptions { prefix: prefix.to_owned(), ..ListOptions::default() }).await.unwrap()
}

async fn keys(store: &LocalStore) -> Vec<String> {
    list(store, "").await.objects.into_iter().map(|object| object.id.key.as_str().to_owned()).collect()
}

fn files_in(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

fn part(index: u32, start: u64, len: u64) -> PartSlot {
    PartSlot { number: PartNumber::from_index(index), range: ByteRange::at(start, len), is_last: false }
}

#[tokio::test]
async fn conforms_with_extended_attributes() {
    let (directory, store) = volume();
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    // A thousand synced files take a real disk too long; they are put in memory below.
    for (_, check) in conformance::CHECKS.iter().filter(|(name, _)| *name != "large_listing") {
        check(store.clone()).await;
    }
    assert_eq!(files_in(directory.path()), 1, "the suite leaves only our own directory");
    assert_eq!(files_in(&directory.path().join(".tetherfs/staged")), 0);
    assert_eq!(files_in(&directory.path().join(".tetherfs/uploads")), 0);
}

#[tokio::test]
async fn conforms_with_records_in_files() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let tree = Tree::open(directory.path()).unwrap().with_sidecars().unwrap();
    conformance::run(Arc::new(LocalStore::of("file:///sidecars".to_owned(), tree))).await;
    assert_eq!(files_in(directory.path()), 1, "the suite leaves only our own directory");
    assert_eq!(files_in(&directory.path().join(".tetherfs/records")), 0, "records go with their files");
}

#[tokio::test]
async fn objects_are_plain_files() {
    let (directory, store) = volume();
    let attributes = Attributes {
        mode: Some(0o4_640),
        mtime: Some(UnixTime { secs: 1_000, nanos: 5 }),
        ..Attributes::default()
    };
    let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
    store.put(&key("a/b"), Bytes::from_static(b"bytes"), options).await.unwrap();
    let path = directory.path().join("a/b");
    assert_eq!(fs::read(&path).unwrap(), b"bytes");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o640, "no bits that lend rights to others");
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000, 5));
    assert_eq!(store.head(&key("a/b")).await.unwrap().attributes, Some(attributes.clone()));
    assert_eq!(list(&store, "").await.objects[0].modified, UnixTime { secs: 1_000, nanos: 5 });
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let changed = store.head(&key("a/b")).await.unwrap().attributes.unwrap();
    assert_eq!(
        changed,
        Attributes { mode: Some(0o600), ..attributes },
        "bits changed by another program show"
    );
}

#[tokio::test]
async fn files_of_other_programs_are_objects() {
    let (directory, store) = volume();
    let path = directory.path().join("foreign");
    fs::write(&path, b"one").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
    let first = store.head(&key("foreign")).await.unwrap();
    let attributes = first.attributes.clone().unwrap();
    assert_eq!((attributes.mode, attributes.uid), (Some(0o604), Some(fs::metadata(&path).unwrap().uid())));
    assert_eq!((first.id.size, &first.token, first.crc64), (3, &None, None));
    assert_eq!(list(&store, "").await.objects[0].id, first.id, "a listing names the same version");
    fs::write(&path, b"three").unwrap();
    let options = GetOptions { range: None, if_match: Some(first.id.etag.clone()) };
    assert_eq!(store.get(&key("foreign"), options).await.unwrap_err().kind, ErrorKind::Precondition);
    let stale = PutOptions { precondition: Precondition::Matches(first.id.etag), ..PutOptions::default() };
    let stale = store.put(&key("foreign"), Bytes::from_static(b"ours"), stale).await;
    assert_eq!(stale.unwrap_err().kind, ErrorKind::Precondition);
    assert_eq!(fs::read(&path).unwrap(), b"three");
}

#[tokio::test]
async fn an_edit_in_place_is_another_version() {
    let (directory, store) = volume();
    let ours = put(&store, "file", "ours").await.unwrap();
    assert!(ours.crc64.is_some());
    let path = directory.path().join("file");
    fs::write(&path, b"edit").unwrap();
    // Two writes within one tick of the file system's clock have the same time; an editor is not that fast.
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(SystemTime::now() + Duration::from_secs(1)).unwrap();
    let edited = store.head(&key("file")).await.unwrap();
    assert_ne!(edited.id.etag, ours.id.etag);
    assert_eq!(edited.crc64, None, "the checksum of other bytes does not count");
    assert_eq!(list(&store, "").await.objects[0].id, edited.id);
}

#[tokio::test]
async fn an_open_body_keeps_its_version() {
    let (directory, store) = volume();
    let long = "x".repeat(3 << 20);
    put(&store, "file", &long).await.unwrap();
    let body = store.get(&key("file"), GetOptions::default()).await.unwrap().body;
    put(&store, "file", "short").await.unwrap();
    assert!(
        body.try_collect::<Vec<_>>().await.unwrap().concat() == long.as_bytes(),
        "a replaced file is read on"
    );
    put(&store, "file", &long).await.unwrap();
    let mut body = store.get(&key("file"), GetOptions::default()).await.unwrap().body;
    body.try_next().await.unwrap().unwrap();
    fs::write(directory.path().join("file"), "edited in place").unwrap();
    let error = body.try_next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Precondition, "{error}");
    assert!(body.try_next().await.unwrap().is_none(), "a broken body ends");
}

#[tokio::test]
async fn nothing_leaves_the_directory() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), b"secret").unwrap();
    let (directory, store) = volume();
    symlink(outside.path(), directory.path().join("way-out")).unwrap();
    symlink(outside.path().join("secret"), directory.path().join("link")).unwrap();
    for name in ["../escape", "a/../../escape", "/etc/passwd", ".tetherfs/lock", "a//b"] {
        assert_eq!(put(&store, name, "x").await.unwrap_err().kind, ErrorKind::Refused, "{name}");
        assert_eq!(read(&store, name).await.unwrap_err().kind, ErrorKind::Refused, "{name}");
        let delete = store.delete(&key(name), DeleteOptions::default()).await;
        assert_eq!(delete.unwrap_err().kind, ErrorKind::Refused, "{name}");
    }
    for name in ["way-out/secret", "link", "way-out/"] {
        assert_eq!(read(&store, name).await.unwrap_err().kind, ErrorKind::NotFound, "{name}");
    }
    for name in ["way-out/new", "link"] {
        assert_eq!(put(&store, name, "x").await.unwrap_err().kind, ErrorKind::Refused, "{name}");
    }
    store.delete(&key("link"), DeleteOptions::default()).await.unwrap();
    store.delete(&key("way-out/secret"), DeleteOptions::default()).await.unwrap();
    assert!(directory.path().join("link").is_symlink(), "what is no object is not ours to remove");
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(files_in(outside.path()), 1, "nothing was written outside");
    let page = list(&store, "").await;
    assert_eq!((page.objects.len(), page.skipped), (0, 2), "links are counted and not shown");
    for prefix in ["way-out/", "../", ".tetherfs/", "a/../"] {
        assert_eq!(list(&store, prefix).await, ListPage::default(), "{prefix}");
    }
}

#[tokio::test]
async fn directories_and_files_do_not_share_a_name() {
    let (_directory, store) = volume();
    put(&store, "a", "file").await.unwrap();
    assert_eq!(put(&store, "a/b", "below").await.unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(put(&store, "a/", "").await.unwrap_err().kind, ErrorKind::Refused);
    put(&store, "d/", "").await.unwrap();
    assert_eq!(put(&store, "d", "file").await.unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(store.head(&key("d")).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(put(&store, "e/", "content").await.unwrap_err().kind, ErrorKind::Refused);
    let upload = store.begin_upload(&key("f/"), UploadOptions::default()).await;
    assert_eq!(upload.unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(keys(&store).await, ["a", "d/"]);
}

#[tokio::test]
async fn directories_outlive_their_objects() {
    let (_directory, store) = volume();
    put(&store, "a/b/c", "x").await.unwrap();
    assert_eq!(keys(&store).await, ["a/b/c"], "a directory with contents shows by them");
    store.delete(&key("a/"), DeleteOptions::default()).await.unwrap();
    assert_eq!(keys(&store).await, ["a/b/c"], "removing a directory leaves its contents");
    store.delete(&key("a/b/c"), DeleteOptions::default()).await.unwrap();
    assert_eq!(keys(&store).await, ["a/b/"]);
    let absent = PutOptions { precondition: Precondition::Absent, ..PutOptions::default() };
    let there = store.put(&key("a/b/"), Bytes::new(), absent).await;
    assert_eq!(there.unwrap_err().kind, ErrorKind::Precondition);
    let attributes = Attributes { mode: Some(0o750), ..Attributes::default() };
    let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
    let made = store.put(&key("a/b/"), Bytes::new(), options).await.unwrap();
    assert_eq!(store.head(&key("a/b/")).await.unwrap(), made);
    assert_eq!(made.attributes, Some(attributes));
    let replace =
        CopyOptions { metadata: MetadataDirective::Replace(Attributes::default()), ..CopyOptions::default() };
    store.copy(&made.id, &key("a/b/"), replace).await.unwrap();
    store.delete(&key("a/b/"), DeleteOptions::default()).await.unwrap();
    assert_eq!(keys(&store).await, ["a/"]);
}

#[tokio::test]
async fn one_of_two_creators_wins() {
    let (directory, one) = volume();
    let stores = [one, LocalStore::open(directory.path()).unwrap()];
    for round in 0..20 {
        let name = key(&format!("dir-{round}/file"));
        let create = |index: usize| {
            let options = PutOptions { precondition: Precondition::Absent, ..PutOptions::default() };
            stores[index].put(&name, Bytes::from(format!("by {index}")), options)
        };
        let (a, b) = future::join(create(0), create(1)).await;
        let (winner, lost) = match (a, b) {
            (Ok(_), Err(lost)) => (0, lost),
            (Err(lost), Ok(_)) => (1, lost),
            other => panic!("one must win: {other:?}"),
        };
        assert_eq!(lost.kind, ErrorKind::Precondition, "{lost}");
        let found = read(&stores[1 - winner], name.as_str()).await.unwrap();
        assert_eq!(found, format!("by {winner}").into_bytes());
    }
}

#[tokio::test]
async fn one_of_two_replacers_of_a_version_wins() {
    let (directory, one) = volume();
    let stores = [one, LocalStore::open(directory.path()).unwrap()];
    let mut etag = put(&stores[0], "file", "first").await.unwrap().id.etag;
    for _ in 0..20 {
        let replace = async |index: usize| {
            let options =
                PutOptions { precondition: Precondition::Matches(etag.clone()), ..PutOptions::default() };
            stores[index].put(&key("file"), Bytes::from(format!("by {index}")), options).await
        };
        let (winner, won, lost) = match future::join(replace(0), replace(1)).await {
            (Ok(won), Err(lost)) => (0, won, lost),
            (Err(lost), Ok(won)) => (1, won, lost),
            other => panic!("one must win: {other:?}"),
        };
        assert_eq!(lost.kind, ErrorKind::Precondition, "{lost}");
        assert_eq!(read(&stores[0], "file").await.unwrap(), format!("by {winner}").into_bytes());
        etag = won.id.etag;
    }
}

#[tokio::test]
async fn what_a_crash_leaves_does_not_show() {
    let (directory, store) = volume();
    let upload = store.begin_upload(&key("file"), UploadOptions::default()).await.unwrap();
    let receipt = store.put_part(&upload, part(0, 0, 5), Bytes::from_static(b"bytes")).await.unwrap();
    drop(store);
    let staged = directory.path().join(".tetherfs/staged");
    fs::write(staged.join("half a file"), b"half").unwrap();
    fs::create_dir(staged.join("half an upload")).unwrap();
    fs::write(staged.join("half an upload/00001"), b"part").unwrap();
    fs::create_dir(directory.path().join(".tetherfs/uploads/0123456789abcdef0123456789abcdef")).unwrap();

    let store = LocalStore::open(directory.path()).unwrap();
    assert_eq!(list(&store, "").await, ListPage::default());
    assert_eq!(files_in(&staged), 2, "young files may be another process's");
    let mut headless = upload.clone();
    headless.id.0 = "0123456789abcdef0123456789abcdef".to_owned();
    assert_eq!(store.upload_status(&headless).await.unwrap(), UploadStatus::Gone);

    let status = store.upload_status(&upload).await.unwrap();
    assert_eq!(status, UploadStatus::Parts(vec![receipt.clone()]), "an upload survives a restart");
    let completion = Completion { size: 5, precondition: Precondition::Absent, ..Completion::default() };
    store.complete_upload(&upload, &[receipt], completion).await.unwrap();
    assert_eq!(read(&store, "file").await.unwrap(), b"bytes");
    assert_eq!(keys(&store).await, ["file"]);
}

#[tokio::test]
async fn a_completion_happens_once() {
    let (_directory, store) = volume();
    let upload = store.begin_upload(&key("file"), UploadOptions::default()).await.unwrap();
    let receipt = store.put_part(&upload, part(0, 0, 5), Bytes::from_static(b"bytes")).await.unwrap();
    let parts = [receipt];
    let complete = || store.complete_upload(&upload, &parts, Completion { size: 5, ..Completion::default() });
    let results = future::join_all((0..4).map(|_| complete())).await;
    let won = results.iter().filter(|result| result.is_ok()).count();
    let gone = results.iter().filter(|r| r.as_ref().is_err_and(|e| e.kind == ErrorKind::UploadGone)).count();
    assert_eq!((won, gone), (1, 3), "{results:?}");
}

#[tokio::test]
async fn a_missing_directory_is_no_volume() {
    let directory = tempfile::tempdir().unwrap();
    let missing = LocalStore::open(&directory.path().join("missing")).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NoVolume);
    assert!(missing.to_string().contains("missing"), "{missing}");
    fs::write(directory.path().join("file"), b"").unwrap();
    let file = LocalStore::open(&directory.path().join("file")).unwrap_err();
    assert_eq!(file.kind, ErrorKind::Refused, "{file}");
}
