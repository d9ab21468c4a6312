"""The model that is served: loaded, verified, computed with."""

from __future__ import annotations

import copy
import json
import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch

from muster_worker.compress.apply import prepare
from muster_worker.serve.generate.decoder import LocalDecoder, failed
from muster_worker.serve.tensors import ANY, TensorSpec
from muster_worker.serve.threads import set_threads
from muster_worker.train.errors import ConfigurationError
from muster_worker.train.export import named_outputs
from muster_worker.train.model_directory import load_model, summary
from muster_worker.train.reference import load_recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.train.language_model import LanguageModel
    from muster_worker.train.model_directory import LoadedModel
    from muster_worker.train.recipe import Recipe

_WARM_UP = 5
"""The first computations allocate, plan and cache; the best of these is what a sample takes."""

WORTH_THREADS = 0.002
"""Seconds of computing a sample from which on several threads do it. They wait for one another by spinning: where other
pods want the cores too, a sample takes many times as long and burns what the others need."""


NOT_OF_TEXT = "when it was published, its recipe had no language_model"
"""Why a model does not generate."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes in and what comes out."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batched(self) -> bool:
        """Whether samples of several requests can be computed together."""
        return all(spec.shape[:1] == (ANY,) for spec in (*self.inputs, *self.outputs))

    def of_text(self, language_model: LanguageModel | None) -> Signature:
        """The same, of a model whose only input is of that one's tokens."""
        if language_model is None or len(self.inputs) != 1:
            return self
        return replace(self, inputs=(replace(self.inputs[0], vocabulary=language_model.vocabulary),))


