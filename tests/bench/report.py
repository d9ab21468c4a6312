"""The tables: what was measured, beside the floor and the goals."""

from __future__ import annotations

import datetime as dt
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.bench.counts import WRITES
from tests.bench.jobs import WORKERS
from tests.bench.scenario import ALONE, COMPARISONS, OBSERVED, TOGETHER, Life, Start

_MIB = 2**20
MARK = "<!-- From here on everything is written by `make bench RECORD=1`. -->"


@dataclass(frozen=True)
class Row:
    """One figure. `goal` is the most that `judged` may be; without one, the figure is only shown."""

    figure: str
    floor: float | None
    muster: float
    unit: str = "s"
    goal: str = ""
    most: float | None = None
    judged: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        ratio = f"{self.muster / self.floor:.2f}" if self.floor else ""
        judged = self.judged if self.judged is not None else self.muster
        verdict = "" if self.most is None else "met" if judged <= self.most else "**missed**"
        floor = "" if self.floor is None else _amount(self.floor, self.unit)
        return self.figure, floor, _amount(self.muster, self.unit), ratio, self.goal, verdict


@dataclass(frozen=True)
class Report:
    """Everything of one run of the benchmark. The floor ran twice, before and after; its mean counts."""

    jobs: int
    floors: tuple[Start, Start]
    life: Life

    @cached_property
    def text(self) -> str:
        """Return it as Markdown."""
        moment = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        command = "make bench" + ("" if self.jobs == 1000 else f" JOBS={self.jobs}")
        floors = " and ".join(f"{floor.pods_run:.1f} s" for floor in self.floors)
        figures = _table(("figure", "floor", "Muster", "ratio", "goal", ""), [row.cells for row in self._rows()])
        requests = _table(("request", "floor", "Muster", "more"), self._requests())
        return (
            f"{moment}, `{command}`, {_machine()}.\n\n{figures}\n\n"
            f"The floor ran before and after Muster, in {floors}; its mean is shown.\n\n"
            f"Requests a pod that the API server answered until all ran, everybody's, leases and nodes excepted:\n\n"
            f"{requests}\n"
        )

    def _rows(self) -> list[Row]:
        return [*self._start_rows(), *self._cost_rows(), *self._later_rows()]

    def _start_rows(self) -> list[Row]:
        start, pods = self.life.start, self.jobs * WORKERS
        floor = self._mean(lambda one: one.pods_run)
        writes, floor_writes = start.server.writes() / pods, self._mean(lambda one: one.server.writes()) / pods
        return [
            Row(f"{pods:,} pods run", floor, start.pods_run),
            Row(f"{self.jobs:,} jobs say Running", floor, start.jobs_run, "s", "≤ 1.3 of the floor", 1.3 * floor),
            Row("… writes a pod", floor_writes, writes, "", "≤ floor + 1", floor_writes + 1),
            Row("… CPU of the API server", self._mean(lambda one: one.server.cpu), start.server.cpu),
            Row("… CPU of the client, the operator", self._mean(lambda one: one.used.cpu), start.used.cpu),
            Row("… queue latency, mean", None, self.life.queue.mean),
            Row("… queue latency, 99 of 100 below", None, self.life.queue.most),
            Row("… reconcile, mean", None, self.life.reconcile.mean),
            Row("… reconcile, 99 of 100 below", None, self.life.reconcile.most),
        ]

    def _cost_rows(self) -> list[Row]:
        life = self.life
        return [
            Row("peak RSS", None, life.peak / _MIB, "MiB", "≤ 200 MiB", 200),
            Row("status writes a job over its life", None, life.status_writes, "", "≤ 4", 4),
            Row(f"all train, for {OBSERVED:.0f} s: busy cores, API server", None, life.calm.server, ""),
            Row(f"all train, for {OBSERVED:.0f} s: busy cores, operator", None, life.calm.operator, ""),
            Row(f"restart and {COMPARISONS} comparisons: writes", None, life.resync.writes, "", "0", 0),
            Row("… CPU of the API server", None, life.resync.server.cpu),
            Row("… CPU of the operator", None, life.resync.operator),
        ]

    def _later_rows(self) -> list[Row]:
        life = self.life
        together = min(TOGETHER, self.jobs)
        alone = statistics.median(loss.pods_run for loss in life.alone)
        worst = max(loss.pods_run for loss in life.alone)
        alone_jobs = statistics.median(loss.jobs_run for loss in life.alone)
        return [
            Row(
                f"a pod fails: its successor runs, median of {min(ALONE, self.jobs)}", None, alone, "s", "≤ 0.3 s", 0.3
            ),
            Row("… the worst", None, worst),
            Row("… its job says Running again, median", None, alone_jobs),
            Row(f"{together} pods of as many jobs fail: all run again", None, life.together.pods_run, "s", "≤ 5 s", 5),
            Row("… all jobs say so", None, life.together.jobs_run),
            Row(f"{self.jobs:,} jobs end: all Succeeded after the last pod", None, life.end.lag, "s", "≤ 10 s", 10),
            Row("… CPU of the API server", None, life.end.server.cpu),
            Row("… CPU of the operator", None, life.end.operator),
        ]

    def _requests(self) -> list[tuple[str, ...]]:
        pods = self.jobs * WORKERS
        found = {key for start in (*self.floors, self.life.start) for key in start.server.requests}
        rows = []
        for key in sorted(found, key=lambda key: (key[0] not in WRITES, key)):
            floor = self._mean(lambda one, key=key: one.server.requests[key]) / pods
            muster = self.life.start.server.requests[key] / pods
            if floor >= 0.005 or muster >= 0.005:
                rows.append((" ".join(key), f"{floor:.2f}", f"{muster:.2f}", f"{muster - floor:+.2f}"))
        return rows

    def _mean(self, of: Callable[[Start], float]) -> float:
        return statistics.mean(of(floor) for floor in self.floors)


def record(document: Path, report: Report) -> None:
    """Put the tables in the place of the earlier ones, below the mark."""
    text = document.read_text()
    if MARK not in text:
        raise SystemExit(f"{document} has no line {MARK!r}: nothing recorded")
    document.write_text(f"{text.partition(MARK)[0]}{MARK}\n\n{report.text}")


def _machine() -> str:
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores ({cpu}), {memory:.0f} GiB"


def _amount(value: float, unit: str) -> str:
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:.{digits}f} {unit}".strip()


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
