"""The life of a server: it listens, loads and warms up the model, answers, and leaves when nobody asks any more."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
import uvloop

from muster_worker.serve import grpc
from muster_worker.serve.example import check_example
from muster_worker.serve.explain import Question, captum_attr
from muster_worker.serve.explain_tokens import TokenQuestion, explainer_of
from muster_worker.serve.fetch import fetch_apart
from muster_worker.serve.group import pod
from muster_worker.serve.group.explainer import AsOne, GroupExplainer
from muster_worker.serve.group.front import Front
from muster_worker.serve.group.model import GroupModel
from muster_worker.serve.group.service import FrontService
from muster_worker.serve.held import forward, hold
from muster_worker.serve.listening import http_server, listen
from muster_worker.serve.metrics import Metrics
from muster_worker.serve.model import ServedModel, embeds, intact, language_model_without_weights
from muster_worker.serve.service import Limits, Service
from muster_worker.serve.supervisor import Death, Part, Told, keep_up
from muster_worker.train.errors import ConfigurationError, TrainingError

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from muster_worker.serve.explain import Explaining
    from muster_worker.serve.explanations import Explains
    from muster_worker.serve.group.layout import GroupConfig
    from muster_worker.serve.model import Model

    Load = Callable[["ServeConfig", Callable[[int], None]], tuple[Model, float, int]]

_T = TypeVar("_T")

log = logging.getLogger(__name__)

LINGER = 5.0
"""Seconds that it goes on answering after it was told to leave: so long others may not have heard of it."""

QUIET = 3.0
"""Seconds without a request after which nobody is supposed to know it any more: a Service leads to others meanwhile."""

FINISH = 2.0
"""Seconds kept, of those that leaving may take, for requests that are in flight at the end."""

_TICK = 0.1


DEVICE_FAILED = os.EX_IOERR
"""The exit code of a process whose device computes nothing any more."""


def load_here(config: ServeConfig, lost: Callable[[int], None]) -> tuple[Model, float, int]:
    """The model, for this process to compute."""
    model = ServedModel.load(config.directory, config.device, config.sha256)
    model.lost = lambda: lost(DEVICE_FAILED)
    return model, model.warm_up(), 1


@dataclass(frozen=True, slots=True)
class ServeConfig:
    """`sha256`: what the model's must be; None: anything. `drain_seconds`: the longest that leaving may take.

    `fetch`: from where the model is copied to `directory` first; None: it is there. `cache`: where this machine keeps
    what was fetched, for others; None: nowhere.
    """

    directory: Path
    name: str
    sha256: str | None = None
    fetch: str | None = None
    cache: Path | None = None
    host: str = ""
    port: int = 8080
    grpc_port: int = 9000
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    drain_seconds: float = 30.0
    limits: Limits = field(default_factory=Limits)
    group: GroupConfig | None = None
    """None: one process computes and answers."""

    explain: Explaining | None = None
    """None: nothing is explained. Else `load` has to be as it is by default."""

    load: Load = load_here
    """Gives the model, the seconds that a sample takes, and how many batches may be computed at once.

    Whoever is to compute them calls what it was given with the exit code that this process shall have, when it cannot
    do so any more. Raises TrainingError.
    """


def run(config: ServeConfig) -> NoReturn:
    """Serves until it is told to leave, then ends the process: with the exit code of what is wrong, or 0."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    group = config.group
    if config.explain is not None:
        try:
            captum_attr()  # now, so that no process that takes the place of another has to import it
        except ConfigurationError as error:
            sys.exit(_says(str(error), error.exit_code))
    if config.fetch is not None:
        code = fetch_apart(config.fetch, config.directory, config.sha256, config.cache)
        if code:
            sys.exit(code)
    try:
        listening = listen(config.host, config.port)
        held = hold(config.host, config.grpc_port) if not group or group.leads else None
        for_ranks = listen(config.host, group.port) if group and group.leads else None
    except OSError as error:
        sys.exit(_says(f"it cannot listen: {error}", TrainingError.exit_code))

    def serve(death: Death | None, told: Told) -> int:
        front = Front(group, for_ranks, death) if group and for_ranks else None
        code: int = uvloop.run(_Server(config, listening, held, death, told, front).run())
        return code

    ranks = pod.ranks(config, group, listening) if group else []
    sys.exit(keep_up(ranks if group and not group.leads else [Part("the server", serve), *ranks]))


