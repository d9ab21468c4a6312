"""The malformed manifests of this folder, each with what a person is told about it.

A file begins with three comments: `field`, the field to blame as the API server writes it; `sentence`, what it says
about it; `model`, the whole sentence of the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).with_name("malformed")


@dataclass(frozen=True)
class Malformed:
    path: Path
    field: str
    sentence: str
    model: str

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(yaml.safe_load(self.path.read_text(encoding="utf-8")))

    def __str__(self) -> str:
        return self.path.stem


def malformed() -> list[Malformed]:
    return [_read(path) for path in sorted(FOLDER.glob("*.yaml"))]


def _read(path: Path) -> Malformed:
    lines = path.read_text(encoding="utf-8").splitlines()[:3]
    said = dict(line.removeprefix("# ").split(": ", 1) for line in lines)
    return Malformed(path, said["field"], said["sentence"], said["model"])


def manifest(name: str = "digits", **spec: Any) -> dict[str, Any]:
    """A TrainingJob; it runs a recipe unless it is told what to run."""
    runs = {} if "script" in spec or "recipe" in spec else {"recipe": {"name": "pkg.module:Recipe"}}
    return {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": runs | spec,
    }


def deployment(name: str = "digits", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "muster.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": spec,
    }
