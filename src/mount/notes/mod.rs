//! What is noted in a state directory of the volume and its server, for the next mount and for whoever looks at it.

mod metadata;
mod server;
mod volume;

pub use metadata::MetadataNote;
pub use server::ServerNote;
pub use volume::VolumeNote;
