"""The table: what was measured, beside the floor and the goals."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tests.bench.counts import WRITES
from tests.bench.deployments.resources import LARGE, SIZE, SURGE
from tests.bench.deployments.scenario import DELETED, Life
from tests.bench.report import amount, machine, now, table
from tests.bench.scenario import OBSERVED, Start

_MIB = 2**20


@dataclass(frozen=True)
class Report:
    """One run; the floor ran before and after."""

    number: int
    floors: tuple[Start, Start]
    life: Life

    @cached_property
    def text(self) -> str:
        """Return it as Markdown."""
        command = "make bench-deployments" + ("" if self.number == 500 else f" DEPLOYMENTS={self.number}")
        before, after = (floor.pods_run for floor in self.floors)
        return (
            f"{now()}, `{command}`, {machine()}.\n\n"
            f"{table(['figure', 'floor', 'Muster', 'ratio', 'goal', ''], self._rows())}\n\n"
            f"The floor took {before:.1f} s before and {after:.1f} s after; its mean is shown.\n\n"
            f"Requests a pod that the API server answered until all was ready, leases and nodes excepted:\n\n"
            f"{table(['request', 'floor', 'Muster', 'more'], self._requests())}\n"
        )

    def _rows(self) -> list[list[str]]:
        life, rollout = self.life, self.life.rollout
        most = LARGE + SURGE
        return [
            self._beside("all pods ready", lambda one: one.pods_run),
            self._beside("all deployments say Ready", lambda one: one.jobs_run, most=1.3),
            self._beside("… writes a pod", lambda one: one.server.writes() / one.pods, unit=""),
            self._beside("… CPU of the API server", lambda one: one.server.cpu),
            self._beside("… CPU of kube-controller-manager", lambda one: one.server.controllers),
            self._beside("… CPU of the client, the operator", lambda one: one.used.cpu),
            _alone("… queue latency, mean", life.queue.mean),
            _alone("… reconcile, mean", life.reconcile.mean),
            _alone("peak RSS", life.peak / _MIB, "MiB"),
            _alone(f"nothing happens for {OBSERVED:.0f} s: busy cores, API server", life.calm.server, ""),
            _alone(f"nothing happens for {OBSERVED:.0f} s: busy cores, operator", life.calm.operator, ""),
            _alone("the operator starts anew: writes", life.restarted, "", ("0", life.restarted == 0)),
            _alone(f"rolling restart of {LARGE} groups at maxSurge {SURGE}", rollout.seconds),
            _alone("… fewest groups that answered", rollout.fewest, "", (f"{LARGE}", rollout.fewest >= LARGE)),
            _alone("… most groups at once", rollout.most, "", (f"≤ {most}", rollout.most <= most)),
            _alone("… writes a pod", rollout.server.writes() / (LARGE * SIZE), ""),
            _alone("… CPU of the operator", rollout.operator),
            _alone(f"a pod of each of {DELETED} groups of one deployment deleted: all whole", life.of_one.pods),
            _alone("… its status says so", life.of_one.status),
            _alone(f"a pod of each of {min(DELETED, self.number)} deployments deleted: all whole", life.of_many.pods),
            _alone("… their status says so", life.of_many.status),
        ]

    def _beside(
        self, figure: str, of: Callable[[Start], float], unit: str = "s", most: float | None = None
    ) -> list[str]:
        floor, value = statistics.mean(of(one) for one in self.floors), of(self.life.start)
        goal = ["", ""]
        if most is not None:
            goal = [f"≤ {most} of the floor", _met(holds=value <= most * floor)]
        return [figure, amount(floor, unit), amount(value, unit), f"{value / floor:.2f}" if floor else "", *goal]

    def _requests(self) -> list[list[str]]:
        starts = (*self.floors, self.life.start)
        rows = []
        found = {key for one in starts for key in one.server.requests}
        for key in sorted(found, key=lambda key: (key[0] not in WRITES, key)):
            before, after, value = (one.server.requests[key] / one.pods for one in starts)
            floor = (before + after) / 2
            if max(floor, value) >= 0.005:
                rows.append([" ".join(key), f"{floor:.2f}", f"{value:.2f}", f"{value - floor:+.2f}"])
        return rows


def _alone(figure: str, value: float, unit: str = "s", goal: tuple[str, bool] | None = None) -> list[str]:
    return [figure, "", amount(value, unit), "", *((goal[0], _met(holds=goal[1])) if goal else ("", ""))]


def _met(*, holds: bool) -> str:
    return "met" if holds else "**missed**"
