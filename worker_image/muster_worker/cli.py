"""The command line: `muster-worker agent …` is what pods run, `muster-worker train …` what people run."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

import muster_worker

if TYPE_CHECKING:
    from collections.abc import Sequence

BAD_USE = 64
BAD_CONFIGURATION = 78


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
    return _agent(found)


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
    train.add_argument("--processes", type=int, default=1, metavar="N", help="ranks to start (1)")
    train.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="JSON|KEY=VALUE",
        help="the recipe's settings, as a JSON object or one at a time; can be repeated",
    )
    train.add_argument("--storage", metavar="DIRECTORY", help="for checkpoints and the model (./muster/CLASS)")
    train.add_argument("--backend", choices=("gloo", "nccl"), help="of torch.distributed (what fits the devices)")

    agent = commands.add_parser("agent", help="what the pods of a TrainingJob run", description=_AGENT)
    kinds = agent.add_subparsers(dest="kind", metavar="KIND")
    recipe = kinds.add_parser("recipe", help="run a recipe")
    recipe.add_argument("recipe", metavar="REFERENCE", help="the recipe's class, as module:Class")
    script = kinds.add_parser("script", help="run a command as torchrun would", usage="%(prog)s -- COMMAND…")
    script.add_argument("words", nargs="*", metavar="COMMAND", help="a Python file or a program, and its arguments")

    commands.add_parser("version", help="print the version")
    return parser


_TRAIN = """Trains a recipe on this machine. Ctrl-C saves a checkpoint and leaves; the same command goes on from it."""
_TRAIN_EXAMPLE = "example: muster-worker train muster_worker.recipes.digits:Digits --processes 2 --config epochs=5"
_AGENT = """Starts the ranks of one pod and keeps the group together. It is set up by the environment that the
operator gives to worker pods (MUSTER_RANK, MUSTER_REPLICAS, MUSTER_COORDINATOR, …)."""
