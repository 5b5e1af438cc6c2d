//! Mounts that others make: users without privileges, by fusermount3, and mount(8).
//!
//! Each is made in namespaces of its own, in which things can be put where the system looks for them. They end with their
//! first process, and with them every other one and every mount.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;

use tetherfs::bucket::Operation;

use crate::support::{Rig, pattern, run_ok, sha256};

/// `nobody`, wherever there is one.
const USER: u32 = 65534;

/// What every script begins with: nothing in it waits for ever.
const PRELUDE: &str = r#"
await() {
    for _ in $(seq 600); do
        "$@" && return
        sleep 0.05
    done
    echo "still not so: $*" >&2
    exit 1
}
is_mounted() { grep -q " $MNT fuse.tetherfs " /proc/self/mounts; }
is_off() { ! is_mounted; }
"#;

/// Runs a shell script as root in namespaces of its own. `$TETHERFS`, `$MNT` and `$HOME` are what they say, `$@` is what
/// `tetherfs mount` is called with.
fn run_apart(rig: &Rig, script: &str) -> String {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-euc", &format!("{PRELUDE}{script}"), "sh"]).args(rig.mount_arguments());
    command.env_clear().envs(rig.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("TETHERFS", rig.home().join("tetherfs")).env("MNT", rig.mountpoint());
    command.env("BUILT", env!("CARGO_BIN_EXE_tetherfs"));
    run_ok(&mut command)
}

fn read(path: PathBuf) -> String {
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Gives the rig's directories to the user.
fn give_away(rig: &Rig) {
    let (home, mountpoint) = (rig.home(), rig.mountpoint());
    for directory in [home, &mountpoint] {
        chown(directory, Some(USER), Some(USER)).unwrap();
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
    }
}

/// What a user does, in a script as PRELUDE has it.
const AS_USER: &str = r#"
"$TETHERFS" mount --foreground "$@" >"$HOME/daemon.log" 2>&1 &
daemon=$!
await is_mounted
cp "$HOME/ours" "$MNT/ours"
cp "$MNT/theirs" "$HOME/first"
stat -c %u "$MNT/ours" >"$HOME/owner"
await sh -c '"$TETHERFS" cache stat --json "$MNT/theirs" | grep -q "\"is_whole\": *true"'
cp "$MNT/theirs" "$HOME/again"
"$TETHERFS" status --json "$MNT" >"$HOME/status"
"$TETHERFS" unmount "$MNT"
wait "$daemon"
is_off
"#;

#[test]
fn a_user_without_privileges_mounts_reads_writes_and_unmounts() {
    let rig = Rig::new();
    let (ours, theirs) = (pattern(1, 3 << 20), pattern(2, 700_000));
    rig.bucket.put("theirs", &theirs);
    fs::write(rig.home().join("ours"), &ours).unwrap();
    fs::write(rig.home().join("tetherfs"), "").unwrap();
    give_away(&rig);
    fs::write(rig.home().join("as-user"), format!("{PRELUDE}{AS_USER}")).unwrap();
    fs::create_dir(rig.home().join("dev")).unwrap();
    run_apart(
        &rig,
        r#"
        # The machine's own device may be root's alone. And the program may be where only root gets to.
        mount -t tmpfs tmpfs "$HOME/dev"
        mknod --mode=666 "$HOME/dev/fuse" c 10 229
        mount --bind "$HOME/dev/fuse" /dev/fuse
        mount --bind "$BUILT" "$TETHERFS"
        exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -eu "$HOME/as-user" "$@"
        "#,
    );
    let log = rig.log();
    assert_eq!(sha256(&rig.bucket.get("ours").unwrap()), sha256(&ours), "{log}");
    for copy in ["first", "again"] {
        assert_eq!(sha256(&fs::read(rig.home().join(copy)).unwrap()), sha256(&theirs), "{copy}");
    }
    assert_eq!(read(rig.home().join("owner")).trim(), USER.to_string());
    assert_eq!(rig.bucket.done(Operation::GetObject, "theirs"), 1, "the second time it came from the cache");
    let status: serde_json::Value = serde_json::from_str(&read(rig.home().join("status"))).unwrap();
    let passthrough = &status["kernel"]["passthrough"];
    assert_eq!(passthrough["state"], "off", "{status}");
    assert_eq!(passthrough["reason"], "only root may hand files to the kernel", "{status}");
    assert_eq!(status["metrics"]["passthrough_opens"], 0);
    assert_eq!(log.matches("Passthrough is off").count(), 1, "told once: {log}");
    assert!(!rig.is_mounted(), "of all this the rest of the machine sees nothing");
}

/// What mount(8) is called with, and where it looks for helpers.
const AS_ROOT: &str = r#"
url=$1
shift 2
options=_netdev,noatime,nofail,x-systemd.requires=network-online.target,log_file=$HOME/daemon.log
for flag in "$@"; do options="$options,${flag#--}"; done
mount -t tmpfs tmpfs /run
sbin=$(readlink -f /sbin)
mkdir "$HOME/over"
mount -t tmpfs tmpfs "$HOME/over"
mkdir "$HOME/over/upper" "$HOME/over/work"
mount -t overlay -o "lowerdir=$sbin,upperdir=$HOME/over/upper,workdir=$HOME/over/work" overlay "$sbin"
ln -s "$BUILT" "$sbin/mount.tetherfs"
ln -s "$BUILT" "$sbin/tetherfs"
is_gone() {
    for program in /proc/[0-9]*/exe; do
        [ "$(readlink "$program")" != "$BUILT" ] || return 1
    done
}
use_as() {
    is_mounted
    cp "$MNT/theirs" "$HOME/$1"
    cp "$HOME/ours" "$MNT/$1"
    umount "$MNT"
    is_off
    await is_gone
}
mount -t tetherfs -o "$options" "$url" "$MNT"
use_as mount.tetherfs
mount -t fuse.tetherfs -o "$options" "$url" "$MNT"
use_as mount.fuse3
echo "$url $MNT fuse.tetherfs $options 0 0" >"$HOME/fstab"
mount --fstab "$HOME/fstab" "$MNT"
use_as fstab
"#;

#[test]
fn mount_8_mounts_by_either_helper_and_by_fstab_and_umount_8_unmounts() {
    let rig = Rig::new();
    let (ours, theirs) = (pattern(3, 300_000), pattern(4, 700_000));
    rig.bucket.put("theirs", &theirs);
    fs::write(rig.home().join("ours"), &ours).unwrap();
    run_apart(&rig, AS_ROOT);
    for way in ["mount.tetherfs", "mount.fuse3", "fstab"] {
        assert_eq!(sha256(&fs::read(rig.home().join(way)).unwrap()), sha256(&theirs), "{way}: {}", rig.log());
        assert_eq!(sha256(&rig.bucket.get(way).unwrap()), sha256(&ours), "{way}: {}", rig.log());
    }
    assert_eq!(
        rig.bucket.done(Operation::GetObject, "theirs"),
        1,
        "the cache is the same however it is mounted"
    );
}
