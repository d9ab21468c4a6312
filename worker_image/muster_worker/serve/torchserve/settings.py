"""How TorchServe is set up: one model, and no more of everything else than that needs.

It listens at Unix sockets in a directory of its own: nobody else reaches them, and no port can be taken. Its gRPC
cannot be turned off, and gets a port of this machine that nobody knows.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster_worker.train.errors import ConfigurationError

if TYPE_CHECKING:
    from muster_worker.serve.torchserve.archive import Archive

INFERENCE, METRICS = "inference", "metrics"
"""Its sockets."""

_PROGRAMS = ("java", "setpriv", "torch-model-archiver")
_TIED = ("setpriv", "--pdeathsig", "KILL")
"""What is run so is killed when the thread ends that has started it."""

_STARTS = 900
"""Seconds that a worker may take to load the model."""

_LARGEST = (1 << 31) - 1
"""Bytes of a request or an answer, the most that it can count; what clients send is limited before."""

_JVM = (
    # By itself it takes a quarter of the container's memory at most. Short of that, it ends rather than limp on.
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # would be written to /tmp
)

_LOGGING = """<Configuration>
  <Appenders><Console name="console"><PatternLayout pattern="TorchServe: %m%n"/></Console></Appenders>
  <Loggers>
    <Logger name="io.netty" level="error"/>
    <Root level="warn"><AppenderRef ref="console"/></Root>
  </Loggers>
</Configuration>
"""


def home() -> Path:
    """Where it is installed; raises ConfigurationError where it is not."""
    found = importlib.util.find_spec("ts")
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if found is None or found.origin is None or missing:
        raise ConfigurationError(
            f"this image has no TorchServe ({', '.join(missing) or 'its Python package'} is missing):"
            " use one that is made by worker_image/torchserve/Dockerfile"
        )
    return Path(found.origin).parents[1]


def command(archive: Archive, workers: int, limit: float, place: Path) -> list[str]:
    """Writes its files to `place`; gives what `torchserve --start` would run, tied to the thread that starts it.

    Its workers are tied to it: one that hangs, or has only begun, would not see for long that nobody is there any more.
    """
    temporary, configuration, logging, python = (
        place / name for name in ("tmp", "config.properties", "log4j2.xml", "python")
    )
    temporary.mkdir()
    python.write_text(f'#!/bin/sh\nexec {shlex.join(_TIED)} {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o700)
    lines = (f"{name}={value}\n" for name, value in _settings(archive, workers, limit, place).items())
    configuration.write_text("".join(lines))
    logging.write_text(_LOGGING)
    return [
        *(*_TIED, "java", *_JVM),
        f"-Dmodel_server_home={home()}",
        f"-Djava.io.tmpdir={temporary}",
        f"-Dlog4j.configurationFile=file://{logging}",
        *("-cp", f"{home()}/ts/frontend/*", "org.pytorch.serve.ModelServer"),
        *("--python", str(python), "-f", str(configuration), "-s", str(archive.directory.parent)),
        *("-ncs", "--disable-token-auth", "--enable-model-api"),
    ]


def _settings(archive: Archive, workers: int, limit: float, place: Path) -> dict[str, Any]:
    model = {
        "defaultVersion": True,
        "marName": str(archive.directory),
        "minWorkers": workers,
        "maxWorkers": workers,
        "batchSize": 1,  # they are batches already
        "maxBatchDelay": 1,
        "responseTimeout": math.ceil(limit),  # then the worker is ended, and another started
        "startupTimeout": _STARTS,
    }
    return {
        "inference_address": f"unix:{place / INFERENCE}",
        "metrics_address": f"unix:{place / METRICS}",
        "management_address": f"unix:{place / 'management'}",
        "grpc_inference_port": 0,
        "grpc_management_port": 0,
        # By its path: for a name alone TorchServe makes a link that leads to itself.
        "load_models": f"{archive.name}={archive.directory}",
        "models": json.dumps({archive.name: {archive.version: model}}),
        "allowed_urls": "none",
        "max_request_size": _LARGEST,
        "max_response_size": _LARGEST,
        "metrics_mode": "prometheus",
        "disable_system_metrics": "true",
    }
