//! Stores around a store, one duty each.
