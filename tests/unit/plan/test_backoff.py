"""Workers that end soon after one another are replaced ever later, and all others at once."""

import pytest

from muster.plan import backoff
from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW, decide, job, names, node, nodes, pod, started


def test_each_waits_twice_as_long_as_the_one_before_up_to_a_limit():
    assert [backoff.pause(times) for times in (0, 1, 2, 3, 4, 7, 8, 9, 99)] == [0, 0, 2, 4, 8, 64, 120, 120, 120]


@pytest.mark.parametrize(("after", "times"), [(0, 4), (63.9, 4), (64.1, 1), (-1, 1)])
def test_what_was_there_for_a_while_begins_anew(after, times):
    assert backoff.in_a_row(3, NOW, NOW + after) == times


def replaced(*at, cause="Rejected"):
    """A job whose rank 1 was replaced so many seconds ago."""
    records = [
        {"attempt": number, "cause": cause, "at": to_timestamp(NOW - seconds), "rank": 1}
        for number, seconds in enumerate(at, 1)
    ]
    return started(job(), attempt=len(at) + 1, restarts=records)


def refused(attempt):
    return pod(1, attempt, phase="Failed", reason="UnexpectedAdmissionError", exit_code=None)


@pytest.mark.parametrize(
    ("at", "left"),
    [((), 0), ((1,), 1), ((2,), 0), ((5, 3), 1), ((20, 15, 7), 1), ((20, 15, 8), 0), ((200, 150, 1), 1), ((90,), 0)],
    ids=str,
)
def test_the_next_is_made_in_time(at, left):
    plan = decide(replaced(*at), pod(0), refused(len(at) + 1), pod(2))
    assert names(plan.creates) == ([] if left else [f"digits-1-{len(at) + 2}"])
    if left:
        assert plan.look_again == left
        assert (plan.status["phase"], plan.status["reason"]) == ("Restarting", "BackOff")
        assert "ended soon after one another: digits-1-" in plan.status["message"]


def test_who_did_not_end_by_itself_is_replaced_at_once():
    gone = decide(replaced(1), pod(0), pod(2))
    assert names(gone.creates) == ["digits-1-3"]
    cut_off = nodes(node("node-1"), node("node-2", ready="Unknown", since=NOW - 100))
    lost = decide(replaced(1), pod(0), pod(1, 2, node="node-2"), pod(2), nodes=cut_off)
    assert names(lost.creates) == ["digits-1-3"]


def test_nor_does_one_wait_for_what_was_deleted_before():
    plan = decide(replaced(1, cause="PodDeleted"), pod(0), refused(2), pod(2))
    assert names(plan.creates) == ["digits-1-3"]
