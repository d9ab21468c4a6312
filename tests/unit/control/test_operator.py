"""The whole operator, kopf and client and all, against an API server that fails in every way it can."""

from __future__ import annotations

import asyncio
import collections
from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web

from muster.client import PODS as PODS_KIND
from muster.plan.model import Delete, Demand, Plan, Target
from tests.unit.control.fake_api import Answer, BreakWatch, Drop, EndWatch, FakeApi, Hang
from tests.unit.control.harness import (
    OURS_AS_LABELS,
    Counting,
    create,
    job,
    node,
    operator,
    owned,
    pods_and_a_service,
    status_of,
    until,
)

DONE = {"pods": 3, "phase": "Running"}


@pytest.fixture
async def api():
    async with FakeApi() as one:
        yield one


def made(api: FakeApi, plural: str = "pods") -> list[str]:
    return sorted(name for kind, _, name in api.storage.made if kind == plural)


PODS = ["digits-0", "digits-1", "digits-2"]


async def test_given_a_job_when_it_is_seen_then_everything_is_made_once(api):
    async with operator(api):
        create(api, "trainingjobs", job())
        await until(lambda: status_of(api) == DONE)
    assert made(api) == PODS
    assert [event["reason"] for event in api.all("events")] == ["Started"]


async def test_a_converged_cluster_sees_no_write_whatever_is_compared(api):
    create(api, "trainingjobs", job())
    planner = Counting(pods_and_a_service)
    async with operator(api, planner, resync_every=0.1) as one:
        await until(lambda: status_of(api) == DONE)
        await until(lambda: len(one.queue) == 0)
        before, looks = len(api.work()), len(planner.asked)
        lists = sum(seen.verb == "list" for seen in api.log)
        await until(lambda: sum(seen.verb == "list" for seen in api.log) > lists + 12, "three comparisons")
        one.queue.add(one.store.keys()[0])
        await until(lambda: len(planner.asked) > looks)
        assert api.work()[before:] == []


async def test_an_operator_that_starts_anew_writes_nothing_to_what_is_as_it_should_be(api):
    create(api, "trainingjobs", job())
    async with operator(api, who="first"):
        await until(lambda: status_of(api) == DONE)
    planner = Counting(pods_and_a_service)
    async with operator(api, planner, who="second"):
        await until(lambda: planner.asked)
        await until(lambda: any(len(observed.pods) == 3 for observed in planner.asked))
    assert [seen for seen in api.work() if seen.who == "second"] == []


FAULTS = {
    "answered 500": Answer(500),
    "done, then answered 500": Answer(500, done=True),
    "answered 503": Answer(503),
    "turned away with 429": Answer(429, "TooManyRequests", retry_after="0"),
    "in conflict": Answer(409, "Conflict"),
    "cut off": Drop(),
    "done, then cut off": Drop(done=True),
    "never answered": Hang(),
    "done, never answered": Hang(done=True),
    "expired": Answer(410, "Expired"),
}
CALLS = [
    ("list", "trainingjobs"),
    ("list", "pods"),
    ("watch", "trainingjobs"),
    ("watch", "pods"),
    ("get", "trainingjobs"),
    ("apply", "services"),
    ("create", "pods"),
    ("create", "events"),
    ("apply", "trainingjobs"),
    ("create", "leases"),
    ("replace", "leases"),
]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_whatever_fails_at_the_first_two_of_every_call_the_end_is_the_same(api, fault):
    def first_two(seen):
        return fault if seen.number <= 2 and (seen.verb, seen.resource) in CALLS else None

    api.fault = first_two
    create(api, "trainingjobs", job())
    async with operator(api, wait=False):
        await until(lambda: api.all("trainingjobs") and status_of(api) == DONE, limit=40)
    assert made(api) == PODS
    assert made(api, "services") == ["digits"]
    failed = collections.Counter((seen.verb, seen.resource) for seen in api.log)
    assert all(failed[call] >= 2 for call in [("create", "pods"), ("apply", "services"), ("list", "pods")])


@pytest.mark.parametrize("fault", [BreakWatch(0), BreakWatch(1), EndWatch(410), EndWatch(500)], ids=str)
async def test_a_watch_that_breaks_again_and_again_loses_nothing(api, fault):
    api.fault = lambda seen: fault if seen.verb == "watch" and seen.number <= 4 else None
    async with operator(api):
        create(api, "trainingjobs", job())
        await until(lambda: status_of(api) == DONE, limit=30)
        api.storage.vanish(("pods", "research", "digits-1"))
        api.wake()
        await until(lambda: made(api) == sorted([*PODS, "digits-1"]), limit=30)


