"""The server that all contenders read and write, the data in it, and curl: the ceiling of every transfer."""

import hashlib
import hmac
import http.client
import json
import os
import re
import socket
import threading
import time
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
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
PARTS_AT_ONCE = 8
ASK_TIMEOUT_S = 60
# How often the bucket is looked at for something that is to appear there.
POLL_S = 0.01
LISTED = re.compile(r"<Contents>.*?<Key>([^<]*)</Key>.*?</Contents>", re.DOTALL)


class Server:
    """The embedded bucket: one process with its data on local disk."""

    def __init__(self, tetherfs, work):
        self._daemon = Daemon(
            [tetherfs, "serve", str(work / "server"), "--listen", "127.0.0.1:0", "--bucket", BUCKET, "--admin",
             "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY, "--quirk", "hides_md5"],
            log=work / "server.log",
        )
        self._config = work / "curl.config"
        self._local = threading.local()
        self._looks = self._looked_bytes = 0
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
        self._looks = self._looked_bytes = 0

    def counts(self):
        """Requests by operation, bytes that clients sent, bytes that they fetched, since the reset; no looks."""
        counts = json.loads(self._admin("GET", "requests"))["counts"]
        requests = {name: count["requests"] for name, count in counts.items()}
        fetched = sum(count["sent"] for count in counts.values())
        if self._looks:
            requests["ListObjectsV2"] -= self._looks
            fetched -= self._looked_bytes
        return requests, sum(count["received"] for count in counts.values()), fetched

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

    # --- what is in the bucket ---

    def wait_for(self, prefix, arrived, timeout_s):
        """Looks at the keys below a prefix until `arrived`, which gets the size and etag of each, says so."""
        deadline = time.monotonic() + timeout_s
        while not arrived(self.look(prefix)):
            if time.monotonic() > deadline:
                raise Failure(f"not in the bucket {timeout_s} s after the last close")
            time.sleep(POLL_S)

    def look(self, prefix):
        """Size and etag of up to 1,000 keys."""
        _, text = self.ask("GET", query=f"list-type=2&prefix={urllib.parse.quote(prefix, safe='')}")
        self._looks += 1
        self._looked_bytes += len(text)
        return {found[1]: (int(inside(found[0], "Size")), inside(found[0], "ETag")) for found in LISTED.finditer(text)}

    # --- signed requests of our own, for what curl cannot do or takes too much CPU for ---

    def ask(self, method, key="", query="", headers=(), body=b""):
        """Makes one request, its body bytes or a range of a file as (file, start, length); the answer's headers and
        body."""
        path = f"/{BUCKET}/{key}" if key else f"/{BUCKET}"
        file = body if isinstance(body, tuple) else None
        length = file[2] if file else len(body)
        try:
            connection = self._connection()
            connection.putrequest(method, f"{path}?{query}" if query else path, skip_host=True,
                                  skip_accept_encoding=True)
            for name, value in {**self._signed(method, path, query, dict(headers)), "content-length": length}.items():
                connection.putheader(name, value)
            connection.endheaders(None if file else body)
            if file:
                # From the page cache to the socket: no byte is copied by us.
                connection.sock.sendfile(file[0], file[1], length)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._local.connection = None
            raise Failure(f"{method} {path}: {error}") from error
        if answer.status >= 300:
            raise Failure(f"{method} {path}: {answer.status} {text[:200].decode(errors='replace')}")
        return answer.headers, text.decode()

    def _connection(self):
        """One a thread."""
        if getattr(self._local, "connection", None) is None:
            host, port = self.endpoint.removeprefix("http://").split(":")
            connection = http.client.HTTPConnection(host, int(port), timeout=ASK_TIMEOUT_S)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._local.connection = connection
        return self._local.connection

    def _signed(self, method, path, query, headers):
        now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers |= {"host": self.endpoint.removeprefix("http://"), "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
                    "x-amz-date": now}
        names = ";".join(sorted(headers))
        lines = (f"{name}:{headers[name]}" for name in sorted(headers))
        request = "\n".join([method, path, query, *lines, "", names, "UNSIGNED-PAYLOAD"])
        scope = f"{now[:8]}/{REGION}/s3/aws4_request"
        key = f"AWS4{SECRET_KEY}".encode()
        for step in scope.split("/"):
            key = hmac.digest(key, step.encode(), "sha256")
        text = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        return headers | {"authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, "
                                           f"SignedHeaders={names}, Signature={signature}"}

    def multipart(self, key, parts):
        """One multipart upload, `PARTS_AT_ONCE`: each part is (file, start, length), or (first, last) of the large
        object for the server to copy."""
        upload = inside(self.ask("POST", key, "uploads=")[1], "UploadId")

        def send(number, part):
            query = f"partNumber={number}&uploadId={upload}"
            if len(part) == 3:
                return self.ask("PUT", key, query, body=part)[0]["ETag"]
            source = {"x-amz-copy-source": f"/{BUCKET}/big", "x-amz-copy-source-range": f"bytes={part[0]}-{part[1]}"}
            return inside(self.ask("PUT", key, query, source)[1], "ETag")

        with ThreadPoolExecutor(PARTS_AT_ONCE) as pool:
            etags = list(pool.map(send, range(1, len(parts) + 1), parts))
        listed = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
                         for number, etag in enumerate(etags, 1))
        self.ask("POST", key, f"uploadId={upload}",
                 body=f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode())

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


def inside(xml, name):
    """The text of the first element of this name."""
    found = re.search(f"<{name}>([^<]*)</{name}>", xml)
    if not found:
        raise Failure(f"the server answered without {name}: {xml[:200]}")
    return found[1].replace("&quot;", '"')


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
