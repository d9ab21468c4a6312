"""Why a model answers as it does: what each number of its inputs has to do with one number that it gives, by captum.

integratedGradients  the gradient, averaged on the straight way from the baseline to the input, times their difference.
                     All together they are the difference of the outputs, up to `delta`
                     (https://arxiv.org/abs/1703.01365).
saliency             the size of the gradient (https://arxiv.org/abs/1312.6034).
occlusion            by how much the output falls when a part of the input is the baseline
                     (https://arxiv.org/abs/1311.2901).

Gradients flow through exported programs, TorchScript and recipes' models alike: the first are graphs of operations that
autograd knows, as they were before any was replaced for inference.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from muster_worker.serve.errors import ComputationError, RequestError, TimedOutError
from muster_worker.serve.generate.decoder import is_of_device
from muster_worker.serve.model import Signature
from muster_worker.serve.tensors import ANY, TensorSpec
from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from muster_worker.serve.model import Embedded
    from muster_worker.serve.protocol import InferRequest

    GoesOn = Callable[[], bool]

METHODS = ("integratedGradients", "saliency", "occlusion")

PARTS = 256
"""How many parts of one input are occluded at most, one after the other."""

FLOATING = ("FP16", "BF16", "FP32", "FP64")


@dataclass(frozen=True, slots=True)
class Explaining:
    """`spec.explain`. `baseline`: what every number of an input is compared with; saliency compares with nothing."""

    method: str
    baseline: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Explaining:
        """METHOD or METHOD:BASELINE; raises ValueError that says what was found and what is wanted."""
        method, colon, number = text.partition(":")
        if method not in METHODS:
            raise ValueError(f"found {method}, wanted {', '.join(METHODS[:-1])} or {METHODS[-1]}")
        if not colon:
            return cls(method)
        if method == "saliency":
            raise ValueError(f"found {text}, wanted saliency alone: it compares with nothing")
        try:
            baseline = float(number)
        except ValueError:
            baseline = math.nan
        if not math.isfinite(baseline):
            raise ValueError(f"found {text}, wanted a number behind the colon, such as {method}:0.5")
        return cls(method, baseline)


def captum_attr() -> Any:
    """`captum.attr`, whose import takes half a second and 40 MB; raises ConfigurationError where it is not there."""
    try:
        import captum.attr  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"spec.explain: this image has no captum ({error.name} is missing): use one that is made by"
            " worker_image/Dockerfile, or pip install 'muster-worker[explain]'"
        ) from error
    return captum.attr


class Question:
    """What may be asked about the first output of a model, and what is answered, whoever computes that.

    `signature`: the model's inputs, and what an explanation has: `attributions.NAME` for each input of floating point
    numbers, in its shape; `target`, the class that is explained; of integrated gradients also `delta`. Inputs of other
    numbers are left as they are.
    """

    def __init__(self, model: Signature, explaining: Explaining) -> None:
        self.explained = self._numbers_of_explained(model)
        """Which of the inputs are."""

        self._unfit = self._why_not(model, explaining)
        self._output = model.outputs[0]
        explained = (model.inputs[number] for number in self.explained)
        self.signature = Signature(
            model.inputs,
            (
                *(TensorSpec(f"attributions.{spec.name}", "FP32", spec.shape) for spec in explained),
                TensorSpec("target", "INT64", (ANY,)),
                *([TensorSpec("delta", "FP32", (ANY,))] if explaining.method == "integratedGradients" else []),
            ),
        )

    def _numbers_of_explained(self, signature: Signature) -> list[int]:
        return [number for number, spec in enumerate(signature.inputs) if spec.datatype in FLOATING]

    def _why_not(self, signature: Signature, explaining: Explaining) -> str | None:
        """Why a model with this signature cannot be explained so, if it cannot."""
        del explaining
        return _unfit(signature)

    def target(self, request: InferRequest) -> Tensor | None:
        """Of each sample, the class that is asked for, as (N,); None: the one with the largest output.

        Raises RequestError, also where the model is none that can be explained.
        """
        if self._unfit:
            raise RequestError(f"explain: {self._unfit}")
        found = request.parameters.get("target")
        if found is None:
            return None
        samples, classes = len(request.inputs[0]), _classes(self._output)
        targets = found if isinstance(found, list) else [found] * samples
        if len(targets) != samples:
            raise RequestError(f"parameters.target: found {len(targets)} classes, wanted one, or one for each sample")
        for one in targets:
            if type(one) is not int or not 0 <= one < classes:
                raise RequestError(f"parameters.target: found {one!r}, wanted the number of a class, below {classes}")
        return torch.tensor(targets)


class Explained(Protocol):
    """What is explained: its outputs by name, with gradients where the method needs them."""

    signature: Signature
    device: torch.device
    embedded: Embedded | None
    """Where it makes vectors of token ids."""

    @property
    def lost(self) -> Callable[[], None]:
        """See ServedModel."""

    def forward(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]: ...


class Explainer:
    """Answers a question about `model`. `at_once`: how many samples may be computed together."""

    asked: type[Question] = Question

    def __init__(self, model: Explained, explaining: Explaining, at_once: int) -> None:
        """Raises ConfigurationError where captum is not there."""
        self._captum = captum_attr()
        self.question = self.asked(model.signature, explaining)
        self._model = model
        self._baseline = explaining.baseline
        self._at_once = at_once
        self._explained = self.question.explained
        self._method = {
            "integratedGradients": self._integrated_gradients,
            "saliency": self._saliency,
            "occlusion": self._occlusion,
        }[explaining.method]

    def explain(self, inputs: Sequence[Tensor], target: Tensor | None, goes_on: GoesOn) -> list[Tensor]:
        """What the question's signature says, in its order.

        `goes_on` is asked before each computation whether anybody still waits.

        Raises ComputationError with the words of the model or of captum, and TimedOutError where nobody waits.
        """
        try:
            pieces = zip(*(self._split(tensor) for tensor in inputs), strict=True)
            targets = itertools.repeat(None) if target is None else self._split(target)
            explained = [self._explain(*both, goes_on) for both in zip(pieces, targets, strict=False)]
            return [torch.cat(parts).cpu() for parts in zip(*explained, strict=True)]
        except RequestError:
            raise
        except Exception as error:  # whatever a model raises
            if is_of_device(error):
                self._model.lost()
            raise ComputationError(f"the model was not explained: {type(error).__name__}: {error}") from error

    def _split(self, tensor: Tensor) -> Sequence[Tensor]:
        pieces: Sequence[Tensor] = tensor.to(self._model.device).split(self._at_once)
        return pieces

    def _explain(self, inputs: Sequence[Tensor], target: Tensor | None, goes_on: GoesOn) -> list[Tensor]:
        if target is None:
            with torch.no_grad():
                target = self._function(range(len(inputs)), goes_on)(*inputs).argmax(dim=1)
        found = [tensor.detach().float() for tensor in self._method(inputs, target, goes_on)]
        attributions, more = found[: len(self._explained)], found[len(self._explained) :]
        return [*attributions, target, *more]

    def _integrated_gradients(self, inputs: Sequence[Tensor], target: Tensor, goes_on: GoesOn) -> list[Tensor]:
        given, others = self._divided(inputs, self._explained)
        attributions, delta = self._captum.IntegratedGradients(self._function(self._explained, goes_on)).attribute(
            given,
            baselines=(self._baseline,) * len(given),
            target=target,
            additional_forward_args=others,
            internal_batch_size=self._at_once,
            return_convergence_delta=True,
        )
        return [*attributions, delta]

    def _saliency(self, inputs: Sequence[Tensor], target: Tensor, goes_on: GoesOn) -> list[Tensor]:
        given, others = self._divided(inputs, self._explained)
        attributions = self._captum.Saliency(self._function(self._explained, goes_on)).attribute(
            tuple(tensor.detach().requires_grad_() for tensor in given), target=target, additional_forward_args=others
        )
        return list(attributions)

    def _occlusion(self, inputs: Sequence[Tensor], target: Tensor, goes_on: GoesOn) -> list[Tensor]:
        # One input after the other: captum mixes up the parts of three and more, and the devices of two.
        return [self._occluded(number, inputs, target, goes_on) for number in self._explained]

    def _occluded(self, number: int, inputs: Sequence[Tensor], target: Tensor, goes_on: GoesOn) -> Tensor:
        given, others = self._divided(inputs, [number])
        part = _part(given[0].shape[1:])
        (attributions,) = self._captum.Occlusion(self._function([number], goes_on)).attribute(
            given,
            sliding_window_shapes=(part,),
            strides=(part,),
            baselines=(self._baseline,),
            target=target,
            additional_forward_args=others,
            perturbations_per_eval=max(1, self._at_once // len(target)),
        )
        return attributions

    def _divided(self, inputs: Sequence[Tensor], given: Sequence[int]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The inputs with these numbers, and all others."""
        others = [number for number in range(len(inputs)) if number not in given]
        return tuple(inputs[number] for number in given), tuple(inputs[number] for number in others)

    def _function(self, given: Sequence[int], goes_on: GoesOn) -> Callable[..., Tensor]:
        """The first output as (N, classes), of the inputs with these numbers and then all others."""
        count, name = len(self._model.signature.inputs), self._model.signature.outputs[0].name
        order = [*given, *(number for number in range(count) if number not in given)]

        def function(*tensors: Tensor) -> Tensor:
            if not goes_on():
                raise TimedOutError("nobody waits for the explanation any more")
            output = self._model.forward([tensors[order.index(number)] for number in range(count)])[name]
            return output.unsqueeze(-1) if output.ndim == 1 else output

        return function


def _unfit(signature: Signature) -> str | None:
    """Why a model with this signature cannot be explained, if it cannot."""
    if not signature.batched:
        return "the model takes or gives a fixed number of samples, wanted any number (-1) as the first length of all"
    if not any(spec.datatype in FLOATING for spec in signature.inputs):
        found = ", ".join(f"{spec.name} {spec.datatype}" for spec in signature.inputs)
        return f"the model takes {found}, wanted an input of {', '.join(FLOATING)}: others have no gradient"
    output = signature.outputs[0]
    if output.datatype not in FLOATING or len(output.shape) > 2 or ANY in output.shape[1:]:
        return (
            f"the output {output.name} is {output.datatype} {list(output.shape)}, wanted one of {', '.join(FLOATING)}"
            " with the shape [-1, CLASSES] or [-1]"
        )
    return None


def _classes(output: TensorSpec) -> int:
    return output.shape[-1] if len(output.shape) > 1 else 1


def _part(shape: Sequence[int]) -> tuple[int, ...]:
    """The smallest part, equally long in all directions, of which at most PARTS cover one sample."""
    edge = 1
    while math.prod(math.ceil(length / edge) for length in shape) > PARTS:
        edge += 1
    return tuple(min(edge, length) for length in shape)
