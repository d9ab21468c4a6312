"""What a way of running a cluster must be able to do; `kind_provider` and `native` are the two there are."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Size:
    nodes: int
    simulated: int = 0


@dataclass(frozen=True)
class Status:
    """`summary` in a word or two; `details` one line each, what is wrong first."""

    usable: bool
    summary: str
    details: tuple[str, ...] = ()


class Provider(Protocol):
    name: str

    def up(self, size: Size) -> None: ...

    def down(self) -> None: ...

    def status(self) -> Status: ...

    def size(self) -> Size: ...

    def load(self, names: list[str]) -> None: ...

    def add_node(self, name: str) -> None: ...

    def fail_node(self, name: str) -> None: ...

    def hang_node(self, name: str) -> None: ...

    def heal_node(self, name: str) -> None: ...


@dataclass
class ClusterRecord:
    """What is written down of a cluster while it exists: .cluster/cluster.json."""

    provider: str
    complete: bool = False
    programs: str = ""  # the directory with the components that it runs
    simulated: int = 0
    # name -> what was done to it: "" (nothing), "failed" or "hung"
    nodes: dict[str, str] = field(default_factory=dict)

    @property
    def harmed(self) -> dict[str, str]:
        return {name: harm for name, harm in self.nodes.items() if harm}

    @property
    def told(self) -> list[str]:
        """A line for each node that was harmed."""
        return [f"{name} was {harm} on purpose: `node heal {name}` undoes it" for name, harm in self.harmed.items()]
