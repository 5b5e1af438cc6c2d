#!/usr/bin/env bash
# Measures tetherfs beside other filesystems and beside what the server and the disk can do at most, in turn, on one
# embedded server on loopback. Installs what is missing, needs root, takes everything down at the end.
#   scripts/bench.sh [read|small|write|all] [--rounds N] [--size 1GiB] [--quick] [--json FILE]
#   scripts/bench.sh --help          what each part measures, and all options
# TETHERFS_BIN=FILE measures that program instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

for argument in "$@"; do
    case "$argument" in
        -h | --help) exec python3 -B scripts/bench/main.py --help ;;
    esac
done
[ "$(id -u)" = 0 ] || die "run as root: the page cache is dropped between measurements"
need_build
need_peers
if [ -z "${TETHERFS_BIN:-}" ]; then
    say "Building tetherfs"
    cargo build --release --locked --quiet
    TETHERFS_BIN=$PWD/target/release/tetherfs
fi
exec python3 -B scripts/bench/main.py --tetherfs "$TETHERFS_BIN" --rclone "$RCLONE" "$@"
