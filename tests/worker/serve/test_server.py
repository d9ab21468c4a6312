"""The server as a process, asked by a client that nobody here wrote."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.http

from muster_worker.serve.server import DEVICE_FAILED, LINGER, _in_thread
from muster_worker.serve.supervisor import end_with
from muster_worker.train.model_directory import load_model, summary
from tests.worker.serve.served import LIMIT


def ask(connection, method, path, text=None):
    connection.request(method, path, text)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def infer(connection, numbers):
    tensor = {"name": "points", "datatype": "FP32", "shape": [1, 4], "data": numbers}
    return ask(connection, "POST", "/v2/models/affine/infer", json.dumps({"inputs": [tensor]}))


def points(array, *, binary):
    tensor = tritonclient.http.InferInput("points", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return [tensor]


def server_of(parent):
    """The process that serves: the only child of the one that was started; None between two of them."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(*children) if children else None


def runs(pid):
    """Whether there is such a process that has not ended, whoever is to take note of its end."""
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def until(holds):
    deadline = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_process_that_dies_is_followed_by_another_and_nobody_is_refused(serve, affine):
    served = serve(affine)
    first = server_of(served.process.pid)
    os.kill(first, signal.SIGKILL)
    with contextlib.closing(http.client.HTTPConnection("localhost", served.port, timeout=LIMIT)) as connection:
        status, answer = infer(connection, [1, 2, 3, 4])  # asked while there is nobody
        assert (status, answer["outputs"][0]["data"]) == (200, [10.0, 11.0])
        _, state = ask(connection, "GET", "/state")
    assert server_of(served.process.pid) != first
    assert (state["death"]["count"], state["death"]["exitCode"]) == (1, 137)
    assert 0 < state["death"]["seconds"] < LIMIT
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(LIMIT) == 0


def test_a_process_whose_device_has_failed_is_followed_by_another(serve, failing):
    served = serve(failing, "--name", "affine")
    first = server_of(served.process.pid)
    with contextlib.closing(http.client.HTTPConnection("localhost", served.port, timeout=LIMIT)) as connection:
        assert infer(connection, [1, 2, 3, 4])[0] == 200
        status, answer = infer(connection, [-1, -2, -3, -4])
        assert (status, answer["error"]) == (500, "the model failed: AcceleratorError: device-side assert triggered")
    until(lambda: not runs(first))
    with contextlib.closing(http.client.HTTPConnection("localhost", served.port, timeout=LIMIT)) as connection:
        assert infer(connection, [1, 2, 3, 4])[0] == 200
        _, state = ask(connection, "GET", "/state")
    assert (state["death"]["count"], state["death"]["exitCode"]) == (1, DEVICE_FAILED)
    assert served.process.poll() is None


def test_a_process_whose_device_has_failed_by_an_explanation_is_followed_by_another(serve, failing):
    served = serve(failing, "--name", "affine", "--explain", "saliency")
    first = server_of(served.process.pid)
    point = {"name": "points", "datatype": "FP32", "shape": [1, 4], "data": [-1, -2, -3, -4]}
    with contextlib.closing(http.client.HTTPConnection("localhost", served.port, timeout=LIMIT)) as connection:
        status, answer = ask(connection, "POST", "/v2/models/affine/explain", json.dumps({"inputs": [point]}))
        assert (status, answer["error"]) == (
            500,
            "the model was not explained: AcceleratorError: device-side assert triggered",
        )
    until(lambda: not runs(first))
    with contextlib.closing(http.client.HTTPConnection("localhost", served.port, timeout=LIMIT)) as connection:
        assert infer(connection, [1, 2, 3, 4])[0] == 200


def test_whoever_never_served_is_not_tried_again(serve, affine, tmp_path):
    shutil.copytree(affine, tmp_path / "broken")
    (tmp_path / "broken" / "model.json").write_text("{}")
    served = serve(tmp_path / "broken", ready=False)
    assert served.process.wait(LIMIT) == 1


