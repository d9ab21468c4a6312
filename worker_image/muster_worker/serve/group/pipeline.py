"""Layers that follow each other on several ranks, by torch's pipelining.

Batches are made as long as the next power of two, so that there are few kinds of them: a pipeline has to know the
shapes that pass it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.utils._pytree import tree_map

from muster_worker.serve.generate.decoder import failed
from muster_worker.serve.group.failures import Failures, OutOfStepError
from muster_worker.serve.group.gradients import as_leaves, gradients_of
from muster_worker.serve.group.meeting import is_of_a_peer
from muster_worker.train.export import named_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.distributed import ProcessGroup

_KINDS = 64
"""Kinds of batches that are remembered; all ranks see the same ones, and forget the same."""


class Layers(nn.Module):
    """One after the other. `names`: of the outputs, where the last of the model is among them."""

    def __init__(self, layers: Sequence[nn.Module], names: Sequence[str] | None) -> None:
        super().__init__()
        self._layers = nn.ModuleList(layers)
        self._names = names

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        output: Any = inputs
        for layer in self._layers:
            output = layer(*output) if isinstance(output, tuple) else layer(output)
        if self._names is None:
            return output
        named = named_outputs(output)
        return tuple(named[name] for name in self._names)


class _Guarded(nn.Module):
    """Gives zeros in the place of what the layers fail to give, for the stages behind wait for something."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.error: Exception | None = None
        self._layers = layers
        self._calls = 0
        self._shaped: Any = None

    def forward(self, *inputs: Tensor) -> Any:
        """At first torch looks for the shapes alone, and what the stages behind the first are given is anything."""
        self._calls += 1
        try:
            output = self._layers(*inputs)
        except Exception as error:
            if is_of_a_peer(error):
                raise
            if self._calls > 1:
                self.error = self.error or error
            if self._shaped is None:
                self._shaped = _shapes_of(self._layers(*map(torch.zeros_like, inputs)))
            return tree_map(lambda shape: torch.zeros_like(shape, device=inputs[0].device), self._shaped)
        if self._shaped is None:
            self._shaped = _shapes_of(output)
        return output


def _shapes_of(output: Any) -> Any:
    return tree_map(lambda tensor: tensor.to("meta"), output)


class Pipeline(nn.Module):
    """Called with the whole batch by every rank, though the first stage alone reads it.

    What a stage fails with, it tells the stages behind once all have done their part: all of these raise it too.
    """

    def __init__(
        self,
        stage: nn.Module,
        number: int,
        stages: int,
        group: ProcessGroup,
        device: torch.device,
        names: Sequence[str],
        batched: bool,
    ) -> None:
        super().__init__()
        self._stage, self._number, self._stages = stage, number, stages
        self._group, self._device = group, device
        self._names, self._batched = names, batched
        self._is_first, self._is_last = number == 0, number == stages - 1
        self._forwards = functools.lru_cache(_KINDS)(self._guarded)
        self._backwards = functools.lru_cache(_KINDS)(functools.partial(self._made, stage, loss=_of_first))
        self._failures = Failures(group, device, number, stages)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        samples = len(inputs[0])
        inputs = tuple(map(self._lengthened, inputs))
        schedule, guarded = self._forwards(tuple(tensor.shape for tensor in inputs))
        guarded.error = None
        output = _run(schedule.eval, *(inputs if self._is_first else ()))
        self._failures.exchange(guarded.error)
        if not self._is_last:
            return {name: torch.empty(0) for name in self._names}
        outputs = output if isinstance(output, tuple) else (output,)
        return {
            name: tensor[:samples] if self._batched else tensor
            for name, tensor in zip(self._names, outputs, strict=True)
        }

    def length(self, samples: int) -> int:
        """See Differentiable."""
        return 1 << (samples - 1).bit_length() if self._batched else samples

    def gradients(self, inputs: Sequence[Tensor], of_output: Tensor) -> list[Tensor]:
        """See Differentiable."""
        samples = len(inputs[0])
        leaves = as_leaves([self._lengthened(tensor) for tensor in inputs])
        of_output = self._lengthened(of_output)
        of_output[samples:] = 0
        schedule = self._backwards(tuple(tensor.shape for tensor in leaves))
        with torch.enable_grad():
            _run(
                schedule.step,
                *(leaves if self._is_first else ()),
                return_outputs=False,
                **({"target": of_output} if self._is_last else {}),
            )
        return [gradient[:samples] for gradient in gradients_of(leaves)] if self._is_first else []

    def _guarded(self, shapes: tuple[torch.Size, ...]) -> tuple[ScheduleGPipe, _Guarded]:
        guarded = _Guarded(self._stage)
        return self._made(guarded, shapes), guarded

    def _made(
        self, module: nn.Module, shapes: tuple[torch.Size, ...], loss: Callable[..., Tensor] | None = None
    ) -> ScheduleGPipe:
        """A batch passes the stages in pieces of one length, so that several are at work."""
        pieces = 1 << (min(shapes[0][0], self._stages).bit_length() - 1) if self._batched else 1
        stage = PipelineStage(module, self._number, self._stages, self._device, group=self._group)
        return ScheduleGPipe(stage, n_microbatches=pieces, loss_fn=loss)

    def _lengthened(self, tensor: Tensor) -> Tensor:
        """By repeating its last sample, which no layer can object to."""
        missing = self.length(len(tensor)) - len(tensor)
        return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor


def _of_first(outputs: Any, of_output: Tensor) -> Tensor:
    """A number whose gradient by the first output is `of_output`."""
    first = outputs[0] if isinstance(outputs, tuple) else outputs
    return (first * of_output).sum()


def _run(schedule: Callable[..., Any], *inputs: Tensor, **more: Any) -> Any:
    """Raises OutOfStepError with what the model has said, to which torch only adds where; or that a peer is gone."""
    try:
        return schedule(*inputs, **more)
    except Exception as error:
        if is_of_a_peer(error):
            raise
        said = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise OutOfStepError(str(failed(said))) from said
