"""Over which parts of the cluster the groups are spread, and where the pods of each are."""

from __future__ import annotations

import pytest

from muster.plan.model import Admission
from muster.plan.pods import ATTEMPT
from muster.plan.serving.identity import GROUP
from tests.unit.plan.serving.fixtures import decide, deployment

ROOM = Admission(granted=True, reason="Admitted", message="there is room", pods=4)
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


def preferred(pod, kind):
    """(topology key, labels wanted of the pods there, groups that they are not of) of each preference."""
    found = []
    for one in pod["spec"]["affinity"][kind]["preferredDuringSchedulingIgnoredDuringExecution"]:
        selector = one["podAffinityTerm"]["labelSelector"]
        not_of = [value for term in selector.get("matchExpressions", []) for value in term["values"]]
        found.append((one["podAffinityTerm"]["topologyKey"], selector["matchLabels"], not_of))
    return found


@pytest.mark.parametrize(
    ("spread", "keys"),
    [({}, [NODES]), ({"spread": {}}, [ZONES, NODES]), ({"spread": {"topologyKey": NODES}}, [NODES])],
    ids=str,
)
def test_the_pods_of_a_group_are_together_and_away_from_other_groups(spread, keys):
    pods = decide(deployment(replicas=2, group={"size": 2}, **spread), admission=ROOM).creates
    assert len(pods) == 4
    for pod in pods:
        labels = pod["metadata"]["labels"]
        together, away = preferred(pod, "podAffinity"), preferred(pod, "podAntiAffinity")
        assert [key for key, _, _ in together] == [key for key, _, _ in away] == keys
        for _, wanted, _ in together:
            others = [one for one in pods if wanted.items() <= one["metadata"]["labels"].items()]
            assert {one["metadata"]["labels"][GROUP] for one in others} == {labels[GROUP]}
            assert len(others) == 2
            assert wanted[ATTEMPT] == labels[ATTEMPT], "it does not follow those in whose place it is made"
        for _, wanted, not_of in away:
            assert wanted.items() <= labels.items()
            assert not_of == [labels[GROUP]]


def test_a_pod_alone_has_no_affinity_and_a_template_may_say_another():
    first, *_ = decide(deployment()).creates
    assert "affinity" not in first["spec"]
    own = {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    for pod in decide(deployment(group={"size": 2}, template={"spec": {"affinity": own}}), admission=ROOM).creates:
        assert pod["spec"]["affinity"]["podAffinity"] == own["podAffinity"]
