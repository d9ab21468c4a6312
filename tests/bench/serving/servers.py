"""Those that are compared: how each is started, asked and read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.serving.figures import (
    BATCH,
    DELAY,
    KSERVE,
    MUSTER,
    MUSTER_BATCHES,
    MUSTER_DELAY,
    TORCHSERVE,
    TORCHSERVE_DELAY,
)
from tests.bench.serving.models import INPUTS, PROGRAM
from tests.ports import free_ports

_HERE = Path(__file__).parent
_ENVIRONMENTS = Path("/opt")


@dataclass(frozen=True)
class Server:
    """A server of one model, and how a sample is put to it."""

    name: str
    command: Sequence[str]
    port: int
    path: str
    body: Callable[[Sequence[float]], Any]
    read: Callable[[Any], list[float]]

    def request(self, sample: Sequence[float]) -> str:
        body = json.dumps(self.body(sample), separators=(",", ":"))
        head = (
            f"POST {self.path} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        )
        return "\r\n".join([*head, "", body])


def all_of(model: Path, place: Path) -> dict[str, Callable[[], Server]]:
    """What makes each ready to be started, in the order of their turns; `place`: a directory for what they need."""
    return {
        MUSTER: lambda: muster(model, MUSTER),
        MUSTER_BATCHES: lambda: muster(model, MUSTER_BATCHES, *batches()),
        MUSTER_DELAY: lambda: muster(model, MUSTER_DELAY, *batches(DELAY)),
        TORCHSERVE: lambda: torchserve(model, place / "without", TORCHSERVE, 1),
        TORCHSERVE_DELAY: lambda: torchserve(model, place / "with", TORCHSERVE_DELAY, BATCH),
        KSERVE: lambda: kserve(model),
    }


def batches(delay: int = 0) -> tuple[str, ...]:
    return "--max-batch-size", str(BATCH), "--max-delay-milliseconds", str(delay)


def muster(model: Path, name: str, *words: str) -> Server:
    http, grpc, group = free_ports(3)
    ports = ("--host", "127.0.0.1", "--port", str(http), "--grpc-port", str(grpc), "--group-port", str(group))
    command = (sys.executable, "-m", "muster_worker", "serve", str(model), *ports, *words)
    return _protocol_v2(name, model, command, http, _input_of(model))


def kserve(model: Path) -> Server:
    (port,) = free_ports(1)
    python = str(_ENVIRONMENTS / "kserve" / "bin" / "python")
    program = (str(_HERE / "kserve_model.py"), model.name, str(model / PROGRAM), str(port))
    return _protocol_v2(KSERVE, model, (python, *program), port, "input")


def torchserve(model: Path, place: Path, name: str, batch: int) -> Server:
    """Its logs say warnings only, and it measures nothing of the machine: that costs it nothing here."""
    place.mkdir(parents=True)
    programs = _ENVIRONMENTS / "torchserve" / "bin"
    archive = [
        *(programs / "torch-model-archiver", "--model-name", model.name, "--version", "1.0"),
        *("--serialized-file", model / PROGRAM, "--handler", _HERE / "torchserve_handler.py", "--export-path", place),
    ]
    subprocess.run([str(word) for word in archive], check=True)
    ports = free_ports(5)
    settings = {
        **dict(zip(("inference_address", "management_address", "metrics_address"), map(_address, ports), strict=False)),
        "grpc_inference_port": ports[3],
        "grpc_management_port": ports[4],
        "model_store": place,
        "load_models": f"{model.name}.mar",
        "models": json.dumps({model.name: {"1.0": _workers(model.name, batch)}}),
        "disable_system_metrics": "true",
    }
    (place / "config.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
    (place / "log4j2.xml").write_text(_WARNINGS)
    command = (
        *(str(programs / "torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth"),
        *("--enable-model-api", "--ts-config", str(place / "config.properties")),
        *("--log-config", str(place / "log4j2.xml"), "--model-store", str(place)),
    )
    return Server(name, command, ports[0], f"/predictions/{model.name}", list, list)


def _workers(model: str, batch: int) -> dict[str, Any]:
    return {
        "defaultVersion": True,
        "marName": f"{model}.mar",
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": batch,
        "maxBatchDelay": DELAY,
        "responseTimeout": 120,
    }


def _protocol_v2(name: str, model: Path, command: Sequence[str], port: int, input_: str) -> Server:
    def body(sample: Sequence[float]) -> dict[str, Any]:
        return {"inputs": [{"name": input_, "shape": [1, INPUTS], "datatype": "FP32", "data": list(sample)}]}

    return Server(
        name, command, port, f"/v2/models/{model.name}/infer", body, lambda answer: answer["outputs"][0]["data"]
    )


def _input_of(model: Path) -> str:
    return str(json.loads((model / "model.json").read_text())["inputs"][0]["name"])


def _address(port: int) -> str:
    return f"http://127.0.0.1:{port}"


_WARNINGS = """<Configuration>
  <Appenders><Console name="console"><PatternLayout pattern="%m%n"/></Console></Appenders>
  <Loggers><Root level="warn"><AppenderRef ref="console"/></Root></Loggers>
</Configuration>
"""
