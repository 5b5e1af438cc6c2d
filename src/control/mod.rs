//! The door to the operator: a Unix socket that speaks JSON lines.
