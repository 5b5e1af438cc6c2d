//! How many bytes reading may hold in memory, and for whom. Pure.
//!
//! A part is kept back for reads that somebody waits for, so that fetching ahead can never starve them.

/// Share of the memory kept back for demanded reads: one of this many.
const RESERVE_SHARE: u64 = 4;

/// Who wants memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Urgency {
    /// Somebody waits for the bytes.
    Demand,
    /// They may be of use later.
    Prefetch,
}

/// Bytes held or promised.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes_max: u64,
    used: u64,
}

impl Budget {
    pub(crate) fn new(bytes_max: u64) -> Budget {
        Budget { bytes_max, used: 0 }
    }

    /// Most that one demanded read should ask for at once.
    pub(crate) fn demand_bytes(&self) -> u64 {
        self.bytes_max / RESERVE_SHARE
    }

    /// Most that fetching ahead can hold.
    pub(crate) fn prefetch_bytes(&self) -> u64 {
        self.bytes_max - self.bytes_max / RESERVE_SHARE
    }

    /// How many bytes must be given back before these can be had.
    pub(crate) fn shortage(&self, bytes: u64, urgency: Urgency) -> u64 {
        let bytes_max = match urgency {
            Urgency::Demand => self.bytes_max,
            Urgency::Prefetch => self.prefetch_bytes(),
        };
        (self.used + bytes).saturating_sub(bytes_max)
    }

    /// Takes bytes of which there is no shortage.
    pub(crate) fn take(&mut self, bytes: u64) {
        self.used += bytes;
        debug_assert!(self.used <= self.bytes_max, "more memory was taken than there is");
    }

    /// Gives bytes back.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        debug_assert!(bytes <= self.used, "more memory was given back than was taken");
        self.used = self.used.saturating_sub(bytes);
    }

    /// Bytes held or promised.
    #[cfg(test)]
    pub(crate) fn used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefetch_leaves_the_reserve_to_demand() {
        let mut budget = Budget::new(100);
        assert_eq!(budget.shortage(75, Urgency::Prefetch), 0);
        budget.take(75);
        assert_eq!(budget.shortage(1, Urgency::Prefetch), 1);
        assert_eq!(budget.shortage(25, Urgency::Demand), 0);
        budget.take(25);
        assert_eq!(budget.shortage(10, Urgency::Demand), 10);
        budget.give_back(30);
        assert_eq!(budget.shortage(30, Urgency::Demand), 0);
        assert_eq!(budget.shortage(30, Urgency::Prefetch), 25);
        assert_eq!(budget.used(), 70);
    }
}