async def test_what_vanishes_in_the_gap_of_a_watch_is_noticed(api):
    create(api, "trainingjobs", job())
    async with operator(api) as one:
        await until(lambda: status_of(api) == DONE)
        await until(lambda: any(seen.verb == "watch" and seen.resource == "pods" for seen in api.log))
        api.storage.vanish(("pods", "research", "digits-2"))
        api.storage.history.pop()  # no watch will ever tell
        api.storage.forget_history()
        api.end_watches()
        await until(lambda: made(api).count("digits-2") == 2)
        await until(lambda: one.store.count(PODS_KIND) == 3)


async def test_what_was_made_by_hand_under_a_wanted_name_is_not_taken_over(api):
    create(api, "pods", {"metadata": {"name": "digits-1", "namespace": "research"}})
    create(api, "trainingjobs", job())
    async with operator(api):
        await until(lambda: {"digits-0", "digits-2"} <= set(made(api)))
        attempts = ("create", "pods")
        await until(lambda: sum((s.verb, s.resource) == attempts for s in api.log) >= 4)
        assert status_of(api) == {}
        api.storage.vanish(("pods", "research", "digits-1"))
        await until(lambda: status_of(api) == DONE)


async def test_a_job_that_is_made_again_waits_for_the_pods_of_the_one_before_and_says_so(api):
    def planner(observed, settings, now):
        plan = pods_and_a_service(observed, settings, now)
        told = {"said": observed.refusal.message} if observed.refusal is not None else None
        return replace(plan, creates=(), applies=(), status=told) if told else plan

    there = create(api, "pods", {"metadata": {"name": "digits-1", "namespace": "research"}})
    leaving = there["metadata"] | {"deletionTimestamp": "2026-11-24T00:00:00Z"}
    api.storage.modify("pods", "research", "digits-1", metadata=leaving)
    create(api, "trainingjobs", job())
    async with operator(api, planner):
        await until(lambda: "said" in status_of(api))
    assert status_of(api)["said"].startswith("Pod digits-1 of an earlier resource is still on its way out")


async def test_what_is_applied_is_not_taken_over_from_somebody_else(api):
    theirs = {"metadata": {"name": "digits", "namespace": "research"}, "spec": {"clusterIP": "10.0.0.7"}}
    create(api, "services", theirs)
    create(api, "trainingjobs", job())
    async with operator(api):
        refused = ("apply", "services")
        await until(lambda: sum((s.verb, s.resource) == refused for s in api.log) >= 3)
        assert api.storage.objects["services", "research", "digits"]["spec"] == {"clusterIP": "10.0.0.7"}
        assert made(api) == []
        api.storage.vanish(("services", "research", "digits"))
        await until(lambda: status_of(api) == DONE)


async def test_what_is_refused_besides_keeps_no_pod_from_being_made(api):
    create(
        api, "services", {"metadata": {"name": "digits", "namespace": "research"}, "spec": {"clusterIP": "10.0.0.7"}}
    )
    create(api, "trainingjobs", job())

    def planner(observed, settings, now):
        plan = pods_and_a_service(observed, settings, now)
        if observed.refusal is None:
            return replace(plan, applies=(), besides=plan.applies)
        told = {"said": observed.refusal.message, "besides": observed.refusal.besides}
        return replace(plan, applies=(), status=None if told == observed.resource.get("status") else told)

    async with operator(api, planner):
        await until(lambda: made(api) == PODS)
        await until(lambda: status_of(api).get("besides"))
        assert status_of(api)["said"].startswith("Service digits exists and belongs to something else")


async def test_what_is_ours_is_put_right_whoever_changed_it(api):
    create(api, "trainingjobs", job())

    def planner(observed, settings, now):
        changed = [one for one in observed.services if one["spec"] != {"clusterIP": "None"}]
        again = replace(pods_and_a_service(replace(observed, services=()), settings, now), creates=())
        return again if changed else pods_and_a_service(observed, settings, now)

    async with operator(api, planner):
        await until(lambda: status_of(api) == DONE)
        api.storage.modify("services", "research", "digits", spec={"clusterIP": "10.0.0.7"})
        api.wake()
        await until(lambda: api.storage.objects["services", "research", "digits"]["spec"] == {"clusterIP": "None"})


