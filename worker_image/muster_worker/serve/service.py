"""What is served, for every protocol alike: the model, whether it is ready, and inference with its limits."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from muster_worker.serve.batcher import Batcher, Batching
from muster_worker.serve.deadlines import Deadlines
from muster_worker.serve.errors import INTERNAL, NotFoundError, NotReadyError, RequestError
from muster_worker.serve.explanations import Explanations
from muster_worker.serve.generate.generations import SLOTS, Generations
from muster_worker.serve.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from torch import Tensor

    from muster_worker.serve.explanations import Explains
    from muster_worker.serve.metrics import Metrics
    from muster_worker.serve.model import Model
    from muster_worker.serve.protocol import InferRequest
    from muster_worker.serve.supervisor import Death

CLIENT_GONE = 499
"""The status that nginx gives to a request whose client did not wait for the answer; nobody is sent it."""

_LOADING = "the model is being loaded"

HUNG = 2.0
"""A computation that takes so many times the limit of a request will not end: the process has to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may be and take, in bytes and seconds, and how requests are computed together."""

    request_bytes: int = 64 << 20
    request_seconds: float = 60.0
    batching: Batching = field(default_factory=Batching)

    @property
    def slots(self) -> int:
        """Texts that are generated together by one that computes."""
        return max(SLOTS, self.batching.max_size)


class Service:
    """For one event loop. It answers from the moment on that it is given a model."""

    def __init__(self, name: str, limits: Limits, metrics: Metrics, death: Death | None = None) -> None:
        """`death`: of the process whose place this one has taken."""
        self.name = name
        self.limits = limits
        self.metrics = metrics
        self.draining = False
        self.stopping = asyncio.Event()
        """Nothing more is taken in; what was begun is finished, as long as there is time."""

        self.last_request = time.monotonic()
        self.recent = Recent(self.last_request)
        self._model: Model | None = None
        self._batcher: Batcher | None = None
        self._explanations: Explanations | None = None
        self._generations: Generations | None = None
        self._deadlines: Deadlines | None = None
        self._death = death
        self._down_for: float | None = None
        self._loaded = asyncio.Event()
        metrics.watch_ready(lambda: self.ready)

    def serve(self, model: Model, seconds: float, at_once: int = 1, explainer: Explains | None = None) -> None:
        """From now on; `seconds` is what one sample takes, `at_once` how many batches may be computed together.

        `explainer`: of this model; None: explanations are not given.
        """
        batched = model.signature.batched
        self._batcher = Batcher(
            model.compute,
            self.limits.batching,
            self.metrics,
            batched=batched,
            seconds=seconds,
            at_once=at_once,
        )
        self._explanations = Explanations(explainer) if explainer is not None else None
        self._deadlines = Deadlines(self.limits.request_seconds)
        if model.language_model is not None:
            decoders = model.decoders(self.limits.slots)
            generations = Generations(model.language_model, decoders, self.metrics, self._deadlines)
            self.metrics.watch_sequences(lambda: generations.active, lambda: generations.waiting)
            self._generations = generations
        self._model = model
        self._down_for = time.time() - self._death.at if self._death is not None else None
        self._loaded.set()

    async def until_loaded(self) -> None:
        """Waits, in the place of a process that died: whoever asks had found a server that was ready.

        A first process does not wait, for nobody should have come to it; nor does this one longer than a request may.
        """
        if self._death is not None and not self._loaded.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._loaded.wait(), self.limits.request_seconds)

    @property
    def live(self) -> bool:
        """False once a computation hangs: only a new process helps."""
        return self._computing_for < HUNG * self.limits.request_seconds

    @property
    def ready(self) -> bool:
        return self.why_not_ready is None

    @property
    def why_not_ready(self) -> str | None:
        if self._model is None:
            return _LOADING
        if self.draining:
            return "leaving: other replicas answer"
        if self._computing_for >= self.limits.request_seconds:
            return f"a computation has been going on for {self._computing_for:.0f} s"
        return self._model.missing

    @property
    def answers(self) -> bool:
        """Whether there is anybody to compute."""
        return self._model is not None

    @property
    def model(self) -> Model:
        """Raises NotReadyError while there is none."""
        if self._model is None:
            raise NotReadyError(self.why_not_ready or _LOADING)
        return self._model

    @property
    def explanations(self) -> Explanations:
        """Raises NotReadyError while there is no model, and NotFoundError where it is not to be explained."""
        model = self.model
        if self._explanations is None:
            raise NotFoundError(
                f"version {model.version} of {self.name} is not explained: write spec.explain, such as"
                " {method: integratedGradients} (muster-worker serve --explain integratedGradients)"
            )
        return self._explanations

    @property
    def generations(self) -> Generations:
        """Raises NotReadyError while there is no model, and NotFoundError where it does not generate text."""
        model = self.model
        if self._generations is None:
            raise NotFoundError(f"version {model.version} of {self.name} does not generate text: {model.why_no_text}")
        return self._generations

    def check(self, name: str, version: str) -> None:
        """Raises NotFoundError for a model or version that is not the one served; an empty version is any."""
        if name != self.name:
            raise NotFoundError(f"model {name}: not here, {self.name} is")
        if version and version != self.model.version:
            raise NotFoundError(f"version {version} of {name}: not here, {self.model.version} is")

    async def infer(self, request: InferRequest) -> dict[str, Tensor]:
        """The outputs by name. Raises the RequestError that says why there are none."""
        model = self.model
        assert self._batcher is not None, "comes with the model"
        assert self._deadlines is not None, "comes with the model"
        answer = self._batcher.submit(request.inputs)
        self._deadlines.watch(answer)
        outputs = await answer
        return {spec.name: tensor for spec, tensor in zip(model.signature.outputs, outputs, strict=True)}

    async def explain(self, request: InferRequest) -> dict[str, Tensor]:
        """The attributions and what else an explanation has, by name. Raises the RequestError that says why not."""
        explanations = self.explanations
        assert self._deadlines is not None, "comes with the model"
        answer = explanations.submit(request)
        self._deadlines.watch(answer)
        outputs = await answer
        return {spec.name: tensor for spec, tensor in zip(explanations.signature.outputs, outputs, strict=True)}

    def counting(self, protocol: str, code_of: Callable[[int], str] = str) -> AbstractContextManager[None]:
        """Times and counts one inference or text, however it ends; `code_of` names an HTTP status for the protocol."""

        def note(status: int, seconds: float) -> None:
            self.metrics.answered(protocol, code_of(status), seconds)
            self.recent.note(time.monotonic(), seconds, failed=status >= INTERNAL)

        return self._timing(note)

    def counting_explanation(self) -> AbstractContextManager[None]:
        """The same for an explanation, by which no rollout is judged."""
        return self._timing(lambda status, seconds: self.metrics.explained(str(status), seconds))

    @contextlib.contextmanager
    def _timing(self, note: Callable[[int, float], None]) -> Iterator[None]:
        """`note` is told the HTTP status and the seconds that it took."""
        self.last_request = begun = time.monotonic()
        status = INTERNAL
        try:
            yield
            status = 200
        except RequestError as error:
            status = error.status
            raise
        except (asyncio.CancelledError, GeneratorExit):
            status = CLIENT_GONE
            raise
        finally:
            note(status, time.monotonic() - begun)

    def state(self) -> dict[str, Any]:
        """What the operator asks for, as JSON; latencies in seconds."""
        recent = self.recent.summary(time.monotonic())
        model = {"version": self._model.version, "sha256": self._model.sha256} if self._model is not None else None
        return {
            "ready": self.ready,
            "reason": self.why_not_ready,
            "model": model,
            "requests": self.recent.requests,
            "failedRequests": self.recent.failed,
            "requestsPerSecond": recent.requests_per_second,
            "errorRate": recent.error_rate,
            "latencyP50": recent.latency_p50,
            "latencyP99": recent.latency_p99,
            "death": self._last_death(),
            "group": None,
        }

    def _last_death(self) -> dict[str, Any] | None:
        """Of the process before this one; `seconds`: how long nobody answered, None while nobody does."""
        if self._death is None:
            return None
        dead = {"count": self._death.count, "exitCode": self._death.exit_code, "diedAt": self._death.at}
        return dead | {"seconds": self._down_for, "rank": None}

    def exposition(self) -> bytes:
        """What is counted, for Prometheus."""
        return self.metrics.exposition() + (self._model.exposition if self._model is not None else b"")

    def close(self) -> None:
        if self._batcher is not None:
            self._batcher.close()
        if self._explanations is not None:
            self._explanations.close()
        if self._generations is not None:
            self._generations.close()

    @property
    def _computing_for(self) -> float:
        computing = (one.computing_for for one in (self._batcher, self._generations) if one is not None)
        return max(computing, default=0.0)
