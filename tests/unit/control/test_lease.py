"""At most one writes: by the election's own rules, and as the API server saw two operators do it."""

from __future__ import annotations

import itertools

import pytest

from muster.client import PODS, Only
from muster.control.kinds import TRAINING_JOBS
from muster.control.lease import Elector, Fence, FencedClient, LeaseTimes, NotLeading
from muster.plan.model import Plan
from tests.unit.control.fake_api import Answer, Drop, FakeApi, Hang
from tests.unit.control.harness import QUICK, create, job, operator, until


@pytest.fixture
async def api():
    async with FakeApi() as one:
        yield one


def restless():
    """A planner that has something to write whenever it is asked, fifty times a second."""
    count = itertools.count()
    return lambda *_: Plan(status={"count": next(count)}, look_again=0.02)


def lease(api) -> dict:
    found = api.storage.objects.get(("leases", "muster-system", "muster"))
    return found["spec"] if found else {}


def workers(api) -> list[str]:
    """Who worked, in the order in which the server took it: each once for every unbroken turn."""
    return [who for who, _ in itertools.groupby(seen.who for seen in api.work() if seen.code == 200)]


async def worked(api, who: str, times: int = 3) -> None:
    begun = sum(seen.who == who for seen in api.work())
    await until(lambda: sum(seen.who == who and seen.code == 200 for seen in api.work()) >= begun + times)


async def test_of_two_operators_one_works_and_the_other_is_ready(api):
    create(api, "trainingjobs", job())
    async with operator(api, restless(), who="a") as first:
        await worked(api, "a")
        async with operator(api, restless(), who="b") as second:
            await worked(api, "a", 20)
            assert (first.leading, second.leading) == (True, False)
            assert second.synced
            assert second.store.count(TRAINING_JOBS) == 1
    assert workers(api) == ["a"]


async def test_one_that_stops_gives_the_lease_up_and_the_other_takes_it(api):
    create(api, "trainingjobs", job())
    api.fault = lambda seen: Answer(500) if seen.who == "b" and seen.resource == "leases" else None
    # The second one is started first: kopf, at its end, cancels whatever was started in its loop after it.
    async with operator(api, restless(), who="b"):
        async with operator(api, restless(), who="a"):
            await worked(api, "a")
            api.fault = lambda _: None
        await worked(api, "b")
    assert workers(api) == ["a", "b"]
    leases = (change.object["spec"] for change in api.storage.history if change.plural == "leases")
    holders = [holder for holder, _ in itertools.groupby(spec["holderIdentity"] for spec in leases)]
    assert holders == ["a", "", "b", ""]


@pytest.mark.parametrize("cut", [Drop(), Hang()], ids=["cut off", "unanswered"])
async def test_one_that_is_cut_off_stops_and_another_takes_over_and_they_never_both_work(api, cut):
    """What kill -9 and a lost network look like to the server: nothing is heard of the first any more."""
    create(api, "trainingjobs", job())
    async with operator(api, restless(), who="a") as first, operator(api, restless(), who="b"):
        await until(lambda: workers(api))
        leader = workers(api)[0]
        api.fault = lambda seen: cut if seen.who == leader else None
        other = {"a": "b", "b": "a"}[leader]
        await worked(api, other)
        assert first.leading == (leader == "b")
    assert workers(api) == [leader, other]


@pytest.mark.parametrize("fault", [Answer(500), Hang(), Drop(), Answer(429, retry_after="1")], ids=str)
async def test_one_whose_renewals_fail_stops_before_the_lease_is_over(api, fault):
    """Only its lease is out of reach: every other call would succeed, and it must not make any."""
    create(api, "trainingjobs", job())
    async with operator(api, restless(), who="a") as first:
        await worked(api, "a")
        renewed = [seen.at for seen in api.log if seen.resource == "leases" and seen.is_write][-1]
        api.fault = lambda seen: fault if seen.resource == "leases" and seen.who == "a" else None
        async with operator(api, restless(), who="b"):
            await until(lambda: not first.leading)
            await worked(api, "b")
            last = [seen.at for seen in api.work() if seen.who == "a"][-1]
            assert last < renewed + QUICK.lasts
            api.fault = lambda _: None
            await worked(api, "b", 10)
            assert not first.leading
    assert workers(api) == ["a", "b"]


