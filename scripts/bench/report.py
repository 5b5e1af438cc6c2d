"""What was measured, as tables and as JSON. Figures are medians over the rounds; ratios are of medians."""

import json
import statistics
from pathlib import Path

from stage import MIB_PER_S, OPS_PER_S

OURS = ("tetherfs", "no-passthru", "no-cache", "background")
CEILINGS = ("curl", "local", "direct")
# Of these, those that make requests.
CLIENTS = ("curl", "direct")
TITLE_WIDTH = 36
CELL_WIDTH = 14
# fio's own start and the kernel's writing back are counted as others too.
QUIET = 0.25
CPU_UNITS = {MIB_PER_S: "s/GiB", OPS_PER_S: "us/op"}


class Report:
    """All samples of a run."""

    def __init__(self, players, samples):
        self._players = players
        self._samples = samples

    def print(self, name, rows):
        """The tables of one part: figures, what they cost, failures."""
        self._figures(name, rows)
        measured = [row for row in rows if row.costs and not row.like]
        self._costs("CPU of daemon and program", measured, lambda row: CPU_UNITS.get(row.unit, "s"), self._cpu)
        self._costs("CPU of the daemon alone", measured, lambda row: "s", self._daemon_cpu)
        self._costs("requests", measured, lambda row: "", self._requests)
        self._costs("sent / fetched", measured, lambda row: "MiB", self._bytes)
        self._costs("peak memory of the daemon", measured, lambda row: "MiB", self._memory)
        self._failures(rows)

    def print_disturbance(self):
        share = self._disturbance()
        worth = "" if share < QUIET else ": the figures are worth little, measure again on a quiet machine"
        print(f"\nOther programs took {share:.0%} of the CPU time used meanwhile{worth}")

    def write(self, path, header, parts):
        """Everything, for machines."""
        rows = [
            {"part": part, "row": row.name, "title": row.title.strip(), "unit": row.unit, "like": row.like,
             "ceiling": {"player": row.ceiling, "median": self._ceiling(row)},
             "medians": {contender: self._median(row, contender) for contender in self._contenders(rows)},
             "of_ceiling": {contender: self._of_ceiling(row, contender) for contender in self._contenders(rows)},
             "tetherfs_to_best_peer": self._lead(row)}
            for part, rows in parts.items() for row in rows
        ]
        samples = [sample.as_json() for sample in self._samples]
        everything = {**header, "other_cpu_share": self._disturbance(), "rows": rows, "samples": samples}
        Path(path).write_text(json.dumps(everything, indent=1, default=str) + "\n")

    # --- tables ---

    def _figures(self, name, rows):
        print()
        contenders = self._contenders(rows)
        print_line(f"{name} (median, share of ceiling)", "", ["ceiling", *contenders, "lead"])
        for row in rows:
            cells = [self._cell(row, contender) for contender in contenders]
            ceiling = f"{row.ceiling} {number(self._ceiling(row)):>6}"
            lead = self._lead(row)
            print_line(row.title, row.unit, [ceiling, *cells, f"{lead:.2f}" if lead else "-"])
        print("lead: tetherfs beside the best peer; above 1 it is ahead")

    def _cell(self, row, contender):
        figure = self._median(row, contender)
        failed = any(sample.error for sample in self._of(row.like or row.name, contender))
        if figure is None:
            return "failed" if failed else "-"
        share = self._of_ceiling(row, contender)
        return f"{'!' if failed else ''}{number(figure)} {f'{share:.2f}' if share else '':>5}"

    def _costs(self, title, rows, unit, cell):
        print()
        players = [*self._contenders(rows), *dict.fromkeys(row.ceiling for row in rows if row.ceiling in CLIENTS)]
        print_line(title, "", players)
        for row in rows:
            good = {player: [sample for sample in self._of(row.name, player) if sample.figure is not None]
                    for player in players}
            cells = [cell(good[player]) if good[player] else "-" for player in players]
            print_line(row.work or row.title, unit(row), cells)

    @staticmethod
    def _cpu(samples):
        return number(statistics.median(sample.cpu for sample in samples))

    @staticmethod
    def _requests(samples):
        return f"{statistics.median(sum(sample.requests.values()) for sample in samples):.0f}"

    @staticmethod
    def _bytes(samples):
        sent = statistics.median(sample.sent_bytes for sample in samples)
        fetched = statistics.median(sample.fetched_bytes for sample in samples)
        return f"{number(sent / (1 << 20))}/{number(fetched / (1 << 20)):>5}"

    @staticmethod
    def _daemon_cpu(samples):
        seconds = [sample.daemon_cpu_s for sample in samples if sample.daemon_cpu_s is not None]
        return number(statistics.median(seconds)) if seconds else "-"

    @staticmethod
    def _memory(samples):
        peak = max(sample.peak_memory_bytes or 0 for sample in samples)
        return f"{peak / (1 << 20):.0f}" if peak else "-"

    def _failures(self, rows):
        titles = {row.name: row.work or row.title.strip() for row in rows}
        failures = {}
        for sample in self._samples:
            if sample.error and sample.row in titles:
                failures.setdefault((sample.contender, sample.error), []).append(titles[sample.row])
        for (player, error), where in failures.items():
            print(f"{player} failed {len(where)} times ({'; '.join(dict.fromkeys(where))}): {error}")

    # --- figures ---

    def _contenders(self, rows):
        """Those that played in a part."""
        names = {row.name for row in rows}
        seen = {sample.contender for sample in self._samples if sample.row in names}
        return [player for player in self._players if player in seen and player not in CEILINGS]

    def _of(self, row_name, player):
        return [sample for sample in self._samples if (sample.row, sample.contender) == (row_name, player)]

    def _median(self, row, contender):
        return median(self._of(row.like or row.name, contender))

    def _ceiling(self, row):
        return median(self._of(row.name, row.ceiling))

    def _disturbance(self):
        good = [sample for sample in self._samples if sample.figure is not None]
        ours = sum(sample.cpu_s + sample.server_cpu_s for sample in good)
        others = sum(sample.other_cpu_s for sample in good)
        return others / (ours + others) if good else 0

    def _of_ceiling(self, row, contender):
        return ratio(row, self._median(row, contender), self._ceiling(row))

    def _lead(self, row):
        peers = [self._median(row, player) for player in self._players if player not in (*OURS, *CEILINGS)]
        peers = [figure for figure in peers if figure]
        best = (max if row.more_is_better else min)(peers, default=None)
        return ratio(row, self._median(row, OURS[0]), best)


def print_line(title, unit, cells):
    print(f"{title:<{TITLE_WIDTH}}{unit:>6}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells))


def median(samples):
    figures = [sample.figure for sample in samples if sample.figure is not None]
    return statistics.median(figures) if figures else None


def ratio(row, figure, other):
    """How well one does beside the other: 1 is equal, more is better."""
    if not figure or not other:
        return None
    return figure / other if row.more_is_better else other / figure


def number(value):
    """Three digits, or more before the point."""
    if value is None:
        return "-"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"