@pytest.mark.parametrize("plural", ["trainingjobs", "services"])
async def test_what_the_api_server_does_not_take_over_is_not_written_again_and_again(api, plural):
    """A webhook may set something back each time."""

    def insisting(observed, settings, now):
        plan = pods_and_a_service(observed, settings, now)
        service = owned(observed.resource, "Service", "digits", spec={"clusterIP": "None", "unknown": "x"})
        status = {"pods": len(observed.pods), "phase": "Running", "unknown": "x"}
        if plural == "services":
            return replace(plan, applies=(service,))
        return replace(plan, status=status if status != observed.resource.get("status") else None)

    keep = api.storage.apply

    def prune(identity, manifest, *rest, **more):
        part = "status" if identity[0] == "trainingjobs" else "spec"
        known = {name: value for name, value in manifest[part].items() if name != "unknown"}
        return keep(identity, manifest | {part: known}, *rest, **more)

    api.storage.apply = prune
    create(api, "trainingjobs", job())
    counting = Counting(insisting)
    async with operator(api, counting, resync_every=0.2):
        await until(lambda: status_of(api).get("pods") == 3)
        lists = sum(seen.verb == "list" for seen in api.log)
        await until(lambda: sum(seen.verb == "list" for seen in api.log) > lists + 12, "three comparisons")
        assert len(counting.asked) < 20


async def test_a_planner_that_fails_on_one_resource_does_not_hold_up_the_others(api):
    def planner(observed, settings, now):
        if observed.resource["metadata"]["name"] == "broken":
            raise KeyError("spec")
        return pods_and_a_service(observed, settings, now)

    create(api, "trainingjobs", job("broken"))
    create(api, "trainingjobs", job())
    async with operator(api, planner) as one:
        await until(lambda: status_of(api) == DONE)
        broken = next(key for key in list(one.store.keys()) if key.name == "broken")
        await until(lambda: one.queue.failures(broken) >= 3)
    assert all(not name.startswith("broken") for name in made(api))


async def test_who_names_another_follows_it_through_the_operators_own_writes(api):
    """The answer to a write enters the store at once, and its echo in the watch is no news any more."""

    def planner(observed, settings, now):
        if observed.resource["metadata"]["name"] == "digits":
            return pods_and_a_service(observed, settings, now)
        seen = (observed.named.get(("TrainingJob", "digits"), {}).get("status") or {}).get("phase", "none")
        status = {"phase": seen}
        return Plan(status=None if status == observed.resource.get("status") else status)

    create(api, "trainingjobs", job("pupil"))
    create(api, "trainingjobs", job())
    async with operator(api, planner, names=lambda _: (("TrainingJob", "digits"),)):
        await until(lambda: status_of(api) == DONE)
        await until(lambda: status_of(api, "pupil") == {"phase": "Running"})


async def test_a_resource_that_is_being_deleted_is_left_to_the_garbage_collector(api):
    going = create(api, "trainingjobs", job())
    api.storage.modify(
        "trainingjobs", "research", "digits", metadata=going["metadata"] | {"deletionTimestamp": "2026-11-24T00:00:00Z"}
    )
    create(api, "trainingjobs", job("other", replicas=1))
    planner = Counting(pods_and_a_service)
    async with operator(api, planner):
        await until(lambda: status_of(api, "other") == {"pods": 1, "phase": "Running"})
    assert made(api) == ["other-0"]
    assert {observed.resource["metadata"]["name"] for observed in planner.asked} == {"other"}


async def test_what_was_made_from_a_stale_view_of_the_resource_is_not_made(api):
    """The job is scaled down behind the operator's back: its watch does not tell, and it must not make three."""
    create(api, "trainingjobs", job())

    def scaled_meanwhile(seen):
        if (seen.verb, seen.resource, seen.number) == ("get", "trainingjobs", 1):
            api.storage.modify("trainingjobs", "research", "digits", spec={"replicas": 1})
            api.storage.history.pop()

    api.fault = scaled_meanwhile
    async with operator(api):
        await until(lambda: status_of(api) == {"pods": 1, "phase": "Running"})
    assert made(api) == ["digits-0"]


