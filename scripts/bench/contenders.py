"""The filesystems: how each is mounted at its best, and unmounted so that its disk cache stays."""

import os
import shutil
import signal
import time

from machine import Daemon, Failure, detach, is_mounted, run
from server import ACCESS_KEY, BUCKET, REGION, SECRET_KEY

MOUNT_TIMEOUT_S = 30
UNMOUNT_TIMEOUT_S = 60


class Contender:
    """One filesystem over the bucket. Subclasses say how it is started and how it is asked to end."""

    name = ""
    # How long after the last close it needs until a remount knows what it has on disk.
    settle_s = 0

    def __init__(self, server, work):
        self.endpoint = server.endpoint
        self.mountpoint = work / self.name / "mnt"
        self.cache = work / self.name / "cache"
        self.state = work / self.name / "state"
        self._log = work / f"{self.name}.log"
        self.daemon = None

    def command(self):
        """What runs it in the foreground."""
        raise NotImplementedError

    def version(self):
        raise NotImplementedError

    def environment(self):
        """Nothing of the caller's own configuration comes through."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.state), "XDG_RUNTIME_DIR": str(self.state)}

    def mount(self, *, fresh):
        """Mounts; when `fresh`, without anything that earlier mounts left."""
        if fresh:
            self.forget()
        for directory in (self.mountpoint, self.cache, self.state):
            directory.mkdir(parents=True, exist_ok=True)
        self.daemon = Daemon(self.command(), log=self._log, env=self.environment())
        deadline = time.monotonic() + MOUNT_TIMEOUT_S
        while not is_mounted(self.mountpoint):
            if not self.daemon.alive():
                raise Failure(f"does not mount: {self.daemon.last_words()}")
            if time.monotonic() > deadline:
                raise Failure(f"has not mounted after {MOUNT_TIMEOUT_S} s")
            time.sleep(0.02)

    def unmount(self, *, keep):
        """Unmounts as its users do, and waits until it has ended; when `keep`, so that its disk cache is used again."""
        if keep:
            time.sleep(self.settle_s)
        run(self.unmount_command(), timeout_s=UNMOUNT_TIMEOUT_S, env=self.environment(), on_timeout=self.kill)
        self.daemon.wait(UNMOUNT_TIMEOUT_S)
        self.daemon = None

    def unmount_command(self):
        return ["umount", str(self.mountpoint)]

    def kill(self):
        """Ends it whatever state it is in; whoever waits for the mount gets an error."""
        if self.daemon:
            self.daemon.stop(signal.SIGKILL)
            self.daemon = None
        detach(self.mountpoint)

    def forget(self):
        """Removes its caches."""
        for directory in (self.cache, self.state):
            shutil.rmtree(directory, ignore_errors=True)


class Tetherfs(Contender):
    """Ours, with default options."""

    name = "tetherfs"
    extra = ()

    def __init__(self, server, work, program):
        super().__init__(server, work)
        self._program = program

    def command(self):
        return [self._program, "mount", f"s3://{BUCKET}", str(self.mountpoint), "--foreground",
                "--endpoint", self.endpoint, "--cache-dir", str(self.cache), "--state-dir", str(self.state),
                *self.extra]

    def unmount_command(self):
        return [self._program, "unmount", str(self.mountpoint)]

    def environment(self):
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_REGION": REGION}
        return super().environment() | keys

    def version(self):
        return run([self._program, "--version"], timeout_s=10).output.strip()


class TetherfsWithoutPassthrough(Tetherfs):
    """Ours as it is for users who are not root: every read of cached bytes goes through the daemon."""

    name = "no-passthru"
    extra = ("-o", "passthrough=false")

    @staticmethod
    def exists(program):
        return "passthrough" in run([program, "mount", "--help"], timeout_s=10).output


class TetherfsWithoutCache(Tetherfs):
    """Ours where nothing is kept on disk, as filesystems without a disk cache read."""

    name = "no-cache"
    extra = ("--cache-size", "0")


class TetherfsInBackground(Tetherfs):
    """Ours where close returns when the file is safe on the local disk."""

    name = "background"
    extra = ("--commit", "background")


class Rclone(Contender):
    """rclone with its disk cache and, as its documentation advises for S3, times from the listing and parallel streams
    of 4 MiB. Four of them, not its 16: sequentially that is within 6 %, and each random read fetches so much less that
    it is nine times as fast."""

    name = "rclone"
    mode = ("--vfs-cache-mode", "full", "--vfs-read-chunk-streams", "4", "--vfs-read-chunk-size", "4M")
    # Its records of ranges on disk are written when a file has been closed for 5 s.
    settle_s = 8

    def __init__(self, server, work, program):
        super().__init__(server, work)
        self._program = program

    def command(self):
        return [self._program, "mount", f"bench:{BUCKET}", str(self.mountpoint), "--cache-dir", str(self.cache),
                *self.mode, "--use-server-modtime"]

    def environment(self):
        remote = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.endpoint, "REGION": REGION,
                  "ACCESS_KEY_ID": ACCESS_KEY, "SECRET_ACCESS_KEY": SECRET_KEY}
        settings = {f"RCLONE_CONFIG_BENCH_{name}": value for name, value in remote.items()}
        return super().environment() | settings | {"RCLONE_CONFIG": os.devnull}

    def version(self):
        return run([self._program, "version"], timeout_s=10).output.splitlines()[0]


class RcloneWriting(Rclone):
    """rclone where it keeps on disk only what is written. It uploads right after the close and not its 5 s later, with
    as many parts at once as the ceiling, and eight files at once."""

    mode = ("--vfs-cache-mode", "writes", "--vfs-write-back", "100ms", "--transfers", "8", "--s3-upload-concurrency",
            "8", "--s3-chunk-size", "8M")


class S3fs(Contender):
    """s3fs with its disk cache and the parallel settings that were fastest here."""

    name = "s3fs"

    def command(self):
        options = [f"url={self.endpoint}", "use_path_request_style", "sigv4", f"use_cache={self.cache}",
                   "parallel_count=16", "multipart_size=8"]
        return ["s3fs", BUCKET, str(self.mountpoint), "-f", "-o", ",".join(options)]

    def environment(self):
        keys = {"AWSACCESSKEYID": ACCESS_KEY, "AWSSECRETACCESSKEY": SECRET_KEY}
        return super().environment() | keys

    def version(self):
        return run(["s3fs", "--version"], timeout_s=10).output.splitlines()[0]
