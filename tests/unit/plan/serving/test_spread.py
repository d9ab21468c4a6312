"""Over which parts of the cluster the groups are spread."""

from __future__ import annotations

import pytest

from tests.unit.plan.serving.fixtures import decide, deployment

NODES, ZONES = "kubernetes.io/hostname", "topology.kubernetes.io/zone"


@pytest.mark.parametrize(
    ("spread", "key", "unsatisfiable"),
    [
        ({}, NODES, "ScheduleAnyway"),
        ({"spread": {}}, ZONES, "ScheduleAnyway"),
        ({"spread": {"topologyKey": ZONES, "policy": "Prefer"}}, ZONES, "ScheduleAnyway"),
        ({"spread": {"policy": "Require"}}, ZONES, "DoNotSchedule"),
        ({"spread": {"topologyKey": "rack"}}, "rack", "ScheduleAnyway"),
    ],
    ids=str,
)
def test_nodes_unless_something_is_said_and_then_zones_unless_another_label_is(spread, key, unsatisfiable):
    first, *_ = decide(deployment(**spread)).creates
    (constraint,) = first["spec"]["topologySpreadConstraints"]
    assert (constraint["topologyKey"], constraint["whenUnsatisfiable"]) == (key, unsatisfiable)
