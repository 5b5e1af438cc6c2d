//! Tests from outside: real mounts, real servers, crashes.

fn main() {}
