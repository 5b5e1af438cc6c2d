//! One suite that every back end passes.
