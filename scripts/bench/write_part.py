"""Part `write`: objects made and changed through a fresh mount. Each work has two figures: until the program has ended,
which is after its last close, and until the bucket has what was written, which is then fetched and compared."""

import itertools
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from machine import Failure, run
from server import BUCKET, LATENCY_MS, RANGE_BYTES, write_random
from stage import MIB_PER_S, MILLISECONDS, SECONDS, Part, Row, Scene, Work

WRITE_TIMEOUT_S = 240
ARRIVAL_TIMEOUT_S = 120
COMPARE_TIMEOUT_S = 180
AT_ONCE = 32
PATCH_BYTES = 4 << 10
TAIL_BYTES = 1 << 20
TINY_BYTES = 64 << 20
TINY_WRITES = ("bs=4K", f"count={TINY_BYTES >> 12}")
# What S3 takes as a part that is not the last: who changes less sends so much.
PART_BYTES_MIN = 5 << 20
# The most that S3 copies at once, and faster here than copies of 64, 128 and 256 MiB with eight at once.
COPY_BYTES = 5 << 30
SAVED_BYTES = 64 << 10
SAVED_FILES_MAX = 100
FAR = f"{LATENCY_MS} ms: "
SAVE = str(Path(__file__).with_name("save.py"))


def both(name, title, unit, ceiling="direct"):
    return [
        Row(name, title, unit, ceiling, costs=False),
        Row(f"{name}, arrived", "  until in the bucket", unit, ceiling, work=title),
    ]


def staged(name):
    return Row(f"{name}, staged", "  beside a local file and fsync", MIB_PER_S, "local", like=name)


def far_rows(prefix):
    """What is measured near and far."""
    return [
        *both(f"{prefix}put", f"{prefix}large object", MIB_PER_S),
        *([] if prefix else [staged("put")]),
        *both(f"{prefix}made", f"{prefix}cp -r of small files", SECONDS, "curl"),
        Row(f"{prefix}made, one", "  beside curl, one at a time", SECONDS, "curl", like=f"{prefix}made"),
    ]


ROWS = [
    *far_rows(""),
    *both("patch", "4 KiB changed in it", MILLISECONDS),
    *both("append", "1 MiB appended to it", MILLISECONDS),
    *both("saved", "files written aside, renamed", SECONDS, "curl"),
    *both("tiny", "64 MiB in writes of 4 KiB", MIB_PER_S),
    staged("tiny"),
    *far_rows(FAR),
]


# --- filesystems ---

def put(prefix):
    def play(stage):
        size = stage.data.big_bytes
        with emptied(stage, "put"), stage.mounted(fresh=True, latency=bool(prefix)) as mount:
            wake(stage.data.big)
            measure(stage, f"{prefix}put", dd(stage.data.big, mount / "put", "bs=1M"), "put", has_size("put", size),
                    amount_bytes=size)
            compare(stage, "put", [stage.data.big])
    return written(f"{prefix}put", play)


def tiny(stage):
    with emptied(stage, "tiny"), stage.mounted(fresh=True) as mount:
        wake(stage.data.big)
        program = dd(stage.data.big, mount / "tiny", *TINY_WRITES)
        measure(stage, "tiny", program, "tiny", has_size("tiny", TINY_BYTES), amount_bytes=TINY_BYTES)
        compare(stage, "tiny", [(stage.data.big, 0, TINY_BYTES)])


def patch(stage):
    size, at = stage.data.big_bytes, patched_at(stage)

    def program(file):
        return dd(local(stage, "patch"), file, f"bs={PATCH_BYTES}", f"seek={at // PATCH_BYTES}", "conv=notrunc")

    change(stage, "patch", program, size, [
        (stage.data.big, 0, at), (local(stage, "patch"), 0, PATCH_BYTES),
        (stage.data.big, at + PATCH_BYTES, size - at - PATCH_BYTES)])


def append(stage):
    def program(file):
        return dd(local(stage, "tail"), file, "bs=1M", "oflag=append", "conv=notrunc")

    change(stage, "append", program, stage.data.big_bytes + TAIL_BYTES, [stage.data.big, local(stage, "tail")])


def change(stage, key, program, size, content):
    """Changes a copy of the large object that nobody has seen before."""
    with emptied(stage, key):
        stage.server.ask("PUT", key, headers={"x-amz-copy-source": f"/{BUCKET}/big"})
        before = stage.server.look(key)[key]

        def arrived(seen):
            return seen.get(key, before) != before and seen[key][0] == size

        with stage.mounted(fresh=True, warm=[key]) as mount:
            measure(stage, key, program(mount / key), key, arrived)
            compare(stage, key, content)


