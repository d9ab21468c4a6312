"""One rank of a group, a process of its own: it goes to the front, loads the model and computes what it is given.

It ends whenever its front does, or its own shard is not whole any more, and comes back as another process: its main
thread may be stuck where only the end of the process helps.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import socket
import sys
import threading
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch

from muster_worker.agent.address import look_up
from muster_worker.agent.threads import threads_per_rank
from muster_worker.serve.errors import ComputationError
from muster_worker.serve.explain_tokens import explainer_of
from muster_worker.serve.generate.decoder import is_of_device
from muster_worker.serve.generate.sampling import Rules
from muster_worker.serve.group.explainer import RankExplanations
from muster_worker.serve.group.failures import is_out_of_step
from muster_worker.serve.group.link import GONE, Link
from muster_worker.serve.group.meeting import Meeting, is_of_a_peer
from muster_worker.serve.group.wire import Frame
from muster_worker.serve.model import ServedModel
from muster_worker.serve.supervisor import AGAIN
from muster_worker.serve.threads import set_threads
from muster_worker.train.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from muster_worker.serve.generate.decoder import Decoder
    from muster_worker.serve.group.layout import GroupConfig
    from muster_worker.serve.group.parallel import Part
    from muster_worker.serve.server import ServeConfig
    from muster_worker.serve.supervisor import Death, Told

log = logging.getLogger(__name__)

HEEDED = (signal.SIGTERM, signal.SIGINT)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two attempts to reach the front."""


