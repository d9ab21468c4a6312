"""When a changed status is written."""

from __future__ import annotations

from typing import Any

from muster.plan.timestamps import to_timestamp
from tests.unit.plan.fixtures import NOW
from tests.unit.plan.serving.fixtures import answered, decide, deployment, known, pod, revision

ONE = revision()
PODS = (pod(0, 1, ONE), pod(1, 2, ONE))


def reports(**state: Any) -> dict[str, Any]:
    return {f"uid-digits-serve-{name}": answered(**state) for name in ("0-1", "1-2")}


def look(status: dict[str, Any], *pods: dict[str, Any], seconds: float = 0.0, **more: Any) -> Any:
    return decide(deployment(status), *(pods or PODS), revisions=(ONE,), now=NOW + seconds, **more)


def test_measurements_alone_are_written_every_ten_seconds():
    first = look(known(ONE), reports=reports()).status
    assert first["measuredAt"] == to_timestamp(NOW)
    busier = reports(requestsPerSecond=11.0)
    soon = look(first, reports=busier, seconds=4)
    assert (soon.status, soon.look_again) == (None, 6.0)
    assert look(first, reports=busier, seconds=10).status["metrics"]["requestsPerSecond"] == "22"


def test_counts_alone_are_written_every_other_second():
    first = look(known(ONE), pod(0, 1, ONE, ready=False), PODS[1]).status
    assert (first["readyReplicas"], first["phase"]) == (1, "Degraded")
    none = (pod(0, 1, ONE, ready=False), pod(1, 2, ONE, deleting=True), pod(1, 3, ONE, ready=False))
    still_one = {**first, "readyReplicas": 2, "ready": "2/2", "message": "2 of 2 groups answer"}
    soon = look(still_one, pod(0, 1, ONE, ready=False), PODS[1], seconds=1)
    assert (soon.status, soon.look_again) == (None, 1.0)
    later = look(still_one, pod(0, 1, ONE, ready=False), PODS[1], seconds=2)
    assert later.status["readyReplicas"] == 1
    assert look(first, *none).status["conditions"] != first["conditions"], "that nobody answers is said at once"


def test_a_clock_that_went_back_puts_nothing_off():
    first = look(known(ONE), reports=reports()).status
    assert look(first, reports=reports(requestsPerSecond=11.0), seconds=-60).status is not None


def test_an_operator_that_starts_has_nothing_new_to_say():
    first = look(known(ONE), reports=reports()).status
    assert look(first, seconds=60).status is None
    assert look(first, reports={"uid-digits-serve-0-1": answered()}, seconds=60).status is None
