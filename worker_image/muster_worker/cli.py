"""The command line: pods run `muster-worker agent …` and `serve …`, people `muster-worker train …` and `serve …`."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import muster_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from muster_worker.serve.explain import Explaining
    from muster_worker.serve.group.layout import GroupConfig
    from muster_worker.serve.server import ServeConfig

BAD_USE = 64
BAD_CONFIGURATION = 78
REPORTED = 2000
"""Characters of an error: Kubernetes keeps 4096 bytes of what a container tells."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code of the process."""
    parser = _parser()
    found = parser.parse_args(arguments)
    if found.command is None:
        parser.print_help()
        return 0
    if found.command == "version":
        print(muster_worker.__version__)
        return 0
    if found.command == "train":
        from muster_worker.laptop import train  # noqa: PLC0415 - the agent's start is timed

        return train(
            found.recipe,
            processes=found.processes,
            settings=found.config,
            storage=found.storage,
            backend=found.backend,
        )
    if found.command == "serve":
        _serve(found)
    if found.command == "torchserve":
        _torchserve(found)
    if found.command == "package":
        return _package(found)
    if found.command == "compress":
        return _compress(found)
    return _agent(found)


def _serve(found: argparse.Namespace) -> NoReturn:
    from muster_worker.serve.server import run  # noqa: PLC0415 - brings torch
    from muster_worker.train.errors import ConfigurationError  # noqa: PLC0415

    config = _serving(found)
    try:
        group = _group(found, config.name)
    except ConfigurationError as error:
        print(f"muster-worker serve: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    run(replace(config, group=group, explain=found.explain))


def _torchserve(found: argparse.Namespace) -> NoReturn:
    from muster_worker.serve.server import run  # noqa: PLC0415 - brings torch
    from muster_worker.serve.torchserve.model import load  # noqa: PLC0415

    # TorchServe may still be writing there while it is ended.
    with tempfile.TemporaryDirectory(prefix="torchserve-", ignore_cleanup_errors=True) as place:
        run(replace(_serving(found), load=partial(load, workers=found.workers, place=Path(place))))


def _serving(found: argparse.Namespace) -> ServeConfig:
    from muster_worker.serve.batcher import Batching  # noqa: PLC0415 - brings torch
    from muster_worker.serve.server import ServeConfig  # noqa: PLC0415
    from muster_worker.serve.service import Limits  # noqa: PLC0415

    batching = Batching(found.max_batch_size, found.max_delay_milliseconds / 1000, found.max_waiting)
    return ServeConfig(
        directory=found.directory,
        name=found.name or found.directory.resolve().name,
        sha256=found.sha256,
        fetch=found.fetch,
        cache=found.cache,
        host=found.host,
        port=found.port,
        grpc_port=found.grpc_port,
        drain_seconds=found.drain_seconds,
        limits=Limits(found.max_request_bytes, found.request_seconds, batching),
    )


def _package(found: argparse.Namespace) -> int:
    from muster_worker.serve.package import package, parse_input  # noqa: PLC0415 - brings torch
    from muster_worker.train.errors import TrainingError  # noqa: PLC0415

    try:
        published = package(found.script, found.directory, [parse_input(text) for text in found.input])
    except TrainingError as error:
        print(f"muster-worker package: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{found.directory}: {published.bytes} bytes, sha256 {published.sha256}")
    return 0


def _compress(found: argparse.Namespace) -> int:
    """With --report, what it came to is told there, and an error that would come again is no failure of the process."""
    from muster_worker.serve.compression import compress_published, result  # noqa: PLC0415 - brings torch
    from muster_worker.train.errors import ConfigurationError, TrainingError  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        published = compress_published(found.directory, found.into, found.steps, found.sha256)
    except TrainingError as error:
        print(f"error: {error}", file=sys.stderr)
        if found.report is None or error.exit_code != ConfigurationError.exit_code:
            return error.exit_code
        found.report.write_text(json.dumps({"error": str(error)[:REPORTED]}))
        return 0
    if found.report is not None:
        found.report.write_text(json.dumps(result(found.into, published)))
    print(f"{found.into}: {published.bytes} bytes, sha256 {published.sha256}")
    return 0


def _group(found: argparse.Namespace, name: str) -> GroupConfig | None:
    """None where one process does it all; raises ConfigurationError."""
    from muster_worker.serve.group.layout import GroupConfig, Layout  # noqa: PLC0415 - brings torch

    layout = Layout(found.data, found.tensor, found.pipeline, found.pods)
    if layout.processes == 1:
        return None
    return GroupConfig(found.group or name, layout, found.pod, found.leader, found.group_port)


def _agent(found: argparse.Namespace) -> int:
    from muster_worker.agent.agent import run  # noqa: PLC0415 - not needed for help
    from muster_worker.agent.config import AgentConfig, ConfigError, Recipe, Script  # noqa: PLC0415

    if found.kind is None:
        print("muster-worker agent: say what to run: `agent recipe REFERENCE` or `agent script -- COMMAND…`")
        return BAD_USE
    if found.kind == "script" and not found.words:
        print("muster-worker agent script: the command is missing: `agent script -- train.py --epochs 20`")
        return BAD_USE
    workload = Recipe(found.recipe) if found.kind == "recipe" else Script(tuple(found.words))
    try:
        config = AgentConfig.from_environment(os.environ, workload)
    except ConfigError as error:
        print(f"muster-worker agent: {error}", file=sys.stderr)
        return BAD_CONFIGURATION
    return run(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="muster-worker", description="Runs training for Muster, in a pod or on a laptop."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    train = commands.add_parser(
        "train", help="train a recipe on this machine, without Kubernetes", description=_TRAIN, epilog=_TRAIN_EXAMPLE
    )
    train.add_argument("recipe", metavar="REFERENCE", help="the recipe's class, as module:Class")
    train.add_argument("--processes", type=_count, default=1, metavar="N", help="ranks to start (1)")
    train.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="JSON|KEY=VALUE",
        help="the recipe's settings, as a JSON object or one at a time; can be repeated",
    )
    train.add_argument("--storage", metavar="DIRECTORY", help="for checkpoints and the model (./muster/CLASS)")
    train.add_argument("--backend", choices=("gloo", "nccl", "xla"), help="for gradients (what fits the devices)")

    serve = commands.add_parser(
        "serve", help="answer requests with a trained model", description=_SERVE, epilog=_SERVE_EXAMPLE
    )
    _add_serving(serve)
    serve.add_argument(
        "--explain",
        type=_explaining,
        metavar="METHOD[:BASELINE]",
        help="explain answers by integratedGradients, saliency or occlusion, compared with that number (0)",
    )
    group = serve.add_argument_group("several processes", _GROUP)
    group.add_argument("--data", type=_count, default=1, metavar="N", help="parts of a batch computed at once (1)")
    group.add_argument("--tensor", type=_count, default=1, metavar="N", help="processes that divide each layer (1)")
    group.add_argument("--pipeline", type=_count, default=1, metavar="N", help="processes that divide the layers (1)")
    group.add_argument("--pods", type=_count, default=1, metavar="N", help="that have equal numbers of them (1)")
    group.add_argument("--pod", type=_number, default=0, metavar="I", help="which of these this is (0, which answers)")
    group.add_argument("--leader", metavar="HOST", help="of pod 0; all others need it")
    group.add_argument("--group", metavar="NAME", help="processes of another group are refused (the model's name)")
    group.add_argument(
        "--group-port", type=_port, default=8090, metavar="PORT", help="where pod 0 listens for the processes (8090)"
    )

    torchserve = commands.add_parser(
        "torchserve", help="the same, computed by TorchServe", description=_TORCHSERVE, epilog=_TORCHSERVE_EXAMPLE
    )
    _add_serving(torchserve)
    torchserve.add_argument(
        "--workers", type=_count, metavar="N", help="TorchServe's, each with the whole model (one for each GPU, or one)"
    )

    package = commands.add_parser(
        "package", help="make a model directory of a TorchScript file", description=_PACKAGE, epilog=_PACKAGE_EXAMPLE
    )
    package.add_argument("script", type=Path, metavar="FILE", help="the TorchScript file")
    package.add_argument(
        "directory", type=Path, metavar="DIRECTORY", help="where to write; a model that is there is replaced"
    )
    package.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="NAME:DATATYPE:SHAPE",
        help="what the model takes, -1 for any length; repeated for each input, in the order of its parameters",
    )

    compress = commands.add_parser(
        "compress", help="make a smaller copy of a trained model", description=_COMPRESS, epilog=_COMPRESS_EXAMPLE
    )
    compress.add_argument("directory", type=Path, metavar="DIRECTORY", help="the model's, as a job publishes it")
    compress.add_argument("into", type=Path, metavar="INTO", help="where to write; a model that is there is replaced")
    compress.add_argument(
        "--steps", type=_steps, required=True, metavar="JSON", help="as spec.compression has them, a list"
    )
    compress.add_argument("--sha256", help="refuse any other model (the checksum of its model.json)")
    compress.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write there, as JSON, what it came to or what is wrong with the steps",
    )

    agent = commands.add_parser("agent", help="what the pods of a TrainingJob run", description=_AGENT)
    kinds = agent.add_subparsers(dest="kind", metavar="KIND")
    recipe = kinds.add_parser("recipe", help="run a recipe")
    recipe.add_argument("recipe", metavar="REFERENCE", help="the recipe's class, as module:Class")
    script = kinds.add_parser("script", help="run a command as torchrun would", usage="%(prog)s -- COMMAND…")
    script.add_argument("words", nargs="*", metavar="COMMAND", help="a Python file or a program, and its arguments")

    commands.add_parser("version", help="print the version")
    return parser


