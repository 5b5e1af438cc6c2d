//! A volume in memory, of either upload kind; the model for tests.

/// A volume in memory.
#[derive(Debug)]
pub struct MemoryStore {}
