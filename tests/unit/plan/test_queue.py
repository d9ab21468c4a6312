"""Who is admitted: by priority and age, with backfill, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from muster.plan import queue
from muster.plan.model import Admission, Demand, Reference
from tests.unit.plan.fixtures import NOW, node, room


def gang(workers: int, gpus: int = 1, age: float = 10, priority: str | None = None, **more) -> Demand:
    spec = {"containers": [{"name": "worker", "resources": {"limits": {"nvidia.com/gpu": gpus}}}]}
    fields = {"name": "research/job", "least": workers} | more
    return Demand(pods=(spec,) * workers, since=NOW - age, priority_class=priority, **fields)


def admit(demands, capacity, missing=None):
    priorities = queue.Priorities({"high": 1000, "low": -10})
    return queue.admit(demands, missing or {}, capacity, priorities, NOW)


def granted(demands, capacity):
    answers, _ = admit(demands, capacity)
    return sorted(key for key, answer in answers.items() if answer.granted)


FOUR = room(of=(node(),))


@pytest.mark.parametrize(
    ("demands", "first"),
    [
        ({"old": gang(4, age=20), "new": gang(4, age=10)}, ["old"]),
        ({"old": gang(4, age=20), "new": gang(4, age=10, priority="high")}, ["new"]),
        ({"old": gang(4, age=20, priority="low"), "new": gang(4)}, ["new"]),
        ({"big": gang(5, age=20), "small": gang(2)}, ["small"]),
        ({"big": gang(3, age=20), "other": gang(3), "small": gang(1)}, ["big", "small"]),
        ({"a": gang(2), "b": gang(2), "c": gang(1, age=5)}, ["a", "b"]),
    ],
    ids=["age", "priority before age", "low priority", "what never fits holds up nobody", "backfill", "all that fits"],
)
def test_the_order_of_admission(demands, first):
    assert granted(demands, FOUR) == first


TAKEN = room(
    {"metadata": {"name": "other"}, "spec": gang(1, gpus=3).pods[0] | {"nodeName": "node-1"}, "status": {}},
    of=(node("node-1"), node("node-2")),
)


def test_who_has_waited_for_long_holds_the_room_that_there_is_for_it():
    waits = {"big": gang(8, age=queue.HOLDS_AFTER, name="research/big"), "small": gang(2)}
    answers, left = admit(waits, TAKEN)
    assert not answers["big"].granted
    assert answers["small"].reason == "Queued"
    assert "kept for research/big" in answers["small"].message
    assert left.place(gang(5).pods)[0] == 5, "held is not taken"


def test_before_that_others_may_go_past_it():
    assert granted({"big": gang(8, age=queue.HOLDS_AFTER - 1), "small": gang(2)}, TAKEN) == ["small"]


WORKER = {"name": "worker"}


@pytest.mark.parametrize(
    "malformed",
    [
        {"containers": [WORKER, {"name": "beside", "resources": {"limits": {"memory": "1Gib"}}}]},
        {"containers": [WORKER], "initContainers": "none"},
        {"containers": [WORKER], "nodeSelector": "gpu"},
        {"containers": [WORKER], "affinity": ["node-1"]},
        {"containers": [WORKER], "overhead": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("capacity", [FOUR, TAKEN.place(gang(5).pods)[1]], ids=["room", "none"])
def test_pods_that_nobody_understands_are_left_to_the_api_server_and_hold_up_nobody(malformed, capacity):
    odd = replace(gang(1), pods=(malformed,), least=1)
    answers, left = admit({"odd": odd, "sound": gang(2)}, capacity)
    assert (answers["odd"].granted, answers["odd"].pods) == (True, 1)
    assert answers["sound"].granted == (capacity is FOUR)
    assert queue.taken(odd, left, None).free == left.free, "nothing of it is held"


def test_the_answers_say_what_was_wanted_and_what_is_missing():
    answers, _ = admit({"wide": gang(6), "huge": gang(1, gpus=9)}, TAKEN)
    assert answers["wide"].reason == "InsufficientCapacity"
    assert answers["wide"].message == "wanted: 6 workers (1 nvidia.com/gpu each); room now: 5, so none was started"
    assert answers["huge"].reason == "NeverFits"


def test_the_answers_tell_servers_from_workers():
    server = gang(1, gpus=0).pods
    answers, _ = admit({"huge": replace(gang(2, gpus=9), pods=(*server, *gang(2, gpus=9).pods))}, TAKEN)
    wanted = "wanted: 1 server (nothing in particular each) and 2 workers (9 nvidia.com/gpu each); even with"
    assert answers["huge"].message.startswith(wanted)


def test_what_a_job_names_and_is_not_there_keeps_it_waiting_and_holds_up_nobody():
    claim = Reference("PersistentVolumeClaim", "models", "spec.storage.persistentVolumeClaim.claimName")
    answers, _ = admit({"old": gang(4, age=20), "new": gang(4)}, FOUR, missing={"old": [claim]})
    assert answers["new"].granted
    assert answers["old"].reason == "PersistentVolumeClaimNotFound"
    assert answers["old"].message == (
        "spec.storage.persistentVolumeClaim.claimName: there is no PersistentVolumeClaim models: create it"
    )


def test_without_a_gang_the_scheduler_decides():
    answers, _ = admit(
        {"loose": gang(100, uncounted=Admission(granted=True, reason="NotGanged", message="as they are placed"))}, FOUR
    )
    assert (answers["loose"].granted, answers["loose"].reason) == (True, "NotGanged")


def test_an_elastic_job_starts_with_as_many_as_there_is_room_for():
    answers, left = admit({"elastic": gang(8, least=2), "other": gang(1)}, FOUR)
    assert answers["elastic"].granted
    assert answers["elastic"].message == "there is room for 4 of 8 workers (1 nvidia.com/gpu each)"
    assert not answers["other"].granted
    assert left.place(gang(1).pods)[0] == 0
    assert not admit({"elastic": gang(8, least=5)}, FOUR)[0]["elastic"].granted


demands = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.builds(
        gang,
        workers=st.integers(1, 6),
        gpus=st.integers(0, 5),
        age=st.floats(0, 1000),
        priority=st.sampled_from([None, "high", "low"]),
        name=st.sampled_from(["x", "y"]),
    ),
    max_size=8,
)
clusters = st.lists(st.integers(0, 8), min_size=1, max_size=4).map(
    lambda gpus: room(of=tuple(node(f"n{number}", gpus=count) for number, count in enumerate(gpus)))
)


@settings(max_examples=500)
@given(demands, clusters)
def test_what_is_admitted_together_fits_together_and_nobody_is_admitted_in_part(waiting, capacity):
    answers, left = admit(waiting, capacity)
    assert answers.keys() == waiting.keys()
    event(f"{sum(answer.granted for answer in answers.values())} admitted")
    taken = [spec for key, answer in answers.items() if answer.granted for spec in waiting[key].pods]
    for free in left.free.values():
        assert all(amount >= 0 for amount in free.values())
    gpus = sum(spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] for spec in taken)
    before, after = (sum(free["nvidia.com/gpu"] for free in one.free.values()) for one in (capacity, left))
    assert before - after == gpus


@settings(max_examples=500)
@given(demands, clusters)
def test_nobody_who_waits_fits_into_what_is_left_unless_another_holds_it(waiting, capacity):
    answers, left = admit(waiting, capacity)
    for key, answer in answers.items():
        if not answer.granted and answer.reason != "Queued":
            assert left.place(waiting[key].pods)[0] < len(waiting[key].pods)


@settings(max_examples=300)
@given(demands, clusters, st.data())
def test_of_two_that_ask_for_the_same_the_first_in_line_is_first(waiting, capacity, data):
    if not waiting:
        return
    key = data.draw(st.sampled_from(sorted(waiting)))
    twin = waiting[key]
    later = gang(len(twin.pods), twin.pods[0]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], age=-1)
    answers, _ = admit(waiting | {"later": later}, capacity)
    if answers["later"].granted and twin.priority_class != "low":
        assert answers[key].granted
