"""Measures tetherfs beside rclone and s3fs, which use the same objects on the same server in turn, and beside two
ceilings: curl with parallel requests for ranges or parts, and a local file on the disk that the caches are on.

parts:
  read   one large object: cold, second read from the disk cache, warm; sequential, random, four streams, first byte
  small  1,000 files of 16 KiB: listed, copied, archived
  write  one large object written, 4 KiB changed in it, 1 MiB appended to it; 1,000 files of 16 KiB; 100 files written
         aside and renamed; 64 MiB in writes of 4 KiB; each until the last close returns and until it is in the bucket.
         Its contenders are tetherfs with --commit close and with --commit background, rclone with
         --vfs-cache-mode writes, and s3fs; its ceilings a parallel multipart upload, a compose of the object by the
         server, and a local write with fsync
The cold rows, the large write and the small files are measured a second time with 20 ms before each request is looked
at.
"""

import argparse
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import read_part
import small_part
import write_part
from contenders import (Rclone, RcloneWriting, S3fs, Tetherfs, TetherfsInBackground, TetherfsWithoutCache,
                        TetherfsWithoutPassthrough)
from machine import Failure, facts, run
from report import CEILINGS, Report
from server import LATENCY_MS, Data, Server
from stage import Stage

PARTS = {"read": read_part.PART, "small": small_part.PART, "write": write_part.PART}
UNITS = {"MiB": 1 << 20, "M": 1 << 20, "GiB": 1 << 30, "G": 1 << 30}
SMALL_FILES = 1000
SMALL_FILES_QUICK = 200


def main():
    options = parse()
    # A second Ctrl-C must not disturb the taking down that the first began.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    options.dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="tetherfs-bench.", dir=options.dir)).resolve()
    server, contenders = None, {}
    try:
        header = {"command": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": facts(work),
                  "size_bytes": options.size, "rounds": options.rounds, "latency_ms": LATENCY_MS}
        needed = options.size * 8 + (1 << 30)
        if header["machine"]["disk_free_bytes"] < needed:
            raise SystemExit(f"error: {options.dir} needs {needed >> 30} GiB free: choose another --dir or less --size")
        # A build that ends meanwhile must not change what is measured.
        options.tetherfs = shutil.copy(options.tetherfs, work / "tetherfs.measured")
        server = Server(options.tetherfs, work)
        contenders = {part: chosen(part, options, server, work) for part in options.parts}
        header["contenders"] = {
            part: {c.name: {"version": version(c), "command": c.command()} for c in those}
            for part, those in contenders.items()}
        header["ceilings"] = {"curl": run(["curl", "--version"], timeout_s=10).output.splitlines()[0],
                              "local": run(["fio", "--version"], timeout_s=10).output.strip(),
                              "direct": f"python {sys.version.split()[0]}"}
        introduce(header)
        progress("making the data")
        data = Data(server, work / "data", options.size, options.small_files)
        samples = perform(options, server, contenders, data, work)
        names = dict.fromkeys(contender.name for those in contenders.values() for contender in those)
        report = Report([*names, *CEILINGS], samples)
        for name in options.parts:
            report.print(name, PARTS[name].rows)
        report.print_disturbance()
        if options.json:
            report.write(options.json, header, {name: PARTS[name].rows for name in options.parts})
    finally:
        for contender in (contender for those in contenders.values() for contender in those):
            contender.kill()
        if server:
            server.stop()
        shutil.rmtree(work, ignore_errors=True)


def perform(options, server, contenders, data, work):
    """All parts, all rounds; who was first in a round is last in the next."""
    samples = []
    for part_name in options.parts:
        part = PARTS[part_name]
        players = [(c.name, c) for c in contenders[part_name]] + [(name, None) for name in CEILINGS]
        for number in range(options.rounds):
            turn = number % len(players)
            for name, contender in players[turn:] + players[:turn]:
                scenes = {"curl": part.curl, "local": part.local, "direct": part.direct}.get(name, part.mounts)
                stage = Stage(name, contender, server, data, work, part.rows, number)
                for scene in scenes:
                    progress(f"{part_name}, round {number + 1} of {options.rounds}: {name}: {scene.rows[0]}")
                    stage.play(scene)
                if contender:
                    contender.forget()
                samples += stage.samples
    return samples


def chosen(part, options, server, work):
    ours, theirs = [Tetherfs], Rclone
    if PARTS[part] is write_part.PART:
        ours, theirs = [Tetherfs, TetherfsInBackground], RcloneWriting
    elif TetherfsWithoutPassthrough.exists(options.tetherfs):
        ours += [TetherfsWithoutPassthrough, TetherfsWithoutCache]
    everyone = [*(kind(server, work, options.tetherfs) for kind in ours), theirs(server, work, options.rclone),
                S3fs(server, work)]
    names = [contender.name for contender in everyone]
    if options.only and not set(options.only) & set(names):
        raise SystemExit(f"error: --only: no such contender of {part}: there are {', '.join(names)}")
    return [contender for contender in everyone if contender.name in (options.only or names)]


def version(contender):
    try:
        return contender.version()
    except Failure as failure:
        return f"unknown: {failure}"


def parse():
    parser = argparse.ArgumentParser(
        prog="bench.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="read", help="what to measure")
    parser.add_argument("--rounds", type=int, help="how often; the tables show medians [default: 3]")
    parser.add_argument("--size", type=size, help="the large object [default: 1GiB]")
    parser.add_argument("--quick", action="store_true",
                        help="1 round with 256MiB, unless said otherwise, and 200 small files")
    parser.add_argument("--json", metavar="FILE", help="write all samples, medians and the machine to this file")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,...",
                        help="these contenders only")
    parser.add_argument("--dir", type=Path, default=Path("target/bench"),
                        help="a directory on a local disk, for caches, server and data [default: %(default)s]")
    parser.add_argument("--tetherfs", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rclone", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.small_files = SMALL_FILES_QUICK if options.quick else SMALL_FILES
    options.size = options.size or (256 << 20 if options.quick else 1 << 30)
    options.parts = list(PARTS) if options.part == "all" else [options.part]
    if options.rounds < 1 or options.size < 64 << 20:
        parser.error("at least one round, and 64MiB")
    return options


def size(text):
    found = re.fullmatch(r"(\d+)([A-Za-z]+)", text)
    if not found or found[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 256MiB or 1GiB")
    return int(found[1]) * UNITS[found[2]]


def introduce(header):
    machine = header["machine"]
    print(f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_bytes'] >> 30} GiB, "
          f"Linux {machine['kernel']}, {machine['filesystem']}, load {machine['load_before'][0]:.1f}")
    versions = {name: contender["version"] for those in header["contenders"].values()
                for name, contender in those.items()}
    for name, version_line in versions.items():
        print(f"{name + ':':<16}{version_line}")
    print(f"{header['size_bytes'] >> 20} MiB, {header['rounds']} rounds")


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def stop(number, _frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    try:
        main()
    except (Failure, OSError) as failure:
        sys.exit(f"error: {failure}")
    finally:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)
