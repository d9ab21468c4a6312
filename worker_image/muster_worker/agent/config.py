"""What the agent is told by its environment, checked once and then frozen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

RECIPE_ENTRY = "muster_worker.train.main:run"
DEFAULT_PORT = 7070
ALL_WORKERS, RANK_0 = "AllWorkers", "Rank0"
DEFAULT_REPORT = Path("/muster/run/report.jsonl")
DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")


class ConfigError(ValueError):
    """The environment is not what the agent needs. The message names the variable, what it is and what is wanted."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe's class as `module:Class`, run by `entry` (a function that takes it) in processes forked warm."""

    reference: str
    entry: str = RECIPE_ENTRY


@dataclass(frozen=True, slots=True)
class Script:
    """A command as torchrun would take it."""

    command: tuple[str, ...]


Workload: TypeAlias = Recipe | Script


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One agent: which pod of which job it is, and what to run.

    `attempt` is the attempt this pod was made for. `success_policy` says whose end is the group's: everybody's, or
    that of the pod with rank 0. `hang_timeout` is how many seconds ranks may report nothing; None: for ever.
    `least_replicas` and `most_replicas` are the bounds of an elastic round; None: its size is fixed. `servers`: so many
    pods, the first, are parameter servers; 0: there are none. They alone make up the round, which is not elastic, and
    `replicas` counts as many workers beside them as there can be. `coordinator` is where the agent of rank 0 listens.
    `bind` is the address to listen on, "" for all. `grace_seconds` is what the pod has between SIGTERM and SIGKILL.
    """

    workload: Workload
    job: str
    pod: str
    rank: int
    replicas: int
    attempt: int
    processes: int
    coordinator: tuple[str, int]
    port: int
    storage: Path
    report: Path
    source: Path | None
    permanent_exit_codes: frozenset[int]
    grace_seconds: float
    termination_log: Path
    bind: str = ""
    success_policy: str = ALL_WORKERS
    hang_timeout: float | None = None
    least_replicas: int | None = None
    most_replicas: int | None = None
    servers: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], workload: Workload) -> AgentConfig:
        """Raises `ConfigError`."""
        read = _Reader(environment)
        replicas = read.number("MUSTER_REPLICAS", 1, least=1)
        port = read.number("MUSTER_PORT", DEFAULT_PORT, least=1, most=65535)
        servers = [one for one in environment.get("MUSTER_PARAMETER_SERVERS", "").split(",") if one]
        if len(servers) >= replicas:
            raise ConfigError(
                f"MUSTER_PARAMETER_SERVERS has {len(servers)} addresses for MUSTER_REPLICAS = {replicas} pods: it must"
                " leave one for a worker"
            )
        least = read.number("MUSTER_MIN_REPLICAS", 0, least=0)
        most = read.number("MUSTER_MAX_REPLICAS", 0, least=0)
        report = Path(environment.get("MUSTER_REPORT") or DEFAULT_REPORT)
        return cls(
            workload=workload,
            job=read.text("MUSTER_JOB_UID"),
            pod=read.text("MUSTER_POD"),
            rank=read.number("MUSTER_RANK", None, least=0, most=replicas - 1),
            replicas=replicas,
            attempt=read.number("MUSTER_ATTEMPT", 1, least=0),
            processes=read.number("MUSTER_PROCESSES", 1, least=1),
            coordinator=read.address("MUSTER_COORDINATOR", ("127.0.0.1", port) if replicas == 1 else None),
            port=port,
            storage=Path(environment.get("MUSTER_STORAGE") or report.parent / "storage"),
            report=report,
            source=Path(environment["MUSTER_SOURCE"]) if environment.get("MUSTER_SOURCE") else None,
            permanent_exit_codes=read.exit_codes("MUSTER_PERMANENT_EXIT_CODES"),
            hang_timeout=read.number("MUSTER_HANG_TIMEOUT_SECONDS", 0, least=0) or None,
            least_replicas=None if servers else least or None,
            most_replicas=None if servers else most or None,
            servers=len(servers),
            success_policy=read.choice("MUSTER_SUCCESS_POLICY", ALL_WORKERS, RANK_0),
            grace_seconds=read.number("MUSTER_GRACE_SECONDS", 30, least=0),
            termination_log=Path(environment.get("MUSTER_TERMINATION_LOG") or DEFAULT_TERMINATION_LOG),
        )

    @property
    def hosts_coordinator(self) -> bool:
        return self.rank == 0

    @property
    def members(self) -> int:
        """How many pods make up a round that is not elastic."""
        return self.servers or self.replicas

    @property
    def comes_and_goes(self) -> bool:
        """Whether this pod is a worker of parameter servers, in whose round it is not."""
        return self.rank >= self.members

    @property
    def world_size(self) -> int:
        return self.replicas * self.processes


@dataclass(frozen=True, slots=True)
class _Reader:
    environment: Mapping[str, str]

    def text(self, name: str) -> str:
        value = self.environment.get(name, "")
        if not value:
            raise ConfigError(f"{name} is not set: the operator sets it in every worker pod")
        return value

    def number(self, name: str, default: int | None, *, least: int, most: int | None = None) -> int:
        value = self.environment.get(name) or ("" if default is None else str(default))
        wanted = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
        if not re.fullmatch(r"\d{1,18}", value) or int(value) < least or (most is not None and int(value) > most):
            raise ConfigError(f"{name} is {value!r}: it must be {wanted}")
        return int(value)

    def address(self, name: str, default: tuple[str, int] | None) -> tuple[str, int]:
        value = self.environment.get(name, "")
        if not value and default is not None:
            return default
        host, _, port = value.rpartition(":")
        if not host or not re.fullmatch(r"\d{1,5}", port) or not 0 < int(port) < 65536:
            raise ConfigError(f"{name} is {value!r}: it must be host:port of the agent of rank 0")
        return host.strip("[]"), int(port)

    def choice(self, name: str, *choices: str) -> str:
        value = self.environment.get(name) or choices[0]
        if value not in choices:
            raise ConfigError(f"{name} is {value!r}: it must be one of {', '.join(choices)}")
        return value

    def exit_codes(self, name: str) -> frozenset[int]:
        words = [word.strip() for word in self.environment.get(name, "").split(",") if word.strip()]
        if any(not re.fullmatch(r"\d{1,3}", word) or not 1 <= int(word) <= 255 for word in words):
            raise ConfigError(
                f"{name} is {self.environment[name]!r}: it must be exit codes from 1 to 255 with commas between"
            )
        return frozenset(int(word) for word in words)
