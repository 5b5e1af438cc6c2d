"""Measures tetherfs beside rclone and s3fs, which read the same objects from the same server in turn, and beside two
ceilings: curl with parallel ranged requests, and a local file on the disk that the caches are on.

parts:
  read   one large object: cold, second read from the disk cache, warm; sequential, random, four streams, first byte
  small  1,000 files of 16 KiB: listed, copied, archived
The cold rows are measured a second time with 20 ms before each request is looked at.
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
from contenders import Rclone, S3fs, Tetherfs, TetherfsWithoutPassthrough
from machine import Failure, facts, run
from report import CEILINGS, Report
from server import LATENCY_MS, Data, Server
from stage import Stage

PARTS = {"read": read_part.PART, "small": small_part.PART}
UNITS = {"MiB": 1 << 20, "M": 1 << 20, "GiB": 1 << 30, "G": 1 << 30}
SMALL_FILES = 1000


def main():
    options = parse()
    # A second Ctrl-C must not disturb the taking down that the first began.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    options.dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="tetherfs-bench.", dir=options.dir)).resolve()
    server, contenders = None, []
    try:
        header = {"command": sys.argv, "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": facts(work),
                  "size_bytes": options.size, "rounds": options.rounds, "latency_ms": LATENCY_MS}
        needed = options.size * 6 + (1 << 30)
        if header["machine"]["disk_free_bytes"] < needed:
            raise SystemExit(f"error: {options.dir} needs {needed >> 30} GiB free: choose another --dir or less --size")
        # A build that ends meanwhile must not change what is measured.
        options.tetherfs = shutil.copy(options.tetherfs, work / "tetherfs.measured")
        server = Server(options.tetherfs, work)
        contenders = chosen(options, server, work)
        header["contenders"] = {c.name: {"version": version(c), "command": c.command()} for c in contenders}
        header["ceilings"] = {"curl": run(["curl", "--version"], timeout_s=10).output.splitlines()[0],
                              "local": run(["fio", "--version"], timeout_s=10).output.strip()}
        introduce(header)
        progress("making the data")
        data = Data(server, work / "data", options.size, SMALL_FILES)
        samples = perform(options, server, contenders, data, work)
        report = Report([contender.name for contender in contenders], samples)
        for name in options.parts:
            report.print(name, PARTS[name].rows)
        report.print_disturbance()
        if options.json:
            report.write(options.json, header, {name: PARTS[name].rows for name in options.parts})
    finally:
        for contender in contenders:
            contender.kill()
        if server:
            server.stop()
        shutil.rmtree(work, ignore_errors=True)


def perform(options, server, contenders, data, work):
    """All parts, all rounds; who was first in a round is last in the next."""
    samples = []
    players = [(contender.name, contender) for contender in contenders] + [(name, None) for name in CEILINGS]
    for part_name in options.parts:
        part = PARTS[part_name]
        for number in range(options.rounds):
            turn = number % len(players)
            for name, contender in players[turn:] + players[:turn]:
                scenes = {"curl": part.curl, "local": part.local}.get(name, part.mounts)
                stage = Stage(name, contender, server, data, work, part.rows, number)
                for scene in scenes:
                    progress(f"{part_name}, round {number + 1} of {options.rounds}: {name}: {scene.rows[0]}")
                    stage.play(scene)
                if contender:
                    contender.forget()
                samples += stage.samples
    return samples


def chosen(options, server, work):
    everyone = [Tetherfs(server, work, options.tetherfs)]
    if TetherfsWithoutPassthrough.exists(options.tetherfs):
        everyone.append(TetherfsWithoutPassthrough(server, work, options.tetherfs))
    everyone += [Rclone(server, work, options.rclone), S3fs(server, work)]
    names = {contender.name for contender in everyone}
    if unknown := set(options.only) - names:
        raise SystemExit(f"error: --only: no such contender: {', '.join(unknown)}; there are {', '.join(names)}")
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
    parser.add_argument("--quick", action="store_true", help="1 round with 256MiB, unless said otherwise")
    parser.add_argument("--json", metavar="FILE", help="write all samples, medians and the machine to this file")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], metavar="NAME,...",
                        help="these contenders only")
    parser.add_argument("--dir", type=Path, default=Path("target/bench"),
                        help="a directory on a local disk, for caches, server and data [default: %(default)s]")
    parser.add_argument("--tetherfs", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rclone", required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
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
    for name, contender in header["contenders"].items():
        print(f"{name + ':':<16}{contender['version']}")
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
