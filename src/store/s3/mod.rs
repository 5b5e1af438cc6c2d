//! S3 and what speaks like it.
//!
//! Contract: [`S3Store`] is the store trait over one bucket's prefix. Keys get the prefix on the way out and lose it on
//! the way in. Where the server was seen to ignore a precondition ([`dialect::Dialect`]), the object is looked at first.
//! Wire format: Amazon S3 API reference, version 2006-03-01.

mod address;
mod client;
mod copy;
mod dialect;
mod list;
mod metadata;
mod objects;
mod open;
mod probe;
#[cfg(test)]
mod tests;
mod uploads;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::store::reach::Reach;
use crate::store::s3::client::S3Client;
pub use crate::store::s3::dialect::Dialect;
pub use crate::store::s3::open::Way;
use crate::store::{
    Capabilities, Completion, CopyOptions, DeleteOptions, Fetched, GetOptions, ListOptions, ListPage,
    ObjectStore, OpenError, PartReceipt, PartSlot, PutOptions, Result, Upload, UploadOptions, UploadStatus,
    Visit,
};
use crate::types::{ByteRange, Key, ObjectId, ObjectMeta};

pub use open::revisit::{FactsSender, ServerFacts};

/// Where the server is and who asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct S3Options {
    /// Server URL (`http://host:port` or `https://...`); when `None`, that of the environment or the config file, else
    /// Amazon's for the region.
    pub endpoint: Option<String>,
    /// Region to sign for; found out when `None`.
    pub region: Option<String>,
    /// How the bucket is named in requests.
    pub addressing: AddressingStyle,
    /// Who asks.
    pub identity: Identity,
}

/// Who asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Identity {
    /// Whoever Amazon's own tools would be: environment, default profile, web identity, the machine's role.
    #[default]
    Usual,
    /// A profile of the shared credentials and config files.
    Profile(String),
    /// The owner of these keys.
    Keys(KeyPair),
    /// Nobody: requests are not signed. For public buckets.
    Anonymous,
}

/// An access key and its secret. `Debug` does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The key's name.
    pub access_key: String,
    /// The key.
    pub secret_key: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({}, ***)", self.access_key)
    }
}

impl Identity {
    fn profile(&self) -> Option<&str> {
        match self {
            Identity::Profile(name) => Some(name),
            Identity::Usual | Identity::Keys(_) | Identity::Anonymous => None,
        }
    }
}

/// How the bucket is named in requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AddressingStyle {
    /// Path style for custom endpoints, virtual-host style otherwise.
    #[default]
    Auto,
    /// `https://host/bucket/key`
    Path,
    /// `https://bucket.host/key`
    VirtualHost,
}

/// A bucket, or the part of it below a prefix.
#[derive(Debug)]
pub struct S3Store {
    client: S3Client,
    volume: String,
    dialect: Dialect,
    capabilities: Capabilities,
}

impl S3Store {
    fn new(client: S3Client, volume: String, dialect: Dialect) -> S3Store {
        let capabilities = dialect.capabilities();
        S3Store { client, volume, dialect, capabilities }
    }

    fn facts(&self) -> ServerFacts {
        let (volume, region) = (self.volume.clone(), self.client.region().to_owned());
        ServerFacts { volume, region, dialect: self.dialect.clone() }
    }
}

/// Opens a bucket's part below `prefix` (empty, or ending in `/`). Only on a first visit the server must answer.
pub async fn open(
    (bucket, prefix): (&str, &str),
    options: &S3Options,
    stall_timeout: Duration,
    visit: Visit,
    reach: &Reach,
    facts: FactsSender,
) -> Result<Arc<dyn ObjectStore>, OpenError> {
    let way = Way::find(bucket, prefix, options, stall_timeout).await?;
    let remembered = match visit {
        Visit::Again(None) => None,
        Visit::Again(Some(remembered)) if way.leads_to_volume_of(&remembered) => Some(remembered),
        // What was opened before is another volume.
        Visit::Again(Some(_)) | Visit::First => {
            let asked = way.ask().await?;
            // Whoever wanted the facts may have gone.
            facts.send(asked.facts()).ok();
            return Ok(Arc::new(asked));
        }
    };
    Ok(open::revisit::revisit(way, remembered, reach.clone(), facts).await?)
}

#[async_trait]
impl ObjectStore for S3Store {
    fn volume(&self) -> &str {
        &self.volume
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.head_object(key).await
    }

    async fn get(&self, key: &Key, options: GetOptions) -> Result<Fetched> {
        self.get_object(key, options).await
    }

    async fn list(&self, options: ListOptions) -> Result<ListPage> {
        self.list_objects(options).await
    }

    async fn put(&self, key: &Key, body: Bytes, options: PutOptions) -> Result<ObjectMeta> {
        self.put_object(key, body, options).await
    }

    async fn copy(&self, source: &ObjectId, target: &Key, options: CopyOptions) -> Result<ObjectMeta> {
        self.copy_object(source, target, options).await
    }

    async fn delete(&self, key: &Key, options: DeleteOptions) -> Result<()> {
        self.delete_object(key, options).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<Vec<Result<()>>> {
        self.delete_objects(keys).await
    }

    async fn begin_upload(&self, key: &Key, options: UploadOptions) -> Result<Upload> {
        self.create_upload(key, options).await
    }

    async fn upload_status(&self, upload: &Upload) -> Result<UploadStatus> {
        self.list_parts(upload).await
    }

    async fn put_part(&self, upload: &Upload, slot: PartSlot, body: Bytes) -> Result<PartReceipt> {
        self.upload_part(upload, slot, body).await
    }

    async fn copy_part(
        &self,
        upload: &Upload,
        slot: PartSlot,
        source: &ObjectId,
        range: ByteRange,
    ) -> Result<PartReceipt> {
        self.upload_part_copy(upload, slot, source, range).await
    }

    async fn complete_upload(
        &self,
        upload: &Upload,
        parts: &[PartReceipt],
        completion: Completion,
    ) -> Result<ObjectMeta> {
        self.join_parts(upload, parts, completion).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<()> {
        self.drop_upload(upload).await
    }
}
