//! S3 and what speaks like it.

/// Where the server is and who asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct S3Options {
    /// Server URL (`http://host:port` or `https://...`); Amazon's for the region when `None`.
    pub endpoint: Option<String>,
    /// Region to sign for; found out when `None`.
    pub region: Option<String>,
    /// Profile of the shared credentials and config files.
    pub profile: Option<String>,
    /// How the bucket is named in requests.
    pub addressing: AddressingStyle,
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
