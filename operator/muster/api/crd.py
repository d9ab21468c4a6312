"""The CustomResourceDefinitions: what `muster crds` writes into crds/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from muster.api.common import GROUP, VERSION
from muster.api.modeldeployment import ModelDeployment
from muster.api.structural import structural
from muster.api.trainingjob import TrainingJob

if TYPE_CHECKING:
    from pathlib import Path

    from muster.api.base import Model

HEADER = "# Made by `muster crds` from operator/muster/api. Change that, not this.\n"


@dataclass(frozen=True, slots=True)
class Resource:
    """What a definition says beside the schema. `columns`: name, JSON path, type; `wide` is shown with `-o wide`."""

    model: type[Model]
    kind: str
    short_name: str
    columns: tuple[tuple[str, str, str], ...]
    wide: tuple[tuple[str, str, str], ...]

    @property
    def plural(self) -> str:
        return f"{self.kind.lower()}s"


_AGE = ("Age", ".metadata.creationTimestamp", "date")
_REASON = ("Reason", ".status.reason", "string")

TRAINING_JOB = Resource(
    TrainingJob,
    "TrainingJob",
    "tj",
    columns=(
        ("Phase", ".status.phase", "string"),
        ("Workers", ".status.workers", "string"),
        ("Step", ".status.progress.steps", "string"),
        ("Loss", ".status.metrics.loss", "string"),
        ("Left", ".status.progress.timeLeft", "string"),
        ("Restarts", ".status.restartCount", "integer"),
        _AGE,
    ),
    wide=(
        ("Attempt", ".status.attempt", "integer"),
        ("Metric", ".status.metric", "string"),
        ("Checkpoint", ".status.checkpoint.step", "integer"),
        _REASON,
    ),
)
MODEL_DEPLOYMENT = Resource(
    ModelDeployment,
    "ModelDeployment",
    "mdep",
    columns=(
        ("Phase", ".status.phase", "string"),
        ("Ready", ".status.ready", "string"),
        ("Up-to-date", ".status.updatedReplicas", "integer"),
        ("Req/s", ".status.metrics.requestsPerSecond", "string"),
        ("P99", ".status.metrics.latencyP99Milliseconds", "string"),
        _AGE,
    ),
    wide=(
        ("Revision", ".status.revision.target", "string"),
        ("URL", ".status.url", "string"),
        _REASON,
    ),
)
RESOURCES = (TRAINING_JOB, MODEL_DEPLOYMENT)


def definition(of: Resource) -> dict[str, Any]:
    """Return the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{of.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": of.kind,
                "listKind": f"{of.kind}List",
                "singular": of.kind.lower(),
                "plural": of.plural,
                "shortNames": [of.short_name],
                "categories": ["all", "muster"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema(of.model)},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        *(_column(*column) for column in of.columns),
                        *(_column(*column) | {"priority": 1} for column in of.wide),
                    ],
                }
            ],
        },
    }


def crds() -> dict[str, str]:
    """Return the files of crds/: YAML by file name."""
    return {
        f"{GROUP}_{of.plural}.yaml": HEADER
        + yaml.dump(definition(of), Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
        for of in RESOURCES
    }


def write_crds(directory: Path) -> None:
    """Write the files of crds/."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in crds().items():
        (directory / name).write_text(text, encoding="utf-8")


def _column(name: str, path: str, kind: str) -> dict[str, Any]:
    return {"name": name, "jsonPath": path, "type": kind}


def _root_schema(model: type[Model]) -> dict[str, Any]:
    """Leave to Kubernetes what it checks and describes itself in every object."""
    schema = structural(model)
    schema["properties"] |= {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    schema["required"] = ["spec"]
    return schema


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable; nothing is referred to."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
