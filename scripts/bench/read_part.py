"""Part `read`: large objects. Cold means a fresh mount without caches; second, a remount with the disk cache of a whole
read and the page cache dropped; warm, once more right after."""

import random
import statistics
from pathlib import Path

import fio
from server import LATENCY_MS, RANGES_AT_ONCE, ranges_of
from stage import MIB_PER_S, MILLISECONDS, OPS_PER_S, Part, Row, Scene, Work

COMPARE_TIMEOUT_S = 180
FIRST_BYTE_TIMEOUT_S = 60
# So few that hardly any falls where an earlier one made a contender read ahead.
COLD_OPERATIONS = 200
COLD_LIMIT_S = 10
DISK_LIMIT_S = 5
WARM_S = 2
BLOCKS = {"4 KiB": 4 << 10, "128 KiB": 128 << 10}
FAR = f"{LATENCY_MS} ms: "
FIRST_BYTE = str(Path(__file__).with_name("first_byte.py"))


def cold_rows(prefix):
    return [
        Row(f"{prefix}cold", f"{prefix}cold, sequential", MIB_PER_S, "curl"),
        Row(f"{prefix}cold, kept", "  beside curl writing to that disk", MIB_PER_S, "curl", like=f"{prefix}cold"),
        Row(f"{prefix}streams", f"{prefix}cold, four streams at once", MIB_PER_S, "curl"),
        Row(f"{prefix}first", f"{prefix}first byte of a cold file", MILLISECONDS, "curl"),
        *(Row(f"{prefix}cold {block}", f"{prefix}cold, random {block}", OPS_PER_S, "curl") for block in BLOCKS),
    ]


ROWS = [
    *cold_rows(""),
    Row("second", "second read from the disk cache", MIB_PER_S, "local"),
    *(Row(f"disk {block}", f"disk cache, random {block}", OPS_PER_S, "local") for block in BLOCKS),
    Row("warm", "warm page cache, sequential", MIB_PER_S, "local"),
    *(Row(f"warm {block}", f"warm page cache, random {block}", OPS_PER_S, "local") for block in BLOCKS),
    *cold_rows(FAR),
]


# --- filesystems ---

def read_three_times(stage):
    with stage.mounted(fresh=True, keep=True, warm=["big"]) as mount:
        big = mount / "big"
        stage.measure("cold", lambda: fio.sequential(stage, big))
        measure_warm(stage, big)
    with stage.mounted(fresh=False) as mount:
        big = mount / "big"
        stage.measure("second", lambda: fio.sequential(stage, big))
        stage.run(["cmp", str(big), str(stage.data.big)], COMPARE_TIMEOUT_S)
        measure_from_disk(stage, big)


def cold_far(stage):
    with stage.mounted(fresh=True, warm=["big"], latency=True) as mount:
        stage.measure(f"{FAR}cold", lambda: fio.sequential(stage, mount / "big"))


def streams(prefix):
    def play(stage):
        names = stage.data.STREAMS
        with stage.mounted(fresh=True, warm=names, latency=bool(prefix)) as mount:
            stage.measure(f"{prefix}streams", lambda: fio.sequential(stage, *(mount / name for name in names)))
    return Scene((f"{prefix}streams",), play)


def first_byte(prefix):
    def play(stage):
        names = stage.data.FIRSTS

        def work():
            done = stage.run(["python3", FIRST_BYTE, *(str(mount / name) for name in names)], FIRST_BYTE_TIMEOUT_S)
            return Work(statistics.median(map(float, done.output.split())), done.cpu_s)

        with stage.mounted(fresh=True, warm=names, latency=bool(prefix)) as mount:
            stage.measure(f"{prefix}first", work)
    return Scene((f"{prefix}first",), play)


def random_cold(prefix, block):
    def play(stage):
        with stage.mounted(fresh=True, warm=["big"], latency=bool(prefix)) as mount:
            stage.measure(f"{prefix}cold {block}", lambda: fio.random(
                stage, mount / "big", BLOCKS[block], operations=COLD_OPERATIONS, limit_s=COLD_LIMIT_S))
    return Scene((f"{prefix}cold {block}",), play)


