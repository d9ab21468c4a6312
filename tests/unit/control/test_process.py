"""`muster run` as a process of its own, with the real planner: started by a kubeconfig, ended by signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys

import pytest
import yaml

from tests.unit.control.fake_api import FakeApi
from tests.unit.control.harness import create, node, until

RECIPE = {"name": "muster_worker.recipes.digits:Digits"}


@pytest.fixture
async def api():
    async with FakeApi() as one:
        create(one, "nodes", node("n1"))
        yield one


@contextlib.asynccontextmanager
async def muster_run(api, tmp_path, *words):
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "clusters": [{"name": "it", "cluster": {"server": api.url}}],
        "users": [{"name": "it", "user": {"token": "secret"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "muster", "run", "--http-port", "0", *words),
        env={**os.environ, "KUBECONFIG": str(path), "POD_NAME": "muster-0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        process._transport.close()


def holder(api) -> str | None:
    lease = api.storage.objects.get(("leases", "muster-system", "muster"))
    return lease["spec"]["holderIdentity"] if lease else None


def job() -> dict:
    meta = {"name": "digits", "namespace": "research"}
    spec = {"replicas": 2, "recipe": RECIPE, "scheduling": {"gang": "none"}}
    return {"apiVersion": "muster.dev/v1alpha1", "kind": "TrainingJob", "metadata": meta, "spec": spec}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_it_makes_the_pods_of_a_job_and_a_signal_ends_it_and_frees_the_lease(api, tmp_path, number):
    create(api, "trainingjobs", job())
    async with muster_run(api, tmp_path) as process:
        await until(lambda: len(api.all("pods")) == 2, limit=30)
        assert holder(api).startswith("muster-0_")
        assert {seen.who for seen in api.log} == {"secret"}
        await until(lambda: {seen.resource for seen in api.log if seen.verb == "watch"} >= {"pods", "nodes"})
        process.send_signal(number)
        output, _ = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert holder(api) == ""
    lines = [json.loads(line) for line in output.splitlines()]
    assert {"leading", "lease released"} <= {line["event"] for line in lines}
    assert not [line for line in lines if line["level"] == "error"]


async def test_a_signal_ends_it_while_it_still_waits_for_the_api_server(tmp_path, api):
    await api.__aexit__()
    async with muster_run(api, tmp_path) as process:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert json.loads(line)["event"] == "waiting for the API server"
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0


async def test_without_leader_election_no_lease_is_asked_for(api, tmp_path):
    create(api, "trainingjobs", job())
    async with muster_run(api, tmp_path, "--no-leader-election") as process:
        await until(lambda: len(api.all("pods")) == 2, limit=30)
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0
    assert not [seen for seen in api.log if seen.resource == "leases"]


async def test_everything_is_compared_as_often_as_asked_for(api, tmp_path):
    async with muster_run(api, tmp_path, "--resync-seconds", "0.1"):
        await until(lambda: sum((one.verb, one.resource) == ("list", "nodes") for one in api.log) > 6, limit=30)
