"""Reads by fio: always the same bytes in the same order, through the page cache, as programs read."""

import json

from machine import Failure
from stage import Work

TIMEOUT_S = 180
SEED = 20261120


def sequential(stage, *files):
    """Reads whole files at once, each by a thread of its own, in reads of 1 MiB."""
    return _fio(stage, files, ["--rw=read", "--bs=1M"])


def random(stage, file, block, *, operations, limit_s):
    """Reads blocks at random places: so many, or as many as there is time for."""
    return _fio(stage, [file], ["--rw=randread", f"--bs={block}", f"--number_ios={operations}", f"--runtime={limit_s}"])


def random_for(stage, file, block, *, seconds):
    """Reads blocks at random places for so long."""
    return _fio(stage, [file], ["--rw=randread", f"--bs={block}", "--time_based", f"--runtime={seconds}"])


def _fio(stage, files, pattern):
    # No hints to the kernel and nothing dropped by fio: the scene says what is cold. No clock read twice an operation.
    # Threads, because fio's processes leave our process group and could not be ended.
    command = [
        "fio", "--output-format=json", "--readonly", "--thread", "--ioengine=psync", "--direct=0", "--invalidate=0",
        "--fadvise_hint=0", "--norandommap", "--randrepeat=1", f"--randseed={SEED}", "--gtod_reduce=1", *pattern,
    ]
    for number, file in enumerate(files):
        command += [f"--name=job{number}", f"--filename={file}"]
    output = stage.run(command, TIMEOUT_S).output
    jobs = json.loads(output[output.index("{"):])["jobs"]
    if any(job["error"] or not job["read"]["total_ios"] for job in jobs):
        raise Failure(f"fio: error {max(job['error'] for job in jobs)}")
    return Work(
        seconds=max(job["read"]["runtime"] for job in jobs) / 1000,
        cpu_s=sum((job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000 for job in jobs),
        amount_bytes=sum(job["read"]["io_bytes"] for job in jobs),
        operations=sum(job["read"]["total_ios"] for job in jobs),
    )