def test_told_to_leave_while_it_loads_it_leaves(serve, loading):
    served = serve(loading, ready=False)
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            contextlib.closing(http.client.HTTPConnection("localhost", served.port)) as one,
        ):
            if ask(one, "GET", "/v2/health/live")[0] == 200:
                break
        time.sleep(0.05)
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(LIMIT) == 0


def test_a_server_does_not_outlive_its_parent(serve, affine):
    served = serve(affine)
    child = server_of(served.process.pid)
    served.process.kill()
    served.process.wait(LIMIT)
    until(lambda: not runs(child))


@pytest.fixture(scope="module")
def sums(serve_for_module, affine):
    return serve_for_module(affine, "--name", "sums", "--max-batch-size", "8", "--max-delay-milliseconds", "1")


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_tritons_client_gets_what_it_asks_for(sums, binary_in, binary_out):
    with contextlib.closing(sums.client()) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("sums")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "generate"]
        assert client.get_model_metadata("sums")["inputs"] == [{"name": "points", "datatype": "FP32", "shape": [-1, 4]}]
        array = np.random.default_rng(0).random((20, 4), dtype=np.float32)
        asked = [tritonclient.http.InferRequestedOutput("output", binary_data=binary_out)]
        answer = client.infer("sums", points(array, binary=binary_in), outputs=asked, request_id="7")
        assert answer.get_response()["id"] == "7"
        total = array.sum(axis=1)
        np.testing.assert_allclose(answer.as_numpy("output"), np.stack([total, total + 1], axis=1), rtol=1e-5)
        with pytest.raises(tritonclient.utils.InferenceServerException, match="model other: not here, sums is"):
            client.infer("other", points(array, binary=True))


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritons_client_may_compress_what_it_asks(sums, algorithm):
    with contextlib.closing(sums.client()) as client:
        given = points(np.ones((2, 4), dtype=np.float32), binary=True)
        answer = client.infer(
            "sums", given, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
        )
        assert answer.as_numpy("output").tolist() == [[4.0, 5.0]] * 2


def test_requests_at_once_are_computed_together_and_each_gets_its_own(serve, affine):
    served = serve(affine, "--max-batch-size", "16", "--max-delay-milliseconds", "20")
    wrong = []

    def ask(number):
        connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)
        for step in range(20):
            status, answer = infer(connection, [float(number * 100 + step)] * 4)
            if (status, answer["outputs"][0]["data"][0]) != (200, 4.0 * (number * 100 + step)):
                wrong.append((number, step, answer))
        connection.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert wrong == []
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (count,) = [line.split()[1] for line in text.splitlines() if line.startswith("muster_serve_batch_samples_count")]
    assert float(count) < 160, "no two requests were computed together"


@pytest.mark.long
def test_told_to_leave_it_answers_until_nobody_asks_and_no_request_fails(serve, affine):
    """The client comes back to it for some seconds, as one does whose Service still lists it among others, then stays
    away.
    """
    served = serve(affine)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)
    assert ask(connection, "GET", "/v2/health/ready") == (200, {"ready": True})
    served.process.send_signal(signal.SIGTERM)
    told, answered = time.monotonic(), 0
    while time.monotonic() < told + 8:
        status, answer = infer(connection, [1, 2, 3, 4])
        assert (status, answer["outputs"][0]["data"]) == (200, [10.0, 11.0])
        answered += 1
        time.sleep(0.02 if time.monotonic() < told + 1 else 2)
    assert ask(connection, "GET", "/v2/health/ready") == (503, {"error": "leaving: other replicas answer"})
    assert answered > 20
    assert served.process.wait(LIMIT) == 0
    assert "leaving: not ready any more, answering until nobody asks" in served.rest()


def test_ctrl_c_ends_it_at_once(serve, affine):
    served = serve(affine)
    begun = time.monotonic()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(LIMIT) == 0
    assert time.monotonic() - begun < LINGER
    assert "leaving: not ready any more, finishing" in served.rest()


