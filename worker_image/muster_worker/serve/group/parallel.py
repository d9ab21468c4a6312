"""A model divided among the ranks of a shard, by torch's own parts: each has some of its layers, and a part of these.

Made of the recipe and the weights, for an exported program has no layers any more. Batches are made as long as the next
power of two, so that there are few kinds of them: a pipeline has to know the shapes that pass it.
"""

from __future__ import annotations

import functools
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor.parallel import parallelize_module

from muster_worker.serve.group.meeting import is_of_a_peer
from muster_worker.serve.model import ServedModel, intact, recipe_and_model
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.export import named_outputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.parallel import ParallelStyle

    from muster_worker.serve.group.layout import Layout
    from muster_worker.serve.server import ServeConfig

_KINDS = 64
"""Kinds of batches that are remembered; all ranks see the same ones, and forget the same."""

_FIELD = "spec.group.parallelism"


def load(config: ServeConfig, layout: Layout, mesh: DeviceMesh, device: torch.device) -> ServedModel:
    """The part of this rank; all ranks of the shard have to call theirs alike. Collective.

    Only those of the last stage have outputs to give. Raises StorageError or ConfigurationError.
    """
    loaded, signature, sha256 = intact(config.directory, config.sha256)
    if any("quantize" in step for step in loaded.description["origin"].get("compression", [])):
        raise ConfigurationError(
            f"{_FIELD}: the weights of the model in {config.directory} are quantized, wanted floating point numbers,"
            " which torch knows to divide: serve it without tensor and pipeline"
        )
    recipe, model = recipe_and_model(loaded)
    named = loaded.description["origin"]["recipe"]
    names = [spec.name for spec in signature.outputs]
    number = mesh.get_local_rank("pipeline")
    part: nn.Module = model
    if layout.pipeline > 1:
        layers = recipe.pipeline_layers(model)
        if layers is None:
            raise ConfigurationError(_unplanned("pipeline", layout.pipeline, named, "pipeline_layers"))
        if len(layers) < layout.pipeline:
            raise ConfigurationError(
                f"{_FIELD}.pipeline: found {layout.pipeline}, wanted at most {len(layers)}: so many layers has {named}"
            )
        mine = divided([_parameters(layer) for layer in layers], layout.pipeline)[number]
        part = _Layers([layers[index] for index in mine], names if number == layout.pipeline - 1 else None)
    part = part.to(device)
    if layout.tensor > 1:
        plan = recipe.tensor_plan(model)
        if plan is None:
            raise ConfigurationError(_unplanned("tensor", layout.tensor, named, "tensor_plan"))
        parallelize_module(model, mesh["tensor"], _plan_of(part, model, plan, named))
    if layout.pipeline > 1:
        part = _Pipeline(part, number, layout.pipeline, mesh.get_group("pipeline"), device, names, signature.batched)
    return ServedModel(signature, part, device, sha256)


def divided(weights: Sequence[int], count: int) -> list[range]:
    """The indices of `weights` as `count` runs of at least one, so that the heaviest is as light as can be."""

    @functools.cache
    def best(first: int, runs: int) -> tuple[int, list[range]]:
        if runs == 1:
            return sum(weights[first:]), [range(first, len(weights))]
        found: list[tuple[int, list[range]]] = []
        for end in range(first + 1, len(weights) - runs + 2):
            heaviest, others = best(end, runs - 1)
            found.append((max(sum(weights[first:end]), heaviest), [range(first, end), *others]))
        return min(found, key=lambda one: one[0])

    return best(0, count)[1]


def _parameters(layer: nn.Module) -> int:
    return sum(parameter.numel() for parameter in layer.parameters())


def _unplanned(way: str, found: int, recipe: str, method: str) -> str:
    return f"{_FIELD}.{way}: found {found}, wanted 1, or a recipe that says how: {recipe} has no {method}"


def _plan_of(
    part: nn.Module, model: nn.Module, plan: Mapping[str, ParallelStyle], recipe: str
) -> dict[str, ParallelStyle]:
    """As much of the plan as concerns this rank's part, without patterns."""
    mine = set(part.modules())
    found: dict[str, ParallelStyle] = {}
    for pattern, style in plan.items():
        matching = {name: module for name, module in model.named_modules() if _matches(name, pattern)}
        if not matching:
            raise ConfigurationError(
                f"{_FIELD}.tensor: the tensor_plan of {recipe} names {pattern}, which is not there"
            )
        found |= {name: style for name, module in matching.items() if module in mine}
    return found


def _matches(name: str, pattern: str) -> bool:
    words, wanted = name.split("."), pattern.split(".")
    return len(words) == len(wanted) and all(map(fnmatchcase, words, wanted))


class _Layers(nn.Module):
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


class _Pipeline(nn.Module):
    """Called with the whole batch by every rank, though the first stage alone reads it."""

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
        self._schedule = functools.lru_cache(_KINDS)(self._made)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        samples = length = len(inputs[0])
        if self._batched:
            length = 1 << (samples - 1).bit_length()
            inputs = tuple(_lengthened(tensor, length) for tensor in inputs)
        schedule = self._schedule(tuple(tensor.shape for tensor in inputs))
        try:
            output = schedule.eval(*inputs) if self._number == 0 else schedule.eval()
        except RuntimeError as error:
            if is_of_a_peer(error):
                raise
            raise (error.__cause__ or error) from None  # what the model said; torch only adds where
        if self._number < self._stages - 1:
            return {name: torch.empty(0) for name in self._names}
        outputs = output if isinstance(output, tuple) else (output,)
        return {
            name: tensor[:samples] if self._batched else tensor
            for name, tensor in zip(self._names, outputs, strict=True)
        }

    def _made(self, shapes: tuple[torch.Size, ...]) -> ScheduleGPipe:
        """A batch passes the stages in pieces of one length, so that several are at work."""
        pieces = 1 << (min(shapes[0][0], self._stages).bit_length() - 1) if self._batched else 1
        stage = PipelineStage(self._stage, self._number, self._stages, self._device, group=self._group)
        return ScheduleGPipe(stage, n_microbatches=pieces)


def _lengthened(tensor: Tensor, length: int) -> Tensor:
    """By repeating its last sample, which no layer can object to."""
    missing = length - len(tensor)
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])]) if missing else tensor
