"""What a rank is told by its environment: torchrun's variables and Muster's own."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from muster_worker.train.errors import ConfigurationError
from muster_worker.train.strategy.layout import FIELD, STRATEGIES, Chosen

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEDULES = ("constant", "plateau", "cosine")
GRADIENT_COMPRESSIONS = ("none", "int8")


@dataclass(frozen=True)
class LearningRate:
    """`spec.optimisation.learningRate`. `initial` None: the recipe's own."""

    initial: float | None = None
    schedule: str = "constant"
    metric: str = "validationLoss"
    factor: float = 0.5
    patience: int = 3
    """Evaluations without improvement that are tolerated before the rate is multiplied by `factor`."""
    warm_up_steps: int = 0
    """Steps in which it rises evenly from zero."""
    minimum: float = 0.0
    """It never falls below."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """`spec.checkpoint`. None: not by this measure; a checkpoint is always made at the end and before leaving."""

    every_steps: int | None = None
    every_seconds: float | None = None
    keep: int = 3
    asynchronous: bool = False
    best_by: str | None = None
    """The metric by which the best checkpoint is kept as well, and published; None: the last is."""


@dataclass(frozen=True)
class EarlyStopping:
    """`spec.optimisation.earlyStopping`: it ends after `patience` evaluations in a row without a better metric."""

    metric: str = "validationLoss"
    patience: int = 3
    minimum_change: float = 0.0


@dataclass(frozen=True)
class Distillation:
    """`spec.distillation`: how much is learned from the model of `spec.initialModel`, and how far it is softened."""

    temperature: float = 2.0
    alpha: float = 0.7


@dataclass(frozen=True)
class InitialModel:
    """`spec.initialModel`: a model directory, and the checksum that its description must have."""

    directory: Path
    sha256: str


@dataclass(frozen=True)
class Environment:
    """Everything outside of the recipe that decides what a rank does."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    host: int
    """Index of the pod: ranks with the same host see the same files whatever the storage."""

    attempt: int
    backend: str | None
    """gloo, nccl or xla; None: whichever fits the devices."""

    storage: Path
    report: Path | None
    sample_log: Path | None
    recipe_config: str
    checkpoint: CheckpointPolicy
    learning_rate: LearningRate
    gradient_accumulation: int
    max_gradient_norm: float | None
    """None: gradients are not clipped."""

    early_stopping: EarlyStopping | None
    strategy: Chosen
    parameter_servers: tuple[str, ...]
    """Where the first ranks listen for the others, as host:port, where these are parameter servers."""

    elastic: bool
    """Whether workers are added and taken away while training goes on."""

    compression: list[dict[str, Any]]
    """The steps of `spec.compression`, as they are written."""

    initial_model: InitialModel | None
    distillation: Distillation | None
    """The initial model is the teacher then, and not where the parameters begin."""

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> Environment:
        """Raises ConfigurationError naming the variable, or the field of the job it carries."""
        if not variables.get("MUSTER_STORAGE"):
            raise ConfigurationError("MUSTER_STORAGE: not set, wanted a directory for checkpoints and the model")
        optimisation = _json_object(variables, "MUSTER_OPTIMISATION")
        return cls(
            rank=_rank_variable(variables, "RANK"),
            world_size=_rank_variable(variables, "WORLD_SIZE"),
            local_rank=_rank_variable(variables, "LOCAL_RANK"),
            local_world_size=int(variables.get("LOCAL_WORLD_SIZE", "1")),
            host=int(variables.get("GROUP_RANK", "0")),
            attempt=int(variables.get("MUSTER_ATTEMPT", "1")),
            backend=variables.get("MUSTER_BACKEND") or None,
            storage=Path(variables["MUSTER_STORAGE"]),
            report=_path(variables, "MUSTER_REPORT"),
            sample_log=_path(variables, "MUSTER_SAMPLE_LOG"),
            recipe_config=variables.get("MUSTER_RECIPE_CONFIG", ""),
            checkpoint=_checkpoint_policy(_json_object(variables, "MUSTER_CHECKPOINT")),
            learning_rate=_learning_rate(optimisation.get("learningRate") or {}),
            gradient_accumulation=int(
                _number(optimisation, "spec.optimisation.gradientAccumulation", default=1, minimum=1)
            ),
            max_gradient_norm=_number(optimisation, "spec.optimisation.maxGradientNorm", default=0, minimum=0) or None,
            early_stopping=_early_stopping(optimisation.get("earlyStopping")),
            strategy=_strategy(_json_object(variables, "MUSTER_STRATEGY")),
            parameter_servers=tuple(filter(None, variables.get("MUSTER_PARAMETER_SERVERS", "").split(","))),
            elastic=bool(variables.get("MUSTER_MIN_REPLICAS")),
            compression=json.loads(variables.get("MUSTER_COMPRESSION") or "[]"),
            initial_model=_initial_model(variables),
            distillation=_distillation(_json_object(variables, "MUSTER_DISTILLATION")),
        )


def _rank_variable(variables: Mapping[str, str], name: str) -> int:
    if name not in variables:
        raise ConfigurationError(f"{name}: not set, wanted what torchrun or muster-worker sets for each rank")
    return int(variables[name])


