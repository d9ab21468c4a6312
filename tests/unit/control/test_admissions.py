"""Who waits is answered together, from one count, and no room is given twice."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from muster.client import NODES, PODS, KubernetesClient, Limits
from muster.control.admissions import MISSING_AGE, Admissions
from muster.control.kinds import OTHERS, TRAINING_JOBS, Controlled, Key
from muster.control.store import Store
from muster.plan.model import Demand, Plan, Reference
from tests.unit.control.fake_api import Answer, FakeApi, Hang
from tests.unit.control.harness import OURS_AS_LABELS, create, until

CLAIM = Reference("PersistentVolumeClaim", "models", "spec.storage.persistentVolumeClaim.claimName")
CODE = Reference("ConfigMap", "code", "spec.source.configMap")
SPEC = {"containers": [{"name": "worker"}]}


def key(name: str) -> Key:
    return Key("TrainingJob", "research", name)


def demand(pods: int, *references: Reference, since: float = 0.0, priority_class: str | None = None) -> Demand:
    return Demand("research/job", (SPEC,) * pods, pods, since, priority_class, references)


@pytest.fixture
async def api():
    async with FakeApi() as server:
        yield server


@contextlib.asynccontextmanager
async def admissions(api, *, room: int, everywhere: bool = False):
    """A desk over a cluster of one node with room for so many pods; and which keys it wants to be looked at."""
    store = Store([Controlled(TRAINING_JOBS, lambda *_: Plan())])
    ready = [{"type": "Ready", "status": "True"}]
    node = {"metadata": {"name": "n1", "uid": "n1", "resourceVersion": "1"}, "spec": {}}
    store.put(NODES, node | {"status": {"conditions": ready, "allocatable": {"pods": str(room)}}})
    client = KubernetesClient(api.configuration(), limits=Limits(call=0.3, attempts=1))
    told: list[Key] = []
    desk = Admissions(client, store, told.append, everywhere=everywhere)
    store.on_room_change = desk.room_changed
    task = asyncio.create_task(desk.run())
    try:
        yield desk, store, told
    finally:
        task.cancel()
        await asyncio.wait([task])
        await client.close()


def lists_of_pods(api) -> int:
    return sum((seen.verb, seen.resource) == ("list", "pods") for seen in api.log)


async def test_all_who_come_together_are_answered_by_one_count_in_their_order(api):
    async with admissions(api, room=5) as (desk, _, told):
        for number in range(4):
            desk.wait(key(f"job-{number}"), demand(2, since=float(10 - number)))
        await until(lambda: len(told) == 4)
        granted = [number for number in range(4) if desk.answer(key(f"job-{number}")).granted]
        assert granted == [2, 3], "the oldest of them"
        assert lists_of_pods(api) == 1


async def test_what_was_granted_counts_as_taken_until_its_pods_are_made(api):
    async with admissions(api, room=3) as (desk, store, told):
        desk.wait(key("one"), demand(2))
        await until(lambda: told == [key("one")])
        store.room_changes += 1  # the next count is a new one, and the pods of the first are not made yet
        desk.wait(key("two"), demand(2))
        await until(lambda: desk.answer(key("two")) is not None)
        assert not desk.answer(key("two")).granted
        desk.leave(key("one"))
        store.room_changes += 1
        await until(lambda: desk.answer(key("two")).granted)


async def test_pods_that_are_made_while_room_is_counted_count_though_the_list_is_older_than_they_are(api):
    def made_meanwhile(seen):
        if (seen.verb, seen.resource) == ("list", "pods"):
            desk.leave(key("one"))

    async with admissions(api, room=3) as (desk, store, told):
        desk.wait(key("one"), demand(2))
        await until(lambda: told == [key("one")])
        api.fault = made_meanwhile
        store.room_changes += 1
        desk.wait(key("two"), demand(2))
        await until(lambda: desk.answer(key("two")) is not None)
        assert not desk.answer(key("two")).granted


async def test_our_own_pods_count_as_they_are_watched_and_only_others_are_listed(api):
    for name, labels in (("theirs", {}), ("ours-long-gone", OURS_AS_LABELS)):
        there = {
            "metadata": {"name": name, "namespace": "research", "labels": labels},
            "spec": SPEC | {"nodeName": "n1"},
        }
        create(api, "pods", there)
    async with admissions(api, room=3, everywhere=True) as (desk, store, told):
        ours = {
            "name": "ours",
            "namespace": "research",
            "uid": "u",
            "resourceVersion": "1",
            "labels": OURS_AS_LABELS,
        }
        store.put(PODS, {"metadata": ours, "spec": SPEC | {"nodeName": "n1"}})
        desk.wait(key("one"), demand(1))
        desk.wait(key("two"), demand(1, since=1.0))
        await until(lambda: len(told) == 2)
        assert [desk.answer(key(name)).granted for name in ("one", "two")] == [True, False]
        assert [seen.query["labelSelector"] for seen in api.log if seen.resource == "pods"] == [OTHERS]


async def test_who_leaves_is_not_answered_any_more(api):
    async with admissions(api, room=1) as (desk, _, told):
        desk.wait(key("one"), demand(1))
        await until(lambda: told)
        desk.leave(key("one"))
        assert desk.answer(key("one")) is None


async def test_what_a_job_names_is_looked_for_until_it_is_there(api, monkeypatch):
    monkeypatch.setattr("muster.control.admissions.LOOK_AGAIN", 0.05)
    monkeypatch.setattr("muster.control.admissions.MISSING_AGE", MISSING_AGE / 100)
    async with admissions(api, room=9) as (desk, _, told):
        desk.wait(key("one"), demand(1, CLAIM, CODE))
        await until(lambda: told)
        answer = desk.answer(key("one"))
        assert (answer.granted, answer.reason) == (False, "PersistentVolumeClaimNotFound")
        assert "ConfigMap code" in answer.message
        create(api, "persistentvolumeclaims", {"metadata": {"name": "models", "namespace": "research"}})
        await until(lambda: desk.answer(key("one")).reason == "ConfigMapNotFound")
        create(api, "configmaps", {"metadata": {"name": "code", "namespace": "research"}})
        await until(lambda: desk.answer(key("one")).granted)


async def test_who_names_what_may_not_be_looked_up_holds_up_nobody_else(api):
    """The chart's rights are an older one's, or those in its namespace were deleted with it."""
    api.fault = lambda seen: Answer(403, "Forbidden") if seen.resource == "configmaps" else None
    async with admissions(api, room=2) as (desk, _, told):
        desk.wait(key("one"), demand(1, CODE))
        desk.wait(key("two"), demand(1, since=1.0))
        await until(lambda: len(told) == 2)
        assert desk.answer(key("two")).granted
        answer = desk.answer(key("one"))
        assert (answer.granted, answer.reason) == (False, "ConfigMapUnknown")
        assert answer.message.startswith("spec.source.configMap: it is not known whether there is a ConfigMap code: ")


async def test_priority_classes_decide_the_order(api):
    create(api, "priorityclasses", {"metadata": {"name": "high"}, "value": 1000})
    async with admissions(api, room=1) as (desk, _, told):
        desk.wait(key("old"), demand(1, since=0.0))
        desk.wait(key("urgent"), demand(1, since=5.0, priority_class="high"))
        await until(lambda: len(told) == 2)
        assert desk.answer(key("urgent")).granted
        assert not desk.answer(key("old")).granted


GPU = {"containers": [{"name": "worker", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]}
CLASS = {"metadata": {"name": "gpus"}, "spec": {"extendedResourceName": "nvidia.com/gpu"}}


@pytest.mark.parametrize(
    ("status", "granted"), [(200, True), (404, False), (403, False)], ids=["there", "an older cluster", "not told"]
)
async def test_what_a_device_class_stands_for_need_not_be_offered_by_a_node(api, status, granted):
    create(api, "deviceclasses", CLASS)
    api.fault = lambda seen: Answer(status) if seen.resource == "deviceclasses" and status != 200 else None
    async with admissions(api, room=1) as (desk, _, told):
        desk.wait(key("one"), Demand("research/job", (GPU,), 1, 0.0))
        await until(lambda: told)
        assert desk.answer(key("one")).granted == granted


@pytest.mark.parametrize(
    "fault", [Answer(500), Answer(429), Hang(), None], ids=["500", "429", "no answer", "unforeseen"]
)
async def test_a_count_that_fails_is_made_again(api, fault, monkeypatch):
    monkeypatch.setattr("muster.control.admissions.TRY_AGAIN", 0.05)
    api.fault = lambda seen: fault if seen.resource == "pods" and seen.number <= 2 else None
    if fault is None:
        broken = iter([RuntimeError("a pod that nobody understands")])
        monkeypatch.setattr("muster.control.admissions._taken", lambda pod: raise_next(broken) or pod)
        create(api, "pods", {"metadata": {"name": "odd", "namespace": "research"}, "spec": {"containers": []}})
    async with admissions(api, room=2) as (desk, _, told):
        desk.wait(key("one"), demand(1))
        await until(lambda: told)
        assert desk.answer(key("one")).granted


def raise_next(errors) -> None:
    error = next(errors, None)
    if error is not None:
        raise error
