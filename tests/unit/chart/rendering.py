"""Render the chart with the real Helm, and find things in what comes out."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "muster"
NAMESPACE = "muster-system"


@dataclass(frozen=True)
class Rendered:
    objects: list[dict[str, Any]]

    def one(self, kind: str, name: str | None = None) -> dict[str, Any]:
        found = [item for item in self.objects if item["kind"] == kind and name in {None, item["metadata"]["name"]}]
        assert len(found) == 1, f"{len(found)} objects {kind}/{name}, wanted one"
        return found[0]

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.objects if item["kind"] == kind]


def render(*settings: str, values: Path | None = None, release: str = "muster") -> Rendered:
    """Return the objects of the chart with `settings`, each as `--set` has it, laid over `values`."""
    done = template(*settings, values=values, release=release)
    assert done.returncode == 0, done.stderr
    return Rendered([item for item in yaml.safe_load_all(done.stdout) if item])


def refusal(*settings: str) -> str:
    """Return what Helm answers to values that it must refuse."""
    done = template(*settings)
    assert done.returncode != 0, f"{settings} was taken"
    return done.stderr


def template(
    *settings: str, values: Path | None = None, release: str = "muster", chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    helm = shutil.which("helm")
    if helm is None:
        pytest.fail("there is no helm on PATH: `make test-unit` puts it there, or `python3 -m local_cluster tools`")
    command = [helm, "template", release, str(chart), "--namespace", NAMESPACE]
    command += ["--values", str(values)] if values else []
    for setting in settings:
        command += ["--set", setting]
    return subprocess.run(command, check=False, capture_output=True, text=True)