def _path(variables: Mapping[str, str], name: str) -> Path | None:
    return Path(variables[name]) if variables.get(name) else None


def _initial_model(variables: Mapping[str, str]) -> InitialModel | None:
    directory = _path(variables, "MUSTER_INITIAL_MODEL")
    return InitialModel(directory, variables.get("MUSTER_INITIAL_MODEL_SHA256", "")) if directory else None


def _distillation(fields: Mapping[str, Any]) -> Distillation | None:
    """None where nothing is written; the operator writes its defaults out."""
    if not fields:
        return None
    prefix = "spec.distillation"
    alpha = _number(fields, f"{prefix}.alpha", default=Distillation.alpha, minimum=0)
    temperature = _number(fields, f"{prefix}.temperature", default=Distillation.temperature, minimum=0)
    if alpha > 1:
        raise ConfigurationError(f"{prefix}.alpha: found {alpha:g}, wanted a number from 0 to 1")
    if temperature == 0:
        raise ConfigurationError(f"{prefix}.temperature: found 0, wanted a number above 0")
    return Distillation(temperature, alpha)


def _json_object(variables: Mapping[str, str], name: str) -> dict[str, Any]:
    text = variables.get(name) or "{}"
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{name}: found text that is no JSON ({error}), wanted an object") from error
    if not isinstance(found, dict):
        raise ConfigurationError(f"{name}: found {text}, wanted a JSON object")
    return found


def _number(fields: Mapping[str, Any], field: str, *, default: float, minimum: float) -> float:
    """The number under the last part of `field`'s name; strings such as "0.1" count as numbers."""
    value = fields.get(field.rpartition(".")[2])
    if value is None:
        return default
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not minimum <= number < math.inf:
        raise ConfigurationError(f"{field}: found {json.dumps(value)}, wanted a number, at least {minimum:g}")
    return number


def _checkpoint_policy(fields: Mapping[str, Any]) -> CheckpointPolicy:
    prefix = "spec.checkpoint"
    every_steps = _number(fields, f"{prefix}.everySteps", default=0, minimum=0)
    every_seconds = _number(fields, f"{prefix}.everySeconds", default=0, minimum=0)
    return CheckpointPolicy(
        every_steps=int(every_steps) or None,
        every_seconds=every_seconds or None,
        keep=int(_number(fields, f"{prefix}.keep", default=CheckpointPolicy.keep, minimum=1)),
        asynchronous=bool(fields.get("asynchronous", CheckpointPolicy.asynchronous)),
        best_by=fields.get("bestBy") or None,
    )


def _learning_rate(fields: Mapping[str, Any]) -> LearningRate:
    prefix = "spec.optimisation.learningRate"
    schedule = fields.get("schedule") or LearningRate.schedule
    if schedule not in SCHEDULES:
        raise ConfigurationError(f"{prefix}.schedule: found {schedule!r}, wanted one of {', '.join(SCHEDULES)}")
    factor = _number(fields, f"{prefix}.factor", default=LearningRate.factor, minimum=0)
    if not 0 < factor < 1:
        raise ConfigurationError(f"{prefix}.factor: found {factor:g}, wanted a number between 0 and 1")
    return LearningRate(
        initial=_number(fields, f"{prefix}.initial", default=0, minimum=0) or None,
        schedule=schedule,
        metric=fields.get("metric") or LearningRate.metric,
        factor=factor,
        patience=int(_number(fields, f"{prefix}.patience", default=LearningRate.patience, minimum=0)),
        warm_up_steps=int(_number(fields, f"{prefix}.warmUpSteps", default=LearningRate.warm_up_steps, minimum=0)),
        minimum=_number(fields, f"{prefix}.minimum", default=LearningRate.minimum, minimum=0),
    )


def _early_stopping(fields: Mapping[str, Any] | None) -> EarlyStopping | None:
    if fields is None:
        return None
    prefix, default = "spec.optimisation.earlyStopping", EarlyStopping
    return EarlyStopping(
        metric=fields.get("metric") or default.metric,
        patience=int(_number(fields, f"{prefix}.patience", default=default.patience, minimum=1)),
        minimum_change=_number(fields, f"{prefix}.minimumChange", default=default.minimum_change, minimum=0),
    )


def _strategy(fields: Mapping[str, Any]) -> Chosen:
    kind = fields.get("type") or Chosen.type
    if kind not in STRATEGIES:
        raise ConfigurationError(f"{FIELD}.type: found {kind!r}, wanted one of {', '.join(STRATEGIES)}")
    mesh = fields.get("mesh") or {}
    ways = {
        name: int(_number(mesh, f"{FIELD}.mesh.{name}", default=0, minimum=0)) or None
        for name in ("data", "tensor", "pipeline")
    }
    compression = fields.get("gradientCompression") or Chosen.gradient_compression
    if compression not in GRADIENT_COMPRESSIONS:
        raise ConfigurationError(
            f"{FIELD}.gradientCompression: found {compression!r}, wanted one of {', '.join(GRADIENT_COMPRESSIONS)}"
        )
    staleness = int(_number(fields, f"{FIELD}.staleness", default=Chosen.staleness, minimum=0))
    return Chosen(kind, **ways, staleness=staleness, gradient_compression=compression)
