//! The `tetherfs` command.

fn main() {}
