"""What Helm answers to values that cannot work, and what the installed chart says."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from tests.unit.chart.rendering import CHART, refusal, template

REFUSED = {
    "replica=2": "additional properties 'replica' not allowed",
    "replicas=0": "at '/replicas': minimum: got 0, want 1",
    "replicas=two": "at '/replicas': got string, want integer",
    "replicas=null": "missing property 'replicas'",
    "watchNamespaces=research": "at '/watchNamespaces': got string, want array",
    "watchNamespaces={a,a}": "at '/watchNamespaces': items at 0 and 1 are equal",
    "watchNamespaces={Research}": "at '/watchNamespaces/0': 'Research' does not match pattern",
    "log.level=loud": "at '/log/level': value must be one of 'debug', 'info', 'warning', 'error'",
    "image.repository=hub/muster:1": "at '/image/repository': 'hub/muster:1' does not match pattern",
    "modelCache.hostPath=models": "at '/modelCache/hostPath': 'models' does not match pattern",
    "image.tag=": "at '/image/tag': '' does not match pattern",
    "workerImage.pullPolicy=never": "at '/workerImage/pullPolicy': value must be one of",
    "crds.install=maybe": "at '/crds/install': got string, want boolean",
    "serviceAccount.create=false": "at '/serviceAccount/name': '' does not match pattern",
    "resources.limits.memory=much": "at '/resources/limits/memory': 'much' does not match pattern",
    "tolerations[0].operator=Exist": "at '/tolerations/0/operator': value must be one of 'Exists', 'Equal'",
}


@pytest.mark.parametrize(("setting", "sentence"), REFUSED.items(), ids=REFUSED)
def test_a_wrong_value_is_refused_and_named(setting, sentence):
    assert sentence in refusal(setting)


def test_every_value_has_a_place_in_the_schema():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())

    assert values.keys() == schema["properties"].keys() - {"global"}


@pytest.fixture
def notes(tmp_path):
    """The chart with its notes made into an object, because `helm template` renders none."""
    chart = tmp_path / "muster"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + text + "{{ end }}")
    (chart / "templates" / "notes.yaml").write_text('kind: Notes\ntext: {{ include "notes" . | toJson }}\n')

    def render_notes(*settings: str) -> str:
        done = template(*settings, chart=chart)
        assert done.returncode == 0, done.stderr
        return next(item["text"] for item in yaml.safe_load_all(done.stdout) if item and item["kind"] == "Notes")

    return render_notes


def test_the_notes_say_the_next_command(notes):
    assert "kubectl apply -f examples/digits.yaml" in notes()
    assert "ModelDeployments of all namespaces." in notes()
    assert "WARNING" not in notes()


def test_the_notes_say_what_was_narrowed_and_what_was_left_open(notes):
    text = notes("watchNamespaces={research,production}", "admissionPolicy.enabled=false")

    assert "the namespaces research, production." in text
    assert "WARNING: admissionPolicy.enabled is false" in text