class Model(Protocol):
    """What is served, wherever it is computed."""

    signature: Signature
    version: str
    sha256: str
    language_model: LanguageModel | None = None
    """How it generates text, where it does."""

    why_no_text: str = "another server computes it, wanted runtime: torch"
    """Where it does not."""

    @property
    def missing(self) -> str | None:
        """Why it cannot compute now, if it cannot."""
        return None

    @property
    def exposition(self) -> bytes:
        """What /metrics says of it, beside what the server counts."""
        return b""

    def compute(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs in the order of the signature; raises RequestError."""

    def decoders(self, slots: int) -> list[Decoder]:
        """Who computes its texts, each with so many slots; nobody where it does not generate."""
        del slots
        return []


@dataclass(frozen=True)
class Embedded:
    """A model whose token ids become vectors in `layer`. It has its parameters with the one that is served alone.

    So nobody but who explains sees hooks on its layers.
    """

    module: nn.Module
    layer: nn.Module

    @classmethod
    def of(cls, recipe: Recipe, module: nn.Module) -> Embedded | None:
        """None where the recipe names no such layer."""
        if recipe.embedding(module) is None:
            return None
        shared = {id(one): one for one in (*module.parameters(), *module.buffers())}
        copied = copy.deepcopy(module, shared)
        layer = recipe.embedding(copied)
        assert layer is not None, "as before"
        return cls(copied, layer)


class ServedModel(Model):
    """Computes outputs from inputs, both in the order of its signature, on the CPU or one device."""

    why_no_text: str = NOT_OF_TEXT

    def __init__(
        self,
        signature: Signature,
        program: Callable[..., Any],
        device: torch.device,
        sha256: str,
        language_model: LanguageModel | None = None,
        embedded: Embedded | None = None,
    ) -> None:
        self.signature = signature
        self.version = sha256[:12]
        self.sha256 = sha256
        self.device = device
        self.language_model = language_model
        self.embedded = embedded
        self.lost: Callable[[], None] = lambda: None
        """Is called from any thread once this process can compute nothing any more, for its device has failed."""

        self._program = program
        self._names = [spec.name for spec in signature.outputs]

    @classmethod
    def load(cls, directory: Path, device: torch.device, sha256: str | None = None) -> ServedModel:
        """Verifies the checksum of every file first; raises StorageError or ConfigurationError.

        `sha256`: what the directory's own checksum must be; None: anything.
        """
        loaded, signature, found = intact(directory, sha256)
        recipe, module = _computation(loaded)
        module = module.to(device)
        # Explanations differentiate by the inputs alone. One by one, for TorchScript refuses to do it for all.
        for parameter in module.parameters():
            parameter.requires_grad_(requires_grad=False)
        # Not through its hooks: they compare the inputs with what was exported, as the signature has been by then.
        if recipe is None:
            return cls(signature, module.forward, device, found)
        language_model, embedded = recipe.language_model(module), Embedded.of(recipe, module)
        return cls(signature.of_text(language_model), module.forward, device, found, language_model, embedded)

    def warm_up(self) -> float:
        """Computes with zeros; gives the seconds that one sample takes from now on.

        One thread computes a small model from now on, unless OMP_NUM_THREADS says something else. As often on every
        rank of a shard, whatever each finds: they compute together.
        """
        threads = torch.get_num_threads()
        set_threads(1)
        by_one, computing = self._timed()
        set_threads(threads)
        by_all, _ = self._timed()
        # On a busy machine, time that goes by says how busy it is: what counts is for how much of it one computes.
        if computing >= WORTH_THREADS or "OMP_NUM_THREADS" in os.environ:
            return by_all
        set_threads(1)
        return by_one

    def _timed(self) -> tuple[float, float]:
        """Seconds that one sample takes, and for which this thread computes meanwhile; each at best."""
        inputs = tuple(spec.zeros() for spec in self.signature.inputs)
        took, computed = [], []
        for _ in range(_WARM_UP):
            begun, idle = time.perf_counter(), time.thread_time()
            self.compute(inputs)
            took.append(time.perf_counter() - begun)
            computed.append(time.thread_time() - idle)
        return min(took), min(computed)

    def compute(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Raises ComputationError with the model's own words."""
        try:
            with torch.inference_mode():
                outputs = self.forward(inputs)
                return [outputs[name].cpu() for name in self._names]
        except Exception as error:  # whatever a model raises
            raise failed(error, self.lost) from error

    def decoders(self, slots: int) -> list[Decoder]:
        if self.language_model is None:
            return []
        return [LocalDecoder(self.language_model, slots, lost=self.lost)]

    def forward(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The outputs by name, on the model's device; with gradients, where the thread has them on."""
        return named_outputs(self._program(*(tensor.to(self.device) for tensor in inputs)))


def intact(directory: Path, sha256: str | None = None) -> tuple[LoadedModel, Signature, str]:
    """The model there, verified, and its checksum; raises StorageError or ConfigurationError as `ServedModel.load`."""
    loaded = load_model(directory)
    found = summary(loaded).sha256
    if sha256 is not None and sha256 != found:
        raise ConfigurationError(f"spec.model.sha256: the model in {directory} has {found}, wanted {sha256}")
    return loaded, _signature(loaded.description), found


def _computation(model: LoadedModel) -> tuple[Recipe | None, nn.Module]:
    """The exported program or TorchScript, or the recipe's model with the weights."""
    return recipe_and_model(model) if _by_recipe(model) else (None, model.program())


def _by_recipe(model: LoadedModel) -> bool:
    """Where it has neither program nor script, or generates: a program computes a whole text; it cannot go on."""
    description = model.description
    return generates(model) or (description["program"] is None and description.get("script") is None)


def generates(model: LoadedModel) -> bool:
    """Whether it was published to generate text."""
    return model.description.get("generation") is not None


def embeds(model: LoadedModel) -> bool:
    """Whether its recipe computes it, and names the layer that makes vectors of ids. Raises ConfigurationError."""
    if not _by_recipe(model):
        return False
    recipe = _recipe(model)
    with torch.device("meta"):
        return recipe.embedding(recipe.model()) is not None


def language_model_without_weights(model: LoadedModel) -> LanguageModel | None:
    """For its tokens and texts, where others compute; None: it does not generate. Raises ConfigurationError."""
    if not generates(model):
        return None
    recipe = _recipe(model)
    with torch.device("meta"):  # as large as the model is, it takes no memory
        return recipe.language_model(recipe.model())


def recipe_and_model(model: LoadedModel) -> tuple[Recipe, nn.Module]:
    """What it was made by, and the same with its weights; raises ConfigurationError."""
    origin = model.description["origin"]
    recipe = _recipe(model)
    module = recipe.model()
    prepare(module, origin.get("compression", []))
    try:
        module.load_state_dict(model.weights())
    except RuntimeError as error:
        raise ConfigurationError(
            f"spec.model: the weights in {model.directory} are not those of {origin['recipe']} in this image: {error}"
        ) from error
    return recipe, module.eval()


def _recipe(model: LoadedModel) -> Recipe:
    origin = model.description["origin"]
    if "recipe" not in origin:
        raise ConfigurationError(
            f"spec.model: the model in {model.directory} was made by no recipe, which is wanted here"
        )
    return load_recipe(origin["recipe"], json.dumps(origin["config"]))


def _signature(description: dict[str, Any]) -> Signature:
    inputs, outputs = (
        [TensorSpec(one["name"], one["datatype"], tuple(one["shape"])) for one in description[name]]
        for name in ("inputs", "outputs")
    )
    generation = description.get("generation")
    if generation is not None:
        inputs = [replace(spec, longest=generation["context"]) if ANY in spec.shape[1:] else spec for spec in inputs]
    return Signature(tuple(inputs), tuple(outputs))
