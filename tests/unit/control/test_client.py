"""The client over real HTTP: what it repeats, what it must not, and what its callers are told."""

from __future__ import annotations

import asyncio

import pytest

from muster import client as clients
from muster.client import (
    CONFIG_MAPS,
    PODS,
    SERVICES,
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Invalid,
    KubernetesClient,
    Limits,
    NotFound,
    Only,
    ServerError,
    TooManyRequests,
    Unauthorized,
    Unreachable,
    classify,
)
from muster.control.kinds import TRAINING_JOBS
from tests.unit.control.fake_api import Answer, Drop, FakeApi, Hang
from tests.unit.control.harness import create, job

LIMITS = Limits(call=0.3, attempts=3, pauses=(0.01,), longest_pause=2.0)


@pytest.fixture
async def api():
    async with FakeApi() as one:
        yield one


@pytest.fixture
async def client(api):
    one = KubernetesClient(api.configuration(), limits=LIMITS)
    yield one
    await one.close()


def pod(name: str = "one") -> dict:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "research"}}


def service(**spec) -> dict:
    meta = {"name": "one", "namespace": "research"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec}


async def test_all_chunks_of_a_list_come_as_one_and_say_what_they_are(api, client, monkeypatch):
    monkeypatch.setattr(clients, "_CHUNK", 2)
    for number in range(5):
        create(api, "pods", pod(f"p{number}"))
    listing = await client.list(PODS)
    assert [item["metadata"]["name"] for item in listing.items] == ["p0", "p1", "p2", "p3", "p4"]
    assert {(item["apiVersion"], item["kind"]) for item in listing.items} == {("v1", "Pod")}
    assert listing.resource_version == str(api.storage.version)
    assert len(api.log) == 3


async def test_a_list_that_expires_between_two_chunks_is_read_in_one_piece(api, client, monkeypatch):
    monkeypatch.setattr(clients, "_CHUNK", 2)
    for number in range(5):
        create(api, "pods", pod(f"p{number}"))
    api.fault = lambda seen: Answer(410, "Expired") if "continue" in seen.query else None
    listing = await client.list(PODS)
    assert len(listing.items) == 5
    assert "limit" not in api.log[-1].query


async def test_what_is_listed_elsewhere_is_answered_by_a_version_alone(api, client):
    create(api, "pods", pod("p"))
    create(api, "nodes", {"metadata": {"name": "n"}})
    async with client.watching_session(lambda _: None, {"pods"}) as session:
        for path, names in (("/api/v1/pods", []), ("/api/v1/nodes", ["n"])):
            async with session.get(client.server + path) as response:
                answer = await response.json()
            assert [item["metadata"]["name"] for item in answer["items"]] == names
            assert answer["metadata"]["resourceVersion"] == str(api.storage.version)


async def test_lists_select_by_labels_fields_and_namespace(api, client):
    create(api, "pods", pod("other"))
    create(api, "pods", {"metadata": {"name": "mine", "namespace": "research", "labels": {"muster": "yes"}}})
    create(api, "pods", {"metadata": {"name": "mine", "namespace": "elsewhere", "labels": {"muster": "yes"}}})
    listing = await client.list(PODS, "research", label_selector="muster=yes")
    assert [(i["metadata"]["namespace"], i["metadata"]["name"]) for i in listing.items] == [("research", "mine")]
    listing = await client.list(PODS, field_selector="status.phase!=Pending")
    assert listing.items == []


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Answer(404, "NotFound"), NotFound),
        (Answer(401, "Unauthorized"), Unauthorized),
        (Answer(403, "Forbidden"), Invalid),
        (Answer(409, "Conflict"), Conflict),
        (Answer(409, "AlreadyExists"), AlreadyExists),
        (Answer(410, "Expired"), Expired),
        (Answer(422, "Invalid"), Invalid),
        (Answer(429, "TooManyRequests"), TooManyRequests),
        (Answer(500, "InternalError"), ServerError),
        (Answer(504, "Timeout"), ServerError),
        (Drop(), Unreachable),
        (Hang(), Unreachable),
    ],
    ids=str,
)
async def test_every_failure_has_a_name_and_says_what_was_asked(api, client, fault, error):
    api.fault = lambda _: fault
    with pytest.raises(ApiError) as caught:
        await client.get(PODS, "research", "one")
    assert type(caught.value) is error
    assert "GET /api/v1/namespaces/research/pods/one" in str(caught.value)


