"""The CustomResourceDefinitions: what `muster crds` writes into crds/."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from muster.api.common import GROUP, VERSION
from muster.api.structural import structural
from muster.api.trainingjob import KIND, TrainingJob

if TYPE_CHECKING:
    from pathlib import Path

HEADER = "# Made by `muster crds` from operator/muster/api. Change that, not this.\n"

# Name, JSON path, type, and whether it is shown with `-o wide` only.
_COLUMNS = (
    ("Phase", ".status.phase", "string", False),
    ("Workers", ".status.workers", "string", False),
    ("Step", ".status.progress.steps", "string", False),
    ("Loss", ".status.metrics.loss", "string", False),
    ("Left", ".status.progress.timeLeft", "string", False),
    ("Restarts", ".status.restartCount", "integer", False),
    ("Age", ".metadata.creationTimestamp", "date", False),
    ("Attempt", ".status.attempt", "integer", True),
    ("Metric", ".status.metric", "string", True),
    ("Checkpoint", ".status.checkpoint.step", "integer", True),
    ("Reason", ".status.reason", "string", True),
)


def training_job_crd() -> dict[str, Any]:
    """Return the CustomResourceDefinition of TrainingJob."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"trainingjobs.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "singular": "trainingjob",
                "plural": "trainingjobs",
                "shortNames": ["tj"],
                "categories": ["all", "muster"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _root_schema()},
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.replicas",
                            "statusReplicasPath": ".status.replicas",
                            "labelSelectorPath": ".status.selector",
                        },
                    },
                    "additionalPrinterColumns": [
                        {"name": name, "jsonPath": path, "type": kind} | ({"priority": 1} if wide else {})
                        for name, path, kind, wide in _COLUMNS
                    ],
                }
            ],
        },
    }


def crds() -> dict[str, str]:
    """Return the files of crds/: YAML by file name."""
    crd = training_job_crd()
    name = f"{GROUP}_{crd['spec']['names']['plural']}.yaml"
    return {name: HEADER + yaml.dump(crd, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)}


def write_crds(directory: Path) -> None:
    """Write the files of crds/."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in crds().items():
        (directory / name).write_text(text, encoding="utf-8")


def _root_schema() -> dict[str, Any]:
    """Leave to Kubernetes what it checks and describes itself in every object."""
    schema = structural(TrainingJob)
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
