#!/usr/bin/env bash
# Runs all tests: format, lints, documentation, units, shape, conformance on real servers, real mounts, crashes, and, as
# root, what posix.sh holds a mount against.
# Installs what is missing. Needs /dev/fuse, and root unless fusermount3 may mount.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

need_build
need_servers
say "Format, lints, documentation"
cargo fmt --check
cargo clippy --quiet --locked --all-targets -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps
say "Tests"
# Mounts of several tests at once are fine; more of them than cores only make their deadlines wrong.
RUST_BACKTRACE=0 cargo test --quiet --locked -- --test-threads="$(nproc)"
if [ "$(id -u)" = 0 ]; then
    TETHERFS_BIN=$PWD/target/debug/tetherfs scripts/posix.sh
fi
