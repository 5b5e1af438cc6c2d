#!/usr/bin/env bash
# The main job, end to end, on the embedded bucket: real files in and out, the daemon killed in the middle of an upload
# and of a download, and both going on after a remount. Installs what is missing, takes everything down at the end.
#   scripts/demo.sh          run, compare, clean up; exit code 0 when every byte was right
#   scripts/demo.sh --keep   leave the mount and the server running for playing
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh

KEEP=no
case "${1:-}" in
    --keep) KEEP=yes ;;
    '') ;;
    *) die "usage: scripts/demo.sh [--keep]" ;;
esac

PART_MIB=8
BIG_MIB=1024
PREFETCH_MIB=64
need_build
say "Building tetherfs"
cargo build --release --locked --quiet
TETHERFS=$PWD/target/release/tetherfs

WORK=$(mktemp -d "${TMPDIR:-/tmp}/tetherfs-demo.XXXXXX")
MOUNT=$WORK/mnt
mkdir "$MOUNT" "$WORK/server"
export AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo-secret AWS_REGION=us-east-1
export XDG_STATE_HOME=$WORK/state XDG_CACHE_HOME=$WORK/cache XDG_RUNTIME_DIR=$WORK XDG_CONFIG_HOME=$WORK/config
SERVER=
DAEMON=

clear_mount() {
    if mountpoint -q "$MOUNT" 2>/dev/null || ! stat "$MOUNT" >/dev/null 2>&1; then
        fusermount3 -uz "$MOUNT" 2>/dev/null || umount -l "$MOUNT" 2>/dev/null || true
    fi
}
clean_up() {
    local code=$?
    if [ $KEEP = yes ] && [ $code = 0 ]; then return; fi
    [ $code = 0 ] || { echo "FAILED. Last lines of the daemon's log:"; tail -n 20 "$WORK/daemon.log" 2>/dev/null || true; }
    [ -z "$DAEMON" ] || kill -KILL "$DAEMON" 2>/dev/null || true
    clear_mount
    [ -z "$SERVER" ] || { kill "$SERVER" 2>/dev/null && wait "$SERVER" 2>/dev/null || true; }
    rm -rf "$WORK"
    exit $code
}
trap clean_up EXIT
trap 'exit 130' INT TERM

# --- the server and its door for faults and counts ---
start_server() {
    "$TETHERFS" serve "$WORK/server" --listen 127.0.0.1:0 --bucket demo --admin \
        --access-key "$AWS_ACCESS_KEY_ID" --secret-key "$AWS_SECRET_ACCESS_KEY" >"$WORK/server.log" 2>&1 &
    SERVER=$!
    for _ in $(seq 100); do
        ENDPOINT=$(grep -o 'http://127.0.0.1:[0-9]*' "$WORK/server.log" | head -n1) && return
        sleep 0.1
    done
    die "the server does not start: $(cat "$WORK/server.log")"
}
admin() { curl --silent --show-error --fail --max-time 10 "$@"; }
requests() { admin "$ENDPOINT/-/requests"; }
# One number of the server's counts: count OPERATION requests|received|sent
count() { requests | python3 -c "import json,sys; print(json.load(sys.stdin)['counts'].get('$1',{}).get('$2',0))"; }
# How many requests about one key there were, answered or not: asked OPERATION KEY
asked() { requests | python3 -c "
import json, sys
print(sum(r['operation'] == '$1' and r['key'] == '$2' for r in json.load(sys.stdin)['recent']))"; }
reset_counts() { admin --request POST "$ENDPOINT/-/requests/reset" >/dev/null; }
faults() { admin --request POST --data "$1" "$ENDPOINT/-/faults" >/dev/null; }
no_faults() { admin --request DELETE "$ENDPOINT/-/faults" >/dev/null; }
direct() {
    curl --silent --show-error --fail --header 'x-amz-content-sha256: UNSIGNED-PAYLOAD' \
        --aws-sigv4 aws:amz:us-east-1:s3 --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" "$@"
}

# --- the mount ---
mount_it() {
    "$TETHERFS" mount s3://demo "$MOUNT" --endpoint "$ENDPOINT" --part-size ${PART_MIB}M --prefetch ${PREFETCH_MIB}M \
        --log-file "$WORK/daemon.log" "$@"
    DAEMON=$("$TETHERFS" status --json "$MOUNT" | python3 -c 'import json,sys; print(json.load(sys.stdin)["pid"])')
}
kill_daemon() {
    kill -KILL "$DAEMON"
    while kill -0 "$DAEMON" 2>/dev/null; do sleep 0.02; done
    DAEMON=
    clear_mount
}
unmount_it() {
    "$TETHERFS" unmount "$MOUNT"
    DAEMON=
}
# Asks until a command says yes, at most a minute: wait_until DESCRIPTION COMMAND...
wait_until() {
    local what=$1
    shift
    for _ in $(seq 3000); do
        "$@" && return
        sleep 0.02
    done
    die "waited a minute for: $what"
}
sum() { sha256sum | cut -d' ' -f1; }
equal() { [ "$1" = "$2" ] || die "$3: $1 is not $2"; printf '   same: %s (%s...)\n' "$3" "${1:0:16}"; }

say "Starting the embedded bucket and mounting it"
start_server
mount_it
echo "   $ENDPOINT -> $MOUNT"

# --- 1: a tree of real files ---
say "Copying real files in"
SOURCES=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/ | head -n1)
mkdir "$WORK/tree"
files=0
for crate in "$SOURCES"*/; do
    # Symbolic links are not among the things this mount keeps yet.
    [ -n "$(find "$crate" -type l -print -quit)" ] && continue
    [ "$(du -sm "$crate" | cut -f1)" -le 10 ] || continue
    cp -r "$crate" "$WORK/tree/"
    files=$(find "$WORK/tree" -type f | wc -l)
    [ "$files" -ge 2000 ] && break
