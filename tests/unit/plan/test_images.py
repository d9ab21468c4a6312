"""After an upgrade that brings another worker image, a group stays one that understands each other."""

import pytest

from tests.unit.plan.fixtures import NOW, SETTINGS, decide, job, node, nodes, pod, report, room, started

BEFORE = "muster-worker:before"
CUT_OFF = node("node-2", ready="Unknown", since=NOW - 1)


def of_before(made):
    made["spec"]["containers"][0]["image"] = BEFORE
    return made


def images(plan):
    return {made["metadata"]["name"]: made["spec"]["containers"][0]["image"] for made in plan.creates}


@pytest.mark.parametrize(
    "lost",
    [pod(1, phase="Failed"), pod(1, node="node-2"), None],
    ids=["failed", "node lost", "gone"],
)
def test_a_successor_has_the_image_of_those_that_it_joins(lost):
    there = [of_before(one) for one in (pod(0), lost, pod(2)) if one]
    plan = decide(started(job()), *there, nodes=nodes(node("node-1"), CUT_OFF))
    assert images(plan) == {"digits-1-2": BEFORE}


def test_an_added_worker_has_the_image_of_those_that_it_joins():
    grown = started(job(elastic={"minReplicas": 2, "maxReplicas": 8}, replicas=4), wantedReplicas=3)
    plan = decide(grown, *(of_before(pod(rank)) for rank in range(3)), reports={"uid-digits-0-1": report()})
    assert images(plan) == {"digits-3-2": BEFORE}


def test_a_gang_that_the_operator_was_lost_in_the_middle_of_is_completed_by_the_image_that_it_was_begun_with():
    plan = decide(job(), of_before(pod(0, phase="Pending")), of_before(pod(2, phase="Pending")))
    assert images(plan) == {"digits-1-1": BEFORE}


def test_when_no_worker_goes_on_the_next_ones_have_the_image_of_now():
    lost = [of_before(pod(rank, phase="Failed")) for rank in range(3)]
    assert set(images(decide(started(job()), *lost)).values()) == {SETTINGS.worker_image}
    suspended = job() | {"status": {"phase": "Suspended", "attempt": 1}}
    resumed = decide(suspended, *lost, capacity=room())
    assert set(images(resumed).values()) == {SETTINGS.worker_image}
