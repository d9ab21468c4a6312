"""A model divided among the ranks of a shard, by torch's own parts: each has some of its layers, and a part of these.

Made of the recipe and the weights, for an exported program has no layers any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.distributed.tensor.parallel import parallelize_module

from muster_worker.parallel.layers import layers_of, plan_of
from muster_worker.serve.group.gradients import FromVectors, Through, WholeDepth
from muster_worker.serve.group.pipeline import Layers, Pipeline
from muster_worker.serve.group.plain_layers import divide_plainly
from muster_worker.serve.group.stages import Passage, StageDecoder, keep_only
from muster_worker.serve.model import ServedModel, generates, intact, recipe_and_model
from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.distributed.device_mesh import DeviceMesh

    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.group.gradients import Differentiable
    from muster_worker.serve.group.layout import Layout
    from muster_worker.serve.model import Signature
    from muster_worker.serve.server import ServeConfig
    from muster_worker.train.language_model import LanguageModel

_FIELD = "spec.group.parallelism"


def load(config: ServeConfig, layout: Layout, mesh: DeviceMesh, device: torch.device) -> Part:
    """The part of this rank; all ranks of the shard have to call theirs alike. Collective.

    Only those of the last stage have outputs to give. Raises StorageError or ConfigurationError.
    """
    loaded, signature, sha256 = intact(config.directory, config.sha256)
    recipe, model = recipe_and_model(loaded)
    names = [spec.name for spec in signature.outputs]
    number = mesh.get_local_rank("pipeline")
    is_last = number == layout.pipeline - 1
    mine = layers_of(recipe, model, layout.pipeline, number, _FIELD) if layout.pipeline > 1 else [model]
    part = (Layers(mine, names if is_last else None) if layout.pipeline > 1 else model).to(device)
    part.requires_grad_(requires_grad=False)  # explanations differentiate by the inputs alone
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
    embedding = recipe.embedding(model) if config.explain is not None and number == 0 else None
    stages = mesh.get_group("pipeline")
    passage = Passage(stages, device)

    def computed_by_all(part: nn.Module) -> Differentiable:
        if layout.pipeline == 1:
            return WholeDepth(part, names)
        return Pipeline(part, number, layout.pipeline, stages, device, names, signature.batched)

    program = computed_by_all(part)
    from_vectors = program if embedding is None else computed_by_all(FromVectors(part, embedding))
    through = Through(program, from_vectors, embedding)
    if layout.pipeline > 1:
        if language_model is not None and language_model.by_stages:
            keep_only(mine, model, recipe.pipeline_layers(model) or (), passage)
        else:
            language_model = None
    answers = is_last and mesh.get_local_rank("tensor") == 0
    return Part(
        signature,
        program,
        device,
        sha256,
        language_model,
        layout,
        answers=answers,
        through=through,
        passage=passage,
    )


class Part(ServedModel):
    """What a rank has of a model. `answers`: whether it is the one of its shard that says what comes next in a text.

    `through`: what explains the whole of it.
    """

    def __init__(
        self,
        signature: Signature,
        program: Differentiable,
        device: torch.device,
        sha256: str,
        language_model: LanguageModel | None,
        layout: Layout,
        *,
        answers: bool,
        through: Through,
        passage: Passage,
    ) -> None:
        super().__init__(signature, program, device, sha256, language_model)
        self.through = through
        self._layout, self._answers, self._passage = layout, answers, passage

    def decoders(self, slots: int) -> list[Decoder]:
        if self.language_model is None:
            return []
        return [
            StageDecoder(self.language_model, number, self._passage, chooses=self._answers)
            for number in self._layout.slots_of_decoders(slots)
        ]
