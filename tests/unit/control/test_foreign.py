"""Kinds that others define: watched from when they are needed and there, until they are there no more."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest

from muster.control.kinds import FOREIGN
from muster.plan.model import Plan, StatusPart
from tests.unit.control.fake_api import Answer, FakeApi
from tests.unit.control.harness import Counting, create, job, operator, owned, status_of, until

NEEDS = ("Workload", "ResourceFlavor")
API = "kueue.x-k8s.io/v1beta1"


@pytest.fixture
async def api():
    async with FakeApi() as one:
        yield one


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr("muster.control.foreign.LOOK_AGAIN", 0.05)


def define(api: FakeApi) -> None:
    for plural in ("workloads", "resourceflavors"):
        create(api, "customresourcedefinitions", {"metadata": {"name": f"{plural}.kueue.x-k8s.io"}})


def install(api: FakeApi) -> None:
    define(api)
    api.unknown -= {"workloads", "resourceflavors"}


def uninstall(api: FakeApi) -> None:
    for identity in [one for one in api.storage.objects if one[0] in {"workloads", "customresourcedefinitions"}]:
        api.storage.vanish(identity)
    api.unknown |= {"workloads", "resourceflavors"}
    api.wake()
    api.end_watches()


def in_a_queue(observed, settings, now):
    """Tells in the status what it knows of its Workload; makes one, and takes it over from Kueue once it is changed."""
    resource = observed.resource
    known = observed.workloads
    status = {"knows": "nothing" if known is None else ",".join(one.get("said", "new") for one in known)}
    workload = owned(resource, "Workload", resource["metadata"]["name"], spec={}) | {"apiVersion": API}
    return Plan(
        applies=(workload,) if known == () else (),
        status=None if status == resource.get("status") else status,
        needs=NEEDS,
    )


def asked(api: FakeApi, *resources: str) -> list[tuple[str, str]]:
    return [(seen.verb, seen.resource) for seen in api.log if seen.resource in resources]


async def test_without_need_a_cluster_that_lacks_them_is_asked_once_at_the_start(api):
    create(api, "trainingjobs", job())
    async with operator(api):
        await until(lambda: status_of(api).get("phase") == "Running")
    assert asked(api, "workloads", "resourceflavors") == []
    assert len(asked(api, "customresourcedefinitions")) == len(FOREIGN)


async def test_what_is_there_at_the_start_is_watched_at_once(api):
    install(api)
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue):
        await until(lambda: status_of(api).get("knows") == "new")
        api.storage.modify("workloads", "research", "digits", said="admitted")
        api.wake()
        await until(lambda: status_of(api).get("knows") == "admitted")
    assert asked(api, "trainingjobs").count(("watch", "trainingjobs")) == 1, "nothing was begun anew"


async def test_who_needs_a_kind_that_may_not_be_looked_for_holds_up_nobody_who_needs_another(api):
    """The chart's roles are older than the operator's image."""

    def planner(observed, settings, now):
        answer = in_a_queue(observed, settings, now)
        return replace(answer, needs=("HTTPRoute",)) if observed.resource["metadata"]["name"] == "routed" else answer

    routes = "httproutes.gateway.networking.k8s.io"
    api.fault = lambda seen: Answer(403, "Forbidden") if seen.name == routes else None
    create(api, "trainingjobs", job("routed"))
    create(api, "trainingjobs", job())
    async with operator(api, planner):
        await until(lambda: status_of(api, "routed") == status_of(api) == {"knows": "nothing"})
        install(api)
        await until(lambda: status_of(api).get("knows") == "new")


async def test_installed_later_they_are_watched_without_a_restart_of_the_operator(api):
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue):
        await until(lambda: status_of(api) == {"knows": "nothing"})
        install(api)
        await until(lambda: status_of(api).get("knows") == "new")
        await until(lambda: ("watch", "workloads") in asked(api, "workloads"))
        api.storage.modify("workloads", "research", "digits", said="admitted")
        api.wake()
        await until(lambda: status_of(api).get("knows") == "admitted")


async def test_what_can_be_listed_before_it_is_said_to_be_there_is_watched_once_it_is(api, monkeypatch):
    """So it is for a moment when a definition was made anew."""
    monkeypatch.setattr("muster.control.watches.BEGINS_WITHIN", 0.2)
    install(api)
    api.unsaid = {"workloads"}
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue):
        await until(lambda: status_of(api).get("knows") == "new")
        assert ("watch", "workloads") not in asked(api, "workloads")
        api.unsaid = set()
        await until(lambda: ("watch", "workloads") in asked(api, "workloads"), limit=30)
        api.storage.modify("workloads", "research", "digits", said="admitted")
        api.wake()
        await until(lambda: status_of(api).get("knows") == "admitted")


async def test_what_is_defined_before_it_is_served_is_watched_once_it_is(api):
    """So it is for a moment when a definition is made."""
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue):
        await until(lambda: status_of(api) == {"knows": "nothing"})
        define(api)
        await until(lambda: asked(api, "workloads"))
        api.unknown -= {"workloads", "resourceflavors"}
        await until(lambda: status_of(api).get("knows") == "new")
        api.storage.modify("workloads", "research", "digits", said="admitted")
        api.wake()
        await until(lambda: status_of(api).get("knows") == "admitted")


async def test_once_they_are_gone_nothing_is_known_and_everything_else_goes_on(api):
    install(api)
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue) as one:
        await until(lambda: status_of(api).get("knows") == "new")
        uninstall(api)
        await until(lambda: status_of(api) == {"knows": "nothing"})
        await until(lambda: one.synced, limit=30)
        create(api, "trainingjobs", job("another"))
        await until(lambda: status_of(api, "another") == {"knows": "nothing"}, limit=30)
        install(api)
        await until(lambda: status_of(api).get("knows") == "new", limit=30)


async def test_what_was_not_served_for_a_moment_is_known_again(api):
    """So it is with every kind that others define while an API server starts."""
    install(api)
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue):
        await until(lambda: status_of(api).get("knows") == "new")
        api.unknown |= {"workloads"}
        api.end_watches()
        await until(lambda: status_of(api) == {"knows": "nothing"}, limit=30)
        api.unknown -= {"workloads"}
        await until(lambda: status_of(api).get("knows") == "new", limit=30)
    assert asked(api, "workloads").count(("apply", "workloads")) == 1, "there it was all the time"


async def test_while_they_go_and_are_listed_but_not_watched_everything_else_goes_on(api):
    """So it is for a moment when a definition is deleted."""
    install(api)
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue) as one:
        await until(lambda: status_of(api).get("knows") == "new")
        last = sum(seen.verb == "watch" and seen.resource == "workloads" for seen in api.log) + 1
        api.fault = lambda seen: (
            Answer(404) if (seen.verb, seen.resource, seen.number) == ("watch", "workloads", last) else None
        )
        api.end_watches()
        await until(lambda: asked(api, "workloads").count(("watch", "workloads")) > last, limit=30)
        await until(lambda: one.synced, limit=30)
        create(api, "trainingjobs", job("another"))
        await until(lambda: status_of(api, "another").get("knows") == "new", limit=30)


@pytest.mark.parametrize("fault", [Answer(500), Answer(403)], ids=["500", "403"])
async def test_a_look_for_them_that_fails_holds_up_nothing_and_is_repeated(api, fault):
    install(api)
    api.fault = lambda seen: fault if seen.resource == "customresourcedefinitions" and seen.number <= 6 else None
    create(api, "trainingjobs", job())
    async with operator(api, in_a_queue):
        await until(lambda: status_of(api).get("knows") == "new")


def part(workload, owner, **precondition):
    meta = {name: workload["metadata"][name] for name in ("name", "namespace", "uid")} | precondition
    return StatusPart({"apiVersion": API, "kind": "Workload", "metadata": meta, "status": {"said": owner}}, owner)


async def test_a_part_of_a_status_is_applied_in_its_owners_name(api):
    def planner(observed, settings, now):
        plan = in_a_queue(observed, settings, now)
        return Plan(
            applies=plan.applies,
            parts=tuple(part(one, "kueue-admission") for one in observed.workloads or () if "status" not in one),
            needs=NEEDS,
        )

    install(api)
    create(api, "trainingjobs", job())
    async with operator(api, planner):
        await until(lambda: [one.get("status") for one in api.all("workloads")] == [{"said": "kueue-admission"}])
    (write,) = [seen for seen in api.log if seen.resource == "workloads" and seen.subresource == "status"]
    assert (write.verb, write.query["fieldManager"], write.query["force"]) == ("apply", "kueue-admission", "true")


async def test_a_part_that_is_of_an_older_version_changes_nothing_and_is_planned_anew(api):
    versions = []

    def planner(observed, settings, now):
        plan = in_a_queue(observed, settings, now)
        for one in observed.workloads or ():
            versions.append(one["metadata"]["resourceVersion"])
            if "status" not in one:
                seen = copy.deepcopy(one)
                version = "1" if len(versions) == 1 else seen["metadata"]["resourceVersion"]
                return Plan(parts=(part(seen, "kueue-admission", resourceVersion=version),), needs=NEEDS)
        return Plan(applies=plan.applies, needs=NEEDS)

    install(api)
    create(api, "trainingjobs", job())
    async with operator(api, Counting(planner)):
        await until(lambda: [one.get("status") for one in api.all("workloads")] == [{"said": "kueue-admission"}])
    codes = [seen.code for seen in api.log if seen.resource == "workloads" and seen.subresource == "status"]
    assert codes == [409, 200]
