//! Who still refers to an inode: the kernel by its lookup count, we ourselves by holds and pins.
//!
//! The kernel counts one lookup for each entry it was given and gives them back by forget, many at once. A hold is
//! the same for our own listings. A pin is a hold for a file that is open, whose content nobody else may change. An inode
//! with any of them stays in memory.

/// The references to one inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct References {
    lookups: u64,
    holds: u64,
    pins: u64,
}

impl References {
    /// Whether nobody refers to the inode.
    pub fn is_empty(self) -> bool {
        self.lookups == 0 && self.holds == 0 && self.pins == 0
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

    /// The file is open from now on.
    pub fn pin(&mut self) {
        self.pins += 1;
    }

    /// It is not any more, as far as one pin is concerned.
    pub fn unpin(&mut self) {
        debug_assert!(self.pins > 0, "an inode was unpinned that was not pinned");
        self.pins = self.pins.saturating_sub(1);
    }

    /// Whether the kernel has the inode, and perhaps its attributes.
    pub fn is_looked_up(self) -> bool {
        self.lookups > 0
    }

    /// Whether the file is open.
    pub fn is_pinned(self) -> bool {
        self.pins > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_keeps_an_inode() {
        let mut references = References::default();
        assert!(references.is_empty());
        references.count();
        references.count();
        references.hold();
        references.forget(2);
        assert!(!references.is_empty());
        references.pin();
        references.release();
        assert!(!references.is_empty() && references.is_pinned());
        references.unpin();
        assert!(references.is_empty() && !references.is_pinned());
        references.forget(1);
        assert!(references.is_empty());
    }
}
