"""kubeconform with the schemas that are made from Kubernetes' own OpenAPI documents."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import yaml

from helm import kubeconform_schemas

TYPE_FIELDS = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
OPENAPI = {
    "components": {
        "schemas": {
            "v1.Gadget": {
                "type": "object",
                "properties": TYPE_FIELDS
                | {
                    "metadata": {"type": "object"},
                    "spec": {"allOf": [{"$ref": "#/components/schemas/v1.GadgetSpec"}]},
                },
                "x-kubernetes-group-version-kind": [{"group": "", "version": "v1", "kind": "Gadget"}],
            },
            "v1.GadgetSpec": {
                "type": "object",
                "properties": {
                    "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                    # As those of a resource definition, whose fields are called like the schema's keywords.
                    "properties": {"type": "object"},
                    "type": {"type": "string"},
                    "parts": {"type": "array", "items": {"$ref": "#/components/schemas/v1.GadgetSpec"}},
                },
            },
            "v1.Unrelated": {"type": "object"},
        }
    }
}
DEFINITION = {
    "spec": {
        "group": "example.org",
        "names": {"kind": "Widget"},
        "versions": [
            {
                "name": "v1",
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {
                                    "size": {
                                        "anyOf": [{"type": "integer"}, {"type": "string"}],
                                        "x-kubernetes-int-or-string": True,
                                    },
                                    "comment": {"type": "string", "nullable": True},
                                    "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                                },
                            }
                        },
                    }
                },
            }
        ],
    }
}


@pytest.fixture
def check(tmp_path):
    openapi, crds, out = (tmp_path / name for name in ("openapi", "crds", "out"))
    openapi.mkdir()
    crds.mkdir()
    (openapi / "api__v1_openapi.json").write_text(json.dumps(OPENAPI))
    (crds / "widget.yaml").write_text(yaml.safe_dump(DEFINITION))
    kubeconform_schemas.main(openapi, crds, out)
    kubeconform = shutil.which("kubeconform")
    if kubeconform is None:
        pytest.fail("there is no kubeconform on PATH: `make test-unit` puts it there")
    places = str(out / "{{.Group}}" / "{{.ResourceKind}}_{{.ResourceAPIVersion}}.json")

    def run(api_version, kind, spec):
        manifest = json.dumps({"apiVersion": api_version, "kind": kind, "metadata": {"name": "a"}, "spec": spec})
        command = [kubeconform, "-strict", "-schema-location", places]
        done = subprocess.run(command, input=manifest, check=False, capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stdout

    return run


@pytest.mark.parametrize(
    ("api_version", "kind", "spec"),
    [
        ("v1", "Gadget", {"labels": {"any": "text"}, "parts": [{"parts": []}]}),
        ("v1", "Gadget", {"properties": {"any": 1}, "type": "object"}),
        ("example.org/v1", "Widget", {"size": 3, "comment": None, "template": {"anything": {"goes": 1}}}),
        ("example.org/v1", "Widget", {"size": "3Gi"}),
    ],
)
def test_what_the_api_server_takes_is_valid(check, api_version, kind, spec):
    assert check(api_version, kind, spec) == ""


@pytest.mark.parametrize(
    ("api_version", "kind", "spec", "complaint"),
    [
        ("v1", "Gadget", {"label": {}}, "additional properties 'label' not allowed"),
        ("v1", "Gadget", {"parts": [{"lost": 1}]}, "additional properties 'lost' not allowed"),
        ("v1", "Gadget", {"type": "object", "typ": "object"}, "additional properties 'typ' not allowed"),
        ("v1", "Gadget", {"labels": {"a": 1}}, "got number, want string"),
        ("example.org/v1", "Widget", {"colour": "red"}, "additional properties 'colour' not allowed"),
        ("example.org/v1", "Widget", {"size": []}, "got array, want integer or string"),
        ("example.org/v1", "Gizmo", {}, "could not find schema for Gizmo"),
    ],
)
def test_what_nobody_knows_is_an_error(check, api_version, kind, spec, complaint):
    assert complaint in check(api_version, kind, spec)


def test_a_folder_without_documents_is_named(tmp_path):
    with pytest.raises(SystemExit, match="has no OpenAPI documents: wanted the folder api/openapi-spec/v3"):
        kubeconform_schemas.main(tmp_path, tmp_path, tmp_path / "out")