REPEATED = {
    "get": lambda client: client.get(PODS, "research", "one"),
    "list": lambda client: client.list(PODS),
    "apply": lambda client: client.apply(SERVICES, service(clusterIP="None")),
    "delete": lambda client: client.delete(PODS, "research", "one", only=Only("uid")),
}
FAILURES = [Answer(500), Answer(503), Drop(), Hang()]


@pytest.mark.parametrize("fault", FAILURES, ids=str)
@pytest.mark.parametrize("call", REPEATED.values(), ids=REPEATED)
async def test_what_does_no_harm_is_repeated_until_it_succeeds(api, client, call, fault):
    create(api, "pods", pod())
    api.storage.objects["pods", "research", "one"]["metadata"]["uid"] = "uid"
    api.fault = lambda seen: fault if seen.number < 3 else None
    assert await call(client)
    assert len(api.log) == 3


@pytest.mark.parametrize("fault", FAILURES, ids=str)
async def test_a_create_is_never_repeated_when_it_may_have_been_done(api, client, fault):
    api.fault = lambda _: fault
    with pytest.raises((ServerError, Unreachable)):
        await client.create(PODS, pod())
    assert len(api.log) <= 1  # none where the limit was over before it came to be sent


@pytest.mark.parametrize("fault", [Answer(500), Hang()], ids=str)  # aiohttp itself repeats a PUT that was cut off
async def test_a_replace_is_never_repeated_when_it_may_have_been_done(api, client, fault):
    api.fault = lambda _: fault
    with pytest.raises((ServerError, Unreachable)):
        await client.replace(PODS, pod())
    assert len(api.log) == 1


async def test_a_create_that_was_turned_away_is_repeated_after_the_time_asked_for(api, client):
    api.fault = lambda seen: Answer(429, retry_after="0.2") if seen.number == 1 else None
    made = await client.create(PODS, pod())
    assert made["metadata"]["uid"]
    assert api.log[1].at - api.log[0].at >= 0.2


async def test_a_server_that_wants_too_long_a_wait_is_not_waited_for(api, client):
    api.fault = lambda _: Answer(429, retry_after="60")
    with pytest.raises(TooManyRequests) as caught:
        await client.get(PODS, "research", "one")
    assert caught.value.retry_after == 60
    assert len(api.log) == 1


async def test_a_delete_meets_only_the_object_that_is_meant(api, client):
    made = create(api, "pods", pod())["metadata"]
    with pytest.raises(Conflict):
        await client.delete(PODS, "research", "one", only=Only("another"))
    with pytest.raises(Conflict):
        await client.delete(PODS, "research", "one", only=Only(made["uid"], "1"))
    await client.delete(PODS, "research", "one", only=Only(made["uid"], made["resourceVersion"]))
    assert api.all("pods") == []


async def test_a_delete_leaves_the_grace_or_takes_it_away(api, client):
    for name in ("slow", "now"):
        create(api, "pods", pod(name) | {"spec": {"nodeName": "n1"}})
    uids = {one["metadata"]["name"]: one["metadata"]["uid"] for one in api.all("pods")}
    going = await client.delete(PODS, "research", "slow", only=Only(uids["slow"]))
    assert going["metadata"]["deletionGracePeriodSeconds"] == 30
    await client.delete(PODS, "research", "now", only=Only(uids["now"]), grace_seconds=0)
    assert [one["metadata"]["name"] for one in api.all("pods")] == ["slow"]


async def test_an_apply_removes_what_it_gave_before_and_changes_nothing_when_nothing_differs(api, client):
    await client.apply(SERVICES, service(clusterIP="None", publishNotReadyAddresses=True))
    made = await client.apply(SERVICES, service(clusterIP="None"))
    assert made["spec"] == {"clusterIP": "None"}
    again = await client.apply(SERVICES, service(clusterIP="None"))
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_a_status_is_applied_only_to_the_version_that_was_seen(api, client):
    seen = create(api, "trainingjobs", job())
    meta = {**seen["metadata"]}
    first = await client.apply_status(TRAINING_JOBS, {"metadata": meta, "status": {"phase": "Running", "step": 1}})
    assert first["status"] == {"phase": "Running", "step": 1}
    with pytest.raises(Conflict):
        await client.apply_status(TRAINING_JOBS, {"metadata": meta, "status": {"phase": "Failed"}})
    meta["resourceVersion"] = first["metadata"]["resourceVersion"]
    second = await client.apply_status(TRAINING_JOBS, {"metadata": meta, "status": {"phase": "Failed"}})
    assert second["status"] == {"phase": "Failed"}
    assert second["spec"] == seen["spec"]


