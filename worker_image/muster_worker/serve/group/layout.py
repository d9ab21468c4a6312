"""How the processes of a group are numbered, and which of them compute what together."""

from __future__ import annotations

from dataclasses import dataclass

from muster_worker.train.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Layout:
    """`data` shards of `pipeline` times `tensor` ranks each, on `pods` pods that have equally many.

    A shard has the whole model and computes a part of each batch. Its ranks are numbered stage by stage of its
    pipeline, so that those which divide the same tensors follow each other.
    """

    data: int = 1
    tensor: int = 1
    pipeline: int = 1
    pods: int = 1

    def __post_init__(self) -> None:
        """Raises ConfigurationError where the pods would have unequal numbers of processes."""
        if self.processes % self.pods:
            raise ConfigurationError(
                f"--data {self.data}, --tensor {self.tensor} and --pipeline {self.pipeline} make {self.processes}"
                f" processes, wanted a multiple of --pods {self.pods}"
            )

    @property
    def processes(self) -> int:
        return self.data * self.tensor * self.pipeline

    @property
    def shard_size(self) -> int:
        return self.tensor * self.pipeline

    @property
    def at_once(self) -> int:
        """So many batches keep all shards busy, and all stages of their pipelines."""
        return self.data * self.pipeline

    def slots_of_decoders(self, slots: int) -> list[int]:
        """How many texts each decoder of a shard has, of so many: one decoder for each stage, so that all are busy."""
        return [-(-slots // self.pipeline)] * self.pipeline

    @property
    def per_pod(self) -> int:
        return self.processes // self.pods

    @property
    def shards(self) -> list[range]:
        """The ranks of each."""
        return [range(first, first + self.shard_size) for first in range(0, self.processes, self.shard_size)]

    def ranks_of(self, pod: int) -> range:
        return range(pod * self.per_pod, (pod + 1) * self.per_pod)

    def answers(self, rank: int) -> bool:
        """Whether it is the one of its shard that gives outputs: the first of the last stage."""
        return rank % self.shard_size == self.shard_size - self.tensor

    def begins(self, rank: int) -> bool:
        """Whether it is the one of its shard that gives what the first stage has: its first."""
        return rank % self.shard_size == 0

    def pod_of(self, rank: int) -> int:
        return rank // self.per_pod


@dataclass(frozen=True, slots=True)
class GroupConfig:
    """`pod`: which one this is. `leader`: the host of pod 0, where the front listens on `port` for the ranks."""

    name: str
    layout: Layout
    pod: int = 0
    leader: str | None = None
    port: int = 8090

    def __post_init__(self) -> None:
        """Raises ConfigurationError where there is no such pod, or no way to its leader."""
        if self.pod >= self.layout.pods:
            raise ConfigurationError(f"--pod: found {self.pod}, wanted a number below --pods {self.layout.pods}")
        if self.pod and not self.leader:
            raise ConfigurationError(f"--leader: missing, wanted the host of pod 0, for this is pod {self.pod}")

    @property
    def leads(self) -> bool:
        return self.pod == 0
