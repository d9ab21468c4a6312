"""What is compared: each table's rows, and the sides of each, as calls that give what the clocks of its ranks found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from tests.bench.strategies.measured import (
    ALL_REDUCE,
    CHECKPOINTS,
    LIGHTNING,
    MUSTER,
    ONE,
    SAVING,
    SERVED,
    SERVERS,
    STRATEGIES,
    TORCHRUN,
)
from tests.bench.throughput import side
from tests.ports import free_ports

Run: TypeAlias = Callable[[], list[dict[str, Any]]]
Rows: TypeAlias = dict[str, dict[str, Run]]

CHARGPT = "tests.bench.strategies.recipes:TimedCharGPT"
TRAININGS = {"chargpt": CHARGPT, "10 million parameters": "tests.bench.throughput.recipes:TimedPerceptron"}
_HERE = Path(__file__).parent
_RANKS = _HERE.parent / "throughput" / "ranks.py"
_BY_LIGHTNING = "ddp", "fsdp", "tensor"
_ARRANGEMENTS: dict[str, dict[str, Any]] = {
    "1 server": {},
    "2 servers": {"servers": 2},
    "1 server, staleness 2": {"staleness": 2},
    "1 server, int8": {"gradientCompression": "int8"},
}
_CHECKPOINT_EVERY = {"chargpt": 24, "10 million parameters": 40}
"""Steps, of which three times as many are timed."""
_SAVING: dict[str, dict[str, Any] | None] = {
    "none": None,
    "asynchronous": {"asynchronous": True},
    "synchronous": {"asynchronous": False},
}


def tables() -> dict[str, Rows]:
    return {
        STRATEGIES: {ONE: _beside_others("ddp", 1)}
        | {f"{kind}, {ranks} ranks": _beside_others(kind, ranks) for kind in _KINDS for ranks in (2, 4)},
        SERVERS: {training: _servers(recipe) for training, recipe in TRAININGS.items()},
        CHECKPOINTS: {training: _checkpoints(training, recipe) for training, recipe in TRAININGS.items()},
    }


_KINDS = "ddp", "fsdp", "tensor", "pipeline"


def _beside_others(strategy: str, ranks: int) -> dict[str, Run]:
    def muster() -> list[dict[str, Any]]:
        return side.agent(CHARGPT, ranks, {"MUSTER_STRATEGY": json.dumps({"type": strategy})})

    def by(program: str) -> Run:
        return lambda: side.torchrun(_HERE / program, [strategy, CHARGPT], ranks)

    found = {MUSTER: muster, TORCHRUN: by("plain.py")}
    return found | {LIGHTNING: by("by_lightning.py")} if strategy in _BY_LIGHTNING else found


def _servers(recipe: str) -> dict[str, Run]:
    """Two workers each, under torchrun like the two ranks that do without servers."""

    def served(servers: int = 1, **strategy: Any) -> list[dict[str, Any]]:
        addresses = ",".join(f"127.0.0.1:{port}" for port in free_ports(servers))
        given = _of_steps(SERVED) | {
            "MUSTER_STRATEGY": json.dumps({"type": "parameterServer", **strategy}),
            "MUSTER_PARAMETER_SERVERS": addresses,
        }
        return side.torchrun(_RANKS, [recipe], servers + 2, timed=servers, environment=given)

    return {ALL_REDUCE: lambda: side.torchrun(_RANKS, [recipe], 2, environment=_of_steps(SERVED))} | {
        name: (lambda chosen=chosen: served(**chosen))  # type: ignore[misc]
        for name, chosen in _ARRANGEMENTS.items()
    }


def _of_steps(timed: int) -> dict[str, str]:
    return {"MUSTER_RECIPE_CONFIG": json.dumps({"steps": timed})}


def _checkpoints(training: str, recipe: str) -> dict[str, Run]:
    every = _CHECKPOINT_EVERY[training]

    def saving(policy: dict[str, Any] | None) -> list[dict[str, Any]]:
        given = _of_steps(SAVING * every)
        if policy is not None:
            given["MUSTER_CHECKPOINT"] = json.dumps({"everySteps": every, **policy})
        return side.agent(recipe, 2, given)

    return {
        name: (lambda policy=policy: saving(policy))  # type: ignore[misc]
        for name, policy in _SAVING.items()
    }
