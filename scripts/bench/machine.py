"""This machine: commands with time-outs and their CPU time, processes that end with us, the page cache, facts."""

import ctypes
import os
import platform
import resource
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DROP_TIMEOUT_S = 300
STOP_TIMEOUT_S = 60
KILL_TIMEOUT_S = 10


class Failure(Exception):
    """Something that was measured did not work; the run goes on without it."""


@dataclass(frozen=True)
class Done:
    """A command that ended well."""

    output: str
    seconds: float
    cpu_s: float


def run(command, *, timeout_s, cwd=None, env=None, on_timeout=None):
    """Runs a command to its end. `on_timeout` frees it from a mount that does not answer, so that it can be killed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from error
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except BaseException as reason:
        if on_timeout:
            on_timeout()
        os.killpg(process.pid, signal.SIGKILL)
        try:
            process.communicate(timeout=KILL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise Failure(f"{command[0]}: cannot be ended") from None
        if isinstance(reason, subprocess.TimeoutExpired):
            raise Failure(f"{command[0]}: not done after {timeout_s} s") from None
        raise
    seconds = time.monotonic() - start
    if process.returncode != 0:
        lines = (errors or output).strip().splitlines() or ["no message"]
        raise Failure(f"{command[0]}: exit code {process.returncode}: {lines[-1][:200]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Done(output, seconds, cpu_s)


class Daemon:
    """A process in the background, which ends when we do, however we do."""

    def __init__(self, command, *, log, env=None):
        self.name = Path(command[0]).name
        self._log = log
        with open(log, "w") as out:
            # Ctrl-C is for us alone: we end our processes in order.
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], env=env, stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, start_new_session=True,
            )

    def alive(self):
        return self._process.poll() is None

    def cpu_s(self):
        """CPU seconds since its start, its ended children included."""
        fields = self._proc("stat").rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S

    def peak_memory(self):
        """Most bytes resident since the start or `forget_peak`."""
        for line in self._proc("status").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise Failure(f"{self.name} has ended: {self.last_words()}")

    def forget_peak(self):
        try:
            Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        except OSError as error:
            raise Failure(f"{self.name} has ended: {self.last_words()}") from error

    def wait(self, timeout_s):
        try:
            self._process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.name} has not ended after {timeout_s} s") from None

    def stop(self, number=signal.SIGTERM):
        if self.alive():
            self._process.send_signal(number)
            try:
                self._process.wait(timeout=STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(timeout=KILL_TIMEOUT_S)

    def last_words(self):
        lines = Path(self._log).read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "no message"

    def _proc(self, name):
        try:
            return Path(f"/proc/{self._process.pid}/{name}").read_text()
        except OSError as error:
            raise Failure(f"{self.name} has ended: {self.last_words()}") from error


def is_mounted(directory):
    """Asks the kernel's table and not the filesystem, which may not answer."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return str(directory) in points


def detach(directory):
    """Takes a mount away, whatever state it is in."""
    libc = ctypes.CDLL(None, use_errno=True)
    mnt_detach = 2
    while is_mounted(directory) and libc.umount2(os.fsencode(directory), mnt_detach) == 0:
        pass


def busy_cpu_s():
    """CPU seconds of everything on this machine since it started."""
    user, nice, system, _idle, _waiting, *interrupts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    return sum(map(int, (user, nice, system, *interrupts))) / TICKS_PER_S


def drop_page_cache():
    """After this, files of local disks are read from the disk."""
    run(["sync"], timeout_s=DROP_TIMEOUT_S)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def facts(directory):
    """What a reader of the figures must know about the machine."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
         if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    disk = run(["df", "--output=fstype,source", str(directory)], timeout_s=10).output.splitlines()[-1].split()
    return {
        "cores": len(os.sched_getaffinity(0)), "cpu": model, "memory_bytes": memory, "kernel": platform.release(),
        "filesystem": disk[0], "disk": disk[1], "disk_free_bytes": shutil.disk_usage(directory).free,
        "load_before": os.getloadavg(),
    }
