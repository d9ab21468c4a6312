"""Explanations by a group.

Where ranks have the whole model, the front asks one of them, which computes on a thread. Where each has a part, the
front explains the group as if it were a model here: outputs are computed as other inferences are, and gradients come
back from the ranks, one message for those of a batch.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from muster_worker.serve.errors import ComputationError, TimedOutError
from muster_worker.serve.generate.decoder import is_of_device
from muster_worker.serve.group.wire import Frame
from muster_worker.serve.model import Embedded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from muster_worker.serve.explain import Explainer, GoesOn, Question
    from muster_worker.serve.group.model import GroupModel


class GroupExplainer:
    """The front's side, where one rank explains."""

    def __init__(self, question: Question, model: GroupModel) -> None:
        self.question = question
        self._model = model

    def explain(self, inputs: Sequence[Tensor], target: Tensor | None, goes_on: GoesOn) -> list[Tensor]:
        """What the question's signature says. Raises ComputationError, or TimedOutError where nobody waits."""
        return self._model.explain(inputs, target, goes_on)


class AsOne:
    """A group whose ranks have parts of the model. Its methods raise what `GroupModel.compute` does."""

    device = torch.device("cpu")

    def __init__(self, model: GroupModel) -> None:
        self.signature = model.signature
        self.embedded = Embedded(module := _FromIds(model), module.embedding) if model.embeds else None
        self._model = model

    def lost(self) -> None:
        """Nothing: it computes nothing here."""

    def forward(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """The first output by its name."""
        return {self.signature.outputs[0].name: _ByGroup.apply(self._model, "compute", *inputs)}


class _FromIds(nn.Module):
    """A group's model of token ids, with the layer by which they are explained."""

    def __init__(self, model: GroupModel) -> None:
        super().__init__()
        self._model = model
        self.embedding = _Embedding(model)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        name = self._model.signature.outputs[0].name
        return {name: _ByGroup.apply(self._model, "compute_vectors", ids, self.embedding(ids))}


class _Embedding(nn.Module):
    def __init__(self, model: GroupModel) -> None:
        super().__init__()
        self._model = model

    def forward(self, ids: Tensor) -> Tensor:
        (vectors,) = self._model.computed([ids], "embed")
        return vectors


class _ByGroup(torch.autograd.Function):
    """The first output, of the inputs or of these and vectors."""

    @staticmethod
    def forward(ctx: Any, model: GroupModel, kind: str, *inputs: Tensor) -> Tensor:
        ctx.model = model
        ctx.save_for_backward(*inputs)
        return model.computed(inputs, kind)[0]

    @staticmethod
    def backward(ctx: Any, of_output: Tensor) -> tuple[Tensor | None, ...]:
        inputs = ctx.saved_tensors
        gradients = iter(ctx.model.computed([*inputs, of_output], "gradients"))
        return None, None, *(next(gradients) if one.is_floating_point() else None for one in inputs)


class RankExplanations:
    """A rank's side. `prepare` is called by the thread first; `send` brings answers to the front.

    `lose` is called once the front has been told by what the device has failed.
    """

    def __init__(
        self,
        explainer: Explainer,
        send: Callable[[Frame], None],
        prepare: Callable[[], None],
        lose: Callable[[], None],
    ) -> None:
        self._explainer, self._send, self._lose = explainer, send, lose
        self._wanted: set[int] = set()
        self._thread = ThreadPoolExecutor(1, "explain", prepare)

    def hear(self, frame: Frame) -> None:
        """An explanation is asked for, or nobody waits for it any more."""
        if frame.kind == "forget":
            self._wanted.discard(frame.words["task"])
            return
        self._wanted.add(frame.words["task"])
        self._thread.submit(self._explain, frame)

    def _explain(self, frame: Frame) -> None:
        task, count = frame.words["task"], frame.words["inputs"]
        inputs, target = frame.tensors[:count], next(iter(frame.tensors[count:]), None)
        try:
            outputs = self._explainer.explain(inputs, target, lambda: task in self._wanted)
        except TimedOutError:
            return
        except ComputationError as error:
            of_device = is_of_device(error)
            self._send(Frame("answer", {"task": task, "error": str(error), "ends": of_device}))
            if of_device:
                self._lose()
        else:
            self._send(Frame("answer", {"task": task}, outputs))
        finally:
            self._wanted.discard(task)
