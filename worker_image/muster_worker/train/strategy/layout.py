"""Who does what among the ranks: which share of the data, which layers, which part of each. Pure arithmetic.

Ranks are counted as torch's `init_device_mesh` counts them, the tensor ways fastest: those who divide a layer exchange
the most, and have neighbouring numbers, in one pod where it has several processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from muster_worker.train.errors import ConfigurationError

PARAMETER_SERVER = "parameterServer"
STRATEGIES = ("ddp", "fsdp", "tensor", "pipeline", PARAMETER_SERVER)
FIELD = "spec.strategy"


@dataclass(frozen=True)
class Chosen:
    """`spec.strategy`. None: as many ways as there are ranks left for."""

    type: str = "ddp"
    data: int | None = None
    tensor: int | None = None
    pipeline: int | None = None
    staleness: int = 0
    """With parameter servers: how many steps a worker may be ahead of the slowest."""
    gradient_compression: str = "none"
    """With parameter servers: none, or int8."""


@dataclass(frozen=True, slots=True)
class Layout:
    """`data` shares of a batch; each passes `pipeline` stages, and each stage's layers are divided in `tensor` ways.

    The product of the three is the number of ranks. Parameter servers are ranks, and count as shares; their workers are
    in no layout.
    """

    strategy: str
    rank: int
    data: int
    tensor: int
    pipeline: int = 1

    @classmethod
    def of(cls, chosen: Chosen, rank: int, ranks: int) -> Layout:
        """Raises ConfigurationError where so many ranks cannot be laid out so."""
        given = {"data": chosen.data, "pipeline": chosen.pipeline, "tensor": chosen.tensor}
        for way, types in (("tensor", ("fsdp", "tensor", "pipeline")), ("pipeline", ("pipeline",))):
            if (given[way] or 1) > 1 and chosen.type not in types:
                raise ConfigurationError(
                    f"{FIELD}.mesh.{way}: found {given[way]} with type {chosen.type}, wanted 1, or type"
                    f" {' or '.join(types)}"
                )
        # What is not given is one way; all that is left is of the kind that the strategy is named for.
        rest = chosen.type if chosen.type in given and given[chosen.type] is None else "data"
        ways = {name: ways or 1 for name, ways in given.items()}
        if given[rest] is None:
            ways[rest] = max(1, ranks // math.prod(ways.values()))
        if math.prod(ways.values()) != ranks:
            found = " x ".join(f"{count} ({name})" for name, count in ways.items())
            raise ConfigurationError(
                f"{FIELD}.mesh: found {found} for {ranks} processes, wanted ways whose product is the number of"
                " processes: spec.replicas times spec.processesPerWorker"
            )
        return cls(chosen.type, rank, **ways)

    @property
    def share(self) -> int:
        """Which share of the data this rank computes, from 0."""
        return self.rank // (self.pipeline * self.tensor)

    @property
    def stage(self) -> int:
        """Which of the stages of the pipeline this rank is, from 0."""
        return self.stage_of(self.rank)

    def stage_of(self, rank: int) -> int:
        return rank // self.tensor % self.pipeline

    @property
    def speaks(self) -> bool:
        """Whether this rank speaks for its share, where several compute it: the outputs are the last stage's."""
        return self.stage == self.pipeline - 1 and self.rank % self.tensor == 0

    @property
    def independent(self) -> bool:
        """Whether each of several ranks computes a batch's outputs by itself."""
        return self.data > 1 and self.strategy == "ddp"

    def computed_together(self, samples: int) -> int:
        """Of a batch of so many, the fewest that a rank computes at once: its share, or in a pipeline a piece of it."""
        mine = max(1, samples // self.data)
        return cut(mine, self.pipeline)[1] if self.strategy == "pipeline" else mine

    @property
    def divides(self) -> bool:
        """Whether no rank has the whole model."""
        return self.tensor > 1 or self.pipeline > 1 or (self.strategy in ("fsdp", PARAMETER_SERVER) and self.data > 1)


def cut(samples: int, stages: int) -> tuple[int, int]:
    """In how many pieces they pass a pipeline, and how many are in each: two for each stage at most, none empty."""
    length = -(-samples // min(samples, 2 * stages))
    return -(-samples // length), length
