#!/usr/bin/env bash
# Holds a mount against what programs expect of a file system: pjdfstest, whose expected failures and their reasons are in
# scripts/posix/pjdfstest.toml, and fio writing and verifying. On the embedded bucket. Installs what is missing, needs
# root, takes everything down at the end. TETHERFS_BIN=FILE tries that program instead of building one.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

LIMIT_S=600
[ "$(id -u)" = 0 ] || die "run as root: pjdfstest becomes other users"
need_build
need_posix
TETHERFS=${TETHERFS_BIN:-}
# What begins so is a setting to the program itself.
unset TETHERFS_BIN
if [ -z "$TETHERFS" ]; then
    say "Building tetherfs"
    cargo build --release --locked --quiet
    TETHERFS=$PWD/target/release/tetherfs
fi

WORK=$(mktemp -d "${TMPDIR:-/tmp}/tetherfs-posix.XXXXXX")
MOUNT=$WORK/mnt
mkdir "$MOUNT" "$WORK/server"
# Other users go through it to the mount.
chmod 755 "$WORK"
export AWS_ACCESS_KEY_ID=posix AWS_SECRET_ACCESS_KEY=posix-secret AWS_REGION=us-east-1
export XDG_STATE_HOME=$WORK/state XDG_CACHE_HOME=$WORK/cache XDG_RUNTIME_DIR=$WORK XDG_CONFIG_HOME=$WORK/config
SERVER=
DAEMON=

clean_up() {
    local code=$?
    [ $code = 0 ] || { echo "FAILED. Last lines of the daemon's log:"; tail -n 20 "$WORK/daemon.log" 2>/dev/null || true; }
    [ -z "$DAEMON" ] || kill -KILL "$DAEMON" 2>/dev/null || true
    fusermount3 -uz "$MOUNT" 2>/dev/null || umount -l "$MOUNT" 2>/dev/null || true
    [ -z "$SERVER" ] || { kill "$SERVER" 2>/dev/null && wait "$SERVER" 2>/dev/null || true; }
    rm -rf "$WORK"
    exit $code
}
trap clean_up EXIT
trap 'exit 130' INT TERM

await() {
    for _ in $(seq 100); do
        "$@" && return
        sleep 0.1
    done
    die "still not so: $*"
}
is_serving() { ENDPOINT=$(grep -o 'http://127.0.0.1:[0-9]*' "$WORK/server.log" | head -n1); [ -n "$ENDPOINT" ]; }

"$TETHERFS" serve "$WORK/server" --listen 127.0.0.1:0 --bucket posix --access-key "$AWS_ACCESS_KEY_ID" \
    --secret-key "$AWS_SECRET_ACCESS_KEY" >"$WORK/server.log" 2>&1 &
SERVER=$!
await is_serving
"$TETHERFS" mount --foreground s3://posix "$MOUNT" --endpoint "$ENDPOINT" --allow-other >"$WORK/daemon.log" 2>&1 &
DAEMON=$!
await mountpoint -q "$MOUNT"
mkdir "$MOUNT/pjdfstest"
chmod 777 "$MOUNT/pjdfstest"

say "pjdfstest"
code=0
timeout "$LIMIT_S" "$TOOLS/bin/pjdfstest" -c scripts/posix/pjdfstest.toml -p "$MOUNT/pjdfstest" -s /dev/shm \
    >"$WORK/pjdfstest.out" 2>&1 || code=$?
grep '^Summary' "$WORK/pjdfstest.out" || die "pjdfstest did not come to its end: $(tail -n 3 "$WORK/pjdfstest.out")"
# What passes though it is in the list of failures is told too: the list is to become shorter.
[ $code = 0 ] || die "unexpectedly: $(grep -E ' (FAILED|PASSED UNEXPECTEDLY)$' "$WORK/pjdfstest.out" | tr -s ' ')"

say "fio"
# Written, closed, and read again by other processes: what was written is what is there, in the cache and in the bucket.
for job in "write 1M 96M" "randwrite 4k 16M" "randwrite 100k 64M" "randrw 16k 32M"; do
    set -- $job
    for pass in 0 1; do
        timeout "$LIMIT_S" fio --name="verify-$1-$2" --directory="$MOUNT" --rw="$1" --bs="$2" --size="$3" --numjobs=2 \
            --verify=crc32c --verify_fatal=1 --verify_state_save=0 --end_fsync=1 --group_reporting --minimal --verify_only="$pass" \
            >"$WORK/fio.out" 2>&1 || die "fio $job: $(tail -n 3 "$WORK/fio.out")"
        # The second time from the bucket.
        [ "$pass" = 1 ] || { sync "$MOUNT"/verify-*; "$TETHERFS" cache purge --yes "$MOUNT" >/dev/null; echo 3 >/proc/sys/vm/drop_caches; }
    done
    echo "$job: verified twice"
    rm -f "$MOUNT"/verify-*
done
"$TETHERFS" unmount "$MOUNT"
wait "$DAEMON"
DAEMON=
say "All as expected"
