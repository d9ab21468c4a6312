"""The tables: what was measured, beside the floor and the goals."""

from __future__ import annotations

import datetime as dt
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.counts import WRITES
from tests.bench.scenario import ALONE, OBSERVED, TOGETHER, Life, Start
from tests.bench.systems.muster import COMPARISONS

if TYPE_CHECKING:
    from tests.bench.systems.system import System

_MIB = 2**20
BENCH, THROUGHPUT, SERVING, DEPLOYMENTS, GENERATION, STRATEGIES = (
    f"make {name} RECORD=1"
    for name in (
        "bench",
        "bench-throughput",
        "bench-serving",
        "bench-deployments",
        "bench-generation",
        "bench-strategies",
    )
)
"""What writes into documents, each between marks of its own."""


@dataclass(frozen=True)
class Row:
    """One figure: how it is read from a system's life and, where the floor has it too, from the floor's start.

    `most` makes of the floor's figure what Muster's may be at most.
    """

    figure: str
    life: Callable[[Life], float | None]
    floor: Callable[[Start], float] | None = None
    unit: str = "s"
    goal: str = ""
    most: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Beside:
    """A system and the floor with as many jobs, which ran before and after; its mean counts."""

    life: Life
    floors: tuple[Start, Start]

    def floor(self, of: Callable[[Start], float]) -> float:
        return statistics.mean(of(floor) for floor in self.floors)

    def cells(self, row: Row, *, with_floor: bool, with_goal: bool) -> list[str]:
        """Return the floor's figure, the system's, their ratio, the goal and whether it is met."""
        floor = None if row.floor is None else self.floor(row.floor)
        value = row.life(self.life)
        cells = [amount(floor, row.unit)] if with_floor else []
        cells += [amount(value, row.unit), f"{value / floor:.2f}" if floor and value is not None else ""]
        if with_goal:
            judged = row.most is not None and value is not None
            cells += [row.goal, ("met" if value <= row.most(floor or 0.0) else "**missed**") if judged else ""]
        return cells


@dataclass(frozen=True)
class Report:
    """Everything of one run of the benchmark; floors by their number of jobs. Muster's life is the first."""

    floors: dict[int, tuple[Start, Start]]
    lives: Sequence[Life]
    peers: Sequence[System] = field(default=())

    @cached_property
    def text(self) -> str:
        """Return it as Markdown."""
        floors = "; ".join(
            f"with {number:,} jobs in {before.pods_run:.1f} s and {after.pods_run:.1f} s"
            for number, (before, after) in self.floors.items()
        )
        return (
            f"{now()}, `{self._command}`, {machine()}.\n\n"
            f"{table(self._head(), [self._cells(row) for row in _rows(self._jobs)])}\n\n"
            f"The floor ran before and after {floors}; its mean is shown.{self._fewer}\n\n"
            f"Requests a pod that the API server answered until all ran, everybody's, leases and nodes excepted:\n\n"
            f"{table(self._request_head(), self._requests())}\n"
        )

    @property
    def _jobs(self) -> int:
        return self.lives[0].jobs

    @property
    def _command(self) -> str:
        names = ",".join(peer.name.split()[0].lower() for peer in self.peers)
        jobs = "" if self._jobs == 1000 else f" JOBS={self._jobs}"
        return f"make bench{f' PEERS={names}' if names else ''}{jobs}"

    @property
    def _fewer(self) -> str:
        fewer = {life.system: life.jobs for life in self.lives if life.jobs < self._jobs}
        return "".join(f" {name} was given {jobs} jobs, beside a floor of as many." for name, jobs in fewer.items())

    @cached_property
    def _columns(self) -> list[tuple[Beside, bool]]:
        """Each system, and whether it is the first beside its floor."""
        seen: set[int] = set()
        columns = []
        for life in self.lives:
            columns.append((Beside(life, self.floors[life.jobs]), life.jobs not in seen))
            seen.add(life.jobs)
        return columns

    def _named(self, name: str, jobs: int) -> str:
        return name if jobs == self._jobs else f"{name}, {jobs} jobs"

    def _head(self) -> list[str]:
        head = ["figure"]
        for number, (column, with_floor) in enumerate(self._columns):
            jobs = column.life.jobs
            head += [self._named("floor", jobs)] if with_floor else []
            head += [self._named(column.life.system, jobs), "ratio", *(["goal", ""] if number == 0 else [])]
        return head

    def _cells(self, row: Row) -> list[str]:
        cells = [row.figure]
        for number, (column, with_floor) in enumerate(self._columns):
            cells += column.cells(row, with_floor=with_floor, with_goal=number == 0)
        return cells

    def _request_head(self) -> list[str]:
        head = ["request"]
        for column, with_floor in self._columns:
            jobs = column.life.jobs
            head += [self._named("floor", jobs)] if with_floor else []
            head += [self._named(column.life.system, jobs), "more"]
        return head

    def _requests(self) -> list[list[str]]:
        starts = [*(start for pair in self.floors.values() for start in pair), *(life.start for life in self.lives)]
        rows = []
        found = {key for start in starts for key in start.server.requests}
        for key in sorted(found, key=lambda key: (key[0] not in WRITES, key)):
            cells, shown = [" ".join(key)], False
            for column, with_floor in self._columns:
                floor = column.floor(lambda start, key=key: start.server.requests[key] / start.pods)
                start = column.life.start
                value = start.server.requests[key] / start.pods
                shown = shown or max(floor, value) >= 0.005
                cells += [f"{floor:.2f}"] if with_floor else []
                cells += [f"{value:.2f}", f"{value - floor:+.2f}"]
            if shown:
                rows.append(cells)
        return rows


