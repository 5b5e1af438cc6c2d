//! The conformance suite over real servers: the embedded bucket with and without deviations, and foreign ones.

use std::sync::Arc;
use std::time::Duration;

use tetherfs::bucket::Quirks;
use tetherfs::observe::Metrics;
use tetherfs::store::{self, Identity, KeyPair, Location, Options, S3Options, Visit, conformance};
use tetherfs::types::ByteSize;

use crate::support::{Account, BUCKET, Bucket, Foreign, Served};

/// Runs every check through the S3 back end.
fn conforms(account: &Account) {
    conforms_but_for(&[], account);
}

/// Runs every check but the named ones, which a server is known not to pass whatever a client does.
fn conforms_but_for(known: &[(&str, &str)], account: &Account) {
    let Account { endpoint, region, access_key, secret_key } = account;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let keys = KeyPair { access_key: access_key.to_owned(), secret_key: secret_key.to_owned() };
    let options = Options {
        s3: S3Options {
            endpoint: Some(endpoint.to_owned()),
            region: Some(region.to_owned()),
            identity: Identity::Keys(keys),
            ..S3Options::default()
        },
        requests_max: 16,
        sending_bytes_max: ByteSize::mib(64),
        stall_timeout: Duration::from_secs(20),
        attempts_max: 3,
        backoff_max: Duration::from_secs(1),
    };
    let location: Location = format!("s3://{BUCKET}/some/prefix").parse().unwrap();
    runtime.block_on(async {
        let opened = store::open(&location, &options, Visit::First, Arc::new(Metrics::default())).await;
        let store = opened.unwrap().store;
        for (name, check) in conformance::CHECKS {
            match known.iter().find(|(check, _)| *check == name) {
                Some((_, why)) => eprintln!("{endpoint} is not asked for {name}: {why}"),
                None => check(store.clone()).await,
            }
        }
    });
}

#[test]
fn the_embedded_bucket_conforms() {
    let bucket = Bucket::start();
    conforms(&bucket.account());
}

#[test]
fn the_back_end_makes_up_for_a_server_that_ignores_conditions() {
    let bucket = Bucket::with(Quirks {
        ignores_put_if_none_match: true,
        ignores_put_if_match: true,
        ignores_complete_conditions: true,
        ignores_get_if_match: true,
        ignores_delete_if_match: true,
        ignores_copy_source_if_match: true,
        answers_range_with_200: true,
        changes_etag_after_complete: true,
        ..Quirks::default()
    });
    conforms(&bucket.account());
}

#[test]
fn the_back_end_copes_with_a_server_that_does_less() {
    let bucket = Bucket::with(Quirks {
        lists_no_uploads: true,
        answers_failed_complete_with_200: true,
        knows_no_crc64nvme: true,
        copies_no_parts: true,
        lists_space_as_plus: true,
        hides_md5: true,
        ..Quirks::default()
    });
    conforms(&bucket.account());
}

#[test]
fn garage_conforms() {
    let garage = Foreign::garage();
    conforms(&garage.account());
}

#[test]
fn rclone_serve_s3_conforms_as_far_as_files_can() {
    let rclone = Foreign::rclone();
    let known = [
        (
            "listing_pages_and_directories",
            "it keeps objects as files, so that a marker `dir/` is listed as `dir`",
        ),
        ("parts_replaced_and_listed", "a part can be sent once only"),
    ];
    conforms_but_for(&known, &rclone.account());
}