def measure_warm(stage, file):
    stage.measure("warm", lambda: fio.sequential(stage, file))
    for block, size in BLOCKS.items():
        stage.measure(f"warm {block}", lambda: fio.random_for(stage, file, size, seconds=WARM_S))


def measure_from_disk(stage, file):
    for block, size in BLOCKS.items():
        stage.drop_caches()
        # So few that hardly any block is met twice.
        operations = min(5000, stage.data.big_bytes // size // 8)
        stage.measure(f"disk {block}", lambda: fio.random(
            stage, file, size, operations=operations, limit_s=DISK_LIMIT_S))


WARM_ROWS = ("warm", *(f"warm {block}" for block in BLOCKS))
DISK_ROWS = ("second", *(f"disk {block}" for block in BLOCKS))


# --- ceilings ---

def curl_ranges(prefix):
    def play(stage):
        data, server = stage.data, stage.server
        outputs = stage.work / "ranges"
        outputs.mkdir(exist_ok=True)

        def ranges(names, size, outputs=None):
            transfers = [part for name in names for part in ranges_of(server.url(name), size, outputs)]
            done = server.curl(transfers, at_once=RANGES_AT_ONCE)
            return Work(done.seconds, done.cpu_s, amount_bytes=size * len(names))

        stage.drop_caches(["big", *data.STREAMS])
        with server.latency(bool(prefix)):
            stage.measure(f"{prefix}cold", lambda: ranges(["big"], data.big_bytes))
            stage.measure(f"{prefix}cold, kept", lambda: ranges(["big"], data.big_bytes, outputs))
            stage.measure(f"{prefix}streams", lambda: ranges(data.STREAMS, data.stream_bytes))
        for file in outputs.iterdir():
            file.unlink()
    return Scene(tuple(f"{prefix}{row}" for row in ("cold", "cold, kept", "streams")), play)


def curl_one_at_a_time(prefix):
    def play(stage):
        data, server = stage.data, stage.server
        stage.drop_caches(["big", *data.FIRSTS])
        with server.latency(bool(prefix)):
            stage.measure(f"{prefix}first", lambda: curl_first_bytes(stage))
            for block in BLOCKS:
                stage.measure(f"{prefix}cold {block}", lambda: curl_random(stage, BLOCKS[block]))
    return Scene((f"{prefix}first", *(f"{prefix}cold {block}" for block in BLOCKS)), play)


def curl_first_bytes(stage):
    done = stage.server.curl(
        [{"url": stage.server.url(name), "output": "/dev/null"} for name in stage.data.FIRSTS], at_once=1)
    return Work(statistics.median(done.first_bytes_s), done.cpu_s)


def curl_random(stage, size):
    places = random.Random(fio.SEED)
    starts = [places.randrange(stage.data.big_bytes // size) * size for _ in range(COLD_OPERATIONS)]
    done = stage.server.curl(
        [{"url": stage.server.url("big"), "range": f"{start}-{start + size - 1}", "output": "/dev/null"}
         for start in starts], at_once=1)
    return Work(done.transfers_s, done.cpu_s, amount_bytes=size * len(starts), operations=len(starts))


def local_file(stage):
    big = stage.data.big
    stage.drop_caches()
    stage.measure("second", lambda: fio.sequential(stage, big))
    measure_warm(stage, big)
    measure_from_disk(stage, big)


PART = Part(
    rows=ROWS,
    mounts=[
        Scene(("cold", *WARM_ROWS, *DISK_ROWS), read_three_times),
        Scene((f"{FAR}cold",), cold_far),
        *(scene for prefix in ("", FAR)
          for scene in (streams(prefix), first_byte(prefix), *(random_cold(prefix, block) for block in BLOCKS))),
    ],
    curl=[scene for prefix in ("", FAR) for scene in (curl_ranges(prefix), curl_one_at_a_time(prefix))],
    local=[Scene((*DISK_ROWS, *WARM_ROWS), local_file)],
)
