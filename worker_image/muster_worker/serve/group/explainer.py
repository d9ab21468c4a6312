"""Explanations by a group.

Where ranks have the whole model, the front asks one of them, which computes on a thread. Where each has a part, no
gradient comes back to the front: it occludes, which needs but outputs, and has these computed as other inferences are.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from muster_worker.serve.errors import ComputationError, TimedOutError
from muster_worker.serve.group.wire import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from muster_worker.serve.explain import Explainer, GoesOn, Question
    from muster_worker.serve.group.model import GroupModel


class GroupExplainer:
    """The front's side."""

    def __init__(self, question: Question, model: GroupModel) -> None:
        self.question = question
        self._model = model

    def explain(self, inputs: Sequence[Tensor], target: Tensor | None, goes_on: GoesOn) -> list[Tensor]:
        """What the question's signature says. Raises ComputationError, or TimedOutError where nobody waits."""
        return self._model.explain(inputs, target, goes_on)


class AsOne:
    """A group whose ranks have parts of the model."""

    device = torch.device("cpu")

    def __init__(self, model: GroupModel) -> None:
        self.signature = model.signature
        self._model = model

    def forward(self, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """Outputs by name. Raises what `compute` does."""
        names = (spec.name for spec in self.signature.outputs)
        return dict(zip(names, self._model.compute(inputs), strict=True))


class RankExplanations:
    """A rank's side. `prepare` is called by the thread first; `send` brings answers to the front."""

    def __init__(self, explainer: Explainer, send: Callable[[Frame], None], prepare: Callable[[], None]) -> None:
        self._explainer, self._send = explainer, send
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
        task, target = frame.words["task"], frame.words["target"]
        try:
            outputs = self._explainer.explain(
                frame.tensors, None if target is None else torch.tensor(target), lambda: task in self._wanted
            )
        except TimedOutError:
            return
        except ComputationError as error:
            self._send(Frame("answer", {"task": task, "error": str(error)}))
        else:
            self._send(Frame("answer", {"task": task}, outputs))
        finally:
            self._wanted.discard(task)