async def test_a_leader_that_finds_the_lease_in_other_hands_stops(api):
    create(api, "trainingjobs", job())
    async with operator(api, restless(), who="a") as first:
        await worked(api, "a")
        identity = ("leases", "muster-system", "muster")
        stolen = lease(api) | {"holderIdentity": "someone"}
        api.storage.modify(*identity, spec=stolen)
        await until(lambda: not first.leading)
        before = len(api.work())
        await until(lambda: sum(seen.resource == "leases" for seen in api.log[-5:]) >= 2)
        assert len(api.work()) <= before + 1, "more than what was on its way"
        await until(lambda: first.leading, "the thief never renews")
        await worked(api, "a")


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def electors(api, client, *names):
    time = Time()
    times = LeaseTimes(lasts=10, writes=8.0, renew_every=2.0, call=2.0)
    made = []
    for name in names:
        fence = Fence(time)
        elector = Elector(
            client, fence, namespace="muster-system", name="muster", identity=name, times=times, clock=time
        )
        made.append((elector, fence))
    return time, made


@pytest.fixture
async def client(api):
    from muster.client import KubernetesClient, Limits

    one = KubernetesClient(api.configuration(), limits=Limits(call=0.3, attempts=1))
    yield one
    await one.close()


async def test_a_lease_is_taken_only_after_it_was_seen_unchanged_for_as_long_as_it_lasts(api, client):
    time, [(first, fence), (second, other)] = electors(api, client, "a", "b")
    await first._round()
    assert fence.seconds_left == 8.0
    await second._round()
    time.now += 10.0
    assert not fence.is_open, "the leader stopped two seconds before anyone may take over"
    await second._round()
    assert not other.is_open
    time.now += 0.1
    await second._round()
    assert other.is_open
    assert lease(api)["holderIdentity"] == "b"


async def test_a_renewal_in_between_makes_the_others_wait_from_the_start(api, client):
    time, [(first, _), (second, other)] = electors(api, client, "a", "b")
    await first._round()
    await second._round()
    for _ in range(10):
        time.now += 5.0
        await first._round()
        await second._round()
    assert not other.is_open


async def test_the_time_to_write_counts_from_before_the_renewal_was_sent(api, client):
    time, [(first, fence)] = electors(api, client, "a")

    def slow(seen):
        time.now += 1.5

    api.fault = slow
    await first._round()
    assert fence.seconds_left < 8.0 - 1.4


async def test_a_write_that_outlasts_the_lease_is_given_up(api, client):
    fence = Fence()
    fenced = FencedClient(client, fence)
    api.fault = lambda _: Hang()
    fence.open_until(fence._clock() + 0.1)
    with pytest.raises(NotLeading):
        await fenced.create(PODS, {"metadata": {"name": "p", "namespace": "research"}})
    assert len(api.log) == 1


async def test_without_the_lease_nothing_is_written_but_everything_read(api, client):
    create(api, "pods", {"metadata": {"name": "p", "namespace": "research"}})
    fenced = FencedClient(client, Fence())
    manifest = {"metadata": {"name": "p", "namespace": "research"}}
    for call in (
        fenced.create(PODS, manifest),
        fenced.replace(PODS, manifest),
        fenced.apply(PODS, manifest),
        fenced.apply_status(PODS, manifest),
        fenced.delete(PODS, "research", "p", only=Only("uid")),
    ):
        with pytest.raises(NotLeading):
            await call
    assert (await fenced.get(PODS, "research", "p"))["metadata"]["name"] == "p"
    assert len((await fenced.list(PODS)).items) == 1
    assert api.writes() == []


@pytest.mark.parametrize(
    "times", [{"writes": 10.0}, {"renew_every": 7.0}, {"call": 6.0}, {"renew_every": 0.0, "call": 0.0}], ids=str
)
def test_times_that_could_lose_or_share_the_lease_are_refused(times):
    with pytest.raises(ValueError, match="wanted: renew_every"):
        LeaseTimes(**times)
