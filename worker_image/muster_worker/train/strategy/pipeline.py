"""The sequence of layers is divided among stages, which a batch passes in pieces, so that all are at work.

Each stage takes up to twice as many pieces as there are stages, forward and backward in turns, which bounds what it has
to keep of them (1F1B: Narayanan et al. 2019, https://arxiv.org/abs/1806.03377), by `torch.distributed.pipelining`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from muster_worker.parallel.layers import layers_of
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.averaged import Averaged
from muster_worker.train.strategy.base import keep_only, summed
from muster_worker.train.strategy.layout import FIELD, cut
from muster_worker.train.strategy.tensor import divided

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from muster_worker.train.precision import Precision
    from muster_worker.train.recipe import Recipe
    from muster_worker.train.strategy.base import Batch
    from muster_worker.train.strategy.layout import Layout

_KINDS = 16
"""Kinds of batches that are remembered: those that differ in length, of which an epoch has few."""


class Pipelined(Averaged):
    """Each rank has the parameters of its stage, by the names that they have in the whole model."""

    def __init__(self, layout: Layout, recipe: Recipe, model: nn.Module, device: torch.device) -> None:
        stages = [
            nn.ModuleList(layers_of(recipe, model, layout.pipeline, number, f"{FIELD}.mesh"))
            for number in range(layout.pipeline)
        ]
        _check(model, stages)
        stage = _Stage(stages[layout.stage])
        mesh = divided(layout, recipe, model, stage, device)
        keep_only(model, {*stage.parameters(), *stage.buffers()})
        super().__init__(model.to(device), mesh.get_group("data"))
        self._pipe = _Pipe(stage, layout, mesh.get_group("pipeline"), device)

    def compute(self, batch: Batch, precision: Precision, told: Callable[[float], None]) -> None:
        with precision.forward():
            told(self._pipe.train_on(batch, precision))

    def gradient_norm(self) -> float:
        return math.sqrt(summed(self._squares(), self._pipe.group))

    def evaluated(self) -> nn.Module:
        return self._pipe

    def whole_weights(self) -> dict[str, Any]:
        """Of the stages of the first share."""
        mine = {name: _whole(tensor).cpu() for name, tensor in get_model_state_dict(self.module).items()}
        group = self._pipe.group
        first = dist.get_rank(group) == 0
        parts: list[Any] | None = [None] * dist.get_world_size(group) if first else None
        dist.gather_object(mine, parts, group=group, group_dst=0)
        return {name: tensor for part in parts or [] for name, tensor in part.items()}


def _check(model: nn.Module, stages: list[nn.ModuleList]) -> None:
    """Raises ConfigurationError, alike on all ranks, where the stages are not the model, each with its own part."""
    owners: dict[nn.Parameter, int] = {}
    for number, stage in enumerate(stages):
        parameters = set(stage.parameters())
        if not parameters:
            raise ConfigurationError(
                f"{FIELD}.mesh.pipeline: found {len(stages)}, wanted fewer: stage {number} would have no parameters"
            )
        if shared := parameters & owners.keys():
            raise ConfigurationError(
                f"{FIELD}: two stages would share {_name(model, shared)}, wanted a stage of its own"
            )
        owners |= dict.fromkeys(parameters, number)
    everything = {*model.state_dict(keep_vars=True).values()}
    if left := everything - {tensor for stage in stages for tensor in (*stage.parameters(), *stage.buffers())}:
        raise ConfigurationError(f"{FIELD}: no layer of the recipe's pipeline_layers has {_name(model, left)}")


def _name(model: nn.Module, tensors: set[Any]) -> str:
    return next(name for name, one in model.state_dict(keep_vars=True).items() if one in tensors)


def _whole(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


class _Stage(nn.Module):
    """Layers one after the other."""

    def __init__(self, layers: nn.ModuleList) -> None:
        super().__init__()
        self._layers = layers

    def forward(self, *inputs: Tensor) -> Any:
        output: Any = inputs
        for layer in self._layers:
            output = layer(*output) if isinstance(output, tuple) else layer(output)
        return output


class _Pipe(nn.Module):
    """The stages together; called with a whole batch by every rank, though only the first reads it.

    A batch is cut in pieces of one length, for a pipeline has to know the shapes that pass it: the last is filled up
    with samples that count nothing.
    """

    def __init__(self, stage: nn.Module, layout: Layout, group: dist.ProcessGroup, device: torch.device) -> None:
        super().__init__()
        self.group = group
        self._stage, self._number, self._stages, self._device = stage, layout.stage, layout.pipeline, device
        self._to_train = functools.lru_cache(_KINDS)(self._training)
        self._to_evaluate = functools.lru_cache(_KINDS)(self._evaluating)

    def train_on(self, batch: Batch, precision: Precision) -> float:
        """Forward and backward; gives the mean loss, at the last stage."""
        samples = len(batch.inputs[0])
        pieces, length = cut(samples, self._stages)
        self._batch, self._precision, self._length = batch, precision, length
        self._losses: dict[int, float] = {}
        schedule = self._to_train(pieces, tuple(tensor.shape[1:] for tensor in batch.inputs), length)
        # A piece's target is its number, by which `_loss_of_piece` finds it.
        target = torch.arange(pieces) if self._is_last else None
        schedule.step(*self._first_inputs(batch.inputs, pieces * length), target=target)
        return sum(self._losses.values())

    def forward(self, *inputs: Tensor) -> Any:
        samples = len(inputs[0])
        pieces, length = cut(samples, self._stages)
        schedule = self._to_evaluate(pieces, tuple(tensor.shape[1:] for tensor in inputs), length)
        output = schedule.eval(*self._first_inputs(inputs, pieces * length))
        told = [tree_map(lambda tensor: tensor[:samples].cpu(), output) if self._is_last else None]
        dist.broadcast_object_list(told, group=self.group, group_src=self._stages - 1)
        return tree_map(lambda tensor: tensor.to(self._device), told[0])

    @property
    def _is_last(self) -> bool:
        return self._number == self._stages - 1

    def _first_inputs(self, inputs: tuple[Tensor, ...], length: int) -> tuple[Tensor, ...]:
        return tuple(_filled(tensor, length) for tensor in inputs) if self._number == 0 else ()

    def _loss_of_piece(self, output: Any, number: Tensor) -> Tensor:
        """What the piece adds to the step's loss. Of the first, torch asks twice where it learns the shapes."""
        batch, samples = self._batch, len(self._batch.inputs[0])
        start = int(number) * self._length
        count = min(self._length, samples - start)
        target = tree_map(lambda tensor: tensor[start : start + count], batch.target)
        loss = batch.loss(tree_map(lambda tensor: tensor[:count], output), target) * (count / samples)
        self._losses[int(number)] = loss.item()
        return self._precision.scaled(loss * batch.weight)

    def _training(self, pieces: int, _shapes: tuple[torch.Size, ...], _length: int) -> Schedule1F1B | ScheduleGPipe:
        kind = Schedule1F1B if pieces >= self._stages else ScheduleGPipe
        return kind(self._stage_of_schedule(), pieces, loss_fn=self._loss_of_piece, scale_grads=False)

    def _evaluating(self, pieces: int, _shapes: tuple[torch.Size, ...], _length: int) -> ScheduleGPipe:
        return ScheduleGPipe(self._stage_of_schedule(), pieces)

    def _stage_of_schedule(self) -> PipelineStage:
        return PipelineStage(self._stage, self._number, self._stages, self._device, group=self.group)


def _filled(tensor: Tensor, length: int) -> Tensor:
    """By repeating its last sample, which no layer can object to."""
    missing = length - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
