"""A model of which this rank has some layers, called by its recipe, which knows of no ranks: so it generates text.

The recipe calls all layers, one after the other. Those of other stages of the pipeline have stand-ins here. The first
layer's gives what the stage before has computed, whatever it is given itself; the one behind this rank's own layers
sends what comes to the next stage. What the recipe makes of the last layer's stand-in, nobody reads. From stage to
stage something passes in each computation, whatever fails: where it is no result, it is the words of what has failed.

By gloo here and in the tests; nobody has run it by NCCL, between GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.generate.decoder import LocalDecoder, failed
from muster_worker.serve.group.failures import tensor_of, text_of
from muster_worker.serve.group.meeting import is_of_a_peer
from muster_worker.train.model_directory import DATATYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.distributed import ProcessGroup

    from muster_worker.serve.generate.sampling import Rules
    from muster_worker.train.language_model import LanguageModel

_T = TypeVar("_T")

_TYPES = list(DATATYPES)
_FAILED = -1
"""In the place of a type: words follow."""

_DIMENSIONS = 8
"""That what passes from stage to stage may have."""


class _Elsewhere(nn.Module):
    """Gives what it is given."""

    def forward(self, given: Tensor, *others: object, **named: object) -> Tensor:
        del others, named
        return given


class Passage:
    """To this rank's stage from the one before, and from it to the next. `group`: of each stage one rank."""

    def __init__(self, group: ProcessGroup, device: torch.device) -> None:
        self._group, self._device = group, device
        self._begins, self._ends = group.rank() == 0, group.rank() == group.size() - 1
        self._has_come = self._has_left = False

    def compute(self, work: Callable[[], _T]) -> _T:
        """What it gives; raises the ComputationError of this stage, or of the one before."""
        self._has_come, self._has_left = self._begins, self._ends
        try:
            return work()
        except ComputationError as error:
            if is_of_a_peer(error):
                raise
            try:
                told = self._told_before() or str(error)
                if not self._has_left:
                    self._send(_FAILED, tensor_of(told).to(self._device))
            except Exception as broken:  # there is nobody any more to be told
                raise failed(broken) from broken
            raise ComputationError(told) from error

    def _told_before(self) -> str | None:
        """What the stage before has failed with, where this one failed before it asked for what comes."""
        if not self._has_come:
            try:
                self.come()
            except ComputationError as error:
                return str(error)
        return None

    def come(self) -> Tensor:
        """What the stage before has sent, which says its type and shape first."""
        kind, dimensions, *lengths = self._received([2 + _DIMENSIONS], torch.int64).tolist()
        dtype = torch.uint8 if kind == _FAILED else _TYPES[kind]
        tensor = self._received(lengths[:dimensions], dtype)
        self._has_come = True
        if kind == _FAILED:
            raise ComputationError(text_of(tensor))
        return tensor

    def leave(self, given: Tensor) -> None:
        """To the next stage."""
        self._send(_TYPES.index(given.dtype), given)
        self._has_left = True

    def _send(self, kind: int, given: Tensor) -> None:
        missing = _DIMENSIONS - given.dim()
        said = [kind, given.dim(), *given.shape, *[0] * missing]
        for tensor in torch.tensor(said, device=given.device), given.contiguous():
            dist.send(tensor, group=self._group, group_dst=self._group.rank() + 1)

    def _received(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        tensor = torch.empty(*shape, dtype=dtype, device=self._device)
        dist.recv(tensor, group=self._group, group_src=self._group.rank() - 1)
        return tensor


class StageDecoder(LocalDecoder):
    """By the layers of this stage, and whatever passes."""

    def __init__(self, model: LanguageModel, slots: int, passage: Passage, *, chooses: bool) -> None:
        super().__init__(model, slots, chooses=chooses)
        self._passage = passage

    def prefill(self, slot: int, tokens: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        return self._passage.compute(lambda: super(StageDecoder, self).prefill(slot, tokens, rules))

    def step(self, slots: Tensor, tokens: Tensor, places: Tensor, rules: Rules) -> tuple[Tensor, Tensor]:
        return self._passage.compute(lambda: super(StageDecoder, self).step(slots, tokens, places, rules))


class _Arrives(_Elsewhere):
    """Gives what the stage before has sent."""

    def __init__(self, passage: Passage) -> None:
        super().__init__()
        self._passage = passage

    def forward(self, given: Tensor, *others: object, **named: object) -> Tensor:
        del given, others, named
        return self._passage.come()


class _Leaves(_Elsewhere):
    """Sends what it is given to the next stage."""

    def __init__(self, passage: Passage) -> None:
        super().__init__()
        self._passage = passage

    def forward(self, given: Tensor, *others: object, **named: object) -> Tensor:
        self._passage.leave(given)
        return super().forward(given, *others, **named)


def keep_only(mine: Sequence[nn.Module], model: nn.Module, layers: Sequence[nn.Module], passage: Passage) -> None:
    """Replaces all `layers` of `model` by stand-ins but `mine`, some that follow each other."""
    names = {module: name for name, module in model.named_modules()}
    first = layers.index(mine[0])
    behind = first + len(mine)
    for number, layer in enumerate(layers):
        if first <= number < behind:
            continue
        stand_in = _Arrives(passage) if number == 0 else _Leaves(passage) if number == behind else _Elsewhere()
        model.set_submodule(names[layer], stand_in)