def _add_serving(parser: argparse.ArgumentParser) -> None:
    """What it is to serve, and how."""
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="the model's, as a training job publishes it")
    parser.add_argument("--name", help="how clients call the model (the directory's name)")
    parser.add_argument(
        "--fetch", metavar="URI", help="copy the model from there first: https://…, s3://…, whatever fsspec reads"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIRECTORY",
        help="with --fetch: where this machine keeps models for the next server",
    )
    parser.add_argument("--sha256", help="refuse any other model (the checksum of its model.json)")
    parser.add_argument("--host", default="", metavar="ADDRESS", help="where to listen (everywhere)")
    parser.add_argument("--port", type=_port, default=8080, help="for HTTP (8080)")
    parser.add_argument("--grpc-port", type=_port, default=9000, metavar="PORT", help="for gRPC (9000)")
    parser.add_argument("--max-batch-size", type=_count, default=1, metavar="N", help="samples computed together (1)")
    parser.add_argument(
        "--max-delay-milliseconds", type=_amount, default=0.0, metavar="N", help="waited for a batch to fill (0)"
    )
    parser.add_argument(
        "--max-waiting", type=_count, default=1000, metavar="N", help="requests that may wait; more get a 503 (1000)"
    )
    parser.add_argument(
        "--max-request-bytes", type=_count, default=64 << 20, metavar="N", help="larger ones get a 413 (64 MiB)"
    )
    parser.add_argument(
        "--request-seconds", type=_amount, default=60.0, metavar="N", help="then a request gets a 504 (60)"
    )
    parser.add_argument(
        "--drain-seconds", type=_amount, default=30.0, metavar="N", help="that leaving takes at most (30)"
    )


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}, wanted a whole number, at least 1")
    return int(text)


