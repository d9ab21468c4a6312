"""Who does what among the ranks: which share of the data, which part of each layer. Pure arithmetic.

Ranks are counted as torch's `init_device_mesh` counts them, the tensor ways fastest: those who divide a layer exchange
the most, and have neighbouring numbers, in one pod where it has several processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from muster_worker.train.errors import ConfigurationError

STRATEGIES = ("ddp", "fsdp", "tensor")
FIELD = "spec.strategy"


@dataclass(frozen=True)
class Chosen:
    """`spec.strategy`. None: as many ways as there are ranks left for."""

    type: str = "ddp"
    data: int | None = None
    tensor: int | None = None


@dataclass(frozen=True, slots=True)
class Layout:
    """`data` shares of a batch, each computed by `tensor` ranks together; their product is the number of ranks."""

    strategy: str
    rank: int
    data: int
    tensor: int

    @classmethod
    def of(cls, chosen: Chosen, rank: int, ranks: int) -> Layout:
        """Raises ConfigurationError where so many ranks cannot be laid out so."""
        if chosen.type == "ddp" and (chosen.tensor or 1) > 1:
            raise ConfigurationError(
                f"{FIELD}.mesh.tensor: found {chosen.tensor} with type ddp, wanted 1, or type fsdp or tensor"
            )
        tensor = chosen.tensor or (ranks // (chosen.data or 1) if chosen.type == "tensor" else 1)
        data = chosen.data or ranks // max(1, tensor)
        if data * tensor != ranks:
            raise ConfigurationError(
                f"{FIELD}.mesh: found {data} (data) x {tensor} (tensor) for {ranks} processes, wanted ways whose"
                " product is the number of processes: spec.replicas times spec.processesPerWorker"
            )
        return cls(chosen.type, rank, data, tensor)

    @property
    def share(self) -> int:
        """Which share of the data this rank computes, from 0."""
        return self.rank // self.tensor

    @property
    def speaks(self) -> bool:
        """Whether this rank speaks for its share, where several compute it."""
        return self.rank % self.tensor == 0

    @property
    def divides(self) -> bool:
        """Whether no rank has the whole model."""
        return self.tensor > 1 or (self.strategy == "fsdp" and self.data > 1)