def made(prefix):
    def play(stage):
        names = stage.data.small_names
        with emptied(stage, "made"), stage.mounted(fresh=True, latency=bool(prefix)) as mount:
            wake(*(stage.data.small / name for name in names))
            program = ["cp", "-r", str(stage.data.small), str(mount / "made")]
            measure(stage, f"{prefix}made", program, "made/0", all_there("made", names, stage.data.SMALL_BYTES))
            compare_all(stage, "made", stage.data.small)
    return written(f"{prefix}made", play)


def saved(stage):
    source = local(stage, "saved")
    names = sorted(file.name for file in source.iterdir())
    with emptied(stage, "saved"), stage.mounted(fresh=True) as mount:
        wake(*source.iterdir())
        (mount / "saved").mkdir()
        program = ["python3", SAVE, str(source), str(mount / "saved")]
        measure(stage, "saved", program, "saved/0", all_there("saved", names, SAVED_BYTES))
        compare_all(stage, "saved", source)


def measure(stage, row, program, prefix, arrived, amount_bytes=0):
    """Runs the program, then waits until the bucket has what it wrote."""
    def work():
        start = time.monotonic()
        closed = stage.run(program, WRITE_TIMEOUT_S)
        stage.server.wait_for(prefix, arrived, ARRIVAL_TIMEOUT_S)
        return [Work(seconds, closed.cpu_s, amount_bytes) for seconds in (closed.seconds, time.monotonic() - start)]

    stage.measure_all((row, f"{row}, arrived"), work)


def written(row, play):
    return Scene((row, f"{row}, arrived"), play)


def dd(source, target, *options):
    return ["dd", f"if={source}", f"of={target}", "status=none", *options]


def has_size(key, size):
    return lambda seen: key in seen and seen[key][0] == size


def all_there(directory, names, size):
    """A temporary name that is still there is not what was asked for, so exactly these."""
    wanted = {f"{directory}/{name}" for name in names}
    return lambda seen: seen.keys() == wanted and all(found == size for found, _ in seen.values())


# --- content ---

def compare(stage, key, pieces):
    """Fetches an object and compares it with local files, or with so many bytes of them from a place on."""
    fetched = stage.work / "fetched"
    stage.server.curl([{"url": stage.server.url(key), "output": str(fetched)}], at_once=1)
    at = 0
    for piece in pieces:
        file, start, length = piece if isinstance(piece, tuple) else (piece, 0, piece.stat().st_size)
        run(["cmp", f"--ignore-initial={at}:{start}", f"--bytes={length}", str(fetched), str(file)],
            timeout_s=COMPARE_TIMEOUT_S)
        at += length
    if fetched.stat().st_size != at:
        raise Failure(f"{key} has {fetched.stat().st_size} bytes and not {at}")
    fetched.unlink()


def compare_all(stage, directory, source):
    """Fetches the objects below a directory and compares them with local files."""
    fetched = stage.work / "fetched.all"
    shutil.rmtree(fetched, ignore_errors=True)
    fetched.mkdir()
    stage.server.curl([{"url": stage.server.url(f"{directory}/{file.name}"), "output": str(fetched / file.name)}
                       for file in source.iterdir()], at_once=AT_ONCE)
    run(["diff", "-r", str(fetched), str(source)], timeout_s=COMPARE_TIMEOUT_S)


@contextmanager
def emptied(stage, prefix):
    """Nothing is in the bucket below a prefix, before and after."""
    empty(stage.server, prefix)
    try:
        yield
    finally:
        empty(stage.server, prefix)


def empty(server, prefix):
    while keys := server.look(prefix):
        server.curl([{"url": server.url(key), "request": "DELETE"} for key in keys], at_once=AT_ONCE)


def patched_at(stage):
    """In the middle, and no place where a part of a usual size begins."""
    return stage.data.big_bytes // 2 + 3 * PATCH_BYTES