async def test_no_more_connections_are_opened_than_allowed(api):
    client = KubernetesClient(api.configuration(), limits=Limits(call=5.0, connections=3))
    create(api, "pods", pod())
    await asyncio.gather(*(client.get(PODS, "research", "one") for _ in range(50)))
    await client.close()
    assert api.most_connections <= 3


async def test_credentials_that_are_no_longer_good_are_read_again(api):
    async def reload():
        return api.configuration("new")

    create(api, "pods", pod())
    api.fault = lambda seen: Answer(401) if seen.who == "old" else None
    client = KubernetesClient(api.configuration("old"), limits=LIMITS, reload=reload)
    assert await client.get(PODS, "research", "one")
    await client.close()
    assert [seen.who for seen in api.log] == ["old", "new"]


async def test_every_call_is_observed(api):
    calls = []
    client = KubernetesClient(api.configuration(), limits=LIMITS, observer=calls.append)
    await client.create(PODS, pod())
    api.fault = lambda seen: Hang() if seen.verb == "get" else None
    with pytest.raises(Unreachable):
        await client.get(PODS, "research", "one")
    await client.close()
    seen = [(call.verb, call.resource, call.code) for call in calls]
    assert seen == [("create", "pods", "200"), *[("get", "pods", "unreachable")] * 3]


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/pods", {}, ("list", "pods")),
        ("GET", "/api/v1/pods", {"watch": "true"}, ("watch", "pods")),
        ("GET", "/api/v1/namespaces/a/pods/b", {}, ("get", "pods")),
        ("GET", "/api/v1/namespaces/a", {}, ("get", "namespaces")),
        ("POST", "/api/v1/namespaces/a/pods", {}, ("create", "pods")),
        ("PATCH", "/apis/muster.dev/v1alpha1/namespaces/a/trainingjobs/b/status", {}, ("apply", "trainingjobs")),
        ("PUT", "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", {}, ("replace", "leases")),
        ("DELETE", "/api/v1/nodes/n", {}, ("delete", "nodes")),
        ("GET", "/apis/muster.dev/v1alpha1", {}, ("get", "discovery")),
        ("GET", "/apis", {}, ("get", "discovery")),
    ],
)
def test_requests_are_called_what_kubernetes_calls_them(method, path, query, expected):
    assert classify(method, path, query) == expected


async def test_whether_something_exists_is_asked_without_reading_it(api, client):
    create(api, "configmaps", {"metadata": {"name": "code", "namespace": "research"}})
    assert await client.exists(CONFIG_MAPS, "research", "code")
    assert not await client.exists(CONFIG_MAPS, "research", "other")
    assert {seen.accept.partition(";")[2].partition(";")[0] for seen in api.log} == {"as=PartialObjectMetadata"}


@pytest.mark.parametrize("code", [400, 403, 422])
async def test_what_is_refused_for_good_is_not_asked_twice(api, client, code):
    api.fault = lambda seen: Answer(code, "Invalid")
    with pytest.raises(Invalid) as refused:
        await client.create(PODS, pod())
    assert refused.value.status == code
    assert len(api.log) == 1


async def test_what_is_asked_beside_does_not_wait_for_the_connections_of_the_rest(api):
    one = KubernetesClient(api.configuration(), limits=Limits(call=5.0, connections=1))
    other = one.beside(connections=1)
    create(api, "configmaps", {"metadata": {"name": "one", "namespace": "research"}})
    api.fault = lambda seen: Hang() if seen.resource == "pods" else None
    waiting = [asyncio.create_task(one.create(PODS, pod())), asyncio.create_task(one.list(CONFIG_MAPS))]
    assert await asyncio.wait_for(other.get(CONFIG_MAPS, "research", "one"), 2)
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await one.close()
    await other.close()
