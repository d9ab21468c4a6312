"""The custom resource definitions, as the chart brings them."""

from __future__ import annotations

import yaml

from tests.unit.chart.rendering import ROOT, render

DEFINITIONS = [yaml.safe_load(path.read_text()) for path in sorted((ROOT / "crds").glob("*.yaml"))]


def test_the_chart_brings_what_was_generated_and_only_labels_it():
    installed = {item["metadata"]["name"]: item for item in render().all("CustomResourceDefinition")}

    assert DEFINITIONS
    assert installed.keys() == {definition["metadata"]["name"] for definition in DEFINITIONS}
    for definition in DEFINITIONS:
        brought = installed[definition["metadata"]["name"]]
        assert brought["spec"] == definition["spec"]
        assert brought["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"
        assert definition["metadata"].get("annotations", {}).items() <= brought["metadata"]["annotations"].items()


def test_definitions_outlive_the_release_unless_told_otherwise():
    keep = "helm.sh/resource-policy"
    kept = render().all("CustomResourceDefinition")
    dropped = render("crds.keep=false").all("CustomResourceDefinition")

    assert kept
    assert all(item["metadata"]["annotations"][keep] == "keep" for item in kept)
    assert dropped
    assert not [item for item in dropped if keep in item["metadata"].get("annotations", {})]


def test_definitions_can_be_left_to_others():
    assert not render("crds.install=false").all("CustomResourceDefinition")
