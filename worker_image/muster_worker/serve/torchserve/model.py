"""The model that TorchServe computes, as the server sees it."""

from __future__ import annotations

import http.client
import io
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from muster_worker.serve.batcher import WORTH_A_THREAD
from muster_worker.serve.errors import ComputationError, NotReadyError, TimedOutError
from muster_worker.serve.group.wire import Frame, pieces, read
from muster_worker.serve.model import Model, intact
from muster_worker.serve.torchserve.archive import archive
from muster_worker.serve.torchserve.connection import UnixConnection
from muster_worker.serve.torchserve.engine import Engine
from muster_worker.serve.torchserve.settings import home
from muster_worker.train.model_directory import DESCRIPTION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from muster_worker.serve.model import Signature
    from muster_worker.serve.server import ServeConfig

TRIES = 2
"""When so many workers have died of a batch, more would. One may have been killed for something else."""

_ON_THE_WAY = 2
"""Batches for each worker: while it computes one, TorchServe takes the next and gives the last back."""

_WARM_UP = 5
_DIED = '"Worker died."'
_BINARY = {"content-type": "application/octet-stream"}


def load(
    config: ServeConfig, lost: Callable[[int], None], *, workers: int | None, place: Path
) -> tuple[Model, float, int]:
    """As `ServeConfig.load`; `workers` None: one for each GPU, or one. Raises TrainingError."""
    home()  # before the model is read, which may take a while
    loaded, signature, sha256 = intact(config.directory, config.sha256)
    files = (DESCRIPTION, *loaded.description["files"])
    count = workers or torch.cuda.device_count() or 1
    limit = config.limits.request_seconds
    own = Path(tempfile.mkdtemp(dir=place))  # the one before this may not have ended yet
    engine = Engine(archive(config.directory, files, config.name, sha256, own), count, limit, own)
    engine.start(lost)
    model = TorchServeModel(signature, sha256, engine, limit)
    return model, model.warm_up(), _ON_THE_WAY * count


class TorchServeModel(Model):
    """Computes by `engine`; `limit`: seconds that a batch may take."""

    def __init__(self, signature: Signature, sha256: str, engine: Engine, limit: float) -> None:
        self.signature = signature
        self.version = sha256[:12]
        self.sha256 = sha256
        self._engine = engine
        self._limit = limit
        self._path = f"/predictions/{engine.name}"
        self._kept = threading.local()

    @property
    def missing(self) -> str | None:
        return self._engine.missing

    @property
    def exposition(self) -> bytes:
        return self._engine.exposition

    def warm_up(self) -> float:
        """Gives the seconds that one sample takes, which are worth a thread: they are waited for."""
        inputs = [spec.zeros() for spec in self.signature.inputs]
        took = []
        for _ in range(_WARM_UP):
            begun = time.perf_counter()
            self.compute(inputs)
            took.append(time.perf_counter() - begun)
        return max(min(took), WORTH_A_THREAD)

    def compute(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Has it computed again when a worker dies of it, for it need not be its fault.

        Raises ComputationError with the model's own words, TimedOutError, or NotReadyError once TorchServe has ended.
        """
        body = b"".join(pieces(Frame("inputs", tensors=inputs)))
        deadline = time.monotonic() + self._limit
        for _ in range(TRIES):
            outputs = self._asked(body, deadline - time.monotonic())
            if outputs is not None:
                return outputs
        raise ComputationError(f"{TRIES} workers of TorchServe have ended while they computed this")

    def _asked(self, body: bytes, seconds: float) -> list[Tensor] | None:
        """None when a worker has ended meanwhile."""
        connection = self._connection(max(seconds, 0.001))
        try:
            connection.request("POST", self._path, body, _BINARY)
            answer = connection.getresponse()
            content = answer.read()
        except TimeoutError:
            connection.close()
            raise TimedOutError(f"no answer within {self._limit:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise NotReadyError("TorchServe has ended, another is started: try again in a second") from error
        if answer.status == 200:
            stream = io.BytesIO(content)
            return list(read(lambda size: bytearray(stream.read(size))).tensors)
        text = content.decode(errors="replace")
        if answer.getheader("content-type") == "text/plain":
            raise ComputationError(text)
        if _DIED in text:
            return None
        raise ComputationError(f"TorchServe answered with {answer.status}: {text}")

    def _connection(self, timeout: float) -> UnixConnection:
        """That of this thread, kept from one batch to the next."""
        connection: UnixConnection | None = getattr(self._kept, "connection", None)
        if connection is None:
            connection = self._kept.connection = UnixConnection(self._engine.inference, timeout)
        connection.within(timeout)
        return connection