async def test_the_readiness_of_a_node_sets_the_resources_with_pods_on_it_in_motion(api):
    create(api, "nodes", node("n1"))
    create(api, "nodes", node("n2"))
    planner = Counting(pods_and_a_service)
    async with operator(api, planner):
        create(api, "trainingjobs", job())
        await until(lambda: status_of(api) == DONE)
        for pod in api.all("pods"):
            api.storage.modify("pods", "research", pod["metadata"]["name"], spec={"nodeName": "n1"})
        api.wake()
        await until(lambda: all(pod["spec"].get("nodeName") for pod in planner.asked[-1].pods))
        looks = len(planner.asked)
        api.storage.modify("nodes", "", "n2", status=node("n2", "Unknown")["status"])
        api.storage.modify("nodes", "", "n1", status=node("n1", "Unknown")["status"])
        api.wake()
        await until(lambda: len(planner.asked) > looks)
        seen = planner.asked[-1].nodes["n1"]["status"]["conditions"]
        assert seen == [{"type": "Ready", "status": "Unknown"}]


def one_slot(manifest):
    return manifest | {"spec": {"containers": [{"name": "worker"}]}}


def room_for(api, pods):
    create(api, "nodes", node("n1") | {"spec": {}})
    status = node("n1")["status"] | {"allocatable": {"pods": str(pods)}}
    api.storage.modify("nodes", "", "n1", status=status)


async def test_two_jobs_that_wait_for_room_never_count_the_same_room(api):
    """Room for three pods, two jobs of two each: one is admitted whole, the other not at all."""

    def planner(observed, settings, now):
        if observed.pods:
            return Plan()
        name, wanted = observed.resource["metadata"]["name"], observed.resource["spec"]["replicas"]
        pods = tuple(one_slot(owned(observed.resource, "Pod", f"{name}-{n}")) for n in range(wanted))
        if observed.admission is None or not observed.admission.granted:
            return Plan(demand=Demand(name, tuple(pod["spec"] for pod in pods), least=wanted, since=0.0))
        return Plan(creates=pods)

    room_for(api, 3)
    for name in ("one", "two"):
        create(api, "trainingjobs", job(name, replicas=2))
    async with operator(api, planner) as one:
        await until(lambda: len(made(api)) == 2)
        await until(lambda: len(one.queue) == 0)
        admitted = made(api)[0].removesuffix("-0")
        assert made(api) == [f"{admitted}-0", f"{admitted}-1"]
        for pod in made(api):  # they end, and the other's turn has come, without anyone telling it
            api.storage.modify("pods", "research", pod, status={"phase": "Succeeded"})
        api.wake()
        await until(lambda: len(made(api)) == 4)


async def test_deletes_meet_only_the_very_pod_that_is_meant(api):
    """The plan names a pod by UID; by the time it is carried out another one bears its name."""
    create(api, "trainingjobs", job())
    asked = []

    def planner(observed, settings, now):
        if not observed.pods or asked:
            return Plan() if asked else pods_and_a_service(observed, settings, now)
        asked.append(observed.pods[0]["metadata"]["name"])
        api.storage.vanish(("pods", "research", asked[0]))
        create(api, "pods", owned(observed.resource, "Pod", asked[0]))
        return Plan(deletes=(Delete("Pod", asked[0], observed.pods[0]["metadata"]["uid"]),))

    async with operator(api, planner):
        await until(lambda: [s for s in api.log if s.verb == "delete"])
        await until(lambda: api.log[-1].verb != "delete" or api.log[-1].code)
    assert asked[0] in {pod["metadata"]["name"] for pod in api.all("pods")}


async def test_the_agents_are_asked_and_what_they_say_anew_sets_the_resource_in_motion(api):
    answers = {"step": 1, "progress": {"at": 1.0}}

    async def state(_):
        return web.json_response(answers)

    app = web.Application()
    app.router.add_get("/state", state)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]

    def planner(observed, settings, now):
        targets = tuple(Target(pod["metadata"]["uid"], "127.0.0.1", port) for pod in observed.pods)
        steps = [report.state["step"] for report in observed.reports.values() if report.state]
        status = {"steps": steps} if steps else None
        plan = pods_and_a_service(observed, settings, now)
        changed = status != observed.resource.get("status")
        return replace(plan, scrape=targets, events=(), status=status if changed else None)

    counting = Counting(planner)
    create(api, "trainingjobs", job(replicas=1))
    try:
        async with operator(api, counting) as one:
            await until(lambda: status_of(api) == {"steps": [1]})
            answers["step"] = 2
            await until(lambda: counting.asked[-1].resource.get("status") == {"steps": [2]})
            await until(lambda: len(one.queue) == 0, "its own write came back and was looked at")
            uid = api.all("pods")[0]["metadata"]["uid"]
            answers["progress"] = {"at": 2.0}
            looks = len(counting.asked)
            await until(lambda: one.store.report(uid).state["progress"]["at"] == 2.0)
            assert len(counting.asked) == looks, "a new time alone is nothing new"
            api.storage.vanish(("trainingjobs", "research", "digits"))
            api.wake()
            await until(lambda: one.metrics.registry.get_sample_value("muster_scrape_targets") == 0)
    finally:
        await runner.cleanup()


