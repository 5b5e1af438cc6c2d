"""The server that all contenders read from, the data in it, and curl: the ceiling of every download."""

import json
import os
import re
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from machine import Daemon, Failure, run

BUCKET = "bench"
ACCESS_KEY = "bench"
SECRET_KEY = "bench-secret"
REGION = "us-east-1"
LATENCY_MS = 20
START_TIMEOUT_S = 20
ADMIN_TIMEOUT_S = 10
CURL_TIMEOUT_S = 300
# The fastest of 4, 8 and 16 MiB with 2, 4, 8 and 16 at once.
RANGE_BYTES = 8 << 20
RANGES_AT_ONCE = 8


class Server:
    """The embedded bucket: one process with its data on local disk."""

    def __init__(self, tetherfs, work):
        self._daemon = Daemon(
            [tetherfs, "serve", str(work / "server"), "--listen", "127.0.0.1:0", "--bucket", BUCKET, "--admin",
             "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY, "--quirk", "hides_md5"],
            log=work / "server.log",
        )
        self._config = work / "curl.config"
        self.endpoint = self._wait_for_address(work / "server.log")

    def _wait_for_address(self, log):
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._daemon.alive():
            if address := re.search(r"http://127\.0\.0\.1:\d+", log.read_text()):
                return address.group()
            time.sleep(0.05)
        raise SystemExit(f"error: the server does not start: {self._daemon.last_words()}")

    def stop(self):
        self._daemon.stop()

    def cpu_s(self):
        return self._daemon.cpu_s()

    # --- counts and latency ---

    def reset_counts(self):
        self._admin("POST", "requests/reset")

    def counts(self):
        """Requests by operation, and bytes sent, since `reset_counts`."""
        counts = json.loads(self._admin("GET", "requests"))["counts"]
        return {name: count["requests"] for name, count in counts.items()}, sum(c["sent"] for c in counts.values())

    @contextmanager
    def latency(self, wanted):
        """While this lasts each request is looked at `LATENCY_MS` later; bandwidth is as before."""
        if wanted:
            self._admin("POST", "faults", [{"action": {"kind": "delay", "ms": LATENCY_MS}}])
        try:
            yield
        finally:
            if wanted:
                self._admin("DELETE", "faults")

    def _admin(self, method, path, body=None):
        request = urllib.request.Request(
            f"{self.endpoint}/-/{path}", method=method, data=None if body is None else json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=ADMIN_TIMEOUT_S) as answer:
            return answer.read()

    # --- requests by curl ---

    def url(self, key):
        return f"{self.endpoint}/{BUCKET}/{key}"

    def upload(self, files):
        """Puts local files into the bucket; by key."""
        self.curl([{"url": self.url(key), "upload-file": str(path)} for key, path in files.items()], at_once=4)

    def warm(self, *keys):
        """Brings objects back into the server's memory: another machine's server would not have lost them."""
        self.curl([{"url": self.url(key), "output": os.devnull} for key in keys], at_once=4)

    def curl(self, transfers, *, at_once):
        """Makes transfers, each given as curl's long options, in one curl process."""
        always = {
            "user": f"{ACCESS_KEY}:{SECRET_KEY}", "aws-sigv4": f"aws:amz:{REGION}:s3",
            "header": "x-amz-content-sha256: UNSIGNED-PAYLOAD",
            "write-out": r"%{time_starttransfer} %{time_total}\n",
        }
        blocks = ("\n".join([*(f'{name} = "{quote(value)}"' for name, value in {**always, **transfer}.items()), "fail"])
                  for transfer in transfers)
        self._config.write_text("\nnext\n".join(blocks))
        parallel = ["--parallel", "--parallel-immediate", "--parallel-max", str(at_once)] if at_once > 1 else []
        done = run(["curl", "--silent", "--show-error", "--fail-early", *parallel, "--config", str(self._config)],
                   timeout_s=CURL_TIMEOUT_S)
        return Curl(done, [tuple(map(float, line.split())) for line in done.output.splitlines()])


class Curl:
    """How long the transfers of one curl process took."""

    def __init__(self, done, times):
        self.seconds = done.seconds
        self.cpu_s = done.cpu_s
        self.first_bytes_s = [first for first, _ in times]
        self.transfers_s = sum(total for _, total in times)


def quote(value):
    return value.replace("\\", "\\\\").replace('"', '\\"')


def ranges_of(url, size, outputs=None):
    """The transfers that bring an object in ranges, to nowhere or each to a file of its own in a directory."""
    for number, start in enumerate(range(0, size, RANGE_BYTES)):
        yield {
            "url": url, "range": f"{start}-{min(start + RANGE_BYTES, size) - 1}",
            "output": str(outputs / str(number)) if outputs else os.devnull,
        }


class Data:
    """What is in the bucket, and local copies of what is compared or read locally."""

    STREAMS = [f"stream.{number}" for number in range(4)]
    FIRSTS = [f"first.{number}" for number in range(5)]
    FIRST_BYTES = 16 << 20
    SMALL_BYTES = 16 << 10

    def __init__(self, server, directory, big_bytes, small_files):
        self.directory = directory
        self.big = directory / "big"
        self.big_bytes = big_bytes
        self.stream_bytes = big_bytes // len(self.STREAMS)
        self.small = directory / "small"
        self.small_names = [f"{number:04}.dat" for number in range(small_files)]
        self._make(server)

    def _make(self, server):
        self.small.mkdir(parents=True)
        write_random(self.big, self.big_bytes)
        sizes = {**dict.fromkeys(self.STREAMS, self.stream_bytes), **dict.fromkeys(self.FIRSTS, self.FIRST_BYTES)}
        for name, size in sizes.items():
            write_random(self.directory / name, size)
        for name in self.small_names:
            write_random(self.small / name, self.SMALL_BYTES)
        files = {name: self.directory / name for name in ["big", *sizes]}
        files |= {f"small/{name}": self.small / name for name in self.small_names}
        try:
            server.upload(files)
        except Failure as failure:
            raise SystemExit(f"error: the data cannot be uploaded: {failure}") from failure
        for name in sizes:
            (self.directory / name).unlink()


def write_random(path: Path, size):
    with open(path, "wb") as file:
        while size > 0:
            size -= file.write(os.urandom(min(size, 1 << 20)))
