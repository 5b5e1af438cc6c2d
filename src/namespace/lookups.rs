//! Who still refers to an inode: the kernel by its lookup count, we ourselves by holds.
//!
//! The kernel counts one lookup for each entry it was given and gives them back by forget, many at once. A hold is
//! the same for our own open handles and listings. An inode with either stays in memory.

/// The references to one inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct References {
    lookups: u64,
    holds: u64,
}

impl References {
    /// Whether nobody refers to the inode.
    pub fn is_empty(self) -> bool {
        self.lookups == 0 && self.holds == 0
    }

    /// The kernel was given the inode.
    pub fn count(&mut self) {
        self.lookups += 1;
    }

    /// The kernel gives `count` back. More than it was given leaves zero: an inode kept too long is a leak, an inode
    /// dropped too early is a wrong file.
    pub fn forget(&mut self, count: u64) {
        if count > self.lookups {
            log::warn!("The kernel gave back {count} lookups of an inode and had {}", self.lookups);
        }
        self.lookups = self.lookups.saturating_sub(count);
    }

    /// We begin to need the inode.
    pub fn hold(&mut self) {
        self.holds += 1;
    }

    /// We need it no more.
    pub fn release(&mut self) {
        debug_assert!(self.holds > 0, "an inode was released that was not held");
        self.holds = self.holds.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_keep_an_inode() {
        let mut references = References::default();
        assert!(references.is_empty());
        references.count();
        references.count();
        references.hold();
        references.forget(2);
        assert!(!references.is_empty());
        references.release();
        assert!(references.is_empty());
        references.forget(1);
        assert!(references.is_empty());
    }
}