async def test_probes_and_metrics_are_served(api):
    create(api, "trainingjobs", job())
    async with operator(api) as one, aiohttp.ClientSession() as session:
        await until(lambda: status_of(api) == DONE)
        base = f"http://127.0.0.1:{one.http_port}"
        for path in ("/healthz", "/readyz"):
            async with session.get(base + path) as answer:
                assert (answer.status, await answer.text()) == (200, "ok")
        async with session.get(base + "/metrics") as answer:
            text = await answer.text()
    assert "muster_leader 1.0" in text
    assert 'muster_store_objects{kind="Pod"} 3.0' in text
    assert 'muster_api_requests_total{code="200",resource="pods",verb="create"} 3.0' in text
    assert 'muster_reconcile_seconds_count{kind="TrainingJob",outcome="written"}' in text


async def test_a_namespaced_operator_asks_for_nothing_outside_of_its_namespaces(api):
    create(api, "trainingjobs", job())
    create(api, "trainingjobs", job("other", namespace="elsewhere"))
    async with operator(api, namespaces=("research",)):
        await until(lambda: status_of(api) == DONE)
    assert made(api) == PODS
    outside = {(seen.verb, seen.resource) for seen in api.log if seen.namespace not in {"research", "muster-system"}}
    # Nodes belong to no namespace, nor does what says whether the cluster has Kueue.
    assert outside == {("list", "nodes"), ("watch", "nodes"), ("get", "customresourcedefinitions")}


async def test_of_several_namespaces_one_that_may_not_be_read_holds_up_no_other(api):
    """Whoever deletes his namespace deletes the operator's rights in it; they may come back with it."""

    def is_answered(seen):
        return (seen.verb, seen.resource, seen.namespace, seen.code) == ("watch", "trainingjobs", "gone", 200)

    closed = True
    api.fault = lambda seen: Answer(403, "Forbidden") if seen.namespace == "gone" and closed else None
    create(api, "trainingjobs", job(namespace="gone"))
    create(api, "trainingjobs", job())
    async with operator(api, namespaces=("gone", "research"), resync_every=1.0):
        await until(lambda: status_of(api) == DONE)
        closed = False
        await until(lambda: any(map(is_answered, api.log)), "it is watched again")
        await until(lambda: api.storage.objects["trainingjobs", "gone", "digits"].get("status") == DONE)


async def test_a_label_by_which_muster_finds_its_own_is_put_back_and_that_is_all(api):
    """For the watch, an object without it is deleted."""
    create(api, "trainingjobs", job())
    async with operator(api, resync_every=0.5):
        await until(lambda: status_of(api) == DONE)
        before = len(api.work())
        there = api.storage.objects["services", "research", "digits"]
        labels = {"muster.dev/training-job": "digits"}
        api.storage.modify("services", "research", "digits", metadata=there["metadata"] | {"labels": labels})
        api.wake()
        await until(lambda: len(api.work()) > before)
        await asyncio.sleep(0.5)
        assert [(seen.verb, seen.resource) for seen in api.work()[before:]] == [("apply", "services")]
        labelled = api.storage.objects["services", "research", "digits"]["metadata"]["labels"]
        assert labelled == labels | OURS_AS_LABELS


async def test_without_the_custom_resource_definitions_it_waits_for_them(api):
    api.fault = lambda seen: Answer(404, "NotFound") if seen.resource == "trainingjobs" and absent else None
    absent = True
    create(api, "trainingjobs", job())
    async with operator(api, wait=False) as one:
        await until(lambda: any(seen.code == 404 and seen.resource == "trainingjobs" for seen in api.log))
        assert not one.synced
        absent = False
        await until(lambda: status_of(api) == DONE)


async def test_it_stops_at_once_and_gives_the_lease_up(api):
    create(api, "trainingjobs", job())
    async with operator(api) as one:
        await until(lambda: status_of(api) == DONE)
        loop = asyncio.get_running_loop()
        started = loop.time()
        one.stopping.set()
        lease = api.storage.objects["leases", "muster-system", "muster"]
        await until(
            lambda: not api.storage.objects["leases", "muster-system", "muster"]["spec"]["holderIdentity"], limit=3
        )
        assert lease["spec"]["holderIdentity"] == "a"
        assert loop.time() - started < 3
