"""The CRD as a whole: fresh, small, complete in what users and server-side apply need."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.api import TrainingJob
from muster.api.crd import crds, training_job_crd, write_crds
from muster.api.trainingjob import CHANGEABLE
from muster.api.unsupported import TRAINING_JOB

from .manifests import manifest

ROOT = Path(__file__).parents[3]
MAX_BYTES = 100_000
SCHEMA = training_job_crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = SCHEMA["properties"]["spec"]


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All fields below a schema, with their paths."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}", inner
        yield from fields(inner, f"{path}.{name}")
    for part, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if part in schema:
            yield from fields(schema[part], path + mark)


def test_the_generated_files_are_fresh():
    written = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "crds").glob("*.yaml")}
    assert written == crds(), "run `muster crds --output crds`"


def test_files_are_written_where_asked(tmp_path: Path):
    write_crds(tmp_path / "new")
    assert yaml.safe_load((tmp_path / "new" / "muster.dev_trainingjobs.yaml").read_text()) == training_job_crd()


def test_it_is_small_enough_for_plain_kubectl_apply():
    assert all(len(text.encode()) < MAX_BYTES for text in crds().values())


def test_every_field_of_ours_is_described():
    ours = {path: schema for path, schema in fields(SCHEMA) if path.startswith((".spec", ".status"))}
    passed_on = {path for path, schema in ours.items() if schema.get("nullable")}
    assert [path for path, schema in ours.items() if path not in passed_on and "description" not in schema] == []


def test_numbers_and_texts_that_users_write_are_bounded():
    written = {path: schema for path, schema in fields(SPEC) if ".template" not in path}
    numbers = [path for path, schema in written.items() if schema.get("type") == "integer"]
    texts = [path for path, schema in written.items() if schema.get("type") == "string" and "enum" not in schema]
    assert numbers
    assert [path for path in numbers if not {"minimum", "maximum"} <= written[path].keys()] == []
    assert [path for path in texts if "maxLength" not in written[path]] == []


def test_scalars_have_the_same_defaults_as_the_models():
    def defaults(schema: dict[str, Any]) -> dict[str, Any]:
        return {
            name: defaults(inner) if inner.get("default") == {} else inner["default"]
            for name, inner in schema["properties"].items()
            if "default" in inner
        }

    filled = manifest(**defaults(SPEC))
    assert TrainingJob.model_validate(filled).spec == TrainingJob.model_validate(manifest()).spec


@pytest.mark.parametrize("unsupported", TRAINING_JOB, ids=lambda entry: entry.path)
def test_what_is_refused_exists_and_has_no_default(unsupported: Any):
    schema = dict(fields(SPEC))[f".{unsupported.path}"]
    assert schema.get("default") in (None, *unsupported.allowed)
    assert any(rule.get("fieldPath") == f".{unsupported.path}" for rule in SPEC["x-kubernetes-validations"])


def test_all_that_may_not_change_is_frozen():
    frozen = {name for rule in SPEC["x-kubernetes-validations"] for name in re.findall(r"oldSelf\.(\w+)", rule["rule"])}
    assert frozen == set(SPEC["properties"]) - set(CHANGEABLE)


def test_columns_show_fields_that_exist():
    columns = training_job_crd()["spec"]["versions"][0]["additionalPrinterColumns"]
    known = dict(fields(SCHEMA))
    shown = [column["jsonPath"] for column in columns if column["name"] != "Age"]
    assert [path for path in shown if path not in known and not path.startswith(".status.metrics.")] == []
    assert [column["name"] for column in columns if not column.get("priority")] == [
        "Phase", "Workers", "Step", "Loss", "Left", "Restarts", "Age",
    ]  # fmt: skip
    assert [column["name"] for column in columns if column.get("priority")] == [
        "Attempt", "Metric", "Checkpoint", "Reason",
    ]  # fmt: skip


def test_scale_reads_fields_that_exist():
    scale = training_job_crd()["spec"]["versions"][0]["subresources"]["scale"]
    assert set(scale.values()) <= dict(fields(SCHEMA)).keys()
