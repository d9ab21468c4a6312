"""A model divided among the ranks of a shard, by torch's own parts: each has some of its layers, and a part of these.

Made of the recipe and the weights, for an exported program has no layers any more. Batches are made as long as the next
power of two, so that there are few kinds of them: a pipeline has to know the shapes that pass it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor.parallel import parallelize_module

from muster_worker.parallel.layers import layers_of, plan_of
from muster_worker.serve.generate.decoder import LocalDecoder
from muster_worker.serve.group.meeting import is_of_a_peer
from muster_worker.serve.group.plain_layers import divide_plainly
from muster_worker.serve.group.stages import keep_only
from muster_worker.serve.model import ServedModel, generates, intact, recipe_and_model
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.export import named_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.group.layout import Layout
    from muster_worker.serve.model import Signature
    from muster_worker.serve.server import ServeConfig
    from muster_worker.train.language_model import LanguageModel

_KINDS = 64
"""Kinds of batches that are remembered; all ranks see the same ones, and forget the same."""

_FIELD = "spec.group.parallelism"


def load(config: ServeConfig, layout: Layout, mesh: DeviceMesh, device: torch.device) -> ServedModel:
    """The part of this rank; all ranks of the shard have to call theirs alike. Collective.

    Only those of the last stage have outputs to give. Raises StorageError or ConfigurationError.
    """
    loaded, signature, sha256 = intact(config.directory, config.sha256)
    recipe, model = recipe_and_model(loaded)
    names = [spec.name for spec in signature.outputs]
    number = mesh.get_local_rank("pipeline")
    is_last = number == layout.pipeline - 1
    mine = layers_of(recipe, model, layout.pipeline, number, _FIELD) if layout.pipeline > 1 else [model]
    part = (_Layers(mine, names if is_last else None) if layout.pipeline > 1 else model).to(device)
    if layout.tensor > 1:
        others = divide_plainly(model, plan_of(recipe, model, part, layout.tensor, _FIELD), mesh["tensor"])
        if others and loaded.quantized:
            raise ConfigurationError(
                f"{_FIELD}.tensor: found {layout.tensor}, with quantized weights and a tensor_plan for"
                f" {', '.join(others)}: wanted 1 or weights that are not quantized, since of these only linear layers"
                " are divided, by ColwiseParallel or RowwiseParallel; by pipeline, layers stay whole"
            )
        parallelize_module(model, mesh["tensor"], others)
    language_model = recipe.language_model(model) if generates(loaded) else None
    if layout.pipeline > 1:
        stages = mesh.get_group("pipeline")
        part = _Pipeline(part, number, layout.pipeline, stages, device, names, signature.batched)
        if language_model is not None and language_model.by_stages:
            keep_only(mine, model, recipe.pipeline_layers(model) or (), stages, device)
        else:
            language_model = None
    answers = is_last and mesh.get_local_rank("tensor") == 0
    return _Part(signature, part, device, sha256, language_model, layout, answers)


class _Part(ServedModel):
    """What a rank has of a model. `answers`: whether it is the one of its shard that says what comes next in a text."""

    def __init__(
        self,
        signature: Signature,
        program: nn.Module,
        device: torch.device,
        sha256: str,
        language_model: LanguageModel | None,
        layout: Layout,
        answers: bool,
    ) -> None:
        super().__init__(signature, program, device, sha256, language_model)
        self._layout, self._answers = layout, answers

    def decoders(self, slots: int) -> list[Decoder]:
        if self.language_model is None:
            return []
        return [
            LocalDecoder(self.language_model, number, chooses=self._answers)
            for number in self._layout.slots_of_decoders(slots)
        ]


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