class _Server:
    def __init__(
        self,
        config: ServeConfig,
        listening: socket.socket,
        held: socket.socket | None,
        death: Death | None,
        told: Told,
        front: Front | None,
    ) -> None:
        self._config, self._listening, self._held = config, listening, held
        self._death, self._told, self._front = death, told, front
        self._told_to_leave = asyncio.Event()
        self._at_once = False
        self._lost = 0

    async def run(self) -> int:
        self._loop = loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._told_to_leave.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupted)
        service = self._service()
        http = http_server(service)
        try:
            stop_calls = await self._grpc(service)
        except (OSError, RuntimeError) as error:
            return _says(f"it cannot listen: {error}", TrainingError.exit_code)
        listening = asyncio.create_task(http.serve([self._listening]))
        loading, leaving = (asyncio.create_task(one) for one in (self._load(service), self._told_to_leave.wait()))
        await asyncio.wait([loading, leaving], return_when=asyncio.FIRST_COMPLETED)
        code, left = loading.result() if loading.done() else 0, 0.0
        if loading.done() and code == 0:
            await leaving
            left = await self._drain(service)
            # uvicorn waits for what is in flight for so long, and without end by itself.
            http.config.timeout_graceful_shutdown = math.ceil(left)
        http.should_exit = True
        service.stopping.set()
        await asyncio.gather(stop_calls(left), listening)
        service.close()
        return code or self._lost

    def _service(self) -> Service:
        name, limits = self._config.name, self._config.limits
        if self._front is None:
            return Service(name, limits, Metrics(), self._death)
        return FrontService(name, limits, Metrics(), self._front, self._death)

    async def _grpc(self, service: Service) -> Callable[[float], Awaitable[None]]:
        """Answers by gRPC; gives what ends that, where the seconds are given that are left for it."""
        host, port = self._config.host, self._config.grpc_port
        calls = await grpc.start(service, host, port, beside=self._held is not None)
        forwarding = await forward(self._held, host, port) if self._held else None

        async def stop(left: float) -> None:
            if forwarding:
                forwarding.close()
            await calls.stop(left)

        return stop

    def _interrupted(self) -> None:
        """Somebody sits before it: only what it has begun is finished."""
        self._at_once = True
        self._told_to_leave.set()

    def _lose(self, code: int) -> None:
        """From another thread: nobody computes any more. What was asked is answered so, and another process begins."""

        def end() -> None:
            self._lost = code
            self._interrupted()

        self._loop.call_soon_threadsafe(end)

    async def _load(self, service: Service) -> int:
        config = self._config
        begun = time.monotonic()
        try:
            model, seconds, at_once = await _in_thread(self._loaded)
        except TrainingError as error:
            return _says(str(error), error.exit_code)
        service.serve(model, seconds, at_once, self._explainer(model))
        self._told.serving()
        log.info(
            "serving %s (%s) on ports %d (HTTP) and %d (gRPC) after %.1f s: %.2g ms a sample on %s",
            *(config.name, model.version, config.port, config.grpc_port),
            *(time.monotonic() - begun, seconds * 1000, config.device),
        )
        return 0

    def _loaded(self) -> tuple[Model, float, int]:
        """The model, once it has shown that it computes what it was published with."""
        config, front = self._config, self._front
        loaded = config.load(config, self._lose) if front is None else self._assembled(front)
        check_example(loaded[0], config.directory)
        return loaded

    def _assembled(self, front: Front) -> tuple[Model, float, int]:
        config = self._config
        front.listen()
        loaded, signature, sha256 = intact(config.directory, config.sha256)
        # Those who ask the place of a front that died are answered by whoever is there.
        seconds = front.assemble(sha256, whole=self._death is None)
        limit = config.limits.request_seconds
        writes = language_model_without_weights(loaded)
        embedded = config.explain is not None and embeds(loaded)
        model = GroupModel(signature.of_text(writes), sha256, front, limit, writes, embeds=embedded)
        return model, seconds, front.layout.at_once

    def _explainer(self, model: Model) -> Explains | None:
        config = self._config
        if config.explain is None:
            return None
        at_once = config.limits.batching.max_size
        if isinstance(model, GroupModel):
            if model.divided:
                return explainer_of(AsOne(model), config.explain, at_once)
            asked = TokenQuestion if model.embeds else Question
            return GroupExplainer(asked(model.signature, config.explain), model)
        assert isinstance(model, ServedModel), "no other is asked to explain"
        return explainer_of(model, config.explain, at_once)

    async def _drain(self, service: Service) -> float:
        """Says that it is not ready, and answers as before until nobody asks; gives the seconds that are left then.

        HTTP's clients are told with each answer to come by another connection; gRPC's change theirs by themselves.
        Looks are counted, not seconds: a process that stood still has not heard who asked meanwhile.
        """
        service.draining = True
        log.info("leaving: not ready any more, %s", "finishing" if self._at_once else "answering until nobody asks")
        end = time.monotonic() + self._config.drain_seconds
        looks = quiet = 0
        while (
            not self._at_once
            and service.answers
            and time.monotonic() < end - FINISH
            and (looks < LINGER / _TICK or quiet < QUIET / _TICK)
        ):
            last = service.last_request
            await asyncio.sleep(_TICK)
            looks, quiet = looks + 1, quiet + 1 if service.last_request == last else 0
        return max(0.0, end - time.monotonic())


async def _in_thread(function: Callable[[], _T]) -> _T:
    """As `asyncio.to_thread`, but when the process is told to leave, nobody waits for the thread's end.

    By how many threads torch computes is each thread's own once it has computed: this one, which computes small models,
    takes over what was chosen there.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[tuple[_T, int]] = loop.create_future()

    def tell(setter: Callable[[Any], None], value: object) -> None:
        # When the loop is closed already, nobody is there to be told.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: None if result.done() else setter(value))

    def work() -> None:
        try:
            value = function(), torch.get_num_threads()
        except Exception as error:  # noqa: BLE001 - it is raised where it is waited for
            tell(result.set_exception, error)
        else:
            tell(result.set_result, value)

    threading.Thread(target=work, daemon=True).start()
    value, threads = await result
    torch.set_num_threads(threads)
    return value


def _says(error: str, exit_code: int) -> int:
    print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the last words of a process
    return exit_code
