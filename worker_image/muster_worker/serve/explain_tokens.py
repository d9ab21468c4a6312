"""Why a model of token ids answers as it does: what each token has to do with the number that follows the last of them.

Ids have no gradient, but the vectors have that the model makes of them: integrated gradients of that layer, by captum,
summed over each vector (Sundararajan et al. 2017, https://arxiv.org/abs/1703.01365, section 6).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from muster_worker.serve.errors import TimedOutError
from muster_worker.serve.explain import FLOATING, Explainer, Question
from muster_worker.serve.tensors import ANY
from muster_worker.train.export import named_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from muster_worker.serve.explain import Explained, Explaining, GoesOn
    from muster_worker.serve.model import Embedded, Signature


class TokenQuestion(Question):
    """Of a model with one input of ids (N, T) and outputs (N, T, classes), of which those of the last place count.

    The baseline is the id that each token is compared with.
    """

    def _numbers_of_explained(self, signature: Signature) -> list[int]:
        return list(range(len(signature.inputs)))

    def _why_not(self, signature: Signature, explaining: Explaining) -> str | None:
        if not signature.batched or len(signature.inputs) != 1 or len(signature.inputs[0].shape) != 2:
            return "the model takes or gives a fixed number of samples, or several inputs, wanted ids of shape [-1, T]"
        if explaining.method != "integratedGradients":
            return f"the method is {explaining.method}, wanted integratedGradients for a model that takes token ids"
        vocabulary = signature.inputs[0].vocabulary or math.inf
        if not 0 <= explaining.baseline < vocabulary or not explaining.baseline.is_integer():
            return f"the baseline is {explaining.baseline:g}, wanted the id of a token"
        output = signature.outputs[0]
        if output.datatype not in FLOATING or len(output.shape) != 3 or output.shape[2] == ANY:
            return f"the output {output.name} is {output.datatype} {list(output.shape)}, wanted [-1, T, CLASSES]"
        return None


class TokenExplainer(Explainer):
    asked = TokenQuestion

    def __init__(self, model: Explained, embedded: Embedded, explaining: Explaining, at_once: int) -> None:
        super().__init__(model, explaining, at_once)
        self._embedded = embedded

    def _integrated_gradients(self, inputs: Sequence[Tensor], target: Tensor, goes_on: GoesOn) -> list[Tensor]:
        (ids,) = inputs
        explainer = self._captum.LayerIntegratedGradients(self._function([0], goes_on), self._embedded.layer)
        attributions, delta = explainer.attribute(
            ids,
            baselines=torch.full_like(ids, int(self._baseline)),
            target=target,
            internal_batch_size=self._at_once,
            return_convergence_delta=True,
        )
        return [attributions.sum(dim=-1), delta]

    def _function(self, given: Sequence[int], goes_on: GoesOn) -> Callable[..., Tensor]:
        del given  # there is one
        name = self._model.signature.outputs[0].name

        def function(ids: Tensor) -> Tensor:
            if not goes_on():
                raise TimedOutError("nobody waits for the explanation any more")
            return named_outputs(self._embedded.module(ids))[name][:, -1]

        return function


def explainer_of(model: Explained, explaining: Explaining, at_once: int) -> Explainer:
    """By the vectors that it makes of token ids, where it does; raises ConfigurationError where captum is not there."""
    if model.embedded is not None:
        return TokenExplainer(model, model.embedded, explaining, at_once)
    return Explainer(model, explaining, at_once)
