"""A model is copied from where fsspec reads, goes on where it broke off, and is never taken for another."""

from __future__ import annotations

import re

import numpy as np
import pytest
import s3fs
import tritonclient.http
from moto.server import ThreadedMotoServer

from muster_worker.serve import fetch as module
from muster_worker.serve.fetch import TRIES, fetch
from muster_worker.train.durable import read_json, write_json
from muster_worker.train.errors import ConfigurationError, StorageError
from muster_worker.train.model_directory import load_model, summary


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.01)


def test_all_of_it_is_there_and_intact(web, affine, tmp_path):
    fetch(web.uri, tmp_path / "model", summary(load_model(affine)).sha256)
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == sorted(p.name for p in affine.iterdir())


def test_from_a_directory_as_well(affine, tmp_path):
    fetch(affine.as_uri(), tmp_path / "model")
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))


def test_what_is_there_already_is_not_asked_for_again(web, tmp_path):
    fetch(web.uri, tmp_path / "model")
    web.asked.clear()
    fetch(web.uri, tmp_path / "model")
    assert {name for name, _ in web.asked} == {"model.json"}


def test_a_file_that_broke_off_is_gone_on_with(web, affine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 1000)
    web.breaks, web.breaks_after = 2, 2000
    fetch(web.uri, tmp_path / "model")
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))
    begins = [begin for name, begin in web.asked if name == "program.pt2"]
    assert (web.breaks, begins.count(0)) == (0, 1)


def test_as_long_as_it_gets_on_a_file_may_break_off_as_often_as_it_will(web, affine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 1000)
    web.breaks_each = True
    fetch(web.uri, tmp_path / "model")
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))
    assert len({begin for name, begin in web.asked if name == "program.pt2"}) > module.TRIES + 1


def test_a_server_that_knows_of_no_ranges_sends_all_of_it(web, affine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 1000)
    web.ranges = False
    fetch(web.uri, tmp_path / "model")
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))


def test_a_part_that_an_earlier_process_left_is_not_read_again(web, affine, tmp_path):
    (tmp_path / "model").mkdir()
    program = (affine / "program.pt2").read_bytes()
    (tmp_path / "model" / "program.pt2.part").write_bytes(program[:3000])
    fetch(web.uri, tmp_path / "model")
    assert (tmp_path / "model" / "program.pt2").read_bytes() == program
    assert 3000 in {begin for name, begin in web.asked if name == "program.pt2"}


def test_a_part_of_something_else_is_found_out_and_the_next_try_begins_anew(web, affine, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "program.pt2.part").write_bytes(b"x" * 3000)
    with pytest.raises(StorageError, match=r"is broken: program\.pt2 has changed"):
        fetch(web.uri, tmp_path / "model")
    fetch(web.uri, tmp_path / "model")
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))


def test_another_model_than_the_one_that_was_meant_is_refused(web, tmp_path):
    with pytest.raises(ConfigurationError, match=r"spec\.model\.sha256: the model at .* wanted aaaa"):
        fetch(web.uri, tmp_path / "model", "a" * 64)
    assert not (tmp_path / "model" / "model.json").exists()


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("nothing://there", "nothing://there cannot be read"),
        ("http://127.0.0.1:{port}/other", "other/model.json cannot be read"),
        ("http://127.0.0.1:{port}/affine/program.pt2", "cannot be read"),
    ],
)
def test_what_is_no_model_is_refused_in_one_try(web, uri, said, tmp_path):
    with pytest.raises(ConfigurationError, match=said):
        fetch(uri.format(port=web.server_port), tmp_path / "model")


@pytest.mark.parametrize(
    ("status", "error", "tries"),
    [(401, ConfigurationError, 1), (403, ConfigurationError, 1), (503, StorageError, TRIES)],
)
def test_what_a_server_refuses_is_told_without_the_credentials(web, tmp_path, caplog, status, error, tries):
    web.refuses = status
    with pytest.raises(
        error, match=rf"affine/model\.json cannot be .*: ClientResponseError: {status}, message="
    ) as told:
        fetch(web.uri.replace("://", "://somebody:secret@"), tmp_path / "model")
    assert len(web.asked) == tries
    assert not re.search("authorization|c29tZWJvZHk6", str(told.value) + caplog.text, re.IGNORECASE)


def test_a_server_that_is_not_there_is_tried_again_and_then_told(tmp_path):
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:9/model/model\.json cannot be fetched"):
        fetch("http://127.0.0.1:9/model", tmp_path / "model")


def test_a_model_that_names_files_elsewhere_is_refused(web, tmp_path):

    path = web.root / "affine" / "model.json"
    described = read_json(path)
    described["files"]["../outside"] = {"bytes": 1, "sha256": "a" * 64}
    write_json(path, described)
    with pytest.raises(ConfigurationError, match=r"'\.\./outside', which is outside"):
        fetch(web.uri, tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda described: described | {"files": []}, "is no model's directory: 'list' object has no attribute"),
        (lambda described: described | {"files": None}, "is no model's directory: 'NoneType' object has no attribute"),
        (lambda described: described | {"files": {"a": {"bytes": "many"}}}, "its files have no sizes"),
        (lambda described: described | {"files": {"..": {"bytes": 1}}}, r"'\.\.', which is outside"),
        (lambda described: described | {"files": {"a\0b": {"bytes": 1}}}, "which is outside"),
    ],
    ids=["a list", "nothing", "no size", "above", "no name"],
)
def test_a_description_of_nothing_is_refused_in_a_sentence(web, tmp_path, change, said):

    path = web.root / "affine" / "model.json"
    write_json(path, change(read_json(path)))
    with pytest.raises(ConfigurationError, match=said):
        fetch(web.uri, tmp_path / "model")


def test_from_s3_with_credentials_of_the_environment(affine, tmp_path, monkeypatch):
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        bucket = s3fs.S3FileSystem()
        bucket.mkdir("models")
        bucket.put(str(affine), "models/affine", recursive=True)
        fetch("s3://models/affine", tmp_path / "model")
        with pytest.raises(ConfigurationError, match=r"s3://models/other/model\.json cannot be read"):
            fetch("s3://models/other", tmp_path / "other")
    finally:
        server.stop()
    assert summary(load_model(tmp_path / "model")) == summary(load_model(affine))


def test_it_is_served_once_it_is_there(web, tmp_path, serve):
    served = serve(tmp_path / "model", "--name", "affine", "--fetch", web.uri)
    points = tritonclient.http.InferInput("points", [1, 4], "FP32")
    points.set_data_from_numpy(np.ones((1, 4), dtype=np.float32))
    np.testing.assert_allclose(served.client().infer("affine", [points]).as_numpy("output"), [[4, 5]])


def test_what_cannot_be_fetched_ends_the_server_in_its_last_words(web, tmp_path, serve):
    served = serve(tmp_path / "model", "--fetch", web.uri + "/wrong", ready=False)
    assert "error: spec.model.uri: " in served.rest()
    assert served.process.returncode == ConfigurationError.exit_code