class Rank:
    """`hear` is told what the front says of the group: who is missing, and which ranks are absent."""

    def __init__(
        self,
        config: ServeConfig,
        group: GroupConfig,
        rank: int,
        hear: Callable[[str | None, list[int]], None] = lambda _missing, _absent: None,
    ) -> None:
        self._config, self._group, self._rank = config, group, rank
        self._hear_of_group = hear
        self._tasks: SimpleQueue[Frame] = SimpleQueue()
        self._places: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._going_on: SimpleQueue[Frame] = SimpleQueue()
        self._explanations: RankExplanations | None = None
        self._meeting: Meeting | None = None
        self._link: Link | None = None

    def run(self, death: Death | None, told: Told) -> int:
        """Returns the exit code of what is wrong with the model, and never where nothing is."""
        self._leave_signals_to_a_thread()
        self._share_cores()
        self._link = link = Link(
            self._connection(), self._hear, lambda: self._end("nothing comes from its front any more")
        )
        link.start()
        if self._group.layout.shard_size > 1:
            self._meeting = Meeting(self._group, self._rank)
        link.send(
            Frame(
                "join",
                {
                    "group": self._group.name,
                    "processes": self._group.layout.processes,
                    "rank": self._rank,
                    "death": dataclasses.asdict(death) if death is not None else None,
                    "meeting": self._meeting.place if self._meeting is not None else None,
                },
            )
        )
        try:
            model = self._model()
            seconds = model.warm_up()
        except TrainingError as error:
            print(f"error: rank {self._rank}: {error}", file=sys.stderr, flush=True)  # noqa: T201 - its last words
            return error.exit_code
        except Exception as error:
            if is_of_a_peer(error):
                self._end("another of its shard has gone")
            raise
        decoders = model.decoders(self._config.limits.slots)
        if self._config.explain is not None and self._group.layout.shard_size == 1:
            explainer = explainer_of(model, self._config.explain, self._config.limits.batching.max_size)
            self._explanations = RankExplanations(explainer, link.send, self._share_cores, self._lose_device)
        told.serving()
        link.send(Frame("loaded", {"sha256": model.sha256, "seconds": seconds}))
        log.info("rank %d is there: %.2g ms a sample", self._rank, seconds * 1000)
        while True:
            self._compute(model, decoders, self._tasks.get())

    def _model(self) -> ServedModel:
        device = self._device()
        if self._meeting is None:
            return ServedModel.load(self._config.directory, device, self._config.sha256)
        from muster_worker.serve.group import parallel  # noqa: PLC0415 - not for every group; see pod.py

        mesh = self._meeting.attend(self._places.get(), device)
        return parallel.load(self._config, self._group.layout, mesh, device)

    def _compute(self, model: ServedModel, decoders: list[Decoder], frame: Frame) -> None:
        link, task = self._link, frame.words["task"]
        assert link is not None, "tasks come by it"
        try:
            outputs = _outputs(model, decoders, frame)
        except ComputationError as error:
            self._tell_failure(link, task, error)
        else:
            layout = self._group.layout
            of_first_stage = frame.kind in ("embed", "gradients")
            if (layout.begins if of_first_stage else layout.answers)(self._rank):
                link.send(Frame("answer", {"task": task}, outputs))

    def _tell_failure(self, link: Link, task: int, error: ComputationError) -> None:
        """Returns once it is certain that others do not wait for this rank in the middle of the same.

        Where they do, the shard ends, and this rank with it.
        """
        if is_of_a_peer(error):
            link.send(Frame("broken"))
            return
        of_device = is_of_device(error)
        ends = of_device or is_out_of_step(error)
        link.send(Frame("answer", {"task": task, "error": str(error), "ends": ends}))
        if of_device:
            self._lose_device()
        if self._group.layout.shard_size > 1:
            self._going_on.get()

    def _lose_device(self) -> NoReturn:
        """Once all is sent that the front is to know."""
        assert self._link is not None, "tasks come by it"
        self._link.finish(GONE)
        self._end("its device computes nothing any more")

    def _leave_signals_to_a_thread(self) -> None:
        """The main thread may compute for long. In the pod of the front, ranks stay until that has left."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HEEDED)
        if not self._group.leads:
            threading.Thread(target=self._heed, daemon=True).start()

    def _heed(self) -> None:
        if signal.sigwait(HEEDED) == signal.SIGTERM and self._link is not None:
            # The front answers with this rank until it leaves too, and closes the connection then.
            self._link.send(Frame("leaving"))
            time.sleep(self._config.drain_seconds)
        os._exit(0)

    def _share_cores(self) -> None:
        layout = self._group.layout
        threads = threads_per_rank(layout.per_pod, layout.processes)
        if threads is not None and "OMP_NUM_THREADS" not in os.environ:
            set_threads(threads)

    def _connection(self) -> socket.socket:
        """To the front, however long it takes until there is one: its pod may still be on its way."""
        host = (self._config.host if self._group.leads else self._group.leader) or "localhost"
        pause, said = _FIRST_PAUSE, ""
        while True:
            try:
                return socket.create_connection((look_up(host), self._group.port), timeout=GONE)
            except OSError as error:
                if str(error) != said:
                    said = str(error)
                    log.info("rank %d waits for its front at %s:%d: %s", self._rank, host, self._group.port, said)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _device(self) -> torch.device:
        """Not run in this project's tests: one GPU for each rank of the pod."""
        if self._config.device.type != "cuda":
            return self._config.device
        device = torch.device("cuda", self._rank % self._group.layout.per_pod)
        torch.cuda.set_device(device)
        return device

    def _hear(self, frame: Frame) -> None:
        match frame.kind:
            case "compute" | "prefill" | "step" | "embed" | "compute_vectors" | "gradients":
                self._tasks.put(frame)
            case "explain" | "forget" if self._explanations is not None:
                self._explanations.hear(frame)
            case "go_on":
                self._going_on.put(frame)
            case "meet":
                self._places.put(frame.words)
            case "group":
                self._hear_of_group(frame.words["missing"], frame.words["absent"])
            case "refused":
                self._end(f"it is refused: {frame.words['error']}")

    def _end(self, why: str) -> NoReturn:
        print(f"rank {self._rank} ends: {why}", file=sys.stderr, flush=True)  # noqa: T201 - its last words
        os._exit(AGAIN)


def _outputs(model: ServedModel, decoders: list[Decoder], frame: Frame) -> Sequence[Tensor]:
    match frame.kind:
        case "compute":
            return model.compute(frame.tensors)
        case "prefill" | "step":
            return _chosen(decoders[frame.words["decoder"]], frame)
        case kind:
            return cast("Part", model).through.answer(kind, frame.tensors)


def _chosen(decoder: Decoder, frame: Frame) -> tuple[Tensor, Tensor]:
    """What follows a prompt, or one more token of each text."""
    count = len(Rules._fields)
    rules, given = Rules(*frame.tensors[:count]), frame.tensors[count:]
    if frame.kind == "step":
        slots, tokens, places = given
        return decoder.step(slots, tokens, places, rules)
    slot, tokens = given
    return decoder.prefill(int(slot), tokens, rules)