done
[ "$files" -ge 2000 ] || die "only $files files found below $SOURCES"
REAL=$(find "$(rustc --print sysroot)" -type f -size +128M | head -n1)
[ -n "$REAL" ] || REAL=$(find /usr /opt "$HOME" -xdev -type f -size +128M 2>/dev/null | head -n1)
[ -n "$REAL" ] || die "no file of 128 MiB found on this machine"
head -c ${BIG_MIB}M /dev/urandom >"$WORK/big"
start=$SECONDS
cp -r "$WORK/tree" "$MOUNT/tree"
echo "   $files files, $(du -sh "$WORK/tree" | cut -f1), in $((SECONDS - start)) s"
start=$SECONDS
cp "$REAL" "$MOUNT/real.bin"
echo "   $REAL, $(du -h "$REAL" | cut -f1), in $((SECONDS - start)) s"

say "Listing and comparing: through the mount, and directly from the server"
equal "$(find "$MOUNT/tree" -type f | wc -l)" "$files" "number of files listed"
(cd "$WORK/tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$WORK/want.sums"
(cd "$MOUNT/tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$WORK/mount.sums"
equal "$(sum <"$WORK/mount.sums")" "$(sum <"$WORK/want.sums")" "SHA-256 of $files files through the mount"
mkdir "$WORK/direct"
(cd "$WORK/tree" && find . -type f) | python3 -c '
import sys, urllib.parse
endpoint, out = sys.argv[1:]
for name in sys.stdin.read().split("\n"):
    if name:
        key = urllib.parse.quote("tree/" + name[2:], safe="/-._~")
        print(f"url = \"{endpoint}/demo/{key}\"\noutput = \"{out}/{name[2:]}\"")
' "$ENDPOINT" "$WORK/direct" >"$WORK/direct.curl"
direct --create-dirs --config "$WORK/direct.curl"
(cd "$WORK/direct" && find . -type f -print0 | sort -z | xargs -0 sha256sum) >"$WORK/direct.sums"
equal "$(sum <"$WORK/direct.sums")" "$(sum <"$WORK/want.sums")" "SHA-256 of $files files directly from the server"
want=$(sum <"$REAL")
equal "$(sum <"$MOUNT/real.bin")" "$want" "real.bin through the mount"
equal "$(direct "$ENDPOINT/demo/real.bin" | sum)" "$want" "real.bin directly from the server"

# --- 2: killed in the middle of an upload ---
say "Uploading $BIG_MIB MiB and killing the daemon (SIGKILL) at about 50 %"
big=$(sum <"$WORK/big")
parts=$((BIG_MIB / PART_MIB))
reset_counts
faults '[{"operation":"UploadPart","action":{"kind":"delay","ms":400}}]'
cp "$WORK/big" "$MOUNT/big.bin" 2>"$WORK/cp.err" &
copy=$!
half_sent() { [ "$(asked UploadPart big.bin)" -ge $((parts / 2)) ]; }
sealed() { "$TETHERFS" status --json "$MOUNT" | python3 -c '
import json, sys
sys.exit(0 if any(s["state"] == "sending" for s in json.load(sys.stdin)["sessions"]) else 1)'; }
wait_until "cp has written everything and waits in close" sealed
wait_until "half of the parts are on their way" half_sent
kill_daemon
wait $copy && die "cp did not notice" || echo "   cp: $(cat "$WORK/cp.err" | head -n1)"
before=$(asked UploadPart big.bin)
no_faults
direct --output /dev/null "$ENDPOINT/demo/big.bin" 2>/dev/null && die "a half object is in the bucket" ||
    echo "   killed after $before of $parts parts; nothing is in the bucket under that name"
mount_it
visible() { direct --head "$ENDPOINT/demo/big.bin" >/dev/null 2>&1; }
wait_until "the upload goes on by itself" visible
sent=$(asked UploadPart big.bin)
equal "$(direct "$ENDPOINT/demo/big.bin" | sum)" "$big" "big.bin directly from the server"
echo "   $parts parts, $sent sent: $((sent - parts)) sent twice (those in flight at the kill)"
[ $((sent - parts)) -le 8 ] || die "more parts were sent twice than were in flight"
[ "$(asked CompleteMultipartUpload big.bin)" = 1 ] || die "completed more than once"

# --- 3: killed in the middle of a download ---
say "Reading it cold and killing the daemon (SIGKILL) at about 50 %"
unmount_it
mount_it
reset_counts
faults '[{"operation":"GetObject","action":{"kind":"bandwidth","bytes_per_s":41943040}}]'
cat "$MOUNT/big.bin" >/dev/null 2>"$WORK/cat.err" &
reader=$!
half_read() { [ "$(count GetObject sent)" -ge $((BIG_MIB / 2 * 1048576)) ]; }
wait_until "half of it has been fetched" half_read
kill_daemon
wait $reader && die "cat did not notice" || echo "   cat: $(cat "$WORK/cat.err" | head -n1)"
no_faults
first=$(count GetObject sent)
mount_it
equal "$(sum <"$MOUNT/big.bin")" "$big" "big.bin through the mount"
fetched=$(count GetObject sent)
twice=$((fetched - BIG_MIB * 1048576))
echo "   $((first / 1048576)) MiB before the kill, $(((fetched - first) / 1048576)) MiB after: $((twice / 1048576)) MiB fetched twice"
[ "$twice" -le $((PREFETCH_MIB * 1048576)) ] || die "more than one window was fetched twice"

# --- 4: everyday changes ---
say "Editing in place, renaming, deleting"
cp "$WORK/big" "$WORK/edited"
printf 'edited in place' | dd of="$WORK/edited" bs=1 seek=500000000 conv=notrunc status=none
reset_counts
printf 'edited in place' | dd of="$MOUNT/big.bin" bs=1 seek=500000000 conv=notrunc status=none
echo "   15 bytes changed in $BIG_MIB MiB: $(($(count UploadPart received) / 1048576)) MiB sent, the rest copied by the server"
equal "$(direct "$ENDPOINT/demo/big.bin" | sum)" "$(sum <"$WORK/edited")" "big.bin after the edit"
mv "$MOUNT/big.bin" "$MOUNT/renamed.bin"
equal "$(direct "$ENDPOINT/demo/renamed.bin" | sum)" "$(sum <"$WORK/edited")" "renamed.bin"
visible && die "the old name is still there"
rm "$MOUNT/renamed.bin"
direct --head "$ENDPOINT/demo/renamed.bin" >/dev/null 2>&1 && die "the deleted file is still there"
echo "   renamed and deleted"

if [ $KEEP = yes ]; then
    say "Left for playing"
    echo "   mount:    $MOUNT"
    echo "   bucket:   $ENDPOINT/demo (access key $AWS_ACCESS_KEY_ID, secret key $AWS_SECRET_ACCESS_KEY)"
    echo "   status:   XDG_RUNTIME_DIR=$WORK $TETHERFS status"
    echo "   the end:  XDG_RUNTIME_DIR=$WORK $TETHERFS unmount $MOUNT; kill $SERVER; rm -r $WORK"
    exit 0
fi
say "Unmounting"
unmount_it
mountpoint -q "$MOUNT" && die "still mounted"
say "All bytes were right."