def test_a_computation_that_hangs_does_not_keep_it_from_leaving(serve, sleeping):
    served = serve(sleeping, "--name", "affine", "--drain-seconds", "1")
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT)
    assert infer(connection, [1, 2, 3, 4])[0] == 200
    tensor = {"name": "points", "datatype": "FP32", "shape": [1, 4], "data": [-1, -1, -1, -1]}
    connection.request("POST", "/v2/models/affine/infer", json.dumps({"inputs": [tensor]}))
    time.sleep(0.5)
    served.process.terminate()
    assert served.process.wait(10) == 0
    connection.close()


def test_whoever_goes_on_asking_is_left_after_the_longest_that_leaving_may_take(serve, affine):
    served = serve(affine, "--drain-seconds", "0.5")
    served.process.terminate()
    assert served.process.wait(5) == 0


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "code", "wanted"),
    [
        ("missing", 1, "is no model: model.json cannot be read: No such file or directory"),
        ("changed", 1, "is broken: model.safetensors has changed: its checksum differs"),
        ("other", 2, "error: spec.model.sha256: the model in "),
    ],
)
def test_a_model_that_is_not_what_it_should_be_is_refused(serve, affine, tmp_path, fault, code, wanted):
    directory = tmp_path / "model"
    words = []
    if fault != "missing":
        shutil.copytree(affine, directory)
    if fault == "changed":
        content = bytearray((directory / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (directory / "model.safetensors").write_bytes(content)
    if fault == "other":
        words = ["--sha256", "0" * 64]
    served = serve(directory, *words, ready=False)
    assert wanted in served.rest()
    assert served.process.returncode == code


def test_who_computes_takes_over_the_number_of_threads_that_was_chosen_while_loading():
    before = torch.get_num_threads()

    async def load() -> int:
        torch.set_num_threads(2)  # this thread has a number of its own from now on
        await _in_thread(lambda: torch.set_num_threads(1))
        return torch.get_num_threads()

    try:
        assert asyncio.run(load()) == 1
    finally:
        torch.set_num_threads(before)


def test_the_model_that_is_asked_for_by_its_checksum_is_served(serve, affine):
    served = serve(affine, "--sha256", summary(load_model(affine)).sha256, "--host", "127.0.0.1")
    with contextlib.closing(served.client()) as client:
        assert client.is_server_ready()


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("--max-batch-size", "0"), "argument --max-batch-size: found 0, wanted a whole number, at least 1"),
        (("--port", "65536"), "argument --port: found 65536, wanted a port, from 1 to 65535"),
        (("--drain-seconds", "-1"), "argument --drain-seconds: found -1, wanted a number, at least 0"),
        (("--request-seconds", "soon"), "argument --request-seconds: found soon, wanted a number, at least 0"),
    ],
)
def test_wrong_words_are_named(serve, affine, words, wanted):
    served = serve(affine, *words, ready=False)
    assert wanted in served.rest()


def test_an_image_without_torchserve_says_which_one_has_it(serve, affine):
    served = serve(affine, command="torchserve", ready=False)
    assert "error: this image has no TorchServe (java, torch-model-archiver is missing): use one that" in served.rest()
    assert served.process.returncode == 2


@pytest.mark.parametrize("which", ["port", "grpc_port"])
def test_a_port_that_is_taken_is_named(serve, affine, which):
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as other:
        port = other.getsockname()[1]
        served = serve(affine, ready=False, **{which: port})
        told = served.rest()
    assert served.process.returncode == 1
    assert "error: it cannot listen: " in told
    assert str(port) in told
    assert "Traceback" not in told


ORPHANED = """
import ctypes, os, sys, time
from muster_worker.serve.supervisor import Part, keep_up

def leave_one_behind(death, told):
    told.serving()
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.2)
            os._exit(3)
        os._exit(0)
    os.wait()
    time.sleep(0.5)
    return 0

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER, as the first process of a container is
sys.exit(keep_up([Part("one", leave_one_behind)]))
"""


def test_processes_that_others_have_left_behind_are_no_matter_of_the_supervisors():
    done = subprocess.run([sys.executable, "-c", ORPHANED], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_nobody_foresaw_is_told_before_the_process_ends(capfd):
    def run():
        raise KeyError("unforeseen")

    child = os.fork()
    if child == 0:
        end_with(run, "a test")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert "KeyError: 'unforeseen'" in capfd.readouterr().err
