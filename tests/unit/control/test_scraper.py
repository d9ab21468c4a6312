"""The scraper against agents on loopback: pace, budget, silence, and what counts as news."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from dataclasses import replace

import pytest
from aiohttp import web

from muster.control.kinds import TRAINING_JOBS, Controlled, Key
from muster.control.observability import Metrics
from muster.control.scraper import Scraper, news
from muster.control.store import Store
from muster.plan.model import Plan, Target
from tests.unit.control.harness import job, until

KEY = Key("TrainingJob", "research", "digits")


class Agent:
    """Answers /state with whatever it is set to."""

    def __init__(self) -> None:
        self.state: object = {"step": 1}
        self.raw: bytes | None = None
        self.status = 200
        self.hangs = False
        self.asked = 0
        self.told: dict[str, list[str]] = {}
        self.connections: set[object] = set()
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.connections.add(request.transport)
        self.told = {name: request.query.getall(name) for name in request.query}
        if self.hangs:
            await asyncio.Event().wait()
        if self.status == 302:
            raise web.HTTPFound(f"http://127.0.0.1:{self.port}/elsewhere")
        if self.raw is not None:
            return web.Response(body=self.raw)
        return web.json_response(self.state, status=self.status)


@contextlib.asynccontextmanager
async def listening():
    one = Agent()
    app = web.Application()
    app.router.add_get("/state", one.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    one.port = runner.addresses[0][1]
    yield one
    await runner.cleanup()


@pytest.fixture
async def agent():
    async with listening() as one:
        yield one


@contextlib.asynccontextmanager
async def scraping(**options):
    store = Store([Controlled(TRAINING_JOBS, lambda *_: Plan())])
    enqueued: list[Key] = []
    scraper = Scraper(store, enqueued.append, Metrics(), **({"interval": 0.05, "limit": 0.2} | options))
    await scraper.open()
    tasks = [asyncio.create_task(loop) for loop in scraper.loops()]
    try:
        yield scraper, store, enqueued
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await scraper.close()


def target(agent: Agent, uid: str = "u1") -> Target:
    return Target(uid, "127.0.0.1", agent.port)


async def test_an_agent_is_asked_again_and_again_over_one_connection(agent):
    async with scraping() as (scraper, store, enqueued):
        scraper.ask(KEY, [target(agent)])
        await until(lambda: agent.asked >= 5)
        assert store.report("u1").state == {"step": 1}
        assert store.report("u1").silent_since is None
        assert enqueued == [KEY], "once, for the first answer; the same again is no news"
        assert len(agent.connections) == 1


async def test_only_what_is_new_sets_the_resource_in_motion(agent):
    async with scraping() as (scraper, store, enqueued):
        scraper.ask(KEY, [target(agent)])
        await until(lambda: enqueued == [KEY])
        agent.state = {"step": 1, "at": 5.0}
        await until(lambda: store.report("u1").state == {"step": 1, "at": 5.0})
        assert enqueued == [KEY]
        agent.state = {"step": 2}
        await until(lambda: enqueued == [KEY, KEY])


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ({"at": 1}, {"at": 2}, False),
        ({"progress": {"at": 1, "firstStepAt": 3}}, {"progress": {"at": 2, "firstStepAt": 4}}, False),
        ({"members": [{"rank": 1, "silentSeconds": 0.1}]}, {"members": [{"rank": 1, "silentSeconds": 2}]}, False),
        ({"members": [{"rank": 1}]}, {"members": [{"rank": 1}, {"rank": 2}]}, True),
        ({"restarts": [{"recoverySeconds": None}]}, {"restarts": [{"recoverySeconds": 2.2}]}, True),
        ({"phase": "Running"}, {"phase": "Restarting"}, True),
        (None, {}, True),
    ],
)
def test_times_are_no_news(before, after, new):
    assert (news(before) != news(after)) == new


BROKEN = {
    "hangs": {"hangs": True},
    "answers 500": {"status": 500},
    "sends elsewhere": {"status": 302},
    "answers with something else": {"raw": b"<html>"},
    "answers with a list": {"state": [1]},
    "answers with lists in lists": {"raw": b'{"a": ' + b"[" * 700 + b"]" * 700 + b"}"},
    "answers with more of them": {"raw": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"},
    "answers without end": {"raw": b'{"a": "' + b"x" * (2 << 20) + b'"}'},
}


@pytest.mark.parametrize("how", BROKEN.values(), ids=BROKEN)
async def test_an_agent_that_does_not_answer_with_a_state_is_silent_since_the_first_time(agent, how):
    async with scraping() as (scraper, store, enqueued):
        scraper.ask(KEY, [target(agent)])
        await until(lambda: enqueued == [KEY])
        for name, value in how.items():
            setattr(agent, name, value)
        await until(lambda: store.report("u1").silent_since)
        since, asked = store.report("u1").silent_since, agent.asked
        await until(lambda: agent.asked >= asked + 2)
        assert store.report("u1").silent_since == since
        assert store.report("u1").state == {"step": 1}, "what it said last is still known"
        assert enqueued == [KEY, KEY]
        vars(agent).update(status=200, raw=None, hangs=False, state={"step": 1})
        await until(lambda: store.report("u1").silent_since is None)
        assert enqueued == [KEY, KEY, KEY]


@pytest.mark.parametrize("alone", [True, False])
async def test_when_nobody_had_answered_it_is_known_once_somebody_does(agent, alone):
    async with scraping() as (scraper, store, _), listening() as another:
        store.put(TRAINING_JOBS, {**job(), "metadata": {**job()["metadata"], "uid": "j1", "resourceVersion": "1"}})
        asked = [target(agent), target(agent, "u2")] + ([] if alone else [target(another, "u3")])
        scraper.ask(KEY, asked)
        await until(lambda: all(store.report(one.pod_uid) for one in asked))
        agent.hangs = True
        await until(lambda: all(store.report(uid).silent_since is not None for uid in ("u1", "u2")))
        since = store.report("u1").received_at
        agent.hangs = False
        await until(lambda: all(store.report(uid).silent_since is None for uid in ("u1", "u2")))
        began, ended = store.observe(KEY).unheard
        assert (began >= since and ended - began >= 0.2) if alone else (began, ended) == (0.0, 0.0)


async def test_once_nobody_is_asked_nobody_is_known_to_be_silent(agent):
    async with scraping() as (scraper, store, _):
        agent.hangs = True
        scraper.ask(KEY, [target(agent)])
        await until(lambda: store.report("u1") is not None)
        scraper.forget_all()
        assert store.report("u1") is None


async def test_an_agent_that_never_answered_is_reported_so(agent):
    async with scraping(now=lambda: 1000.0) as (scraper, store, enqueued):
        scraper.ask(KEY, [Target("u1", "127.0.0.1", 1)])
        await until(lambda: enqueued == [KEY])
        report = store.report("u1")
        assert (report.state, report.received_at, report.silent_since) == (None, 1000.0, 1000.0)


async def test_who_is_no_longer_named_is_no_longer_asked(agent):
    async with scraping() as (scraper, store, _):
        other = Key("TrainingJob", "research", "other")
        scraper.ask(KEY, [target(agent, "u1"), target(agent, "u2")])
        scraper.ask(other, [target(agent, "u3")])
        await until(lambda: store.report("u3") and store.report("u2"))
        scraper.ask(KEY, [target(agent, "u2")])
        scraper.forget(other)
        seen = {uid: store.report(uid).received_at for uid in ("u1", "u2", "u3")}
        await until(lambda: store.report("u2").received_at > seen["u2"] + 0.2)
        assert store.report("u1").received_at == seen["u1"]
        assert store.report("u3").received_at == seen["u3"]
        scraper.forget_all()
        assert scraper._owner == {}


async def test_who_says_the_same_again_and_again_is_asked_less_often(agent):
    async with scraping() as (scraper, _, _):
        scraper.ask(KEY, [target(agent)])
        await until(lambda: agent.asked >= 4)
        assert scraper._pause(target(agent)) >= 4 * scraper.interval
        assert scraper._pause(replace(target(agent), steady=True)) == scraper.interval
        agent.state = {"step": 2}
        await until(lambda: scraper._unchanged.get("u1", 0) <= 1)


async def test_a_word_is_given_at_once_and_with_it_which_pods_are_no_more(agent):
    async with scraping(interval=30.0) as (scraper, store, _):
        scraper.ask(KEY, [target(agent)])
        await until(lambda: store.report("u1"))
        scraper.ask(KEY, [replace(target(agent), word="d-1/3f", gone=("digits-1-1", "digits-2-1"))])
        await until(lambda: agent.told == {"word": ["d-1/3f"], "gone": ["digits-1-1", "digits-2-1"]})


async def test_who_is_waited_for_is_asked_at_the_shortest_interval_beside_any_number_of_others(agent):
    async with scraping(interval=0.02, budget=100.0) as (scraper, _, _):
        for number in range(400):
            scraper.ask(Key("TrainingJob", "research", f"other-{number}"), [target(agent, f"other-{number}")])
        scraper.ask(KEY, [target(agent)])
        assert scraper.interval == pytest.approx(4.01)
        await until(lambda: agent.asked >= 401)
        scraper.ask(KEY, [replace(target(agent), eager=True)])
        asked = agent.asked
        await until(lambda: agent.asked >= asked + 10, limit=3)
        assert scraper.interval == pytest.approx(8.0)


async def test_eager_targets_share_half_of_the_budget(agent):
    async with scraping(interval=0.01, budget=100.0) as (scraper, _, _):
        for number in range(100):
            one = replace(target(agent, f"u{number}"), eager=number % 2 == 0)
            scraper.ask(Key("TrainingJob", "research", f"job-{number}"), [one])
        assert scraper.interval == pytest.approx(1.0)
        await until(lambda: agent.asked >= 100)
        asked = agent.asked
        await asyncio.sleep(1.0)
        assert agent.asked - asked <= 130


async def test_many_targets_stretch_the_interval_and_share_the_budget_evenly(agent):
    counts: collections.Counter[str] = collections.Counter()
    async with scraping(interval=0.01, budget=100.0) as (scraper, store, _):
        put = store.put_report
        store.put_report = lambda uid, report: (counts.update([uid]), put(uid, report))
        scraper.ask(KEY, [target(agent, f"u{number}") for number in range(50)])
        assert scraper.interval == 0.5
        loop = asyncio.get_running_loop()
        started = loop.time()
        await until(lambda: sum(counts.values()) >= 200)
        rate = sum(counts.values()) / (loop.time() - started)
    assert rate < 150, "the first question comes at once, and 100 a second from then on"
    assert max(counts.values()) - min(counts.values()) <= 2


async def test_asking_for_the_same_again_changes_nothing(agent):
    async with scraping(interval=0.2) as (scraper, store, _):
        scraper.ask(KEY, [target(agent)])
        await until(lambda: store.report("u1"))
        for _ in range(50):
            scraper.ask(KEY, [target(agent)])
            scraper.forget(KEY)
            scraper.ask(KEY, [target(agent)])
        asked = agent.asked
        await until(lambda: agent.asked > asked)
        assert len(scraper._due) <= 1
