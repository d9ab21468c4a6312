"""Which samples every rank uses at every step. Pure arithmetic on positions in an epoch's order.

Invariants, at any world size:
- an epoch uses every position from 0 to `samples` exactly once; nothing is padded or dropped;
- what a step uses does not depend on the world size, so a position in samples is all that a resume needs,
  also when the number of ranks has changed meanwhile;
- the shares of the ranks in a batch differ by at most one sample. A batch smaller than the world size leaves
  some ranks without a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class Step:
    """One update of the parameters: the positions `start` to `stop` (exclusive), taken in `batches`."""

    start: int
    stop: int
    batches: tuple[range, ...]

    @property
    def samples(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class EpochPlan:
    """How an epoch of `samples` samples is cut: `accumulation` batches of `batch_size` samples a step."""

    samples: int
    batch_size: int
    accumulation: int = 1

    @property
    def steps(self) -> int:
        return -(-self.samples // (self.batch_size * self.accumulation))

    @property
    def smallest_batch(self) -> int:
        """Samples in the last of an epoch, which may be as large as the others."""
        return self.samples % self.batch_size or self.batch_size

    def steps_from(self, position: int) -> Iterator[Step]:
        """The steps that are left when the first `position` samples of the epoch have been used."""
        while position < self.samples:
            stop = min(position + self.batch_size * self.accumulation, self.samples)
            starts = range(position, stop, self.batch_size)
            yield Step(position, stop, tuple(range(start, min(start + self.batch_size, stop)) for start in starts))
            position = stop


def share(positions: range, rank: int, ranks: int) -> range:
    """The part of `positions` that is `rank`'s: contiguous, in the order of the ranks."""
    count = len(positions)
    return positions[count * rank // ranks : count * (rank + 1) // ranks]
