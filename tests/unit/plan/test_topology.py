"""Workers that are to be in one domain: it is chosen when they are admitted, and kept."""

from __future__ import annotations

import pytest

from muster.plan import queue
from tests.unit.plan.fixtures import decide, job, node, pod, room, started
from tests.unit.plan.test_queue import admit, gang

ZONE = "topology.kubernetes.io/zone"


def in_zone(name, zone, gpus):
    found = node(name, gpus=gpus)
    found["metadata"]["labels"] |= {ZONE: zone} if zone else {}
    return found


TWO_ZONES = (
    in_zone("n1", "east", 2),
    in_zone("n2", "west", 2),
    in_zone("n3", "west", 2),
    in_zone("n4", None, 8),
)


def test_the_domain_that_takes_all_is_chosen_though_another_comes_first():
    answers, left = admit({"job": gang(3, topology_key=ZONE)}, room(of=TWO_ZONES))
    assert (answers["job"].granted, answers["job"].domain) == (True, "west")
    assert "there is room for 3 workers (1 nvidia.com/gpu each) in west" in answers["job"].message
    assert sum(free["nvidia.com/gpu"] for name, free in left.free.items() if name in {"n2", "n3"}) == 1


def test_what_fits_only_across_domains_is_never_admitted_and_says_so():
    answer = admit({"job": gang(5, topology_key=ZONE)}, room(of=TWO_ZONES))[0]["job"]
    assert (answer.granted, answer.reason) == (False, queue.NEVER_FITS)
    assert f"with one value of {ZONE}; even with nothing else running" in answer.message
    assert "have room for 4" in answer.message


def test_a_label_that_no_node_has_is_told():
    answer = admit({"job": gang(1, topology_key="rack")}, room(of=TWO_ZONES))[0]["job"]
    assert (answer.granted, answer.reason) == (False, queue.NEVER_FITS)
    assert "with one value of rack; no node has this label" in answer.message


def test_two_that_need_a_domain_each_get_one_each():
    waits = {"a": gang(2, topology_key=ZONE, age=20), "b": gang(2, topology_key=ZONE, age=10)}
    answers, _ = admit(waits, room(of=TWO_ZONES[:2]))
    assert {answers["a"].domain, answers["b"].domain} == {"east", "west"}


def test_where_another_takes_the_room_the_sentence_says_what_is_left():
    taken = {"spec": gang(1, gpus=2).pods[0] | {"nodeName": "n2"}, "status": {}}
    answer = admit({"job": gang(3, topology_key=ZONE)}, room(taken, of=TWO_ZONES))[0]["job"]
    assert (answer.granted, answer.reason) == (False, "InsufficientCapacity")
    assert "room now: 2 in east, so none was started" in answer.message


WANTS = {"scheduling": {"topologyKey": ZONE}, "resources": {"limits": {"nvidia.com/gpu": 1}}}


def test_all_pods_are_bound_to_the_domain_and_the_status_remembers_it():
    plan = decide(job(**WANTS), capacity=room(of=TWO_ZONES))
    assert plan.status["topologyDomain"] == "west"
    assert {made["spec"]["nodeSelector"][ZONE] for made in plan.creates} == {"west"}
    assert {made["metadata"]["labels"]["muster.dev/topology-domain"] for made in plan.creates} == {"west"}


def test_a_node_selector_of_the_template_holds_beside_it():
    template = {"spec": {"nodeSelector": {"kubernetes.io/hostname": "n3"}}}
    plan = decide(job(replicas=2, template=template, **WANTS), capacity=room(of=TWO_ZONES))
    assert plan.creates[0]["spec"]["nodeSelector"] == {ZONE: "west", "kubernetes.io/hostname": "n3"}


def test_a_successor_is_placed_where_the_others_are():
    resource = started(job(**WANTS), topologyDomain="west")
    (made,) = decide(resource, pod(0), pod(1, phase="Failed"), pod(2)).creates
    assert made["spec"]["nodeSelector"] == {ZONE: "west"}


def test_a_gang_that_was_begun_is_completed_in_its_domain_and_recorded():
    begun = pod(0, phase="Pending")
    begun["metadata"]["labels"]["muster.dev/topology-domain"] = "east"
    plan = decide(job(**WANTS), begun)
    assert len(plan.creates) == 2
    assert {made["spec"]["nodeSelector"][ZONE] for made in plan.creates} == {"east"}
    assert plan.status["topologyDomain"] == "east"


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_pods_go_anywhere(key):
    wants = WANTS | {"scheduling": {} if key is None else {"topologyKey": key}}
    plan = decide(job(**wants), capacity=room(of=TWO_ZONES))
    assert plan.creates
    assert all("nodeSelector" not in made["spec"] for made in plan.creates)
    assert "topologyDomain" not in plan.status