def _rows(jobs: int) -> list[Row]:
    return [*_start_rows(), *_cost_rows(), *_later_rows(jobs)]


def _start_rows() -> list[Row]:
    return [
        Row("all pods run", lambda life: life.start.pods_run, lambda floor: floor.pods_run),
        Row(
            "all jobs say Running",
            lambda life: life.start.jobs_run,
            lambda floor: floor.pods_run,
            goal="≤ 1.3 of the floor",
            most=lambda floor: 1.3 * floor,
        ),
        Row(
            "… writes a pod",
            lambda life: _writes_a_pod(life.start),
            _writes_a_pod,
            "",
            goal="≤ floor + 1",
            most=lambda floor: floor + 1,
        ),
        Row("… CPU of the API server", lambda life: life.start.server.cpu, lambda floor: floor.server.cpu),
        Row(
            "… CPU of kube-controller-manager",
            lambda life: life.start.server.controllers,
            lambda floor: floor.server.controllers,
        ),
        Row("… CPU of the client, the operator", lambda life: life.start.used.cpu, lambda floor: floor.used.cpu),
        Row("… queue latency, mean", lambda life: life.queue.mean),
        Row("… queue latency, 99 of 100 below", lambda life: life.queue.most),
        Row("… reconcile, mean", lambda life: life.reconcile.mean),
        Row("… reconcile, 99 of 100 below", lambda life: life.reconcile.most),
    ]


def _cost_rows() -> list[Row]:
    return [
        Row("peak RSS", lambda life: life.peak / _MIB, None, "MiB", "≤ 200 MiB", lambda _: 200),
        Row("status writes a job over its life", lambda life: life.status_writes, None, "", "≤ 4", lambda _: 4),
        Row(f"all train, for {OBSERVED:.0f} s: busy cores, API server", lambda life: life.calm.server, unit=""),
        Row(f"all train, for {OBSERVED:.0f} s: busy cores, operator", lambda life: life.calm.operator, unit=""),
        Row(
            f"restart and {COMPARISONS} comparisons: writes",
            lambda life: life.resync and life.resync.writes,
            None,
            "",
            "0",
            lambda _: 0,
        ),
        Row("… CPU of the API server", lambda life: life.resync and life.resync.server.cpu),
        Row("… CPU of the operator", lambda life: life.resync and life.resync.operator.cpu),
    ]


def _later_rows(jobs: int) -> list[Row]:
    together = min(TOGETHER, jobs)
    return [
        Row(
            f"a pod fails: all ranks run again, median of {min(ALONE, jobs)}",
            lambda life: statistics.median(loss.pods_run for loss in life.alone),
            None,
            "s",
            "≤ 0.3 s",
            lambda _: 0.3,
        ),
        Row("… the worst", lambda life: max(loss.pods_run for loss in life.alone)),
        Row(
            "… its job says Running again, median",
            lambda life: statistics.median(loss.jobs_run for loss in life.alone),
        ),
        Row(
            f"{together} pods of as many jobs fail: all run again",
            lambda life: life.together.pods_run,
            None,
            "s",
            "≤ 5 s",
            lambda _: 5,
        ),
        Row("… all jobs say so", lambda life: life.together.jobs_run),
        Row(
            "all jobs end: Succeeded after the last pod",
            lambda life: life.end.lag,
            None,
            "s",
            "≤ 10 s",
            lambda _: 10,
        ),
        Row("… CPU of the API server", lambda life: life.end.server.cpu),
        Row("… CPU of kube-controller-manager", lambda life: life.end.server.controllers),
        Row("… CPU of the operator", lambda life: life.end.operator),
    ]


def _writes_a_pod(start: Start) -> float:
    return start.server.writes() / start.pods


def record(document: Path, command: str, text: str) -> None:
    """Put what the command found in the place of what it found earlier, between its marks."""
    found = document.read_text()
    begin, end = f"<!-- Written by `{command}`. -->", f"<!-- End of `{command}`. -->"
    before, begun, rest = found.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise SystemExit(f"{document} must have the lines {begin!r} and {end!r}: nothing recorded")
    document.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")


def machine() -> str:
    cpu = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores ({cpu}), {memory:.0f} GiB"


def amount(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    digits = 0 if value >= 100 or value == int(value) else 1 if value >= 10 else 2 if value >= 0.1 else 4
    return f"{value:.{digits}f} {unit}".strip()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return it as Markdown, its columns in line."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *rows]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))} |" for line in lines
    )