def _number(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"found {text}, wanted a whole number, at least 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"found {text}, wanted a port, from 1 to 65535")
    return int(text)


def _amount(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}, wanted a number, at least 0")
    return number


def _steps(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(f"found text that is no JSON ({error}), wanted a list of steps") from None


def _explaining(text: str) -> Explaining:
    from muster_worker.serve.explain import Explaining  # noqa: PLC0415 - brings torch

    try:
        return Explaining.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


_TRAIN = """Trains a recipe on this machine. Ctrl-C saves a checkpoint and leaves; the same command goes on from it."""
_TRAIN_EXAMPLE = "example: muster-worker train muster_worker.recipes.digits:Digits --processes 2 --config epochs=5"
_SERVE = """Answers by the Open Inference Protocol v2. After SIGTERM it says that it is not ready, and answers until
nobody asks any more. Ctrl-C ends it at once."""
_GROUP = """They compute together and are asked as if they were one: as many as the product of --data, --tensor and
--pipeline. One that dies is started again, and no request is lost by that."""
_SERVE_EXAMPLE = "example: muster-worker serve muster/digits/model --name digits --max-batch-size 32"
_TORCHSERVE = """Has TorchServe compute, and answers as `muster-worker serve` does. The image has to have TorchServe."""
_TORCHSERVE_EXAMPLE = "example: muster-worker torchserve muster/digits/model --name digits --max-batch-size 32"
_PACKAGE = """Makes a directory that `muster-worker serve` and a ModelDeployment take. The outputs are found by
computing with zeros."""
_PACKAGE_EXAMPLE = "example: muster-worker package model.pt models/digits --input images:FP32:-1,1,8,8"
_COMPRESS = """Clips, prunes and quantizes a model that a recipe made, measured before and after each step. What is
there already, of the same model by the same steps, is kept."""
_COMPRESS_EXAMPLE = """example: muster-worker compress model smaller --steps '[{"quantize": {"bits": 8}}]'"""
_AGENT = """Starts the ranks of one pod and keeps the group together. It is set up by the environment that the
operator gives to worker pods (MUSTER_RANK, MUSTER_REPLICAS, MUSTER_COORDINATOR, …)."""
