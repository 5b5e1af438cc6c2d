//! A directory as a volume (`file:///dir`).

/// A directory as a volume.
#[derive(Debug)]
pub struct LocalStore {}