def local(stage, name):
    """What is written and not in the bucket before; made when first asked for."""
    directory = stage.data.directory / "written"
    if not directory.exists():
        (directory / "saved").mkdir(parents=True)
        write_random(directory / "patch", PATCH_BYTES)
        write_random(directory / "tail", TAIL_BYTES)
        for number in range(min(SAVED_FILES_MAX, len(stage.data.small_names) // 4)):
            write_random(directory / "saved" / f"{number:04}.txt", SAVED_BYTES)
    return directory / name


def wake(*files):
    """Brings local files into the page cache: what is measured is the writing."""
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.read(1 << 20):
                pass


# --- ceilings ---

def multipart(row, key, parts, content=None, size=lambda stage: 0):
    """An upload or a compose without a filesystem."""
    rows = (row, f"{row}, arrived")

    def play(stage):
        def work():
            start, cpu_before = time.monotonic(), time.process_time()
            stage.server.multipart(key, parts(stage, big))
            done = Work(time.monotonic() - start, time.process_time() - cpu_before, size(stage))
            return [done] * len(rows)

        with emptied(stage, key), open(stage.data.big, "rb") as big:
            stage.drop_caches(["big"])
            wake(stage.data.big)
            with stage.server.latency(row.startswith(FAR)):
                stage.measure_all(rows, work)
            if content:
                compare(stage, key, content(stage))
    return Scene(rows, play)


def whole(stage, big):
    return sent(big, stage.data.big_bytes)


def sent(file, size):
    return [(file, start, min(RANGE_BYTES, size - start)) for start in range(0, size, RANGE_BYTES)]


def patched(stage, big):
    """The least that S3 takes instead of the 4 KiB, between copies."""
    at = patched_at(stage)
    return [*copied(0, at), (big, at, PART_BYTES_MIN), *copied(at + PART_BYTES_MIN, stage.data.big_bytes)]


def appended(stage, big):
    return [*copied(0, stage.data.big_bytes), (big, 0, TAIL_BYTES)]


def copied(start, end):
    """Ranges of the large object for the server to copy, none of them too small."""
    edges = [*range(start, end - PART_BYTES_MIN, COPY_BYTES), end]
    return [(first, last - 1) for first, last in itertools.pairwise(edges)]


def curl_made(prefix):
    def play(stage):
        files = [stage.data.small / name for name in stage.data.small_names]
        with stage.server.latency(bool(prefix)):
            curl_files(stage, (f"{prefix}made", f"{prefix}made, arrived"), "made", files, AT_ONCE)
            curl_files(stage, (f"{prefix}made, one",), "made", files, 1)
    return Scene((f"{prefix}made", f"{prefix}made, arrived", f"{prefix}made, one"), play)


def curl_saved(stage):
    # The program that is imitated does not begin a file before it has closed and renamed the one before.
    curl_files(stage, ("saved", "saved, arrived"), "saved", list(local(stage, "saved").iterdir()), 1)


def curl_files(stage, rows, directory, files, at_once):
    def work():
        done = stage.server.curl(
            [{"url": stage.server.url(f"{directory}/{file.name}"), "upload-file": str(file)} for file in files],
            at_once=at_once)
        return [Work(done.seconds, done.cpu_s)] * len(rows)

    with emptied(stage, directory):
        wake(*files)
        stage.measure_all(rows, work)


def local_write(name, options, size):
    def play(stage):
        stage.drop_caches()
        wake(stage.data.big)
        target = stage.work / "staged"

        def work():
            done = stage.run(dd(stage.data.big, target, "conv=fsync", *options), WRITE_TIMEOUT_S)
            return Work(done.seconds, done.cpu_s, size(stage))

        try:
            stage.measure(f"{name}, staged", work)
        finally:
            target.unlink(missing_ok=True)
    return Scene((f"{name}, staged",), play)


PART = Part(
    rows=ROWS,
    mounts=[
        put(""), made(""), written("patch", patch), written("append", append), written("saved", saved),
        written("tiny", tiny), put(FAR), made(FAR),
    ],
    curl=[curl_made(""), written("saved", curl_saved), curl_made(FAR)],
    local=[
        local_write("put", ["bs=1M"], lambda stage: stage.data.big_bytes),
        local_write("tiny", TINY_WRITES, lambda stage: TINY_BYTES),
    ],
    direct=[
        *(multipart(f"{prefix}put", "put", whole, lambda stage: [stage.data.big], lambda stage: stage.data.big_bytes)
          for prefix in ("", FAR)),
        multipart("patch", "patch", patched, lambda stage: [stage.data.big]),
        multipart("append", "append", appended, lambda stage: [stage.data.big, (stage.data.big, 0, TAIL_BYTES)]),
        multipart("tiny", "tiny", lambda stage, big: sent(big, TINY_BYTES), size=lambda stage: TINY_BYTES),
    ],
)
