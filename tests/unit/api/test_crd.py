"""The CRD as a whole: fresh, small, complete in what users and server-side apply need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from muster.api.crd import MODEL_DEPLOYMENT, RESOURCES, TRAINING_JOB, Resource, crds, definition, write_crds
from muster.api.trainingjob import CHANGEABLE

from .manifests import manifest

ROOT = Path(__file__).parents[3]
MAX_BYTES = 100_000
EACH = pytest.mark.parametrize("resource", RESOURCES, ids=lambda one: one.kind)
LEAST: dict[str, dict[str, Any]] = {
    "TrainingJob": {"recipe": {"name": "pkg.module:Recipe"}},
    "ModelDeployment": {"model": {"fromTrainingJob": "digits"}},
}


def version_of(resource: Resource) -> dict[str, Any]:
    return dict(definition(resource)["spec"]["versions"][0])


def schema_of(resource: Resource) -> dict[str, Any]:
    return dict(version_of(resource)["schema"]["openAPIV3Schema"])


def spec_of(resource: Resource) -> dict[str, Any]:
    return dict(schema_of(resource)["properties"]["spec"])


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


@EACH
def test_files_are_written_where_asked(tmp_path: Path, resource: Resource):
    write_crds(tmp_path / "new")
    written = (tmp_path / "new" / f"muster.dev_{resource.plural}.yaml").read_text()
    assert yaml.safe_load(written) == definition(resource)


def test_it_is_small_enough_for_plain_kubectl_apply():
    """It keeps the whole as JSON in an annotation, and all annotations together may have 256 KiB."""
    kept = (json.dumps(yaml.safe_load(text), separators=(",", ":")) for text in crds().values())
    assert all(len(text.encode()) < MAX_BYTES for text in kept)


@EACH
def test_every_field_of_ours_is_described(resource: Resource):
    ours = {path: schema for path, schema in fields(schema_of(resource)) if path.startswith((".spec", ".status"))}
    passed_on = {path for path, schema in ours.items() if schema.get("nullable")}
    assert [path for path, schema in ours.items() if path not in passed_on and "description" not in schema] == []


@EACH
def test_numbers_and_texts_that_users_write_are_bounded(resource: Resource):
    written = {path: schema for path, schema in fields(spec_of(resource)) if ".template" not in path}
    numbers = [path for path, schema in written.items() if schema.get("type") == "integer"]
    texts = [path for path, schema in written.items() if schema.get("type") == "string" and "enum" not in schema]
    assert numbers
    assert [path for path in numbers if not {"minimum", "maximum"} <= written[path].keys()] == []
    assert [path for path in texts if "maxLength" not in written[path]] == []


@EACH
def test_scalars_have_the_same_defaults_as_the_models(resource: Resource):
    def defaults(schema: dict[str, Any]) -> dict[str, Any]:
        return {
            name: defaults(inner) if inner.get("default") == {} else inner["default"]
            for name, inner in schema["properties"].items()
            if "default" in inner
        }

    def read(**more: Any) -> Any:
        return resource.model.model_validate(manifest() | {"kind": resource.kind, "spec": LEAST[resource.kind] | more})

    assert read(**defaults(spec_of(resource))) == read()


def test_all_that_may_not_change_is_frozen():
    spec = spec_of(TRAINING_JOB)
    frozen = {name for rule in spec["x-kubernetes-validations"] for name in re.findall(r"oldSelf\.(\w+)", rule["rule"])}
    assert frozen == set(spec["properties"]) - set(CHANGEABLE)


@EACH
def test_columns_show_fields_that_exist(resource: Resource):
    columns = version_of(resource)["additionalPrinterColumns"]
    known = dict(fields(schema_of(resource)))
    shown = [column["jsonPath"] for column in columns if column["name"] != "Age"]
    assert [path for path in shown if path not in known and not path.startswith(".status.metrics.")] == []


@pytest.mark.parametrize(
    ("resource", "narrow", "wide"),
    [
        (TRAINING_JOB, "Phase Workers Step Loss Left Restarts Age", "Attempt Metric Checkpoint Reason"),
        (MODEL_DEPLOYMENT, "Phase Ready Up-to-date Req/s P99 Age", "Revision URL Reason"),
    ],
    ids=["TrainingJob", "ModelDeployment"],
)
def test_columns_are_those_that_a_person_looks_for(resource: Resource, narrow: str, wide: str):
    columns = version_of(resource)["additionalPrinterColumns"]
    assert [column["name"] for column in columns if not column.get("priority")] == narrow.split()
    assert [column["name"] for column in columns if column.get("priority")] == wide.split()


@EACH
def test_scale_reads_fields_that_exist(resource: Resource):
    scale = version_of(resource)["subresources"]["scale"]
    assert set(scale.values()) <= dict(fields(schema_of(resource))).keys()
