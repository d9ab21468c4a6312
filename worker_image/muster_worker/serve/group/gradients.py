"""The gradients of a divided model by what goes into it, and by the vectors that it makes of token ids: a rank's part.

All ranks of a shard are asked for the same, and compute it together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from muster_worker.serve.generate.decoder import failed
from muster_worker.train.export import named_outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class Differentiable(Protocol):
    """What this rank has of a model."""

    def length(self, samples: int) -> int:
        """How many samples it computes in the place of so many, of which those behind are of no use."""

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        """The outputs, which the last stage alone has, of all inputs. Collective."""

    def gradients(self, inputs: Sequence[Tensor], of_output: Tensor) -> list[Tensor]:
        """Those of the inputs of floating point numbers, which the first stage alone has. Collective.

        `of_output`: the gradient of the first output.
        """


class Through:
    """Answers what the front asks to explain the model.

    `from_vectors`: the same program, but that the first stage takes, behind all inputs, the vectors that `embedding`
    made of them; the program itself, where the model makes none. `embedding`: None where this rank does not have it.
    """

    def __init__(self, program: Differentiable, from_vectors: Differentiable, embedding: nn.Module | None) -> None:
        self._program, self._from_vectors, self._embedding = program, from_vectors, embedding

    def answer(self, kind: str, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Raises ComputationError with the model's own words. Collective.

        embed            of the inputs: the vectors.
        compute_vectors  of the inputs and vectors: the first output.
        gradients        of the inputs, the vectors, where there are any, and the gradient of the first output: those of
                         the vectors, or of all inputs of floating point numbers.
        """
        try:
            match kind:
                case "embed":
                    found = self._embed(tensors)
                case "compute_vectors":
                    with torch.inference_mode():
                        found = list(self._from_vectors(*tensors).values())[:1]
                case _:
                    *given, of_output = tensors
                    found = self._from_vectors.gradients(given, of_output)
        except Exception as error:  # whatever a model raises
            raise failed(error) from error
        return [tensor.cpu() for tensor in found]

    def _embed(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        layer = self._embedding or nn.Identity()
        hook = layer.register_forward_hook(lambda _layer, _inputs, vectors: found.append(vectors))
        try:
            with torch.inference_mode():
                self._program(*inputs)  # which alone knows what the layer is given
        finally:
            hook.remove()
        samples = len(inputs[0])
        # Before those that count may be some of torch's, which looks what shapes there are.
        return [torch.cat(found)[-self._program.length(samples) :][:samples]] if found else []


class FromVectors(nn.Module):
    """Takes, behind all inputs of `model`, the vectors to be used in the place of what `embedding` gives."""

    def __init__(self, model: nn.Module, embedding: nn.Module) -> None:
        super().__init__()
        self._model, self._embedding = model, embedding

    def forward(self, *inputs: Tensor) -> Any:
        *inputs_of_model, vectors = inputs
        hook = self._embedding.register_forward_hook(lambda _layer, _inputs, _found: vectors)
        try:
            return self._model(*inputs_of_model)
        finally:
            hook.remove()


class WholeDepth(nn.Module):
    """A model all of whose layers are here, or a part of each. `names`: of its outputs."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self._model, self._names = model, names

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        found = named_outputs(self._model(*inputs))
        return {name: found[name] for name in self._names}

    def length(self, samples: int) -> int:
        """See Differentiable."""
        return samples

    def gradients(self, inputs: Sequence[Tensor], of_output: Tensor) -> list[Tensor]:
        """See Differentiable."""
        leaves = as_leaves(inputs)
        with torch.enable_grad():
            self(*leaves)[self._names[0]].backward(of_output)
        return gradients_of(leaves)


def as_leaves(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The same, of which those of floating point numbers get gradients."""
    return [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in inputs]


def gradients_of(leaves: Sequence[Tensor]) -> list[Tensor]:
    """What they got; zeros where nothing depends on one."""
    return [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves if leaf.requires_grad]
