"""kserve's inference clients get from Muster's server what they ask for: health, numbers and bytes, both ways."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.worker.serve.served import LIMIT

PYTHON = "/opt/kserve/bin/python"


@pytest.fixture(scope="module")
def answered(serve_for_module, affine):
    served = serve_for_module(affine, "--name", "sums")
    line = [PYTHON, str(Path(__file__).with_name("asked.py")), str(served.port), str(served.grpc_port), "sums"]
    asked = subprocess.run(line, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert asked.returncode == 0, asked.stderr
    return json.loads(asked.stdout.splitlines()[-1])


@pytest.mark.parametrize("way", ["http", "grpc"])
def test_it_finds_the_server_and_the_model_ready(answered, way):
    assert {name: answered[way][name] for name in ("live", "ready", "model ready")} == {
        "live": True,
        "ready": True,
        "model ready": True,
    }


@pytest.mark.parametrize("way", ["http", "grpc"])
@pytest.mark.parametrize("form", ["numbers", "bytes"])
def test_it_is_answered_in_the_form_that_it_asks_for(answered, way, form):
    answer = answered[way][form]
    assert (answer["id"], answer["model"]) == ("7", "sums")
    if way == "grpc":  # over HTTP the client loses it
        assert len(answer["version"]) == 12
    assert (answer["datatype"], answer["shape"]) == ("FP32", [3, 2])
    assert answer["values"] == [[6.0, 7.0], [22.0, 23.0], [38.0, 39.0]]
