"""Part `small`: a directory of 1,000 files of 16 KiB, listed and then read by programs that know nothing of buckets."""

import os
import shutil

from machine import Failure
from server import LATENCY_MS
from stage import SECONDS, Part, Row, Scene, Work

TIMEOUT_S = 240
AT_ONCE = 32
FAR = f"{LATENCY_MS} ms: "


def rows(prefix):
    return [
        Row(f"{prefix}list", f"{prefix}ls -l, cold", SECONDS, "curl"),
        Row(f"{prefix}copy", f"{prefix}cp -r after the ls", SECONDS, "curl"),
        Row(f"{prefix}one", "  beside curl, one at a time", SECONDS, "curl", like=f"{prefix}copy"),
    ]


ROWS = [
    *rows(""),
    Row("tar", "tar after an ls, cold", SECONDS, "curl"),
    Row("again", "ls -l, cp -r from the disk cache", SECONDS, "local"),
    *rows(FAR),
]


# --- filesystems ---

def copied_twice(stage):
    copied(stage, "", keep=True)
    with stage.mounted(fresh=False, warm=keys(stage)) as mount:
        def work():
            first, second = listing(stage, mount), copying(stage, mount / "small")
            return Work(first.seconds + second.seconds, first.cpu_s + second.cpu_s)

        stage.measure("again", work)
        compare(stage)


def copied_far(stage):
    copied(stage, FAR, keep=False)


def copied(stage, prefix, *, keep):
    with stage.mounted(fresh=True, keep=keep, warm=keys(stage), latency=bool(prefix)) as mount:
        stage.measure(f"{prefix}list", lambda: listing(stage, mount))
        stage.measure(f"{prefix}copy", lambda: copying(stage, mount / "small"))
        compare(stage)


def archived(stage):
    def work():
        # tar reads nothing when it sees that it writes to /dev/null.
        done = stage.run(["bash", "-o", "pipefail", "-c", "tar --create small | wc --bytes"], TIMEOUT_S, cwd=mount)
        if int(done.output) < len(stage.data.small_names) * stage.data.SMALL_BYTES:
            raise Failure(f"tar: an archive of {done.output.strip()} bytes only")
        return Work(done.seconds, done.cpu_s)

    with stage.mounted(fresh=True, warm=keys(stage)) as mount:
        listing(stage, mount)
        stage.measure("tar", work)


def listing(stage, mount):
    done = stage.run(["ls", "-l", str(mount / "small")], TIMEOUT_S)
    seen = [line.rpartition(" ")[2] for line in done.output.splitlines()[1:]]
    if seen != stage.data.small_names:
        raise Failure(f"ls: {len(seen)} names instead of {len(stage.data.small_names)}")
    return Work(done.seconds, done.cpu_s)


def copying(stage, source):
    remove_copy(stage)
    done = stage.run(["cp", "-r", str(source), str(copy_of(stage))], TIMEOUT_S)
    return Work(done.seconds, done.cpu_s)


def compare(stage):
    stage.run(["diff", "-r", str(copy_of(stage)), str(stage.data.small)], TIMEOUT_S)


def copy_of(stage):
    return stage.work / "copy"


def remove_copy(stage):
    shutil.rmtree(copy_of(stage), ignore_errors=True)


def keys(stage):
    return [f"small/{name}" for name in stage.data.small_names]


# --- ceilings ---

def by_curl(prefix):
    def play(stage):
        stage.drop_caches(keys(stage))
        with stage.server.latency(bool(prefix)):
            stage.measure(f"{prefix}list", lambda: curl_listing(stage))
            stage.measure(f"{prefix}copy", lambda: curl_copying(stage, AT_ONCE))
            stage.measure(f"{prefix}one", lambda: curl_copying(stage, 1))
            if not prefix:
                stage.measure("tar", lambda: curl_copying(stage, AT_ONCE))
        compare(stage)
    return Scene(tuple(f"{prefix}{row}" for row in ("list", "copy", "one")) + (() if prefix else ("tar",)), play)


def curl_listing(stage):
    url = stage.server.url("?list-type=2&prefix=small%2F")
    done = stage.server.curl([{"url": url, "output": os.devnull}], at_once=1)
    return Work(done.transfers_s, done.cpu_s)


def curl_copying(stage, at_once):
    remove_copy(stage)
    copy_of(stage).mkdir()
    done = stage.server.curl(
        [{"url": stage.server.url(f"small/{name}"), "output": str(copy_of(stage) / name)}
         for name in stage.data.small_names], at_once=at_once)
    return Work(done.seconds, done.cpu_s)


def local_files(stage):
    def work():
        first = stage.run(["ls", "-l", str(stage.data.small)], TIMEOUT_S)
        second = copying(stage, stage.data.small)
        return Work(first.seconds + second.seconds, first.cpu_s + second.cpu_s)

    stage.drop_caches()
    stage.measure("again", work)


PART = Part(
    rows=ROWS,
    mounts=[
        Scene(("list", "copy", "again"), copied_twice),
        Scene(("tar",), archived),
        Scene((f"{FAR}list", f"{FAR}copy"), copied_far),
    ],
    curl=[by_curl(prefix) for prefix in ("", FAR)],
    local=[Scene(("again",), local_files)],
)
