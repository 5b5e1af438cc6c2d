"""What a part of the benchmark is made of: rows of figures, and the scenes in which they are measured."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from machine import Failure, busy_cpu_s, drop_page_cache, run

# Units, and how a figure comes from what was done: see `Work.figure`.
MIB_PER_S = "MiB/s"
OPS_PER_S = "op/s"
MILLISECONDS = "ms"
SECONDS = "s"


@dataclass(frozen=True)
class Row:
    """One line of the tables."""

    # Of all parts together there is no other.
    name: str
    title: str
    unit: str
    # The player whose figure in this row is the most that is possible.
    ceiling: str
    # The row that the contenders' figures are taken from, for a line with a second ceiling.
    like: str = ""
    # Whether what it took is shown: not where another row shows the same work.
    costs: bool = True
    # What the costs are of, where the title alone does not say it.
    work: str = ""

    @property
    def more_is_better(self):
        return self.unit in (MIB_PER_S, OPS_PER_S)


@dataclass(frozen=True)
class Work:
    """What was done and what it cost its own process."""

    seconds: float
    cpu_s: float
    amount_bytes: int = 0
    operations: int = 1

    def figure(self, unit):
        if unit == MIB_PER_S:
            return self.amount_bytes / self.seconds / (1 << 20)
        if unit == OPS_PER_S:
            return self.operations / self.seconds
        return self.seconds * (1000 if unit == MILLISECONDS else 1)

    def cpu(self, unit, cpu_s):
        """CPU seconds in what makes sense beside the figure: seconds a GiB, microseconds an operation, or seconds."""
        if unit == MIB_PER_S:
            return cpu_s / (self.amount_bytes / (1 << 30))
        if unit == OPS_PER_S:
            return cpu_s / self.operations * 1e6
        return cpu_s


@dataclass
class Sample:
    """One measurement, or why there is none."""

    row: str
    contender: str
    round: int
    figure: float | None = None
    seconds: float | None = None
    cpu_s: float | None = None
    cpu: float | None = None
    server_cpu_s: float | None = None
    # Everybody else's meanwhile: other programs, and the kernel's writing back.
    other_cpu_s: float | None = None
    peak_memory_bytes: int | None = None
    daemon_cpu_s: float | None = None
    requests: dict = field(default_factory=dict)
    sent_bytes: int | None = None
    fetched_bytes: int | None = None
    error: str | None = None

    def as_json(self):
        return asdict(self)


@dataclass(frozen=True)
class Scene:
    """Measures some rows of one player, from a clean start."""

    rows: tuple[str, ...]
    play: Callable


@dataclass(frozen=True)
class Part:
    """Rows, and who plays what to fill them: filesystems, and the players that measure ceilings."""

    rows: list[Row]
    mounts: list[Scene]
    curl: list[Scene]
    local: list[Scene]
    direct: list[Scene] = field(default_factory=list)


class Stage:
    """One player in one round of one part."""

    def __init__(self, player, contender, server, data, work, rows, round_number):
        self.player = player
        self.server = server
        self.data = data
        self.work = work
        self.samples = []
        self._contender = contender
        self._rows = {row.name: row for row in rows}
        self._round = round_number

    def play(self, scene):
        """Plays a scene. A failure is noted for its rows without a figure; where all have one, for the last of them."""
        try:
            scene.play(self)
        except Failure as failure:
            have = {sample.row for sample in self.samples}
            missing = [row for row in scene.rows if row not in have]
            for row in missing or scene.rows[-1:]:
                self.samples.append(Sample(row, self.player, self._round, error=str(failure)))

    @contextmanager
    def mounted(self, *, fresh, keep=False, warm=(), latency=False):
        """Mounts with a cold page cache, the objects `warm` in the server's memory, and perhaps a far server. Yields
        the mountpoint. `fresh` begins without a disk cache, `keep` leaves one for the next scene."""
        contender = self._contender
        try:
            if fresh:
                self.drop_caches(warm)
            contender.mount(fresh=fresh)
            if not fresh:
                self.drop_caches(warm)
            with self.server.latency(latency):
                yield contender.mountpoint
            contender.unmount(keep=keep)
        finally:
            contender.kill()

    def drop_caches(self, warm=()):
        """Local disks are cold after this; the server is not."""
        drop_page_cache()
        if warm:
            self.server.warm(*warm)

    def measure(self, row, work):
        """Does the work, which is a function that returns `Work`, and notes the figure and what it took."""
        self.measure_all((row,), lambda: [work()])

    def measure_all(self, rows, work):
        """Does work that has a figure for each of several rows; what it took is noted for each."""
        daemon = self._contender.daemon if self._contender else None
        self.server.reset_counts()
        if daemon:
            daemon.forget_peak()
        server_before, daemon_before = self.server.cpu_s(), daemon.cpu_s() if daemon else 0
        busy_before = busy_cpu_s()
        done = work()
        busy_s, server_cpu_s = busy_cpu_s() - busy_before, self.server.cpu_s() - server_before
        daemon_cpu_s = daemon.cpu_s() - daemon_before if daemon else 0
        requests, sent, fetched = self.server.counts()
        for row, figure in zip(rows, done, strict=True):
            unit, cpu_s = self._rows[row].unit, figure.cpu_s + daemon_cpu_s
            self.samples.append(Sample(
                row, self.player, self._round, figure=figure.figure(unit), seconds=figure.seconds, cpu_s=cpu_s,
                cpu=figure.cpu(unit, cpu_s), server_cpu_s=server_cpu_s,
                other_cpu_s=max(0, busy_s - cpu_s - server_cpu_s),
                peak_memory_bytes=daemon.peak_memory() if daemon else None,
                daemon_cpu_s=daemon_cpu_s if daemon else None, requests=requests, sent_bytes=sent,
                fetched_bytes=fetched,
            ))

    def run(self, command, timeout_s, **options):
        """`machine.run` for commands that work on the mount."""
        kill = self._contender.kill if self._contender else None
        return run(command, timeout_s=timeout_s, on_timeout=kill, **options)
