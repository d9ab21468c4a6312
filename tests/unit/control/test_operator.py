"""The whole operator, kopf and client and all, against an API server that fails in every way it can."""

from __future__ import annotations

import pytest

from tests.unit.control.fake_api import FakeApi
from tests.unit.control.harness import create, job, operator, status_of, until


@pytest.fixture
async def api():
    async with FakeApi() as one:
        yield one


async def test_given_a_job_when_it_is_seen_then_everything_is_made_once(api):
    async with operator(api):
        create(api, "trainingjobs", job())
        await until(lambda: status_of(api) == {"pods": 3, "phase": "Running"})
    assert sorted(name for plural, _, name in api.storage.made if plural == "pods") == [
        "digits-0",
        "digits-1",
        "digits-2",
    ]
    assert [event["reason"] for event in api.all("events")] == ["Started"]
