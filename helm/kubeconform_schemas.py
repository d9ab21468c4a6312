# ruff: noqa: INP001 - a script beside the chart, in no package
"""Write the JSON schemas that kubeconform needs: `kubeconform_schemas.py OPENAPI CRDS OUT`.

kubeconform would download them. The same are in the OpenAPI documents that come with the source of Kubernetes
(OPENAPI: its folder `api/openapi-spec/v3`), and those of our own resources in their definitions (CRDS).
One file is written per kind, `OUT/GROUP/KIND_VERSION.json`, as strict as the API server with
`--validate=strict`: a field that nobody knows is an error.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = "#/components/schemas/"
STABLE = re.compile(r"api(s__.+)?__v\d+_openapi\.json")


def main(openapi: Path, crds: Path, out: Path) -> None:
    written = 0
    for document in sorted(path for path in openapi.iterdir() if STABLE.fullmatch(path.name)):
        written += write_kinds(json.loads(document.read_text()), out)
    if not written:
        sys.exit(f"{openapi} has no OpenAPI documents: wanted the folder api/openapi-spec/v3 of Kubernetes")
    for definition in sorted(crds.glob("*.yaml")):
        write_custom_resource(yaml.safe_load(definition.read_text()), out)


def write_kinds(document: dict[str, Any], out: Path) -> int:
    """Write one file for every kind of an OpenAPI document, and return how many there were."""
    components = document["components"]["schemas"]
    kinds = [
        (kind, name)
        for name, schema in components.items()
        for kind in schema.get("x-kubernetes-group-version-kind", [])
        if "kind" in schema.get("properties", {})
    ]
    for kind, name in kinds:
        needed = {used: strict(components[used]) for used in reachable(name, components)}
        schema = {"$ref": REFERENCE + name, "components": {"schemas": needed}}
        write(out, kind["group"], kind["kind"], kind["version"], schema)
    return len(kinds)


def write_custom_resource(definition: dict[str, Any], out: Path) -> None:
    spec = definition["spec"]
    for version in spec["versions"]:
        schema = version["schema"]["openAPIV3Schema"]
        names = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"type": "object"}}
        schema["properties"] |= names  # a definition says nothing of these, or only their types
        write(out, spec["group"], spec["names"]["kind"], version["name"], strict(schema))


def write(out: Path, group: str, kind: str, version: str, schema: dict[str, Any]) -> None:
    # The core group has no name; kubeconform calls it by its version.
    path = out / (group or version) / f"{kind.lower()}_{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(schema))


def reachable(name: str, components: dict[str, Any]) -> set[str]:
    """Return the names of all schemas that a schema refers to, itself among them."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(references(components[current]))
    return found


def references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(REFERENCE)
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def strict(schema: Any) -> Any:
    """Return the schema with unknown fields refused, and null and int-or-string as the API has them."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    # The names of fields are no keywords: a resource definition has fields `properties` and `type`.
    fields = {name: strict(field) for name, field in schema.get("properties", {}).items()}
    tight = {key: fields if key == "properties" else strict(value) for key, value in schema.items()}
    open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
    if fields and "type" in schema and not open_ended:
        tight["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        tight["type"] = ["integer", "string"]
    if schema.get("nullable") and isinstance(tight.get("type"), str):
        tight["type"] = [tight["type"], "null"]
    return tight


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*(Path(argument) for argument in sys.argv[1:]))
