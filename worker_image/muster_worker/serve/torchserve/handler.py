"""What TorchServe runs in its workers. It goes into the archive, and imports what the image has."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from muster_worker.serve.errors import ComputationError
from muster_worker.serve.group.wire import Frame, pieces, read
from muster_worker.serve.model import ServedModel
from muster_worker.serve.torchserve.archive import LAST_WORDS, LOCKED
from muster_worker.train.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Handler:
    """Computes one batch a request: a frame of inputs, answered by one of outputs or by text that says what failed."""

    def initialize(self, context: Any) -> None:
        """A model that cannot be loaded is the end of TorchServe, which would try without end."""
        # By itself it logs two lines a batch, for TorchServe to read: a quarter of its rate.
        logging.getLogger().setLevel(logging.WARNING)
        directory, gpu = Path(context.system_properties["model_dir"]), context.system_properties["gpu_id"]
        device = torch.device("cpu" if gpu is None else f"cuda:{gpu}")
        try:
            self._model = ServedModel.load(directory, device, context.manifest["model"]["modelVersion"])
            self._model.warm_up()
        except Exception as error:
            said = {"exitCode": TrainingError.exit_code, "words": traceback.format_exc()}
            if isinstance(error, TrainingError):
                said = {"exitCode": error.exit_code, "words": str(error)}
            (directory / LAST_WORDS).write_text(json.dumps(said))
            os.kill(os.getppid(), signal.SIGKILL)
            raise
        self._locked = (directory / LOCKED).open("w")
        fcntl.flock(self._locked, fcntl.LOCK_SH)

    def handle(self, requests: Sequence[Mapping[str, bytearray]], context: Any) -> list[bytes | str]:
        """TorchServe is told not to put requests together: they are batches already."""
        (request,) = requests
        body = io.BytesIO(request["body"])
        inputs = read(lambda size: bytearray(body.read(size))).tensors
        try:
            return [b"".join(pieces(Frame("outputs", tensors=self._model.compute(inputs))))]
        except ComputationError as error:
            context.set_response_status(code=500, idx=0)
            context.set_response_content_type(0, "text/plain")
            return [str(error)]
