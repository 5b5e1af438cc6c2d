//! One suite that every back end passes, our own and foreign ones.
//!
//! Each check states one promise of [`ObjectStore`] and panics with a clear message where a store breaks it. A check reads
//! [`ObjectStore::capabilities`] and asks for what is promised there. It works below a random prefix of its own and
//! removes what it made; what a failed check leaves lies below `tetherfs-conformance-`.

mod listing;
mod objects;
mod scratch;
mod uploads;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use listing::{large_listing, listing_pages_and_directories};
pub use objects::{
    conditional_writes, copy_and_replace_metadata, crc_is_checked, delete_many, empty_objects,
    metadata_round_trip, odd_keys, put_get_head_delete, ranges_and_versions,
};
pub use uploads::{
    abort_frees, complete_conditionally, copy_part_pinned, offset_upload_resumes, parts_replaced_and_listed,
    parts_upload_resumes, unknown_upload_is_gone,
};

use crate::store::ObjectStore;

/// One check of the suite.
pub type Check = fn(Arc<dyn ObjectStore>) -> BoxFuture<'static, ()>;

/// All checks by name, for test programs that report each.
pub const CHECKS: [(&str, Check); 18] = [
    ("put_get_head_delete", |store| Box::pin(put_get_head_delete(store))),
    ("ranges_and_versions", |store| Box::pin(ranges_and_versions(store))),
    ("conditional_writes", |store| Box::pin(conditional_writes(store))),
    ("listing_pages_and_directories", |store| Box::pin(listing_pages_and_directories(store))),
    ("odd_keys", |store| Box::pin(odd_keys(store))),
    ("metadata_round_trip", |store| Box::pin(metadata_round_trip(store))),
    ("copy_and_replace_metadata", |store| Box::pin(copy_and_replace_metadata(store))),
    ("parts_upload_resumes", |store| Box::pin(parts_upload_resumes(store))),
    ("parts_replaced_and_listed", |store| Box::pin(parts_replaced_and_listed(store))),
    ("complete_conditionally", |store| Box::pin(complete_conditionally(store))),
    ("copy_part_pinned", |store| Box::pin(copy_part_pinned(store))),
    ("offset_upload_resumes", |store| Box::pin(offset_upload_resumes(store))),
    ("unknown_upload_is_gone", |store| Box::pin(unknown_upload_is_gone(store))),
    ("abort_frees", |store| Box::pin(abort_frees(store))),
    ("large_listing", |store| Box::pin(large_listing(store))),
    ("delete_many", |store| Box::pin(delete_many(store))),
    ("empty_objects", |store| Box::pin(empty_objects(store))),
    ("crc_is_checked", |store| Box::pin(crc_is_checked(store))),
];

/// Runs every check, one after the other. Panics at the first broken promise.
pub async fn run(store: Arc<dyn ObjectStore>) {
    for (name, check) in CHECKS {
        log::info!("Conformance check {name} of {}", store.volume());
        check(store.clone()).await;
    }
}
