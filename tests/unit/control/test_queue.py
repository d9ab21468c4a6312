"""The queue, against a model of it, under every order of calls."""

from __future__ import annotations

import asyncio

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.control.queue import WorkQueue

KEYS = st.sampled_from("abcd")


class Clock:
    """Time that passes when told to, and the timers set on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, object, object]] = []

    def call_later(self, delay, callback):
        timer = (self.now + delay, callback, object())
        self.timers.append(timer)
        clock = self

        class Handle:
            def cancel(self) -> None:
                clock.timers = [one for one in clock.timers if one is not timer]

        return Handle()

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [one for one in self.timers if one[0] <= until]:
            first = min(due, key=lambda one: one[0])
            self.timers.remove(first)
            self.now = first[0]
            first[1]()
        self.now = until


class Queueing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.queue = WorkQueue(clock=lambda: self.clock.now, call_later=self.clock.call_later, longest_delay=10.0)
        self.wanted: set[str] = set()  # to be worked on now
        self.working: set[str] = set()
        self.later: dict[str, float] = {}
        self.failures: dict[str, int] = {}

    @rule(key=KEYS)
    def add(self, key):
        self.queue.add(key)
        self.wanted.add(key)

    @rule(key=KEYS, delay=st.floats(0.01, 20.0))
    def add_after(self, key, delay):
        self.queue.add_after(key, delay)
        due = self.clock.now + delay
        self.later[key] = min(due, self.later.get(key, due))

    @rule(key=KEYS)
    def fail(self, key):
        delay = self.queue.add_failed(key)
        failures = self.failures.get(key, 0)
        assert delay == min(10.0, 0.05 * 2**failures)
        self.failures[key] = failures + 1
        due = self.clock.now + delay
        self.later[key] = min(due, self.later.get(key, due))

    @rule(key=KEYS)
    def forget(self, key):
        self.queue.forget(key)
        self.failures.pop(key, None)

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds):
        self.clock.advance(seconds)
        for key, due in list(self.later.items()):
            if due <= self.clock.now:
                del self.later[key]
                self.wanted.add(key)

    @precondition(lambda self: self.wanted - self.working)
    @rule()
    def take(self):
        key = self.queue.take()
        assert key in self.wanted
        assert key not in self.working, "one key is never worked on twice at once"
        self.wanted.discard(key)
        self.working.add(key)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def done(self, data):
        key = data.draw(st.sampled_from(sorted(self.working)))
        self.queue.done(key)
        self.working.discard(key)

    @invariant()
    def whatever_is_wanted_and_not_worked_on_waits_once(self):
        assert len(self.queue) == len(self.wanted - self.working)
        assert {key: self.queue.failures(key) for key in "abcd"} == {key: self.failures.get(key, 0) for key in "abcd"}

    @invariant()
    def no_key_has_two_timers(self):
        assert len(self.clock.timers) == len(self.later)


TestQueueing = Queueing.TestCase
TestQueueing.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


async def test_getters_share_what_comes_and_each_key_goes_to_one():
    queue: WorkQueue[int] = WorkQueue()
    taken: list[int] = []

    async def worker() -> None:
        while True:
            key = await queue.get()
            taken.append(key)
            queue.done(key)

    tasks = [asyncio.create_task(worker()) for _ in range(4)]
    for key in range(100):
        queue.add(key)
    queue.add_after(100, 0.01)
    async with asyncio.timeout(5):
        while len(taken) < 101:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert sorted(taken) == list(range(101))
    for task in tasks:
        task.cancel()


async def test_a_closed_queue_adds_nothing_by_itself_any_more():
    clock = Clock()
    queue: WorkQueue[str] = WorkQueue(clock=lambda: clock.now, call_later=clock.call_later)
    queue.add_after("a", 1.0)
    queue.close()
    clock.advance(10.0)
    assert len(queue) == 0
