"""How many requests a rollout saw."""

from __future__ import annotations

from typing import Any

from tests.unit.plan.fixtures import NOW
from tests.unit.plan.serving.fixtures import answered, decide, deployment, known, pod, revision

ONE = revision()
NEXT = revision(2, rollout={"restart": "now"})
OLD, NEW = "digits-serve-0-1", "digits-serve-0-2"


def look(status: dict[str, Any], *pods: dict[str, Any], told: dict[str, tuple[int, int]], seconds: float = 0.0) -> Any:
    """The status of a deployment of one group after a look at it. `told`: requests and failures by server."""
    resource = deployment(status, replicas=1, rollout={"restart": "now"})
    reports = {f"uid-{name}": answered(requests=all_, failedRequests=bad) for name, (all_, bad) in told.items()}
    answer = decide(resource, *pods, revisions=(ONE, NEXT), reports=reports, now=NOW + seconds)
    return answer.status if answer.status is not None else status


def begun() -> dict[str, Any]:
    before = known(ONE, madeReplicas=1, attempt=1)
    return look(before, pod(0, 1, ONE), told={OLD: (1000, 7)})


def test_what_was_answered_before_does_not_count():
    rollout = begun()["rollout"]
    assert (rollout["requests"], rollout["failedRequests"]) == (0, 0)
    assert rollout["counted"] == {OLD: {"requests": 1000, "failedRequests": 7}}


def test_what_both_answer_counts_once_and_stays_when_the_rollout_is_over():
    under_way = look(begun(), pod(0, 1, ONE), pod(0, 2, NEXT, ready=False), told={OLD: (1010, 8)}, seconds=11)
    assert (under_way["rollout"]["requests"], under_way["rollout"]["failedRequests"]) == (10, 1)
    both = look(under_way, pod(0, 1, ONE), pod(0, 2, NEXT), told={OLD: (1015, 8), NEW: (5, 0)}, seconds=22)
    over = look(both, pod(0, 2, NEXT), told={NEW: (9, 0)}, seconds=33)
    assert (over["rollout"]["requests"], over["rollout"]["failedRequests"]) == (10 + 5 + 9, 1)
    assert ("finishedAt" in over["rollout"], "counted" in over["rollout"]) == (True, False)
    later = look(over, pod(0, 2, NEXT), told={NEW: (99, 3)}, seconds=44)
    assert (later["rollout"]["requests"], later["rollout"]["failedRequests"]) == (24, 1)


def test_a_process_that_was_started_again_has_begun_anew():
    under_way = look(begun(), pod(0, 1, ONE), pod(0, 2, NEXT, ready=False), told={OLD: (3, 1)}, seconds=11)
    assert (under_way["rollout"]["requests"], under_way["rollout"]["failedRequests"]) == (3, 1)


def test_an_operator_that_has_heard_nobody_yet_counts_nothing_twice_later():
    before = look(begun(), pod(0, 1, ONE), pod(0, 2, NEXT, ready=False), told={OLD: (1010, 8)}, seconds=11)
    taken_over = look(before, pod(0, 1, ONE), pod(0, 2, NEXT, ready=False), told={}, seconds=22)
    assert taken_over["rollout"]["counted"] == {OLD: {"requests": 1010, "failedRequests": 8}}
    later = look(taken_over, pod(0, 1, ONE), pod(0, 2, NEXT, ready=False), told={OLD: (1012, 8)}, seconds=33)
    assert (later["rollout"]["requests"], later["rollout"]["failedRequests"]) == (12, 1)


def test_when_all_that_were_counted_are_gone_no_empty_map_is_said_which_the_api_server_would_make_null():
    before = look(begun(), pod(0, 1, ONE), pod(0, 2, NEXT, ready=False), told={OLD: (1010, 8)}, seconds=11)
    gone = look(before, pod(0, 2, NEXT, ready=False), told={}, seconds=22)
    assert ("counted" in gone["rollout"], gone["rollout"]["requests"]) == (False, 10)


def test_of_servers_that_do_not_tell_nothing_is_said():
    before = known(ONE, madeReplicas=1, attempt=1)
    resource = deployment(before, replicas=1, rollout={"restart": "now"})
    answer = decide(resource, pod(0, 1, ONE), revisions=(ONE,))
    assert "requests" not in answer.status["rollout"]
